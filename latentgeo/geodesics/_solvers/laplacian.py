"""Preconditioners for curves: the Laplacian along the curve, weighed by the metric at a few of its points.

With the metric held fixed the energy's Hessian is DᵀWD/Δt, D the differences of neighbouring nodes and W the metric
tensors of the edges. It is inverted edge by edge, as GEORCE's steps are (Rygaard & Hauberg 2025), by sums along the
curve: no system larger than d. Neuberger, "Sobolev Gradients and Differential Equations", 2010.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ...metrics import Metric

__all__ = ["Laplacian", "dot"]

_FLOOR = 1e-6  # least eigenvalue of a metric tensor, relative to the mean one along the curve
_DENSEST = 64  # latent dimension up to which directions are weighed; beyond, only sizes: tensors cost too much
_PROBES = 4


def dot(u: Tensor, v: Tensor) -> Tensor:
    """Sum of products over nodes and coordinates, per curve."""
    return (u * v).sum((-2, -1))


class Laplacian:
    """P = DᵀWD/Δt for the interior nodes of curves z (B, n, d).

    Parameters
    ----------
    parts : int
        Pieces of equal length of each curve whose metric is taken, in the middle of each.
    mean : bool
        Take the mean of these metrics for the whole curve, as is better far from the solution.
    """

    def __init__(self, metric: Metric, z: Tensor, parts: int, *, mean: bool = False) -> None:
        n1, d = z.shape[1] - 1, z.shape[-1]
        parts = min(parts, n1)
        cuts = torch.linspace(0, n1, parts + 1).round().long().tolist()
        middles = torch.stack([0.5 * (z[:, (i + j) // 2] + z[:, (i + j + 1) // 2]) for i, j in _pairs(cuts)], 1)
        if d <= _DENSEST:
            G = metric.tensor(middles).double().nan_to_num(0.0, 0.0, 0.0)
            G = G.mean(1, keepdim=True) if mean else G
            size = G.diagonal(dim1=-2, dim2=-1).mean((-2, -1)).clamp_min(1e-300)[:, None, None]
            values, self.vectors = torch.linalg.eigh(G / size[..., None])
        else:
            v = torch.randn(_PROBES, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(z)
            v = v / v.norm(dim=-1, keepdim=True)
            values = metric.norm(middles[:, :, None], v).double().square().mean(-1, keepdim=True).nan_to_num(0.0)
            values = values.mean(1, keepdim=True) if mean else values
            size = values.mean((-2, -1)).clamp_min(1e-300)[:, None, None]
            values, self.vectors = values / size, None
        self.values = values.clamp_min(_FLOOR) * size  # (B, parts, d or 1)
        self.n1, self.d = n1, d
        self.cuts = [0, n1] if mean else cuts
        counts = torch.tensor([j - i for i, j in _pairs(self.cuts)], dtype=torch.float64, device=z.device)
        if self.vectors is None:
            self.total = 1 / torch.einsum("k,Bkd->Bd", counts, 1 / self.values)[..., None]
        else:
            inverse = torch.einsum("k,Bkid,Bkd,Bkjd->Bij", counts, self.vectors, 1 / self.values, self.vectors)
            self.total = torch.linalg.inv(inverse)

    def _weighed(self, index: Tensor, edges: Tensor, values: Tensor) -> Tensor:
        """Edges (b, n - 1, d) times a function of the metric tensors whose eigenvalues are `values`."""
        out = torch.empty_like(edges)
        for k, (i, j) in enumerate(_pairs(self.cuts)):
            part, scale = edges[:, i:j], values[:, None, k]
            if self.vectors is None:
                out[:, i:j] = part * scale
            else:
                V = self.vectors[index, k]
                out[:, i:j] = ((part @ V) * scale) @ V.mT
        return out

    def solve(self, index: Tensor, g: Tensor) -> Tensor:
        """P⁻¹g for covectors (b, n - 2, d) of the curves at `index`."""
        inverse = 1 / self.values[index]
        flux = -torch.nn.functional.pad(g.cumsum(1), (0, 0, 1, 0))  # up to a constant, which makes the steps add to 0
        steps = self._weighed(index, flux, inverse)
        total = self.total[index]
        last = steps.sum(1, keepdim=True)
        constant = last * total if self.vectors is None else last @ total
        return (steps - self._weighed(index, constant.expand_as(flux), inverse)).cumsum(1)[:, :-1] / self.n1

    def random(self, index: Tensor) -> Tensor:
        """A covector √P·ξ for each curve, ξ standard normal and the same at each call."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.n1, self.d, generator=generator, dtype=torch.float64).to(self.values)
        edges = self._weighed(index, noise.expand(len(index), -1, -1), self.values[index].sqrt())
        return self.n1**0.5 * (edges[:, :-1] - edges[:, 1:])


def _pairs(cuts: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(cuts))
