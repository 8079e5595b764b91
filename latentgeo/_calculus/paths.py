"""Derivative paths: the different ways to differentiate a function that acts on rows independently.

Every path computes the same things. Which of them is *right* for a given function is decided by the probe, because some
forward-mode formulas of PyTorch are silently wrong or missing. `f` maps (B, d) to (B, D); `V` and `W` stack m tangents
(m, B, d) and cotangents (m, B, D). No path forms a derivative of a forward-mode tangent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["FIRST", "HESSIAN", "PULLBACK", "SECOND", "Function", "step_size"]

Function = Callable[[Tensor], Tensor]


def _grad(y: Tensor, x: Tensor, cotangent: Tensor, *, create_graph: bool = False, retain: bool = True) -> Tensor:
    """Reverse-mode derivative, zero where `y` does not depend on `x`."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    (g,) = torch.autograd.grad(y, x, cotangent, create_graph=create_graph, retain_graph=retain, allow_unused=True)
    return torch.zeros_like(x) if g is None else g


def step_size(z: Tensor, order: int) -> Tensor:
    """Finite-difference step per row, (B, 1): balances truncation (`order`) against round-off."""
    scale = z.detach().abs().amax(-1, keepdim=True).clamp_min(1.0)
    return torch.finfo(z.dtype).eps ** (1.0 / (order + 1)) * scale


# --- first derivatives along tangents: (f, z, V) -> (m, B, D) -------------------------------------------------------


def forward(f: Function, z: Tensor, V: Tensor) -> Tensor:
    """All tangents in one vectorised forward-mode pass; the primal is computed once."""
    return torch.func.vmap(lambda v: torch.func.jvp(f, (z,), (v,))[1])(V)


def forward_loop(f: Function, z: Tensor, V: Tensor) -> Tensor:
    """One forward-mode pass per tangent, for functions that cannot be vectorised."""
    return torch.stack([torch.func.jvp(f, (z,), (v,))[1] for v in V])


def double_backward(f: Function, z: Tensor, V: Tensor) -> Tensor:
    """Jv as the derivative of w -> <Jᵀw, v>: two reverse passes, no forward mode."""
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        y = f(x)
        w = torch.zeros_like(y, requires_grad=True)
        g = _grad(y, x, w, create_graph=True)
        return torch.stack([_grad(g, w, v) for v in V])


def reverse_rows(f: Function, z: Tensor, V: Tensor) -> Tensor:
    """One reverse pass per output coordinate, for functions that are differentiable only once; few outputs only."""
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        y = f(x)
        if y.shape[-1] > 256:
            raise ValueError("too many outputs for one reverse pass each")
        rows = [_grad(y[:, k], x, torch.ones_like(y[:, k])) for k in range(y.shape[-1])]
    return torch.einsum("Bkd,mBd->mBk", torch.stack(rows, 1), V)


def differences(f: Function, z: Tensor, V: Tensor) -> Tensor:
    """Fourth-order central differences."""
    with torch.no_grad():
        h = step_size(z, 4)
        size = V.norm(dim=-1, keepdim=True)
        unit = V / torch.where(size > 0, size, 1.0)
        columns = [(8 * (f(z + h * u) - f(z - h * u)) - (f(z + 2 * h * u) - f(z - 2 * h * u))) / (12 * h) for u in unit]
        return torch.stack(columns) * size


# --- transposed derivatives: (f, z, W) -> (m, B, d) -----------------------------------------------------------------


def reverse(f: Function, z: Tensor, W: Tensor) -> Tensor:
    """Jᵀw by reverse mode; the forward pass is shared by all cotangents."""
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        y = f(x)
        return torch.stack([_grad(y, x, w) for w in W])


def transposed_differences(f: Function, z: Tensor, W: Tensor) -> Tensor:
    """Jᵀw with J by finite differences."""
    J = differences(f, z, _basis(z))
    return torch.einsum("dBD,mBD->mBd", J, W)


def _basis(z: Tensor) -> Tensor:
    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    return eye[:, None, :].expand(-1, z.shape[0], -1)


# --- second derivatives of <w, f>: (f, z, W, V) -> (m, B, d) --------------------------------------------------------


def forward_over_reverse(f: Function, z: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """Hessian-vector products of <w, f> as the forward derivative of a reverse pass, vectorised over (w, v)."""

    def product(w: Tensor, v: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: torch.func.vjp(f, x)[1](w)[0], (z,), (v,))[1]

    return torch.func.vmap(product)(W, V)


def forward_over_reverse_loop(f: Function, z: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """`forward_over_reverse` without vectorisation."""
    return torch.stack(
        [torch.func.jvp(lambda x, w=w: torch.func.vjp(f, x)[1](w)[0], (z,), (v,))[1] for w, v in zip(W, V, strict=True)]
    )


def reverse_over_reverse(f: Function, z: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """Hessian-vector products of <w, f> by two reverse passes; the Hessian is symmetric."""
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        y = f(x)
        return torch.stack([_grad(_grad(y, x, w, create_graph=True), x, v) for w, v in zip(W, V, strict=True)])


def reverse_differences(f: Function, z: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """Central differences of reverse-mode gradients."""
    return _hessian_differences(lambda x, w: reverse(f, x, w[None])[0], z, W, V, order=4)


def second_differences(f: Function, z: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """Differences of differences, for functions without any derivative."""
    return _hessian_differences(lambda x, w: transposed_differences(f, x, w[None])[0], z, W, V, order=6)


def _hessian_differences(
    gradient: Callable[[Tensor, Tensor], Tensor], z: Tensor, W: Tensor, V: Tensor, *, order: int
) -> Tensor:
    h = step_size(z, order)
    size = V.norm(dim=-1, keepdim=True)
    unit = V / torch.where(size > 0, size, 1.0)
    products = []
    for w, u in zip(W, unit, strict=True):
        near = gradient(z + h * u, w) - gradient(z - h * u, w)
        far = gradient(z + 2 * h * u, w) - gradient(z - 2 * h * u, w)
        products.append((8 * near - far) / (12 * h))
    return torch.stack(products) * size


# --- second directional derivatives: (f, z, u, v) -> (B, D) ---------------------------------------------------------


def triple_reverse(f: Function, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """f''[u, v] as the derivative of the linear map w -> <w, f''[u, v]>: three reverse passes."""
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        y = f(x)
        w = torch.zeros_like(y, requires_grad=True)
        Hu = _grad(_grad(y, x, w, create_graph=True), x, u, create_graph=True)
        return _grad(Hu, w, v)


def first_differences(f: Function, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """f''[u, v] by polarised second differences of f."""

    def along(s: Tensor) -> Tensor:
        h = step_size(z, 5)
        size = s.norm(dim=-1, keepdim=True)
        e = h * s / torch.where(size > 0, size, 1.0)
        near, far = f(z + e) + f(z - e), f(z + 2 * e) + f(z - 2 * e)
        return (16 * near - far - 30 * f(z)) / (12 * h**2) * size**2

    with torch.no_grad():
        return (along(u + v) - along(u - v)) / 4


FIRST: dict[str, Callable[[Function, Tensor, Tensor], Tensor]] = {
    "forward": forward,
    "forward loop": forward_loop,
    "double backward": double_backward,
    "reverse rows": reverse_rows,
    "finite differences": differences,
}
PULLBACK: dict[str, Callable[[Function, Tensor, Tensor], Tensor]] = {
    "reverse": reverse,
    "finite differences": transposed_differences,
}
HESSIAN: dict[str, Callable[[Function, Tensor, Tensor, Tensor], Tensor]] = {
    "forward over reverse": forward_over_reverse,
    "forward over reverse, loop": forward_over_reverse_loop,
    "reverse over reverse": reverse_over_reverse,
    "differences of reverse": reverse_differences,
    "finite differences": second_differences,
}
SECOND: dict[str, Callable[[Function, Tensor, Tensor, Tensor], Tensor]] = {
    "triple reverse": triple_reverse,
    "finite differences": first_differences,
}
