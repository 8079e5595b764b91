"""The normalising constant of a locally adaptive normal distribution, by geodesic rays from its mean.

In normal coordinates ξ at the mean, C = ∫ exp(−½ ξᵀS⁻¹ξ) J(ξ) dξ over the segment domain, where J is the change of
volume of the exponential map. The domain is star-shaped and one geodesic, with its Jacobi fields, knows J along a whole
ray: directions are drawn at random, radii are integrated. Arvanitidis, Hansen, Hauberg, "A locally adaptive normal
distribution" (2016, section 3.3), draw single tangent vectors.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.special import gamma, gammainc, gammaincc
from scipy.stats import chi2
from torch import Tensor

__all__ = ["Design", "Normalizer", "Rays", "normalizer", "refined", "root"]

_TAIL = 1e-5  # of a normal distribution's mass, beyond the rays' ends
_FINE = 16  # radii between two at which Jacobi fields are solved for


@dataclasses.dataclass(frozen=True)
class Design:
    """Directions on the unit sphere, fixed for a whole fit, so that its likelihood is one deterministic function.

    Attributes
    ----------
    directions : Tensor of shape (S, d)
        Their second moment is exactly I/d and their mean 0, so that flat space is integrated exactly.
    group : ndarray of shape (S,)
        Which replicate each belongs to; the spread between replicates is the standard error.
    reach : float
        Length of the rays, in standard deviations.
    n_radii : int
    """

    directions: Tensor
    group: np.ndarray[Any, np.dtype[np.intp]]
    reach: float
    n_radii: int

    @staticmethod
    def draw(d: int, n_directions: int, n_radii: int, rng: np.random.RandomState) -> Design:
        """For d = 2 equally spaced angles from a random one on; else random orthonormal frames and their opposites."""
        if d == 1:
            directions, group = np.array([[1.0], [-1.0]]), np.zeros(2, dtype=np.intp)
        elif d == 2:
            count = 16 * math.ceil(n_directions / 16)
            angle = 2 * np.pi * (np.arange(count) + rng.uniform()) / count
            directions, group = np.stack([np.cos(angle), np.sin(angle)], 1), np.arange(count) % 4
        else:
            frames = [_frame(d, rng) for _ in range(max(2, math.ceil(n_directions / (2 * d))))]
            directions = np.concatenate([np.concatenate([Q, -Q]) for Q in frames])
            group = np.repeat(np.arange(len(frames)), 2 * d)
        return Design(torch.as_tensor(directions), group, float(chi2.ppf(1 - _TAIL, d)) ** 0.5, n_radii)


def _frame(d: int, rng: np.random.RandomState) -> np.ndarray[Any, Any]:
    """A uniformly distributed orthogonal matrix (Stewart 1980)."""
    Q, R = np.linalg.qr(rng.standard_normal((d, d)))
    return np.asarray(Q * np.sign(np.diag(R)))


@dataclasses.dataclass
class Rays:
    """What S geodesic rays from each of K means found.

    Radii are in standard deviations of `root`, evenly from 0 to `end`.

    Attributes
    ----------
    root : Tensor of shape (K, d, d)
        Ray s of component k starts along ``root[k] @ directions[s]``, in normal coordinates.
    volume : Tensor of shape (K, S, n_radii + 1)
        J.
    turn : Tensor of shape (K, S, n_radii + 1, d, d)
        J times minus the derivative of log by the mean (the identity in flat space), in normal coordinates.
    end, cut : Tensor of shape (K, S)
        Where rays end, and where they leave the segment domain.
    lost : Tensor of shape (K, S), bool
        The geodesic could be followed to `end` only, not to the design's reach.
    """

    root: Tensor
    volume: Tensor
    turn: Tensor
    end: Tensor
    cut: Tensor
    lost: Tensor

    def replaced(self, index: Tensor, other: Rays) -> Rays:
        """A copy with the components at `index` taken from another."""
        names = [f.name for f in dataclasses.fields(self)]
        return Rays(**{n: getattr(self, n).index_copy(0, index, getattr(other, n)[index]) for n in names})


@dataclasses.dataclass
class Normalizer:
    """Normalising constants and moments of K components, in normal coordinates.

    Attributes
    ----------
    log_constant, error : Tensor of shape (K,)
        log C, and its standard error.
    second : Tensor of shape (K, d, d)
        Mean of ξξᵀ under the model.
    slope : Tensor of shape (K, d)
        Gradient of log C by the mean.
    lost : Tensor of shape (K,)
        Share of the normal distribution's mass where the exponential map could not be computed.
    """

    log_constant: Tensor
    error: Tensor
    second: Tensor
    slope: Tensor
    lost: Tensor


def root(S: Tensor) -> Tensor:
    """Symmetric square roots of positive definite matrices (K, d, d)."""
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.clamp_min(0.0).sqrt()[:, None, :]) @ vectors.mT


def refined(volume: Tensor) -> Tensor:
    """Values at radii `_FINE` times as dense, by cubic splines along the second axis."""
    coarse = volume.shape[1]
    spline = CubicSpline(np.arange(coarse), np.eye(coarse))
    matrix = torch.as_tensor(spline(np.linspace(0, coarse - 1, _FINE * (coarse - 1) + 1)))
    return torch.einsum("fc,bc...->bf...", matrix.to(volume), volume)


def normalizer(rays: Rays, S: Tensor, design: Design) -> Normalizer:
    """Constants and moments for covariances S (K, d, d), which need not be those that the rays were cast for."""
    full = _integrals(rays, S, design, stride=1)
    value, second, slope, parts, lost = full
    quadrature = torch.zeros_like(value)
    if design.n_radii % 2 == 0:
        quadrature = (_integrals(rays, S, design, stride=2)[0] - value).abs() / 4
    error = torch.zeros_like(value)
    if parts.shape[1] > 1:
        error = parts.std(1) / parts.shape[1] ** 0.5
    return Normalizer(value.log(), (error.square() + quadrature.square()).sqrt() / value, second, slope, lost)


def _integrals(rays: Rays, S: Tensor, design: Design, *, stride: int) -> tuple[Tensor, ...]:
    K, count = rays.volume.shape[:2]
    d = S.shape[-1]
    w = design.directions.to(S)
    aim = torch.einsum("kij,sj->ksi", rays.root, w)
    P = torch.linalg.inv(S)
    q = torch.einsum("ksi,kij,ksj->ks", aim, P, aim)
    flat = rays.volume[:, :, ::stride].reshape(K * count, -1)
    J = refined(flat).reshape(K, count, -1)
    turn = refined(rays.turn[:, :, ::stride].reshape(K * count, -1, d, d)).reshape(K, count, -1, d, d)
    if stride == 1:
        J = J.clamp_min(0.0)
    radius = rays.end[..., None] * torch.linspace(0.0, 1.0, J.shape[-1], dtype=torch.float64, device=S.device)
    uncut = (rays.cut >= rays.end) & ~rays.lost
    weights = [_weights(radius, rays.cut, uncut, q, power) for power in (d - 1, d + 1, d)]
    # ∫ dξ = |det root| ∫ dω ∫ ρ^{d−1} dρ, and the sphere's area is 2 π^{d/2} / Γ(d/2)
    area = 2 * math.pi ** (d / 2) / float(gamma(d / 2)) * torch.linalg.det(rays.root).abs()
    mass = (weights[0] * J).sum(-1)
    value = area * mass.mean(1)
    second = torch.einsum("ks,ksi,ksj->kij", (weights[1] * J).sum(-1), aim, aim) / mass.sum(1)[:, None, None]
    bent = torch.einsum("ksf,ksfij,kil,ksl->kj", weights[2], turn, P, aim) / mass.sum(1)[:, None]
    parts = torch.stack([mass[:, torch.as_tensor(design.group == g)].mean(1) for g in range(design.group.max() + 1)], 1)
    whole = _moment(torch.full_like(q, torch.inf), q, d - 1)
    beyond = whole - _moment(rays.end, q, d - 1)
    missing = torch.where(rays.lost & (rays.cut >= rays.end), beyond, 0.0)
    return value, second, bent, area[:, None] * parts, missing.sum(1) / whole.sum(1)


def _moment(upto: Tensor, q: Tensor, power: int) -> Tensor:
    """∫₀^b ρ^power exp(−½qρ²) dρ."""
    a = (power + 1) / 2
    x = (0.5 * q * upto.square()).cpu().numpy()
    return 0.5 * float(gamma(a)) * (2 / q) ** a * torch.as_tensor(gammainc(a, x)).to(q)


def _weights(radius: Tensor, cut: Tensor, uncut: Tensor, q: Tensor, power: int) -> Tensor:
    """Quadrature weights (K, S, F) of ∫₀^cut ρ^power exp(−½qρ²) f(ρ) dρ, exact for f linear between radii.

    Beyond the end of a ray that was followed all the way, f is taken for constant.
    """
    ends = torch.minimum(radius, cut[..., None])
    zero, one = (_moment(ends, q[..., None], p).diff(dim=-1) for p in (power, power + 1))
    step = radius[..., 1:] - radius[..., :-1]
    rise = torch.where(step > 0, (one - radius[..., :-1] * zero) / torch.where(step > 0, step, 1.0), 0.0)
    out = torch.zeros_like(radius)
    out[..., :-1] += zero - rise
    out[..., 1:] += rise
    a = (power + 1) / 2
    x = (0.5 * q * radius[..., -1].square()).cpu().numpy()
    tail = 0.5 * float(gamma(a)) * (2 / q) ** a * torch.as_tensor(gammaincc(a, x)).to(q)
    out[..., -1] += torch.where(uncut, tail, 0.0)
    return out
