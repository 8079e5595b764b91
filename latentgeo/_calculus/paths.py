"""Derivative paths: the different ways to differentiate a function that acts on rows independently.

Every path computes the same things. Which of them is *right* for a given function is decided by the probe, because some
forward-mode formulas of PyTorch are silently wrong or missing. `f` maps (B, d) to (B, D); `V` and `W` stack m tangents
(m, B, d) and cotangents (m, B, D). No path forms a derivative of a forward-mode tangent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import differences as fd

__all__ = ["FIRST", "HESSIAN", "PULLBACK", "SECOND", "Function", "basis", "bends", "plain_kernels", "together"]

Function = Callable[[Tensor], Tensor]


def _grad(y: Tensor, x: Tensor, cotangent: Tensor, *, create_graph: bool = False, retain: bool = True) -> Tensor:
    """Reverse-mode derivative, zero where `y` does not depend on `x`."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    (g,) = torch.autograd.grad(y, x, cotangent, create_graph=create_graph, retain_graph=retain, allow_unused=True)
    return torch.zeros_like(x) if g is None else g


_kernel_lock = threading.RLock()  # the switches below are global to the process


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Attention by plain matrix products: its fused kernels have no forward mode and no second derivative."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with _kernel_lock:
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def basis(z: Tensor) -> Tensor:
    """Unit tangents at every row, (d, B, d)."""
    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    return eye[:, None, :].expand(-1, z.shape[0], -1)


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
    """Extrapolated central differences."""
    return fd.first(f, z, V)[0]


# --- transposed derivatives: (f, z, W) -> (m, B, d) -----------------------------------------------------------------


def reverse(f: Function, z: Tensor, W: Tensor) -> Tensor:
    """Jᵀw by reverse mode; the forward pass is shared by all cotangents."""
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        y = f(x)
        return torch.stack([_grad(y, x, w) for w in W])


def forward_transposed(f: Function, z: Tensor, W: Tensor) -> Tensor:
    """Jᵀw with the whole Jacobian in forward mode, for functions that switch reverse mode off."""
    with torch.no_grad():
        return torch.einsum("dBD,mBD->mBd", forward(f, z, basis(z)), W)


def transposed_differences(f: Function, z: Tensor, W: Tensor) -> Tensor:
    """Jᵀw with J by finite differences."""
    return torch.einsum("dBD,mBD->mBd", differences(f, z, basis(z)), W)


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
    return fd.gradient_changes(lambda x, w: reverse(f, x, w[None])[0], z, W, V)


def forward_differences(f: Function, z: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """Central differences of forward-mode Jacobians."""
    return fd.gradient_changes(lambda x, w: forward_transposed(f, x, w[None])[0], z, W, V)


def second_differences(f: Function, z: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """Second differences along every axis, for functions without any derivative."""
    rows = []
    for w, v in zip(W, V, strict=True):
        bends = torch.stack([fd.second(f, z, e, v) for e in basis(z)], -1)  # (B, D, d)
        rows.append(torch.einsum("BD,BDd->Bd", w, bends))
    return torch.stack(rows)


# --- first and second derivatives together: (f, z, w(y)) -> Jᵀw, J, Hessian of <w, f> ------------------------------


def together(f: Function, z: Tensor, covector: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Jᵀw (B, d), J (B, d, D) and the Hessian of <w, f> (B, d, d), with w = covector(f(z)) held fixed.

    Jᵀw is linear in w, so one reverse pass through it along a tangent v gives Jv and the Hessian times v: the whole
    costs about as much as the Hessian alone.
    """
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        y = f(x)
        w = covector(y.detach()).detach().requires_grad_()
        (g,) = torch.autograd.grad(y, x, w, create_graph=True)
        B, d = z.shape
        J, H = y.new_zeros(B, d, y.shape[-1]), z.new_zeros(B, d, d)
        for i in range(d):
            h, j = torch.autograd.grad(g[:, i].sum(), (x, w), retain_graph=i + 1 < d, allow_unused=True)
            if j is not None:
                J[:, i] = j
            if h is not None:
                H[:, i] = h
    return g.detach(), J, H


# --- second directional derivatives: (f, z, u, v) -> (B, D) ---------------------------------------------------------


def triple_reverse(f: Function, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """f''[u, v] as the derivative of the linear map w -> <w, f''[u, v]>: three reverse passes."""
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        y = f(x)
        w = torch.zeros_like(y, requires_grad=True)
        Hu = _grad(_grad(y, x, w, create_graph=True), x, u, create_graph=True)
        return _grad(Hu, w, v)


def bends(f: Function, z: Tensor, v: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """J (d, B, D), and f''[v, u] for m vectors U (m, B, d): (m, B, D), as `triple_reverse`, from one graph."""
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        y = f(x)
        w = torch.zeros_like(y, requires_grad=True)
        g = _grad(y, x, w, create_graph=True)
        J = torch.stack([_grad(g, w, e) for e in basis(z)])
        Hv = _grad(g, x, v, create_graph=True)
        return J, torch.stack([_grad(Hv, w, u) for u in U])


def first_differences(f: Function, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """f''[u, v] by polarised second differences of f."""
    return fd.second(f, z, u, v)


def jacobian_differences(f: Function, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """f''[u, v] by differences along u of forward-mode derivatives along v."""
    s, length = fd.unit(u)

    def slope(x: Tensor) -> Tensor:
        return forward(f, x, v[None])[0]

    def quotient(h: Tensor) -> Tensor:
        return (slope(z + h * s) - slope(z - h * s)) / (2 * h)

    with torch.no_grad():
        return fd.richardson(quotient, fd.first_step(z), slope(z).norm(dim=-1))[0] * length


# --- gradients of <w, Jv> with respect to weights ---------------------------------------------------------------------


def weight_gradients(
    f: Function, z: Tensor, w: Tensor, v: Tensor, weights: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """By two reverse passes."""
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(x), x, w, create_graph=True)
        return torch.autograd.grad(g, weights, v, allow_unused=True)


def weight_differences(
    f: Function, z: Tensor, w: Tensor, v: Tensor, weights: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """By differences along v of one reverse pass."""
    u, length = fd.unit(v)
    w = w * length

    def quotient(h: Tensor) -> Tensor:
        with torch.enable_grad():
            change = (w * (f(z + h * u) - f(z - h * u)) / (2 * h)).sum()
            parts = torch.autograd.grad(change, weights, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(weights, parts, strict=True)]
        )[None]

    h = fd.first_step(z).amax(0, keepdim=True)
    flat = fd.richardson(quotient, h, quotient(h).norm(dim=-1))[0][0]
    sizes = [p.numel() for p in weights]
    return tuple(part.view_as(p) for part, p in zip(flat.split(sizes), weights, strict=True))


FIRST: dict[str, Callable[[Function, Tensor, Tensor], Tensor]] = {
    "forward": forward,
    "forward loop": forward_loop,
    "double backward": double_backward,
    "reverse rows": reverse_rows,
    "finite differences": differences,
}
PULLBACK: dict[str, Callable[[Function, Tensor, Tensor], Tensor]] = {
    "reverse": reverse,
    "forward": forward_transposed,
    "finite differences": transposed_differences,
}
HESSIAN: dict[str, Callable[[Function, Tensor, Tensor, Tensor], Tensor]] = {
    "forward over reverse": forward_over_reverse,
    "forward over reverse, loop": forward_over_reverse_loop,
    "reverse over reverse": reverse_over_reverse,
    "differences of reverse": reverse_differences,
    "differences of forward": forward_differences,
    "finite differences": second_differences,
}
SECOND: dict[str, Callable[[Function, Tensor, Tensor, Tensor], Tensor]] = {
    "triple reverse": triple_reverse,
    "differences of forward": jacobian_differences,
    "finite differences": first_differences,
}
