"""Geodesic rays from means, as far as they are shortest, with what their Jacobi fields say of volume.

A ray leaves the segment domain at its cut point: its first conjugate point, or where a shorter geodesic leads to the
same place (do Carmo, "Riemannian Geometry", 1992, chapter 13).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..geodesics import Geodesic, LatentGraph, Newton, RungeKutta, connect, shoot
from ..geodesics.connect import default_solver
from ..geodesics.curve import Curve
from ..geodesics.jacobi import propagate
from ..metrics import Metric
from ._land_rays import Design, Rays, refined, root

__all__ = ["cast", "fields", "initial_solver"]

_SHORTENED = 0.98  # a ray that cannot be followed is followed to a little before where it was lost
_STAGES, _LOOKS = 2, 16  # in which rays are followed, and how often the graph is asked in each
_BISECTIONS = 5


def initial_solver(metric: Metric, like: Tensor) -> RungeKutta:
    """How rays are followed unless told otherwise: errors of single steps are bounded, nothing is solved twice."""
    return RungeKutta(rtol=1e-6 if like.dtype == torch.float64 else 1e-3, checked=False)


def cast(
    metric: Metric,
    mean: Tensor,
    frame: Tensor,
    S: Tensor,
    design: Design,
    *,
    graph: LatentGraph | None,
    solver: Any,
    shooter: Any,
    tol: float,
    paper: bool,
) -> Rays:
    """Follow rays from means (K, d), whose orthonormal frames (K, d, d) are columns, for covariances S (K, d, d)."""
    K, d = mean.shape
    shooter = initial_solver(metric, mean) if shooter is None else shooter
    A = root(S)
    aim = torch.einsum("kij,sj->ksi", A, design.directions.to(A))  # unit standard deviations, normal coordinates
    count = aim.shape[1]
    start = mean.repeat_interleave(count, 0)
    unit = torch.einsum("kij,ksj->ksi", frame, aim).reshape(-1, d)
    size = aim.norm(dim=-1).reshape(-1)  # length of a standard deviation along each ray
    guide = None if paper else graph
    nodes, end, lost, stopped = _followed(metric, start, unit, size, design.reach, shooter, guide, tol)
    alive = (end > 0).nonzero()[:, 0]
    marks = design.n_radii + 1
    volume = torch.zeros(K * count, marks, dtype=torch.float64, device=mean.device)
    turn = torch.zeros(K * count, marks, d, d, dtype=torch.float64, device=mean.device)
    eye = torch.eye(d, dtype=torch.float64, device=mean.device)
    volume[:, 0], turn[:, 0] = 1.0, eye
    curve = Curve(nodes[alive].to(mean.dtype))
    t = torch.linspace(0.0, 1.0, marks, dtype=torch.float64, device=mean.device)
    if len(alive):
        at = curve(t)
        grown = metric.log_volume(at).double() - metric.log_volume(start[alive]).double()[:, None]
        volume[alive], turn[alive] = _spread(metric, curve, grown, frame.repeat_interleave(count, 0)[alive], paper)
    finite = volume.isfinite().all(-1) & turn.isfinite().flatten(1).all(-1)
    end = torch.where(finite, end, 0.0)
    volume[~finite], turn[~finite] = 1.0, eye
    lost |= ~finite
    found = Rays(
        A, volume.reshape(K, count, marks), turn.reshape(K, count, marks, d, d), end.reshape(K, count),
        end.reshape(K, count).clone(), lost.reshape(K, count),
    )  # fmt: skip
    if not paper:
        usable = (end > 0).nonzero()[:, 0]
        mask = torch.isin(alive, usable)
        cut = _first_zero(found.volume.reshape(-1, marks)[usable], end[usable])
        cut = _segments(metric, start[usable], curve.select(mask), cut, end[usable], size[usable], graph, solver, tol)
        # the graph has found a shorter way to where these were left
        found.cut.view(-1)[usable] = torch.where(stopped[usable], cut.clamp_max((1 - 1e-9) * end[usable]), cut)
    return found


def _followed(
    metric: Metric,
    start: Tensor,
    unit: Tensor,
    size: Tensor,
    reach: float,
    shooter: Any,
    graph: LatentGraph | None,
    tol: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nodes (B, n, d) of rays from `start` along `unit` (B, d), of lengths `size` per standard deviation; their ends.

    With a graph they are followed in stages, and left where it knows a way that is shorter by 2 `tol`: most rays leave
    the segment domain early. Also returns which could not be followed, and which were left.
    """
    B, device = len(start), start.device
    stages = 1 if graph is None else _STAGES
    end = torch.full((B,), reach, dtype=torch.float64, device=device)
    lost, stopped = (torch.zeros(B, dtype=torch.bool, device=device) for _ in range(2))
    parts: list[Geodesic] = []
    rows_of: list[Tensor] = []
    rows, at, velocity = torch.arange(B, device=device), start, (reach / stages) * unit
    for stage in range(stages):
        path = shoot(metric, at, velocity.to(start.dtype), solver=shooter, throw=False)
        parts.append(path)
        rows_of.append(rows)
        bad = ~path.z.isfinite().flatten(1).all(-1)
        lost[rows[bad]] = True
        reached = path.stats["reached"].to(end).nan_to_num(0.0)
        end[rows[bad]] = (_SHORTENED * (stage + reached[bad]) / stages) * reach
        on = (~bad).nonzero()[:, 0]
        if graph is not None and len(on):
            share = torch.arange(1, _LOOKS + 1, dtype=torch.float64, device=device) / _LOOKS
            radius = (stage + share) / stages * reach
            long = radius * size[rows[on], None]
            far = _graph_lengths(graph, start[rows[on]], path(share)[on]) < (1 - 2 * tol) * long
            left = far.any(-1)
            end[rows[on[left]]] = radius[far.double().argmax(-1)[left]]
            stopped[rows[on[left]]] = True
            on = on[~left]
        if stage + 1 == stages or len(on) == 0:
            break
        rows, at = rows[on], path.z[on, -1]
        velocity = path.velocity(1.0)[on, 0].double()
        speed = metric.norm(at, velocity.to(at)).double()  # what rounding took from it is given back
        velocity *= (size[rows] * reach / stages / speed)[:, None]
    n = max(path.z.shape[1] for path in parts)
    count = stages * (n - 1) + 1 if len(parts) > 1 else n
    nodes = torch.full((B, count, start.shape[-1]), torch.nan, dtype=torch.float64, device=device)
    fine, whole = (torch.linspace(0.0, 1.0, k, dtype=torch.float64, device=device) for k in (n, count))
    chain = start[:, None].double()
    for stage, (path, rows) in enumerate(zip(parts, rows_of, strict=True)):
        longer = torch.full((B, chain.shape[1] + n - 1, start.shape[-1]), torch.nan, dtype=torch.float64, device=device)
        longer[rows] = torch.cat([chain[rows], (path.z if path.z.shape[1] == n else path(fine))[:, 1:].double()], 1)
        chain = longer
        here = (stage + 1) / stages * reach
        done = rows[~lost[rows] & (end[rows] <= here * (1 + 1e-12))]
        if len(done):
            same = bool((end[done] == here).all()) and chain.shape[1] == count
            nodes[done] = chain[done] if same else Curve(chain[done])(end[done, None] / here * whole)
    if len(some := (lost & (end > 0)).nonzero()[:, 0]):
        again = shoot(metric, start[some], (end[some, None] * unit[some]).to(start.dtype), solver=shooter, throw=False)
        nodes[some] = again(whole).double()
    end[~nodes.isfinite().flatten(1).all(-1)] = 0.0
    return nodes, end, lost, stopped


def fields(metric: Metric, curve: Curve, segments: int, *, rtol: float) -> tuple[Tensor, Tensor]:
    """Covariant fundamental solutions of Jacobi's equation at ends of segments: Φ_a, Φ_b (B, segments + 1, d, d)."""
    B, d = curve.nodes.shape[0], curve.nodes.shape[-1]
    eye = torch.eye(2 * d, dtype=torch.float64, device=curve.nodes.device)
    out, _ = propagate(metric, curve, eye.expand(B, -1, -1), rtol=rtol, segments=segments, strict=False)
    return out[..., :d, :d], out[..., :d, d:]


def _spread(metric: Metric, curve: Curve, grown: Tensor, frame: Tensor, paper: bool) -> tuple[Tensor, Tensor]:
    """J and J times the turn at equal times along rays, from the growth of the measure element's logarithm."""
    marks, d = grown.shape[1], frame.shape[-1]
    eye = torch.eye(d, dtype=torch.float64, device=grown.device)
    if paper:
        volume = grown.exp()
        return volume, volume[..., None, None] * eye
    a, b = fields(metric, curve, marks - 1, rtol=1e-4 if curve.nodes.dtype == torch.float64 else 1e-2)
    t = torch.linspace(0.0, 1.0, marks, dtype=torch.float64, device=grown.device)[:, None, None]
    b = torch.where(t > 0, b / torch.where(t > 0, t, 1.0), eye)
    det = torch.linalg.det(b)
    inverse, info = torch.linalg.inv_ex(b)
    turn = torch.where((info == 0)[..., None, None], inverse, 0.0) @ a
    inside = torch.linalg.inv(frame)[:, None] @ turn @ frame[:, None]
    volume = grown.exp() * det
    return volume, volume[..., None, None] * inside


def _first_zero(volume: Tensor, end: Tensor) -> Tensor:
    """The radius of the first conjugate point, (B,); that of the end where there is none."""
    fine = refined(volume)
    bad = fine <= 0
    first = torch.where(bad.any(-1), bad.double().argmax(-1), fine.shape[-1] - 1)
    before = (first - 1).clamp_min(0)
    high, low = fine.gather(1, before[:, None])[:, 0], fine.gather(1, first[:, None])[:, 0]
    share = torch.where(low <= 0, high / (high - low).clamp_min(1e-300), 1.0)
    return end * (before + share) / (fine.shape[-1] - 1)


def _segments(
    metric: Metric,
    start: Tensor,
    curve: Curve,
    cut: Tensor,
    end: Tensor,
    size: Tensor,
    graph: LatentGraph | None,
    solver: Any,
    tol: float,
) -> Tensor:
    """Radii up to which rays are shortest geodesics: of length at most 1/(1 − tol) times the distance.

    The distance is a lattice's, where there is one; elsewhere what a graph and geodesics that start from it tell.
    """

    def points(radius: Tensor, rows: Tensor) -> Tensor:
        """Where rays are at radii (rows, m)."""
        t, index = (radius / end[rows, None]).clamp(0.0, 1.0).reshape(-1), torch.arange(len(rows)).to(rows)
        n = curve.n - 1
        i = (t * n).floor().long().clamp(0, n - 1).reshape(radius.shape)
        s = (t * n).reshape(radius.shape) - i
        z, v = curve.nodes[rows].double(), curve.velocity(torch.linspace(0.0, 1.0, n + 1).double().to(t))[rows] / n
        a, b = z[index[:, None], i], z[index[:, None], i + 1]
        p, q = v[index[:, None], i].double(), v[index[:, None], i + 1].double()
        s = s[..., None]
        h = (1 + 2 * s) * (1 - s) ** 2 * a + s * (1 - s) ** 2 * p + s**2 * (3 - 2 * s) * b + s**2 * (s - 1) * q
        return h.to(start.dtype)

    # the followed curve's own length, by its nodes' speeds: a solver's drift must not pass for a short cut
    times = torch.linspace(0.0, 1.0, curve.n, dtype=torch.float64, device=start.device)
    speed = metric.norm(curve(times).to(start.dtype), curve.velocity(times).to(start.dtype)).double()
    arc = torch.cat([torch.zeros_like(speed[:, :1]), (0.5 * (speed[:, 1:] + speed[:, :-1])).cumsum(-1)], -1)
    arc = arc / (curve.n - 1)

    def lengths(radius: Tensor, rows: Tensor) -> Tensor:
        """Lengths of rays up to radii (rows, m); the nominal ones where the curve is longer than it should be."""
        at = ((radius / end[rows, None]).clamp(0.0, 1.0) * (curve.n - 1)).clamp_max(curve.n - 1 - 1e-9)
        i = at.floor().long()
        measured = arc[rows].gather(1, i) + (at - i) * (arc[rows].gather(1, i + 1) - arc[rows].gather(1, i))
        return torch.minimum(measured, radius * size[rows, None])

    everyone = torch.arange(len(start), device=start.device)
    far = sharp = cut
    step = cut / 2**_BISECTIONS
    beyond = sure = torch.zeros_like(cut, dtype=torch.bool)  # has left; needs no geodesic to know
    if graph is not None:  # its distances are bounds from above, and cheap
        m = 2**_BISECTIONS
        radius = cut[:, None] * torch.arange(1, m + 1, device=cut.device) / m
        ratio = _graph_lengths(graph, start, points(radius, everyone)) / lengths(radius, everyone)
        out = ratio < 1 - tol
        beyond = out.any(-1)
        first = torch.where(beyond, out.double().argmax(-1), m - 1)
        after, before = ratio.gather(1, first[:, None])[:, 0], torch.ones_like(cut)
        before = torch.where(first > 0, ratio.gather(1, (first - 1).clamp_min(0)[:, None])[:, 0], before)
        share = torch.where(beyond, ((before - 1 + tol) / (before - after).clamp_min(1e-12)).clamp(0.0, 1.0), 1.0)
        if _fine(graph):
            sure = beyond | ratio.isfinite().all(-1)
            sharp = step * (first + share)
        far = step * (first + 1)
    if solver is None and isinstance(default_solver(start.shape[-1]), Newton):  # any curve that is shorter is proof
        solver = Newton(rtol=0.25 * tol, max_points=129)

    def inside(radius: Tensor, rows: Tensor) -> Tensor:
        goal = points(radius[:, None], rows)[:, 0]
        init = graph if metric.period is None else None
        found = connect(metric, start[rows], goal, solver=solver, init=init, throw=False).length.double()
        return ~(found < (1 - tol) * lengths(radius[:, None], rows)[:, 0])

    good = ~beyond
    if len(rows := (good & ~sure).nonzero()[:, 0]):
        good[rows] = inside(far[rows], rows)
    low, high = torch.where(good | sure, far, 0.0), far.clone()
    for _ in range(_BISECTIONS):
        rows = (high > low).nonzero()[:, 0]
        if len(rows) == 0:
            break
        middle = 0.5 * (low[rows] + high[rows])
        good = inside(middle, rows)
        low[rows], high[rows] = torch.where(good, middle, low[rows]), torch.where(good, high[rows], middle)
    return torch.where(sure, sharp, torch.where(high > low, 0.5 * (low + high), far))


def _fine(graph: LatentGraph) -> bool:
    """Whether a graph's distances are known to be accurate: those of a lattice in the plane."""
    return graph.lattice_ is not None and graph.lattice_.dim == 2


def _graph_lengths(graph: LatentGraph, start: Tensor, goals: Tensor) -> Tensor:
    """Graph distances (B, m) from starts (B, d) to goals (B, m, d); infinite where a goal cannot be attached."""
    out = torch.full(goals.shape[:2], torch.inf, dtype=torch.float64, device=goals.device)
    codes, owner = torch.unique(start, dim=0, return_inverse=True)
    for k, code in enumerate(codes):
        mine = (owner == k).nonzero()[:, 0]
        out[mine] = graph.distances(code[None], goals[mine].flatten(0, 1)).double().reshape(len(mine), -1)
    return out
