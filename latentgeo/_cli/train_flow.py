"""`latentgeo train flow`: a normalising flow on data, or on a model's codes as a prior for it."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import Annotated, Any

from latentgeo._cli.training import Training, of_model, takes_training, widths


class Transform(StrEnum):
    """Which invertible layers."""

    coupling = "coupling"
    maf = "maf"
    nsf = "nsf"
    unaf = "unaf"
    cnf = "cnf"
    circular = "circular"


@takes_training(learning_rate=2e-3, batch_size=256)
def flow(
    training: Training,
    transform: Annotated[
        Transform, of_model(help="coupling (RealNVP), maf, nsf, unaf, cnf, or circular for angles in radians.")
    ] = Transform.nsf,
    transforms: Annotated[int, of_model(help="Invertible layers.", min=1, max=32)] = 4,
    hidden: Annotated[str, of_model(help="Widths of the layers' networks.", metavar="N,N,…")] = "64,64",
    bins: Annotated[int, of_model(help="nsf, circular: bins of the splines.", min=2, max=64)] = 8,
    steps: Annotated[int, of_model(help="cnf: Runge–Kutta steps.", min=1, max=256)] = 16,
    weight_decay: Annotated[float, of_model(help="L2 penalty.", min=0.0)] = 0.0,
) -> None:
    """Train a normalising flow by maximum likelihood and write it with scores and provenance.

    Where --data is a checkpoint (.safetensors), the codes stored in it are the data, and the flow is a prior for that
    model. Scores are exact log-likelihoods of data held out, in nats per datum, beside those of a normal distribution.

    Exit code 0: done; 2: bad input, or training diverged.
    """
    from latentgeo import train

    recipe = train.Flow(transform.value, transforms, widths(hidden), bins, steps, weight_decay)
    if training.data.endswith(".safetensors"):
        training = _on_codes(training)
    training.run(recipe)


def _on_codes(training: Training) -> Training:
    """The same training, on the codes that a checkpoint stores."""
    import latentgeo as lg
    from latentgeo import train

    if training.labels is not None or training.shape is not None:
        raise ValueError("--labels and --shape must be left out where --data is a checkpoint, which has both")
    model = lg.load(training.data)
    if model.codes is None:
        raise ValueError(f"--data must be a checkpoint with codes; {training.data} has none")
    data: Any = train.as_data(
        model.codes, model.labels, held_out=training.held_out, seed=training.seed, name=f"codes of {training.data}"
    )
    return dataclasses.replace(training, data=data, held_out=None)
