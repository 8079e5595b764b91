"""One contract for every boundary-value solver: closed forms, symmetry, constant speed, batches, failures."""

from __future__ import annotations

import dataclasses
import functools
import math
import pickle
from pathlib import Path

import pytest
import torch
from problems import (
    BALL,
    ELLIPSOID,
    HALF_PLANE,
    HALF_PLANE_AMBIENT,
    LINE,
    PARABOLOID,
    PROBLEMS,
    SPHERE,
    TORUS,
    Problem,
    normal,
)
from torch import Tensor
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.geodesics import Collocation, Georce, Newton, Sobolev, Spline, Status, connect, curve_length, distance
from latentgeo.metrics import PoincareBall, PullbackMetric, Sphere, TensorMetric

SOLVERS = [Newton(), Spline(), Sobolev(), Georce(), Collocation()]
MINIMISERS = SOLVERS[:4]
ROUNDING = 1e-10
CURVED = [SPHERE, BALL, HALF_PLANE, HALF_PLANE_AMBIENT, PARABOLOID, TORUS, ELLIPSOID, LINE]

by_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=str)
by_curved = pytest.mark.parametrize("problem", CURVED, ids=str)


def name(solver) -> str:
    return type(solver).__name__


by_solver = pytest.mark.parametrize("solver", SOLVERS, ids=name)
by_minimiser = pytest.mark.parametrize("solver", MINIMISERS, ids=name)


def hill() -> PullbackMetric:
    return PullbackMetric(lambda z: torch.cat([z, 4 * torch.exp(-2 * z.square().sum(-1, keepdim=True))], -1), dim=2)


@functools.cache
def some_pairs(problem: Problem, n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs and their distances: exact ones, or those of a solve far more accurate than any that is tested."""
    if problem.distance is not None:
        a, b, exact = (part[:n] for part in problem.pairs(6 * n, seed))
        return a, b, exact
    a, b = problem.points(n, seed), problem.points(n, seed + 1)
    solver = Newton(n_points=257, max_points=2049, rtol=1e-9, residual_tol=1e-8)
    return a, b, connect(problem.metric, a, b, solver=solver).length


def converged(path, solver, least: float = 0.6) -> Tensor:
    """Which curves converged: all, but for collocation, which may leave the basin and must say so."""
    if not isinstance(solver, Collocation):
        assert bool(path.converged.all()), path.status
    assert float(path.converged.double().mean()) >= least, path.status
    return path.converged


# --- what is right ----------------------------------------------------------------------------------------------------


@by_solver
@by_problem
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_length_is_as_accurate_as_asked_for_and_as_claimed(problem, solver, rtol):
    a, b, exact = some_pairs(problem)
    path = connect(problem.metric, a, b, solver=dataclasses.replace(solver, rtol=rtol), throw=False)
    ok = converged(path, solver)
    error = (path.length - exact).abs()[ok]
    assert bool((error <= rtol * exact[ok] + ROUNDING).all())
    assert bool((error <= path.length_error[ok] + ROUNDING).all())
    assert bool((path.length_error[ok] <= rtol * path.length[ok]).all())
    assert bool(path.certified[ok].all())


@by_solver
@by_curved
def test_symmetric_in_its_end_points(problem, solver):
    a, b, _ = some_pairs(problem, 3)
    there, back = (
        connect(problem.metric, *ends, solver=solver, init=init, throw=False)
        for ends, init in (((a, b), None), ((b, a), None))
    )
    assert list(there.status) == list(back.status)
    ok = converged(there, solver, least=0.5)
    assert_close(there.length[ok], back.length[ok], rtol=1e-7, atol=1e-10)
    assert_close(there.z[ok], back.z.flip(-2)[ok], rtol=1e-4, atol=1e-4)


@by_solver
@by_curved
def test_speed_is_constant(problem, solver):
    a, b, _ = some_pairs(problem, 4)
    path = connect(problem.metric, a, b, solver=dataclasses.replace(solver, rtol=1e-6), throw=False)
    ok = converged(path, solver, least=0.5)
    t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    speed = problem.metric.norm(path(t)[ok], path.velocity(t)[ok])
    assert_close(speed, path.length[ok, None].expand_as(speed), rtol=1e-2, atol=0)
    assert_close(path.energy[ok], 0.5 * path.length[ok] ** 2, rtol=1e-4, atol=0)


@by_solver
@pytest.mark.parametrize("problem", [BALL, PARABOLOID, HALF_PLANE_AMBIENT, LINE], ids=str)
def test_curve_solves_the_geodesic_equation(problem, solver):
    a, b, _ = some_pairs(problem, 4)
    path = connect(problem.metric, a, b, solver=dataclasses.replace(solver, rtol=1e-7), throw=False)
    ok = converged(path, solver, least=0.5)
    t, h = torch.linspace(0.1, 0.9, 9, dtype=torch.float64), 4e-3
    bend = (path(t + h) - 2 * path(t) + path(t - h))[ok] / h**2
    want = problem.metric.acceleration(path(t)[ok], path.velocity(t)[ok])
    assert float((bend - want).abs().amax() / path.velocity(t)[ok].square().sum(-1).amax()) < 5e-2


@by_solver
@pytest.mark.parametrize("problem", [SPHERE, BALL, PARABOLOID, HALF_PLANE_AMBIENT, LINE], ids=str)
def test_batch_equals_loop(problem, solver):
    a, b, _ = some_pairs(problem, 3)
    together = connect(problem.metric, a, b, solver=solver, throw=False)
    for k in range(3):
        alone = connect(problem.metric, a[k], b[k], solver=solver, throw=False)
        assert alone.status.item() is together.status[k]
        if bool(alone.converged):
            assert_close(alone.length, together.length[k], rtol=1e-9, atol=1e-12)


@by_solver
@by_curved
def test_single_precision(problem, solver):
    a, b, exact = some_pairs(problem, 4)
    path = connect(problem.metric, a.float(), b.float(), solver=solver, throw=False)
    ok = converged(path, solver, least=0.5)
    for part in (path.length, path.length_error, path.z, path.energy):
        assert part.dtype == torch.float32
    assert_close(path.length[ok].double(), exact[ok], rtol=2e-3, atol=1e-5)


@by_solver
@pytest.mark.parametrize("scale", [2.0**-13, 2.0**13])
def test_statuses_do_not_depend_on_units(solver, scale):
    a, b, _ = some_pairs(PARABOLOID, 4)
    scaled = PullbackMetric(lambda z: scale * PARABOLOID.metric.embedding.function(z), dim=2)
    plain, other = (connect(metric, a, b, solver=solver, throw=False) for metric in (PARABOLOID.metric, scaled))
    assert list(plain.status) == list(other.status)
    assert_close(other.length, scale * plain.length, rtol=1e-7, atol=0)


@by_minimiser
def test_starting_curve_chooses_the_basin(solver):
    t = torch.linspace(0, math.pi, 21, dtype=torch.float64)
    init = torch.stack([-1.5 * t.cos(), t.sin()], -1)
    metric = hill()
    path = connect(metric, init[0], init[-1], init=init, solver=solver)
    mirrored = connect(
        metric, init[0], init[-1], init=init * torch.tensor([1.0, -1.0], dtype=torch.float64), solver=solver
    )
    assert bool(path.certified)
    assert float(path(0.5)[0, 1]) > 0.5
    assert float(mirrored(0.5)[0, 1]) < -0.5
    assert_close(path.length, mirrored.length, rtol=1e-6, atol=0)
    assert float(path.length) < 0.9 * float(curve_length(metric, init[[0, -1]]))


@by_solver
def test_distance_takes_any_solver_and_is_differentiable(solver):
    a, b, _ = some_pairs(BALL, 3)
    a = a.clone().requires_grad_()
    solver = dataclasses.replace(solver, rtol=1e-6)
    distance(BALL.metric, a, b, solver=solver).sum().backward()
    again = a.detach().clone().requires_grad_()
    BALL.distance(again, b).sum().backward()
    assert_close(a.grad, again.grad, rtol=1e-3, atol=1e-4)


@by_solver
@pytest.mark.parametrize("problem", [BALL, PARABOLOID], ids=str)
def test_tensor_alone_is_enough(problem, solver):
    a, b, exact = some_pairs(problem, 3)
    bare = TensorMetric(problem.tensor, dim=2)
    path = connect(bare, a, b, solver=dataclasses.replace(solver, rtol=1e-5), throw=False)
    ok = converged(path, solver, least=0.5)
    assert_close(path.length[ok], exact[ok], rtol=1e-5, atol=0)


@by_solver
@pytest.mark.filterwarnings("ignore::latentgeo._calculus.DerivativeWarning")
def test_maps_that_switch_reverse_mode_off(solver):
    def phi(z):
        with torch.no_grad():
            return torch.cat([z, z.square().sum(-1, keepdim=True)], -1)

    a, b, exact = some_pairs(PARABOLOID, 2)
    path = connect(PullbackMetric(phi, dim=2), a, b, solver=solver)
    assert_close(path.length, exact, rtol=1e-3, atol=0)


@by_minimiser
def test_many_latent_dimensions(solver):
    phi = torch.nn.Sequential(torch.nn.Linear(12, 30), torch.nn.Tanh(), torch.nn.Linear(30, 20)).double().eval()
    with torch.no_grad():
        for k, p in enumerate(phi.parameters()):
            p.copy_(normal(*p.shape, seed=k) / p.shape[-1] ** 0.5)
    phi.requires_grad_(False)
    metric = PullbackMetric(lambda z: torch.cat([phi(z), 0.3 * z], -1), dim=12)
    a, b = normal(3, 12), normal(3, 12, seed=1)
    path = connect(metric, a, b, solver=dataclasses.replace(solver, rtol=1e-4))
    assert_close(path.length, connect(metric, a, b, solver=Newton(rtol=1e-6)).length, rtol=2e-4, atol=0)


# --- what is refused, or told -----------------------------------------------------------------------------------------


@by_solver
def test_same_end_points(solver):
    a = normal(3, 2)
    path = connect(PARABOLOID.metric, a, a, solver=solver)
    assert bool(path.converged.all())
    assert torch.equal(path.length, torch.zeros(3, dtype=torch.float64))


@by_solver
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_end_points_leave_the_others_alone(solver, bad):
    a, b, _ = some_pairs(BALL, 3)
    a = a.clone()
    a[1, 0] = bad
    path = connect(BALL.metric, a, b, solver=solver, throw=False)
    assert list(path.status) == [Status.CONVERGED, Status.BAD_ENDPOINT, Status.CONVERGED]
    assert bool(path.length[1].isnan())


@by_solver
def test_metric_that_ends_on_the_way(solver):
    a = torch.tensor([[0.5, 0.0], [0.1, 0.0]], dtype=torch.float64)
    b = torch.tensor([[2.0, 0.0], [0.3, 0.4]], dtype=torch.float64)
    path = connect(PoincareBall(2), a, b, solver=solver, throw=False)
    assert list(path.status) == [Status.NOT_FINITE, Status.CONVERGED]
    assert not bool(path.certified[0])


@pytest.mark.parametrize(
    "solver", [Spline(max_steps=2), Sobolev(max_steps=1), Georce(max_steps=2), Newton(max_steps=1)], ids=name
)
def test_step_limit(solver):
    a, b, _ = some_pairs(HALF_PLANE)
    solver = dataclasses.replace(solver, residual_tol=1e-10)
    path = connect(HALF_PLANE.metric, a, b, solver=solver, throw=False)
    assert all(s is Status.MAX_STEPS for s in path.status)


@pytest.mark.parametrize(
    "solver",
    [Spline(n_knots=3, max_points=17), Georce(n_points=9, max_points=17), Collocation(n_points=9, max_points=17)],
    ids=name,
)
def test_point_limit(solver):
    a, b, _ = some_pairs(BALL, 6)
    path = connect(BALL.metric, a, b, solver=dataclasses.replace(solver, rtol=1e-10), throw=False)
    assert set(path.status) <= {Status.MAX_POINTS, Status.CONVERGED}
    assert Status.MAX_POINTS in set(path.status)
    assert int(path.z.shape[-2]) <= 17
    assert torch.equal(path.length_error <= 1e-10 * path.length, path.converged)


@by_minimiser
def test_rounding_floor(solver):
    a, b, _ = some_pairs(BALL)
    solver = dataclasses.replace(solver, residual_tol=1e-14, rtol=1e-2)
    path = connect(BALL.metric, a.float(), b.float(), solver=solver, throw=False)
    assert set(path.status) <= {Status.PRECISION, Status.MAX_STEPS, Status.CONVERGED}
    assert Status.PRECISION in set(path.status)


@pytest.mark.parametrize(
    "solver", [Newton(), Spline(), pytest.param(Georce(), marks=pytest.mark.slow), Collocation()], ids=name
)
def test_saddle_is_not_called_a_geodesic(solver):
    a, b = torch.tensor([-1.5, 0.0], dtype=torch.float64), torch.tensor([1.5, 0.0], dtype=torch.float64)
    path = connect(hill(), a, b, solver=solver, throw=False)
    over = curve_length(hill(), torch.stack([a, b]))
    assert not bool(path.converged) or float(path.length) < 0.9 * float(over)


@by_solver
def test_antipodal_points_have_many_geodesics(solver):
    a, b = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([-1.0, 0.0], dtype=torch.float64)
    path = connect(Sphere(2), a, b, solver=solver, throw=False)
    if bool(path.converged):
        assert_close(path.length, torch.tensor(math.pi, dtype=torch.float64), rtol=1e-3, atol=0)


@by_solver
def test_rank_deficient_metric_ends_truthfully(solver):
    flat = PullbackMetric(lambda z: z.sum(-1, keepdim=True), dim=2)
    ends = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    path = connect(flat, *ends, solver=solver, throw=False)
    assert not bool(path.certified)
    assert not bool(path.converged)


@by_solver
def test_piecewise_linear_maps_get_no_certificate(solver):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 20)).double().eval()
    metric = PullbackMetric(net.requires_grad_(False), dim=2)
    n = 1 if isinstance(solver, Collocation) else 4
    solver = dataclasses.replace(solver, rtol=1e-2)
    path = connect(metric, normal(n, 2), normal(n, 2, seed=1), solver=solver, throw=False)
    assert not bool(path.certified.any())


@pytest.mark.parametrize("width", [0.05, pytest.param(0.01, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "solver", [*SOLVERS[:2], *(pytest.param(s, marks=pytest.mark.slow) for s in SOLVERS[2:])], ids=name
)
def test_walls_are_climbed_not_jumped(solver, width):
    """A wall thinner than coarse nodes' spacing: a polygon that steps across it would look four times shorter."""
    height = 4.0

    def phi(z):
        return torch.cat([z, height * torch.exp(-0.5 * (z[:, :1] / width) ** 2)], -1)

    a, b = torch.tensor([[-1.0, 0.0]], dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    path = connect(PullbackMetric(phi, dim=2), a, b, solver=solver, throw=False)
    x = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    profile = torch.stack([x, height * torch.exp(-0.5 * (x / width) ** 2)])
    exact = profile.diff(dim=1).norm(dim=0).sum()
    if bool(path.converged):
        assert abs(float(path.length - exact)) <= solver.rtol * float(exact)
    assert bool(path.length > 2 * height)


def test_collocation_tells_geodesics_that_are_no_minima():
    """On a torus it leaves the starting curves' basins: what it then finds must not pass as the distance."""
    a, b = TORUS.points(20, 0), TORUS.points(20, 1)
    right = connect(TORUS.metric, a, b).length
    path = connect(TORUS.metric, a, b, solver=Collocation(), throw=False)
    astray = path.length > 1.01 * right
    assert bool(astray.any())
    told = {Status.NOT_MINIMAL, Status.LONGER}
    assert all(s in told for s in path.status[astray.numpy()])


class TestValues:
    @by_solver
    def test_frozen_hashable_picklable(self, solver):
        with pytest.raises(dataclasses.FrozenInstanceError):
            solver.rtol = 1.0
        assert hash(solver) == hash(type(solver)())
        assert pickle.loads(pickle.dumps(solver)) == solver
        assert repr(solver).startswith(f"{name(solver)}(n_")
        assert getattr(lg, name(solver)) is type(solver)

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            (Spline, {"n_knots": 2}),
            (Spline, {"n_knots": 4.0}),
            (Spline, {"max_points": 17}),
            (Spline, {"rtol": 0.0}),
            (Spline, {"residual_tol": -1.0}),
            (Spline, {"max_steps": 0}),
            (Georce, {"n_points": 2}),
            (Georce, {"n_points": "33"}),
            (Georce, {"max_points": 5}),
            (Georce, {"rtol": math.nan}),
            (Georce, {"residual_tol": math.inf}),
            (Georce, {"max_steps": True}),
            (Collocation, {"n_points": 1}),
            (Collocation, {"max_points": 32}),
            (Collocation, {"rtol": None}),
        ],
    )
    def test_options(self, kind, options):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
            kind(**options)

    def test_spline_basis_holds_cubics_and_its_energy_is_the_squared_sum(self):
        from latentgeo.geodesics._solvers.spline import _basis, _coefficients

        t = torch.linspace(0, 1, 17, dtype=torch.float64)
        cubic = torch.stack([1 - 2 * t + 3 * t**3, t**2 - t**3], -1)[None]
        mixed, ends = (torch.as_tensor(part) for part in _basis(5))
        c = _coefficients(cubic, 5)
        again = torch.einsum("nk,Bkd->Bnd", mixed, c) + torch.einsum("nk,Bkd->Bnd", ends, cubic[:, [0, -1]])
        assert_close(again, cubic, rtol=1e-12, atol=1e-12)
        bump = torch.einsum("nk,Bkd->Bnd", mixed, c)
        energy = 16 * bump.diff(dim=1).square().sum()
        assert_close(energy, c.square().sum())


@pytest.mark.slow
@by_solver
def test_agree_on_a_trained_decoder(solver):
    model = lg.load(Path(__file__).resolve().parent.parent / "checkpoints" / "digits-2d.safetensors")
    metric = lg.metric(model)
    n = 3 if isinstance(solver, Collocation) else 20
    a, b = model.codes[:n], model.codes[n : 2 * n]
    graph = lg.LatentGraph(metric).fit(model.codes)
    best = connect(metric, a, b, init=graph, solver=Newton(rtol=1e-3), throw=False)
    path = connect(metric, a, b, init=graph, solver=solver, throw=False)
    ok = path.converged & best.converged
    assert float(ok.double().mean()) >= 0.6
    assert bool(((path.length / best.length)[ok] < 1.05).all())
    assert float((path.length / best.length)[ok].mean()) < 1.01
