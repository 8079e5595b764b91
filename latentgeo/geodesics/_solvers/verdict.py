"""Is a curve a minimum of the discrete energy? What the energy's undamped Hessian says of it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..._calculus import BlockTridiagonal
from ...metrics import Metric
from .energy import Energy, Model, energy_of

__all__ = ["Verdict", "concave_step", "judge"]

_CRITICAL = 1e-2  # √(predicted decrease / energy) below which an indefinite Hessian is taken for a saddle
_MOST_SHIFTS = 16  # each four times the last
_TURNS = 3  # of inverse iteration


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
    value = energy.value(nodes)[0]
    step = concave_step(model, value)
    best = value
    for part in (0.3, -0.3, 0.1, -0.1, 0.03, -0.03):
        trial = nodes.clone()
        trial[:, 1:-1] += (part * step).to(nodes.dtype)
        best = torch.fmin(best, energy.value(trial)[0])
    return best < (1 - least) * value


def concave_step(model: Model, value: Tensor) -> Tensor:
    """The direction of most negative curvature (B, n - 2, d), as long as would make up the energy `value` (B,).

    By inverse iteration from a fixed direction, which is the same for both orientations of a curve.
    """
    diagonal, upper = model.exact()
    n, d = diagonal.shape[1:3]
    eye = torch.eye(d, dtype=diagonal.dtype, device=diagonal.device)
    w = torch.sin(torch.pi * torch.linspace(0, 1, n + 2, dtype=diagonal.dtype, device=diagonal.device)[1:-1])
    w = w[None, :, None] * torch.linspace(1.0, 1.5, d).to(w)
    w = w.expand(len(diagonal), -1, -1)
    shift = 1e-4 * model.base.diagonal(dim1=-2, dim2=-1).mean((-2, -1))[:, None, None, None]
    for _ in range(_MOST_SHIFTS):  # the least shift that makes it definite brings the most negative direction out
        factor = BlockTridiagonal(diagonal + shift * eye, upper)
        if bool(factor.positive_definite.all()):
            break
        shift = torch.where(factor.positive_definite[:, None, None, None], shift, 4 * shift)
    for _ in range(_TURNS):
        w = factor.solve(w).nan_to_num(0.0)
        w = w / w.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-300)
    stretch = torch.einsum("Bni,Bnij,Bnj->B", w, model.base, w).clamp_min(1e-300)
    return (2 * value / stretch).sqrt()[:, None, None] * w
