"""Whether second derivatives explain how first derivatives change, or the changes sit in kinks (ReLU).

A piecewise linear map has second derivative zero wherever one looks, yet its slopes change: its energy's Hessian is
blind to that curvature, and no certificate of minimality may rest on it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["is_smooth"]

Along = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_EXPLAINED = 0.03  # of a line's total change of slope: every step's curvature is resolved
_BLIND = 0.3  # of the change within a tiny line that second derivatives do not explain: a kink


def is_smooth(along: Along, x: Tensor, V: Tensor, *, levels: int, points: int = 33) -> bool:
    """Look along lines through codes x (B, d) in directions V (B, d), closer and closer at the worst places.

    Parameters
    ----------
    along : callable
        Maps codes and directions (m, d) to φ'v and φ''[v, v], each (m, D).
    x, V : Tensor of shape (B, d)
    levels : int
        How often to look closer, each time 16 times. A kink's share of the change then tends to one; sharp curvature
        and jumps of the second derivative (ELU) become a small share.
    points : int
        Points on a line, odd.
    """
    lines = x.shape[0]
    h = 2 * x.abs().amax().clamp_min(1.0) / (points - 1)
    offsets = torch.arange(points, device=x.device) - points // 2
    scale: Tensor | None = None
    noise = x.new_zeros(())
    for level in range(levels + 1):
        line = x[:, None] + h * offsets.to(x)[:, None] * V[:, None]  # (lines, points, d)
        slope, bend = along(line.flatten(0, 1), V[:, None].expand_as(line).flatten(0, 1))
        slope, bend = (t.unflatten(0, line.shape[:2]) for t in (slope, bend))
        change = slope[:, 2::2] - slope[:, :-2:2]
        gap = change - h / 3 * (bend[:, :-2:2] + 4 * bend[:, 1::2] + bend[:, 2::2])
        if scale is None:  # every coordinate that changes at all has the same say, however small it is
            total = change.abs().nan_to_num(0.0, 0.0, 0.0).sum((0, 1))
            eps = torch.finfo(x.dtype).eps
            scale = torch.where(total > max(1e-6, 1e3 * eps) * total.amax(), 1 / total, 0.0)
            height = slope.abs().nan_to_num(0.0, 0.0, 0.0).amax((0, 1))
            noise = 1e3 * eps * ((height + 1e-2 * height.amax()) * scale).norm()
        gaps, changes = ((t * scale).norm(dim=-1).nan_to_num(0.0, 0.0, 0.0) for t in (gap, change))
        gaps = torch.where(gaps > noise, gaps, 0.0)
        share = gaps.sum(-1) / changes.sum(-1).clamp_min(torch.finfo(x.dtype).tiny)
        if level == levels:
            return not bool((share > _BLIND).any())
        if not bool((share > _EXPLAINED).any()):
            return True
        best = gaps.flatten().topk(min(lines, gaps.numel())).indices
        best = best[gaps.flatten()[best] > 0]
        row, step = best // gaps.shape[1], best % gaps.shape[1]
        x = x[row] + (2 * step + 1 - points // 2).to(x)[:, None] * h * V[row]
        V, h = V[row], 2 * h / (points - 1)
    return True
