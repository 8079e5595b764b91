"""Distances, geodesics, clusters and densities that respect the geometry a generative model learned.

Every public name is loaded when it is first used, so that ``import latentgeo`` costs nothing:
neither torch nor plotly is imported before something needs it.

>>> import latentgeo as lg
>>> import torch
>>> metric = lg.PoincareBall(2)
>>> path = lg.connect(metric, torch.tensor([0.0, 0.0]), torch.tensor([0.5, 0.0]))
>>> bool(path.converged)
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import version as _version

    from latentgeo import datasets, plot, train
    from latentgeo._calculus import Embedding, EmbeddingError, RankError
    from latentgeo._diagnose import Advice, HealthReport, diagnose
    from latentgeo.decoders import (
        Bernoulli,
        Categorical,
        Decoder,
        Deterministic,
        Ensemble,
        Exponential,
        Gaussian,
        NegativeBinomial,
        Poisson,
        fit_precision,
        wrap,
    )
    from latentgeo.geodesics import (
        Collocation,
        ExpDifferential,
        Geodesic,
        GeodesicError,
        Georce,
        LatentGraph,
        Newton,
        PairwiseError,
        PairwiseReport,
        RungeKutta,
        Shooting,
        Sobolev,
        Spline,
        Status,
        TorchDiffEq,
        connect,
        curve_length,
        differential_exp,
        distance,
        exp,
        jacobi_field,
        log,
        pairwise_distances,
        shoot,
        transport,
    )
    from latentgeo.io import CheckpointError, LatentModel, load, save
    from latentgeo.learn import (
        LAND,
        FrechetMean,
        GeodesicKMeans,
        GeodesicKMedoids,
        GeodesicNeighbors,
        GeodesicPCA,
        frechet_mean,
    )
    from latentgeo.metrics import (
        Euclidean,
        ExpectedMetric,
        FisherRaoMetric,
        HalfPlane,
        LocalDiagonalMetric,
        Metric,
        PoincareBall,
        PullbackMetric,
        Sphere,
        TensorMetric,
        conformal,
    )
    from latentgeo.model import metric
    from latentgeo.walks import (
        Brownian,
        EuclideanWalk,
        InverseMetric,
        KernelDensity,
        LangevinWalk,
        Walk,
        WalkStatus,
        heat_kernel,
        langevin,
        random_walk,
    )

    __version__: str = _version("latentgeo")

# Where each public name lives. A test holds this table and the block above to the same names.
_HOMES: dict[str, tuple[str, ...]] = {
    "latentgeo._calculus": ("Embedding", "EmbeddingError", "RankError"),
    "latentgeo._diagnose": ("Advice", "HealthReport", "diagnose"),
    "latentgeo.decoders": (
        "Bernoulli",
        "Categorical",
        "Decoder",
        "Deterministic",
        "Ensemble",
        "Exponential",
        "Gaussian",
        "NegativeBinomial",
        "Poisson",
        "fit_precision",
        "wrap",
    ),
    "latentgeo.geodesics": (
        "Collocation",
        "ExpDifferential",
        "Geodesic",
        "GeodesicError",
        "Georce",
        "LatentGraph",
        "Newton",
        "PairwiseError",
        "PairwiseReport",
        "RungeKutta",
        "Shooting",
        "Sobolev",
        "Spline",
        "Status",
        "TorchDiffEq",
        "connect",
        "curve_length",
        "differential_exp",
        "distance",
        "exp",
        "jacobi_field",
        "log",
        "pairwise_distances",
        "shoot",
        "transport",
    ),
    "latentgeo.io": ("CheckpointError", "LatentModel", "load", "save"),
    "latentgeo.learn": (
        "LAND",
        "FrechetMean",
        "GeodesicKMeans",
        "GeodesicKMedoids",
        "GeodesicNeighbors",
        "GeodesicPCA",
        "frechet_mean",
    ),
    "latentgeo.metrics": (
        "Euclidean",
        "ExpectedMetric",
        "FisherRaoMetric",
        "HalfPlane",
        "LocalDiagonalMetric",
        "Metric",
        "PoincareBall",
        "PullbackMetric",
        "Sphere",
        "TensorMetric",
        "conformal",
    ),
    "latentgeo.model": ("metric",),
    "latentgeo.walks": (
        "Brownian",
        "EuclideanWalk",
        "InverseMetric",
        "KernelDensity",
        "LangevinWalk",
        "Walk",
        "WalkStatus",
        "heat_kernel",
        "langevin",
        "random_walk",
    ),
}
_MODULES = ("datasets", "plot", "train")
_EXPORTS = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Advice",
    "Bernoulli",
    "Brownian",
    "Categorical",
    "CheckpointError",
    "Collocation",
    "Decoder",
    "Deterministic",
    "Embedding",
    "EmbeddingError",
    "Ensemble",
    "Euclidean",
    "EuclideanWalk",
    "ExpDifferential",
    "ExpectedMetric",
    "Exponential",
    "FisherRaoMetric",
    "FrechetMean",
    "Gaussian",
    "Geodesic",
    "GeodesicError",
    "GeodesicKMeans",
    "GeodesicKMedoids",
    "GeodesicNeighbors",
    "GeodesicPCA",
    "Georce",
    "HalfPlane",
    "HealthReport",
    "InverseMetric",
    "KernelDensity",
    "LAND",
    "LangevinWalk",
    "LatentGraph",
    "LatentModel",
    "LocalDiagonalMetric",
    "Metric",
    "NegativeBinomial",
    "Newton",
    "PairwiseError",
    "PairwiseReport",
    "PoincareBall",
    "Poisson",
    "PullbackMetric",
    "RankError",
    "RungeKutta",
    "Shooting",
    "Sobolev",
    "Sphere",
    "Spline",
    "Status",
    "TensorMetric",
    "TorchDiffEq",
    "Walk",
    "WalkStatus",
    "__version__",
    "conformal",
    "connect",
    "curve_length",
    "datasets",
    "diagnose",
    "differential_exp",
    "distance",
    "exp",
    "fit_precision",
    "frechet_mean",
    "heat_kernel",
    "jacobi_field",
    "langevin",
    "load",
    "log",
    "metric",
    "pairwise_distances",
    "plot",
    "random_walk",
    "save",
    "shoot",
    "train",
    "transport",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("latentgeo")
    elif name in _MODULES:
        value = importlib.import_module(f"latentgeo.{name}")
    elif name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    else:
        raise AttributeError(f"module 'latentgeo' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
