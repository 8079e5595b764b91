"""Where a locally adaptive normal distribution lives: logarithms, means that move, normalising constants.

In Euclidean space all are closed forms; elsewhere they are geodesics, solved for all codes and components at once.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..geodesics import LatentGraph, Newton, shoot, transport
from ..geodesics.connect import default_solver
from ..geodesics.curve import Curve
from ..metrics import Metric
from ._descent import carried
from ._descent import rays as geodesics
from ._land_cast import cast, fields, initial_solver
from ._land_rays import Design, Normalizer, Rays, normalizer

__all__ = ["Curved", "Flat", "Logs", "Place", "Space"]

_PAIRS = 2**13  # geodesics solved at once where their curves are not kept
_LEAST = 1e-3  # responsibility below which a code does not take part in the direction of a step


@dataclasses.dataclass
class Place:
    """Means and frames of K components, float64.

    Attributes
    ----------
    mean : Tensor of shape (K, d)
    frame : Tensor of shape (K, d, d)
        Columns are orthonormal in the metric: normal coordinates ξ belong to the velocity ``frame @ ξ``.
    """

    mean: Tensor
    frame: Tensor

    def replaced(self, index: Tensor, other: Place) -> Place:
        """A copy with the components at `index` taken from another."""
        return Place(*(a.index_copy(0, index, b[index]) for a, b in zip(self.both, other.both, strict=True)))

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.frame


@dataclasses.dataclass
class Logs:
    """Logarithms of N codes at K means.

    Attributes
    ----------
    xi : Tensor of shape (K, N, d), float64
        In normal coordinates; 0 where there is none.
    failed, lost : Tensor of shape (K, N), bool
        Geodesics that did not converge; those without a finite length, too, are lost.
    curves : Tensor of shape (K, N, n, d) or None
    """

    xi: Tensor
    failed: Tensor
    lost: Tensor
    curves: Tensor | None = None

    def replaced(self, index: Tensor, other: Logs) -> Logs:
        """A copy with the components at `index` taken from another."""
        xi, failed, lost = (
            getattr(self, name).index_copy(0, index, getattr(other, name)[index]) for name in ("xi", "failed", "lost")
        )
        if self.curves is None or other.curves is None:
            return Logs(xi, failed, lost)
        there = index.to(self.curves.device)  # the curves stay where the metric is, the statistics are NumPy's
        return Logs(xi, failed, lost, self.curves.index_copy(0, there, other.curves[there]))


class Space(abc.ABC):
    """Geometry that the fit needs; components at `live` only are computed, the others' results are arbitrary."""

    @abc.abstractmethod
    def place(self, means: Tensor) -> Place:
        """Means with orthonormal frames."""

    @abc.abstractmethod
    def logs(self, place: Place, Z: Tensor, live: Tensor, warm: Logs | None = None, *, keep: bool = False) -> Logs:
        """Logarithms of codes Z (N, d) at the means."""

    @abc.abstractmethod
    def rays(self, place: Place, S: Tensor, live: Tensor) -> Rays | None:
        """What the constants need to be known at these means."""

    @abc.abstractmethod
    def normalizer(self, rays: Rays | None, S: Tensor) -> Normalizer:
        """Constants and moments for covariances S (K, d, d) in normal coordinates."""

    @abc.abstractmethod
    def carry(self, place: Place, step: Tensor) -> tuple[Place, Tensor]:
        """Means moved along geodesics by steps (K, d) in normal coordinates, frames with them; which failed."""

    @abc.abstractmethod
    def pull(self, place: Place, logs: Logs, P: Tensor, share: Tensor) -> Tensor:
        """Minus the gradient by the mean of ½ Σ share ξᵀPξ, (K, d), in normal coordinates."""


class Flat(Space):
    """Euclidean space."""

    def place(self, means: Tensor) -> Place:
        eye = torch.eye(means.shape[1], dtype=means.dtype)
        return Place(means, eye.expand(len(means), -1, -1).clone())

    def logs(self, place: Place, Z: Tensor, live: Tensor, warm: Logs | None = None, *, keep: bool = False) -> Logs:
        none = torch.zeros(len(place.mean), len(Z), dtype=torch.bool)
        return Logs(Z - place.mean[:, None], none, none)

    def rays(self, place: Place, S: Tensor, live: Tensor) -> Rays | None:
        return None

    def normalizer(self, rays: Rays | None, S: Tensor) -> Normalizer:
        zero = torch.zeros_like(S[:, 0, 0])
        constant = 0.5 * (S.shape[-1] * torch.log(torch.full_like(zero, 2 * torch.pi)) + torch.logdet(S))
        return Normalizer(constant, zero, S, torch.zeros_like(S[:, 0]), zero)

    def carry(self, place: Place, step: Tensor) -> tuple[Place, Tensor]:
        return Place(place.mean + step, place.frame), torch.zeros(len(step), dtype=torch.bool)

    def pull(self, place: Place, logs: Logs, P: Tensor, share: Tensor) -> Tensor:
        return torch.einsum("kij,knj,kn->ki", P, logs.xi, share)


class Curved(Space):
    """A metric whose geodesics are solved for."""

    def __init__(
        self,
        metric: Metric,
        graph: LatentGraph | None,
        design: Design,
        *,
        solver: Any,
        shooter: Any,
        tol: float,
        paper: bool,
    ) -> None:
        self.metric, self.graph, self.design = metric, graph, design
        self.solver, self.shooter, self.tol, self.paper = solver, shooter, tol, paper

    def rough_logs(self, place: Place, Z: Tensor, near: Tensor) -> Logs:
        """Logarithms good enough for pictures, of the codes that are `near` (K, N) a mean; the others count as lost."""
        rough = copy.copy(self)
        if self.solver is None and isinstance(default_solver(self.design.directions.shape[1]), Newton):
            rough.solver = Newton(rtol=1e-2, max_points=129)
        xi, lost = Z.new_zeros(*near.shape, Z.shape[1]), torch.ones_like(near)
        for k, some in ((k, some) for k, some in enumerate(near) if bool(some.any())):
            part = rough.logs(place, Z[some], torch.tensor([k]))
            xi[k, some], lost[k, some] = part.xi[k], part.lost[k]
        return Logs(xi, lost, lost)

    def like(self, x: Tensor) -> Tensor:
        """A tensor as the metric takes it."""
        return x.to(dtype=self.metric.dtype or torch.float64, device=self.metric.device)

    def place(self, means: Tensor) -> Place:
        G = self.metric.tensor(self.like(means)).double().cpu()
        factor, info = torch.linalg.cholesky_ex(G)
        if bool((info != 0).any()) or not bool(G.isfinite().all()):
            raise ValueError("the metric is not finite or not positive definite at a component's mean; start elsewhere")
        eye = torch.eye(G.shape[-1], dtype=torch.float64).expand_as(G)
        return Place(means.double(), torch.linalg.solve_triangular(factor.mT, eye, upper=True))

    def logs(self, place: Place, Z: Tensor, live: Tensor, warm: Logs | None = None, *, keep: bool = False) -> Logs:
        K, (N, d) = len(place.mean), Z.shape
        xi = torch.zeros(K, N, d, dtype=torch.float64)
        failed, lost = torch.zeros(K, N, dtype=torch.bool), torch.zeros(K, N, dtype=torch.bool)
        which, code = (i.reshape(-1) for i in torch.meshgrid(live, torch.arange(N), indexing="ij"))
        c, z = self.like(place.mean)[which], self.like(Z)[code]
        if warm is not None and warm.curves is not None and self.metric.period is None:
            parts = [geodesics(self.metric, c, z, self.solver, carried(warm.curves[which, code], c, z))]
        else:
            size = len(c) if keep else _PAIRS
            groups = torch.arange(len(c)).split(max(1, size))
            parts = [geodesics(self.metric, c[g], z[g], self.solver, self.graph) for g in groups if len(g)]
        length = torch.cat([p.length for p in parts]).cpu()
        velocity = torch.cat([p.velocity for p in parts]).cpu()
        bad = ~(length.isfinite() & velocity.isfinite().all(-1))
        inverse = torch.linalg.inv(place.frame)
        xi[which, code] = torch.einsum("bij,bj->bi", inverse[which], torch.where(bad[:, None], 0.0, velocity))
        lost[which, code], failed[which, code] = bad, bad | torch.cat([p.failed for p in parts]).cpu()
        curves = None
        if keep:
            found = torch.cat([p.curves for p in parts])
            curves = found.new_zeros(K, N, *found.shape[1:])
            curves[which, code] = found
        return Logs(xi, failed, lost, curves)

    def rays(self, place: Place, S: Tensor, live: Tensor) -> Rays:
        d, count = S.shape[-1], len(self.design.directions)
        found = cast(
            self.metric, self.like(place.mean[live]), place.frame[live].to(self.metric.device),
            S[live].to(self.metric.device), self.design, graph=self.graph, solver=self.solver, shooter=self.shooter,
            tol=self.tol, paper=self.paper,
        )  # fmt: skip
        K, marks = len(S), self.design.n_radii + 1
        shapes = [(d, d), (count, marks), (count, marks, d, d), (count,), (count,)]
        root, volume, turn, end, cut = (torch.zeros(K, *shape, dtype=torch.float64) for shape in shapes)
        out = Rays(root, volume, turn, end, cut, torch.zeros(K, count, dtype=torch.bool))
        for f in dataclasses.fields(Rays):
            getattr(out, f.name)[live] = getattr(found, f.name).cpu()
        return out

    def normalizer(self, rays: Rays | None, S: Tensor) -> Normalizer:
        assert rays is not None  # noqa: S101  # an invariant, not the caller's input
        return normalizer(rays, S, self.design)

    def carry(self, place: Place, step: Tensor) -> tuple[Place, Tensor]:
        mean, frame = place.mean.clone(), place.frame.clone()
        d = mean.shape[-1]
        moved = (step != 0).any(-1).nonzero()[:, 0]
        failed = torch.zeros(len(mean), dtype=torch.bool)
        if len(moved) == 0:
            return Place(mean, frame), failed
        start = self.like(mean[moved])
        velocity = self.like(torch.einsum("kij,kj->ki", frame[moved], step[moved]))
        shooter = initial_solver(self.metric, start) if self.shooter is None else self.shooter
        path = shoot(self.metric, start, velocity, solver=shooter, throw=False)
        bad = ~path.z.isfinite().flatten(1).all(-1).cpu()
        axes = self.like(frame[moved]).movedim(-1, 0)  # (d, moved, d)
        after = transport(path, axes, rtol=1e-2)[..., -1, :].movedim(0, -1).double().cpu()
        good = moved[~bad]
        failed[moved[bad]] = True
        mean[good] = path.z[~bad.to(path.z.device), -1].double().cpu()
        if len(good):
            G = self.metric.tensor(self.like(mean[good])).double().cpu()
            gram = after[~bad].mT @ G @ after[~bad]  # the identity up to rounding and the path's error
            factor, info = torch.linalg.cholesky_ex(gram)
            whole = (info == 0) & gram.isfinite().flatten(1).all(-1)
            eye = torch.eye(d, dtype=torch.float64).expand_as(gram)
            factor = torch.where(whole[:, None, None], factor, eye)
            frame[good] = after[~bad] @ torch.linalg.solve_triangular(factor.mT, eye, upper=True)
            failed[good[~whole]] = True
        return Place(mean, frame), failed

    def pull(self, place: Place, logs: Logs, P: Tensor, share: Tensor) -> Tensor:
        covector = torch.einsum("kij,knj->kni", P, logs.xi)
        if not self.paper and logs.curves is not None:
            apart = logs.xi.square().sum(-1) > 0
            k, n = ((share * logs.xi.shape[1] > _LEAST) & apart & ~logs.lost).nonzero(as_tuple=True)
            if len(k):
                a, b = fields(self.metric, Curve(logs.curves[k, n]), 8, rtol=1e-2)
                inverse, info = torch.linalg.inv_ex(b[:, -1].cpu())
                frame = place.frame[k]
                turn = torch.linalg.inv(frame) @ inverse @ a[:, -1].cpu() @ frame
                whole = (info == 0) & turn.isfinite().flatten(1).all(-1) & (turn.flatten(1).abs().amax(-1) < 1e2)
                bent = torch.einsum("bij,bi->bj", turn.nan_to_num(0.0), covector[k, n])
                covector[k, n] = torch.where(whole[:, None], bent, covector[k, n])
        return torch.einsum("kni,kn->ki", covector, share)
