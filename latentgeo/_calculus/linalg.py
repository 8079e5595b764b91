"""Small dense linear algebra on metric tensors: always in float64, always through Cholesky, never regularised."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .errors import RankError, RankWarning

__all__ = ["cholesky", "concave_part", "factored", "half_log_det", "root", "solve"]

_MATRICES = 2**12  # in one call of eigh on an accelerator, which takes about 170 kB of workspace for each


def cholesky(G: Tensor, what: str) -> Tensor:
    """Cholesky factor in float64 of metric tensors (*batch, d, d).

    Raises
    ------
    RankError
        If any is rank-deficient to working precision; the message gives rank and condition number of the worst.
    """
    factor, deficient = factored(G)
    if bool(deficient.any()):
        raise RankError(f"{what} needs an invertible metric tensor: {_describe(G, deficient)}")
    return factor


def factored(G: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Cholesky factors of G in float64, and which of them are singular to the precision G was computed in.

    That is the precision of G itself, or of `dtype`.
    """
    eps = torch.finfo(dtype or G.dtype).eps
    G64 = G.double()
    scale = G64.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    unit = torch.where(scale > 0, scale, 1.0)
    factor, info = torch.linalg.cholesky_ex(G64 / unit[..., :, None] / unit[..., None, :])
    pivot = factor.diagonal(dim1=-2, dim2=-1).square().amin(-1)
    deficient = (info != 0) | ~(pivot > 4 * G.shape[-1] * eps) | ~(scale > 0).all(-1)
    return factor * unit[..., :, None], deficient


def root(G: Tensor) -> Tensor:
    """Cholesky factors of G in float64, NaN where there is none: whoever asks goes on without those."""
    factor, info = torch.linalg.cholesky_ex(G.double().nan_to_num(0.0, 0.0, 0.0))
    return torch.where((info == 0)[..., None, None], factor, torch.nan)


def solve(factor: Tensor, rhs: Tensor) -> Tensor:
    """Solve G x = rhs for vectors rhs (*batch, d), returning rhs's dtype."""
    return torch.cholesky_solve(rhs.double()[..., None], factor)[..., 0].to(rhs.dtype)


def half_log_det(G: Tensor) -> Tensor:
    """½ log det G (*batch,), minus infinity (with a `RankWarning`) where G is rank-deficient."""
    G64 = G.double()
    with torch.no_grad():
        _, deficient = factored(G)
    eye = torch.eye(G.shape[-1], dtype=G64.dtype, device=G.device)
    safe = torch.where(deficient[..., None, None], eye, G64)
    value = torch.linalg.cholesky_ex(safe)[0].diagonal(dim1=-2, dim2=-1).log().sum(-1)
    if bool(deficient.any()):
        finite = G64.isfinite().all(-1).all(-1)
        value = torch.where(deficient, torch.where(finite, -torch.inf, torch.nan), value)
        if bool((deficient & finite).any()):
            text = _describe(G, deficient & finite)
            warnings.warn(f"the measure element is zero: {text}", RankWarning, stacklevel=3)
    return value.to(G.dtype)


def concave_part(A: Tensor) -> Tensor:
    """Negative part of symmetric matrices (*batch, d, d), turned round: eigenvalues λ become max(-λ, 0).

    Only the lower triangles are read, and entries must be finite. In closed form up to d = 2, which is many times
    faster than a call of LAPACK for each matrix.
    """
    d = A.shape[-1]
    if d == 1:
        return A.neg().clamp_min(0.0)
    if d == 2:
        mean, half = 0.5 * A[..., 0, 0] + 0.5 * A[..., 1, 1], 0.5 * A[..., 0, 0] - 0.5 * A[..., 1, 1]
        beside = A[..., 1, 0]
        radius = torch.hypot(half, beside)
        first, last = (mean + radius).neg().clamp_min(0.0), (mean - radius).neg().clamp_min(0.0)
        # f(A) = (f₁ + f₂)/2 I + (f₁ - f₂)/2r (A - mI); where r = 0, A - mI is zero too
        level, slope = 0.5 * first + 0.5 * last, torch.where(radius > 0, (0.5 * first - 0.5 * last) / radius, 0.0)
        out = torch.empty_like(A)
        out[..., 0, 0], out[..., 1, 1] = level + slope * half, level - slope * half
        out[..., 0, 1] = out[..., 1, 0] = slope * beside
        return out
    flat = A.reshape(-1, d, d)
    parts = [_concave_part(part) for part in (flat.split(_MATRICES) if A.device.type != "cpu" else (flat,))]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(A.shape)


def _concave_part(A: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(A)
    return (vectors * values.neg().clamp_min(0.0)[..., None, :]) @ vectors.mT


def _describe(G: Tensor, deficient: Tensor) -> str:
    bad = G.detach()[deficient].double()
    finite = bad.isfinite().all(-1).all(-1)
    if not bool(finite.all()):
        return f"it is not finite at {int((~finite).sum())} of {deficient.numel()} codes"
    spectrum = torch.linalg.eigvalsh(bad)
    top = spectrum[:, -1]
    rank = (spectrum > 4 * G.shape[-1] * torch.finfo(G.dtype).eps * top[:, None].clamp_min(0.0)).sum(-1)
    worst = int(rank.argmin())
    low = float(spectrum[worst, 0].clamp_min(0.0))
    condition = float(top[worst]) / low if low > 0 else float("inf")
    return (
        f"it is rank-deficient at {bad.shape[0]} of {deficient.numel()} codes "
        f"(rank {int(rank[worst])} of {G.shape[-1]}, condition number {condition:.1e})"
    )
