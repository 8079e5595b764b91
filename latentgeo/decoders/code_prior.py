"""A prior over the codes of a quantised model: a small causal transformer that reads them one by one.

The top level comes first and the bottom one after it, so the bottom is conditioned on the whole top, as in VQ-VAE-2
(Razavi, van den Oord, Vinyals, 2019, arXiv:1906.00446); the network follows Radford et al. (2019, GPT-2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_POSITIONS = 4096
MAX_CODES = 2**16
_MAX_WIDTH = 2048
_MAX_LAYERS = 64

Past = tuple[Tensor, Tensor]  # keys and values of the codes so far


class CodePrior(nn.Module):
    """An autoregressive distribution over the codes of one datum.

    Parameters
    ----------
    positions : sequence of int
        Codes per level, from the top level to the bottom one.
    n_codes : int
        K, the size of each level's codebook.
    width : int
        Of the transformer, a multiple of `heads`.
    layers, heads : int
        Its blocks, and attention heads per block.

    Raises
    ------
    ValueError
        If a number is out of bounds.

    Examples
    --------
    >>> prior = CodePrior([4, 9], n_codes=8, width=16, layers=1, heads=2).eval()
    >>> codes = prior.sample(5, generator=torch.Generator().manual_seed(0))
    >>> codes.shape, prior(codes).shape, prior.nats(codes).shape
    (torch.Size([5, 13]), torch.Size([5, 13, 8]), torch.Size([5, 13]))
    """

    def __init__(
        self, positions: Sequence[int], n_codes: int, width: int = 96, layers: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        if not isinstance(positions, (list, tuple)) or not 1 <= len(positions) <= 2:
            raise ValueError(f"positions must hold one or two levels; got {str(positions)[:50]}")
        positions = [bounded("positions", p, MAX_POSITIONS) for p in positions]
        bounded("n_codes", n_codes, MAX_CODES)
        bounded("width", width, _MAX_WIDTH)
        bounded("layers", layers, _MAX_LAYERS)
        bounded("heads", heads, width)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads; got {width} and {heads}")
        self.arguments: dict[str, Any] = {"width": width, "layers": layers, "heads": heads}
        self.positions = positions
        self.n_codes = n_codes
        self.start = nn.Parameter(torch.zeros(width))
        self.tables = nn.ModuleList([nn.Embedding(n_codes, width) for _ in positions])
        self.places = nn.Parameter(torch.zeros(sum(positions), width))
        self.blocks = nn.ModuleList([_Block(width, heads, layers) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList([nn.Linear(width, n_codes) for _ in positions])
        nn.init.normal_(self.places, std=0.02)
        for part in (*self.tables, *self.heads):
            nn.init.normal_(part.get_parameter("weight"), std=0.02)
        for head in self.heads:
            nn.init.zeros_(head.get_parameter("bias"))

    def forward(self, codes: Tensor) -> Tensor:
        """Logits (B, L, K) of each code given those before it, from codes (B, L), int64."""
        h = self._inputs(codes[:, :-1])
        for block in self.blocks:
            h, _past = block(h, None)
        parts = self.norm(h).split(self.positions, dim=1)
        return torch.cat([head(part) for head, part in zip(self.heads, parts, strict=True)], dim=1)

    def nats(self, codes: Tensor) -> Tensor:
        """Minus the log-probability of each code given those before it: (B, L), in nats."""
        return functional.cross_entropy(self(codes).transpose(1, 2), codes, reduction="none")

    def bits_per_code(self, codes: Tensor) -> list[float]:
        """The mean number of bits per code of each level; log2 K is what no knowledge costs."""
        with torch.no_grad():
            sums = [self.nats(part).double().sum(0) for part in codes.split(256)]
        mean = torch.stack(sums).sum(0) / len(codes) / math.log(2)
        return [float(part.mean()) for part in mean.split(self.positions)]

    @torch.no_grad()
    def sample(
        self, n: int, *, generator: torch.Generator, temperature: float = 1.0, given: Tensor | None = None
    ) -> Tensor:
        """Draw codes (n, L) one after another.

        Parameters
        ----------
        n : int
            How many.
        generator : torch.Generator
            On the prior's device.
        temperature : float
            Logits are divided by it; below 1, likelier codes come more often.
        given : Tensor of shape (n, l), optional
            The first codes, e.g. all of the top level; the rest is drawn.

        Raises
        ------
        ValueError
            If `temperature` is not positive or `given` does not fit.
        """
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive; got {temperature!r}")
        length = len(self.places)
        codes = torch.empty(n, length, dtype=torch.int64, device=self.start.device)
        n_given = 0
        if given is not None:
            if given.ndim != 2 or len(given) != n or given.shape[1] > length:
                raise ValueError(f"given must be of shape ({n}, l), l up to {length}; got {tuple(given.shape)}")
            n_given = given.shape[1]
            codes[:, :n_given] = given
        past: list[Past | None] = [None] * len(self.blocks)
        levels = [level for level, size in enumerate(self.positions) for _ in range(size)]
        for i, level in enumerate(levels):
            before = self.start.expand(n, -1) if i == 0 else self.tables[levels[i - 1]](codes[:, i - 1])
            h = (before + self.places[i])[:, None]
            for j, block in enumerate(self.blocks):
                h, past[j] = block(h, past[j])
            if i >= n_given:
                p = (self.heads[level](self.norm(h[:, 0])) / temperature).softmax(-1)
                codes[:, i] = torch.multinomial(p, 1, generator=generator)[:, 0]
        return codes

    def _inputs(self, before: Tensor) -> Tensor:
        parts = before.split([*self.positions[:-1], self.positions[-1] - 1], dim=1)
        shifted = [table(part) for table, part in zip(self.tables, parts, strict=True)]
        return torch.cat([self.start.expand(len(before), 1, -1), *shifted], dim=1) + self.places


class _Block(nn.Module):
    """Causal attention and a two-layer network, each normalised first and added."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.n_heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for part in (self.attention, self.mix, self.wide, self.narrow):
            adds = part in (self.mix, self.narrow)  # to what passes by: weaker the more blocks do
            nn.init.normal_(part.weight, std=0.02 / math.sqrt(2 * layers) if adds else 0.02)
            nn.init.zeros_(part.bias)

    def forward(self, h: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """States (B, L, width) after the block; `past` holds what earlier codes left, for one code at a time."""
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for part in self.attention(self.norm_1(h)).chunk(3, dim=-1)
        )
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        h = h + self.mix(attended.transpose(1, 2).flatten(2))
        return h + self.narrow(functional.gelu(self.wide(self.norm_2(h)))), (k, v)


def bounded(name: str, value: Any, most: int, least: int = 1) -> int:
    """An integer within bounds, or a ValueError: a header may come from anywhere."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be an integer from {least} to {most}; got {str(value)[:50]}")
    return value
