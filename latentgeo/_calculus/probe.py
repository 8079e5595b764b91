"""The probe: find out, once, which derivative paths are right for a function.

A function is called on a handful of rows. It must return the same numbers twice, treat rows independently, and have
derivatives that agree with central differences; the cheapest path that agrees is chosen for each kind of derivative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import paths
from .errors import EmbeddingError
from .paths import Function

__all__ = ["Report", "probe"]

_ROWS = 4
# Relative disagreement allowed with central differences (loose) and with reverse mode (tight), by single precision.
TOLERANCE = {False: (1e-2, 1e-7), True: (3e-2, 5e-3)}


@dataclasses.dataclass(frozen=True)
class Report:
    """What the probe found.

    Attributes
    ----------
    first, pullback, hessian, second : str
        Chosen path of Jv, of Jᵀw, of Hessian-vector products of ⟨w, φ⟩, and of φ''[u, v].
    smooth : bool
        False if the second derivative misses curvature that sits in kinks (ReLU): no minimality certificate then.
    out_dim : int
        Number of output coordinates D.
    row_bytes : int
        Bytes that one forward pass allocates per row, for the memory budget.
    rejected : tuple of str
        Paths that failed, with the reason.
    """

    first: str
    pullback: str
    hessian: str
    second: str
    smooth: bool
    out_dim: int
    row_bytes: int
    rejected: tuple[str, ...] = ()


class _Allocations(TorchDispatchMode):
    """Counts the bytes of every tensor that a computation produces; views of its inputs cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        old = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if isinstance(t, Tensor)}
        for item in tree_leaves(out):
            if isinstance(item, Tensor) and item.untyped_storage().data_ptr() not in old:
                self.total += item.numel() * item.element_size()
        return out


def _points(f: Function, z: Tensor, name: str) -> Tensor:
    """A few distinct rows where `f` is finite: the caller's own, jittered copies where there are too few."""
    rows = z.detach().reshape(-1, z.shape[-1])
    rows = rows[rows.isfinite().all(-1)]
    if rows.shape[0] == 0:
        raise EmbeddingError(f"{name}: cannot be probed, because none of the given codes is finite")
    # spread over the batch, not the first few alone
    rows = rows[torch.linspace(0, rows.shape[0] - 1, min(8 * _ROWS, rows.shape[0])).long()]
    rows = rows[_evaluate(f, rows, name).isfinite().all(-1)]
    if rows.shape[0] == 0:
        example = z.reshape(-1, z.shape[-1])[0].tolist()
        raise EmbeddingError(f"{name}: returns NaN or infinite values at all codes tried, such as {example}")
    rows = rows[torch.linspace(0, rows.shape[0] - 1, min(_ROWS, rows.shape[0])).long()]
    missing = _ROWS - rows.shape[0]
    generator = torch.Generator().manual_seed(0)
    jitter = torch.randn(missing, rows.shape[-1], generator=generator, dtype=torch.float64).to(rows)
    extra = rows[:1] + 1e-2 * rows[:1].abs().amax().clamp_min(1.0) * jitter
    return torch.cat([rows, extra]).contiguous()


_STEPS = (5, 3, 2)  # finite-difference steps eps^(1/(k+1)): long ones are accurate, short ones seldom cross a kink


def _error(got: Tensor, references: list[Tensor], noise: list[Tensor]) -> float:
    """Relative error of (m, B, k) derivatives: best over steps, worst over tangents, median over rows.

    A kink under one row's stencil must not condemn a path; a row's error below the round-off of its difference is none.
    """
    if got.shape != references[0].shape or not bool(got.isfinite().all()):
        return float("inf")
    got = got.detach().double()
    best = torch.full(got.shape[:2], float("inf"), dtype=torch.float64, device=got.device)
    for want, floor in zip(references, noise, strict=True):
        want = want.detach().double()
        gap = ((got - want).norm(dim=-1) - floor.double()).clamp_min(0.0)
        best = torch.fmin(best, gap / want.norm(dim=-1).clamp_min(1e-300))
    return float(best.amax(0).median())


def _choose(
    kind: str,
    candidates: dict[str, Callable[..., Tensor]],
    trusted: str,
    differences: Callable[[Tensor], tuple[Tensor, Tensor]],
    arguments: tuple[Any, ...],
    tolerance: tuple[float, float],
    rejected: list[str],
) -> str:
    """The first candidate that agrees loosely with central differences and, to round-off, with reverse mode.

    `trusted` names the path that uses reverse mode only; it is believed once it agrees with the differences, and tells
    a forward-mode path that is a little wrong from one that is right. The last candidate is the differences.
    """
    loose, tight = tolerance
    names = list(candidates)
    results: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    eps = torch.finfo(arguments[1].dtype).eps
    pairs = [differences(paths.step_size(arguments[1], k)) for k in _STEPS]
    references, noise = [p[0] for p in pairs], [p[1] for p in pairs]

    def evaluate(name: str) -> bool:
        """Try one path; whether it agrees loosely with central differences."""
        try:
            results[name] = candidates[name](*arguments).detach()
            errors[name] = _error(results[name], references, noise)
        except Exception as reason:  # any failure of a foreign function only disqualifies this path
            text = (str(reason).strip().splitlines() or [""])[0][:120]
            rejected.append(f"{kind} by {name}: {type(reason).__name__}: {text}")
            return False
        if errors[name] > loose:
            rejected.append(f"{kind} by {name}: differs from central differences by {errors[name]:.1e}")
        return errors[name] <= loose

    believed = trusted in candidates and evaluate(trusted)
    for name in names[:-1]:
        if name == trusted:
            if believed:
                return name
        elif evaluate(name):
            if not believed:
                return name
            rounding = 1e3 * eps * results[trusted].norm(dim=-1).amax().expand(results[trusted].shape[:2])
            gap = _error(results[name], [results[trusted]], [rounding])
            if gap <= tight:
                return name
            rejected.append(f"{kind} by {name}: differs from reverse mode by {gap:.1e}")
    return names[-1]


def probe(f: Function, z: Tensor, name: str) -> Report:
    """Check `f` on a few rows of `z` and choose its derivative paths.

    Raises
    ------
    EmbeddingError
        If `f` returns no floating-point tensor of shape (B, D) and dtype of `z`, is random, couples the rows of a
        batch, is not finite, or changes too abruptly for any derivative.
    """
    x = _points(f, z, name)
    y = _evaluate(f, x, name)
    _check_rows(f, x, y, name)
    with _Allocations() as allocations, torch.no_grad():
        f(x)
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(x)

    V, W = normal(2, *x.shape), normal(2, *y.shape)
    V = V / V.norm(dim=-1, keepdim=True)
    single = x.dtype == torch.float32
    rejected: list[str] = []
    eps = torch.finfo(x.dtype).eps
    size = y.norm(dim=-1)

    def difference(h: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            D = torch.stack([(f(x + h * v) - f(x - h * v)) / (2 * h) for v in V])
        return D, 20 * eps * (size / h[:, 0]).expand(D.shape[:2])

    first = _choose("Jv", paths.FIRST, "double backward", difference, (f, x, V), TOLERANCE[single], rejected)

    # Jᵀw against Jv through <Jᵀw, v> = <w, Jv>; the gradient's own size sets the scale.
    JV = paths.FIRST[first](f, x, V).detach()

    def transposed(h: Tensor) -> tuple[Tensor, Tensor]:
        return (W * JV).sum(-1, keepdim=True), 1e3 * eps * W.norm(dim=-1) * JV.norm(dim=-1)

    def along(path: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *arguments: (path(*arguments) * V).sum(-1, keepdim=True)

    pulls = {key: along(path) for key, path in paths.PULLBACK.items()}
    pullback = _choose("Jᵀw", pulls, "reverse", transposed, (f, x, W), TOLERANCE[single], rejected)
    reverse = pullback == "reverse"
    gradient = paths.PULLBACK[pullback]
    steepness = gradient(f, x, W).norm(dim=-1)

    def bend(h: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [(gradient(f, x + h * v, w[None]), gradient(f, x - h * v, w[None])) for w, v in zip(W, V, strict=True)]
        return torch.stack([((a - b) / (2 * h))[0] for a, b in pairs]), 20 * eps * steepness / h[:, 0]

    kinds = paths.HESSIAN if reverse else {"finite differences": paths.second_differences}
    hessian = _choose("Hessian", kinds, "reverse over reverse", bend, (f, x, W, V), TOLERANCE[single], rejected)
    u, v = V[0], V[1]
    second = _choose_second(f, x, u, v, W, hessian, single, rejected)
    smooth = _is_smooth(f, x, W[:1], V[:1], pullback, hessian)
    row_bytes = max(allocations.total // x.shape[0], 4 * y.shape[-1] * y.element_size())
    return Report(first, pullback, hessian, second, smooth, y.shape[-1], row_bytes, tuple(rejected))


def _evaluate(f: Function, x: Tensor, name: str) -> Tensor:
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


def _check_rows(f: Function, x: Tensor, y: Tensor, name: str) -> None:
    """Refuse random functions and functions whose rows depend on each other."""
    tolerance = 1e3 * torch.finfo(x.dtype).eps
    scale = y.abs().amax().clamp_min(torch.finfo(x.dtype).tiny)
    with torch.no_grad():
        if not bool(((f(x) - y).abs() <= tolerance * scale).all()):
            raise EmbeddingError(
                f"{name}: is random (two calls on the same codes differ); return the distribution's parameters, "
                "not samples, and put dropout in eval mode"
            )
        alone = f(torch.cat([x[:1], x[-1:]]))
        other = f(torch.cat([x[:1], x[1:2] + 0.5 * (x[2:3] - x[1:2]), x[2:].flip(0)]))
    if alone.shape[-1] != y.shape[-1]:
        raise EmbeddingError(f"{name}: the number of outputs depends on the batch size")
    worst = torch.stack([(alone[0] - y[0]).abs().amax(), (other[0] - y[0]).abs().amax()]).amax() / scale
    if not bool(worst <= tolerance):
        raise EmbeddingError(
            f"{name}: couples the rows of a batch (a row's output moved by {float(worst):.1e} of the output's size "
            "when its neighbours changed); normalise per row, or put batch normalisation in eval mode"
        )


def _choose_second(
    f: Function, x: Tensor, u: Tensor, v: Tensor, W: Tensor, hessian: str, single: bool, rejected: list[str]
) -> str:
    """Hold <w, f''[u, v]> against the chosen Hessian-vector product."""
    want = (paths.HESSIAN[hessian](f, x, W, u.expand(2, -1, -1)) * v).sum(-1).detach()
    try:
        got = (W * paths.triple_reverse(f, x, u, v).detach()).sum(-1)
        floor = 1e3 * torch.finfo(x.dtype).eps * paths.reverse(f, x, W).detach().norm(dim=-1).amax()
        scale = want.abs().amax().clamp_min(torch.finfo(x.dtype).tiny)
        error = float((((got - want).abs() - floor).clamp_min(0.0) / scale).amax())
    except Exception as reason:
        rejected.append(f"f''[u, v] by triple reverse: {type(reason).__name__}")
        return "finite differences"
    if error <= (1e-2 if single else 1e-6):
        return "triple reverse"
    rejected.append(f"f''[u, v] by triple reverse: differs by {error:.1e}")
    return "finite differences"


_LINE = 33


def _is_smooth(f: Function, x: Tensor, W: Tensor, V: Tensor, pullback: str, hessian: str) -> bool:
    """Whether integrating the second derivative explains how the gradient changes along a line.

    It does for smooth functions (Simpson's rule on short steps); for piecewise linear ones the changes sit in kinks
    that the second derivative does not see, however closely one looks.
    """
    h = 2 * x.abs().amax().clamp_min(1.0) / (_LINE - 1)
    w, v = W[0], V[0]
    try:
        for _ in range(3):  # each time closer to where the two disagree most: a kink stays, sharp curvature resolves
            worst = _worst_step(f, x, w, v, h, pullback, hessian)
            if worst is None:
                return True
            step, row = worst
            x = (x[row] + (2 * step + 1 - _LINE // 2) * h * v[row])[None]
            w, v, h = w[row][None], v[row][None], 2 * h / (_LINE - 1)
    except Exception:  # the line may leave the function's domain
        return True
    return False


def _worst_step(
    f: Function, x: Tensor, w: Tensor, v: Tensor, h: Tensor, pullback: str, hessian: str
) -> tuple[int, int] | None:
    """The double step and row where the gradient's change is least explained; None if it is explained everywhere."""
    rows = x.shape[0]
    offsets = h * torch.arange(-(_LINE // 2), _LINE // 2 + 1).to(x)
    line = (x + offsets[:, None, None] * v).flatten(0, 1)
    ww, vv = (t.expand(_LINE, -1, -1).flatten(0, 1)[None] for t in (w, v))
    g = paths.PULLBACK[pullback](f, line, ww)[0].detach().unflatten(0, (_LINE, rows))
    H = paths.HESSIAN[hessian](f, line, ww, vv)[0].detach().unflatten(0, (_LINE, rows))
    change = g[2::2] - g[:-2:2]
    gap = (change - h / 3 * (H[:-2:2] + 4 * H[1::2] + H[2::2])).norm(dim=-1)
    size = change.norm(dim=-1)
    noise = 1e3 * torch.finfo(x.dtype).eps * g.norm(dim=-1).nan_to_num(0.0).amax(0)
    visible = size > 1e-2 * size.nan_to_num(0.0).sum(0)
    blind = (gap > 0.3 * size) & visible & (gap > noise)
    if not bool(blind.any()):
        return None
    place = int(torch.where(blind, gap / size, -1.0).argmax())
    return place // rows, place % rows
