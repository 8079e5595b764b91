"""`latentgeo train gan`: a generator trained against a critic, with codes of the data by inversion."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from latentgeo._cli.train_vae import Architecture, network
from latentgeo._cli.training import Training, of_model, of_objective, takes_training

if TYPE_CHECKING:
    from latentgeo.train.adversarial import AdversarialLoss


class Loss(StrEnum):
    """What generator and critic play for."""

    wasserstein_gp = "wasserstein-gp"
    non_saturating = "non-saturating"
    kl = "kl"
    reverse_kl = "reverse-kl"
    jensen_shannon = "jensen-shannon"
    pearson_chi2 = "pearson-chi2"
    total_variation = "total-variation"


@takes_training(learning_rate=5e-4)
def gan(
    training: Training,
    latent_dim: Annotated[int, of_model(help="Number of latent coordinates d.", min=1)] = 2,
    architecture: Annotated[Architecture, of_model("--network", help="Family of networks.")] = Architecture.dense,
    hidden: Annotated[str, of_model(help="dense: hidden widths, data side first.", metavar="N,N,…")] = "256,128",
    width: Annotated[int, of_model(help="lenet, resnet: channels of the first layer.", min=1)] = 16,
    activation: Annotated[str, of_model(help="silu, tanh, softplus, gelu, elu, relu.", metavar="NAME")] = "silu",
    centers: Annotated[
        int, of_model(help="Centres of the RBF precision that is fitted on inverted codes; 0 for none.", min=0)
    ] = 64,
    loss: Annotated[Loss, of_objective(help="What generator and critic play for.")] = Loss.wasserstein_gp,
    penalty: Annotated[float, of_objective(help="wasserstein-gp: weight of the gradient penalty.", min=0.0)] = 10.0,
    n_critic: Annotated[
        int | None,
        of_objective(
            help="Critic's steps for each of the generator: 5 for wasserstein-gp, else 1.", min=1, show_default=False
        ),
    ] = None,
    spectral_norm: Annotated[
        float | None,
        of_objective(help="Hold each of the critic's layers at this spectral norm, e.g. 1.", show_default=False),
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
