"""The outer loop of the energy minimisers: coarse to fine, until the length of every curve is accurate.

A curve is solved with n and then 2n − 1 nodes until the error of its interpolant's length is told to be small enough;
how a level is solved, and how its error is told, is the solver's own affair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from ...metrics import Metric
from ..curve import Curve, Quadrature, arc_length, equal_speed
from ..geodesic import Status
from .solution import Solution
from .verdict import judge

__all__ = ["Descended", "Level", "Refinement", "doubled", "refine"]

_COARSEST = 9
_FAIR_RATIO = 1.05  # arc over chord above which a polygon hides length between its nodes
_LONGER = 3e-3  # relative growth of the true length that a solve is forgiven, for quadrature on coarse nodes


@dataclasses.dataclass
class Descended:
    """One level's solve: nodes (B, n, d), then per curve the residual, the steps taken and a status."""

    nodes: Tensor
    residual: Tensor
    steps: Tensor
    status: list[Status]


@dataclasses.dataclass
class Level:
    """What the solve at one number of nodes made of its B curves.

    Attributes
    ----------
    curve, spans : Curve, Quadrature
        The solutions, and their lengths.
    error : Tensor of shape (B,)
        Estimated errors of these lengths.
    residual, steps, status
        As of `Descended`.
    fatal : Tensor of shape (B,), bool
        Curves that no further nodes can help.
    fine : Tensor of shape (B, 2n - 1, d)
        The solutions with a node more between each two.
    doubled : Tensor of shape (B,), bool, optional
        Curves whose result are those nodes.
    ready : Tensor of shape (B,), bool, optional
        Curves that were solved to the tolerance.
    saddle : Tensor of shape (B,), bool, optional
        Curves known to be no minima.
    """

    curve: Curve
    spans: Quadrature
    error: Tensor
    residual: Tensor
    steps: Tensor
    status: list[Status]
    fatal: Tensor
    fine: Tensor
    doubled: Tensor | None = None
    ready: Tensor | None = None
    saddle: Tensor | None = None

    def are(self, status: Status) -> Tensor:
        """Which curves have a status, (B,)."""
        return torch.tensor([s is status for s in self.status], device=self.error.device)


def doubled(n_points: int, max_points: int) -> list[int]:
    """Numbers of nodes to solve for, coarse to fine: each doubles the segments of the one before.

    One that is coarser than `n_points` comes first, where that can be halved: errors are told by comparing two levels,
    or the coarser one serves, with a node more between each two.
    """
    levels = [n_points]
    if n_points % 2 == 1 and n_points >= 2 * _COARSEST - 1:
        levels.insert(0, (n_points + 1) // 2)
    while 2 * levels[-1] - 1 <= max_points:
        levels.append(2 * levels[-1] - 1)
    return levels


def refine(
    metric: Metric,
    start: Curve,
    *,
    levels: list[int],
    least: int,
    rtol: float,
    descend: Callable[[Tensor], Descended],
) -> Solution:
    """Solve coarse to fine until every length is accurate to `rtol` with at least `least` nodes.

    `descend` lowers the energy of nodes (B, n, d) with fixed ends.
    """
    return _Comparing(metric, start, levels, least, rtol, descend).run()


class Refinement:
    """One call's state: per curve its result so far; per level the curves that still need it."""

    def __init__(self, metric: Metric, start: Curve, levels: list[int], least: int, rtol: float) -> None:
        B, device = start.nodes.shape[0], start.nodes.device
        self.metric, self.start, self.levels, self.least, self.rtol = metric, start, levels, least, rtol
        self.length = torch.full((B,), torch.nan, dtype=torch.float64, device=device)
        self.error = torch.full_like(self.length, torch.inf)
        self.entry = self.length.clone()  # of the curve that entered the present level
        self.energy, self.residual = self.length.clone(), self.length.clone()
        self.certified = torch.zeros(B, dtype=torch.bool, device=device)
        self.failed = self.certified.clone()
        self.steps = torch.zeros(B, dtype=torch.long, device=device)
        self.points = self.steps.clone()
        self.status = [Status.MAX_POINTS] * B
        self.pieces: list[tuple[Tensor, Curve]] = []

    def run(self) -> Solution:
        """Solve every level for the curves that need it."""
        waiting = self._first_levels()
        for level, n in enumerate(self.levels):
            if not waiting[level]:
                continue
            index, nodes = (torch.cat(parts) for parts in zip(*waiting[level], strict=True))
            index, nodes = self.solve_level(index, nodes, n, last=level == len(self.levels) - 1)
            if len(index):
                waiting[level + 1].append((index, nodes))
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

    def _first_levels(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Every starting curve, at the first level whose polygon hides little length between its nodes."""
        rest = torch.arange(self.start.nodes.shape[0], device=self.start.nodes.device)
        waiting: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.levels]
        for level, n in enumerate(self.levels):
            nodes, spans, limit = self.polygons(self.start.select(rest), n)
            fair = ~(spans.ratio > limit) | ~spans.length.isfinite() | (level == len(self.levels) - 1)
            self.entry[rest] = spans.length
            if bool(fair.any()):
                waiting[level].append((rest[fair], nodes[fair]))
            rest = rest[~fair]
            if len(rest) == 0:
                break
        return waiting

    def polygons(self, curves: Curve, n: int) -> tuple[Tensor, Quadrature, float]:
        """Starting curves as nodes (B, n, d), their lengths, and the arc over chord up to which so many may do."""
        nodes = equal_speed(self.metric, curves, n)
        return nodes, arc_length(self.metric, Curve(nodes), rtol=0.1), _FAIR_RATIO

    def solve_level(self, index: Tensor, nodes: Tensor, n: int, *, last: bool) -> tuple[Tensor, Tensor]:
        """Solve at one number of nodes; return the curves that need more, refined."""
        raise NotImplementedError

    def settle(self, index: Tensor, nodes: Tensor, found: Level, *, last: bool) -> tuple[Tensor, Tensor]:
        """Note what a level found; returns which curves are done (B,), and nodes for the next level."""
        length, n = found.spans.length, nodes.shape[1]
        none = torch.zeros_like(found.fatal)
        double = none if found.doubled is None else found.doubled
        self.length[index], self.error[index] = length, found.error
        self.energy[index] = 0.5 * (n - 1) * found.spans.segments.square().sum(-1)
        self.residual[index] = found.residual
        self.steps[index] += found.steps
        self.points[index] = torch.where(double, 2 * n - 1, n)
        # nodes that jumped across thin ridges lower the polygon's energy but not the curve's length
        longer = length > self.entry[index] * (1 + max(_LONGER, self.rtol))
        converged, failed_before = found.are(Status.CONVERGED), self.failed[index]
        self.failed[index] = ~converged & ~longer & ~found.are(Status.UNRESOLVED)
        accurate = (found.error <= self.rtol * length) & (self.points[index] >= self.least)
        ready = converged if found.ready is None else converged & found.ready
        done = (accurate & ready & ~longer) | found.fatal | last | (failed_before & self.failed[index])
        saddle = none if found.saddle is None else found.saddle
        for k in done.nonzero()[:, 0].tolist():
            status = found.status[k]
            if bool(found.fatal[k]):
                status = Status.NOT_FINITE
            elif status is Status.CONVERGED and bool(longer[k]):
                status = Status.UNRESOLVED
            elif status is Status.CONVERGED and not bool(accurate[k]):
                status = Status.MAX_POINTS
            elif status is Status.CONVERGED and bool(saddle[k]):
                status = Status.NOT_MINIMAL
            self.status[int(index[k])] = status
        for which, curve in ((done & double, Curve(found.fine)), (done & ~double, found.curve)):
            if bool(which.any()):
                self.pieces.append((index[which], curve.select(which)))
        self.entry[index] = torch.where(longer, self.entry[index], length)
        return done, torch.where(longer[:, None, None], Curve(nodes).refined(), found.fine)

    def judge(self, index: Tensor, nodes: Tensor) -> None:
        """Certify the converged curves whose Hessian is positive definite; saddles are no minima."""
        won = torch.tensor([self.status[k] is Status.CONVERGED for k in index.tolist()], device=index.device)
        if not bool(won.any()):
            return
        found = judge(self.metric, nodes[won], self.rtol)
        self.certified[index[won]] = found.definite & found.smooth
        for k, saddle, finite in zip(index[won].tolist(), found.saddle.tolist(), found.finite.tolist(), strict=True):
            if saddle or not finite:
                self.status[k] = Status.NOT_MINIMAL if finite else Status.NOT_FINITE


class _Comparing(Refinement):
    """Errors of lengths are told by comparing them with those of half as many nodes."""

    def __init__(
        self,
        metric: Metric,
        start: Curve,
        levels: list[int],
        least: int,
        rtol: float,
        descend: Callable[[Tensor], Descended],
    ) -> None:
        super().__init__(metric, start, levels, least, rtol)
        self.descend = descend

    def solve_level(self, index: Tensor, nodes: Tensor, n: int, *, last: bool) -> tuple[Tensor, Tensor]:
        found = self.descend(nodes)
        curve = Curve(found.nodes)
        spans = arc_length(self.metric, curve, rtol=self.rtol)
        before = self.length[index]
        # n against 2n, whole: how fast lengths converge on few nodes is not known
        gap = torch.where(before.isfinite(), (before - spans.length).abs(), torch.inf)
        error = gap + spans.error + 4 * found.residual.square() * spans.length
        error = torch.where(error.isfinite(), error, torch.inf)
        level = Level(
            curve, spans, error, found.residual, found.steps, found.status, ~spans.length.isfinite(), curve.refined()
        )
        level.fatal |= level.are(Status.NOT_FINITE)
        done, finer = self.settle(index, nodes, level, last=last)
        if bool(done.any()):
            self.judge(index[done], found.nodes[done])
        return index[~done], finer[~done]
