"""How the clustering estimators measure: Euclidean closed forms, refined geodesics, or a latent graph's shortest paths.

A space holds the codes that are fitted; centres and distances go in and out as NumPy arrays.
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from ..geodesics import LatentGraph, connect
from ..geodesics.curve import Curve, arc_length
from ..metrics import Euclidean, Metric
from ._base import as_tensor
from ._descent import descend

__all__ = ["Exact", "Flat", "Graph", "Space", "space"]

Array = NDArray[np.float64]

_BLOCK = 64  # rows per task: fixed by the problem, so that results do not depend on the number of workers
_PAIRS = 2**14  # straight lines measured at once
_SOLVED = 2**10  # geodesics solved at once
_CODES = 2**14  # codes attached to a graph at once


class Space(abc.ABC):
    """Codes with a way to measure between them.

    Attributes
    ----------
    codes : ndarray of shape (N, d)
    """

    codes: Array

    @abc.abstractmethod
    def between(self, A: Array, B: Array) -> Array:
        """Distances (a, b) between any points; each depends on its own pair alone."""

    def rows(self, which: NDArray[np.intp]) -> NDArray[Any]:
        """Distances (m, N) from some of the codes to all of them."""
        return self.to_codes(self.codes[which])

    def to_codes(self, points: Array) -> Array:
        """Distances (m, N) from any points to the codes."""
        return self.between(points, self.codes)

    def means(self, centres: Array, labels: NDArray[np.intp], weights: Array) -> Array:
        """Fréchet means (k, d) of clusters, found from `centres`; those of empty clusters stay."""
        raise NotImplementedError(f"{type(self).__name__} has no means of its own")

    def moved(self, before: Array, after: Array) -> float:
        """Sum of the squared distances that centres moved by."""
        return float(sum(self.between(a[None], b[None])[0, 0] ** 2 for a, b in zip(before, after, strict=True)))


class Flat(Space):
    """Euclidean space, where everything is known in closed form."""

    def __init__(self, codes: Array) -> None:
        self.codes = codes

    def between(self, A: Array, B: Array) -> Array:
        return np.asarray(cdist(A, B))

    def moved(self, before: Array, after: Array) -> float:
        return float(np.square(after - before).sum())

    def means(self, centres: Array, labels: NDArray[np.intp], weights: Array) -> Array:
        k = len(centres)
        mass = np.bincount(labels, weights=weights, minlength=k)  # no code is out of reach in Euclidean space
        sums = [np.bincount(labels, weights=weights * x, minlength=k) for x in self.codes.T]
        with np.errstate(invalid="ignore"):
            middle = np.stack(sums, 1) / mass[:, None]
        return np.where(mass[:, None] > 0, middle, centres)


class Exact(Space):
    """Geodesics solved for each pair: for a few hundred codes."""

    def __init__(self, metric: Metric, codes: Array, solver: Any, n_jobs: int | None) -> None:
        self.metric, self.codes, self.solver, self.n_jobs = metric, codes, solver, n_jobs

    def between(self, A: Array, B: Array) -> Array:
        i, j = np.indices((len(A), len(B))).reshape(2, -1)
        blocks = (slice(s, s + _SOLVED) for s in range(0, len(i), _SOLVED))
        job = delayed(_lengths)
        parts = _run(self.n_jobs, (job(self.metric, A[i[s]], B[j[s]], self.solver) for s in blocks))
        return np.concatenate([np.empty(0), *parts]).reshape(len(A), len(B))

    def moved(self, before: Array, after: Array) -> float:
        return float(np.square(_lengths(self.metric, before, after, self.solver)).sum())

    def means(self, centres: Array, labels: NDArray[np.intp], weights: Array) -> Array:
        return karcher(self.metric, self.codes, centres, labels, weights, self.solver, None, 10)


def _lengths(metric: Metric, A: Array, B: Array, solver: Any) -> Array:
    """Lengths of geodesics between corresponding points, whether or not they converged."""
    with torch.no_grad():
        path = connect(metric, as_tensor(metric, A), as_tensor(metric, B), solver=solver, throw=False)
    found: Array = path.length.double().cpu().numpy()
    return np.where(np.isfinite(found), found, np.inf)


class Graph(Space):
    """Shortest paths in a latent graph; with `straight`, or straight lines where those are shorter.

    Beyond three dimensions the graph's nodes are codes, and its paths are detours where codes are sparse: a straight
    line is then often the better bound on the geodesic distance.
    """

    def __init__(
        self,
        metric: Metric,
        codes: Array,
        graph: LatentGraph,
        solver: Any,
        n_refine: int,
        n_jobs: int | None,
        straight: bool = False,
    ) -> None:
        self.metric, self.codes, self.graph, self.straight = metric, codes, graph, straight
        self.solver, self.n_refine, self.n_jobs = solver, n_refine, n_jobs
        self._own = np.array_equal(graph.codes_, _doubles(metric, codes))

    def between(self, A: Array, B: Array) -> Array:
        parts = [_distances(self.graph, A, B[s : s + _CODES]) for s in range(0, len(B), _CODES)]
        return self._shorter(np.concatenate([np.empty((len(A), 0)), *parts], axis=1), A, B)

    def to_codes(self, points: Array) -> Array:
        if not self._own:
            return self.between(points, self.codes)
        found = self.graph.distances_from(as_tensor(self.metric, points)).double().cpu().numpy()
        return self._shorter(found, points, self.codes)

    def _shorter(self, found: Array, A: Array, B: Array) -> Array:
        """Distances (a, b), or the lengths of straight lines where those are shorter."""
        if not self.straight:
            return found
        i, j = np.indices(found.shape).reshape(2, -1)
        blocks = (slice(s, s + _PAIRS) for s in range(0, len(i), _PAIRS))
        parts = _run(self.n_jobs, (delayed(_straight)(self.metric, A[i[s]], B[j[s]]) for s in blocks))
        return np.fmin(found, np.concatenate([np.empty(0), *parts]).reshape(found.shape))

    def table(self, which: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """Distances (m, c) between codes, in single precision: there may be many."""
        starts = range(0, len(which), _BLOCK)
        jobs = (delayed(_block)(self, which[s : s + _BLOCK], columns) for s in starts)
        out = np.empty((len(which), len(columns)), dtype=np.float32)
        for s, part in zip(starts, _run(self.n_jobs, jobs), strict=True):
            out[s : s + _BLOCK] = part
        return out


def _doubles(metric: Metric, codes: Array) -> Array:
    """The codes as a graph of the metric's precision stores them."""
    stored: Array = as_tensor(metric, codes).double().cpu().numpy()
    return stored


def _straight(metric: Metric, A: Array, B: Array) -> Array:
    """Lengths of straight lines between corresponding points."""
    nodes = torch.stack([as_tensor(metric, A), as_tensor(metric, B)], 1)
    with torch.no_grad():
        found: Array = arc_length(metric, Curve(nodes, linear=True), rtol=torch.inf, substeps=8).length.cpu().numpy()
    return np.where(np.isfinite(found), found, np.inf)


def _distances(graph: LatentGraph, A: Array, B: Array) -> Array:
    found: Array = graph.distances(as_tensor(graph.metric, A), as_tensor(graph.metric, B)).double().cpu().numpy()
    return found


def _block(space: Graph, which: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
    if not space._own:
        return space.between(space.codes[which], space.codes[columns]).astype(np.float32)
    found: NDArray[Any] = space.graph.distances_from(which).cpu().numpy()
    return found[:, columns].astype(np.float32)


def _run(n_jobs: int | None, tasks: Iterable[Any]) -> Iterable[Any]:
    """Tasks in order, on joblib's workers if there are to be any."""
    parts: Iterable[Any] = Parallel(n_jobs=n_jobs)(tasks)
    return parts


def karcher(
    metric: Metric,
    codes: Array,
    centres: Array,
    labels: NDArray[np.intp],
    weights: Array,
    solver: Any,
    graph: LatentGraph | None,
    steps: int,
) -> Array:
    """Fréchet means of clusters by a few Riemannian BFGS steps from `centres`; those that fail stay where they are."""
    Z, start = as_tensor(metric, codes), as_tensor(metric, centres)
    heavy = (weights > 0) & (labels >= 0)
    used, owner = np.unique(labels[heavy], return_inverse=True)
    with torch.no_grad():
        found = descend(
            metric,
            start[torch.as_tensor(used)],
            Z[torch.as_tensor(heavy)],
            torch.as_tensor(owner.ravel(), device=Z.device),
            torch.as_tensor(weights[heavy], device=Z.device),
            solver=solver,
            init=graph,
            tol=1e-4,
            max_iter=steps,
        )
    out = centres.copy()
    good = found.variance.isfinite().cpu().numpy()
    out[used[good]] = found.mean.double().cpu().numpy()[good]
    return out


def represented(
    codes: Array, labels: NDArray[np.intp], weights: Array, k: int, most: int
) -> tuple[Array, NDArray[np.intp], Array]:
    """At most so many codes of each cluster, each standing for the weight of those around it: codes, labels, weights.

    They are the codes nearest to k-means centres, in latent coordinates, of the cluster.
    """
    parts = [_represented(codes[labels == c], weights[labels == c], most) for c in range(k)]
    owner = np.repeat(np.arange(k), [len(z) for z, _ in parts])
    return np.concatenate([z for z, _ in parts]), owner, np.concatenate([w for _, w in parts])


def _represented(codes: Array, weights: Array, most: int) -> tuple[Array, Array]:
    if len(codes) <= most:
        return codes, weights
    found = KMeans(most, n_init=1, max_iter=10, tol=0.0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        label = found.fit_predict(codes, sample_weight=weights)
    own = np.square(codes - found.cluster_centers_[label]).sum(1)
    order = np.lexsort((own, label))
    first = order[np.diff(label[order], prepend=-1) > 0]
    return codes[first], np.bincount(label, weights=weights, minlength=most)[label[first]]


def space(
    metric: Metric,
    codes: NDArray[Any],
    *,
    distances: str = "graph",
    graph: LatentGraph | None = None,
    solver: Any = None,
    n_refine: int = 0,
    n_jobs: int | None = None,
    straight: bool = False,
) -> Space:
    """The space that an estimator's parameters ask for, over distinct codes (at least two).

    Raises
    ------
    TypeError, ValueError
        If `distances` or `graph` are none of what they may be.
    """
    if distances not in ("graph", "exact"):
        raise ValueError(f"`distances` must be 'graph' or 'exact', got {distances!r}")
    if graph is not None and not isinstance(graph, LatentGraph):
        raise TypeError(f"`graph` must be a LatentGraph or None, got {type(graph).__name__}")
    codes = np.asarray(codes, dtype=np.float64)
    if isinstance(metric, Euclidean):
        return Flat(codes)
    if distances == "exact":
        return Exact(metric, codes, solver, n_jobs)
    return Graph(metric, codes, fitted_graph(metric, codes, graph), solver, n_refine, n_jobs, straight)


def fitted_graph(metric: Metric, codes: Array, graph: LatentGraph | None) -> LatentGraph:
    """The given graph if it is fitted, else a new one with its options, fitted to the codes."""
    Z: Tensor = as_tensor(metric, codes)
    if graph is None:
        return LatentGraph(metric, max_codes=_MOST_NODES).fit(Z)
    if graph.metric is not metric:
        raise ValueError(
            f"`graph` must be of the same metric as the estimator; got {graph.metric!r} and {metric!r}: pass the "
            "graph's own `metric`"
        )
    if not graph.fitted:
        options = ("n_neighbors", "grid", "max_codes", "substeps", "random_state", "progress")
        return LatentGraph(metric, **{name: getattr(graph, name) for name in options}).fit(Z)
    if graph.codes_.shape[1] != codes.shape[1]:
        raise ValueError(f"`graph` is of {graph.codes_.shape[1]} latent coordinates, X has {codes.shape[1]} features")
    return graph


_MOST_NODES = 20_000  # codes that become nodes where the latent space is too large for a grid
