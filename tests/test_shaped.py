"""Conformal and data-driven metrics, periodic coordinates, several starts."""

from __future__ import annotations

import math

import pytest
import torch
from problems import BALL, PARABOLOID, normal
from torch.testing import assert_close

from latentgeo.geodesics import LatentGraph, Newton, connect, curve_length, distance
from latentgeo.metrics import Euclidean, LocalDiagonalMetric, Metric, PullbackMetric, Sphere, TensorMetric, conformal

EXACT = {"rtol": 1e-8, "atol": 1e-10}


class TestConformal:
    def test_plane_becomes_sphere(self):
        """The sphere is the plane with lengths scaled by 2/(1 + |z|²)."""
        metric = conformal(Euclidean(2), lambda z: 2 / (1 + z.square().sum(-1)))
        sphere, z, v = Sphere(2), 0.5 * normal(9, 2), normal(9, 2, seed=1)
        assert_close(metric.tensor(z), sphere.tensor(z), **EXACT)
        assert_close(metric.norm(z, v), sphere.norm(z, v), **EXACT)
        assert_close(metric.acceleration(z, v), sphere.acceleration(z, v), **EXACT)
        a, b = 0.4 * normal(9, 2, seed=2), 0.4 * normal(9, 2, seed=3)
        solver = Newton(rtol=1e-6)
        assert_close(distance(metric, a, b, solver=solver), distance(sphere, a, b, solver=solver), rtol=2e-6, atol=0)

    def test_of_a_bare_tensor(self):
        def scale(z):
            return 1 + 0.3 * z[..., 0].sin()

        by_map = conformal(PARABOLOID.metric, scale)
        by_tensor = conformal(TensorMetric(PARABOLOID.tensor, dim=2), scale)
        z, v = PARABOLOID.points(9, 0), normal(9, 2, seed=1)
        assert_close(by_map.tensor(z), by_tensor.tensor(z), **EXACT)
        assert_close(by_map.acceleration(z, v), by_tensor.acceleration(z, v), **EXACT)
        a, b = PARABOLOID.points(5, 2), PARABOLOID.points(5, 3)
        assert_close(distance(by_map, a, b), distance(by_tensor, a, b), rtol=2e-3, atol=0)

    def test_obstacles_are_walked_around(self):
        metric = conformal(Euclidean(2), lambda z: 1 + 20 * torch.exp(-8 * z.square().sum(-1)))
        a = torch.tensor([-1.0, 0.02], dtype=torch.float64)
        path = connect(metric, a, -a, starts=3)
        assert float(path(0.5).norm()) > 0.4
        assert float(path.length) < 0.6 * float(curve_length(metric, torch.stack([a, -a])))

    @pytest.mark.parametrize(
        ("make", "error", "words"),
        [
            (lambda: conformal(3, abs), TypeError, "`metric` must be a Metric"),
            (lambda: conformal(Euclidean(2), 3), TypeError, "`scale` must be callable"),
            (lambda: conformal(Euclidean(), abs), ValueError, "known latent dimension"),
            (lambda: conformal(conformal(Euclidean(2), abs), abs), ValueError, "must be flat"),
        ],
    )
    def test_bad_input(self, make, error, words):
        with pytest.raises(error, match=words):
            make()


class TestLocalDiagonal:
    def test_closed_form_at_one_datum(self):
        metric = LocalDiagonalMetric(torch.zeros(1, 2, dtype=torch.float64), sigma=1.0, rho=0.1)
        z = torch.tensor([0.5, -1.0], dtype=torch.float64)
        weight = math.exp(-0.5 * 1.25)
        want = torch.tensor([1 / (weight * 0.25 + 0.1), 1 / (weight * 1.0 + 0.1)], dtype=torch.float64)
        assert_close(metric.tensor(z), torch.diag(want), **EXACT)

    def test_geodesics_follow_the_data(self):
        angle = torch.linspace(0, math.pi, 200, dtype=torch.float64)
        data = torch.stack([angle.cos(), angle.sin()], -1) + 0.05 * normal(200, 2)
        metric = LocalDiagonalMetric(data, sigma=0.15, rho=1e-2)
        a, b = data[[5]], data[[-5]]
        graph = LatentGraph(metric, n_neighbors=8).fit(data)
        path = connect(metric, a, b, init=graph)
        assert float((path(torch.linspace(0, 1, 21)).norm(dim=-1) - 1).abs().max()) < 0.35
        assert float(path.length) < 0.8 * float(curve_length(metric, torch.stack([a, b], 1)))
        z, v = data[:7], normal(7, 2)
        assert_close(metric.acceleration(z, v), Metric.acceleration(metric, z, v), **EXACT)

    def test_dtype_follows_the_data(self):
        metric = LocalDiagonalMetric(torch.zeros(1, 2), sigma=1.0, rho=0.1)
        with pytest.raises(TypeError, match=r"torch\.float64 but the model's weights are torch\.float32"):
            metric.tensor(torch.zeros(2, dtype=torch.float64))

    @pytest.mark.parametrize(
        ("data", "sigma", "rho", "words"),
        [
            (torch.zeros(3), 1.0, 1.0, "`data` must be"),
            (torch.zeros(0, 2), 1.0, 1.0, "`data` must be"),
            (torch.full((1, 2), torch.nan), 1.0, 1.0, "`data` must be finite"),
            (torch.zeros(1, 2), 0.0, 1.0, "`sigma` must be"),
            (torch.zeros(1, 2), 1.0, math.inf, "`rho` must be"),
        ],
    )
    def test_bad_input(self, data, sigma, rho, words):
        with pytest.raises(ValueError, match=words):
            LocalDiagonalMetric(data, sigma, rho)


def cylinder():
    return PullbackMetric(
        lambda z: torch.stack([z[:, 0].cos(), z[:, 0].sin(), z[:, 1]], -1), dim=2, period=(2 * math.pi, None)
    )


class TestPeriod:
    def test_cylinder(self):
        a, b = normal(20, 2) * 3, normal(20, 2, seed=1) * 3
        turn = torch.remainder(b[:, 0] - a[:, 0] + math.pi, 2 * math.pi) - math.pi
        exact = (turn**2 + (b[:, 1] - a[:, 1]) ** 2).sqrt()
        path = connect(cylinder(), a, b, solver=Newton(rtol=1e-6))
        assert_close(path.length, exact, rtol=1e-6, atol=0)
        phi = cylinder().embedding
        assert_close(phi(path.z[:, -1]), phi(b), rtol=1e-10, atol=1e-10)

    def test_flat_torus(self):
        metric = TensorMetric(lambda z: torch.eye(2, dtype=z.dtype).expand(*z.shape, 2), dim=2, period=(1.0, 1.0))
        a = torch.tensor([0.1, 0.9], dtype=torch.float64)
        b = torch.tensor([0.95, 0.05], dtype=torch.float64)
        assert float(distance(metric, a, b)) == pytest.approx(0.15 * math.sqrt(2))

    def test_other_ways_round_are_tried(self):
        """A long way round in latent coordinates that is the shorter one on the surface."""

        def scale(z):
            return 1 + 5 * torch.exp(4 * (z[:, 0].cos() - 1))

        metric = conformal(cylinder(), scale)
        a = torch.tensor([-1.2, 0.0], dtype=torch.float64)
        one, many = connect(metric, a, -a), connect(metric, a, -a, starts=3)
        assert float(many.length) < 0.8 * float(one.length)
        assert int(many.stats["geodesics"]) >= 2

    def test_gradient(self):
        a = torch.tensor([[0.2, 0.0]], dtype=torch.float64, requires_grad=True)
        b = torch.tensor([[6.0, 0.0]], dtype=torch.float64)
        distance(cylinder(), a, b).sum().backward()
        assert_close(a.grad, torch.tensor([[1.0, 0.0]], dtype=torch.float64), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("period", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, math.nan), ("x", None)])
    def test_bad_input(self, period):
        with pytest.raises(ValueError, match="`period` must"):
            TensorMetric(lambda z: z, dim=2, period=period)


class TestStarts:
    def hill(self):
        return PullbackMetric(lambda z: torch.cat([z, 4 * torch.exp(-2 * z.square().sum(-1, keepdim=True))], -1), dim=2)

    def test_both_sides_are_found_and_the_shorter_is_kept(self):
        a = torch.tensor([[-1.5, 0.1], [-1.5, -0.2], [0.3, 2.0]], dtype=torch.float64)
        b = torch.tensor([[1.5, 0.2], [1.4, -0.1], [1.5, 2.0]], dtype=torch.float64)
        path = connect(self.hill(), a, b, starts=5)
        single = connect(self.hill(), a, b, throw=False)
        ok = single.converged
        assert bool((path.length[ok] <= single.length[ok] * (1 + 1e-6)).all())
        assert path.stats["geodesics"].tolist()[0] >= 2
        assert path.stats["geodesics"].tolist()[2] >= 1
        mid = path(0.5)[:2, 0]
        assert bool((mid[0, 1] > 0.2) & (mid[1, 1] < -0.2))
        t = torch.linspace(0, 1, 5, dtype=torch.float64)
        assert_close(path(t)[:, [0, -1]], torch.stack([a, b], 1))

    def test_three_dimensions_and_reproducibility(self):
        a, b = normal(4, 3) * 0.3, normal(4, 3, seed=1) * 0.3
        one, two = (connect(Sphere(3), a, b, starts=4) for _ in range(2))
        assert torch.equal(one.length, two.length)
        assert_close(one.length, connect(Sphere(3), a, b).length, rtol=1e-3, atol=0)

    def test_failed_curves_keep_their_status(self):
        a = torch.tensor([[0.1, 0.0], [torch.nan, 0.0]], dtype=torch.float64)
        path = connect(BALL.metric, a, torch.zeros(2, dtype=torch.float64), starts=3, throw=False)
        assert path.converged.tolist() == [True, False]
        assert path.stats["geodesics"].tolist() == [1, 0]

    @pytest.mark.parametrize("starts", [0, -1, 1.5, True])
    def test_bad_input(self, starts):
        with pytest.raises(ValueError, match="`starts` must be"):
            connect(Euclidean(2), torch.zeros(2), torch.ones(2), starts=starts)
