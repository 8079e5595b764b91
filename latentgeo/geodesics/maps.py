"""`exp` and `log`: latent codes to tangent vectors and back (do Carmo, "Riemannian Geometry", 1992, chapter 3)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._calculus import check_flag
from ..metrics import Metric
from ._solvers.shooting import aim
from .connect import connect
from .geodesic import Geodesic, Status
from .graph import LatentGraph
from .initial_value import InitialValueSolver, Shots, checked_solver, code_and_vector
from .jacobi import derivatives

__all__ = ["exp", "log"]

_ARRIVAL = {torch.float32: 1e-3, torch.float64: 1e-8}  # how near a verified geodesic comes, relative to its length
_MOST_SHOTS = 30


def exp(
    metric: Metric, z: Tensor, v: Tensor, *, solver: InitialValueSolver | None = None, throw: bool = True
) -> Tensor:
    r"""Exponential map: where the geodesic from z with velocity v is at time 1.

    Differentiable in `z` and `v` (by Jacobi fields); not in the parameters of a decoder.

    Parameters
    ----------
    metric : Metric
    z, v : Tensor of shape (*batch, d)
        Latent codes and velocities; batch shapes broadcast.
    solver : RungeKutta or TorchDiffEq, optional
        None means ``RungeKutta()``.
    throw : bool
        Raise if any curve failed; with False its end point is NaN.

    Returns
    -------
    Tensor of shape (*batch, d)

    Raises
    ------
    GeodesicError
        If ``throw`` and any curve failed.
    TypeError, ValueError
        If `z` or `v` have the wrong type, shape, dtype or device.

    References
    ----------
    .. [1] do Carmo, "Riemannian Geometry", 1992, chapter 3.

    Examples
    --------
    >>> from latentgeo.metrics import HalfPlane
    >>> exp(HalfPlane(), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    tensor([0.0000, 2.7183])
    """
    check_flag(throw, "throw")
    solver = checked_solver(solver)
    z, v = code_and_vector(metric, z, v, "v")
    if torch.is_grad_enabled() and (z.requires_grad or v.requires_grad):
        end: Tensor = _Exp.apply(metric, z, v, solver, throw)
        return end
    return _end(metric, z, v, solver, throw)


def _end(metric: Metric, z: Tensor, v: Tensor, solver: InitialValueSolver, throw: bool) -> Tensor:
    d = z.shape[-1]
    with torch.no_grad():
        shots = Shots(metric, solver, z.detach().reshape(-1, d), v.detach().reshape(-1, d), path=False)
        if throw:
            shots.geodesic(z.shape[:-1]).raise_for_status()
        return torch.where(shots.converged[:, None], shots.end[:, 0], torch.nan).to(z.dtype).reshape(z.shape)


class _Exp(torch.autograd.Function):
    """The exponential map with its differential, solved for when a gradient is asked of it."""

    @staticmethod
    def forward(ctx: Any, metric: Metric, z: Tensor, v: Tensor, solver: InitialValueSolver, throw: bool) -> Tensor:
        ctx.metric, ctx.solver = metric, solver
        ctx.save_for_backward(z, v)
        return _end(metric, z, v, solver, throw)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        z, v = ctx.saved_tensors
        d = z.shape[-1]
        with torch.no_grad():
            shots = Shots(ctx.metric, ctx.solver, z.reshape(-1, d), v.reshape(-1, d), path=True)
            by_v, by_z = derivatives(shots)
            cotangent = w.reshape(-1, d).double()
            gz, gv = (torch.einsum("Bi,Bij->Bj", cotangent, D).to(z.dtype).reshape(z.shape) for D in (by_z, by_v))
        return None, gz, gv, None, None


def log(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    *,
    solver: Any = None,
    init: Tensor | LatentGraph | None = None,
    throw: bool = True,
    verify: bool = False,
) -> Tensor:
    r"""Logarithmic map: the velocity at a of the geodesic that is at b at time 1.

    Its length in the metric is the distance from a to b.

    Parameters
    ----------
    metric : Metric
    a, b : Tensor of shape (*batch, d)
        Latent codes; batch shapes broadcast.
    solver, init
        As for `connect`.
    throw : bool
        Raise if any curve failed; with False its velocity is NaN.
    verify : bool
        Shoot, and correct the velocity until the geodesic arrives at b, to 1e-8 of its length in float64 and 1e-3 in
        float32; fail where it does not, or not with the length that was found. Without it the velocity is as accurate
        as the nodes of `connect`'s curve.

    Returns
    -------
    Tensor of shape (*batch, d)

    Raises
    ------
    GeodesicError
        If ``throw`` and any curve failed.
    TypeError, ValueError
        If `a`, `b` or `init` have the wrong type, shape, dtype or device.

    References
    ----------
    .. [1] do Carmo, "Riemannian Geometry", 1992, chapter 3.

    Examples
    --------
    >>> from latentgeo.metrics import Euclidean
    >>> log(Euclidean(2), torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor([3., 4.])
    """
    check_flag(verify, "verify")
    path = connect(metric, a, b, solver=solver, init=init, throw=throw)
    with torch.no_grad():
        start, v = path.z[..., 0, :], path.velocity(0.0)[..., 0, :]
        speed = metric.norm(start, v)
        scale = torch.where(speed > 0, path.length / torch.where(speed > 0, speed, 1.0), 0.0)
        v = torch.where(path.converged[..., None], scale[..., None] * v, torch.nan)
        if verify:
            path, v = verified(path, v)
            if throw:
                path.raise_for_status()
    return v


def verified(path: Geodesic, v: Tensor) -> tuple[Geodesic, Tensor]:
    """Velocities corrected until their geodesics arrive; the path has the statuses of those that do not."""
    d = v.shape[-1]
    status, residual, length = path.status.reshape(-1).copy(), path.residual.flatten(), path.length.flatten()
    a, b, flat = (part.reshape(-1, d) for part in (path.z[..., 0, :], path.z[..., -1, :], v.clone()))
    rows = (path.converged.flatten() & (length > 0)).nonzero()[:, 0]
    if len(rows):
        tol = _ARRIVAL[v.dtype]
        found = aim(path.metric, a[rows], b[rows], flat[rows], tol=tol, max_steps=_MOST_SHOTS, points=(9, 9))
        arrived = torch.tensor([s is Status.CONVERGED for s in found.status], device=v.device)
        # a corrected velocity of quite another length belongs to another curve than the one that was found
        doubt = 3 * path.length_error.flatten()[rows].double() + 10 * tol * found.length
        same = (found.length - length[rows].double()).abs() <= doubt
        status[rows.cpu().numpy()] = np.array(found.status, dtype=object)
        status[rows[arrived & ~same].cpu().numpy()] = Status.ASTRAY
        arrived &= same
        flat[rows] = torch.where(arrived[:, None], found.velocity, torch.nan)
        residual, length = (
            full.index_copy(0, rows, new.to(full.dtype))
            for full, new in ((residual, found.residual), (length, found.length))
        )
    done = torch.tensor([s is Status.CONVERGED for s in status], dtype=torch.bool, device=v.device)
    path = dataclasses.replace(
        path,
        status=status.reshape(path.batch),
        converged=done.reshape(path.batch),
        residual=residual.reshape(path.batch),
        length=length.reshape(path.batch),
    )
    return path, flat.reshape(v.shape)
