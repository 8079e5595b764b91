"""`TensorMetric`: a metric given by a function that returns its tensor, without an embedding.

Gradients of the function give Christoffel symbols and accelerations; everything else is derived as in `Metric`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .._calculus import check_integer
from .arguments import check_period
from .base import Metric

__all__ = ["TensorMetric"]


class TensorMetric(Metric):
    """A metric given by its tensor alone.

    Parameters
    ----------
    function : callable
        Maps codes (*batch, d) to symmetric positive definite tensors (*batch, d, d). Built from differentiable torch
        operations; a Jacobian in it must come from `Embedding.jacobian` (differentiable once) or reverse mode.
    dim : int, optional
        Latent dimension; None accepts any.
    period : sequence of (float or None), optional
        Period of each latent coordinate, None where it has none.

    Raises
    ------
    TypeError, ValueError
        If `function` is not callable, or `dim` or `period` is out of range; from `tensor`, if the function returns
        another shape.

    Examples
    --------
    >>> import torch
    >>> half_plane = TensorMetric(lambda z: torch.eye(2) / z[..., 1, None, None] ** 2, dim=2)
    >>> half_plane.norm(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    tensor(0.5000)
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        dim: int | None = None,
        *,
        period: Sequence[float | None] | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"`function` must be callable, got {type(function).__name__}")
        check_integer(dim, "dim", optional=True)
        self.function = function
        self.dim = dim
        self.period = check_period(period, dim)
        self._frozen = True

    def tensor(self, z: Tensor) -> Tensor:
        """Metric tensor at codes (*batch, d), shape (*batch, d, d)."""
        self.check(z)
        G = self.function(z)
        want = (*z.shape, z.shape[-1])
        if not isinstance(G, Tensor) or G.shape != want:
            got = tuple(G.shape) if isinstance(G, Tensor) else type(G).__name__
            raise ValueError(f"`function` must return metric tensors of shape {want}, got {got}")
        return G
