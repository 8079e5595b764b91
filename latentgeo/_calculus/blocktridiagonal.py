"""Symmetric block-tridiagonal systems, batched: factorise, tell whether positive definite, solve.

Block cyclic reduction (odd-even elimination): log2(n) batched steps instead of n sequential ones. The elimination is a
block Cholesky factorisation of a symmetric permutation, so the matrix is positive definite iff every pivot block is.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BlockTridiagonal"]


class BlockTridiagonal:
    """Cholesky factor of batched symmetric block-tridiagonal matrices.

    Parameters
    ----------
    diagonal : Tensor of shape (batch, n, d, d)
        Symmetric diagonal blocks; only their symmetric part matters to the caller.
    upper : Tensor of shape (batch, n - 1, d, d)
        Block in row i, column i + 1; the lower blocks are its transposes.

    Attributes
    ----------
    positive_definite : Tensor of shape (batch,), bool
        Whether the factorisation succeeded; `solve` is meaningless where it did not.

    Examples
    --------
    >>> A = torch.tensor([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]], dtype=torch.float64)
    >>> factor = BlockTridiagonal(A.diagonal()[None, :, None, None], A.diagonal(1)[None, :, None, None])
    >>> bool(factor.positive_definite)
    True
    >>> factor.solve(torch.ones(1, 3, 1, dtype=torch.float64)).flatten()
    tensor([1.5000, 2.0000, 1.5000], dtype=torch.float64)
    """

    def __init__(self, diagonal: Tensor, upper: Tensor) -> None:
        n = diagonal.shape[1]
        if upper.shape[1] != n - 1:
            raise ValueError(f"`upper` must hold {n - 1} blocks, got {upper.shape[1]}")
        eye = torch.eye(diagonal.shape[-1], dtype=diagonal.dtype, device=diagonal.device)
        good = torch.ones(diagonal.shape[0], dtype=torch.bool, device=diagonal.device)
        self._levels: list[tuple[int, Tensor, Tensor, Tensor]] = []
        while True:
            n = diagonal.shape[1]
            if n % 2 == 0:  # an identity block without coupling makes every odd block have two neighbours
                pad = eye.expand(diagonal.shape[0], 1, *eye.shape)
                diagonal = torch.cat([diagonal, pad], 1)
                upper = torch.cat([upper, torch.zeros_like(pad)], 1)
            pivot, info = torch.linalg.cholesky_ex(diagonal[:, 0::2])
            bad = info != 0
            good &= ~bad.any(1)
            pivot = torch.where(bad[..., None, None], eye, pivot)
            right = torch.linalg.solve_triangular(pivot[:, :-1], upper[:, 0::2], upper=False)
            left = torch.linalg.solve_triangular(pivot[:, 1:], upper[:, 1::2].mT, upper=False)
            self._levels.append((n, pivot, right, left))
            if diagonal.shape[1] == 1:
                break
            diagonal = diagonal[:, 1::2] - right.mT @ right - left.mT @ left
            upper = -left[:, :-1].mT @ right[:, 1:]
        self.positive_definite = good

    def solve(self, rhs: Tensor) -> Tensor:
        """Solve for ``rhs`` of shape (batch, n, d); returns the same shape."""
        forward: list[Tensor] = []
        r = rhs[..., None]
        for n, pivot, right, left in self._levels:
            if n % 2 == 0:
                r = torch.cat([r, torch.zeros_like(r[:, :1])], 1)
            y = torch.linalg.solve_triangular(pivot, r[:, 0::2], upper=False)
            forward.append(y)
            r = r[:, 1::2] - right.mT @ y[:, :-1] - left.mT @ y[:, 1:]
        x = r  # empty: the last level has one block and no odd ones
        for (n, pivot, right, left), y in zip(reversed(self._levels), reversed(forward), strict=True):
            y = y.clone()
            y[:, :-1] -= right @ x
            y[:, 1:] -= left @ x
            even = torch.linalg.solve_triangular(pivot.mT, y, upper=True)
            full = even.new_empty(even.shape[0], even.shape[1] + x.shape[1], *even.shape[2:])
            full[:, 0::2], full[:, 1::2] = even, x
            x = full[:, :n]
        return x[..., 0]
