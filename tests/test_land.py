"""Locally adaptive normal distributions against Gaussian mixtures, closed forms, quadrature and finite differences."""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import problems
import pytest
import torch
from commands import refused, run
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.utils.estimator_checks import parametrize_with_checks

from latentgeo import plot
from latentgeo.geodesics import LatentGraph, differential_exp
from latentgeo.learn import LAND
from latentgeo.learn._land_em import _transport_map
from latentgeo.learn._land_rays import Design, Rays
from latentgeo.learn._land_sample import _Guess
from latentgeo.learn._land_space import Curved
from latentgeo.metrics import PoincareBall, PullbackMetric, Sphere, TensorMetric


def wave(z):
    return torch.cat([z, z.sin()], -1)


WAVE = PullbackMetric(wave)
SPHERE, BALL = Sphere(2), PoincareBall(2)


def coarse(metric):
    return LatentGraph(metric, grid=0)


def clusters(n=60, d=2, seed=0, apart=3.0):
    rng = np.random.RandomState(seed)
    return np.concatenate([rng.randn(n, d), apart + rng.randn(n // 2, d) * np.linspace(0.5, 1.5, d)])


def around(centre, size, n=40, seed=0):
    return np.asarray(centre) + size * np.random.RandomState(seed).randn(n, 2)


def curved(metric, *, n_directions=32, n_radii=16, paper=False, d=2, seed=1):
    design = Design.draw(d, n_directions, n_radii, np.random.RandomState(seed))
    return Curved(metric, None, design, solver=None, shooter=None, tol=0.01, paper=paper)


def constant(space, mean, S):
    place = space.place(torch.tensor([mean], dtype=torch.float64))
    S = torch.as_tensor(S, dtype=torch.float64)[None]
    rays = space.rays(place, S, torch.arange(1))
    return space.normalizer(rays, S), rays


# --- Euclidean space -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("max_iter", [3, 500])
def test_equals_gaussian_mixture_from_the_same_seed(k, max_iter):
    X = clusters(d=3)
    options = {"reg_covar": 0.0, "random_state": 0, "tol": 1e-9, "max_iter": max_iter}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours, theirs = LAND(None, k, **options).fit(X), GaussianMixture(k, **options).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    for name in ("weights_", "means_", "covariances_", "precisions_", "lower_bound_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    assert (ours.predict(X) == theirs.predict(X)).all()
    assert ours.bic(X) == pytest.approx(theirs.bic(X))
    assert ours.aic(X) == pytest.approx(theirs.aic(X))


def given(k, d):
    return {
        "weights_init": np.full(k, 1 / k),
        "means_init": clusters(d=d)[[0, 70]][:k],
        "precisions_init": np.stack([np.diag(np.linspace(0.5, 1.5, d))] * k),
    }


@pytest.mark.parametrize("reg_covar", [0.0, 1e-2])
def test_equals_gaussian_mixture_from_the_same_parameters(reg_covar):
    X = clusters()
    options = {"reg_covar": reg_covar, "tol": 1e-9, "max_iter": 200, **given(2, 2)}
    ours, theirs = LAND(None, 2, **options).fit(X), GaussianMixture(2, **options).fit(X)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, atol=1e-9)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), atol=1e-9)


def test_geodesics_of_a_flat_metric_give_the_gaussian_mixture():
    """The whole machinery of curved spaces, in oblique coordinates of flat space."""
    A = torch.tensor([[1.0, 0.4], [0.0, 0.8]], dtype=torch.float64)
    metric = PullbackMetric(lambda z: z @ A.to(z).mT, dim=2)
    X = clusters(30)
    options = {"reg_covar": 0.0, "tol": 1e-9, "max_iter": 5, **given(2, 2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = LAND(metric, 2, graph=coarse(metric), random_state=0, **options).fit(X)
        theirs = GaussianMixture(2, **options).fit(X)
    np.testing.assert_allclose(ours.means_, theirs.means_, atol=1e-6)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, atol=1e-6)
    np.testing.assert_allclose(
        ours.score_samples(X) + metric.log_volume(torch.as_tensor(X)).numpy(), theirs.score_samples(X), atol=1e-6
    )


# --- constants -----------------------------------------------------------------------------------------------------


def polar(area, S, reach, n=400):
    """∫ exp(−½ ξᵀS⁻¹ξ) dV by quadrature, where circles of radius r have circumference 2π area(r)."""
    P = np.linalg.inv(S)
    x, w = np.polynomial.legendre.leggauss(n)
    r, w = 0.5 * reach * (x + 1), 0.5 * reach * w
    angle = 2 * np.pi * np.arange(n) / n
    u = np.stack([np.cos(angle), np.sin(angle)], 1)
    q = np.einsum("ai,ij,aj->a", u, P, u)
    return float((w * area(r) * np.exp(-0.5 * q[:, None] * r**2)).sum() * 2 * np.pi / n)


@pytest.mark.parametrize("mean", [[0.3, -0.2], [0.0, 0.5]])
@pytest.mark.parametrize(
    ("metric", "area", "S"),
    [
        (SPHERE, np.sin, np.diag([0.09, 0.09])),
        (SPHERE, np.sin, np.diag([2.25, 2.25])),
        (SPHERE, np.sin, np.array([[0.5, 0.2], [0.2, 0.3]])),
        (BALL, np.sinh, np.diag([0.25, 0.25])),
        (BALL, np.sinh, np.array([[1.0, 0.5], [0.5, 0.6]])),
    ],
)
def test_constants_of_space_forms(metric, area, S, mean):
    exact = polar(area, S, math.pi if metric is SPHERE else 12.0)
    found, _ = constant(curved(metric), mean, S)
    assert float(found.log_constant.exp()) == pytest.approx(exact, rel=2e-3)
    assert abs(float(found.log_constant) - math.log(exact)) < 3 * float(found.error) + 1e-5
    assert float(found.error) < 5e-3


def test_constant_in_closed_form():
    """On the hyperbolic plane C = 2π σ √(π/2) exp(σ²/2) erf(σ/√2)."""
    s = 0.8
    exact = 2 * math.pi * s * math.sqrt(math.pi / 2) * math.exp(s * s / 2) * math.erf(s / math.sqrt(2))
    found, _ = constant(curved(BALL, n_radii=24), [0.1, 0.2], s * s * np.eye(2))
    assert float(found.log_constant) == pytest.approx(math.log(exact), abs=5e-5)


def test_constant_converges_in_the_number_of_radii():
    exact = polar(np.sin, np.eye(2), math.pi)
    off = [
        abs(float(constant(curved(SPHERE, n_radii=n), [0.3, 0.1], np.eye(2))[0].log_constant) - math.log(exact))
        for n in (6, 12, 24)
    ]
    assert off[1] < off[0] / 3
    assert off[2] < 3e-5


def test_constants_in_three_dimensions_lie_within_their_standard_errors():
    """On the 3-sphere areas are 4π sin²r; anisotropic, by Monte Carlo over the exact density."""
    S = np.diag([0.2, 0.4, 0.1])
    rng = np.random.RandomState(0)
    xi = rng.randn(400_000, 3) * np.sqrt(np.diag(S))
    r = np.linalg.norm(xi, axis=1)
    exact = np.mean((np.sin(r) / r) ** 2 * (r < np.pi)) * (2 * np.pi) ** 1.5 * np.sqrt(np.linalg.det(S))
    found, _ = constant(curved(Sphere(3), n_directions=48, d=3), [0.2, 0.1, 0.0], S)
    assert 0 < float(found.error) < 0.02
    assert abs(float(found.log_constant) - math.log(exact)) < 3 * float(found.error) + 2e-3


def test_only_the_segment_domain_counts():
    """σ = 1.5 on the sphere: rays end at the antipode, and the whole tangent plane would count 2.6 % too much."""
    found, rays = constant(curved(SPHERE), [0.3, -0.2], 2.25 * np.eye(2))
    np.testing.assert_allclose(1.5 * rays.cut, math.pi, rtol=2e-2)
    r = np.linspace(0, 12, 20_001)[1:]
    whole = 2 * np.pi * np.trapezoid(np.abs(np.sin(r)) * np.exp(-0.5 * (r / 1.5) ** 2), r)
    assert whole / float(found.log_constant.exp()) == pytest.approx(1.026, abs=2e-3)


def test_cut_points_before_conjugate_points():
    """On a flat cylinder there are no conjugate points, but geodesics longer than half way round are not shortest."""
    metric = PullbackMetric(
        lambda z: torch.stack([z[..., 0].cos(), z[..., 0].sin(), z[..., 1]], -1), dim=2, period=(2 * math.pi, None)
    )
    found, _ = constant(curved(metric), [0.5, 0.0], 4.0 * np.eye(2))
    exact = 2 * np.pi * 4.0 * math.erf(math.pi / 2 / math.sqrt(2))
    assert float(found.log_constant.exp()) == pytest.approx(exact, rel=2e-2)


def test_paper_constants_leave_out_the_differential():
    found, _ = constant(curved(BALL, paper=True), [0.0, 0.0], 0.25 * np.eye(2))
    # √det G(exp v)/√det G(0) = (1 − tanh²(r/2))⁻² at distance r
    r = np.linspace(0, 8, 20_001)
    exact = 2 * np.pi * np.trapezoid(r * np.cosh(r / 2) ** 4 * np.exp(-2 * r**2), r)
    assert float(found.log_constant.exp()) == pytest.approx(exact, rel=1e-3)


# --- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [BALL, SPHERE, problems.PARABOLOID.metric], ids=repr)
def test_gradients_by_the_mean_are_those_of_the_likelihood(metric):
    space = curved(metric, n_directions=64, n_radii=24)
    place = space.place(torch.tensor([[0.1, 0.2]], dtype=torch.float64))
    S = torch.tensor([[[0.3, 0.1], [0.1, 0.15]]], dtype=torch.float64)
    P, Z, one = torch.linalg.inv(S), 0.3 * problems.normal(20, 2), torch.arange(1)
    share = torch.full((1, 20), 1 / 20, dtype=torch.float64)

    def value(where):
        logs, rays = space.logs(where, Z, one, keep=True), space.rays(where, S, one)
        normal = space.normalizer(rays, S)
        fit = -0.5 * torch.einsum("kij,kni,knj,kn->k", P, logs.xi, logs.xi, share)
        return float(fit), float(normal.log_constant), logs, normal

    _, _, logs, normal = value(place)
    with torch.no_grad():
        pull = space.pull(place, logs, P, share)[0]
    for i, h in enumerate(1e-3 * torch.eye(2, dtype=torch.float64)):
        ahead, behind = (value(space.carry(place, sign * h[None])[0]) for sign in (1, -1))
        assert (ahead[0] - behind[0]) / 2e-3 == pytest.approx(float(pull[i]), rel=3e-3, abs=3e-3)
        assert (ahead[1] - behind[1]) / 2e-3 == pytest.approx(float(normal.slope[0, i]), abs=2e-3)


def test_second_moments_are_the_gradient_by_the_covariance():
    space = curved(BALL)
    S = torch.tensor([[[0.3, 0.1], [0.1, 0.15]]], dtype=torch.float64)
    found, rays = constant(space, [0.1, 0.2], S[0])
    P = torch.linalg.inv(S)
    for D in (torch.diag(torch.tensor([1.0, 0.0])), torch.tensor([[0.0, 1.0], [1.0, 0.0]])):
        D = 1e-4 * D.double()
        ahead, behind = (space.normalizer(rays, torch.linalg.inv(P + s * D)).log_constant for s in (1, -1))
        slope = float((ahead - behind) / 2e-4)
        assert slope == pytest.approx(-0.5 * float((found.second[0] * D).sum() / 1e-4), rel=1e-5)


def test_transport_map():
    M, D = torch.tensor([[[2.0, 0.3], [0.3, 1.0]]]).double(), torch.tensor([[[1.0, -0.5], [-0.5, 3.0]]]).double()
    T = _transport_map(M, D)
    torch.testing.assert_close(T @ M @ T.mT, D)


# --- fits ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_the_ball():
    X = np.concatenate([around([0.3, 0.1], 0.12, 25), around([-0.4, 0.0], 0.1, 25, seed=1)])
    return LAND(BALL, 2, graph=coarse(BALL), tol=1e-4, reg_covar=0.0, n_directions=16, random_state=0).fit(X), X


def test_densities_labels_and_probabilities_come_from_the_joint_one(on_the_ball):
    land, X = on_the_ball
    joint = land.log_joint(X[:8])
    assert joint.shape == (8, 2)
    np.testing.assert_allclose(np.log(np.exp(joint).sum(1)), land.score_samples(X[:8]), rtol=1e-10)
    np.testing.assert_array_equal(joint.argmax(1), land.predict(X[:8]))
    share = np.exp(joint) / np.exp(joint).sum(1, keepdims=True)
    np.testing.assert_allclose(share, land.predict_proba(X[:8]), atol=1e-10)


def test_rough_densities_are_those_of_a_picture(on_the_ball):
    land, X = on_the_ball
    np.testing.assert_allclose(land.rough_score_samples(X[::6]), land.score_samples(X[::6]), atol=0.1)
    far = np.array([[0.9, 0.3]])
    assert np.isfinite(land.score_samples(far)).all()
    assert land.rough_score_samples(far).tolist() == [-np.inf]
    assert np.isfinite(land.rough_score_samples(far, reach=100.0)).all()


def test_the_likelihood_does_not_fall(on_the_ball):
    land, _ = on_the_ball
    assert land.converged_
    assert (np.diff(land.lower_bounds_) >= -0.1 * land.tol).all()
    assert land.lower_bounds_[-1] > land.lower_bounds_[0]
    assert (land.failed_logs_ == 0).all()
    assert (land.lost_exp_ == 0).all()


def test_the_fit_is_stationary(on_the_ball):
    """Mean and covariance beside the fitted ones are less likely, with everything computed anew."""
    land, X = on_the_ball
    best = land.score(X)
    assert best == pytest.approx(land.lower_bound_, abs=1e-3)
    start = {"weights_init": land.weights_, "means_init": land.means_, "precisions_init": land.precisions_}
    for name, change in (("means_init", 0.02), ("precisions_init", 0.1)):
        sign = 1 if name == "means_init" else -1
        other = dict(start)
        other[name] = start[name] + sign * change * (1 if name == "means_init" else start[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            moved = clone(land).set_params(max_iter=1, **other).fit(X)
        assert moved.lower_bounds_[0] < best + 1e-5


def test_densities_integrate_to_one(on_the_ball):
    land, _ = on_the_ball
    axis = (np.arange(44) + 0.5) / 44 * 1.8 - 0.9
    z = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    z = z[np.linalg.norm(z, axis=1) < 0.9]
    density = np.exp(clone_with(land, measure="lebesgue").score_samples(z))
    total = density.sum() * (1.8 / 44) ** 2
    assert total == pytest.approx(1.0, abs=3 * land.normalizer_errors_.max() + 1e-3)


def clone_with(land, **changes):
    """The fitted estimator with other parameters."""
    other = pickle.loads(pickle.dumps(land))
    return other.set_params(**changes)


def test_paper_densities_do_not_integrate_to_one():
    X = around([0.2, 0.1], 0.2)
    land = LAND(BALL, variant="paper", graph=coarse(BALL), random_state=0).fit(X)
    exact = polar(np.sinh, np.diag(land.scales_[0] ** 2), 10.0)
    assert abs(land.log_normalizers_[0] - math.log(exact)) > 5 * land.normalizer_errors_[0] + 0.02


def test_recovers_what_it_drew(on_the_ball):
    land, _ = on_the_ball
    Z, label = land.sample(300)
    assert Z.shape == (300, 2)
    assert np.abs(np.bincount(label) / 300 - land.weights_).max() < 0.1
    v = torch.as_tensor(Z[label == 0])
    place = land._place
    logs = land._space.logs(place, v, torch.arange(2)).xi[0]
    second = (logs.mT @ logs / len(v)).numpy()
    expected = land._normal.second[0].numpy()
    assert np.linalg.norm(second - expected) < 0.35 * np.linalg.norm(expected)


def test_sampling_refuses_in_proportion_to_the_volume():
    """A wide normal distribution on the sphere: the law of the radius has density sin(r) exp(−r²/2σ²)."""
    X = np.random.RandomState(0).randn(20, 2)
    land = LAND(SPHERE, graph=coarse(SPHERE), max_iter=1, n_directions=16, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        land.fit(X)
    land._S = torch.eye(2, dtype=torch.float64)[None]
    Z, _ = land.sample(200)
    r = problems.sphere_distance(torch.as_tensor(Z), torch.as_tensor(land.means_)).numpy()
    x = np.linspace(0, np.pi, 2000)
    law = np.sin(x) * np.exp(-0.5 * x**2)
    mean = (law * x).sum() / law.sum()
    spread = np.sqrt((law * (x - mean) ** 2).sum() / law.sum())
    assert abs(r.mean() - mean) < 4 * spread / 200**0.5


def test_measures_differ_by_the_measure_element(on_the_ball):
    land, X = on_the_ball
    difference = clone_with(land, measure="lebesgue").score_samples(X) - land.score_samples(X)
    np.testing.assert_allclose(difference, BALL.log_volume(torch.as_tensor(X)).numpy(), atol=1e-12)


def test_does_not_depend_on_coordinates():
    """The same surface in two charts: the same law, whatever its parameters look like."""
    A = torch.tensor([[2.0, 0.5], [0.0, 0.5]], dtype=torch.float64)
    paraboloid = problems.PARABOLOID.metric.embedding
    straight = PullbackMetric(lambda z: paraboloid(z), dim=2)
    oblique = PullbackMetric(lambda z: paraboloid(z @ A.to(z).mT), dim=2)
    X = around([0.3, 0.2], 0.4, 12)
    Y = X @ np.linalg.inv(A.numpy()).T
    options = {"n_directions": 16, "n_radii": 8, "tol": 1e-5, "random_state": 0}
    one = LAND(straight, graph=coarse(straight), **options).fit(X)
    two = LAND(oblique, graph=coarse(oblique), means_init=Y[:1], **options).fit(Y)
    np.testing.assert_allclose(one.means_, two.means_ @ A.numpy().T, atol=2e-2)
    np.testing.assert_allclose(one.scales_, two.scales_, rtol=2e-2)
    np.testing.assert_allclose(one.score(X), two.score(Y), atol=2e-3)


def test_change_of_volume_agrees_with_the_exponential_map():
    space = curved(problems.PARABOLOID.metric)
    S = torch.tensor([[[0.3, 0.1], [0.1, 0.15]]], dtype=torch.float64)
    _, rays = constant(space, [0.4, -0.1], S[0])
    place = space.place(torch.tensor([[0.4, -0.1]], dtype=torch.float64))
    t = 6 / 16
    xi = t * rays.end[0, :, None] * (space.design.directions @ rays.root[0].mT)
    found = differential_exp(space.metric, place.mean, xi @ place.frame[0].mT)
    torch.testing.assert_close(rays.volume[0, :, 6], found.log_jacobian.exp(), rtol=1e-4, atol=1e-5)


def test_single_precision_and_input_kinds():
    X = around([0.2, 0.1], 0.2, 15)
    land = LAND(BALL, graph=coarse(BALL), random_state=0).fit(torch.as_tensor(X))
    np.testing.assert_allclose(land.score_samples(X.astype(np.float32)), land.score_samples(X), atol=1e-4)


def test_clone_and_pickle(on_the_ball):
    land, X = on_the_ball
    assert clone(land).metric is BALL
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(land)).score_samples(X[:5]), land.score_samples(X[:5]))


def test_several_runs_and_starts():
    X = clusters(20)
    once = LAND(None, 3, init_params="random", random_state=0, max_iter=500).fit(X)
    often = LAND(None, 3, init_params="random", random_state=0, n_init=5, max_iter=500).fit(X)
    assert often.lower_bound_ >= once.lower_bound_
    assert LAND(None, 2, init_params="geodesic-kmeans", random_state=0).fit(X).predict(X).max() == 1


# --- failure -------------------------------------------------------------------------------------------------------


def nowhere(z):
    """Flat on the left, no metric between |x| = 0.9 and 1.1."""
    x = z[..., 0].abs()
    scale = torch.where((x > 0.9) & (x < 1.1), torch.nan, 1.0)
    return scale[..., None, None] * torch.eye(2, dtype=z.dtype)


WALL = TensorMetric(nowhere, dim=2)


def test_codes_out_of_reach_are_counted_and_said():
    X = np.concatenate([around([0.0, 0.0], 0.2, 30), [[2.0, 0.0], [2.1, 0.1]]])
    with pytest.warns(ConvergenceWarning, match="2 of 32 codes cannot be reached"):
        land = LAND(
            WALL, graph=coarse(WALL), means_init=[[0.0, 0.0]], tol=0.1, n_directions=16, n_radii=8, random_state=0
        ).fit(X)
    assert land.lost_logs_.tolist() == [2]
    density = land.score_samples(X)
    assert np.isneginf(density[-2:]).all()
    assert np.isfinite(density[:-2]).all()
    assert land.predict(X)[-2:].tolist() == [-1, -1]
    assert np.isnan(land.predict_proba(X)[-2:]).all()


def test_all_logarithms_failing_is_an_error():
    X = np.concatenate([around([-2.0, 0.0], 0.2, 10), around([2.0, 0.0], 0.2, 10)])
    with pytest.raises(ValueError, match=r"no code can be reached|not finite"):
        LAND(WALL, graph=coarse(WALL), means_init=[[0.0, 0.0]], random_state=0).fit(X)


def test_rays_that_are_lost_are_counted_and_said():
    """Rays that run into the wall end there."""
    X = around([0.0, 0.0], 0.35, 40)
    X = X[np.abs(X[:, 0]) < 0.85]
    with pytest.warns(ConvergenceWarning, match="exponential map could not be computed"):
        land = LAND(WALL, graph=coarse(WALL), tol=0.1, n_directions=16, n_radii=8, random_state=0).fit(X)
    assert land.lost_exp_[0] > 0.01
    assert np.isfinite(land.log_normalizers_).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "`n_components` must be an integer"),
        ({"max_iter": 0}, "`max_iter`"),
        ({"n_radii": 2}, "`n_radii`"),
        ({"tol": -1.0}, "`tol` must be a number"),
        ({"segment_tol": 1.0}, "`segment_tol` must be between"),
        ({"measure": "area"}, "`measure` must be one of"),
        ({"variant": "2016"}, "`variant` must be one of"),
        ({"init_params": "best"}, "`init_params` must be one of"),
        ({"n_components": 41}, "Expected n_samples >= n_components"),
        ({"means_init": [[0.0, 1.0, 2.0]]}, "`means_init` must be finite and have shape"),
        ({"weights_init": [0.5]}, "`weights_init` must be positive and sum to 1"),
        ({"precisions_init": [[[1.0, 2.0], [2.0, 1.0]]]}, "positive definite"),
    ],
)
def test_refuses_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        LAND(None, **options).fit(around([0.0, 0.0], 1.0))


def test_refuses_codes():
    X = around([0.0, 0.0], 0.1)
    with pytest.raises(ValueError, match="NaN"):
        LAND(BALL).fit(np.where(X > 0.1, np.nan, X))
    with pytest.raises(ValueError, match="3 features, but `metric` is of latent dimension 2"):
        LAND(BALL).fit(np.zeros((5, 3)))
    with pytest.raises(TypeError, match="must be a Metric or None"):
        LAND("sphere").fit(X)
    with pytest.raises(TypeError, match="must be a LatentGraph"):
        LAND(BALL, graph="grid").fit(X)


def test_duplicates():
    X = np.repeat([[0.1, 0.2]], 10, 0)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        LAND(BALL, reg_covar=0.0, random_state=0).fit(X)
    land = LAND(BALL, random_state=0).fit(X)
    np.testing.assert_allclose(land.scales_, 1e-3, rtol=1e-2)
    np.testing.assert_allclose(land.means_, X[:1], atol=1e-6)
    Y = np.concatenate([X, around([-0.3, 0.0], 0.1, 10)])
    np.testing.assert_array_equal(
        LAND(None, 2, random_state=0).fit(Y).predict(X), LAND(None, 2, random_state=0).fit_predict(Y)[:10]
    )


def test_designs_have_exact_moments():
    for d in (1, 2, 3, 7):
        w = Design.draw(d, 32, 16, np.random.RandomState(0)).directions
        torch.testing.assert_close(w.mT @ w / len(w), torch.eye(d, dtype=torch.float64) / d)
        torch.testing.assert_close(w.mean(0), torch.zeros(d, dtype=torch.float64))


# --- pictures and the command line ------------------------------------------------------------------------------------


def test_picture_holds_regions_of_the_stated_probability(on_the_ball):
    land, X = on_the_ball
    mixture = GaussianMixture(2, random_state=0).fit(X)
    figure = plot.land(
        land, mixture=mixture, codes=X, bounds=(-0.8, 0.8, -0.6, 0.6), resolution=8, contour_resolution=16
    )
    contours = {trace.name: trace for trace in figure.data if trace.type == "contour"}
    assert set(contours) == {f"{name} {share} %" for name in ("LAND", "mixture") for share in (50, 80, 95)}
    level = contours["LAND 50 %"].contours.start
    assert level > contours["LAND 80 %"].contours.start > contours["LAND 95 %"].contours.start
    share = (land.score_samples(land.sample(100)[0]) > level).mean()
    assert share == pytest.approx(0.5, abs=0.25)


def test_picture_refuses(on_the_ball):
    land, X = on_the_ball
    with pytest.raises(TypeError, match="`model` must be a LAND"):
        plot.land(GaussianMixture().fit(X))
    with pytest.raises(ValueError, match="2 latent dimensions"):
        plot.land(LAND(None).fit(clusters(d=3)))
    with pytest.raises(ValueError, match="`contour_resolution` must be an integer of at least 2"):
        plot.land(land, contour_resolution=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "land.csv"], "--out must end in .npz"),
        (["--out", "land.npz", "--png"], "--png must go with --html"),
        (["--out", "land.npz", "--html", "land.txt"], "--html must end in"),
        (["--out", "land.npz", "--subset", "2", "--components", "3"], "at least 3 codes are needed"),
    ],
)
def test_command_refuses(tmp_path, options, message):
    options = [str(tmp_path / o) if o.startswith("land.") else o for o in options]
    assert message in refused("fit-land", "checkpoints/digits-2d.safetensors", *options)


@pytest.mark.slow
def test_command_writes_what_it_fitted(tmp_path):
    out = tmp_path / "land.npz"
    options = ["--subset", "20", "--max-iter", "1", "--samples", "3", "--out", str(out)]
    result = run("fit-land", "checkpoints/digits-2d.safetensors", *options, code=1)  # one step is not enough
    assert "did not converge" in result.stderr
    assert "20 codes, 1 components" in result.stdout
    with np.load(out) as found:
        assert found["log_density"].shape == (20,)
        assert found["samples"].shape == (3, 2)
        assert np.isfinite(found["log_density"]).all()


# --- scikit-learn's own checks -------------------------------------------------------------------------------------


@parametrize_with_checks([LAND(random_state=0), LAND(n_components=2, random_state=0)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([LAND(WAVE, graph=coarse(WAVE), max_iter=3, n_directions=8, n_radii=8)])
def test_scikit_learn_checks_with_a_pullback(estimator, check):
    check(estimator)


def test_sampling_ends_where_no_ray_could_be_followed():
    design, eye = Design.draw(2, 16, 8, np.random.RandomState(0)), torch.eye(2, dtype=torch.float64)
    for volume, end in ((1.0, 0.0), (math.nan, 1.0)):
        ends = torch.full((1, 16), end, dtype=torch.float64)
        grown = torch.full((1, 16, 9), volume, dtype=torch.float64)
        rays = Rays(eye[None], grown, eye.expand(1, 16, 9, 2, 2), ends, ends, ends == 0)
        with pytest.raises(RuntimeError, match="none of the component's rays could be followed"):
            _Guess(rays, design, eye[None], 0).draw(5, np.random.RandomState(0))
