"""Geodesics between latent codes: boundary-value problems, distances, lengths.

Everything global about a metric lives here; a metric itself knows only its neighbourhood.
"""

from __future__ import annotations

from ._solvers.collocation import Collocation
from ._solvers.diffeq import TorchDiffEq
from ._solvers.georce import Georce
from ._solvers.newton import Newton
from ._solvers.runge_kutta import RungeKutta
from ._solvers.shooting import Shooting
from ._solvers.sobolev import Sobolev
from ._solvers.spline import Spline
from .connect import connect, curve_length, distance
from .geodesic import Geodesic, GeodesicError, Status
from .graph import LatentGraph
from .initial_value import shoot
from .jacobi import ExpDifferential, differential_exp, jacobi_field
from .maps import exp, log
from .pairwise import pairwise_distances
from .pairwise_report import PairwiseError, PairwiseReport
from .parallel import transport

__all__ = [
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
]
