"""What scores take and give: data or features as float64 rows, and a number that names its features and sample sizes.

Features are computed in float64 from here on; a network computes them in its own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentgeo.train.features import Features

RAW = "the arrays themselves"
FeatureMap = Features | nn.Module | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Score:
    """A number, its error, and what it was taken on. `float(score)` is the number.

    Attributes
    ----------
    name : str
        What was measured.
    value : float
        The number.
    error : float or None
        Its standard error (`kernel_distance`) or its spread over splits (`inception_score`); None where there is none.
    features : str
        The features it was taken on.
    n_real, n_generated : int or None
        How many samples; None where there are no real ones.

    Examples
    --------
    >>> Score("Fréchet distance", 1.25, None, "pixels", 100, 50)
    Score(Fréchet distance 1.25 on pixels, 100 real, 50 generated)
    """

    name: str
    value: float
    error: float | None
    features: str
    n_real: int | None
    n_generated: int

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.2g}"
        real = "" if self.n_real is None else f"{self.n_real} real, "
        return f"Score({self.name} {self.value:.4g}{error} on {self.features}, {real}{self.n_generated} generated)"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, for a checkpoint's header."""
        return {k: v for k, v in vars(self).items() if v is not None}


def feature_rows(name: str, x: Any, features: FeatureMap) -> Tensor:
    """Features (N, F) of samples, float64; the samples themselves, flattened, where `features` is None."""
    rows = as_tensor(name, x)
    if features is not None and not callable(features):
        raise TypeError(f"features must be Features, a module or a function of samples; got {type(features).__name__}")
    if features is not None:
        rows = _apply(features, rows)
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(f"the features of {name} are not all finite")
    return rows.detach().flatten(1).double().cpu()


def feature_name(features: FeatureMap) -> str:
    """How a score names its features."""
    if features is None:
        return RAW
    if isinstance(features, Features):
        return features.name
    return f"an unnamed {getattr(features, '__name__', type(features).__name__)}"


def as_tensor(name: str, x: Any) -> Tensor:
    """Samples (N, ...) as a tensor, at least two of them, all finite."""
    if not isinstance(x, (Tensor, np.ndarray)):
        raise TypeError(f"{name} must be a tensor or an array; got {type(x).__name__}")
    x = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x, order="C"))
    if x.ndim < 2 or len(x) < 2 or x[0].numel() == 0:
        raise ValueError(f"{name} must hold at least two samples, shape (N, ...); got shape {tuple(x.shape)}")
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} must be finite; {int((~torch.isfinite(x)).sum())} of its entries are not")
    return x


def pair(real: Any, generated: Any, features: FeatureMap) -> tuple[Tensor, Tensor]:
    """Features of both sets, of one width."""
    x, y = feature_rows("real", real, features), feature_rows("generated", generated, features)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"real and generated must have as many features; got {x.shape[1]} and {y.shape[1]}")
    return x, y


def whole(name: str, value: Any, at_least: int, at_most: float = math.inf) -> int:
    """An integer within bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= at_most:
        upper = "" if at_most == math.inf else f" and at most {at_most}"
        raise ValueError(f"{name} must be an integer of at least {at_least}{upper}; got {value!r}")
    return value


def _apply(features: Callable[[Tensor], Tensor], rows: Tensor, batch_size: int = 1000) -> Tensor:
    if isinstance(features, nn.Module) and features.training:
        raise ValueError("features is a module in train mode; put it in eval mode first (module.eval())")
    with torch.no_grad():
        parts = [features(part) for part in rows.split(batch_size)]
    if not all(isinstance(part, Tensor) and part.ndim >= 2 for part in parts):
        raise ValueError("features must map samples (N, ...) to a tensor (N, F)")
    return torch.cat(parts)
