"""The truncation trick, and what it trades: samples that look more real for samples that vary less.

Resampling follows Brock, Donahue, Simonyan (ICLR 2019, arXiv:1809.11096), interpolation towards the mean Karras, Laine,
Aila (CVPR 2019, arXiv:1812.04948); the curve is that of Kynkäänniemi et al. (NeurIPS 2019, arXiv:1904.06991).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentgeo._calculus.checks import as_numbers, is_number
from latentgeo._calculus.seeds import torch_random
from latentgeo.decoders import Decoder
from latentgeo.train.scores._inputs import FeatureMap, feature_name, feature_rows, whole
from latentgeo.train.scores.neighbours import density_coverage, precision_recall


def truncated_normal(
    n: int, dim: int, threshold: float, *, random_state: int | torch.Generator = 0, dtype: torch.dtype | None = None
) -> Tensor:
    """Standard normal codes whose coordinates beyond a threshold are drawn anew until none is.

    Parameters
    ----------
    n, dim : int
        How many codes of how many coordinates.
    threshold : float
        The largest absolute value of a coordinate, in latent units; infinity truncates nothing.
    random_state : int or torch.Generator
        Where randomness comes from.
    dtype : torch.dtype, optional
        Of the result; torch's default one if None.

    Returns
    -------
    Tensor of shape (n, dim)
        Drawn by the inverse distribution function, which has the law of redrawing and always ends.

    Raises
    ------
    ValueError
        If `threshold` is not positive, or a number is not a positive integer.

    Examples
    --------
    >>> z = truncated_normal(1000, 2, 0.5)
    >>> z.shape, bool(z.abs().max() <= 0.5)
    (torch.Size([1000, 2]), True)
    """
    n, dim = whole("n", n, 1), whole("dim", dim, 1)
    if not is_number(threshold) or not threshold > 0:
        raise ValueError(f"threshold must be positive; got {threshold!r}")
    generator = torch_random(random_state)
    uniform = torch.rand(n, dim, generator=generator, dtype=torch.float64)
    bound = math.erf(min(threshold, 38.0) / math.sqrt(2))  # P(|z| <= threshold)
    z = math.sqrt(2) * torch.erfinv(bound * (2 * uniform - 1))
    z = z.clamp(-min(threshold, 38.0), min(threshold, 38.0))
    return z.to(dtype or torch.get_default_dtype()).clamp(-threshold, threshold)


@dataclass(frozen=True)
class Resample:
    """Truncation by resampling: the level is the largest absolute value of a coordinate.

    Examples
    --------
    >>> codes = Resample().codes(100, 2, 0.5, torch.Generator().manual_seed(0))
    >>> bool(codes.abs().max() <= 0.5)
    True
    """

    name = "largest coordinate of a code"

    def codes(self, n: int, dim: int, level: float, generator: torch.Generator) -> Tensor:
        """Codes (n, dim) at a level, float64."""
        return truncated_normal(n, dim, level, random_state=generator, dtype=torch.float64)


@dataclass(frozen=True)
class TowardsMean:
    """Truncation by interpolation: a code z becomes mean + level · (z − mean).

    Parameters
    ----------
    mean : sequence of float, optional
        The mean code; the origin, the prior's mean, if None.

    Examples
    --------
    >>> TowardsMean(mean=(1.0, 1.0)).apply(torch.tensor([[3.0, 1.0]]), 0.5)
    tensor([[2., 1.]])
    """

    mean: tuple[float, ...] | None = None
    name = "scale of a code about the mean"

    def apply(self, z: Tensor, level: float) -> Tensor:
        """Given codes (N, d), drawn towards the mean."""
        mean = torch.zeros_like(z[0]) if self.mean is None else torch.as_tensor(self.mean, dtype=z.dtype)
        if mean.shape != z.shape[1:]:
            raise ValueError(f"mean must have {z.shape[1]} entries; got {len(mean)}")
        return mean + level * (z - mean)

    def codes(self, n: int, dim: int, level: float, generator: torch.Generator) -> Tensor:
        """Codes (n, dim) at a level, float64."""
        return self.apply(torch.randn(n, dim, generator=generator, dtype=torch.float64), level)


@dataclass(frozen=True)
class TruncationCurve:
    """Scores of samples at each level of truncation.

    Attributes
    ----------
    levels : tuple of float
        Levels; what one means is in `truncation`.
    precision, recall, density, coverage : tuple of float
        Scores at each level.
    truncation : str
        What a level is.
    features : str
        The features.
    n_real, n_generated : int
        Samples per level.
    """

    levels: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    density: tuple[float, ...]
    coverage: tuple[float, ...]
    truncation: str
    features: str
    n_real: int
    n_generated: int

    def __repr__(self) -> str:
        return (
            f"TruncationCurve({len(self.levels)} levels, "
            f"precision {min(self.precision):.2f}–{max(self.precision):.2f}, "
            f"recall {min(self.recall):.2f}–{max(self.recall):.2f} on {self.features})"
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return dict(vars(self))


def truncation_curve(
    generate: Decoder | Callable[[Tensor], Tensor],
    real: Any,
    levels: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0),
    *,
    dim: int | None = None,
    truncation: Resample | TowardsMean | None = None,
    features: FeatureMap = None,
    n: int | None = None,
    k: int = 3,
    random_state: int = 0,
) -> TruncationCurve:
    """Precision and recall, density and coverage of samples against truncation.

    Parameters
    ----------
    generate : Decoder or callable
        Codes (n, d) to samples; a Decoder's mean.
    real : Tensor or array of shape (N, ...)
        Real samples, shaped as `features` takes them.
    levels : sequence of float
        Positive levels.
    dim : int, optional
        d; a Decoder knows its own.
    truncation : Resample or TowardsMean, optional
        How codes are truncated; `Resample()` if None.
    features : Features, module or callable, optional
        Maps samples to features; None takes the samples themselves.
    n : int, optional
        Samples per level; as many as real ones if None.
    k : int
        The neighbour that balls reach to, for all four scores.
    random_state : int
        Seed; every level starts from it, so that levels differ by truncation alone.

    Returns
    -------
    TruncationCurve
        One entry per level, in the order given.

    Raises
    ------
    ValueError
        If `levels` is empty or not positive, or `dim` is missing.

    Examples
    --------
    >>> real = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    >>> curve = truncation_curve(lambda z: z, real, (0.2, 3.0), dim=2)
    >>> curve.recall[0] < 0.2 < 0.8 < curve.recall[1]
    True
    """
    levels = as_numbers(levels, "levels").reshape(-1).tolist()
    if not levels or not all(0 < level < math.inf for level in levels):
        raise ValueError(f"levels must be positive numbers, at least one; got {str(levels)[:100]}")
    if dim is None:
        if not isinstance(generate, Decoder):
            raise ValueError("dim must be given, since generate is not a Decoder")
        dim = generate.latent_dim
    truncation = Resample() if truncation is None else truncation
    k, known = whole("k", k, 1), feature_rows("real", real, features)
    n = whole("n", len(known) if n is None else n, k + 1)
    columns: dict[str, list[float]] = {name: [] for name in ("levels", "precision", "recall", "density", "coverage")}
    for level in levels:
        z = truncation.codes(n, dim, float(level), torch_random(random_state))
        made = feature_rows("generated", _generate(generate, z), features)
        quality, cover = precision_recall(known, made, k=k), density_coverage(known, made, k=k)
        row = (float(level), quality.precision, quality.recall, cover.density, cover.coverage)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    found = {name: tuple(column) for name, column in columns.items()}
    return TruncationCurve(
        **found, truncation=truncation.name, features=feature_name(features), n_real=len(known), n_generated=n
    )


def _generate(generate: Decoder | Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    with torch.no_grad():
        if isinstance(generate, Decoder):
            return generate.mean(z.to(dtype=generate.dtype or z.dtype, device=generate.device))
        return generate(z.to(torch.get_default_dtype()))
