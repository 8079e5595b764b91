"""Geodesic distances and estimators in scikit-learn's other tools: precomputed distances, pipelines, workers."""

from __future__ import annotations

import importlib
import pickle
import warnings

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import DBSCAN, HDBSCAN, OPTICS, AgglomerativeClustering, SpectralClustering
from sklearn.manifold import TSNE, Isomap
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from latentgeo.geodesics import LatentGraph, connect
from latentgeo.learn import GeodesicKMeans, GeodesicKMedoids, GeodesicNeighbors, GeodesicPCA, frechet_mean
from latentgeo.metrics import PullbackMetric, Sphere, TensorMetric


def roll(z):
    """A Swiss roll along the first coordinate."""
    r = 3 + z[..., :1]
    return torch.cat([r * r.cos(), r * r.sin(), z[..., 1:]], -1)


ROLL = PullbackMetric(roll, dim=2)


@pytest.fixture(scope="module")
def codes():
    rng = np.random.RandomState(0)
    label = np.arange(90) % 3
    X = np.array([[0.0, 0.0], [2.5, 0.0], [5.0, 1.0]])[label] + 0.25 * rng.randn(90, 2)
    return X, label


@pytest.fixture(scope="module")
def graph(codes):
    return LatentGraph(ROLL, grid=64).fit(torch.as_tensor(codes[0]))


@pytest.fixture(scope="module")
def D(codes, graph):
    return graph.distances(torch.as_tensor(codes[0])).numpy()


# --- precomputed distances --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        HDBSCAN(metric="precomputed", min_cluster_size=10, copy=True),
        DBSCAN(metric="precomputed", eps=3.0),
        OPTICS(metric="precomputed", min_samples=5, cluster_method="dbscan", eps=3.0),
        AgglomerativeClustering(3, metric="precomputed", linkage="average"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_clusterings_of_precomputed_distances(model, D, codes):
    labels = model.fit_predict(D)
    kept = labels >= 0
    assert kept.mean() > 0.9
    assert adjusted_rand_score(labels[kept], codes[1][kept]) == 1


def test_pictures_and_scores_of_precomputed_distances(D, codes):
    assert silhouette_score(D, codes[1], metric="precomputed") > 0.7
    flat = TSNE(metric="precomputed", init="random", perplexity=15, random_state=0).fit_transform(D)
    assert silhouette_score(flat, codes[1]) > 0.5
    assert Isomap(metric="precomputed", n_neighbors=40).fit_transform(D).shape == (90, 2)


@pytest.mark.slow
def test_umap_of_precomputed_distances(D, codes):
    if importlib.util.find_spec("umap") is None:
        pytest.skip("umap-learn is not installed (pip install umap-learn)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap-learn's and numba's own
        umap = importlib.import_module("umap")
        flat = umap.UMAP(metric="precomputed", random_state=0, n_neighbors=10, n_epochs=100).fit_transform(D)
    assert silhouette_score(flat, codes[1]) > 0.5


def apart():
    """Two half planes that no curve of finite length joins."""
    return TensorMetric(
        lambda z: torch.where(
            (z[..., 0].abs() > 0.5)[..., None, None], torch.eye(2, dtype=z.dtype), torch.tensor(torch.nan)
        ),
        dim=2,
    )


def test_codes_that_nothing_joins_are_infinitely_far():
    """The policy: inf in a matrix; a finite stand-in for tools that refuse inf; nothing stored in a sparse one."""
    rng = np.random.RandomState(0)
    side = np.arange(40) % 2
    X = rng.rand(40, 2) + np.where(side[:, None], [1.0, 0.0], [-2.0, 0.0])
    with pytest.warns(UserWarning, match="cannot be joined"):
        graph = LatentGraph(apart(), grid=24).fit(torch.as_tensor(X))
    D = graph.distances(torch.as_tensor(X)).numpy()
    assert np.isinf(D[side[:, None] != side]).all()
    assert np.isfinite(D[side[:, None] == side]).all()
    stand_in = np.where(np.isfinite(D), D, 10 * D[np.isfinite(D)].max())
    assert adjusted_rand_score(DBSCAN(metric="precomputed", eps=0.5).fit_predict(stand_in), side) == 1
    sparse = GeodesicNeighbors(graph.metric, n_neighbors=30, graph=graph).fit_transform(X)
    assert np.isfinite(sparse.data).all()
    assert set(np.diff(sparse.indptr)) == {20}
    rows, columns = sparse.nonzero()
    assert (side[rows] == side[columns]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn: some neighbourhoods are smaller than others
        assert adjusted_rand_score(DBSCAN(metric="precomputed", eps=0.5).fit_predict(sparse), side) == 1


# --- neighbours -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["distance", "connectivity"])
def test_neighbours_without_a_metric_are_scikit_learns(mode):
    X, Y = np.random.RandomState(0).randn(50, 3), np.random.RandomState(1).randn(9, 3)
    mine = GeodesicNeighbors(n_neighbors=4, mode=mode).fit(X)
    theirs = KNeighborsTransformer(n_neighbors=4, mode=mode).fit(X)
    assert_allclose(mine.transform(Y).toarray(), theirs.transform(Y).toarray(), atol=1e-12)
    assert_allclose(mine.transform(X).toarray(), theirs.transform(X).toarray(), atol=1e-7)
    assert_allclose(mine.kneighbors_graph().toarray(), theirs.kneighbors_graph(mode=mode).toarray(), atol=1e-7)
    assert_array_equal(mine.kneighbors(Y, 3, return_distance=False), theirs.kneighbors(Y, 3, return_distance=False))
    assert_array_equal(mine.get_feature_names_out()[:2], ["geodesicneighbors0", "geodesicneighbors1"])


def test_neighbours_are_those_of_all_distances(codes, graph, D):
    near = GeodesicNeighbors(ROLL, n_neighbors=6, graph=graph).fit(codes[0])
    length, index = near.kneighbors()
    others = D + np.diag(np.full(90, np.inf))
    assert_allclose(length, np.sort(others, 1)[:, :6], rtol=1e-9)
    assert_allclose(np.take_along_axis(others, index, 1), length, rtol=1e-9)


def test_neighbours_feed_pipelines(codes, graph):
    X, label = codes
    near = GeodesicNeighbors(ROLL, n_neighbors=12, graph=graph)
    knn = make_pipeline(near, KNeighborsClassifier(5, metric="precomputed"))
    assert knn.fit(X[::2], label[::2]).score(X[1::2], label[1::2]) == 1
    ones = GeodesicNeighbors(ROLL, n_neighbors=12, graph=graph, mode="connectivity").fit_transform(X)
    spectral = SpectralClustering(3, affinity="precomputed_nearest_neighbors", n_neighbors=10, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the graph of neighbours has three parts
        assert adjusted_rand_score(spectral.fit_predict(near.fit_transform(X)), label) == 1
    assert ones.shape == (90, 90)


def test_too_many_neighbours_are_named():
    X = np.eye(4, 2)
    near = GeodesicNeighbors(n_neighbors=5).fit(X)
    with pytest.raises(ValueError, match="n_neighbors = 6, n_samples_fit = 4"):
        near.transform(X)
    with pytest.raises(ValueError, match="mode"):
        GeodesicNeighbors(mode="weights").fit(X)
    with pytest.raises(ValueError, match="n_neighbors"):
        GeodesicNeighbors(n_neighbors=0).fit(X)


def test_exact_neighbours(codes):
    X = codes[0][:12]
    near = GeodesicNeighbors(ROLL, n_neighbors=2, distances="exact").fit(X)
    length, index = near.kneighbors()
    z = torch.as_tensor(X)
    want = connect(ROLL, z[:, None].expand(12, 2, 2), z[torch.as_tensor(index)]).length.numpy()
    assert_allclose(length, want, rtol=1e-6)


# --- conventions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GeodesicKMeans, GeodesicKMedoids, GeodesicPCA, GeodesicNeighbors])
def test_clone_shares_the_metric_and_fits_survive_pickling(kind, codes):
    X = 0.2 * codes[0][:30]
    sphere = Sphere(2)
    model = kind(sphere, 2)
    assert clone(model).metric is sphere
    fitted = pickle.loads(pickle.dumps(model.fit(X)))
    before, after = model.transform(X), fitted.transform(X)
    if hasattr(before, "toarray"):
        before, after = before.toarray(), after.toarray()
    assert_array_equal(before, after)
    assert repr(model).startswith(kind.__name__)


def test_data_frames_come_out():
    pandas = pytest.importorskip("pandas")
    X = 0.3 * np.random.RandomState(0).randn(30, 2)
    for model in (GeodesicKMeans(Sphere(2), 2, n_refine=4, random_state=0), GeodesicPCA(Sphere(2))):
        frame = model.set_output(transform="pandas").fit_transform(X)
        assert isinstance(frame, pandas.DataFrame)
        assert list(frame.columns) == [f"{type(model).__name__.lower()}{i}" for i in range(2)]


def test_a_search_over_metrics_and_clusters(codes):
    X, label = codes
    flat = PullbackMetric(torch.clone, dim=2)
    pipe = make_pipeline(FunctionTransformer(), GeodesicKMedoids(n_init=1, random_state=0))
    grid = {"geodesickmedoids__metric": [None, flat, ROLL], "geodesickmedoids__n_clusters": [2, 3]}

    def agreement(model, X, y):
        return adjusted_rand_score(y, model.predict(X))

    found = GridSearchCV(pipe, grid, scoring=agreement, cv=2, error_score="raise").fit(X, label)
    assert found.best_score_ == 1
    assert found.best_params_["geodesickmedoids__n_clusters"] == 3
    assert {row["geodesickmedoids__metric"] for row in found.cv_results_["params"]} == {None, flat, ROLL}


def test_means_of_clusters_are_their_centres(codes, graph):
    X = codes[0]
    model = GeodesicKMeans(ROLL, 3, graph=graph, random_state=0).fit(X)
    for k in range(3):
        mean = frechet_mean(ROLL, X[model.labels_ == k]).mean
        gap = connect(ROLL, *(torch.as_tensor(z) for z in (mean, model.cluster_centers_[k]))).length
        assert float(gap) < 0.15 * np.sqrt(model.inertia_ / 90)


# --- workers ----------------------------------------------------------------------------------------------------------


def fitted(X, graph, **options):
    model = GeodesicKMeans(graph.metric, 3, graph=graph, n_refine=0, random_state=0, n_jobs=2, **options).fit(X)
    return model.labels_, model.inertia_, model.transform(X)


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_bits(codes):
    distributed = pytest.importorskip("distributed")
    X = 0.15 * np.concatenate([codes[0]] * 3) + 1e-3 * np.random.RandomState(0).randn(270, 2)
    sphere = Sphere(2)
    graph = LatentGraph(sphere, grid=32).fit(torch.as_tensor(np.unique(X, axis=0)))
    with joblib.parallel_config(backend="sequential"):
        alone = fitted(X, graph)
    with joblib.parallel_config(backend="loky", n_jobs=2, inner_max_num_threads=1):
        local = fitted(X, graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dask's own, about ports and closing
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
            joblib.parallel_config(backend="dask"),
        ):
            spread = fitted(X, graph)
            assert len(client.scheduler_info()["workers"]) == 2
    for other in (local, spread):
        assert_array_equal(other[0], alone[0])
        assert other[1] == alone[1]
        assert_array_equal(other[2], alone[2])
