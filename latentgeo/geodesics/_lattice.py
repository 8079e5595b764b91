"""`Lattice`: a regular grid over latent space, and lengths of short segments from the metric's tensor on a finer grid.

The tensor is evaluated once, on a grid of half the spacing, and interpolated linearly. Each edge, each way from a code
to the grid and each segment between close codes is a Simpson quadrature of that field: no further evaluations.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from ._ruler import Anchors, Ruler

__all__ = ["GridNodes", "Lattice"]

_REACH = {1: 1, 2: 6, 3: 2}  # steps along an axis that an edge of the grid takes at most
_ANGLE = math.radians(20.0)  # between neighbouring edges of a node, in its metric
_ASPECT = 4.0  # of numbers of nodes along different axes, at most
_WINDOW = {1: 2, 2: 4, 3: 2}  # nodes along an axis that a code is attached to
_NEAR = 2.0  # cells along an axis within which two codes are joined directly
_SAMPLES = 2**16  # of the field, at once
_SOME = 512  # points at which the metric is looked at to shape the cells
_ROWS = 2**14  # codes whose tensors are evaluated at once


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Grid nodes ``low + step·index``, numbered in C order, and the metric's tensor at half that spacing.

    Attributes
    ----------
    low, step : ndarray of shape (d,)
    shape : tuple of int
        Nodes along each axis.
    periodic : ndarray of bool, shape (d,)
        Axes that wrap: ``step·shape`` is their period.
    field : ndarray of shape (n_fine, d(d+1)/2)
        Upper triangles of the tensor; a periodic axis repeats its first plane at its end.
    """

    low: NDArray[Any]
    step: NDArray[Any]
    shape: tuple[int, ...]
    periodic: NDArray[Any]
    field: NDArray[Any]

    @classmethod
    def over(cls, points: NDArray[Any], per_axis: int, ruler: Ruler, bar: bool) -> Lattice:
        """The grid over the slightly enlarged bounding box of points (N, d), or over one period."""
        d = points.shape[1]
        low, high = points.min(0), points.max(0)
        margin = 0.1 * (high - low) + 1e-6 * (1 + np.abs(high))
        periodic = np.isfinite(ruler.periods)
        low, extent = low - margin, high - low + 2 * margin
        low, extent = np.where(periodic, 0.0, low), np.where(periodic, ruler.periods, extent)
        shape = _shape(points, extent, per_axis, ruler)
        step = extent / np.where(periodic, shape, shape - 1)
        axes = [
            a + 0.5 * h * np.arange(2 * n if w else 2 * n - 1)
            for a, h, n, w in zip(low, step, shape, periodic, strict=True)
        ]
        fine = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d)
        field = np.empty((len(fine), d * (d + 1) // 2))
        for i in tqdm(range(0, len(fine), _ROWS), desc="metric on the grid", disable=not bar, leave=False):
            field[i : i + _ROWS] = ruler.field(fine[i : i + _ROWS])
        field = field.reshape(*(len(axis) for axis in axes), -1)
        field = np.pad(field, [(0, int(w)) for w in periodic] + [(0, 0)], mode="wrap")
        sides = tuple(int(n) for n in shape)
        return cls(low, step, sides, periodic, field.reshape(-1, field.shape[-1]))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything, as arrays for a file."""
        return {f.name: np.asarray(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Lattice:
        """The lattice whose `arrays` these are."""
        shape = tuple(int(n) for n in arrays["shape"])
        return cls(arrays["low"], arrays["step"], shape, arrays["periodic"], arrays["field"])

    @property
    def dim(self) -> int:
        """Latent dimension."""
        return len(self.low)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return math.prod(self.shape)

    @property
    def nodes(self) -> NDArray[Any]:
        """Positions of the nodes, (n_nodes, d)."""
        axes = [a + h * np.arange(n) for a, h, n in zip(self.low, self.step, self.shape, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.dim)

    def cells(self, points: NDArray[Any]) -> NDArray[Any]:
        """Positions in units of the spacing, wrapped into one period."""
        u = (points - self.low) / self.step
        size = np.array(self.shape, dtype=float)
        wrapped = np.where(self.periodic, np.mod(u, size), u)
        return np.where(self.periodic & (wrapped >= size), 0.0, wrapped)  # −ε mod n rounds to n

    def inside(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Whether the field is known at positions given in cells."""
        top = np.array(self.shape) - 1.0
        return np.asarray((self.periodic | ((cells >= 0) & (cells <= top))).all(-1))

    def gap(self, cells: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
        """Displacements in cells to the nearest copy of the others."""
        size = np.array(self.shape, dtype=float)
        gap = other - cells
        return np.where(self.periodic, gap - np.round(gap / size) * size, gap)

    # --- lengths ------------------------------------------------------------------------------------------------------

    def lengths(self, cells: NDArray[Any], gaps: NDArray[Any], pieces: int) -> NDArray[Any]:
        """Lengths of segments from positions (S, d) along displacements (S, d), both in cells; NaN where unknown."""
        pieces += pieces % 2
        out = np.empty(len(cells))
        rows = max(1, _SAMPLES // 2**self.dim)
        for i in range(0, len(cells), rows):
            here, gap = cells[i : i + rows], gaps[i : i + rows]
            velocity = gap * self.step
            total = np.zeros(len(here))
            for j in range(pieces + 1):
                weight = 1.0 if j in (0, pieces) else (4.0 if j % 2 else 2.0)
                total += weight * self._speed(here + (j / pieces) * gap, velocity)
            out[i : i + rows] = total / (3 * pieces)
        return out

    def _speed(self, cells: NDArray[Any], velocity: NDArray[Any]) -> NDArray[Any]:
        """√(vᵀGv) at positions in cells, G interpolated linearly."""
        fine_shape = self._fine_shape
        low_node, frac = [], []
        for k, n in enumerate(self.shape):
            x = 2 * cells[:, k]
            x = np.mod(x, 2 * n) if self.periodic[k] else x
            node = np.clip(np.floor(x).astype(np.int64), 0, fine_shape[k] - 2)
            low_node.append(node)
            frac.append(np.clip(x - node, 0.0, 1.0))
        strides = np.cumprod([1, *fine_shape[:0:-1]])[::-1]
        base = sum(node * stride for node, stride in zip(low_node, strides, strict=True))
        square = np.zeros(len(cells))
        products = [
            velocity[:, i] * velocity[:, j] * (1 if i == j else 2)
            for i, j in zip(*np.triu_indices(self.dim), strict=True)
        ]
        for corner in itertools.product((0, 1), repeat=self.dim):
            share = np.ones(len(cells))
            for c, f in zip(corner, frac, strict=True):
                share = share * (f if c else 1 - f)
            G = self.field[base + int(np.dot(corner, strides))]
            norm = sum(G[:, k] * product for k, product in enumerate(products))
            square += np.where(share > 0, share * norm, 0.0)  # a corner of no share may be unknown
        return np.sqrt(np.maximum(square, 0.0))

    # --- the graph ----------------------------------------------------------------------------------------------------

    def edges(self, bar: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Node pairs (E, 2) and their lengths (E,), NaN where the metric is not finite."""
        ids = np.arange(self.size).reshape(self.shape)
        where = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in self.shape), indexing="ij"), -1)
        ends, lengths = [], []
        for offset, wanted in tqdm(self._stencil(), desc="edges", disable=not bar, leave=False):
            own = tuple(
                slice(0, n) if w else slice(max(0, -o), max(0, n - max(0, o)))
                for n, o, w in zip(self.shape, offset, self.periodic, strict=True)
            )
            start = where[own].reshape(-1, self.dim)
            other = np.mod(start.astype(np.int64) + np.array(offset), np.array(self.shape))
            first, second = ids[own].ravel(), np.ravel_multi_index(tuple(other.T), self.shape)
            keep = wanted[first] | wanted[second]
            ends.append(np.stack([first[keep], second[keep]], 1))
            gaps = np.broadcast_to(np.array(offset, dtype=float), start[keep].shape)
            lengths.append(self.lengths(start[keep], gaps, 2 * max(map(abs, offset))))
        return np.concatenate(ends), np.concatenate(lengths)

    def _stencil(self) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
        """Offsets, one of each opposite pair, and which nodes want an edge along each.

        In the plane each node's directions are split, as Stern and Brocot's tree splits fractions, until no two
        neighbours are further apart than `_ANGLE` in the metric at that node. A path that has to keep to them is longer
        by the factor 1/cos(angle/2) at most, however anisotropic the metric.
        """
        most = [(n - 1) // 2 if w else n - 1 for n, w in zip(self.shape, self.periodic, strict=True)]
        everywhere = np.ones(self.size, dtype=bool)
        if self.dim != 2:
            reach = _REACH.get(self.dim, 1)
            every = itertools.product(range(-reach, reach + 1), repeat=self.dim)
            half = (o for o in every if o > (0,) * self.dim and math.gcd(*o) == 1)
            yield from ((o, everywhere) for o in half if all(abs(x) <= m for x, m in zip(o, most, strict=True)))
            return
        a, b, c = (self._at_nodes() * np.outer(self.step, self.step)[np.triu_indices(2)]).T
        yield (1, 0), everywhere
        yield (0, 1), everywhere
        sectors = [((1, 0), (0, 1), everywhere), ((0, 1), (-1, 0), everywhere)]
        while sectors:
            p, q, nodes = sectors.pop()
            middle = (p[0] + q[0], p[1] + q[1])
            if max(map(abs, middle)) > _REACH[2] or any(abs(x) > m for x, m in zip(middle, most, strict=True)):
                continue
            pp, qq = (a * x * x + 2 * b * x * y + c * y * y for x, y in (p, q))
            pq = a * p[0] * q[0] + b * (p[0] * q[1] + p[1] * q[0]) + c * p[1] * q[1]
            wide = nodes & (pq < math.cos(_ANGLE) * np.sqrt(np.maximum(pp * qq, 0.0)))
            if wide.any():
                yield middle, wide
                sectors += [(p, middle, wide), (middle, q, wide)]

    def _at_nodes(self) -> NDArray[Any]:
        """The field at the nodes, (n_nodes, d(d+1)/2)."""
        fine = self.field.reshape(*self._fine_shape, -1)
        return fine[tuple(slice(0, 2 * n, 2) for n in self.shape)].reshape(self.size, -1)

    @property
    def _fine_shape(self) -> list[int]:
        return [2 * n + 1 if w else 2 * n - 1 for n, w in zip(self.shape, self.periodic, strict=True)]

    def attach(
        self, cells: NDArray[Any], outside: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Nodes around each position (n, m) and the lengths of the ways there; inf where there is none.

        Where a position is outside the grid, ``outside(cells, gaps)`` measures instead of the field.
        """
        shape = np.array(self.shape)
        width = _WINDOW.get(self.dim, 2)
        window = np.array(list(itertools.product(range(1 - width // 2, 1 + width // 2), repeat=self.dim)))
        top = np.where(self.periodic, shape - 1, np.maximum(shape - 2, 0))
        base = np.clip(np.floor(cells).astype(np.int64), 0, top)
        index = base[:, None] + window
        index = np.where(self.periodic, index, np.clip(index, 0, shape - 1))
        gaps = index - cells[:, None]
        n, m = len(cells), len(window)
        starts = np.broadcast_to(cells[:, None], gaps.shape).reshape(-1, self.dim)
        gaps = gaps.reshape(-1, self.dim)
        known = np.repeat(self.inside(cells), m)
        weights = np.empty(n * m)
        weights[known] = self.lengths(starts[known], gaps[known], 4)
        if not known.all():
            rows = np.flatnonzero(~known)
            weights[rows] = outside(starts[rows], gaps[rows])
        ids = np.ravel_multi_index(tuple(np.moveaxis(np.mod(index, shape), -1, 0)), self.shape)
        return ids, np.where(np.isfinite(weights), weights, np.inf).reshape(n, m)


def _shape(points: NDArray[Any], extent: NDArray[Any], per_axis: int, ruler: Ruler) -> NDArray[Any]:
    """Nodes along each axis: in all as many as with `per_axis` along each, and cells about as long as wide."""
    d = len(extent)
    some = points[np.unique(np.linspace(0, len(points) - 1, _SOME).astype(int))]
    diagonal = ruler.field(some)[:, [k * d - k * (k - 1) // 2 for k in range(d)]]
    diagonal = diagonal[np.isfinite(diagonal).all(1)]
    length = extent * (np.sqrt(diagonal).mean(0) if len(diagonal) else 1.0)
    if not (length > 0).all() or not np.isfinite(length).all():
        length = np.ones(d)
    share = np.log(length / np.exp(np.log(length).mean()))
    room = math.log(_ASPECT)
    spread = share.max() - share.min()
    share = share * min(1.0, room / spread) if spread > 0 else share
    return np.maximum(np.round(per_axis * np.exp(share)).astype(np.int64), min(per_axis, 4))


class GridNodes:
    """A lattice as the nodes of a latent graph."""

    def __init__(self, lattice: Lattice, ruler: Ruler) -> None:
        self.lattice = lattice
        self.ruler = ruler
        self.nodes = lattice.nodes

    @property
    def size(self) -> int:
        """Number of nodes."""
        return self.lattice.size

    def table(self) -> NDArray[Any]:
        """What lengths are computed from, besides the metric."""
        return self.lattice.field

    def edges(self, bar: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Node pairs (E, 2) of the stencil and their lengths."""
        return self.lattice.edges(bar)

    def anchors(self, points: NDArray[Any]) -> Anchors:
        """Points attached to the nodes around them."""
        cells = self.lattice.cells(points)
        ids, weights = self.lattice.attach(cells, self._outside)
        return Anchors(points, cells, ids, weights, np.zeros(len(points), dtype=bool))

    def _outside(self, cells: NDArray[Any], gaps: NDArray[Any]) -> NDArray[Any]:
        low, step = self.lattice.low, self.lattice.step
        return self.ruler(low + cells * step, gaps * step)

    def index(self, others: Anchors) -> cKDTree:
        """What `direct` looks the other points up in."""
        if not self.lattice.periodic.any():
            return cKDTree(others.places)
        size = np.where(self.lattice.periodic, np.array(self.lattice.shape, dtype=float), 0.0)
        return cKDTree(others.places, boxsize=size)

    def direct(self, some: Anchors, others: Anchors, index: cKDTree) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Pairs of points within two cells of each other, and the segments between them."""
        found = index.query_ball_point(some.places, _NEAR, p=np.inf, return_sorted=True)
        i = np.repeat(np.arange(len(some)), [len(f) for f in found])
        j = np.array(list(itertools.chain.from_iterable(found)), dtype=np.int64)
        return i, j, self._segments(some.places[i], others.places[j], _NEAR)

    def close(self, a: Anchors, b: Anchors) -> NDArray[Any]:
        """Which corresponding points are within two cells of each other."""
        return (np.abs(self.lattice.gap(a.places, b.places)) <= _NEAR).all(-1)

    def straight(self, a: Anchors, b: Anchors) -> NDArray[Any]:
        """Lengths of segments between corresponding points."""
        reach = np.abs(self.lattice.gap(a.places, b.places)).max(-1, initial=0.0)
        out = np.empty(len(a))
        span = 2.0 ** np.ceil(np.log2(np.maximum(reach, _NEAR)))
        for cells in np.unique(span):
            some = span == cells
            out[some] = self._segments(a.places[some], b.places[some], cells)
        return out

    def _segments(self, a: NDArray[Any], b: NDArray[Any], cells: float) -> NDArray[Any]:
        """Lengths of segments that span at most so many cells, two pieces for each."""
        lattice = self.lattice
        gap = lattice.gap(a, b)
        known = lattice.inside(a) & lattice.inside(b)
        out = np.empty(len(a))
        out[known] = lattice.lengths(a[known], gap[known], int(2 * cells))
        out[~known] = self._outside(a[~known], gap[~known])
        return out
