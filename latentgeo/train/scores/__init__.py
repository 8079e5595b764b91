"""Scores of samples: Inception Score, Fréchet and kernel distance, precision and recall, density and coverage.

Salimans et al. (2016), Heusel et al. (2017), Bińkowski et al. (2018), Kynkäänniemi et al. (2019), Naeem et al. (2020).
Every score says which features it was taken on; none is called "FID", which means those of one Inception network.
"""

from __future__ import annotations

from latentgeo.train.scores._inputs import Score
from latentgeo.train.scores.distances import (
    frechet_distance,
    frechet_from_moments,
    inception_score,
    kernel_distance,
)
from latentgeo.train.scores.neighbours import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from latentgeo.train.scores.truncation import (
    Resample,
    TowardsMean,
    TruncationCurve,
    truncated_normal,
    truncation_curve,
)

__all__ = [
    "DensityCoverage",
    "PrecisionRecall",
    "Resample",
    "Score",
    "TowardsMean",
    "TruncationCurve",
    "density_coverage",
    "frechet_distance",
    "frechet_from_moments",
    "inception_score",
    "kernel_distance",
    "precision_recall",
    "truncated_normal",
    "truncation_curve",
]
