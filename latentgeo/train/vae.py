"""Variational autoencoders: the recipe `VAE`, and its learner.

Kingma, Welling, "Auto-Encoding Variational Bayes" (2014); a Gaussian's precision by the two stages of Arvanitidis,
Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018): the mean at constant variance first, then an RBF precision.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from latentgeo._calculus.checks import is_number
from latentgeo.decoders import Gaussian, NegativeBinomial, fit_precision, wrap
from latentgeo.decoders._likelihood import Likelihood
from latentgeo.decoders.heads import MeanAndStd
from latentgeo.decoders.likelihoods import as_likelihood
from latentgeo.decoders.outputs import read
from latentgeo.io import LatentModel
from latentgeo.train import _fitness
from latentgeo.train.binarise import Binarise, as_binarise, draw, is_binary
from latentgeo.train.data import TrainData
from latentgeo.train.evidence import log_evidence
from latentgeo.train.networks import Dense, Network
from latentgeo.train.objectives import free_bits_kl, gaussian_kl, importance_bound, log_ratio, warmup_weight
from latentgeo.train.recipe import Learner, adam

COLLAPSED = 0.01  # variance of a latent axis's codes below which it carries nothing (Burda et al. 2016, section 5.2)
_SHARE = 40.0  # an unset variance of the first stage is so small a share of the data's total variance
_ROWS = 2_000
_OUTPUT = {"probs": "sigmoid", "rate": "softplus", "mean": "softplus"}  # activations that likelihoods' outputs need


@dataclass(frozen=True)
class RBF:
    """Second stage of a Gaussian VAE: an RBF precision on the frozen decoder, by `fit_precision`.

    Parameters
    ----------
    sigma : float, optional
        The constant standard deviation of the first stage, in data units. Default: its square is a fortieth of the
        data's total variance, at which a small VAE uses its axes.
    n_centers, bandwidth, floor
        As for `fit_precision`.
    posterior_samples : int
        Samples of each datum's posterior that the precision is fitted to.

    Raises
    ------
    ValueError
        If a number is not positive and finite, or a count not a positive integer.

    Examples
    --------
    >>> RBF(n_centers=32).bandwidth
    1.0
    """

    sigma: float | None = None
    n_centers: int = 64
    bandwidth: float = 1.0
    floor: float = 1e-3
    posterior_samples: int = 1

    def __post_init__(self) -> None:
        _whole(self, "n_centers", "posterior_samples")
        for name in ("bandwidth", "floor") if self.sigma is None else ("sigma", "bandwidth", "floor"):
            if not is_number(value := getattr(self, name)) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {value!r}")


@dataclass(frozen=True)
class ScaleNetwork:
    """A network for a Gaussian's standard deviation, of the mean's architecture, trained with it.

    Parameters
    ----------
    floor : float
        The least standard deviation, in data units. A pixel that is always black would else become infinitely precise.

    Raises
    ------
    ValueError
        If `floor` is negative or not finite.

    Examples
    --------
    >>> ScaleNetwork()
    ScaleNetwork(floor=0.01)
    """

    floor: float = 0.01

    def __post_init__(self) -> None:
        if not is_number(self.floor) or not 0 <= self.floor < math.inf:
            raise ValueError(f"floor must be finite and not negative; got {self.floor!r}")


@dataclass(frozen=True)
class VAE:
    """Recipe of a variational autoencoder with a standard normal prior and a diagonal Gaussian posterior.

    Parameters
    ----------
    latent_dim : int
        d.
    network : Network
        `Dense(...)`, `LeNet(...)` or `ResNet(...)`.
    likelihood : Likelihood or str
        `Gaussian()`: the standard deviation is learned as `scale` says; `Gaussian(sigma=...)`: it is constant.
        `Bernoulli()`, `Categorical()` (one-hot data), `Poisson()`, `NegativeBinomial()` (its inverse dispersion, one
        per coordinate, is learned unless given).
    scale : RBF or ScaleNetwork
        How a Gaussian's standard deviation is learned.
    beta : float
        Weight of the KL term; 1 is the evidence lower bound.
    warmup : float
        Fraction of the training over which that weight rises from 0. Without it an axis often collapses.
    free_bits : float
        Nats per latent axis that the KL term counts at least.
    importance_samples : int
        K > 1: the importance-weighted bound of Burda et al. with K samples.
    binarise : Binarise or str, optional
        For Bernoulli and grey data, which are refused without it: "dynamic", "static", "threshold", "none".
    weight_decay : float
        L2 penalty of Adam.
    score_samples : int
        Importance samples for log p(x) of the data held out.
    score_data : int
        Of at most so many of them.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind or out of range.

    References
    ----------
    .. [1] Kingma, Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114.
    .. [2] Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, arXiv:1509.00519.

    Examples
    --------
    >>> VAE(latent_dim=2, likelihood="bernoulli", binarise="dynamic").likelihood
    Bernoulli(output='logits')
    """

    kind: ClassVar[str] = "vae"
    latent_dim: int = 2
    network: Network = field(default_factory=Dense)
    likelihood: Likelihood | str = field(default_factory=Gaussian)
    scale: RBF | ScaleNetwork = field(default_factory=RBF)
    beta: float = 1.0
    warmup: float = 0.35
    free_bits: float = 0.0
    importance_samples: int = 1
    binarise: Binarise | str | None = None
    weight_decay: float = 0.0
    score_samples: int = 100
    score_data: int = 2_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "likelihood", as_likelihood(self.likelihood))
        object.__setattr__(self, "binarise", as_binarise(self.binarise))
        _whole(self, "latent_dim", "importance_samples", "score_samples", "score_data")
        if not isinstance(self.network, Network):
            raise TypeError(f"network must be a Network such as Dense(...) or LeNet(...); got {self.network!r}")
        if not isinstance(self.scale, (RBF, ScaleNetwork)):
            raise TypeError(f"scale must be RBF(...) or ScaleNetwork(...); got {self.scale!r}")
        for name in ("beta", "warmup", "free_bits", "weight_decay"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative; got {value!r}")
        if self.warmup > 1:
            raise ValueError(f"warmup must be a fraction of the training, at most 1; got {self.warmup!r}")
        if self.importance_samples > 1 and self.free_bits > 0:
            raise ValueError("free_bits needs the KL term, which the bound of importance_samples > 1 does not have")

    def prepare(self, data: TrainData) -> TrainData:
        """The data as they are trained on: binarised once, where that was asked for."""
        how = self.binarise
        if not isinstance(how, Binarise) or how.kind not in ("static", "threshold") or is_binary(data.x):
            return data
        _fitness.check(self.likelihood, how, data)  # type: ignore[arg-type]  # resolved in __post_init__
        held = data.held_out
        return replace(data, x=how.once(data.x), held_out=None if held is None else how.once(held))

    def learner(self, data: TrainData, generator: torch.Generator) -> VAELearner:
        """The networks and the objective, for these data."""
        return VAELearner(self, data)


class VAELearner(Learner):
    """Encoder, decoder and what they maximise."""

    def __init__(self, recipe: VAE, data: TrainData) -> None:
        super().__init__()
        self.recipe = recipe
        self.warmup = recipe.warmup
        self.shape = data.shape
        likelihood: Any = recipe.likelihood
        self.binarise = _fitness.check(likelihood, recipe.binarise, data)
        counts = likelihood.name in ("poisson", "negative-binomial")
        self.encoder = recipe.network.encoder(self.shape, recipe.latent_dim, "log1p" if counts else None)
        output = _OUTPUT.get(getattr(likelihood, "output", ""))
        self.two_stages = isinstance(likelihood, Gaussian) and likelihood.sigma is None
        self.log_r: nn.Parameter | None = None
        if isinstance(likelihood, Gaussian):
            output = "sigmoid" if float(data.x.min()) >= 0 and float(data.x.max()) <= 1 else None
        self.decoder = recipe.network.decoder(recipe.latent_dim, self.shape, output)
        if self.two_stages and isinstance(recipe.scale, ScaleNetwork):
            self.two_stages = False
            std = recipe.network.decoder(recipe.latent_dim, self.shape, "softplus")
            self.decoder = MeanAndStd(self.decoder, std, recipe.scale.floor)
            likelihood = Gaussian(scale="std")
        elif self.two_stages and isinstance(recipe.scale, RBF):
            sigma = recipe.scale.sigma
            if sigma is None:
                sigma = math.sqrt(float(data.x.double().flatten(1).var(0).sum()) / _SHARE)
            likelihood = Gaussian(sigma=sigma)
        elif isinstance(likelihood, NegativeBinomial) and likelihood.inverse_dispersion is None:
            self.log_r = nn.Parameter(torch.zeros(data.data_dim))
        _fitness.centre(self.decoder, likelihood, data.x)
        self.likelihood = likelihood

    def optimizers(self, learning_rate: float, n_steps: int) -> list[torch.optim.Optimizer]:
        return [adam(self.parameters(), learning_rate, self.recipe.weight_decay)]

    def _log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """Log p(x | z) of codes (K, B, d) and data (B, D): (K, B)."""
        named, shape = read(self.decoder(z.flatten(0, 1)), z.shape[0] * z.shape[1])
        if self.log_r is not None:
            named["inverse_dispersion"] = self.log_r.exp().expand(len(z.flatten(0, 1)), -1)
        parameters = self.likelihood.parameters(named, shape)
        parameters = {name: value.unflatten(0, z.shape[:2]) for name, value in parameters.items()}
        return self.likelihood.log_prob(parameters, x.expand(len(z), *x.shape))

    def losses(self, x: Tensor, progress: float, generator: torch.Generator) -> dict[str, Tensor]:
        recipe = self.recipe
        if self.binarise is not None and self.binarise.kind == "dynamic":
            x = draw(x, generator)
        mean, std = self.encoder(x)
        noise = torch.randn(
            recipe.importance_samples, *mean.shape, generator=generator, device=x.device, dtype=mean.dtype
        )
        z = mean + std * noise
        likely = self._log_prob(z, x.flatten(1))
        kl = gaussian_kl(mean, std)
        reconstruction, divergence = likely.mean(), kl.sum(-1).mean()
        weight = recipe.beta * warmup_weight(progress, recipe.warmup)
        found = {"elbo": reconstruction - divergence, "kl": divergence, "reconstruction": reconstruction}
        if recipe.importance_samples > 1:
            ratio = log_ratio(z, noise, std)
            found["iwae"] = importance_bound(likely + ratio).mean()
            return {"loss": -importance_bound(likely + weight * ratio).mean(), **found}
        penalty = free_bits_kl(kl, recipe.free_bits) if recipe.free_bits > 0 else divergence
        return {"loss": weight * penalty - reconstruction, **found}

    @torch.no_grad()
    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self.encoder(part) for part in x.split(_ROWS)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])

    def finish(self, data: TrainData, generator: torch.Generator) -> LatentModel:
        recipe = self.recipe
        self.eval().requires_grad_(False)
        x = data.x if self.binarise is None else self.binarise.once(data.x)
        mean, std = self._posterior(x)
        likelihood = self.likelihood
        if self.log_r is not None:
            likelihood = NegativeBinomial(tuple(self.log_r.exp().tolist()), output=likelihood.output)
        decoder = wrap(self.decoder, recipe.latent_dim, likelihood)
        if self.two_stages and isinstance(rbf := recipe.scale, RBF):
            noise = torch.randn(rbf.posterior_samples, *mean.shape, generator=generator, device=mean.device)
            decoder = fit_precision(
                decoder,
                mean + std * noise,
                x,
                n_centers=rbf.n_centers,
                bandwidth=rbf.bandwidth,
                floor=rbf.floor,
                random_state=0,
                progress=False,
            )
        codes = self._posterior(data.stored)[0]
        model = LatentModel(decoder, self.encoder, codes, data.stored_labels)
        kl = gaussian_kl(mean, std).mean(0)
        variance = mean.var(0)
        collapsed = [i for i, v in enumerate(variance.tolist()) if v < COLLAPSED]
        if collapsed:
            warnings.warn(_collapse(collapsed, recipe), UserWarning, stacklevel=2)
        scores = log_evidence(
            model,
            data.scored[: recipe.score_data],
            n_samples=recipe.score_samples,
            binarise=self.binarise,
            generator=generator,
        ).to_dict()
        if likelihood.name == "bernoulli" and recipe.binarise is not None:
            scores["data"] = str(recipe.binarise)
        scores["of"] = "data held out" if data.held_out is not None else "training data"
        metadata = {
            "scores": scores,
            "kl_per_axis": kl.tolist(),
            "code_std": variance.sqrt().tolist(),
            "collapsed_axes": collapsed,
            "image_shape": list(data.shape) if len(data.shape) == 2 else None,
            "binarisation": None if likelihood.name != "bernoulli" else str(recipe.binarise or "binary as given"),
        }
        return LatentModel(decoder, self.encoder, codes, data.stored_labels, metadata)


def _whole(recipe: Any, *names: str) -> None:
    for name in names:
        value = getattr(recipe, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer; got {value!r}")


def _collapse(axes: list[int], recipe: VAE) -> str:
    shown = ", ".join(map(str, axes[:10])) + (", …" if len(axes) > 10 else "")
    return (
        f"{len(axes)} of {recipe.latent_dim} latent axes collapsed (axis {shown}: the codes' variance is below "
        f"{COLLAPSED}, so it carries nothing); a smaller latent_dim would do, or try a longer warmup, free_bits, a "
        "smaller beta, or another seed"
    )


__all__ = ["RBF", "VAE", "ScaleNetwork", "VAELearner"]
