"""Kinds of random walk, as frozen values: Euclidean, inverse-metric, Brownian.

Brownian motion of a metric has generator ½Δ; its drift −½ gʲᵏΓⁱⱼₖ is what the inverse-metric walk of Arvanitidis,
Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018) leaves out. Geodesic random walks: Jørgensen, "The central limit
problem for geodesic random walks" (Z. Wahrscheinlichkeitstheorie 32, 1975).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..geodesics import exp
from ..metrics import Metric
from ._local import Local, flat_embedding

__all__ = ["Brownian", "EuclideanWalk", "InverseMetric", "Kind", "as_kind"]

FINE, OUTSIDE, SINGULAR, FAILED, ROUGH = range(5)


@runtime_checkable
class Kind(Protocol):
    """One law of motion. A value of your own with this method is a kind, too."""

    def advance(self, metric: Metric, z: Tensor, xi: Tensor, step_size: float) -> tuple[Tensor, Tensor]:
        """Take one step.

        Parameters
        ----------
        metric : Metric
        z : Tensor of shape (B, d)
            Finite codes.
        xi : Tensor of shape (B, d), float64
            Independent standard normal numbers.
        step_size : float
            Time δ of the step.

        Returns
        -------
        z : Tensor of shape (B, d)
            The next codes; anything where no step could be taken.
        trouble : Tensor of shape (B,), integer
            0 where the step was taken, 1 where the metric at `z` is not finite, 2 where it is rank-deficient, 3 where
            the step itself could not be computed, 4 where it was taken but is too large for the metric there.
        """
        ...


def _trouble(local: Local) -> Tensor:
    """0, or why no step can be taken from a code."""
    return torch.where(local.regular, FINE, torch.where(local.finite, SINGULAR, OUTSIDE))


@dataclasses.dataclass(frozen=True)
class EuclideanWalk:
    """Brownian motion of the chart: z + √δ·ξ. It knows the metric's region, but not the metric.

    Its `step_size` is in squared latent units; the other kinds' is in squared units of length.

    Examples
    --------
    >>> EuclideanWalk()
    EuclideanWalk()
    """

    def advance(self, metric: Metric, z: Tensor, xi: Tensor, step_size: float) -> tuple[Tensor, Tensor]:
        phi = flat_embedding(metric)
        value = metric.tensor(z) if phi is None else phi(z)
        finite = value.isfinite().flatten(1).all(-1)
        return (z.double() + step_size**0.5 * xi).to(z), torch.where(finite, FINE, OUTSIDE)


@dataclasses.dataclass(frozen=True)
class InverseMetric:
    """Normal steps with covariance δ·G⁻¹: the walk of "Latent Space Oddity" and its reimplementations.

    It is *not* the metric's Brownian motion: without the drift its law depends on the chart, and where the chart is
    stretched unevenly it wanders off. For comparison.

    Examples
    --------
    >>> InverseMetric()
    InverseMetric()
    """

    def advance(self, metric: Metric, z: Tensor, xi: Tensor, step_size: float) -> tuple[Tensor, Tensor]:
        local = Local(metric, z)
        return (z.double() + step_size**0.5 * local.frame(xi)).to(z), _trouble(local)


@dataclasses.dataclass(frozen=True)
class Brownian:
    r"""Brownian motion of the metric: generator ½Δ, independent of the chart.

    With v = G^(−1/2) ξ, ξ standard normal, one step of time δ from z is, of weak order 1 each,

    =============== ================================================================================================
    "second-order"  z + √δ·v − ½δ·Γ(v, v): two terms of the exponential map's series
    "projection"    z + √δ·v + G⁻¹Jᵀ(φ(z) + √δ·Jv − φ(z + √δ·v)): the tangent step in the embedding space brought
                    back to the surface by one Gauss–Newton step. No second derivatives; for pullbacks from flat spaces
    "exponential"   exp_z(√δ·v), the geodesic random walk: never leaves a complete manifold, costs a geodesic
    =============== ================================================================================================

    The first two are as good as their series: where the metric changes much over √δ they overshoot, and the walk says
    in how many steps the bending was longer than the step itself. The third is right for any δ, in that it cannot
    overshoot.

    Parameters
    ----------
    step : {"second-order", "projection", "exponential"}

    Raises
    ------
    ValueError
        If `step` is none of these.

    References
    ----------
    .. [1] Jørgensen, "The central limit problem for geodesic random walks", Z. Wahrscheinlichkeitstheorie 32, 1975.

    Examples
    --------
    >>> Brownian(step="projection")
    Brownian(step='projection')
    """

    step: Literal["second-order", "projection", "exponential"] = "second-order"

    def __post_init__(self) -> None:
        if self.step not in _STEPS:
            raise ValueError(f"`step` must be one of {', '.join(map(repr, _STEPS))}, got {self.step!r}")

    def advance(self, metric: Metric, z: Tensor, xi: Tensor, step_size: float) -> tuple[Tensor, Tensor]:
        local = Local(metric, z)
        trouble = _trouble(local)
        good = local.regular
        if not bool(good.any()):
            return z, trouble
        here = local.select(good)
        w = step_size**0.5 * here.frame(xi[good])
        bend = _STEPS[self.step](here, w)
        moved = here.z.double() + w + bend
        new = z.clone()
        new[good] = moved.to(z)
        length, bent = (torch.einsum("Bij,Bi->Bj", here.factor, u).norm(dim=-1) for u in (w, bend))
        fine = torch.where((bent > length) & (self.step != "exponential"), ROUGH, FINE)
        trouble[good] = torch.where(moved.isfinite().all(-1), fine, FAILED)
        return new, trouble


# Each gives what is added to the straight step w.


def _second_order(local: Local, w: Tensor) -> Tensor:
    return 0.5 * local.acceleration(w)


def _projection(local: Local, w: Tensor) -> Tensor:
    phi = None if local.metric.ambient is not None else local.metric.embedding
    if phi is None:
        raise ValueError(
            f"Brownian(step='projection') needs a metric pulled back from a flat space, got {local.metric!r}; "
            "take step='second-order'"
        )
    z = local.z
    J = phi.pushforward_basis(z) if local.J is None else local.J
    there = (z.double() + w).to(z)
    # the step as it is after rounding, or the rounding error would count as bending
    straight = torch.einsum("kBD,Bk->BD", J, there - z)
    gap = phi(z) + straight - phi(there)
    return there.double() - (z.double() + w) + local.raise_index(torch.einsum("kBD,BD->Bk", J, gap))


def _exponential(local: Local, w: Tensor) -> Tensor:
    return exp(local.metric, local.z, w.to(local.z), throw=False).double() - (local.z.double() + w)


_STEPS = {"second-order": _second_order, "projection": _projection, "exponential": _exponential}
_NAMES: dict[str, type[EuclideanWalk] | type[InverseMetric] | type[Brownian]] = {
    "euclidean": EuclideanWalk,
    "inverse-metric": InverseMetric,
    "brownian": Brownian,
}


def as_kind(kind: Kind | str) -> Kind:
    """A kind of walk from itself or its name.

    Raises
    ------
    ValueError, TypeError
        If there is none of that name, or it is no kind.

    Examples
    --------
    >>> as_kind("brownian")
    Brownian(step='second-order')
    """
    if isinstance(kind, str):
        if kind not in _NAMES:
            raise ValueError(f"`kind` must be one of {', '.join(map(repr, _NAMES))} or a value, got {kind!r}")
        return _NAMES[kind]()
    if isinstance(kind, type) or not isinstance(kind, Kind):
        raise TypeError(f"`kind` must be a value such as Brownian(), or a name, got {kind!r}")
    return kind
