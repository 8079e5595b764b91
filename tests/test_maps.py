"""exp and log, parallel transport, Jacobi fields: closed forms, identities between them, and a trained decoder."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from problems import (
    BALL,
    BALL3,
    ELLIPSOID,
    EUCLIDEAN,
    HALF_PLANE,
    HALF_PLANE_AMBIENT,
    LINE,
    PARABOLOID,
    SPHERE,
    SPHERE3,
    SPHERE_BY_TENSOR,
    SWISS_ROLL,
    TORUS,
    normal,
)
from torch import Tensor
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.geodesics import (
    GeodesicError,
    Newton,
    RungeKutta,
    Shooting,
    Status,
    connect,
    differential_exp,
    exp,
    jacobi_field,
    log,
    shoot,
    transport,
)
from latentgeo.metrics import HalfPlane, PoincareBall, PullbackMetric, Sphere, TensorMetric


def called(value: object) -> str:
    """A name that is the same in every process."""
    return getattr(value, "__name__", str(value))


CURVED = [SPHERE, SPHERE_BY_TENSOR, SPHERE3, BALL, BALL3, HALF_PLANE, HALF_PLANE_AMBIENT, PARABOLOID, TORUS, ELLIPSOID]
by_curved = pytest.mark.parametrize("problem", CURVED, ids=called)


def start(problem, n: int, length: float = 0.8) -> tuple[Tensor, Tensor]:
    z, v = problem.points(n, 0), normal(n, problem.dim, seed=1)
    return z, length * v / problem.metric.norm(z, v)[:, None]


def perpendicular(metric, z: Tensor, v: Tensor) -> Tensor:
    """Vectors at right angles to v, of metric length one, in two dimensions."""
    covector = (metric.tensor(z) @ v[..., None])[..., 0]
    u = torch.stack([-covector[..., 1], covector[..., 0]], -1)
    return u / metric.norm(z, u)[..., None]


# --- exp and log ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [*CURVED, EUCLIDEAN, SWISS_ROLL, LINE], ids=called)
def test_exp_of_log_is_the_identity(problem):
    a, b = problem.points(4, 0), problem.points(4, 1)
    v = log(problem.metric, a, b, verify=True)
    assert float((exp(problem.metric, a, v, solver=RungeKutta(rtol=1e-8)) - b).abs().max()) < 1e-6
    length = problem.metric.norm(a, v)
    exact = connect(problem.metric, a, b, solver=Newton(rtol=1e-6)).length if problem.distance is None else None
    assert_close(length, problem.distance(a, b) if exact is None else exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("problem", [SPHERE, BALL, HALF_PLANE, PARABOLOID], ids=called)
def test_log_of_exp_is_the_identity(problem):
    z, v = start(problem, 6)
    b = exp(problem.metric, z, v)
    assert_close(log(problem.metric, z, b, verify=True), v, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("problem", [SPHERE, BALL, HALF_PLANE_AMBIENT], ids=called)
def test_log_without_verification_is_as_long_as_the_distance(problem):
    a, b, exact = problem.pairs(20)
    v = log(problem.metric, a, b)
    assert_close(problem.metric.norm(a, v), exact, rtol=1e-3, atol=0)
    assert_close(exp(problem.metric, a, v), b, rtol=0, atol=5e-3)


def test_log_of_the_same_code_is_zero():
    a = BALL.points(3, 0)
    for verify in (False, True):
        assert torch.equal(log(BALL.metric, a, a, verify=verify), torch.zeros_like(a))


def test_log_of_failures():
    a = torch.tensor([[0.5, 0.0], [0.1, 0.0]], dtype=torch.float64)
    b = torch.tensor([[2.0, 0.0], [0.3, 0.4]], dtype=torch.float64)
    with pytest.raises(GeodesicError, match="1 of 2 curves failed"):
        log(BALL.metric, a, b)
    for verify in (False, True):
        v = log(BALL.metric, a, b, throw=False, verify=verify)
        assert v.isnan().all(-1).tolist() == [True, False]


def test_verification_fails_where_the_curve_is_no_geodesic():
    """Shortest curves are refracted at the folds of a piecewise linear map; shooting, blind to kinks, goes straight."""
    fold = PullbackMetric(lambda z: torch.cat([z[:, :1], (3 * z[:, 1:] + z[:, :1]).relu(), z[:, 1:]], -1), dim=2)
    a, b = torch.tensor([-1.0, -1.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(GeodesicError) as caught:
        log(fold, a, b, solver=Newton(rtol=1e-2), verify=True)
    assert caught.value.result.status.item() is not Status.CONVERGED


def test_exp_of_failures_is_nan():
    z = torch.tensor([[0.0, 2.0], [0.0, 0.5]], dtype=torch.float64)
    with pytest.raises(GeodesicError, match="1 of 2 curves failed"):
        exp(BALL.metric, z, torch.ones_like(z))
    assert exp(BALL.metric, z, torch.ones_like(z), throw=False).isnan().all(-1).tolist() == [True, False]


def test_periodic_coordinates_take_the_short_way():
    ring = PullbackMetric(lambda z: torch.cat([z.cos(), z.sin()], -1), dim=1, period=(2 * math.pi,))
    v = log(ring, torch.tensor([3.0]).double(), torch.tensor([-3.0]).double(), verify=True)
    assert_close(v, torch.tensor([2 * math.pi - 6.0]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("metric", [Sphere(2), PoincareBall(2), PARABOLOID.metric], ids=called)
def test_exp_is_differentiable(metric):
    z, v = (0.4 * normal(2, 2, seed=k) for k in range(2))
    z, v = z[:1].requires_grad_(), v[:1].requires_grad_()
    fine = RungeKutta(rtol=1e-8)
    assert torch.autograd.gradcheck(lambda z, v: exp(metric, z, v, solver=fine), (z, v), eps=1e-4, atol=1e-5)


def test_gradient_through_exp_at_zero_velocity():
    z, v = torch.tensor([0.3, 0.2]).double().requires_grad_(), torch.zeros(2).double().requires_grad_()
    exp(BALL.metric, z, v).sum().backward()
    assert_close(z.grad, torch.ones(2).double())
    assert_close(v.grad, torch.ones(2).double())


# --- Jacobi fields ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "growth"),
    [
        (SPHERE, torch.sin),
        (SPHERE_BY_TENSOR, torch.sin),
        (BALL, torch.sinh),
        (HALF_PLANE, torch.sinh),
        (HALF_PLANE_AMBIENT, torch.sinh),
        (SWISS_ROLL, lambda r: r),
    ],
    ids=called,
)
def test_jacobi_fields_of_constant_curvature(problem, growth):
    """|J| = sin(rt)/r, sinh(rt)/r, t for J(0) = 0 and a unit rate across the curve; linear for one along it."""
    z, v = start(problem, 5, 1.2)
    path = shoot(problem.metric, z, v, solver=RungeKutta(rtol=1e-8))
    across = perpendicular(problem.metric, z, v)
    J = jacobi_field(path, torch.zeros_like(v), torch.stack([across, v]))
    r, t = path.length[:, None], path.t
    assert_close(problem.metric.norm(path.z, J[0]), growth(r * t) / r, rtol=1e-5, atol=1e-6)
    assert_close(problem.metric.inner(path.z, J[0], path.velocity(t)), torch.zeros_like(r * t), rtol=0, atol=1e-5)
    assert_close(J[1], t[:, None] * path.velocity(t), rtol=1e-5, atol=1e-5)
    assert_close(J[:, :, 0], torch.zeros_like(J[:, :, 0]))


def test_jacobi_field_of_parallel_start():
    """J(0) of unit length across, DJ/dt(0) = 0: cos and cosh."""
    for problem, growth in ((SPHERE, torch.cos), (BALL, torch.cosh)):
        z, v = start(problem, 4, 1.2)
        path = shoot(problem.metric, z, v, solver=RungeKutta(rtol=1e-8))
        J = jacobi_field(path, perpendicular(problem.metric, z, v), torch.zeros_like(v))
        size = growth(path.length[:, None] * path.t)
        assert_close(problem.metric.norm(path.z, J), size.abs(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "problem", [SPHERE3, SPHERE_BY_TENSOR, BALL, HALF_PLANE_AMBIENT, PARABOLOID, TORUS], ids=called
)
def test_differential_of_exp_against_differences(problem):
    z, v = start(problem, 3, 0.9)
    found = differential_exp(problem.metric, z, v, solver=RungeKutta(rtol=1e-7))
    assert bool(found.converged.all())
    h, fine = 1e-3, RungeKutta(rtol=1e-10, checked=False)
    steps = h * torch.eye(problem.dim, dtype=torch.float64)
    ahead, behind = (exp(problem.metric, z[:, None], v[:, None] + k * steps, solver=fine) for k in (1, -1))
    assert_close(found.matrix, ((ahead - behind) / (2 * h)).mT, rtol=1e-5, atol=1e-5)
    assert_close(found.det, torch.linalg.det(found.matrix))
    assert_close(found.point, exp(problem.metric, z, v), rtol=0, atol=1e-5)
    assert_close(problem.metric.norm(found.point, found.velocity), problem.metric.norm(z, v), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("metric", "growth"), [(Sphere(2), torch.sin), (Sphere(4), torch.sin), (PoincareBall(3), torch.sinh)], ids=called
)
def test_change_of_volume(metric, growth):
    """(sin r / r)^(d−1) and its hyperbolic kin, in whatever coordinates."""
    d = metric.dim
    z, v = 0.3 * normal(12, d), 0.3 * normal(12, d, seed=1)
    z = z / (1 + z.norm(dim=-1, keepdim=True))
    r = metric.norm(z, v)
    want = (d - 1) * (growth(r) / r).log()
    assert_close(differential_exp(metric, z, v).log_jacobian, want, rtol=1e-5, atol=1e-6)


def test_conjugate_points():
    """On the sphere exp folds at distance π: the determinant changes its sign there."""
    v = torch.tensor([[math.pi / 2 - 0.1, 0.0], [0.0, math.pi / 2 + 0.1]], dtype=torch.float64)
    z = torch.full((2, 2), 0.0, dtype=torch.float64)
    shifted = exp(Sphere(2), z, torch.full_like(z, 0.2))  # keep off the chart's own infinity
    found = differential_exp(Sphere(2), shifted, v * (1 + shifted.square().sum(-1, keepdim=True)))
    assert found.det.sign().tolist() == [1.0, -1.0]


def test_differential_of_failures():
    z = torch.tensor([[0.0, 2.0], [0.0, 0.5], [0.1, 0.1]], dtype=torch.float64)
    v = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    found = differential_exp(BALL.metric, z, v, throw=False)
    assert found.converged.tolist() == [False, True, True]
    assert found.status[0] is Status.NOT_FINITE
    assert bool(found.matrix[0].isnan().all())
    assert bool(found.log_jacobian[0].isnan())
    assert_close(found.matrix[2], torch.eye(2, dtype=torch.float64))
    assert float(found.log_jacobian[2]) == 0.0
    assert repr(found) == "ExpDifferential(batch=(3,), d=2, 2/3 converged)"
    with pytest.raises(GeodesicError, match="1 of 3 curves failed"):
        differential_exp(BALL.metric, z, v)


# --- parallel transport -----------------------------------------------------------------------------------------------


@by_curved
def test_transport_keeps_norms_and_angles(problem):
    z, v = start(problem, 4, 1.0)
    path = shoot(problem.metric, z, v)
    u = normal(2, 4, problem.dim, seed=7)
    w = transport(path, u)
    assert w.shape == (2, 4, path.z.shape[1], problem.dim)
    assert torch.equal(w[:, :, 0], u)
    for pair in ((0, 0), (0, 1), (1, 1)):
        products = problem.metric.inner(path.z, w[pair[0]], w[pair[1]])
        assert_close(products, products[:, :1].expand_as(products), rtol=1e-12, atol=1e-12)
    # geodesics are autoparallel
    assert_close(transport(path, v), path.velocity(path.t), rtol=1e-5, atol=1e-5)


def triangle(metric, corners: Tensor, u: Tensor, solver=None) -> Tensor:
    """A vector carried round a geodesic triangle, back to where it came from."""
    for a, b in zip(corners, corners.roll(-1, 0), strict=True):
        u = transport(connect(metric, a, b, solver=solver), u)[-1]
    return u


@pytest.mark.parametrize(("metric", "sign"), [(Sphere(2), 1.0), (PoincareBall(2), -1.0)], ids=called)
def test_holonomy_is_the_enclosed_area(metric, sign):
    corners = torch.tensor([[0.1, 0.05], [0.6, 0.1], [0.2, 0.5]], dtype=torch.float64)
    fine = Shooting(rtol=1e-6)
    u = torch.tensor([1.0, 0.0], dtype=torch.float64)
    w = triangle(metric, corners, u, fine)
    angle = torch.atan2(w[1], w[0])
    edges = [
        log(metric, corners[i], corners[j], verify=True) for i, j in ((0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1))
    ]
    inner = sum(
        torch.acos((e * f).sum() / (e.norm() * f.norm()))
        for e, f in (edges[0:2], edges[2:4], edges[4:6])  # both charts are conformal
    )
    assert_close(angle, inner - math.pi, rtol=0, atol=1e-5)
    assert float(angle * sign) > 0.1


def test_transport_on_a_cone_turns_by_its_deficit():
    """Flat but for its tip: once round at any radius turns vectors by the same angle."""
    slope = 0.8
    cone = PullbackMetric(
        lambda z: torch.cat([slope * z, (1 - slope**2) ** 0.5 * z.norm(dim=-1, keepdim=True)], -1), dim=2
    )
    t = torch.linspace(0, 2 * math.pi, 129, dtype=torch.float64)
    turns = []
    for radius in (0.5, 2.0):
        u = torch.tensor([1.0, 0.0], dtype=torch.float64)
        for k in range(4):  # geodesics between four places on the circle enclose the tip too
            ends = radius * torch.stack([t[[32 * k, 32 * k + 32]].cos(), t[[32 * k, 32 * k + 32]].sin()], -1)
            u = transport(connect(cone, ends[0], ends[1], solver=Newton(rtol=1e-7, max_points=1025)), u)[-1]
        frame = torch.tensor([1.0, slope], dtype=torch.float64) * u  # radial, tangential at (r, 0)
        turns.append(torch.atan2(frame[1], frame[0]))
    deficit = torch.tensor(2 * math.pi * (1 - slope), dtype=torch.float64)
    assert_close(turns[0], deficit, rtol=0, atol=1e-4)
    assert_close(turns[1], deficit, rtol=0, atol=1e-4)


def test_transport_of_piecewise_linear_maps_needs_no_second_derivatives():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8)).double().eval()
    metric = PullbackMetric(net.requires_grad_(False), dim=2)
    path = shoot(metric, 0.1 * normal(3, 2), 0.05 * normal(3, 2, seed=1))
    u = normal(3, 2, seed=2)
    w = transport(path, u)
    assert_close(metric.norm(path.z, w), metric.norm(path.z[:, :1], u[:, None]).expand(3, 33), rtol=1e-12, atol=0)


def test_transport_tells_where_it_is_not_accurate():
    def bumps(z):
        return torch.cat([z, 0.3 * torch.sin(200 * z[:, :1]) * torch.cos(170 * z[:, 1:])], -1)

    metric = PullbackMetric(bumps, dim=2)
    ends = torch.tensor([[0.0, 0.0], [1.0, 0.4]], dtype=torch.float64)
    path = connect(metric, ends[0], ends[1], solver=Newton(max_points=33, max_steps=2), throw=False)
    with pytest.warns(UserWarning, match=r"transport is not accurate to rtol = 1e-12 along 1 of 1 curves"):
        transport(path, torch.ones(2, dtype=torch.float64), rtol=1e-12)


def test_transport_and_fields_where_paths_fail():
    z = torch.tensor([[0.0, 2.0], [0.0, 0.5]], dtype=torch.float64)
    path = shoot(BALL.metric, z, torch.ones_like(z), throw=False)
    for found in (transport(path, torch.ones_like(z)), jacobi_field(path, torch.ones_like(z), torch.ones_like(z))):
        assert bool(found[0].isnan().all())
        assert bool(found[1].isfinite().all())


def test_along_curves_of_no_length():
    z = BALL.points(2, 0)
    path = shoot(BALL.metric, z, torch.zeros_like(z))
    u = normal(2, 2, seed=1)
    assert_close(transport(path, u), u[:, None].expand(2, path.z.shape[1], 2))
    assert_close(jacobi_field(path, u, u), u[:, None] * (1 + path.t[:, None]))


def test_bad_arguments():
    z, v = start(BALL, 3)
    path = shoot(BALL.metric, z, v)
    with pytest.raises(TypeError, match="`path` must be a Geodesic"):
        transport(path.z, v)
    with pytest.raises(TypeError, match=r"`u` has dtype torch\.float32"):
        transport(path, v.float())
    with pytest.raises(ValueError, match=r"`u` must have shape \(\*batch, d\) with batch shape \(3,\)"):
        transport(path, v[:2])
    with pytest.raises(ValueError, match="`u` must have 2 latent coordinates"):
        transport(path, v[:, :1])
    with pytest.raises(TypeError, match="`path` must be a Geodesic"):
        jacobi_field(path.z, v, v)
    with pytest.raises(ValueError, match=r"`rate` must have shape \(\*batch, d\) with batch shape \(3,\)"):
        jacobi_field(path, v, v[:2])
    with pytest.raises(ValueError, match="`z` and `v` must have batch shapes that broadcast"):
        differential_exp(BALL.metric, z, v[:2])


# --- a trained decoder ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_identities_on_a_trained_decoder():
    model = lg.load(Path(__file__).resolve().parent.parent / "checkpoints" / "mnist-2d.safetensors")
    metric = lg.metric(model)
    z, v = model.codes[:20], torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    v = 5 * v / metric.norm(z, v)[:, None]
    path = shoot(metric, z, v, throw=False)
    assert float(path.converged.double().mean()) >= 0.95
    ok = path.converged
    assert float(path.stats["drift"][ok].max()) < 2e-2
    w = transport(path, v)
    assert_close(metric.norm(path.z, w)[ok], path.length[ok, None].expand(-1, path.z.shape[1]), rtol=1e-4, atol=0)
    gap = metric.norm(path.z, w - path.velocity(path.t))
    assert float((gap / path.length[:, None])[ok].max()) < 2e-2
    # the same decoder in float64 has the same geodesics
    fine = lg.ExpectedMetric(model.decoder.to(torch.float64))
    there = shoot(fine, z.double(), v.double(), throw=False)
    both = ok & there.converged
    assert float(both.double().mean()) >= 0.9
    gap = fine.norm(there.z[both, -1], path.z[both, -1].double() - there.z[both, -1])
    assert float((gap / there.length[both]).max()) < 3e-3
    back = log(fine, z.double()[both], there.z[both, -1], verify=True, throw=False, init=there.z[both])
    known = back.isfinite().all(-1)
    assert float(known.double().mean()) >= 0.8
    again = exp(fine, z.double()[both][known], back[known], solver=RungeKutta(rtol=1e-8))
    assert float((again - there.z[both, -1][known]).abs().max()) < 1e-6


def test_half_plane_and_flat_metric_by_tensor_agree():
    bare = TensorMetric(HALF_PLANE.tensor, dim=2)
    z, v = start(HALF_PLANE, 3)
    one, other = (differential_exp(metric, z, v) for metric in (HalfPlane(2), bare))
    assert_close(one.matrix, other.matrix, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_page_on_maps_runs(monkeypatch):
    root = Path(__file__).resolve().parent.parent
    monkeypatch.chdir(root)
    text = (root / "docs" / "maps.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "maps.md", "exec"), {})
