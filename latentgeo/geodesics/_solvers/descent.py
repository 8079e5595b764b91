"""Damped Newton on the discrete energy of curves with a fixed number of nodes, all curves of a batch at once.

The exact block-tridiagonal Hessian is convexified and Levenberg-damped per curve where it is not positive definite; a
step counts only if the energy truly falls. Where steps do what they promise, a Hessian serves for several of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..._calculus import BlockTridiagonal, concave_part
from ..geodesic import Status
from .energy import Energy, Model
from .verdict import concave_step

__all__ = ["Descent"]

_LEAST_DAMPING, _MOST_DAMPING = 1e-2, 1e12
_MOST_IDLE = 4
_MOST_JUMPS = 4  # then more nodes are needed
_BOLD = 1e-2  # a step that predicts a larger relative decrease is checked for jumps across ridges
_HIDDEN = 1.02  # how much more of its energy a step may hide between the nodes than the start of the level did
_QUADRATIC = 0.05  # residual below which Newton's steps converge quadratically: the last one needs no new Hessian
_CALM = 0.3  # residual below which a step as good as predicted lets its Hessian serve again with a new gradient
_CONTRACTION = 0.3  # by which such a step must lower the residual
_SADDLE = 1e-3  # residual below which an indefinite Hessian is taken for a saddle
_FAIR = 1.1  # what any polygon may hide


class Descent:
    """Damped Newton on the energy of curves with a fixed number of nodes, one damping and one status per curve."""

    def __init__(self, energy: Energy, z: Tensor, tol: float, max_steps: int) -> None:
        self.energy, self.tol, self.max_steps = energy, tol, max_steps
        self.z = z.clone()
        B = z.shape[0]
        self.value, self.noise = energy.value(self.z)
        self.damping = torch.zeros_like(self.value)
        self.most_hidden = torch.full_like(self.value, torch.nan)  # unknown until a bold step asks
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
        self.models: list[tuple[Tensor, Model]] = []  # of the curves that are done
        old = torch.zeros_like(self.active)[index]  # whose Hessian is that of an earlier step
        trials = 0
        while len(index) and model is not None and trials < 4 * self.max_steps:
            trials += 1
            bad = ~model.gradient.isfinite().flatten(1).all(-1)
            step, predicted, definite = self._step(model, index)
            exact = definite & (self.damping[index] == 0)
            residual = (predicted.clamp_min(0.0) / self.value[index].clamp_min(1e-300)).sqrt()
            self.residual[index] = torch.where(exact | ~self.residual[index].isfinite(), residual, self.residual[index])
            before = self.value[index]
            accepted = self._try(index, step, predicted)
            surprise = (predicted - (before - self.value[index])).abs()
            left = torch.maximum(torch.maximum(surprise, predicted.square() / before), self.noise[index])
            left = (left / before.clamp_min(1e-300)).sqrt()  # residual after a full Newton step, from above
            sure = accepted & exact & (residual <= _QUADRATIC) & (left <= self.tol)
            self.residual[index] = torch.where(sure, torch.minimum(left, residual), self.residual[index])
            saddle = ~definite & (residual <= _SADDLE) & self.energy.smooth
            if bool(saddle.any()):
                which = saddle.nonzero()[:, 0]
                accepted[which] |= self._fall_off(index[which], model.select(which))
            small = residual <= self.tol
            floor = predicted <= self.noise[index]
            won = small & exact & (accepted | floor) | sure
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
            self._keep(index, model, ~stay)
            self.damping[index[old & ~accepted]] = 0.0  # it was not the step, but the Hessian
            calm = accepted & exact & (residual <= _CALM) & (surprise <= 0.25 * predicted) & stay
            renew, old = (accepted | old)[stay], calm[stay]
            model, index, predicted = model.select(stay), index[stay], predicted[stay]
            if self.energy.embedded and bool(old.any()):
                model, old = self._with_gradient(model, index, old, predicted)
            else:
                old = torch.zeros_like(old)
            renew &= ~old
            if bool(renew.any()):
                model = model.updated(renew.nonzero()[:, 0], self.energy.model(self.z[index[renew]]))

    def _keep(self, index: Tensor, model: Model, done: Tensor) -> None:
        """Store the last models of the curves that are done."""
        if bool(done.any()):
            self.models.append((index[done], model.select(done)))

    def solutions(self) -> list[tuple[Tensor, Model]]:
        """Which curves have converged, with their last models: nothing, or one batch."""
        if not self.models:
            return []
        index = torch.cat([members for members, _ in self.models])
        model = Model.joined([each for _, each in self.models])
        keep = self.converged[index]
        return [(index[keep], model.select(keep))] if bool(keep.any()) else []

    def _with_gradient(self, model: Model, index: Tensor, calm: Tensor, predicted: Tensor) -> tuple[Model, Tensor]:
        """The model with a new gradient but its old Hessian, for the `calm` curves where that still serves.

        Returns which they are: those whose predicted decrease has fallen enough since the last step.
        """
        which = calm.nonzero()[:, 0]
        part = model.select(which)
        part.gradient = self.energy.gradient(self.z[index[which]])
        left = 0.5 * (BlockTridiagonal(*part.exact()).solve(part.gradient) * part.gradient).sum((-2, -1))
        serves = left <= _CONTRACTION**2 * predicted[which]
        kept = torch.zeros_like(calm)
        kept[which[serves]] = True
        return model.updated(which[serves], part.select(serves)), kept

    def _finish(self, index: Tensor, mask: Tensor, status: Status) -> None:
        whole = torch.zeros_like(self.active)
        whole[index] = mask
        self._set(whole & self.active, status)

    def _fall_off(self, index: Tensor, model: Model) -> Tensor:
        """Leave a saddle along a direction of negative curvature, to the side where the energy falls most."""
        step = concave_step(model, self.value[index])
        best, at = self.value[index].clone(), self.z[index].clone()
        left = torch.zeros(len(index), dtype=torch.bool, device=index.device)
        for part in (0.1, -0.1, 0.03, -0.03):
            trial = self.z[index].clone()
            trial[:, 1:-1] += (part * step).to(trial.dtype)
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
        damping = torch.where(definite, self.damping[index], self.damping[index].clamp_min(_LEAST_DAMPING))
        todo = (~definite | (damping > 0)).nonzero()[:, 0]
        weight = self._weight(model.select(todo))
        while len(todo):
            level = damping[todo][:, None, None, None]
            factor = BlockTridiagonal(diagonal[todo] + level * weight, upper[todo] + level * model.upper[todo])
            good = factor.positive_definite
            step[todo] = torch.where(good[:, None, None], -factor.solve(model.gradient[todo]), 0.0)
            again = ~good & (damping[todo] < _MOST_DAMPING)
            todo, weight = todo[again], weight[again]
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
        concave = concave_part(model.bend.nan_to_num(0.0, 0.0, 0.0))
        own = model.base.diagonal(dim1=-2, dim2=-1)
        floor = own.mean((-2, -1), keepdim=True) / (model.base.shape[1] + 1) ** 2
        return model.base + concave + floor.expand_as(own).diag_embed()

    def _try(self, index: Tensor, step: Tensor, predicted: Tensor) -> Tensor:
        """Take the steps that lower the energy; adapt the damping. Returns which were taken."""
        z = self.z[index]
        trial = z.clone()
        trial[:, 1:-1] += step.to(z.dtype)
        bold = predicted > _BOLD * self.value[index]
        value, noise = self.value[index].clone(), self.noise[index].clone()
        ratio = torch.ones_like(value)
        if bool(bold.any()):
            value[bold], noise[bold], ratio[bold] = self.energy.hidden(trial[bold])
            new = index[bold & self.most_hidden[index].isnan()]
            if len(new):
                self.most_hidden[new] = (_HIDDEN * self.energy.hidden(self.z[new])[2]).clamp_min(_FAIR)
        if not bool(bold.all()):
            value[~bold], noise[~bold] = self.energy.value(trial[~bold])
        fall = self.value[index] - value
        within = (predicted <= self.noise[index]) & (fall >= -2 * self.noise[index])
        accepted = value.isfinite() & ((fall >= 1e-4 * predicted) & (fall > 0) | within) & (predicted > 0)
        jumped = accepted & bold & ~(ratio <= self.most_hidden[index])
        self.jumps[index] += jumped.long()
        accepted &= ~jumped
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
