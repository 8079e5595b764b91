"""What a metric does to vectors, and its volume, without forming G: for latent spaces of many dimensions.

G = JᵀJ acts by one directional derivative and one reverse pass. Conjugate gradients give G⁻¹w (Hestenes & Stiefel
1952), stochastic Lanczos quadrature gives log det G (Ubaru, Chen, Saad 2017).
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._calculus import (
    DEFAULT_MAX_BYTES,
    Embedding,
    RankError,
    RankWarning,
    check_flag,
    check_integer,
    check_positive,
    check_vectors,
)
from .._calculus.seeds import torch_random

if TYPE_CHECKING:
    from .base import Metric

__all__ = ["LinearSolution", "LogVolumeEstimate", "conjugate_gradients", "estimate_log_volume"]

_CONDITION = 4.0  # eigenvalues below this · d · eps of the largest are rounding


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LinearSolution:
    """Solutions of Gx = w, each with its own accuracy.

    Attributes
    ----------
    x : Tensor of shape (*batch, d)
        The best found, converged or not.
    residual : Tensor of shape (*batch,)
        |Gx − w| / |w|.
    converged : Tensor of shape (*batch,), bool
        Whether the residual reached `rtol`.
    steps : Tensor of shape (*batch,)
        Products Gv that each took.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> found = conjugate_gradients(Sphere(20), torch.zeros(2, 20), torch.ones(2, 20))
    >>> found.converged, found.steps
    (tensor([True, True]), tensor([1, 1]))
    """

    x: Tensor
    residual: Tensor
    converged: Tensor
    steps: Tensor

    def __repr__(self) -> str:
        worst = f", residual at most {float(self.residual.max()):.1e}" if self.residual.numel() else ""
        return f"LinearSolution({int(self.converged.sum())}/{self.converged.numel()} converged{worst})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LogVolumeEstimate:
    """A stochastic estimate of ½ log det G.

    Attributes
    ----------
    value : Tensor of shape (*batch,)
        Minus infinity where a Lanczos process met an eigenvalue that is zero to working precision.
    standard_error : Tensor of shape (*batch,)
        Of the mean over probes.
    truncation : Tensor of shape (*batch,)
        How much the last quarter of the Lanczos steps changed the value: the size of the error that more probes do not
        remove. Raise `n_steps` where it is not small.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> Sphere(20).estimate_log_volume(torch.zeros(20, dtype=torch.float64), random_state=0)  # 20 log 2 = 13.863
    LogVolumeEstimate(13.86 ± 0)
    """

    value: Tensor
    standard_error: Tensor
    truncation: Tensor

    def __repr__(self) -> str:
        if self.value.numel() == 1:
            return f"LogVolumeEstimate({float(self.value):.4g} ± {float(self.standard_error):.1g})"
        return f"LogVolumeEstimate(batch={tuple(self.value.shape)})"


def conjugate_gradients(
    metric: Metric, z: Tensor, w: Tensor, *, rtol: float | None = None, max_steps: int | None = None
) -> LinearSolution:
    """Solve G(z)x = w by conjugate gradients, all codes at once.

    Parameters
    ----------
    metric : Metric
    z, w : Tensor of shape (*batch, d)
        Codes and covectors; batch shapes broadcast.
    rtol : float, optional
        Relative residual to reach; None means 1e-10 in float64 and 1e-5 in float32.
    max_steps : int, optional
        Most products per code; None means 2·d.

    Returns
    -------
    LinearSolution

    Raises
    ------
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> z = torch.zeros(20, dtype=torch.float64)
    >>> conjugate_gradients(Sphere(20), z, torch.ones_like(z)).x[:2]
    tensor([0.2500, 0.2500], dtype=torch.float64)
    """
    metric.check(z)
    check_vectors(z, w=w)
    d = z.shape[-1]
    check_positive(rtol, "rtol", optional=True)
    check_integer(max_steps, "max_steps", optional=True)
    rtol = (1e-10 if z.dtype == torch.float64 else 1e-5) if rtol is None else rtol
    most = 2 * d if max_steps is None else max_steps
    z, w = (t.detach() for t in torch.broadcast_tensors(z, w))
    batch = z.shape[:-1]
    z, w = z.reshape(-1, d), w.reshape(-1, d).double()
    x, r, p = torch.zeros_like(w), w.clone(), w.clone()
    rr = r.square().sum(-1)
    size = rr.clone()
    steps = torch.zeros(len(z), dtype=torch.long, device=z.device)
    index = (size > 0).nonzero()[:, 0]
    for _ in range(most):
        if len(index) == 0:
            break
        Gp = metric.product(z[index], p[index].to(z.dtype)).double()
        steps[index] += 1
        curvature = (p[index] * Gp).sum(-1)
        good = (curvature > 0) & curvature.isfinite()
        index, Gp, curvature = index[good], Gp[good], curvature[good]
        alpha = (rr[index] / curvature)[:, None]
        x[index] += alpha * p[index]
        r[index] -= alpha * Gp
        fresh = r[index].square().sum(-1)
        p[index] = r[index] + (fresh / rr[index])[:, None] * p[index]
        rr[index] = fresh
        index = index[fresh > rtol**2 * size[index]]
    # the recurrence's residual drifts from the true one: measure it
    left = metric.product(z, x.to(z.dtype)).double() - w if len(z) else w
    residual = torch.where(size > 0, left.norm(dim=-1) / size.sqrt().clamp_min(1e-300), 0.0)
    floor = 64 * torch.finfo(z.dtype).eps
    converged = residual <= max(4 * rtol, floor)
    return LinearSolution(
        x.to(z.dtype).reshape(*batch, d),
        residual.to(z.dtype).reshape(batch),
        converged.reshape(batch),
        steps.reshape(batch),
    )


def solve(metric: Metric, z: Tensor, w: Tensor, *, iterate: bool, throw: bool) -> Tensor:
    """G⁻¹w: by conjugate gradients where told to, and by a triangular factor of G where they do not converge."""
    check_flag(throw, "throw")
    metric.check(z)
    check_vectors(z, w=w)
    z, w = (t.detach() for t in torch.broadcast_tensors(z, w))
    d = z.shape[-1]
    codes, covectors = z.reshape(-1, d).contiguous(), w.reshape(-1, d)
    x = torch.full_like(codes, torch.nan)
    rest = torch.ones(len(codes), dtype=torch.bool, device=z.device)
    if iterate and len(codes):
        found = conjugate_gradients(metric, codes, covectors, max_steps=20 + d // 8)  # beyond, G itself is cheaper
        x[found.converged] = found.x[found.converged]
        rest = ~found.converged
    for rows in rest.nonzero()[:, 0].split(_rows_at_once(metric, z)):
        R = triangle(metric, codes[rows], "solve", throw=throw)
        lower = torch.linalg.solve_triangular(R.mT, covectors[rows].double()[..., None], upper=False)
        x[rows] = torch.linalg.solve_triangular(R, lower, upper=True)[..., 0].to(z.dtype)
    return x.reshape(z.shape)


def random_tangent(
    metric: Metric, z: Tensor, random_state: int | torch.Generator | None, *, throw: bool, iterate: bool
) -> Tensor:
    """Tangent vectors from N(0, G⁻¹): R⁻¹w with G = RᵀR and w ~ N(0, I), or G⁻¹Jᵀw, whose covariance is G⁻¹JᵀJG⁻¹."""
    check_flag(throw, "throw")
    metric.check(z)
    z = z.detach()
    generator = torch_random(random_state, z.device)
    phi = metric.embedding
    codes = z.reshape(-1, z.shape[-1]).contiguous()  # forward mode wants it
    out = [codes[:0]]
    for part in codes.split(_rows_at_once(metric, z)):
        width = part.shape[-1] if phi is None or not iterate else phi.out_dim(part)
        w = torch.randn(len(part), width, generator=generator, dtype=z.dtype, device=generator.device).to(z.device)
        if phi is not None and iterate:
            out.append(solve(metric, part, phi.vjp(part, w), iterate=True, throw=throw))
        else:
            R = triangle(metric, part, "random_tangent", throw=throw)
            out.append(torch.linalg.solve_triangular(R, w.double()[..., None], upper=True)[..., 0].to(z.dtype))
    return torch.cat(out).reshape(z.shape)


def log_volume(metric: Metric, z: Tensor) -> Tensor:
    """½ log det G by the QR factorisation of J, in which small stretches survive that G = JᵀJ loses to rounding."""
    metric.check(z)
    codes = z.detach().reshape(-1, z.shape[-1]).contiguous()
    parts = [codes[:0, 0].double()]
    for part in codes.split(_rows_at_once(metric, z)):
        R, deficient = _triangle(metric, part)
        size = R.diagonal(dim1=-2, dim2=-1).abs()
        value = torch.where(deficient[:, None], 1.0, size).log().sum(-1)
        lost = torch.where(R.isfinite().flatten(1).all(-1), -torch.inf, torch.nan)
        parts.append(torch.where(deficient, lost, value))
    value = torch.cat(parts)
    if bool((value == -torch.inf).any()):
        text = f"it is rank-deficient at {int((value == -torch.inf).sum())} of {len(value)} codes"
        warnings.warn(f"the measure element is zero: {text}", RankWarning, stacklevel=3)
    return value.to(z.dtype).reshape(z.shape[:-1])


def triangle(metric: Metric, z: Tensor, what: str, *, throw: bool) -> Tensor:
    """Upper triangles R with G = RᵀR at rows z (B, d), float64; NaN, or `RankError`, where G is rank-deficient."""
    R, deficient = _triangle(metric, z)
    if throw and bool(deficient.any()):
        raise RankError(f"{what} needs an invertible metric tensor: {_describe(R, deficient)}")
    return torch.where(deficient[:, None, None], torch.nan, R)


def _triangle(metric: Metric, z: Tensor) -> tuple[Tensor, Tensor]:
    """Triangles and which of them are singular to the precision that J, or else G, was computed in."""
    d, eps = z.shape[-1], torch.finfo(z.dtype).eps
    phi = metric.embedding
    if phi is None or metric.ambient is not None or phi.out_dim(z) < d:
        G = metric.tensor(z).double()
        R = torch.linalg.cholesky_ex(G.nan_to_num(0.0)).L.mT
        least = 4 * d * eps
        size = G.diagonal(dim1=-2, dim2=-1)
        pivots = R.diagonal(dim1=-2, dim2=-1).square()
        finite = G.isfinite().flatten(1).all(-1)
    else:
        J = jacobian(phi, z).double()
        finite = J.isfinite().flatten(1).all(-1)
        R = torch.linalg.qr(J.nan_to_num(0.0), mode="r").R
        least = (4 * d * eps) ** 2
        size, pivots = J.square().sum(-2), R.diagonal(dim1=-2, dim2=-1).square()
    good = (pivots > least * size).all(-1) & (size > 0).all(-1) & finite
    return torch.where(finite[:, None, None], R, torch.nan), ~good


def _describe(R: Tensor, deficient: Tensor) -> str:
    bad = R[deficient]
    finite = bad.isfinite().flatten(1).all(-1)
    if not bool(finite.all()):
        return f"it is not finite at {int((~finite).sum())} of {deficient.numel()} codes"
    spectrum = torch.linalg.svdvals(bad)
    worst = int((spectrum[:, -1] / spectrum[:, 0].clamp_min(1e-300)).argmin())
    low, top = float(spectrum[worst, -1]), float(spectrum[worst, 0])
    condition = (top / low) ** 2 if low > 0 else float("inf")
    return (
        f"it is rank-deficient at {len(bad)} of {deficient.numel()} codes (d = {R.shape[-1]}, condition number "
        f"{condition:.1e}); float64 resolves more"
    )


def _rows_at_once(metric: Metric, z: Tensor) -> int:
    d, phi = z.shape[-1], metric.embedding
    width = d if phi is None or z.numel() == 0 else max(d, phi.out_dim(z))
    budget = DEFAULT_MAX_BYTES if phi is None else phi.max_bytes
    return max(1, budget // (32 * d * width))


def jacobian(phi: Embedding, z: Tensor) -> Tensor:
    """J (B, D, d) at rows z, in blocks of tangents where all at once would not keep to the memory budget."""
    d, room = z.shape[-1], _room(phi, z)
    if room >= d:
        return phi.jacobian(z)
    eye = torch.eye(d, dtype=z.dtype, device=z.device)
    rows = [torch.cat([phi.jvp_stack(row[None], part[:, None])[:, 0] for part in eye.split(room)]) for row in z]
    return torch.stack(rows).mT


def _room(phi: Embedding, z: Tensor) -> int:
    """Tangents at one code that keep to the memory budget together."""
    return max(1, phi.max_bytes // max(1, 2 * phi.probe(z).row_bytes) - 1) if len(z) else z.shape[-1]


def gram(phi: Embedding, z: Tensor) -> Tensor:
    """JᵀJ at rows z (B, d), in blocks of tangents where all at once would not keep to the memory budget."""
    room = _room(phi, z)
    if room >= z.shape[-1]:
        J = phi.pushforward_basis(z).movedim(0, 1)
        return J @ J.mT
    return torch.stack([_gram(phi, row, room) for row in z])


def _gram(phi: Embedding, z: Tensor, block: int) -> Tensor:
    """JᵀJ at one code, `block` tangents at a time."""
    d = z.shape[-1]
    eye = torch.eye(d, dtype=z.dtype, device=z.device)
    if d * phi.out_dim(z[None]) * z.element_size() <= phi.max_bytes:
        J = torch.cat([phi.jvp_stack(z[None], part[:, None])[:, 0] for part in eye.split(block)])
        return J @ J.mT
    rows = [phi.vjp_stack(z[None], phi.jvp_stack(z[None], part[:, None]))[:, 0] for part in eye.split(block)]
    G = torch.cat(rows)
    return 0.5 * (G + G.mT)


def estimate_log_volume(
    metric: Metric,
    z: Tensor,
    *,
    n_probes: int = 32,
    n_steps: int = 32,
    random_state: int | torch.Generator | None = None,
) -> LogVolumeEstimate:
    """Stochastic Lanczos quadrature of ½ log det G; see `Metric.estimate_log_volume`."""
    metric.check(z)
    check_integer(n_probes, "n_probes", 2)
    check_integer(n_steps, "n_steps", 2)
    batch, d = z.shape[:-1], z.shape[-1]
    generator = torch_random(random_state, z.device)
    codes = z.detach().reshape(-1, d)
    steps = min(n_steps, d)
    size = max(1, DEFAULT_MAX_BYTES // (16 * n_probes * steps * d))
    parts = [_quadrature(metric, codes[i : i + size], n_probes, steps, generator) for i in range(0, len(codes), size)]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)] if parts else [codes.new_empty(0)] * 3
    return LogVolumeEstimate(*(column.to(z.dtype).reshape(batch) for column in columns))


def _quadrature(
    metric: Metric, z: Tensor, probes: int, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, standard error and truncation at rows z (B, d), float64."""
    B, d = z.shape
    sign = torch.randint(0, 2, (B * probes, d), generator=generator, device=generator.device)
    q = (2.0 * sign.to(z.device).double() - 1) / d**0.5
    rows = z.repeat_interleave(probes, 0)
    basis, diagonal, beside = [q], [], []
    for k in range(steps):
        r = metric.product(rows, basis[-1].to(z.dtype)).double()
        diagonal.append((r * basis[-1]).sum(-1))
        if k == steps - 1:
            break
        for _ in range(2):  # once is not enough
            for v in basis:
                r = r - (r * v).sum(-1, keepdim=True) * v
        length = r.norm(dim=-1)
        # an invariant subspace was found: what follows has no weight
        alive = length > 1e-14 * torch.stack(diagonal).abs().amax(0)
        beside.append(torch.where(alive, length, 0.0))
        basis.append(torch.where(alive[:, None], r / length.clamp_min(1e-300)[:, None], 0.0))
    T = torch.stack(diagonal, -1).diag_embed()
    if beside:
        off = torch.stack(beside, -1)
        T = T + off.diag_embed(1) + off.diag_embed(-1)
    full = _log_mean(T, z.dtype, d)
    short = _log_mean(T[:, : max(1, 3 * steps // 4), : max(1, 3 * steps // 4)], z.dtype, d)
    full, short = (0.5 * d * part.reshape(B, probes) for part in (full, short))
    gap = (full - short).mean(-1).abs().nan_to_num(torch.inf)
    error = full.std(-1) / probes**0.5
    return full.mean(-1), error.nan_to_num(torch.inf), gap


def _log_mean(T: Tensor, dtype: torch.dtype, d: int) -> Tensor:
    """Σ τ² log θ of tridiagonal matrices T (R, k, k): −inf where an eigenvalue of weight is zero to rounding."""
    finite = T.isfinite().flatten(1).all(-1)
    values, vectors = torch.linalg.eigh(T.nan_to_num(0.0, 0.0, 0.0))
    weight = vectors[:, 0].square()
    zero = values <= _CONDITION * d * torch.finfo(dtype).eps * values[:, -1:]
    logs = torch.where(zero, 0.0, values.clamp_min(1e-300).log())
    lost = (zero & (weight > 1e-12)).any(-1)
    total = (weight * logs).sum(-1)
    return torch.where(finite, torch.where(lost, -torch.inf, total), torch.nan)
