"""Likelihood families: their embeddings against the Fisher information, and at saturation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from latentgeo.decoders.coordinates import bernoulli_angle, bernoulli_angle_from_probs, standard_deviation
from latentgeo.decoders.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    Deterministic,
    Exponential,
    Gaussian,
    NegativeBinomial,
    Poisson,
    as_likelihood,
)
from latentgeo.decoders.wrap import wrap

SATURATED = [-200.0, -30.0, -1.0, 0.0, 1.0, 30.0, 200.0]


def derivatives(function, x):
    """Value, first and second derivative of an elementwise function."""
    x = x.clone().requires_grad_()
    y = function(x)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return y.detach(), first.detach(), second


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_angle_is_exact_at_every_logit(dtype):
    logits = torch.tensor(SATURATED, dtype=dtype)
    value, first, second = derivatives(bernoulli_angle, logits)
    x = logits.double()
    sech = 1 / torch.cosh(x / 2)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    assert_close(value.double(), 2 * torch.atan(torch.exp(x / 2)), rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert_close(first.double(), sech / 2, rtol=tolerance, atol=1e-38)
    assert_close(second.double(), -sech * torch.tanh(x / 2) / 4, rtol=tolerance, atol=1e-38)


def test_bernoulli_angle_squared_speed_is_the_fisher_information():
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64)
    _, first, _ = derivatives(bernoulli_angle, logits)
    p = torch.sigmoid(logits)
    assert_close(first.square(), p * (1 - p))  # the Fisher information of the logit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_angle_from_probabilities(dtype):
    logits = torch.tensor(SATURATED, dtype=dtype)
    value, first, second = derivatives(lambda x: bernoulli_angle_from_probs(torch.sigmoid(x)), logits)
    assert bool(torch.isfinite(torch.stack([value, first, second])).all())
    exact = derivatives(bernoulli_angle, logits)
    middle = slice(2, 5)
    for got, want in zip((value, first, second), exact, strict=True):
        assert_close(got[middle], want[middle])
    assert_close(value, exact[0], rtol=0, atol=1e-3)
    assert_close(first, exact[1], rtol=0, atol=1e-3)


def test_bernoulli_angle_of_certain_coordinates_is_their_limit():
    p = torch.tensor([0.0, 1.0], dtype=torch.float64)
    value, first, second = derivatives(bernoulli_angle_from_probs, p)
    assert_close(value, torch.tensor([0.0, math.pi], dtype=torch.float64))
    assert not first.any()
    assert not second.any()


def test_bernoulli_lengths_are_sums_of_root_kl():
    z = torch.linspace(-3, 3, 20_001, dtype=torch.float64)
    logits = torch.stack([2 * z, torch.sin(3 * z)], -1)
    phi = Bernoulli().fisher({"logits": logits})
    length = phi.diff(dim=0).norm(dim=-1).sum()
    p, q = torch.sigmoid(logits[:-1]), torch.sigmoid(logits[1:])
    kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(-1)
    assert_close((2 * kl).clamp(min=0).sqrt().sum(), length, rtol=1e-6, atol=0)


@pytest.mark.parametrize("convention", ["std", "var", "log_var", "precision"])
def test_scale_conventions_agree(convention):
    std = torch.tensor([[1e-3, 0.5, 2.0, 1e3]], dtype=torch.float64)
    scale = {"std": std, "var": std**2, "log_var": 2 * std.log(), "precision": std**-2}[convention]
    likelihood = Gaussian(scale=convention)
    parameters = likelihood.parameters({"value": torch.zeros_like(std), "scale": scale})
    assert_close(parameters["std"], std)


@pytest.mark.parametrize(("convention", "extreme"), [("var", 0.0), ("precision", 0.0), ("precision", 1e30)])
def test_scales_are_finite_at_extremes(convention, extreme):
    scale = torch.tensor([extreme], dtype=torch.float32)
    for value in derivatives(lambda s: standard_deviation(s, convention), scale):
        assert bool(torch.isfinite(value).all())


@pytest.mark.parametrize("log_var", [-200.0, 200.0])
def test_log_variances_beyond_the_dtype_are_finite(log_var):
    std, first, second = derivatives(lambda s: standard_deviation(s, "log_var"), torch.tensor([log_var]))
    assert bool(torch.isfinite(torch.stack([std, std.square(), first, second])).all())
    assert float(std) > 0


def test_gaussian_embeddings():
    mean, std = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 4.0]])
    learned, fixed = Gaussian(), Gaussian(sigma=0.5)
    assert_close(learned.expected({"mean": mean, "std": std}), torch.tensor([[1.0, 2.0, 0.5, 4.0]]))
    parameters = fixed.parameters({"value": mean})
    assert_close(parameters["std"], torch.full((1, 2), 0.5))
    assert_close(fixed.expected(parameters), mean)
    assert_close(fixed.fisher(parameters), 2 * mean)
    per_coordinate = Gaussian(sigma=[0.5, 2.0])
    assert_close(per_coordinate.fisher(per_coordinate.parameters({"value": mean})), torch.tensor([[2.0, 1.0]]))


def test_log_probabilities_are_those_of_torch():
    g = torch.Generator().manual_seed(0)
    x, mean = torch.randn(2, 5, 3, generator=g, dtype=torch.float64)
    std = torch.rand(5, 3, generator=g, dtype=torch.float64) + 0.1
    assert_close(
        Gaussian().log_prob({"mean": mean, "std": std}, x), torch.distributions.Normal(mean, std).log_prob(x).sum(-1)
    )
    bits = (x > 0).double()
    want = torch.distributions.Bernoulli(logits=mean).log_prob(bits).sum(-1)
    assert_close(Bernoulli().log_prob({"logits": mean}, bits), want)
    assert_close(Bernoulli().log_prob({"probs": torch.sigmoid(mean)}, bits), want)
    with pytest.raises(ValueError, match="fit_precision"):
        Deterministic().log_prob({"mean": mean}, x)


def test_means_and_deviations():
    logits = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    p = torch.sigmoid(logits)
    assert_close(Bernoulli().mean({"logits": logits}), p)
    assert_close(Bernoulli().std({"logits": logits}), (p * (1 - p)).sqrt())
    assert Deterministic().std({"mean": p}) is None


@pytest.mark.parametrize(
    ("likelihood", "embedding", "says"),
    [
        (Gaussian(), "fisher", "hyperbolic"),
        (Deterministic(), "fisher", "ExpectedMetric"),
        (Bernoulli(), "expected", "FisherRaoMetric"),
        (Categorical(), "expected", "FisherRaoMetric"),
        (Poisson(), "expected", "FisherRaoMetric"),
        (NegativeBinomial(), "expected", "FisherRaoMetric"),
        (Exponential(), "expected", "FisherRaoMetric"),
    ],
)
def test_an_embedding_that_does_not_exist_says_why(likelihood, embedding, says):
    assert says in likelihood.missing[embedding]
    with pytest.raises(NotImplementedError, match=says):
        getattr(likelihood, embedding)({})


@pytest.mark.parametrize(
    "likelihood",
    [
        Gaussian(),
        Gaussian("log_var"),
        Gaussian(sigma=0.1),
        Gaussian(sigma=(1.0, 2.0)),
        Bernoulli("probs"),
        Deterministic(),
        Categorical(output="probs", axis=1),
        Poisson("log_rate"),
        NegativeBinomial(),
        NegativeBinomial(inverse_dispersion=2.5, output="log_mean"),
        NegativeBinomial(inverse_dispersion=torch.tensor([1.0, 2.0])),
        Exponential("log_rate"),
    ],
    ids=repr,
)
def test_likelihoods_are_values_that_survive_json(likelihood):
    import json

    again = as_likelihood(json.loads(json.dumps(likelihood.to_dict())))
    assert again == likelihood
    assert hash(again) == hash(likelihood)


def test_names_mean_the_defaults():
    assert as_likelihood("gaussian") == Gaussian(scale="std", sigma=None)
    assert as_likelihood("bernoulli") == Bernoulli(output="logits")
    assert as_likelihood("deterministic") == Deterministic()
    assert as_likelihood("negative-binomial") == NegativeBinomial(inverse_dispersion=None, output="mean")
    assert as_likelihood("categorical") == Categorical(output="logits", axis=-1)
    families = "gaussian bernoulli deterministic categorical poisson negative-binomial exponential"
    assert set(LIKELIHOODS) == set(families.split())


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Gaussian(scale="logvar"), ValueError, "scale must be one of"),
        (lambda: Gaussian(sigma=0.0), ValueError, "sigma must be positive"),
        (lambda: Gaussian(sigma=-1.0), ValueError, "sigma must be positive"),
        (lambda: Gaussian(sigma=math.nan), ValueError, "sigma must be positive"),
        (lambda: Gaussian(sigma=[]), ValueError, "sigma must be positive"),
        (lambda: Gaussian(sigma="big"), ValueError, "sigma must be a number"),
        (lambda: Bernoulli(output="probabilities"), ValueError, "output must be 'logits' or 'probs'"),
        (lambda: Categorical(output="softmax"), ValueError, "output must be 'logits' or 'probs'"),
        (lambda: Categorical(axis=0), ValueError, "batch axis"),
        (lambda: Categorical(axis=1.0), ValueError, "axis must be an integer"),
        (lambda: Poisson(output="logits"), ValueError, "output must be 'rate' or 'log_rate'"),
        (lambda: NegativeBinomial(output="rate"), ValueError, "output must be 'mean' or 'log_mean'"),
        (lambda: NegativeBinomial(inverse_dispersion=0.0), ValueError, "inverse_dispersion must be positive"),
        (lambda: NegativeBinomial(inverse_dispersion="big"), ValueError, "inverse_dispersion must be a number"),
        (lambda: Exponential(output="mean"), ValueError, "output must be 'rate' or 'log_rate'"),
        (lambda: as_likelihood("gauss"), ValueError, "'gaussian'"),
        (lambda: as_likelihood({"name": "gaussian", "sigmas": 1}), ValueError, "does not take"),
        (lambda: as_likelihood(Gaussian), TypeError, r"Gaussian\(\)"),
        (lambda: as_likelihood(3), TypeError, "got int"),
    ],
)
def test_bad_options_are_named(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_sigma_may_be_a_tensor():
    assert Gaussian(sigma=torch.tensor(0.5)).sigma == 0.5
    assert Gaussian(sigma=torch.tensor([0.5, 1.0])).sigma == (0.5, 1.0)
    assert "<784 values>" in repr(Gaussian(sigma=torch.ones(784)))


@pytest.mark.parametrize(
    "likelihood",
    [Poisson(), Poisson("log_rate"), Bernoulli("probs"), Bernoulli(), Exponential(), Gaussian(sigma=0.5)],
    ids=repr,
)
def test_counts_and_bits_may_be_integers(likelihood):
    decoder = wrap(lambda z: 0.25 + 0.5 * z.sigmoid(), latent_dim=2, likelihood=likelihood)
    z, bits = torch.zeros(3, 2), torch.tensor([[0, 1], [1, 1], [0, 0]])
    expected = decoder.log_prob(z, bits.float())
    assert_close(decoder.log_prob(z, bits), expected)
    assert_close(decoder.log_prob(z, bits.bool()), expected)
    with pytest.raises(TypeError, match="`x` must be real and on cpu"):
        decoder.log_prob(z, bits.to(torch.complex64))
