"""`RungeKutta`: geodesics from initial values, each solved to its own accuracy and told how accurate it is.

Global errors are estimated from two tolerances, after Shampine, "Solving ODEs with MATLAB" (2003), chapter 2.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..._calculus import DEFAULT_MAX_BYTES, as_tolerance, check_flag
from ...metrics import Metric
from .._ode import LONGEST, Dense, Flow, Hermite, Shot, integrate, lengths
from ..curve import Curve
from ..geodesic import Status
from .options import check_options

__all__ = ["RungeKutta"]

_PASSES = 4  # of two solutions each, at tighter and tighter tolerances
_APART = 8.0  # ratio of the two tolerances; steps are as 3 to 2, errors as 8 to 1: the gap bounds the better one's
_LEAST_CLAIM = 0.02


@dataclasses.dataclass(frozen=True)
class RungeKutta:
    """Embedded Runge-Kutta pair 5(4) with step sizes of every curve's own; curves that are done leave the batch.

    Every curve is solved at two tolerances side by side. Where the two end points differ by more than they may, it is
    solved again at tighter ones: `rtol` bounds the error at the end of the curve, not that of a step.

    Parameters
    ----------
    rtol : float, optional
        Error allowed at the end point, in metric length relative to the curve's own; None means 1e-6 in float64 and
        1e-3 in float32.
    max_steps : int
        Most steps of a curve, refused ones included.
    n_points, max_points : int
        Least and most nodes of a returned curve; nodes are doubled until the interpolant, too, is accurate to `rtol`.
    checked : bool
        With False a curve is solved only once, `rtol` bounds the error of each step, and no error is estimated.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] Tsitouras, "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption", 2011.

    Examples
    --------
    >>> RungeKutta(rtol=1e-8)
    RungeKutta(rtol=1e-08, max_steps=1000, n_points=33, max_points=513, checked=True)
    """

    rtol: float | None = None
    max_steps: int = 1000
    n_points: int = 33
    max_points: int = 513
    checked: bool = True

    def __post_init__(self) -> None:
        check_options(self, max_steps=1, n_points=2)
        check_flag(self.checked, "checked")

    def _rtol(self, z: Tensor) -> float:
        return as_tolerance(self.rtol, z.dtype)

    def follow(self, metric: Metric, z: Tensor, v: Tensor, *, path: bool) -> Shot:
        """Follow geodesics from codes z with velocities v (B, d), finite and not zero."""
        rtol = self._rtol(z)
        if not self.checked:
            tol = torch.full(z.shape[:1], rtol, dtype=torch.float64, device=z.device)
            record = torch.full_like(tol, path, dtype=torch.bool)
            flow = integrate(metric, z, v, tol, max_steps=self.max_steps, record=record)
            everything = torch.arange(len(z), device=z.device)
            pieces = self._curves(metric, flow.dense(), everything, flow, z) if path else []
            return Shot(flow, torch.full_like(tol, torch.nan), pieces)
        return self._checked(metric, z, v, rtol, path=path)

    def _checked(self, metric: Metric, z: Tensor, v: Tensor, rtol: float, *, path: bool) -> Shot:
        B, device = len(z), z.device
        out = Flow(
            torch.stack([z, v], 1).double(),
            torch.zeros(B, dtype=torch.float64, device=device),
            torch.zeros(B, dtype=torch.long, device=device),
            [Status.INACCURATE] * B,
            [],
        )
        error = torch.full_like(out.reached, torch.nan)
        scale = lengths(metric, z, v[:, None])[:, 0]
        tol = torch.full_like(error, rtol / _APART)
        pieces: list[tuple[Tensor, Curve]] = []
        rows = torch.arange(B, device=device)
        for attempt in range(_PASSES):
            m = len(rows)
            both = torch.cat([_APART * tol[rows], tol[rows]])
            longest = LONGEST * torch.where(torch.arange(2 * m, device=device) < m, 1.0, _APART**-0.2)
            record = torch.arange(2 * m, device=device) >= m
            flow = integrate(
                metric,
                z[rows].repeat(2, 1),
                v[rows].repeat(2, 1),
                both,
                max_steps=self.max_steps,
                record=record if path else None,
                longest=longest,
            )
            coarse, fine = flow.end[:m], flow.end[m:]
            arrived = torch.tensor([s is Status.CONVERGED for s in flow.status[m:]], device=device)
            compared = arrived & torch.tensor([s is Status.CONVERGED for s in flow.status[:m]], device=device)
            gap = torch.full_like(tol[rows], torch.nan)
            k = compared.nonzero()[:, 0]
            if len(k):
                apart = (fine[k, :1] - coarse[k, :1]).to(z.dtype)
                gap[k] = lengths(metric, fine[k, 0].to(z.dtype), apart)[:, 0] / scale[rows[k]]
            error[rows] = gap.clamp_min(_LEAST_CLAIM * rtol)  # two solutions may agree by chance
            good = error[rows] <= rtol
            last = attempt == _PASSES - 1
            done = good | ~arrived | last
            out.end[rows], out.reached[rows] = fine, flow.reached[m:]
            out.steps[rows] += flow.steps[:m] + flow.steps[m:]
            for i in done.nonzero()[:, 0].tolist():
                won = Status.CONVERGED if bool(good[i]) else Status.INACCURATE
                out.status[int(rows[i])] = won if bool(arrived[i]) else flow.status[m + i]
            if path and bool(done.any()):
                found = done.nonzero()[:, 0]
                fresh = self._curves(metric, flow.dense(), found + m, flow, z)
                pieces += [(rows[index - m], curve) for index, curve in fresh]
            stricter = (0.3 * rtol / error[rows]).nan_to_num(0.03).clamp(1e-3, 0.3)
            tol[rows] *= stricter
            rows = rows[~done]
            if len(rows) == 0:
                break
        return Shot(out, error, pieces)

    def _curves(self, metric: Metric, dense: Dense, rows: Tensor, flow: Flow, z: Tensor) -> list[tuple[Tensor, Curve]]:
        """Curves with as many nodes as each needs."""
        pieces: list[tuple[Tensor, Curve]] = []
        rtol = self._rtol(z)
        n, step = self.n_points, max(1, DEFAULT_MAX_BYTES // (64 * self.max_points * z.shape[-1] * 8))
        while len(rows):
            rest = []
            for some in rows.split(step):
                t = torch.linspace(0.0, 1.0, n, dtype=torch.float64, device=z.device)
                curve = Hermite(*dense(some, t).to(z.dtype).unbind(0))
                if 2 * n - 1 > self.max_points:
                    pieces.append((some, curve))
                    continue
                middle = 0.5 * (t[1:] + t[:-1])
                true = dense(some, middle)[0].to(z.dtype)
                apart = (curve(middle) - true).flatten(0, 1)[:, None]
                off = lengths(metric, true.flatten(0, 1), apart).reshape(len(some), -1).nan_to_num(0.0)
                size = lengths(metric, curve.nodes[:, 0], curve.slopes[:, :1])
                fine = (off <= rtol * size).all(-1)
                if bool(fine.any()):
                    pieces.append((some[fine], curve.select(fine)))
                rest.append(some[~fine])
            rows = torch.cat(rest) if rest else rows[:0]
            n = 2 * n - 1
        return pieces
