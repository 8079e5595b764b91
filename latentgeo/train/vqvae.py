"""Vector-quantised autoencoders of one level or two, with an autoregressive prior: the recipe `VQVAE`, and its learner.

van den Oord, Vinyals, Kavukcuoglu (NeurIPS 2017, arXiv:1711.00937) and Razavi, van den Oord, Vinyals (2019,
arXiv:1906.00446). Autoencoder first; then it is frozen, and the prior is fitted to its codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from latentgeo._calculus.checks import is_number
from latentgeo.decoders import Bernoulli, Gaussian, wrap
from latentgeo.decoders._likelihood import Likelihood
from latentgeo.decoders.code_prior import CodePrior
from latentgeo.decoders.likelihoods import as_likelihood
from latentgeo.decoders.outputs import read
from latentgeo.decoders.quantised import VQDecoder, VQEncoder
from latentgeo.io import LatentModel
from latentgeo.train import _fitness
from latentgeo.train.data import TrainData
from latentgeo.train.quantise import Codebook, CodebookLoss, MovingAverage, perplexity, straight_through
from latentgeo.train.recipe import Learner

_ROWS = 500
_EDGE = 0.01  # means start no nearer to 0 and 1
GEOMETRY = (
    "a quantised model has no continuous latent space of its own: this one is the grid of vectors before they are "
    "quantised, flattened, and the decoder is applied to them as they are"
)


@dataclass(frozen=True)
class Transformer:
    """A prior over codes: a causal transformer.

    Parameters
    ----------
    width, layers, heads : int
        Its size; `width` a multiple of `heads`.
    share : float
        The last part of the training that is the prior's, between 0 and 1; the autoencoder is frozen in it.
    weight_decay : float
        Of AdamW.

    Raises
    ------
    ValueError
        If a number is out of bounds.

    Examples
    --------
    >>> Transformer(width=64).layers
    4
    """

    width: int = 96
    layers: int = 4
    heads: int = 4
    share: float = 0.5
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if not is_number(self.share) or not 0 < self.share < 1:
            raise ValueError(f"share must be between 0 and 1; got {self.share!r}")
        if not is_number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative; got {self.weight_decay!r}")
        CodePrior([1], 2, self.width, self.layers, self.heads)  # which checks them

    @property
    def size(self) -> dict[str, int]:
        """What `CodePrior` takes."""
        return {"width": self.width, "layers": self.layers, "heads": self.heads}


@dataclass(frozen=True)
class VQVAE:
    """Recipe of a vector-quantised autoencoder of images.

    Parameters
    ----------
    n_codes : int
        K, vectors per codebook.
    code_dim : int
        Entries of a vector.
    levels : int
        1, or 2: a top grid of half the side, and a bottom grid that is encoded and decoded with its help.
    width, halvings, blocks : int
        Channels; how often an image's side is halved down to the bottom grid; residual blocks.
    likelihood : Gaussian or Bernoulli
        `Gaussian(sigma=...)`, or `Bernoulli()` for data that are 0 or 1.
    commitment : float
        Weight of the squared distance that draws the encoder's vectors to the codebook's.
    codebook : MovingAverage or CodebookLoss
        How codebooks are learned.
    revive : float
        Codes used less than this share of the mean use are put elsewhere; 0 for never.
    prior : Transformer or None
        The prior over codes; without one the model cannot sample.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind or out of range.

    References
    ----------
    .. [1] van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", NeurIPS 2017,
       arXiv:1711.00937.
    .. [2] Razavi, van den Oord, Vinyals, "Generating Diverse High-Fidelity Images with VQ-VAE-2", NeurIPS 2019,
       arXiv:1906.00446.

    Examples
    --------
    >>> VQVAE(n_codes=32, levels=2).commitment
    0.25
    """

    kind: ClassVar[str] = "vqvae"
    n_codes: int = 128
    code_dim: int = 8
    levels: int = 1
    width: int = 64
    halvings: int = 2
    blocks: int = 2
    likelihood: Likelihood | str = field(default_factory=lambda: Gaussian(sigma=0.1))
    commitment: float = 0.25
    codebook: MovingAverage | CodebookLoss = field(default_factory=MovingAverage)
    revive: float = 0.02
    prior: Transformer | None = field(default_factory=Transformer)

    def __post_init__(self) -> None:
        likelihood = as_likelihood(self.likelihood)
        object.__setattr__(self, "likelihood", likelihood)
        fixed = isinstance(likelihood, Gaussian) and likelihood.sigma is not None
        if not fixed and not (isinstance(likelihood, Bernoulli) and likelihood.output == "logits"):
            raise ValueError(
                f"likelihood must be Gaussian(sigma=...) or Bernoulli(output='logits'); got {likelihood!r}"
            )
        for name in ("commitment", "revive"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < (1 if name == "revive" else math.inf):
                raise ValueError(f"{name} must not be negative, finite, and below 1 for revive; got {value!r}")
        if not isinstance(self.codebook, (MovingAverage, CodebookLoss)):
            raise TypeError(f"codebook must be MovingAverage(...) or CodebookLoss(...); got {self.codebook!r}")
        if self.prior is not None and not isinstance(self.prior, Transformer):
            raise TypeError(f"prior must be Transformer(...) or None; got {self.prior!r}")
        with torch.device("meta"):
            VQEncoder([2**self.halvings] * 2 if 0 < self.halvings < 7 else [1, 1], **self.size)  # which checks them

    @property
    def size(self) -> dict[str, int]:
        """What `VQEncoder` and `VQDecoder` take besides the data's shape."""
        return {k: getattr(self, k) for k in ("width", "code_dim", "n_codes", "halvings", "levels", "blocks")}

    def learner(self, data: TrainData, generator: torch.Generator) -> VQVAELearner:
        """The networks, with codebooks that begin at vectors the untrained encoder gives."""
        return VQVAELearner(self, data, generator)


class VQVAELearner(Learner):
    """Encoder, codebooks, decoder and prior, and what they minimise.

    The loss is a bound on minus log p(x), in nats per datum: minus log p(x | codes), plus what the codes cost under the
    prior (log K each while it is not trained); and the terms that hold encoder and codebooks together.
    """

    books: Any  # a ModuleList of `Codebook`, from the top level to the bottom one

    def __init__(self, recipe: VQVAE, data: TrainData, generator: torch.Generator) -> None:
        super().__init__()
        if len(data.shape) not in (2, 3) or min(data.shape[-2:]) < 2:
            raise ValueError(
                f"data must be images, of shape (height, width) or (channels, height, width), for a grid of codes; got "
                f"{tuple(data.shape)}"
            )
        self.recipe = recipe
        self.likelihood: Any = as_likelihood(recipe.likelihood)
        _fitness.check(as_likelihood(recipe.likelihood), None, data)
        inside = float(data.x.min()) >= 0 and float(data.x.max()) <= 1
        output = "sigmoid" if inside and isinstance(self.likelihood, Gaussian) else None
        prior = None if recipe.prior is None else recipe.prior.size
        self.encoder = VQEncoder(list(data.shape), **recipe.size)
        self.decoder = VQDecoder(list(data.shape), **recipe.size, output=output, prior=prior)
        mean = data.x.reshape(len(data), self.encoder.image[0], -1).mean((0, 2))
        logits = output == "sigmoid" or isinstance(self.likelihood, Bernoulli)
        # a decoder that begins grey on black data rushes to black and stays there, the codes unused
        with torch.no_grad():
            self.decoder.up[-1].get_parameter("bias").copy_(mean.clamp(_EDGE, 1 - _EDGE).logit() if logits else mean)
        self.books = nn.ModuleList(
            [Codebook(recipe.n_codes, recipe.code_dim, recipe.codebook, recipe.revive) for _ in range(recipe.levels)]
        )
        self.start_prior = 1.0 if recipe.prior is None else 1 - recipe.prior.share
        self.warmup = 0.0 if recipe.prior is None else self.start_prior
        self._start(data, generator)

    @torch.no_grad()
    def _start(self, data: TrainData, generator: torch.Generator) -> None:
        rows = torch.randperm(len(data.x), generator=generator)[:_ROWS]
        h = self.encoder.features(data.x[rows])
        top = None
        for level, book in enumerate(self.books):
            grid = self.encoder.bottom_grid(h, top) if level == len(self.books) - 1 else self.encoder.top_grid(h)
            book.start(_vectors(grid), generator)
            top = self._chosen(level, book(_vectors(grid)), grid)

    def optimizers(self, learning_rate: float, n_steps: int) -> list[torch.optim.Optimizer]:
        prior = self.decoder.prior
        of_prior = [] if prior is None else list(prior.parameters())
        known = {id(p) for p in of_prior}
        found: list[torch.optim.Optimizer] = [
            torch.optim.Adam([p for p in self.parameters() if id(p) not in known], lr=learning_rate)
        ]
        if self.recipe.prior is not None:
            decay = self.recipe.prior.weight_decay
            found.append(torch.optim.AdamW(of_prior, lr=learning_rate, betas=(0.9, 0.95), weight_decay=decay))
        return found

    def rate(self, progress: float) -> float:
        """A cosine for each of the two stages."""
        start = self.start_prior
        stage = progress / start if progress < start else (progress - start) / (1 - start)
        return super().rate(min(stage, 1.0))

    def losses(self, x: Tensor, progress: float, generator: torch.Generator) -> dict[str, Tensor]:
        found, _grids, indices = self._autoencode(x)
        found |= self._codes_cost(indices, trained=progress >= self.start_prior)
        return self._sum(found)

    def training_step(
        self,
        x: Tensor,
        progress: float,
        optimizers: Sequence[torch.optim.Optimizer],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        second = progress >= self.start_prior
        with torch.set_grad_enabled(not second):
            found, grids, indices = self._autoencode(x)
        found |= self._codes_cost(indices, trained=second)
        found = self._sum(found)
        optimizer = optimizers[int(second)]
        optimizer.zero_grad()
        self.backward(found["loss"])
        optimizer.step()
        if not second:
            for book, grid, chosen in zip(self.books, grids, indices, strict=True):
                book.update(_vectors(grid), chosen.flatten(), generator)
        return found

    def _autoencode(self, x: Tensor) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
        """Losses of the autoencoder; each level's grid and the numbers (B, positions) chosen for it, top first."""
        h = self.encoder.features(x)
        grids: list[Tensor] = []
        indices: list[Tensor] = []
        passed: list[Tensor] = []
        commitment, moved = h.new_zeros(()), h.new_zeros(())
        for level, book in enumerate(self.books):
            bottom = level == len(self.books) - 1
            top = passed[0] if bottom and level else None
            grid = self.encoder.bottom_grid(h, top) if bottom else self.encoder.top_grid(h)
            numbers = book(_vectors(grid)).reshape(len(x), -1)
            chosen = self._chosen(level, numbers.flatten(), grid)
            commitment = commitment + (grid - chosen.detach()).square().sum() / len(x)
            moved = moved + (grid.detach() - chosen).square().sum() / len(x)
            grids.append(grid)
            indices.append(numbers)
            passed.append(straight_through(grid, chosen))
        output = self.decoder(torch.cat([grid.flatten(1) for grid in passed], dim=1))
        parameters = self.likelihood.parameters(*read(output, len(x)))
        flat = x.flatten(1)
        found = {
            "distortion": -self.likelihood.log_prob(parameters, flat).mean(),
            "squared_error": (self.likelihood.mean(parameters) - flat).square().mean(),
            "commitment": commitment,
        }
        if isinstance(self.recipe.codebook, CodebookLoss):
            found["codebook"] = moved
        for name, numbers in zip(self.level_names, indices, strict=True):
            found[f"perplexity{name}"] = perplexity(numbers, self.recipe.n_codes)
        return found, grids, indices

    @property
    def level_names(self) -> list[str]:
        """Endings of the figures' names."""
        return [""] if self.recipe.levels == 1 else ["_top", "_bottom"]

    def _chosen(self, level: int, numbers: Tensor, grid: Tensor) -> Tensor:
        """The codebook's vectors with these numbers, as the grid; with gradient where they are parameters."""
        vectors: Tensor = self.books[level].vectors[numbers]
        return vectors.unflatten(0, (len(grid), -1)).transpose(1, 2).reshape_as(grid).to(grid)

    def _codes_cost(self, indices: list[Tensor], trained: bool) -> dict[str, Tensor]:
        """Nats per datum that the codes cost, and bits per code of each level."""
        prior = self.decoder.prior
        codes = torch.cat(indices, dim=1)
        if prior is None or not trained:
            nats = torch.full(codes.shape, math.log(self.recipe.n_codes), device=codes.device)
        else:
            nats = prior.nats(codes)
        parts = nats.split(self.decoder.positions, dim=1)
        bits = {f"bits_per_code{n}": p.mean() / math.log(2) for n, p in zip(self.level_names, parts, strict=True)}
        return {"rate": nats.sum(1).mean(), **bits}

    def _sum(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = found["distortion"] + found["rate"] + self.recipe.commitment * found["commitment"]
        if "codebook" in found:
            loss = loss + found["codebook"]
        return {"loss": loss, **found}

    @torch.no_grad()
    def finish(self, data: TrainData, generator: torch.Generator) -> LatentModel:
        """The model: decoder from unquantised codes, with codebooks and prior inside; scores of data held out."""
        self.eval()
        vectors = torch.stack([book.vectors.detach() for book in self.books])
        for net in (self.encoder, self.decoder):
            net.codebooks.copy_(vectors)
        x = data.x if data.held_out is None else data.held_out
        scores: dict[str, Any] = {"of": "training data" if data.held_out is None else "data held out", "n": len(x)}
        sums: dict[str, float] = {}
        indices = []
        for part in x.split(_ROWS):
            found, _grids, chosen = self._autoencode(part)
            found |= self._codes_cost(chosen, trained=True)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(part) / len(x)
            indices.append(torch.cat(chosen, dim=1))
        codes = torch.cat(indices)
        for name, part in zip(self.level_names, codes.split(self.decoder.positions, dim=1), strict=True):
            sums[f"perplexity{name}"] = float(perplexity(part, self.recipe.n_codes))
        scores |= {name: round(value, 6) for name, value in sums.items()}
        scores["bound"] = round(sums["distortion"] + sums["rate"], 6)  # minus log p(x) is at most this, in nats
        scores["log2_n_codes"] = round(math.log2(self.recipe.n_codes), 6)
        scores["codes_per_datum"] = sum(self.decoder.positions)
        decoder = wrap(self.decoder.cpu().eval(), self.decoder.latent_dim, self.likelihood)
        encoder = self.encoder.cpu().eval()
        stored = torch.cat([encoder(part) for part in data.stored.cpu().split(_ROWS)])
        labels = None if data.stored_labels is None else data.stored_labels.cpu()
        grids = [list(grid) for grid in self.decoder.grids]
        metadata = {"image_shape": list(data.shape), "grids": grids, "geometry": GEOMETRY, "scores": scores}
        return LatentModel(decoder, encoder, stored, labels, metadata)


def _vectors(grid: Tensor) -> Tensor:
    """A grid (B, c, h, w) as rows (B h w, c)."""
    return grid.flatten(2).transpose(1, 2).flatten(0, 1)


__all__ = ["GEOMETRY", "VQVAE", "Transformer", "VQVAELearner"]
