"""Geodesics between latent codes: boundary-value problems, distances, lengths.

Everything global about a metric lives here; a metric itself knows only its neighbourhood.
"""

from __future__ import annotations

from ._solvers.newton import Newton
from .connect import connect, curve_length, distance
from .geodesic import Geodesic, GeodesicError, Status
from .graph import LatentGraph

__all__ = ["Geodesic", "GeodesicError", "LatentGraph", "Newton", "Status", "connect", "curve_length", "distance"]
