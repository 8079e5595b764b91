"""Jacobi fields: how geodesics spread, and the differential of the exponential map.

DJ/dt = K, DK/dt = −R(J, ċ)ċ (do Carmo, "Riemannian Geometry", 1992, chapter 5), linear along a known curve: solved by
the sixth-order Magnus integrator of Blanes, Casas, Ros (BIT 42, 2002), all of a curve's coefficients in one batch. In a
flat embedding space curvature comes from second derivatives by Gauss's equation, elsewhere from differences of
accelerations.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._calculus import Embedding, as_tolerance, check_flag, check_like
from .._calculus.linalg import root as cholesky_root
from ..metrics import Metric
from ._ode import acceleration, lengths
from .curve import Curve, row_budget
from .geodesic import Geodesic, Status
from .initial_value import InitialValueSolver, Shots, checked_solver, code_and_vector

__all__ = ["ExpDifferential", "differential_exp", "jacobi_field", "propagate", "turning", "vectors_along"]

_SEGMENTS = 8  # of the first try
_DOUBLINGS = 6
_NODES = (0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5)  # Gauss-Legendre on [0, 1]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExpDifferential:
    """The exponential map at codes and velocities, with its derivative.

    Attributes
    ----------
    point, velocity : Tensor of shape (*batch, d)
        Where the geodesics arrive, and with which velocity.
    matrix : Tensor of shape (*batch, d, d)
        ∂expⁱ/∂vʲ, in latent coordinates.
    log_jacobian : Tensor of shape (*batch,)
        log(|det matrix|·√(det G(point)/det G(z))): by how much the map enlarges Riemannian volume; 0 in flat space,
        minus infinity at conjugate points.
    converged : Tensor of shape (*batch,), bool
    status : object array of Status, shape (*batch,)
        Where a geodesic failed, everything else is NaN.

    Examples
    --------
    >>> import latentgeo as lg
    >>> z, v = torch.zeros(2, dtype=torch.float64), torch.tensor([0.5, 0.0], dtype=torch.float64)
    >>> found = lg.differential_exp(lg.Sphere(2), z, v)
    >>> round(float(found.log_jacobian), 6), bool(found.converged)  # log(sin r / r) at r = 1, G = 4·I at z
    (-0.172604, True)
    """

    point: Tensor
    velocity: Tensor
    matrix: Tensor
    log_jacobian: Tensor
    converged: Tensor
    status: np.ndarray[Any, np.dtype[np.object_]]

    @property
    def det(self) -> Tensor:
        """Determinant of `matrix`, (*batch,)."""
        return torch.linalg.det(self.matrix.double()).to(self.matrix.dtype)

    def __repr__(self) -> str:
        batch, done = tuple(self.converged.shape), int(self.converged.sum())
        return f"ExpDifferential(batch={batch}, d={self.point.shape[-1]}, {done}/{self.converged.numel()} converged)"


def differential_exp(
    metric: Metric, z: Tensor, v: Tensor, *, solver: InitialValueSolver | None = None, throw: bool = True
) -> ExpDifferential:
    r"""The exponential map, its differential in v and the change of volume, by Jacobi fields.

    Parameters
    ----------
    metric : Metric
    z, v : Tensor of shape (*batch, d)
        Latent codes and velocities; batch shapes broadcast.
    solver : RungeKutta or TorchDiffEq, optional
        None means ``RungeKutta()``; its `rtol` bounds the relative error of the differential too.
    throw : bool
        Raise if any curve failed.

    Returns
    -------
    ExpDifferential

    Raises
    ------
    GeodesicError
        If ``throw`` and any curve failed.
    TypeError, ValueError
        If `z` or `v` have the wrong type, shape, dtype or device.

    References
    ----------
    .. [1] do Carmo, "Riemannian Geometry", 1992, chapter 5, corollary 2.5.

    Examples
    --------
    On the unit sphere the map shrinks areas by sin(r)/r:

    >>> from latentgeo.metrics import Sphere
    >>> quarter = torch.tensor([torch.pi / 4, 0.0], dtype=torch.float64)  # of length π/2: G = 4 I at 0
    >>> differential_exp(Sphere(2), torch.zeros(2, dtype=torch.float64), quarter).log_jacobian.exp()
    tensor(0.6366, dtype=torch.float64)
    """
    check_flag(throw, "throw")
    solver = checked_solver(solver)
    z, v = code_and_vector(metric, z, v, "v")
    batch, d = z.shape[:-1], z.shape[-1]
    with torch.no_grad():
        flat, w = z.detach().reshape(-1, d), v.detach().reshape(-1, d)
        shots = Shots(metric, solver, flat, w, path=True)
        matrix, _ = derivatives(shots)
        status = shots.status.reshape(batch)
        if throw:
            shots.geodesic(batch).raise_for_status()
        ok = shots.converged
        end = torch.where(ok[:, None, None], shots.end, torch.nan).to(z.dtype)
        matrix = torch.where(ok[:, None, None], matrix, torch.nan)
        known = ok.nonzero()[:, 0]
        grown = torch.full_like(matrix[:, 0, 0], torch.nan)
        if len(known):
            volumes = metric.log_volume(end[known, 0]).double() - metric.log_volume(flat[known]).double()
            grown[known] = torch.linalg.slogdet(matrix[known]).logabsdet + volumes
    return ExpDifferential(
        end[:, 0].reshape(*batch, d),
        end[:, 1].reshape(*batch, d),
        matrix.to(z.dtype).reshape(*batch, d, d),
        grown.to(z.dtype).reshape(batch),
        ok.reshape(batch),
        status,
    )


def derivatives(shots: Shots) -> tuple[Tensor, Tensor]:
    """∂exp/∂v and ∂exp/∂z (B, d, d), float64, of shots that kept their paths; marks those that are not accurate."""
    B, d = shots.z.shape
    eye = torch.eye(d, dtype=torch.float64, device=shots.z.device)
    zero = torch.zeros_like(eye)
    by_v, by_z = (torch.full((B, d, d), torch.nan, dtype=torch.float64, device=shots.z.device) for _ in range(2))
    still = (shots.v == 0).all(-1) & shots.converged
    by_v[still] = by_z[still] = eye  # exp is the identity to first order
    rtol = as_tolerance(getattr(shots.solver, "rtol", None), shots.z.dtype)
    for index, curve in shots.pieces:
        todo = (shots.converged[index] & ~still[index]).nonzero()[:, 0]
        if len(todo) == 0:
            continue
        index, curve = index[todo], curve.select(todo)
        start = torch.stack([torch.cat([zero, eye]), torch.cat([eye, zero])]).expand(len(index), 2, 2 * d, d)
        field, accurate = propagate(shots.metric, curve, start.movedim(1, 2).flatten(-2), rtol=rtol, covariant=False)
        end = field[:, -1, :d].unflatten(-1, (2, d))
        by_v[index], by_z[index] = end[..., 0, :], end[..., 1, :]
        for k in index[~accurate].tolist():
            shots.status[k] = Status.INACCURATE
    return by_v, by_z


def jacobi_field(path: Geodesic, start: Tensor, rate: Tensor, *, rtol: float | None = None) -> Tensor:
    r"""Jacobi fields along geodesics, at all their nodes.

    Parameters
    ----------
    path : Geodesic
        From `shoot` or `connect`.
    start, rate : Tensor of shape (*batch, d)
        J and its covariant derivative DJ/dt at t = 0. They broadcast with the path's batch shape, so that m fields
        along every curve have shape (m, *batch, d).
    rtol : float, optional
        Relative accuracy; None means 1e-6 in float64 and 1e-3 in float32.

    Returns
    -------
    Tensor of shape (*batch, n, d)
        J at `path.t`; NaN where the path is, and where `rtol` is not met.

    Raises
    ------
    TypeError, ValueError
        If `start` or `rate` have the wrong type, shape, dtype or device.

    References
    ----------
    .. [1] do Carmo, "Riemannian Geometry", 1992, chapter 5.

    Examples
    --------
    >>> from latentgeo.geodesics import shoot
    >>> from latentgeo.metrics import Euclidean
    >>> path = shoot(Euclidean(2), torch.zeros(2), torch.tensor([1.0, 0.0]))
    >>> jacobi_field(path, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))[-1]
    tensor([0., 3.])
    """
    if not isinstance(path, Geodesic):
        raise TypeError(f"`path` must be a Geodesic, from shoot or connect, got {type(path).__name__}")
    z = path.z
    rtol = as_tolerance(rtol, z.dtype)
    n, d = z.shape[-2:]
    for vector, name in ((start, "start"), (rate, "rate")):
        check_like(vector, z, name)
    start, rate = torch.broadcast_tensors(vectors_along(path, start, "start"), vectors_along(path, rate, "rate"))
    shape, vectors = start.shape[:-1], torch.cat([start, rate], -1).double()
    fields = vectors.reshape(-1, path.length.numel(), 2 * d).permute(1, 2, 0)  # (B, 2d, m)
    out = torch.full((*fields.shape[:1], n, d, fields.shape[-1]), torch.nan, dtype=torch.float64, device=z.device)
    with torch.no_grad():
        for index, curve in path.pieces:
            sound = curve.nodes.isfinite().flatten(1).all(-1).nonzero()[:, 0]
            if len(sound) == 0:
                continue
            field, accurate = propagate(
                path.metric, curve.select(sound), fields[index[sound]], rtol=rtol, segments=n - 1
            )
            out[index[sound]] = torch.where(accurate[:, None, None, None], field[:, :, :d], torch.nan)
    return out.permute(3, 0, 1, 2).reshape(*shape, n, d).to(z.dtype)


def vectors_along(path: Geodesic, u: Tensor, name: str) -> Tensor:
    """Vectors (..., *batch, d) at the starts of a path's curves, or ValueError."""
    d = path.z.shape[-1]
    try:
        shape = torch.broadcast_shapes(u.shape[:-1], path.batch)
        if shape[len(shape) - len(path.batch) :] != path.batch:
            raise RuntimeError
    except RuntimeError:
        raise ValueError(
            f"`{name}` must have shape (*batch, d) with batch shape {path.batch}, or more axes before it, got "
            f"{tuple(u.shape)}"
        ) from None
    return u.expand(*shape, d)


def propagate(
    metric: Metric,
    curve: Curve,
    fields: Tensor,
    *,
    rtol: float,
    segments: int | None = None,
    covariant: bool = True,
    strict: bool = True,
) -> tuple[Tensor, Tensor]:
    """Solve Jacobi's equation along curves from m starting values (B, 2d, m).

    They are (J, DJ/dt), or with ``covariant=False`` coordinate derivatives (δz, δv). Returns J, followed by either
    derivative, at the ends of equal segments (B, segments + 1, 2d, m), or without `segments` at the start and the end
    alone; and which are accurate. With ``strict=False`` the last refinements are left out.
    """
    B, d = curve.nodes.shape[0], curve.nodes.shape[-1]
    base = segments or _SEGMENTS
    marks = base if segments else 1
    out = torch.full((B, marks + 1, *fields.shape[1:]), torch.nan, dtype=torch.float64, device=fields.device)
    accurate = torch.zeros(B, dtype=torch.bool, device=fields.device)
    rows = torch.arange(B, device=fields.device)
    before: Tensor | None = None
    for level in range(1 + (_DOUBLINGS if strict else 3)):
        m = base * 2**level
        group = max(1, row_budget(metric, curve.nodes) // (3 * m * d))
        found = torch.cat(
            [_solve(metric, curve.select(some), fields[some], m, marks, covariant) for some in rows.split(group)]
        )
        if before is not None:
            at = curve.nodes[rows, -1]
            kept = found.isfinite().flatten(1).all(-1)
            columns = torch.stack([found[:, -1], found[:, -1] - before[:, -1]], 1).unflatten(2, (2, d))
            size = lengths(metric, at, columns.movedim(3, -1).flatten(1, 3).nan_to_num(0.0)).unflatten(1, (2, -1))
            good = kept & (size[:, 1].amax(-1) / 63 <= rtol * size[:, 0].amax(-1))
            out[rows], accurate[rows] = found, good
            rows, found = rows[~good], found[~good]
        before = found
        if len(rows) == 0:
            break
    return out, accurate


def _solve(metric: Metric, curve: Curve, fields: Tensor, m: int, marks: int, covariant: bool) -> Tensor:
    """Magnus steps on m segments; (J, DJ/dt) at `marks` + 1 times, (B, marks + 1, 2d, k)."""
    B, d = curve.nodes.shape[0], curve.nodes.shape[-1]
    step = torch.arange(m, dtype=torch.float64, device=fields.device)[:, None]
    t = ((step + torch.tensor(_NODES, dtype=torch.float64, device=fields.device)) / m).flatten()
    form, M = _coefficients(metric, curve(t).flatten(0, 1), curve.velocity(t).flatten(0, 1))
    first, middle, last = M.unflatten(0, (B, m, 3)).unbind(2)
    a1 = middle / m
    a2 = (15**0.5 / (3 * m)) * (last - first)
    a3 = (10 / (3 * m)) * (last - 2 * middle + first)
    c1 = _bracket(a1, a2)
    c2 = _bracket(a1, 2 * a3 + c1) / -60
    exponent = a1 + a3 / 12 + _bracket(-20 * a1 - a3 + c1, a2 + c2) / 240
    steps = torch.matrix_exp(exponent.nan_to_num(0.0, 0.0, 0.0))
    steps = torch.where(exponent.isfinite().all(-1).all(-1)[..., None, None], steps, torch.nan)
    given = "covariant" if covariant else "coordinate"
    if given != form:
        at, towards = curve.nodes[:, 0], curve.velocity(t.new_zeros(1))[:, 0]
        sign = 1.0 if form == "covariant" else -1.0
        fields = torch.cat([fields[:, :d], fields[:, d:] + sign * turning(metric, at, towards) @ fields[:, :d]], 1)
    out = [fields]
    each = m // marks
    for mark in range(marks):
        for k in range(mark * each, (mark + 1) * each):
            fields = steps[:, k] @ fields
        out.append(fields)
    return torch.stack(out, 1)


def _bracket(A: Tensor, B: Tensor) -> Tensor:
    return A @ B - B @ A


def _coefficients(metric: Metric, z: Tensor, v: Tensor) -> tuple[str, Tensor]:
    """Jacobi's equation as a first-order system (P, 2d, 2d), float64, for (J, DJ/dt) or for (δz, δv)."""
    eye = torch.eye(z.shape[-1], dtype=torch.float64, device=z.device).expand(z.shape[0], -1, -1)
    if metric.flat_embedding is not None:
        turn, curvature = _gauss(metric.flat_embedding, z, v)
        return "covariant", torch.cat([torch.cat([-turn, eye], -1), torch.cat([-curvature, -turn], -1)], -2)
    turn, slope = turning(metric, z, v), _slope(metric, z, v)
    return "coordinate", torch.cat([torch.cat([0 * eye, eye], -1), torch.cat([slope, -2 * turn], -1)], -2)


def turning(metric: Metric, z: Tensor, v: Tensor) -> Tensor:
    """The matrix Γ(v, ·), (P, d, d), float64, from accelerations, which are quadratic in the velocity."""
    P, d = z.shape
    size = v.norm(dim=-1)[:, None, None]
    size = torch.where(size > 0, size, 1.0)
    eye = size * torch.eye(d, dtype=z.dtype, device=z.device)  # (P, d, d)
    trial = torch.stack([v[:, None] + eye, v[:, None] - eye])
    a = acceleration(metric, z[None, :, None].expand_as(trial).reshape(-1, d), trial.reshape(-1, d))
    ahead, behind = a.double().reshape(2, P, d, d)
    return ((behind - ahead) / (4 * size.double())).mT


def _slope(metric: Metric, z: Tensor, v: Tensor) -> Tensor:
    """Derivative of the acceleration in z, (P, d, d), float64, by differences of fourth order."""
    P, d = z.shape
    size = v.norm(dim=-1)
    # the length over which accelerations change: the curve's radius in latent space, at most the curve itself
    bend = acceleration(metric, z, v).norm(dim=-1)
    reach = torch.minimum(size.square() / bend.clamp_min(torch.finfo(z.dtype).tiny), size)
    h = torch.finfo(z.dtype).eps ** 0.2 * torch.where(size > 0, reach, 1.0)
    eye = h[:, None, None] * torch.eye(d, dtype=z.dtype, device=z.device)
    places = torch.stack([z[:, None] + k * eye for k in (-2, -1, 1, 2)])
    a = acceleration(metric, places.reshape(-1, d), v[None, :, None].expand_as(places).reshape(-1, d))
    a = a.double().reshape(4, P, d, d)
    return ((a[0] - a[3] + 8 * (a[2] - a[1])) / (12 * h.double()[:, None, None])).mT


def _gauss(phi: Embedding, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Γ(v, ·) and R(·, v)v by Gauss's equation: second derivatives of the embedding only."""
    P, d = z.shape
    axes = torch.eye(d, dtype=z.dtype, device=z.device)[:, None].expand(d, P, d)
    J, bends = (t.double() for t in phi.bends(z, v, axes))  # (d, P, D)
    G = torch.einsum("iPD,jPD->Pij", J, J)
    factor = cholesky_root(G)
    turn = torch.cholesky_solve(torch.einsum("kPD,iPD->Pki", J, bends), factor)
    normal = bends - torch.einsum("kPD,Pki->iPD", J, turn)
    along = torch.einsum("iPD,Pi->PD", normal, v.double())
    lower = phi.hessian(z, along.to(z.dtype)).double() - torch.einsum("iPD,jPD->Pij", normal, normal)
    return turn, torch.cholesky_solve(lower, factor)
