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
            pivot, bad = _inverse_factor(diagonal[:, 0::2])
            good &= ~bad.any(1)
            pivot = torch.where(bad[..., None, None], eye, pivot)
            right = pivot[:, :-1] @ upper[:, 0::2]
            left = pivot[:, 1:] @ upper[:, 1::2].mT
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
            y = pivot @ r[:, 0::2]
            forward.append(y)
            r = r[:, 1::2] - right.mT @ y[:, :-1] - left.mT @ y[:, 1:]
        x = r  # empty: the last level has one block and no odd ones
        for (n, pivot, right, left), y in zip(reversed(self._levels), reversed(forward), strict=True):
            y = y.clone()
            y[:, :-1] -= right @ x
            y[:, 1:] -= left @ x
            even = pivot.mT @ y
            full = even.new_empty(even.shape[0], even.shape[1] + x.shape[1], *even.shape[2:])
            full[:, 0::2], full[:, 1::2] = even, x
            x = full[:, :n]
        return x[..., 0]


def _inverse_factor(A: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses of the Cholesky factors of blocks (..., d, d), and which blocks are not positive definite."""
    d = A.shape[-1]
    if d > 2:
        factor, info = torch.linalg.cholesky_ex(A)
        bad = info != 0
        factor = torch.where(bad[..., None, None], torch.eye(d, dtype=A.dtype, device=A.device), factor)
        return torch.linalg.solve_triangular(factor, torch.eye(d, dtype=A.dtype, device=A.device), upper=False), bad
    # in closed form: one call for many blocks this small is several times faster than LAPACK's call for each
    first = A[..., 0, 0].rsqrt()
    bad = ~(A[..., 0, 0] > 0)
    out = torch.zeros_like(A)
    out[..., 0, 0] = first
    if d == 2:
        below = A[..., 1, 0] * first
        rest = A[..., 1, 1] - below * below
        bad = bad | ~(rest > 0)
        out[..., 1, 1] = rest.rsqrt()
        out[..., 1, 0] = -below * first * out[..., 1, 1]
    return out, bad
