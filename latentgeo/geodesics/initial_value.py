"""`shoot`: geodesics from a code and a velocity (do Carmo, "Riemannian Geometry", 1992, chapter 3).

The solver is `RungeKutta` by default, which gives every curve its own steps, or `TorchDiffEq`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .._calculus import DEFAULT_MAX_BYTES, broadcast_pair, check_flag
from ..metrics import Metric, need_metric
from ._ode import Shot, lengths
from ._solvers.runge_kutta import RungeKutta
from .curve import Curve
from .geodesic import Geodesic, Status

__all__ = ["InitialValueSolver", "Shots", "checked_solver", "code_and_vector", "shoot"]


class InitialValueSolver(Protocol):
    """What `shoot` needs of a solver."""

    def follow(self, metric: Metric, z: Tensor, v: Tensor, *, path: bool) -> Shot:
        """Follow geodesics from codes z with velocities v (B, d), finite and not zero."""


def shoot(
    metric: Metric, z: Tensor, v: Tensor, *, solver: InitialValueSolver | None = None, throw: bool = True
) -> Geodesic:
    r"""Geodesics from latent codes with given initial velocities.

    Parameters
    ----------
    metric : Metric
    z : Tensor of shape (*batch, d)
        Latent codes.
    v : Tensor of shape (*batch, d)
        Velocities, in latent units per unit of time; time runs from 0 to 1, so a curve is as long as its velocity in
        the metric. Batch shapes broadcast. Curves of zero velocity stay.
    solver : RungeKutta or TorchDiffEq, optional
        The solver and its options; None means ``RungeKutta()``.
    throw : bool
        Raise if any curve failed; with False the result is returned and every curve has its status.

    Returns
    -------
    Geodesic
        Of constant speed. `length` is the length asked for, times the part of the curve that was followed;
        `length_error` bounds how much the returned curve's own differs. Nodes after the place where a curve
        failed are NaN. `residual` is the estimated error of the end point, relative to the length; `stats` has
        "steps", "points", "drift" (greatest relative change of the energy along the curve) and "reached" (the time
        in [0, 1] to which it was followed). `certified` is False: nothing is said of minimality.

    Raises
    ------
    GeodesicError
        If ``throw`` and any curve failed; the whole result is on the error.
    TypeError, ValueError
        If `z` or `v` have the wrong type, shape, dtype or device.

    References
    ----------
    .. [1] do Carmo, "Riemannian Geometry", 1992, chapter 3.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> quarter = shoot(Sphere(2), torch.zeros(2).double(), torch.tensor([torch.pi / 4, 0.0]).double())
    >>> quarter
    Geodesic(d=2, n=33, 1/1 converged, length 1.571)
    """
    check_flag(throw, "throw")
    solver = checked_solver(solver)
    z, v = code_and_vector(metric, z, v, "v")
    batch, d = z.shape[:-1], z.shape[-1]
    with torch.no_grad():
        shots = Shots(metric, solver, z.detach().reshape(-1, d), v.detach().reshape(-1, d), path=True)
        result = shots.geodesic(batch)
    return result.raise_for_status() if throw else result


def checked_solver(solver: InitialValueSolver | None) -> InitialValueSolver:
    """The solver, or the default one; TypeError if it cannot follow geodesics."""
    solver = RungeKutta() if solver is None else solver
    if not hasattr(solver, "follow"):
        raise TypeError(f"`solver` must be a solver of initial-value problems such as RungeKutta(), got {solver!r}")
    return solver


def code_and_vector(metric: Metric, z: Tensor, v: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Codes and vectors of one shape, or an error that names what is wrong."""
    need_metric(metric)
    metric.check(z)
    return broadcast_pair(z, v, name)


class Shots:
    """B flat geodesics, solved in groups of bounded memory."""

    def __init__(self, metric: Metric, solver: InitialValueSolver, z: Tensor, v: Tensor, *, path: bool) -> None:
        B, d = z.shape
        self.metric, self.solver, self.z, self.v = metric, solver, z, v
        finite = z.isfinite().all(-1) & v.isfinite().all(-1)
        still = finite & (v == 0).all(-1)
        self.status = np.full(B, Status.BAD_START, dtype=object)
        self.status[still.cpu().numpy()] = Status.CONVERGED
        self.end = torch.where(still[:, None, None], torch.stack([z, v], 1).double(), torch.nan)
        self.reached = torch.where(still, 1.0, torch.nan).double()
        self.error = torch.where(still, 0.0, torch.nan).double()
        self.steps = torch.zeros(B, dtype=torch.long, device=z.device)
        self.pieces: list[tuple[Tensor, Curve]] = []
        rest = still.nonzero()[:, 0]
        if len(rest) and path:
            self.pieces.append((rest, Curve(z[rest][:, None].expand(-1, 2, -1))))
        # positions, velocities and stages of two solutions, and some two hundred steps that are kept
        group = max(1, DEFAULT_MAX_BYTES // (8 * d * (32 + (6 * 200 if path else 0))))
        for index in (finite & ~still).nonzero()[:, 0].split(group):
            if len(index):
                self._follow(index, path=path)

    def _follow(self, index: Tensor, *, path: bool) -> None:
        shot = self.solver.follow(self.metric, self.z[index], self.v[index], path=path)
        self.end[index], self.reached[index] = shot.flow.end, shot.flow.reached
        self.error[index], self.steps[index] = shot.error, shot.flow.steps
        for k, s in zip(index.tolist(), shot.flow.status, strict=True):
            self.status[k] = s
        self.pieces += [(index[members], curve) for members, curve in shot.pieces]

    @property
    def converged(self) -> Tensor:
        """Which arrived, (B,)."""
        done = [s is Status.CONVERGED for s in self.status]
        return torch.as_tensor(done, dtype=torch.bool, device=self.z.device)

    def geodesic(self, batch: tuple[int, ...]) -> Geodesic:
        """The curves in the caller's batch shape, at the same times."""
        B, d = self.z.shape
        dtype, device = self.z.dtype, self.z.device
        n = max([curve.n for _, curve in self.pieces], default=0)
        n = max(n, getattr(self.solver, "n_points", 33))
        times = torch.linspace(0.0, 1.0, n, dtype=torch.float64, device=device)
        z = self.z.new_full((B, n, d), torch.nan)
        points = torch.zeros(B, dtype=torch.long, device=device)
        drift = torch.full((B,), torch.nan, dtype=torch.float64, device=device)
        speed = torch.where((self.v == 0).all(-1), 0.0, torch.nan).double()  # whoever stays needs no metric
        moved = (self.reached.isfinite() & (speed != 0)).nonzero()[:, 0]
        if len(moved):
            speed[moved] = lengths(self.metric, self.z[moved], self.v[moved, None])[:, 0]
        speed = torch.where(self.reached.isfinite(), speed, torch.nan)
        for index, curve in self.pieces:
            z[index] = curve.nodes if curve.n == n else curve(times)
            points[index] = curve.n
            drift[index] = _drift(self.metric, curve, speed[index])
        length = speed * self.reached
        wobble = length * (drift + self.error.nan_to_num(0.0))
        values = {"length": length, "length_error": wobble, "energy": 0.5 * length * speed, "residual": self.error}
        stats = {"steps": self.steps, "points": points, "drift": drift, "reached": self.reached}
        return Geodesic(
            z=z.reshape(*batch, n, d),
            t=times.to(dtype),
            **{name: value.to(dtype).reshape(batch) for name, value in values.items()},
            converged=self.converged.reshape(batch),
            status=self.status.reshape(batch),
            certified=torch.zeros(batch, dtype=torch.bool, device=device),
            stats={name: value.reshape(batch) for name, value in stats.items()},
            metric=self.metric,
            pieces=tuple(self.pieces),
        )


def _drift(metric: Metric, curve: Curve, speed: Tensor) -> Tensor:
    """Greatest relative change of the energy ½|ż|² over the nodes that were reached, (B,)."""
    t = torch.linspace(0.0, 1.0, curve.n, dtype=torch.float64, device=speed.device)
    z, v = curve(t), curve.velocity(t)
    known = v.isfinite().all(-1) & z.isfinite().all(-1)
    safe = torch.where(known[..., None], z, z[:, :1])
    out = torch.zeros_like(speed)
    moved = (speed > 0).nonzero()[:, 0]
    if len(moved):
        known = known[moved]
        now = metric.norm(safe[moved], torch.where(known[..., None], v[moved], 0.0)).double()
        change = ((now / speed[moved, None]).square() - 1).abs()
        out[moved] = torch.where(known, change, 0.0).amax(-1)
    return out
