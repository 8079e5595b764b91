"""`latentgeo train vae`: a variational autoencoder from data to a checkpoint."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from latentgeo._cli.training import Training, of_model, of_objective, takes_training, widths

if TYPE_CHECKING:
    from latentgeo.train import Network


class Architecture(StrEnum):
    """Families of networks."""

    dense = "dense"
    lenet = "lenet"
    resnet = "resnet"


class Family(StrEnum):
    """Likelihoods that a VAE is trained with."""

    gaussian = "gaussian"
    bernoulli = "bernoulli"
    categorical = "categorical"
    poisson = "poisson"
    negative_binomial = "negative-binomial"


class Scale(StrEnum):
    """How a Gaussian's standard deviation is learned."""

    rbf = "rbf"
    network = "network"


class Binarisation(StrEnum):
    """How grey values become bits."""

    dynamic = "dynamic"
    static = "static"
    threshold = "threshold"
    none = "none"


def network(architecture: Architecture, hidden: str, width: int, activation: str | None) -> Network:
    """The network family that options describe."""
    from latentgeo import train

    more: dict[str, Any] = {} if activation is None else {"activation": activation}
    if architecture is Architecture.lenet:
        return train.LeNet(width=width, **more)
    if architecture is Architecture.resnet:
        return train.ResNet(width=width, **more)
    return train.Dense(widths(hidden), **more)


@takes_training()
def vae(
    training: Training,
    latent_dim: Annotated[int, of_model(help="Number of latent coordinates d.", min=1)] = 2,
    architecture: Annotated[Architecture, of_model("--network", help="Family of networks.")] = Architecture.dense,
    hidden: Annotated[str, of_model(help="dense: hidden widths, data side first.", metavar="N,N,…")] = "64,32",
    width: Annotated[int, of_model(help="lenet, resnet: channels of the first layer.", min=1)] = 16,
    activation: Annotated[
        str | None,
        of_model(
            help="tanh (dense), silu (lenet, resnet), softplus, gelu, elu, relu, sigmoid.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    likelihood: Annotated[Family, of_model(help="What data are, given a code.")] = Family.gaussian,
    binarise: Annotated[
        Binarisation | None,
        of_model(help="bernoulli: how grey values become 0 and 1; never guessed.", show_default=False),
    ] = None,
    sigma: Annotated[
        float | None,
        of_model(help="gaussian: a constant standard deviation, instead of a learned one.", show_default=False),
    ] = None,
    scale: Annotated[
        Scale,
        of_model(help="gaussian: σ by an RBF precision in a second stage, or by a network trained with the mean."),
    ] = Scale.rbf,
    first_sigma: Annotated[
        float | None,
        of_model(
            help="rbf: σ of the first stage; σ² is a fortieth of the data's total variance if not given.",
            show_default=False,
        ),
    ] = None,
    centers: Annotated[int, of_model(help="rbf: number of centres.", min=1)] = 64,
    bandwidth: Annotated[float, of_model(help="rbf: bandwidth a.")] = 1.0,
    beta: Annotated[float, of_objective(help="Weight of the KL term.", min=0.0)] = 1.0,
    warmup: Annotated[
        float, of_objective(help="Fraction of the training over which that weight rises from 0.", min=0.0, max=1.0)
    ] = 0.35,
    free_bits: Annotated[float, of_objective(help="Nats per axis that the KL term counts at least.", min=0.0)] = 0.0,
    importance_samples: Annotated[
        int, of_objective(help="K above 1 trains the importance-weighted bound with K samples.", min=1)
    ] = 1,
    weight_decay: Annotated[float, of_objective(help="L2 penalty.", min=0.0)] = 0.0,
    score_samples: Annotated[
        int, of_objective(help="Importance samples per datum held out, for log p(x).", min=1)
    ] = 100,
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
