"""Bounds against exact evidence, KL terms against torch.distributions, binarisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td
from torch import nn
from torch.testing import assert_close

import latentgeo as lg
from latentgeo import train
from latentgeo.train.binarise import draw
from latentgeo.train.objectives import free_bits_kl, gaussian_kl, importance_bound, log_ratio, warmup_weight

D, LATENT, SIGMA = 6, 2, 0.7


class Posterior(nn.Module):
    """x → (mean, std) of the exact posterior of a linear-Gaussian model with orthogonal columns, std scaled."""

    def __init__(self, weight, bias, sigma, widen=1.0):
        super().__init__()
        gram = weight.T @ weight
        precision = torch.eye(len(gram), dtype=weight.dtype) + gram / sigma**2
        assert_close(precision, precision.diagonal().diag_embed())  # else no diagonal Gaussian is exact
        self.gain = nn.Parameter(weight.T / sigma**2 / precision.diagonal()[:, None], requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.std = nn.Parameter(widen * precision.diagonal().rsqrt(), requires_grad=False)

    def forward(self, x):
        mean = (x.flatten(1) - self.bias) @ self.gain.T
        return mean, self.std.expand_as(mean)


class Case:
    """x = W z + b + σ ε, W with orthogonal columns: everything about it is known."""

    def __init__(self, dtype=torch.float64):
        g = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(D, LATENT, generator=g, dtype=torch.float64))[0]
        self.weight = (basis * torch.tensor([2.0, 0.5], dtype=torch.float64)).to(dtype)
        self.bias = torch.randn(D, generator=g, dtype=torch.float64).to(dtype)
        self.network = nn.Linear(LATENT, D, dtype=dtype)
        with torch.no_grad():
            self.network.weight.copy_(self.weight)
            self.network.bias.copy_(self.bias)
        z = torch.randn(40, LATENT, generator=g, dtype=dtype)
        self.x = z @ self.weight.T + self.bias + SIGMA * torch.randn(40, D, generator=g, dtype=dtype)

    @property
    def evidence(self):
        """Exact log p(x), (N,)."""
        covariance = self.weight @ self.weight.T + SIGMA**2 * torch.eye(D, dtype=self.weight.dtype)
        return td.MultivariateNormal(self.bias, covariance).log_prob(self.x)

    def learner(self, widen=1.0, **options):
        recipe = train.VAE(latent_dim=LATENT, likelihood=lg.Gaussian(sigma=SIGMA), warmup=0.0, **options)
        learner = recipe.learner(train.as_data(self.x.numpy(), held_out=0), torch.Generator())
        learner.encoder, learner.decoder = Posterior(self.weight, self.bias, SIGMA, widen), self.network
        return learner

    def model(self, widen=1.0):
        decoder = lg.wrap(self.network.eval(), LATENT, lg.Gaussian(sigma=SIGMA))
        return lg.LatentModel(decoder, Posterior(self.weight, self.bias, SIGMA, widen).eval())

    def gap(self, widen):
        """KL of the widened posterior from the exact one: what the ELBO lacks."""
        exact = Posterior(self.weight, self.bias, SIGMA).std
        return td.kl_divergence(td.Normal(0.0, widen * exact), td.Normal(0.0, exact)).sum()


@pytest.fixture
def case():
    return Case()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_kl_agrees_with_torch_distributions():
    mean = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    std = torch.rand(5, 3, generator=generator(1), dtype=torch.float64) + 0.1
    assert_close(
        gaussian_kl(mean, std), td.kl_divergence(td.Normal(mean, std), td.Normal(0.0, 1.0)), rtol=1e-12, atol=0
    )


def test_log_ratio_agrees_with_torch_distributions():
    mean = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    std = torch.rand(5, 3, generator=generator(1), dtype=torch.float64) + 0.1
    noise = torch.randn(4, 5, 3, generator=generator(2), dtype=torch.float64)
    z = mean + std * noise
    expected = (td.Normal(0.0, 1.0).log_prob(z) - td.Normal(mean, std).log_prob(z)).sum(-1)
    assert_close(log_ratio(z, noise, std), expected, rtol=1e-12, atol=1e-12)


def averaged(learner, x, key, n):
    """Mean and standard error of a bound over seeds."""
    with torch.no_grad():
        values = torch.stack([learner.losses(x, 1.0, generator(seed))[key] for seed in range(n)])
    return float(values.mean()), float(values.std() / math.sqrt(n))


def test_with_the_exact_posterior_every_bound_is_the_evidence(case):
    # the importance weights are then constant: no sampling error is left
    found = case.learner(importance_samples=5).losses(case.x, 1.0, generator())
    assert_close(found["iwae"], case.evidence.mean(), rtol=1e-10, atol=0)
    assert_close(found["loss"], -case.evidence.mean(), rtol=1e-10, atol=0)
    evidence = train.log_evidence(case.model(), case.x, n_samples=3)
    assert_close(evidence.per_datum, case.evidence, rtol=1e-10, atol=0)
    assert evidence.effective_samples == pytest.approx(3.0)
    # with the KL term in closed form the ELBO keeps the noise of its reconstruction, but not in expectation
    mean, error = averaged(case.learner(), case.x, "elbo", 150)
    assert abs(mean - float(case.evidence.mean())) < 4 * error < 0.1


def test_elbo_of_a_wrong_posterior_lacks_exactly_its_kl_divergence(case):
    mean, error = averaged(case.learner(widen=1.5), case.x, "elbo", 600)
    assert abs(mean - float(case.evidence.mean() - case.gap(1.5))) < 4 * error
    assert error < 0.1 * float(case.gap(1.5))


def test_importance_weights_close_the_gap_monotonically(case):
    widen = 1.8
    bounds = [averaged(case.learner(widen, importance_samples=k), case.x, "iwae", 100)[0] for k in (2, 8, 64)]
    exact = float(case.evidence.mean())
    elbo = exact - float(case.gap(widen))
    assert elbo < bounds[0] < bounds[1] < bounds[2] < exact
    assert exact - bounds[2] < 0.05 * (exact - elbo)
    estimate = train.log_evidence(case.model(widen), case.x, n_samples=20_000, generator=generator())
    assert_close(estimate.per_datum, case.evidence, rtol=0, atol=0.08)
    assert estimate.elbo == pytest.approx(elbo, abs=0.02)


def test_evidence_in_chunks_is_still_exact(case):
    found = train.log_evidence(case.model(), case.x, n_samples=7, max_bytes=2000)
    assert_close(found.per_datum, case.evidence, rtol=1e-10, atol=0)
    assert found.effective_samples == pytest.approx(7.0)


def test_importance_bound_of_one_sample_is_that_sample():
    weights = torch.randn(1, 7, generator=generator())
    assert_close(importance_bound(weights), weights[0])


def test_importance_bound_survives_far_logarithms():
    assert_close(importance_bound(torch.tensor([[-2000.0], [-2000.0]])), torch.tensor([-2000.0]))


def test_free_bits():
    kl = torch.tensor([[0.1, 3.0], [0.3, 5.0]])
    assert_close(free_bits_kl(kl, 0.0), kl.sum(-1).mean())
    assert_close(free_bits_kl(kl, 1.0), torch.tensor(5.0))
    kl.requires_grad_()
    free_bits_kl(kl, 1.0).backward()
    assert kl.grad[:, 0].tolist() == [0.0, 0.0]  # an axis within its free bits is not pulled to the prior
    assert kl.grad[:, 1].tolist() == [0.5, 0.5]


def test_warmup_and_beta_weigh_the_kl_term(case):
    learner = case.learner(beta=3.0)
    learner.recipe = train.VAE(latent_dim=LATENT, likelihood=lg.Gaussian(sigma=SIGMA), beta=3.0, warmup=0.5)
    for progress, weight in ((0.0, 0.0), (0.25, 1.5), (0.5, 3.0), (1.0, 3.0)):
        found = learner.losses(case.x, progress, generator())
        assert_close(found["loss"], weight * found["kl"] - found["reconstruction"])
        assert_close(found["elbo"], found["reconstruction"] - found["kl"])
    assert warmup_weight(0.0, 0.0) == 1.0


LIKELIHOODS = {
    "bernoulli": (lg.Bernoulli(), lambda p, x: td.Bernoulli(logits=p).log_prob(x)),
    "poisson": (lg.Poisson(output="log_rate"), lambda p, x: td.Poisson(p.exp()).log_prob(x)),
    "negative-binomial": (
        lg.NegativeBinomial(output="log_mean"),
        lambda p, x: td.NegativeBinomial(torch.ones(()), logits=p).log_prob(x),  # r starts at 1, and m / r is e^logits
    ),
    "categorical": (lg.Categorical(), lambda p, x: td.OneHotCategorical(logits=p).log_prob(x)),
}


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_reconstruction_is_the_likelihood_of_torch_distributions(name):
    likelihood, log_prob = LIKELIHOODS[name]
    g = generator()
    data = {
        "bernoulli": (torch.rand(20, 5, generator=g) < 0.5).float(),
        "categorical": nn.functional.one_hot(torch.randint(5, (20,), generator=g), 5).float(),
    }.get(name, torch.poisson(torch.full((20, 5), 3.0), generator=g))
    learner = train.VAE(likelihood=likelihood).learner(train.as_data(data.numpy(), held_out=0), g)
    found = learner.losses(data, 1.0, generator(7))
    mean, std = learner.encoder(data)
    z = mean + std * torch.randn(1, *mean.shape, generator=generator(7))[0]
    expected = log_prob(learner.decoder(z), data).reshape(20, -1).sum(-1).mean()
    assert_close(found["reconstruction"], expected, rtol=1e-4, atol=1e-4)


def test_decoder_starts_at_the_data_mean():
    data = torch.poisson(torch.tensor([[1.0, 10.0, 100.0]]).expand(50, 3), generator=generator())
    learner = train.VAE(likelihood=lg.Poisson(output="log_rate")).learner(train.as_data(data.numpy(), held_out=0), None)
    assert_close(learner.decoder.layers[-1].bias.exp(), data.mean(0))


def test_dynamic_binarisation_draws_anew_and_static_once():
    x = torch.full((200, 10), 0.3)
    g = generator()
    first, second = draw(x, g), draw(x, g)
    assert not torch.equal(first, second)
    assert abs(float(first.mean()) - 0.3) < 4 * math.sqrt(0.21 / 2000)
    once = train.Binarise("static", seed=4)
    assert torch.equal(once.once(x), once.once(x))
    assert not torch.equal(once.once(x), train.Binarise("static", seed=5).once(x))
    assert torch.equal(train.Binarise("threshold").once(x), torch.zeros_like(x))
    assert train.Binarise("none").once(x) is x


def test_binarisation_is_never_guessed(case):
    grey = torch.rand(30, 4, generator=generator())
    with pytest.raises(ValueError, match="binarise='dynamic'"):
        train.VAE(likelihood="bernoulli").learner(train.as_data(grey.numpy()), None)
    model = lg.LatentModel(lg.wrap(nn.Linear(2, 4).eval(), 2, "bernoulli"), Half())
    with pytest.raises(ValueError, match="say how to make them so"):
        train.log_evidence(model, grey)
    told = train.log_evidence(model, grey, binarise="static", n_samples=2)
    assert told.binarisation == "statically binarised (seed 0)"
    assert "2 importance samples" in repr(told)
    other = lg.LatentModel(lg.wrap(nn.Linear(2, 4).eval(), 2, lg.Gaussian(sigma=1.0)), Half())
    with pytest.raises(ValueError, match="binarise is for the Bernoulli likelihood"):
        train.log_evidence(other, grey, binarise="static")
    assert train.log_evidence(model, grey.round(), n_samples=2).binarisation == "binary as given"


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.eval()

    def forward(self, x):
        return x[:, :2], torch.full_like(x[:, :2], 0.5)
