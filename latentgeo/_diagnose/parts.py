"""The parts of a health report: figures, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

__all__ = [
    "CurvatureHealth",
    "DerivativeHealth",
    "Figures",
    "GeodesicHealth",
    "GraphHealth",
    "LatentHealth",
    "SigmaHealth",
    "TensorHealth",
]


@dataclass(frozen=True)
class LatentHealth:
    """The codes: their spread along each axis, and what of it reaches the data.

    `std` in latent units; `extent` is the spread of the decoded data along each axis, in units of the embedding;
    `unused` names the directions along which nothing happens.
    """

    dim: int
    codes: int
    std: tuple[float, ...]
    extent: tuple[float, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True)
class TensorHealth:
    """The metric tensor at `codes` of the codes: `rank` is the lowest of the decoded mean (of G, where there is none).

    `finite` and `full_rank` are shares of codes; rank is counted in the directions that are used.
    """

    codes: int
    finite: float
    rank: int
    full_rank: float
    condition: float
    condition_high: float


@dataclass(frozen=True)
class SigmaHealth:
    """The standard deviation, averaged over data coordinates, in data units.

    `growth` is σ off the data over σ at the codes, the median over directions, `growth_low` the 10th percentile;
    `saturated` the share of places among the codes at σ's bound; `share` that of the σ term in the trace of G, and
    `edge_ratio` the length of edges between neighbours under the σ term over that under the mean term (medians).
    """

    varies: bool
    at_codes: float = math.nan
    growth: float = math.nan
    growth_low: float = math.nan
    bound: float = math.nan
    saturated: float = 0.0
    share: float = 0.0
    edge_ratio: float = math.nan


@dataclass(frozen=True)
class GraphHealth:
    """Parts of the symmetric graph that joins each code to its nearest neighbours."""

    neighbors: int
    components: int
    largest: float


@dataclass(frozen=True)
class GeodesicHealth:
    """Geodesics between random pairs: `converged` is a share, `length` and `straight` medians.

    `gain` is straight length over geodesic length, median and 95th percentile; `near` and `near_straight` are the
    shares of curves that keep to the codes: at 95 % of a curve's points the 10th nearest code is no further than it is
    from 99 % of the codes.
    """

    pairs: int
    converged: float
    length: float
    straight: float
    gain: float
    gain_high: float
    near: float
    near_straight: float


@dataclass(frozen=True)
class CurvatureHealth:
    """Gauss curvature at the codes (for d > 2 the sectional curvature of random planes).

    In inverse squared units of length: median, 5th and 95th percentile. `radius` is the median of 1/√|K|: over lengths
    well below it latent space is as good as flat.
    """

    codes: int
    low: float
    median: float
    high: float
    radius: float


@dataclass(frozen=True)
class DerivativeHealth:
    """How derivatives are taken, as the probe chose."""

    first: str
    second: str
    smooth: bool
    approximate: bool
    dtype: str
    train_mode: bool


@dataclass(frozen=True)
class Figures:
    """All figures; a part that does not apply is None."""

    latent: LatentHealth
    tensor: TensorHealth
    sigma: SigmaHealth | None
    graph: GraphHealth
    geodesics: GeodesicHealth
    curvature: CurvatureHealth | None
    derivatives: DerivativeHealth
    drawn: Mapping[str, NDArray[Any]]
