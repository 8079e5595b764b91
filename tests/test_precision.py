"""The RBF precision and `fit_precision`."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from latentgeo.decoders import (
    MLP,
    Bernoulli,
    Gaussian,
    PrecisionReport,
    RBFPrecision,
    fit_precision,
    wrap,
)
from latentgeo.decoders.fit import edge_ratio

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Plane(nn.Module):
    """z → (z, 0, 1): a flat mean, so that residuals are what the test puts there."""

    def __init__(self, kind="mean"):
        super().__init__()
        self.unit = nn.Parameter(torch.ones((), dtype=F64))
        self.kind = kind

    def forward(self, z):
        mean = torch.cat([z, torch.zeros_like(z[:, :1]), torch.ones_like(z[:, :1])], -1) * self.unit
        if self.kind == "own":
            return mean, torch.full_like(mean, 3.0)
        return mean


def problem(n=600, noise=0.1, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=g, dtype=F64)
    mean = Plane()(z).detach()
    return z, mean + noise * torch.randn(n, 4, generator=g, dtype=F64)


def plane(likelihood="deterministic", kind="mean"):
    return wrap(Plane(kind).eval(), 2, likelihood)


# --- the module ---------------------------------------------------------------------------------------------------


def test_precision_is_the_papers_formula():
    g = torch.Generator().manual_seed(0)
    c, lam, w = torch.randn(5, 2, generator=g, dtype=F64), torch.rand(5, generator=g, dtype=F64) + 0.5, None
    w = torch.rand(5, 3, generator=g, dtype=F64)
    precision = RBFPrecision(c, lam, w, 1e-3)
    z = torch.randn(4, 6, 2, generator=g, dtype=F64)
    v = torch.exp(-lam * torch.cdist(z, c.expand(4, 5, 2)) ** 2)
    assert_close(precision(z), v @ w + 1e-3)
    assert_close(precision.std(z), (v @ w + 1e-3) ** -0.5)
    assert precision(z[:0]).shape == (0, 6, 3)
    assert_close(precision(z[0, 0]), precision(z)[0, 0])


def test_many_latent_dimensions_take_the_same_formula():
    c, z = torch.randn(5, 12, dtype=F64), torch.randn(4, 12, dtype=F64)
    wide = RBFPrecision(c, torch.ones(5, dtype=F64), torch.ones(5, 3, dtype=F64))
    assert_close(wide.basis(z), torch.exp(-(torch.cdist(z, c) ** 2)))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_sigma_saturates_exactly_and_far_away_nothing_overflows(dtype):
    precision = RBFPrecision(torch.zeros(1, 2, dtype=dtype), torch.ones(1, dtype=dtype), torch.ones(1, 3, dtype=dtype))
    z = torch.tensor([[0.0, 0.0], [50.0, 0.0], [1e4, 1e4], [1e15, 0.0]], dtype=dtype, requires_grad=True)
    std = precision.std(z)
    (gradient,) = torch.autograd.grad(std.sum(), z)
    assert_close(std[1:], torch.full((3, 3), 1e-3**-0.5, dtype=dtype))
    assert bool(torch.isfinite(gradient).all())
    assert precision.saturation == pytest.approx(1e-3**-0.5)
    assert precision.saturated(z).tolist() == [False, True, True, True]


def test_distances_to_centres_are_exact_far_from_the_origin_in_float32():
    offset = 1e4
    near = RBFPrecision(torch.zeros(1, 2), torch.ones(1), torch.ones(1, 1))
    far = RBFPrecision(torch.full((1, 2), offset), torch.ones(1), torch.ones(1, 1))
    step = torch.tensor([[0.5, 0.25]])
    assert_close(far(step + offset), near(step))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bandwidths": torch.ones(2)}, "of shape"),
        ({"weights": torch.ones(3)}, "of shape"),
        ({"floor": torch.ones(3)}, "of shape"),
        ({"bandwidths": torch.zeros(3)}, "positive"),
        ({"weights": -torch.ones(3, 4)}, "not negative"),
        ({"floor": 0.0}, "positive"),
        ({"centers": torch.full((3, 2), math.nan)}, "finite"),
        ({"weights": torch.ones(3, 4, dtype=torch.int64)}, "floating point"),
        ({"weights": torch.ones(3, 0)}, "empty"),
    ],
)
def test_bad_precisions_are_refused(change, says):
    good = {"centers": torch.zeros(3, 2), "bandwidths": torch.ones(3), "weights": torch.ones(3, 4), "floor": 1e-3}
    with pytest.raises(ValueError, match=says):
        RBFPrecision(**{**good, **change})


# --- the fit --------------------------------------------------------------------------------------------------------


def test_one_wide_centre_finds_the_maximum_likelihood_deviation():
    z, x = problem(4000)
    scale = torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=F64)
    mean = Plane()(z).detach()
    x = mean + scale * (x - mean) / 0.1
    fitted = fit_precision(
        plane(), z, x, n_centers=1, bandwidth=1e4, floor=1e-9, n_iter=100, holdout=0, min_variance=1e-12
    )
    want = (x - mean).square().mean(0).sqrt()
    assert_close(fitted.std(z), want.expand_as(x), rtol=1e-6, atol=0)


def test_updates_never_lower_the_likelihood_and_reach_a_stationary_point():
    z, x = problem(500)
    x = x + 0.3 * z[:, :1].sin() * torch.randn(500, 4, generator=torch.Generator().manual_seed(1), dtype=F64)

    def fit(n_iter):
        fitted = fit_precision(plane(), z, x, 8, holdout=0, n_iter=n_iter, min_variance=1e-12)
        return fitted, float(fitted.log_prob(z, x).sum().detach())

    scores = [fit(n)[1] for n in (1, 2, 4, 8, 16, 32, 300)]
    assert scores == sorted(scores)
    fitted, best = fit(300)
    precision = fitted.precision
    weights = precision.weights.clone().requires_grad_()
    beta = precision.basis(z) @ weights + precision.floor
    r2 = (x - fitted.mean(z).detach()).square()
    (0.5 * (beta.log() - beta * r2).sum() - 0.5 * x.numel() * math.log(2 * math.pi)).backward()
    # complementary slackness: the gradient vanishes where the weight does not
    assert float((weights.grad * weights.detach()).abs().max()) < 1e-2 * len(x)
    assert best > scores[0]


def test_bandwidths_are_the_papers():
    z, x = problem()
    fitted = fit_precision(plane(), z, x, 10, bandwidth=1.5, holdout=0)
    c, lam = fitted.precision.centers, fitted.precision.bandwidths
    to_center, label = torch.cdist(z, c).min(-1)
    extent = torch.stack([to_center[label == k].mean() for k in range(10)])
    assert_close(lam, 0.5 / (1.5 * extent) ** 2)
    assert_close(fit_precision(plane(), z, x, 10, bandwidth=3.0, holdout=0).precision.bandwidths, lam / 4)


def test_weights_are_positive_and_sigma_rises_along_rays_to_its_limit():
    z, x = problem()
    fitted = fit_precision(plane(), z, x, 16)
    assert bool((fitted.precision.weights > 0).all())
    origin = z.mean(0)
    for angle in torch.arange(0, 6.28, 0.4, dtype=F64):
        direction = torch.stack([angle.cos(), angle.sin()])
        start = ((fitted.precision.centers - origin) @ direction).max().clamp(min=0)
        radius = torch.linspace(float(start), 40.0, 400, dtype=F64)
        sigma = fitted.std(origin + radius[:, None] * direction)
        assert bool((sigma.diff(dim=0) >= 0).all())
        assert_close(sigma[-1], torch.full((4,), 1e-3**-0.5, dtype=F64))


DECODERS = {
    "no deviation": (plane, None),
    "constant": (lambda: plane(Gaussian(sigma=0.7)), Gaussian(sigma=0.7)),
    "its own": (lambda: plane(Gaussian(), "own"), Gaussian()),
    "already fitted": (lambda: fit_precision(plane(), *problem(), 4), Gaussian()),
}


@pytest.mark.parametrize("kind", DECODERS)
def test_any_decoder_gets_a_precision(kind):
    make, own = DECODERS[kind]
    decoder = make()
    z, x = problem()
    fitted = fit_precision(decoder, z, x, 16)
    assert fitted.likelihood == Gaussian(scale="std")
    assert_close(fitted.mean(z), plane().mean(z))
    assert_close(fitted(z)["std"], fitted.precision.std(z))
    report = fitted.precision_report
    assert (report.log_likelihood_before is None) == (own is None)
    assert report.n_train + report.n_heldout == len(z)
    assert "\n" not in repr(report)
    assert decoder.precision is None or decoder.precision is not fitted.precision
    assert_close(fitted.embedding(z), torch.cat([fitted.mean(z), fitted.precision.std(z)], -1))
    assert_close(pickle.loads(pickle.dumps(fitted)).std(z), fitted.std(z))
    assert fitted.to(torch.float32).std(z.float()).dtype == torch.float32


def test_a_bernoulli_decoder_keeps_its_mean():
    net = MLP([2, 8, 5]).eval()
    decoder = wrap(net, 2, Bernoulli())
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    data = (net(z) > 0).float().detach()
    fitted = fit_precision(decoder, z, data, 4, bandwidth=3.0)
    assert_close(fitted.mean(z), torch.sigmoid(net(z)))
    assert fitted.precision_report.log_likelihood_before is None


def test_held_out_scores_are_those_of_the_held_out_data():
    z, x = problem(1000)
    report = fit_precision(plane(Gaussian(sigma=0.5)), z, x, 16, bandwidth=2.0).precision_report
    assert report.n_heldout == 100
    exact = -0.5 * math.log(2 * math.pi) - math.log(0.1) - 0.5
    assert report.log_likelihood_constant == pytest.approx(4 * exact, abs=0.3)
    before = -0.5 * math.log(2 * math.pi) - math.log(0.5) - 0.5 * 0.01 / 0.25
    assert report.log_likelihood_before == pytest.approx(4 * before, abs=0.05)
    none = fit_precision(plane(), z, x, 16, holdout=0).precision_report
    assert none.n_heldout == 0
    assert math.isnan(none.log_likelihood)


def test_posterior_samples_and_images():
    z, x = problem()
    g = torch.Generator().manual_seed(2)
    samples = z + 0.05 * torch.randn(3, *z.shape, generator=g, dtype=F64)
    fitted = fit_precision(plane(), samples, x, 16)
    assert fitted.precision.n_centers == 16
    same = fit_precision(plane(), z[None], x, 16)
    assert_close(same.precision.weights, fit_precision(plane(), z, x, 16).precision.weights)

    class Image(Plane):
        def forward(self, z):
            return super().forward(z).reshape(-1, 1, 2, 2)

    image = fit_precision(wrap(Image().eval(), 2, "deterministic"), z, x.reshape(-1, 1, 2, 2), 16)
    assert image.data_shape == (1, 2, 2)
    assert_close(image.precision.weights, fit_precision(plane(), z, x, 16).precision.weights)


def test_small_memory_budgets_change_nothing():
    z, x = problem()
    whole = fit_precision(plane(), z, x, 16)
    pieces = fit_precision(plane(), z, x, 16, max_bytes=4000)
    assert_close(pieces.precision.weights, whole.precision.weights)
    assert pieces.precision_report.log_likelihood == pytest.approx(whole.precision_report.log_likelihood)


def test_same_random_state_same_precision():
    z, x = problem()
    one, two = (fit_precision(plane(), z, x, 16, random_state=5) for _ in range(2))
    assert torch.equal(one.precision.weights, two.precision.weights)
    other = fit_precision(plane(), z, x, 16, random_state=6)
    assert not torch.equal(one.precision.weights, other.precision.weights)


def test_duplicates_and_single_codes_are_mended():
    z, x = problem(60)
    z = torch.cat([z[:3].repeat(20, 1), torch.tensor([[9.0, 9.0]], dtype=F64), z[:20]])
    x = torch.cat([x, x[:1], x[:20]])
    fitted = fit_precision(plane(), z, x, n_centers=64, holdout=0)
    assert fitted.precision.n_centers == len(torch.unique(z, dim=0))
    assert bool(torch.isfinite(fitted.precision.bandwidths).all())
    assert bool(torch.isfinite(fitted.embedding.jacobian(z)).all())
    clustered = fit_precision(plane(), z, x, n_centers=5, bandwidth=2.0, holdout=0)
    lam = clustered.precision.bandwidths
    assert bool((lam <= 100 * lam.median()).all())


def test_codes_that_are_all_the_same_are_refused():
    with pytest.raises(ValueError, match="all the same"):
        fit_precision(plane(), torch.zeros(10, 2, dtype=F64), torch.zeros(10, 4, dtype=F64))


def test_a_perfect_decoder_stays_finite():
    z, _ = problem()
    fitted = fit_precision(plane(), z, plane().mean(z).detach(), 8, holdout=0)
    assert bool(torch.isfinite(fitted.precision.weights).all())


def test_numpy_in_the_decoders_dtype():
    z, x = problem()
    fitted = fit_precision(plane(), z.numpy().astype(np.float32), x.numpy(), 8)
    assert fitted.precision.weights.dtype == F64


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"codes": torch.zeros(10, 3, dtype=F64)}, ValueError, r"codes must be of shape \(N, 2\)"),
        ({"codes": torch.zeros(0, 2, dtype=F64)}, ValueError, "codes"),
        ({"codes": torch.zeros(1, 2, dtype=F64), "data": torch.zeros(1, 4, dtype=F64)}, ValueError, "at least two"),
        ({"codes": torch.zeros(10, 2)}, TypeError, r"codes\.to\(torch\.float64\)"),
        ({"data": torch.zeros(10, 4)}, TypeError, r"data\.to\(torch\.float64\)"),
        ({"data": torch.zeros(10, 3, dtype=F64)}, ValueError, r"data must be of shape \(10, 4\)"),
        ({"data": torch.full((10, 4), math.nan, dtype=F64)}, ValueError, "data must be finite"),
        ({"codes": torch.full((10, 2), math.inf, dtype=F64)}, ValueError, "codes must be finite"),
        ({"n_centers": 0}, ValueError, "n_centers"),
        ({"n_centers": 2.5}, ValueError, "n_centers"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth"),
        ({"bandwidth": None}, ValueError, "bandwidth"),
        ({"floor": -1.0}, ValueError, "floor"),
        ({"min_variance": 0.0}, ValueError, "min_variance"),
        ({"holdout": 1.0}, ValueError, "holdout"),
        ({"n_iter": 0}, ValueError, "n_iter"),
        ({"decoder": Plane()}, TypeError, "decoder must be a Decoder"),
    ],
)
def test_bad_arguments_are_named(change, error, says):
    z = torch.randn(10, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    arguments = {"decoder": plane(), "codes": z, "data": torch.zeros(10, 4, dtype=F64), **change}
    with pytest.raises(error, match=says):
        fit_precision(**arguments)


# --- the edge ratio ---------------------------------------------------------------------------------------------------


def test_edge_ratio_of_known_lengths():
    decoder = wrap(lambda z: (z, 0.5 * z.exp()), 1, "gaussian")
    z = torch.linspace(0, 1e-3, 50, dtype=F64)[:, None]
    assert edge_ratio(decoder, z) == pytest.approx(0.5, rel=1e-3)
    assert math.isnan(edge_ratio(decoder, z[:1]))
    assert math.isnan(edge_ratio(decoder, z[:1].repeat(5, 1)))


def test_a_dominating_sigma_is_warned_of():
    z, x = problem()
    with pytest.warns(UserWarning, match="raise bandwidth"):
        fitted = fit_precision(plane(), z, x, n_centers=64, bandwidth=0.2)
    assert fitted.precision_report.edge_ratio > 3


# --- the report -------------------------------------------------------------------------------------------------------


def test_report_survives_its_description():
    z, x = problem()
    for holdout in (0, 0.1):
        report = fit_precision(plane(), z, x, 8, holdout=holdout).precision_report
        assert str(PrecisionReport.from_dict(report.to_dict()).to_dict()) == str(report.to_dict())
    with pytest.raises(ValueError, match="fields"):
        PrecisionReport.from_dict({"n_centers": 3})
    with pytest.raises(ValueError, match="edge_ratio"):
        PrecisionReport.from_dict({**report.to_dict(), "edge_ratio": "much"})
