"""`Network`: shortest paths between points attached to the nodes of a graph, by Dijkstra on the nodes alone.

A source is a row of the sparse graph with ways out but none in, so that it costs the other searches nothing; what a
target is away follows from the nodes that it is attached to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra

from ._ruler import Anchors, Ruler

if TYPE_CHECKING:
    from ._lattice import Lattice

__all__ = ["Network", "Nodes", "symmetric"]

_BYTES = 2**26  # of distances held at once
_SOURCES = 512  # of pairs, searched from at once at most


class Nodes(Protocol):
    """What kind of nodes a graph has: codes, or a lattice."""

    nodes: NDArray[Any]

    @property
    def lattice(self) -> Lattice | None:
        """The grid that they form, if they do."""

    @property
    def size(self) -> int:
        """Number of nodes."""

    def table(self) -> NDArray[Any]:
        """What lengths are computed from, besides the metric."""

    def edges(self, bar: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Pairs of nodes and the lengths of the segments between them."""

    def anchors(self, points: NDArray[Any]) -> Anchors:
        """Points attached to nodes."""

    def index(self, others: Anchors) -> Any:
        """What `direct` looks other points up in."""

    def direct(self, some: Anchors, others: Anchors, index: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Pairs of points so close that the segment between them may be shorter than any way through nodes."""

    def close(self, a: Anchors, b: Anchors) -> NDArray[Any]:
        """Which corresponding points are that close."""

    def straight(self, a: Anchors, b: Anchors) -> NDArray[Any]:
        """Lengths of segments between corresponding points."""


def symmetric(ends: NDArray[Any], weights: NDArray[Any], n: int) -> sp.csr_array:
    """Symmetric matrix of edge weights; edges of no finite length are left out, none is stored as zero or twice."""
    ok = np.isfinite(weights)
    ends, weights = np.sort(ends[ok], axis=1), np.maximum(weights[ok], np.finfo(float).tiny)
    key = ends[:, 0].astype(np.int64) * n + ends[:, 1]
    order = np.lexsort((weights, key))
    first = order[np.diff(key[order], prepend=-1) > 0]
    i, j = ends[first].astype(np.int32).T
    w = weights[first]
    return sp.csr_array((np.concatenate([w, w]), (np.concatenate([i, j]), np.concatenate([j, i]))), shape=(n, n))


@dataclasses.dataclass(frozen=True)
class Network:
    """Nodes and the edges between them.

    Attributes
    ----------
    nodes : Nodes
    weights : csr_array of shape (n_nodes, n_nodes)
        Symmetric lengths of the edges.
    ruler : Ruler
    """

    nodes: Nodes
    weights: sp.csr_array
    ruler: Ruler

    def between(self, some: Anchors, others: Anchors, index: Any) -> NDArray[Any]:
        """Distances (k, n) between all points of two sets; `index` is what the nodes made of the others."""
        out = np.empty((len(some), len(others)))
        step = self._rows_at_once()
        for i in range(0, len(some), step):
            rows = some.take(slice(i, i + step))
            out[i : i + step] = _to(self._search(rows), others)
            first, second, length = self.nodes.direct(rows, others, index)
            near = out[i : i + step]
            near[first, second] = np.fmin(near[first, second], length)
        return out

    def nearest(self, some: Anchors, others: Anchors, index: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Which of some points is nearest to each other point, and how far it is: (n,), (n,); −1 and inf for none."""
        grown, sources = _with_sources(self.weights, some)
        # scipy names the source by its row; where two points are one node, the first of them is meant
        rows, first = np.unique(sources, return_index=True)
        length, _, origin = dijkstra(grown, indices=rows, min_only=True, return_predecessors=True)
        label = np.full(len(others), -1)
        best = np.full(len(others), np.inf)
        for ids, way in zip(others.ids.T, others.weights.T, strict=True):
            total = length[ids] + way
            better = total < best
            best = np.where(better, total, best)
            label = np.where(better, origin[ids], label)
        found = label >= 0
        label[found] = first[np.searchsorted(rows, label[found])]
        i, j, direct = self.nodes.direct(some, others, index)
        order = np.lexsort((i, direct, j))
        i, j, direct = i[order], j[order], direct[order]
        lead = np.diff(j, prepend=-1) > 0
        i, j, direct = i[lead], j[lead], direct[lead]
        shorter = direct < best[j]
        best[j[shorter]], label[j[shorter]] = direct[shorter], i[shorter]
        return label, best

    def lengths(self, a: Anchors, b: Anchors) -> NDArray[Any]:
        """Distances (n,) between corresponding points."""
        out = np.full(len(a), np.inf)
        for some, members, rows in self._grouped(a):
            there = self._search(some)[rows[:, None], b.ids[members]] + b.weights[members]
            out[members] = there.min(1)
        near = np.flatnonzero(self.nodes.close(a, b))
        out[near] = np.fmin(out[near], self.nodes.straight(a.take(near), b.take(near)))
        return out

    def polygons(self, a: Anchors, b: Anchors, n_points: int) -> NDArray[Any]:
        """Shortest paths (n, n_points, d) between corresponding points; the straight line where none is shorter."""
        out = np.empty((len(a), n_points, a.points.shape[1]))
        straight = self.nodes.straight(a, b)
        straight = np.where(np.isfinite(straight), straight, np.inf)
        for some, members, rows in self._grouped(a):
            grown, sources = _with_sources(self.weights, some)
            for row in np.unique(rows):
                own = members[rows == row]
                limit = straight[own].max() * (1 + 1e-9)  # what is further than the straight line is of no use
                length, previous = dijkstra(grown, indices=int(sources[row]), return_predecessors=True, limit=limit)
                for k in own:
                    total = length[b.ids[k]] + b.weights[k]
                    last = int(total.argmin())
                    way, at = np.empty(0, dtype=int), np.array([0.0, 1.0])
                    if total[last] < straight[k]:
                        way = np.array(_chain(previous, int(b.ids[k, last])))
                        way = way[way < self.nodes.size]
                        at = np.concatenate([[0.0], length[way], total[last : last + 1]])
                    polygon = np.concatenate([a.points[k][None], self.nodes.nodes[way], b.points[k][None]])
                    out[k] = _resampled(self.ruler.lifted(polygon), at, n_points)
        return out

    def _grouped(self, a: Anchors) -> Iterator[tuple[Anchors, NDArray[Any], NDArray[Any]]]:
        """Distinct sources, the pairs that start at them, and each pair's row among the sources."""
        _, first, inverse = np.unique(a.points, axis=0, return_index=True, return_inverse=True)
        inverse = inverse.ravel()
        step = min(_SOURCES, self._rows_at_once())
        for i in range(0, len(first), step):
            members = np.flatnonzero((inverse >= i) & (inverse < i + step))
            yield a.take(first[i : i + step]), members, inverse[members] - i

    def _rows_at_once(self) -> int:
        """How many searches' distances may be held at once."""
        return int(max(1, _BYTES // (8 * self.weights.shape[0])))

    def _search(self, some: Anchors) -> NDArray[Any]:
        """Distances (k, n_nodes) from points to nodes."""
        grown, sources = _with_sources(self.weights, some)
        return np.asarray(dijkstra(grown, indices=sources))[:, : self.weights.shape[0]]


def _with_sources(weights: sp.csr_array, some: Anchors) -> tuple[sp.csr_array, NDArray[Any]]:
    """The graph with a row for each point that is no node itself, and the points' row numbers."""
    n, k = weights.shape[0], len(some)
    ways = np.isfinite(some.weights) & ~some.own[:, None]
    data = np.concatenate([weights.data, np.maximum(some.weights[ways], np.finfo(float).tiny)])
    indices = np.concatenate([weights.indices, some.ids[ways]])
    indptr = np.concatenate([weights.indptr, weights.indptr[-1] + np.cumsum(ways.sum(1))])
    kind = np.int32 if len(indices) < 2**31 else np.int64
    grown = sp.csr_array((data, indices.astype(kind), indptr.astype(kind)), shape=(n + k, n + k))
    return grown, np.where(some.own, some.ids[:, 0], n + np.arange(k))


def _to(distances: NDArray[Any], others: Anchors) -> NDArray[Any]:
    """Distances (k, n) to points, from those to nodes (k, n_nodes)."""
    out = np.full((len(distances), len(others)), np.inf)
    total = np.empty(len(others))
    ways = list(zip(np.ascontiguousarray(others.ids.T), np.ascontiguousarray(others.weights.T), strict=True))
    for row, best in zip(distances, out, strict=True):  # one at a time stays within the processor's cache
        for ids, weights in ways:
            np.take(row, ids, out=total, mode="clip")
            np.add(total, weights, out=total)
            np.minimum(best, total, out=best)
    return out


def _chain(previous: NDArray[Any], node: int) -> list[int]:
    """Nodes of a shortest path up to `node`."""
    way = [node]
    while previous[node] >= 0:
        node = int(previous[node])
        way.append(node)
    return way[::-1]


def _resampled(polygon: NDArray[Any], at: NDArray[Any], n: int) -> NDArray[Any]:
    """The polygon at n equal steps of its arc length."""
    if at[-1] <= 0:
        return np.linspace(polygon[0], polygon[-1], n)
    want = np.linspace(0.0, at[-1], n)
    return np.stack([np.interp(want, at, x) for x in polygon.T], 1)
