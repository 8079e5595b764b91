"""Geodesics from initial values: each curve to its own tolerance, measured orders, truthful statuses; `Shooting`."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
import torch
from problems import BALL, HALF_PLANE, PARABOLOID, SPHERE, SPHERE3, SPHERE_BY_TENSOR, TORUS, normal
from torch import Tensor
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.geodesics import GeodesicError, RungeKutta, Shooting, Status, TorchDiffEq, connect, shoot
from latentgeo.geodesics._ode import integrate
from latentgeo.metrics import HalfPlane, PoincareBall, PullbackMetric, Sphere, TensorMetric


def called(value: object) -> str:
    """A name that is the same in every process."""
    return getattr(value, "__name__", str(value))


def ball_exp(x: Tensor, v: Tensor) -> Tensor:
    """Exponential map of the Poincaré ball, by Möbius addition."""
    size = v.norm(dim=-1, keepdim=True)
    y = torch.tanh(size / (1 - x.square().sum(-1, keepdim=True))) * v / size
    xy, xx, yy = (x * y).sum(-1, keepdim=True), x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    return ((1 + 2 * xy + yy) * x + (1 - xx) * y) / (1 + 2 * xy + xx * yy)


def sphere_exp(z: Tensor, v: Tensor) -> Tensor:
    """Exponential map of the unit sphere in the stereographic chart."""
    metric = Sphere()
    x, u = metric.embedding(z), metric.embedding.jvp(z, v)
    r = u.norm(dim=-1, keepdim=True)
    y = r.cos() * x + r.sin() * u / r
    return y[..., :-1] / (1 + y[..., -1:])


def shots(metric, n: int, length: float, dim: int = 2, radius: float = 0.6) -> tuple[Tensor, Tensor]:
    """Codes within a radius, and velocities of about the same metric length."""
    z = normal(n, dim)
    z = radius * z / (1 + z.norm(dim=-1, keepdim=True))
    v = normal(n, dim, seed=1)
    return z, length * v / metric.norm(z, v)[:, None]


def miss(metric, path, exact: Tensor) -> Tensor:
    """Errors at the end points, relative to the lengths."""
    return metric.norm(exact, path.z[..., -1, :] - exact) / path.length


# --- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize(
    ("metric", "exact", "dim"),
    [
        (Sphere(2), sphere_exp, 2),
        (Sphere(4), sphere_exp, 4),
        (PoincareBall(2), ball_exp, 2),
        (PoincareBall(3), ball_exp, 3),
    ],
    ids=called,
)
def test_end_point_is_as_accurate_as_asked_for_and_as_claimed(metric, exact, dim, rtol):
    z, v = shots(metric, 40, 1.8, dim)
    path = shoot(metric, z, v, solver=RungeKutta(rtol=rtol))
    error = miss(metric, path, exact(z, v))
    assert float(error.max()) <= rtol
    assert bool((error <= path.residual + 1e-13).all())
    assert_close(path.length, metric.norm(z, v))
    assert bool((path.stats["drift"] <= 10 * rtol).all())


def test_every_curve_of_a_thousand_meets_its_own_tolerance_with_a_stiff_one_among_them():
    """What a shared step size or an averaged error norm gets wrong."""
    metric, rtol = PoincareBall(2), 1e-6
    z, v = shots(metric, 1000, 0.5)
    z[137] = torch.tensor([-0.99, 0.05], dtype=torch.float64)  # along a tight horocycle-like arc, 30 times as long
    v[137] = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    v[137] *= 7.0 / metric.norm(z[137], v[137])
    solver = RungeKutta(rtol=rtol)
    path = shoot(metric, z, v, solver=solver)
    assert float(miss(metric, path, ball_exp(z, v)).max()) <= rtol
    few = [0, 136, 137, 138, 999]
    alone = shoot(metric, z[few], v[few], solver=solver)
    assert_close(alone(1.0)[:, 0], path(1.0)[few, 0], rtol=0, atol=1e-13)
    assert torch.equal(alone.stats["steps"], path.stats["steps"][few])
    assert int(path.stats["steps"][137]) > 3 * int(path.stats["steps"].median())


def test_easy_curves_are_not_evaluated_while_a_stiff_one_goes_on():
    rows = []

    def tensor(z):
        rows.append(z.shape[0])
        return torch.eye(2, dtype=z.dtype) / z[..., 1, None, None] ** 2

    z = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(64, 1)
    v = torch.tensor([[0.01, 0.0]], dtype=torch.float64).repeat(64, 1)
    v[0] = torch.tensor([4.0, 0.0], dtype=torch.float64)
    shoot(TensorMetric(tensor, dim=2), z, v, solver=RungeKutta(rtol=1e-4))
    assert sum(n < 64 for n in rows) > 0.4 * len(rows)


@pytest.mark.parametrize(("problem", "most"), [(SPHERE, 5.3), (BALL, 5.7), (PARABOLOID, 5.7)], ids=called)
def test_observed_order_is_five(problem, most):
    """With tolerances out of the way every step is as long as it may be; order six dominates on the way to five."""
    z, v = problem.points(4, 0), normal(4, 2, seed=3)
    v = 1.5 * v / problem.metric.norm(z, v)[:, None]

    def end(n: int) -> Tensor:
        loose = torch.full((4,), 1e12, dtype=torch.float64)
        flow = integrate(problem.metric, z, v, loose, max_steps=n + 1, longest=1 / n)
        assert flow.steps.tolist() == [n] * 4
        return flow.end[:, 0]

    exact = end(256)
    errors = [problem.metric.norm(exact, end(n) - exact).mean() for n in (16, 32, 64)]
    slopes = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert 4.7 < slopes[1] < most


@pytest.mark.parametrize("problem", [BALL, HALF_PLANE], ids=called)
def test_error_is_proportional_to_the_tolerance(problem):
    z, v = problem.points(6, 0), normal(6, 2, seed=3)
    v = 2.5 * v / problem.metric.norm(z, v)[:, None]
    exact = shoot(problem.metric, z, v, solver=RungeKutta(rtol=1e-12, checked=False, max_steps=4000)).z[:, -1]
    tols = (1e-5, 1e-7, 1e-9)
    found = [
        miss(problem.metric, shoot(problem.metric, z, v, solver=RungeKutta(rtol=tol, checked=False)), exact) / tol
        for tol in tols
    ]
    assert bool((torch.stack(found) < 1).all())
    assert bool((torch.stack(found) > 1e-3).all())


@pytest.mark.parametrize(("method", "order"), [("midpoint", 2), ("rk4", 4)])
def test_observed_order_of_torchdiffeq(method, order):
    z, v = shots(BALL.metric, 5, 1.5)
    exact = ball_exp(z, v)
    errors = [
        miss(BALL.metric, shoot(BALL.metric, z, v, solver=TorchDiffEq(method, n_points=n)), exact).mean()
        for n in (17, 33, 65)
    ]
    slopes = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert abs(slopes[1] - order) < 0.3


@pytest.mark.parametrize("method", ["dopri8", "dopri5", "bosh3", "adaptive_heun"])
def test_torchdiffeq_agrees_with_the_default(method):
    z, v = shots(SPHERE.metric, 20, 1.5)
    path = shoot(SPHERE.metric, z, v, solver=TorchDiffEq(method, rtol=1e-7))
    assert float(miss(SPHERE.metric, path, sphere_exp(z, v)).max()) < 1e-6
    assert_close(path.z, shoot(SPHERE.metric, z, v).z, rtol=0, atol=1e-5)


@pytest.mark.parametrize("solver", [RungeKutta(), TorchDiffEq()], ids=["RungeKutta", "TorchDiffEq"])
def test_curve_between_the_nodes(solver):
    z, v = shots(BALL.metric, 10, 2.0)
    path = shoot(BALL.metric, z, v, solver=solver)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    exact = ball_exp(z[:, None].expand(-1, 100, -1), t[1:, None] * v[:, None])
    assert float((path(t)[:, 1:] - exact).abs().max()) < 1e-6
    speed = BALL.metric.norm(path(t), path.velocity(t))
    assert_close(speed, path.length[:, None].expand_as(speed), rtol=1e-5, atol=0)
    assert_close(path(0.0)[:, 0], z)
    assert_close(path.velocity(0.0)[:, 0], v)


def test_nodes_are_added_where_curves_bend():
    """A velocity fifty times as large winds its curve round the torus."""
    z, v = TORUS.points(2, 0), normal(2, 2, seed=3)
    v = torch.stack([0.1 * v[0], 5 * v[1]])
    path = shoot(TORUS.metric, z, v, solver=RungeKutta(n_points=5, rtol=1e-4))
    assert int(path.stats["points"][1]) > int(path.stats["points"][0])
    again = shoot(TORUS.metric, z, v, solver=RungeKutta(n_points=129, rtol=1e-4))
    t = torch.linspace(0, 1, 57, dtype=torch.float64)
    gap = TORUS.metric.norm(again(t), path(t) - again(t))
    assert bool((gap <= 1e-5 * again.length[:, None]).all())


def test_clairaut_relation():
    """On a surface of revolution r²·dφ/dt is constant."""
    z, v = TORUS.points(8, 0), normal(8, 2, seed=2)
    path = shoot(TORUS.metric, z, v, solver=RungeKutta(rtol=1e-8))
    u, speed = path.z[..., 0], path.velocity(path.t)[..., 1]
    momentum = (2 + u.cos()) ** 2 * speed
    assert_close(momentum, momentum[:, :1].expand_as(momentum), rtol=1e-6, atol=1e-7)


def test_batch_shapes_broadcast():
    z, v = shots(BALL.metric, 6, 0.5)
    path = shoot(BALL.metric, z[:3, None], v[None, :2])
    assert path.z.shape[:2] == (3, 2)
    assert path.status.shape == (3, 2)
    one = shoot(BALL.metric, z[0], v[0])
    assert one.length.shape == ()
    assert_close(one.z[-1], path.z[0, 0, -1])
    assert shoot(BALL.metric, z[:0], v[:0]).z.shape[0] == 0


@pytest.mark.parametrize("problem", [SPHERE, SPHERE3, BALL, HALF_PLANE, PARABOLOID], ids=called)
def test_single_precision(problem):
    z, v = problem.points(10, 0), 0.5 * normal(10, problem.dim, seed=1)
    v = v / problem.metric.norm(z, v)[:, None]
    path, fine = shoot(problem.metric, z.float(), v.float()), shoot(problem.metric, z, v)
    assert path.z.dtype == path.length.dtype == torch.float32
    assert float(miss(problem.metric, fine, path.z[:, -1].double()).max()) < 1e-3


def test_units_of_length_do_not_matter():
    z, v = PARABOLOID.points(5, 0), normal(5, 2, seed=1)
    scaled = PullbackMetric(lambda z: 2.0**13 * PARABOLOID.metric.embedding.function(z), dim=2)
    plain, other = shoot(PARABOLOID.metric, z, v), shoot(scaled, z, v)
    assert_close(other.z, plain.z, rtol=1e-9, atol=1e-9)
    assert torch.equal(other.stats["steps"], plain.stats["steps"])


# --- what is refused, or told -----------------------------------------------------------------------------------------


def test_zero_velocity_stays():
    z, v = shots(BALL.metric, 3, 0.5)
    v[1] = 0.0
    path = shoot(BALL.metric, z, v)
    assert bool(path.converged.all())
    assert torch.equal(path.z[1], z[1].expand_as(path.z[1]))
    assert float(path.length[1]) == float(path.residual[1]) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("solver", [RungeKutta(), TorchDiffEq()], ids=["RungeKutta", "TorchDiffEq"])
def test_bad_starts_leave_the_others_alone(solver, bad):
    z, v = shots(BALL.metric, 4, 0.5)
    good = shoot(BALL.metric, z, v, solver=solver)
    z, v = z.clone(), v.clone()
    z[1, 0] = bad
    v[2, 1] = bad
    path = shoot(BALL.metric, z, v, solver=solver, throw=False)
    assert list(path.status) == [Status.CONVERGED, Status.BAD_START, Status.BAD_START, Status.CONVERGED]
    assert bool(path.z[1:3].isnan().all())
    assert bool(path.length[1:3].isnan().all())
    assert_close(path.z[[0, 3]], good.z[[0, 3]])


def window(edge: float) -> TensorMetric:
    """Flat space that ends at x = edge."""

    def tensor(z):
        eye = torch.eye(2, dtype=z.dtype).expand(*z.shape, 2)
        return torch.where((z[..., 0] < edge)[..., None, None], eye, torch.nan)

    return TensorMetric(tensor, dim=2)


@pytest.mark.parametrize("solver", [RungeKutta(), RungeKutta(checked=False)], ids=["checked", "unchecked"])
def test_leaving_the_region_where_the_metric_is_finite(solver):
    z = torch.zeros(3, 2, dtype=torch.float64)
    v = torch.tensor([[4.0, 0.0], [0.5, 0.0], [0.0, 4.0]], dtype=torch.float64)
    path = shoot(window(1.0), z, v, solver=solver, throw=False)
    assert list(path.status) == [Status.LEFT_REGION, Status.CONVERGED, Status.CONVERGED]
    reached = float(path.stats["reached"][0])
    assert reached == pytest.approx(0.25, abs=1e-6)
    assert float(path.length[0]) == pytest.approx(1.0, abs=1e-5)
    inside = path.t <= reached
    assert_close(path.z[0, inside, 0], 4 * path.t[inside], rtol=0, atol=1e-9)
    assert bool(path.z[0, ~inside].isnan().all())
    with pytest.raises(GeodesicError, match=r"1 of 3 curves failed \(1× LEFT_REGION"):
        shoot(window(1.0), z, v, solver=solver)


def test_leaving_the_region_with_torchdiffeq():
    z = torch.zeros(3, 2, dtype=torch.float64)
    v = torch.tensor([[4.0, 0.0], [0.5, 0.0], [0.0, 4.0]], dtype=torch.float64)
    path = shoot(window(1.0), z, v, solver=TorchDiffEq(), throw=False)
    assert list(path.status) == [Status.LEFT_REGION, Status.CONVERGED, Status.CONVERGED]


def test_complete_space_is_never_left():
    """In the half plane z₁ falls towards 0 but no geodesic gets there."""
    z = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    path = shoot(HalfPlane(), z, torch.tensor([[0.0, -12.0]], dtype=torch.float64))
    assert_close(path.z[0, -1, 1].log(), torch.tensor(-12.0, dtype=torch.float64), rtol=1e-5, atol=0)


def test_starting_outside():
    z = torch.tensor([[0.0, 2.0], [0.0, 0.5]], dtype=torch.float64)
    for solver in (RungeKutta(), TorchDiffEq()):
        path = shoot(PoincareBall(2), z, torch.ones(2, 2, dtype=torch.float64), solver=solver, throw=False)
        assert list(path.status) == [Status.NOT_FINITE, Status.CONVERGED]


def test_rank_deficient_metric():
    flat = PullbackMetric(lambda z: z.sum(-1, keepdim=True), dim=2)
    path = shoot(flat, torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64), throw=False)
    assert path.status.item() is Status.NOT_FINITE


def test_singularity_on_the_way():
    """A cone's tip: the metric is singular there, and the curve that runs into it is told apart from its neighbour."""
    cone = TensorMetric(lambda z: torch.eye(2, dtype=z.dtype) * z.square().sum(-1)[..., None, None] ** -0.6, dim=2)
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    v = torch.tensor([[-4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    path = shoot(cone, z, v, solver=RungeKutta(max_steps=150), throw=False)
    assert path.status[0] in (Status.STEP_FLOOR, Status.LEFT_REGION, Status.STEP_LIMIT)
    assert float(path.stats["reached"][0]) == pytest.approx(2.5 / 4, abs=1e-3)
    assert path.status[1] is Status.CONVERGED


@pytest.mark.parametrize(
    "solver", [RungeKutta(max_steps=20), TorchDiffEq(max_steps=2)], ids=["RungeKutta", "TorchDiffEq"]
)
def test_huge_velocity_meets_the_step_limit(solver):
    z, v = TORUS.points(2, 0), normal(2, 2, seed=3)
    path = shoot(TORUS.metric, z, torch.stack([1e-3 * v[0], 1e3 * v[1]]), solver=solver, throw=False)
    assert list(path.status) == [Status.CONVERGED, Status.STEP_LIMIT]
    if isinstance(solver, RungeKutta):
        assert 0 < float(path.stats["reached"][1]) < 1
        assert int(path.stats["steps"][1]) <= 2 * 20


def test_accuracy_beyond_single_precision_is_not_claimed():
    z, v = shots(BALL.metric, 5, 2.0)
    path = shoot(BALL.metric, z.float(), v.float(), solver=RungeKutta(rtol=1e-9, max_steps=200), throw=False)
    told = {Status.INACCURATE, Status.STEP_FLOOR, Status.STEP_LIMIT}
    assert set(path.status) <= told


def test_bad_arguments():
    z, v = shots(BALL.metric, 3, 0.5)
    with pytest.raises(TypeError, match="`metric` must be a Metric"):
        shoot(lambda z: z, z, v)
    with pytest.raises(TypeError, match=r"`v` must be a torch\.Tensor"):
        shoot(BALL.metric, z, v.numpy())
    with pytest.raises(TypeError, match=r"`v` has dtype torch\.float32"):
        shoot(BALL.metric, z, v.float())
    with pytest.raises(ValueError, match="`v` must have 2 latent coordinates"):
        shoot(BALL.metric, z, v[:, :1])
    with pytest.raises(ValueError, match="`z` and `v` must have batch shapes that broadcast"):
        shoot(BALL.metric, z, v[:2])
    with pytest.raises(TypeError, match="`solver` must be a solver of initial-value problems"):
        shoot(BALL.metric, z, v, solver=lg.Newton())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (RungeKutta, {"rtol": 0.0}),
        (RungeKutta, {"rtol": math.nan}),
        (RungeKutta, {"max_steps": 0}),
        (RungeKutta, {"n_points": 1}),
        (RungeKutta, {"max_points": 9}),
        (RungeKutta, {"checked": 1}),
        (TorchDiffEq, {"method": "scipy"}),
        (TorchDiffEq, {"rtol": -1.0}),
        (TorchDiffEq, {"max_steps": 1.5}),
        (Shooting, {"n_points": 2}),
        (Shooting, {"max_points": 5}),
        (Shooting, {"rtol": None}),
        (Shooting, {"residual_tol": math.inf}),
        (Shooting, {"max_steps": True}),
    ],
)
def test_options(kind, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        kind(**options)


@pytest.mark.parametrize("solver", [RungeKutta(), TorchDiffEq(), Shooting()], ids=lambda s: type(s).__name__)
def test_solvers_are_values(solver):
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.rtol = 1.0
    assert hash(solver) == hash(type(solver)())
    assert pickle.loads(pickle.dumps(solver)) == solver
    assert getattr(lg, type(solver).__name__) is type(solver)


# --- boundary values by shooting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
@pytest.mark.parametrize("problem", [SPHERE, SPHERE3, BALL, HALF_PLANE], ids=called)
def test_shooting_finds_exact_distances(problem, rtol):
    a, b, exact = problem.pairs(40)
    path = connect(problem.metric, a, b, solver=Shooting(rtol=rtol))
    assert bool(path.certified.all())
    error = (path.length - exact).abs()
    assert bool((error <= rtol * exact).all())
    assert bool((error <= path.length_error + 1e-12).all())
    assert torch.equal(path.z[:, 0], a)
    assert torch.equal(path.z[:, -1], b)


def test_shooting_there_and_back_and_alone():
    a, b, _ = BALL.pairs(12)
    there, back = (connect(BALL.metric, *ends, solver=Shooting()) for ends in ((a, b), (b, a)))
    assert_close(there.length, back.length, rtol=1e-7, atol=0)
    assert_close(there.z, back.z.flip(-2), rtol=0, atol=1e-5)
    for k in range(2):
        assert_close(connect(BALL.metric, a[k], b[k], solver=Shooting()).length, there.length[k], rtol=1e-12, atol=0)
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    speed = BALL.metric.norm(there(t), there.velocity(t))
    assert_close(speed, there.length[:, None].expand_as(speed), rtol=1e-3, atol=0)


def test_shooting_in_single_precision_asks_for_no_more_than_there_is():
    a, b, exact = BALL.pairs(12)
    path = connect(BALL.metric, a.float(), b.float(), solver=Shooting())
    assert_close(path.length.double(), exact, rtol=2e-3, atol=0)
    strict = Shooting(residual_tol=1e-12, max_steps=30)
    floor = connect(BALL.metric, a.float(), b.float(), solver=strict, throw=False)
    assert set(floor.status) <= {Status.PRECISION, Status.MAX_STEPS}
    assert bool(floor.length.isnan().all())


def test_shooting_goes_along_the_starting_curve_where_a_straight_shot_fails():
    """Newton's method on the velocity alone fails for a third of these."""
    a, b = PARABOLOID.points(12, 0), PARABOLOID.points(12, 1)
    path = connect(PARABOLOID.metric, a, b, solver=Shooting(), throw=False)
    best = connect(PARABOLOID.metric, a, b, solver=lg.Newton(rtol=1e-5))
    assert int(path.converged.sum()) >= 11
    assert bool(((path.length / best.length)[path.converged] < 1 + 1e-4).all())
    assert set(path.status) <= {Status.CONVERGED, Status.NOT_MINIMAL, Status.LONGER}


def test_shooting_tells_what_it_cannot_do():
    a = torch.tensor([[0.5, 0.0], [0.1, 0.0]], dtype=torch.float64)
    b = torch.tensor([[2.0, 0.0], [0.3, 0.4]], dtype=torch.float64)
    path = connect(PoincareBall(2), a, b, solver=Shooting(), throw=False)
    assert list(path.status) == [Status.NOT_FINITE, Status.CONVERGED]
    few = connect(BALL.metric, a[1:], b[1:], solver=Shooting(max_steps=1, residual_tol=1e-9), throw=False)
    assert few.status[0] is Status.MAX_STEPS
    # flat space with the middle cut out: the geodesic would cross it
    beyond = connect(window(0.2), a[1:], b[1:], solver=Shooting(), throw=False)
    assert beyond.status[0] in (Status.NOT_FINITE, Status.ASTRAY)


def test_shooting_is_differentiable_through_distance():
    a, b, _ = BALL.pairs(12)
    a = a.requires_grad_()
    lg.distance(BALL.metric, a, b, solver=Shooting(rtol=1e-6)).sum().backward()
    again = a.detach().clone().requires_grad_()
    BALL.distance(again, b).sum().backward()
    assert_close(a.grad, again.grad, rtol=1e-5, atol=1e-6)


def test_same_metric_by_tensor():
    a, b, exact = SPHERE_BY_TENSOR.pairs(12)
    path = connect(SPHERE_BY_TENSOR.metric, a[:3], b[:3], solver=Shooting(rtol=1e-5))
    assert_close(path.length, exact[:3], rtol=1e-5, atol=0)


def test_no_velocity_leads_nowhere_even_where_the_metric_is_not_finite():
    z = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.1, 0.0]], dtype=torch.float64)
    path = shoot(PoincareBall(2), z, torch.zeros_like(z))
    assert torch.equal(path.length, torch.zeros(3).double())
    assert torch.equal(path.length_error, torch.zeros(3).double())
    assert torch.equal(path(0.7)[:, 0], z)
