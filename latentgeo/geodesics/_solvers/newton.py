"""Newton's method on the discrete curve energy, all curves of a batch at once.

Exact block-tridiagonal Hessian, convexified and Levenberg-damped per curve where it is not positive definite; a step
counts only if the energy truly falls. Nodes are doubled until the length of the interpolated curve is accurate.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..._calculus import BlockTridiagonal
from ...metrics import Metric
from ..curve import Curve, arc_length, equal_speed
from ..geodesic import Status
from .energy import Energy, Model, energy_of

__all__ = ["Newton", "Solution"]

_COARSEST = 9
_FAIR_RATIO = 1.05  # arc over chord above which a polygon hides length between its nodes
_LEAST_DAMPING, _MOST_DAMPING = 1e-2, 1e12
_MOST_IDLE = 4
_LONGER = 3e-3  # relative growth of the true length that a solve is forgiven, for quadrature on coarse nodes
_MOST_JUMPS = 4  # then more nodes are needed
_BOLD = 1e-2  # a step that predicts a larger relative decrease is checked for jumps across ridges
_HIDDEN = 1.02  # how much more of its energy a step may hide between the nodes than the start of the level did
_SADDLE = 1e-3  # residual below which an indefinite Hessian is taken for a saddle


@dataclasses.dataclass(frozen=True)
class Solution:
    """Curves found by a solver, each with the number of nodes it needed. All tensors have shape (B,)."""

    pieces: tuple[tuple[Tensor, Curve], ...]
    length: Tensor
    length_error: Tensor
    energy: Tensor
    residual: Tensor
    certified: Tensor
    steps: Tensor
    points: Tensor
    status: list[Status]


@dataclasses.dataclass(frozen=True)
class Newton:
    """Newton's method on the discrete curve energy, with nodes added until the length is accurate.

    Parameters
    ----------
    n_points : int
        Least number of nodes of a returned curve (solved coarse to fine), at least 3.
    max_points : int
        Most nodes of a curve.
    rtol : float
        Relative error allowed on the length.
    residual_tol : float, optional
        Stop when √(predicted decrease / energy) falls below it; None means 1e-6 in float64 and 1e-3 in float32.
    max_steps : int
        Most Newton steps at each number of nodes.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> Newton(rtol=1e-6)
    Newton(n_points=33, max_points=513, rtol=1e-06, residual_tol=None, max_steps=50)
    """

    n_points: int = 33
    max_points: int = 513
    rtol: float = 1e-3
    residual_tol: float | None = None
    max_steps: int = 50

    def __post_init__(self) -> None:
        for name, least in (("n_points", 3), ("max_points", 3), ("max_steps", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
        if self.max_points < self.n_points:
            raise ValueError(f"`max_points` must be at least `n_points` = {self.n_points}, got {self.max_points}")
        for name in ("rtol", "residual_tol"):
            value = getattr(self, name)
            if value is None and name == "residual_tol":
                continue
            if not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
                raise ValueError(f"`{name}` must be a positive finite number, got {value!r}")

    def _levels(self) -> list[int]:
        """Numbers of nodes to solve for, coarse to fine: each doubles the segments of the one before."""
        levels = [self.n_points]
        while (levels[0] + 1) // 2 >= _COARSEST and levels[0] % 2 == 1 and len(levels) < 2:
            levels.insert(0, (levels[0] + 1) // 2)
        while 2 * levels[-1] - 1 <= self.max_points:
            levels.append(2 * levels[-1] - 1)
        return levels

    def solve(self, metric: Metric, start: Curve) -> Solution:
        """Solve for geodesics in the basins of the starting curves (B, n, d), which have finite, distinct ends."""
        return _Refinement(self, metric, start).run()


class _Refinement:
    """One call's state: per curve its result so far, per level the curves that still need it."""

    def __init__(self, solver: Newton, metric: Metric, start: Curve) -> None:
        z = start.nodes
        B = z.shape[0]
        self.solver, self.metric, self.start = solver, metric, start
        self.tol = solver.residual_tol or (1e-6 if z.dtype == torch.float64 else 1e-3)
        self.levels = solver._levels()
        self.length = torch.full((B,), torch.nan, dtype=torch.float64, device=z.device)
        self.error = torch.full_like(self.length, torch.inf)
        self.entry = self.length.clone()  # of the curve that entered the present level
        self.energy, self.residual = self.length.clone(), self.length.clone()
        self.certified = torch.zeros(B, dtype=torch.bool, device=z.device)
        self.steps = torch.zeros(B, dtype=torch.long, device=z.device)
        self.points = torch.zeros(B, dtype=torch.long, device=z.device)
        self.failed = torch.zeros(B, dtype=torch.bool, device=z.device)
        self.status = [Status.MAX_POINTS] * B
        self.pieces: list[tuple[Tensor, Curve]] = []

    def run(self) -> Solution:
        waiting = self._first_levels()  # level -> [(curve indices, nodes)]
        for level in range(len(self.levels)):
            groups = waiting.pop(level, [])
            if not groups:
                continue
            index = torch.cat([g[0] for g in groups])
            nodes = torch.cat([g[1] for g in groups])
            index, nodes = self._solve_level(index, nodes, last=level == len(self.levels) - 1)
            if len(index):
                waiting.setdefault(level + 1, []).append((index, nodes))
        return Solution(
            tuple(self.pieces),
            self.length,
            self.error,
            self.energy,
            self.residual,
            self.certified,
            self.steps,
            self.points,
            self.status,
        )

    def _first_levels(self) -> dict[int, list[tuple[Tensor, Tensor]]]:
        """Put every starting curve at the first level whose polygon does not hide length between its nodes."""
        rest = torch.arange(self.start.nodes.shape[0], device=self.start.nodes.device)
        waiting: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for level, n in enumerate(self.levels):
            curves = self.start.select(rest)
            nodes = equal_speed(self.metric, curves, n)
            spans = arc_length(self.metric, Curve(nodes), rtol=0.1)
            fair = ~(spans.ratio > _FAIR_RATIO) | (level == len(self.levels) - 1)
            fair |= ~spans.length.isfinite()
            self.entry[rest] = spans.length
            waiting[level] = [(rest[fair], nodes[fair])]
            rest = rest[~fair]
            if len(rest) == 0:
                break
        return {level: groups for level, groups in waiting.items() if len(groups[0][0])}

    def _solve_level(self, index: Tensor, nodes: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """Solve at one number of nodes; return the curves that need more nodes, refined."""
        n = nodes.shape[1]
        energy = energy_of(self.metric, nodes)
        descent = _Descent(energy, nodes, self.tol, self.solver.max_steps)
        descent.run()
        curve = Curve(descent.z)
        spans = arc_length(self.metric, curve, rtol=self.solver.rtol)
        before = self.length[index]
        change = (before - spans.length).abs() / 3  # at least second order: n against 2n
        gap = torch.where(before.isfinite(), change, torch.inf)
        wobble = descent.residual.square() * spans.length
        error = gap + spans.error + wobble
        self.length[index], self.error[index] = spans.length, error
        self.energy[index] = 0.5 * (n - 1) * spans.segments.square().sum(-1)
        self.residual[index], self.certified[index] = descent.residual, descent.certified
        self.steps[index] += descent.steps
        self.points[index] = n
        # nodes that jumped across thin ridges lower the polygon's energy but not the curve's length
        longer = spans.length > self.entry[index] * (1 + max(_LONGER, self.solver.rtol))
        failed_before = self.failed[index]
        coarse = longer | torch.tensor([s is Status.UNRESOLVED for s in descent.status], device=index.device)
        self.failed[index] = ~descent.converged & ~coarse
        accurate = (error <= self.solver.rtol * spans.length) & (n >= self.solver.n_points)
        fatal = torch.tensor([s is Status.NOT_FINITE for s in descent.status], device=index.device)
        done = (accurate & descent.converged & ~longer) | fatal | last | (failed_before & self.failed[index])
        for k in done.nonzero()[:, 0].tolist():
            status = descent.status[k]
            if status is Status.CONVERGED and longer[k]:
                status = Status.UNRESOLVED
            elif status is Status.CONVERGED and not accurate[k]:
                status = Status.MAX_POINTS
            self.status[int(index[k])] = status
        if bool(done.any()):
            self.pieces.append((index[done], curve.select(done)))
        self.entry[index] = torch.where(longer, self.entry[index], spans.length)
        finer = torch.where(longer[:, None, None], Curve(nodes).refined(), curve.refined())
        return index[~done], finer[~done]


class _Descent:
    """Damped Newton on the energy of curves with a fixed number of nodes, one damping and one status per curve."""

    def __init__(self, energy: Energy, z: Tensor, tol: float, max_steps: int) -> None:
        self.energy, self.tol, self.max_steps = energy, tol, max_steps
        self.z = z.clone()
        B = z.shape[0]
        self.value, self.noise = energy.value(self.z)
        self.damping = torch.zeros_like(self.value)
        self.most_hidden = (_HIDDEN * self._hidden(self.z, self.value)).clamp_min(_FAIR_RATIO**2)
        self.residual = torch.full_like(self.value, torch.inf)
        self.certified = torch.zeros(B, dtype=torch.bool, device=z.device)
        self.steps = torch.zeros(B, dtype=torch.long, device=z.device)
        self.jumps = torch.zeros(B, dtype=torch.long, device=z.device)  # steps refused for jumping across ridges
        self.idle = torch.zeros(B, dtype=torch.long, device=z.device)  # steps in a row that rounding swallowed
        self.status = [Status.MAX_STEPS] * B
        self.active = self.value.isfinite()
        self._set(~self.active, Status.NOT_FINITE)

    @property
    def converged(self) -> Tensor:
        """Which curves have converged, (B,)."""
        return torch.tensor([s is Status.CONVERGED for s in self.status], device=self.z.device)

    def _set(self, mask: Tensor, status: Status) -> None:
        for k in mask.nonzero()[:, 0].tolist():
            self.status[k] = status
        self.active = self.active & ~mask

    def run(self) -> None:
        index = self.active.nonzero()[:, 0]
        model = self.energy.model(self.z[index]) if len(index) else None
        trials = 0
        while len(index) and model is not None and trials < 4 * self.max_steps:
            trials += 1
            bad = ~model.gradient.isfinite().flatten(1).all(-1)
            step, predicted, definite = self._step(model, index)
            exact = definite & (self.damping[index] == 0)
            residual = (predicted.clamp_min(0.0) / self.value[index].clamp_min(1e-300)).sqrt()
            self.residual[index] = torch.where(exact | ~self.residual[index].isfinite(), residual, self.residual[index])
            accepted = self._try(index, step, predicted)
            saddle = ~definite & (residual <= max(self.tol, _SADDLE)) & self.energy.smooth
            if bool(saddle.any()):
                which = saddle.nonzero()[:, 0]
                accepted[which] |= self._fall_off(index[which], model.select(which))
            small = residual <= self.tol
            floor = predicted <= self.noise[index]
            won = small & exact & (accepted | floor)
            # where damping kept the step small, or no exact model is positive definite, nothing has converged yet
            self.idle[index] = torch.where(floor & exact & ~small, self.idle[index] + 1, 0)
            stuck = (~accepted & (self.damping[index] >= _MOST_DAMPING)) | (self.idle[index] >= _MOST_IDLE)
            flat = ~won & (floor | saddle) & ~accepted & ~exact
            spent = self.steps[index] >= self.max_steps
            self.certified[index] = exact & self.energy.smooth
            self._finish(index, won, Status.CONVERGED)
            self._finish(index, bad & ~won, Status.NOT_FINITE)
            self._finish(index, (stuck | flat) & ~won & exact, Status.PRECISION)
            self._finish(index, (stuck | flat) & ~won & ~exact, Status.NOT_MINIMAL)
            self._finish(index, (self.jumps[index] >= _MOST_JUMPS) & ~won, Status.UNRESOLVED)
            self._finish(index, spent & ~won, Status.MAX_STEPS)
            stay = self.active[index]
            moved = accepted & stay
            if bool(moved.any()):
                model = model.updated(moved.nonzero()[:, 0], self.energy.model(self.z[index[moved]]))
            model, index = model.select(stay), index[stay]

    def _finish(self, index: Tensor, mask: Tensor, status: Status) -> None:
        whole = torch.zeros_like(self.active)
        whole[index] = mask
        self._set(whole & self.active, status)

    def _fall_off(self, index: Tensor, model: Model) -> Tensor:
        """Leave a saddle along a direction of negative curvature, to the side where the energy falls most."""
        diagonal, upper = model.exact()
        n = diagonal.shape[1]
        # a fixed direction that is the same for both orientations of the curve
        w = torch.sin(torch.pi * torch.linspace(0, 1, n + 2, dtype=diagonal.dtype, device=diagonal.device)[1:-1])
        w = w[None, :, None] * torch.linspace(1.0, 1.5, diagonal.shape[-1]).to(w)
        w = w.expand(len(index), -1, -1)
        trace = model.base.diagonal(dim1=-2, dim2=-1).mean((-2, -1))[:, None, None]
        shift = torch.full_like(trace, 1e-4)
        eye = torch.eye(diagonal.shape[-1], dtype=diagonal.dtype, device=diagonal.device)
        for _ in range(12):  # the least shift that makes the Hessian definite brings out its most negative direction
            factor = BlockTridiagonal(diagonal + (shift * trace)[..., None] * eye, upper)
            indefinite = ~factor.positive_definite
            if not bool(indefinite.any()):
                break
            shift = torch.where(indefinite[:, None, None], 4 * shift, shift)
        for _ in range(3):
            w = factor.solve(w).nan_to_num(0.0)
            w = w / w.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-300)
        stretch = torch.einsum("Bni,Bnij,Bnj->B", w, model.base, w).clamp_min(1e-300)
        size = (2 * self.value[index] / stretch).sqrt()[:, None, None]
        best, at = self.value[index].clone(), self.z[index].clone()
        left = torch.zeros(len(index), dtype=torch.bool, device=index.device)
        for factor_ in (0.1, -0.1, 0.03, -0.03):
            trial = self.z[index].clone()
            trial[:, 1:-1] += (factor_ * size * w).to(trial.dtype)
            value, noise = self.energy.value(trial)
            better = value < best - 4 * noise
            best, at[better] = torch.where(better, value, best), trial[better]
            left |= better
        taken = index[left]
        self.z[taken], self.value[taken] = at[left], best[left]
        self.steps[taken] += 1
        return left

    def _step(self, model: Model, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Newton step, the decrease it predicts, and whether the undamped Hessian is positive definite.

        Where it is not, the damping is raised until the damped one is: the step then uses negative curvature.
        """
        diagonal, upper = (t.nan_to_num(0.0) for t in model.exact())
        factor = BlockTridiagonal(diagonal, upper)
        definite = factor.positive_definite
        step = -factor.solve(model.gradient)
        weight = self._weight(model)
        damping = torch.where(definite, self.damping[index], self.damping[index].clamp_min(_LEAST_DAMPING))
        todo = (~definite | (damping > 0)).nonzero()[:, 0]
        while len(todo):
            level = damping[todo][:, None, None, None]
            factor = BlockTridiagonal(diagonal[todo] + level * weight[todo], upper[todo] + level * model.upper[todo])
            good = factor.positive_definite
            step[todo] = torch.where(good[:, None, None], -factor.solve(model.gradient[todo]), 0.0)
            todo = todo[~good & (damping[todo] < _MOST_DAMPING)]
            damping[todo] *= 4
        self.damping[index] = damping
        step = step.nan_to_num(0.0, 0.0, 0.0)
        # ½gᵀH⁻¹g for the undamped model; never more for a damped one
        predicted = -0.5 * (model.gradient * step).sum((-2, -1))
        return step, predicted, definite

    @staticmethod
    def _weight(model: Model) -> Tensor:
        """Diagonal blocks of what damping adds to the Hessian, beside its Gauss-Newton `upper`.

        The Gauss-Newton part limits steps in the energy norm, which treats bends of all wavelengths alike; the negative
        part of the bend, turned round, makes a damping of one enough for a positive definite model; and a floor for the
        whole curve serves nodes where the metric vanishes.
        """
        values, vectors = torch.linalg.eigh(model.bend.nan_to_num(0.0, 0.0, 0.0))
        concave = (vectors * values.clamp_max(0.0).neg()[..., None, :]) @ vectors.mT
        own = model.base.diagonal(dim1=-2, dim2=-1)
        floor = own.mean((-2, -1), keepdim=True) / (model.base.shape[1] + 1) ** 2
        return model.base + concave + floor.expand_as(own).diag_embed()

    def _hidden(self, z: Tensor, value: Tensor) -> Tensor:
        """Energy with a node more in the middle of each side, over the energy: far above one if ridges are jumped."""
        finer = z.new_empty(z.shape[0], 2 * z.shape[1] - 1, z.shape[2])
        finer[:, 0::2], finer[:, 1::2] = z, 0.5 * (z[:, 1:] + z[:, :-1])
        return self.energy.value(finer)[0] / value.clamp_min(1e-300)

    def _try(self, index: Tensor, step: Tensor, predicted: Tensor) -> Tensor:
        """Take the steps that lower the energy; adapt the damping. Returns which were taken."""
        z = self.z[index]
        trial = z.clone()
        trial[:, 1:-1] += step.to(z.dtype)
        value, noise = self.energy.value(trial)
        fall = self.value[index] - value
        within = (predicted <= self.noise[index]) & (fall >= -2 * self.noise[index])
        accepted = value.isfinite() & ((fall >= 1e-4 * predicted) & (fall > 0) | within) & (predicted > 0)
        bold = (accepted & (predicted > _BOLD * self.value[index])).nonzero()[:, 0]
        if len(bold):
            fair = self._hidden(trial[bold], value[bold]) <= self.most_hidden[index[bold]]
            accepted[bold] = fair
            self.jumps[index[bold]] += (~fair).long()
        gain = fall / predicted.clamp_min(1e-300)
        old = self.damping[index]
        easier = torch.where(gain > 0.7, old / 10, torch.where(gain > 0.25, old, 2 * old))
        easier = torch.where(easier < _LEAST_DAMPING, 0.0, easier)
        self.damping[index] = torch.where(accepted, easier, torch.maximum(2 * old, torch.full_like(old, 3e-2)))
        taken = index[accepted]
        self.z[taken] = trial[accepted]
        self.value[taken], self.noise[taken] = value[accepted], noise[accepted]
        self.steps[taken] += 1
        return accepted
