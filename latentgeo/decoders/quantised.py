"""The networks of a vector-quantised autoencoder with one level of codes, or two.

van den Oord, Vinyals, Kavukcuoglu (NeurIPS 2017, arXiv:1711.00937) and Razavi, van den Oord, Vinyals (2019,
arXiv:1906.00446). The latent space is the grid of vectors before they are quantised, flattened, top level first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentgeo._calculus.seeds import torch_random
from latentgeo.decoders._halving import Size, enlarged, sizes
from latentgeo.decoders.code_prior import MAX_CODES, MAX_POSITIONS, CodePrior, bounded
from latentgeo.decoders.networks import register

_MAX_SIDE = 4096
_MAX_WIDTH = 4096
_MAX_CODE_DIM = 1024
_MAX_HALVINGS = 6
_MAX_NUMBERS = 2**28  # of the largest feature map of one datum: a GiB


class _Grids(nn.Module):
    """What encoder and decoder agree on: the image's shape, the grids of codes and their codebooks."""

    codebooks: Tensor

    def __init__(
        self, shape: Sequence[int], width: int, code_dim: int, n_codes: int, halvings: int, levels: int, blocks: int
    ) -> None:
        super().__init__()
        if not isinstance(shape, (list, tuple)) or len(shape) not in (2, 3):
            raise ValueError(f"shape must be (height, width) or (channels, height, width); got {str(shape)[:50]}")
        shape = [bounded("shape", side, _MAX_SIDE) for side in shape]
        bounded("width", width, _MAX_WIDTH)
        bounded("code_dim", code_dim, _MAX_CODE_DIM)
        bounded("n_codes", n_codes, MAX_CODES, 2)
        bounded("halvings", halvings, _MAX_HALVINGS)
        bounded("levels", levels, 2)
        bounded("blocks", blocks, 16, 0)
        self.arguments: dict[str, Any] = {
            "shape": shape,
            "width": width,
            "code_dim": code_dim,
            "n_codes": n_codes,
            "halvings": halvings,
            "levels": levels,
            "blocks": blocks,
        }
        self.shape = tuple(shape)
        self.image = (1, *shape) if len(shape) == 2 else tuple(shape)
        # weights of a few kilobytes could else ask for any amount of memory
        if (numbers := max(self.image[0], width) * math.prod(self.image[1:])) > _MAX_NUMBERS:
            raise ValueError(f"shape and width must leave at most {_MAX_NUMBERS} numbers in a layer; got {numbers}")
        *self.sizes, above = sizes((self.image[1], self.image[2]), halvings + 1)  # from the image to the bottom grid
        self.grids: list[Size] = [self.sizes[-1]] if levels == 1 else [above, self.sizes[-1]]  # top first
        self.positions = [math.prod(grid) for grid in self.grids]
        if sum(self.positions) > MAX_POSITIONS:
            raise ValueError(
                f"shape and halvings must leave at most {MAX_POSITIONS} codes to a datum; got {sum(self.positions)}"
            )
        self.code_dim, self.n_codes, self.levels = code_dim, n_codes, levels
        self.latent_dim = code_dim * sum(self.positions)
        self.register_buffer("codebooks", torch.zeros(levels, n_codes, code_dim))

    def split(self, z: Tensor) -> list[Tensor]:
        """Latent codes (B, d) as one grid (B, code_dim, h, w) per level, top first."""
        parts = z.split([self.code_dim * p for p in self.positions], dim=1)
        return [part.unflatten(1, (self.code_dim, *grid)) for part, grid in zip(parts, self.grids, strict=True)]

    def nearest(self, level: int, grid: Tensor) -> Tensor:
        """Numbers (B, positions) of the codebook vectors nearest to those of a grid."""
        return nearest(grid.flatten(2).transpose(1, 2), self.codebooks[level])

    def vectors(self, level: int, indices: Tensor) -> Tensor:
        """The grid (B, code_dim, h, w) of the codebook vectors with these numbers (B, positions)."""
        return self.codebooks[level][indices].transpose(1, 2).unflatten(2, self.grids[level])


@register
class VQEncoder(_Grids):
    """Data to the grids of vectors that are quantised next.

    Parameters
    ----------
    shape : sequence of int
        Of one image: (height, width) or (channels, height, width).
    width : int
        Channels.
    code_dim : int
        Entries of a codebook vector.
    n_codes : int
        K, vectors per codebook.
    halvings : int
        How often an image's side is halved (rounding up) down to the bottom grid.
    levels : int
        1, or 2 with a top grid of half the bottom's side.
    blocks : int
        Residual blocks per level.

    Raises
    ------
    ValueError
        If a number is out of bounds.

    Examples
    --------
    >>> VQEncoder([28, 28], width=8, code_dim=4, n_codes=16, levels=2)(torch.zeros(5, 28, 28)).shape  # (16 + 49) · 4
    torch.Size([5, 260])
    """

    builder = "vq-encoder"

    def __init__(
        self,
        shape: Sequence[int],
        width: int,
        code_dim: int,
        n_codes: int,
        halvings: int = 2,
        levels: int = 1,
        blocks: int = 2,
    ) -> None:
        super().__init__(shape, width, code_dim, n_codes, halvings, levels, blocks)
        layers: list[nn.Module] = []
        for i in range(halvings):
            layers += [nn.Conv2d(width if i else self.image[0], width, 3, stride=2, padding=1), nn.GELU()]
        self.down = nn.Sequential(*layers, _Residuals(width, blocks))
        self.bottom = nn.Conv2d(width, code_dim, 1)
        if levels == 2:
            self.higher = nn.Sequential(
                nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GELU(), _Residuals(width, blocks)
            )
            self.top = nn.Conv2d(width, code_dim, 1)
            self.from_top = nn.Conv2d(code_dim, width, 3, padding=1)
        _start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Data (B, ...) to latent codes (B, d), before they are quantised."""
        h = self.features(x)
        if self.levels == 1:
            return self.bottom_grid(h).flatten(1)
        top = self.top_grid(h)
        chosen = self.vectors(0, self.nearest(0, top))
        return torch.cat([top.flatten(1), self.bottom_grid(h, chosen).flatten(1)], dim=1)

    def features(self, x: Tensor) -> Tensor:
        """Data (B, ...) to features of the bottom grid's size."""
        result: Tensor = self.down(x.reshape(len(x), *self.image))
        return result

    def top_grid(self, h: Tensor) -> Tensor:
        """Features to the top grid (B, code_dim, h, w)."""
        result: Tensor = self.top(self.higher(h))
        return result

    def bottom_grid(self, h: Tensor, top: Tensor | None = None) -> Tensor:
        """Features, and the quantised top grid where there is one, to the bottom grid."""
        if top is not None:
            h = h + functional.gelu(self.from_top(enlarged(top, self.grids[-1])))
        result: Tensor = self.bottom(h)
        return result


@register
class VQDecoder(_Grids):
    """Grids of vectors to data; with its codebooks, and the prior over codes where there is one.

    Parameters
    ----------
    shape, width, code_dim, n_codes, halvings, levels, blocks
        As for `VQEncoder`.
    output : str, optional
        "sigmoid" is applied to the last layer; None for nothing.
    prior : mapping, optional
        `width`, `layers` and `heads` of a `CodePrior`; None for no prior.

    Raises
    ------
    ValueError
        If an argument is out of bounds.

    Notes
    -----
    As a decoder it is the map from *unquantised* codes (B, d) to data: smooth, so that the toolkit's geometry applies.
    What the model itself decodes are the points of that space whose every vector is in a codebook; `quantise` goes to
    the nearest.

    Examples
    --------
    >>> decoder = VQDecoder([8, 8], 8, code_dim=2, n_codes=4, prior={"width": 8, "layers": 1, "heads": 1}).eval()
    >>> decoder.sample(3).shape
    torch.Size([3, 8, 8])
    """

    builder = "vq-decoder"

    def __init__(
        self,
        shape: Sequence[int],
        width: int,
        code_dim: int,
        n_codes: int,
        halvings: int = 2,
        levels: int = 1,
        blocks: int = 2,
        output: str | None = None,
        prior: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(shape, width, code_dim, n_codes, halvings, levels, blocks)
        if output not in (None, "sigmoid"):
            raise ValueError(f"output must be 'sigmoid' or None; got {str(output)[:50]!r}")
        if prior is not None and not isinstance(prior, Mapping):
            raise ValueError(f"prior must be a mapping or None; got {str(prior)[:50]}")
        self.prior = None if prior is None else CodePrior(self.positions, n_codes, **prior)
        self.arguments |= {"output": output, "prior": None if self.prior is None else self.prior.arguments}
        self.output = output
        if levels == 2:
            self.lift = nn.Conv2d(code_dim, width, 3, padding=1)
        self.first = nn.Conv2d(code_dim, width, 3, padding=1)
        self.body = _Residuals(width, blocks)
        self.up = nn.ModuleList(
            [nn.Conv2d(width, width if i < halvings - 1 else self.image[0], 3, padding=1) for i in range(halvings)]
        )
        _start(self)

    def forward(self, z: Tensor) -> Tensor:
        """Latent codes (B, d) to data (B, *shape)."""
        grids = self.split(z)
        h = self.first(grids[-1])
        if self.levels == 2:
            h = h + self.lift(enlarged(grids[0], self.grids[-1]))
        h = functional.gelu(self.body(h))
        for i, layer in enumerate(self.up):
            h = layer(enlarged(h, self.sizes[-2 - i]))
            if i < len(self.up) - 1:
                h = functional.gelu(h)
        h = h.reshape(len(z), *self.shape)
        return h.sigmoid() if self.output == "sigmoid" else h

    def indices(self, z: Tensor) -> Tensor:
        """Numbers (B, L) of the codebook vectors nearest to codes (B, d), top level first."""
        return torch.cat([self.nearest(level, grid) for level, grid in enumerate(self.split(z))], dim=1)

    def embed(self, indices: Tensor) -> Tensor:
        """Latent codes (B, d) whose vectors are the codebooks' with these numbers (B, L)."""
        if indices.ndim != 2 or indices.shape[1] != sum(self.positions):
            raise ValueError(f"indices must be of shape (B, {sum(self.positions)}); got {tuple(indices.shape)}")
        parts = indices.split(self.positions, dim=1)
        return torch.cat([self.vectors(level, part).flatten(1) for level, part in enumerate(parts)], dim=1)

    def quantise(self, z: Tensor) -> Tensor:
        """The nearest latent codes (B, d) that the codebooks can say."""
        return self.embed(self.indices(z))

    @torch.no_grad()
    def sample(self, n: int, *, random_state: int = 0, temperature: float = 1.0) -> Tensor:
        """Data (n, *shape) drawn from the prior over codes and decoded.

        Parameters
        ----------
        n : int
            How many.
        random_state : int
            Seed.
        temperature : float
            See `CodePrior.sample`.

        Raises
        ------
        ValueError
            If this model has no prior, or `n` is not positive.
        """
        if self.prior is None:
            raise ValueError("this model has no prior over its codes, so it cannot sample; train one with it")
        bounded("n", n, 2**31)
        generator = torch_random(random_state, self.codebooks.device)
        sizes = [500] * (n // 500) + [n % 500] * (n % 500 > 0)
        codes = (self.prior.sample(size, generator=generator, temperature=temperature) for size in sizes)
        return torch.cat([self(self.embed(indices)) for indices in codes])


def nearest(z: Tensor, vectors: Tensor) -> Tensor:
    """Number of the nearest of K vectors (K, c) to each of (..., c).

    Examples
    --------
    >>> nearest(torch.tensor([[0.9, 0.2], [0.1, 0.0]]), torch.eye(2))
    tensor([0, 0])
    """
    # |z - e|² without |z|², which does not matter
    return (vectors.square().sum(-1) - 2 * z @ vectors.T).argmin(-1)


class _Residuals(nn.Module):
    """Residual blocks of a 3×3 and a 1×1 convolution, smooth throughout."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 1))
                for _ in range(blocks)
            ]
        )

    def forward(self, h: Tensor) -> Tensor:
        for block in self.blocks:
            h = h + block(h)
        return h


def _start(net: nn.Module) -> None:
    """Weights at which signals keep their size from layer to layer (He et al. 2015); residual blocks add nothing yet.

    With torch's own start a signal loses more than half its size in each layer, and the first epochs go to mend that.
    """
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.get_parameter("bias"))
    for part in net.modules():
        if isinstance(part, _Residuals):
            for block in part.blocks:
                nn.init.zeros_(block.get_parameter("3.weight"))
