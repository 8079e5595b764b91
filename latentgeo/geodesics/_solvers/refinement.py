"""What the energy minimisers beside Newton share: options, coarse-to-fine refinement, and the check for minima.

A curve is solved with n and then 2n − 1 nodes until the length of its interpolant agrees to `rtol` (DESIGN of Newton's
outer loop); how a level is solved is the solver's own affair.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._calculus import BlockTridiagonal, as_tolerance
from ...metrics import Metric
from ..curve import Curve, arc_length, equal_speed
from ..geodesic import Status
from .energy import Energy, Model, energy_of
from .newton import Solution

__all__ = ["Descended", "Verdict", "check_options", "doubled", "judge", "refine", "tolerance"]

_FAIR_RATIO = 1.05  # arc over chord above which a polygon hides length between its nodes
_CRITICAL = 1e-2  # √(predicted decrease / energy) below which an indefinite Hessian is taken for a saddle
_LONGER = 3e-3  # relative growth of the true length that a solve is forgiven, for quadrature on coarse nodes


@dataclasses.dataclass
class Descended:
    """One level's solve: nodes (B, n, d), then per curve the residual, the steps taken and a status."""

    nodes: Tensor
    residual: Tensor
    steps: Tensor
    status: list[Status]


def check_options(
    solver: Any, *, counts: dict[str, int], positive: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Raise ValueError unless the solver's counts reach their least values and its tolerances are positive."""
    for name, least in counts.items():
        value = getattr(solver, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
    for name in positive:
        value = getattr(solver, name)
        if value is None and name in optional:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be a positive finite number, got {value!r}")


def tolerance(residual_tol: float | None, z: Tensor) -> float:
    """The residual to stop at: 1e-6 in float64 and 1e-3 in float32, unless given."""
    return as_tolerance(residual_tol, z.dtype, "residual_tol")


def doubled(n_points: int, max_points: int) -> list[int]:
    """Numbers of nodes to solve for: one level coarser than `n_points` where it can be halved, then doubling."""
    levels = [n_points]
    if n_points % 2 == 1 and n_points >= 17:
        levels.insert(0, (n_points + 1) // 2)
    while 2 * levels[-1] - 1 <= max_points:
        levels.append(2 * levels[-1] - 1)
    return levels


@dataclasses.dataclass
class Verdict:
    """What the discrete energy's undamped Hessian says of curves, per curve.

    Attributes
    ----------
    finite, definite : Tensor of shape (B,), bool
        Whether the Hessian is finite, and whether it is positive definite.
    saddle : Tensor of shape (B,), bool
        Whether it is indefinite and that means something: the curve is nearly critical, or the energy truly falls along
        the direction of negative curvature by more than the accuracy asked for.
    smooth : bool
        False for piecewise linear maps, whose second derivatives say nothing.
    """

    finite: Tensor
    definite: Tensor
    saddle: Tensor
    smooth: bool


def judge(metric: Metric, nodes: Tensor, rtol: float) -> Verdict:
    """Look at the discrete energy's Hessian at nodes (B, n, d)."""
    energy = energy_of(metric, nodes)
    model = energy.model(nodes)
    diagonal, upper = model.exact()
    finite = diagonal.isfinite().flatten(1).all(-1) & upper.isfinite().flatten(1).all(-1)
    definite = BlockTridiagonal(diagonal.nan_to_num(0.0), upper.nan_to_num(0.0)).positive_definite & finite
    convex = BlockTridiagonal(model.base.nan_to_num(0.0), model.upper.nan_to_num(0.0))
    predicted = 0.5 * (convex.solve(model.gradient) * model.gradient).sum((-2, -1))
    critical = ~convex.positive_definite | ~(predicted > _CRITICAL**2 * energy.value(nodes)[0])
    saddle = finite & ~definite & critical
    rest = (finite & ~definite & ~critical).nonzero()[:, 0]
    if len(rest):
        saddle[rest] = _falls(energy, model.select(rest), nodes[rest], 4 * rtol)
    return Verdict(finite, definite, saddle, energy.smooth)


def _falls(energy: Energy, model: Model, nodes: Tensor, least: float) -> Tensor:
    """Whether the energy falls by more than the fraction `least` along the direction of most negative curvature."""
    diagonal, upper = model.exact()
    eye = torch.eye(diagonal.shape[-1], dtype=diagonal.dtype, device=diagonal.device)
    shift = model.base.diagonal(dim1=-2, dim2=-1).mean((-2, -1))[:, None, None, None] * 1e-4
    for _ in range(16):  # the least shift that makes it definite brings the most negative direction out
        factor = BlockTridiagonal(diagonal + shift * eye, upper)
        if bool(factor.positive_definite.all()):
            break
        shift = torch.where(factor.positive_definite[:, None, None, None], shift, 4 * shift)
    s = torch.linspace(0, 1, diagonal.shape[1] + 2, dtype=diagonal.dtype, device=diagonal.device)[1:-1]
    w = torch.sin(torch.pi * s)[:, None] * torch.linspace(1.0, 1.5, diagonal.shape[-1]).to(diagonal)
    w = w.expand(diagonal.shape[0], -1, -1)
    for _ in range(4):
        w = factor.solve(w).nan_to_num(0.0)
        w = w / w.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-300)
    value = energy.value(nodes)[0]
    stretch = torch.einsum("Bni,Bnij,Bnj->B", w, model.base, w).clamp_min(1e-300)
    size = (2 * value / stretch).sqrt()[:, None, None]
    best = value
    for part in (0.3, -0.3, 0.1, -0.1, 0.03, -0.03):
        trial = nodes.clone()
        trial[:, 1:-1] += (part * size * w).to(nodes.dtype)
        best = torch.fmin(best, energy.value(trial)[0])
    return best < (1 - least) * value


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
    return _Refinement(metric, start, levels, least, rtol, descend).run()


class _Refinement:
    """Per curve its result so far; per level the curves that still need it."""

    fair_ratio = _FAIR_RATIO

    def __init__(
        self,
        metric: Metric,
        start: Curve,
        levels: list[int],
        least: int,
        rtol: float,
        descend: Callable[[Tensor], Descended],
    ) -> None:
        B, device = start.nodes.shape[0], start.nodes.device
        self.metric, self.start, self.levels, self.least = metric, start, levels, least
        self.rtol, self.descend = rtol, descend
        self.length = torch.full((B,), torch.nan, dtype=torch.float64, device=device)
        self.error = torch.full_like(self.length, torch.inf)
        self.entry, self.energy, self.residual = (self.length.clone() for _ in range(3))
        self.certified = torch.zeros(B, dtype=torch.bool, device=device)
        self.failed = self.certified.clone()
        self.steps = torch.zeros(B, dtype=torch.long, device=device)
        self.points = self.steps.clone()
        self.status = [Status.MAX_POINTS] * B
        self.pieces: list[tuple[Tensor, Curve]] = []

    def run(self) -> Solution:
        waiting = self._first_levels()
        for level, n in enumerate(self.levels):
            if not waiting[level]:
                continue
            index, nodes = (torch.cat(parts) for parts in zip(*waiting[level], strict=True))
            index, nodes = self._solve(index, nodes, n, last=level == len(self.levels) - 1)
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
        """Every starting curve, at the first level whose polygon does not hide length between its nodes."""
        rest = torch.arange(self.start.nodes.shape[0], device=self.start.nodes.device)
        waiting: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.levels]
        for level, n in enumerate(self.levels):
            nodes = equal_speed(self.metric, self.start.select(rest), n)
            spans = arc_length(self.metric, Curve(nodes), rtol=0.1)
            fair = ~(spans.ratio > self.fair_ratio) | ~spans.length.isfinite() | (level == len(self.levels) - 1)
            self.entry[rest] = spans.length
            if bool(fair.any()):
                waiting[level].append((rest[fair], nodes[fair]))
            rest = rest[~fair]
            if len(rest) == 0:
                break
        return waiting

    def _solve(self, index: Tensor, nodes: Tensor, n: int, *, last: bool) -> tuple[Tensor, Tensor]:
        """Solve at one number of nodes; return the curves that need more, refined."""
        found = self.descend(nodes)
        curve = Curve(found.nodes)
        spans = arc_length(self.metric, curve, rtol=self.rtol)
        before = self.length[index]
        # n against 2n, whole: how fast lengths converge on few nodes is not known
        gap = torch.where(before.isfinite(), (before - spans.length).abs(), torch.inf)
        error = gap + spans.error + 4 * found.residual.square() * spans.length
        error = torch.where(error.isfinite(), error, torch.inf)
        self.length[index], self.error[index] = spans.length, error
        self.energy[index] = 0.5 * (n - 1) * spans.segments.square().sum(-1)
        self.residual[index] = found.residual
        self.steps[index] += found.steps
        self.points[index] = n

        def are(status: Status) -> Tensor:
            return torch.tensor([s is status for s in found.status], device=index.device)

        converged, fatal = are(Status.CONVERGED), are(Status.NOT_FINITE) | ~spans.length.isfinite()
        longer = spans.length > self.entry[index] * (1 + max(_LONGER, self.rtol))
        failed_before = self.failed[index]
        self.failed[index] = ~converged & ~longer
        accurate = (error <= self.rtol * spans.length) & (n >= self.least)
        done = (accurate & converged & ~longer) | fatal | last | (failed_before & self.failed[index])
        for k in done.nonzero()[:, 0].tolist():
            status = found.status[k]
            if bool(fatal[k]):
                status = Status.NOT_FINITE
            elif status is Status.CONVERGED and bool(longer[k]):
                status = Status.UNRESOLVED
            elif status is Status.CONVERGED and not bool(accurate[k]):
                status = Status.MAX_POINTS
            self.status[int(index[k])] = status
        if bool(done.any()):
            self._judge(index[done], found.nodes[done])
            self.pieces.append((index[done], curve.select(done)))
        self.entry[index] = torch.where(longer, self.entry[index], spans.length)
        finer = torch.where(longer[:, None, None], Curve(nodes).refined(), curve.refined())
        return index[~done], finer[~done]

    def _judge(self, index: Tensor, nodes: Tensor) -> None:
        """Certify the converged curves whose Hessian is positive definite; saddles are no minima."""
        won = torch.tensor([self.status[k] is Status.CONVERGED for k in index.tolist()], device=index.device)
        if not bool(won.any()):
            return
        found = judge(self.metric, nodes[won], self.rtol)
        self.certified[index[won]] = found.definite & found.smooth
        for k, saddle, finite in zip(index[won].tolist(), found.saddle.tolist(), found.finite.tolist(), strict=True):
            if saddle or not finite:
                self.status[k] = Status.NOT_MINIMAL if finite else Status.NOT_FINITE
