"""`connect` and `distance`: geodesics between pairs of codes.

The boundary-value problem is solved by a solver value on batches of curves whose memory is bounded.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .._calculus import DEFAULT_MAX_BYTES, broadcast_pair, check_flag
from ..metrics import Metric, need_metric
from ._solvers.newton import Newton
from ._solvers.sobolev import Sobolev
from ._solvers.solution import Solution
from ._starts import nearest_lift, other_starts, starting_curves
from .curve import Curve, arc_length
from .geodesic import Geodesic, Status
from .graph import LatentGraph

__all__ = ["connect", "curve_length", "default_solver", "distance", "need_solver"]

_MOST_STARTS = 1000
_LARGE = 16  # latent dimension from which vector products are cheaper than Jacobians


class Solver(Protocol):
    """A frozen value that turns starting curves into geodesics."""

    @property
    def rtol(self) -> float:
        """Relative error allowed on the length."""

    def solve(self, metric: Metric, start: Curve) -> Solution:
        """Solve for geodesics in the basins of the starting curves (B, n, d), which have finite, distinct ends."""


def default_solver(dim: int) -> Solver:
    """The solver that `connect` takes for codes of `dim` coordinates: `Newton()`, from 16 on `Sobolev()`."""
    return Newton() if dim < _LARGE else Sobolev()


def connect(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    *,
    solver: Solver | None = None,
    init: Tensor | LatentGraph | None = None,
    starts: int = 1,
    throw: bool = True,
) -> Geodesic:
    r"""Geodesics between pairs of latent codes.

    Each curve is a local minimiser of the energy in the basin of its starting curve; no claim is made that it is the
    shortest. Where the metric has periodic coordinates, curves end at the copy of `b` nearest to `a`.

    Parameters
    ----------
    metric : Metric
    a, b : Tensor of shape (*batch, d)
        End points; batch shapes broadcast.
    solver : Newton, Sobolev, Spline, …, optional
        The solver and its options; None means ``Newton()`` below d = 16 and ``Sobolev()`` from there on.
    init : LatentGraph or Tensor of shape (*batch, n, d), optional
        Where to start. A fitted graph gives shortest paths (the straight line where that is shorter); a tensor gives
        curves, n ≥ 2, whose first and last nodes are `a` and `b`; None means straight lines.
    starts : int
        How many starts to solve from: `init` and ``starts - 1`` detours to its sides (and, for periodic coordinates,
        ways round). The shortest is kept; ``stats["geodesics"]`` counts the different lengths found.
    throw : bool
        Raise if any curve failed; with False the result is returned and every curve has its status.

    Returns
    -------
    Geodesic

    Raises
    ------
    GeodesicError
        If ``throw`` and any curve did not converge; the whole result is on the error.
    TypeError, ValueError
        If `a`, `b` or `init` have the wrong type, shape, dtype or device.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379.
    .. [2] Shao, Kumar, Fletcher, "The Riemannian Geometry of Deep Generative Models", CVPRW 2018, arXiv:1711.08014.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> quarter = connect(Sphere(2), torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))
    >>> quarter
    Geodesic(d=2, n=33, 1/1 converged, length 1.571)
    """
    need_solver(solver)
    if not isinstance(starts, (int, np.integer)) or isinstance(starts, bool) or not 1 <= starts <= _MOST_STARTS:
        raise ValueError(f"`starts` must be an integer from 1 to {_MOST_STARTS}, got {starts!r}")
    check_flag(throw, "throw")
    need_metric(metric)
    a, b = _end_points(metric, a, b)
    batch, d = a.shape[:-1], a.shape[-1]
    solver = default_solver(d) if solver is None else solver
    with torch.no_grad():
        flat_a, flat_b = a.detach().reshape(-1, d), b.detach().reshape(-1, d)
        flat_b = nearest_lift(metric, flat_a, flat_b)
        start = starting_curves(metric, flat_a, flat_b, batch, init)
        outcome = _solve(metric, solver, flat_a, flat_b, start)
        if starts > 1:
            outcome = _shortest(metric, solver, flat_a, flat_b, outcome, starts)
        result = _geodesic(metric, solver, flat_a, outcome, batch)
    return result.raise_for_status() if throw else result


def _end_points(metric: Metric, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    metric.check(a, name="a")
    return broadcast_pair(a, b, "b", like="a")


@dataclasses.dataclass
class _Outcome:
    """Results of B flat curves, filled in group by group."""

    values: dict[str, Tensor]
    certified: Tensor
    stats: dict[str, Tensor]
    status: np.ndarray[Any, np.dtype[np.object_]]
    pieces: list[tuple[Tensor, Curve]]

    @property
    def converged(self) -> Tensor:
        done = [s is Status.CONVERGED for s in self.status]
        return torch.as_tensor(done, dtype=torch.bool, device=self.certified.device)

    def replace(self, index: Tensor, other: _Outcome) -> None:
        """Take the curves at `index` from another outcome of the same batch."""
        for name, value in self.values.items():
            value[index] = other.values[name][index]
        for name, count in self.stats.items():
            count[index] = other.stats[name][index]
        self.certified[index] = other.certified[index]
        self.status[index.cpu().numpy()] = other.status[index.cpu().numpy()]
        gone = torch.zeros_like(self.certified)
        gone[index] = True
        kept = [(members, curve, ~gone[members]) for members, curve in self.pieces]
        new = [(members, curve, gone[members]) for members, curve in other.pieces]
        self.pieces = [(members[keep], curve.select(keep)) for members, curve, keep in kept + new if bool(keep.any())]


def need_solver(solver: object) -> None:
    """Raise TypeError unless it is None or can solve boundary-value problems."""
    if solver is not None and not (hasattr(solver, "solve") and hasattr(solver, "rtol")):
        raise TypeError(f"`solver` must be a solver such as Newton(), got {solver!r}")


def _solve(metric: Metric, solver: Solver, a: Tensor, b: Tensor, start: Tensor | None) -> _Outcome:
    """Solve the proper curves in memory-bounded groups."""
    B = a.shape[0]
    finite = a.isfinite().all(-1) & b.isfinite().all(-1)
    usable = finite if start is None else finite & start.isfinite().flatten(1).all(-1)
    rounding = 2 * torch.finfo(a.dtype).eps * torch.maximum(a.abs(), b.abs())
    same = finite & ((b - a).abs() <= rounding).all(-1)
    status = np.full(B, Status.BAD_ENDPOINT, dtype=object)
    status[(finite & ~usable).cpu().numpy()] = Status.NOT_FINITE
    status[same.cpu().numpy()] = Status.CONVERGED
    unknown = torch.full((B,), torch.nan, dtype=torch.float64, device=a.device)
    names = ("length", "length_error", "energy", "residual")
    out = _Outcome(
        {name: torch.where(same, 0.0, unknown) for name in names},
        same.clone(),
        {name: torch.zeros(B, dtype=torch.long, device=a.device) for name in ("steps", "points")},
        status,
        [],
    )
    still = same.nonzero()[:, 0]
    if len(still):
        out.pieces.append((still, Curve(torch.stack([a[still], b[still]], 1))))
    todo = (usable & ~same).nonzero()[:, 0]
    group = _group_size(metric, solver, a)
    for i in range(0, len(todo), group):
        index = todo[i : i + group]
        nodes = torch.stack([a[index], b[index]], 1) if start is None else start[index]
        found: Solution = solver.solve(metric, Curve(nodes, linear=True))
        for name in names:
            out.values[name][index] = getattr(found, name)
        out.certified[index] = found.certified
        out.stats["steps"][index], out.stats["points"][index] = found.steps, found.points
        for k, s in zip(index.tolist(), found.status, strict=True):
            status[k] = s
        out.pieces += [(index[members], curve) for members, curve in found.pieces]
    return out


def _shortest(metric: Metric, solver: Solver, a: Tensor, b: Tensor, first: _Outcome, starts: int) -> _Outcome:
    """Solve from further starts; keep the shortest converged curve of each pair and count the different lengths."""
    best = first
    lengths = [torch.where(best.converged, best.values["length"], torch.nan)]
    for start in other_starts(metric, a, b, starts - 1):
        end = torch.where(b.isfinite(), start[:, -1], b)
        other = _solve(metric, solver, a, end, start)
        lengths.append(torch.where(other.converged, other.values["length"], torch.nan))
        better = other.converged & (~best.converged | (other.values["length"] < best.values["length"]))
        index = better.nonzero()[:, 0]
        if len(index):
            best.replace(index, other)
    order = torch.stack(lengths, -1).nan_to_num(torch.inf).sort(-1).values
    fresh = order[:, 1:] > order[:, :-1] * (1 + 3 * max(1e-3, solver.rtol))
    count = order[:, 0].isfinite().long() + (fresh & order[:, 1:].isfinite()).sum(-1)
    best.stats["geodesics"] = count
    return best


def _geodesic(metric: Metric, solver: Solver, a: Tensor, out: _Outcome, batch: tuple[int, ...]) -> Geodesic:
    """Put an outcome into the caller's batch shape, with all curves at the same times."""
    B, d = a.shape
    with torch.no_grad():
        pieces = [(index, curve.paced_at_ends(metric, out.values["length"][index])) for index, curve in out.pieces]
    n = max([curve.n for _, curve in pieces], default=0)
    n = max(n, getattr(solver, "n_points", 33))
    times = torch.linspace(0.0, 1.0, n, dtype=torch.float64, device=a.device)
    z = a.new_full((B, n, d), torch.nan)
    for index, curve in pieces:
        z[index] = curve.nodes if curve.n == n else curve(times)
    return Geodesic(
        z=z.reshape(*batch, n, d),
        t=times.to(a.dtype),
        **{name: value.to(a.dtype).reshape(batch) for name, value in out.values.items()},
        converged=out.converged.reshape(batch),
        status=out.status.reshape(batch),
        certified=out.certified.reshape(batch),
        stats={name: value.reshape(batch) for name, value in out.stats.items()},
        metric=metric,
        pieces=tuple(pieces),
    )


def _group_size(metric: Metric, solver: Any, a: Tensor) -> int:
    """Curves solved together: their nodes' blocks stay within the byte budget, whatever the batch."""
    d = a.shape[-1]
    budget = DEFAULT_MAX_BYTES if metric.embedding is None else metric.embedding.max_bytes
    if isinstance(solver, Sobolev):  # it holds no blocks
        return max(1, budget // solver.curve_bytes(d))
    nodes = getattr(solver, "max_points", 513)
    return max(1, budget // (nodes * d * d * 8 * 24))


def curve_length(metric: Metric, curve: Tensor) -> Tensor:
    """Length of polygons in latent space, nodes joined by straight segments.

    Parameters
    ----------
    metric : Metric
    curve : Tensor of shape (*batch, n, d)
        Nodes, n ≥ 2; two nodes give the length of a straight line.

    Returns
    -------
    Tensor of shape (*batch,)
        In units of the metric's embedding, to a relative accuracy of about 1e-4; NaN where the metric is not finite.

    Raises
    ------
    ValueError
        If `curve` has fewer than two nodes.

    Examples
    --------
    >>> from latentgeo.metrics import Euclidean
    >>> curve_length(Euclidean(2), torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]]))
    tensor(9.)
    """
    need_metric(metric)
    metric.check(curve, name="curve")
    if curve.ndim < 2 or curve.shape[-2] < 2:
        raise ValueError(f"`curve` must have shape (*batch, n, d) with n >= 2, got {tuple(curve.shape)}")
    flat = curve.detach().reshape(-1, *curve.shape[-2:])
    with torch.no_grad():
        substeps = max(4, 2 ** (256 // (flat.shape[1] - 1)).bit_length() // 2)
        length = arc_length(metric, Curve(flat, linear=True), rtol=1e-4, substeps=min(substeps, 64)).length
    return length.to(curve.dtype).reshape(curve.shape[:-2])


def distance(metric: Metric, a: Tensor, b: Tensor, *, solver: Solver | None = None) -> Tensor:
    r"""Geodesic distance between latent codes.

    Differentiable in `a` and `b` (first variation of length) and in the parameters of the metric's embedding (envelope
    theorem at the solved curve).

    Parameters
    ----------
    metric : Metric
    a, b : Tensor of shape (*batch, d)
        Latent codes; batch shapes broadcast.
    solver : Newton, Sobolev, Spline, …, optional
        As for `connect`.

    Returns
    -------
    Tensor of shape (*batch,)
        Lengths in units of the metric's embedding (data units for `ExpectedMetric`). The gradient at a = b is zero.

    Raises
    ------
    GeodesicError
        If any curve does not converge.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379.

    Examples
    --------
    >>> from latentgeo.metrics import Euclidean
    >>> distance(Euclidean(2), torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor(5.)
    """
    path = connect(metric, a, b, solver=solver)
    module = None if metric.embedding is None else metric.embedding.module
    learns = module is not None and any(p.requires_grad for p in module.parameters())
    if not torch.is_grad_enabled() or not (a.requires_grad or b.requires_grad or learns):
        return path.length
    return _differentiable_length(path, *_end_points(metric, a, b), learns=learns)


def _differentiable_length(path: Geodesic, a: Tensor, b: Tensor, *, learns: bool) -> Tensor:
    """The path's length with the gradient of the distance: −G(a)ċ/|ċ| at a, G(b)ċ/|ċ| at b, ∂L/∂θ at a fixed curve."""
    metric = path.metric
    moving = path.length > 0
    total = path.length.detach()
    for end, where, sign in ((a, 0.0, -1.0), (b, 1.0, 1.0)):
        if not end.requires_grad:
            continue
        with torch.no_grad():
            v = path.velocity(where)[..., 0, :]
            covector = metric.product(end.detach(), v)
            speed = (covector * v).sum(-1).clamp_min(0.0).sqrt()
            unit = torch.where(moving, speed, 1.0)[..., None]
            slope = torch.where(moving[..., None], sign * covector / unit, 0.0)
        total = total + (slope * (end - end.detach())).sum(-1)
    if learns and metric.flat_embedding is not None:
        flat = torch.zeros(path.length.numel(), dtype=total.dtype, device=total.device)
        for index, curve in path.pieces:
            live = arc_length(metric, curve).length.to(total.dtype)
            flat = flat.index_put((index,), live - live.detach())
        total = total + torch.where(moving, flat.reshape(total.shape), 0.0)
    return total
