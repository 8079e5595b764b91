"""Finite differences that find their own step: Richardson extrapolation with an error estimate per row.

Steps shrink by thirds from a tenth of the code's size; the extrapolated value whose neighbours in the table differ
least is kept (Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", Advances in Engineering Software 4, 1982).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["along", "first", "first_step", "gradient_changes", "richardson", "second", "unit"]

Function = Callable[[Tensor], Tensor]

_RATIO = 3.0
_COLUMNS = 4  # orders of extrapolation: 2, 4, 6, 8
_LEVELS = {torch.float32: 7, torch.float64: 12}
_GOAL = {torch.float32: 1e-6, torch.float64: 1e-11}


def first_step(z: Tensor) -> Tensor:
    """The longest step, per row: (B, 1)."""
    return 0.1 * z.detach().abs().amax(-1, keepdim=True).clamp_min(1.0)


def unit(v: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors and lengths (..., 1); a zero vector stays zero."""
    size = v.norm(dim=-1, keepdim=True)
    return v / torch.where(size > 0, size, 1.0), size


def richardson(evaluate: Callable[[Tensor], Tensor], h: Tensor, size: Tensor, power: int = 1) -> tuple[Tensor, Tensor]:
    """Limit for h → 0 of difference quotients whose error is even in h, and an estimate of its error.

    Parameters
    ----------
    evaluate : callable
        Maps steps (B, 1) to quotients (..., B, k).
    h : Tensor of shape (B, 1)
        The longest steps.
    size : Tensor broadcastable to (..., B)
        Norm of what is differenced; its rounding over h^power bounds the error from below.
    power : int
        1 for a first, 2 for a second difference quotient.

    Returns
    -------
    value : Tensor of shape (..., B, k)
    error : Tensor of shape (..., B)
        Infinite where no step gave finite numbers.
    """
    eps, least = torch.finfo(h.dtype).eps, torch.finfo(h.dtype).tiny
    table = [evaluate(h)]
    best = table[0]
    error = torch.full_like(best[..., 0], torch.inf)
    stalled = 0
    for _ in range(_LEVELS[h.dtype] - 1):
        h = h / _RATIO
        row = [evaluate(h)]
        for k, above in enumerate(table[: _COLUMNS - 1]):
            row.append(row[k] + (row[k] - above) / (_RATIO ** (2 * k + 2) - 1))
        floor = (2 * eps * size / h[:, 0] ** power).expand_as(error)
        improved = False
        for k in range(1, len(row)):
            left, up = (row[k] - row[k - 1]).norm(dim=-1), (row[k] - table[k - 1]).norm(dim=-1)
            estimate = torch.maximum(torch.maximum(left, up), floor)
            better = estimate < error
            best, error = torch.where(better[..., None], row[k], best), torch.where(better, estimate, error)
            improved |= bool(better.any())
        relative = error / best.norm(dim=-1).clamp_min(least)
        stalled = 0 if improved else stalled + 1
        if bool((relative <= _GOAL[h.dtype]).all()) or (stalled >= 2 and bool((relative < 1e-3).all())):
            break
        table = row
    return best, error


def first(f: Function, z: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Jv along m stacked tangents V (m, B, d), one call of `f` per side and tangent: (m, B, D), and errors (m, B)."""
    with torch.no_grad():
        y = f(z)
        results = []
        for v in V:
            u, length = unit(v)

            def quotient(h: Tensor, u: Tensor = u) -> Tensor:
                return (f(z + h * u) - f(z - h * u)) / (2 * h)

            value, error = richardson(quotient, first_step(z), y.norm(dim=-1))
            results.append((value * length, error * length[..., 0]))
    return torch.stack([r[0] for r in results]), torch.stack([r[1] for r in results])


def along(f: Function, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives f'v and f''[v, v] for unit vectors v, each (B, D), from the same calls of `f`."""
    seen: dict[float, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        y = f(z)
        size, h = y.norm(dim=-1), first_step(z)

        def pair(h: Tensor) -> tuple[Tensor, Tensor]:
            key = float(h[0])
            if key not in seen:
                seen[key] = f(z + h * v), f(z - h * v)
            return seen[key]

        def slope(h: Tensor) -> Tensor:
            ahead, behind = pair(h)
            return (ahead - behind) / (2 * h)

        def bend(h: Tensor) -> Tensor:
            ahead, behind = pair(h)
            return ((ahead - y) + (behind - y)) / h**2

        return richardson(slope, h, size)[0], richardson(bend, h, size, power=2)[0]


def second(f: Function, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """f''[u, v], (B, D), by polarised second differences."""
    (u, a), (v, b) = unit(u), unit(v)
    with torch.no_grad():
        y = f(z)

        def along(s: Tensor) -> Tensor:
            s, length = unit(s)

            def quotient(h: Tensor) -> Tensor:
                return ((f(z + h * s) - y) + (f(z - h * s) - y)) / h**2

            return richardson(quotient, first_step(z), y.norm(dim=-1), power=2)[0] * length**2

        if torch.equal(u, v):
            return along(u) * a * b
        return (along(u + v) - along(u - v)) / 4 * a * b


def gradient_changes(gradient: Callable[[Tensor, Tensor], Tensor], z: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """Hessians of <w, f> along v for m stacked pairs, (m, B, d), by differences of `gradient(z, w)` (B, d)."""
    products = []
    for w, v in zip(W, V, strict=True):
        u, length = unit(v)

        def quotient(h: Tensor, w: Tensor = w, u: Tensor = u) -> Tensor:
            return (gradient(z + h * u, w) - gradient(z - h * u, w)) / (2 * h)

        value, _ = richardson(quotient, first_step(z), gradient(z, w).norm(dim=-1))
        products.append(value * length)
    return torch.stack(products)
