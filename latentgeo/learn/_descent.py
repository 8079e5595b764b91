"""Riemannian BFGS on the Fréchet variance, for several weighted sets of codes at once.

The variance's gradient at c is −Σ wᵢ log_c zᵢ (Karcher, "Riemannian center of mass and mollifier smoothing", 1977), and
the geodesics that its value needs give it for nothing. The first step is Karcher's; a secant approximation of the
Hessian then learns the curvature, so that a wide set in negative curvature, where Karcher's step overshoots, needs no
more.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import torch
from torch import Tensor

from .._calculus import RankError
from .._calculus.linalg import cholesky
from ..geodesics import LatentGraph, Status, connect
from ..metrics import Metric

__all__ = ["Descent", "MeanStatus", "carried", "descend", "rays"]

_HALVINGS = 12
_MOST_IDLE = 6  # steps in a row that do not shrink the residual
_WARM_POINTS = 65


class MeanStatus(enum.Enum):
    """What became of a Fréchet mean; the value is a sentence of advice."""

    CONVERGED = "converged"
    MAX_ITER = "the step limit was reached; raise `max_iter` or `tol`"
    PRECISION = "the geodesics' own error hides further progress; lower their solver's `rtol`, or raise `tol`"
    GEODESICS = "geodesics to some codes did not converge, and their lengths are uncertain; give a LatentGraph"
    NOT_FINITE = "the metric is not finite between the starting point and some codes; start elsewhere by `init`"


@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """Fréchet means of K sets.

    Attributes
    ----------
    mean : Tensor of shape (K, d)
    variance : Tensor of shape (K,), float64
        Σ wᵢ d(mean, zᵢ)² / Σ wᵢ.
    residual : Tensor of shape (K,), float64
        |mean of log_c zᵢ| / √variance.
    distances : Tensor of shape (N,), float64
        From each code to the mean of its set.
    velocities : Tensor of shape (N, d)
        log of each code at the mean of its set.
    status : list of MeanStatus
    steps : Tensor of shape (K,)
    failed : Tensor of shape (N,), bool
        Codes whose geodesic did not converge (its length is used all the same where it is finite).
    """

    mean: Tensor
    variance: Tensor
    residual: Tensor
    distances: Tensor
    velocities: Tensor
    status: list[MeanStatus]
    steps: Tensor
    failed: Tensor


@dataclasses.dataclass
class Rays:
    """Geodesics from each set's centre to its codes, and what the descent needs of them."""

    length: Tensor  # (N,)
    error: Tensor  # (N,)
    velocity: Tensor  # (N, d)
    curves: Tensor  # (N, n, d): starts for the next centre
    failed: Tensor  # (N,)

    def __getitem__(self, index: Tensor) -> Rays:
        return Rays(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    def replaced(self, index: Tensor, other: Rays) -> Rays:
        """A copy with the rays at `index` taken from another."""
        return Rays(
            **{
                f.name: getattr(self, f.name).index_copy(0, index, getattr(other, f.name))
                for f in dataclasses.fields(self)
            }
        )


def rays(metric: Metric, c: Tensor, Z: Tensor, solver: Any, init: Tensor | LatentGraph | None) -> Rays:
    """Geodesics from centres c (N, d) to codes Z (N, d)."""
    path = connect(metric, c, Z, solver=solver, init=init, throw=False)
    times = torch.linspace(0.0, 1.0, _WARM_POINTS, dtype=torch.float64, device=c.device)
    v = path.velocity(0.0)[:, 0]
    length = path.length.double()
    # the length is a quadrature of higher order than the end's difference quotient: only the direction is taken from it
    speed = metric.norm(c, v).double()
    scale = torch.where(speed > 0, length / torch.where(speed > 0, speed, 1.0), 0.0)
    failed = torch.tensor([s is not Status.CONVERGED for s in path.status.reshape(-1)], device=c.device)
    return Rays(length, path.length_error.double(), scale[:, None] * v.double(), path(times), failed)


def carried(curves: Tensor, c: Tensor, Z: Tensor) -> Tensor:
    """Curves whose first end is carried to c, the shift dying away towards the other end."""
    t = torch.linspace(0.0, 1.0, curves.shape[1], dtype=curves.dtype, device=curves.device)[:, None]
    out = curves + (1 - t) * (c - curves[:, 0])[:, None]
    out[:, 0], out[:, -1] = c, Z
    return out


class _Sums:
    """Weighted sums over the codes of each set."""

    def __init__(self, owner: Tensor, weights: Tensor, count: int) -> None:
        self.owner, self.count = owner, count
        total = torch.zeros(count, dtype=torch.float64, device=owner.device).index_add(0, owner, weights)
        self.share = weights / total[owner]

    def __call__(self, values: Tensor) -> Tensor:
        share = self.share.reshape(-1, *(1,) * (values.ndim - 1))
        out = torch.zeros(self.count, *values.shape[1:], dtype=torch.float64, device=values.device)
        return out.index_add(0, self.owner, share * values)


@dataclasses.dataclass
class _Point:
    """Value ½·variance, its slack, gradient (a covector) and scaled residual at each set's centre."""

    value: Tensor
    slack: Tensor
    gradient: Tensor
    residual: Tensor
    mean_log: Tensor


def _judge(metric: Metric, c: Tensor, now: Rays, sums: _Sums) -> _Point:
    variance = sums(now.length.square())
    mean_log = sums(now.velocity)
    # the variance in coordinates of unit size: the Gram matrix in float64, for its gradient decides when to stop
    gradient = -torch.einsum("kij,kj->ki", metric.tensor(c).double(), mean_log)
    size = -(gradient * mean_log).sum(-1).clamp_max(0.0)
    # codes as near to each other as rounding lets two points be are one
    eps = torch.finfo(c.dtype).eps
    floor = (16 * eps) ** 2 * torch.einsum("kii,k->k", metric.tensor(c).double(), 1 + c.double().square().sum(-1))
    apart = ~(variance <= floor)
    residual = torch.where(apart, size / torch.where(apart, variance, 1.0), 0.0).sqrt()
    rounding = 64 * eps * variance
    return _Point(0.5 * variance, sums(now.length * now.error) + rounding, gradient, residual, mean_log)


def descend(
    metric: Metric,
    start: Tensor,
    Z: Tensor,
    owner: Tensor,
    weights: Tensor,
    *,
    solver: Any,
    init: LatentGraph | None,
    tol: float,
    max_iter: int,
) -> Descent:
    """Fréchet means of the sets {zᵢ : owner(i) = k}, from the points `start` (K, d), all in the same batches."""
    K = start.shape[0]
    sums = _Sums(owner, weights, K)
    c = start.clone()
    now = rays(metric, c[owner], Z, solver, init)
    here = _judge(metric, c, now, sums)
    inverse = _inverse_metric(metric, c, here)
    state = _State(K, c.device)
    for _ in range(max_iter + _HALVINGS):
        state.settle(here, tol, max_iter)
        live = state.live()
        if len(live) == 0:
            break
        p = -torch.einsum("kij,kj->ki", inverse[live], here.gradient[live])
        uphill = (p * here.gradient[live]).sum(-1) >= 0
        p[uphill] = here.mean_log[live][uphill]
        p = p * state.scale[live, None]
        trial = c.index_copy(0, live, _retract(metric, c[live], p))
        members = torch.isin(owner, live).nonzero()[:, 0]
        to = trial[owner[members]]
        warm = None if metric.period is not None else carried(now.curves[members], to, Z[members])
        there_now = now.replaced(members, rays(metric, to, Z[members], solver, warm))
        there = _judge(metric, trial, there_now, sums)
        slope = (p * here.gradient[live]).sum(-1)
        better = there.value[live] <= here.value[live] + 1e-4 * slope + here.slack[live] + there.slack[live]
        better &= there.value[live].isfinite()
        done = live[better]
        _secant(inverse, done, (trial - c).double(), there.gradient - here.gradient)
        state.stepped(done, live[~better])
        c = c.index_copy(0, done, trial[done])
        moved = torch.isin(owner, done).nonzero()[:, 0]
        now = now.replaced(moved, there_now[moved])
        for field in dataclasses.fields(here):
            getattr(here, field.name)[done] = getattr(there, field.name)[done]
    state.settle(here, tol, 0)
    status = [MeanStatus.MAX_ITER if s is None else s for s in state.status]
    for k in owner[now.failed].unique().tolist():
        if status[k] is MeanStatus.CONVERGED:
            status[k] = MeanStatus.GEODESICS
    return Descent(
        c, 2 * here.value, here.residual, now.length, now.velocity.to(Z.dtype), status, state.steps, now.failed
    )


class _State:
    """How far each set's descent has come."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.status: list[MeanStatus | None] = [None] * count
        self.steps = torch.zeros(count, dtype=torch.long, device=device)
        self.refused = torch.zeros_like(self.steps)
        self.idle = torch.zeros_like(self.steps)
        self.scale = torch.ones(count, dtype=torch.float64, device=device)
        self.best = torch.full_like(self.scale, torch.inf)

    def live(self) -> Tensor:
        return torch.tensor([s is None for s in self.status], device=self.steps.device).nonzero()[:, 0]

    def stepped(self, done: Tensor, back: Tensor) -> None:
        self.steps[done] += 1
        self.steps[back] += 1
        self.scale[done], self.refused[done] = 1.0, 0
        self.scale[back] *= 0.5
        self.refused[back] += 1

    def settle(self, here: _Point, tol: float, max_iter: int) -> None:
        """Name the outcome of each set that has one."""
        finite = here.value.isfinite() & here.gradient.isfinite().all(-1)
        self.idle = torch.where(here.residual < 0.7 * self.best, 0, self.idle + (self.refused == 0).long())
        self.best = torch.minimum(self.best, here.residual)
        for k in self.live().tolist():
            if not bool(finite[k]):
                self.status[k] = MeanStatus.NOT_FINITE
            elif float(here.residual[k]) <= tol:
                self.status[k] = MeanStatus.CONVERGED
            elif int(self.refused[k]) >= _HALVINGS or int(self.idle[k]) >= _MOST_IDLE:
                self.status[k] = MeanStatus.PRECISION
            elif int(self.steps[k]) >= max_iter:
                self.status[k] = MeanStatus.MAX_ITER


def _inverse_metric(metric: Metric, c: Tensor, here: _Point) -> Tensor:
    """G⁻¹ at the centres: with it the first step is Karcher's. The identity where the start is hopeless."""
    G = metric.tensor(c).double()
    eye = torch.eye(c.shape[-1], dtype=torch.float64, device=c.device)
    usable = G.isfinite().flatten(1).all(-1) & here.value.isfinite()
    G = torch.where(usable[:, None, None], G, eye)
    return torch.cholesky_inverse(cholesky(G, "frechet_mean"))


def _retract(metric: Metric, c: Tensor, p: Tensor) -> Tensor:
    """The geodesic with velocity p followed to second order: any curve with that velocity has the same minimum."""
    p = p.to(c.dtype)
    try:
        bend = 0.5 * metric.acceleration(c, p)
    except RankError:
        return c + p
    # where the second-order term is as large as the first, the series says nothing: go straight
    sane = (bend.norm(dim=-1) < 0.5 * p.norm(dim=-1)) & bend.isfinite().all(-1)
    return c + p + torch.where(sane[:, None], bend, 0.0)


def _secant(inverse: Tensor, index: Tensor, s: Tensor, y: Tensor) -> None:
    """BFGS update, in place, of the inverse Hessians at `index`; left out where the step saw no positive curvature."""
    for k in index.tolist():
        sy = float(s[k] @ y[k])
        By = inverse[k] @ y[k]
        if not sy > 1e-8 * float(s[k].norm() * y[k].norm()):
            continue
        outer = torch.outer(By, s[k])
        inverse[k] += (1 + float(y[k] @ By) / sy) / sy * torch.outer(s[k], s[k]) - (outer + outer.T) / sy
