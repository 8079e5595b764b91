"""f-divergences through their Fenchel conjugates: what an f-GAN's critic estimates from below.

Nowozin, Cseke, Tomioka, "f-GAN: training generative neural samplers using variational divergence minimization"
(NeurIPS 2016), tables 1 and 2; the bound is Nguyen, Wainwright, Jordan (2010).
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["KL", "Divergence", "JensenShannon", "PearsonChi2", "ReverseKL", "TotalVariation", "as_divergence"]


@dataclass(frozen=True)
class Divergence(abc.ABC):
    r"""A convex f with f(1) = 0, and what its variational bound needs.

    .. math:: D_f(P \| Q) = \int q\, f(p/q) \;\ge\; E_P[T] - E_Q[f^*(T)],

    with equality at T = f'(p/q). The critic's free output v is squeezed into the domain of the conjugate f* by
    T = `activation(v)`, so that every v gives a lower bound.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def f(self, u: Tensor) -> Tensor:
        """The generator f at density ratios u = p/q > 0."""

    @abc.abstractmethod
    def derivative(self, u: Tensor) -> Tensor:
        """f'(u): the best T where the density ratio is u."""

    @abc.abstractmethod
    def conjugate(self, t: Tensor) -> Tensor:
        """f*(t) = sup_u (u·t − f(u)), for t in its domain."""

    @abc.abstractmethod
    def activation(self, v: Tensor) -> Tensor:
        """A strictly increasing map of the real line into the domain of f*."""

    def conjugate_activation(self, v: Tensor) -> Tensor:
        """f*(activation(v)), in a form that neither overflows early nor cancels."""
        return self.conjugate(self.activation(v))

    def bound(self, v_p: Tensor, v_q: Tensor) -> Tensor:
        """The estimate E_P[T] − E_Q[f*(T)] from the critic's outputs on samples of P and of Q."""
        return self.activation(v_p).mean() - self.conjugate_activation(v_q).mean()


@dataclass(frozen=True)
class KL(Divergence):
    """Kullback–Leibler divergence KL(P‖Q), in nats: f(u) = u log u.

    Examples
    --------
    >>> KL().derivative(torch.tensor(1.0)), KL().conjugate(torch.tensor(1.0))
    (tensor(1.), tensor(1.))
    """

    name: ClassVar[str] = "kl"

    def f(self, u: Tensor) -> Tensor:
        return torch.xlogy(u, u)

    def derivative(self, u: Tensor) -> Tensor:
        return 1 + u.log()

    def conjugate(self, t: Tensor) -> Tensor:
        return (t - 1).exp()

    def activation(self, v: Tensor) -> Tensor:
        return v


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """Kullback–Leibler divergence the other way, KL(Q‖P), in nats: f(u) = −log u, f* defined for t < 0."""

    name: ClassVar[str] = "reverse-kl"

    def f(self, u: Tensor) -> Tensor:
        return -u.log()

    def derivative(self, u: Tensor) -> Tensor:
        return -u.reciprocal()

    def conjugate(self, t: Tensor) -> Tensor:
        return -1 - (-t).log()

    def activation(self, v: Tensor) -> Tensor:
        return -(-v).exp()

    def conjugate_activation(self, v: Tensor) -> Tensor:
        return v - 1


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """Twice the Jensen–Shannon divergence, in nats (at most 2 log 2), as in the paper.

    f(u) = u log u − (u + 1) log((u + 1)/2), f* defined for t < log 2. With v the log density ratio this is the
    first GAN's objective (Goodfellow et al. 2014) plus log 4.

    Examples
    --------
    >>> T = JensenShannon().activation(torch.tensor([-50.0, 0.0, 50.0]))
    >>> bool((T <= math.log(2)).all())  # the domain of f*
    True
    """

    name: ClassVar[str] = "jensen-shannon"

    def f(self, u: Tensor) -> Tensor:
        return torch.xlogy(u, u) - (u + 1) * ((u + 1) / 2).log()

    def derivative(self, u: Tensor) -> Tensor:
        return (2 * u / (1 + u)).log()

    def conjugate(self, t: Tensor) -> Tensor:
        return -(2 - t.exp()).log()

    def activation(self, v: Tensor) -> Tensor:
        return math.log(2) + functional.logsigmoid(v)

    def conjugate_activation(self, v: Tensor) -> Tensor:
        return -math.log(2) - functional.logsigmoid(-v)


@dataclass(frozen=True)
class PearsonChi2(Divergence):
    """Pearson's χ² = ∫ (p − q)²/q: f(u) = (u − 1)².

    T = f'(u) = 2(u − 1) is never below −2; there the conjugate is convex and continues as the constant −1.
    """

    name: ClassVar[str] = "pearson-chi2"

    def f(self, u: Tensor) -> Tensor:
        return (u - 1).square()

    def derivative(self, u: Tensor) -> Tensor:
        return 2 * (u - 1)

    def conjugate(self, t: Tensor) -> Tensor:
        t = t.clamp(min=-2.0)
        return t.square() / 4 + t

    def activation(self, v: Tensor) -> Tensor:
        return v


@dataclass(frozen=True)
class TotalVariation(Divergence):
    """Total variation ½ ∫ |p − q|, at most 1: f(u) = ½|u − 1|, f* defined for |t| ≤ ½."""

    name: ClassVar[str] = "total-variation"

    def f(self, u: Tensor) -> Tensor:
        return (u - 1).abs() / 2

    def derivative(self, u: Tensor) -> Tensor:
        return (u - 1).sign() / 2

    def conjugate(self, t: Tensor) -> Tensor:
        return t

    def activation(self, v: Tensor) -> Tensor:
        return v.tanh() / 2


_ALL: tuple[type[Divergence], ...] = (KL, ReverseKL, JensenShannon, PearsonChi2, TotalVariation)


def as_divergence(value: Divergence | str) -> Divergence:
    """A divergence, or its name.

    Raises
    ------
    ValueError
        If it is neither.

    Examples
    --------
    >>> as_divergence("pearson-chi2")
    PearsonChi2()
    """
    if isinstance(value, Divergence):
        return value
    for kind in _ALL:
        if isinstance(value, str) and value == kind.name:
            return kind()
    raise ValueError(
        f"divergence must be one of {', '.join(repr(kind.name) for kind in _ALL)} or a Divergence; got {value!r}"
    )
