"""`Metric`: what every Riemannian metric on latent space can do, derived from `tensor` alone.

Sign and index conventions follow do Carmo, "Riemannian Geometry" (1992): Γ has its upper index first, the unit sphere
has sectional curvature +1.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._calculus import Embedding, check_latent, check_like
from .._calculus.linalg import cholesky, half_log_det, solve

__all__ = ["Metric", "TensorMetric", "check_period"]


class Metric(abc.ABC):
    """A Riemannian metric on latent space. Frozen: copies are the object itself.

    A subclass gives `tensor`; everything else is derived from it, and overridden only for speed.

    Attributes
    ----------
    dim : int or None
        Latent dimension d; None accepts any.
    embedding : Embedding or None
        The map φ into a flat (or `ambient`) space whose pullback the metric is, if there is one.
    ambient : callable or None
        Metric tensor of the space that `embedding` maps into; None means Euclidean.
    period : tuple of (float or None), or None
        Period of each latent coordinate (None: not periodic): codes that differ by periods are the same point.
    """

    dim: int | None = None
    embedding: Embedding | None = None
    ambient: Callable[[Tensor], Tensor] | None = None
    period: tuple[float | None, ...] | None = None
    _frozen = False

    def __setattr__(self, key: str, value: Any) -> None:
        if self._frozen:
            raise AttributeError(f"{type(self).__name__} is frozen; build a new one to change `{key}`")
        object.__setattr__(self, key, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Metric:
        return self

    def __copy__(self) -> Metric:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_cache"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self.dim is None else self.dim})"

    @property
    def dtype(self) -> torch.dtype | None:
        """Floating dtype that codes must have; None accepts any."""
        return None if self.embedding is None else self.embedding.dtype

    @property
    def device(self) -> torch.device | None:
        """Device that codes must be on; None accepts any."""
        return None if self.embedding is None else self.embedding.device

    def check(self, z: Tensor, name: str = "z") -> None:
        """Raise unless `z` holds latent codes that this metric takes (see `check_latent`)."""
        check_latent(z, self.dim, self.dtype, self.device, name=name)

    def cached(self, key: str, build: Callable[[], Embedding]) -> Embedding:
        """An embedding derived from this metric, built and probed once; not part of its pickled state."""
        cache: dict[str, Embedding] = self.__dict__.setdefault("_cache", {})
        if key not in cache:
            cache[key] = build()
        return cache[key]

    @property
    def _field(self) -> Embedding:
        """The map z ↦ vec G(z), with probed derivatives."""
        name = f"tensor of {type(self).__name__}"
        return self.cached("field", lambda: Embedding(lambda z: self.tensor(z).flatten(-2), dim=self.dim, name=name))

    def _derivative(self, z: Tensor) -> Tensor:
        """∂ₖGᵢⱼ as (..., i, j, k)."""
        d = z.shape[-1]
        return self._field.jacobian(z).unflatten(-2, (d, d))

    @abc.abstractmethod
    def tensor(self, z: Tensor) -> Tensor:
        """Metric tensor G(z), symmetric positive semi-definite.

        Parameters
        ----------
        z : Tensor of shape (*batch, d)
            Latent codes.

        Returns
        -------
        Tensor of shape (*batch, d, d)
            In squared units of length per squared unit of latent space; differentiable once.
        """

    def inner(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product uᵀG(z)v of tangent vectors, shape (*batch,); batch shapes broadcast."""
        self.check(z)
        check_like(u, z, "u")
        check_like(v, z, "v")
        return torch.einsum("...i,...ij,...j->...", u, self.tensor(z), v)

    def norm(self, z: Tensor, v: Tensor) -> Tensor:
        """Length √(vᵀG(z)v) of tangent vectors, shape (*batch,)."""
        return self.inner(z, v, v).clamp_min(0.0).sqrt()

    def log_volume(self, z: Tensor) -> Tensor:
        """Logarithm of the measure element, ½ log det G(z), shape (*batch,).

        Minus infinity, with a `RankWarning`, where G is rank-deficient to working precision.
        """
        return half_log_det(self.tensor(z))

    def christoffel(self, z: Tensor) -> Tensor:
        """Christoffel symbols of the second kind Γᵏᵢⱼ, shape (*batch, k, i, j).

        Raises
        ------
        RankError
            If G is rank-deficient at any code.
        """
        self.check(z)
        dG = self._derivative(z)
        lower = 0.5 * (dG.mT + dG - dG.movedim(-1, -3))
        # [k, i, j] = ½(∂ᵢGₖⱼ + ∂ⱼGₖᵢ − ∂ₖGᵢⱼ)
        return self._raise_index(z, lower, "christoffel")

    def _raise_index(self, z: Tensor, lower: Tensor, what: str) -> Tensor:
        """Multiply the first tensor index of (*batch, d, ...) by G⁻¹."""
        factor = cholesky(self.tensor(z), what)
        flat = lower.flatten(z.ndim).double()
        return torch.cholesky_solve(flat, factor).reshape(lower.shape).to(lower.dtype)

    def acceleration(self, z: Tensor, v: Tensor) -> Tensor:
        """Acceleration z̈ of the geodesic through z with velocity v: z̈ᵏ = −Γᵏᵢⱼvⁱvʲ.

        Parameters
        ----------
        z, v : Tensor of shape (*batch, d)
            Codes and velocities; batch shapes broadcast.

        Returns
        -------
        Tensor of shape (*batch, d)

        Raises
        ------
        RankError
            If G is rank-deficient at any code.
        """
        self.check(z)
        check_like(v, z, "v")
        z, v = torch.broadcast_tensors(z, v)
        dG = self._derivative(z)
        along, across = (torch.einsum(f"{s},...i,...j->...k", dG, v, v) for s in ("...kji", "...ijk"))
        lower = along - 0.5 * across
        return -solve(cholesky(self.tensor(z), "acceleration"), lower)

    def sectional_curvature(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Sectional curvature of the plane spanned by u and v, shape (*batch,), in inverse squared units of length.

        NaN where u and v are parallel. For d = 2 this is the Gauss curvature, whatever u and v.
        """
        self.check(z)
        check_like(u, z, "u")
        check_like(v, z, "v")
        z, u, v = torch.broadcast_tensors(z, u, v)
        d = z.shape[-1]
        field = self._field
        uu, uv, vv = (field.second(z, *pair).unflatten(-1, (d, d)) for pair in ((u, u), (u, v), (v, v)))
        gamma = self.christoffel(z)
        turn_uu, turn_uv, turn_vv = (
            torch.einsum("...kij,...i,...j->...k", gamma, a, b) for a, b in ((u, u), (u, v), (v, v))
        )

        def along(T: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return torch.einsum("...i,...ij,...j->...", a, T, b)

        riemann = (
            along(uv, u, v)
            - 0.5 * (along(uu, v, v) + along(vv, u, u))
            + self.inner(z, turn_uv, turn_uv)
            - self.inner(z, turn_uu, turn_vv)
        )
        return riemann / self._area(z, u, v)

    def _area(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Squared area of the parallelogram of u and v; NaN where it vanishes to rounding."""
        uu, uv, vv = self.inner(z, u, u), self.inner(z, u, v), self.inner(z, v, v)
        area = uu * vv - uv**2
        return torch.where(area > 16 * torch.finfo(z.dtype).eps * uu * vv, area, torch.nan)


def check_period(period: Sequence[float | None] | None, dim: int | None) -> tuple[float | None, ...] | None:
    """Return the period as a tuple, or raise ValueError if it is not one positive number or None per coordinate."""
    if period is None:
        return None
    if dim is None or len(period) != dim:
        raise ValueError(f"`period` must have one entry per latent coordinate (`dim` = {dim}), got {len(period)}")
    for p in period:
        if p is not None and not (isinstance(p, (int, float)) and math.isfinite(p) and p > 0):
            raise ValueError(f"`period` must hold positive numbers or None, got {p!r}")
    return tuple(None if p is None else float(p) for p in period)


class TensorMetric(Metric):
    """A metric given by its tensor alone.

    Parameters
    ----------
    function : callable
        Maps codes (*batch, d) to symmetric positive definite tensors (*batch, d, d). Built from differentiable torch
        operations; a Jacobian in it must come from `Embedding.jacobian` (differentiable once) or reverse mode.
    dim : int, optional
        Latent dimension; None accepts any.
    period : sequence of (float or None), optional
        Period of each latent coordinate, None where it has none.

    Raises
    ------
    ValueError
        From `tensor`, if the function returns another shape or an asymmetric tensor.

    Examples
    --------
    >>> half_plane = TensorMetric(lambda z: torch.eye(2) / z[..., 1, None, None] ** 2, dim=2)
    >>> half_plane.norm(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    tensor(0.5000)
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        dim: int | None = None,
        *,
        period: Sequence[float | None] | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"`function` must be callable, got {type(function).__name__}")
        self.function = function
        self.dim = dim
        self.period = check_period(period, dim)
        self._frozen = True

    def tensor(self, z: Tensor) -> Tensor:
        """Metric tensor at codes (*batch, d), shape (*batch, d, d)."""
        self.check(z)
        G = self.function(z)
        want = (*z.shape, z.shape[-1])
        if not isinstance(G, Tensor) or G.shape != want:
            got = tuple(G.shape) if isinstance(G, Tensor) else type(G).__name__
            raise ValueError(f"`function` must return metric tensors of shape {want}, got {got}")
        return G
