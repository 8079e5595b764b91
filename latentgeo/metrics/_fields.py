"""Fields of metric tensors with derivatives: that of a metric over its codes, and an ambient one over images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._calculus import Embedding

if TYPE_CHECKING:
    from .base import Metric

__all__ = ["Ambient", "tensor_derivative", "tensor_field"]


def tensor_field(metric: Metric) -> Embedding:
    """The map z ↦ vec G(z), probed once."""
    name = f"tensor of {type(metric).__name__}"
    return metric.cached("field", lambda: Embedding(lambda z: metric.tensor(z).flatten(-2), dim=metric.dim, name=name))


def tensor_derivative(metric: Metric, z: Tensor) -> Tensor:
    """∂ₖGᵢⱼ as (*batch, i, j, k)."""
    d = z.shape[-1]
    return tensor_field(metric).jacobian(z).unflatten(-2, (d, d))


class Ambient:
    """Metric tensor A(x) of the space that an embedding maps into: a callable, diagonal (B, D) or full (B, D, D)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.field = Embedding(lambda x: self.function(x).flatten(1), name="ambient metric")

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor]) -> Ambient:
        """The function with its derivatives; itself if it has them already."""
        return function if isinstance(function, cls) else cls(function)

    def __call__(self, x: Tensor) -> Tensor:
        """A(x) at images x (B, D)."""
        return self.function(x)

    def apply(self, x: Tensor, X: Tensor) -> Tensor:
        """A(x)X for x (B, D) and stacked vectors X (m, B, D)."""
        A = self.function(x)
        if A.shape == x.shape:
            return A * X
        if A.shape == (*x.shape, x.shape[-1]):
            return torch.einsum("Bij,mBj->mBi", A, X)
        raise ValueError(
            f"`ambient` must map (B, D) to a diagonal (B, D) or to (B, D, D), got {tuple(A.shape)} for {tuple(x.shape)}"
        )

    def geodesic_term(self, x: Tensor, w: Tensor) -> Tensor:
        """(∂_w A)w − ½∇(wᵀAw), the lowered Christoffel term of the ambient space along w."""
        D = x.shape[-1]
        change = self.field.jvp(x, w)
        if change.shape[-1] == D:
            return change * w - 0.5 * self.field.vjp(x, w * w)
        outer = (w[:, :, None] * w[:, None, :]).flatten(1)
        return torch.einsum("Bij,Bj->Bi", change.unflatten(-1, (D, D)), w) - 0.5 * self.field.vjp(x, outer)
