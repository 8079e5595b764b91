"""Geodesics and distances against closed forms, contracts every boundary-value solver must keep, and bad input."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from problems import (
    BALL,
    ELLIPSOID,
    EUCLIDEAN,
    HALF_PLANE,
    HALF_PLANE_AMBIENT,
    LINE,
    PARABOLOID,
    PROBLEMS,
    SPHERE,
    SPHERE3,
    SPHERE_BY_TENSOR,
    TORUS,
    WITH_DISTANCE,
    Problem,
    normal,
)
from torch.testing import assert_close

from latentgeo.geodesics import GeodesicError, Newton, Status, connect, curve_length, distance
from latentgeo.geodesics.curve import Curve, arc_length
from latentgeo.metrics import Euclidean, PoincareBall, PullbackMetric, Sphere, TensorMetric

by_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=str)
ROUNDING = 1e-11


def some_pairs(problem: Problem, n: int, seed: int = 0):
    if problem.distance is not None:
        a, b, _ = problem.pairs(4 * n, seed)
        return a[:n], b[:n]
    return problem.points(n, seed), problem.points(n, seed + 1)


@pytest.mark.parametrize("problem", WITH_DISTANCE, ids=str)
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6, 1e-8])
def test_accuracy_asked_for_is_delivered(problem, rtol):
    a, b, exact = problem.pairs(200)
    path = connect(problem.metric, a, b, solver=Newton(rtol=rtol, max_points=1025))
    error = (path.length - exact).abs()
    assert bool((error <= rtol * exact + ROUNDING).all())
    assert float((error <= path.length_error + ROUNDING).double().mean()) >= 0.99
    assert bool((path.length_error <= rtol * path.length).all())


@pytest.mark.parametrize("problem", [BALL, HALF_PLANE, HALF_PLANE_AMBIENT], ids=str)
def test_error_bound_is_not_padded(problem):
    a, b, exact = problem.pairs(300)
    path = connect(problem.metric, a, b, solver=Newton(rtol=1e-4))
    error = (path.length - exact).abs()
    visible = error > 1e-13 * exact
    assert float((path.length_error / error)[visible].median()) <= 50


@by_problem
def test_curve_solves_the_geodesic_equation(problem):
    a, b = some_pairs(problem, 8)
    path = connect(problem.metric, a, b, solver=Newton(n_points=129, max_points=129, rtol=1e-2))
    t = torch.linspace(0.05, 0.95, 19)
    h = 1e-3
    bend = (path(t + h) - 2 * path(t) + path(t - h)) / h**2
    want = problem.metric.acceleration(path(t), path.velocity(t))
    scale = path.velocity(t).norm(dim=-1).square().amax()
    assert float((bend - want).abs().amax() / scale) < 2e-2


@by_problem
def test_speed_is_constant_and_energy_is_half_the_squared_length(problem):
    a, b = some_pairs(problem, 20)
    path = connect(problem.metric, a, b, solver=Newton(n_points=257, rtol=1e-5))
    t = torch.linspace(0.0, 1.0, 101)
    speed = problem.metric.norm(path(t), path.velocity(t))
    assert_close(speed, path.length[:, None].expand_as(speed), rtol=2e-3, atol=0)
    assert_close(path.energy, 0.5 * path.length**2, rtol=1e-5, atol=1e-12)


def test_curves_leave_and_arrive_at_their_own_speed_though_they_turn_within_a_node_of_their_ends():
    def walled(z):  # walls as thin as a node's distance, right where the curves end
        wall = 0.5 * torch.tanh((z[..., :1].abs() - 1) / 0.02)
        return torch.cat([z, wall, 0.3 * torch.sin(4 * z)], -1)

    metric = PullbackMetric(walled, dim=2)
    a = torch.tensor([[-1.0, 0.2], [-1.01, -0.4]], dtype=torch.float64)
    path = connect(metric, a, torch.tensor([[1.0, 1.0], [1.01, 0.1]], dtype=torch.float64), throw=False)
    ends = torch.tensor([0.0, 1.0])
    speed = metric.norm(path(ends), path.velocity(ends))
    assert_close(speed, path.length[:, None].expand_as(speed), rtol=2e-3, atol=0)
    fine = curve_length(metric, path(torch.linspace(0, 1, 20_001)))
    assert bool(((fine - path.length).abs() <= path.length_error).all())


@by_problem
def test_symmetric_in_its_end_points(problem):
    a, b = some_pairs(problem, 20)
    there, back = connect(problem.metric, a, b), connect(problem.metric, b, a)
    assert_close(there.length, back.length, rtol=1e-9, atol=1e-12)
    assert_close(there.z, back.z.flip(-2), rtol=1e-6, atol=1e-6)


@by_problem
def test_batch_equals_loop(problem):
    a, b = some_pairs(problem, 5)
    together = connect(problem.metric, a, b)
    for k in range(5):
        alone = connect(problem.metric, a[k], b[k])
        assert_close(alone.length, together.length[k], rtol=1e-9, atol=1e-12)
        assert int(alone.stats["steps"]) == int(together.stats["steps"][k])


@pytest.mark.parametrize("scale", [2.0**-13, 2.0**13])  # powers of two: rounding is the same, so must the steps be
@pytest.mark.parametrize("problem", [PARABOLOID, TORUS, BALL], ids=str)
def test_stopping_does_not_depend_on_units(problem, scale):
    a, b = some_pairs(problem, 10)
    plain = connect(problem.metric, a, b)
    if problem.metric.embedding is None:
        scaled = TensorMetric(lambda z: scale**2 * problem.metric.tensor(z), dim=2)
    else:
        scaled = PullbackMetric(lambda z: scale * problem.metric.embedding.function(z), dim=2)
    other = connect(scaled, a, b)
    assert_close(other.length, scale * plain.length, rtol=1e-9, atol=0)
    assert torch.equal(other.stats["steps"], plain.stats["steps"])
    assert torch.equal(other.stats["points"], plain.stats["points"])


def test_distance_does_not_depend_on_the_chart():
    def warp(z):
        return z + 0.2 * torch.sin(2 * z.flip(-1))

    a, b = normal(20, 2) * 0.5, normal(20, 2, seed=1) * 0.5
    warped = PullbackMetric(lambda z: PARABOLOID.metric.embedding.function(warp(z)), dim=2)
    solver = Newton(rtol=1e-6)
    plain = distance(PARABOLOID.metric, warp(a), warp(b), solver=solver)
    assert_close(distance(warped, a, b, solver=solver), plain, rtol=2e-6, atol=0)


@pytest.mark.parametrize("problem", [PARABOLOID, TORUS, ELLIPSOID, BALL, SPHERE3], ids=str)
def test_triangle_inequality(problem):
    a, b = some_pairs(problem, 20)
    m = min(len(a), len(b))
    c = problem.points(m, 9)
    solver = Newton(rtol=1e-5)
    ab, bc, ac = (distance(problem.metric, *pair, solver=solver) for pair in ((a, b), (b, c), (a, c)))
    assert bool((ac <= (ab + bc) * (1 + 1e-5)).all())


@pytest.mark.parametrize("problem", [PARABOLOID, TORUS, ELLIPSOID, BALL, SPHERE_BY_TENSOR], ids=str)
def test_order_of_convergence_is_four(problem):
    a, b = some_pairs(problem, 6, seed=3)
    fine = Newton(n_points=513, max_points=513, rtol=1e-12, residual_tol=1e-9)
    exact = connect(problem.metric, a, b, solver=fine, throw=False).length
    errors = []
    for n in (17, 33, 65):
        # what is asked for is out of reach with n nodes, so that quadrature is not what limits the accuracy
        solver = Newton(n_points=n, max_points=n, rtol=1e-12, residual_tol=1e-9)
        path = connect(problem.metric, a, b, solver=solver, throw=False)
        errors.append(float((path.length - exact).abs().sum()))
    orders = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert min(orders) > 3.5, orders


@by_problem
def test_single_precision(problem):
    a, b = some_pairs(problem, 20)
    path = connect(problem.metric, a.float(), b.float(), solver=Newton(rtol=1e-3))
    assert path.length.dtype == torch.float32
    assert path.z.dtype == torch.float32
    assert_close(path.length.double(), connect(problem.metric, a, b).length, rtol=2e-3, atol=1e-5)


def test_two_coarse_solutions_that_agree_are_not_believed():
    # 17 and 33 nodes find a curve that jumps across a steep wall of the ambient metric, 2.8 % too long
    def chart(z):
        return torch.cat([z, torch.sin(2 * z).sum(-1, keepdim=True)], -1)

    metric = PullbackMetric(chart, dim=2, ambient=lambda x: 1 + x.square())
    a, b = torch.tensor([0.063, 7.291], dtype=torch.float64), torch.tensor([0.062, -1.586], dtype=torch.float64)
    path = connect(metric, a, b, solver=Newton(rtol=1e-2))
    exact = connect(metric, a, b, init=path.z, solver=Newton(n_points=129, rtol=1e-7))
    assert abs(float(path.length - exact.length)) <= float(path.length_error) <= 0.01 * float(path.length)


@by_problem
def test_certified_and_minimal(problem):
    a, b = some_pairs(problem, 10)
    path = connect(problem.metric, a, b, solver=Newton(rtol=1e-5))
    assert bool(path.certified.all())
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    bump = 0.05 * torch.sin(math.pi * t)[:, None] * normal(10, 1, problem.dim, seed=4)[: len(a)]
    assert bool((arc_length(problem.metric, Curve(path(t) + bump)).length >= path.length * (1 - 1e-6)).all())


class TestResult:
    path = connect(PARABOLOID.metric, normal(3, 1, 2), normal(2, 2, seed=1))

    def test_shapes(self):
        p = self.path
        n = p.t.numel()
        assert p.batch == (3, 2)
        assert p.z.shape == (3, 2, n, 2)
        assert p.length.shape == p.length_error.shape == p.energy.shape == p.residual.shape == (3, 2)
        assert p.status.shape == (3, 2)
        assert p.status.dtype == object
        assert all(s is Status.CONVERGED for s in p.status.flat)
        assert p(torch.linspace(0, 1, 7)).shape == (3, 2, 7, 2)
        assert p(0.5).shape == (3, 2, 1, 2)
        assert p.velocity(torch.tensor([0.0, 1.0])).shape == (3, 2, 2, 2)
        assert set(p.stats) == {"steps", "points"}

    def test_ends_are_the_end_points(self):
        a, b = torch.broadcast_tensors(normal(3, 1, 2), normal(2, 2, seed=1))
        assert torch.equal(self.path.z[..., 0, :], a)
        assert torch.equal(self.path.z[..., -1, :], b)
        assert_close(self.path(torch.tensor([0.0, 1.0])), torch.stack([a, b], -2))

    def test_nodes_lie_on_the_interpolant(self):
        assert_close(self.path(self.path.t), self.path.z, rtol=1e-12, atol=1e-12)

    def test_velocity_is_the_derivative(self):
        t, h = torch.linspace(0.1, 0.9, 9, dtype=torch.float64), 1e-6
        assert_close((self.path(t + h) - self.path(t - h)) / (2 * h), self.path.velocity(t), rtol=1e-6, atol=1e-6)

    def test_repr_is_one_line(self):
        assert repr(self.path).startswith("Geodesic(batch=(3, 2), d=2, n=33, 6/6 converged, length ")

    def test_frozen(self):
        with pytest.raises(AttributeError):
            self.path.length = 0

    def test_pickles(self):
        again = pickle.loads(pickle.dumps(connect(Sphere(2), normal(2) * 0.3, normal(2, seed=1) * 0.3)))
        assert again(0.5).shape == (1, 2)

    @pytest.mark.parametrize("t", [-0.1, 1.1, [[0.5]], math.nan])
    def test_times_outside(self, t):
        with pytest.raises(ValueError, match="`t` must"):
            self.path(torch.as_tensor(t))


class TestStatuses:
    def test_same_end_points(self):
        a = normal(4, 2)
        path = connect(PARABOLOID.metric, a, a)
        assert bool(path.converged.all())
        assert torch.equal(path.length, torch.zeros(4, dtype=torch.float64))
        assert torch.equal(path(0.3)[:, 0], a)

    def test_empty_batch(self):
        path = connect(PARABOLOID.metric, torch.zeros(0, 2), torch.zeros(0, 2))
        assert path.batch == (0,)
        assert path.z.shape[0] == 0
        assert distance(PARABOLOID.metric, torch.zeros(0, 2), torch.zeros(2)).shape == (0,)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_bad_end_points_leave_the_others_alone(self, bad):
        a, b = normal(3, 2), normal(3, 2, seed=1)
        a[1, 0] = bad
        path = connect(PARABOLOID.metric, a, b, throw=False)
        assert list(path.status) == [Status.CONVERGED, Status.BAD_ENDPOINT, Status.CONVERGED]
        assert path.length[1].isnan()
        assert path.z[1].isnan().all()
        assert path.converged.tolist() == [True, False, True]
        with pytest.raises(GeodesicError, match=r"1 of 3 curves failed \(1× BAD_ENDPOINT: an end point is NaN") as info:
            connect(PARABOLOID.metric, a, b)
        assert info.value.result.converged.tolist() == [True, False, True]

    def test_metric_not_finite_on_the_way(self):
        a, b = torch.tensor([0.5, 0.0]), torch.tensor([2.0, 0.0])
        path = connect(PoincareBall(2), a, b, throw=False)
        assert path.status.item() is Status.NOT_FINITE

    def test_step_limit(self):
        a, b, _ = BALL.pairs(20)
        path = connect(BALL.metric, a, b, solver=Newton(max_steps=1, residual_tol=1e-12), throw=False)
        assert Status.MAX_STEPS in set(path.status)
        assert not bool(path.converged[path.status == Status.MAX_STEPS].any())

    def test_point_limit(self):
        a, b, _ = BALL.pairs(20)
        path = connect(BALL.metric, a, b, solver=Newton(n_points=9, max_points=17, rtol=1e-10), throw=False)
        assert set(path.status) <= {Status.MAX_POINTS, Status.CONVERGED}
        assert int((path.status == Status.MAX_POINTS).sum()) > 10
        assert torch.equal(path.length_error <= 1e-10 * path.length, path.converged)
        with pytest.raises(GeodesicError, match="raise `max_points`"):
            path.raise_for_status()

    def test_rounding_floor(self):
        a, b, _ = BALL.pairs(20)
        path = connect(BALL.metric, a.float(), b.float(), solver=Newton(residual_tol=1e-14, rtol=1e-2), throw=False)
        assert set(path.status) <= {Status.PRECISION, Status.MAX_STEPS, Status.CONVERGED}
        assert Status.PRECISION in set(path.status)

    def test_saddle_is_not_called_a_geodesic(self):
        """Straight over the top of a steep hill: critical by symmetry, but not minimal."""
        hill = PullbackMetric(lambda z: torch.cat([z, 4 * torch.exp(-2 * z.square().sum(-1, keepdim=True))], -1), dim=2)
        a, b = torch.tensor([-1.5, 0.0], dtype=torch.float64), torch.tensor([1.5, 0.0], dtype=torch.float64)
        path = connect(hill, a, b, throw=False)
        over = curve_length(hill, torch.stack([a, b]))
        assert path.status.item() is Status.NOT_MINIMAL or float(path.length) < 0.9 * float(over)

    def test_reparametrised_start_finds_the_way_around(self):
        hill = PullbackMetric(lambda z: torch.cat([z, 4 * torch.exp(-2 * z.square().sum(-1, keepdim=True))], -1), dim=2)
        t = torch.linspace(0, math.pi, 21, dtype=torch.float64)
        init = torch.stack([-1.5 * t.cos(), t.sin()], -1)
        path = connect(hill, init[0], init[-1], init=init)
        mirrored = connect(hill, init[0], init[-1], init=init * torch.tensor([1.0, -1.0], dtype=torch.float64))
        assert bool(path.certified)
        assert_close(path.length, mirrored.length, rtol=1e-6, atol=0)
        assert float(path.length) < 0.9 * float(curve_length(hill, init[[0, -1]]))

    def test_antipodal_points_have_many_geodesics(self):
        a, b = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([-1.0, 0.0], dtype=torch.float64)
        path = connect(Sphere(2), a, b, throw=False)
        if bool(path.converged):
            assert_close(path.length, torch.tensor(math.pi, dtype=torch.float64), rtol=1e-3, atol=0)
        else:
            assert path.status.item() is not Status.CONVERGED

    def test_piecewise_linear_maps_get_no_certificate(self):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 20)).double().eval()
        metric = PullbackMetric(net, dim=2)
        path = connect(metric, normal(6, 2), normal(6, 2, seed=1), solver=Newton(rtol=1e-2), throw=False)
        assert bool(path.length.isfinite().all())
        assert not bool(path.certified.any())

    def test_rank_deficient_metric_ends_truthfully(self):
        flat = PullbackMetric(lambda z: z.sum(-1, keepdim=True), dim=2)
        path = connect(flat, torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64), throw=False)
        assert not bool(path.certified)
        assert path.status.item() is not Status.CONVERGED

    @pytest.mark.parametrize("width", [0.05, 0.01, 0.002])
    def test_walls_are_climbed_not_jumped(self, width):
        """A wall thinner than coarse nodes' spacing: a polygon that steps across it would look four times shorter."""
        height = 4.0

        def phi(z):
            return torch.cat([z, height * torch.exp(-0.5 * (z[:, :1] / width) ** 2)], -1)

        a = torch.tensor([[-1.0, 0.0], [-0.7, 0.3]], dtype=torch.float64)
        b = torch.tensor([[1.0, 0.0], [0.9, -0.4]], dtype=torch.float64)
        path = connect(PullbackMetric(phi, dim=2), a, b, solver=Newton(rtol=1e-3), throw=False)
        x = torch.linspace(-1, 1, 2_000_001, dtype=torch.float64)
        profile = torch.stack([x, height * torch.exp(-0.5 * (x / width) ** 2)])
        exact = profile.diff(dim=1).norm(dim=0).sum()
        assert bool(path.converged[0]) or path.status[0] in (Status.UNRESOLVED, Status.MAX_POINTS)
        if bool(path.converged[0]):
            assert abs(float(path.length[0] - exact)) <= float(path.length_error[0]) + 1e-4
        assert bool((path.length > 2 * height).all())

    def test_one_dimensional_latents(self):
        a, b, exact = LINE.pairs(20)
        assert_close(distance(LINE.metric, a, b, solver=Newton(rtol=1e-6)), exact, rtol=1e-6, atol=0)


class TestBadInput:
    metric = PARABOLOID.metric
    a, b = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)

    @pytest.mark.parametrize(
        ("a", "b", "error", "words"),
        [
            ([0.0, 0.0], torch.ones(2), TypeError, "`a` must be a torch.Tensor, got list"),
            (torch.zeros(2), np.ones(2), TypeError, "`b` must be a torch.Tensor, got ndarray"),
            (torch.zeros(2, dtype=torch.int32), torch.ones(2), TypeError, "`a` must be floating point"),
            (torch.zeros(3), torch.ones(3), ValueError, "`a` must have 2 latent coordinates"),
            (torch.zeros(2), torch.ones(2).double(), TypeError, "`b` has dtype .*64 but `a` has .*32; cast with `b"),
            (torch.zeros(3, 2), torch.ones(4, 2), ValueError, r"a\[:, None\] and b\[None\]"),
        ],
    )
    def test_end_points(self, a, b, error, words):
        for call in (connect, distance):
            with pytest.raises(error, match=words):
                call(self.metric, a, b)

    def test_dimensions_of_a_dimensionless_metric(self):
        with pytest.raises(ValueError, match=r"`b` must have 2 latent coordinates .*, as `a` has"):
            connect(Euclidean(), torch.zeros(2), torch.zeros(3))

    def test_metric(self):
        with pytest.raises(TypeError, match="wrap a map with PullbackMetric"):
            connect(lambda z: z, self.a, self.b)

    def test_solver(self):
        with pytest.raises(TypeError, match="`solver` must be a solver"):
            connect(self.metric, self.a, self.b, solver="newton")

    @pytest.mark.parametrize(
        "init",
        [torch.zeros(5, 3, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64), torch.zeros(2)],
    )
    def test_init_shape(self, init):
        with pytest.raises(ValueError, match="`init` must have shape"):
            connect(self.metric, self.a, self.b, init=init)

    def test_init_ends(self):
        with pytest.raises(ValueError, match="must run from `a` to `b`; curve 0 starts at"):
            connect(self.metric, self.a, self.b, init=torch.zeros(5, 2, dtype=torch.float64))

    def test_init_type_and_dtype(self):
        with pytest.raises(TypeError, match="`init` must be None, a LatentGraph or a tensor"):
            connect(self.metric, self.a, self.b, init="graph")
        with pytest.raises(TypeError, match=r"`init` must be torch\.float64"):
            connect(self.metric, self.a, self.b, init=torch.zeros(5, 2))
        with pytest.raises(ValueError, match="`init` must broadcast"):
            connect(self.metric, self.a, self.b, init=torch.zeros(3, 5, 2, dtype=torch.float64))

    @pytest.mark.parametrize(
        "options",
        [
            {"n_points": 2},
            {"n_points": 3.5},
            {"max_points": 5},
            {"rtol": 0.0},
            {"rtol": math.nan},
            {"residual_tol": -1.0},
            {"max_steps": 0},
        ],
    )
    def test_solver_options(self, options):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
            Newton(**options)

    def test_curve_length(self):
        with pytest.raises(ValueError, match="n >= 2"):
            curve_length(self.metric, torch.zeros(1, 2))


class TestDerivatives:
    """`distance` is differentiable; checked where discretisation errors are far below gradcheck's tolerance."""

    solver = Newton(n_points=513, max_points=513, rtol=1e-3, residual_tol=1e-9)

    @pytest.mark.parametrize("problem", [PARABOLOID, TORUS, BALL, HALF_PLANE_AMBIENT], ids=str)
    def test_end_points(self, problem):
        a, b = some_pairs(problem, 3)
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda a, b: distance(problem.metric, a, b, solver=self.solver), (a, b), eps=1e-4, atol=1e-5, rtol=1e-5
        )

    def test_parameters(self):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 5)).double().eval()
        a, b = normal(3, 2), normal(3, 2, seed=1)

        def total():
            return distance(PullbackMetric(net, dim=2), a, b, solver=self.solver).sum()

        total().backward()
        weight = net[0].weight
        slope = float(weight.grad[3, 1])
        with torch.no_grad():
            h = 1e-4
            weight[3, 1] += h
            up = float(total())
            weight[3, 1] -= 2 * h
            down = float(total())
        assert slope == pytest.approx((up - down) / (2 * h), rel=1e-5)

    def test_zero_at_coinciding_points(self):
        a = normal(2, 2).requires_grad_()
        distance(PARABOLOID.metric, a, a.detach().clone()).sum().backward()
        assert torch.equal(a.grad, torch.zeros_like(a))


def test_curve_length_of_straight_lines():
    a, b = EUCLIDEAN.points(5, 0), EUCLIDEAN.points(5, 1)
    assert_close(curve_length(EUCLIDEAN.metric, torch.stack([a, b], 1)), EUCLIDEAN.distance(a, b))
    ends = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    arc = 0.5 * (math.sqrt(5) + 0.5 * math.asinh(2))
    assert_close(curve_length(PARABOLOID.metric, ends), torch.tensor(arc, dtype=torch.float64), rtol=1e-6, atol=0)


def test_polygon_length_by_tensor_and_by_embedding_agree():
    polygon = 0.5 * normal(4, 6, 2)
    assert_close(
        curve_length(SPHERE_BY_TENSOR.metric, polygon), curve_length(SPHERE.metric, polygon), rtol=1e-6, atol=0
    )


def test_ends_apart_by_rounding_are_zero_apart():
    a = torch.tensor([[0.3, 1.0]], dtype=torch.float64)
    b = torch.tensor([[0.1 + 0.2, 1.0]], dtype=torch.float64)
    path = connect(PARABOLOID.metric, a, b)
    assert path.length.tolist() == [0.0]
    assert torch.equal(path.z[:, 0], a)
    assert torch.equal(path.z[:, -1], b)
