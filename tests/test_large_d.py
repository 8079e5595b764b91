"""Many latent dimensions: `Sobolev` geodesics and what metrics do to vectors without forming their tensor."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from problems import ball, normal, sphere
from torch import Tensor
from torch.testing import assert_close

from latentgeo import Embedding, LatentGraph, Newton, RankError, Sobolev, Status, connect, distance
from latentgeo._calculus import RankWarning
from latentgeo.geodesics._solvers.energy import ChordEnergy, energy_of
from latentgeo.geodesics._solvers.laplacian import Laplacian
from latentgeo.geodesics._solvers.products import ChordProducts, products_of
from latentgeo.geodesics.connect import default_solver
from latentgeo.metrics import (
    Euclidean,
    PoincareBall,
    PullbackMetric,
    Sphere,
    TensorMetric,
    conjugate_gradients,
    matrix_free,
)

SPHERE20, BALL16 = sphere(20), ball(16)


def rotation(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(rows, columns, seed=seed)).Q


def network(d: int, out: int, *, seed: int = 0, activation=torch.nn.Tanh, gain: float = 1.5) -> torch.nn.Module:
    hidden = 3 * d
    net = torch.nn.Sequential(torch.nn.Linear(d, hidden), activation(), torch.nn.Linear(hidden, out)).double().eval()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(gain * normal(*p.shape, seed=seed + k) / p.shape[-1] ** 0.5)
    return net.requires_grad_(False)


def curved(d: int, *, seed: int = 0) -> PullbackMetric:
    net = network(d, 2 * d, seed=seed)
    return PullbackMetric(lambda z: torch.cat([net(z), 0.3 * z], -1), dim=d)


def paraboloid(d: int) -> PullbackMetric:
    """A paraboloid over the first two coordinates, flat in the others, seen through random rotations."""
    turn, lift = rotation(d, d), rotation(2 * d, d + 1, seed=1)

    def phi(z: Tensor) -> Tensor:
        y = z @ turn
        return torch.cat([y, y[:, :2].square().sum(-1, keepdim=True)], -1) @ lift.T

    return PullbackMetric(phi, dim=d)


# --- geodesics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [SPHERE20, BALL16], ids=str)
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_closed_forms(problem, rtol):
    a, b, exact = (part[:6] for part in problem.pairs(30))
    path = connect(problem.metric, a, b, solver=Sobolev(rtol=rtol))
    assert bool(((path.length - exact).abs() <= rtol * exact).all())
    assert bool(((path.length - exact).abs() <= path.length_error + 1e-12).all())
    assert float(path.residual.max()) <= 1e-6


def test_rotated_paraboloid_is_the_plane_problem():
    d = 24
    metric = paraboloid(d)
    turn = rotation(d, d)
    a, b = normal(5, d), normal(5, d, seed=1)
    path = connect(metric, a, b, solver=Sobolev(rtol=1e-6))
    small = PullbackMetric(lambda y: torch.cat([y, y.square().sum(-1, keepdim=True)], -1), dim=2)
    start, end = a @ turn, b @ turn
    plane = connect(small, start[:, :2], end[:, :2], solver=Newton(rtol=1e-8)).length
    flat = (start[:, 2:] - end[:, 2:]).norm(dim=-1)
    assert_close(path.length, (plane.square() + flat.square()).sqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("d", [2, 4, 8])
def test_agrees_with_newton(d):
    metric = curved(d)
    a, b = normal(5, d), normal(5, d, seed=1)
    ours, dense = (connect(metric, a, b, solver=kind(rtol=1e-6)) for kind in (Sobolev, Newton))
    assert_close(ours.length, dense.length, rtol=2e-6, atol=0)
    assert_close(ours(0.5), dense(0.5), rtol=1e-3, atol=1e-3)
    assert bool(ours.certified.all())


def test_symmetric_and_independent_of_units():
    metric = curved(20)
    a, b = normal(4, 20), normal(4, 20, seed=1)
    there, back = connect(metric, a, b), connect(metric, b, a)
    assert_close(there.length, back.length, rtol=1e-7, atol=0)
    for scale in (2.0**-13, 2.0**13):
        function = metric.embedding.function
        scaled = PullbackMetric(lambda z, s=scale, f=function: s * f(z), dim=20)
        other = connect(scaled, a, b)
        assert list(other.status) == list(there.status)
        assert_close(other.length, scale * there.length, rtol=1e-9, atol=0)


def test_single_precision():
    metric = PullbackMetric(network(20, 40).float(), dim=20)
    double = PullbackMetric(network(20, 40), dim=20)
    a, b = normal(6, 20), normal(6, 20, seed=1)
    path = connect(metric, a.float(), b.float())
    assert path.length.dtype == path.z.dtype == torch.float32
    assert_close(path.length.double(), connect(double, a, b).length, rtol=2e-3, atol=0)


def test_piecewise_linear_maps_get_no_certificate_and_honest_ends():
    metric = PullbackMetric(network(20, 60, activation=torch.nn.ReLU), dim=20)
    a, b = normal(4, 20), normal(4, 20, seed=1)
    path = connect(metric, a, b, solver=Sobolev(rtol=1e-2, residual_tol=1e-2))
    straight = connect(Euclidean(20), a, b)
    assert not bool(path.certified.any())
    assert bool((path.length < 1.01 * metric_length(metric, straight.z)).all())


def metric_length(metric: PullbackMetric, z: Tensor) -> Tensor:
    fine = torch.nn.functional.interpolate(z.mT, 2001, mode="linear", align_corners=True).mT
    return metric.embedding(fine).diff(dim=-2).norm(dim=-1).sum(-1)


def test_bad_and_equal_end_points_leave_the_others_alone():
    metric = curved(20)
    a, b = normal(4, 20), normal(4, 20, seed=1)
    a[1, 3], b[2] = math.nan, a[2]
    path = connect(metric, a, b, throw=False)
    assert list(path.status) == [Status.CONVERGED, Status.BAD_ENDPOINT, Status.CONVERGED, Status.CONVERGED]
    assert float(path.length[2]) == 0.0
    assert bool(path.length[1].isnan())


def test_metric_that_ends_on_the_way():
    a, b = torch.zeros(2, 16, dtype=torch.float64), torch.zeros(2, 16, dtype=torch.float64)
    b[0, 0], b[1, 1] = 2.0, 0.5
    path = connect(PoincareBall(16), a, b, throw=False)
    assert list(path.status) == [Status.NOT_FINITE, Status.CONVERGED]


def test_decoders_of_lower_rank_than_their_latent_space():
    """Distances are those of the image; the curve is no isolated minimum, and nothing claims it is."""
    down, net = rotation(20, 5), network(5, 30)
    metric = PullbackMetric(lambda z: net(z @ down), dim=20)
    small = PullbackMetric(net, dim=5)
    a, b = normal(4, 20), normal(4, 20, seed=1)
    path = connect(metric, a, b)
    assert not bool(path.certified.any())
    assert_close(path.length, connect(small, a @ down, b @ down).length, rtol=1e-3, atol=0)
    certified = connect(metric, a, b, solver=Sobolev(certify=True), throw=False)
    assert not bool(certified.certified.any())


def test_saddles_are_left():
    """A straight line over a hill is critical by symmetry, and no minimum in any direction around it."""
    d = 20

    def phi(z: Tensor) -> Tensor:
        return torch.cat([z, 4 * torch.exp(-2 * z.square().sum(-1, keepdim=True))], -1)

    a, b = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    a[0], b[0] = -1.5, 1.5
    metric = PullbackMetric(phi, dim=d)
    path = connect(metric, a, b, throw=False)
    over = metric_length(metric, torch.stack([a, b])[None])
    assert bool(path.converged)
    assert float(path.length) < 0.9 * float(over)
    stuck = connect(metric, a, b, solver=Newton(), throw=False)
    assert_close(path.length, stuck.length, rtol=2e-3, atol=0)


def test_certificate_on_request():
    metric = curved(14)
    a, b = normal(2, 14), normal(2, 14, seed=1)
    plain, asked = (connect(metric, a, b, solver=Sobolev(certify=c)) for c in (None, True))
    dense = connect(metric, a, b, solver=Newton())
    assert not bool(plain.certified.any())
    assert asked.certified.tolist() == dense.certified.tolist()
    assert bool(asked.certified.all())


def test_certificate_by_products():
    d = 70
    a, b = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    a[0], b[0], b[1] = -0.6, 0.6, 0.1
    near = connect(Sphere(d), a, b, solver=Sobolev(certify=True))
    assert bool(near.certified)
    kinks = PullbackMetric(network(d, 2 * d, activation=torch.nn.ReLU), dim=d)
    solver = Sobolev(certify=True, rtol=1e-2, residual_tol=1e-2)
    assert not bool(connect(kinks, a, b, solver=solver, throw=False).certified)


def test_tensors_alone_are_enough():
    bare = TensorMetric(SPHERE20.tensor, dim=20)
    a, b, exact = (part[:3] for part in SPHERE20.pairs(30))
    assert_close(distance(bare, a, b), exact, rtol=1e-3, atol=0)


@pytest.mark.filterwarnings("ignore::latentgeo._calculus.DerivativeWarning")
def test_maps_that_switch_reverse_mode_off():
    function = paraboloid(16).embedding.function

    def phi(z: Tensor) -> Tensor:
        with torch.no_grad():
            return function(z)

    a, b = normal(2, 16), normal(2, 16, seed=1)
    assert_close(distance(PullbackMetric(phi, dim=16), a, b), distance(paraboloid(16), a, b), rtol=1e-3, atol=0)


def test_memory_budget_changes_nothing():
    d = 20
    net = network(d, 40)
    a, b = normal(3, d), normal(3, d, seed=1)
    tight = PullbackMetric(Embedding(net, dim=d, max_bytes=2**14), dim=d)
    wide = PullbackMetric(net, dim=d)
    assert_close(connect(tight, a, b).length, connect(wide, a, b).length, rtol=1e-9, atol=0)


def test_batch_equals_loop():
    metric = curved(20)
    a, b = normal(3, 20), normal(3, 20, seed=1)
    together = connect(metric, a, b)
    for k in range(3):
        assert_close(connect(metric, a[k], b[k]).length, together.length[k], rtol=1e-7, atol=0)


def test_chosen_by_dimension_and_overridable():
    assert default_solver(15) == Newton()
    assert default_solver(16) == Sobolev()
    a, b = normal(16), normal(16, seed=1)
    path = connect(Euclidean(16), a, b, solver=Newton())
    assert bool(path.certified)
    assert not bool(connect(Euclidean(16), a, b).certified)


def test_graph_start_is_taken_only_where_it_is_better():
    d = 16
    metric = curved(d)
    codes = normal(60, d, seed=3)
    a, b = codes[:4], codes[4:8]
    graph = LatentGraph(metric, n_neighbors=5).fit(codes)
    from_graph, straight = connect(metric, a, b, init=graph), connect(metric, a, b)
    assert bool((from_graph.length <= straight.length * (1 + 2e-3)).all())


def test_gradient_of_distance():
    metric = SPHERE20.metric
    a, b, _ = (part[:3] for part in SPHERE20.pairs(30))
    a = a.clone().requires_grad_()
    distance(metric, a, b, solver=Sobolev(rtol=1e-6)).sum().backward()
    again = a.detach().clone().requires_grad_()
    SPHERE20.distance(again, b).sum().backward()
    assert_close(a.grad, again.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"n_points": 2},
        {"max_points": 5},
        {"rtol": 0.0},
        {"residual_tol": math.nan},
        {"max_steps": 0},
        {"memory": 0},
        {"certify": "yes"},
    ],
)
def test_options(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        Sobolev(**options)


# --- the parts --------------------------------------------------------------------------------------------------------

METRICS = {
    "smooth": curved(5),
    "ambient": PullbackMetric(network(5, 7), dim=5, ambient=lambda x: (0.1 * x).exp()),
    "tensor": TensorMetric(lambda z: torch.eye(5, dtype=z.dtype) * (1 + z.square().sum(-1)[..., None, None]), dim=5),
}


@pytest.mark.parametrize("name", METRICS)
def test_gradients_and_products_are_those_of_the_dense_model(name):
    metric = METRICS[name]
    z, v = normal(3, 9, 5), normal(3, 7, 5, seed=1)
    products, energy = products_of(metric, z), energy_of(metric, z)
    model = energy.model(z)
    value, noise, gradient = products.evaluate(z)
    diagonal, upper = model.exact()
    want = torch.einsum("Bmij,Bmj->Bmi", diagonal, v)
    want[:, :-1] += torch.einsum("Bmij,Bmj->Bmi", upper, v[:, 1:])
    want[:, 1:] += torch.einsum("Bmji,Bmj->Bmi", upper, v[:, :-1])
    assert_close(value, energy.value(z)[0])
    assert_close(noise, energy.value(z)[1])
    assert_close(gradient, model.gradient)
    assert_close(products.hessian(z)(v), want)


def test_products_by_every_path_and_in_pieces():
    metric = METRICS["smooth"]
    z, v = normal(3, 9, 5), normal(3, 7, 5, seed=1)
    whole = products_of(metric, z)
    small = PullbackMetric(Embedding(metric.embedding.function, dim=5, max_bytes=2**13), dim=5)
    energy = energy_of(small, z)
    assert isinstance(energy, ChordEnergy)
    cut = ChordProducts(energy, small)
    assert cut._rows(z, 3) < 9
    for got, want in zip(cut.evaluate(z), whole.evaluate(z), strict=True):
        assert_close(got, want)
    assert_close(cut.hessian(z)(v), whole.hessian(z)(v))
    assert_close(cut._composed(z)(v), whole.hessian(z)(v))


@pytest.mark.parametrize(("parts", "mean"), [(1, False), (3, False), (8, False), (3, True)])
def test_laplacian_is_inverted(parts, mean):
    z, g = normal(3, 9, 5), normal(3, 7, 5, seed=1)
    P = Laplacian(METRICS["smooth"], z, parts, mean=mean)
    x = torch.nn.functional.pad(P.solve(torch.arange(3), g), (0, 0, 1, 1))
    flux = 8 * P._weighed(torch.arange(3), x.diff(dim=1), P.values)
    assert_close(flux[:, :-1] - flux[:, 1:], g)


def test_laplacian_in_very_many_dimensions():
    z, g = normal(2, 9, 600), normal(2, 7, 600, seed=1)
    P = Laplacian(Euclidean(600), z, 2)
    assert P.vectors is None
    x = torch.nn.functional.pad(P.solve(torch.arange(2), g), (0, 0, 1, 1)).diff(dim=1)
    assert_close(8 * (x[:, :-1] - x[:, 1:]), g)
    a, b = torch.zeros(600, dtype=torch.float64), torch.full((600,), 0.02, dtype=torch.float64)
    assert_close(distance(Sphere(600), a, b), 2 * (0.02 * 600**0.5 * torch.ones((), dtype=torch.float64)).atan())


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [curved(20), PullbackMetric(network(20, 30), dim=20, ambient=torch.exp), Sphere(20)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_vector_operations_agree_with_the_tensor(metric, dtype):
    if dtype == torch.float32 and metric.embedding is not None:
        return
    z, u, v = (0.5 * normal(4, 20, seed=k).to(dtype) for k in range(3))
    G = metric.tensor(z)
    tol = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    assert_close(metric.product(z, v), torch.einsum("Bij,Bj->Bi", G, v), **tol)
    assert_close(metric.inner(z, u, v), torch.einsum("Bi,Bij,Bj->B", u, G, v), **tol)
    assert_close(metric.solve(z, metric.product(z, v)), v, **tol)
    assert_close(metric.product(z[0], v), torch.einsum("ij,Bj->Bi", G[0], v), **tol)


def test_inner_products_are_differentiable():
    metric = METRICS["smooth"]
    z, u, v = (normal(2, 5, seed=k).requires_grad_() for k in range(3))
    assert torch.autograd.gradcheck(metric.inner, (z, u, v))


def test_conjugate_gradients_say_what_they_reached():
    metric = curved(20)
    z, w = normal(5, 20), normal(5, 20, seed=1)
    w[3] = 0.0
    full = conjugate_gradients(metric, z, w)
    assert bool(full.converged.all())
    assert float(full.residual.max()) < 1e-9
    assert int(full.steps[3]) == 0
    short = conjugate_gradients(metric, z, w, max_steps=2)
    assert short.converged.tolist() == [False, False, False, True, False]
    left = (metric.product(z, short.x) - w).norm(dim=-1)[0] / w[0].norm()
    assert_close(short.residual[0], left)
    assert repr(short).startswith("LinearSolution(1/5 converged")
    for options in ({"rtol": 0.0}, {"max_steps": 0}, {"max_steps": 1.5}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
            conjugate_gradients(metric, z, w, **options)


def test_solve_where_the_metric_is_singular_or_not_finite():
    down = rotation(20, 5)
    metric = PullbackMetric(lambda z: (z @ down).sin(), dim=20)
    z, w = normal(3, 20), normal(3, 20, seed=1)
    with pytest.raises(RankError, match="rank-deficient at 3 of 3"):
        metric.solve(z, w)
    assert bool(metric.solve(z, w, throw=False).isnan().all())
    mixed = TensorMetric(lambda z: torch.eye(3, dtype=z.dtype) * z[..., :1, None], dim=3)
    z = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [math.nan, 0.0, 0.0]])
    assert mixed.solve(z, torch.ones(3), throw=False)[:, 0].isnan().tolist() == [False, True, True]
    assert mixed.random_tangent(z, throw=False)[:, 0].isnan().tolist() == [False, True, True]


@pytest.mark.parametrize(
    "metric",
    [
        PullbackMetric(lambda z: (z * torch.linspace(0.5, 2, 16, dtype=z.dtype)) @ rotation(24, 16).T.to(z), dim=16),
        PullbackMetric(network(3, 8), dim=3, ambient=lambda x: (0.1 * x).exp()),
        Sphere(4),
    ],
    ids=["flat, d = 16", "ambient", "closed form"],
)
def test_random_tangents_have_the_inverse_metric_as_covariance(metric):
    z = 0.3 * normal(metric.dim)
    n = 20_000
    v = metric.random_tangent(z.expand(n, -1), random_state=0)
    again = metric.random_tangent(z.expand(n, -1), random_state=torch.Generator().manual_seed(0))
    assert torch.equal(v, again)
    G = metric.tensor(z)
    root = torch.linalg.cholesky(G)
    white = (v @ root).T.cov()
    assert_close(white, torch.eye(metric.dim, dtype=z.dtype), rtol=0, atol=6 * (2 / n) ** 0.5)
    assert float((v @ root).mean(0).abs().max()) < 5 / n**0.5
    with pytest.raises(TypeError, match="`random_state` must be"):
        metric.random_tangent(z, random_state="seed")


def test_random_tangents_of_a_singular_metric_stay_in_the_directions_that_count():
    down = rotation(20, 5)
    metric = PullbackMetric(lambda z: (z @ down).sin(), dim=20)
    v = matrix_free.random_tangent(metric, 0.3 * normal(50, 20), 0, throw=True, iterate=True)
    assert_close(v @ down @ down.T, v)
    for low in (metric, PullbackMetric(lambda z: z[:, :1].sin(), dim=3)):
        with pytest.raises(RankError, match="condition number"):
            low.random_tangent(normal(low.dim))


def test_small_stretches_survive_single_precision():
    """G has a condition number of 1e10, which float32 cannot hold; J has 1e5, which it can."""
    scales = torch.logspace(0, -5, 20, dtype=torch.float64)
    turn, back = rotation(30, 20), rotation(20, 20, seed=1)
    metric = PullbackMetric(lambda z: (z.to(torch.float64) @ back * scales @ turn.T).to(z.dtype), dim=20)
    z, w = torch.zeros(3, 20), torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    assert_close(metric.log_volume(z).double(), scales.log().sum().expand(3), rtol=1e-3, atol=0)
    want = (w.double() @ back / scales**2) @ back.T
    assert_close(metric.solve(z, w).double(), want, rtol=0.05, atol=0.05 * float(want.abs().max()))


def test_iterating_gives_the_same_draws_in_law():
    metric = curved(20)
    z = 0.3 * normal(20)
    v = matrix_free.random_tangent(metric, z.expand(4000, -1), 0, throw=True, iterate=True)
    white = (v @ torch.linalg.cholesky(metric.tensor(z))).T.cov()
    assert_close(white, torch.eye(20, dtype=z.dtype), rtol=0, atol=6 * (2 / 4000) ** 0.5)


def test_log_volume_in_blocks_of_tangents():
    d = 20
    net = network(d, 40)
    z = normal(3, d)
    want = PullbackMetric(net, dim=d).log_volume(z)
    for budget in (2**12, 2**14):
        tight = PullbackMetric(Embedding(net, dim=d, max_bytes=budget), dim=d)
        assert_close(tight.log_volume(z), want)
    z = z.requires_grad_()
    (slope,) = torch.autograd.grad(PullbackMetric(net, dim=d).log_volume(z).sum(), z)
    tight = PullbackMetric(Embedding(net, dim=d, max_bytes=2**14), dim=d)
    assert_close(torch.autograd.grad(tight.log_volume(z).sum(), z)[0], slope)


def test_stochastic_log_volume():
    metric = curved(40)
    z = normal(4, 40)
    want = metric.log_volume(z)
    found = metric.estimate_log_volume(z, n_probes=64, n_steps=40, random_state=0)
    assert found.value.shape == found.standard_error.shape == (4,)
    score = (found.value - want) / found.standard_error
    assert float(score.abs().max()) < 4
    assert float(score.square().mean()) > 0.1  # nor are the errors far too large
    assert float(found.truncation.max()) < 1e-3
    more = metric.estimate_log_volume(z, n_probes=256, n_steps=40, random_state=1)
    assert_close(found.standard_error / more.standard_error, torch.full_like(want, 2.0), rtol=0.4, atol=0)
    short = metric.estimate_log_volume(z, n_probes=64, n_steps=4, random_state=0)
    assert float(short.truncation.min()) > 1e-2
    assert torch.equal(
        metric.estimate_log_volume(z, random_state=3).value, metric.estimate_log_volume(z, random_state=3).value
    )


def test_stochastic_log_volume_of_a_singular_metric():
    down = rotation(20, 5)
    metric = PullbackMetric(lambda z: (z @ down).sin(), dim=20)
    z = normal(2, 20)
    with pytest.warns(RankWarning):
        assert bool((metric.log_volume(z) == -torch.inf).all())
    assert bool((metric.estimate_log_volume(z, random_state=0).value == -torch.inf).all())


@pytest.mark.parametrize("options", [{"n_probes": 1}, {"n_steps": 0}, {"n_probes": 2.0}])
def test_stochastic_log_volume_options(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        Sphere(4).estimate_log_volume(torch.zeros(4), **options)


def test_empty_batches():
    metric = curved(20)
    z = torch.zeros(0, 20, dtype=torch.float64)
    assert metric.product(z, z).shape == metric.solve(z, z).shape == metric.random_tangent(z).shape == (0, 20)
    assert metric.estimate_log_volume(z).value.shape == (0,)
    assert connect(metric, z, z).length.shape == (0,)


def test_frozen_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sobolev().rtol = 1.0
    assert hash(Sobolev()) == hash(Sobolev())
