"""What generator and critic of a GAN play for: non-saturating, Wasserstein with gradient penalty, f-divergences.

Goodfellow et al. (NeurIPS 2014); Gulrajani et al., "Improved training of Wasserstein GANs" (NeurIPS 2017); Nowozin,
Cseke, Tomioka, "f-GAN" (NeurIPS 2016).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from latentgeo.train.divergences import Divergence, JensenShannon, as_divergence

__all__ = ["FGAN", "AdversarialLoss", "NonSaturating", "WassersteinGP", "gradient_penalty"]

Critic = Callable[[Tensor], Tensor]


class AdversarialLoss(abc.ABC):
    """A frozen value: the losses of critic and generator, from the critic's outputs on real and generated data."""

    name: ClassVar[str]
    n_critic: int

    @abc.abstractmethod
    def estimate(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """What the critic estimates from below: a divergence between data and generator, a scalar."""

    @abc.abstractmethod
    def generator_loss(self, on_fake: Tensor) -> Tensor:
        """A scalar."""

    def regulariser(self, critic: Critic, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        """Added to the critic's loss, a scalar."""
        return real.new_zeros(())

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        """A scalar: minus the estimate, and the regulariser."""
        on_real, on_fake = critic(torch.cat([real, fake])).split([len(real), len(fake)])
        return self.regulariser(critic, real, fake, generator) - self.estimate(on_real, on_fake)


def _check_n_critic(n_critic: object) -> None:
    if type(n_critic) is not int or n_critic < 1:
        raise ValueError(f"n_critic must be a positive integer; got {n_critic!r}")


@dataclass(frozen=True)
class NonSaturating(AdversarialLoss):
    """The first GAN's game: the critic is a classifier, the generator wants its samples called real.

    Parameters
    ----------
    n_critic : int
        Steps of the critic for each of the generator.

    Examples
    --------
    >>> float(NonSaturating().generator_loss(torch.zeros(4)))  # log 2
    0.693...
    """

    n_critic: int = 1
    name: ClassVar[str] = "non-saturating"

    def __post_init__(self) -> None:
        _check_n_critic(self.n_critic)

    def estimate(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """Twice the Jensen–Shannon divergence, in nats."""
        return JensenShannon().bound(on_real, on_fake)

    def generator_loss(self, on_fake: Tensor) -> Tensor:
        return -functional.logsigmoid(on_fake).mean()


@dataclass(frozen=True)
class WassersteinGP(AdversarialLoss):
    """Wasserstein-1 distance, its critic held near slope 1 by a penalty between real and generated data.

    Parameters
    ----------
    penalty : float
        Weight of E(|∇critic| − 1)² at random points on lines between real and generated data.
    n_critic : int
        Steps of the critic for each of the generator.

    Raises
    ------
    ValueError
        If `penalty` is not positive and finite, or `n_critic` not a positive integer.

    Examples
    --------
    >>> WassersteinGP().estimate(torch.tensor([3.0]), torch.tensor([1.0]))
    tensor(2.)
    """

    penalty: float = 10.0
    n_critic: int = 5
    name: ClassVar[str] = "wasserstein-gp"

    def __post_init__(self) -> None:
        _check_n_critic(self.n_critic)
        if not (isinstance(self.penalty, (int, float)) and 0 < self.penalty < math.inf):
            raise ValueError(f"penalty must be positive and finite; got {self.penalty!r}")

    def estimate(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """The Wasserstein-1 distance, in data units, as far as the critic's slope is 1."""
        return on_real.mean() - on_fake.mean()

    def generator_loss(self, on_fake: Tensor) -> Tensor:
        return -on_fake.mean()

    def regulariser(self, critic: Critic, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        share = torch.rand(len(real), generator=generator, device=real.device, dtype=real.dtype)
        share = share.reshape(-1, *(1,) * (real.ndim - 1))
        return self.penalty * gradient_penalty(critic, fake + share * (real - fake[: len(real)]))


@dataclass(frozen=True)
class FGAN(AdversarialLoss):
    """A game for an f-divergence, through its conjugate.

    Parameters
    ----------
    divergence : Divergence or str
        E.g. `PearsonChi2()` or "pearson-chi2".
    saturating : bool
        True: the generator minimises the critic's estimate itself, whose gradient vanishes where the critic wins.
        False: it raises the activation on its samples instead, as section 3.2 of the paper recommends.
    n_critic : int
        Steps of the critic for each of the generator.

    Examples
    --------
    >>> FGAN("kl").divergence
    KL()
    """

    divergence: Divergence | str = field(default_factory=JensenShannon)
    saturating: bool = False
    n_critic: int = 1
    name: ClassVar[str] = "f-gan"

    def __post_init__(self) -> None:
        _check_n_critic(self.n_critic)
        object.__setattr__(self, "divergence", as_divergence(self.divergence))

    @property
    def _divergence(self) -> Divergence:
        return as_divergence(self.divergence)

    def estimate(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """The variational lower bound on the divergence of the data from the generator."""
        return self._divergence.bound(on_real, on_fake)

    def generator_loss(self, on_fake: Tensor) -> Tensor:
        if self.saturating:
            return -self._divergence.conjugate_activation(on_fake).mean()
        return -self._divergence.activation(on_fake).mean()


def gradient_penalty(critic: Critic, x: Tensor, target: float = 1.0) -> Tensor:
    """The mean of (|∇critic(x)| − target)² over rows of data (B, ...), differentiable in the critic's parameters.

    Parameters
    ----------
    critic : callable
        Takes data (B, ...) to scores (B,), each row by itself.
    x : Tensor of shape (B, ...)
        Where the slope is taken.
    target : float
        The slope that costs nothing.

    Returns
    -------
    Tensor
        A number.

    Examples
    --------
    >>> float(gradient_penalty(lambda x: 3 * x[:, 0] - 4 * x[:, 1], torch.zeros(7, 2)))  # (5 − 1)²
    16.0
    """
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    # the norm's own derivative is not finite where the slope is nought
    norm = (slope.flatten(1).square().sum(1) + torch.finfo(x.dtype).tiny).sqrt()
    return (norm - target).square().mean()
