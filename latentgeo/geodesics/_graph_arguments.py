"""What a latent graph may be given: codes to fit, points to search from and to, numbers of fitted codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import Metric

__all__ = ["check_codes", "checked_points", "checked_rows"]


def check_codes(metric: Metric, codes: Tensor) -> None:
    """Raise unless `codes` are at least two finite rows that the metric takes."""
    metric.check(codes, name="codes")
    if codes.ndim != 2 or codes.shape[0] < 2:
        raise ValueError(f"`codes` must have shape (N, d) with N >= 2, got {tuple(codes.shape)}")
    if not bool(codes.isfinite().all()):
        raise ValueError(f"`codes` must be finite, got {int((~codes.isfinite().all(-1)).sum())} rows with NaN or inf")


def checked_points(metric: Metric, X: Tensor, d: int, name: str) -> NDArray[Any]:
    """Finite points (*batch, d) as rows of an array."""
    metric.check(X, name=name)
    if X.shape[-1] != d:
        raise ValueError(f"`{name}` must have {d} latent coordinates, got {X.shape[-1]}")
    if not bool(X.isfinite().all()):
        raise ValueError(f"`{name}` must be finite, got NaN or infinite codes")
    return X.detach().double().cpu().numpy().reshape(-1, d)


def checked_rows(codes: Tensor | NDArray[Any] | Sequence[int], n: int) -> NDArray[np.int64]:
    """Numbers of some of n fitted codes."""
    which = np.asarray(codes.cpu() if isinstance(codes, Tensor) else codes)
    if which.ndim != 1 or (which.dtype.kind not in "iu" and which.size):
        raise TypeError(
            "`codes` must be whole numbers (k,), rows of the codes given to fit, or a floating tensor (k, d); "
            f"got {type(codes).__name__} of shape {which.shape}, {which.dtype}"
        )
    if which.size and not (-n <= which.min() and which.max() < n):
        raise ValueError(f"`codes` must be rows of the {n} codes given to fit, got {which.min()} to {which.max()}")
    return which.astype(np.int64)
