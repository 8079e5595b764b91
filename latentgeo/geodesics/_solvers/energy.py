"""Discrete curve energies: value, gradient and exact block-tridiagonal Hessian, for a batch of curves.

E = ½ Σᵢ |φ(zᵢ₊₁) − φ(zᵢ)|² / Δt needs no Jacobian for its value; its Hessian's blocks are products of Jacobians plus,
on the diagonal, the Hessian of the scalar <lap, φ>. Metrics without a flat embedding use the midpoint rule per edge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..._calculus import Embedding
from ...metrics import Metric
from ..curve import Quadrature, by_nodes, curve_groups

__all__ = ["ChordEnergy", "Energy", "Model", "MidpointEnergy", "energy_of"]

_WINDOW = 16  # columns of J in one matrix product, at least


@dataclasses.dataclass
class Model:
    """Second-order model of the energy at interior nodes, float64.

    The Hessian has diagonal blocks `base` + `bend` and upper blocks `upper` + `bend_upper`. `base` and `upper` alone
    (the metric's derivatives dropped: Gauss-Newton) are positive semi-definite; the bend may not be.
    """

    gradient: Tensor  # (B, m, d)
    base: Tensor  # (B, m, d, d)
    bend: Tensor  # (B, m, d, d)
    upper: Tensor  # (B, m - 1, d, d)
    bend_upper: Tensor | None = None  # (B, m - 1, d, d)

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> Model:
        return Model(
            change("gradient", self.gradient),
            change("base", self.base),
            change("bend", self.bend),
            change("upper", self.upper),
            None if self.bend_upper is None else change("bend_upper", self.bend_upper),
        )

    def select(self, index: Tensor) -> Model:
        """The sub-batch at `index`."""
        return self._map(lambda _, t: t[index])

    def updated(self, index: Tensor, other: Model) -> Model:
        """The same model with the sub-batch at `index` replaced."""
        return self._map(lambda name, t: t.index_copy(0, index, getattr(other, name)))

    @staticmethod
    def joined(models: Sequence[Model]) -> Model:
        """One batch of several."""
        return models[0]._map(lambda name, _: torch.cat([getattr(m, name) for m in models]))

    def exact(self) -> tuple[Tensor, Tensor]:
        """Diagonal and upper blocks of the Hessian."""
        return self.base + self.bend, self.upper if self.bend_upper is None else self.upper + self.bend_upper


class Energy:
    """A discrete energy of curves z (B, n, d) with equal time steps."""

    smooth = True
    embedded = False  # whether `gradient` costs much less than `model`, and `survey` is there

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def value(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) and the size of their rounding errors (B,), float64; NaN where the metric is not finite."""
        parts = [self._value(z[group]) for group in curve_groups(self.metric, z, z.shape[1])]
        if not parts:
            return (z.new_empty(0, dtype=torch.float64),) * 2
        return parts[0] if len(parts) == 1 else (torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))

    def _value(self, z: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def hidden(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`value`, and how much larger the energy is with a node more in the middle of each side: (B,) each.

        A factor far above one says that the polygon jumps across ridges of the metric.
        """
        value, noise = self.value(z)
        return value, noise, self.value(_halved(z))[0] / value.clamp_min(1e-300)

    def model(self, z: Tensor) -> Model:
        """Gradient and Hessian blocks with respect to the interior nodes."""
        raise NotImplementedError

    def gradient(self, z: Tensor) -> Tensor:
        """The model's gradient alone, (B, m, d)."""
        raise NotImplementedError

    def survey(self, z: Tensor) -> tuple[Tensor, Quadrature | None]:
        """The gradient of the energy discretised to fourth order, and lengths by the nodes' images alone.

        Lengths are those of curves through every second node; they are known for 4k + 1 nodes.
        """
        raise NotImplementedError

    def _by_curves(self, compute: Callable[[Tensor], Model], z: Tensor, row_bytes: int, budget: int) -> Model:
        curves = max(1, budget // max(1, row_bytes * z.shape[1]))
        parts = [compute(z[i : i + curves]) for i in range(0, z.shape[0], curves)]
        return parts[0] if len(parts) == 1 else Model.joined(parts)


class ChordEnergy(Energy):
    """½ Σ |Δφ|²/Δt for a flat embedding φ."""

    embedded = True

    def __init__(self, metric: Metric, embedding: Embedding, z: Tensor) -> None:
        super().__init__(metric)
        self.embedding = embedding
        if embedding.report is not None or bool(embedding(z).isfinite().all(-1).any()):
            self.smooth = embedding.probe(z).smooth

    def _value(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return _chord_energy(self.embedding(z))

    def hidden(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = []
        for group in curve_groups(self.metric, z, 2 * z.shape[1]):
            x = self.embedding(_halved(z[group]))
            value, noise = _chord_energy(x[:, ::2])
            parts.append(torch.stack([value, noise, _chord_energy(x)[0] / value.clamp_min(1e-300)]))
        value, noise, ratio = torch.cat(parts, 1) if parts else z.new_empty(3, 0, dtype=torch.float64)
        return value, noise, ratio

    def model(self, z: Tensor) -> Model:
        """Gradient Jᵀlap and blocks 2JᵀJ + <lap, φ''>, −JᵀJ₊."""
        d = z.shape[-1]
        row_bytes = self.embedding.probe(z).row_bytes * 2 * (1 + d)

        def compute(z: Tensor) -> Model:
            n1 = z.shape[1] - 1
            gradient, J, bend = self.embedding.together(z[:, 1:-1], self._laplacian(z), hessian=self.smooth)
            own, beside = _grams(J)
            return Model(*(n1 * block.double() for block in (gradient, 2 * own, bend, -beside)))

        return self._by_curves(compute, z, row_bytes, self.embedding.max_bytes)

    def gradient(self, z: Tensor) -> Tensor:
        """For about two forward passes."""
        parts = [
            self.embedding.pull(part[:, 1:-1], self._laplacian(part)).double() * (z.shape[1] - 1)
            for part in self._light_parts(z)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def survey(self, z: Tensor) -> tuple[Tensor, Quadrature | None]:
        """For about two forward passes, with at least nine nodes."""
        spans: list[Quadrature] = []

        def covector(x: Tensor) -> Tensor:
            if x.shape[1] % 4 == 1:
                spans.append(by_nodes(x))
            out = torch.zeros_like(x)
            lap = torch.sub(x[:, 1:-1], x[:, 2:], out=out[:, 1:-1])
            lap += x[:, 1:-1]
            lap -= x[:, :-2]
            lap += _bend(lap) / 12
            return out

        slopes = [self.embedding.pull(part, covector)[:, 1:-1] for part in self._light_parts(z)]
        slope = slopes[0] if len(slopes) == 1 else torch.cat(slopes)
        return slope.double() * (z.shape[1] - 1), Quadrature.joined(spans) if spans else None

    def _light_parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """Curves for which one reverse pass stays within the memory budget."""
        return z.split(max(1, self.embedding.max_bytes // (3 * self.embedding.probe(z).row_bytes * z.shape[1])))

    def _laplacian(self, z: Tensor) -> Callable[[Tensor], Tensor]:
        """From images x (B, m, D) of the interior nodes to −x″Δt², by differences: 2x − x₋ − x₊."""
        ends = self.embedding(z[:, :: z.shape[1] - 1])

        def laplacian(x: Tensor) -> Tensor:
            lap = 2 * x
            lap[:, 1:] -= x[:, :-1]
            lap[:, :-1] -= x[:, 1:]
            lap[:, 0] -= ends[:, 0]
            lap[:, -1] -= ends[:, 1]
            return lap

        return laplacian


class MidpointEnergy(Energy):
    """½ Σ ΔxᵀA(x̄)Δx/Δt with x = φ(z), Δx the edge and x̄ its midpoint; φ is the identity for a bare metric tensor."""

    def __init__(self, metric: Metric, z: Tensor) -> None:
        super().__init__(metric)
        self.embedding = metric.embedding
        if metric.flat_embedding is not None:
            raise ValueError("a flat embedding has a ChordEnergy")
        self.field = field = metric.tensor if metric.ambient is None else metric.ambient

        def edge(y: Tensor) -> Tensor:
            middle, step = y.chunk(2, dim=-1)
            A = field(middle)
            form = (step * A * step).sum(-1) if A.ndim == step.ndim else torch.einsum("Bi,Bij,Bj->B", step, A, step)
            return 0.5 * form[:, None]

        name = f"edge energy of {type(metric).__name__}"
        self.edge = metric.cached("edge", lambda: Embedding(edge, name=name))
        edges = self.edges(z).flatten(0, 1)
        if bool(self.edge(edges).isfinite().any()):
            self.edge.probe(edges)

    def edges(self, z: Tensor) -> Tensor:
        """Midpoint and step of every edge, (B, n - 1, 2D): well conditioned however short the edge."""
        x = z if self.embedding is None else self.embedding(z)
        start, end = x[..., :-1, :], x[..., 1:, :]
        return torch.cat([0.5 * (start + end), end - start], -1)

    def _value(self, z: Tensor) -> tuple[Tensor, Tensor]:
        y = self.edges(z)
        value = (z.shape[1] - 1) * self.edge(y)[..., 0].double().sum(-1)
        middle, step = y.double().chunk(2, dim=-1)
        relative = (middle.square().sum(-1) / step.square().sum(-1).clamp_min(1e-300)).mean(-1).sqrt()
        return value, 8 * torch.finfo(z.dtype).eps * (1 + relative) * value.abs() / z.shape[1] ** 0.5

    def model(self, z: Tensor) -> Model:
        """Gradient and blocks, by forward-over-reverse second derivatives of one edge."""
        d = z.shape[-1]
        rows = self.edge.probe().row_bytes * 4 * (1 + 2 * d)
        budget = self.edge.max_bytes
        if self.embedding is not None:
            rows += self.embedding.probe(z).row_bytes * 2 * (1 + d)
        return self._by_curves(self._model, z, rows, budget)

    def _model(self, z: Tensor) -> Model:
        n1, d = z.shape[1] - 1, z.shape[-1]
        y = self.edges(z)
        one = y.new_ones(*y.shape[:-1], 1)
        by_middle, by_step = self.edge.vjp(y, one).chunk(2, dim=-1)
        covector = (0.5 * by_middle + by_step)[:, :-1] + (0.5 * by_middle - by_step)[:, 1:]
        middle = y.chunk(2, dim=-1)[0]
        if self.embedding is None:
            node = covector
            eye = torch.eye(d, dtype=z.dtype, device=z.device)[:, None, None].expand(-1, *middle.shape)
            P = self._tangents(eye, eye)
            extra = torch.zeros(1, dtype=z.dtype, device=z.device)
            A = self.metric.tensor(middle)
            first, cross, last = A, -A, A
        else:
            J = self.embedding.pushforward_basis(z)  # (d, B, n, D)
            left, right = J[:, :, :-1], J[:, :, 1:]
            P = self._tangents(left, right)
            node = torch.einsum("iBnD,BnD->Bni", J[:, :, 1:-1], covector)
            extra = self.embedding.hessian(z[:, 1:-1], covector)
            lowered = self._lower(middle, torch.cat([left, right])).unflatten(0, (2, d))
            first = torch.einsum("iBeD,jBeD->Beij", left, lowered[0])
            cross = -torch.einsum("iBeD,jBeD->Beij", left, lowered[1])
            last = torch.einsum("iBeD,jBeD->Beij", right, lowered[1])
        base = last[:, :-1] + first[:, 1:]
        upper = cross[:, 1:-1]
        HP = self.edge.hvp_stack(y, one.expand(2 * d, *one.shape), P)
        H = torch.einsum("iBeD,jBeD->Beij", P, HP)
        H = 0.5 * (H + H.mT)
        corners = H.unflatten(-1, (2, d)).unflatten(-3, (2, d))
        diagonal = corners[:, :-1, 1, :, 1, :] + corners[:, 1:, 0, :, 0, :] + extra
        beside = corners[:, 1:-1, 0, :, 1, :]
        blocks = (node, base, diagonal - base, upper, beside - upper)
        return Model(*(n1 * t.double() for t in blocks))

    @staticmethod
    def _tangents(left: Tensor, right: Tensor) -> Tensor:
        """How (midpoint, step) move with the first and the second end: (2d, B, e, 2D)."""
        return torch.cat([torch.cat([0.5 * left, -left], -1), torch.cat([0.5 * right, right], -1)])

    def _lower(self, x: Tensor, X: Tensor) -> Tensor:
        """A(x) applied to stacked vectors X (m, B, e, D)."""
        A = self.field(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return A * X if A.ndim == x.ndim else torch.einsum("Beij,mBej->mBei", A, X)


def _halved(z: Tensor) -> Tensor:
    """Polygons (B, n, d) with a node more in the middle of each side."""
    finer = z.new_empty(z.shape[0], 2 * z.shape[1] - 1, z.shape[2])
    finer[:, 0::2], finer[:, 1::2] = z, 0.5 * (z[:, 1:] + z[:, :-1])
    return finer


def _chord_energy(x: Tensor) -> tuple[Tensor, Tensor]:
    """½ Σ |Δx|²/Δt of images x (B, n, D), and the size of its rounding error."""
    n1 = x.shape[1] - 1
    chords = torch.linalg.vector_norm(x[:, 1:] - x[:, :-1], dim=-1).double().square()
    # a few nodes tell how large the images are
    size = torch.linalg.vector_norm(x[:, :: max(1, n1 // 8)], dim=-1).double().amax(-1)
    noise = 8 * torch.finfo(x.dtype).eps * n1 * chords.sum(-1).sqrt() * size / x.shape[-1] ** 0.5
    return 0.5 * n1 * chords.sum(-1), noise


def _bend(x: Tensor) -> Tensor:
    """2x − x₋ − x₊ along the second axis, extrapolated linearly to the first and the last node."""
    inner = 2 * x[:, 1:-1] - x[:, :-2] - x[:, 2:]
    first, last = 2 * inner[:, :1] - inner[:, 1:2], 2 * inner[:, -1:] - inner[:, -2:-1]
    return torch.cat([first, inner, last], 1)


def _grams(J: Tensor) -> tuple[Tensor, Tensor]:
    """JᵢJᵢᵀ (B, m, d, d) and JᵢJᵢ₊₁ᵀ (B, m - 1, d, d) of J (B, m, d, D).

    By products of windows of several nodes, most entries of which are thrown away: one product of this size is many
    times faster than the small ones it contains.
    """
    B, m, d, D = J.shape
    p = min(max(4, _WINDOW // d), m)
    own, beside = [], []
    for start, width in ((0, p), (m - m % p, m % p)):  # whole windows, then what is left
        count = m // p if start == 0 else 1
        if width == 0 or count == 0:
            continue
        rows = J[:, start : start + count * width].reshape(B * count, width * d, D)
        gram = torch.bmm(rows, rows.mT).view(B, count, width, d, width, d)
        own.append(gram.diagonal(dim1=2, dim2=4).movedim(-1, 2).reshape(B, -1, d, d))
        inside = gram.diagonal(1, dim1=2, dim2=4).movedim(-1, 2)
        beside.append((start, count, width, inside))
    upper = J.new_empty(B, m - 1, d, d)
    for start, count, width, inside in beside:
        at = torch.arange(count)[:, None] * width + torch.arange(width - 1) + start
        upper[:, at.flatten()] = inside.reshape(B, -1, d, d)
    seams = torch.arange(p, m, p)
    upper[:, seams - 1] = J[:, seams - 1] @ J[:, seams].mT
    return torch.cat(own, 1), upper


def energy_of(metric: Metric, z: Tensor) -> Energy:
    """The discrete energy that suits a metric; `z` (B, n, d) is where derivatives are probed."""
    if metric.flat_embedding is not None:
        return ChordEnergy(metric, metric.flat_embedding, z)
    return MidpointEnergy(metric, z)
