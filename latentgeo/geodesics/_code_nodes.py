"""`CodeNodes`: codes as the nodes of a latent graph, each joined to its nearest in latent coordinates.

The graph of Chen et al. (2019, arXiv:1812.08284), for latent spaces of too many dimensions for a regular grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ._ruler import Anchors, Ruler

__all__ = ["CodeNodes", "thinned"]


class CodeNodes:
    """Nodes at (wrapped, distinct) points (M, d)."""

    lattice = None

    def __init__(self, points: NDArray[Any], n_neighbors: int, ruler: Ruler) -> None:
        self.nodes = points
        self.n_neighbors = n_neighbors
        self.ruler = ruler
        self._tree = ruler.tree(points)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.nodes)

    def table(self) -> NDArray[Any]:
        """What lengths are computed from, besides the metric."""
        return np.array([self.n_neighbors, self.ruler.substeps])

    def edges(self, bar: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Each node with its nearest ones (E, 2), and the segments' lengths."""
        k = min(self.n_neighbors + 1, len(self.nodes))
        near = self._tree.query(self.nodes, k)[1].reshape(len(self.nodes), -1)
        ends = np.stack([np.repeat(np.arange(len(self.nodes)), near.shape[1]), near.ravel()], 1)
        ends = np.unique(np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1), axis=0)
        start, stop = self.nodes[ends[:, 0]], self.nodes[ends[:, 1]]
        return ends, self.ruler(start, self.ruler.gap(start, stop), bar=bar)

    def anchors(self, points: NDArray[Any]) -> Anchors:
        """Points attached to their nearest nodes, the nearest first; a node is attached to itself only."""
        places = self.ruler.wrapped(points)
        k = min(self.n_neighbors, len(self.nodes))
        away, ids = (x.reshape(len(places), -1) for x in self._tree.query(places, k))
        own = (away[:, :1] == 0).all(1)
        weights = np.full(ids.shape, np.inf)
        weights[own, 0] = 0.0
        start = np.repeat(places[~own], ids.shape[1], 0)
        lengths = self.ruler(start, self.ruler.gap(start, self.nodes[ids[~own]].reshape(start.shape)))
        weights[~own] = np.where(np.isfinite(lengths), lengths, np.inf).reshape(-1, ids.shape[1])
        return Anchors(points, places, ids, weights, own)

    def index(self, others: Anchors) -> sp.csr_array:
        """Which points are attached to each node, (n_nodes, n), for `direct`; points that are nodes need none."""
        loose = np.flatnonzero(~others.own)
        m = others.ids.shape[1]
        entries = (np.ones(len(loose) * m, dtype=np.int8), (others.ids[loose].ravel(), np.repeat(loose, m)))
        return sp.csr_array(entries, shape=(self.size, len(others)))

    def direct(
        self, some: Anchors, others: Anchors, index: sp.csr_array
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Pairs of points, each one's nearest node among the nodes of the other, and the segments between them."""
        rows, cols = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for row in np.flatnonzero(~some.own) if index.nnz else []:
            nearest = some.ids[row, 0]
            there = index.indices[index.indptr[nearest] : index.indptr[nearest + 1]]
            there = np.sort(there[np.isin(others.ids[there, 0], some.ids[row])])
            rows.append(np.full(len(there), row))
            cols.append(there.astype(np.int64))
        i, j = np.concatenate(rows), np.concatenate(cols)
        gap = self.ruler.gap(some.places[i], others.places[j])
        return i, j, self.ruler(some.places[i], gap)

    def close(self, a: Anchors, b: Anchors) -> NDArray[Any]:
        """Which corresponding points have their nearest nodes among those of each other."""
        there = (a.ids[:, :1] == b.ids).any(1) & (b.ids[:, :1] == a.ids).any(1)
        return there & ~a.own & ~b.own

    def straight(self, a: Anchors, b: Anchors) -> NDArray[Any]:
        """Lengths of segments between corresponding points."""
        return self.ruler(a.places, self.ruler.gap(a.places, b.places))


def thinned(points: NDArray[Any], most: int | None, ruler: Ruler, random_state: int) -> NDArray[Any]:
    """At most so many of the points: those nearest to k-means centres."""
    if most is None or len(points) <= most:
        return points
    from sklearn.cluster import MiniBatchKMeans

    flat = _unwrapped(points, ruler.periods)
    k_means = MiniBatchKMeans(most, random_state=random_state, n_init=1, batch_size=4096)
    centres = k_means.fit(flat).cluster_centers_
    return points[np.unique(cKDTree(flat).query(centres)[1])]


def _unwrapped(points: NDArray[Any], periods: NDArray[Any]) -> NDArray[Any]:
    """Circles in place of periodic coordinates, with their length."""
    columns = []
    for x, p in zip(points.T, periods, strict=True):
        if np.isinf(p):
            columns.append(x)
        else:
            angle = 2 * np.pi * x / p
            columns += [p / (2 * np.pi) * np.cos(angle), p / (2 * np.pi) * np.sin(angle)]
    return np.stack(columns, 1)
