"""Geodesics between latent codes: boundary-value problems, distances, lengths.

Everything global about a metric lives here; a metric itself knows only its neighbourhood.
"""

from __future__ import annotations

from ._solvers.collocation import Collocation
from ._solvers.georce import Georce
from ._solvers.newton import Newton
from ._solvers.spline import Spline
from .connect import connect, curve_length, distance
from .geodesic import Geodesic, GeodesicError, Status
from .graph import LatentGraph

__all__ = [
    "Collocation",
    "Geodesic",
    "GeodesicError",
    "Georce",
    "LatentGraph",
    "Newton",
    "Spline",
    "Status",
    "connect",
    "curve_length",
    "distance",
]
