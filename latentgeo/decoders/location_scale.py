"""Location-scale likelihoods: Gaussian, and the decoder without noise.

The expected metric of a Gaussian follows Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from latentgeo.decoders._likelihood import Likelihood, Shape, check_length, positive, shown
from latentgeo.decoders.coordinates import SCALES, standard_deviation, tiny

_TAKEN_BY = {
    "logits": "a Bernoulli or a Categorical",
    "probs": "a Bernoulli or a Categorical",
    "rate": "a Poisson or an Exponential",
    "log_rate": "a Poisson or an Exponential",
    "log_mean": "a NegativeBinomial",
    "inverse_dispersion": "a NegativeBinomial",
}


@dataclass(frozen=True)
class Deterministic(Likelihood):
    """A decoder without noise: an autoencoder, a GAN generator, a flow.

    Examples
    --------
    >>> Deterministic()
    Deterministic()
    """

    name: ClassVar[str] = "deterministic"
    default: ClassVar[str] = "expected"

    def parameters(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> dict[str, Tensor]:
        return {"mean": output["mean"] if "mean" in output else output["value"]}

    def check(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> None:
        extra = sorted(set(output) - {"value", "mean"})
        if extra or not output:
            raise ValueError(
                f"likelihood is Deterministic(), which takes one tensor, but the decoder's output also has "
                f"{', '.join(extra)}; pass likelihood=Gaussian(scale=...) for a (mean, scale) output or "
                f"Bernoulli(output=...) for logits or probabilities"
            )

    def mean(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["mean"]

    def std(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        return None

    def log_prob(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        raise ValueError("a deterministic decoder has no likelihood; use fit_precision to give it a standard deviation")

    @property
    def missing(self) -> dict[str, str]:
        return {
            "fisher": "a deterministic decoder defines no distribution, so it has no Fisher–Rao metric; "
            "use ExpectedMetric (the pullback of data space), or fit_precision first"
        }

    def expected(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["mean"]


@dataclass(frozen=True)
class Gaussian(Likelihood):
    r"""Independent normal coordinates.

    Parameters
    ----------
    scale : {"std", "var", "log_var", "precision"}
        What the second output of the decoder is.
    sigma : float or sequence of D floats, optional
        A fixed standard deviation, in data units, for a decoder that returns the mean alone. A decoder that returns
        (mean, scale) leaves it None.

    Raises
    ------
    ValueError
        If `scale` is not one of the four, or `sigma` is not positive and finite.

    Notes
    -----
    The embedding of the expected metric is :math:`[\mu, \sigma]` for a learned and :math:`\mu` for a fixed
    :math:`\sigma`. The Fisher–Rao metric is flat only for a fixed one (:math:`\mu/\sigma`); with a learned one it is
    hyperbolic, :math:`d\mu^2/\sigma^2 + 2\,d\sigma^2/\sigma^2` per coordinate (see `Decoder.fisher_ambient`).

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379, Theorem 1.

    Examples
    --------
    >>> Gaussian(scale="log_var")
    Gaussian(scale='log_var', sigma=None)
    """

    scale: str = "std"
    sigma: float | tuple[float, ...] | None = None
    name: ClassVar[str] = "gaussian"
    default: ClassVar[str] = "expected"

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}; got {str(self.scale)[:100]!r}")
        if self.sigma is not None:
            object.__setattr__(self, "sigma", positive("sigma", self.sigma))

    def parameters(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> dict[str, Tensor]:
        mean = output["mean"] if "mean" in output else output["value"]
        if self.sigma is not None:
            return {"mean": mean, "std": mean.new_tensor(self.sigma).expand_as(mean)}
        key = self.scale if self.scale in output else "scale"
        return {"mean": mean, "std": standard_deviation(output[key], self.scale)}

    def check(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> None:
        if wrong := sorted(set(output) - {"value", "mean", "scale", *SCALES}):
            raise ValueError(
                f"likelihood is {self!r}, but the decoder's output has {wrong[0]!r}: pass {_TAKEN_BY[wrong[0]]}"
            )
        named = [key for key in (*SCALES, "scale") if key in output]
        if self.sigma is not None:
            if named:
                raise ValueError(
                    f"likelihood has a fixed sigma={self.sigma!r}, but the decoder also returns a scale "
                    f"({named[0]}); drop sigma= or return the mean alone"
                )
            check_length("sigma", self.sigma, (output["mean"] if "mean" in output else output["value"]).shape[-1])
            return
        if not named:
            raise ValueError(
                "likelihood is Gaussian with a learned scale, but the decoder returns a mean alone; pass "
                "Gaussian(sigma=...) for a fixed standard deviation, Deterministic() for none, or wrap it as "
                "Deterministic() and let fit_precision(decoder, codes, data) fit one"
            )
        if len(named) > 1 or named[0] not in (self.scale, "scale"):
            raise ValueError(
                f"likelihood says scale={self.scale!r}, but the decoder's output names its scale "
                f"{' and '.join(map(repr, named))}; pass Gaussian(scale={named[0]!r}), or return (mean, scale)"
            )
        if self.scale != "log_var" and bool((output[named[0]] < 0).any()):
            raise ValueError(
                f"likelihood says scale={self.scale!r}, which cannot be negative, but the decoder returned "
                f"{float(output[named[0]].min()):.3g}; if that is a log-variance, pass Gaussian(scale='log_var')"
            )

    def mean(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["mean"]

    def std(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        return parameters["std"]

    def log_prob(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        std = parameters["std"].clamp(min=tiny(x) ** 0.5)
        return -(0.5 * ((x - parameters["mean"]) / std).square() + std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    @property
    def learned_scale(self) -> bool:
        return self.sigma is None

    @property
    def missing(self) -> dict[str, str]:
        if self.sigma is not None:
            return {}
        return {
            "fisher": "the Fisher–Rao metric of a Gaussian with a learned standard deviation is hyperbolic, so no flat "
            "embedding exists; use `fisher_coordinates` with `fisher_ambient`, or ExpectedMetric"
        }

    def expected(self, parameters: Mapping[str, Tensor]) -> Tensor:
        if self.sigma is not None:
            return parameters["mean"]
        return torch.cat([parameters["mean"], parameters["std"]], dim=-1)

    def fisher(self, parameters: Mapping[str, Tensor]) -> Tensor:
        if self.sigma is None:
            return super().fisher(parameters)
        return parameters["mean"] / parameters["std"]

    def __repr__(self) -> str:
        return f"Gaussian(scale={self.scale!r}, sigma={shown(self.sigma)})"

    def to_dict(self) -> dict[str, Any]:
        sigma = list(self.sigma) if isinstance(self.sigma, tuple) else self.sigma
        return {"name": self.name, "scale": self.scale, "sigma": sigma}
