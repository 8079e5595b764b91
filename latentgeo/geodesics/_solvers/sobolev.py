"""Geodesics in many latent dimensions: L-BFGS in Sobolev gradients, polished by Newton-CG, with no metric tensors.

The energy, the refinement and the statuses are those of the other minimisers; Jφ and its transpose only ever act on
vectors, so that time and memory grow like those of the decoder itself, not with d or d².
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..._calculus import DEFAULT_MAX_BYTES, as_tolerance, check_flag
from ...metrics import Metric
from ..curve import Curve, Quadrature, arc_length
from ..geodesic import Status
from .lanczos import certify, escape
from .laplacian import Laplacian
from .lbfgs import Descent
from .options import check_options
from .products import Products, products_of
from .refinement import Level, Refinement, doubled
from .solution import Solution

__all__ = ["Sobolev"]

_COARSEST = 9
_FAIR_RATIO = 1.2  # images of large d are rough: coarse levels pay, and count only where true lengths fall
_LOOSE = 1e-2  # residual to which levels are solved that are refined anyway
_NEAR = 3e-3  # residual at which Newton-CG takes over
_CHEAP, _DENSEST = 12, 64  # latent dimensions up to which blocks certify unasked, and asked
_ESCAPES = 2  # times that a curve may leave a saddle, per level


@dataclasses.dataclass(frozen=True)
class Sobolev:
    """Energy minimisation for large d by vector products alone: L-BFGS in Sobolev gradients, then Newton-CG.

    `connect` chooses it by itself from d = 16 on. A decoder with kinks (ReLU) is left to L-BFGS.

    Parameters
    ----------
    n_points : int
        Least number of nodes of a returned curve (solved coarse to fine), at least 3.
    max_points : int
        Most nodes of a curve.
    rtol : float
        Relative error allowed on the length.
    residual_tol : float, optional
        Stop when √(predicted decrease / energy) falls below it; None means 1e-6 in float64 and 1e-3 in float32. The
        decrease is that of Newton's model, by conjugate gradients; of the L-BFGS model where the decoder has kinks.
    max_steps : int
        Most steps of both kinds, refused ones included, at each number of nodes.
    memory : int
        Pairs of steps and gradient changes that L-BFGS remembers.
    certify : bool, optional
        Whether to prove that the Hessian of converged curves is positive definite: by its blocks up to d = 64, at a
        cost of about 6·(1 + d) forward passes, and beyond by up to 160 Hessian-vector products, with a probability of
        error of 1e-3. Without it `certified` is False; saddles are looked for all the same. None means up to d = 12.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] Neuberger, "Sobolev Gradients and Differential Equations", 2010.
    .. [2] Nocedal, Wright, "Numerical Optimization", 2006, chapter 7.

    Examples
    --------
    >>> from latentgeo.geodesics import distance
    >>> from latentgeo.metrics import Sphere
    >>> a, b = torch.zeros(20, dtype=torch.float64), torch.eye(20, dtype=torch.float64)[0]
    >>> distance(Sphere(20), a, b, solver=Sobolev())
    tensor(1.5708, dtype=torch.float64)
    """

    n_points: int = 33
    max_points: int = 513
    rtol: float = 1e-3
    residual_tol: float | None = None
    max_steps: int = 500
    memory: int = 10
    certify: bool | None = None

    def __post_init__(self) -> None:
        check_options(self, n_points=3, max_steps=1, memory=1)
        check_flag(self.certify, "certify", optional=True)

    def curve_bytes(self, d: int) -> int:
        """Bytes that one curve takes over a whole solve; a level's own memory is bounded within it."""
        return 8 * 6 * self.max_points * d

    def solve(self, metric: Metric, start: Curve) -> Solution:
        """Solve for geodesics in the basins of the starting curves (B, n, d), which have finite, distinct ends."""
        return _MatrixFree(self, metric, start).run()


def _levels(solver: Sobolev) -> list[int]:
    levels = doubled(solver.n_points, solver.max_points)
    while levels[0] % 2 == 1 and (levels[0] + 1) // 2 >= _COARSEST:
        levels.insert(0, (levels[0] + 1) // 2)
    return levels


class _MatrixFree(Refinement):
    """The shared refinement, each level first solved loosely and, if it is the last one needed, to the tolerance."""

    def __init__(self, solver: Sobolev, metric: Metric, start: Curve) -> None:
        super().__init__(metric, start, _levels(solver), solver.n_points, solver.rtol)
        self.solver = solver
        self.tol = as_tolerance(solver.residual_tol, start.nodes.dtype)
        self.budget = DEFAULT_MAX_BYTES if metric.embedding is None else metric.embedding.max_bytes

    def polygons(self, curves: Curve, n: int) -> tuple[Tensor, Quadrature, float]:
        nodes, spans, _ = super().polygons(curves, n)
        return nodes, spans, _FAIR_RATIO

    def solve_level(self, index: Tensor, nodes: Tensor, n: int, *, last: bool) -> tuple[Tensor, Tensor]:
        d = nodes.shape[-1]
        size = max(1, self.budget // (8 * (n * d * (2 * self.solver.memory + 12) + 2 * d * d)))
        parts = [self._group(index[i : i + size], nodes[i : i + size], n, last) for i in range(0, len(index), size)]
        left, finer = zip(*parts, strict=True)
        return torch.cat(left), torch.cat(finer)

    def _group(self, index: Tensor, nodes: Tensor, n: int, last: bool) -> tuple[Tensor, Tensor]:
        solver = self.solver
        products = products_of(self.metric, nodes)
        near = n > self.levels[0]
        descent = Descent(products, nodes, self._laplacian(nodes, near=near), solver.memory, solver.max_steps)
        descent.run(max(self.tol, _LOOSE))
        spans = arc_length(self.metric, Curve(descent.z), rtol=self.rtol)
        enough = last | self._accurate(index, spans, descent, n)
        worth = enough & ~descent.are(Status.NOT_FINITE)
        saddle = torch.zeros_like(worth)
        if bool(worth.any()):
            if not near:
                descent.precondition(self._laplacian(descent.z, near=True))
            saddle = self._tighten(descent, worth)
            better = arc_length(self.metric, Curve(descent.z[worth]), rtol=self.rtol)
            spans = spans.replaced(worth.nonzero()[:, 0], better)
        curve, fatal = Curve(descent.z), descent.are(Status.NOT_FINITE) | ~spans.length.isfinite()
        found = Level(
            curve,
            spans,
            self._error(index, spans, descent),
            descent.residual,
            descent.steps,
            descent.status,
            fatal,
            curve.refined(),
            ready=worth,
            saddle=saddle,
        )
        done, finer = self.settle(index, nodes, found, last=last)
        if bool(done.any()):
            self._certify(index, done, descent)
        return index[~done], finer[~done]

    def _laplacian(self, nodes: Tensor, *, near: bool) -> Laplacian:
        """The preconditioner: local metrics once the curves are near the solution, their mean before."""
        return Laplacian(self.metric, nodes, 8 if near else 3, mean=not near)

    def _error(self, index: Tensor, spans: Quadrature, descent: Descent) -> Tensor:
        before = self.length[index]
        # at least second order: n against 2n
        gap = torch.where(before.isfinite(), (before - spans.length).abs() / 3, torch.inf)
        error = gap + spans.error + 4 * descent.residual.square() * spans.length
        return torch.where(error.isfinite(), error, torch.inf)

    def _accurate(self, index: Tensor, spans: Quadrature, descent: Descent, n: int) -> Tensor:
        """Curves that will need no more nodes once they are solved to the tolerance."""
        error = self._error(index, spans, descent) - 4 * descent.residual.square() * spans.length
        return (error <= self.rtol * spans.length) & (n >= self.least)

    def _certify(self, index: Tensor, done: Tensor, descent: Descent) -> None:
        """Certificates of the curves that are done, as far as they are asked for."""
        d = descent.z.shape[-1]
        if not (d <= _CHEAP if self.solver.certify is None else self.solver.certify):
            return
        if d <= _DENSEST:
            self.judge(index[done], descent.z[done])
            return
        won = torch.tensor([self.status[k] is Status.CONVERGED for k in index.tolist()], device=index.device)
        if bool(won.any()):
            self.certified[index[won]] = certify(descent, won)[won]

    def _tighten(self, descent: Descent, which: Tensor) -> Tensor:
        """Solve to the tolerance; leave saddles that are found. Returns which curves are saddles all the same."""
        products: Products = descent.products
        saddle = torch.zeros_like(which)
        for turn in range(_ESCAPES + 1):
            if products.smooth:
                descent.run(max(self.tol, _NEAR), which)
                near = which & descent.are(Status.CONVERGED, Status.PRECISION)
                if bool(near.any()):
                    descent.polish(self.tol, near)
                # where Newton's steps fail, L-BFGS may yet go on; its own word is not taken for convergence
                rest = which & descent.are(Status.MAX_STEPS) & (descent.steps < descent.max_steps)
                if bool(rest.any()):
                    descent.run(self.tol, rest)
                    rest = rest & descent.are(Status.CONVERGED)
                    if bool(rest.any()):
                        descent.polish(self.tol, rest, most=3)
            else:
                descent.run(self.tol, which)
            which = which & descent.are(Status.CONVERGED)
            if not products.smooth or not bool(which.any()):
                break
            found, moved = escape(descent, which, move=turn < _ESCAPES)
            saddle[which] = found[which]
            which = which & moved
            if not bool(which.any()):
                break
        return saddle
