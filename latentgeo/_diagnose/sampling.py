"""Where a health report looks: some of the codes, places between them, off them and far from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Sample", "knn"]

_OFF = (1.5, 2.5)  # places off the data, in radii of the codes
_FAR = 20.0
_CLOUD = 5000  # codes that neighbours are searched among
_REGION = 10  # a place is near the codes if its 10th nearest code is not further than …
_NEAR = (0.99, 0.95)  # … it is for this share of the codes; a curve, if this share of its points are


def knn(points: NDArray[Any], queries: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Distances to and numbers of the k nearest points, each (len(queries), k)."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=min(k, len(points))).fit(points).kneighbors(queries)
    return found[0], found[1]


class Sample:
    """Codes and random places relative to them, all drawn from one seed."""

    def __init__(self, codes: Tensor, count: int, neighbors: int, rng: np.random.RandomState) -> None:
        self.codes, self.rng = codes, rng
        self.neighbors = min(neighbors, len(codes) - 1)
        self.some = codes[self._draw(len(codes), count)]
        exact = codes.double()
        self.centre = exact.mean(0)
        self.covariance = torch.cov(exact.mT).reshape(codes.shape[1], codes.shape[1])
        self.std = self.covariance.diagonal().clamp_min(0.0).sqrt()
        self.cloud = exact[self._draw(len(codes), _CLOUD)].cpu().numpy()
        self.part = self._parts()
        self.within = self._within()
        self.between = self._between()
        self.off = self._shell(*_OFF, len(self.some))
        self.far = self._shell(_FAR, _FAR, 64)
        k = min(_REGION, len(self.cloud) - 1)
        self.spacing = knn(self.cloud, self.cloud, k + 1)[0][:, k]
        self.reach = float(np.quantile(self.spacing, _NEAR[0]))

    def _draw(self, n: int, count: int) -> NDArray[Any]:
        return self.rng.permutation(n)[:count]

    def _like(self, array: NDArray[Any]) -> Tensor:
        return torch.as_tensor(array).to(self.codes)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return self._like(self.rng.standard_normal(shape))

    def _parts(self) -> NDArray[Any]:
        """Which part of the graph of nearest neighbours each code of the cloud belongs to."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components

        near = knn(self.cloud, self.cloud, self.neighbors + 1)[1]
        rows = np.repeat(np.arange(len(near)), near.shape[1])
        joined = csr_array((np.ones(near.size), (rows, near.ravel())), shape=(len(near),) * 2)
        return np.asarray(connected_components(joined, directed=False)[1])

    def _within(self) -> Tensor:
        """Covariance of the codes within their parts: two distant clusters are no line."""
        sizes = np.bincount(self.part)
        large = np.flatnonzero(sizes > self.cloud.shape[1] + 2)
        if len(large) == 0:
            return self.covariance
        some = [self.cloud[self.part == k] for k in large]
        moved = np.concatenate([x - x.mean(0) for x in some])
        return torch.as_tensor(moved.T @ moved / max(1, len(moved) - len(large))).to(self.covariance)

    def _between(self) -> Tensor:
        """The middle of an edge from each chosen code to one of its nearest neighbours."""
        starts = self.some.double().cpu().numpy()
        _, near = knn(self.cloud, starts, self.neighbors + 1)
        other = near[np.arange(len(starts)), self.rng.randint(near.shape[1] > 1, near.shape[1], len(starts))]
        return self._like(0.5 * (starts + self.cloud[other]))

    def _shell(self, low: float, high: float, count: int) -> Tensor:
        """Places around all codes, in the proportions of their spread."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root = values.clamp_min(1e-4 * float(values[-1])).sqrt()
        scaled = (self.codes.double() - self.centre) @ vectors / root
        radius = scaled.norm(dim=-1).quantile(0.99) if len(scaled) < 2**20 else scaled.norm(dim=-1).amax()
        direction = torch.as_tensor(self.rng.standard_normal((count, len(root)))).to(root)
        direction = direction / direction.norm(dim=-1, keepdim=True)
        reach = radius * torch.as_tensor(self.rng.uniform(low, high, (count, 1))).to(root)
        return (self.centre + (reach * direction * root) @ vectors.mT).to(self.codes)

    def pairs(self, count: int) -> tuple[Tensor, Tensor]:
        """Random pairs of different codes."""
        n = len(self.codes)
        first = self.rng.randint(n, size=count)
        second = (first + self.rng.randint(1, n, size=count)) % n
        return self.codes[first], self.codes[second]

    def distance(self, z: Tensor) -> NDArray[Any]:
        """Distance to the 10th nearest code, in latent units."""
        return knn(self.cloud, z.double().cpu().numpy(), min(_REGION, len(self.cloud)))[0][:, -1]

    def near(self, curves: Tensor) -> float:
        """Share of curves (B, n, d) that keep to the codes."""
        inside = self.distance(curves.reshape(-1, curves.shape[-1])) <= self.reach
        return float((inside.reshape(curves.shape[:2]).mean(1) >= _NEAR[1]).mean())
