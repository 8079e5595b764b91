"""`LatentGraph`: bounds on its distances, stored codes, periods, starts for `connect`, connectivity, files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from problems import (
    BALL,
    ELLIPSOID,
    EUCLIDEAN,
    PARABOLOID,
    SPHERE,
    SPHERE_BY_TENSOR,
    TORUS,
    euclidean_distance,
    generator,
    normal,
)
from torch.testing import assert_close

from latentgeo.geodesics import GeodesicError, LatentGraph, Newton, connect, curve_length, distance
from latentgeo.metrics import Euclidean, PullbackMetric, TensorMetric


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
    assert_close(curve_length(PARABOLOID.metric, paths), graph.lengths(a, b), rtol=3e-2, atol=0)


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

    @pytest.mark.parametrize("grid", [0, 32])
    def test_metric_not_finite_between_codes(self, grid):
        def split(z):
            return torch.where((z[:, :1] - 1.5).abs() > 1, z, torch.nan)

        codes = torch.cat([BALL.points(10, 0) * 0.1, BALL.points(10, 1) * 0.1 + 3])
        with pytest.warns(UserWarning, match="2 groups of codes cannot be joined.* distances between those are inf"):
            graph = LatentGraph(PullbackMetric(split, dim=2), n_neighbors=3, grid=grid).fit(codes)
        D = graph.distances(codes)
        assert bool(D[:10, 10:].isinf().all())
        assert bool(D[:10, :10].isfinite().all())
        label, distance = graph.nearest([0])
        assert label.tolist() == [0] * 10 + [-1] * 10
        assert torch.equal(distance, D[0])
        assert torch.equal(graph.lengths(codes[0], codes), D[0])
        straight = graph.paths(codes[:1], codes[10:11], n_points=3)
        assert_close(straight[0, 1], (codes[0] + codes[10]) / 2)

    def test_codes_where_the_metric_is_not_finite(self):
        codes = torch.cat([BALL.points(30, 0), torch.tensor([[2.0, 2.0]], dtype=torch.float64)])
        with pytest.warns(UserWarning, match="1 codes cannot be joined to any node"):
            graph = LatentGraph(BALL.metric, grid=24).fit(codes)
        D = graph.distances_from([0, 30])
        assert bool(D[0, :30].isfinite().all())
        assert bool(D[1, :30].isinf().all())
        assert bool(D[0, 30].isinf())

    def test_duplicate_codes(self):
        codes = normal(20, 2).repeat(3, 1)
        D = LatentGraph(Euclidean(2), n_neighbors=4, grid=0).fit(codes).distances(codes)
        assert_close(D[:20, 20:40], D[:20, :20])


def test_codes_can_be_thinned():
    codes = normal(500, 2)
    graph = LatentGraph(Euclidean(2), max_codes=50, grid=0).fit(codes)
    assert len(graph.nodes_) <= 50
    assert graph.n_codes_ == 500
    D = graph.distances(codes[:10], codes[10:20])
    assert float((D / euclidean_distance(codes[:10, None], codes[None, 10:20])).median()) < 1.1


class TestStoredCodes:
    codes = PARABOLOID.points(300, 0)
    graphs = (
        LatentGraph(PARABOLOID.metric, grid=24).fit(codes),
        LatentGraph(PARABOLOID.metric, grid=0).fit(codes),
        LatentGraph(PARABOLOID.metric, grid=0, max_codes=40).fit(codes),
    )

    @pytest.mark.parametrize("graph", graphs, ids=repr)
    def test_distances_from(self, graph):
        want = graph.distances(self.codes[[5, 7, -1]], self.codes)
        assert torch.equal(graph.distances_from([5, 7, -1]), want)
        assert torch.equal(graph.distances_from(np.array([5, 7, 299])), want)
        assert torch.equal(graph.distances_from(torch.tensor([5, 7, 299])), want)
        assert torch.equal(graph.distances_from(self.codes[[5, 7, 299]]), want)
        assert float(graph.distances_from([9])[0, 9]) == 0.0
        assert graph.distances_from([]).shape == (0, 300)

    @pytest.mark.parametrize("graph", graphs, ids=repr)
    def test_nearest_is_the_least_of_the_distances(self, graph):
        for some in ([3, 77, 150, 151], self.codes[:6] + 0.05, self.codes[[8]]):
            D = graph.distances_from(some)
            label, distance = graph.nearest(some)
            assert_close(distance, D.min(0).values)
            assert_close(D.gather(0, label[None])[0], distance)

    @pytest.mark.parametrize("graph", graphs, ids=repr)
    def test_nearest_of_twice_the_same(self, graph):
        label, distance = graph.nearest([4, 9, 4])
        D = graph.distances_from([4, 9, 4])
        assert_close(D.gather(0, label[None])[0], D.min(0).values)
        assert float(distance[4]) == float(distance[9]) == 0.0

    @pytest.mark.parametrize("graph", graphs, ids=repr)
    def test_short_distances(self, graph):
        near = self.codes + 1e-3 * normal(300, 2, seed=3)
        exact = curve_length(PARABOLOID.metric, torch.stack([self.codes, near], -2))
        assert_close(graph.lengths(self.codes, near), exact, rtol=2e-2, atol=1e-9)

    @pytest.mark.parametrize(
        ("codes", "kind", "words"),
        [
            ([0.5], TypeError, "`codes` must be whole numbers"),
            ([[1]], TypeError, "`codes` must be whole numbers"),
            ([300], ValueError, "rows of the 300 codes given to fit, got 300 to 300"),
            ([-301], ValueError, "rows of the 300 codes"),
            (torch.zeros(2), ValueError, r"`codes` must have shape \(k, d\)"),
            (torch.full((1, 2), torch.nan), ValueError, "`codes` must be finite"),
        ],
    )
    def test_bad_input(self, codes, kind, words):
        with pytest.raises(kind, match=words):
            self.graphs[0].distances_from(codes)

    def test_nearest_of_none(self):
        with pytest.raises(ValueError, match="at least one point"):
            self.graphs[0].nearest([])


def flat_torus(period):
    d = len(period)
    return TensorMetric(lambda z: torch.eye(d, dtype=z.dtype).expand(*z.shape, d), dim=d, period=period)


def torus():
    return PullbackMetric(TORUS.metric.embedding, dim=2, period=(2 * torch.pi, 2 * torch.pi))


class TestPeriodicCoordinates:
    @pytest.mark.parametrize("options", [{"grid": 48}, {"grid": 0, "n_neighbors": 30}, {"grid": 0, "max_codes": 400}])
    @pytest.mark.parametrize("period", [(1.0, 2.0), (None, 2.0)])
    def test_flat_torus(self, period, options):
        codes = 4 * torch.rand(1500, 2, generator=generator(0), dtype=torch.float64) - 2
        graph = LatentGraph(flat_torus(period), **options).fit(codes)
        a, b = codes[:40], codes[40:90]
        size = torch.tensor([p or torch.inf for p in period], dtype=torch.float64)
        gap = b[None] - a[:, None]
        exact = (gap - torch.nan_to_num(torch.round(gap / size) * size)).norm(dim=-1)
        got = graph.distances(a, b)
        assert bool((got >= exact * (1 - 1e-9)).all())
        ratio = (got / exact)[exact > 0.2]
        assert float(ratio.quantile(0.95)) < (1.015 if options["grid"] else 1.10)
        assert_close(graph.distances(a + size.nan_to_num(posinf=0.0), b), got)

    @pytest.mark.parametrize("grid", [48, 0])
    def test_paths_are_continuous_and_arrive(self, grid):
        metric = flat_torus((1.0, 2.0))
        codes = 3 * torch.rand(600, 2, generator=generator(0), dtype=torch.float64)
        graph = LatentGraph(metric, grid=grid).fit(codes)
        a, b = codes[:30], codes[30:60]
        paths = graph.paths(a, b, n_points=400)
        turns = (paths[:, -1] - b) / torch.tensor([1.0, 2.0])
        assert torch.equal(paths[:, 0], a)
        assert_close(turns, turns.round())
        assert float(paths.diff(dim=1).norm(dim=-1).max()) < 0.1
        assert bool((paths.diff(dim=1).norm(dim=-1).sum(-1) <= graph.lengths(a, b) * (1 + 1e-9)).all())
        back = graph.paths(b[:1], a, n_points=400)  # searched from the one end that is shared
        assert torch.equal(back[:, 0], b[:1].expand(30, 2))

    def test_connect_from_the_graph_finds_the_way_round(self):
        a, b = torch.tensor([[0.1, 0.3], [0.0, 0.0]]).double(), torch.tensor([[6.2, 0.5], [0.0, 3.0]]).double()
        codes = 7 * torch.rand(200, 2, generator=generator(0), dtype=torch.float64)
        path = connect(torus(), a, b, init=LatentGraph(torus(), grid=64).fit(codes))
        direct = connect(torus(), a, b)
        assert bool(path.converged.all())
        assert bool((path.length <= direct.length * (1 + 1e-3)).all())

    def test_torus_of_revolution(self):
        """Closed geodesics: the meridian, the inner equator; half-way round each the distance is half their length."""
        graph = LatentGraph(torus(), grid=128).fit(7 * torch.rand(50, 2, generator=generator(0), dtype=torch.float64))
        pi = torch.pi
        a = torch.tensor([[0.0, 0.0], [pi, 0.0], [0.3, 1.0], [pi, 6.0]], dtype=torch.float64)
        b = torch.tensor([[pi, 0.0], [pi, pi], [-0.5, 1.0], [pi, 0.5]], dtype=torch.float64)
        exact = torch.tensor([pi, pi, 0.8, 2 * pi - 5.5], dtype=torch.float64)
        assert_close(graph.lengths(a, b), exact, rtol=5e-3, atol=0)
        assert bool((graph.lengths(a, b) > exact * (1 - 1e-3)).all())

    def test_the_seam_is_nowhere(self):
        """A shift of the codes along the symmetry axis by whole cells changes nothing."""
        codes = 6 * torch.rand(60, 2, generator=generator(0), dtype=torch.float64)
        graph = LatentGraph(torus(), grid=64).fit(codes)
        cell = graph.nodes_[1] - graph.nodes_[0]
        shift = torch.as_tensor(7 * cell)
        assert_close(graph.distances(codes + shift), graph.distances(codes), rtol=1e-9, atol=1e-9)

    def test_round_trip(self, tmp_path):
        graph = LatentGraph(torus(), grid=24).fit(PARABOLOID.points(50, 0))
        graph.save(tmp_path / "graph.npz")
        again = LatentGraph.load(tmp_path / "graph.npz", torus())
        assert torch.equal(again.distances_from([0, 1]), graph.distances_from([0, 1]))

    def test_small_grid(self):
        with pytest.raises(ValueError, match="`grid` must be 0 or at least 4 for a metric with periodic"):
            LatentGraph(torus(), grid=3).fit(PARABOLOID.points(50, 0))


@pytest.mark.parametrize("problem", [PARABOLOID, SPHERE, BALL, ELLIPSOID], ids=str)
def test_what_is_left_on_a_fine_grid_is_its_directions(problem):
    """No path is shorter than a geodesic; one that keeps to directions 20 degrees apart is up to 1.5 % longer."""
    a, b = problem.points(40, 1), problem.points(40, 2)
    exact = distance(problem.metric, a, b, solver=Newton(rtol=1e-5))
    codes = torch.cat([a, b])
    coarse, fine = (LatentGraph(problem.metric, grid=n).fit(codes).lengths(a, b) / exact - 1 for n in (32, 128))
    assert float(coarse.mean()) < 0.02
    assert float(fine.mean()) < min(0.007, float(coarse.mean()))
    assert float(fine.min()) > -1e-4
    assert float(fine[exact > 0.5].max()) < 0.025


def test_directions_are_those_of_the_metric():
    """A coordinate that counts ten times as much as the other has more nodes, and edges as wide apart as elsewhere."""
    stretched = TensorMetric(lambda z: torch.diag(torch.tensor([1.0, 100.0]).to(z)).expand(*z.shape, 2), dim=2)
    codes = torch.rand(200, 2, generator=generator(0), dtype=torch.float64)
    graph = LatentGraph(stretched, grid=64).fit(codes)
    assert len(np.unique(graph.nodes_[:, 0])) * 3 < len(np.unique(graph.nodes_[:, 1]))
    a, b = codes[:40], codes[40:80]
    exact = ((a - b) * torch.tensor([1.0, 10.0])).norm(dim=-1)
    excess = graph.lengths(a, b) / exact - 1
    assert float(excess.min()) > -1e-9
    assert float(excess.median()) < 0.012


def test_codes_beside_the_grid():
    graph = LatentGraph(Euclidean(2), grid=16).fit(torch.rand(30, 2, generator=generator(0), dtype=torch.float64))
    a = torch.tensor([[3.0, 0.5], [0.5, -2.0]], dtype=torch.float64)
    D = graph.distances(a, a + torch.tensor([0.01, 0.0], dtype=torch.float64))
    assert float(D[0, 0]) == pytest.approx(0.01)
    exact = euclidean_distance(a[0], a[1])
    assert float(exact) <= float(D[0, 1]) < 1.5 * float(exact)


def test_copies_to_a_worker():
    graph = LatentGraph(Euclidean(2), grid=16).fit(normal(30, 2))
    again = pickle.loads(pickle.dumps(graph))
    assert torch.equal(again.distances_from([0]), graph.distances_from([0]))


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
