"""`Flow`: a normalising flow fitted by maximum likelihood, and `FlowDensity`: the density it is.

On data it is a density model, on a model's codes a prior, and either way a decoder; zuko has the transforms
(Papamakarios et al., "Normalizing flows for probabilistic modeling and inference", JMLR 2021).
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from latentgeo._calculus.checks import is_number
from latentgeo._calculus.seeds import torch_random
from latentgeo.decoders import Deterministic, wrap
from latentgeo.decoders.flows import FLOW_KINDS, FlowEncoder, FlowNetwork, check_arguments, wrap_angle
from latentgeo.io import CheckpointError, LatentModel, load, save
from latentgeo.train.recipe import Learner

if TYPE_CHECKING:
    from latentgeo.train.data import TrainData

__all__ = ["Flow", "FlowDensity", "FlowLearner", "gaussian_log_prob"]

_CLIP = 5.0  # of the gradient's norm
_ROWS = 4096  # scored at once


@dataclass(frozen=True)
class Flow:
    """A normalising flow.

    Parameters
    ----------
    transform : str
        "coupling" (RealNVP), "maf", "nsf", "unaf", "cnf", or "circular" for angles in radians (a torus).
    transforms : int
        How many invertible layers.
    hidden : tuple of int
        Widths of the networks that give the layers' parameters.
    bins : int
        Of the splines of "nsf" and "circular".
    steps : int
        Runge–Kutta steps of "cnf".
    weight_decay : float
        Of Adam.

    Raises
    ------
    ValueError
        If an option is out of range.

    References
    ----------
    .. [1] Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows", NeurIPS 2019, arXiv:1906.04032. For the
       others see `latentgeo.decoders.FlowNetwork`.

    Examples
    --------
    >>> Flow("coupling", transforms=6).hidden
    (64, 64)
    """

    transform: str = "nsf"
    transforms: int = 4
    hidden: tuple[int, ...] = (64, 64)
    bins: int = 8
    steps: int = 16
    weight_decay: float = 0.0
    kind: ClassVar[str] = "flow"

    def __post_init__(self) -> None:
        given: Any = self.hidden
        object.__setattr__(self, "hidden", tuple(given) if isinstance(given, list) else given)
        if not isinstance(self.transform, str) or self.transform not in FLOW_KINDS:
            raise ValueError(f"transform must be one of {', '.join(map(repr, FLOW_KINDS))}; got {self.transform!r}")
        check_arguments(self.transform, 2, self.transforms, self.hidden, self.bins, self.steps)
        if not is_number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative; got {self.weight_decay!r}")

    def network(self, dim: int) -> FlowNetwork:
        """A fresh flow of d dimensions."""
        return FlowNetwork(self.transform, dim, self.transforms, self.hidden, self.bins, self.steps)

    def learner(self, data: TrainData, generator: torch.Generator) -> FlowLearner:
        """A fresh flow for these data, standardised by their mean and standard deviation."""
        network = self.network(data.data_dim)
        network.standardise(data.x.flatten(1).to(network.loc))
        return FlowLearner(self, network)


class FlowLearner(Learner):
    """A flow under maximum likelihood; see `Flow`."""

    def __init__(self, recipe: Flow, network: FlowNetwork) -> None:
        super().__init__()
        self.recipe, self.network = recipe, network

    def optimizers(self, learning_rate: float, n_steps: int) -> list[torch.optim.Optimizer]:
        weights = [p for p in self.parameters() if p.requires_grad]
        return [torch.optim.Adam(weights, lr=learning_rate, weight_decay=self.recipe.weight_decay)]

    def losses(self, x: Tensor, progress: float, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": -self.network.log_prob(x.flatten(1)).mean()}

    def training_step(
        self, x: Tensor, progress: float, optimizers: Sequence[torch.optim.Optimizer], generator: torch.Generator
    ) -> dict[str, Tensor]:
        (optimizer,) = optimizers
        found = self.losses(x, progress, generator)
        optimizer.zero_grad()
        self.backward(found["loss"])
        nn.utils.clip_grad_norm_(self.parameters(), _CLIP)
        optimizer.step()
        return found

    @torch.no_grad()
    def finish(self, data: TrainData, generator: torch.Generator) -> LatentModel:
        """The flow as a decoder, its inverse as encoder, held-out log-likelihoods as scores, in nats per datum."""
        network = copy.deepcopy(self.network).eval().requires_grad_(False)
        x, scored = data.x.flatten(1), data.scored.flatten(1)
        own = torch.cat([network.log_prob(part) for part in scored.split(_ROWS)])
        scores: dict[str, Any] = {"log_likelihood": float(own.double().mean()), "scored": len(scored)}
        if len(own) > 1:
            scores["log_likelihood_sem"] = float(own.double().std()) / math.sqrt(len(own))
        if network.periodic:
            scores["log_likelihood_uniform"] = -network.dim * math.log(2 * math.pi)
        else:
            scores["log_likelihood_gaussian"] = float(gaussian_log_prob(x, scored).mean())
            standard = network.base_log_prob(scored.double())
            scores["log_likelihood_standard_normal"] = float(standard.mean())
        return _model(network, data.stored.flatten(1), data.stored_labels, {"scores": scores})


def gaussian_log_prob(train: Tensor, x: Tensor) -> Tensor:
    """Log-density (N,) of data (N, d), float64, under the normal distribution that fits training data best.

    Raises
    ------
    ValueError
        If the training data lie in a hyperplane.
    """
    train, x = train.double(), x.double()
    mean, d = train.mean(0), train.shape[1]
    covariance = torch.atleast_2d(torch.cov(train.T, correction=0))
    factor, info = torch.linalg.cholesky_ex(covariance)
    if int(info):
        raise ValueError("data must not lie in a hyperplane, where a density does not exist")
    standard = torch.linalg.solve_triangular(factor, (x - mean).T, upper=False)
    return -0.5 * (standard.square().sum(0) + d * math.log(2 * math.pi)) - factor.diagonal().log().sum()


def _model(network: FlowNetwork, stored: Tensor | None, labels: Tensor | None, metadata: dict[str, Any]) -> LatentModel:
    if network.periodic and not network.embed:
        network = _embedded(network)
    decoder = wrap(network, network.dim, Deterministic())
    codes = None
    if stored is not None:
        codes = torch.cat([network.normalise(part) for part in stored.split(_ROWS)]).contiguous()
        codes = wrap_angle(codes) if network.periodic else codes
    return LatentModel(decoder, FlowEncoder.of(network), codes, labels, metadata)


def _embedded(network: FlowNetwork) -> FlowNetwork:
    """The same flow of angles, decoding to cosines and sines."""
    other = FlowNetwork(**{**network.arguments, "embed": True})
    other.load_state_dict(network.state_dict())
    other.to(network.loc)
    return other.eval().requires_grad_(False)


class FlowDensity:
    r"""The density of a flow: exact, differentiable, and easy to sample. Frozen.

    Called on points it gives log-densities, so it goes wherever a log-density is wanted: `lg.langevin`, say.

    Parameters
    ----------
    source : LatentModel or FlowNetwork
        What `fit` returned for a `Flow` recipe, or a network.

    Attributes
    ----------
    network : FlowNetwork
    dim : int
        d.
    metadata : dict
        Of the model; `scores` among it.
    measure : str
        "lebesgue": what the density is a density of.

    Raises
    ------
    TypeError
        If `source` is no flow.

    Examples
    --------
    >>> density = FlowDensity(Flow("nsf").network(2))
    >>> density
    FlowDensity(nsf, d=2, 4 transforms)
    >>> density(torch.zeros(3, 2)).shape, density.sample(5, random_state=0).shape
    (torch.Size([3]), torch.Size([5, 2]))
    """

    measure: Literal["lebesgue"] = "lebesgue"
    network: FlowNetwork
    metadata: dict[str, Any]

    def __init__(self, source: LatentModel | FlowNetwork) -> None:
        network: Any = source.decoder.module if isinstance(source, LatentModel) else source
        if not isinstance(network, FlowNetwork):
            raise TypeError(f"source must be a FlowNetwork, or a LatentModel whose decoder is one; got {source!r}")
        metadata = dict(source.metadata) if isinstance(source, LatentModel) else {}
        object.__setattr__(self, "network", network.eval())
        object.__setattr__(self, "metadata", metadata)

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"FlowDensity is frozen; build a new one to change `{key}`")

    def __repr__(self) -> str:
        arguments = self.network.arguments
        return f"FlowDensity({arguments['kind']}, d={self.dim}, {arguments['transforms']} transforms)"

    @property
    def dim(self) -> int:
        """How many coordinates a point has."""
        return self.network.dim

    @property
    def period(self) -> tuple[float, ...] | None:
        """Of each coordinate on a torus; None elsewhere."""
        return (2 * math.pi,) * self.dim if self.network.periodic else None

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (*batch,) at points (*batch, d), in nats; differentiable.

        Raises
        ------
        TypeError, ValueError
            If `x` is of another dtype, device or last dimension.
        """
        here = self.network.loc
        if not isinstance(x, Tensor) or x.ndim < 1 or x.shape[-1] != self.dim:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x must be a tensor of shape (*batch, {self.dim}); got {got}")
        if x.dtype != here.dtype or x.device != here.device:
            raise TypeError(
                f"x must be {here.dtype} on {here.device}, as the flow is; got {x.dtype} on {x.device}: cast it, or "
                "the density with .to(...)"
            )
        return self.network.log_prob(x.reshape(-1, self.dim)).reshape(x.shape[:-1])

    __call__ = log_prob

    @torch.no_grad()
    def sample(self, n: int, *, random_state: int | torch.Generator | None = None) -> Tensor:
        """Independent points (n, d).

        Parameters
        ----------
        n : int
        random_state : int, torch.Generator or None
            None draws from torch's global generator.
        """
        z = self.network.base_sample(n, torch_random(random_state))
        return torch.cat([self.network.points(part) for part in z.split(_ROWS)]) if n else z

    def to(self, target: torch.dtype | torch.device | str) -> FlowDensity:
        """A copy in another dtype or on another device."""
        other = FlowDensity(copy.deepcopy(self.network).to(target))
        other.metadata.update(self.metadata)
        return other

    @property
    def model(self) -> LatentModel:
        """The flow as a model: its generator the decoder, its inverse the encoder."""
        return _model(copy.deepcopy(self.network).requires_grad_(False), None, None, self.metadata)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a native checkpoint; `lg.load` reads it as `model`, `FlowDensity.load` as a density."""
        save(self.model, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FlowDensity:
        """The density in a native checkpoint of a flow.

        Raises
        ------
        CheckpointError
            If the file is not one.
        """
        model = load(path)
        if not isinstance(model.decoder.module, FlowNetwork):
            raise CheckpointError(path, f"holds {model!r}, which is not a flow")
        return cls(model)
