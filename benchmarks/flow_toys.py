"""Test log-likelihood of each kind of flow on data in the plane and on a torus, beside a normal distribution's.

Nats per datum, exact; 8,000 data to train on, 8,000 others to test; where the truth has a density, its own is shown.

    python benchmarks/flow_toys.py [--steps 800] [--kinds nsf maf …]
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import Tensor

from latentgeo.decoders.flows import wrap_angle
from latentgeo.train import Flow, TrainData
from latentgeo.train.flow import gaussian_log_prob

KINDS = ("coupling", "maf", "nsf", "unaf", "cnf")


def crescents(n: int, g: torch.Generator) -> Tensor:
    """Two half circles of radius 1, normal noise of standard deviation 0.1."""
    t = math.pi * torch.rand(n, generator=g)
    upper = torch.rand(n, generator=g) < 0.5
    x, y = torch.where(upper, t.cos(), 1 - t.cos()), torch.where(upper, t.sin(), 0.5 - t.sin())
    return torch.stack([x, y], 1) + 0.1 * torch.randn(n, 2, generator=g)


def ring(n: int, g: torch.Generator) -> Tensor:
    """Eight normal distributions of standard deviation 0.1 on a circle of radius 2."""
    a = torch.randint(8, (n,), generator=g) * math.pi / 4
    return 2 * torch.stack([a.cos(), a.sin()], 1) + 0.1 * torch.randn(n, 2, generator=g)


def banana(n: int, g: torch.Generator) -> Tensor:
    """(u, v + u²), u and v standard normal: the density is known, its entropy that of N(0, I)."""
    e = torch.randn(n, 2, generator=g)
    return torch.stack([e[:, 0], e[:, 1] + e[:, 0].square()], 1)


def torus(n: int, g: torch.Generator) -> Tensor:
    """Two angles that depend on each other, centred where they wrap."""
    e = torch.randn(n, 2, generator=g)
    return wrap_angle(torch.stack([math.pi + 0.5 * e[:, 0], math.pi + 0.5 * e[:, 0] + 0.3 * e[:, 1]], 1))


# the ring's modes hardly overlap: its entropy is log 8 more than a mode's; crescents have no closed form
TRUTH = {
    "crescents": None,
    "ring": -math.log(8) - 2 * math.log(0.1) - math.log(2 * math.pi) - 1,
    "banana": -math.log(2 * math.pi) - 1,
    "torus": -math.log(0.5 * 0.3) - math.log(2 * math.pi) - 1,
}


def fit(recipe: Flow, x: Tensor, steps: int, seed: int) -> tuple[torch.nn.Module, float]:
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    learner = recipe.learner(TrainData(x, x[:10]), g)
    (optimizer,) = learner.optimizers(5e-3, steps)
    start = time.process_time()
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * learner.rate(k / steps)
        learner.training_step(x[torch.randint(len(x), (256,), generator=g)], k / steps, [optimizer], g)
    return learner.network.eval(), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| data | flow | log-likelihood | normal | truth | CPU s |\n|---|---|---|---|---|---|")
    for name, make in (("crescents", crescents), ("ring", ring), ("banana", banana), ("torus", torus)):
        x, held = make(8000, torch.Generator().manual_seed(1)), make(8000, torch.Generator().manual_seed(2))
        for kind in ("circular",) if name == "torus" else arguments.kinds:
            recipe = Flow(kind, transforms={"cnf": 1, "unaf": 2}.get(kind, 4))
            network, seconds = fit(recipe, x, arguments.steps, arguments.seed)
            with torch.no_grad():
                own = torch.cat([network.log_prob(part) for part in held.split(2000)]).double().mean()
            normal, truth = float(gaussian_log_prob(x, held).mean()), TRUTH[name]
            shown = "" if truth is None else f"{truth:.3f}"
            print(f"| {name} | {kind} | {float(own):.3f} | {normal:.3f} | {shown} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
