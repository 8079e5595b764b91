"""What a gradient of higher order, on twice the nodes, says of a solution of second order: how wrong it is.

After Stetter, "The defect correction principle and discretization methods", Numerische Mathematik 29, 1978.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..._calculus import BlockTridiagonal
from ..curve import Quadrature
from .energy import Energy, Model

__all__ = ["LEAST_NODES", "Defect", "defect"]

LEAST_NODES = 9  # of the coarse solution
_SAFETY = 3.0  # on the estimate of the error: exact to leading order, but h is finite


@dataclasses.dataclass(frozen=True)
class Defect:
    """What the gradient of fourth order says of fine curves, per curve.

    Attributes
    ----------
    excess : Tensor of shape (B,)
        By how much the energy exceeds the geodesic's by being in the wrong place; inf where no minimum is near.
    spans : Quadrature, optional
        Lengths of the curves through every second node, from all nodes' images; None where those are even in number.
    """

    excess: Tensor
    spans: Quadrature | None


def defect(energy: Energy, model: Model, nodes: Tensor) -> Defect:
    """Look at solutions and the middles between their nodes, (B, 2n - 1, d), given their second-order models.

    Newton's solution of second order is off by O(h²), hence too long by O(h⁴); the curve between its nodes by less.
    Both are told by the gradient of fourth order: from what smooth displacements would gain by Newton's model, and what
    each node in the middle would by itself. Displacements along the curve count for nothing: they change its speed, not
    its length.
    """
    fine, spans = energy.survey(nodes)
    middle = fine[:, 0::2]
    gradient = fine[:, 1::2] + 0.5 * (middle[:, :-1] + middle[:, 1:])
    factor = BlockTridiagonal(*model.exact())
    smooth = _across(model.base, (nodes[:, 4::2] - nodes[:, :-4:2]).double(), factor.solve(gradient))
    base = torch.cat([model.base[:, :1], model.base[:, :-1] + model.base[:, 1:], model.base[:, -1:]], 1)
    base[:, 1:-1] *= 0.5
    alone = torch.linalg.solve_ex(2 * base, middle[..., None]).result[..., 0]
    alone = _across(base, (nodes[:, 2::2] - nodes[:, :-2:2]).double(), alone).nan_to_num(torch.inf)
    excess = 0.5 * _SAFETY * (gradient * smooth).sum((-2, -1)).abs() + (middle * alone).sum((-2, -1)).abs()
    return Defect(torch.where(factor.positive_definite & excess.isfinite(), excess, torch.inf), spans)


def _across(metric: Tensor, along: Tensor, step: Tensor) -> Tensor:
    """The part of steps (B, n, d) at right angles to directions, by metric tensors (B, n, d, d)."""
    covector = torch.einsum("Bnij,Bnj->Bni", metric, along)
    speed = (covector * along).sum(-1, keepdim=True).clamp_min(1e-300)
    return step - (covector * step).sum(-1, keepdim=True) / speed * along
