"""A discrete curve energy's values, gradients and Hessian-vector products, without Jacobians or blocks.

With lap = 2φᵢ − φᵢ₋₁ − φᵢ₊₁ the gradient of the chord energy is Jᵢᵀlapᵢ/Δt and its Hessian along v is
(Jᵢᵀlap(Jv)ᵢ + ⟨lapᵢ, φ''⟩vᵢ)/Δt: a reverse pass each, or two. Long curves are cut into shorter ones that share ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..._calculus import Embedding
from ...metrics import Metric
from .energy import ChordEnergy, MidpointEnergy, energy_of

__all__ = ["Products", "products_of"]

Product = Callable[[Tensor], Tensor]


class Products:
    """Energies of curves z (B, n, d) with what a matrix-free minimiser needs of them; all results float64."""

    def __init__(self, energy: Any, metric: Metric) -> None:
        self.energy, self.metric = energy, metric
        self.smooth: bool = energy.smooth

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Energies (B,), their rounding errors (B,) and their gradients at the interior nodes (B, n - 2, d)."""
        raise NotImplementedError

    def groups(self, z: Tensor) -> Iterator[slice]:
        """Slices of curves whose linearisation is kept in memory at once."""
        raise NotImplementedError

    def hessian(self, z: Tensor) -> Product:
        """The map v ↦ Hv at curves of one of `groups`, (B, n - 2, d) to itself."""
        raise NotImplementedError


class ChordProducts(Products):
    """For a flat embedding φ."""

    def __init__(self, energy: ChordEnergy, metric: Metric) -> None:
        super().__init__(energy, metric)
        self.phi: Embedding = energy.embedding

    def _rows(self, z: Tensor, passes: int) -> int:
        """Rows that `passes` recorded forward passes may have within the memory budget."""
        return max(3, self.phi.max_bytes // max(1, passes * self.phi.probe(z).row_bytes))

    def groups(self, z: Tensor) -> Iterator[slice]:
        yield from _slices(z.shape[0], max(1, self._rows(z, 6) // z.shape[1]))

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, n, d = z.shape
        value, noise = (z.new_zeros(B, dtype=torch.float64) for _ in range(2))
        gradient = z.new_zeros(B, n, d, dtype=torch.float64)
        for curves, nodes in _pieces(B, n, self._rows(z, 3)):
            part = z[curves, nodes]
            x, pull = self._image(part, lambda x: _pull(x) * (n - 1))
            step = torch.linalg.vector_norm(x[:, 1:] - x[:, :-1], dim=-1).double().square()
            size = torch.linalg.vector_norm(x, dim=-1).double().square()[:, 1:]
            value[curves] += 0.5 * (n - 1) * step.sum(-1)
            noise[curves] += (step * size).sum(-1) / x.shape[-1]
            gradient[curves, nodes] += pull.double()
        noise = 8 * torch.finfo(z.dtype).eps * (n - 1) * noise.sqrt()
        return value, noise, gradient[:, 1:-1]

    def _image(self, z: Tensor, covector: Product) -> tuple[Tensor, Tensor]:
        """φ(z) and Jᵀ of a covector that depends on it."""
        if self.phi.probe(z).pullback != "reverse":  # autograd does not get through it
            x = self.phi(z)
            return x, self.phi.vjp(z, covector(x))
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            x = self.phi(leaf)
            if not x.requires_grad:
                return x, torch.zeros_like(z)
            (pull,) = torch.autograd.grad(x, leaf, covector(x.detach()), allow_unused=True)
        return x.detach(), torch.zeros_like(z) if pull is None else pull

    def hessian(self, z: Tensor) -> Product:
        B, n, _ = z.shape
        if not self._twice(z):
            return self._composed(z)
        pieces = list(_pieces(B, n, self._rows(z, 6)))
        kept = [self._record(z[piece], n) for piece in pieces] if len(pieces) == 1 else None

        def product(v: Tensor) -> Tensor:
            out = z.new_zeros(*z.shape, dtype=torch.float64)
            along = torch.zeros_like(z)
            along[:, 1:-1] = v.to(z.dtype)
            for k, (curves, nodes) in enumerate(pieces):
                leaf, slope = self._record(z[curves, nodes], n) if kept is None else kept[k]
                if not slope.requires_grad:
                    continue
                (part,) = torch.autograd.grad(slope, leaf, along[curves, nodes], retain_graph=True, allow_unused=True)
                if part is not None:
                    out[curves, nodes] += part.double()
            return out[:, 1:-1]

        return product

    def _twice(self, z: Tensor) -> bool:
        """Whether two reverse passes are right: they were not rejected, nor are fused kernels in the way."""
        report = self.phi.probe(z)
        refused = any(text.startswith("Hessian by reverse over reverse") for text in report.rejected)
        return report.pullback == "reverse" and "differences" not in report.hessian and not refused and not report.plain

    def _record(self, z: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Curves as a leaf, and their energy's gradient with its graph."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            x = self.phi(leaf)
            if not x.requires_grad:
                return leaf, torch.zeros_like(z)
            (slope,) = torch.autograd.grad(x, leaf, _pull(x) * (n - 1), create_graph=True, allow_unused=True)
        return leaf, torch.zeros_like(z) if slope is None else slope

    def _composed(self, z: Tensor) -> Product:
        """H by the embedding's own derivative paths: dearer, and right wherever they are."""
        n1, inner = z.shape[1] - 1, z[:, 1:-1]
        lap = _pull(self.phi(z))[:, 1:-1]

        def product(v: Tensor) -> Tensor:
            v = v.to(z.dtype)
            turned = _pull(torch.nn.functional.pad(self.phi.jvp(inner, v), (0, 0, 1, 1)))[:, 1:-1]
            out = self.phi.vjp(inner, turned)
            if self.smooth:
                out = out + self.phi.hvp(inner, lap, v)
            return n1 * out.double()

        return product


class MidpointProducts(Products):
    """For metrics without a flat embedding."""

    energy: MidpointEnergy

    def __init__(self, energy: MidpointEnergy, metric: Metric) -> None:
        super().__init__(energy, metric)
        self.phi = metric.embedding

    def groups(self, z: Tensor) -> Iterator[slice]:
        rows = self.energy.edge.probe(self.energy.edges(z).flatten(0, 1)).row_bytes
        if self.phi is not None:
            rows += self.phi.probe(z).row_bytes
        yield from _slices(z.shape[0], max(1, self.energy.edge.max_bytes // max(1, 12 * rows * z.shape[1])))

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, noise = self.energy.value(z)
        slope = torch.full_like(z[:, 1:-1], torch.nan, dtype=torch.float64)
        finite = value.isfinite()  # elsewhere there is nothing to differentiate
        if bool(finite.any()):
            some = z[finite]
            slope[finite] = torch.cat([self._slope(some[group]) for group in self.groups(some)]).double()
        return value, noise, (z.shape[1] - 1) * slope

    def _slope(self, z: Tensor) -> Tensor:
        y = self.energy.edges(z)
        return self._pulled(z, _to_nodes(self.energy.edge.vjp(y, y.new_ones(*y.shape[:-1], 1))))

    def _pulled(self, z: Tensor, covector: Tensor) -> Tensor:
        return covector if self.phi is None else self.phi.vjp(z[:, 1:-1], covector)

    def hessian(self, z: Tensor) -> Product:
        n1, inner = z.shape[1] - 1, z[:, 1:-1]
        y = self.energy.edges(z)
        one = y.new_ones(*y.shape[:-1], 1)
        covector = _to_nodes(self.energy.edge.vjp(y, one))

        def product(v: Tensor) -> Tensor:
            v = v.to(z.dtype)
            moved = v if self.phi is None else self.phi.jvp(inner, v)
            moved = torch.nn.functional.pad(moved, (0, 0, 1, 1))
            turn = torch.cat([0.5 * (moved[:, 1:] + moved[:, :-1]), moved[:, 1:] - moved[:, :-1]], -1)
            out = self._pulled(z, _to_nodes(self.energy.edge.hvp(y, one, turn)))
            if self.phi is not None:
                out = out + self.phi.hvp(inner, covector, v)
            return n1 * out.double()

        return product


def products_of(metric: Metric, z: Tensor) -> Products:
    """The products that suit a metric; `z` (B, n, d) is where derivatives are probed."""
    energy = energy_of(metric, z)
    if isinstance(energy, ChordEnergy):
        return ChordProducts(energy, metric)
    if isinstance(energy, MidpointEnergy):
        return MidpointProducts(energy, metric)
    raise TypeError(f"no vector products are known for {type(energy).__name__}")


def _pull(x: Tensor) -> Tensor:
    """Gradient of ½ Σ |xᵢ₊₁ − xᵢ|² at the nodes x (B, n, D)."""
    step = x[:, 1:] - x[:, :-1]
    return torch.nn.functional.pad(step, (0, 0, 1, 0)) - torch.nn.functional.pad(step, (0, 0, 0, 1))


def _to_nodes(slope: Tensor) -> Tensor:
    """Derivatives by (midpoint, step) of every edge, (B, n - 1, 2D), to derivatives by the interior nodes."""
    by_middle, by_step = slope.chunk(2, dim=-1)
    return (0.5 * by_middle + by_step)[:, :-1] + (0.5 * by_middle - by_step)[:, 1:]


def _slices(total: int, size: int) -> Iterator[slice]:
    yield from (slice(i, i + size) for i in range(0, total, size))


def _pieces(curves: int, n: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Groups of whole curves of at most `rows` nodes together, or else parts of single curves that share end nodes."""
    if rows >= n:
        yield from ((group, slice(None)) for group in _slices(curves, rows // n))
        return
    for k in range(curves):
        yield from ((slice(k, k + 1), slice(i, min(i + rows, n))) for i in range(0, n - 1, rows - 1))
