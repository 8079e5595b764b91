"""Likelihood families p(x | z) as frozen values: what a decoder's output means, and its flat embeddings.

The expected metric of a Gaussian follows Arvanitidis, Hansen, Hauberg (2018); the Fisher–Rao embeddings are the
classical variance-stabilising maps (see `latentgeo.decoders.coordinates`).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from latentgeo.decoders.coordinates import (
    SCALES,
    bernoulli_angle,
    bernoulli_angle_from_probs,
    standard_deviation,
    tiny,
)

_NOT_LOCATION_SCALE = (
    "the expected metric is defined for location-scale likelihoods (Gaussian, Deterministic), and {name} is not one; "
    "use FisherRaoMetric"
)


class Likelihood(abc.ABC):
    """What a decoder's output means. Subclasses are frozen dataclasses; parameters are dicts of (B, D) tensors.

    The names in `outputs` (see `latentgeo.decoders.outputs.read`) are those the family takes from a decoder's output.
    """

    name: ClassVar[str]
    default: ClassVar[str]  # which embedding is the family's default: "expected" or "fisher"

    @abc.abstractmethod
    def parameters(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Likelihood parameters, each (B, D), from a decoder's named outputs."""

    @abc.abstractmethod
    def check(self, output: Mapping[str, Tensor]) -> None:
        """Raise ValueError where named outputs plainly contradict this likelihood."""

    @abc.abstractmethod
    def mean(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The mean of x given z, (B, D)."""

    @abc.abstractmethod
    def std(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        """The standard deviation of x given z, (B, D); None for a deterministic decoder."""

    @abc.abstractmethod
    def log_prob(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Log-likelihood of data x (B, D), summed over coordinates: (B,), in nats."""

    @property
    def learned_scale(self) -> bool:
        """Whether a standard deviation varies with z."""
        return False

    @property
    def missing(self) -> dict[str, str]:
        """Why an embedding ("expected" or "fisher") does not exist."""
        return {}

    def expected(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The embedding whose Euclidean pullback is the expected metric."""
        raise NotImplementedError(self.missing.get("expected", f"{self!r} has no expected embedding"))

    def fisher(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The embedding whose Euclidean pullback is the Fisher–Rao metric."""
        raise NotImplementedError(self.missing.get("fisher", f"{self!r} has no Fisher–Rao embedding"))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, read back by `as_likelihood`."""
        return {"name": self.name}


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

    def parameters(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"mean": output["mean"] if "mean" in output else output["value"]}

    def check(self, output: Mapping[str, Tensor]) -> None:
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
            raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}; got {self.scale!r}")
        if self.sigma is None:
            return
        given: Any = self.sigma
        values = _floats(given)
        if not values or not all(math.isfinite(s) and s > 0 for s in values):
            raise ValueError(f"sigma must be positive and finite; got {self.sigma!r}")
        scalar = given.ndim == 0 if isinstance(given, Tensor) else not isinstance(given, Iterable)
        object.__setattr__(self, "sigma", values[0] if scalar else values)

    def parameters(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mean = output["mean"] if "mean" in output else output["value"]
        if self.sigma is not None:
            return {"mean": mean, "std": mean.new_tensor(self.sigma).expand_as(mean)}
        key = self.scale if self.scale in output else "scale"
        return {"mean": mean, "std": standard_deviation(output[key], self.scale)}

    def check(self, output: Mapping[str, Tensor]) -> None:
        if wrong := sorted({"logits", "probs"} & set(output)):
            raise ValueError(f"likelihood is {self!r}, but the decoder's output has {wrong[0]!r}: pass a Bernoulli")
        named = [key for key in (*SCALES, "scale") if key in output]
        if self.sigma is not None:
            if named:
                raise ValueError(
                    f"likelihood has a fixed sigma={self.sigma!r}, but the decoder also returns a scale "
                    f"({named[0]}); drop sigma= or return the mean alone"
                )
            size = (output["mean"] if "mean" in output else output["value"]).shape[-1]
            if isinstance(self.sigma, tuple) and len(self.sigma) not in (1, size):
                raise ValueError(
                    f"sigma must be a number or have {size} entries, one per data dimension; got {len(self.sigma)}"
                )
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
        sigma = self.sigma
        shown = f"<{len(sigma)} values>" if isinstance(sigma, tuple) and len(sigma) > 3 else repr(sigma)
        return f"Gaussian(scale={self.scale!r}, sigma={shown})"

    def to_dict(self) -> dict[str, Any]:
        sigma = list(self.sigma) if isinstance(self.sigma, tuple) else self.sigma
        return {"name": self.name, "scale": self.scale, "sigma": sigma}


def _floats(sigma: Any) -> tuple[float, ...]:
    if isinstance(sigma, Tensor):
        return tuple(float(s) for s in sigma.detach().reshape(-1).tolist())
    try:
        return tuple(float(s) for s in sigma) if isinstance(sigma, Iterable) else (float(sigma),)
    except (TypeError, ValueError):
        raise ValueError(f"sigma must be a number or a sequence of numbers; got {sigma!r}") from None


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Independent binary coordinates.

    Parameters
    ----------
    output : {"logits", "probs"}
        What the decoder returns. It is never guessed.

    Raises
    ------
    ValueError
        If `output` is neither.

    Examples
    --------
    >>> Bernoulli(output="probs")
    Bernoulli(output='probs')
    """

    output: str = field(default="logits")
    name: ClassVar[str] = "bernoulli"
    default: ClassVar[str] = "fisher"

    def __post_init__(self) -> None:
        if self.output not in ("logits", "probs"):
            raise ValueError(f"output must be 'logits' or 'probs'; got {self.output!r}")

    def parameters(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        key = next((key for key in ("logits", "probs") if key in output), None)
        return {self.output: output["value"]} if key is None else {key: output[key]}

    def check(self, output: Mapping[str, Tensor]) -> None:
        extra = sorted(set(output) - {"value", "logits", "probs"})
        if extra or len(output) != 1:
            raise ValueError(
                f"likelihood is {self!r}, which takes one tensor, but the decoder's output has "
                f"{', '.join(sorted(output))}; pass Gaussian(scale=...) for a (mean, scale) output"
            )
        ((key, value),) = self.parameters(output).items()
        if key == "probs" and not bool(((value >= 0) & (value <= 1)).all()):
            raise ValueError(
                f"likelihood says output='probs', but the decoder returned values from {float(value.min()):.3g} to "
                f"{float(value.max()):.3g}, outside [0, 1]; if they are logits, pass Bernoulli(output='logits')"
            )

    def mean(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["probs"] if "probs" in parameters else torch.sigmoid(parameters["logits"])

    def std(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        p = self.mean(parameters)
        return (p * (1 - p)).clamp(min=tiny(p)).sqrt()

    def log_prob(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if "logits" in parameters:
            return -torch.nn.functional.binary_cross_entropy_with_logits(parameters["logits"], x, reduction="none").sum(
                -1
            )
        return -torch.nn.functional.binary_cross_entropy(parameters["probs"], x, reduction="none").sum(-1)

    @property
    def missing(self) -> dict[str, str]:
        return {"expected": _NOT_LOCATION_SCALE.format(name="Bernoulli")}

    def fisher(self, parameters: Mapping[str, Tensor]) -> Tensor:
        if "logits" in parameters:
            return bernoulli_angle(parameters["logits"])
        return bernoulli_angle_from_probs(parameters["probs"])

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "output": self.output}


LIKELIHOODS: dict[str, type[Likelihood]] = {cls.name: cls for cls in (Deterministic, Gaussian, Bernoulli)}


def as_likelihood(value: Any) -> Likelihood:
    """A likelihood from a likelihood, a lower-case name (its defaults) or a description made by `to_dict`.

    Raises
    ------
    ValueError
        If the name or an option is unknown.
    TypeError
        If `value` is none of these.

    Examples
    --------
    >>> as_likelihood("bernoulli")
    Bernoulli(output='logits')
    """
    if isinstance(value, Likelihood):
        return value
    if isinstance(value, type) and issubclass(value, Likelihood):
        raise TypeError(f"likelihood must be a value, such as {value.__name__}(), not the class {value.__name__}")
    options: dict[str, Any] = {}
    if isinstance(value, Mapping):
        options = {str(key): item for key, item in value.items() if key != "name"}
        value = value.get("name")
    if isinstance(value, str):
        if value not in LIKELIHOODS:
            raise ValueError(f"likelihood must be one of {', '.join(map(repr, LIKELIHOODS))}; got {value!r}")
        try:
            return LIKELIHOODS[value](**options)
        except TypeError:
            raise ValueError(f"likelihood {value!r} does not take the options {sorted(options)}") from None
    raise TypeError(
        f"likelihood must be a likelihood such as Gaussian(scale='std') or its lower-case name; "
        f"got {type(value).__name__}"
    )
