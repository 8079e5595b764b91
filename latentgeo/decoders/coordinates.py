"""Elementwise maps behind the embeddings, written so that saturated coordinates have finite values and derivatives.

The Fisher–Rao coordinates are the classical variance-stabilising transforms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCALES = ("std", "var", "log_var", "precision")


def tiny(x: Tensor) -> float:
    """The smallest value whose reciprocal square is still finite."""
    return float(torch.finfo(x.dtype).tiny)


def standard_deviation(scale: Tensor, convention: str) -> Tensor:
    """Standard deviation from a scale in one of the four conventions, with finite values and derivatives everywhere.

    Values are held within what can be squared without overflow (about 1e-18 to 1e18 in float32).

    Examples
    --------
    >>> standard_deviation(torch.tensor([0.25, 4.0]), "precision")
    tensor([2.0000, 0.5000])
    """
    if convention == "std":
        return scale
    if convention == "var":
        return scale.clamp(min=tiny(scale)).sqrt()
    if convention == "precision":
        return scale.clamp(min=tiny(scale)).rsqrt()
    if convention == "log_var":
        limit = 0.49 * math.log(torch.finfo(scale.dtype).max)
        return (0.5 * scale).clamp(-limit, limit).exp()
    raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}; got {convention!r}")


def bernoulli_angle(logits: Tensor) -> Tensor:
    r"""The Fisher–Rao coordinate :math:`2\arcsin\sqrt p = 2\arctan e^{l/2}` of a Bernoulli variable, from its logit.

    Neither branch overflows, and both keep full relative accuracy in the derivative
    :math:`\tfrac12\,\mathrm{sech}(l/2)`, at any logit.

    Examples
    --------
    >>> bernoulli_angle(torch.tensor([-200.0, 0.0, 200.0])).round(decimals=4)
    tensor([0.0000, 1.5708, 3.1416])
    """
    high = logits > 0
    angle = 2 * torch.atan(torch.exp(0.5 * torch.where(high, -logits, logits)))
    return torch.where(high, math.pi - angle, angle)


def bernoulli_angle_from_probs(probs: Tensor) -> Tensor:
    r"""The same coordinate from the probability; where p is 0 or 1 (saturated) it is constant, the limit of a sigmoid.

    Examples
    --------
    >>> bernoulli_angle_from_probs(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 1.5708, 3.1416])
    """
    # below sqrt(tiny) the second derivative p^(-3/2) would overflow in the derivative of the derivative
    inside = (probs > tiny(probs) ** 0.5) & (probs < 1)
    safe = torch.where(inside, probs, torch.full_like(probs, 0.5))
    angle = 2 * torch.atan2(safe.sqrt(), (1 - safe).sqrt())
    limit = torch.where(probs >= 1, torch.full_like(probs, math.pi), torch.zeros_like(probs))
    return torch.where(inside, angle, limit)


def root(x: Tensor) -> Tensor:
    r"""The square root of a probability or rate; where it is (nearly) 0 it is 0 with zero derivatives, as in the limit.

    Examples
    --------
    >>> root(torch.tensor([0.0, 0.25, 4.0]))
    tensor([0.0000, 0.5000, 2.0000])
    """
    # below sqrt(tiny) the second derivative x^(-3/2) would overflow in the derivative of the derivative
    inside = x > tiny(x) ** 0.5
    return torch.where(inside, torch.where(inside, x, torch.ones_like(x)).sqrt(), torch.zeros_like(x))


def half_exponential(x: Tensor) -> Tensor:
    r""":math:`e^{x/2}`, constant where its square would overflow.

    Examples
    --------
    >>> half_exponential(torch.tensor([-200.0, 0.0, 200.0])).isfinite().all()
    tensor(True)
    """
    return (0.5 * x).clamp(max=0.45 * math.log(torch.finfo(x.dtype).max)).exp()


def log_above(x: Tensor) -> Tensor:
    """The logarithm of a rate, constant below the square root of the smallest number.

    Examples
    --------
    >>> log_above(torch.tensor([0.0, 1.0])).isfinite().all()
    tensor(True)
    """
    return x.clamp(min=tiny(x) ** 0.5).log()


def negative_binomial_coordinate(log_ratio: Tensor) -> Tensor:
    r""":math:`\mathrm{arsinh}\sqrt q` of the ratio q of mean to inverse dispersion, from log q, at any log q.

    Examples
    --------
    >>> negative_binomial_coordinate(torch.tensor([-200.0, 0.0, 200.0])).round(decimals=4)
    tensor([  0.0000,   0.8814, 100.6931])
    """
    s = 0.5 * log_ratio
    high = s > 0
    low = torch.asinh(torch.exp(torch.where(high, torch.zeros_like(s), s)))
    t = torch.where(high, s, torch.zeros_like(s))
    return torch.where(high, t + torch.log1p((1 + torch.exp(-2 * t)).sqrt()), low)


def negative_binomial_coordinate_from_mean(mean: Tensor, inverse_dispersion: Tensor) -> Tensor:
    r"""The same from the mean itself; where that is (nearly) 0 it is 0 with zero derivatives, as in the limit.

    Examples
    --------
    >>> negative_binomial_coordinate_from_mean(torch.tensor([0.0, 1.0]), torch.ones(2)).round(decimals=4)
    tensor([0.0000, 0.8814])
    """
    inside = mean > tiny(mean) ** 0.5
    log_ratio = torch.where(inside, mean, torch.ones_like(mean)).log() - inverse_dispersion.log()
    return torch.where(inside, negative_binomial_coordinate(log_ratio), torch.zeros_like(mean))
