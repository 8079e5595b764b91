"""Scores from nearest neighbours: precision and recall, density and coverage.

Kynkäänniemi, Karras, Laine, Lehtinen, Aila (NeurIPS 2019, arXiv:1904.06991) and Naeem, Oh, Uh, Choi, Yoo (ICML 2020,
arXiv:2002.09797). A point's ball reaches to its k-th neighbour among its own set, itself left out; balls are closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentgeo.train.scores._inputs import FeatureMap, feature_name, pair, whole

_MAX_BYTES = 64 * 2**20  # of distances held at once


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall, both from 0 to 1, and what they were taken on.

    Attributes
    ----------
    precision : float
        The share of generated samples within the real ones' balls: how many look real.
    recall : float
        The share of real samples within the generated ones' balls: how much of the data is reached.
    k : int
        The neighbour that balls reach to.
    features : str
        The features.
    n_real, n_generated : int
        How many samples; both scores depend on it.

    Examples
    --------
    >>> from latentgeo.train import scores
    >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    >>> found = scores.precision_recall(x, x[:25])
    >>> found.precision  # every sample is one of the data
    1.0
    """

    precision: float
    recall: float
    k: int
    features: str
    n_real: int
    n_generated: int

    def __repr__(self) -> str:
        return (
            f"PrecisionRecall(precision {self.precision:.3f}, recall {self.recall:.3f}, k = {self.k} on {self.features}"
            f", {self.n_real} real, {self.n_generated} generated)"
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, for a checkpoint's header."""
        return dict(vars(self))


@dataclass(frozen=True)
class DensityCoverage:
    """Density and coverage, and what they were taken on.

    Attributes
    ----------
    density : float
        How many real samples' balls hold a generated sample, over k, on average; about 1 for equal distributions, and
        more where generated samples crowd where data are dense.
    coverage : float
        The share of real samples whose ball holds a generated one, from 0 to 1.
    k : int
        The neighbour that balls reach to.
    features : str
        The features.
    n_real, n_generated : int
        How many samples.

    Examples
    --------
    >>> from latentgeo.train import scores
    >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    >>> found = scores.density_coverage(x, x + 10)
    >>> found.density, found.coverage  # nothing in common
    (0.0, 0.0)
    """

    density: float
    coverage: float
    k: int
    features: str
    n_real: int
    n_generated: int

    def __repr__(self) -> str:
        return (
            f"DensityCoverage(density {self.density:.3f}, coverage {self.coverage:.3f}, k = {self.k} on {self.features}"
            f", {self.n_real} real, {self.n_generated} generated)"
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, for a checkpoint's header."""
        return dict(vars(self))


def precision_recall(real: Any, generated: Any, features: FeatureMap = None, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall.

    Parameters
    ----------
    real, generated : Tensor or array of shape (N, ...), (M, ...)
        Samples; as many of each are usual, and only scores of as many compare.
    features : Features, module or callable, optional
        Maps samples to features (N, F); None takes the samples themselves.
    k : int
        Each sample's ball reaches to its k-th neighbour of its own set; below the number of samples.

    Returns
    -------
    PrecisionRecall
        Shares from 0 to 1.

    Raises
    ------
    ValueError
        If `k` is not below both numbers of samples, or the sets do not have as many features.

    References
    ----------
    .. [1] Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for Assessing Generative
       Models", NeurIPS 2019, arXiv:1904.06991.

    Examples
    --------
    >>> real = torch.arange(10.0)[:, None]
    >>> precision_recall(real, real[:5], k=1)  # balls of radius 1
    PrecisionRecall(precision 1.000, recall 0.600, k = 1 on the arrays themselves, 10 real, 5 generated)
    """
    x, y = pair(real, generated, features)
    k = whole("k", k, 1, min(len(x), len(y)) - 1)
    reach_x, reach_y = _radii(x, k), _radii(y, k)
    n_precise, recalled = 0, torch.zeros(len(x), dtype=torch.bool)
    for rows, distance in _distances(y, x):
        n_precise += int((distance <= reach_x).any(1).sum())
        recalled |= (distance <= reach_y[rows, None]).any(0)
    precision, recall = n_precise / len(y), float(recalled.double().mean())
    return PrecisionRecall(precision, recall, k, feature_name(features), len(x), len(y))


def density_coverage(real: Any, generated: Any, features: FeatureMap = None, *, k: int = 5) -> DensityCoverage:
    r"""Density and coverage, which one outlier cannot sway as it can precision and recall.

    Parameters
    ----------
    real, generated : Tensor or array of shape (N, ...), (M, ...)
        Samples.
    features : Features, module or callable, optional
        Maps samples to features (N, F); None takes the samples themselves.
    k : int
        Each real sample's ball reaches to its k-th real neighbour; below the number of real samples.

    Returns
    -------
    DensityCoverage
        Without units.

    Raises
    ------
    ValueError
        If `k` is not below the number of real samples, or the sets do not have as many features.

    Notes
    -----
    For equal continuous distributions the expected density is 1, and the expected coverage
    :math:`1 - \prod_{i=1}^{k} (N - i)/(N + M - i)`, whatever the distribution [1]_.

    References
    ----------
    .. [1] Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", ICML 2020,
       arXiv:2002.09797.

    Examples
    --------
    >>> real = torch.arange(10.0)[:, None]
    >>> density_coverage(real, real[:5], k=1)
    DensityCoverage(density 2.800, coverage 0.600, k = 1 on the arrays themselves, 10 real, 5 generated)
    """
    x, y = pair(real, generated, features)
    k = whole("k", k, 1, len(x) - 1)
    reach = _radii(x, k)
    n_within, covered = 0, torch.zeros(len(x), dtype=torch.bool)
    for _rows, distance in _distances(y, x):
        within = distance <= reach
        n_within += int(within.sum())
        covered |= within.any(0)
    density, coverage = n_within / (k * len(y)), float(covered.double().mean())
    return DensityCoverage(density, coverage, k, feature_name(features), len(x), len(y))


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th other row."""
    radii = []
    for rows, distance in _distances(x, x):
        distance[torch.arange(len(distance)), rows] = torch.inf
        radii.append(distance.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows of the distance matrix: row numbers, distances."""
    step = max(1, _MAX_BYTES // (8 * len(b)))
    for rows in torch.arange(len(a)).split(step):
        # differences, not inner products: a point on a ball's rim must not fall off it by cancellation
        yield rows, torch.cdist(a[rows], b, compute_mode="donot_use_mm_for_euclid_dist")
