"""Is a critical curve a minimum? The least eigenvalue of the preconditioned Hessian P⁻¹H, by Lanczos' method.

Kuczyński & Woźniakowski, "Estimating the Largest Eigenvalue by the Power and Lanczos Algorithms with a Random Start",
SIAM J. Matrix Anal. Appl. 1992, theorem 4.2: after k steps on a matrix of order N the least Ritz value exceeds the
least eigenvalue by more than ε of the spectrum's width with a probability of at most 1.648 √N exp(−(2k − 1)√ε).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .laplacian import dot
from .lbfgs import Descent

__all__ = ["certify", "escape"]

_FEW = 8  # steps that look for saddles
_MOST = 160  # steps for a certificate
_STRIDE = 10
_RISK = 1e-3  # probability that a certificate is wrong
_CONCAVE = -1e-3  # Ritz values below it are negative curvature, in units of the preconditioner


class _Lanczos:
    """Lanczos processes for curves at `index`, with full orthogonalisation, from one random start."""

    def __init__(self, descent: Descent, index: Tensor) -> None:
        self.pre, self.index = descent.pre, index
        self.product = descent.products.hessian(descent.z[index])
        self.r = self.pre.random(index)
        self.order = self.r[0].numel()
        self.primal: list[Tensor] = []
        self.dual: list[Tensor] = []
        self.diagonal: list[Tensor] = []
        self.beside: list[Tensor] = []

    def extend(self, steps: int) -> None:
        for _ in range(min(steps, self.order - len(self.diagonal))):
            w = self.pre.solve(self.index, self.r)
            length = dot(self.r, w).clamp_min(1e-300).sqrt()
            self.beside.append(length)
            self.primal.append(w / length[:, None, None])
            self.dual.append(self.r / length[:, None, None])
            r = self.product(self.primal[-1])
            self.diagonal.append(dot(self.primal[-1], r))
            for v, w in zip(self.dual, self.primal, strict=True):
                r = r - dot(w, r)[:, None, None] * v
            self.r = r

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values (b, k), ascending, and the coefficients of their vectors (b, k, k)."""
        T = torch.stack(self.diagonal, -1).diag_embed()
        if len(self.diagonal) > 1:
            off = torch.stack(self.beside[1:], -1)
            T = T + off.diag_embed(1) + off.diag_embed(-1)
        values, vectors = torch.linalg.eigh(T.nan_to_num(0.0, 0.0, 0.0))
        return values, vectors


def escape(descent: Descent, which: Tensor, *, move: bool) -> tuple[Tensor, Tensor]:
    """Look for negative curvature by a few steps and, if told to, step off saddles along it.

    Returns which of the curves have a direction of negative curvature, and which of these moved to lower energy.
    """
    found, moved = (torch.zeros_like(which) for _ in range(2))
    for group in descent.products.groups(descent.z[which]):
        index = which.nonzero()[:, 0][group]
        process = _Lanczos(descent, index)
        process.extend(_FEW)
        values, vectors = process.ritz()
        concave = values[:, 0] < _CONCAVE
        found[index] = concave
        if not move or not bool(concave.any()):
            continue
        x = torch.einsum("kBmd,Bk->Bmd", torch.stack(process.primal), vectors[:, :, 0])[concave]
        index = index[concave]
        # x has unit length in P: this moves the curve's image by as much as its own length
        size = (2 * descent.value[index]).sqrt()[:, None, None]
        best, at = descent.value[index].clone(), descent.z[index].clone()
        for part in (0.1, -0.1, 0.01, -0.01):
            trial = descent.z[index].clone()
            trial[:, 1:-1] += (part * size * x).to(trial.dtype)
            value, noise, _ = descent.products.evaluate(trial)
            better = value < best - 4 * noise
            best, at[better] = torch.where(better, value, best), trial[better]
        lower = best < descent.value[index]
        moved[index[lower]] = True
        descent.move(index[lower], at[lower])
    return found, moved


def certify(descent: Descent, which: Tensor) -> Tensor:
    """Which curves have a positive definite Hessian, with a probability of error of at most 1e-3 each."""
    certain = torch.zeros_like(which)
    if not descent.products.smooth:
        return certain
    for group in descent.products.groups(descent.z[which]):
        index = which.nonzero()[:, 0][group]
        process = _Lanczos(descent, index)
        for k in range(_STRIDE, _MOST + 1, _STRIDE):
            process.extend(_STRIDE)
            values = process.ritz()[0]
            low, width = values[:, 0], values[:, -1] - values[:, 0]
            if k >= process.order:
                slack = torch.zeros_like(low)
            else:
                epsilon = (math.log(2 * 1.648 * process.order**0.5 / _RISK) / (2 * k - 1)) ** 2
                # both ends of the spectrum may be underestimated
                slack = width * (epsilon / (1 - 2 * epsilon) if epsilon < 0.5 else torch.inf)
            certain[index] = low > slack
            if bool((certain[index] | (low < _CONCAVE)).all()) or k >= process.order:
                break
    return certain
