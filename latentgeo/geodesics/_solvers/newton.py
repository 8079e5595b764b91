"""Newton's method on the discrete curve energy, all curves of a batch at once.

Nodes are doubled until the length of the interpolated curve is accurate, which a gradient of higher order tells.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ...metrics import Metric
from ..curve import Curve, arc_length, equal_speed
from ..geodesic import Status
from .descent import Descent
from .energy import energy_of

__all__ = ["Newton", "Solution"]

_COARSEST = 9
_FAIR_RATIO = 1.05  # arc over chord above which a polygon hides length between its nodes
_LONGER = 3e-3  # relative growth of the true length that a solve is forgiven, for quadrature on coarse nodes
_FAIR = 1.02  # arc over chord up to which the estimate of the discretisation's error is believed


@dataclasses.dataclass(frozen=True)
class Solution:
    """Curves found by a solver, each with the number of nodes it needed. All tensors have shape (B,)."""

    pieces: tuple[tuple[Tensor, Curve], ...]
    length: Tensor
    length_error: Tensor
    energy: Tensor
    residual: Tensor
    certified: Tensor
    steps: Tensor
    points: Tensor
    status: list[Status]


@dataclasses.dataclass(frozen=True)
class Newton:
    """Newton's method on the discrete curve energy, with nodes added until the length is accurate.

    Parameters
    ----------
    n_points : int
        Least number of nodes of a returned curve (solved coarse to fine), at least 3.
    max_points : int
        Most nodes of a curve.
    rtol : float
        Relative error allowed on the length.
    residual_tol : float, optional
        Stop when √(predicted decrease / energy) falls below it; None means 1e-6 in float64 and 1e-3 in float32.
    max_steps : int
        Most Newton steps at each number of nodes.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> Newton(rtol=1e-6)
    Newton(n_points=33, max_points=513, rtol=1e-06, residual_tol=None, max_steps=50)
    """

    n_points: int = 33
    max_points: int = 513
    rtol: float = 1e-3
    residual_tol: float | None = None
    max_steps: int = 50

    def __post_init__(self) -> None:
        for name, least in (("n_points", 3), ("max_points", 3), ("max_steps", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
        if self.max_points < self.n_points:
            raise ValueError(f"`max_points` must be at least `n_points` = {self.n_points}, got {self.max_points}")
        for name in ("rtol", "residual_tol"):
            value = getattr(self, name)
            if value is None and name == "residual_tol":
                continue
            if not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
                raise ValueError(f"`{name}` must be a positive finite number, got {value!r}")

    def _levels(self, *, coarser: bool) -> list[int]:
        """Numbers of nodes to solve for, coarse to fine: each doubles the segments of the one before.

        One that is `coarser` than `n_points` comes first where errors are told by comparing two levels.
        """
        levels = [self.n_points]
        if coarser and self.n_points % 2 == 1 and self.n_points >= 2 * _COARSEST - 1:
            levels.insert(0, (self.n_points + 1) // 2)
        while 2 * levels[-1] - 1 <= self.max_points:
            levels.append(2 * levels[-1] - 1)
        return levels

    def solve(self, metric: Metric, start: Curve) -> Solution:
        """Solve for geodesics in the basins of the starting curves (B, n, d), which have finite, distinct ends."""
        return _Refinement(self, metric, start).run()


class _Refinement:
    """One call's state: per curve its result so far, per level the curves that still need it."""

    def __init__(self, solver: Newton, metric: Metric, start: Curve) -> None:
        z = start.nodes
        B = z.shape[0]
        self.solver, self.metric, self.start = solver, metric, start
        self.tol = solver.residual_tol or (1e-6 if z.dtype == torch.float64 else 1e-3)
        self.levels = solver._levels(coarser=metric.embedding is None or metric.ambient is not None)
        self.length = torch.full((B,), torch.nan, dtype=torch.float64, device=z.device)
        self.error = torch.full_like(self.length, torch.inf)
        self.entry = self.length.clone()  # of the curve that entered the present level
        self.energy, self.residual = self.length.clone(), self.length.clone()
        self.certified = torch.zeros(B, dtype=torch.bool, device=z.device)
        self.steps = torch.zeros(B, dtype=torch.long, device=z.device)
        self.points = torch.zeros(B, dtype=torch.long, device=z.device)
        self.failed = torch.zeros(B, dtype=torch.bool, device=z.device)
        self.status = [Status.MAX_POINTS] * B
        self.pieces: list[tuple[Tensor, Curve]] = []

    def run(self) -> Solution:
        waiting = self._first_levels()  # level -> [(curve indices, nodes)]
        for level in range(len(self.levels)):
            groups = waiting.pop(level, [])
            if not groups:
                continue
            index = torch.cat([g[0] for g in groups])
            nodes = torch.cat([g[1] for g in groups])
            index, nodes = self._solve_level(index, nodes, last=level == len(self.levels) - 1)
            if len(index):
                waiting.setdefault(level + 1, []).append((index, nodes))
        return Solution(
            tuple(self.pieces),
            self.length,
            self.error,
            self.energy,
            self.residual,
            self.certified,
            self.steps,
            self.points,
            self.status,
        )

    def _first_levels(self) -> dict[int, list[tuple[Tensor, Tensor]]]:
        """Put every starting curve at the first level whose polygon does not hide length between its nodes."""
        rest = torch.arange(self.start.nodes.shape[0], device=self.start.nodes.device)
        waiting: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for level, n in enumerate(self.levels):
            curves = self.start.select(rest)
            nodes = equal_speed(self.metric, curves, n)
            spans = arc_length(self.metric, Curve(nodes), rtol=0.1, substeps=2)
            fair = ~(spans.ratio > _FAIR_RATIO) | (level == len(self.levels) - 1)
            fair |= ~spans.length.isfinite()
            self.entry[rest] = spans.length
            waiting[level] = [(rest[fair], nodes[fair])]
            rest = rest[~fair]
            if len(rest) == 0:
                break
        return {level: groups for level, groups in waiting.items() if len(groups[0][0])}

    def _solve_level(self, index: Tensor, nodes: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """Solve at one number of nodes; return the curves that need more nodes, refined."""
        n = nodes.shape[1]
        energy = energy_of(self.metric, nodes)
        descent = Descent(energy, nodes, self.tol, self.solver.max_steps)
        descent.run()
        curve = Curve(descent.z)
        spans = arc_length(self.metric, curve, rtol=self.solver.rtol, substeps=2)
        before = self.length[index]
        gap = descent.excess()
        if gap is None:
            change = (before - spans.length).abs() / 3  # at least second order: n against 2n
            gap = torch.where(before.isfinite(), change, torch.inf)
        else:
            gap = gap / spans.length.clamp_min(1e-300)  # of E = L²/2
            gap = torch.where(spans.ratio <= _FAIR, gap, torch.inf)
        wobble = descent.residual.square() * spans.length
        error = gap + spans.error + wobble
        self.length[index], self.error[index] = spans.length, error
        self.energy[index] = 0.5 * (n - 1) * spans.segments.square().sum(-1)
        self.residual[index], self.certified[index] = descent.residual, descent.certified
        self.steps[index] += descent.steps
        self.points[index] = n
        # nodes that jumped across thin ridges lower the polygon's energy but not the curve's length
        longer = spans.length > self.entry[index] * (1 + max(_LONGER, self.solver.rtol))
        failed_before = self.failed[index]
        coarse = longer | torch.tensor([s is Status.UNRESOLVED for s in descent.status], device=index.device)
        self.failed[index] = ~descent.converged & ~coarse
        accurate = (error <= self.solver.rtol * spans.length) & (n >= self.solver.n_points)
        fatal = torch.tensor([s is Status.NOT_FINITE for s in descent.status], device=index.device)
        done = (accurate & descent.converged & ~longer) | fatal | last | (failed_before & self.failed[index])
        for k in done.nonzero()[:, 0].tolist():
            status = descent.status[k]
            if status is Status.CONVERGED and longer[k]:
                status = Status.UNRESOLVED
            elif status is Status.CONVERGED and not accurate[k]:
                status = Status.MAX_POINTS
            self.status[int(index[k])] = status
        if bool(done.any()):
            self.pieces.append((index[done], curve.select(done)))
        self.entry[index] = torch.where(longer, self.entry[index], spans.length)
        finer = torch.where(longer[:, None, None], Curve(nodes).refined(), curve.refined())
        return index[~done], finer[~done]
