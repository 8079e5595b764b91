"""Metrics with closed forms: Euclidean space, spheres, hyperbolic spaces.

Used as priors' geometries, as defaults of estimators and as exact problems to test solvers against.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._calculus import Embedding, check_integer, check_vectors
from .base import Metric

__all__ = ["Euclidean", "HalfPlane", "PoincareBall", "Sphere"]


class _Conformal(Metric):
    """G(z) = e^{2f(z)} I with closed-form f and ∇f."""

    def _log_scale(self, z: Tensor) -> Tensor:
        """f(z), shape (*batch,)."""
        raise NotImplementedError

    def _slope(self, z: Tensor) -> Tensor:
        """∇f(z), shape (*batch, d)."""
        raise NotImplementedError

    def tensor(self, z: Tensor) -> Tensor:
        """Metric tensor e^{2f} I at codes (*batch, d), shape (*batch, d, d)."""
        self.check(z)
        eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return torch.exp(2 * self._log_scale(z))[..., None, None] * eye

    def inner(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product e^{2f} u·v, shape (*batch,)."""
        self.check(z)
        check_vectors(z, u=u, v=v)
        return torch.exp(2 * self._log_scale(z)) * (u * v).sum(-1)

    def log_volume(self, z: Tensor) -> Tensor:
        """½ log det G = d·f(z), shape (*batch,)."""
        self.check(z)
        return z.shape[-1] * self._log_scale(z)

    def acceleration(self, z: Tensor, v: Tensor) -> Tensor:
        """Geodesic acceleration |v|²∇f − 2(∇f·v)v, shape (*batch, d)."""
        self.check(z)
        check_vectors(z, v=v)
        slope = self._slope(z)
        return v.square().sum(-1, keepdim=True) * slope - 2 * (slope * v).sum(-1, keepdim=True) * v


class Euclidean(_Conformal):
    """Flat space.

    Parameters
    ----------
    dim : int or None
        Dimension d; None accepts any.

    Examples
    --------
    >>> Euclidean(2).norm(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor(5.)
    """

    def __init__(self, dim: int | None = None) -> None:
        check_integer(dim, "dim", optional=True)
        self.dim = dim
        self.embedding = Embedding(torch.clone, dim=dim, name="identity")
        self._frozen = True

    def _log_scale(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z[..., 0])

    def _slope(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)


class Sphere(_Conformal):
    """Unit sphere Sᵈ in the stereographic chart from the south pole: G = 4/(1+|z|²)² I; z = 0 is the north pole.

    Its embedding is the inverse projection z ↦ (2z, 1−|z|²)/(1+|z|²) into Rᵈ⁺¹. Curvature +1.

    Parameters
    ----------
    dim : int or None
        Dimension d of the sphere; None accepts any.

    Examples
    --------
    >>> Sphere(2).log_volume(torch.zeros(2))
    tensor(1.3863)
    """

    def __init__(self, dim: int | None = None) -> None:
        check_integer(dim, "dim", optional=True)
        self.dim = dim
        self.embedding = Embedding(_to_sphere, dim=dim, name="inverse stereographic projection")
        self._frozen = True

    def _log_scale(self, z: Tensor) -> Tensor:
        return torch.log(2 / (1 + z.square().sum(-1)))

    def _slope(self, z: Tensor) -> Tensor:
        return -2 * z / (1 + z.square().sum(-1, keepdim=True))


def _to_sphere(z: Tensor) -> Tensor:
    square = z.square().sum(-1, keepdim=True)
    return torch.cat([2 * z, 1 - square], -1) / (1 + square)


class _Open(_Conformal):
    """A chart that covers only part of the plane: codes outside have no metric (NaN)."""

    def _guard(self, value: Tensor, inside: Tensor) -> Tensor:
        return torch.where(inside, value, torch.nan)


class PoincareBall(_Open):
    """Hyperbolic space in the Poincaré ball |z| < 1: G = 4/(1−|z|²)² I, curvature −1. NaN outside the ball.

    Parameters
    ----------
    dim : int or None
        Dimension d; None accepts any.

    Examples
    --------
    >>> PoincareBall(2).tensor(torch.zeros(2))
    tensor([[4., 0.],
            [0., 4.]])
    """

    def __init__(self, dim: int | None = None) -> None:
        check_integer(dim, "dim", optional=True)
        self.dim = dim
        self._frozen = True

    def _log_scale(self, z: Tensor) -> Tensor:
        gap = 1 - z.square().sum(-1)
        return self._guard(torch.log(2 / torch.where(gap > 0, gap, 1.0)), gap > 0)

    def _slope(self, z: Tensor) -> Tensor:
        gap = 1 - z.square().sum(-1, keepdim=True)
        return self._guard(2 * z / torch.where(gap > 0, gap, 1.0), gap > 0)


class HalfPlane(_Open):
    """Hyperbolic space in the upper half-space z_d > 0: G = I/z_d², curvature −1. NaN elsewhere.

    For d = 2, √2 times its distance is the Fisher-Rao distance of univariate normals N(m, s²) at z = (m/√2, s).

    Parameters
    ----------
    dim : int or None
        Dimension d, at least 2; None accepts any.

    Examples
    --------
    >>> HalfPlane(2).norm(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    tensor(0.5000)
    """

    def __init__(self, dim: int | None = 2) -> None:
        check_integer(dim, "dim", 2, optional=True)
        self.dim = dim
        self._frozen = True

    def _log_scale(self, z: Tensor) -> Tensor:
        height = z[..., -1]
        return self._guard(-torch.log(torch.where(height > 0, height, 1.0)), height > 0)

    def _slope(self, z: Tensor) -> Tensor:
        height = z[..., -1:]
        up = -1 / torch.where(height > 0, height, 1.0)
        slope = torch.cat([torch.zeros_like(z[..., :-1]), up], -1)
        return self._guard(slope, height > 0)
