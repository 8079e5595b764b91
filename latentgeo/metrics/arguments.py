"""Checks of what metrics, and everything that takes one, are given."""

from __future__ import annotations

from collections.abc import Sequence

from .._calculus import check_positive
from .base import Metric

__all__ = ["check_period", "need_metric"]


def check_period(period: Sequence[float | None] | None, dim: int | None) -> tuple[float | None, ...] | None:
    """Return the period as a tuple, or raise ValueError if it is not one positive number or None per coordinate."""
    if period is None:
        return None
    row = hasattr(period, "__len__") and getattr(period, "ndim", 1) == 1
    if not row or dim is None or len(period) != dim:
        raise ValueError(f"`period` must have one entry per latent coordinate (`dim` = {dim}), got {period!r}")
    for p in period:
        check_positive(p, "period", optional=True)
    return tuple(None if p is None else float(p) for p in period)


def need_metric(metric: object) -> None:
    """Raise TypeError unless it is a metric."""
    if not isinstance(metric, Metric):
        raise TypeError(f"`metric` must be a Metric, got {type(metric).__name__}; wrap a map with PullbackMetric")
