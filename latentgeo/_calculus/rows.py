"""What the probe asks of a function before any derivative: finite, not random, every row on its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .errors import EmbeddingError
from .paths import Function

__all__ = ["Watch", "check_rows", "custom_gradients", "evaluate", "points"]

_ROWS = 4
_FUSED = ("scaled_dot_product", "_native_multi_head_attention", "_transformer_encoder_layer_fwd")


# operations that may put kinks into a function
_KINKED = (
    "relu",
    "hard",
    "threshold",
    "max_pool",
    "maximum",
    "minimum",
    "clamp",
    "abs",
    "grid_sampler",
    "amax",
    "amin",
)


class Watch(TorchDispatchMode):
    """Counts the bytes of every tensor that is produced, views for nothing; notices fused attention and kinks."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.fused = False
        self.kinks = False
        self.detached = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.fused |= any(name in func.__name__ for name in _FUSED)
        self.kinks |= any(name in func.__name__ for name in _KINKED)
        self.detached |= "detach" in func.__name__
        old = {_storage(t) for t in tree_leaves(args)}
        for item in tree_leaves(out):
            if isinstance(item, Tensor) and _storage(item) not in old:
                self.total += item.numel() * item.element_size()
        return out


def custom_gradients(y: Tensor) -> bool:
    """Whether an output was computed through an `autograd.Function` of somebody's own."""
    seen, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if any(base.__name__ == "BackwardCFunction" for base in type(node).__mro__):
            return True
        seen.add(node)
        todo += [parent for parent, _ in node.next_functions]
    return False


def _storage(item: Any) -> int | None:
    """Where a tensor's numbers lie; None for what has none (zero tensors of forward mode)."""
    try:
        return item.untyped_storage().data_ptr() if isinstance(item, Tensor) else None
    except RuntimeError:
        return None


def points(f: Function, z: Tensor, name: str) -> Tensor:
    """A few distinct rows where `f` is finite: the caller's own, a little off, and copies where there are too few."""
    rows = z.detach().reshape(-1, z.shape[-1])
    rows = rows[rows.isfinite().all(-1)]
    if rows.shape[0] == 0:
        raise EmbeddingError(f"{name}: cannot be probed, because none of the given codes is finite")
    # spread over the batch, not the first few alone
    rows = rows[torch.linspace(0, rows.shape[0] - 1, min(8 * _ROWS, rows.shape[0])).long()]
    rows = rows[evaluate(f, rows, name).isfinite().all(-1)]
    if rows.shape[0] == 0:
        example = z.reshape(-1, z.shape[-1])[0].tolist()
        raise EmbeddingError(f"{name}: returns NaN or infinite values at all codes tried, such as {example}")
    rows = rows[torch.linspace(0, rows.shape[0] - 1, min(_ROWS, rows.shape[0])).long()]
    generator = torch.Generator().manual_seed(0)
    jitter = torch.randn(_ROWS, rows.shape[-1], generator=generator, dtype=torch.float64).to(rows)
    jitter = 1e-2 * rows[:1].abs().amax().clamp_min(1.0) * jitter
    extra = rows[:1] + jitter[rows.shape[0] :]
    return torch.cat([rows, extra]).contiguous()


def evaluate(f: Function, x: Tensor, name: str) -> Tensor:
    """Values of `f` at codes (B, d), as (B, D)."""
    with torch.no_grad():
        y = f(x)
    if not isinstance(y, Tensor):
        raise EmbeddingError(f"{name}: must return a tensor of shape (B, D), got {type(y).__name__}")
    if y.ndim != 2 or y.shape[0] != x.shape[0] or y.shape[1] == 0:
        raise EmbeddingError(
            f"{name}: must map ({x.shape[0]}, {x.shape[1]}) to ({x.shape[0]}, D), got shape {tuple(y.shape)}; "
            "it is always called with one batch axis"
        )
    if y.dtype != x.dtype:
        raise EmbeddingError(f"{name}: must keep the dtype, got {y.dtype} for input of {x.dtype}")
    return y


def check_rows(f: Function, x: Tensor, y: Tensor, name: str) -> None:
    """Refuse random functions and functions whose rows depend on each other."""
    tolerance = 1e3 * torch.finfo(x.dtype).eps
    scale = y.abs().amax().clamp_min(torch.finfo(x.dtype).tiny)
    if not bool(((evaluate(f, x, name) - y).abs() <= tolerance * scale).all()):
        raise EmbeddingError(
            f"{name}: is random (two calls on the same codes differ); return the distribution's parameters, "
            "not samples, and put dropout in eval mode"
        )
    # a row alone, and the rows in reverse with one of them moved: also couplings that only look back are seen
    moved = torch.cat([x[2:].flip(0), x[1:2] + 0.5 * (x[2:3] - x[1:2]), x[:1]])
    alone, mixed = _other_batch(f, x[-1:], y, name), _other_batch(f, moved, y, name)
    kept = [(alone[0], y[-1]), (mixed[-1], y[0]), *zip(mixed[: len(x) - 2], y[2:].flip(0), strict=True)]
    worst = float(torch.stack([(a - b).abs().amax() for a, b in kept]).amax() / scale)
    if not worst <= tolerance:
        how = f"moved by {worst:.1e} of the output's size" if worst == worst else "became NaN"
        raise EmbeddingError(
            f"{name}: couples the rows of a batch (a row's output {how} when its neighbours changed or were left out); "
            "normalise per row, or put batch normalisation in eval mode"
        )


def _other_batch(f: Function, x: Tensor, y: Tensor, name: str) -> Tensor:
    try:
        out = evaluate(f, x, name)
    except EmbeddingError:
        raise
    except Exception as error:
        raise EmbeddingError(
            f"{name}: works on a batch of {y.shape[0]} codes but not of {x.shape[0]} ({type(error).__name__}: "
            f"{str(error)[:200]}); it must take batches of any size"
        ) from error
    if out.shape[-1] != y.shape[-1]:
        raise EmbeddingError(f"{name}: the number of outputs depends on the batch size")
    return out
