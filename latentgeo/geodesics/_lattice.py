"""Parts of a latent graph: lattice stencils, edge lengths from values at lattice points, sparse weights, polygons."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..metrics import Metric

__all__ = ["HALF_STENCIL_2D", "Field", "chain", "half_of_neighbours", "resample", "shifted", "symmetric"]

HALF_STENCIL_2D = [(0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1)]


class Field:
    """What the lengths of grid edges are computed from: φ at lattice points, or the metric tensor."""

    def __init__(self, metric: Metric, z: Tensor) -> None:
        self.z = z
        self.flat = metric.embedding is not None and metric.ambient is None
        with torch.no_grad():
            self.values = metric.embedding(z) if metric.embedding is not None and self.flat else metric.tensor(z)

    def length(self, a: np.ndarray[Any, Any], m: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Lengths of segments from lattice point a to b with midpoint m: one and two steps, extrapolated."""
        if self.flat:
            one, left, right = (self._chord(p, q) for p, q in ((a, b), (a, m), (m, b)))
            two = left + right
        else:
            step = self.z[b] - self.z[a]
            ends, middle = [self._norm(p, step) for p in (a, b)], self._norm(m, step)
            one = 0.5 * (ends[0] + ends[1])
            two = 0.5 * (one + middle)
        return np.asarray(((4 * two - one) / 3).cpu())

    def _chord(self, p: np.ndarray[Any, Any], q: np.ndarray[Any, Any]) -> Tensor:
        return torch.linalg.vector_norm(self.values[q] - self.values[p], dim=-1).double()

    def _norm(self, p: np.ndarray[Any, Any], step: Tensor) -> Tensor:
        return torch.einsum("Ei,Eij,Ej->E", step, self.values[p], step).double().clamp_min(0.0).sqrt()


def symmetric(ends: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], n: int) -> sp.csr_array:
    """Symmetric matrix of edge weights; edges of no finite length are left out, none is stored as zero or twice."""
    ok = np.isfinite(weights)
    ends, weights = np.sort(ends[ok], axis=1), np.maximum(weights[ok], np.finfo(float).tiny)
    _, first = np.unique(ends[:, 0].astype(np.int64) * n + ends[:, 1], return_index=True)
    (i, j), w = ends[first].T, weights[first]
    return sp.csr_array((np.concatenate([w, w]), (np.concatenate([i, j]), np.concatenate([j, i]))), shape=(n, n))


def half_of_neighbours(d: int) -> list[tuple[int, ...]]:
    """One of each opposite pair of the 3ᵈ − 1 neighbours."""
    return [o for o in itertools.product((-1, 0, 1), repeat=d) if o > (0,) * d]


def shifted(
    block: np.ndarray[Any, Any], offset: tuple[int, ...], own: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pairs (node, node + offset) inside a block whose first `own` lines are the block's own."""
    first, second = [], []
    for axis, o in enumerate(offset):
        size = block.shape[axis]
        low, high = max(0, -o), min(size, size - o)
        if axis == 0:
            high = min(high, own)
        first.append(slice(low, max(low, high)))
        second.append(slice(low + o, max(low, high) + o))
    return block[tuple(first)], block[tuple(second)]


def chain(previous: np.ndarray[Any, Any], node: int) -> list[int]:
    chain = [node]
    while previous[node] >= 0:
        node = int(previous[node])
        chain.append(node)
    return chain[::-1]


def resample(polygon: np.ndarray[Any, Any], at: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    """The polygon at n equal steps of its arc length."""
    if at[-1] <= 0 or len(polygon) == 1:
        return np.linspace(polygon[0], polygon[-1], n)
    want = np.linspace(0.0, at[-1], n)
    return np.stack([np.interp(want, at, x) for x in polygon.T], 1)
