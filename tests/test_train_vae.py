"""The VAE recipe on small data: every likelihood, two stages, collapse, and its command."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from commands import refused, run
from torch import nn
from torch.testing import assert_close

import latentgeo as lg
from latentgeo import train

OPTIONS = {"epochs": 3, "batch_size": 64, "progress": False}


@pytest.fixture(scope="module")
def digits():
    data = lg.datasets.load_digits()
    return train.as_data(data.data[:500].reshape(-1, 8, 8), data.labels[:500], held_out=0.2)


def counts(n=300, d=6):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, 2, generator=g)
    weight = torch.randn(2, d, generator=g) / 2
    return torch.poisson((z @ weight + 1).exp(), generator=g)


def one_hot(n=300):
    g = torch.Generator().manual_seed(0)
    return nn.functional.one_hot(torch.randint(3, (n, 4), generator=g), 3).float()


LIKELIHOODS = {
    "poisson": (lg.Poisson(output="log_rate"), counts),
    "poisson, rate": (lg.Poisson(), counts),
    "negative-binomial": (lg.NegativeBinomial(output="log_mean"), counts),
    "negative-binomial, fixed": (lg.NegativeBinomial(inverse_dispersion=2.0), counts),
    "categorical": (lg.Categorical(), one_hot),
    "bernoulli": (lg.Bernoulli(), lambda: one_hot().flatten(1)),
    "bernoulli, probs": (lg.Bernoulli(output="probs"), lambda: one_hot().flatten(1)),
    "gaussian, fixed": (lg.Gaussian(sigma=0.3), counts),
}


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_every_likelihood_trains_saves_and_loads(name, tmp_path):
    likelihood, make = LIKELIHOODS[name]
    out = tmp_path / "m.safetensors"
    recipe = train.VAE(network=train.Dense((16,)), likelihood=likelihood, score_samples=10)
    found = train.fit(recipe, make().numpy(), out=out, curves=False, learning_rate=1e-2, **{**OPTIONS, "epochs": 15})
    assert found.history[-1]["elbo"] > found.history[0]["elbo"]
    model = lg.load(out)
    assert model.decoder.likelihood.name == likelihood.name
    assert found.scores["log_likelihood"] >= found.scores["elbo"]
    z = torch.randn(3, 2)
    assert_close(model.decoder(z), found.model.decoder(z))
    assert bool((torch.linalg.eigvalsh(lg.metric(model).tensor(z)) >= -1e-5).all())


@pytest.mark.filterwarnings("ignore:.*latent axes collapsed")  # nothing varies but the counts' noise
def test_learned_dispersion_becomes_part_of_the_likelihood():
    g = torch.Generator().manual_seed(0)
    rate = torch._standard_gamma(torch.full((1000, 3), 2.0), generator=g) * 5.0 / 2.0  # mean 5, r = 2
    x = torch.poisson(rate, generator=g)
    likelihood = lg.NegativeBinomial(output="log_mean")
    recipe = train.VAE(network=train.Dense((4,)), likelihood=likelihood, warmup=0.0, score_samples=2)
    found = train.fit(recipe, x.numpy(), learning_rate=5e-2, **{**OPTIONS, "epochs": 12})
    r = found.model.decoder.likelihood.inverse_dispersion
    assert len(r) == 3
    assert_close(torch.tensor(r), torch.full((3,), 2.0), rtol=0.3, atol=0)


def test_two_stages_fit_a_precision_on_a_frozen_mean():
    # a line in three dimensions, half of it noisy
    g = torch.Generator().manual_seed(0)
    t = 2 * torch.rand(800, 1, generator=g) - 1
    noise = 0.02 + 0.3 * (t > 0)
    x = torch.tensor([1.0, -1.0, 0.5]) * t + noise * torch.randn(800, 3, generator=g)
    scale = train.RBF(sigma=0.15, n_centers=12, posterior_samples=2)
    recipe = train.VAE(1, train.Dense((16,)), scale=scale, score_samples=20)
    found = train.fit(recipe, x.numpy(), learning_rate=2e-2, **{**OPTIONS, "epochs": 15})
    decoder, codes = found.model.decoder, found.model.codes
    assert decoder.likelihood == lg.Gaussian(scale="std")
    assert decoder.precision.n_centers == 12
    assert decoder._core.reads.sigma == 0.15
    noisy = (t[: len(codes)] > 0)[:, 0]
    assert float(decoder.std(codes[noisy]).mean()) > 2 * float(decoder.std(codes[~noisy]).mean())
    assert float(decoder.std(torch.tensor([[60.0]])).min()) > 10 * float(decoder.std(codes).mean())  # grows off data
    report = decoder.precision_report
    assert report.log_likelihood > report.log_likelihood_per_coordinate > report.log_likelihood_before


def test_the_first_stage_takes_its_deviation_from_the_data(digits):
    learner = train.VAE().learner(digits, torch.Generator())
    assert learner.likelihood.sigma == pytest.approx(float(digits.x.flatten(1).double().var(0).sum() / 40) ** 0.5)


@pytest.mark.filterwarnings("ignore:.*latent axes collapsed")
def test_a_scale_network_is_trained_with_the_mean(digits, tmp_path):
    out = tmp_path / "m.safetensors"
    recipe = train.VAE(network=train.Dense((32,)), scale=train.ScaleNetwork(floor=0.05), score_samples=5)
    train.fit(recipe, digits, out=out, curves=False, **OPTIONS)
    decoder = lg.load(out).decoder
    assert decoder.precision is None
    assert decoder.likelihood == lg.Gaussian(scale="std")
    assert float(decoder.std(torch.randn(50, 2)).min()) >= 0.05


class OneAxis(nn.Module):
    """A posterior whose second axis is the prior."""

    def forward(self, x):
        first = (x.flatten(1)[:, :1] - 0.5) * 4
        return torch.cat([first, torch.zeros_like(first)], -1), torch.ones(len(x), 2)


def test_collapsed_axes_are_said():
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    data = train.as_data(x.numpy(), held_out=0)
    learner = train.VAE(likelihood=lg.Gaussian(sigma=0.3), score_samples=2).learner(data, torch.Generator())
    learner.encoder = OneAxis()
    with pytest.warns(UserWarning, match=r"1 of 2 latent axes collapsed \(axis 1: "):
        about = learner.finish(data, torch.Generator()).metadata
    assert about["collapsed_axes"] == [1]
    assert about["kl_per_axis"][1] == 0.0
    assert about["kl_per_axis"][0] == pytest.approx(
        float(learner.encoder(data.x)[0][:, 0].square().mean() / 2), rel=1e-5
    )
    assert about["code_std"][0] == pytest.approx(float(4 * data.x[:, 0].std()), rel=1e-5)


def test_free_bits_keep_axes_in_use():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(600, 4, generator=g)
    weak = {"network": train.Dense((16,)), "likelihood": lg.Gaussian(sigma=3.0), "warmup": 0.0, "score_samples": 2}
    with pytest.warns(UserWarning, match="2 of 2"):
        without = train.fit(train.VAE(**weak), x.numpy(), learning_rate=1e-2, **{**OPTIONS, "epochs": 15})
    within = train.fit(train.VAE(**weak, free_bits=0.5), x.numpy(), learning_rate=1e-2, **{**OPTIONS, "epochs": 15})
    assert max(without.model.metadata["kl_per_axis"]) < 0.05
    assert min(within.model.metadata["kl_per_axis"]) > 0.3


@pytest.mark.filterwarnings("ignore:.*latent axes collapsed")
def test_static_bits_are_the_same_every_epoch(digits):
    recipe = train.VAE(likelihood="bernoulli", binarise=train.Binarise("static", seed=2), score_samples=2)
    prepared = recipe.prepare(digits)
    assert bool(((prepared.x == 0) | (prepared.x == 1)).all())
    assert torch.equal(prepared.x, recipe.prepare(digits).x)
    assert torch.equal(prepared.stored, digits.stored)  # codes are of the grey images
    found = train.fit(recipe, digits, **OPTIONS)
    assert found.scores["data"] == "statically binarised (seed 2)"
    assert found.model.metadata["binarisation"] == "statically binarised (seed 2)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be a positive integer"),
        ({"importance_samples": 0}, "importance_samples must be"),
        ({"beta": -1.0}, "beta must be finite and not negative"),
        ({"warmup": 1.5}, "warmup must be a fraction"),
        ({"free_bits": 1.0, "importance_samples": 5}, "free_bits needs the KL term"),
        ({"binarise": "sometimes"}, "binarise must be one of"),
        ({"likelihood": "cauchy"}, "likelihood"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        train.VAE(**options)


def test_stages_and_networks_are_checked_before_any_training():
    for make, message in (
        (lambda: train.RBF(n_centers=0), "n_centers must be a positive integer"),
        (lambda: train.RBF(sigma=-1.0), "sigma must be positive"),
        (lambda: train.RBF(floor=0.0), "floor must be positive"),
        (lambda: train.ScaleNetwork(floor=-1.0), "floor must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    for options, message in (({"scale": "rbf"}, "scale must be RBF"), ({"network": "dense"}, "network must be a Net")):
        with pytest.raises(TypeError, match=message):
            train.VAE(**options)
    with pytest.raises(TypeError, match="critic must be a Network"):
        train.GAN(critic="dense")


def test_binarise_belongs_to_bernoulli(digits):
    with pytest.raises(ValueError, match="binarise is for the Bernoulli likelihood"):
        train.fit(train.VAE(binarise="dynamic"), digits, **OPTIONS)


def test_command(tmp_path):
    out = tmp_path / "m.safetensors"
    result = run("train", "vae", "--data", "digits", "--out", out, "--epochs", 2, "--likelihood", "bernoulli",
                 "--binarise", "static", "--seed", 3, "--hidden", "16,8", "--score-samples", 5)  # fmt: skip
    lines = result.stdout.splitlines()
    assert lines[0] == "TrainData(digits, 1617 of 8×8, 180 held out, labels)"
    assert lines[-1] == f"next: latentgeo heatmap {out} --out {out.with_suffix('.html')}"
    assert "statically binarised (seed 3)" in result.stdout
    model = lg.load(out)
    assert model.metadata["recipe"]["network"]["hidden"] == [16, 8]
    assert model.metadata["seed"] == 3
    assert (tmp_path / "m-training.html").is_file()


def test_command_with_files_and_networks(tmp_path):
    digits = lg.datasets.load_digits()
    np.savez(tmp_path / "d.npz", x=digits.data[:80].numpy(), y=digits.labels[:80].numpy())
    for name, more in (("lenet", ["--width", 2]), ("resnet", ["--width", 2])):
        out = tmp_path / f"{name}.safetensors"
        result = run("train", "vae", "--data", tmp_path / "d.npz", "--shape", "8x8", "--out", out, "--epochs", 1,
                     "--network", name, "--latent-dim", 3, "--sigma", 0.3, "--score-samples", 2, *more)  # fmt: skip
        assert result.stdout.splitlines()[-1] == f"next: latentgeo diagnose {out}"
        assert lg.load(out).decoder.data_shape == (8, 8)


def test_command_refuses(tmp_path):
    out = tmp_path / "m.safetensors"
    common = ("train", "vae", "--data", "digits", "--out", out, "--epochs", 1)
    assert "--binarise dynamic" in refused(*common, "--likelihood", "bernoulli")
    assert "--binarise must go with --likelihood bernoulli" in refused(*common, "--binarise", "static")
    assert "--sigma must go with --likelihood gaussian" in refused(*common, "--likelihood", "poisson", "--sigma", 1)
    assert "--hidden must be positive integers" in refused(*common, "--hidden", "64,x")
    assert "--shape must be positive integers" in refused(*common, "--shape", "8by8")
    assert "--out must end in .safetensors" in refused(*common[:4], "--out", tmp_path / "m.pt")
    assert "'nowhere' does not exist" in refused("train", "vae", "--data", "nowhere", "--out", out)
    bad = np.ones((20, 4))
    bad[3] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    assert "1 of 20 rows have NaN" in refused("train", "vae", "--data", tmp_path / "bad.npy", "--out", out)
