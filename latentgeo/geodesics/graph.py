"""`LatentGraph`: near-global distances and starting curves from shortest paths over codes and a grid.

After Chen, Ferroni, Klushyn, Paraschos, Bayer, van der Smagt, "Fast Approximate Geodesics for Deep Generative Models"
(2019, arXiv:1812.08284): nodes are codes joined to their nearest neighbours, edges weigh what their segments measure.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree
from torch import Tensor
from tqdm import tqdm

from ..metrics import Metric
from ._graph_file import read_graph, write_graph
from ._lattice import chain, lattice_edges, resample, symmetric
from .curve import Curve, arc_length, row_budget

if TYPE_CHECKING:
    from ._solvers.newton import Newton

__all__ = ["LatentGraph"]

_OPTIONS = ("n_neighbors", "grid", "max_codes", "substeps", "random_state")

_AUTO_GRID = {1: 512, 2: 128, 3: 24}


class LatentGraph:
    """Graph over latent codes (and, for d ≤ 3, a regular grid) whose edges weigh their segments' true lengths.

    Its distances are lengths of polygons through the nodes: never less than the geodesic distance, but for quadrature.

    Parameters
    ----------
    metric : Metric
    n_neighbors : int
        Nearest codes, in latent coordinates, that each code is joined to.
    grid : int, optional
        Grid nodes along each axis of the codes' (slightly enlarged) bounding box, joined by a 16-neighbour stencil in
        two dimensions; 0 for none. None means 128 for d = 2, 24 for d = 3, 512 for d = 1 and none above.
    max_codes : int, optional
        With more codes than this, only the codes nearest to that many k-means centres become nodes.
    substeps : int
        Sub-steps of the quadrature of each edge between codes, at least 4.
    random_state : int
        Seed of the k-means thinning.
    progress : bool
        Show a progress bar while fitting.

    Attributes
    ----------
    nodes_ : ndarray of shape (n_nodes, d)
        Codes first, then the grid.
    n_codes_ : int
    weights_ : scipy.sparse.csr_array of shape (n_nodes, n_nodes)
        Symmetric edge lengths.
    n_components_ : int
        Connected components before they were bridged.
    bridges_ : ndarray of shape (n_bridges, 2)
        Node pairs joined so that the graph is connected.

    Raises
    ------
    ValueError
        If a parameter is out of range; from `fit`, if the codes have the wrong shape or hold NaN.

    Examples
    --------
    >>> from latentgeo.metrics import Euclidean
    >>> codes = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> graph = LatentGraph(Euclidean(2), n_neighbors=10).fit(codes)
    >>> graph.distances(codes[:2], codes[2:5]).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        metric: Metric,
        n_neighbors: int = 20,
        *,
        grid: int | None = None,
        max_codes: int | None = None,
        substeps: int = 8,
        random_state: int = 0,
        progress: bool = False,
    ) -> None:
        if not isinstance(metric, Metric):
            raise TypeError(f"`metric` must be a Metric, got {type(metric).__name__}; wrap a map with PullbackMetric")
        most = 2 if max_codes is None else max_codes
        for name, value, least in (("n_neighbors", n_neighbors, 1), ("substeps", substeps, 4), ("max_codes", most, 2)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
        if grid is not None and (not isinstance(grid, int) or isinstance(grid, bool) or grid < 0 or grid == 1):
            raise ValueError(f"`grid` must be None, 0 or an integer of at least 2, got {grid!r}")
        if metric.period is not None:
            raise ValueError("`metric` must not have periodic coordinates; use `connect(..., starts=...)` for those")
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.grid = grid
        self.max_codes = max_codes
        self.substeps = substeps
        self.random_state = random_state
        self.progress = progress

    def __repr__(self) -> str:
        if not hasattr(self, "weights_"):
            return f"LatentGraph({self.metric!r}, n_neighbors={self.n_neighbors}, not fitted)"
        n, edges = len(self.nodes_), self.weights_.nnz // 2
        bridged = f", {len(self.bridges_)} bridges" if len(self.bridges_) else ""
        return f"LatentGraph({self.n_codes_} codes + {n - self.n_codes_} grid nodes, {edges} edges{bridged})"

    # --- building -----------------------------------------------------------------------------------------------------

    def fit(self, codes: Tensor) -> LatentGraph:
        """Build the graph.

        Parameters
        ----------
        codes : Tensor of shape (N, d)
            Latent codes, with the dtype and device of the metric's model.

        Returns
        -------
        LatentGraph
            Itself.
        """
        self.metric.check(codes, name="codes")
        if codes.ndim != 2 or codes.shape[0] < 2:
            raise ValueError(f"`codes` must have shape (N, d) with N >= 2, got {tuple(codes.shape)}")
        if not bool(codes.isfinite().all()):
            raise ValueError(
                f"`codes` must be finite, got {int((~codes.isfinite().all(-1)).sum())} rows with NaN or inf"
            )
        codes = codes.detach()
        d = codes.shape[-1]
        points = self._thinned(np.unique(codes.double().cpu().numpy(), axis=0))
        self.n_codes_ = len(points)
        per_axis = _AUTO_GRID.get(d, 0) if self.grid is None else self.grid
        self._axes = self._grid_axes(points, per_axis)
        lattice = np.stack(np.meshgrid(*self._axes, indexing="ij"), -1).reshape(-1, d) if self._axes else points[:0]
        self.nodes_ = np.concatenate([points, lattice])
        self._index(codes[:0])
        pairs, lengths = [], []
        ends, weights = self._code_edges(points)
        pairs.append(ends)
        lengths.append(weights)
        for ends, weights in lattice_edges(self.metric, self._axes, codes[:0], progress=self.progress):
            pairs.append(ends + self.n_codes_)
            lengths.append(weights)
        if len(lattice):
            ends = self._to_lattice(points, np.arange(len(points)))
            pairs.append(ends)
            lengths.append(self._segments(ends, self.nodes_))
        self.weights_ = symmetric(np.concatenate(pairs), np.concatenate(lengths), len(self.nodes_))
        self._drop_unreachable()
        self._bridge()
        return self

    def _index(self, like: Tensor) -> None:
        """What queries need besides the graph: the tensors' kind and search trees."""
        self._like = like
        self._tree = cKDTree(self.nodes_[: self.n_codes_])
        lattice = self.nodes_[self.n_codes_ :]
        self._lattice_tree = cKDTree(lattice) if len(lattice) else None

    def _thinned(self, points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """At most `max_codes` codes: those nearest to k-means centres."""
        if self.max_codes is None or len(points) <= self.max_codes:
            return points
        from sklearn.cluster import MiniBatchKMeans

        k_means = MiniBatchKMeans(self.max_codes, random_state=self.random_state, n_init=1, batch_size=4096)
        centres = k_means.fit(points).cluster_centers_
        return points[np.unique(cKDTree(points).query(centres)[1])]

    def _grid_axes(self, points: np.ndarray[Any, Any], per_axis: int) -> list[np.ndarray[Any, Any]]:
        if per_axis == 0:
            return []
        low, high = points.min(0), points.max(0)
        margin = 0.1 * (high - low) + 1e-6 * (1 + np.abs(high))
        return [np.linspace(a - m, b + m, per_axis) for a, b, m in zip(low, high, margin, strict=True)]

    def _tensor(self, z: np.ndarray[Any, Any]) -> Tensor:
        return torch.as_tensor(z, dtype=self._like.dtype, device=self._like.device)

    def _code_edges(self, points: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        k = min(self.n_neighbors + 1, len(points))
        near = self._tree.query(points, k)[1].reshape(len(points), -1)
        ends = np.stack([np.repeat(np.arange(len(points)), near.shape[1]), near.ravel()], 1)
        ends = np.unique(np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1), axis=0)
        return ends, self._segments(ends, self.nodes_)

    def _to_lattice(self, points: np.ndarray[Any, Any], ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Edges from points to the corners of their grid cells."""
        if self._lattice_tree is None:
            return np.empty((0, 2), dtype=int)
        corners = 2 ** points.shape[1]
        near = self._lattice_tree.query(points, corners)[1].reshape(len(points), -1) + self.n_codes_
        return np.stack([np.repeat(ids, near.shape[1]), near.ravel()], 1)

    def _segments(self, ends: np.ndarray[Any, Any], nodes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """True lengths of the segments between node pairs (E, 2), in bounded batches."""
        out = np.empty(len(ends))
        rows = max(1, row_budget(self.metric, self._like) // (self.substeps + 1))
        steps = range(0, len(ends), rows)
        for i in tqdm(steps, desc="edges", disable=not self.progress, leave=False):
            some = self._tensor(nodes[ends[i : i + rows]])
            with torch.no_grad():
                lengths = arc_length(
                    self.metric, Curve(some, linear=True), rtol=torch.inf, substeps=self.substeps
                ).length
            out[i : i + rows] = lengths.cpu().numpy()
        return out

    def _drop_unreachable(self) -> None:
        """Leave out grid nodes that no code is joined to, such as those where the metric is not finite."""
        _, label = connected_components(self.weights_, directed=False)
        keep = np.isin(label, np.unique(label[: self.n_codes_]))
        if not keep.all():
            self.nodes_ = self.nodes_[keep]
            self.weights_ = sp.csr_array(self.weights_[keep][:, keep])
            self._index(self._like)

    def _bridge(self) -> None:
        """Join the components by the shortest edges between them, so that every pair of nodes has a path."""
        count, label = connected_components(self.weights_, directed=False)
        self.n_components_ = int(count)
        bridges: list[tuple[int, int]] = []
        while count > 1:
            sizes = np.bincount(label)
            small = int(sizes.argmin())
            inside = np.flatnonzero(label == small)
            outside = np.flatnonzero(label != small)
            gap, near = cKDTree(self.nodes_[outside]).query(self.nodes_[inside])
            best = np.argsort(gap)[: min(16, len(gap))]
            ends = np.stack([inside[best], outside[near[best]]], 1)
            lengths = self._segments(ends, self.nodes_)
            if not np.isfinite(lengths).any():
                raise ValueError("the graph cannot be connected: the metric is not finite between some of the codes")
            cheapest = int(np.nanargmin(np.where(np.isfinite(lengths), lengths, np.nan)))
            bridge = ends[cheapest][None]
            self.weights_ = self.weights_ + symmetric(bridge, lengths[cheapest : cheapest + 1], len(self.nodes_))
            bridges.append((int(bridge[0, 0]), int(bridge[0, 1])))
            count, label = connected_components(self.weights_, directed=False)
        self.bridges_ = np.array(bridges, dtype=int).reshape(-1, 2)

    # --- queries ------------------------------------------------------------------------------------------------------

    def _attach(self, X: Tensor, name: str) -> np.ndarray[Any, Any]:
        if not hasattr(self, "weights_"):
            raise RuntimeError("the graph is not fitted; call fit(codes) first")
        self.metric.check(X, name=name)
        if X.shape[-1] != self.nodes_.shape[1]:
            raise ValueError(f"`{name}` must have {self.nodes_.shape[1]} latent coordinates, got {X.shape[-1]}")
        if not bool(X.isfinite().all()):
            raise ValueError(f"`{name}` must be finite, got NaN or infinite codes")
        return X.detach().double().cpu().numpy().reshape(-1, X.shape[-1])

    def _with(self, points: np.ndarray[Any, Any]) -> tuple[sp.csr_array, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The graph with new points attached, their node numbers, all nodes. Points that are codes are reused."""
        gap, nearest = self._tree.query(points)
        ids = np.where(gap == 0, nearest, -1)
        unknown = ids < 0
        if not unknown.any():
            return self.weights_, ids, self.nodes_
        new, which = np.unique(points[unknown], axis=0, return_inverse=True)
        own = len(self.nodes_) + np.arange(len(new))
        ids[unknown] = own[which.ravel()]
        nodes = np.concatenate([self.nodes_, new])
        near = self._tree.query(new, min(self.n_neighbors, self.n_codes_))[1].reshape(len(new), -1)
        ends = [np.stack([np.repeat(own, near.shape[1]), near.ravel()], 1), self._to_lattice(new, own)]
        if len(new) > 1:
            among = cKDTree(new).query(new, min(self.n_neighbors + 1, len(new)))[1].reshape(len(new), -1)[:, 1:]
            ends.append(np.stack([np.repeat(own, among.shape[1]), own[among.ravel()]], 1))
        joined = np.unique(np.sort(np.concatenate(ends), axis=1), axis=0)
        grown = sp.csr_array(self.weights_, copy=True)
        grown.resize((len(nodes), len(nodes)))
        return grown + symmetric(joined, self._segments(joined, nodes), len(nodes)), ids, nodes

    def distances(self, A: Tensor, B: Tensor | None = None) -> Tensor:
        """Shortest-path lengths between all pairs.

        Parameters
        ----------
        A : Tensor of shape (n, d)
        B : Tensor of shape (m, d), optional
            None means the same as `A`.

        Returns
        -------
        Tensor of shape (n, m)
            In units of the metric's embedding.
        """
        a = self._attach(A, "A")
        b = a if B is None else self._attach(B, "B")
        graph, ids, _ = self._with(a if B is None else np.concatenate([a, b]))
        sources, targets = ids[: len(a)], ids if B is None else ids[len(a) :]
        flip = len(targets) < len(sources)
        if flip:
            sources, targets = targets, sources
        unique, inverse = np.unique(sources, return_inverse=True)
        out = np.empty((len(unique), len(targets)))
        chunk = max(1, 2**27 // (8 * graph.shape[0]))
        for i in range(0, len(unique), chunk):
            out[i : i + chunk] = dijkstra(graph, indices=unique[i : i + chunk])[:, targets]
        result = out[inverse]
        return self._tensor(result.T.copy() if flip else result)

    def paths(self, A: Tensor, B: Tensor, n_points: int = 65) -> Tensor:
        """Shortest paths between corresponding points, as polygons of constant speed.

        Where no path through the nodes is shorter than the straight line, the straight line.

        Parameters
        ----------
        A, B : Tensor of shape (*batch, d)
            End points; batch shapes broadcast.
        n_points : int
            Nodes of each polygon.

        Returns
        -------
        Tensor of shape (*batch, n_points, d)
            Ready to be the `init` of `connect`.
        """
        A, B = torch.broadcast_tensors(A, B)
        a, b = self._attach(A, "A"), self._attach(B, "B")
        out = np.empty((len(a), n_points, a.shape[1]))
        if len(a):
            graph, ids, nodes = self._with(np.concatenate([a, b]))
            ids_a, ids_b = ids[: len(a)], ids[len(a) :]
            # whichever side has fewer distinct ends is where the searches start
            flip = len(np.unique(ids_b)) < len(np.unique(ids_a))
            start, stop = (ids_b, ids_a) if flip else (ids_a, ids_b)
            straight = self._segments(np.stack([ids_a, ids_b], 1), nodes)
            straight = np.where(np.isfinite(straight), straight, np.inf)
            for source in np.unique(start):
                members = np.flatnonzero(start == source)
                limit = straight[members].max() * (
                    1 + 1e-9
                )  # what is further than the straight line need not be searched
                length, previous = dijkstra(graph, indices=int(source), return_predecessors=True, limit=limit)
                for k in members:
                    if not length[stop[k]] < straight[k]:
                        out[k] = np.linspace(a[k], b[k], n_points)
                        continue
                    way = chain(previous, int(stop[k]))
                    polygon, at = nodes[way], length[way]
                    polygon, at = (polygon[::-1], at[-1] - at[::-1]) if flip else (polygon, at)
                    out[k] = resample(polygon, at, n_points)
        curves = self._tensor(out).reshape(*A.shape[:-1], n_points, A.shape[-1])
        if len(a):
            curves[..., 0, :], curves[..., -1, :] = A.detach(), B.detach()
        return curves

    def error(self, A: Tensor, B: Tensor, *, solver: Newton | None = None) -> Tensor:
        """How much longer than refined geodesics the graph's distances are, as a check on a sample of pairs.

        Parameters
        ----------
        A, B : Tensor of shape (n, d)
            Corresponding end points, a random sample of the pairs of interest.
        solver : Newton, optional
            What refines the shortest paths.

        Returns
        -------
        Tensor of shape (n,)
            graph distance / refined length − 1; NaN where the refinement did not converge. Its median and upper
            quantiles estimate the graph's own error.
        """
        from .connect import connect

        path = connect(self.metric, A, B, solver=solver, init=self, throw=False)
        polygon = self.lengths(A, B)
        return torch.where(path.converged, polygon / path.length - 1, torch.nan)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted graph to an `.npz` file; the metric is not part of it."""
        if not hasattr(self, "weights_"):
            raise RuntimeError("the graph is not fitted; call fit(codes) first")
        options = {name: -1 if getattr(self, name) is None else getattr(self, name) for name in _OPTIONS}
        counts = {"n_codes": self.n_codes_, "n_components": self.n_components_}
        arrays = {"nodes": self.nodes_, "bridges": self.bridges_}
        write_graph(path, options | counts, arrays, self.weights_, self._axes)

    @classmethod
    def load(cls, path: str | PathLike[str], metric: Metric) -> LatentGraph:
        """Read a graph written by `save`, for the metric it was built with.

        Raises
        ------
        ValueError
            If the file is no graph, or of another latent dimension than the metric. Nothing is ever unpickled.
        """
        numbers, arrays, weights, axes = read_graph(path)
        if metric.dim is not None and arrays["nodes"].shape[1] != metric.dim:
            found = arrays["nodes"].shape[1]
            raise ValueError(f"{path} holds a graph of {found}-d codes, but the metric has dimension {metric.dim}")
        options: dict[str, Any] = {name: None if numbers[name] < 0 else numbers[name] for name in _OPTIONS}
        graph = cls(metric, **options)
        graph.n_codes_, graph.n_components_ = numbers["n_codes"], numbers["n_components"]
        graph.nodes_, graph.bridges_, graph.weights_, graph._axes = arrays["nodes"], arrays["bridges"], weights, axes
        d = graph.nodes_.shape[1]
        graph._index(torch.empty(0, d, dtype=metric.dtype or torch.float64, device=metric.device))
        return graph

    def lengths(self, A: Tensor, B: Tensor) -> Tensor:
        """Shortest-path lengths between corresponding points (*batch, d), shape (*batch,)."""
        A, B = torch.broadcast_tensors(A, B)
        a, b = self._attach(A, "A"), self._attach(B, "B")
        graph, ids, _ = self._with(np.concatenate([a, b]))
        start, stop = ids[: len(a)], ids[len(a) :]
        out = np.empty(len(a))
        for source in np.unique(start):
            members = np.flatnonzero(start == source)
            out[members] = dijkstra(graph, indices=int(source))[stop[members]]
        return self._tensor(out).reshape(A.shape[:-1])
