"""`GAN`: a generator trained against a critic, given codes by inversion and a precision, so that it is a `LatentModel`.

Goodfellow et al. (NeurIPS 2014); spectral normalisation after Miyato et al. (ICLR 2018); a running average of the
generator's weights after Yazıcı et al. (ICLR 2019); encoder and codes after Zhu et al. (ECCV 2016).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from latentgeo._calculus.checks import is_number
from latentgeo.decoders import Deterministic, fit_precision, wrap
from latentgeo.io import LatentModel
from latentgeo.train.adversarial import AdversarialLoss, NonSaturating, WassersteinGP
from latentgeo.train.inversion import invert
from latentgeo.train.networks import Dense, Network, ResNet
from latentgeo.train.recipe import Learner

if TYPE_CHECKING:
    from latentgeo.train.data import TrainData

__all__ = ["GAN", "GANLearner", "normalise_spectrally"]

_WARM = 15  # power iterations before training
_RAMP = 10  # the running average forgets its start within about so many steps
_SCORED = 1000  # held-out data that are inverted for the scores
_FITTED = 2000  # training data that are inverted for the precision


@dataclass(frozen=True)
class GAN:
    """A generative adversarial network.

    Parameters
    ----------
    latent_dim : int
        d; the prior is N(0, I).
    network : Network
        Of the generator and of the encoder that is fitted to it afterwards.
    critic : Network, optional
        Of the critic; as `network` if None (under a gradient penalty a ResNet with GroupNorm, since BatchNorm would
        make a datum's slope depend on the others).
    loss : AdversarialLoss
        `NonSaturating()`, `WassersteinGP()` or `FGAN(divergence)`.
    spectral_norm : float, optional
        Holds the weights of each of the critic's layers at this spectral norm, 1 in the paper. None: unconstrained.
    output : str, optional
        The generator's last activation, e.g. "sigmoid"; "auto" takes that for data in [0, 1], and none for others.
    average : float
        Decay of the running average of the generator's weights, which is the model that is kept; 0 keeps the last.
    betas : tuple of two floats
        Of Adam.
    critic_rate : float
        Learning rate of the critic, in units of the generator's.
    encoder_steps : int
        Steps for which an encoder is fitted to the finished generator; it starts the inversion.
    n_centers : int
        Of the RBF precision that is fitted to inverted codes; 0 for none, which leaves the decoder deterministic.
    bandwidth : float
        As for `fit_precision`.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind or out of range.

    References
    ----------
    .. [1] Goodfellow et al., "Generative adversarial nets", NeurIPS 2014, arXiv:1406.2661.
    .. [2] Miyato et al., "Spectral normalization for generative adversarial networks", ICLR 2018, arXiv:1802.05957.

    Examples
    --------
    >>> GAN(latent_dim=4, spectral_norm=1.0).loss
    NonSaturating(n_critic=1)
    """

    latent_dim: int = 2
    network: Network = field(default_factory=lambda: Dense((128, 128), "silu"))
    critic: Network | None = None
    loss: AdversarialLoss = field(default_factory=NonSaturating)
    spectral_norm: float | None = None
    output: str | None = "auto"
    average: float = 0.999
    betas: tuple[float, float] = (0.5, 0.9)
    critic_rate: float = 1.0
    encoder_steps: int = 2000
    n_centers: int = 64
    bandwidth: float = 1.0
    kind: ClassVar[str] = "gan"

    def __post_init__(self) -> None:
        for name, least in (("latent_dim", 1), ("encoder_steps", 0), ("n_centers", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
        for name in ("network", "critic"):
            value = getattr(self, name)
            if not isinstance(value, Network) and not (name == "critic" and value is None):
                raise TypeError(f"{name} must be a Network such as Dense(...) or LeNet(...); got {value!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1); got {self.betas!r}")
        if not isinstance(self.loss, AdversarialLoss):
            raise ValueError(f"loss must be NonSaturating(), WassersteinGP() or FGAN(...); got {self.loss!r}")
        critic = self.critic or self.network
        if isinstance(self.loss, WassersteinGP) and isinstance(critic, ResNet) and critic.norm == "batch":
            # Gulrajani et al. 2017, section 4: the penalty is of the slope at each datum on its own
            if self.critic is not None:
                raise ValueError(
                    "critic must not have BatchNorm under a gradient penalty, since a datum's output depends on the "
                    f"others; pass norm='group'; got {critic!r}"
                )
            object.__setattr__(self, "critic", replace(critic, norm="group"))
        if not is_number(self.average) or not 0 <= self.average < 1:
            raise ValueError(f"average must be in [0, 1); got {self.average!r}")
        for name in ("spectral_norm", "critic_rate", "bandwidth"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name} must be positive and finite; got {value!r}")

    def learner(self, data: TrainData, generator: torch.Generator) -> GANLearner:
        """Fresh networks for these data."""
        return GANLearner(self, data.shape, output_for(self.output, data.x))


class GANLearner(Learner):
    """Generator, its running average and critic; see `GAN`."""

    last: Tensor
    comparable = False  # a weak critic estimates a small divergence: before training it is least

    def __init__(self, recipe: GAN, shape: tuple[int, ...], output: str | None = None) -> None:
        super().__init__()
        self.recipe, self.shape = recipe, tuple(shape)
        self.generator = recipe.network.decoder(recipe.latent_dim, self.shape, output)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.critic = (recipe.critic or recipe.network).head(self.shape, 1)
        if recipe.spectral_norm is not None:
            normalise_spectrally(self.critic, recipe.spectral_norm)
        self.steps = 0  # of the critic
        self.register_buffer("last", torch.zeros(()))  # the generator's loss, for the books

    def get_extra_state(self) -> Tensor:
        """How many steps the critic has taken; kept on the CPU, where looking at it makes no GPU wait."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the count again."""
        self.steps = int(state)

    def optimizers(self, learning_rate: float, n_steps: int) -> list[torch.optim.Optimizer]:
        betas = self.recipe.betas
        return [
            torch.optim.Adam(self.generator.parameters(), lr=learning_rate, betas=betas),
            torch.optim.Adam(self.critic.parameters(), lr=learning_rate * self.recipe.critic_rate, betas=betas),
        ]

    def sample(self, n: int, generator: torch.Generator, *, averaged: bool = True) -> Tensor:
        """N generated data (n, *shape)."""
        network = self.average if averaged else self.generator
        device = next(network.parameters()).device
        z = torch.randn(n, self.recipe.latent_dim, generator=generator, device=generator.device)
        result: Tensor = network(z.to(device))
        return result

    def score(self, x: Tensor) -> Tensor:
        """The critic's output (B,) on data (B, *shape)."""
        result: Tensor = self.critic(x)
        return result.squeeze(-1)

    def losses(self, x: Tensor, progress: float, generator: torch.Generator) -> dict[str, Tensor]:
        """The "loss" is the critic's estimate of the divergence: what the generator means to make small."""
        fake = self.sample(len(x), generator, averaged=False)
        on_fake = self.score(fake)
        return {
            "loss": self.recipe.loss.estimate(self.score(x), on_fake),
            "generator": self.recipe.loss.generator_loss(on_fake),
        }

    def training_step(
        self, x: Tensor, progress: float, optimizers: Sequence[torch.optim.Optimizer], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """A step of the critic; after each `n_critic` of these one of the generator."""
        of_generator, of_critic = optimizers
        loss = self.recipe.loss
        with torch.no_grad():
            fake = self.sample(len(x), generator, averaged=False)
        critic_loss = loss.critic_loss(self.score, x, fake, generator)
        of_critic.zero_grad()
        self.backward(critic_loss)
        of_critic.step()
        self.steps += 1
        if self.steps % loss.n_critic == 0:
            self.critic.requires_grad_(False)
            generator_loss = loss.generator_loss(self.score(self.sample(len(x), generator, averaged=False)))
            of_generator.zero_grad()
            self.backward(generator_loss)
            of_generator.step()
            self.critic.requires_grad_(True)
            self._follow()
            self.last.copy_(generator_loss.detach())
        return {"loss": -critic_loss.detach(), "generator": self.last.clone()}

    @torch.no_grad()
    def _follow(self) -> None:
        done = self.steps // self.recipe.loss.n_critic
        decay = min(self.recipe.average, done / (done + _RAMP)) if self.recipe.average else 0.0
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)
        for slow, fast in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            slow.copy_(fast)

    def finish(self, data: TrainData, generator: torch.Generator) -> LatentModel:
        """The averaged generator with an encoder, inverted codes, a precision fitted on them, and scores."""
        recipe = self.recipe
        network = copy.deepcopy(self.average).eval().requires_grad_(False)
        decoder = wrap(network, recipe.latent_dim, Deterministic())
        encoder = recipe.network.encoder(self.shape, recipe.latent_dim).to(data.x.device)
        fit_encoder(encoder, network, data.x, recipe.latent_dim, recipe.encoder_steps, generator)
        encoder.eval().requires_grad_(False)
        model = LatentModel(decoder, encoder)
        scored = data.scored[:_SCORED]
        guessed = float((decoder.mean(model.encode(scored)) - scored.flatten(1)).square().mean())
        # The likeliest codes under normal noise of that variance: data that cannot be generated would else be given
        # codes far outside the prior, where the generator has never been.
        found = invert(model, scored, prior_weight=guessed)
        scores: dict[str, Any] = {
            "inversion_mse": found.mse,
            "inversion_mse_of_encoder": guessed,
            "inversion_mse_of_mean": float((scored.flatten(1) - data.x.flatten(1).mean(0)).square().mean()),
            "inversion_converged": float(found.converged.double().mean()),
            "inverted": len(scored),
        }
        codes = invert(model, data.stored, prior_weight=guessed).codes
        if recipe.n_centers:
            some = data.x[torch.randperm(len(data.x), generator=generator, device=generator.device)[:_FITTED]]
            decoder = fit_precision(
                decoder,
                invert(model, some, prior_weight=guessed).codes,
                some.flatten(1),
                n_centers=recipe.n_centers,
                bandwidth=recipe.bandwidth,
                progress=False,
            )
            x = scored.flatten(1)
            scores["log_likelihood_at_inverted"] = float(decoder.log_prob(found.codes, x).double().mean())
        return LatentModel(decoder, encoder, codes, data.stored_labels, {"scores": scores})


def fit_encoder(
    encoder: nn.Module,
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    latent_dim: int,
    n_steps: int,
    generator: torch.Generator,
    batch_size: int = 256,
) -> None:
    """Fit an encoder (mean, std) to a fixed generator, in place.

    The first half of the steps maximises the likelihood of codes given what is generated from them. The second adds
    real data (N, *shape), whose codes should generate them again, with N(0, I) as a weak prior on these codes.
    """
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    device, variance = x.device, float(x.var())
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / n_steps)))
        z = torch.randn(batch_size, latent_dim, generator=generator, device=generator.device).to(device)
        with torch.no_grad():
            fake = network(z)
        mean, std = encoder(fake)
        loss = (((z - mean) / std).square() / 2 + std.log()).sum(1).mean()
        if 2 * step >= n_steps:
            rows = torch.randint(len(x), (batch_size,), generator=generator, device=generator.device).to(device)
            mean, _ = encoder(x[rows])
            misfit = (network(mean) - x[rows]).flatten(1).square().sum(1).mean()
            loss = 0.1 * loss + misfit / max(variance, 1e-12) / latent_dim + 0.05 * mean.square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 10.0)
        optimizer.step()


def output_for(output: str | None, x: Tensor) -> str | None:
    """The activation that "auto" stands for with these data."""
    if output != "auto":
        return output
    return "sigmoid" if bool((x >= 0).all() and (x <= 1).all()) else None


class SpectralNorm(nn.Module):
    """Parametrisation of a weight by a matrix of free scale: its largest singular value is held at `norm`.

    One power iteration in each forward pass while training (Miyato et al. 2018, algorithm 1).

    Parameters
    ----------
    weight : Tensor of shape (out, ...), or (S, out, in) if stacked
    norm : float
    stacked : bool
        The weight is S matrices, each normalised for itself.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, norm: float = 1.0, stacked: bool = False) -> None:
        super().__init__()
        self.norm, self.stacked = norm, stacked
        matrix = self._matrix(weight.detach())
        self.register_buffer("u", functional.normalize(torch.randn_like(matrix[..., :1]), dim=-2))
        self.register_buffer("v", functional.normalize(matrix.mT @ self.u, dim=-2))
        for _ in range(_WARM):
            self._iterate(matrix)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight if self.stacked else weight.flatten(1)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self.u = functional.normalize(matrix @ self.v, dim=-2)
        self.v = functional.normalize(matrix.mT @ self.u, dim=-2)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, of the same shape and of this spectral norm."""
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix.detach())
        sigma = self.u.mT @ matrix @ self.v  # (..., 1, 1)
        return (self.norm * matrix / sigma).reshape(weight.shape)


def normalise_spectrally(module: nn.Module, norm: float = 1.0) -> None:
    """Hold every linear and convolutional layer's weight, as a matrix of its output units, at a spectral norm.

    In place. A layer of another kind takes part if it has a `weight` that is a stack of matrices and says so by an
    attribute `stacked`.

    Parameters
    ----------
    module : torch.nn.Module
        A network in train mode: each call is one step of the power iteration.
    norm : float
        The spectral norm; 1 bounds each layer's Lipschitz constant by 1.

    Examples
    --------
    >>> layer = nn.Linear(5, 3)
    >>> normalise_spectrally(layer, 2.0)
    >>> for _ in range(100):
    ...     _ = layer(torch.zeros(1, 5))
    >>> round(torch.linalg.matrix_norm(layer.weight, 2).item(), 4)
    2.0
    """
    for layer in list(module.modules()):
        stacked = getattr(layer, "stacked", False) is True
        if stacked or isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            weight: Any = layer.weight
            parametrize.register_parametrization(layer, "weight", SpectralNorm(weight, norm, stacked))
