"""Langevin sampling against known laws on curved charts; kernel densities; effective sample sizes."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.stats
import torch
from problems import PARABOLOID, SPHERE3, TORUS, generator, normal
from scipy.integrate import cumulative_trapezoid
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.walks import effective_sample_size, split_rhat

# --- laws on curved charts --------------------------------------------------------------------------------------------


def by_table(density, low, high):
    """A distribution function from an unnormalised density, by quadrature."""
    x = np.linspace(low, high, 20_001)
    total = cumulative_trapezoid(density(x), x, initial=0)
    return lambda at: np.interp(at, x, total / total[-1])


def thinned(walk, of):
    """Values along the walk, thinned to the effective sample size of these values."""
    values = of(walk.z)
    ess = float(effective_sample_size(values[..., None]))
    flat = values.reshape(-1)
    every = max(1, math.ceil(flat.numel() / ess))
    assert flat.numel() / every > 400
    # along each walker, so that neighbours in the thinned sample are far apart in time
    return values[..., :: min(every, values.shape[-1])].reshape(-1).numpy()


def pvalue(walk, of, cdf):
    return scipy.stats.kstest(thinned(walk, of), cdf).pvalue


def angle(z):
    return z[..., 0].remainder(2 * math.pi)


def on_torus(z):
    return z[..., 0].cos() + 0.5 * (z[..., 1] - 1).cos()


def sample(problem, log_density, start, **options):
    z = start + 0.1 * torch.randn(50, problem.dim, generator=generator(1), dtype=torch.float64)
    options = {"n_steps": 400, "step_size": 0.5, "burn_in": 100, "random_state": 0, **options}
    return lg.langevin(problem.metric, log_density, z, **options)


@pytest.mark.parametrize("drift", ["full", "simplified"])
@pytest.mark.parametrize("measure", ["riemannian", "lebesgue"])
def test_law_on_the_torus(measure, drift):
    walk = sample(TORUS, on_torus, torch.tensor([1.0, 0.0]), measure=measure, drift=drift)
    ring = (lambda u: 2 + np.cos(u)) if measure == "riemannian" else np.ones_like
    other = np.ones_like if measure == "riemannian" else (lambda u: 2 + np.cos(u))
    right = by_table(lambda u: ring(u) * np.exp(np.cos(u)), 0, 2 * np.pi)
    wrong = by_table(lambda u: other(u) * np.exp(np.cos(u)), 0, 2 * np.pi)
    around = by_table(lambda v: np.exp(0.5 * np.cos(v - 1)), 0, 2 * np.pi)
    assert pvalue(walk, angle, right) > 0.01
    assert pvalue(walk, lambda z: z[..., 1].remainder(2 * math.pi), around) > 0.01
    assert pvalue(walk, angle, wrong) < 1e-4
    assert 0.4 < float(walk.acceptance.mean()) < 0.75
    assert walk.measure == measure


@pytest.mark.parametrize("drift", ["full", "simplified"])
def test_a_normal_law_of_the_chart_of_a_paraboloid(drift):
    def density(z):
        return -0.5 * (z - 0.5).square().sum(-1) / 0.49

    walk = sample(PARABOLOID, density, torch.tensor([0.5, 0.5]), measure="lebesgue", drift=drift)
    for axis in (0, 1):
        assert pvalue(walk, lambda z, axis=axis: z[..., axis], scipy.stats.norm(0.5, 0.7).cdf) > 0.01


@pytest.mark.parametrize("drift", ["full", "simplified"])
def test_von_mises_fisher_on_the_three_sphere(drift):
    phi = SPHERE3.metric.embedding
    walk = sample(SPHERE3, lambda z: 2 * phi(z)[:, -1], torch.zeros(3), measure="riemannian", drift=drift)
    cdf = by_table(lambda c: np.sqrt(1 - c**2) * np.exp(2 * c), -1, 1)
    assert pvalue(walk, lambda z: phi(z)[..., -1], cdf) > 0.01
    assert pvalue(walk, lambda z: phi(z)[..., 0], by_table_of_a_side()) > 0.01


def by_table_of_a_side():
    """Law of one coordinate across the axis: ∫ exp(2c) over the circle that is left, x² + c² + r² = 1."""
    x = np.linspace(-1, 1, 801)
    c = np.linspace(-1, 1, 4001)
    room = (1 - x[:, None] ** 2 - c**2).clip(0) > 0
    mass = (np.exp(2 * c) * room).sum(1)
    total = cumulative_trapezoid(mass, x, initial=0)
    return lambda at: np.interp(at, x, total / total[-1])


def test_without_a_gradient_the_law_is_the_same():
    walk = sample(TORUS, lambda z: torch.zeros_like(z[:, 0]), torch.zeros(2), measure="riemannian")
    assert pvalue(walk, angle, lambda u: (2 * u + np.sin(u)) / (4 * np.pi)) > 0.01


def test_a_density_that_ends_is_not_left():
    def half(z):
        return torch.where(z[:, 0] > 0, -z[:, 0], -torch.inf)

    z = torch.ones(40, 1, dtype=torch.float64)
    walk = lg.langevin(lg.Euclidean(1), half, z, n_steps=1500, step_size=0.5, measure="lebesgue", burn_in=100,
                       random_state=0)  # fmt: skip
    assert bool((walk.z > 0).all())
    assert int(walk.outside.sum()) > 0
    assert bool(walk.finished.all())
    assert pvalue(walk, lambda z: z[..., 0], scipy.stats.expon.cdf) > 0.01


# --- results ----------------------------------------------------------------------------------------------------------


def test_result():
    z = 0.1 * normal(3, 2, 2)
    options = {"n_steps": 20, "step_size": 0.2, "measure": "riemannian", "random_state": 0}
    walk = lg.langevin(TORUS.metric, on_torus, z, **options)
    assert walk.z.shape == (3, 2, 21, 2)
    assert_close(walk.z[..., 0, :], z)
    assert walk.step_size == 0.2
    assert walk.acceptance.shape == walk.outside.shape == walk.status.shape == (3, 2)
    moved = (walk.z.diff(dim=-2) != 0).any(-1).double().mean(-1)
    assert_close(walk.acceptance, moved)
    assert walk.effective_samples.shape == walk.rhat.shape == (2,)
    assert repr(walk).startswith(
        "LangevinWalk(a given density, riemannian measure, walkers=(3, 2), d=2, 20 steps of 0.2"
    )
    again = lg.langevin(TORUS.metric, on_torus, z, **options)
    assert_close(again.z, walk.z, rtol=0, atol=0)
    thin = lg.langevin(TORUS.metric, on_torus, z, every=5, **options)
    assert_close(thin.z, walk.z[..., ::5, :], rtol=0, atol=0)
    adapted = lg.langevin(TORUS.metric, on_torus, z, burn_in=50, **options)
    assert adapted.step_size != 0.2
    assert adapted.z.shape == (3, 2, 21, 2)
    single = lg.langevin(TORUS.metric, on_torus, z.float(), **options)
    assert single.z.dtype == torch.float32
    assert_close(single.z.double(), walk.z, rtol=0, atol=1e-3)


def test_a_value_with_its_own_gradient_is_asked_for_it():
    class Density:
        measure = "riemannian"
        asked = 0

        def __call__(self, z):
            raise AssertionError("value_and_gradient gives both")

        def value_and_gradient(self, z):
            self.asked += 1
            return on_torus(z), -torch.stack([z[:, 0].sin(), 0.5 * (z[:, 1] - 1).sin()], -1)

    z, density = 0.1 * normal(3, 2), Density()
    walk = lg.langevin(TORUS.metric, density, z, n_steps=5, step_size=0.1, random_state=0)
    plain = lg.langevin(TORUS.metric, on_torus, z, n_steps=5, step_size=0.1, measure="riemannian", random_state=0)
    assert density.asked == 6
    assert_close(walk.z, plain.z)


def test_bad_starts():
    z = torch.zeros(4, 2, dtype=torch.float64)
    z[1], z[2] = torch.nan, 2.0

    def disc(z):
        return torch.where(z.square().sum(-1) < 1, 0.0 * z[:, 0], -torch.inf)

    options = {"n_steps": 10, "step_size": 0.01, "measure": "lebesgue", "random_state": 0}
    with pytest.raises(ValueError, match=r"`z` must hold codes .* 2 of 4 cannot: .*metric or density there"):
        lg.langevin(lg.Euclidean(2), disc, z, **options)
    walk = lg.langevin(lg.Euclidean(2), disc, z, throw=False, **options)
    assert [s.name for s in walk.status] == ["FINISHED", "BAD_START", "BAD_START", "FINISHED"]
    assert walk.acceptance.isnan().tolist() == [False, True, True, False]
    assert_close(walk.z[2], z[2].expand(11, 2))
    nobody = lg.langevin(lg.Euclidean(2), disc, z[1:3], throw=False, burn_in=2, **options)
    assert repr(nobody).endswith("0/2 finished, nan% accepted)")
    flat = lg.PullbackMetric(lambda z: z[:, :1] + 0 * z, dim=2)
    with pytest.raises(lg.RankError, match="rank-deficient"):
        lg.langevin(flat, disc, z[:1], **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"measure": None}, ValueError, "`measure` must say what `log_density` is a density of"),
        ({"measure": "haar"}, ValueError, "'riemannian' or 'lebesgue', got 'haar'"),
        ({"drift": "none"}, ValueError, "`drift` must be 'full' or 'simplified', got 'none'"),
        ({"burn_in": -1}, ValueError, "`burn_in` must be an integer of at least 0, got -1"),
        ({"target_acceptance": 1.0}, ValueError, "`target_acceptance` must lie between 0 and 1, got 1.0"),
        ({"step_size": 0.0}, ValueError, "`step_size` must be a positive finite number, got 0.0"),
        ({"n_steps": -5}, ValueError, "`n_steps` must be an integer of at least 1, got -5"),
        ({"log_density": 3}, TypeError, "`log_density` must be callable, got int"),
        ({"log_density": lambda z: z}, ValueError, r"`log_density` must map \(B, d\) to \(B,\)"),
        ({"log_density": lambda z: 0.0}, ValueError, "one number per code; wanted .* got float"),
        ({"log_density": lg.KernelDensity(torch.zeros(3, 2), 0.1), "measure": "riemannian"}, ValueError,
         "`measure` must be 'lebesgue', which is what KernelDensity"),
    ],
)  # fmt: skip
def test_bad_arguments(options, error, message):
    arguments = {"log_density": on_torus, "n_steps": 2, "step_size": 0.1, "measure": "riemannian", **options}
    with pytest.raises(error, match=message):
        lg.langevin(TORUS.metric, arguments.pop("log_density"), torch.zeros(3, 2), **arguments)


# --- kernel densities -------------------------------------------------------------------------------------------------


def test_kernel_density_is_the_mixture():
    codes, z = normal(30, 2), normal(4, 3, 2, seed=1)
    density = lg.KernelDensity(codes, bandwidth=0.3, max_bytes=2000)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(30, dtype=torch.float64)),
        torch.distributions.Independent(torch.distributions.Normal(codes, 0.3), 1),
    )
    assert_close(density(z), mixture.log_prob(z))
    x = z.clone().requires_grad_()
    (exact,) = torch.autograd.grad(mixture.log_prob(x).sum(), x)
    assert_close(density.value_and_gradient(z)[1], exact)
    y = z.clone().requires_grad_()
    assert_close(torch.autograd.grad(density(y).sum(), y)[0], exact)
    assert bool(density(z + 1e4).isfinite().all())  # far away too


def test_bandwidth_by_held_out_likelihood():
    codes = normal(400, 2, seed=3)
    density = lg.KernelDensity(codes)

    def held_out(h):
        gaps = torch.cdist(codes, codes).square() / (-2 * h * h)
        gaps.fill_diagonal_(-torch.inf)
        return float((gaps.logsumexp(1) - math.log(399) - math.log(2 * math.pi * h * h)).mean())

    grid = [density.bandwidth * f for f in (0.8, 0.9, 1.0, 1.1, 1.25)]
    assert max(grid, key=held_out) == density.bandwidth
    assert density.held_out == pytest.approx(held_out(density.bandwidth))
    assert 0.2 < density.bandwidth < 0.6


def test_samples_of_a_kernel_density():
    codes = torch.tensor([[0.0], [3.0]], dtype=torch.float64)
    draws = lg.KernelDensity(codes, 0.5).sample(4000, random_state=0)[:, 0].numpy()

    def cdf(x):
        return 0.5 * scipy.stats.norm.cdf(x / 0.5) + 0.5 * scipy.stats.norm.cdf((x - 3) / 0.5)

    assert scipy.stats.kstest(draws, cdf).pvalue > 0.01
    assert lg.KernelDensity(codes.float(), 0.5).sample(3).dtype == torch.float32


def test_kernel_density_is_a_frozen_value():
    density = lg.KernelDensity(normal(20, 2), 0.3)
    with pytest.raises(AttributeError, match="frozen"):
        density.bandwidth = 1.0
    again = pickle.loads(pickle.dumps(density))
    assert_close(again(torch.zeros(1, 2, dtype=torch.float64)), density(torch.zeros(1, 2, dtype=torch.float64)))
    assert copy.deepcopy(density).bandwidth == 0.3


@pytest.mark.parametrize(
    ("codes", "bandwidth", "message"),
    [
        (torch.zeros(0, 2), None, "`codes` must be a floating-point tensor"),
        ([[0.0]], None, "got list"),
        (torch.full((3, 2), torch.nan), None, "`codes` must be finite"),
        (torch.zeros(3, 2), None, "`bandwidth` must be given for 3 codes without any spread"),
        (torch.zeros(3, 2), -1.0, "`bandwidth` must be a positive number or None, got -1.0"),
        (normal(10, 2).repeat(5, 1), None, "many are copies"),
    ],
)
def test_kernel_density_bad_arguments(codes, bandwidth, message):
    with pytest.raises(ValueError, match=message):
        lg.KernelDensity(codes, bandwidth)
    with pytest.raises(ValueError, match="`n` must be an integer of at least 0"):
        lg.KernelDensity(torch.zeros(3, 2), 0.1).sample(-1)


# --- effective sample sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.6, 0.9])
def test_effective_samples_of_an_autoregression(rho):
    """Of AR(1) with coefficient ρ, n samples are worth n·(1 − ρ)/(1 + ρ)."""
    noise = normal(8, 5000, 1, seed=2)
    chain = [noise[:, 0] / math.sqrt(1 - rho**2)]
    for k in range(1, 5000):
        chain.append(rho * chain[-1] + noise[:, k])
    z = torch.stack(chain, 1)
    exact = 40_000 * (1 - rho) / (1 + rho)
    assert float(effective_sample_size(z)) == pytest.approx(exact, rel=0.12)
    assert float(split_rhat(z)) == pytest.approx(1.0, abs=0.02)


def test_chains_that_disagree_are_worth_little():
    z = normal(4, 1000, 2)
    z[..., 0] += 5 * torch.arange(4)[:, None]
    ess, rhat = effective_sample_size(z), split_rhat(z)
    assert float(ess[0]) < 20
    assert float(ess[1]) > 3000
    assert float(rhat[0]) > 3
    assert bool(effective_sample_size(torch.zeros(3, 10, 1)).isnan())
    with pytest.raises(ValueError, match="n >= 4 samples"):
        effective_sample_size(torch.zeros(3, 3, 2))
