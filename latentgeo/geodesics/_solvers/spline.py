"""Cubic splines of least energy, the approach of the stochman package, batched over curves.

The basis spans all C² cubic splines with given ends (values at the knots, slopes at the ends); the energy sums chords
of the embedding between the knots too, so that it cannot jump across what lies there.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import scipy.interpolate
import scipy.linalg
import torch
from torch import Tensor

from ..._calculus import as_tolerance
from ...metrics import Metric
from ..curve import Curve
from ..geodesic import Status
from .energy import ChordEnergy, Energy, energy_of
from .laplacian import dot
from .line_search import LEAST_STEP, MOST_IDLE, Memory, judged
from .options import check_options
from .refinement import Descended, doubled, refine
from .solution import Solution

__all__ = ["Spline"]

_PER_KNOT = 4  # segments of the energy between neighbouring knots
_MEMORY = 10  # pairs of steps and gradient changes that L-BFGS remembers


@dataclasses.dataclass(frozen=True)
class Spline:
    """Energy minimisation over cubic splines by L-BFGS, preconditioned by the spline's own stiffness.

    Parameters
    ----------
    n_knots : int
        Least number of knots of a returned curve (solved coarse to fine), at least 3.
    max_points : int
        Most nodes of a curve; there are four between each two knots.
    rtol : float
        Relative error allowed on the length.
    residual_tol : float, optional
        Stop when √(predicted decrease / energy) falls below it; None means 1e-6 in float64 and 1e-3 in float32.
    max_steps : int
        Most L-BFGS steps, refused ones included, at each number of knots.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] Detlefsen et al., "StochMan", 2021 (the package whose `CubicSpline` and energy minimisation this follows).

    Examples
    --------
    >>> from latentgeo.geodesics import distance
    >>> from latentgeo.metrics import Sphere
    >>> a, b = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> distance(Sphere(2), a, b, solver=Spline())
    tensor(1.5708, dtype=torch.float64)
    """

    n_knots: int = 9
    max_points: int = 513
    rtol: float = 1e-3
    residual_tol: float | None = None
    max_steps: int = 500

    def __post_init__(self) -> None:
        check_options(self, n_knots=3, max_points=9, max_steps=1)
        if self.max_points < self.n_points:
            raise ValueError(
                f"`max_points` must be at least 4·(n_knots − 1) + 1 = {self.n_points}, got {self.max_points}"
            )

    @property
    def n_points(self) -> int:
        """Least number of nodes of a returned curve."""
        return _PER_KNOT * (self.n_knots - 1) + 1

    def solve(self, metric: Metric, start: Curve) -> Solution:
        """Solve for geodesics in the basins of the starting curves (B, n, d), which have finite, distinct ends."""
        tol = as_tolerance(self.residual_tol, start.nodes.dtype)
        levels = [n for n in doubled(self.n_points, self.max_points) if (n - 1) % _PER_KNOT == 0]
        return refine(
            metric,
            start,
            levels=levels,
            least=self.n_points,
            rtol=self.rtol,
            descend=lambda nodes: _descend(metric, nodes, tol, self.max_steps),
        )


@functools.lru_cache(maxsize=32)
def _basis(knots: int) -> tuple[np.ndarray, np.ndarray]:
    """Splines at the energy's nodes as a linear map of the free coefficients, and one of the coefficients of the ends.

    The free coefficients, K + 2 of them less the two ends, are scaled and mixed so that a flat metric's energy is half
    their squared sum: (n, K), then (n, 2).
    """
    t = np.linspace(0.0, 1.0, knots)
    fine = np.linspace(0.0, 1.0, _PER_KNOT * (knots - 1) + 1)
    columns = []
    for k in range(knots + 2):  # end slopes first and last
        values, slopes = np.zeros(knots), [0.0, 0.0]
        if 1 <= k <= knots:
            values[k - 1] = 1.0
        else:
            slopes[0 if k == 0 else 1] = 1.0
        spline = scipy.interpolate.CubicSpline(t, values, bc_type=((1, slopes[0]), (1, slopes[1])))
        columns.append(spline(fine))
    basis = np.stack(columns, 1)
    free = [0, *range(2, knots), knots + 1]
    step = np.diff(basis[:, free], axis=0)
    stiffness = (len(fine) - 1) * step.T @ step
    factor = scipy.linalg.cholesky(stiffness, lower=True)
    mixed = scipy.linalg.solve_triangular(factor, basis[:, free].T, lower=True).T
    return mixed, basis[:, [1, knots]]


def _coefficients(nodes: Tensor, knots: int) -> Tensor:
    """The free coefficients (B, K, d) of the splines that interpolate every fourth node and the ends' slopes."""
    mixed, ends = (torch.as_tensor(part, device=nodes.device) for part in _basis(knots))
    rest = nodes.double() - torch.einsum("nk,Bkd->Bnd", ends, nodes[:, [0, -1]].double())
    return torch.einsum("kn,Bnd->Bkd", torch.linalg.pinv(mixed), rest)


def _descend(metric: Metric, nodes: Tensor, tol: float, max_steps: int) -> Descended:
    knots = (nodes.shape[1] - 1) // _PER_KNOT + 1
    return _LBFGS(energy_of(metric, nodes), metric, nodes, knots, tol, max_steps).run()


class _LBFGS:
    """Batched L-BFGS on the coefficients (B, K, d) of splines; each curve has its own history, step and status."""

    def __init__(self, energy: Energy, metric: Metric, nodes: Tensor, knots: int, tol: float, max_steps: int) -> None:
        B, _, d = nodes.shape
        device = nodes.device
        self.energy, self.tol, self.max_steps, self.dtype = energy, tol, max_steps, nodes.dtype
        mixed, ends = (torch.as_tensor(part, device=device) for part in _basis(knots))
        self.mixed = mixed
        self.ends = nodes[:, [0, -1]]
        self.offset = torch.einsum("nk,Bkd->Bnd", ends, self.ends.double())
        # Coordinates in which the mean metric along the start is Euclidean: G = RᵀR, y = R·coefficients.
        G = metric.tensor(nodes[:, ::_PER_KNOT]).double().nan_to_num(0.0, 0.0, 0.0).mean(1)
        trace = G.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-300)[:, None, None]
        values, vectors = torch.linalg.eigh(G / trace + 1e-9 * torch.eye(d, dtype=G.dtype, device=device))
        root = (values.clamp_min(1e-9) * trace[..., 0]).sqrt()
        self.into = (vectors * root[:, None]) @ vectors.mT
        self.out = (vectors / root[:, None]) @ vectors.mT
        self.y = _coefficients(nodes, knots) @ self.into
        budget = metric.embedding.max_bytes if metric.embedding is not None else 2**28
        report = None if metric.embedding is None else metric.embedding.report
        row = 8 * d * d * 16 if report is None else report.row_bytes
        self.curves = max(1, budget // max(1, 3 * row * nodes.shape[1]))
        every = torch.arange(B, device=device)
        self.value, self.noise, self.gradient = self._evaluate(every, self.y)
        self.residual = torch.full((B,), torch.inf, dtype=torch.float64, device=device)
        self.size = torch.ones_like(self.residual)
        self.steps = torch.zeros(B, dtype=torch.long, device=device)
        self.idle = self.steps.clone()
        self.status = [Status.MAX_STEPS] * B
        self.active = torch.ones(B, dtype=torch.bool, device=device)
        self.memory = Memory(_MEMORY, self.y)
        self._finish(every, ~self.value.isfinite(), Status.NOT_FINITE)

    def nodes(self, index: Tensor, y: Tensor) -> Tensor:
        """Nodes (b, n, d) of the splines with coefficients y."""
        z = self.offset[index] + torch.einsum("nk,Bkd->Bnd", self.mixed, y @ self.out[index])
        z = z.to(self.dtype)
        z[:, [0, -1]] = self.ends[index]
        return z

    def _evaluate(self, index: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Energies, their rounding errors and their gradients in y, in groups of curves of bounded memory."""
        parts = []
        for i in range(0, len(index), self.curves):
            some = index[i : i + self.curves]
            z = self.nodes(some, y[i : i + self.curves])
            value, noise, slope = self._slope(z)
            gradient = torch.einsum("nk,Bnd->Bkd", self.mixed, slope.double()) @ self.out[some]
            parts.append((value, noise, gradient))
        value, noise, gradient = (torch.cat(part) for part in zip(*parts, strict=True))
        return value, noise, gradient

    def _slope(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Energies, their rounding errors and their gradients at nodes (B, n, d)."""
        phi = self.energy.embedding if isinstance(self.energy, ChordEnergy) else None
        if phi is not None and phi.probe(z).pullback != "reverse":  # autograd does not get through it
            slope, x = torch.zeros_like(z), phi(z)
            lap = 2 * x[:, 1:-1] - x[:, 2:] - x[:, :-2]
            slope[:, 1:-1] = (z.shape[1] - 1) * phi.vjp(z[:, 1:-1], lap)
            return *self.energy.value(z), slope
        with torch.enable_grad():
            inner = z.detach().requires_grad_()
            value, noise = self.energy.value(inner)
            (slope,) = torch.autograd.grad(value.sum(), inner)
        return value.detach(), noise.detach(), slope

    def _finish(self, index: Tensor, mask: Tensor, status: Status) -> None:
        for k in index[mask].tolist():
            if bool(self.active[k]):
                self.status[k] = status
        self.active[index[mask]] = False

    def _direction(self, index: Tensor, gradient: Tensor) -> Tensor:
        """−H·gradient, begun with the multiple of the identity that the last step suggests."""
        rho, change = self.memory.rho[-1, index], self.memory.changes[-1, index]
        scale = torch.where(rho > 0, 1 / (rho * dot(change, change)).clamp_min(1e-300), 1.0)
        return self.memory.direction(index, gradient, lambda q: scale[:, None, None] * q)

    def run(self) -> Descended:
        index = self.active.nonzero()[:, 0]
        direction = self._direction(index, self.gradient[index])
        for _ in range(self.max_steps):
            if len(index) == 0:
                break
            slope = (self.gradient[index] * direction).sum((-2, -1))
            value, noise = self.value[index], self.noise[index]
            self.residual[index] = ((-0.5 * slope).clamp_min(0.0) / value.clamp_min(1e-300)).sqrt()
            self._finish(index, ~slope.isfinite(), Status.NOT_FINITE)
            self._finish(index, self.residual[index] <= self.tol, Status.CONVERGED)
            stuck = (self.size[index] < LEAST_STEP) | (self.idle[index] >= MOST_IDLE) | (slope >= 0)
            self._finish(index, stuck, Status.PRECISION)
            stay = self.active[index]
            index, direction, slope, noise = index[stay], direction[stay], slope[stay], noise[stay]
            if len(index) == 0:
                break
            direction = self._try(index, direction, slope, noise)
        every = torch.arange(len(self.status), device=self.y.device)
        return Descended(self.nodes(every, self.y), self.residual, self.steps, self.status)

    def _try(self, index: Tensor, direction: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
        """One trial per curve: a step that lowers the energy enough is taken, any other shortened."""
        size = self.size[index]
        step = size[:, None, None] * direction
        trial = self.y[index] + step
        value, fresh_noise, gradient = self._evaluate(index, trial)
        sound = gradient.isfinite().flatten(1).all(-1)
        accepted, idle, self.size[index] = judged(value, self.value[index], slope, size, noise, sound)
        self.idle[index] = torch.where(idle, self.idle[index] + 1, 0)
        self.steps[index] += 1
        local = accepted.nonzero()[:, 0]
        if len(local):
            taken = index[local]
            self.memory.remember(taken, step[local], gradient[local] - self.gradient[taken])
            self.y[taken], self.value[taken], self.noise[taken] = trial[local], value[local], fresh_noise[local]
            self.gradient[taken] = gradient[local]
            direction[local] = self._direction(taken, gradient[local])
        # a search that has to shorten its step to nothing starts afresh along the gradient
        lost = (~accepted & (self.size[index] < 1e-4) & self.memory.known[index]).nonzero()[:, 0]
        if len(lost):
            again = index[lost]
            self.memory.forget(again)
            self.size[again] = 1.0
            direction[lost] = -self.gradient[again]
        return direction
