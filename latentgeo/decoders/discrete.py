"""Likelihoods of discrete outcomes: Bernoulli and Categorical.

Their Fisher–Rao metrics are flat in the classical coordinates 2·arcsin √p and 2·√p (see `coordinates`); Arvanitidis et
al., "Pulling back information geometry", AISTATS 2022, arXiv:2106.05367.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from latentgeo.decoders._likelihood import OneOutput, Shape
from latentgeo.decoders.coordinates import bernoulli_angle, bernoulli_angle_from_probs, root, tiny

_SUMS_TO_ONE = 1e-3  # how far probabilities of any precision may be from it


@dataclass(frozen=True)
class Bernoulli(OneOutput):
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

    output: str = "logits"
    name: ClassVar[str] = "bernoulli"
    kinds: ClassVar[tuple[str, ...]] = ("logits", "probs")

    def check(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> None:
        super().check(output, shape)
        key, value = self._one(output)
        if key == "probs" and not bool(((value >= 0) & (value <= 1)).all()):
            raise ValueError(
                f"likelihood says output='probs', but the decoder returned values from {float(value.min()):.3g} to "
                f"{float(value.max()):.3g}, outside [0, 1]; if they are logits, pass Bernoulli(output='logits')"
            )

    def doubt(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> str | None:
        key, value = self._one(output)
        if key == "probs" or value.numel() < 32 or not bool(((value >= 0) & (value <= 1)).all()):
            return None
        return (
            "every output lies in [0, 1], as probabilities do, but the likelihood says they are logits; if the decoder "
            "ends in a sigmoid, pass Bernoulli(output='probs')"
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

    def fisher(self, parameters: Mapping[str, Tensor]) -> Tensor:
        if "logits" in parameters:
            return bernoulli_angle(parameters["logits"])
        return bernoulli_angle_from_probs(parameters["probs"])


@dataclass(frozen=True)
class Categorical(OneOutput):
    r"""One of K classes, at each of any number of independent places (a label, a sequence, an image of classes).

    Data are one-hot: x has the shape of the decoder's output. The mean is the classes' probabilities.

    Parameters
    ----------
    output : {"logits", "probs"}
        What the decoder returns. It is never guessed.
    axis : int
        The axis of the decoder's output that runs over the classes, counted with the batch axis, as torch does: -1 is
        the last, 1 the first after the batch (channels of an image).

    Raises
    ------
    ValueError
        If `output` is neither, or `axis` is the batch axis.

    Notes
    -----
    The Fisher–Rao embedding is :math:`2\sqrt{\pi}` per class: a sphere of radius 2 at each place.

    Examples
    --------
    >>> Categorical(axis=1)
    Categorical(output='logits', axis=1)
    """

    output: str = "logits"
    axis: int = -1
    name: ClassVar[str] = "categorical"
    kinds: ClassVar[tuple[str, ...]] = ("logits", "probs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.axis) is not int:
            raise ValueError(f"axis must be an integer; got {str(self.axis)[:100]!r}")
        if self.axis == 0:
            raise ValueError("axis must be the axis of the classes, counted with the batch axis, which is 0; got 0")

    def _classes_last(self, value: Tensor, shape: Shape | None) -> tuple[Tensor, int, Shape]:
        """Values with their axes restored, the axis of the classes, and the shape."""
        shape = (value.shape[-1],) if shape is None else shape
        axis = self.axis if self.axis > 0 else self.axis + 1 + len(shape)
        if not 0 < axis <= len(shape):
            raise ValueError(
                f"likelihood says axis={str(self.axis)[:20]}, but the decoder's output has the shape "
                f"(batch, {', '.join(map(str, shape))}), whose axes after the batch are 1 to {len(shape)}"
            )
        return value.reshape(value.shape[0], *shape), axis, shape

    def parameters(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> dict[str, Tensor]:
        key, value = self._one(output)
        if key == "probs":
            return {key: value}
        full, axis, _ = self._classes_last(value, shape)
        return {key: torch.log_softmax(full, axis).reshape(value.shape)}

    def check(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> None:
        super().check(output, shape)
        key, value = self._one(output)
        full, axis, shape = self._classes_last(value, shape)
        if shape[axis - 1] < 2:
            raise ValueError(
                f"likelihood is {self!r}, but that axis of the decoder's output, of shape "
                f"(batch, {', '.join(map(str, shape))}), has one class only; pass the axis of the classes"
            )
        if key == "probs" and not self._are_probabilities(full, axis):
            total = full.sum(axis)
            raise ValueError(
                f"likelihood says output='probs', axis={self.axis}, but the decoder returned values from "
                f"{float(full.min()):.3g} to {float(full.max()):.3g} whose sums over that axis are "
                f"{float(total.min()):.3g} to {float(total.max()):.3g}, not 1; if they are logits, pass "
                f"Categorical(output='logits'), or give the axis of the classes"
            )

    @staticmethod
    def _are_probabilities(full: Tensor, axis: int) -> bool:
        return bool((full >= 0).all()) and bool(((full.sum(axis) - 1).abs() < _SUMS_TO_ONE).all())

    def doubt(self, output: Mapping[str, Tensor], shape: Shape | None = None) -> str | None:
        key, value = self._one(output)
        full, axis, _ = self._classes_last(value, shape)
        if key == "probs" or not self._are_probabilities(full, axis):
            return None
        return (
            "the outputs are positive and sum to 1 over the classes, as probabilities do, but the likelihood says they "
            "are logits; if the decoder ends in a softmax, pass Categorical(output='probs')"
        )

    def mean(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["probs"] if "probs" in parameters else parameters["logits"].exp()

    def std(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        p = self.mean(parameters)
        return (p * (1 - p)).clamp(min=tiny(p)).sqrt()

    def log_prob(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if "logits" in parameters:
            return (x * parameters["logits"].clamp(min=math.log(tiny(x)))).sum(-1)
        return (x * parameters["probs"].clamp(min=tiny(x)).log()).sum(-1)

    def fisher(self, parameters: Mapping[str, Tensor]) -> Tensor:
        if "logits" in parameters:
            return 2 * torch.exp(0.5 * parameters["logits"])
        return 2 * root(parameters["probs"])

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "axis": self.axis}
