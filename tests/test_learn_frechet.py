"""Fréchet means against closed forms and independent iterations, uniqueness, bad input; principal geodesic analysis."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from problems import BALL, HALF_PLANE, PARABOLOID, SPHERE, SPHERE3, SPHERE_BY_TENSOR, normal
from torch.testing import assert_close

from latentgeo.geodesics import LatentGraph, Newton, connect, log
from latentgeo.learn import FrechetWarning, GeodesicPCA, MeanStatus, frechet_mean
from latentgeo.metrics import Euclidean, HalfPlane, PoincareBall, PullbackMetric, Sphere, TensorMetric

SHARP = Newton(rtol=1e-7, n_points=129)


def on_sphere(z):
    phi = Sphere().embedding
    assert phi is not None
    return phi(z)


def sphere_mean(z, w):
    """Karcher's iteration in the ambient space, with the sphere's own exp and log."""
    x = on_sphere(z)
    m = (w[:, None] * x).sum(0)
    m = m / m.norm()
    for _ in range(300):
        cos = (x @ m).clamp(-1, 1)
        side = x - cos[:, None] * m
        unit = side / side.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        v = (w[:, None] * cos.acos()[:, None] * unit).sum(0) / w.sum()
        size = v.norm()
        if float(size) < 1e-15:
            break
        m = size.cos() * m + size.sin() * v / size
    variance = (w * (x @ m).clamp(-1, 1).acos() ** 2).sum() / w.sum()
    return m[:-1] / (1 + m[-1]), float(variance)


def hyperbolic_mean(z, w):
    """Karcher's iteration on the hyperboloid, from codes of the Poincaré ball."""
    s = z.square().sum(-1, keepdim=True)
    x = torch.cat([2 * z, 1 + s], -1) / (1 - s)
    J = torch.ones(x.shape[-1], dtype=torch.float64)
    J[-1] = -1

    def dot(a, b):
        return (a * J * b).sum(-1)

    m = x[0]
    for _ in range(500):
        cosh = (-dot(x, m)).clamp_min(1)
        side = x - cosh[:, None] * m
        size = dot(side, side).clamp_min(0).sqrt()
        unit = torch.where(size[:, None] > 0, side / size.clamp_min(1e-300)[:, None], 0.0)
        v = 0.5 * (w[:, None] * cosh.acosh()[:, None] * unit).sum(0) / w.sum()
        step = dot(v, v).clamp_min(0).sqrt()
        if float(step) < 1e-15:
            break
        m = step.cosh() * m + step.sinh() * v / step
    variance = (w * (-dot(x, m)).clamp_min(1).acosh() ** 2).sum() / w.sum()
    return m[:-1] / (1 + m[-1]), float(variance)


@pytest.mark.parametrize("problem", [SPHERE, SPHERE3, SPHERE_BY_TENSOR], ids=str)
def test_sphere_mean_agrees_with_ambient_iteration(problem):
    z = 0.7 * problem.points(12, 3)
    w = torch.rand(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean, variance = sphere_mean(z, w)
    found = frechet_mean(problem.metric, z, w, solver=SHARP, tol=1e-8)
    assert found.converged
    assert_close(found.mean, mean, atol=1e-6, rtol=0)
    assert abs(found.variance - variance) < 1e-9
    assert_close(found.distances, problem.distance(z, mean.expand_as(z)), atol=1e-6, rtol=0)


def test_hyperbolic_mean_agrees_with_hyperboloid_iteration():
    z = BALL.points(12, 3)
    w = torch.rand(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean, variance = hyperbolic_mean(z, w)
    found = frechet_mean(BALL.metric, z, w, solver=SHARP, tol=1e-8)
    assert found.converged
    assert found.unique is True
    assert_close(found.mean, mean, atol=4e-6, rtol=0)  # 129 nodes: see the order below
    assert abs(found.variance - variance) < 1e-8


def test_mean_converges_with_the_square_of_the_nodes():
    z = BALL.points(8, 3)
    mean, _ = hyperbolic_mean(z, torch.ones(8, dtype=torch.float64))
    errors = [
        float((frechet_mean(BALL.metric, z, solver=Newton(rtol=0.3, n_points=n), tol=1e-9).mean - mean).norm())
        for n in (17, 33, 65)
    ]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(orders) > 1.8


def test_mean_of_two_is_the_midpoint():
    z = torch.tensor([[0.3, 0.5], [-0.4, 2.0]], dtype=torch.float64)
    middle = connect(HALF_PLANE.metric, z[0], z[1], solver=SHARP)(0.5)[0]
    found = frechet_mean(HALF_PLANE.metric, z, solver=SHARP, tol=1e-8)
    assert_close(found.mean, middle, atol=1e-5, rtol=0)
    distance = float(HALF_PLANE.distance(z[0], z[1]))
    assert abs(found.variance - distance**2 / 4) < 1e-8
    # on a vertical line the closed form is the geometric mean
    line = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 32.0]], dtype=torch.float64)
    got = frechet_mean(HALF_PLANE.metric, line, torch.tensor([1.0, 1.0, 2.0]), solver=SHARP, tol=1e-8)
    want = math.exp((math.log(2.0) + 2 * math.log(32.0)) / 4)
    assert_close(got.mean, torch.tensor([0.0, want], dtype=torch.float64), atol=1e-5, rtol=1e-6)


def test_euclidean_mean_is_the_average_in_any_kind_of_array():
    z = normal(20, 3, seed=1)
    w = torch.rand(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    want = (w[:, None] * z).sum(0) / w.sum()
    assert_close(frechet_mean(None, z, w).mean, want)
    assert_close(frechet_mean(PullbackMetric(torch.clone), z, w, tol=1e-9).mean, want, atol=1e-7, rtol=0)
    array = frechet_mean(Euclidean(3), z.numpy().astype(np.float32), w.numpy())
    assert isinstance(array.mean, np.ndarray)
    assert array.mean.dtype == np.float32
    np.testing.assert_allclose(array.mean, want.numpy(), rtol=1e-5, atol=1e-6)


def test_descent_needs_few_steps_where_karcher_overshoots():
    # far apart in negative curvature the Hessian is d·coth d: Karcher's step of one overshoots beyond d ≈ 1.9
    z = torch.tensor([[-8.0, 1.0], [8.0, 1.0], [0.0, 9.0]], dtype=torch.float64)
    found = frechet_mean(HALF_PLANE.metric, z, init=z[2], tol=1e-6)
    assert found.converged
    assert found.n_iter <= 20


def test_weights_count_like_repetition():
    z = PARABOLOID.points(8, 0)
    w = torch.tensor([0, 1, 2, 1, 0, 3, 1, 1])
    weighted = frechet_mean(PARABOLOID.metric, z, w, tol=1e-7, solver=SHARP)
    repeated = frechet_mean(PARABOLOID.metric, z.repeat_interleave(w, 0), tol=1e-7, solver=SHARP)
    assert_close(weighted.mean, repeated.mean, atol=1e-6, rtol=0)
    assert abs(weighted.variance - repeated.variance) < 1e-8


def test_graph_gives_the_same_mean():
    z = 0.4 * PARABOLOID.points(40, 0)
    graph = LatentGraph(PARABOLOID.metric, grid=24).fit(z)
    plain, started = (frechet_mean(PARABOLOID.metric, z, graph=g, tol=1e-5) for g in (None, graph))
    assert started.converged
    assert_close(started.mean, plain.mean, atol=1e-3, rtol=0)


def test_wide_support_on_the_sphere_warns():
    near = 0.1 * normal(8, 2, seed=5)
    z = torch.cat([near, torch.tensor([[math.tan(1.0), 0.0]], dtype=torch.float64)])  # one code at polar angle 2
    with pytest.warns(FrechetWarning, match=r"need not be unique.*only below 1\.57"):
        found = frechet_mean(SPHERE.metric, z)
    assert found.unique is None
    assert 1.6 < found.support_radius < 2.0


def test_starts_that_disagree_are_reported():
    # on a cylinder two opposite groups of codes have two means, one on either side
    cylinder = PullbackMetric(
        lambda z: torch.stack([z[:, 0].cos(), z[:, 0].sin(), z[:, 1]], -1), dim=2, period=(2 * math.pi, None)
    )
    z = torch.tensor([[0.0, 0.0], [math.pi - 1e-9, 0.0], [0.0, 0.1], [math.pi - 1e-9, 0.1]], dtype=torch.float64)
    side = torch.tensor([1.5, 0.0], dtype=torch.float64)
    left, right = (frechet_mean(cylinder, z, init=s * side) for s in (1, -1))
    assert abs(float(left.mean[0]) - math.pi / 2) < 1e-2
    assert abs(float(right.mean[0]) + math.pi / 2) < 1e-2
    assert abs(left.variance - right.variance) < 1e-6
    assert left.unique is None
    with pytest.warns(FrechetWarning, match="not unique: 2 different means"):
        found = frechet_mean(cylinder, z, starts=2, init=-side)
    assert found.unique is False


@pytest.mark.parametrize(
    ("metric", "z", "options", "match"),
    [
        (Euclidean(2), torch.full((3, 2), torch.nan), {}, "3 of 3 codes with NaN"),
        (Euclidean(2), np.array([[0.0, np.inf]]), {}, "1 of 1 codes"),
        (Euclidean(3), torch.zeros(3, 2), {}, "3"),
        (Euclidean(2), torch.zeros(0, 2), {}, "N >= 1"),
        (Euclidean(2), torch.zeros(2), {}, "N >= 1"),
        (Euclidean(2), torch.zeros(3, 2), {"weights": [1, 2]}, "one for each code"),
        (Euclidean(2), torch.zeros(3, 2), {"weights": [0, 0, 0]}, "not all of them zero"),
        (Euclidean(2), torch.zeros(3, 2), {"weights": [1, -1, 1]}, "negative"),
        (Euclidean(2), torch.zeros(3, 2), {"init": [0.0]}, "init"),
        (Euclidean(2), torch.zeros(3, 2), {"tol": 0.0}, "tol"),
        (Euclidean(2), torch.zeros(3, 2), {"starts": 0}, "starts"),
    ],
)
def test_bad_input_is_named(metric, z, options, match):
    with pytest.raises(ValueError, match=match):
        frechet_mean(metric, z, **options)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="Metric"):
        frechet_mean("euclidean", torch.zeros(3, 2))
    with pytest.raises(TypeError, match="real numbers"):
        frechet_mean(None, np.array([["a", "b"]]))


def test_one_code_and_equal_codes_are_their_own_mean():
    for n in (1, 5):
        z = torch.tensor([[0.2, 0.3]], dtype=torch.float64).expand(n, 2)
        found = frechet_mean(PoincareBall(2), z)
        assert found.converged
        assert_close(found.mean, z[0], atol=1e-12, rtol=0)
        assert found.variance < 1e-20


def test_unusable_metric_has_a_status():
    half = TensorMetric(lambda z: torch.where(z[..., :1, None] > 0, torch.eye(2, dtype=z.dtype), torch.nan), dim=2)
    z = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    with pytest.warns(FrechetWarning, match="not finite"):
        found = frechet_mean(half, z)
    assert found.status is MeanStatus.NOT_FINITE
    assert not found.converged


def test_step_limit_has_a_status():
    z = HALF_PLANE.points(5, 0)
    with pytest.warns(FrechetWarning, match="max_iter"):
        found = frechet_mean(HalfPlane(), z, max_iter=1, tol=1e-9, init=z[0])
    assert found.status is MeanStatus.MAX_ITER


# --- principal geodesics ---------------------------------------------------------------------------------------------


def test_pca_without_a_metric_is_pca():
    from sklearn.decomposition import PCA

    X = normal(40, 4, seed=2).numpy() @ np.diag([3.0, 2.0, 1.0, 0.5])
    mine, theirs = GeodesicPCA(n_components=3).fit(X), PCA(3, svd_solver="full").fit(X)
    n = len(X)
    np.testing.assert_allclose(mine.explained_variance_ * n / (n - 1), theirs.explained_variance_)
    np.testing.assert_allclose(mine.explained_variance_ratio_, theirs.explained_variance_ratio_)
    np.testing.assert_allclose(np.abs((mine.components_ * theirs.components_).sum(1)), 1.0)
    np.testing.assert_allclose(np.abs(mine.transform(X)), np.abs(theirs.transform(X)), atol=1e-9)


def test_pca_of_a_great_circle_is_one_dimensional():
    t = torch.linspace(-0.6, 0.5, 9, dtype=torch.float64)
    axis = torch.tensor([0.6, 0.8], dtype=torch.float64)
    z = torch.tan(t / 2)[:, None] * axis  # polar angle t along one meridian
    pca = GeodesicPCA(Sphere(2), solver=SHARP, tol=1e-8).fit(z.numpy())
    np.testing.assert_allclose(pca.explained_variance_ratio_, [1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(pca.explained_variance_.sum(), float(t.var(unbiased=False)), rtol=1e-6)
    scores = pca.transform(z.numpy())
    np.testing.assert_allclose(np.abs(scores[:, 0]), np.abs((t - t.mean()).numpy()), atol=1e-6)


def test_pca_round_trip_and_frame():
    z = 0.4 * PARABOLOID.points(20, 1)
    pca = GeodesicPCA(PARABOLOID.metric, solver=SHARP, tol=1e-7).fit(z.numpy())
    G = PARABOLOID.metric.tensor(torch.as_tensor(pca.mean_)).numpy()
    np.testing.assert_allclose(pca.components_ @ G @ pca.components_.T, np.eye(2), atol=1e-9)
    back = pca.inverse_transform(pca.transform(z.numpy()))
    np.testing.assert_allclose(back, z.numpy(), atol=1e-4)
    np.testing.assert_allclose(pca.explained_variance_.sum(), pca.frechet_.variance, rtol=1e-6)
    logs = log(PARABOLOID.metric, torch.as_tensor(pca.mean_).expand_as(z), z, solver=SHARP)
    scores = (logs.numpy() @ G) @ pca.components_.T
    np.testing.assert_allclose(pca.transform(z.numpy()), scores, atol=1e-6)


def test_pca_refuses_bad_parameters():
    X = normal(10, 2).numpy()
    with pytest.raises(ValueError, match="at most the 2 features"):
        GeodesicPCA(n_components=3).fit(X)
    with pytest.raises(ValueError, match="n_components"):
        GeodesicPCA(n_components=0).fit(X)
    with pytest.raises(ValueError, match="2 components"):
        GeodesicPCA().fit(X).inverse_transform(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="latent dimension 3"):
        GeodesicPCA(Sphere(3)).fit(X)


def test_pca_of_equal_codes_explains_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pca = GeodesicPCA(Sphere(2)).fit(np.full((4, 2), 0.25))
    np.testing.assert_allclose(pca.explained_variance_, 0.0, atol=1e-20)
    np.testing.assert_allclose(pca.mean_, 0.25)
