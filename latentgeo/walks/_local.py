"""What one step of a walk needs to know about the metric at the walkers: tensor, factor, bending, Christoffel terms.

For pullbacks from a flat space everything comes from the columns of the Jacobian and second directional derivatives of
φ, without Christoffel symbols; other metrics give their tensor and acceleration.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .._calculus.embedding import DEFAULT_MAX_BYTES, Embedding
from .._calculus.linalg import factored
from ..metrics import Metric, PullbackMetric

__all__ = ["Local", "flat_embedding", "in_chunks"]


def flat_embedding(metric: Metric) -> Embedding | None:
    """The map into flat space that the metric is pulled back through, unless the metric knows a shorter way."""
    flat = isinstance(metric, PullbackMetric) and metric.ambient is None
    own = type(metric).acceleration is not PullbackMetric.acceleration
    return metric.embedding if flat and not own else None


def in_chunks(metric: Metric, z: Tensor) -> Iterator[slice]:
    """Slices of the rows of `z` (B, d) whose Jacobians and second derivatives stay within the byte budget."""
    d = z.shape[-1]
    if metric.embedding is not None:
        if metric.embedding.report is None and len(z):
            metric.embedding.probe(z)
        yield from metric.embedding.chunks(z, 6 * (1 + d))
        return
    rows = max(1, DEFAULT_MAX_BYTES // (64 * z.element_size() * d * d))
    yield from (slice(i, i + rows) for i in range(0, len(z), rows))


class Local:
    """The metric at a batch of codes.

    Attributes
    ----------
    z : Tensor of shape (B, d)
    tensor : Tensor of shape (B, d, d)
    factor : Tensor of shape (B, d, d), float64
        Lower Cholesky factor; meaningless where not `regular`.
    finite, regular : Tensor of shape (B,), bool
        Whether the metric tensor is finite; whether it is invertible, too.
    """

    def __init__(self, metric: Metric, z: Tensor) -> None:
        self.metric, self.z = metric, z
        self.phi = flat_embedding(metric)
        self.J = None if self.phi is None else self.phi.pushforward_basis(z)
        if self.J is None:
            self.tensor = metric.tensor(z)
        else:
            rows = self.J.movedim(0, 1)
            self.tensor = rows @ rows.mT
        self.finite = self.tensor.isfinite().flatten(1).all(-1) & z.isfinite().all(-1)
        eye = torch.eye(z.shape[-1], dtype=self.tensor.dtype, device=z.device)
        factor, deficient = factored(torch.where(self.finite[:, None, None], self.tensor, eye))
        self.factor, self.regular = factor, self.finite & ~deficient

    def select(self, keep: Tensor) -> Local:
        """The same at some of the codes."""
        if bool(keep.all()):
            return self
        part = object.__new__(Local)
        part.metric, part.phi = self.metric, self.phi
        part.J = None if self.J is None else self.J[:, keep]
        for name in ("z", "tensor", "factor", "finite", "regular"):
            setattr(part, name, getattr(self, name)[keep])
        return part

    def frame(self, xi: Tensor) -> Tensor:
        """Tangent vectors whose coordinates in an orthonormal frame are `xi` (..., B, d): G^(−1/2) xi, float64."""
        return torch.linalg.solve_triangular(self.factor.mT, xi.double()[..., None], upper=True)[..., 0]

    def raise_index(self, covector: Tensor) -> Tensor:
        """G⁻¹ times covectors (..., B, d), float64."""
        return torch.cholesky_solve(covector.double()[..., None], self.factor)[..., 0]

    def half_log_det(self) -> Tensor:
        """½ log det G, (B,), float64."""
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def acceleration(self, v: Tensor) -> Tensor:
        """−Γ(v, v) for vectors (..., B, d), float64."""
        v = v.to(self.z)
        if self.phi is None or self.J is None:
            return self.metric.acceleration(self.z, v).double()
        bend = self.phi.second(self.z, v, v)
        return -self.raise_index(torch.einsum("kBD,...BD->...Bk", self.J, bend))

    def drift(self) -> Tensor:
        """Drift of Brownian motion, −½ gʲᵏΓⁱⱼₖ, (B, d), float64: half the sum of a frame's accelerations."""
        return 0.5 * self.acceleration(self._axes()).sum(0)

    def log_volume_slope(self) -> Tensor:
        """Gradient of ½ log det G, Γʲⱼᵢ, (B, d), float64."""
        if self.phi is None or self.J is None:
            return self.metric.christoffel(self.z).double().diagonal(dim1=-3, dim2=-1).sum(-1)
        axes = self._axes().to(self.z)
        return self.phi.hvp_stack(self.z, torch.einsum("kBD,mBk->mBD", self.J, axes), axes).double().sum(0)

    def _axes(self) -> Tensor:
        """The d vectors of an orthonormal frame at every code, (d, B, d), float64."""
        B, d = self.z.shape
        axes = torch.eye(d, dtype=torch.float64, device=self.z.device)
        return self.frame(axes[:, None, :].expand(d, B, d))
