"""Riemannian metrics on latent space: local quantities only (tensor, norm, volume, acceleration, curvature).

A metric takes any callable; it does not know what a decoder or a checkpoint is.
"""

from __future__ import annotations

from .arguments import need_metric
from .base import Metric
from .closed_form import Euclidean, HalfPlane, PoincareBall, Sphere
from .matrix_free import LinearSolution, LogVolumeEstimate, conjugate_gradients
from .pullback import ExpectedMetric, FisherRaoMetric, PullbackMetric
from .shaped import LocalDiagonalMetric, conformal
from .tensor import TensorMetric

__all__ = [
    "Euclidean",
    "ExpectedMetric",
    "FisherRaoMetric",
    "HalfPlane",
    "LinearSolution",
    "LocalDiagonalMetric",
    "LogVolumeEstimate",
    "Metric",
    "PoincareBall",
    "PullbackMetric",
    "Sphere",
    "TensorMetric",
    "conformal",
    "conjugate_gradients",
    "need_metric",
]
