"""Locally adaptive normal distributions on a trained model: do their densities integrate to one, and at which cost?

    python benchmarks/land.py checkpoints/mnist-2d.safetensors --codes 150 --components 2 --grid 64

Fits `LAND` (exact and as in the 2016 paper) and a Gaussian mixture to the same codes, and integrates each density over
a grid that covers the map. The unit of cost is one forward pass of the decoder over the codes.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import numpy as np
import torch
from sklearn.mixture import GaussianMixture

import latentgeo as lg
from latentgeo.learn.land import LAND


def timed(function):
    start = time.perf_counter()
    out = function()
    return out, time.perf_counter() - start


def codes_of(model, count: int, seed: int) -> torch.Tensor:
    chosen = np.random.RandomState(seed).permutation(len(model.codes))[:count]
    return model.codes[torch.as_tensor(chosen)]


def grid_of(Z: torch.Tensor, n: int, margin: float) -> tuple[torch.Tensor, float]:
    """Midpoints of n × n cells (n², 2) over the codes' box and a margin, and a cell's area."""
    low, high = Z.double().amin(0), Z.double().amax(0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    step = (high - low) / n
    axes = [low[i] + step[i] * (torch.arange(n).double() + 0.5) for i in range(2)]
    return torch.cartesian_prod(*axes), float(step.prod())


def integral(land: LAND, metric, graph, points: torch.Tensor, n: int, area: float, reach: float) -> dict[str, float]:
    """∫ p dV by the midpoint rule, and by a quarter of the cells; cells whose density is below exp(−reach²/2) are 0."""
    z = points.to(metric.dtype)
    with torch.no_grad():
        measure = metric.log_volume(z).double()
        bound = graph.distances(torch.as_tensor(land.means_).to(z), z).double()
        # graph distances exceed geodesic ones by a few per cent
        near = (0.93 * bound / torch.as_tensor(land.scales_[:, -1:])).amin(0) < reach
    value = torch.zeros(len(z), dtype=torch.float64)
    value[near] = (torch.as_tensor(land.score_samples(z[near])) + measure[near]).exp()
    table = value.reshape(n, n)
    # the four coarse midpoint sums share no nodes; their spread tells the grid's own error
    parts = [4 * area * float(table[i::2, j::2].sum()) for i in range(2) for j in range(2)]
    edge = float(torch.cat([table[0], table[-1], table[:, 0], table[:, -1]]).max() / table.max())
    out = {"integral": area * float(table.sum()), "grid error": float(np.std(parts, ddof=1)) / 2, "edge/peak": edge}
    return {**out, "cells solved": int(near.sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="checkpoints/mnist-2d.safetensors")
    parser.add_argument("--codes", type=int, default=150)
    parser.add_argument("--components", type=int, default=2)
    parser.add_argument("--grid", type=int, default=64, help="cells along each side; even")
    parser.add_argument("--margin", type=float, default=0.25, help="around the codes, in sizes of their box")
    parser.add_argument("--max-iter", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", choices=("exact", "paper"), default=("exact", "paper"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("always")
    model = lg.load(args.checkpoint)
    metric = lg.metric(model)
    Z = codes_of(model, args.codes, args.seed)
    (_, unit) = min((timed(lambda: model.decoder.expected_embedding(Z)) for _ in range(5)), key=lambda r: r[1])
    graph, built = timed(lambda: lg.LatentGraph(metric).fit(model.codes))
    points, area = grid_of(Z, args.grid, args.margin)
    mixture, seconds = timed(lambda: GaussianMixture(args.components, random_state=args.seed).fit(Z.double().numpy()))
    measure = metric.log_volume(Z).double().numpy()
    rows = []
    gaussian = mixture.score_samples(Z.double().numpy())
    rows.append({"model": "GaussianMixture", "log p / dz": float(gaussian.mean()), "fit s": seconds})
    for variant in args.variants:
        land = LAND(
            metric, args.components, variant=variant, graph=graph, max_iter=args.max_iter, random_state=args.seed
        )
        _, seconds = timed(lambda land=land: land.fit(Z))
        row = {"model": f"LAND {variant}", "log p / dV": land.lower_bound_, "fit s": seconds, "units": seconds / unit}
        row |= {"log p / dz": float((land.score_samples(Z) + measure).mean()), "steps": land.n_iter_}
        row |= {"converged": land.converged_, "failed logs": int(land.failed_logs_.sum())}
        row |= {"lost logs": int(land.lost_logs_.sum()), "lost exp": float(land.lost_exp_.max())}
        row |= {"standard error": float(land.weights_ @ land.normalizer_errors_)}
        row |= {"bounds": [round(b, 4) for b in land.lower_bounds_], "scales": land.scales_.round(2).tolist()}
        rows.append(row)
        print(json.dumps(row), flush=True)
        found, seconds = timed(lambda land=land: integral(land, metric, graph, points, args.grid, area, 5.5))
        row |= found | {"integral s": seconds}
        print(json.dumps(row), flush=True)
    result = {"checkpoint": args.checkpoint, "graph s": built, "unit s": unit, "rows": rows}
    if args.json:
        print(json.dumps(result))
        return
    print(f"{args.checkpoint}: {args.codes} codes, graph {built:.1f} s, unit {1e3 * unit:.2f} ms")
    for row in rows:
        print("; ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
