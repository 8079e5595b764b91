"""`connect` on random pairs of codes from straight starts: statuses, error estimates, minimality, cost.

python benchmarks/connect_mnist.py [--checkpoint ...] [--pairs 100] [--rtol 1e-2] [--no-minimiser]

Cost is in forward passes of the embedding over the nodes of all curves (pairs x 33 rows). Two checks are independent of
the solver: a 2,000-step float64 quadrature of path(t), and an L-BFGS minimiser of the energy of 257-node polygons in
float64 (scipy, gradients by plain autograd, in coordinates that precondition by the curve's Laplacian).
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import time

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from tqdm import tqdm

import latentgeo as lg


def polygon_length(phi, z: torch.Tensor, substeps: int) -> torch.Tensor:
    """Lengths of polygons (B, n, d) by chords of phi over equal sub-steps of their sides."""
    s = torch.arange(substeps, dtype=z.dtype) / substeps
    fine = (z[:, :-1, None] + s[:, None] * (z[:, 1:, None] - z[:, :-1, None])).flatten(1, 2)
    fine = torch.cat([fine, z[:, -1:]], 1)
    with torch.no_grad():
        return torch.stack([torch.linalg.vector_norm(phi(c).diff(dim=0), dim=-1).sum() for c in fine])


def minimise(phi, z: torch.Tensor) -> torch.Tensor:
    """Lower the energy of one polygon (n, d) with fixed ends by L-BFGS."""
    n, d = z.shape
    m = n - 2
    laplacian = np.diag(np.full(m, 2.0)) - np.diag(np.ones(m - 1), 1) - np.diag(np.ones(m - 1), -1)
    factor = scipy.linalg.cholesky(laplacian, lower=True)

    def nodes(y: np.ndarray) -> np.ndarray:
        return z[1:-1].numpy() + scipy.linalg.solve_triangular(factor.T, y.reshape(m, d))

    def energy(y: np.ndarray) -> tuple[float, np.ndarray]:
        inner = torch.tensor(nodes(y), requires_grad=True)
        x = phi(torch.cat([z[:1], inner, z[-1:]]))
        value = 0.5 * (n - 1) * x.diff(dim=0).square().sum()
        (g,) = torch.autograd.grad(value, inner)
        return value.item(), scipy.linalg.solve_triangular(factor, g.numpy(), lower=True).ravel()

    best = scipy.optimize.minimize(
        energy, np.zeros(m * d), jac=True, method="L-BFGS-B", options={"maxiter": 300, "ftol": 1e-12, "gtol": 1e-10}
    )
    return torch.cat([z[:1], torch.tensor(nodes(best.x)), z[-1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/mnist-2d.safetensors")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--rtol", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-minimiser", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = lg.load(args.checkpoint)
    metric = lg.metric(model)
    metric.embedding.probe()
    exact = lg.metric(lg.LatentModel(model.decoder.to(torch.float64))).embedding
    order = torch.randperm(len(model.codes), generator=torch.Generator().manual_seed(args.seed))
    a, b = model.codes[order[: args.pairs]], model.codes[order[args.pairs : 2 * args.pairs]]

    rows = model.codes[torch.randint(len(model.codes), (args.pairs * 33,))]
    with torch.no_grad():
        unit = []
        for _ in range(11):
            start = time.perf_counter()
            metric.embedding(rows)
            unit.append(time.perf_counter() - start)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        path = lg.connect(metric, a, b, solver=lg.Newton(rtol=args.rtol), throw=False)
        seconds.append(time.perf_counter() - start)
    straight = lg.curve_length(metric, torch.stack([a, b], 1))
    ok = path.converged
    print(f"{path}\nstatuses: {dict(collections.Counter(s.name for s in path.status))}")
    print(
        f"cost: {statistics.median(seconds):.2f} s = {statistics.median(seconds) / statistics.median(unit):.0f} units"
    )
    steps, points = path.stats["steps"], sorted(collections.Counter(path.stats["points"].tolist()).items())
    print(f"Newton steps: mean {steps.double().mean():.1f}, most {int(steps.max())}; nodes: {dict(points)}")
    print(f"geodesic / straight length: mean {(path.length / straight)[ok].mean():.3f}")

    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    curve = path(t).double()
    with torch.no_grad():
        fine = torch.stack([torch.linalg.vector_norm(exact(c).diff(dim=0), dim=-1).sum() for c in curve])
    gap = (fine - path.length.double()).abs()
    within = gap <= path.length_error.double()
    print(f"independent quadrature within length_error: {int((within & ok).sum())} of {int(ok.sum())} converged")
    result = {
        "pairs": args.pairs,
        "rtol": args.rtol,
        "converged": int(ok.sum()),
        "units": round(statistics.median(seconds) / statistics.median(unit), 1),
        "quadrature_within": int((within & ok).sum()),
    }
    if not args.no_minimiser:
        falls = []
        for k in tqdm(ok.nonzero()[:, 0].tolist(), desc="minimiser"):
            begin = path(torch.linspace(0, 1, 257, dtype=torch.float64))[k].double()
            end = minimise(exact, begin)
            before, after = (float(polygon_length(exact, c[None], 8)[0]) for c in (begin, end))
            falls.append(1 - after / before)
        print(f"minimiser shortens by: mean {100 * np.mean(falls):.3f} %, worst {100 * np.max(falls):.3f} %")
        result |= {"shortened_worst": round(float(np.max(falls)), 6), "shortened_mean": round(float(np.mean(falls)), 7)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
