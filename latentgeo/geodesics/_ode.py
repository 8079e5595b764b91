"""The geodesic equation z̈ = acceleration(z, ż) as an initial-value problem, every curve with its own step size.

Runge-Kutta pair 5(4) of Tsitouras, "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
assumption" (Comput. Math. Appl. 62, 2011). Local errors are measured by the metric itself, so that a solution does not
depend on the chart. Curves that are done, or lost, leave the batch.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .._calculus import RankError, RankWarning
from ..metrics import Metric
from .curve import Curve
from .geodesic import Status

__all__ = ["LONGEST", "Dense", "Flow", "Hermite", "Shot", "acceleration", "integrate", "lengths"]

_STAGES = (
    (0.161,),
    (-0.008480655492356989, 0.335480655492357),
    (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
    (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
    (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
    (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
)
_ERROR = (
    -0.00178001105222577714,
    -0.0008164344596567469,
    0.007880878010261995,
    -0.1447110071732629,
    0.5823571654525552,
    -0.45808210592918697,
    0.015151515151515152,
)
LONGEST = 0.2  # of the curve: a longer step could overlook what lies between its stages
_SHORTEST = 1e-10
_LEAST, _MOST, _SAFETY = 0.2, 5.0, 0.9


def acceleration(metric: Metric, z: Tensor, v: Tensor) -> Tensor:
    """Geodesic accelerations of rows (B, d); NaN, not an error, where the metric is not finite or not invertible."""
    out = torch.full_like(z, torch.nan)
    rows = (z.isfinite().all(-1) & v.isfinite().all(-1)).nonzero()[:, 0]
    if len(rows) == 0:
        return out
    try:
        out[rows] = metric.acceleration(z[rows], v[rows])
        return out
    except RankError:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankWarning)
            rows = rows[metric.log_volume(z[rows]).isfinite()]
    todo = [rows]
    while todo:  # rows on the verge of a deficient rank may still be refused: halve down to them
        rows = todo.pop()
        if len(rows) == 0:
            continue
        try:
            out[rows] = metric.acceleration(z[rows], v[rows])
        except RankError:
            if len(rows) > 1:
                todo += rows.tensor_split(2)
    return out


def lengths(metric: Metric, z: Tensor, X: Tensor) -> Tensor:
    """Metric lengths (B, k), in float64, of k vectors X (B, k, d) at each code (B, d)."""
    k, d = X.shape[1:]
    if 2 * k > d:
        G = metric.tensor(z).double()
        return torch.einsum("Bki,Bij,Bkj->Bk", X.double(), G, X.double()).clamp_min(0.0).sqrt()
    return metric.norm(z[:, None].expand_as(X), X.to(z)).double()


@dataclasses.dataclass
class Flow:
    """Where B curves went.

    Attributes
    ----------
    end : Tensor of shape (B, 2, d), float64
        Position and velocity at time `reached`.
    reached : Tensor of shape (B,), float64
        1, or the last time before what the status says happened.
    steps : Tensor of shape (B,)
        Steps tried.
    status : list of Status
    """

    end: Tensor
    reached: Tensor
    steps: Tensor
    status: list[Status]
    _pieces: list[tuple[Tensor, ...]]

    def dense(self) -> Dense:
        """The solution as a function of time, for the curves that were recorded."""
        return Dense(self._pieces, self.reached)


@dataclasses.dataclass(frozen=True)
class Shot:
    """What a solver makes of B geodesics. Tensors have shape (B,), float64.

    Attributes
    ----------
    flow : Flow
        End points and velocities, how far they got, statuses.
    error : Tensor
        Estimated error of the end point, in metric length relative to the curve's own.
    pieces : sequence of (indices, Curve)
        The curves, if they were asked for.
    """

    flow: Flow
    error: Tensor
    pieces: Sequence[tuple[Tensor, Curve]]


class Dense:
    """Piecewise quintics through positions, velocities and accelerations at the ends of every step."""

    def __init__(self, pieces: list[tuple[Tensor, ...]], reached: Tensor) -> None:
        rows, start, size, y0, f0, y1, f1 = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        order = torch.argsort(rows, stable=True)
        self.rows, self.start, self.size = rows[order], start[order], size[order]
        self.ends = torch.stack([y0[:, 0], y0[:, 1], f0[:, 1], y1[:, 0], y1[:, 1], f1[:, 1]], 1)[order]
        self.key = 2.0 * self.rows + self.start
        self.reached = reached

    def __call__(self, rows: Tensor, t: Tensor) -> Tensor:
        """Position, velocity, acceleration of curves (R,) at times (k,): (3, R, k, d); NaN past where they ended."""
        if len(self.rows) == 0:
            return self.ends.new_full((3, len(rows), len(t), self.ends.shape[-1]), torch.nan)
        query = (2.0 * rows[:, None] + t).contiguous()
        found = torch.searchsorted(self.key, query, right=True) - 1
        first = torch.searchsorted(self.rows, rows)[:, None]
        found = torch.maximum(found, first).clamp_max(len(self.rows) - 1)
        h = self.size[found]
        s = (t - self.start[found]) / h
        out = _quintic(self.ends[found].movedim(2, 0), h[..., None], s[..., None])
        lost = (t > self.reached[rows][:, None]) | (self.reached[rows] == 0)[:, None]
        return torch.where(lost[..., None], torch.nan, out)


def _quintic(ends: Tensor, h: Tensor, s: Tensor) -> Tensor:
    """Value and two derivatives at s in [0, 1] of the quintic with (z, ż, z̈) given at both ends of a step h."""
    z0, v0, a0, z1, v1, a1 = ends
    v0, v1, a0, a1 = h * v0, h * v1, 0.5 * h * h * a0, 0.5 * h * h * a1
    rise = z1 - z0 - v0 - a0
    turn = v1 - v0 - 2 * a0
    bend = a1 - a0
    c3, c4, c5 = 10 * rise - 4 * turn + bend, -15 * rise + 7 * turn - 2 * bend, 6 * rise - 3 * turn + bend
    value = z0 + s * (v0 + s * (a0 + s * (c3 + s * (c4 + s * c5))))
    slope = v0 + s * (2 * a0 + s * (3 * c3 + s * (4 * c4 + s * 5 * c5)))
    second = 2 * a0 + s * (6 * c3 + s * (12 * c4 + s * 20 * c5))
    return torch.stack([value, slope / h, second / (h * h)])


class Hermite(Curve):
    """Curves through nodes (B, n, d) with known velocities and accelerations there: C², of sixth order."""

    slopes: Tensor

    def __init__(self, nodes: Tensor, velocities: Tensor, accelerations: Tensor) -> None:
        self.nodes, self.slopes, self.bends = nodes, velocities, accelerations
        self.linear = False

    def select(self, index: Tensor | slice) -> Hermite:
        """The sub-batch of curves at `index`."""
        return Hermite(self.nodes[index], self.slopes[index], self.bends[index])

    def paced_at_ends(self, metric: Metric, speed: Tensor) -> Hermite:
        """The same curves: their velocities are known, not told from nodes."""
        return self

    def _evaluate(self, t: Tensor, *, derivative: bool) -> Tensor:
        z, n = self.nodes, self.n
        t = t.to(z).expand(z.shape[0], -1) if t.ndim == 1 else t.to(z)
        where = (t * (n - 1)).clamp(0.0, n - 1)
        left = where.floor().clamp_max(n - 2)
        index = left.long()[..., None].expand(-1, -1, z.shape[-1])
        parts = [part.gather(1, i) for i in (index, index + 1) for part in (z, self.slopes, self.bends)]
        h = torch.full_like(where, 1.0 / (n - 1))[..., None]
        return _quintic(torch.stack(parts), h, (where - left)[..., None])[int(derivative)]


def integrate(
    metric: Metric,
    z: Tensor,
    v: Tensor,
    tol: Tensor,
    *,
    max_steps: int,
    record: Tensor | None = None,
    longest: Tensor | float = LONGEST,
) -> Flow:
    """Follow geodesics from codes z with velocities v (B, d) from time 0 to 1.

    `tol` (B,) bounds the local error of every step, in metric length relative to the curve's own; `record` (B,) says
    which curves' steps are kept for `Flow.dense`; `longest`, a number or (B,), how long a step may be. Positions and
    velocities are summed in float64 whatever the dtype of the codes, at which the metric is evaluated.
    """
    B, like = z.shape[0], z.dtype

    def rates(y: Tensor) -> Tensor:
        a = acceleration(metric, y[:, 0].to(like), y[:, 1].to(like))
        return torch.stack([y[:, 1], a.double()], 1)

    y = torch.stack([z, v], 1).double()
    f = rates(y)
    scale = lengths(metric, z, v[:, None])[:, 0]
    sound = f.isfinite().flatten(1).all(-1) & scale.isfinite() & (scale > 0)
    status = [Status.STEP_LIMIT if ok else Status.NOT_FINITE for ok in sound.tolist()]
    t = torch.zeros(B, dtype=torch.float64, device=z.device)
    steps = torch.zeros(B, dtype=torch.long, device=z.device)
    before = torch.ones_like(t)  # error of the last accepted step, for the controller
    refused = torch.zeros(B, dtype=torch.bool, device=z.device)
    # no longer than it takes the velocity to change by the fifth root of the tolerance
    turn = f[:, 1].norm(dim=-1) / y[:, 1].norm(dim=-1)
    most = torch.as_tensor(longest, dtype=torch.float64, device=z.device).expand(B)
    h = (tol.double() ** 0.2 / turn.clamp_min(1e-300)).clamp_min(1e-6).minimum(most).nan_to_num(1e-6)
    none = torch.zeros(0, dtype=torch.long, device=z.device)
    pieces: list[tuple[Tensor, ...]] = [(none, t[:0], t[:0], y[:0], y[:0], y[:0], y[:0])]
    rows = sound.nonzero()[:, 0]
    for _ in range(max_steps):
        if len(rows) == 0:
            break
        left = 1.0 - t[rows]
        size = torch.where(h[rows] >= 0.999 * left, left, h[rows])
        start, slope = y[rows], f[rows]
        stages = [slope]
        for weights in _STAGES:
            change = sum(w * k for w, k in zip(weights, stages, strict=True))
            end = start + size[:, None, None] * change
            stages.append(rates(end))
        gap = size[:, None, None] * sum(w * k for w, k in zip(_ERROR, stages, strict=True))
        whole = stages[-1].isfinite().flatten(1).all(-1) & gap.isfinite().flatten(1).all(-1)
        error = torch.full_like(size, torch.inf)
        kept = whole.nonzero()[:, 0]
        if len(kept):
            far = lengths(metric, end[kept, 0].to(like), gap[kept]).amax(-1)
            error[kept] = (far / (tol[rows[kept]] * scale[rows[kept]])).nan_to_num(torch.inf)
        whole &= error.isfinite()
        taken = error <= 1.0
        steps[rows] += 1
        factor = _SAFETY * error.clamp_min(1e-10) ** -0.14 * torch.where(taken, before[rows] ** 0.08, 1.0)
        factor = torch.where(whole, factor.clamp(_LEAST, _MOST), _LEAST)
        factor = torch.where(refused[rows], factor.clamp_max(1.0), factor)
        won = rows[taken]
        if len(won):
            if record is not None:
                keep = record[won]
                parts = (won, t[won], size[taken], start[taken], slope[taken], end[taken], stages[-1][taken])
                pieces.append(tuple(part[keep] for part in parts))
            y[won], f[won] = end[taken], stages[-1][taken]
            t[won] = torch.where(size[taken] == left[taken], 1.0, t[won] + size[taken])
        h[rows] = (size * factor).minimum(most[rows])
        before[rows], refused[rows] = torch.where(taken, error.clamp_min(1e-4), before[rows]), ~taken
        done = t[rows] >= 1.0
        tiny = ~done & ~taken & (h[rows] < _SHORTEST)
        for k, finite in zip(rows[tiny].tolist(), whole[tiny].tolist(), strict=True):
            status[k] = Status.STEP_FLOOR if finite else Status.LEFT_REGION
        for k in rows[done].tolist():
            status[k] = Status.CONVERGED
        rows = rows[~(done | tiny)]
    return Flow(y, t, steps, status, pieces)
