"""Train the shipped models: a thin set of recipes over `latentgeo.train.fit`.

Gaussian models follow Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018): the mean is trained first at
constant variance, then frozen while an RBF precision is fitted by likelihood. Two deviations from the paper: a KL
warm-up over the first 35 % of the epochs (without it a latent axis often collapses), and bandwidth a = 1 instead of 2.

    python checkpoints/train.py digits
    LATENTGEO_DATA=/path/to/data python checkpoints/train.py mnist-bernoulli
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path

import latentgeo as lg
from latentgeo import train

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Shipped:
    """A shipped model: data, recipe, and how it is trained."""

    file: str
    data: str
    recipe: train.VAE
    epochs: int
    batch_size: int = 128
    learning_rate: float = 2e-3
    held_out: float | None = None


def gaussian(variance: float, samples: int = 1, **options: object) -> train.VAE:
    """A Gaussian VAE whose mean is trained at this variance, in squared data units."""
    rbf = train.RBF(sigma=math.sqrt(variance), posterior_samples=samples)
    return train.VAE(scale=rbf, weight_decay=1e-5, **options)  # type: ignore[arg-type]


# The digits have a tenth of MNIST's total variance: at variance 1 the prior would win and the codes collapse.
MODELS = {
    "digits": Shipped("digits-2d", "digits", gaussian(0.15, samples=10), 300, batch_size=64, held_out=0.2),
    "mnist": Shipped("mnist-2d", "mnist", gaussian(1.0), 100),
    "mnist-conv": Shipped(
        "mnist-conv-10d", "mnist", gaussian(0.25, latent_dim=10, network=train.LeNet(width=8), warmup=0.2), 12
    ),
    "mnist-bernoulli": Shipped(
        "mnist-bernoulli-2d",
        "mnist",
        train.VAE(network=train.Dense((128, 64)), likelihood=lg.Bernoulli(), binarise="dynamic"),
        60,
    ),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a shipped model; the same seed gives the same weights.")
    parser.add_argument("model", choices=sorted(MODELS), help="MNIST is read from $LATENTGEO_DATA, else ./data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="default: the shipped model's")
    parser.add_argument("--variance", type=float, help="of the Gaussian while the mean is trained")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_argument("--out", type=Path, help="default: the shipped file, beside this script")
    given = parser.parse_args(arguments)
    shipped = MODELS[given.model]
    recipe, epochs = shipped.recipe, given.epochs or shipped.epochs
    command = f"python checkpoints/train.py {given.model} --seed {given.seed} --epochs {epochs}"
    if given.variance is not None:
        if not isinstance(recipe.likelihood, lg.Gaussian) or not isinstance(recipe.scale, train.RBF):
            parser.error("--variance is for the Gaussian models")
        recipe = replace(recipe, scale=replace(recipe.scale, sigma=math.sqrt(given.variance)))
        command += f" --variance {given.variance:g}"
    out = given.out or HERE / f"{shipped.file}.safetensors"
    result = train.fit(
        recipe,
        shipped.data,
        epochs=epochs,
        batch_size=shipped.batch_size,
        learning_rate=shipped.learning_rate,
        seed=given.seed,
        held_out=shipped.held_out,
        device=given.device,
        out=out,
        curves=False,
        command=command,
    )
    about = result.model.metadata
    spread = ", ".join(f"{s:.3f}" for s in about["code_std"])
    print(f"standard deviation of the codes per latent axis: {spread}")
    if (report := result.model.decoder.precision_report) is not None:
        print(report)
    print("scores, nats per image:", ", ".join(f"{k} {v}" for k, v in result.scores.items()))
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {about['seconds']} s ({about['cpu_seconds']} s of CPU time)")


if __name__ == "__main__":
    main()
