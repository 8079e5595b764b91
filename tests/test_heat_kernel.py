"""The heat kernel at short times against the exact ones of the sphere and the hyperbolic plane."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import PARABOLOID, TORUS, normal
from scipy.integrate import quad
from scipy.special import eval_legendre
from torch.testing import assert_close

import latentgeo as lg

T = 0.05
LENGTHS = torch.linspace(0.05, 0.9, 7, dtype=torch.float64)
ORIGIN = torch.tensor([0.3, 0.2], dtype=torch.float64)


def sphere_kernel(r, t=T):
    """The spectral sum Σ (2n+1)/4π·exp(−n(n+1)t/2)·P_n(cos r)."""
    n = np.arange(int(12 / math.sqrt(t)) + 20)
    return float(np.sum((2 * n + 1) / (4 * np.pi) * np.exp(-n * (n + 1) * t / 2) * eval_legendre(n, math.cos(r))))


def hyperbolic_kernel(r, t=T):
    """McKean's integral for generator ½Δ, with s = r + u² to remove its root singularity."""

    def integrand(u):
        s, sink = r + u * u, math.sinh(u * u / 2)
        root = u / math.sqrt(sink) if sink > 0 else math.sqrt(2)  # cosh s − cosh r = 2 sinh(r + u²/2) sinh(u²/2)
        return 2 * root * s * math.exp(-(s * s) / (2 * t)) / math.sqrt(2 * math.sinh(r + u * u / 2))

    value = quad(integrand, 0, 3, epsabs=0, epsrel=1e-11, limit=400)[0]
    return math.sqrt(2) * math.exp(-t / 8) / (2 * math.pi * t) ** 1.5 * value


def ray(metric, lengths, a=ORIGIN):
    """Points at given distances from a, along a geodesic."""
    v = torch.tensor([1.0, 0.4], dtype=torch.float64)
    return lg.exp(metric, a.expand(len(lengths), 2), lengths[:, None] * v / metric.norm(a, v))


CASES = [
    pytest.param(lg.Sphere(2), sphere_kernel, id="S2"),
    pytest.param(lg.PoincareBall(2), hyperbolic_kernel, id="H2"),
]


def test_exact_kernels_are_densities():
    total = quad(lambda r: 2 * np.pi * math.sin(r) * sphere_kernel(r), 0, np.pi)[0]
    assert total == pytest.approx(1.0, abs=1e-9)
    total = quad(lambda r: 2 * np.pi * math.sinh(r) * hyperbolic_kernel(r), 1e-9, 4, epsrel=1e-8)[0]
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("metric", "kernel"), CASES)
def test_log_density(metric, kernel):
    exact = torch.tensor([math.log(kernel(float(r))) for r in LENGTHS], dtype=torch.float64)
    value = lg.heat_kernel(metric, ORIGIN, ray(metric, LENGTHS), T)
    assert float((value - exact).abs().max()) <= 1e-3


@pytest.mark.parametrize(("metric", "kernel"), CASES)
def test_what_is_left_out_is_of_second_order_at_the_start(metric, kernel):
    near = ray(metric, torch.tensor([1e-3], dtype=torch.float64))
    gaps = [abs(float(lg.heat_kernel(metric, ORIGIN, near, t)[0]) - math.log(kernel(1e-3, t))) for t in (0.2, 0.1)]
    assert 1.8 < math.log2(gaps[0] / gaps[1]) < 2.3


def test_the_kalatzis_form_is_what_it_says_and_far_off():
    zero = torch.zeros(2, dtype=torch.float64)
    b = torch.tensor([math.tan(0.45), 0.0], dtype=torch.float64)  # at distance 0.9 from the pole
    value = lg.heat_kernel(lg.Sphere(2), zero, b, T, form="kalatzis")
    metric = lg.Sphere(2)
    said = -math.log(2 * math.pi * T) + metric.log_volume(zero) - metric.log_volume(b) - 0.81 / (2 * T)
    assert_close(value, said, rtol=0, atol=1e-5)
    assert abs(float(value) - math.log(sphere_kernel(0.9))) > 0.3


@pytest.mark.parametrize(("metric", "kernel"), CASES)
def test_score_against_the_exact_one(metric, kernel):
    b = ray(metric, LENGTHS[1::2]).requires_grad_()
    lg.heat_kernel(metric, ORIGIN, b, T).sum().backward()
    h = 1e-5
    slope = [math.log(kernel(float(r) + h) / kernel(float(r) - h)) / (2 * h) for r in LENGTHS[1::2]]
    path = lg.connect(metric, ORIGIN, b.detach())
    unit = path.velocity(1.0)[:, 0] / path.length[:, None]
    exact = torch.tensor(slope, dtype=torch.float64)[:, None] * torch.einsum(
        "bij,bj->bi", metric.tensor(b.detach()), unit
    )
    assert_close(b.grad, exact, rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("form", ["van-vleck", "kalatzis"])
@pytest.mark.parametrize("problem", [TORUS, PARABOLOID], ids=str)
def test_score_is_the_gradient(problem, form):
    a, b = torch.zeros(2, dtype=torch.float64), torch.tensor([0.3, 0.2], dtype=torch.float64)
    live = b.clone().requires_grad_()
    lg.heat_kernel(problem.metric, a, live, 0.1, form=form, solver=lg.Newton(rtol=1e-8)).backward()
    h = 1e-3 * torch.eye(2, dtype=torch.float64)
    up, down = (
        lg.heat_kernel(problem.metric, a, b + s * h, 0.1, form=form, solver=lg.Newton(rtol=1e-8)) for s in (1, -1)
    )
    assert_close(live.grad, (up - down) / 2e-3, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("problem", [TORUS, PARABOLOID], ids=str)
def test_symmetric_and_a_probability(problem):
    a = torch.tensor([0.2, -0.1], dtype=torch.float64)
    b = a + 0.3 * normal(5, 2)
    solver = lg.Newton(rtol=1e-7)  # the two ways are symmetric as far as their lengths are known
    forth, back = (lg.heat_kernel(problem.metric, *ends, T, solver=solver) for ends in ((a, b), (b, a)))
    assert_close(forth, back, rtol=0, atol=1e-5)
    # mass on a grid of the chart, with respect to the Riemannian measure
    t, side = 0.01, torch.linspace(-0.6, 0.6, 24, dtype=torch.float64)
    grid = a + torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    density = (lg.heat_kernel(problem.metric, a, grid, t) + problem.metric.log_volume(grid)).exp()
    assert float(density.sum()) * float(side[1] - side[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


def test_shapes_times_and_precision():
    metric = lg.Sphere(2)
    a, b = 0.3 * normal(4, 1, 2), 0.3 * normal(3, 2, seed=1)
    times = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    value = lg.heat_kernel(metric, a, b, times)
    assert value.shape == (4, 3)
    assert_close(value[2, 1], lg.heat_kernel(metric, a[2, 0], b[1], 0.1))
    single = lg.heat_kernel(metric, a.float(), b.float(), times.float())
    assert single.dtype == torch.float32
    assert_close(single.double(), value, rtol=0, atol=5e-3)
    at_home = lg.heat_kernel(metric, a[0, 0], a[0, 0], 0.1)
    assert_close(at_home, torch.tensor(math.log(sphere_kernel(0.0, 0.1)), dtype=torch.float64), rtol=0, atol=1e-3)
    assert float(lg.heat_kernel(lg.Euclidean(3), torch.zeros(3), torch.ones(3), 1.0)) == pytest.approx(
        -1.5 * math.log(2 * math.pi) - 1.5, abs=1e-5
    )


def test_derivative_in_time():
    t = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    a, b = torch.zeros(2, dtype=torch.float64), torch.tensor([0.2, 0.1], dtype=torch.float64)
    value = lg.heat_kernel(lg.Sphere(2), a, b, t)
    value.backward()
    up, down = (lg.heat_kernel(lg.Sphere(2), a, b, 0.1 + s * 1e-4) for s in (1, -1))
    assert_close(t.grad, (up - down) / 2e-4, rtol=1e-5, atol=1e-5)


def test_bad_arguments():
    a, b = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64) / 4
    metric = lg.Sphere(2)
    for t in (0.0, -1.0, math.nan, torch.tensor([0.1, -0.1])):
        with pytest.raises(ValueError, match="`t` must be positive and finite, got"):
            lg.heat_kernel(metric, a, b, t)
    with pytest.raises(ValueError, match="`form` must be 'van-vleck' or 'kalatzis', got 'gauss'"):
        lg.heat_kernel(metric, a, b, 0.1, form="gauss")
    with pytest.raises(ValueError, match="`a` must not require a gradient"):
        lg.heat_kernel(metric, a.clone().requires_grad_(), b, 0.1)
    with pytest.raises(TypeError, match="`metric` must be a Metric"):
        lg.heat_kernel(None, a, b, 0.1)
    with pytest.raises(lg.GeodesicError, match="1 of 1"):
        lg.heat_kernel(metric, a, torch.full_like(b, torch.nan), 0.1)
    ends = torch.stack([b, torch.full_like(b, torch.nan)])
    value = lg.heat_kernel(metric, a, ends, 0.1, throw=False)
    assert value.isfinite().tolist() == [True, False]
