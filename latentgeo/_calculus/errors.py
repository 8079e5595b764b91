"""Errors and argument checks shared by every layer.

A message names the parameter, what it must be, what it got and what to do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "DerivativeWarning",
    "EmbeddingError",
    "RankError",
    "RankWarning",
    "as_tolerance",
    "check_latent",
    "check_like",
]


class EmbeddingError(ValueError):
    """A function cannot serve as an embedding: it is random, couples rows, or has no derivative."""


class RankError(ValueError):
    """A metric tensor that must be inverted is rank-deficient."""


class RankWarning(UserWarning):
    """A metric tensor is rank-deficient: its volume is zero."""


class DerivativeWarning(UserWarning):
    """A derivative is taken by finite differences because no exact path is right."""


def check_latent(
    z: Tensor,
    dim: int | None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    name: str = "z",
) -> None:
    """Raise unless ``z`` is a floating-point tensor of shape ``(*batch, dim)`` that the model can take.

    Parameters
    ----------
    z : Tensor of shape (*batch, d)
        Latent codes or vectors.
    dim : int or None
        Latent dimension; None accepts any.
    dtype, device : optional
        What the model's weights have; None accepts any.
    name : str
        The parameter's name in messages.

    Raises
    ------
    TypeError
        If ``z`` is no tensor, not floating point, or of another dtype than the model.
    ValueError
        If the last axis is not ``dim``, or ``z`` is on another device than the model.
    """
    if dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"the model's weights are {dtype}, too coarse for distances; cast it with `.float()` (a decoder with "
            "`.to(torch.float32)`)"
        )
    if not isinstance(z, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor, got {type(z).__name__}; convert it with torch.as_tensor")
    if not z.is_floating_point():
        raise TypeError(f"`{name}` must be floating point, got {z.dtype}; cast it with `{name}.to({dtype or 'float'})`")
    if z.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"`{name}` must be float32 or float64, got {z.dtype}; cast it with `{name}.float()`")
    if z.ndim == 0:
        raise ValueError(f"`{name}` must have shape (*batch, d), got a 0-d tensor")
    if dim is not None and z.shape[-1] != dim:
        raise ValueError(f"`{name}` must have {dim} latent coordinates on its last axis, got shape {tuple(z.shape)}")
    if z.shape[-1] == 0:
        raise ValueError(f"`{name}` must have at least one latent coordinate, got shape {tuple(z.shape)}")
    if dtype is not None and z.dtype != dtype:
        raise TypeError(
            f"`{name}` has dtype {z.dtype} but the model's weights are {dtype}; "
            f"cast the codes with `{name}.to({dtype})` or the model with `decoder.to({z.dtype})`"
        )
    if device is not None and z.device != device:
        raise ValueError(
            f"`{name}` is on {z.device} but the model's weights are on {device}; "
            f"move the codes with `{name}.to('{device}')` or the model with `decoder.to('{z.device}')`"
        )


def check_like(v: Tensor, z: Tensor, name: str) -> None:
    """Raise unless ``v`` is a tensor with the last axis, dtype and device of ``z``."""
    check_latent(v, z.shape[-1], z.dtype, z.device, name=name)


def as_tolerance(value: object, dtype: torch.dtype, name: str = "rtol") -> float:
    """A relative tolerance: 1e-6 in float64 and 1e-3 in float32 for None; ValueError unless positive and finite."""
    if value is None:
        return 1e-6 if dtype == torch.float64 else 1e-3
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a positive finite number, got {value!r}")
    return float(value)
