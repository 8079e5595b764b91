"""Newton's method on the discrete curve energy, all curves of a batch at once.

Nodes are doubled until the length of the interpolated curve is accurate, which a gradient of higher order tells.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..._calculus import as_tolerance
from ...metrics import Metric
from ..curve import Curve, Quadrature, arc_length, paced
from ..geodesic import Status
from .defect import LEAST_NODES, defect
from .descent import Descent
from .energy import Energy, energy_of
from .options import check_options
from .refinement import Level, Refinement, doubled
from .solution import Solution

__all__ = ["Newton"]

_ENOUGH = 0.35  # arc over chord less one, over √rtol, up to which a number of nodes may be enough
_LEAST_HIDDEN, _MOST_HIDDEN = 0.01, 0.05  # between those, what a starting polygon may hide
_FAIR = 1.02  # arc over chord up to which estimates of the discretisation's error are believed
_TOLERATED = 0.3  # residual over √rtol: its square, the error of the length that it leaves, is 9 % of what is allowed
_LOOSEST = 1e-2
_EVEN = 1.004  # longest over mean segment up to which nodes put between them keep the speed constant, to 1 %


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
        check_options(self, n_points=3, max_steps=1)

    def solve(self, metric: Metric, start: Curve) -> Solution:
        """Solve for geodesics in the basins of the starting curves (B, n, d), which have finite, distinct ends."""
        return _Refinement(self, metric, start).run()


class _Refinement(Refinement):
    """The shared refinement, with errors told by the defect of a solution where that is cheap."""

    def __init__(self, solver: Newton, metric: Metric, start: Curve) -> None:
        levels = doubled(solver.n_points, solver.max_points)
        super().__init__(metric, start, levels, solver.n_points, solver.rtol)
        self.max_steps = solver.max_steps
        self.tol = as_tolerance(solver.residual_tol, start.nodes.dtype)
        if solver.residual_tol is None and start.nodes.dtype == torch.float32 and metric.flat_embedding is not None:
            # in single precision speed comes first, where an error can be told without a solution
            self.tol = max(self.tol, min(_TOLERATED * solver.rtol**0.5, _LOOSEST))

    def polygons(self, curves: Curve, n: int) -> tuple[Tensor, Quadrature, float]:
        # what is hidden is of second order and the error of fourth: with much more, the level will not be enough
        hidden = min(max(_ENOUGH * self.rtol**0.5, _LEAST_HIDDEN), _MOST_HIDDEN)
        # nodes put between fewer than are asked for must keep the speed constant
        limit = hidden if n >= self.least else min(hidden, _EVEN - 1)
        return *paced(self.metric, curves, n), 1 + limit

    def solve_level(self, index: Tensor, nodes: Tensor, n: int, *, last: bool) -> tuple[Tensor, Tensor]:
        energy = energy_of(self.metric, nodes)
        descent = Descent(energy, nodes, self.tol, self.max_steps)
        descent.run()
        if energy.embedded and n >= LEAST_NODES:
            found = self._by_defect(energy, descent)
        else:
            found = self._by_comparison(descent, self.length[index])
        done, finer = self.settle(index, nodes, found, last=last)
        self.certified[index] = descent.certified
        return index[~done], finer[~done]

    def _by_comparison(self, descent: Descent, before: Tensor) -> Level:
        """Lengths, with errors told by those of half as many nodes."""
        curve = Curve(descent.z)
        spans = arc_length(self.metric, curve, rtol=self.rtol, substeps=2)
        change = (before - spans.length).abs()  # whole: coarse solutions are not yet in the regime of their order
        gap = torch.where(before.isfinite() & ((spans.ratio - 1).abs() <= _FAIR - 1), change, torch.inf)
        error = gap + spans.error + descent.residual.square() * spans.length
        return self._level(descent, curve, curve.refined(), spans, error)

    def _by_defect(self, energy: Energy, descent: Descent) -> Level:
        """Lengths, with errors told by the defect of the solution."""
        rtol, curve = self.rtol, Curve(descent.z)
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
        level = self._level(descent, curve, fine, spans, error)
        if curve.n < self.least:
            level.doubled = spans.segments.amax(-1) <= _EVEN * spans.segments.mean(-1)
        return level

    @staticmethod
    def _level(descent: Descent, curve: Curve, fine: Tensor, spans: Quadrature, error: Tensor) -> Level:
        fatal = torch.tensor([s is Status.NOT_FINITE for s in descent.status], device=error.device)
        return Level(curve, spans, error, descent.residual, descent.steps, descent.status, fatal, fine)
