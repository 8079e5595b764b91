"""The contract between `fit` and the models it trains: a frozen `Recipe` makes a `Learner`, and that is what is fitted.

Plain torch: a learner can be driven by a loop of four lines, and tests do. `fit` drives it with Lightning.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from latentgeo.io import LatentModel
    from latentgeo.train.data import TrainData


class TrainingError(RuntimeError):
    """Training cannot go on: the loss is not finite, or a checkpoint belongs to another run."""


@runtime_checkable
class Recipe(Protocol):
    """A frozen value that says what to train; `fit` asks it for a learner.

    It may have a method `prepare(data) -> TrainData` too, which changes the data once, before anything else.
    """

    kind: ClassVar[str]

    def learner(self, data: TrainData, generator: torch.Generator) -> Learner:
        """A fresh learner for these data.

        `fit` has seeded torch's global generator too, so that layers initialise themselves reproducibly; `generator`
        is on the CPU. Raise ValueError where the data do not suit the recipe.
        """
        ...


class Learner(nn.Module, abc.ABC):
    """What is trained: parameters, losses, and how to make a model of them in the end.

    Everything that decides how training goes on must be in the state dict (parameters and buffers): it is saved after
    each epoch and restored after a kill. Randomness comes from the `generator` that is passed, which is on the data's
    device.

    Attributes
    ----------
    warmup : float
        The fraction of the training during which the objective still changes; early stopping does not count before.
    comparable : bool
        Whether a lower loss means a better model at any time, as early stopping assumes.
    """

    warmup: float = 0.0
    comparable: bool = True

    @abc.abstractmethod
    def losses(self, x: Tensor, progress: float, generator: torch.Generator) -> dict[str, Tensor]:
        """Means over a batch, as scalars; "loss" is the one that is minimised. Used for validation too.

        Parameters
        ----------
        x : Tensor of shape (B, *shape)
            Data.
        progress : float
            The fraction of the training that is done, in [0, 1]; validation asks at 1.
        generator : torch.Generator
            On the device of `x`.
        """

    @abc.abstractmethod
    def finish(self, data: TrainData, generator: torch.Generator) -> LatentModel:
        """The trained model: eval mode, codes and labels of `data.stored`, scores in metadata. On the CPU."""

    def optimizers(self, learning_rate: float, n_steps: int) -> list[torch.optim.Optimizer]:
        """One optimiser or several; Adam on all parameters here."""
        return [adam([p for p in self.parameters() if p.requires_grad], learning_rate)]

    def rate(self, progress: float) -> float:
        """What the learning rates are multiplied by: a cosine from 1 to 1/20 here."""
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))

    def training_step(
        self,
        x: Tensor,
        progress: float,
        optimizers: Sequence[torch.optim.Optimizer],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """One step, gradients and all; returns what `losses` did.

        Call `self.backward(loss)`, not `loss.backward()`, and `step()` the optimisers that are passed: mixed precision
        and several devices need to know.
        """
        found = self.losses(x, progress, generator)
        (optimizer,) = optimizers
        optimizer.zero_grad()
        self.backward(found["loss"])
        optimizer.step()
        return found

    def backward(self, loss: Tensor) -> None:
        """Differentiate a loss; `fit` puts Lightning's own in its place."""
        if (through := self.__dict__.get("_through")) is None:
            loss.backward()
        else:
            through(loss)

    def drive(self, through: Any) -> None:
        """Let `backward` go through a function; None for plain torch."""
        self.__dict__["_through"] = through


def adam(parameters: Iterable[Tensor], learning_rate: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """Adam in one kernel where torch has it: a third less time per step of a small network on a CPU."""
    found = list(parameters)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in found)
    return torch.optim.Adam(found, lr=learning_rate, weight_decay=weight_decay, fused=fused)


def check_finite(losses: dict[str, Tensor], where: str) -> None:
    """Raise a TrainingError that names the losses which are not finite."""
    if bad := [name for name, value in losses.items() if not bool(torch.isfinite(value).all())]:
        raise TrainingError(
            f"training diverged {where}: {', '.join(bad)} {'is' if len(bad) == 1 else 'are'} not finite; lower "
            f"`learning_rate`, or check the scale of the data"
        )
