"""Train the shipped generator of MNIST: a Wasserstein GAN with gradient penalty, and codes of real images.

After Gulrajani et al., "Improved training of Wasserstein GANs" (NeurIPS 2017). What is scored: Fréchet distance,
precision and recall of 10,000 samples against the 10,000 test images, on the features of `features/`, and the error
with which test images are regenerated from their inverted codes.

    LATENTGEO_DATA=/path/to/data python checkpoints/train_wgan.py --device cuda
    python checkpoints/train_wgan.py --score checkpoints/mnist-wgan.safetensors
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import latentgeo as lg
from latentgeo import train

HERE = Path(__file__).resolve().parent
FEATURES = HERE / "features" / "mnist-classifier.safetensors"
N_SCORED = 10_000


@torch.no_grad()
def score(decoder: lg.Decoder, seed: int = 0) -> dict[str, Any]:
    """Scores of samples from N(0, I) against MNIST's test images; on the CPU."""
    test = lg.datasets.load_mnist("test")
    real = test.data[:N_SCORED].unflatten(1, test.shape)
    z = torch.randn(len(real), decoder.latent_dim, generator=torch.Generator().manual_seed(seed))
    fake = torch.cat([decoder.mean(part) for part in z.split(1000)]).unflatten(1, test.shape)
    found: dict[str, Any] = {"samples": len(fake)}
    features = train.load_features(FEATURES)
    found["features"] = features.name
    found["frechet_distance"] = train.scores.frechet_distance(real, fake, features).value
    neighbours = train.scores.precision_recall(real, fake, features)
    found["precision"], found["recall"] = neighbours.precision, neighbours.recall
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "mnist-wgan.safetensors")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--width", type=int, default=16, help="of the generator's first layer")
    parser.add_argument("--critic-width", type=int, default=16)
    parser.add_argument("--n-critic", type=int, default=2)
    parser.add_argument("--encoder-steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subset", type=int, default=None, help="train on so many images only, to try things")
    parser.add_argument("--score", type=Path, default=None, help="only score this checkpoint")
    arguments = parser.parse_args()
    if arguments.score is not None:
        for name, value in {
            **lg.load(arguments.score).metadata["scores"],
            **score(lg.load(arguments.score).decoder),
        }.items():
            print(f"{name}: {value}")
        return
    started = time.perf_counter()
    recipe = train.GAN(
        arguments.latent_dim,
        train.LeNet(arguments.width),
        train.LeNet(arguments.critic_width),
        train.WassersteinGP(10.0, arguments.n_critic),
        betas=(0.5, 0.9),
        encoder_steps=arguments.encoder_steps,
    )
    data: Any = "mnist"
    if arguments.subset is not None:
        digits = lg.datasets.load_mnist("train")
        data = digits.data[: arguments.subset].unflatten(1, digits.shape)
    result = train.fit(
        recipe,
        data,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        device=arguments.device,
        out=arguments.out,
        curves=False,
        command=f"python checkpoints/train_wgan.py --epochs {arguments.epochs} --batch-size {arguments.batch_size} "
        f"--learning-rate {arguments.learning_rate:g} --latent-dim {arguments.latent_dim} --width {arguments.width} "
        f"--critic-width {arguments.critic_width} --n-critic {arguments.n_critic} --seed {arguments.seed}",
    )
    model = result.model
    metadata = {**model.metadata, "scores": {**result.scores, **score(model.decoder)}}
    lg.save(lg.LatentModel(model.decoder, model.encoder, model.codes, model.labels, metadata), arguments.out)
    for name, value in metadata["scores"].items():
        print(f"{name}: {value}")
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
