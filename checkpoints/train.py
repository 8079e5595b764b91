"""Train the two shipped models: a Gaussian VAE with a two-dimensional latent space and an RBF precision.

After Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018): the mean is trained first at constant variance,
then frozen while the precision is fitted by likelihood. Two deviations from the paper: a KL warm-up over the first 35 %
of the epochs (without it a latent axis often collapses), and bandwidth a = 1 instead of 2.

    python checkpoints/train.py digits
    LATENTGEO_DATA=/path/to/data python checkpoints/train.py mnist
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

import latentgeo as lg
from latentgeo.datasets import load_digits, load_mnist
from latentgeo.decoders import MLP, Decoder, MLPEncoder

HERE = Path(__file__).resolve().parent
COLLAPSED = 0.05  # an axis whose codes have a smaller standard deviation than this carries nothing


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome, besides the data."""

    hidden: tuple[int, ...]
    variance: float  # of the Gaussian while the mean is trained, in squared data units
    epochs: int
    batch_size: int
    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    warmup: float = 0.35  # fraction of the epochs over which the weight of the KL term rises to 1
    n_centers: int = 64
    bandwidth: float = 1.0
    floor: float = 1e-3
    posterior_samples: int = 1  # per datum, for the precision
    seed: int = 0


# The digits have a tenth of MNIST's total variance: at variance 1 the prior would win and the codes collapse.
RECIPES = {
    "digits": Recipe(hidden=(64, 32), variance=0.15, epochs=300, batch_size=64, posterior_samples=10),
    "mnist": Recipe(hidden=(64, 32), variance=1.0, epochs=100, batch_size=128),
}


@dataclass(frozen=True)
class Split:
    """Training and held-out data, and the data whose codes are stored with the model."""

    train: Tensor
    test: Tensor
    stored: Tensor
    labels: Tensor
    stored_are: str
    shape: tuple[int, ...]


def digits_split(seed: int) -> Split:
    data = load_digits()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    n = int(0.8 * len(data))
    train, test = data.data[order[:n]], data.data[order[n:]]
    return Split(train, test, data.data, data.labels, "all 1,797 images, 80 % of them trained on", data.shape)


def mnist_split(seed: int) -> Split:
    train, test = load_mnist("train"), load_mnist("test")
    stored = "the first 2,000 test images"
    return Split(train.data, test.data, test.data[:2000], test.labels[:2000], stored, train.shape)


def train_mean(
    x: Tensor, shape: tuple[int, ...], recipe: Recipe, generator: torch.Generator
) -> tuple[MLPEncoder, MLP, float, float]:
    """The VAE with a constant variance, by Adam on the evidence lower bound."""
    sizes = [x.shape[1], *recipe.hidden, 2]
    encoder, decoder = MLPEncoder(sizes), MLP(sizes[::-1], output="sigmoid", shape=shape)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs, recipe.learning_rate / 20)
    bar = trange(recipe.epochs, desc="mean", mininterval=1.0, disable=None)
    for epoch in bar:
        weight = min(1.0, (epoch + 1) / max(1.0, recipe.warmup * recipe.epochs))
        total = torch.zeros(2)
        for batch in torch.randperm(len(x), generator=generator).split(recipe.batch_size):
            mean, std = encoder(x[batch])
            z = mean + std * torch.randn(mean.shape, generator=generator)
            misfit = (x[batch] - decoder(z).flatten(1)).square().sum() / (2 * recipe.variance)
            kl = 0.5 * (mean.square() + std.square() - 1).sum() - std.log().sum()
            optimizer.zero_grad(set_to_none=True)
            ((misfit + weight * kl) / len(batch)).backward()
            optimizer.step()
            total += torch.stack([misfit.detach(), kl.detach()])
        schedule.step()
        misfit_mean, kl_mean = (total / len(x)).tolist()
        if not math.isfinite(misfit_mean + kl_mean):
            raise SystemExit(f"training diverged in epoch {epoch}")
        bar.set_postfix(misfit=f"{misfit_mean:.3f}", kl=f"{kl_mean:.3f}", weight=f"{weight:.2f}", refresh=False)
    return encoder.eval(), decoder.eval(), misfit_mean, kl_mean


@torch.no_grad()
def posterior(encoder: MLPEncoder, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Posterior samples (n, N, d)."""
    mean, std = encoder(x)
    return mean + std * torch.randn(n, *mean.shape, generator=generator)


@torch.no_grad()
def held_out(decoder: Decoder, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Mean log p(x | z) over held-out data and posterior samples, in nats per image: RBF precision and constants."""

    def score(std: Tensor | None) -> float:
        total = 0.0
        z, x = test
        for zs in z:
            for zc, xc in zip(zs.split(2048), x.split(2048), strict=True):
                parameters = decoder(zc)
                if std is not None:
                    parameters["std"] = std.expand_as(parameters["mean"])
                total += float(decoder.likelihood.log_prob(parameters, xc).double().sum())
        return total / (z.shape[0] * z.shape[1])

    z, x = train
    residual = torch.zeros(x.shape[1], dtype=torch.float64)
    for zc, xc in zip(z[0].split(2048), x.split(2048), strict=True):
        residual += (xc - decoder.mean(zc)).square().double().sum(0)
    variance = residual / len(x)
    return {
        "log_likelihood": score(None),
        "log_likelihood_constant": score(variance.mean().sqrt().float()),
        "log_likelihood_per_coordinate": score(variance.clamp(min=0.01 * variance.mean()).sqrt().float()),
    }


def run(name: str, recipe: Recipe, out: Path) -> lg.LatentModel:
    """Train, fit the precision, score, save."""
    started = time.perf_counter()
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    data = digits_split(recipe.seed) if name == "digits" else mnist_split(recipe.seed)
    encoder, network, misfit, kl = train_mean(data.train, data.shape, recipe, generator)
    print(f"mean stage: squared error {2 * recipe.variance * misfit:.3f} per image, KL {kl:.2f} nats")

    with torch.no_grad():
        spread = encoder(data.train)[0].std(0).tolist()
    print(f"standard deviation of the codes per latent axis: {', '.join(f'{s:.3f}' for s in spread)}")
    if min(spread) < COLLAPSED:
        print("WARNING: a latent axis has collapsed; try another --seed, or more --epochs")

    decoder = lg.wrap(network.requires_grad_(False), latent_dim=2, likelihood=lg.Deterministic())
    z = posterior(encoder, data.train, recipe.posterior_samples, generator)
    decoder = lg.fit_precision(
        decoder,
        z,
        data.train,
        n_centers=recipe.n_centers,
        bandwidth=recipe.bandwidth,
        floor=recipe.floor,
        random_state=recipe.seed,
    )
    z_test = posterior(encoder, data.test, max(1, recipe.posterior_samples), generator)
    scores = held_out(decoder, (z, data.train), (z_test, data.test))
    print(decoder.precision_report)
    print("held out, nats per image:", ", ".join(f"{key} {value:.2f}" for key, value in scores.items()))

    with torch.no_grad():
        codes = encoder(data.stored)[0]
    metadata = {
        "dataset": name,
        "command": f"python checkpoints/train.py {name} --seed {recipe.seed} --epochs {recipe.epochs} "
        f"--variance {recipe.variance:g}",
        "codes": data.stored_are,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "recipe": asdict(recipe),
        "code_std": spread,
        "scores": scores,
    }
    model = lg.LatentModel(decoder, encoder.requires_grad_(False), codes, data.labels, metadata)
    lg.save(model, out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {time.perf_counter() - started:.0f} s")
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a shipped model; the same seed gives the same file.")
    parser.add_argument("dataset", choices=sorted(RECIPES), help="mnist is read from $LATENTGEO_DATA, else ./data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="default: digits 300, mnist 100")
    parser.add_argument("--variance", type=float, help="of the Gaussian while the mean is trained")
    parser.add_argument("--out", type=Path, help="default: beside this script, DATASET-2d.safetensors")
    given = parser.parse_args(arguments)
    chosen = {key: getattr(given, key) for key in ("seed", "epochs", "variance") if getattr(given, key) is not None}
    recipe = Recipe(**{**asdict(RECIPES[given.dataset]), **chosen})
    run(given.dataset, recipe, given.out or HERE / f"{given.dataset}-2d.safetensors")


if __name__ == "__main__":
    main()
