"""Random walks on a model: what they cost, and who stays with the codes.

Cost: seconds for walkers × steps of each kind, and its ratio to as many forward passes of the embedding over the same
number of rows (the unit), in processor time of the one thread used, so that a busy machine counts little. Region: the
share of steps within the code region (distance to the 10th nearest code below the codes' own 99th percentile) of
Langevin sampling with the kernel density of the codes as target, of exact samples of that density, and of the other
walks; the Euclidean walk has the root-mean-square step of the Langevin one, whose step size is adapted; the others have
that of --step-size, at which Brownian steps are accurate among the codes.

    python benchmarks/walks.py --json walks.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

import latentgeo as lg

KINDS = {
    "Euclidean": lg.EuclideanWalk(),
    "inverse metric": lg.InverseMetric(),
    "Brownian, second-order": lg.Brownian(),
    "Brownian, projection": lg.Brownian(step="projection"),
}


class CodeRegion:
    """Where the distance to the 10th nearest code is below the codes' own 99th percentile."""

    def __init__(self, codes, k=10):
        self.k = k
        self.index = NearestNeighbors().fit(codes.double().numpy())
        own = self.index.kneighbors(n_neighbors=k)[0][:, -1]  # a code is no neighbour of its own
        self.radius = float(np.percentile(own, 99))

    def __call__(self, z):
        rows = z.reshape(-1, z.shape[-1]).double().numpy()
        inside = np.zeros(len(rows), dtype=bool)
        finite = np.isfinite(rows).all(1)
        inside[finite] = self.index.kneighbors(rows[finite], self.k)[0][:, -1] < self.radius
        return torch.as_tensor(inside).reshape(z.shape[:-1])


def clock(work, repeats):
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:])


def cost(metric, codes, density, walkers, steps, step_size):
    z = codes[torch.randint(len(codes), (walkers,), generator=torch.Generator().manual_seed(0))]
    metric.embedding.probe()
    rows = []
    with torch.no_grad():
        unit = clock(lambda: metric.embedding(z), 20)
    print(f"{walkers:,} walkers × {steps:,} steps; one forward pass of {walkers:,} rows: {1e3 * unit:.2f} ms")

    def told(name, work, steps):
        start, began = time.process_time(), time.perf_counter()
        walk = work()
        seconds, elapsed = time.process_time() - start, time.perf_counter() - began
        with torch.no_grad():  # the machine's speed changes while a long walk runs
            now = statistics.median([unit, clock(lambda: metric.embedding(z), 20)])
        rows.append(
            {
                "kind": name,
                "steps": steps,
                "seconds": round(seconds, 2),
                "elapsed": round(elapsed, 2),
                "units_per_step": round(seconds / steps / now, 2),
            }
        )
        done = int(walk.finished.sum())
        each = f"{seconds / steps / now:8.1f} units per step"
        print(f"  {name:<28} {steps:6,} steps {seconds:8.1f} s {each}   {done}/{walkers} finished", flush=True)

    for name, kind in KINDS.items():
        told(name, lambda kind=kind: lg.random_walk(
            metric, z, n_steps=steps, step_size=step_size, kind=kind, random_state=0, progress=False
        ), steps)  # fmt: skip
    for drift, n in (("simplified", steps), ("full", max(1, steps // 5))):
        told(f"Langevin, {drift} drift", lambda drift=drift, n=n: lg.langevin(
            metric, density, z, n_steps=n, step_size=step_size, drift=drift, random_state=0, progress=False
        ), n)  # fmt: skip
    return {"walkers": walkers, "steps": steps, "unit_ms": round(1e3 * unit, 3), "kinds": rows}


def figures(name, walk, share, **more):
    return {"kind": name, "inside": float(share.mean()), "last": float(share[:, -1].mean()), "rms_step": walk.rms_step,
            "step_size": walk.step_size, "finished": int(walk.finished.sum()), **more}  # fmt: skip


def region(metric, codes, density, walkers, steps, burn_in, step_size, drift, seed):
    inside = CodeRegion(codes)
    exact = float(inside(density.sample(200_000, random_state=seed)).double().mean())
    print(f"{density!r}, held-out log density {density.held_out:.3f}; code region radius {inside.radius:.3f}")
    print(f"  {'exact samples':<28} {exact:8.2%} inside")
    z = codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))[:walkers]]
    start = time.perf_counter()
    walk = lg.langevin(metric, density, z, n_steps=steps, step_size=step_size, burn_in=burn_in, drift=drift,
                       random_state=seed, progress=False)  # fmt: skip
    seconds = time.perf_counter() - start
    share = inside(walk.z[:, 1:]).double()
    least = float(share.mean(1).min())
    rows = [figures("Langevin", walk, share, least_walker=least, acceptance=float(walk.acceptance.mean()), drift=drift,
                    ess=walk.effective_samples.tolist(), rhat=walk.rhat.tolist(), seconds=round(seconds))]  # fmt: skip
    print(f"  {walk!r}\n  rms step {walk.rms_step:.4f}, ESS {walk.effective_samples.round().tolist()}, "
          f"R-hat {walk.rhat.max():.4f}, {seconds:.0f} s")  # fmt: skip
    print(f"  {'Langevin':<28} {rows[0]['inside']:8.2%} inside, {rows[0]['last']:.1%} at the end, least walker "
          f"{least:.1%}: {'holds' if rows[0]['inside'] >= exact - 0.01 else 'MISSED'}")  # fmt: skip
    for name, kind in KINDS.items():
        if name == "Brownian, projection":
            continue
        delta = walk.rms_step**2 / codes.shape[1] if name == "Euclidean" else step_size
        other = lg.random_walk(metric, z, n_steps=steps, step_size=delta, kind=kind, random_state=seed, progress=False)
        share = inside(other.z[:, 1:]).double()
        rows.append(figures(name, other, share))
        print(f"  {name:<28} {share.mean():8.2%} inside, {share[:, -1].mean():.1%} at the end; rms step "
              f"{other.rms_step:.4f}, {int(other.finished.sum())}/{walkers} finished")  # fmt: skip
    return {"walkers": walkers, "steps": steps, "bandwidth": density.bandwidth, "radius": inside.radius,
            "exact": exact, "kinds": rows}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/mnist-2d.safetensors")
    parser.add_argument("--walkers", type=int, default=1000, help="for the cost")
    parser.add_argument("--steps", type=int, default=1000, help="for the cost")
    parser.add_argument("--step-size", type=float, default=0.2, help="of Brownian and inverse-metric walks")
    parser.add_argument("--region-walkers", type=int, default=50)
    parser.add_argument("--region-steps", type=int, default=10_000)
    parser.add_argument("--burn-in", type=int, default=500)
    parser.add_argument("--drift", choices=["full", "simplified"], default="simplified")
    parser.add_argument("--only", choices=["cost", "region"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = lg.load(args.checkpoint)
    metric = lg.metric(model)
    density = lg.KernelDensity(model.codes, random_state=args.seed)
    result = {"checkpoint": args.checkpoint}
    if args.only != "region":
        result["cost"] = cost(metric, model.codes, density, args.walkers, args.steps, args.step_size)
    if args.only != "cost":
        result["region"] = region(metric, model.codes, density, args.region_walkers, args.region_steps, args.burn_in,
                                  args.step_size, args.drift, args.seed)  # fmt: skip
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
