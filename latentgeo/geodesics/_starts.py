"""Starting curves for the boundary-value problem: straight lines, shortest paths, given curves, detours, windings."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ..metrics import Metric
from .graph import LatentGraph

__all__ = ["nearest_lift", "other_starts", "starting_curves"]

_GRAPH_POINTS = 65
_DETOUR_POINTS = 33


def nearest_lift(metric: Metric, a: Tensor, b: Tensor) -> Tensor:
    """The copy of b nearest to a in latent coordinates, for metrics with periodic ones."""
    if metric.period is None:
        return b
    size = torch.tensor([p or torch.inf for p in metric.period], dtype=b.dtype, device=b.device)
    turns = torch.round((b - a) / size)
    return torch.where(turns == 0, b, b - turns * size)


def starting_curves(
    metric: Metric, a: Tensor, b: Tensor, batch: tuple[int, ...], init: Tensor | LatentGraph | None
) -> Tensor | None:
    """Curves (B, n, d) from a to b to start from; None means straight lines."""
    if init is None:
        return None
    d = a.shape[-1]
    if isinstance(init, LatentGraph):
        return _from_graph(metric, init, a, b)
    if not isinstance(init, Tensor):
        raise TypeError(
            f"`init` must be None, a LatentGraph or a tensor of curves (*batch, n, d), got {type(init).__name__}"
        )
    if init.ndim < 2 or init.shape[-1] != d or init.shape[-2] < 2:
        raise ValueError(f"`init` must have shape (*batch, n, {d}) with n >= 2, got {tuple(init.shape)}")
    if init.dtype != a.dtype or init.device != a.device:
        raise TypeError(f"`init` must be {a.dtype} on {a.device} like `a`, got {init.dtype} on {init.device}")
    n = init.shape[-2]
    try:
        curves = init.detach().expand(*batch, n, d).reshape(-1, n, d)
    except RuntimeError:
        raise ValueError(f"`init` must broadcast to {(*batch, n, d)}, got {tuple(init.shape)}") from None
    ends = torch.stack([a, b], 1)
    off = (curves[:, [0, -1]] - ends).abs().amax(-1)
    slack = 64 * torch.finfo(a.dtype).eps * ends.abs().amax(-1)
    if bool((off > slack).any()):
        worst = int((off - slack).amax(-1).argmax())
        raise ValueError(
            f"`init` curves must run from `a` to `b`; curve {worst} starts at {curves[worst, 0].tolist()} and ends at "
            f"{curves[worst, -1].tolist()}"
        )
    curves = curves.clone()
    curves[:, 0], curves[:, -1] = a, b
    return curves


def _from_graph(metric: Metric, graph: LatentGraph, a: Tensor, b: Tensor) -> Tensor:
    """Shortest paths; straight lines where those are shorter, and where an end point is not finite."""
    t = torch.linspace(0.0, 1.0, _GRAPH_POINTS, dtype=a.dtype, device=a.device)[:, None]
    curves = torch.lerp(a[:, None], b[:, None], t)
    finite = (a.isfinite().all(-1) & b.isfinite().all(-1)).nonzero()[:, 0]
    if len(finite):
        curves[finite] = graph.paths(a[finite], b[finite], _GRAPH_POINTS)
    return curves


def other_starts(metric: Metric, a: Tensor, b: Tensor, count: int) -> list[Tensor]:
    """At most `count` further starts (B, n, d): straight lines to other copies of b, then detours to either side."""
    t = torch.linspace(0.0, 1.0, _DETOUR_POINTS, dtype=a.dtype, device=a.device)[:, None]
    straight = torch.lerp(a[:, None], b[:, None], t)
    found: list[Tensor] = []
    if metric.period is not None:
        turns = [(0,) if p is None else (-1, 0, 1) for p in metric.period]
        size = torch.tensor([p or 0.0 for p in metric.period], dtype=a.dtype, device=a.device)
        ways = sorted((w for w in itertools.product(*turns) if any(w)), key=lambda w: sum(map(abs, w)))
        found += [straight + t * torch.tensor(w, dtype=a.dtype, device=a.device) * size for w in ways]
    d = a.shape[-1]
    generator = torch.Generator().manual_seed(0)
    while len(found) < count and d > 1:
        side = _perpendicular(b - a, generator)
        bump = torch.sin(torch.pi * t) * side[:, None]
        reach = 0.5 * (1 + (len(found) // 2) % 3)
        found += [straight + reach * bump, straight - reach * bump]
    return found[:count]


def _perpendicular(step: Tensor, generator: torch.Generator) -> Tensor:
    """A vector as long as `step` and at right angles to it; random, but the same at each call."""
    if step.shape[-1] == 2:
        return torch.stack([-step[:, 1], step[:, 0]], -1)
    side = torch.randn(step.shape[-1], generator=generator, dtype=torch.float64).to(step).expand_as(step)
    size = step.norm(dim=-1, keepdim=True)
    unit = step / torch.where(size > 0, size, 1.0)
    side = side - (side * unit).sum(-1, keepdim=True) * unit
    return size * side / side.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(step.dtype).tiny)
