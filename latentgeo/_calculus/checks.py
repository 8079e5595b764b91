"""Argument checks shared by every layer.

A message names the parameter, what it must be, what it got and, where there is one, the cast that mends it.
"""

from __future__ import annotations

import math
import operator
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "as_integers",
    "as_numbers",
    "as_tolerance",
    "broadcast_pair",
    "check_flag",
    "check_integer",
    "check_latent",
    "check_like",
    "check_positive",
    "check_vectors",
    "is_number",
]


def check_flag(value: object, name: str, *, optional: bool = False) -> None:
    """Raise ValueError unless `value` is True or False, or None where it is `optional`."""
    if not (isinstance(value, (bool, np.bool_)) or (optional and value is None)):
        raise ValueError(f"`{name}` must be {'True, False or None' if optional else 'True or False'}, got {value!r}")


def check_integer(value: object, name: str, least: int = 1, *, optional: bool = False) -> None:
    """Raise ValueError unless `value` is an integer of at least `least`, or None where it is `optional`."""
    if optional and value is None:
        return
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be {_or_none(f'an integer of at least {least}', optional)}, got {value!r}")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is one real number, Python's or NumPy's; flags are none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_positive(value: object, name: str, *, optional: bool = False) -> None:
    """Raise ValueError unless `value` is a positive finite number, or None where it is `optional`."""
    if optional and value is None:
        return
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be {_or_none('a positive finite number', optional)}, got {value!r}")


def _or_none(what: str, optional: bool) -> str:
    return f"{what} or None" if optional else what


def as_numbers(value: Any, name: str, device: torch.device | str | None = None) -> Tensor:
    """A number, or an array or sequence of real numbers, as a float64 tensor; TypeError for anything else."""
    if isinstance(value, Tensor):
        if not value.is_complex():
            return value.to(device=device, dtype=torch.float64)
    else:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):  # of ragged lists, and of lists of tensors that NumPy cannot read
            array = np.asarray(None)
        if array.dtype.kind in "biuf":  # a copy in C order: torch takes no reversed arrays, nor foreign byte orders
            return torch.as_tensor(array.astype(np.float64, order="C"), device=device)
    raise TypeError(f"`{name}` must be a real number or an array of real numbers, got {value!r}")


def as_integers(values: Any) -> list[int] | None:
    """Whole numbers, be they Python's, NumPy's or torch's, as a list; None if there is anything else."""
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        return None


def as_tolerance(value: float | None, dtype: torch.dtype, name: str = "rtol") -> float:
    """A relative tolerance: 1e-6 in float64 and 1e-3 in float32 for None; ValueError unless positive and finite."""
    if value is None:
        return 1e-6 if dtype == torch.float64 else 1e-3
    check_positive(value, name, optional=True)
    return float(value)


def check_latent(
    z: Tensor,
    dim: int | None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    name: str = "z",
) -> None:
    """Raise unless `z` is a floating-point tensor of shape (*batch, dim) that the model can take.

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
        If `z` is no tensor, not floating point, or of another dtype than the model.
    ValueError
        If the last axis is not `dim`, or `z` is on another device than the model.
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


def check_like(v: Tensor, z: Tensor, name: str, like: str = "z") -> None:
    """Raise unless `v` is a tensor with the last axis, dtype and device of `z`, which messages call `like`."""
    check_latent(v, None, name=name)
    if v.dtype != z.dtype:
        raise TypeError(f"`{name}` has dtype {v.dtype} but `{like}` has {z.dtype}; cast with `{name}.to({z.dtype})`")
    if v.device != z.device:
        raise ValueError(f"`{name}` is on {v.device} but `{like}` on {z.device}; move with `{name}.to('{z.device}')`")
    if v.shape[-1] != z.shape[-1]:
        raise ValueError(
            f"`{name}` must have {z.shape[-1]} latent coordinates on its last axis, as `{like}` has, got shape "
            f"{tuple(v.shape)}"
        )


def check_vectors(z: Tensor, **vectors: Tensor) -> None:
    """Raise unless each of the named vectors is like the codes `z`, and all shapes broadcast."""
    for name, v in vectors.items():
        check_like(v, z, name)
    _check_shapes({"z": z, **vectors})


def broadcast_pair(z: Tensor, v: Tensor, name: str, like: str = "z") -> tuple[Tensor, Tensor]:
    """Codes `z` and what belongs to them, alike by `check_like`, in one shape; ValueError where there is none."""
    check_like(v, z, name, like)
    _check_shapes({like: z, name: v})
    return torch.broadcast_tensors(z, v)


def _check_shapes(named: dict[str, Tensor]) -> None:
    one, *others = named.values()
    if all(t.shape == one.shape for t in others):  # most often, and torch takes its time over the rest
        return
    try:
        torch.broadcast_shapes(*(t.shape for t in named.values()))
    except RuntimeError:
        names = " and ".join(f"`{name}`" for name in named)
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in named.items())
        first, *_, last = named
        raise ValueError(
            f"{names} must have batch shapes that broadcast, got {shapes}; for all pairs pass {first}[:, None] and "
            f"{last}[None]"
        ) from None
