"""`latentgeo train vae`: a variational autoencoder from data to a checkpoint."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentgeo._cli.training import Training, takes_training

if TYPE_CHECKING:
    from latentgeo.train import Network


class Architecture(str, Enum):
    """Families of networks."""

    dense = "dense"
    lenet = "lenet"
    resnet = "resnet"


class Family(str, Enum):
    """Likelihoods that a VAE is trained with."""

    gaussian = "gaussian"
    bernoulli = "bernoulli"
    categorical = "categorical"
    poisson = "poisson"
    negative_binomial = "negative-binomial"


class Scale(str, Enum):
    """How a Gaussian's standard deviation is learned."""

    rbf = "rbf"
    network = "network"


class Binarisation(str, Enum):
    """How grey values become bits."""

    dynamic = "dynamic"
    static = "static"
    threshold = "threshold"
    none = "none"


MODEL = "Model"
OBJECTIVE = "Objective"


def _model(help: str, **more: Any) -> Any:  # noqa: A002 - typer's own word
    return typer.Option(help=help, rich_help_panel=MODEL, **more)


def _objective(help: str, **more: Any) -> Any:  # noqa: A002 - typer's own word
    return typer.Option(help=help, rich_help_panel=OBJECTIVE, **more)


def network(architecture: Architecture, hidden: str, width: int, activation: str | None) -> Network:
    """The network family that options describe."""
    from latentgeo import train

    more: dict[str, Any] = {} if activation is None else {"activation": activation}
    if architecture is Architecture.lenet:
        return train.LeNet(width=width, **more)
    if architecture is Architecture.resnet:
        return train.ResNet(width=width, **more)
    parts = hidden.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"--hidden must be positive integers with commas between them, such as 64,32; got {hidden}")
    return train.Dense(tuple(map(int, parts)), **more)


@takes_training()
def vae(
    training: Training,
    latent_dim: Annotated[int, _model("Number of latent coordinates d.", min=1)] = 2,
    architecture: Annotated[
        Architecture, typer.Option("--network", help="Family of networks.", rich_help_panel=MODEL)
    ] = Architecture.dense,
    hidden: Annotated[str, _model("dense: hidden widths, data side first.", metavar="N,N,…")] = "64,32",
    width: Annotated[int, _model("lenet, resnet: channels of the first layer.", min=1)] = 16,
    activation: Annotated[
        str | None,
        _model(
            "tanh (dense), silu (lenet, resnet), softplus, gelu, elu, relu, sigmoid.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    likelihood: Annotated[Family, _model("What data are, given a code.")] = Family.gaussian,
    binarise: Annotated[
        Binarisation | None, _model("bernoulli: how grey values become 0 and 1; never guessed.", show_default=False)
    ] = None,
    sigma: Annotated[
        float | None,
        _model("gaussian: a constant standard deviation, instead of a learned one.", show_default=False),
    ] = None,
    scale: Annotated[
        Scale,
        _model("gaussian: σ by an RBF precision in a second stage, or by a network trained with the mean."),
    ] = Scale.rbf,
    first_sigma: Annotated[
        float | None,
        _model(
            "rbf: σ of the first stage; σ² is a fortieth of the data's total variance if not given.", show_default=False
        ),
    ] = None,
    centers: Annotated[int, _model("rbf: number of centres.", min=1)] = 64,
    bandwidth: Annotated[float, _model("rbf: bandwidth a.")] = 1.0,
    beta: Annotated[float, _objective("Weight of the KL term.", min=0.0)] = 1.0,
    warmup: Annotated[
        float, _objective("Fraction of the training over which that weight rises from 0.", min=0.0, max=1.0)
    ] = 0.35,
    free_bits: Annotated[float, _objective("Nats per axis that the KL term counts at least.", min=0.0)] = 0.0,
    importance_samples: Annotated[
        int, _objective("K above 1 trains the importance-weighted bound with K samples.", min=1)
    ] = 1,
    weight_decay: Annotated[float, _objective("L2 penalty.", min=0.0)] = 0.0,
    score_samples: Annotated[int, _objective("Importance samples per datum held out, for log p(x).", min=1)] = 100,
) -> None:
    """Train a variational autoencoder and write it with its codes, scores and provenance.

    The scores are of data held out: log_likelihood is log p(x) by importance sampling, in nats per datum. Beside the
    checkpoint goes a page with the training curves. A run that was killed goes on from its last epoch when the same
    command is given again.

    Exit code 0: done; 2: bad input, or training diverged.
    """
    import latentgeo as lg
    from latentgeo import train

    options: dict[str, Any] = {}
    if sigma is not None and likelihood is not Family.gaussian:
        raise ValueError(f"--sigma must go with --likelihood gaussian; got {likelihood.value}")
    if binarise is not None and likelihood is not Family.bernoulli:
        raise ValueError(f"--binarise must go with --likelihood bernoulli; got {likelihood.value}")
    if likelihood is Family.gaussian:
        options["likelihood"] = lg.Gaussian(sigma=sigma)
        rbf = train.RBF(first_sigma, n_centers=centers, bandwidth=bandwidth)
        options["scale"] = rbf if scale is Scale.rbf else train.ScaleNetwork()
    elif likelihood is Family.poisson:
        options["likelihood"] = lg.Poisson(output="log_rate")
    elif likelihood is Family.negative_binomial:
        options["likelihood"] = lg.NegativeBinomial(output="log_mean")
    else:
        options["likelihood"] = likelihood.value
    recipe = train.VAE(
        latent_dim=latent_dim,
        network=network(architecture, hidden, width, activation),
        beta=beta,
        warmup=warmup,
        free_bits=free_bits,
        importance_samples=importance_samples,
        binarise=None if binarise is None else train.Binarise(binarise.value, seed=training.seed),
        weight_decay=weight_decay,
        score_samples=score_samples,
        **options,
    )
    training.run(recipe)
