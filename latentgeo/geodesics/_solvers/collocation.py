"""The geodesic equation as a two-point boundary-value problem, by collocation: scipy's `solve_bvp` on each curve.

The reference method of the literature since Hennig and Hauberg, "Probabilistic Solutions to Differential Equations and
their Application to Riemannian Statistics" (AISTATS 2014), which used its MATLAB relative.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_bvp
from torch import Tensor

from ..._calculus import RankError
from ...metrics import Metric
from ..curve import Curve, arc_length, equal_speed
from ..geodesic import Status
from .options import check_options
from .refinement import doubled
from .solution import Solution
from .verdict import judge

__all__ = ["Collocation"]

_LOOSEST = 1e-2  # first tolerance on the residual of the equation; then ten times less
_TIGHTEST = {torch.float32: 1e-4, torch.float64: 1e-10}
_FAIR_RATIO = 1.05

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Collocation:
    """Collocation on the geodesic equation z̈ = acceleration(z, ż), on a mesh that `scipy.integrate.solve_bvp` adapts.

    Each curve is solved with tolerances 1e-2, 1e-3, … on the equation's relative residual, which is the `residual` of
    the result, until its length settles. It finds geodesics that need not be near the starting curves nor minimal:
    those that are no local minima, or longer than their starts, are told by their status.

    Parameters
    ----------
    n_points : int
        Nodes of the first mesh and least number of nodes of a returned curve, at least 3.
    max_points : int
        Most nodes of the mesh and of a returned curve.
    rtol : float
        Relative error allowed on the length.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] Kierzenka, Shampine, "A BVP solver based on residual control and the MATLAB PSE", ACM TOMS 27, 2001.

    Examples
    --------
    >>> from latentgeo.geodesics import distance
    >>> from latentgeo.metrics import Sphere
    >>> a, b = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> distance(Sphere(2), a, b, solver=Collocation())
    tensor(1.5708, dtype=torch.float64)
    """

    n_points: int = 33
    max_points: int = 1025
    rtol: float = 1e-3

    def __post_init__(self) -> None:
        check_options(self, n_points=3)

    def solve(self, metric: Metric, start: Curve) -> Solution:
        """Solve for geodesics near the starting curves (B, n, d), which have finite, distinct ends."""
        return _Collocations(self, metric, start).run()


class _NotFiniteError(Exception):
    """The equation cannot be evaluated where the iteration went."""


@dataclasses.dataclass
class _Found:
    """What became of one curve: a callable of time, or None where nothing usable was found."""

    status: Status
    curve: Any
    gap: float
    residual: float
    steps: int
    mesh: int


class _Equation:
    """The geodesic equation as the first-order system scipy takes: y = (z, ż) with shape (2d, m)."""

    def __init__(self, metric: Metric, like: Tensor) -> None:
        self.metric, self.like = metric, like
        self.step = torch.finfo(like.dtype).eps ** (1 / 3)

    def _tensor(self, x: Array) -> Tensor:
        return torch.as_tensor(x, dtype=self.like.dtype, device=self.like.device)

    def _acceleration(self, z: Array, v: Array) -> Array:
        if not (np.isfinite(z).all() and np.isfinite(v).all()):
            raise _NotFiniteError
        try:
            out = self.metric.acceleration(self._tensor(z), self._tensor(v))
        except RankError:
            raise _NotFiniteError from None
        result: Array = out.double().cpu().numpy()
        if not np.isfinite(result).all():
            raise _NotFiniteError
        return result

    def __call__(self, _t: Array, y: Array) -> Array:
        z, v = np.split(y.T, 2, axis=1)
        return np.concatenate([v, self._acceleration(z, v)], 1).T

    def jacobian(self, _t: Array, y: Array) -> Array:
        """Jacobian (2d, 2d, m) by central differences, all of them in one batch."""
        n, m = y.shape
        d = n // 2
        h = self.step * np.maximum(1.0, np.abs(y).max(1))
        h[d:] = self.step * max(float(np.abs(y[d:]).max()), 1e-300)
        shifted = np.stack([y[:, None] + sign * (np.eye(n) * h)[:, :, None] for sign in (1.0, -1.0)])
        # (2, n coordinates, n columns, m): flattened to rows of (z, v)
        rows = shifted.transpose(0, 2, 3, 1).reshape(-1, n)
        a = self._acceleration(rows[:, :d], rows[:, d:]).reshape(2, n, m, d)
        out = np.zeros((n, n, m))
        out[:d, d:] = np.eye(d)[:, :, None]
        out[d:] = ((a[0] - a[1]) / (2 * h[:, None, None])).transpose(2, 0, 1)
        return out


class _Collocations:
    """One call's curves, solved one after the other; lengths and certificates in batches."""

    def __init__(self, solver: Collocation, metric: Metric, start: Curve) -> None:
        self.solver, self.metric, self.start = solver, metric, start
        self.like = start.nodes[:0, 0]
        self.levels = [n for n in doubled(solver.n_points, solver.max_points) if n >= solver.n_points]

    def run(self) -> Solution:
        B = self.start.nodes.shape[0]
        begin = Curve(equal_speed(self.metric, self.start, self.solver.n_points))
        t = torch.linspace(0.0, 1.0, begin.n, dtype=torch.float64, device=begin.nodes.device)
        first = torch.cat([begin.nodes, begin.velocity(t)], -1).mT.double().cpu().numpy()
        self.entry = arc_length(self.metric, begin, rtol=self.solver.rtol).length
        return self._collect([self._solve(first[k]) for k in range(B)])

    def _solve(self, first: Array) -> _Found:
        """Tighter and tighter tolerances, each from the last solution, until the length no longer changes."""
        equation, d = _Equation(self.metric, self.like), first.shape[0] // 2
        a, b = first[:d, 0], first[:d, -1]

        def ends(left: Array, right: Array) -> Array:
            return np.concatenate([left[:d] - a, right[:d] - b])

        found = _Found(Status.MAX_POINTS, None, np.inf, np.nan, 0, first.shape[1])
        x, y, tol, before = np.linspace(0.0, 1.0, first.shape[1]), first, _LOOSEST, np.nan
        while tol >= _TIGHTEST[self.like.dtype] * 0.99:
            try:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore", RuntimeWarning)  # scipy's, on the way to a failure it reports
                    result = solve_bvp(
                        equation, ends, x, y, tol=tol, max_nodes=self.solver.max_points, fun_jac=equation.jacobian
                    )
            except _NotFiniteError:
                return dataclasses.replace(found, status=Status.NOT_FINITE)
            finite = bool(np.isfinite(result.y).all())
            found.steps += int(result.niter)
            if not finite or result.status != 0:
                status = {1: Status.MAX_POINTS, 2: Status.SINGULAR}.get(result.status, Status.MAX_STEPS)
                status = status if finite else Status.NOT_FINITE
                if found.curve is not None and status is Status.MAX_POINTS:
                    return dataclasses.replace(found, status=status)  # the looser solution stands, as not yet accurate
                curve = result.sol if finite else None
                return dataclasses.replace(found, status=status, curve=curve, gap=np.inf, mesh=len(result.x))
            length = self._length(result.sol)
            found.curve, found.mesh = result.sol, len(result.x)
            found.residual = float(np.max(result.rms_residuals))
            found.gap = abs(length - before) if np.isfinite(before) else np.inf
            if found.gap <= 0.5 * self.solver.rtol * length:
                return dataclasses.replace(found, status=Status.CONVERGED)
            x, y, before, tol = result.x, result.y, length, 0.1 * tol
        return dataclasses.replace(found, status=Status.PRECISION)

    def _length(self, curve: Any) -> float:
        """Length by Simpson's rule on a uniform grid finer than any mesh that resolves the curve."""
        y = curve(np.linspace(0.0, 1.0, 2 * self.levels[-1] - 1)).T
        d = y.shape[1] // 2
        speed = self.metric.norm(self._tensor(y[:, :d]), self._tensor(y[:, d:])).double()
        weight = torch.full_like(speed, 2.0)
        weight[1::2] = 4.0
        weight[0] = weight[-1] = 1.0
        return float((weight * speed).sum()) / (3 * (len(speed) - 1))

    def _tensor(self, x: Array) -> Tensor:
        return torch.as_tensor(x, dtype=self.like.dtype, device=self.like.device)

    def _nodes(self, found: _Found, k: int, n: int) -> Tensor:
        d = self.like.shape[-1]
        z = self._tensor(found.curve(np.linspace(0.0, 1.0, n))[:d].T.copy())
        z[0], z[-1] = self.start.nodes[k, 0], self.start.nodes[k, -1]
        return z

    def _collect(self, found: list[_Found]) -> Solution:
        """Lengths, error estimates and certificates; where nothing was found there is no curve, only a status."""
        B, device = len(found), self.like.device
        unknown = torch.full((B,), torch.nan, dtype=torch.float64, device=device)
        length, energy, error = unknown.clone(), unknown.clone(), unknown.clone()
        status = [f.status for f in found]
        certified = torch.zeros(B, dtype=torch.bool, device=device)
        pieces: list[tuple[Tensor, Curve]] = []
        rest = torch.tensor([k for k, f in enumerate(found) if f.curve is not None], dtype=torch.long, device=device)
        gap = torch.tensor([f.gap for f in found], dtype=torch.float64, device=device)
        before = unknown.clone()
        for n in self.levels:
            if len(rest) == 0:
                break
            curve = Curve(torch.stack([self._nodes(found[k], k, n) for k in rest.tolist()]))
            spans = arc_length(self.metric, curve, rtol=self.solver.rtol)
            change = (spans.length - before[rest]).abs()
            total = gap[rest] + torch.where(change.isfinite(), change, torch.inf) + spans.error
            last = n == self.levels[-1]
            done = (total <= self.solver.rtol * spans.length) & (spans.ratio <= _FAIR_RATIO) | last
            length[rest], error[rest], before[rest] = spans.length, total, spans.length
            energy[rest] = 0.5 * (n - 1) * spans.segments.square().sum(-1)
            if bool(done.any()):
                ready, nodes = rest[done], curve.nodes[done]
                pieces.append((ready, curve.select(done)))
                self._judge(ready, nodes, length, error, status, certified)
            rest = rest[~done]
        return Solution(
            tuple(pieces),
            length,
            error,
            energy,
            torch.tensor([f.residual for f in found], dtype=torch.float64, device=device),
            certified,
            torch.tensor([f.steps for f in found], device=device),
            torch.tensor([f.mesh for f in found], device=device),
            status,
        )

    def _judge(
        self,
        index: Tensor,
        nodes: Tensor,
        length: Tensor,
        error: Tensor,
        status: list[Status],
        certified: Tensor,
    ) -> None:
        """Tell converged curves that are inaccurate or no minima; certify the others."""
        found = judge(self.metric, nodes, self.solver.rtol)
        certified[index] = found.definite & found.smooth
        for i, k in enumerate(index.tolist()):
            if status[k] is not Status.CONVERGED:
                certified[k] = False
            elif not bool(length[k].isfinite()):
                status[k] = Status.NOT_FINITE
            elif not bool(error[k] <= self.solver.rtol * length[k]):
                status[k] = Status.MAX_POINTS
            elif not bool(found.finite[i]):
                status[k] = Status.NOT_FINITE
            elif bool(found.saddle[i]):
                status[k] = Status.NOT_MINIMAL
            elif bool(length[k] > (1 + self.solver.rtol) * self.entry[k]):
                status[k] = Status.LONGER
