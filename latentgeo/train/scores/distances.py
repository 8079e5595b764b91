"""Scores that compare whole distributions: Inception Score, Fréchet distance and kernel distance.

Salimans et al. (NeurIPS 2016, arXiv:1606.03498), Heusel et al. (NeurIPS 2017, arXiv:1706.08500) and Bińkowski et al.
(ICLR 2018, arXiv:1801.01401).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from latentgeo._calculus.seeds import torch_random
from latentgeo.train.features import Features
from latentgeo.train.scores._inputs import FeatureMap, Score, as_tensor, feature_name, pair, whole


def inception_score(generated: Any, features: Features | None = None, *, n_splits: int = 10) -> Score:
    r"""The Inception Score :math:`\exp \mathbb E_x\, KL(p(y|x) \| p(y))`, between 1 and the number of classes.

    Parameters
    ----------
    generated : Tensor or array of shape (N, ...)
        Samples, or class probabilities (N, C) where `features` is None.
    features : Features, optional
        A classifier; its class probabilities are used. Only Inception's own give the score its name: the result says
        whose they were.
    n_splits : int
        The score is taken on as many equal parts of the samples in their order; value and error are the mean and the
        standard deviation over the parts. 1 gives no error.

    Returns
    -------
    Score
        Without a unit. It rewards samples that a classifier is sure of and that fall in many classes; it does not see
        whether they resemble the data.

    Raises
    ------
    ValueError
        If rows are not probabilities, `features` is no classifier, or there are fewer samples than parts.

    References
    ----------
    .. [1] Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen, "Improved Techniques for Training GANs", NeurIPS 2016,
       arXiv:1606.03498.

    Examples
    --------
    >>> float(inception_score(torch.eye(4), n_splits=1))
    4.0
    """
    x = as_tensor("generated", generated)
    if features is None:
        p, name = x.flatten(1).double().cpu(), "given class probabilities"
    else:
        if not isinstance(features, Features):
            raise TypeError(f"features must be a Features with classes; got {type(features).__name__}")
        p, name = features.probabilities(x).double().cpu(), features.name
    if bool((p < 0).any()) or not torch.allclose(p.sum(1), torch.ones(len(p), dtype=p.dtype), atol=1e-4):
        raise ValueError("generated must be class probabilities: rows of numbers of at least 0 that add up to 1")
    n_splits = whole("n_splits", n_splits, 1, len(p))
    scores = torch.stack([_inception(part) for part in p.tensor_split(n_splits)])
    error = float(scores.std(correction=0)) if n_splits > 1 else None
    return Score("Inception Score", float(scores.mean()), error, name, None, len(p))


def _inception(p: Tensor) -> Tensor:
    marginal = p.mean(0)
    divergence = (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(1)
    return divergence.mean().exp()


def frechet_distance(real: Any, generated: Any, features: FeatureMap = None) -> Score:
    r"""The squared Fréchet distance between Gaussians fitted to two sets of features.

    .. math:: \|m_1 - m_2\|^2 + \operatorname{Tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

    Parameters
    ----------
    real, generated : Tensor or array of shape (N, ...), (M, ...)
        Samples.
    features : Features, module or callable, optional
        Maps samples to features (N, F); None takes the samples themselves.

    Returns
    -------
    Score
        In squared feature units. Biased upwards, for N samples each of one normal distribution with covariance σ²I by
        about σ² F(F + 5)/(2N): compare only scores of as many samples.

    Raises
    ------
    ValueError
        If the sets do not have as many features, or are not finite.

    Notes
    -----
    Covariances may be singular (fewer samples than features): no matrix square root is inverted, see
    `frechet_from_moments`.

    References
    ----------
    .. [1] Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale Update Rule Converge to
       a Local Nash Equilibrium", NeurIPS 2017, arXiv:1706.08500.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    >>> frechet_distance(x, x + 3.0)
    Score(Fréchet distance 18 on the arrays themselves, 2 real, 2 generated)
    """
    x, y = pair(real, generated, features)
    value = frechet_from_moments(*_moments(x), *_moments(y))
    return Score("Fréchet distance", value, None, feature_name(features), len(x), len(y))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), torch.cov(x.T).reshape(x.shape[1], x.shape[1])


def frechet_from_moments(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    r"""The squared Fréchet (2-Wasserstein) distance of two Gaussians; covariances may be singular.

    Parameters
    ----------
    mean_1, mean_2 : Tensor of shape (F,)
        Means.
    cov_1, cov_2 : Tensor of shape (F, F)
        Symmetric, positive semi-definite.

    Returns
    -------
    float
        Not negative.

    Raises
    ------
    ValueError
        If shapes do not fit, or a covariance has a negative eigenvalue beyond rounding.

    Notes
    -----
    With :math:`\Sigma_i = L_i L_i^\top`, the trace of :math:`(\Sigma_1\Sigma_2)^{1/2}` is the sum of the singular
    values of :math:`L_1^\top L_2`. That squares nothing and inverts nothing, so singular covariances cost no digits.

    Examples
    --------
    >>> one = torch.eye(1, dtype=torch.float64)
    >>> frechet_from_moments(torch.zeros(1), one, torch.ones(1), 4 * one)  # (1 - 0)² + (2 - 1)²
    2.0
    """
    size = len(mean_1)
    shapes = [tuple(value.shape) for value in (mean_1, cov_1, mean_2, cov_2)]
    if shapes != 2 * [(size,), (size, size)]:
        raise ValueError(f"means must be of shape (F,) and covariances of shape (F, F); got {shapes}")
    root_1, root_2 = _root("cov_1", cov_1.double()), _root("cov_2", cov_2.double())
    cross = torch.linalg.svdvals(root_1.T @ root_2).sum()
    trace = cov_1.double().trace() + cov_2.double().trace()
    return max(0.0, float((mean_1.double() - mean_2.double()).square().sum() + trace - 2 * cross))


def _root(name: str, covariance: Tensor) -> Tensor:
    """A factor L with L Lᵀ the covariance."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    largest = float(values.abs().max())
    if float(values.min()) < -1e-9 * largest:
        raise ValueError(f"{name} must be positive semi-definite; its least eigenvalue is {float(values.min()):.3g}")
    return vectors * values.clamp(min=0).sqrt()


def kernel_distance(
    real: Any, generated: Any, features: FeatureMap = None, *, n_blocks: int = 10, random_state: int = 0
) -> Score:
    r"""The kernel distance: squared maximum mean discrepancy with the kernel :math:`(x^\top y / F + 1)^3`, unbiased.

    Parameters
    ----------
    real, generated : Tensor or array of shape (N, ...), (M, ...)
        Samples.
    features : Features, module or callable, optional
        Maps samples to features (N, F); None takes the samples themselves.
    n_blocks : int
        Both sets are shuffled and cut into as many blocks that share no sample, so that the blocks' estimates are
        independent. Blocks of a set differ by one sample at most, and none is left out.
    random_state : int
        Seed of the shuffle.

    Returns
    -------
    Score
        The mean of the blocks' estimates and its standard error. Unbiased at any number of samples; it may be negative
        where the distributions agree.

    Raises
    ------
    ValueError
        If a block would hold fewer than two samples, or the sets do not have as many features.

    References
    ----------
    .. [1] Bińkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", ICLR 2018, arXiv:1801.01401.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 1000, 3, generator=generator)
    >>> score = kernel_distance(x, y)
    >>> abs(score.value) < 3 * score.error
    True
    """
    x, y = pair(real, generated, features)
    n_blocks = whole("n_blocks", n_blocks, 2)
    size = min(len(x), len(y)) // n_blocks
    if size < 2:
        raise ValueError(f"n_blocks must leave at least 2 samples to a block; got {n_blocks} blocks of {size}")
    generator = torch_random(random_state)
    blocks = (rows[torch.randperm(len(rows), generator=generator)].tensor_split(n_blocks) for rows in (x, y))
    values = torch.stack([_mmd(a, b) for a, b in zip(*blocks, strict=True)])
    error = float(values.std()) / math.sqrt(n_blocks)
    return Score("kernel distance", float(values.mean()), error, feature_name(features), len(x), len(y))


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    """The U-statistic of the squared maximum mean discrepancy."""
    return _within(x) + _within(y) - 2 * _cubic(x, y).mean()


def _within(x: Tensor) -> Tensor:
    k, n = _cubic(x, x), len(x)
    return (k.sum() - k.diagonal().sum()) / (n * (n - 1))


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
