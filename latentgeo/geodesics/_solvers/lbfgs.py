"""L-BFGS on discrete curve energies with the curve's Laplacian as metric (Sobolev gradients), then Newton-CG.

Nocedal & Wright, "Numerical Optimization", 2006, algorithms 7.4 (two-loop recursion, which the inverse Laplacian
starts) and 7.1 (conjugate gradients, with L-BFGS as preconditioner). All curves at once; each has its own memory, step
size and status.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..geodesic import Status
from .laplacian import Laplacian, dot
from .line_search import LEAST_STEP, MOST_IDLE, Memory, judged
from .products import Products

__all__ = ["Descent"]

_FORCING = 0.1  # conjugate gradients stop where a step adds less than this to the predicted decrease
_MOST_PRODUCTS = 60  # for one Newton step


class Descent:
    """Curves (B, n, d) of one level. `run` descends by L-BFGS, `polish` by Newton-CG; each goes on from the last."""

    def __init__(
        self, products: Products, nodes: Tensor, preconditioner: Laplacian, memory: int, max_steps: int
    ) -> None:
        B = nodes.shape[0]
        self.products, self.pre, self.max_steps = products, preconditioner, max_steps
        self.z = nodes.clone()
        self.value, self.noise, self.gradient = products.evaluate(self.z)
        self.residual = torch.full_like(self.value, torch.inf)
        self.size = torch.ones_like(self.value)
        self.steps = torch.zeros(B, dtype=torch.long, device=nodes.device)
        self.idle = self.steps.clone()
        fine = self.value.isfinite() & self.gradient.isfinite().flatten(1).all(-1)
        self.status = [Status.MAX_STEPS if ok else Status.NOT_FINITE for ok in fine.tolist()]
        self.memory = Memory(memory, self.gradient)
        self.gamma = torch.ones_like(self.value)

    def are(self, *statuses: Status) -> Tensor:
        """Which curves have one of the statuses, (B,)."""
        return torch.tensor([s in statuses for s in self.status], dtype=torch.bool, device=self.z.device)

    def finish(self, index: Tensor, mask: Tensor, status: Status) -> Tensor:
        """Give a status to the curves of `index` that `mask` picks; returns the mask."""
        for k in index[mask].tolist():
            self.status[k] = status
        return mask

    def move(self, index: Tensor, nodes: Tensor) -> None:
        """Put curves elsewhere, without memory of where they were."""
        self.z[index] = nodes
        self.value[index], self.noise[index], self.gradient[index] = self.products.evaluate(nodes)
        self._forget(index)

    def _forget(self, index: Tensor) -> None:
        self.memory.forget(index)
        self.gamma[index] = 1.0

    def precondition(self, preconditioner: Laplacian) -> None:
        """Go on with another preconditioner."""
        self.pre = preconditioner
        known = self.memory.known.nonzero()[:, 0]
        change, rho = self.memory.changes[-1, known], self.memory.rho[-1, known]
        self.gamma[known] = 1 / (rho * dot(change, self.pre.solve(known, change)).clamp_min(1e-300))

    # --- L-BFGS -------------------------------------------------------------------------------------------------------

    def direction(self, index: Tensor, gradient: Tensor) -> Tensor:
        """−H·gradient, H the L-BFGS inverse Hessian of the curves at `index`."""
        return self.memory.direction(
            index, gradient, lambda q: self.gamma[index, None, None] * self.pre.solve(index, q)
        )

    def run(self, tol: float, which: Tensor | None = None) -> None:
        """Descend until √(predicted decrease / energy) is at most `tol`, or something else ends it."""
        index = (~self.are(Status.NOT_FINITE) if which is None else which).nonzero()[:, 0]
        for k in index.tolist():
            self.status[k] = Status.MAX_STEPS
        self.idle[index], self.size[index] = 0, 1.0
        direction = self.direction(index, self.gradient[index])
        for _ in range(2 * self.max_steps):
            slope = dot(self.gradient[index], direction)
            self.residual[index] = ((-0.5 * slope).clamp_min(0.0) / self.value[index].clamp_min(1e-300)).sqrt()
            done = self.finish(index, self.steps[index] >= self.max_steps, Status.MAX_STEPS)
            stuck = (self.size[index] < LEAST_STEP) | (self.idle[index] >= MOST_IDLE) | (slope > 0)
            done = done | self.finish(index, stuck, Status.PRECISION)
            done = done | self.finish(index, self.residual[index] <= tol, Status.CONVERGED)
            done = done | self.finish(index, ~slope.isfinite(), Status.NOT_FINITE)
            index, direction, slope = index[~done], direction[~done], slope[~done]
            if len(index) == 0:
                break
            accepted = self._try(index, direction, slope)
            # a search that has to shorten its step to nothing starts afresh along the Sobolev gradient
            lost = ~accepted & (self.size[index] < 1e-4) & self.memory.known[index]
            self._forget(index[lost])
            self.size[index[lost]] = 1.0
            new = accepted | lost
            direction[new] = self.direction(index[new], self.gradient[index[new]])

    def _try(self, index: Tensor, direction: Tensor, slope: Tensor) -> Tensor:
        """One trial per curve: a step that lowers the energy enough is taken, any other shortened."""
        size, noise = self.size[index], self.noise[index]
        trial = self.z[index].clone()
        trial[:, 1:-1] += (size[:, None, None] * direction).to(trial.dtype)
        value, fresh_noise, gradient = self.products.evaluate(trial)
        sound = gradient.isfinite().flatten(1).all(-1)
        accepted, idle, self.size[index] = judged(value, self.value[index], slope, size, noise, sound)
        self.idle[index] = torch.where(idle, self.idle[index] + 1, 0)
        self.steps[index] += 1
        taken = index[accepted]
        step = (trial[accepted] - self.z[taken])[:, 1:-1].double()
        self._remember(taken, step, gradient[accepted] - self.gradient[taken])
        self.z[taken], self.value[taken], self.noise[taken] = trial[accepted], value[accepted], fresh_noise[accepted]
        self.gradient[taken] = gradient[accepted]
        return accepted

    def _remember(self, index: Tensor, step: Tensor, change: Tensor) -> None:
        kept, change, product = self.memory.remember(index, step, change)
        self.gamma[kept] = product / dot(change, self.pre.solve(kept, change)).clamp_min(1e-300)

    # --- Newton-CG ----------------------------------------------------------------------------------------------------

    def polish(self, tol: float, which: Tensor, most: int = 12) -> None:
        """Newton steps by conjugate gradients until the decrease that Newton's model predicts is small enough.

        Curves that cannot be polished keep MAX_STEPS or PRECISION.
        """
        for group in self.products.groups(self.z[which]):
            index = which.nonzero()[:, 0][group]
            self.idle[index], self.size[index] = 0, 1.0
            for _ in range(most):
                step, predicted, convex = self._newton(index)
                slope = dot(self.gradient[index], step)
                self.residual[index] = (predicted.clamp_min(0.0) / self.value[index].clamp_min(1e-300)).sqrt()
                done = self.finish(index, ~slope.isfinite(), Status.NOT_FINITE)
                done = done | self.finish(index, (self.steps[index] >= self.max_steps) & ~done, Status.MAX_STEPS)
                small = (self.residual[index] <= tol) & convex & slope.isfinite()
                done = done | self.finish(index, small, Status.CONVERGED)
                index, step, slope = index[~done], step[~done], slope[~done]
                index = self._line_search(index, step, slope)
                if len(index) == 0:
                    break
            self.finish(index, torch.ones_like(index, dtype=torch.bool), Status.MAX_STEPS)

    def _line_search(self, index: Tensor, step: Tensor, slope: Tensor) -> Tensor:
        """Take Newton steps, shortened until they descend; returns the curves that moved and may go on."""
        moved, rest = [], index
        self.size[index] = 1.0
        for _ in range(12):
            if len(rest) == 0:
                break
            accepted = self._try(rest, step, slope)
            idle = self.idle[rest] >= MOST_IDLE
            self.finish(rest, accepted & idle, Status.PRECISION)
            moved.append(rest[accepted & ~idle])
            rest, step, slope = rest[~accepted], step[~accepted], slope[~accepted]
        self.finish(rest, torch.ones_like(rest, dtype=torch.bool), Status.PRECISION)
        return torch.cat(moved).sort().values if moved else rest[:0]

    def _newton(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Newton step, the decrease it predicts, and whether no negative curvature was met on the way.

        Where it was, the step is the last iterate before it, or the L-BFGS step if there was none.
        """
        g = self.gradient[index]
        x, predicted = torch.zeros_like(g), torch.zeros_like(self.value[index])
        convex = torch.ones_like(index, dtype=torch.bool)
        todo, r, p = torch.arange(len(index), device=index.device), -g, self.direction(index, g)
        ry = dot(r, p)
        live = ry > 0
        product = None
        for k in range(_MOST_PRODUCTS):
            if product is None or 2 * int(live.sum()) <= len(todo):  # leave out the curves that are done
                todo, r, p, ry = todo[live], r[live], p[live], ry[live]
                live = torch.ones_like(todo, dtype=torch.bool)
                if len(todo) == 0:
                    break
                product = self.products.hessian(self.z[index[todo]])
            Hp = product(p)
            curvature = dot(p, Hp)
            bent = live & ~(curvature > 0)
            convex[todo[bent]] = False
            if k == 0:
                x[todo[bent]] = p[bent]
            live = live & ~bent
            alpha = torch.where(live, ry / torch.where(live, curvature, 1.0), 0.0)
            x[todo] += alpha[:, None, None] * p
            r = r - alpha[:, None, None] * Hp
            predicted[todo] += 0.5 * alpha * ry
            y = -self.direction(index[todo], r)
            fresh = dot(r, y)
            live = live & (0.5 * alpha * ry > _FORCING * predicted[todo]) & fresh.isfinite()
            p = torch.where(live[:, None, None], y + (fresh / ry.clamp_min(1e-300))[:, None, None] * p, p)
            ry = torch.where(live, fresh, ry)
        return x, predicted, convex
