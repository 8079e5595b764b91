"""What the nodes of a latent graph share: measuring straight segments, and points attached to nodes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from tqdm import tqdm

from ..metrics import Metric
from .curve import Curve, arc_length, row_budget

__all__ = ["Anchors", "Ruler"]


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Points attached to nodes.

    Attributes
    ----------
    points : ndarray of shape (n, d)
        As they were given.
    places : ndarray of shape (n, d)
        In the nodes' own coordinates.
    ids : ndarray of shape (n, m), intp
        Nodes that each is attached to; column by column in memory, as `weights` are.
    weights : ndarray of shape (n, m)
        Lengths of the ways there, inf where there is none.
    own : ndarray of bool, shape (n,)
        Points that are nodes themselves: the first of `ids`.
    """

    points: NDArray[Any]
    places: NDArray[Any]
    ids: NDArray[Any]
    weights: NDArray[Any]
    own: NDArray[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", np.asfortranarray(self.ids, dtype=np.intp))
        object.__setattr__(self, "weights", np.asfortranarray(self.weights))

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: NDArray[Any] | slice) -> Anchors:
        """Some of the points."""
        parts = (getattr(self, f.name)[rows] for f in dataclasses.fields(self))
        return Anchors(*parts)


@dataclasses.dataclass(frozen=True)
class Ruler:
    """Measures straight segments by quadrature of the metric itself, in bounded batches; knows what wraps."""

    metric: Metric
    like: Tensor
    substeps: int

    def tensor(self, z: NDArray[Any]) -> Tensor:
        """Points as the metric takes them."""
        return torch.as_tensor(z, dtype=self.like.dtype, device=self.like.device)

    def field(self, points: NDArray[Any]) -> NDArray[Any]:
        """Upper triangles (n, d(d+1)/2) of the metric's tensors at points (n, d); NaN where it is not finite."""
        upper = np.triu_indices(points.shape[1])
        with torch.no_grad():
            z = self.tensor(points)
            G = self.metric.tensor(z).double().cpu().numpy()
            known = np.isfinite(G).all((-2, -1))
            flat = np.flatnonzero(known & (np.diagonal(G, axis1=-2, axis2=-1) == 0).any(-1))
            if len(flat) and self.metric.embedding is not None:  # no slope: is it constant there, or unknown?
                known[flat] = self.metric.embedding(z[torch.as_tensor(flat)]).isfinite().all(-1).cpu().numpy()
        return np.where(known[:, None], G[:, upper[0], upper[1]], np.nan)

    @property
    def periods(self) -> NDArray[Any]:
        """Period of each coordinate, inf where it has none."""
        d = self.like.shape[-1]
        return np.array([p or np.inf for p in self.metric.period or (None,) * d])

    def wrapped(self, points: NDArray[Any]) -> NDArray[Any]:
        """Copies of the points within [0, period)."""
        size = self.periods
        with np.errstate(invalid="ignore"):
            inside = np.where(np.isinf(size), points, np.mod(points, size))
        return np.where(inside >= size, 0.0, inside)

    def gap(self, start: NDArray[Any], stop: NDArray[Any]) -> NDArray[Any]:
        """Displacement to the nearest copy of `stop`."""
        gap = stop - start
        return gap - self.turns(gap)

    def turns(self, shift: NDArray[Any]) -> NDArray[Any]:
        """The whole periods in a displacement."""
        size = self.periods
        count = np.round(shift / size)
        with np.errstate(invalid="ignore"):
            return np.where(count == 0, 0.0, count * size)

    def lifted(self, polygon: NDArray[Any]) -> NDArray[Any]:
        """The polygon (n, d) from the same start, each node the copy nearest to the one before."""
        if np.isinf(self.periods).all():
            return polygon
        steps = self.gap(polygon[:-1], polygon[1:])
        return np.concatenate([polygon[:1], polygon[0] + np.cumsum(steps, axis=0)])

    def moved(self, polygons: NDArray[Any], start: NDArray[Any]) -> NDArray[Any]:
        """The polygons (n, m, d), each by whole periods, so that they begin at the given copies of their starts."""
        return polygons + self.turns(start - polygons[:, 0])[:, None]

    def tree(self, points: NDArray[Any]) -> cKDTree:
        """A search tree of wrapped points."""
        size = self.periods
        return cKDTree(points) if np.isinf(size).all() else cKDTree(points, boxsize=np.where(np.isinf(size), 0.0, size))

    def __call__(
        self, start: NDArray[Any], gap: NDArray[Any], *, substeps: int | None = None, bar: bool = False
    ) -> NDArray[Any]:
        """Lengths (S,) of segments from points (S, d) along displacements (S, d); NaN where not finite."""
        substeps = self.substeps if substeps is None else substeps
        out = np.empty(len(start))
        rows = max(1, row_budget(self.metric, self.like) // (substeps + 1))
        for i in tqdm(range(0, len(start), rows), desc="edges", disable=not bar, leave=False):
            first = start[i : i + rows]
            ends = self.tensor(np.stack([first, first + gap[i : i + rows]], 1))
            with torch.no_grad():
                length = arc_length(self.metric, Curve(ends, linear=True), rtol=torch.inf, substeps=substeps).length
            out[i : i + rows] = length.cpu().numpy()
        return out
