"""Clusters, means and neighbours of latent codes, as scikit-learn estimators over a metric.

Every estimator takes NumPy arrays (or torch tensors) and gives back NumPy; `metric=None` is Euclidean.
"""

from __future__ import annotations

from ._descent import MeanStatus
from .frechet import FrechetMean, FrechetWarning, frechet_mean
from .kmeans import GeodesicKMeans
from .kmedoids import GeodesicKMedoids
from .land import LAND
from .neighbors import GeodesicNeighbors
from .pga import GeodesicPCA

__all__ = [
    "LAND",
    "FrechetMean",
    "FrechetWarning",
    "GeodesicKMeans",
    "GeodesicKMedoids",
    "GeodesicNeighbors",
    "GeodesicPCA",
    "MeanStatus",
    "frechet_mean",
]
