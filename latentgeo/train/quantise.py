"""Codebooks that are learned: nearest vectors, straight-through gradients, moving averages, revival of dead codes.

van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning" (NeurIPS 2017, arXiv:1711.00937); the
averages are its appendix A.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentgeo._calculus.checks import is_number
from latentgeo.decoders.quantised import nearest


@dataclass(frozen=True)
class MovingAverage:
    """Codebook vectors as moving averages of the encoder's vectors that are nearest to them; no gradient.

    Parameters
    ----------
    decay : float
        What of an average is left after a step, between 0 and 1.
    epsilon : float
        Added to each code's share of the counts (Laplace smoothing).

    Raises
    ------
    ValueError
        If a number is out of bounds.

    Examples
    --------
    >>> MovingAverage().decay
    0.99
    """

    decay: float = 0.99
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if not is_number(self.decay) or not 0 < self.decay < 1:
            raise ValueError(f"decay must be between 0 and 1; got {self.decay!r}")
        if not is_number(self.epsilon) or not 0 <= self.epsilon < 1:
            raise ValueError(f"epsilon must be at least 0 and below 1; got {self.epsilon!r}")


@dataclass(frozen=True)
class CodebookLoss:
    """Codebook vectors moved by gradients of their squared distance to the encoder's vectors.

    Parameters
    ----------
    decay : float
        Of the average that tells which codes are dead.

    Raises
    ------
    ValueError
        If `decay` is not between 0 and 1.

    Examples
    --------
    >>> CodebookLoss()
    CodebookLoss(decay=0.99)
    """

    decay: float = 0.99

    def __post_init__(self) -> None:
        if not is_number(self.decay) or not 0 < self.decay < 1:
            raise ValueError(f"decay must be between 0 and 1; got {self.decay!r}")


class Codebook(nn.Module):
    """K vectors of c numbers, and how much each has been used of late.

    Parameters
    ----------
    n_codes, code_dim : int
        K and c.
    update : MovingAverage or CodebookLoss
        How the vectors are learned.
    revive : float
        A code is dead when its average use falls below this share of the mean use, and takes the place of a random
        encoder's vector of the batch. 0 revives none.

    Examples
    --------
    >>> book = Codebook(2, 2)
    >>> book.vectors.copy_(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    >>> book(torch.tensor([[0.1, 0.7]]))
    tensor([1])
    """

    vectors: Tensor
    count: Tensor
    total: Tensor

    def __init__(
        self, n_codes: int, code_dim: int, update: MovingAverage | CodebookLoss | None = None, revive: float = 0.02
    ) -> None:
        super().__init__()
        self.update_rule = MovingAverage() if update is None else update
        self.revive = revive
        vectors = torch.randn(n_codes, code_dim) / code_dim**0.5
        if isinstance(self.update_rule, CodebookLoss):
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
        self.register_buffer("count", torch.ones(n_codes))  # average uses per step; the first steps set the scale
        self.register_buffer("total", vectors.clone())  # sum of those vectors

    def start(self, z: Tensor, generator: torch.Generator) -> None:
        """Begin with random vectors of the encoder's (N, c), where there are enough to choose from."""
        order = torch.randperm(len(z), generator=generator)[: len(self.vectors)]
        with torch.no_grad():
            self.vectors[: len(order)] = z[order].to(self.vectors)
            self.total.copy_(self.vectors * self.count[:, None])

    def forward(self, z: Tensor) -> Tensor:
        """Numbers (...) of the vectors nearest to z (..., c)."""
        return nearest(z.detach().float(), self.vectors.detach())

    @torch.no_grad()
    def update(self, z: Tensor, indices: Tensor, generator: torch.Generator) -> None:
        """Take in a batch's vectors z (N, c) and the numbers (N,) that were chosen for them; revive the dead."""
        z, decay = z.detach().float(), self.update_rule.decay
        uses = _uses(indices, len(self.count))
        self.count.lerp_(uses, 1 - decay)
        if isinstance(self.update_rule, MovingAverage):
            sums = torch.zeros_like(self.total).index_add_(0, indices, z)
            self.total.lerp_(sums, 1 - decay)
            n, epsilon = self.count.sum(), self.update_rule.epsilon
            smooth = (self.count + epsilon) / (n + len(self.count) * epsilon) * n
            self.vectors.copy_(self.total / smooth[:, None])
        if self.revive > 0:
            mean = self.count.mean()
            dead = self.count < self.revive * mean
            # drawn at every step whether needed or not: looking would make a GPU wait
            chosen = torch.randint(len(z), self.count.shape, generator=generator, device=z.device)
            vectors = torch.where(dead[:, None], z[chosen], self.vectors)
            self.vectors.copy_(vectors)
            self.count.copy_(torch.where(dead, mean, self.count))
            self.total.copy_(torch.where(dead[:, None], vectors * mean, self.total))


def straight_through(z: Tensor, chosen: Tensor) -> Tensor:
    """The chosen vectors, with the gradient that z has.

    Examples
    --------
    >>> z = torch.tensor([0.4], requires_grad=True)
    >>> quantised = straight_through(z, torch.tensor([1.0]))
    >>> (3 * quantised).sum().backward()
    >>> quantised, z.grad
    (tensor([1.], grad_fn=...), tensor([3.]))
    """
    return z + (chosen - z).detach()


def perplexity(indices: Tensor, n_codes: int) -> Tensor:
    """The exponential of the entropy of how often codes occur, from 1 (one code) to K (all equally often).

    Examples
    --------
    >>> perplexity(torch.tensor([0, 0, 3, 3]), 8)
    tensor(2.)
    """
    share = _uses(indices.flatten(), n_codes) / indices.numel()
    return (-torch.xlogy(share, share).sum()).exp()


def _uses(indices: Tensor, n_codes: int) -> Tensor:
    """How often each code occurs; unlike `bincount`, without making a GPU wait."""
    uses = torch.zeros(n_codes, device=indices.device)
    return uses.index_add_(0, indices, torch.ones_like(indices, dtype=uses.dtype))
