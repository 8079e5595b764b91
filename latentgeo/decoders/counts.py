"""Likelihoods of counts and waiting times: Poisson, NegativeBinomial, Exponential.

Their Fisher–Rao metrics are flat in the classical variance-stabilising coordinates (see `coordinates`); Arvanitidis et
al., "Pulling back information geometry", AISTATS 2022, arXiv:2106.05367.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from latentgeo.decoders._likelihood import OneOutput, Shape, check_length, not_negative, positive, shown
from latentgeo.decoders.coordinates import (
    half_exponential,
    log_above,
    negative_binomial_coordinate,
    negative_binomial_coordinate_from_mean,
    root,
    tiny,
)


class _OfRates(OneOutput):
    """A family whose decoder returns rates, or their logarithms."""

    kinds: ClassVar[tuple[str, ...]] = ("rate", "log_rate")

    def check(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> None:
        super().check(output, shape)
        key, value = self._one(output)
        if key == "rate":
            not_negative(self, key, value, f"{type(self).__name__}(output='log_rate')")


@dataclass(frozen=True)
class Poisson(_OfRates):
    r"""Independent Poisson counts.

    Parameters
    ----------
    output : {"rate", "log_rate"}
        What the decoder returns: the mean count, or its logarithm.

    Raises
    ------
    ValueError
        If `output` is neither.

    Notes
    -----
    The Fisher–Rao embedding is :math:`2\sqrt\lambda`.

    Examples
    --------
    >>> Poisson(output="log_rate")
    Poisson(output='log_rate')
    """

    output: str = "rate"
    name: ClassVar[str] = "poisson"

    def mean(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["rate"] if "rate" in parameters else parameters["log_rate"].exp()

    def std(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        rate = self.mean(parameters)
        return rate.clamp(min=tiny(rate)).sqrt()

    def log_prob(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if "rate" in parameters:
            rate = parameters["rate"]
            return (torch.xlogy(x, rate) - rate - torch.lgamma(x + 1)).sum(-1)
        log_rate = parameters["log_rate"]
        return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).sum(-1)

    def fisher(self, parameters: Mapping[str, Tensor]) -> Tensor:
        if "rate" in parameters:
            return 2 * root(parameters["rate"])
        return 2 * half_exponential(parameters["log_rate"])


@dataclass(frozen=True)
class NegativeBinomial(OneOutput):
    r"""Independent negative binomial counts of mean m and inverse dispersion r: variance :math:`m + m^2/r`.

    Parameters
    ----------
    inverse_dispersion : float or sequence of D floats, optional
        r, positive, the same for every code ("theta" in single-cell models). None: the decoder returns it as its
        second output; it must not depend on the code.
    output : {"mean", "log_mean"}
        What the decoder returns (first): the mean count, or its logarithm.

    Raises
    ------
    ValueError
        If `output` is neither, or `inverse_dispersion` is not positive and finite.

    Notes
    -----
    The Fisher–Rao embedding is :math:`2\sqrt r\,\mathrm{arsinh}\sqrt{m/r}`. With an inverse dispersion that varies
    with the code the Fisher–Rao metric is that of a two-parameter family, which is curved and has no closed form: such
    a decoder is refused.

    Examples
    --------
    >>> NegativeBinomial(inverse_dispersion=2.0)
    NegativeBinomial(inverse_dispersion=2.0, output='mean')
    """

    inverse_dispersion: float | tuple[float, ...] | None = None
    output: str = "mean"
    name: ClassVar[str] = "negative-binomial"
    kinds: ClassVar[tuple[str, ...]] = ("mean", "log_mean")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inverse_dispersion is not None:
            value = positive("inverse_dispersion", self.inverse_dispersion)
            object.__setattr__(self, "inverse_dispersion", value)

    def parameters(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> dict[str, Tensor]:
        key, value = self._one(output)
        if self.inverse_dispersion is not None:
            r = value.new_tensor(self.inverse_dispersion).expand_as(value)
        else:
            r = output["inverse_dispersion" if "inverse_dispersion" in output else "scale"]
        return {key: value, "inverse_dispersion": r}

    def check(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> None:
        second = [name for name in ("inverse_dispersion", "scale") if name in output]
        super().check({name: value for name, value in output.items() if name not in second}, shape)
        key, value = self._one(output)
        if key == "mean":
            not_negative(self, key, value, "NegativeBinomial(output='log_mean', ...)")
        if self.inverse_dispersion is not None:
            check_length("inverse_dispersion", self.inverse_dispersion, value.shape[-1])
            if second:
                raise ValueError(
                    f"likelihood is {self!r}, but the decoder also returns a second output ({second[0]}); return the "
                    "mean alone, or drop inverse_dispersion="
                )
            return
        if not second:
            raise ValueError(
                "likelihood is NegativeBinomial, but the decoder returns a mean alone; pass "
                "NegativeBinomial(inverse_dispersion=...), a number or one per data coordinate"
            )
        self._check_constant(output[second[0]])

    @staticmethod
    def _check_constant(r: Tensor) -> None:
        if not bool((r > 0).all()):
            raise ValueError(f"the decoder's inverse dispersion must be positive; got {float(r.min()):.3g}")
        vary = float(((r - r[:1]).abs() / r[:1]).amax())
        if vary > 64 * torch.finfo(r.dtype).eps:
            raise ValueError(
                f"the decoder's inverse dispersion depends on z (it varies by {vary:.1e} between codes), which is "
                "refused: the Fisher–Rao metric of a negative binomial whose mean and dispersion both vary is curved "
                "and has no closed form. Fix it: let the decoder return the mean alone and pass "
                "NegativeBinomial(inverse_dispersion=...), a number or one per data coordinate"
            )

    def mean(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["mean"] if "mean" in parameters else parameters["log_mean"].exp()

    def std(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        mean = self.mean(parameters)
        return (mean + mean.square() / parameters["inverse_dispersion"]).clamp(min=tiny(mean)).sqrt()

    def log_prob(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        r = parameters["inverse_dispersion"]
        if "log_mean" in parameters:
            log_mean = parameters["log_mean"]
        else:
            log_mean = parameters["mean"].clamp(min=tiny(x)).log()
        logits = log_mean - r.log()
        binomial = torch.lgamma(x + r) - torch.lgamma(x + 1) - torch.lgamma(r)
        return (binomial + r * logsigmoid(-logits) + x * logsigmoid(logits)).sum(-1)

    def fisher(self, parameters: Mapping[str, Tensor]) -> Tensor:
        r = parameters["inverse_dispersion"]
        if "log_mean" in parameters:
            return 2 * r.sqrt() * negative_binomial_coordinate(parameters["log_mean"] - r.log())
        return 2 * r.sqrt() * negative_binomial_coordinate_from_mean(parameters["mean"], r)

    def __repr__(self) -> str:
        return f"NegativeBinomial(inverse_dispersion={shown(self.inverse_dispersion)}, output={self.output!r})"

    def to_dict(self) -> dict[str, Any]:
        r = self.inverse_dispersion
        return {**super().to_dict(), "inverse_dispersion": list(r) if isinstance(r, tuple) else r}


@dataclass(frozen=True)
class Exponential(_OfRates):
    r"""Independent exponential waiting times of rate λ, mean 1/λ.

    Parameters
    ----------
    output : {"rate", "log_rate"}
        What the decoder returns: the rate, or its logarithm.

    Raises
    ------
    ValueError
        If `output` is neither.

    Notes
    -----
    The Fisher–Rao embedding is :math:`\log\lambda`.

    Examples
    --------
    >>> Exponential()
    Exponential(output='rate')
    """

    output: str = "rate"
    name: ClassVar[str] = "exponential"

    def mean(self, parameters: Mapping[str, Tensor]) -> Tensor:
        if "rate" in parameters:
            return parameters["rate"].clamp(min=tiny(parameters["rate"])).reciprocal()
        return (-parameters["log_rate"]).exp()

    def std(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        return self.mean(parameters)

    def log_prob(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if "rate" in parameters:
            rate = parameters["rate"].clamp(min=tiny(x))
            return (rate.log() - rate * x).sum(-1)
        return (parameters["log_rate"] - parameters["log_rate"].exp() * x).sum(-1)

    def fisher(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["log_rate"] if "log_rate" in parameters else log_above(parameters["rate"])
