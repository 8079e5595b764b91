"""The random numbers of a walk."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_uniform", "normal"]


def normal(source: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers for every walker at once, float64 whatever the walk's dtype: one law, one stream."""
    draw = torch.randn(like.shape, generator=source, dtype=torch.float64, device=source.device)
    return draw.to(like.device)


def log_uniform(source: torch.Generator, like: Tensor) -> Tensor:
    """Logarithms of uniform numbers, float64."""
    draw = torch.rand(like.shape, generator=source, dtype=torch.float64, device=source.device)
    return draw.log().to(like.device)
