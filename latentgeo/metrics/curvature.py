"""Curvature of a metric: Riemann tensor, Ricci, scalar and sectional curvature, second fundamental form.

Where the metric is pulled back through φ, second derivatives of φ suffice (Gauss's equation; do Carmo, "Riemannian
Geometry", 1992, chapter 6), also under an ambient metric: in coordinates whose Christoffel symbols vanish at the code
the third derivatives cancel. A metric without embedding is differentiated twice by automatic differentiation.
R_ijkl = K (g_ik g_jl − g_il g_jk) where the curvature is a constant K, so that the unit sphere has K = +1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .._calculus import DEFAULT_MAX_BYTES, RankError, check_flag, mark_constant
from .._calculus.linalg import factored
from ._fields import Ambient, tensor_derivative, tensor_field

if TYPE_CHECKING:
    from .._calculus import Embedding
    from .base import Metric

__all__ = ["ricci", "riemann", "scalar", "second_fundamental_form", "sectional"]


class InFlat(NamedTuple):
    """Curvature at B codes whose image lies in a flat space, in an orthonormal frame of m directions, float64.

    `root` (B, m, m) is upper triangular, its columns are the directions in that frame; `normal` (B, m, m, k) are the
    normal parts of φ's second derivatives, in an orthonormal basis of their span.
    """

    root: Tensor
    singular: Tensor
    normal: Tensor

    def tensor(self) -> Tensor:
        """The curvature tensor, (B, m, m, m, m)."""
        return _swapped(_inner(self.normal, self.normal))

    def ricci(self) -> Tensor:
        """The contraction over the first and third index, (B, m, m)."""
        n = self.normal  # never (B, m, m, m, m), which large d could not hold
        trace = torch.einsum("BaaD->BD", n)
        return torch.einsum("BD,BbcD->Bbc", trace, n) - torch.einsum("BacD,BabD->Bbc", n, n)


class InFrame(NamedTuple):
    """`InFlat` for all other metrics, with the curvature tensor itself in that frame, (B, m, m, m, m)."""

    root: Tensor
    singular: Tensor
    riemann: Tensor

    def tensor(self) -> Tensor:
        """The curvature tensor, (B, m, m, m, m)."""
        return self.riemann

    def ricci(self) -> Tensor:
        """The contraction over the first and third index, (B, m, m)."""
        return torch.einsum("Babac->Bbc", self.riemann)


def riemann(metric: Metric, z: Tensor, *, throw: bool) -> Tensor:
    """Curvature tensor R_ijkl, (*batch, d, d, d, d)."""

    def compute(local: InFlat | InFrame) -> Tensor:
        return _change(local.tensor(), local.root)

    return _on_axes(metric, "riemann", z, compute, 4, throw)


def ricci(metric: Metric, z: Tensor, *, throw: bool) -> Tensor:
    """Ricci tensor g^ik R_ijkl, (*batch, d, d)."""
    return _on_axes(metric, "ricci", z, lambda local: _change(local.ricci(), local.root), 2, throw)


def scalar(metric: Metric, z: Tensor, *, throw: bool) -> Tensor:
    """Scalar curvature g^jl R_jl, (*batch,)."""
    return _on_axes(metric, "scalar_curvature", z, lambda local: torch.einsum("Bbb->B", local.ricci()), 0, throw)


def sectional(metric: Metric, z: Tensor, u: Tensor, v: Tensor, *, throw: bool) -> Tensor:
    """Sectional curvature of the planes spanned by u and v, (*batch,); NaN where they are parallel."""
    check_flag(throw, "throw")
    z, u, v = torch.broadcast_tensors(z, u, v)
    d = z.shape[-1]
    if d == 1:  # no planes
        return mark_constant(torch.full_like(z[..., 0], torch.nan), "sectional_curvature", z, u, v)

    def compute(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        local = _local(metric, x, torch.stack([a, b], 1))
        flat = _dependent(local.root, x.dtype)
        value = local.tensor()[:, 0, 1, 0, 1]
        return torch.where(flat, torch.nan, value), local.singular

    flat = [t.detach().reshape(-1, d) for t in (z, u, v)]
    value, singular = _by_rows(metric, compute, flat, (), pairs=3)
    if throw:
        _refuse(singular, "sectional_curvature")
    value = torch.where(singular, torch.nan, value)
    return mark_constant(value.to(z.dtype).reshape(z.shape[:-1]), "sectional_curvature", z, u, v)


def second_fundamental_form(metric: Metric, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The part of the image's acceleration that is normal to the image, II(u, v), (*batch, D)."""
    phi = metric.embedding
    if phi is None:
        raise ValueError(
            f"`second_fundamental_form` needs a metric that is pulled back through an embedding, which "
            f"{metric!r} is not; its intrinsic curvature is `riemann`, `ricci` and `scalar_curvature`"
        )
    z, u, v = torch.broadcast_tensors(z, u, v)
    d = z.shape[-1]
    ambient = None if metric.ambient is None else Ambient.of(metric.ambient)

    def compute(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        J = phi.jacobian(x).double()
        bend = phi.second(x, a, b).double()
        if ambient is None:
            Q, root = torch.linalg.qr(J)
            return _off(Q, bend), _dependent(root, x.dtype)
        y, s, t = phi(x), phi.jvp(x, a + b), phi.jvp(x, a - b)
        A = ambient(y).double()
        turn = 0.25 * (ambient.geodesic_term(y, s) - ambient.geodesic_term(y, t)).double()
        bend = bend + (turn / A if A.ndim == 2 else torch.linalg.solve(A, turn))
        AJ = _apply(A, J)
        G = J.mT @ AJ
        root, singular = _upper(G, x.dtype)
        tangent = _solve(G, root, singular, torch.einsum("BDi,BD->Bi", AJ, bend)[:, None, None])[:, 0, 0]
        return bend - torch.einsum("BDi,Bi->BD", J, tangent), singular

    flat = [t.detach().reshape(-1, d) for t in (z, u, v)]
    value, singular = _by_rows(metric, compute, flat, (phi.out_dim(z),), pairs=1)
    _refuse(singular, "second_fundamental_form")
    value = value.to(z.dtype).reshape((*z.shape[:-1], value.shape[-1]))
    return mark_constant(value, "second_fundamental_form", z, u, v)


# --- rows, budgets, failures ----------------------------------------------------------------------------------------


def _on_axes(
    metric: Metric, name: str, z: Tensor, compute: Callable[[InFlat | InFrame], Tensor], order: int, throw: bool
) -> Tensor:
    """A tensor of that order in the coordinate axes, computed chunk by chunk."""
    check_flag(throw, "throw")
    metric.check(z)
    d = z.shape[-1]
    flat = z.detach().reshape(-1, d)

    def rows(x: Tensor) -> tuple[Tensor, Tensor]:
        eye = torch.eye(d, dtype=x.dtype, device=x.device).expand(x.shape[0], d, d)
        local = _local(metric, x, eye)
        return compute(local), local.singular

    full = order == 4 or metric.embedding is None or metric.ambient is not None
    pairs = d * (d + 1) // 2
    value, singular = _by_rows(metric, rows, [flat], (d,) * order, pairs=pairs, entries=d**4 if full else d * d)
    if throw:
        _refuse(singular, name)
    value = torch.where(singular.reshape(-1, *(1,) * order), torch.nan, value)
    return mark_constant(value.to(z.dtype).reshape((*z.shape[:-1], *(d,) * order)), name, z)


def _by_rows(
    metric: Metric,
    compute: Callable[..., tuple[Tensor, Tensor]],
    flat: list[Tensor],
    tail: tuple[int, ...],
    *,
    pairs: int,
    entries: int = 16,
) -> tuple[Tensor, Tensor]:
    """Apply `compute` to chunks of rows whose second derivatives (`pairs` of them) and `entries` fit the budget."""
    x = flat[0]
    rows, d = x.shape
    if rows == 0:
        return x.new_empty(0, *tail), torch.zeros(0, dtype=torch.bool, device=x.device)
    phi = metric.embedding
    budget = DEFAULT_MAX_BYTES if phi is None else phi.max_bytes
    width = d * d if phi is None else phi.out_dim(x)
    vectors = (pairs + d) * (1 if metric.ambient is None else 1 + d)
    step = max(1, budget // (32 * (vectors * width + entries)))
    with torch.no_grad():
        parts = [compute(*(t[i : i + step] for t in flat)) for i in range(0, rows, step)]
    known = x.isfinite().all(-1)  # a metric may not look at all coordinates
    return torch.cat([value for value, _ in parts]), torch.cat([singular for _, singular in parts]) | ~known


def _refuse(singular: Tensor, what: str) -> None:
    if bool(singular.any()):
        raise RankError(
            f"{what} needs an invertible metric tensor: it is rank-deficient or not finite at {int(singular.sum())} "
            f"of {singular.numel()} codes"
        )


# --- the curvature of a metric along m directions V (B, m, d) at codes z (B, d) -------------------------------------


def _local(metric: Metric, z: Tensor, V: Tensor) -> InFlat | InFrame:
    phi, d = metric.embedding, z.shape[-1]
    if phi is None:
        return _of_tensor(metric, z, V)
    if metric.ambient is not None:
        return _of_curved(phi, Ambient.of(metric.ambient), z, V)
    # One factorisation of [J, φ''] takes the second derivatives' tangential part away and keeps inner products of the
    # rest, in as many numbers as there are pairs of directions.
    columns = torch.cat([phi.jacobian(z).double(), _along_pairs(phi.second, z, V).mT], -1)
    R = torch.linalg.qr(columns, mode="r")[1]
    R = torch.nn.functional.pad(R, (0, 0, 0, max(0, d - R.shape[1])))
    root = torch.linalg.qr(R[:, :d, :d] @ V.double().mT)[1]
    singular = _dependent(R[:, :d, :d], z.dtype)
    normal = _symmetric(R[:, d:, d:].mT, V.shape[1])
    return InFlat(root, singular, _change(normal, _inverse(root, singular), axes=2))


def _of_curved(phi: Embedding, ambient: Ambient, z: Tensor, V: Tensor) -> InFrame:
    """Under an ambient metric A: its second derivatives along the image, first ones along the normal parts."""
    y, W = phi(z), V.double()
    A = ambient(y).double()
    J, H = phi.jacobian(z).double(), _stacked(phi.second, z, V)
    P = W @ J.mT  # (B, m, D), images of the directions
    AJ = _apply(A, J)
    G = J.mT @ AJ
    root, singular = _upper(G, z.dtype)

    def form(F: Tensor, X: Tensor, Y: Tensor) -> Tensor:
        """F(X_a, Y_b) as (B, ..., a, b) for forms (B, ..., *A's shape)."""
        FX = torch.einsum("B...DE,BaD->B...aE", F, X) if A.ndim == 3 else torch.einsum("B...D,BaD->B...aD", F, X)
        return torch.einsum("B...aD,BbD->B...ab", FX, Y)

    def change(X: Tensor) -> Tensor:
        """Derivatives of A along vectors X (B, ..., D) of the image space, (B, ..., *A's shape)."""
        some = X.to(z.dtype).flatten(1, -2).movedim(1, 0)
        found = torch.stack([ambient.field.jvp(y, x) for x in some], 1).double()
        return found.reshape(*X.shape[:-1], *A.shape[1:])

    dA = change(J.mT)  # along the image of each axis
    mixed = torch.einsum("Bak,Bkbl->Babl", W, form(dA, P, J.mT))  # (∂_a A)(P_b, J_l)
    lower = torch.einsum("BDl,BabD->Babl", AJ, H)
    lower = lower + 0.5 * (mixed + mixed.transpose(1, 2) - form(dA, P, P).movedim(1, -1))
    # second derivatives in coordinates whose Christoffel symbols vanish here
    n = H - torch.einsum("BDk,Babk->BabD", J, _solve(G, root, singular, lower))
    pairs = n.flatten(1, 2)
    m = W.shape[1]
    ddA = _stacked(ambient.field.second, y, P.to(z.dtype)).reshape(-1, m, m, *A.shape[1:])
    second = form(ddA + change(n), P, P)  # [c, d, a, b] = ∂_c ∂_d G_ab, but for what comes from φ alone
    turn = form(torch.einsum("Bak,Bk...->Ba...", W, dA), pairs, P).unflatten(2, (m, m))
    turn = torch.einsum("Bcadb->Bcdab", turn)  # (∂_c A)(n_ad, P_b)
    turn = turn + turn.transpose(1, 2)
    second = second + turn + turn.transpose(3, 4)
    products = form(A, pairs, pairs).unflatten(2, (m, m)).unflatten(1, (m, m))
    return _framed(W @ G @ W.mT, singular, _swapped(products) + _curl(second), z.dtype)


def _of_tensor(metric: Metric, z: Tensor, V: Tensor) -> InFrame:
    """From the metric tensor and its first and second derivatives."""
    d, W = z.shape[-1], V.double()
    G = metric.tensor(z).double()
    dG = tensor_derivative(metric, z).double()  # [i, j, k] = ∂_k G_ij
    root, singular = _upper(G, z.dtype)
    ddG = _stacked(tensor_field(metric).second, z, V).unflatten(-1, (d, d))
    mixed = torch.einsum("Blik,Bak,Bbi->Babl", dG, W, W)
    lower = 0.5 * (mixed + mixed.transpose(1, 2) - torch.einsum("Bijl,Bai,Bbj->Babl", dG, W, W))
    gamma = _solve(G, root, singular, lower)
    products = torch.einsum("Babl,Bcdl->Babcd", lower, gamma)
    second = torch.einsum("Babij,Bci,Bdj->Babcd", ddG, W, W)
    return _framed(W @ G @ W.mT, singular, _curl(second) - _swapped(products), z.dtype)


def _framed(gram: Tensor, singular: Tensor, riemann: Tensor, dtype: torch.dtype) -> InFrame:
    """The curvature tensor on directions with that Gram matrix, in an orthonormal frame of theirs."""
    root, _ = _upper(gram, dtype)
    return InFrame(root, singular, _change(riemann, _inverse(root, singular)))


# --- small algebra --------------------------------------------------------------------------------------------------


def _along_pairs(second: Callable[[Tensor, Tensor, Tensor], Tensor], z: Tensor, V: Tensor) -> Tensor:
    """Second derivatives along all pairs of directions V (B, m, d), in one call: (B, m (m + 1) / 2, D) in float64."""
    a, b = torch.triu_indices(V.shape[1], V.shape[1], device=z.device)
    found = second(z.expand(len(a), *z.shape), V[:, a].movedim(1, 0), V[:, b].movedim(1, 0))
    return found.movedim(0, 1).double()


def _symmetric(pairs: Tensor, m: int) -> Tensor:
    """What belongs to pairs (B, m (m + 1) / 2, k) as a symmetric (B, m, m, k)."""
    a, b = torch.triu_indices(m, m, device=pairs.device)
    out = pairs.new_empty(pairs.shape[0], m, m, pairs.shape[-1])
    out[:, a, b], out[:, b, a] = pairs, pairs
    return out


def _stacked(second: Callable[[Tensor, Tensor, Tensor], Tensor], z: Tensor, V: Tensor) -> Tensor:
    """Second derivatives along all pairs of directions as (B, m, m, D)."""
    return _symmetric(_along_pairs(second, z, V), V.shape[1])


def _off(Q: Tensor, X: Tensor) -> Tensor:
    """Vectors (B, ..., D) without their part in the span of Q (B, D, k)."""
    return X - torch.einsum("BDk,B...k->B...D", Q, torch.einsum("BDk,B...D->B...k", Q, X))


def _inner(n: Tensor, m: Tensor) -> Tensor:
    """[a, b, c, d] = ⟨n_ab, m_cd⟩."""
    return torch.einsum("BabD,BcdD->Babcd", n, m)


def _swapped(T: Tensor) -> Tensor:
    """[a, b, c, d] = T_acbd − T_adbc: Gauss's equation for T = ⟨II, II⟩."""
    return torch.einsum("Bacbd->Babcd", T) - torch.einsum("Badbc->Babcd", T)


def _curl(T: Tensor) -> Tensor:
    """½(T_bc,ad + T_ad,bc − T_ac,bd − T_bd,ac) as [a, b, c, d], for T[c, d, a, b] = ∂_c ∂_d G_ab."""
    terms = [torch.einsum(f"B{s}->Babcd", T) for s in ("bcad", "adbc", "acbd", "bdac")]
    return 0.5 * (terms[0] + terms[1] - terms[2] - terms[3])


def _change(T: Tensor, M: Tensor, axes: int | None = None) -> Tensor:
    """Σ T_ij… M_ia M_jb … over the first `axes` axes after the batch (all, if None)."""
    for axis in range(1, 1 + (T.ndim - 1 if axes is None else axes)):
        T = torch.einsum("Bi...,Bia->Ba...", T.movedim(axis, 1), M).movedim(1, axis)
    return T


def _inverse(root: Tensor, singular: Tensor) -> Tensor:
    bad = singular | ~(root.diagonal(dim1=-2, dim2=-1).abs() > 0).all(-1) | ~root.isfinite().flatten(1).all(-1)
    eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    inverse = torch.linalg.solve_triangular(torch.where(bad[:, None, None], eye, root), eye, upper=True)
    return torch.where(bad[:, None, None], torch.nan, inverse)


def _solve(G: Tensor, root: Tensor, singular: Tensor, lower: Tensor) -> Tensor:
    """G⁻¹ applied to the last axis of (B, a, b, d), given G's upper factor."""
    eye = torch.eye(G.shape[-1], dtype=root.dtype, device=root.device)
    safe = torch.where(singular[:, None, None], eye, root)
    return torch.cholesky_solve(lower.flatten(1, 2).mT, safe, upper=True).mT.reshape(lower.shape)


def _dependent(root: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether columns with this upper factor are linearly dependent to the precision they were computed in."""
    length = root.norm(dim=-2)
    pivot = root.diagonal(dim1=-2, dim2=-1).abs()
    return ~(pivot > 16 * root.shape[-1] * torch.finfo(dtype).eps * length).all(-1)


def _upper(G: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Upper factors of Gram matrices, and which of them are singular to the precision of `dtype`."""
    factor, singular = factored(G, dtype)
    return factor.mT, singular


def _apply(A: Tensor, J: Tensor) -> Tensor:
    """An ambient metric tensor, its diagonal (B, D) or full (B, D, D), applied to columns (B, D, k)."""
    return A[..., None] * J if A.ndim == 2 else A @ J
