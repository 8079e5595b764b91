"""Newton's method on the discrete curve energy, all curves of a batch at once.

Nodes are doubled until the length of the interpolated curve is accurate, which a gradient of higher order tells.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ...metrics import Metric
from ..curve import Curve, Quadrature, arc_length, paced
from ..geodesic import Status
from .defect import LEAST_NODES, defect
from .descent import Descent
from .energy import Energy, energy_of

__all__ = ["Newton", "Solution"]

_COARSEST = 9
_ENOUGH = 0.35  # arc over chord less one, over √rtol, up to which a number of nodes may be enough
_LEAST_HIDDEN, _MOST_HIDDEN = 0.01, 0.05  # between those, what a starting polygon may hide
_LONGER = 3e-3  # relative growth of the true length that a solve is forgiven, for quadrature on coarse nodes
_FAIR = 1.02  # arc over chord up to which estimates of the discretisation's error are believed
_TOLERATED = 0.3  # residual over √rtol: its square, the error of the length that it leaves, is 9 % of what is allowed
_LOOSEST = 1e-2
_EVEN = 1.004  # longest over mean segment up to which nodes put between them keep the speed constant, to 1 %


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
        Stop when √(predicted decrease / energy) falls below it; None means 1e-6 in float64; in
        float32 1e-3, or for flat embeddings 0.3 √rtol where that is more, but at most 1e-2.
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

    def _levels(self) -> list[int]:
        """Numbers of nodes to solve for, coarse to fine: each doubles the segments of the one before.

        One that is coarser than `n_points` comes first: where its error is told without a finer solution, the result
        has twice its nodes all the same; elsewhere errors are told by comparing two levels.
        """
        levels = [self.n_points]
        if self.n_points % 2 == 1 and self.n_points >= 2 * _COARSEST - 1:
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
        self.tol = solver.residual_tol or _tolerance(metric, z.dtype, solver.rtol)
        self.levels = solver._levels()
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
        """Put every starting curve at the first level whose polygon hides little length between its nodes.

        What is hidden is of second order and the error of fourth: with much more, the level will not be enough.
        """
        hidden = min(max(_ENOUGH * self.solver.rtol**0.5, _LEAST_HIDDEN), _MOST_HIDDEN)
        rest = torch.arange(self.start.nodes.shape[0], device=self.start.nodes.device)
        waiting: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for level, n in enumerate(self.levels):
            curves = self.start.select(rest)
            nodes, spans = paced(self.metric, curves, n)
            # nodes put between fewer than are asked for must keep the speed constant
            limit = hidden if n >= self.solver.n_points else min(hidden, _EVEN - 1)
            fair = ~(spans.ratio > 1 + limit) | (level == len(self.levels) - 1)
            fair |= ~spans.length.isfinite()
            self.entry[rest] = spans.length
            waiting[level] = [(rest[fair], nodes[fair])]
            rest = rest[~fair]
            if len(rest) == 0:
                break
        return {level: groups for level, groups in waiting.items() if len(groups[0][0])}

    def _solve_level(self, index: Tensor, nodes: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """Solve at one number of nodes; return the curves that need more nodes, refined."""
        n, rtol = nodes.shape[1], self.solver.rtol
        energy = energy_of(self.metric, nodes)
        descent = Descent(energy, nodes, self.tol, self.solver.max_steps)
        descent.run()
        if energy.embedded and n >= LEAST_NODES:
            found = self._by_defect(energy, descent)
        else:
            found = self._by_comparison(descent, self.length[index])
        length, error = found.spans.length, found.error
        self.length[index], self.error[index] = length, error
        self.energy[index] = 0.5 * found.spans.segments.shape[1] * found.spans.segments.square().sum(-1)
        self.residual[index], self.certified[index] = descent.residual, descent.certified
        self.steps[index] += descent.steps
        self.points[index] = torch.where(found.doubled, 2 * n - 1, n)
        # nodes that jumped across thin ridges lower the polygon's energy but not the curve's length
        longer = length > self.entry[index] * (1 + max(_LONGER, rtol))
        failed_before = self.failed[index]
        coarse = longer | torch.tensor([s is Status.UNRESOLVED for s in descent.status], device=index.device)
        self.failed[index] = ~descent.converged & ~coarse
        accurate = (error <= rtol * length) & (found.doubled | (n >= self.solver.n_points))
        fatal = torch.tensor([s is Status.NOT_FINITE for s in descent.status], device=index.device)
        done = (accurate & descent.converged & ~longer) | fatal | last | (failed_before & self.failed[index])
        for k in done.nonzero()[:, 0].tolist():
            status = descent.status[k]
            if status is Status.CONVERGED and longer[k]:
                status = Status.UNRESOLVED
            elif status is Status.CONVERGED and not accurate[k]:
                status = Status.MAX_POINTS
            self.status[int(index[k])] = status
        for which, curves in ((done & found.doubled, found.fine), (done & ~found.doubled, descent.z)):
            if bool(which.any()):
                self.pieces.append((index[which], Curve(curves[which])))
        self.entry[index] = torch.where(longer, self.entry[index], length)
        finer = torch.where(longer[:, None, None], Curve(nodes).refined(), found.fine)
        return index[~done], finer[~done]

    def _by_comparison(self, descent: Descent, before: Tensor) -> _Found:
        """Lengths, with errors told by those of half as many nodes."""
        curve = Curve(descent.z)
        spans = arc_length(self.metric, curve, rtol=self.solver.rtol, substeps=2)
        change = (before - spans.length).abs()  # whole: coarse solutions are not yet in the regime of their order
        gap = torch.where(before.isfinite() & ((spans.ratio - 1).abs() <= _FAIR - 1), change, torch.inf)
        error = gap + spans.error + descent.residual.square() * spans.length
        return _Found(curve.refined(), torch.zeros_like(descent.active), spans, error)

    def _by_defect(self, energy: Energy, descent: Descent) -> _Found:
        """Lengths, with errors told by the defect of the solution."""
        rtol, curve = self.solver.rtol, Curve(descent.z)
        fine = curve.refined()
        rest, error = torch.ones_like(descent.active), torch.full_like(descent.value, torch.inf)
        parts: list[tuple[Tensor, Quadrature]] = []
        for index, model in descent.solutions():
            found = defect(energy, model, fine[index])
            spans = arc_length(self.metric, curve.select(index), rtol=rtol, substeps=2, known=found.spans)
            gap = found.excess / spans.length.clamp_min(1e-300)  # of E = L²/2
            gap = torch.where(spans.ratio <= _FAIR, gap, torch.inf)
            error[index] = gap + spans.error  # what the solve left undone is part of the defect
            parts.append((index, spans))
            rest[index] = False
        others = rest.nonzero()[:, 0]
        if len(others):
            parts.append((others, arc_length(self.metric, curve.select(others), rtol=rtol, substeps=2)))
        order = torch.cat([members for members, _ in parts]).argsort()
        spans = Quadrature.joined([part for _, part in parts]).select(order)
        doubled = spans.segments.amax(-1) <= _EVEN * spans.segments.mean(-1)
        return _Found(fine, doubled & (curve.n < self.solver.n_points), spans, error)


def _tolerance(metric: Metric, dtype: torch.dtype, rtol: float) -> float:
    """The residual to stop at. In single precision speed comes first, where an error can be told without a solution."""
    if dtype == torch.float64:
        return 1e-6
    flat = metric.embedding is not None and metric.ambient is None
    return max(1e-3, min(_TOLERATED * rtol**0.5, _LOOSEST)) if flat else 1e-3


@dataclasses.dataclass
class _Found:
    """What a level's solutions measure: refined nodes (B, 2n - 1, d), which of them are results, lengths, errors."""

    fine: Tensor
    doubled: Tensor
    spans: Quadrature
    error: Tensor
