"""`Solution`: what a solver of boundary-value problems hands to `connect`."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ..curve import Curve
from ..geodesic import Status

__all__ = ["Solution"]


@dataclasses.dataclass(frozen=True)
class Solution:
    """Curves found by a solver, each with the number of nodes it needed. All tensors have shape (B,)."""

    pieces: tuple[tuple[Tensor, Curve], ...]
    length: Tensor
    length_error: Tensor
    energy: Tensor
    residual: Tensor
    certified: Tensor
    steps: Tensor
    points: Tensor
    status: list[Status]
