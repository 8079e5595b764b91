"""The shipped models: what they hold, and that their geometry is what was promised."""

from __future__ import annotations

import math
import os
import runpy
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.datasets import load_digits, load_mnist
from latentgeo.decoders.fit import edge_ratio
from latentgeo.io.native import open_safetensors

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
N_CODES = {"digits": 1797, "mnist": 2000}
IMAGE = {"digits": (8, 8), "mnist": (28, 28)}
N_RAYS = 32


@pytest.fixture(scope="module", params=sorted(N_CODES))
def model(request) -> lg.LatentModel:
    return lg.load(CHECKPOINTS / f"{request.param}-2d.safetensors")


def rays(model: lg.LatentModel, reach: float, n: int = 2001) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays (32, n, 2) from the codes' mean, and along each the radius beyond which every centre lies behind (32,)."""
    codes = model.codes
    origin = codes.mean(0)
    angle = torch.arange(N_RAYS, dtype=codes.dtype) * (2 * math.pi / N_RAYS)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    radius = torch.linspace(0, reach, n, dtype=codes.dtype) * (codes - origin).norm(dim=-1).max()
    behind = ((model.decoder.precision.centers.to(codes) - origin) @ direction.T).amax(0)
    return origin + radius[:, None] * direction[:, None], radius >= behind[:, None]


def test_files_are_small():
    for path in CHECKPOINTS.glob("*.safetensors"):
        assert path.stat().st_size < 3_000_000, path


def test_contents(model):
    name = model.metadata["dataset"]
    assert model.codes.shape == (N_CODES[name], 2)
    assert model.labels.unique().tolist() == list(range(10))
    assert model.decoder.data_shape == IMAGE[name]
    assert model.decoder.likelihood == lg.Gaussian(scale="std")
    assert model.decoder.precision.n_centers == 64
    assert model.decoder.precision.saturation == pytest.approx(1e-3**-0.5)
    assert model.metadata["command"].startswith(f"python checkpoints/train.py {name}")
    assert {"seed", "epochs", "variance", "bandwidth", "floor"} <= set(model.metadata["recipe"])
    assert isinstance(lg.metric(model), lg.ExpectedMetric)


def test_no_latent_axis_collapsed(model):
    assert float(model.codes.std(0).min()) > 0.5


def test_digits_encoder_gives_the_stored_codes():
    model = lg.load(CHECKPOINTS / "digits-2d.safetensors")
    data = load_digits()
    assert torch.equal(model.labels, data.labels)
    assert_close(model.encode(data.data), model.codes, rtol=1e-4, atol=1e-4)


def test_mnist_encoder_gives_the_stored_codes():
    folder = Path(os.environ.get("LATENTGEO_DATA") or "data")
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no MNIST in {folder} (set $LATENTGEO_DATA to the folder that has it)")
    model = lg.load(CHECKPOINTS / "mnist-2d.safetensors")
    data = load_mnist("test")
    assert torch.equal(model.labels, data.labels[:2000])
    assert_close(model.encode(data.data[:2000]), model.codes, rtol=1e-4, atol=1e-4)
    # the score in the header, at the codes' means instead of posterior samples: better, but of the same size
    score = model.decoder.log_prob(model.codes, data.data[:2000]).mean()
    assert float(score) > model.metadata["scores"]["log_likelihood_constant"]


def test_precision_beats_constant_deviations(model):
    scores = model.metadata["scores"]
    assert scores["log_likelihood"] > scores["log_likelihood_per_coordinate"] > scores["log_likelihood_constant"]
    report = model.decoder.precision_report
    assert report.log_likelihood > report.log_likelihood_constant


def test_both_terms_of_the_metric_matter(model):
    assert 0.6 <= edge_ratio(model.decoder, model.codes, max_codes=300) <= 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigma_rises_to_its_limit_beyond_the_centres(model, dtype):
    decoder = model.decoder.to(dtype)
    z, beyond = rays(model, reach=4.0)
    sigma = decoder.std(z.to(dtype))
    rise = sigma.diff(dim=1)[beyond[:, :-1]]
    assert float(rise.min()) >= -1e-6 * decoder.precision.saturation
    assert_close(sigma[:, -1], torch.full_like(sigma[:, -1], 1e-3**-0.5))
    assert float(decoder.std(model.codes.to(dtype)).mean()) < 0.05 * decoder.precision.saturation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_measure_peaks_in_a_rim_around_the_codes(model, dtype):
    metric = lg.ExpectedMetric(model.decoder.to(dtype))
    z, beyond = rays(model, reach=4.0)
    log_volume = metric.log_volume(z.to(dtype))
    assert not bool(torch.isnan(log_volume).any())
    codes = model.codes
    distance = (codes - codes.mean(0)).norm(dim=-1)
    peak, at = log_volume.max(dim=1)
    rim = (z - codes.mean(0)).norm(dim=-1).gather(1, at[:, None])[:, 0]
    assert bool((rim > distance.quantile(0.95)).all())
    assert bool((rim < 2.5 * distance.max()).all())
    assert bool(beyond.gather(1, at[:, None]).all())
    at_codes = metric.log_volume(codes.to(dtype))
    assert float(peak.min()) > float(at_codes.median())
    assert bool((log_volume[:, -1] < peak - 3).all())
    assert bool((log_volume[:, -1] < at_codes.median()).all())


def test_the_rim_is_a_barrier(model):
    metric = lg.metric(model)
    z, _ = rays(model, reach=4.0)
    saturated = model.decoder.precision.saturated(z)
    assert bool(saturated.any(1).all())
    through = torch.stack(
        [
            lg.curve_length(metric, ray[: int(first) + 1])
            for ray, first in zip(z, saturated.int().argmax(1), strict=True)
        ]
    )
    g = torch.Generator().manual_seed(0)
    a, b = (model.codes[torch.randperm(len(model.codes), generator=g)[:100]] for _ in range(2))
    t = torch.linspace(0, 1, 201)[:, None]
    between = lg.curve_length(metric, a[:, None] + t * (b - a)[:, None]).median()
    assert float(through.min() / between) >= 5


def test_float32_stays_free_of_nan_very_far_away(model):
    metric = lg.metric(model)
    z, _ = rays(model, reach=1e4, n=101)
    with pytest.warns(Warning, match="rank"):
        log_volume = metric.log_volume(z)
    assert not bool(torch.isnan(log_volume).any())
    assert bool((log_volume[:, -1] == -math.inf).all())


def test_training_again_gives_the_same_weights(tmp_path, capsys):
    main = runpy.run_path(str(CHECKPOINTS / "train.py"))["main"]
    for name in ("a", "b"):
        main(["digits", "--epochs", "12", "--out", str(tmp_path / f"{name}.safetensors")])
    main(["digits", "--epochs", "12", "--seed", "1", "--out", str(tmp_path / "c.safetensors")])
    # the headers differ in how long the training took
    a, b, c = (open_safetensors(tmp_path / f"{name}.safetensors").tensors() for name in "abc")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["codes"], c["codes"])
    assert "standard deviation of the codes per latent axis" in capsys.readouterr().out


def test_a_bandwidth_that_no_code_feels_is_named():
    model, digits = lg.load(CHECKPOINTS / "digits-2d.safetensors"), lg.datasets.load_digits()
    with pytest.raises(ValueError, match="`bandwidth` must be large enough"):
        lg.fit_precision(model.decoder, model.codes, digits.data, bandwidth=0.05)


def test_the_generator_and_its_inverted_codes():
    model = lg.load(CHECKPOINTS / "mnist-wgan.safetensors")
    scores = model.metadata["scores"]
    assert model.codes.shape == (2000, 8)
    assert model.decoder.data_shape == (28, 28)
    assert model.decoder.precision.n_centers == 64
    assert scores["features"].startswith("mnist classifier")
    assert scores["inversion_mse"] < scores["inversion_mse_of_encoder"] < scores["inversion_mse_of_mean"]
    folder = Path(os.environ.get("LATENTGEO_DATA") or "data")
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no MNIST in {folder} (set $LATENTGEO_DATA to the folder that has it)")
    data = load_mnist("test")
    assert torch.equal(model.labels, data.labels[:2000])
    error = (model.decoder.mean(model.codes[:1000]) - data.data[:1000]).square().mean()
    assert float(error) == pytest.approx(scores["inversion_mse"], rel=0.05)
