"""`LatentGraph`: bounds on its distances, starts for `connect`, connectivity, files, bad input."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from problems import BALL, EUCLIDEAN, PARABOLOID, SPHERE, SPHERE_BY_TENSOR, euclidean_distance, normal
from torch.testing import assert_close

from latentgeo.geodesics import GeodesicError, LatentGraph, Newton, connect, curve_length, distance
from latentgeo.metrics import Euclidean, PullbackMetric


def hill():
    return PullbackMetric(lambda z: torch.cat([z, 4 * torch.exp(-2 * z.square().sum(-1, keepdim=True))], -1), dim=2)


@pytest.mark.parametrize("problem", [SPHERE, SPHERE_BY_TENSOR, BALL, PARABOLOID], ids=str)
@pytest.mark.parametrize("grid", [0, 40])
def test_distances_bound_geodesics_from_above(problem, grid):
    codes = problem.points(300, 0)
    graph = LatentGraph(problem.metric, n_neighbors=15, grid=grid).fit(codes)
    a, b = codes[:20], problem.points(20, 7)
    got = graph.distances(a, b)
    exact = distance(problem.metric, a[:, None], b[None], solver=Newton(rtol=1e-5))
    ratio = (got / exact)[exact > 0.3]
    assert float(ratio.min()) > 1 - 1e-3  # quadrature of the grid's edges
    assert float(ratio.median()) < (1.04 if grid else 1.12)


def test_distances_of_all_pairs_are_symmetric_with_zero_diagonal():
    codes = PARABOLOID.points(60, 0)
    D = LatentGraph(PARABOLOID.metric, grid=0).fit(codes).distances(codes)
    assert_close(D, D.T)
    assert torch.equal(D.diagonal(), torch.zeros(60, dtype=torch.float64))
    assert bool((D[:, None] <= D[:, :, None] + D[None] + 1e-9).all())


def test_rectangular_orders_agree():
    codes = PARABOLOID.points(80, 0)
    graph = LatentGraph(PARABOLOID.metric, grid=16).fit(codes)
    a, b = PARABOLOID.points(3, 5), PARABOLOID.points(9, 6)
    assert_close(graph.distances(a, b), graph.distances(b, a).T)
    assert_close(graph.distances(a, a).diagonal(), torch.zeros(3, dtype=torch.float64))
    assert_close(graph.lengths(a, b[:3]), graph.distances(a, b[:3]).diagonal())


def test_paths_are_polygons_of_the_distances():
    codes = PARABOLOID.points(200, 0)
    graph = LatentGraph(PARABOLOID.metric, grid=32).fit(codes)
    a, b = PARABOLOID.points(8, 5).reshape(2, 4, 2), PARABOLOID.points(4, 6)
    paths = graph.paths(a, b, n_points=400)
    assert paths.shape == (2, 4, 400, 2)
    assert torch.equal(paths[..., 0, :], a)
    assert torch.equal(paths[..., -1, :], b.expand_as(a))
    assert_close(curve_length(PARABOLOID.metric, paths), graph.lengths(a, b), rtol=2e-2, atol=0)


def test_start_around_an_obstacle():
    metric = hill()
    codes = 1.5 * normal(300, 2)
    a = torch.tensor([[-1.5, 0.01], [-1.2, -0.4]], dtype=torch.float64)
    graph = LatentGraph(metric).fit(codes)
    path = connect(metric, a, -a, init=graph)
    straight = curve_length(metric, torch.stack([a, -a], 1))
    assert bool((path.length < 0.6 * straight).all())
    assert bool((path.length <= graph.lengths(a, -a) * (1 + 1e-6)).all())


def test_straight_line_is_kept_where_it_is_shorter():
    codes = EUCLIDEAN.points(100, 0)
    graph = LatentGraph(EUCLIDEAN.metric, n_neighbors=3).fit(codes)
    a, b = EUCLIDEAN.points(5, 3), EUCLIDEAN.points(5, 4)
    path = connect(EUCLIDEAN.metric, a, b, init=graph)
    assert_close(path.length, euclidean_distance(a, b))
    assert int(path.stats["steps"].max()) <= 2


def test_bad_end_points_with_a_graph():
    graph = LatentGraph(PARABOLOID.metric, grid=8).fit(PARABOLOID.points(30, 0))
    a = PARABOLOID.points(2, 1)
    a[0, 0] = torch.nan
    with pytest.raises(GeodesicError, match="1 of 2 curves failed"):
        connect(PARABOLOID.metric, a, PARABOLOID.points(2, 2), init=graph)


def test_own_error_is_estimated():
    codes = BALL.points(300, 0)
    a, b = BALL.points(30, 1), BALL.points(30, 2)
    errors = {grid: LatentGraph(BALL.metric, grid=grid).fit(codes).error(a, b) for grid in (0, 64)}
    assert all(bool((e > -1e-3).all()) for e in errors.values())
    assert float(errors[64].median()) < float(errors[0].median()) < 0.2


class TestConnectivity:
    def test_separate_clouds_are_bridged_and_said(self):
        codes = torch.cat([normal(40, 3) * 0.1, normal(40, 3, seed=1) * 0.1 + 5, normal(9, 3, seed=2) * 0.1 - 5])
        graph = LatentGraph(Euclidean(3), n_neighbors=5, grid=0).fit(codes)
        assert graph.n_components_ == 3
        assert graph.bridges_.shape == (2, 2)
        assert "2 bridges" in repr(graph)
        D = graph.distances(codes)
        assert bool(D.isfinite().all())
        assert float(D[0, 50]) >= float((codes[0] - codes[50]).norm()) - 1e-9

    def test_connected_graphs_are_left_alone(self):
        graph = LatentGraph(Euclidean(2), grid=0).fit(normal(50, 2))
        assert graph.n_components_ == 1
        assert len(graph.bridges_) == 0

    def test_metric_not_finite_between_codes(self):
        codes = torch.cat([BALL.points(10, 0) * 0.1, BALL.points(10, 1) * 0.1 + 3])
        with pytest.raises(ValueError, match="cannot be connected: the metric is not finite"):
            LatentGraph(BALL.metric, n_neighbors=3, grid=0).fit(codes)

    def test_duplicate_codes(self):
        codes = normal(20, 2).repeat(3, 1)
        D = LatentGraph(Euclidean(2), n_neighbors=4, grid=0).fit(codes).distances(codes)
        assert_close(D[:20, 20:40], D[:20, :20])


def test_codes_can_be_thinned():
    codes = normal(500, 2)
    graph = LatentGraph(Euclidean(2), max_codes=50, grid=0).fit(codes)
    assert graph.n_codes_ <= 50
    D = graph.distances(codes[:10], codes[10:20])
    assert float((D / euclidean_distance(codes[:10, None], codes[None, 10:20])).median()) < 1.1


def test_any_dimension():
    for d in (1, 3, 6):
        codes = normal(60, d)
        graph = LatentGraph(Euclidean(d)).fit(codes)
        exact = euclidean_distance(codes[:5, None], codes[None, 5:9])
        assert bool((graph.distances(codes[:5], codes[5:9]) >= exact * (1 - 1e-9)).all())


def test_single_precision():
    codes = PARABOLOID.points(50, 0).float()
    graph = LatentGraph(PARABOLOID.metric, grid=16).fit(codes)
    assert graph.distances(codes).dtype == torch.float32
    assert graph.paths(codes[:2], codes[2:4]).dtype == torch.float32


class TestFiles:
    codes = PARABOLOID.points(50, 0)

    def test_round_trip(self, tmp_path):
        graph = LatentGraph(PARABOLOID.metric, n_neighbors=7, grid=12).fit(self.codes)
        graph.save(tmp_path / "graph.npz")
        again = LatentGraph.load(tmp_path / "graph.npz", PARABOLOID.metric)
        assert repr(again) == repr(graph)
        a, b = PARABOLOID.points(4, 1), PARABOLOID.points(4, 2)
        assert torch.equal(again.distances(a, b), graph.distances(a, b))
        assert torch.equal(again.paths(a, b), graph.paths(a, b))

    def test_not_a_graph(self, tmp_path):
        path = tmp_path / "x.npz"
        path.write_bytes(b"nothing")
        with pytest.raises(ValueError, match="is not a graph"):
            LatentGraph.load(path, PARABOLOID.metric)
        np.savez(path, options=np.array([{"a": 1}], dtype=object))
        with pytest.raises(ValueError, match="is not a graph"):
            LatentGraph.load(path, PARABOLOID.metric)
        path.write_bytes(pickle.dumps({"a": 1}))
        with pytest.raises(ValueError, match="is not a graph"):
            LatentGraph.load(path, PARABOLOID.metric)

    def test_wrong_dimension(self, tmp_path):
        LatentGraph(Euclidean(2), grid=0).fit(normal(9, 2)).save(tmp_path / "g.npz")
        with pytest.raises(ValueError, match="2-d codes, but the metric has dimension 3"):
            LatentGraph.load(tmp_path / "g.npz", Euclidean(3))

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            LatentGraph.load(tmp_path / "no.npz", Euclidean(2))


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"n_neighbors": 0}, "`n_neighbors` must be"),
            ({"substeps": 2}, "`substeps` must be"),
            ({"grid": 1}, "`grid` must be"),
            ({"grid": -4}, "`grid` must be"),
            ({"max_codes": 1}, "`max_codes` must be"),
        ],
    )
    def test_options(self, options, words):
        with pytest.raises(ValueError, match=words):
            LatentGraph(Euclidean(2), **options)

    def test_metric(self):
        with pytest.raises(TypeError, match="`metric` must be a Metric"):
            LatentGraph(lambda z: z)

    @pytest.mark.parametrize("codes", [torch.zeros(1, 2), torch.zeros(2), torch.zeros(2, 2, 2)])
    def test_codes_shape(self, codes):
        with pytest.raises(ValueError, match="`codes` must have shape"):
            LatentGraph(Euclidean(2)).fit(codes)

    def test_codes_finite(self):
        with pytest.raises(ValueError, match="`codes` must be finite, got 1 rows"):
            LatentGraph(Euclidean(2)).fit(torch.tensor([[0.0, torch.nan], [1.0, 1.0]]))

    def test_unfitted(self):
        with pytest.raises(RuntimeError, match="not fitted"):
            LatentGraph(Euclidean(2)).distances(torch.zeros(2, 2))

    def test_queries(self):
        graph = LatentGraph(Euclidean(), grid=0).fit(normal(9, 2))
        with pytest.raises(ValueError, match="`A` must have 2 latent coordinates"):
            graph.distances(torch.zeros(2, 3))
        with pytest.raises(ValueError, match="`B` must be finite"):
            graph.distances(torch.zeros(2, 2), torch.full((1, 2), torch.inf))
