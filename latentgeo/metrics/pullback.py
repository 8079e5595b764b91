"""Metrics pulled back through an embedding: G = JᵀJ, or JᵀA(φ)J under an ambient metric A.

Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379 (expected metric, Theorem 1);
Arvanitidis et al., "Pulling back information geometry", AISTATS 2022, arXiv:2106.05367 (Fisher-Rao).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._calculus import Embedding, check_integer, check_vectors, mark_constant
from .._calculus.linalg import cholesky, solve
from ._fields import Ambient
from .arguments import check_period
from .base import Metric
from .matrix_free import gram, log_volume

__all__ = ["ExpectedMetric", "FisherRaoMetric", "PullbackMetric"]

_LARGE, _HUGE = 16, 512  # from where J is factored rather than G, and from where neither is formed if it can be helped


class PullbackMetric(Metric):
    """Pullback of the Euclidean (or an ambient) metric through a map φ.

    Parameters
    ----------
    phi : callable, torch.nn.Module or Embedding
        Maps latent codes (B, d) to (B, D); any callable is probed for correct derivatives at first use.
    dim : int, optional
        Latent dimension d; None accepts any.
    ambient : callable, optional
        Metric tensor of the target space: maps (B, D) to its diagonal (B, D) or to (B, D, D). None means Euclidean.
    period : sequence of (float or None), optional
        Period of each latent coordinate, None where it has none.

    Raises
    ------
    TypeError, ValueError
        If `phi` is not callable, or `dim` contradicts the embedding's.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379.

    Examples
    --------
    >>> paraboloid = PullbackMetric(lambda z: torch.cat([z, z.square().sum(-1, keepdim=True)], -1), dim=2)
    >>> paraboloid.tensor(torch.tensor([1.0, 0.0]))
    tensor([[5., 0.],
            [0., 1.]])
    """

    def __init__(
        self,
        phi: Callable[[Tensor], Tensor] | Embedding,
        dim: int | None = None,
        ambient: Callable[[Tensor], Tensor] | None = None,
        *,
        period: Sequence[float | None] | None = None,
    ) -> None:
        check_integer(dim, "dim", optional=True)
        if not callable(phi):
            raise TypeError(f"`phi` must be callable, got {type(phi).__name__}")
        if not isinstance(phi, Embedding):
            module = phi if isinstance(phi, torch.nn.Module) else None
            phi = Embedding(phi, dim=dim, module=module, name=type(phi).__name__ if module is not None else "phi")
        if dim is not None and phi.dim is not None and phi.dim != dim:
            raise ValueError(f"`dim` must equal the embedding's latent dimension {phi.dim}, got {dim}")
        if ambient is not None and not callable(ambient):
            raise TypeError(f"`ambient` must be callable or None, got {type(ambient).__name__}")
        self.embedding: Embedding = phi
        self.dim = phi.dim if dim is None else dim
        self.ambient: Ambient | None = None if ambient is None else Ambient.of(ambient)
        self.period = check_period(period, self.dim)
        self._frozen = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.embedding!r}{'' if self.ambient is None else ', ambient'})"

    def _by_rows(self, compute: Callable[..., Tensor], copies: int, z: Tensor, *vectors: Tensor) -> Tensor:
        """Apply `compute` to chunks of flattened rows within the memory budget and restore the batch shape."""
        self.check(z)
        d = z.shape[-1]
        if z.numel():
            self.embedding.probe(z)
        flat = [t.reshape(-1, d).contiguous() for t in torch.broadcast_tensors(z, *vectors)]  # forward mode wants it
        batch = torch.broadcast_shapes(z.shape, *(v.shape for v in vectors))[:-1]
        parts = [compute(*(t[s] for t in flat)) for s in self.embedding.chunks(flat[0], copies)]
        out = parts[0] if len(parts) == 1 else torch.cat(parts) if parts else compute(*flat)
        return out.reshape((*batch, *out.shape[1:]))

    def _lowered(self, z: Tensor, columns: Tensor) -> Tensor:
        """A(φ(z)) applied to stacked vectors (m, B, D)."""
        return columns if self.ambient is None else self.ambient.apply(self.embedding(z), columns)

    def tensor(self, z: Tensor) -> Tensor:
        """Metric tensor JᵀJ (or JᵀAJ) at codes (*batch, d), shape (*batch, d, d)."""
        self.check(z)

        def compute(z: Tensor) -> Tensor:
            if self.ambient is None:
                return gram(self.embedding, z)
            J = self.embedding.pushforward_basis(z)
            return torch.einsum("iBD,jBD->Bij", J, self._lowered(z, J))

        return self._by_rows(compute, 2 * (1 + z.shape[-1]), z)

    def norm(self, z: Tensor, v: Tensor) -> Tensor:
        """Length |Jv| of tangent vectors, shape (*batch,); one directional derivative, no metric tensor."""
        self.check(z)
        check_vectors(z, v=v)

        def compute(z: Tensor, v: Tensor) -> Tensor:
            Jv = self.embedding.jvp(z, v)
            if self.ambient is None:
                return torch.linalg.vector_norm(Jv, dim=-1)
            return (Jv * self._lowered(z, Jv[None])[0]).sum(-1).clamp_min(0.0).sqrt()

        return self._by_rows(compute, 4, z, v)

    def inner(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product (Ju)·(Jv) of tangent vectors, shape (*batch,); two directional derivatives, no tensor."""
        self.check(z)
        check_vectors(z, u=u, v=v)

        def compute(z: Tensor, u: Tensor, v: Tensor) -> Tensor:
            return (self.embedding.jvp(z, u) * self._lowered(z, self.embedding.jvp(z, v)[None])[0]).sum(-1)

        return self._by_rows(compute, 6, z, u, v)

    def product(self, z: Tensor, v: Tensor) -> Tensor:
        """Covector Jᵀ(Jv), shape (*batch, d): one directional derivative and one reverse pass. Not differentiable."""
        self.check(z)
        check_vectors(z, v=v)

        def compute(z: Tensor, v: Tensor) -> Tensor:
            return self.embedding.vjp(z, self._lowered(z, self.embedding.jvp(z, v)[None])[0])

        with torch.no_grad():
            result = self._by_rows(compute, 4, z, v)
        return mark_constant(result, "product", z, v)

    def _iterates(self, z: Tensor) -> bool:
        return z.shape[-1] >= _HUGE and self.ambient is None

    def log_volume(self, z: Tensor) -> Tensor:
        """Logarithm of the measure element, ½ log det G, shape (*batch,): see `Metric.log_volume`.

        From d = 16 on by a QR factorisation of J where no gradient is asked for: it resolves condition numbers of G up
        to the square of what Cholesky's does.
        """
        self.check(z)
        learns = any(p.requires_grad for p in self.embedding.parameters())
        graph = torch.is_grad_enabled() and (z.requires_grad or learns)
        if z.shape[-1] < _LARGE or self.ambient is not None or graph:
            return super().log_volume(z)
        with torch.no_grad():
            return log_volume(self, z)

    def acceleration(self, z: Tensor, v: Tensor) -> Tensor:
        """Geodesic acceleration −G⁻¹Jᵀ(φ''[v, v]), shape (*batch, d); no Christoffel symbols.

        Not differentiable. Raises `RankError` where G is rank-deficient.
        """
        self.check(z)
        check_vectors(z, v=v)

        def compute(z: Tensor, v: Tensor) -> Tensor:
            exact = self.embedding.probe(z).second == "triple reverse"
            if exact:  # one second derivative of φ, whatever d
                J, bend = self.embedding.bends(z, v, v[None])
            else:
                J = self.embedding.pushforward_basis(z)
            AJ = self._lowered(z, J)
            rows, columns = J.movedim(0, 1), AJ.movedim(0, 1)
            if exact:
                lower = (columns @ bend[0, ..., None])[..., 0]
            else:
                bend = self.embedding.hvp_stack(z, AJ, v.expand(J.shape[0], *v.shape))
                lower = torch.einsum("kBi,Bi->Bk", bend, v)
            if self.ambient is not None:
                speed = torch.einsum("kBD,Bk->BD", J, v)
                lower = lower + torch.einsum("kBD,BD->Bk", J, self.ambient.geodesic_term(self.embedding(z), speed))
            return -solve(cholesky(rows @ columns.mT, "acceleration"), lower)

        with torch.no_grad():
            result = self._by_rows(compute, 6 * (1 + z.shape[-1]), z, v)
        return mark_constant(result, "acceleration", z, v)

    def christoffel(self, z: Tensor) -> Tensor:
        """Christoffel symbols Γᵏᵢⱼ, shape (*batch, k, i, j). Not differentiable for a flat target space."""
        if self.ambient is not None:
            return super().christoffel(z)

        self.check(z)

        def compute(z: Tensor) -> Tensor:
            J = self.embedding.pushforward_basis(z)
            lower = torch.stack([self.embedding.hessian(z, Jk) for Jk in J], 1)
            return self._raise_index(z, lower, "christoffel")

        with torch.no_grad():
            result = self._by_rows(compute, 6 * (1 + z.shape[-1]), z)
        return mark_constant(result, "christoffel", z)


class ExpectedMetric(PullbackMetric):
    """Expected pullback metric JμᵀJμ + JσᵀJσ of a stochastic decoder z ↦ (μ(z), σ(z)).

    Parameters
    ----------
    decoder : Decoder
        A wrapped decoder whose likelihood is location-scale (Gaussian, deterministic).

    Raises
    ------
    ValueError
        If the likelihood has no expected embedding; the message says why and names the metric to use.

    Notes
    -----
    Its measure √det E[G] is the measure of the expected metric, not the expected measure E[√det G].

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379, Theorem 1.

    Examples
    --------
    >>> import latentgeo as lg
    >>> decoder = lg.wrap(lambda z: (z.sin(), 1 + z.square()), latent_dim=2, likelihood=lg.Gaussian())
    >>> metric = lg.ExpectedMetric(decoder)
    >>> metric.tensor(torch.zeros(2, dtype=torch.float64))
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        super().__init__(_embedding_of(decoder, "expected", type(self).__name__))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.decoder!r})"

    def mean_tensor(self, z: Tensor) -> Tensor:
        """The term JμᵀJμ of the metric, shape (*batch, d, d)."""
        return PullbackMetric(self.decoder.mean_embedding).tensor(z)

    def std_tensor(self, z: Tensor) -> Tensor:
        """The term JσᵀJσ of the metric, shape (*batch, d, d); zero for a decoder whose σ does not vary."""
        if self.decoder.std_embedding is None:
            self.check(z)
            return z.new_zeros(*z.shape, z.shape[-1])
        return PullbackMetric(self.decoder.std_embedding).tensor(z)


class FisherRaoMetric(PullbackMetric):
    """Fisher-Rao metric of a decoder's likelihood, pulled back to latent space.

    Parameters
    ----------
    decoder : Decoder
        A wrapped decoder with any likelihood that has a Fisher embedding, or an ambient Fisher metric (Gaussian with
        learned σ: hyperbolic).

    Raises
    ------
    ValueError
        If the likelihood has neither; the message says why.

    References
    ----------
    .. [1] Arvanitidis et al., "Pulling back information geometry", AISTATS 2022, arXiv:2106.05367.

    Examples
    --------
    >>> import latentgeo as lg
    >>> decoder = lg.wrap(lambda z: 4 * z, latent_dim=1, likelihood=lg.Gaussian(sigma=2.0))
    >>> lg.FisherRaoMetric(decoder).tensor(torch.zeros(1, dtype=torch.float64))
    tensor([[4.]], dtype=torch.float64)
    """

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        ambient = getattr(decoder, "fisher_ambient", None)
        if ambient is not None and decoder.fisher_embedding is None:
            super().__init__(decoder.fisher_coordinates, ambient=ambient)
        else:
            super().__init__(_embedding_of(decoder, "fisher", type(self).__name__))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.decoder!r})"


def _embedding_of(decoder: Any, kind: str, metric: str) -> Embedding:
    embedding = getattr(decoder, f"{kind}_embedding", None)
    if isinstance(embedding, Embedding):
        return embedding
    if not hasattr(decoder, f"{kind}_embedding"):
        raise TypeError(
            f"`decoder` of {metric} must be a wrapped decoder (latentgeo.wrap), got {type(decoder).__name__}; "
            "for a plain map use PullbackMetric"
        )
    raise ValueError(f"{metric} is not defined for this decoder: {decoder.missing[kind]}")
