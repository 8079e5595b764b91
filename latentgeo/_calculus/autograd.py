"""What autograd is told of derivatives: the exact backward of a Jacobian, and which results have none.

Differentiating a forward-mode tangent can be silently wrong in PyTorch, and a missing gradient goes unnoticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .embedding import Embedding

__all__ = ["Pushforward", "mark_constant"]


class Pushforward(torch.autograd.Function):
    """J along stacked tangents V (m, B, d) at codes z (B, d), with an exact backward.

    The gradient of ⟨w, Jv⟩ is taken as the Hessian of ⟨w, φ⟩ times v, w held fixed.
    """

    @staticmethod
    def forward(ctx: Any, embedding: Embedding, z: Tensor, V: Tensor, *weights: Tensor) -> Tensor:
        ctx.embedding = embedding
        ctx.save_for_backward(z, V, *weights)
        return embedding.jvp_stack(z.detach(), V.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor | None, ...]:
        embedding: Embedding = ctx.embedding
        z, V, *weights = ctx.saved_tensors
        need = ctx.needs_input_grad
        gz = embedding.hvp_stack(z, W, V).sum(0) if need[1] else None
        gV = embedding.vjp_stack(z, W) if need[2] else None
        gw = embedding.weight_gradients(z, W, V, tuple(weights)) if any(need[3:]) else [None] * len(weights)
        return (None, gz, gV, *gw)


class _Leaf(torch.autograd.Function):
    """Identity whose backward refuses: a clear error instead of a silently missing gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, name: str, *inputs: Tensor) -> Tensor:
        ctx.name = name
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *_grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            f"`{ctx.name}` is not differentiable; `tensor`, `inner`, `norm`, `log_volume` and `distance` are"
        )


def mark_constant(value: Tensor, name: str, *inputs: Tensor) -> Tensor:
    """Mark a result computed from `inputs` as not differentiable, if a gradient could be asked of it."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
        return _Leaf.apply(value.detach(), name, *inputs)
    return value.detach()
