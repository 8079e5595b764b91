"""What the estimators share: validation, NumPy in and out, and where a metric's own precision and device come in.

scikit-learn's conventions (Buitinck et al., "API design for machine learning software", 2013, arXiv:1309.0238).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from ..metrics import Euclidean, Metric

__all__ = [
    "Geometric",
    "Merged",
    "as_numpy",
    "as_tensor",
    "check_metric",
    "check_weights",
    "merge",
]


def as_numpy(X: Any) -> Any:
    """A torch tensor as a NumPy array on the CPU; anything else as it is, for scikit-learn's validation to judge."""
    return X.detach().cpu().numpy() if isinstance(X, Tensor) else X


def check_metric(metric: Metric | None, d: int | None = None) -> Metric:
    """The metric, None meaning `Euclidean`; raise if it is none or does not take codes of `d` coordinates."""
    if metric is None:
        return Euclidean()
    if not isinstance(metric, Metric):
        raise TypeError(f"`metric` must be a Metric or None, got {type(metric).__name__}; see latentgeo.PullbackMetric")
    if d is not None and metric.dim is not None and metric.dim != d:
        raise ValueError(f"X has {d} features, but `metric` is of latent dimension {metric.dim}: {metric!r}")
    return metric


def as_tensor(metric: Metric, X: NDArray[Any], name: str = "X") -> Tensor:
    """Codes as the metric takes them: its dtype (float64 if it takes any) and device.

    Raises
    ------
    ValueError
        If a number is too large for the metric's precision.
    """
    Z = torch.tensor(np.asarray(X, dtype=np.float64))  # a copy: an array may be read-only, which torch warns of
    Z = Z.to(dtype=metric.dtype or torch.float64, device=metric.device)
    if not bool(Z.isfinite().all()):
        raise ValueError(f"`{name}` must hold numbers that fit the metric's {Z.dtype}; some are too large for it")
    return Z


def check_weights(weights: Any, X: NDArray[Any]) -> NDArray[np.float64]:
    """Sample weights, one per row: finite, none negative, not all zero."""
    return np.asarray(_check_sample_weight(as_numpy(weights), X, dtype=np.float64, ensure_non_negative=True))


class Merged:
    """Distinct codes in lexicographic order with their summed weights.

    What is fitted to these depends on the weighted set of codes alone: not on their order, nor on whether a code of
    weight two is given twice.
    """

    def __init__(self, codes: NDArray[Any], weights: NDArray[np.float64], inverse: NDArray[np.intp]) -> None:
        self.codes = codes
        self.weights = weights
        self.inverse = inverse  # the row of `codes` of each sample; -1 for samples of no weight


def merge(X: NDArray[Any], weights: NDArray[np.float64]) -> Merged:
    """Distinct rows of positive weight; scikit-learn's own samples map to them through `inverse`."""
    kept = np.flatnonzero(weights > 0)
    codes, inverse = np.unique(X[kept], axis=0, return_inverse=True)
    where = np.full(len(X), -1, dtype=np.intp)
    where[kept] = inverse.ravel()
    mass = np.bincount(where[kept], weights=weights[kept], minlength=len(codes)).astype(np.float64)
    return Merged(codes, mass, where)


class Geometric:
    """Mixin of estimators over latent codes: a `metric` parameter, validated codes, the caller's dtype.

    Attributes
    ----------
    metric_ : Metric
        Once fitted: `metric`, or what None means.
    """

    metric: Metric | None
    metric_: Metric

    def _codes(self, X: Any, *, reset: bool, least: int = 1) -> NDArray[Any]:
        """Validated codes (n, d), float32 or float64 as given."""
        if not reset:
            check_is_fitted(self)
        checked: NDArray[Any] = validate_data(
            self,
            as_numpy(X),
            reset=reset,
            dtype=[np.float64, np.float32],
            order="C",
            ensure_min_samples=least,
        )
        if reset:
            self.metric_ = check_metric(self.metric, checked.shape[1])
        return checked

    def _tensor(self, X: NDArray[Any]) -> Tensor:
        return as_tensor(self.metric_, X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]  # of scikit-learn's BaseEstimator
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
