"""What a VAE maximises: the evidence lower bound with β and free bits, and the importance-weighted bound.

Kingma, Welling 2014 (arXiv:1312.6114); Higgins et al. 2017 (β); Kingma et al. 2016 (arXiv:1606.04934, free bits);
Burda, Grosse, Salakhutdinov 2016 (arXiv:1509.00519, importance weights). All in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_kl(mean: Tensor, std: Tensor) -> Tensor:
    r"""KL divergence of N(mean, std²) from N(0, 1), coordinate by coordinate.

    Parameters
    ----------
    mean, std : Tensor of shape (*batch, d)
        Of the posterior.

    Returns
    -------
    Tensor of shape (*batch, d)
        In nats.

    Examples
    --------
    >>> gaussian_kl(torch.tensor([1.0]), torch.tensor([1.0]))
    tensor([0.5000])
    """
    return 0.5 * (mean.square() + std.square() - 1) - std.log()


def log_ratio(z: Tensor, noise: Tensor, std: Tensor) -> Tensor:
    """Log p(z) − log q(z | x) at z = mean + std · noise, summed over axes: (*batch,), in nats.

    Examples
    --------
    >>> log_ratio(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([1.0]))
    tensor(-1.5000)
    """
    return (0.5 * (noise.square() - z.square()) + std.log()).sum(-1)


def importance_bound(log_weights: Tensor) -> Tensor:
    r"""Log of the mean importance weight, the bound of Burda et al.: log (1/K) Σ_k w_k.

    Parameters
    ----------
    log_weights : Tensor of shape (K, *batch)
        log p(x | z_k) + log p(z_k) − log q(z_k | x) of K samples.

    Returns
    -------
    Tensor of shape (*batch,)
        In nats. With K = 1 a sample of the evidence lower bound; it tends to log p(x) as K grows.

    Examples
    --------
    >>> importance_bound(torch.tensor([[0.0], [math.log(3.0)]])).exp()
    tensor([2.])
    """
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


def free_bits_kl(kl: Tensor, floor: float) -> Tensor:
    """The KL term with free bits: each axis's mean over the batch counts as at least `floor` nats.

    Parameters
    ----------
    kl : Tensor of shape (B, d)
        Coordinate by coordinate.
    floor : float
        λ, in nats per axis.

    Returns
    -------
    Tensor
        Scalar.

    Examples
    --------
    >>> free_bits_kl(torch.tensor([[0.1, 2.0], [0.1, 4.0]]), floor=0.5)
    tensor(3.5000)
    """
    return kl.mean(0).clamp(min=floor).sum()


def warmup_weight(progress: float, warmup: float) -> float:
    """The KL term's weight: from 0 to 1 over the first fraction `warmup` of the training.

    Examples
    --------
    >>> warmup_weight(0.1, warmup=0.4), warmup_weight(0.9, warmup=0.4), warmup_weight(0.0, warmup=0.0)
    (0.25, 1.0, 1.0)
    """
    return 1.0 if warmup <= 0 else min(1.0, progress / warmup)
