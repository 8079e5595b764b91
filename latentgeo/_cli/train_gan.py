"""`latentgeo train gan`: a generator trained against a critic, with codes of the data by inversion."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentgeo._cli.train_vae import MODEL, OBJECTIVE, Architecture, network
from latentgeo._cli.training import Training, takes_training

if TYPE_CHECKING:
    from latentgeo.train.adversarial import AdversarialLoss


class Loss(str, Enum):
    """What generator and critic play for."""

    wasserstein_gp = "wasserstein-gp"
    non_saturating = "non-saturating"
    kl = "kl"
    reverse_kl = "reverse-kl"
    jensen_shannon = "jensen-shannon"
    pearson_chi2 = "pearson-chi2"
    total_variation = "total-variation"


def _model(help: str, **more: Any) -> Any:  # noqa: A002 - typer's own word
    return typer.Option(help=help, rich_help_panel=MODEL, **more)


def _objective(help: str, **more: Any) -> Any:  # noqa: A002 - typer's own word
    return typer.Option(help=help, rich_help_panel=OBJECTIVE, **more)


@takes_training(learning_rate=5e-4)
def gan(
    training: Training,
    latent_dim: Annotated[int, _model("Number of latent coordinates d.", min=1)] = 2,
    architecture: Annotated[
        Architecture, typer.Option("--network", help="Family of networks.", rich_help_panel=MODEL)
    ] = Architecture.dense,
    hidden: Annotated[str, _model("dense: hidden widths, data side first.", metavar="N,N,…")] = "256,128",
    width: Annotated[int, _model("lenet, resnet: channels of the first layer.", min=1)] = 16,
    activation: Annotated[str, _model("silu, tanh, softplus, gelu, elu, relu.", metavar="NAME")] = "silu",
    centers: Annotated[
        int, _model("Centres of the RBF precision that is fitted on inverted codes; 0 for none.", min=0)
    ] = 64,
    loss: Annotated[Loss, _objective("What generator and critic play for.")] = Loss.wasserstein_gp,
    penalty: Annotated[float, _objective("wasserstein-gp: weight of the gradient penalty.", min=0.0)] = 10.0,
    n_critic: Annotated[
        int | None,
        _objective(
            "Critic's steps for each of the generator: 5 for wasserstein-gp, else 1.", min=1, show_default=False
        ),
    ] = None,
    spectral_norm: Annotated[
        float | None,
        _objective("Hold each of the critic's layers at this spectral norm, e.g. 1.", show_default=False),
    ] = None,
) -> None:
    """Train a generative adversarial network and write its generator with codes, scores and provenance.

    The generator becomes a decoder like any other: an encoder is fitted to it, data are inverted from the encoder's
    codes and nearby starts, and an RBF precision is fitted on the codes, so that distances know where data are. Scores
    are of data held out; inversion_mse is the mean squared error per coordinate of data regenerated from their codes.

    Exit code 0: done; 2: bad input, or training diverged.
    """
    from latentgeo import train

    training.run(
        train.GAN(
            latent_dim,
            network(architecture, hidden, width, activation),
            loss=_loss(loss, penalty, n_critic),
            spectral_norm=spectral_norm,
            n_centers=centers,
        )
    )


def _loss(loss: Loss, penalty: float, n_critic: int | None) -> AdversarialLoss:
    from latentgeo import train

    if loss is Loss.wasserstein_gp:
        return train.WassersteinGP(penalty, 5 if n_critic is None else n_critic)
    steps = 1 if n_critic is None else n_critic
    return train.NonSaturating(steps) if loss is Loss.non_saturating else train.FGAN(loss.value, n_critic=steps)
