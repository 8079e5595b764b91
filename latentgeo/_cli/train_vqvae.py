"""`latentgeo train vqvae`: a vector-quantised autoencoder of images, with a prior over its codes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from latentgeo._cli.training import Training, of_model, of_objective, takes_training

PRIOR = "Prior over codes"


class QuantisedFamily(StrEnum):
    """Likelihoods that a VQ-VAE is trained with."""

    gaussian = "gaussian"
    bernoulli = "bernoulli"


class CodebookRule(StrEnum):
    """How codebooks are learned."""

    average = "average"
    loss = "loss"


def _prior(help: str, **more: Any) -> Any:  # noqa: A002 - typer's own word
    return typer.Option(help=help, rich_help_panel=PRIOR, **more)


@takes_training()
def vqvae(
    training: Training,
    codebook_size: Annotated[int, of_model(help="Vectors per codebook, K.", min=2)] = 128,
    code_dim: Annotated[int, of_model(help="Entries of a vector.", min=1)] = 8,
    levels: Annotated[int, of_model(help="Grids of codes: 1, or 2 (a coarse one above a fine one).", min=1, max=2)] = 1,
    width: Annotated[int, of_model(help="Channels.", min=1)] = 64,
    halvings: Annotated[int, of_model(help="How often an image's side is halved down to the grid.", min=1, max=6)] = 2,
    blocks: Annotated[int, of_model(help="Residual blocks per level.", min=0, max=16)] = 2,
    likelihood: Annotated[
        QuantisedFamily, of_objective(help="gaussian (at --sigma), or bernoulli for data that are 0 or 1.")
    ] = QuantisedFamily.gaussian,
    sigma: Annotated[float, of_objective(help="gaussian: the standard deviation, in data units.")] = 0.1,
    commitment: Annotated[
        float, of_objective(help="Weight of the term that draws the encoder to its codes.", min=0.0)
    ] = 0.25,
    codebook: Annotated[
        CodebookRule, of_objective(help="Codebooks as moving averages of what they stand for, or by a loss.")
    ] = CodebookRule.average,
    revive: Annotated[
        float, of_objective(help="Codes used less than this share of the mean use are put elsewhere.", min=0.0)
    ] = 0.02,
    prior: Annotated[bool, _prior("Fit a prior, so that the model can sample.")] = True,
    prior_width: Annotated[int, _prior("Width of the transformer, a multiple of 4.", min=4)] = 96,
    prior_layers: Annotated[int, _prior("Its layers.", min=1)] = 4,
    prior_share: Annotated[float, _prior("The last part of the training, which is the prior's.")] = 0.5,
) -> None:
    """Train a vector-quantised autoencoder and write it with its codebooks, prior, codes, scores and provenance.

    First the autoencoder is trained; then it is frozen, and a causal transformer learns the distribution of its codes.
    Scores are of data held out, in nats per datum: distortion is minus log p(x | codes), rate what the codes cost under
    the prior, bound their sum, which minus log p(x) does not exceed. Distances are those of the decoder applied to
    vectors that are not quantised.

    Exit code 0: done; 2: bad input, or training diverged.
    """
    import latentgeo as lg
    from latentgeo import train

    training.run(
        train.VQVAE(
            codebook_size,
            code_dim,
            levels,
            width,
            halvings,
            blocks,
            likelihood=lg.Bernoulli() if likelihood is QuantisedFamily.bernoulli else lg.Gaussian(sigma=sigma),
            commitment=commitment,
            codebook=train.MovingAverage() if codebook is CodebookRule.average else train.CodebookLoss(),
            revive=revive,
            prior=train.Transformer(prior_width, prior_layers, share=prior_share) if prior else None,
        )
    )
