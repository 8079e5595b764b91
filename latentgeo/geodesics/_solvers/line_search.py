"""What descents by line search share: which trial steps are taken, and the memory of L-BFGS.

Nocedal & Wright, "Numerical Optimization", 2006, section 3.5 and algorithm 7.4. All curves of a batch at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .laplacian import dot

__all__ = ["LEAST_STEP", "MOST_IDLE", "Memory", "judged"]

LEAST_STEP = 1e-10
MOST_IDLE = 4  # steps in a row that rounding swallowed


def judged(
    value: Tensor, before: Tensor, slope: Tensor, size: Tensor, noise: Tensor, sound: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Which trial steps are taken, which of those rounding swallowed, and the lengths to try next; all (B,).

    A step that lowers the energy enough is taken, and the next one is whole; any other is shortened, to the minimiser
    of the parabola through value, slope and trial where that is known. `sound` says where a trial may be gone to.
    """
    rise, expected = value - before, -slope * size
    enough = torch.where(expected <= noise, rise <= noise, rise <= -1e-4 * expected)
    taken = value.isfinite() & sound & enough
    parabola = 0.5 * size * expected / (rise + expected).clamp_min(1e-300)
    shorter = torch.where(value.isfinite(), parabola, 0.1 * size)
    shorter = torch.minimum(torch.maximum(shorter, 0.1 * size), 0.5 * size)
    return taken, taken & (rise >= -noise), torch.where(taken, 1.0, shorter)


class Memory:
    """Steps and gradient changes (B, m, d) of the last few steps of every curve, for L-BFGS.

    Attributes
    ----------
    known : Tensor of shape (B,), bool
        Curves that have a pair at all.
    """

    def __init__(self, length: int, like: Tensor) -> None:
        # newest last; a pair with rho = 0 is empty
        self.steps = like.new_zeros(length, *like.shape)
        self.changes = torch.zeros_like(self.steps)
        self.rho = like.new_zeros(length, len(like))

    @property
    def known(self) -> Tensor:
        return self.rho[-1] > 0

    def remember(self, index: Tensor, step: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keep the pairs of curves at `index` that show positive curvature: which, their changes and products."""
        product = dot(change, step)
        curved = product > 1e-8 * (dot(change, change) * dot(step, step)).sqrt()
        kept, step, change, product = index[curved], step[curved], change[curved], product[curved]
        for history, latest in ((self.steps, step), (self.changes, change), (self.rho, 1 / product)):
            history[:-1, kept] = history[1:, kept]
            history[-1, kept] = latest
        return kept, change, product

    def forget(self, index: Tensor) -> None:
        """Begin anew."""
        self.rho[:, index] = 0.0

    def direction(self, index: Tensor, gradient: Tensor, start: Callable[[Tensor], Tensor]) -> Tensor:
        """−H·gradient by the two-loop recursion, `start` applying the inverse Hessian that it begins with."""
        steps, changes, rho = self.steps[:, index], self.changes[:, index], self.rho[:, index]
        q = gradient
        weights = []
        for j in reversed(range(len(steps))):
            weights.append(rho[j] * dot(steps[j], q))
            q = q - weights[-1][:, None, None] * changes[j]
        q = start(q)
        for j, weight in enumerate(reversed(weights)):
            q = q + (weight - rho[j] * dot(changes[j], q))[:, None, None] * steps[j]
        return -q
