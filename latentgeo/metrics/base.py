"""`Metric`: what every Riemannian metric on latent space can do, derived from `tensor` alone.

Sign and index conventions follow do Carmo, "Riemannian Geometry" (1992): Γ has its upper index first, the unit sphere
has sectional curvature +1.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._calculus import Embedding, check_latent, check_vectors, mark_constant
from .._calculus.linalg import cholesky, half_log_det, solve
from . import curvature, matrix_free
from ._fields import tensor_derivative

__all__ = ["Metric"]


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

    Raises
    ------
    TypeError, ValueError
        From every method, if codes or vectors have the wrong type, shape, dtype or device; the message names them.

    Examples
    --------
    >>> class Stretched(Metric):
    ...     dim = 2
    ...
    ...     def tensor(self, z):
    ...         return torch.diag_embed(1 + z.square())
    >>> metric, z, v = Stretched(), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])
    >>> metric.norm(z, v), metric.inner(z, v, z), metric.log_volume(z)
    (tensor(5.8310), tensor(6.), tensor(0.3466))
    >>> metric.acceleration(z, v)
    tensor([-4.5000, -0.0000])
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

    @property
    def flat_embedding(self) -> Embedding | None:
        """The `embedding` where the space it maps into is Euclidean; None elsewhere."""
        return self.embedding if self.ambient is None else None

    def check(self, z: Tensor, name: str = "z") -> None:
        """Raise unless `z` holds latent codes that this metric takes (see `check_latent`)."""
        check_latent(z, self.dim, self.dtype, self.device, name=name)

    def cached(self, key: str, build: Callable[[], Embedding]) -> Embedding:
        """An embedding derived from this metric, built and probed once; not part of its pickled state."""
        cache: dict[str, Embedding] = self.__dict__.setdefault("_cache", {})
        if key not in cache:
            cache[key] = build()
        return cache[key]

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
        check_vectors(z, u=u, v=v)
        return torch.einsum("...i,...ij,...j->...", u, self.tensor(z), v)

    def norm(self, z: Tensor, v: Tensor) -> Tensor:
        """Length √(vᵀG(z)v) of tangent vectors, shape (*batch,); batch shapes broadcast."""
        self.check(z)
        check_vectors(z, v=v)
        return self.inner(z, v, v).clamp_min(0.0).sqrt()

    def product(self, z: Tensor, v: Tensor) -> Tensor:
        """Covector G(z)v of tangent vectors (the index lowered), shape (*batch, d); batch shapes broadcast.

        For a pullback metric one directional derivative and one reverse pass, whatever d. Not differentiable.
        """
        self.check(z)
        check_vectors(z, v=v)
        return mark_constant(torch.einsum("...ij,...j->...i", self.tensor(z), v), "product", z, v)

    def solve(self, z: Tensor, w: Tensor, *, throw: bool = True) -> Tensor:
        """Tangent vector G(z)⁻¹w of covectors (the index raised), shape (*batch, d); batch shapes broadcast.

        By Cholesky, or the QR factorisation of J, which squares the condition number that can be solved for; for a flat
        embedding of d ≥ 512 by conjugate gradients first, which form neither (`latentgeo.metrics.conjugate_gradients`
        does so at any d, and tells more). Not differentiable.

        Parameters
        ----------
        z, w : Tensor of shape (*batch, d)
        throw : bool
            Raise where G is rank-deficient; with False such codes have NaN.

        Raises
        ------
        RankError
            If ``throw`` and G is rank-deficient, or not finite, at any code.

        Examples
        --------
        >>> from latentgeo.metrics import Sphere
        >>> Sphere(2).solve(torch.zeros(2), torch.ones(2))
        tensor([0.2500, 0.2500])
        """
        self.check(z)
        with torch.no_grad():
            result = matrix_free.solve(self, z, w, iterate=self._iterates(z), throw=throw)
        return mark_constant(result, "solve", z, w)

    def _iterates(self, z: Tensor) -> bool:
        """Whether products are so much cheaper than the tensor that iterating with them is worth it."""
        return False

    def random_tangent(
        self, z: Tensor, *, random_state: int | torch.Generator | None = None, throw: bool = True
    ) -> Tensor:
        """Tangent vectors drawn from N(0, G(z)⁻¹), shape (*batch, d): steps that are equally long in all directions.

        By the factors of `solve`; for a flat embedding of d ≥ 512 without forming any where conjugate gradients
        converge: G⁻¹Jᵀw with w ~ N(0, I) has exactly this covariance. That a G is singular can go unnoticed there: the
        covariance is then that of its pseudo-inverse, and no step is made in directions that change nothing.

        Parameters
        ----------
        z : Tensor of shape (*batch, d)
        random_state : int, torch.Generator or None
        throw : bool
            Raise where G is found to be rank-deficient; with False such codes have NaN.

        Raises
        ------
        RankError
            If ``throw`` and G is found to be rank-deficient, or not finite, at any code.

        Examples
        --------
        >>> from latentgeo.metrics import Sphere
        >>> Sphere(2).random_tangent(torch.zeros(10_000, 2), random_state=0).std()
        tensor(0.5...)
        """
        self.check(z)
        with torch.no_grad():
            return matrix_free.random_tangent(self, z, random_state, throw=throw, iterate=self._iterates(z))

    def estimate_log_volume(
        self,
        z: Tensor,
        *,
        n_probes: int = 32,
        n_steps: int = 32,
        random_state: int | torch.Generator | None = None,
    ) -> matrix_free.LogVolumeEstimate:
        """Stochastic estimate of `log_volume` from products alone, with its standard error.

        Stochastic Lanczos quadrature [1]_; worth it where ``n_probes * n_steps`` is well below d.

        Parameters
        ----------
        z : Tensor of shape (*batch, d)
        n_probes : int
            Random vectors; the standard error falls with their square root.
        n_steps : int
            Lanczos steps for each, at most d; with d steps only the probes' randomness is left.
        random_state : int, torch.Generator or None

        Returns
        -------
        LogVolumeEstimate
            `.value`, `.standard_error` and `.truncation`, each of shape (*batch,).

        Raises
        ------
        ValueError
            If an option is out of range.

        References
        ----------
        .. [1] Ubaru, Chen, Saad, "Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature", SIMAX 2017.

        Examples
        --------
        >>> from latentgeo.metrics import Sphere
        >>> Sphere(20).estimate_log_volume(torch.zeros(20, dtype=torch.float64), random_state=0)
        LogVolumeEstimate(13.86 ± ...)
        """
        with torch.no_grad():
            return matrix_free.estimate_log_volume(
                self, z, n_probes=n_probes, n_steps=n_steps, random_state=random_state
            )

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
        dG = tensor_derivative(self, z)
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
        check_vectors(z, v=v)
        z, v = torch.broadcast_tensors(z, v)
        dG = tensor_derivative(self, z)
        along, across = (torch.einsum(f"{s},...i,...j->...k", dG, v, v) for s in ("...kji", "...ijk"))
        lower = along - 0.5 * across
        return -solve(cholesky(self.tensor(z), "acceleration"), lower)

    def sectional_curvature(self, z: Tensor, u: Tensor, v: Tensor, *, throw: bool = True) -> Tensor:
        """Sectional curvature of the plane spanned by u and v, shape (*batch,), in inverse squared units of length.

        NaN where u and v are parallel. For d = 2 this is the Gauss curvature, whatever u and v. Not differentiable, as
        all curvatures here; batch shapes broadcast, `throw` as in `riemann`.

        Examples
        --------
        >>> from latentgeo.metrics import HalfPlane
        >>> z, (u, v) = torch.tensor([0.0, 2.0]), torch.eye(2)
        >>> HalfPlane().sectional_curvature(z, u, v).round(decimals=3)
        tensor(-1.)
        """
        self.check(z)
        check_vectors(z, u=u, v=v)
        return curvature.sectional(self, z, u, v, throw=throw)

    def riemann(self, z: Tensor, *, throw: bool = True) -> Tensor:
        """Riemann curvature tensor Rᵢⱼₖₗ with all indices down, shape (*batch, d, d, d, d).

        Rᵢⱼₖₗ = K (GᵢₖGⱼₗ − GᵢₗGⱼₖ) where the curvature is constant; do Carmo's (∂ᵢ, ∂ⱼ, ∂ₖ, ∂ₗ).

        Parameters
        ----------
        z : Tensor of shape (*batch, d)
        throw : bool
            Raise where G is rank-deficient; with False such codes have NaN.

        Raises
        ------
        RankError
            If ``throw`` and G is rank-deficient, or not finite, at any code.

        Examples
        --------
        >>> from latentgeo.metrics import Sphere
        >>> z = torch.zeros(2, dtype=torch.float64)
        >>> (Sphere(2).riemann(z)[0, 1, 0, 1] / Sphere(2).tensor(z).det()).item()
        1.0...
        """
        return curvature.riemann(self, z, throw=throw)

    def ricci(self, z: Tensor, *, throw: bool = True) -> Tensor:
        """Ricci tensor Gⁱᵏ Rᵢⱼₖₗ, shape (*batch, d, d), without units; (d − 1) K G where the curvature is constant.

        `throw` as in `riemann`.
        """
        return curvature.ricci(self, z, throw=throw)

    def scalar_curvature(self, z: Tensor, *, throw: bool = True) -> Tensor:
        """Scalar curvature GʲˡRⱼₗ, shape (*batch,): twice the Gauss curvature for d = 2, zero for d = 1.

        In inverse squared units of length; `throw` as in `riemann`.
        """
        return curvature.scalar(self, z, throw=throw)

    def gauss_curvature(self, z: Tensor, *, throw: bool = True) -> Tensor:
        """Gauss curvature of a metric on a two-dimensional latent space, shape (*batch,).

        In inverse squared units of length; `throw` as in `riemann`.

        Raises
        ------
        ValueError
            If d is not 2.

        Examples
        --------
        >>> from latentgeo.metrics import PoincareBall
        >>> PoincareBall(2).gauss_curvature(torch.zeros(3, 2, dtype=torch.float64)).round(decimals=9)
        tensor([-1., -1., -1.], dtype=torch.float64)
        """
        self.check(z)
        if z.shape[-1] != 2:
            raise ValueError(
                f"`gauss_curvature` is that of surfaces, so `z` must have 2 latent coordinates, got {z.shape[-1]}; "
                "use `scalar_curvature` or `sectional_curvature`"
            )
        return 0.5 * curvature.scalar(self, z, throw=throw)

    def second_fundamental_form(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Second fundamental form II(u, v) of the embedding's image, shape (*batch, D).

        The part of φ''[u, v] normal to the image (of the ambient covariant derivative, under an ambient metric): how
        the image bends in the space around it.

        Raises
        ------
        ValueError
            If the metric has no embedding.
        RankError
            If G is rank-deficient at any code.
        """
        self.check(z)
        check_vectors(z, u=u, v=v)
        return curvature.second_fundamental_form(self, z, u, v)
