"""The contract of likelihood families p(x | z): frozen values that say what a decoder's output means."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

Shape = tuple[int, ...]


class Likelihood(abc.ABC):
    """What a decoder's output means. Subclasses are frozen dataclasses; parameters are dicts of (B, D) tensors.

    The names in `outputs` (see `latentgeo.decoders.outputs.read`) are those the family takes from a decoder's output;
    `shape` is that of one datum before it was flattened to D numbers, None meaning (D,).
    """

    name: ClassVar[str]
    default: ClassVar[str]  # which embedding is the family's default: "expected" or "fisher"

    @abc.abstractmethod
    def parameters(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> dict[str, Tensor]:
        """Likelihood parameters, each (B, D), from a decoder's named outputs."""

    @abc.abstractmethod
    def check(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> None:
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

    def doubt(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> str | None:
        """What looks wrong about outputs that pass `check` but may be right all the same; None if nothing does."""
        return None

    @property
    def learned_scale(self) -> bool:
        """Whether a standard deviation varies with z as a parameter of its own."""
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


class OneOutput(Likelihood):
    """A family whose decoder returns one tensor, named by the field `output`, with the Fisher–Rao metric as default."""

    default: ClassVar[str] = "fisher"
    kinds: ClassVar[tuple[str, ...]]  # what the tensor may be
    output: str

    def __post_init__(self) -> None:
        if self.output not in self.kinds:
            raise ValueError(f"output must be {' or '.join(map(repr, self.kinds))}; got {str(self.output)[:100]!r}")

    def parameters(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> dict[str, Tensor]:
        key, value = self._one(output)
        return {key: value}

    def _one(self, output: Mapping[str, Tensor]) -> tuple[str, Tensor]:
        """The tensor and what it is: its own name where it has one, else what `output` says."""
        key = next((key for key in self.kinds if key in output), None)
        return (self.output, output["value"]) if key is None else (key, output[key])

    def check(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> None:
        extra = sorted(set(output) - {"value", *self.kinds})
        if extra or len(output) != 1:
            raise ValueError(
                f"likelihood is {self!r}, which takes one tensor, but the decoder's output has "
                f"{', '.join(sorted(output))}; pass Gaussian(scale=...) for a (mean, scale) output"
            )

    @property
    def missing(self) -> dict[str, str]:
        return {"expected": not_location_scale(type(self).__name__)}

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "output": self.output}


def not_location_scale(name: str) -> str:
    """Why there is no expected metric."""
    return (
        f"the expected metric is defined for location-scale likelihoods (Gaussian, Deterministic), and {name} is not "
        "one; use FisherRaoMetric"
    )


def not_negative(likelihood: Likelihood, key: str, value: Tensor, otherwise: str) -> None:
    """Raise where a parameter that cannot be negative is."""
    if bool((value < 0).any()):
        raise ValueError(
            f"likelihood is {likelihood!r}, whose {key} cannot be negative, but the decoder returned "
            f"{float(value.min()):.3g}; if that is a logarithm, pass {otherwise}"
        )


def positive(name: str, given: Any) -> float | tuple[float, ...]:
    """A positive number, or one per coordinate, from a number, sequence or tensor."""
    try:
        if isinstance(given, Tensor):
            values = tuple(float(s) for s in given.detach().reshape(-1).tolist())
        else:
            values = tuple(float(s) for s in given) if isinstance(given, Iterable) else (float(given),)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number or a sequence of numbers; got {str(given)[:100]!r}") from None
    if not values or not all(math.isfinite(s) and s > 0 for s in values):
        raise ValueError(f"{name} must be positive and finite; got {str(given)[:100]}")
    scalar = given.ndim == 0 if isinstance(given, Tensor) else not isinstance(given, Iterable)
    return values[0] if scalar else values


def check_length(name: str, value: float | tuple[float, ...] | None, size: int) -> None:
    """Raise unless a fixed value is a number or has one entry per data dimension."""
    if isinstance(value, tuple) and len(value) not in (1, size):
        raise ValueError(f"{name} must be a number or have {size} entries, one per data dimension; got {len(value)}")


def shown(value: float | tuple[float, ...] | None) -> str:
    """A fixed value for a one-line repr."""
    return f"<{len(value)} values>" if isinstance(value, tuple) and len(value) > 3 else repr(value)
