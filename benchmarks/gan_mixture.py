"""GANs on a ring of eight Gaussians in the plane: how many modes they find, and how good their samples are.

All games with the same small networks, several independent runs each, side by side in one set of stacked layers. A
sample is of high quality within 4 standard deviations of a mode (99.97 % of the data are); a mode is found if a
fifth of its share of the samples is within that distance (after Srivastava et al., "VEEGAN", NeurIPS 2017).

    python benchmarks/gan_mixture.py [--runs 5] [--steps 4000] [--only NAME …]
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentgeo.train import FGAN, GAN, NonSaturating, WassersteinGP
from latentgeo.train.gan import GANLearner
from latentgeo.train.networks import Dense

RADIUS, STD, MODES = 2.0, 0.1, 8


class Stacked(nn.Module):
    """`runs` independent linear layers; row i of the input goes through layer i mod `runs`."""

    stacked = True

    def __init__(self, runs: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = n_in**-0.5  # as torch's own
        self.weight = nn.Parameter(torch.empty(runs, n_out, n_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(runs, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.unflatten(0, (-1, len(self.weight))).transpose(0, 1)
        return torch.baddbmm(self.bias, rows, self.weight.mT).transpose(0, 1).flatten(0, 1)


@dataclass(frozen=True)
class Parallel(Dense):
    """Independent multi-layer perceptrons side by side."""

    runs: int = 5

    def _stack(self, sizes: list[int]) -> nn.Sequential:
        act = {"silu": nn.SiLU, "relu": nn.ReLU}[self.activation]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [Stacked(self.runs, n_in, n_out), act()]
        return nn.Sequential(*layers[:-1])

    def decoder(self, latent_dim: int, shape: tuple[int, ...], output: str | None = None) -> nn.Module:
        return self._stack([latent_dim, *self.hidden[::-1], math.prod(shape)])

    def head(self, shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        return self._stack([math.prod(shape), *self.hidden, n_outputs])


def centers() -> Tensor:
    angle = torch.arange(MODES) * (2 * math.pi / MODES)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], 1)


def draw(n: int, generator: torch.Generator) -> Tensor:
    which = torch.randint(MODES, (n,), generator=generator)
    return centers()[which] + STD * torch.randn(n, 2, generator=generator)


def judge(x: Tensor) -> tuple[int, float, float]:
    """Modes found, shares of the samples within 3 and 4 standard deviations of a mode."""
    distance, mode = torch.cdist(x, centers()).min(1)
    good = distance < 4 * STD
    counts = torch.bincount(mode[good], minlength=MODES)
    found = int((counts >= len(x) / MODES / 5).sum())
    return found, float((distance < 3 * STD).double().mean()), float(good.double().mean())


def variants(runs: int) -> dict[str, tuple[GAN, float]]:
    """Recipes and learning rates by name."""
    deep = Parallel((64, 64, 64), "relu", runs)
    betas = (0.0, 0.9)
    table: dict[str, tuple[GAN, float]] = {
        "wasserstein-gp": (GAN(2, deep, deep, WassersteinGP(0.1, 1), critic_rate=2.0, betas=betas), 2e-3),
        "spectral-norm": (GAN(2, deep, deep, NonSaturating(), 1.5, critic_rate=2.0, betas=betas), 2e-3),
        "non-saturating": (GAN(2, deep, deep, NonSaturating(), betas=(0.5, 0.9)), 1e-3),
    }
    for name in ("kl", "reverse-kl", "jensen-shannon", "pearson-chi2", "total-variation"):
        table[f"f-gan {name}"] = (GAN(2, deep, deep, FGAN(name), betas=(0.5, 0.9)), 5e-4)
    return table


def train(recipe: GAN, learning_rate: float, runs: int, steps: int, batch: int, seed: int) -> tuple[Tensor, float]:
    """Samples (runs, 10000, 2) of the trained generators, and seconds of this process's time."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    learner = GANLearner(recipe, (2,))
    optimizers = learner.optimizers(learning_rate, steps)
    rates = [o.param_groups[0]["lr"] for o in optimizers]
    start = time.process_time()
    for step in range(steps):
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * learner.rate(step / steps)
        learner.training_step(draw(batch * runs, generator), step / steps, optimizers, generator)
    with torch.no_grad():
        x = learner.sample(10_000 * runs, generator)
    return x.unflatten(0, (-1, runs)).transpose(0, 1), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4000, help="of the critic, and of the generator")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"ring of {MODES} Gaussians, radius {RADIUS:g}, standard deviation {STD:g}; {arguments.runs} runs of "
          f"{arguments.steps} steps, batches of {arguments.batch}")  # fmt: skip
    print("| game | modes found, each run | within 3 sd (least–greatest) | within 4 sd (mean; least) | CPU s |")
    print("|---|---|---|---|---|")
    exact = judge(draw(100_000, torch.Generator().manual_seed(1)))
    print(f"| the data themselves | {exact[0]} | {exact[1]:.1%} | {exact[2]:.1%} | |")
    for name, (recipe, rate) in variants(arguments.runs).items():
        if arguments.only is not None and name not in arguments.only:
            continue
        x, seconds = train(recipe, rate, arguments.runs, arguments.steps, arguments.batch, arguments.seed)
        found = [judge(sample) if bool(sample.isfinite().all()) else (0, 0.0, 0.0) for sample in x]
        modes, three, four = zip(*found, strict=True)
        print(f"| {name} | {' '.join(map(str, modes))} | {min(three):.1%}–{max(three):.1%} | "
              f"{sum(four) / len(four):.1%}; {min(four):.1%} | {seconds:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
