"""How many independent samples a set of Markov chains is worth.

Vehtari, Gelman, Simpson, Carpenter, Bürkner, "Rank-normalization, folding, and localization: an improved R-hat"
(Bayesian Analysis 2021), section 3, with Geyer's initial monotone sequence (1992).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["effective_sample_size", "split_rhat"]

_CHAINS = 2**22  # numbers transformed at once


def effective_sample_size(z: Tensor) -> Tensor:
    """Effective number of samples of each coordinate's mean, over all chains together.

    Parameters
    ----------
    z : Tensor of shape (*chains, n, d)
        n ≥ 4 successive samples of each chain; chains that disagree lower the number.

    Returns
    -------
    Tensor of shape (d,), float64
        NaN for a coordinate that is constant or not finite.

    Raises
    ------
    ValueError
        If there are fewer than four samples per chain.

    References
    ----------
    .. [1] Vehtari et al., "Rank-normalization, folding, and localization", Bayesian Analysis 16, 2021, section 3.2.
    .. [2] Geyer, "Practical Markov chain Monte Carlo", Statistical Science 7, 1992.

    Examples
    --------
    >>> draws = torch.randn(4, 1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> 3000 < float(effective_sample_size(draws)) < 5000
    True
    """
    chains = _chains(z)
    m, n, d = chains.shape
    within = chains.var(1).mean(0)
    spread = within * (n - 1) / n
    if m > 1:
        spread = spread + chains.mean(1).var(0)
    covariance = torch.zeros(n, d, dtype=torch.float64, device=z.device)
    size = 2 ** (2 * n - 1).bit_length()
    for part in chains.split(max(1, _CHAINS // (size * d))):
        spectrum = torch.fft.rfft(part - part.mean(1, keepdim=True), size, dim=1).abs().square()
        covariance += torch.fft.irfft(spectrum, size, dim=1)[:, :n].sum(0) / n
    # Stan's: autocovariances of single chains, against the variance of all of them
    rho = 1 - (within - covariance / m * n / (n - 1)) / spread
    rho[0] = 1.0
    pairs = rho[: 2 * (n // 2)].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).long().cumprod(0)
    pairs = pairs.cummin(0).values * positive
    tau = (2 * pairs.sum(0) - 1).clamp_min(1 / math.log10(max(10, m * n)))
    return torch.where(spread > 0, m * n / tau, torch.nan)


def split_rhat(z: Tensor) -> Tensor:
    """Potential scale reduction of each coordinate over half chains: near 1 where chains agree.

    Parameters
    ----------
    z : Tensor of shape (*chains, n, d)
        n ≥ 4 successive samples of each chain.

    Returns
    -------
    Tensor of shape (d,), float64

    Raises
    ------
    ValueError
        If there are fewer than four samples per chain.

    References
    ----------
    .. [1] Vehtari et al., "Rank-normalization, folding, and localization", Bayesian Analysis 16, 2021, section 3.1.

    Examples
    --------
    >>> draws = torch.randn(4, 1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> bool((split_rhat(draws) - 1).abs() < 0.01)
    True
    """
    chains = _chains(z)
    half = chains.shape[1] // 2
    halves = torch.cat([chains[:, :half], chains[:, -half:]])
    within = halves.var(1).mean(0)
    return ((within * (half - 1) / half + halves.mean(1).var(0)) / within).sqrt()


def _chains(z: Tensor) -> Tensor:
    """Chains (m, n, d) in float64."""
    if z.ndim < 2 or z.shape[-2] < 4 or z.numel() == 0:
        raise ValueError(f"`z` must have shape (*chains, n, d) with n >= 4 samples, got {tuple(z.shape)}")
    return z.detach().double().reshape(-1, *z.shape[-2:])
