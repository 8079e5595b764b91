"""Halving the sides of an image, rounding up, and its inverse: encoders and decoders must agree about both."""

from __future__ import annotations

from torch import Tensor

Size = tuple[int, int]  # height and width


def sizes(size: Size, halvings: int) -> list[Size]:
    """Heights and widths from an image down to the smallest feature map.

    Examples
    --------
    >>> sizes((28, 17), 2)
    [(28, 17), (14, 9), (7, 5)]
    """
    found = [size]
    for _ in range(halvings):
        found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
    return found


def enlarged(h: Tensor, size: Size) -> Tensor:
    """Feature maps (B, C, H, W) with each cell twice along both axes, cut to (B, C, *size)."""
    twice = h.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
    return twice[..., : size[0], : size[1]]
