"""Parts of a latent graph: lattice stencils, edge lengths from values at lattice points, sparse weights, polygons."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm import tqdm

from ..metrics import Metric
from .curve import row_budget

__all__ = ["chain", "lattice_edges", "resample", "symmetric"]

_HALF_STENCIL_2D = [(0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1)]


def lattice_edges(
    metric: Metric, axes: list[np.ndarray[Any, Any]], like: Tensor, *, progress: bool
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Edges (E, 2) of a regular grid, numbered in C order, and their lengths, in slabs of the first axis.

    The metric is evaluated on a lattice of half the spacing, which holds the midpoint of every edge.
    """
    if not axes:
        return
    d, shape = len(axes), tuple(len(axis) for axis in axes)
    stencil = _HALF_STENCIL_2D if d == 2 else _half_of_neighbours(d)
    reach = max(o[0] for o in stencil)
    fine_axes = [np.linspace(axis[0], axis[-1], 2 * len(axis) - 1) for axis in axes]
    fine_line = int(np.prod([len(axis) for axis in fine_axes[1:]]))
    slab = max(1, row_budget(metric, like) // (2 * fine_line) - reach)
    ids = np.arange(int(np.prod(shape))).reshape(shape)
    for begin in tqdm(range(0, shape[0], slab), desc="grid", disable=not progress, leave=False):
        stop = min(begin + slab + reach, shape[0])
        own = min(slab, shape[0] - begin)
        fine = np.stack(np.meshgrid(fine_axes[0][2 * begin : 2 * stop - 1], *fine_axes[1:], indexing="ij"), -1)
        field = _Field(metric, torch.as_tensor(fine.reshape(-1, d), dtype=like.dtype, device=like.device))
        rows = np.arange(fine.size // d).reshape(fine.shape[:-1])
        coarse = rows[(slice(None, None, 2),) * d]
        for offset in stencil:
            first, second = (e.ravel() for e in _shifted(ids[begin:stop], offset, own))
            a, b = (e.ravel() for e in _shifted(coarse, offset, own))
            yield np.stack([first, second], 1), field.length(a, (a + b) // 2, b)


class _Field:
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


def _half_of_neighbours(d: int) -> list[tuple[int, ...]]:
    """One of each opposite pair of the 3ᵈ − 1 neighbours."""
    return [o for o in itertools.product((-1, 0, 1), repeat=d) if o > (0,) * d]


def _shifted(
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
