"""Train the shipped prior: a spline flow on the codes of the MNIST VAE, a better prior for it than N(0, I).

Codes are the encoder's means of the 60,000 training images; the scores are of the 10,000 test images'. The VAE's own
posterior samples are scored too, though not trained on.

    LATENTGEO_DATA=/path/to/data python checkpoints/train_flow.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import latentgeo as lg
from latentgeo import train
from latentgeo.train.flow import gaussian_log_prob

HERE = Path(__file__).resolve().parent


@torch.no_grad()
def codes(model: lg.LatentModel, split: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means, one posterior sample each, and labels, of MNIST's images."""
    digits = lg.datasets.load_mnist(split)
    encoder: Any = model.encoder
    mean, std = encoder(digits.data)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    return mean, mean + std * noise, digits.labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE / "mnist-2d.safetensors")
    parser.add_argument("--out", type=Path, default=HERE / "mnist-2d-flow.safetensors")
    parser.add_argument("--transform", default="nsf")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model = lg.load(arguments.model)
    fitted, samples, labels = codes(model, "train")
    held, held_samples, held_labels = codes(model, "test")
    data = train.TrainData(
        fitted,
        held[:2000],
        f"codes of {arguments.model.name}",
        held,
        labels,
        held_labels,
        held_labels[:2000],
        "codes of the first 2,000 test images",
    )
    recipe = train.Flow(arguments.transform, transforms=4, hidden=(64, 64), bins=8)
    result = train.fit(
        recipe,
        data,
        epochs=arguments.epochs,
        batch_size=512,
        learning_rate=3e-3,
        seed=arguments.seed,
        device=arguments.device,
        out=arguments.out,
        curves=False,
        command=f"python checkpoints/train_flow.py --epochs {arguments.epochs} --seed {arguments.seed}",
    )
    density = train.FlowDensity(result.model)
    with torch.no_grad():
        scores = {
            **result.scores,
            "posterior_samples_log_likelihood": float(density(held_samples).double().mean()),
            "posterior_samples_log_likelihood_gaussian": float(gaussian_log_prob(samples, held_samples).mean()),
        }
    final = result.model
    metadata = {**final.metadata, "scores": scores, "prior_of": arguments.model.name}
    lg.save(lg.LatentModel(final.decoder, final.encoder, final.codes, final.labels, metadata), arguments.out)
    for name, value in scores.items():
        print(f"{name}: {value}")
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
