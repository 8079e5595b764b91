"""Where a walk's randomness comes from."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["generator", "log_uniform", "normal"]


def generator(random_state: int | torch.Generator | None) -> torch.Generator:
    """A generator from a seed, itself, or (None) from torch's global one."""
    if isinstance(random_state, torch.Generator):
        return random_state
    if random_state is None:
        random_state = int(torch.randint(2**62, ()))
    if not isinstance(random_state, int) or isinstance(random_state, bool):
        raise TypeError(f"`random_state` must be an integer, a torch.Generator or None, got {random_state!r}")
    return torch.Generator().manual_seed(random_state)


def normal(source: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers for every walker at once, float64 whatever the walk's dtype: one law, one stream."""
    draw = torch.randn(like.shape, generator=source, dtype=torch.float64, device=source.device)
    return draw.to(like.device)


def log_uniform(source: torch.Generator, like: Tensor) -> Tensor:
    """Logarithms of uniform numbers, float64."""
    draw = torch.rand(like.shape, generator=source, dtype=torch.float64, device=source.device)
    return draw.log().to(like.device)
