"""Geodesic k-means and k-medoids: against scikit-learn in flat space, against an isometry, bad input, workers."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import ellipeinc
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from latentgeo.geodesics import LatentGraph, Newton
from latentgeo.learn import GeodesicKMeans, GeodesicKMedoids
from latentgeo.learn._pam import swap
from latentgeo.metrics import Euclidean, PullbackMetric, Sphere, TensorMetric

QUICK = Newton(rtol=1e-2, n_points=9)


def wave(z):
    return torch.cat([z, z.sin()], -1)


WAVE = PullbackMetric(wave)


def unrolled(x):
    """Arc length of the sine: the metric of `wave` is flat in these coordinates."""
    return np.sqrt(2) * ellipeinc(x, 0.5)


def blobs(n=120, d=2, k=3, seed=0, spread=0.35):
    rng = np.random.RandomState(seed)
    centres = 2.5 * rng.randn(k, d)
    label = np.arange(n) % k
    return centres[label] + spread * rng.randn(n, d), label


# --- flat space -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_flat_space_is_scikit_learn(d, weighted):
    rng = np.random.RandomState(d)
    X = rng.randn(300, d)
    w = rng.rand(300) if weighted else None
    init = X[:6]
    theirs = KMeans(6, init=init, n_init=1, tol=0.0).fit(X, sample_weight=w)
    mine = GeodesicKMeans(n_clusters=6, init=init, tol=0.0).fit(X, sample_weight=w)
    assert_array_equal(mine.labels_, theirs.labels_)
    assert_allclose(mine.inertia_, theirs.inertia_, rtol=1e-12)
    assert_allclose(mine.cluster_centers_, theirs.cluster_centers_, atol=1e-12)
    assert mine.n_iter_ == theirs.n_iter_
    Y = rng.randn(20, d)
    assert_array_equal(mine.predict(Y), theirs.predict(Y))
    assert_allclose(mine.transform(Y), theirs.transform(Y), atol=1e-12)
    assert_allclose(mine.score(Y), theirs.score(Y))


def test_empty_clusters_are_reseeded_as_in_scikit_learn():
    X = blobs(60, 2, 3)[0]
    init = np.concatenate([X[:2], [[50.0, 50.0]]])  # nothing is nearest to the third
    theirs = KMeans(3, init=init, n_init=1, tol=0.0).fit(X)
    mine = GeodesicKMeans(n_clusters=3, init=init, tol=0.0).fit(X)
    assert_array_equal(mine.labels_, theirs.labels_)
    assert_allclose(mine.inertia_, theirs.inertia_)
    assert len(set(mine.labels_)) == 3


def test_the_general_path_finds_the_flat_clusters_too():
    X, label = blobs()
    identity = PullbackMetric(torch.clone)
    for options in ({"graph": LatentGraph(identity, grid=128)}, {"distances": "exact", "n_init": 1, "solver": QUICK}):
        found = GeodesicKMeans(identity, 3, random_state=0, n_refine=8, **options).fit(X)
        flat = GeodesicKMeans(n_clusters=3, random_state=0).fit(X)
        assert adjusted_rand_score(found.labels_, flat.labels_) == 1
        matched = min(
            np.abs(found.cluster_centers_[list(p)] - flat.cluster_centers_).max()
            for p in itertools.permutations(range(3))
        )
        assert matched < 0.06
        assert_allclose(found.inertia_, flat.inertia_, rtol=0.05)
    assert adjusted_rand_score(found.labels_, label) == 1


def test_clusters_of_an_isometric_chart():
    X = np.random.RandomState(3).randn(150, 2) * 1.5
    found = GeodesicKMeans(WAVE, 3, random_state=0, n_refine=8).fit(X)
    best = KMeans(3, n_init=10, random_state=0).fit(unrolled(X))
    assert_allclose(found.inertia_, best.inertia_, rtol=0.05)  # the graph's squared lengths are up to 3 % long
    gap = np.linalg.norm(unrolled(found.cluster_centers_)[:, None] - best.cluster_centers_, axis=-1)
    assert gap.min(0).max() < 0.25 * np.sqrt(best.inertia_ / len(X))
    assert_allclose(
        found.transform(X),
        np.linalg.norm(unrolled(X)[:, None] - unrolled(found.cluster_centers_), axis=-1),
        rtol=0.03,
        atol=0.04,
    )


def test_centres_leave_the_codes_beyond_three_dimensions():
    X = np.random.RandomState(3).randn(250, 5)
    medoids, found = (GeodesicKMeans(WAVE, 4, random_state=0, n_refine=n).fit(X) for n in (0, 16))
    best = KMeans(4, n_init=10, random_state=0).fit(unrolled(X)).inertia_
    truth = np.linalg.norm(unrolled(X)[:, None] - unrolled(found.cluster_centers_), axis=-1)
    assert found.inertia_ < 0.98 * medoids.inertia_
    assert np.square(truth.min(1)).sum() < 1.04 * best
    assert_allclose(found.transform(X), truth, rtol=0.05)  # straight lines, where paths through codes are detours


def test_periodic_coordinates_join_clusters_across_the_seam():
    turn = 2 * np.pi
    cylinder = PullbackMetric(
        lambda z: torch.stack([z[:, 0].cos(), z[:, 0].sin(), z[:, 1]], -1), dim=2, period=(turn, None)
    )
    rng = np.random.RandomState(0)
    label = np.arange(60) % 3
    X = np.array([[np.pi, 0.0], [0.5, 0.0], [0.5, 3.0]])[label] + 0.3 * rng.randn(60, 2)
    X[:, 0] = (X[:, 0] + np.pi) % turn - np.pi
    found = GeodesicKMeans(cylinder, 3, random_state=0, n_refine=8).fit(X)
    assert adjusted_rand_score(found.labels_, label) == 1


def test_exact_distances_give_lloyd_fixed_points():
    X = np.random.RandomState(3).randn(40, 2)
    found = GeodesicKMeans(WAVE, 3, distances="exact", n_init=1, random_state=1, tol=1e-5).fit(X)
    means = np.stack([unrolled(X)[found.labels_ == k].mean(0) for k in range(3)])
    assert_allclose(unrolled(found.cluster_centers_), means, atol=2e-2)
    gaps = np.linalg.norm(unrolled(X)[:, None] - means, axis=-1)
    assert_array_equal(gaps.argmin(1), found.labels_)
    assert_allclose(np.square(gaps.min(1)).sum(), found.inertia_, rtol=1e-3)


# --- conventions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GeodesicKMeans, GeodesicKMedoids])
def test_order_and_repetition_do_not_matter(kind):
    X = blobs(60)[0]
    order = np.random.RandomState(0).permutation(60)
    graph = LatentGraph(WAVE, grid=24)
    one = kind(WAVE, 3, graph=graph, random_state=0).fit(X, sample_weight=np.where(np.arange(60) % 5, 1, 2))
    two = kind(WAVE, 3, graph=graph, random_state=0).fit(np.concatenate([X[order], X[::5]]))
    assert_array_equal(one.labels_[order], two.labels_[:60])
    assert_allclose(one.cluster_centers_, two.cluster_centers_)
    assert_allclose(one.inertia_, two.inertia_)


@pytest.mark.parametrize("kind", [GeodesicKMeans, GeodesicKMedoids])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_and_tensors(kind, dtype):
    X = blobs(60)[0].astype(dtype)
    fits = [kind(WAVE, 3, graph=LatentGraph(WAVE, grid=24), random_state=0).fit(x) for x in (X, torch.as_tensor(X))]
    assert fits[0].cluster_centers_.dtype == dtype
    assert fits[0].transform(X).dtype == dtype
    assert_array_equal(fits[0].labels_, fits[1].labels_)
    assert_array_equal(fits[0].predict(torch.as_tensor(X)), fits[0].labels_)


def test_a_fitted_graph_is_reused_and_a_generator_seeds():
    X = blobs(60)[0]
    graph = LatentGraph(WAVE, grid=24).fit(torch.as_tensor(X))
    found = GeodesicKMeans(WAVE, 3, graph=graph, random_state=torch.Generator().manual_seed(0)).fit(X)
    assert found.graph_ is graph
    part = GeodesicKMeans(WAVE, 3, graph=graph, random_state=0).fit(X[:40])  # codes other than the graph's own
    assert_allclose(
        part.transform(X[40:]), np.asarray(graph.distances(*map(torch.as_tensor, (X[40:], part.cluster_centers_))))
    )


def test_mini_batches_come_close_to_all_codes():
    X = blobs(900, 2, 4, spread=0.8)[0]
    full = GeodesicKMeans(n_clusters=4, random_state=0).fit(X)
    part = GeodesicKMeans(n_clusters=4, random_state=0, batch_size=120).fit(X)
    assert len(part.labels_) == 900
    assert_allclose(part.inertia_, full.inertia_, rtol=1e-3)
    graph = LatentGraph(WAVE, grid=32)
    full, part = (
        GeodesicKMeans(WAVE, 4, graph=graph, random_state=0, n_candidates=100, n_refine=0, batch_size=b).fit(X)
        for b in (None, 200)
    )
    assert_allclose(part.inertia_, full.inertia_, rtol=0.05)


def test_seeds_are_squared_distances():
    # two far groups, one of 99 codes and one of a single code: unsquared seeding picks the single code less often
    from latentgeo.learn._lloyd import seeds

    x = np.concatenate([np.linspace(0, 1, 99), [11.0]])
    D = np.abs(x[:, None] - x)
    w = np.ones(100)
    hits = 0
    for seed in range(200):
        rng = np.random.RandomState(seed)
        hits += 99 in seeds(lambda m: D[m], np.arange(100), w, w, 2, rng)
    assert hits > 195  # squared odds 110 : 6.8 or better, best of two trials


def test_workers_give_the_same_bits():
    X = 0.3 * blobs(200)[0]
    sphere = Sphere(2)  # a worker cannot import what a test defines
    one, two = (
        GeodesicKMeans(sphere, 3, graph=LatentGraph(sphere, grid=24), random_state=0, n_refine=0, n_jobs=n).fit(X)
        for n in (None, 2)
    )
    assert_array_equal(one.labels_, two.labels_)
    assert one.inertia_ == two.inertia_
    assert_array_equal(one.cluster_centers_, two.cluster_centers_)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GeodesicKMeans, GeodesicKMedoids])
@pytest.mark.parametrize(
    ("X", "options", "match"),
    [
        (np.zeros((2, 2)), {"n_clusters": 3}, "n_samples=2 should be >= n_clusters=3"),
        (np.full((5, 2), np.nan), {}, "NaN"),
        (np.zeros((5, 3)), {"metric": Sphere(2)}, "latent dimension 2"),
        (np.eye(5, 2), {"n_clusters": 0}, "n_clusters"),
        (np.eye(5, 2), {"n_init": 0}, "n_init"),
        (np.eye(5, 2), {"max_iter": 0}, "max_iter"),
        (np.eye(5, 2), {"init": "best"}, "init"),
        (np.eye(5, 2), {"metric": Sphere(2), "distances": "straight"}, "distances"),
        (np.eye(5, 2), {"metric": Sphere(2), "graph": LatentGraph(Sphere(2))}, "same metric"),
    ],
)
def test_bad_input_is_named(kind, X, options, match):
    with pytest.raises(ValueError, match=match):
        kind(**{"n_clusters": 2, **options}).fit(X)


def test_more_bad_input_of_k_means():
    X = blobs(20)[0]
    for options, match in (
        ({"init": np.zeros((3, 2))}, "shape"),
        ({"init": np.full((2, 2), np.nan)}, "finite"),
        ({"tol": -1.0}, "tol"),
        ({"batch_size": 1}, "batch_size"),
        ({"n_refine": -1}, "n_refine"),
    ):
        with pytest.raises(ValueError, match=match):
            GeodesicKMeans(n_clusters=2, **options).fit(X)
    with pytest.raises(TypeError, match="Metric"):
        GeodesicKMeans("geodesic").fit(X)
    with pytest.raises(TypeError, match="LatentGraph"):
        GeodesicKMeans(WAVE, 2, graph="yes").fit(X)
    with pytest.raises(ValueError, match="non-zero"):
        GeodesicKMeans(n_clusters=2).fit(X, sample_weight=np.zeros(20))


@pytest.mark.parametrize("kind", [GeodesicKMeans, GeodesicKMedoids])
@pytest.mark.parametrize("metric", [None, WAVE])
def test_one_cluster_and_as_many_as_codes(kind, metric):
    X = blobs(12)[0]
    one = kind(metric, 1, random_state=0).fit(X)
    assert set(one.labels_) == {0}
    every = kind(metric, 12, random_state=0).fit(X)
    assert sorted(every.labels_) == list(range(12))
    assert every.inertia_ == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("kind", [GeodesicKMeans, GeodesicKMedoids])
@pytest.mark.parametrize("metric", [None, WAVE])
def test_duplicates(kind, metric):
    X = np.repeat([[0.0, 0.0], [1.0, 1.0]], 5, axis=0)
    two = kind(metric, 2).fit(X)
    assert len(set(two.labels_[:5])) == len(set(two.labels_[5:])) == 1
    assert len(set(two.labels_)) == 2
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\) found smaller than n_clusters \(3\)"):
        three = kind(metric, 3).fit(X)
    assert three.inertia_ == pytest.approx(0.0, abs=1e-9)
    same = kind(metric, 1).fit(np.full((6, 2), 0.5))
    assert set(same.labels_) == {0}


def split():
    """Two half planes that no curve of finite length joins."""
    return TensorMetric(
        lambda z: torch.where(
            (z[..., 0].abs() > 0.5)[..., None, None], torch.eye(2, dtype=z.dtype), torch.tensor(torch.nan)
        ),
        dim=2,
    )


@pytest.mark.parametrize("kind", [GeodesicKMeans, GeodesicKMedoids])
def test_codes_that_nothing_joins(kind):
    rng = np.random.RandomState(0)
    X = rng.rand(60, 2) + np.where(np.arange(60)[:, None] % 2, [1.0, 0.0], [-2.0, 0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the graph says that it could not be joined
        two = kind(split(), 2, random_state=0, **({"n_refine": 0} if kind is GeodesicKMeans else {})).fit(X)
    assert adjusted_rand_score(two.labels_, np.arange(60) % 2) == 1
    with pytest.warns(UserWarning, match="labelled -1|cannot be joined"):
        one = kind(split(), 1, random_state=0, **({"n_refine": 0} if kind is GeodesicKMeans else {})).fit(X)
    assert set(one.labels_) == {0, -1}
    assert np.isfinite(one.inertia_)
    assert_array_equal(one.predict(X), one.labels_)


# --- medoids ----------------------------------------------------------------------------------------------------------


def test_swaps_reach_the_best_medoids_of_small_problems():
    for seed in range(5):
        rng = np.random.RandomState(seed)
        X = rng.randn(14, 2)
        w = rng.rand(14)
        D = np.linalg.norm(X[:, None] - X, axis=-1)
        best = min(float(w @ D[list(m)].min(0)) for m in itertools.combinations(range(14), 3))
        found = GeodesicKMedoids(n_clusters=3, n_init=5, random_state=0).fit(X, sample_weight=w)
        assert found.inertia_ == pytest.approx(best)
        assert_allclose(found.cluster_centers_, X[found.medoid_indices_])


def test_a_swap_never_raises_the_loss():
    rng = np.random.RandomState(0)
    D = rng.rand(30, 80)
    w = rng.rand(80)
    start = np.arange(5)
    medoids, loss, _, settled = swap(D, w, start, max_iter=50)
    assert settled
    assert loss <= float(w @ D[start].min(0))
    assert loss == pytest.approx(float(w @ D[medoids].min(0)))
    for i, m in itertools.product(range(5), range(30)):  # no single swap is better
        other = medoids.copy()
        other[i] = m
        assert float(w @ D[other].min(0)) >= loss - 1e-9


def test_medoids_of_an_isometric_chart():
    X = np.random.RandomState(1).randn(80, 2)
    found = GeodesicKMedoids(WAVE, 3, random_state=0).fit(X)
    flat = GeodesicKMedoids(Euclidean(2), 3, random_state=0).fit(unrolled(X))
    assert found.inertia_ == pytest.approx(flat.inertia_, rel=0.03)
