"""Random walks on a metric: Euclidean, inverse-metric and Brownian walks, Langevin sampling, the heat kernel.

Hsu, "Stochastic Analysis on Manifolds" (AMS 2002) for Brownian motion; Girolami, Calderhead, "Riemann manifold Langevin
and Hamiltonian Monte Carlo methods" (JRSS B 2011) for sampling.
"""

from __future__ import annotations

from .density import KernelDensity
from .diagnostics import effective_sample_size, split_rhat
from .heat_kernel import heat_kernel
from .kinds import Brownian, EuclideanWalk, InverseMetric, Kind
from .langevin import LangevinWalk, langevin
from .walk import StepSizeWarning, Walk, WalkStatus, random_walk

__all__ = [
    "Brownian",
    "EuclideanWalk",
    "InverseMetric",
    "KernelDensity",
    "Kind",
    "LangevinWalk",
    "StepSizeWarning",
    "Walk",
    "WalkStatus",
    "effective_sample_size",
    "heat_kernel",
    "langevin",
    "random_walk",
    "split_rhat",
]
