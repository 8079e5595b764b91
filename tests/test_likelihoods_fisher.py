"""Every family's Fisher–Rao metric against the Fisher information, saturated outputs, lengths, distributions, files.

The information is E[score scoreᵀ] with scores by autograd from torch.distributions: sums over outcomes for discrete
families, Gauss quadrature for continuous ones. Nothing of latentgeo's is used for the expected values.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import normal
from torch import distributions as td
from torch import nn
from torch.nn.functional import softplus
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.decoders import MLP, Categorical, Exponential, NegativeBinomial, Poisson, wrap

F64 = torch.float64
R = (0.3, 1.0, 7.0, 50.0)  # inverse dispersions


def raw(z, size=4, sharp=1.5):
    """A smooth map to `size` numbers of both signs."""
    k = torch.arange(1, size + 1, dtype=z.dtype)
    return sharp * torch.sin(z[:, :1] * k + 0.3 * k) + z[:, 1:] * torch.cos(k) + 0.2 * z[:, :1] * z[:, 1:]


def outcomes(n):
    """Outcomes 0..n-1 in every coordinate: (n, 1, 1)."""
    return torch.arange(n, dtype=F64)[:, None, None]


def laguerre(rate):
    """Nodes and weights of E[g(x)] for x ~ Exponential(rate): (m, B, D) and (m, 1, 1)."""
    nodes, weights = np.polynomial.laguerre.laggauss(30)
    return torch.tensor(nodes)[:, None, None] / rate.detach(), torch.tensor(weights)[:, None, None]


def hermite(mean, std):
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    x = mean.detach() + std.detach() * torch.tensor(nodes)[:, None, None]
    return x, torch.tensor(weights)[:, None, None] / math.sqrt(2 * math.pi)


def counted(distribution, n):
    x = outcomes(n)
    return x, distribution.log_prob(x).exp().detach()


def negative_binomial(log_mean):
    return td.NegativeBinomial(torch.tensor(R, dtype=F64), logits=log_mean - torch.tensor(R, dtype=F64).log())


def exponential_law(z):
    law = td.Exponential(raw(z).exp())
    return law, laguerre(law.rate)


def gaussian_law(z):
    law = td.Normal(raw(z), 0.3 + softplus(raw(z, sharp=0.7)))
    return law, hermite(law.loc, law.scale)


def fixed_law(z):
    law = td.Normal(raw(z), torch.tensor(0.4, dtype=F64))
    return law, hermite(law.loc, law.scale)


def law_of(make, n):
    def law(z):
        distribution = make(z)
        return distribution, counted(distribution, n)

    return law


BERNOULLI = law_of(lambda z: td.Bernoulli(logits=raw(z)), 2)
POISSON = law_of(lambda z: td.Poisson(raw(z).exp()), 250)
COUNTS = law_of(lambda z: negative_binomial(raw(z)), 3000)
CASES = {
    "Bernoulli, logits": (raw, lg.Bernoulli(), BERNOULLI),
    "Bernoulli, probs": (lambda z: torch.sigmoid(raw(z)), lg.Bernoulli("probs"), BERNOULLI),
    "Poisson, rate": (lambda z: raw(z).exp(), Poisson(), POISSON),
    "Poisson, log rate": (raw, Poisson("log_rate"), POISSON),
    "NegativeBinomial, mean": (lambda z: raw(z).exp(), NegativeBinomial(R), COUNTS),
    "NegativeBinomial, log mean": (raw, NegativeBinomial(R, output="log_mean"), COUNTS),
    "Exponential, rate": (lambda z: raw(z).exp(), Exponential(), exponential_law),
    "Exponential, log rate": (raw, Exponential("log_rate"), exponential_law),
    "Gaussian, fixed": (raw, lg.Gaussian(sigma=0.4), fixed_law),
    "Gaussian, learned": (lambda z: (raw(z), 0.3 + softplus(raw(z, sharp=0.7))), lg.Gaussian(), gaussian_law),
}
Z = 0.7 * normal(5, 2)
by_case = pytest.mark.parametrize("case", CASES)


def double(function):
    """A decoder whose probe's codes are float64."""

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("unit", torch.ones((), dtype=F64))

        def forward(self, z):
            return function(z * self.unit)

    return Wrapped().eval()


def fisher_information(law, z):
    """Σ over coordinates of E[score scoreᵀ], (B, d, d)."""
    _, (x, weight) = law(z)
    basis = torch.eye(z.shape[-1], dtype=z.dtype)
    scores = torch.stack([torch.func.jvp(lambda z: law(z)[0].log_prob(x), (z,), (e.expand_as(z),))[1] for e in basis])
    return torch.einsum("mBD,imBD,jmBD->Bij", weight.expand(scores.shape[1:]), scores, scores)


@by_case
def test_the_metric_is_the_fisher_information(case):
    function, likelihood, law = CASES[case]
    metric = lg.FisherRaoMetric(wrap(double(function), 2, likelihood))
    assert_close(metric.tensor(Z), fisher_information(law, Z), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("output", ["logits", "probs"])
def test_the_categorical_metric_is_the_fisher_information(output):
    likelihood = Categorical(output)
    function = raw if output == "logits" else lambda z: raw(z).softmax(-1)
    metric = lg.FisherRaoMetric(wrap(double(function), 2, likelihood))
    z = Z.clone().requires_grad_()
    log_p = raw(z).log_softmax(-1)
    scores = torch.stack([torch.autograd.grad(log_p[:, k].sum(), z, retain_graph=True)[0] for k in range(4)])
    want = torch.einsum("Bk,kBi,kBj->Bij", log_p.exp().detach(), scores, scores)
    assert_close(metric.tensor(Z), want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("axis", "shape"), [(1, (3, 2, 2)), (-1, (2, 2, 3)), (2, (2, 3, 2)), (-2, (2, 3, 2)), (3, (2, 2, 3))]
)
@pytest.mark.parametrize("output", ["logits", "probs"])
def test_classes_may_run_along_any_axis(axis, shape, output):
    torch.manual_seed(0)
    net = MLP([2, 8, 12], shape=[2, 2, 3]).double().eval()

    def decoder(axis, shape):
        def function(z):
            x = net(z).softmax(-1) if output == "probs" else net(z)
            return x.movedim(-1, axis)

        return wrap(double(function), 2, Categorical(output, axis=axis))

    want = lg.FisherRaoMetric(decoder(-1, (2, 2, 3)))
    got = lg.FisherRaoMetric(decoder(axis, shape))
    assert got.decoder.data_shape == shape
    assert_close(got.tensor(Z), want.tensor(Z), rtol=1e-12, atol=1e-14)
    places = net(Z).softmax(-1)
    one_hot = nn.functional.one_hot(places.argmax(-1), 3).to(F64)
    want_log_prob = td.Categorical(places).log_prob(places.argmax(-1)).sum((-1, -2))
    assert_close(got.decoder.log_prob(Z, one_hot.movedim(-1, axis).flatten(1)), want_log_prob)


# --- saturation -----------------------------------------------------------------------------------------------------

SATURATED = torch.tensor([[-200.0, -30.0, 0.0, 30.0, 200.0]])
OUTPUTS = {
    "Bernoulli, logits": (lambda x: x, lg.Bernoulli()),
    "Bernoulli, probs": (torch.sigmoid, lg.Bernoulli("probs")),
    "Categorical, logits": (lambda x: x, Categorical()),
    "Categorical, probs": (lambda x: x.softmax(-1), Categorical("probs")),
    "Poisson, rate": (softplus, Poisson()),
    "Poisson, log rate": (lambda x: x, Poisson("log_rate")),
    "NegativeBinomial, mean": (softplus, NegativeBinomial(2.0)),
    "NegativeBinomial, log mean": (lambda x: x, NegativeBinomial(2.0, output="log_mean")),
    "Exponential, rate": (softplus, Exponential()),
    "Exponential, log rate": (lambda x: x, Exponential("log_rate")),
}
by_output = pytest.mark.parametrize("kind", OUTPUTS)


@by_output
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_values_and_two_derivatives_are_finite_at_saturation(kind, dtype):
    function, likelihood = OUTPUTS[kind]
    x = SATURATED.to(dtype).requires_grad_()
    phi = likelihood.fisher(likelihood.parameters({"value": function(x)}))
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.5], dtype=dtype)
    (first,) = torch.autograd.grad((phi * weight).sum(), x, create_graph=True)
    # the log of an exponential rate is the identity: its second derivative is no function of x at all
    (second,) = torch.autograd.grad((first * weight.flip(0) + 0 * x).sum(), x)
    for value in (phi, first, second):
        assert bool(value.isfinite().all())
    assert bool(phi.square().sum().isfinite())


@by_output
def test_metrics_are_finite_at_saturation(kind):
    """Codes at which a linear decoder's logits are ±{0, 30, 200}, in float32, through metric and volume gradient."""
    function, likelihood = OUTPUTS[kind]
    directions = torch.tensor([[1.0, 0.0, 0.5, -1.0, 0.3], [0.0, 1.0, -0.5, 0.2, -1.0]])
    decoder = wrap(lambda z: function(z @ directions), 2, likelihood)
    metric = lg.FisherRaoMetric(decoder)
    z = torch.tensor([[200.0, -200.0], [30.0, 200.0], [0.0, -30.0], [0.0, 0.0], [-200.0, 0.0]]).requires_grad_()
    G = metric.tensor(z)
    (gradient,) = torch.autograd.grad(G.diagonal(dim1=-2, dim2=-1).sum(), z)
    assert bool(G.isfinite().all())
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_negative_binomial_coordinate_is_exact_at_every_logit(dtype):
    from latentgeo.decoders.coordinates import negative_binomial_coordinate

    x = SATURATED.to(dtype).requires_grad_()
    value = negative_binomial_coordinate(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    t = x.detach().double()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    assert_close(value.detach().double(), torch.asinh((0.5 * t).exp()), rtol=tolerance, atol=1e-38)
    slope = 0.5 * torch.sigmoid(t).sqrt()  # ½ / √(1 + e^{-t})
    assert_close(first.detach().double(), slope, rtol=tolerance, atol=1e-38)
    assert_close(second.double(), 0.25 * torch.sigmoid(t).sqrt() * torch.sigmoid(-t), rtol=tolerance, atol=1e-38)


# --- lengths and distances --------------------------------------------------------------------------------------------


def kl(case, z):
    """KL divergence between the laws at neighbouring points, both ways averaged, summed over coordinates.

    One way alone has an error of third order in the step, which makes sums of its root converge slowly.
    """
    law, _ = CASES[case][2](z)
    if case.startswith("NegativeBinomial"):  # torch has none: sum over outcomes
        log_p = law.log_prob(outcomes(1500))
        rise = log_p[:, 1:] - log_p[:, :-1]
        return 0.5 * ((log_p.exp()[:, 1:] - log_p.exp()[:, :-1]) * rise).sum((0, -1))
    names = {td.Normal: ("loc", "scale"), td.Bernoulli: ("probs",)}.get(type(law), ("rate",))
    p, q = (type(law)(*(getattr(law, name)[part] for name in names)) for part in (slice(-1), slice(1, None)))
    return 0.5 * (td.kl_divergence(p, q) + td.kl_divergence(q, p)).sum(-1)


@by_case
def test_lengths_are_sums_of_root_kl(case):
    function, likelihood, _ = CASES[case]
    metric = lg.FisherRaoMetric(wrap(double(function), 2, likelihood))
    t = torch.linspace(-1, 1, 2001, dtype=F64)
    z = torch.stack([t, 0.5 - 0.3 * t], -1)
    want = (2 * kl(case, z)).clamp(min=0).sqrt().sum()
    assert_close(lg.curve_length(metric, z), want, rtol=5e-6, atol=0)


def normals_distance(a, b):
    """Fisher–Rao distance between univariate normals (μ, σ): Atkinson & Mitchell 1981."""
    ratio = (0.5 * (a[..., 0] - b[..., 0]) ** 2 + (a[..., 1] - b[..., 1]) ** 2) / (2 * a[..., 1] * b[..., 1])
    return math.sqrt(2) * torch.acosh(1 + ratio)


def test_distances_between_normals_with_learned_deviation():
    decoder = wrap(double(lambda z: (z[:, :1], z[:, 1:].exp())), 2, lg.Gaussian())
    metric = lg.FisherRaoMetric(decoder)
    a, b = normal(12, 2), normal(12, 2, seed=1)
    distance = lg.distance(metric, a, b, solver=lg.Newton(rtol=1e-5))
    exact = normals_distance(torch.cat([a[:, :1], a[:, 1:].exp()], -1), torch.cat([b[:, :1], b[:, 1:].exp()], -1))
    assert_close(distance, exact, rtol=2e-5, atol=1e-7)
    assert_close(metric.log_volume(a), 0.5 * math.log(2) - a[:, 1], rtol=1e-9, atol=1e-12)
    curvature = metric.sectional_curvature(a, *torch.eye(2, dtype=F64))
    assert_close(curvature, torch.full_like(curvature, -0.5), rtol=1e-9, atol=1e-9)


def test_distances_between_products_of_normals():
    """Two coordinates that move independently: the distances add in squares."""
    decoder = wrap(double(lambda z: (z[:, :2], z[:, 2:].exp())), 4, lg.Gaussian())
    a, b = 0.7 * normal(4, 4), 0.7 * normal(4, 4, seed=1)
    x, y = (torch.stack([z[:, :2], z[:, 2:].exp()], -1) for z in (a, b))
    got = lg.distance(lg.FisherRaoMetric(decoder), a, b, solver=lg.Newton(rtol=1e-5))
    assert_close(got, normals_distance(x, y).norm(dim=-1), rtol=2e-5, atol=1e-7)


# --- what is recognised and what is refused ---------------------------------------------------------------------------

DISTRIBUTIONS = {
    "categorical": (lambda z: td.Categorical(logits=raw(z)), raw, Categorical()),
    "categorical, probs": (
        lambda z: td.Categorical(probs=raw(z).exp()),
        lambda z: raw(z).softmax(-1),
        Categorical("probs"),
    ),
    "one-hot": (lambda z: td.OneHotCategorical(logits=raw(z)), raw, Categorical()),
    "poisson": (lambda z: td.Poisson(raw(z).exp()), lambda z: raw(z).exp(), Poisson()),
    "negative binomial": (lambda z: negative_binomial(raw(z)), raw, NegativeBinomial(R, output="log_mean")),
    "negative binomial, probs": (
        lambda z: td.NegativeBinomial(torch.tensor(R, dtype=F64), probs=torch.sigmoid(raw(z))),
        lambda z: torch.tensor(R, dtype=F64) * raw(z).exp(),
        NegativeBinomial(R),
    ),
    "exponential": (lambda z: td.Exponential(raw(z).exp()), lambda z: raw(z).exp(), Exponential()),
}


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_distributions_are_recognised(kind, independent):
    make, plain, likelihood = DISTRIBUTIONS[kind]
    if independent and "categorical" not in kind and kind != "one-hot":
        function = lambda z: td.Independent(make(z), 1)  # noqa: E731
    else:
        function = make
    decoder = wrap(double(function), 2)
    assert type(decoder.likelihood) is type(likelihood)
    want = wrap(double(plain), 2, likelihood)
    assert_close(lg.FisherRaoMetric(decoder).tensor(Z), lg.FisherRaoMetric(want).tensor(Z), rtol=1e-9, atol=1e-12)
    assert_close(decoder.mean(Z), want.mean(Z), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="leave likelihood out"):
        wrap(double(function), 2, lg.Gaussian(sigma=1.0))


@pytest.mark.parametrize(
    ("function", "likelihood", "says"),
    [
        (lambda z: (raw(z).exp(), raw(z).exp()), NegativeBinomial(), "depends on z"),
        (lambda z: td.NegativeBinomial(raw(z).exp(), logits=raw(z)), None, "depends on z"),
        (lambda z: (raw(z).exp(), -torch.ones(4)), NegativeBinomial(), "must be positive"),
        (lambda z: raw(z).exp(), NegativeBinomial(), "returns a mean alone"),
        (lambda z: (raw(z).exp(), torch.ones(4)), NegativeBinomial(2.0), "drop inverse_dispersion="),
        (lambda z: raw(z).exp(), NegativeBinomial((1.0, 2.0)), "4 entries"),
        (raw, NegativeBinomial(1.0), "log_mean"),
        (raw, Poisson(), "log_rate"),
        (raw, Exponential(), "log_rate"),
        (raw, Categorical("probs"), "not 1"),
        (lambda z: raw(z).softmax(0), Categorical("probs"), "not 1"),
        (lambda z: raw(z)[:, :1], Categorical(), "one class only"),
        (raw, Categorical(axis=2), "axes after the batch are 1 to 1"),
        (lambda z: (raw(z), raw(z)), Categorical(), "takes one tensor"),
        (lambda z: {"rate": raw(z).exp()}, lg.Gaussian(sigma=1.0), "a Poisson or an Exponential"),
        (lambda z: {"rate": raw(z).exp()}, lg.Deterministic(), "also has rate"),
    ],
)
def test_contradictions_are_refused_with_the_reason(function, likelihood, says):
    with pytest.raises(ValueError, match=says):
        wrap(function, 2, likelihood)


def test_an_inverse_dispersion_that_is_a_parameter_is_taken_from_the_output():
    r = torch.tensor(R)
    decoder = wrap(lambda z: (raw(z).exp(), r), 2, NegativeBinomial())
    fixed = wrap(lambda z: raw(z).exp(), 2, NegativeBinomial(R))
    z = Z.float()
    assert_close(decoder.embedding(z), fixed.embedding(z))
    named = wrap(lambda z: {"mean": raw(z).exp(), "theta": r}, 2, NegativeBinomial())
    assert_close(named.embedding(z), fixed.embedding(z))
    assert_close(decoder.std(z), td.NegativeBinomial(r, logits=raw(z) - r.log()).stddev)


def test_probabilities_called_logits_raise_a_doubt():
    with pytest.warns(UserWarning, match=r"Categorical\(output='probs'\)"):
        wrap(lambda z: raw(z).softmax(-1), 2, Categorical())


@by_case
def test_expected_metric_names_the_other_one(case):
    function, likelihood, _ = CASES[case]
    decoder = wrap(double(function), 2, likelihood)
    if isinstance(likelihood, lg.Gaussian):
        assert isinstance(lg.metric(decoder), lg.ExpectedMetric)
        return
    assert isinstance(lg.metric(decoder), lg.FisherRaoMetric)
    with pytest.raises(ValueError, match=rf"{type(likelihood).__name__} is not one; use FisherRaoMetric"):
        lg.ExpectedMetric(decoder)


LAWS = {
    "Poisson": (lambda: td.Poisson(raw(Z).exp()), Poisson(), {"rate": raw(Z).exp()}),
    "Poisson, log": (lambda: td.Poisson(raw(Z).exp()), Poisson("log_rate"), {"log_rate": raw(Z)}),
    "NegativeBinomial": (lambda: negative_binomial(raw(Z)), NegativeBinomial(R), {"value": raw(Z).exp()}),
    "NegativeBinomial, log": (lambda: negative_binomial(raw(Z)), NegativeBinomial(R, "log_mean"), {"value": raw(Z)}),
    "Exponential": (lambda: td.Exponential(raw(Z).exp()), Exponential(), {"rate": raw(Z).exp()}),
    "Exponential, log": (lambda: td.Exponential(raw(Z).exp()), Exponential("log_rate"), {"log_rate": raw(Z)}),
}


@pytest.mark.parametrize("kind", LAWS)
def test_log_probabilities_means_and_deviations_are_those_of_torch(kind):
    make, likelihood, output = LAWS[kind]
    law = make()
    parameters = likelihood.parameters(output)
    x = torch.tensor([[0.0, 1.0, 3.0, 10.0]], dtype=F64)
    assert_close(likelihood.log_prob(parameters, x), law.log_prob(x).sum(-1))
    assert_close(likelihood.mean(parameters), law.mean)
    assert_close(likelihood.std(parameters), law.stddev)


@pytest.mark.parametrize("output", ["logits", "probs"])
def test_categorical_moments_are_those_of_torch(output):
    likelihood = Categorical(output)
    law = td.OneHotCategorical(logits=raw(Z))
    parameters = likelihood.parameters({output: getattr(law, output)})
    x = torch.eye(4, dtype=F64)[torch.tensor([0, 1, 2, 3, 0])]
    assert_close(likelihood.log_prob(parameters, x), law.log_prob(x))
    assert_close(likelihood.mean(parameters), law.mean)
    assert_close(likelihood.std(parameters), law.variance.sqrt())


# --- files ------------------------------------------------------------------------------------------------------------

SAVED = {
    "bernoulli": ("sigmoid", lg.Bernoulli("probs"), (4,)),
    "categorical": (None, Categorical(axis=1), (3, 2, 2)),
    "poisson": ("softplus", Poisson(), (4,)),
    "poisson, log": (None, Poisson("log_rate"), (4,)),
    "negative binomial": ("softplus", NegativeBinomial(R), (4,)),
    "negative binomial, one r": (None, NegativeBinomial(0.7, output="log_mean"), (4,)),
    "exponential": ("softplus", Exponential(), (4,)),
    "gaussian": (None, lg.Gaussian(sigma=(0.1, 0.2, 0.3, 0.4)), (4,)),
    "deterministic": (None, lg.Deterministic(), (4,)),
}


@pytest.mark.parametrize("kind", SAVED)
def test_checkpoints_bring_every_likelihood_back(kind, tmp_path):
    output, likelihood, shape = SAVED[kind]
    torch.manual_seed(0)
    net = MLP([2, 8, math.prod(shape)], output=output, shape=shape).eval()
    decoder = wrap(net, 2, likelihood)
    lg.save(decoder, tmp_path / "a.safetensors")
    again = lg.load(tmp_path / "a.safetensors").decoder
    assert again.likelihood == likelihood
    assert again.data_shape == shape
    z = Z.float()
    assert_close(lg.metric(again).tensor(z), lg.metric(decoder).tensor(z).detach(), rtol=0, atol=0)
