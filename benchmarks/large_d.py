"""Geometry in many latent dimensions: what it costs, and in how much memory.

    python benchmarks/large_d.py [--only mlp full quarter] [--pairs N] [--cache FOLDER] [--json PATH]

Each case runs in a process of its own, whose peak memory is measured. Cost is processor time over that of the plain
forward passes that the result is about, timed in the same process before and after: (1 + d) rows per metric tensor, 33
rows per curve, one row per tangent. The cases:

- mlp: an MLP VAE with RBF precision on MNIST, d = 32; the default solver against the others from straight lines;
- full: a mirrored ResNet-18 for 32 × 32 × 3 images, d = 256, with random weights;
- quarter: the same with a quarter of the channels, a VAE trained for one epoch on padded MNIST.

MNIST is looked for in LATENTGEO_DATA. --cache keeps trained weights between runs.
"""

from __future__ import annotations

import argparse
import collections
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _large_d_models import mlp_vae, random_resnet, trained_resnet
from torch import Tensor

import latentgeo as lg
from latentgeo.metrics import conjugate_gradients

NODES = 33


def cpu() -> float:
    return time.process_time()


def peak() -> float:
    """Peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Unit:
    """Processor seconds of a plain forward pass, per row."""

    def __init__(self, phi: lg.Embedding, rows: Tensor, repeats: int = 5) -> None:
        self.phi, self.rows, self.repeats = phi, rows, repeats

    def measure(self) -> float:
        times = []
        with torch.no_grad():
            for _ in range(self.repeats):
                start = cpu()
                self.phi.function(self.rows)
                times.append((cpu() - start) / len(self.rows))
        return statistics.median(times)

    def cost(self, call: Callable[[], Any], rows: float) -> tuple[Any, dict[str, float]]:
        """Result of a call, and its cost in forward passes over `rows` rows."""
        before, start, wall = self.measure(), cpu(), time.perf_counter()
        result = call()
        seconds, wall = cpu() - start, time.perf_counter() - wall
        unit = 0.5 * (before + self.measure())
        return result, {
            "cpu_seconds": seconds,
            "wall_seconds": wall,
            "units": seconds / unit / rows,
            "peak_mib": peak(),
        }


def told(path: lg.Geodesic) -> dict[str, Any]:
    length = path.length.double()
    return {
        "curves": len(length),
        "failed": int((~path.converged).sum()),
        "status": dict(collections.Counter(s.name for s in path.status)),
        "mean_length": float(length.nanmean()),
        "certified": int(path.certified.sum()),
        "steps": float(path.stats["steps"].double().mean()),
        "points": dict(collections.Counter(path.stats["points"].tolist())),
    }


# --- cases ------------------------------------------------------------------------------------------------------------


def mlp(args: argparse.Namespace) -> dict[str, Any]:
    metric, codes, facts = mlp_vae(32, epochs=args.epochs)
    out: dict[str, Any] = {"model": facts, "embedding": repr(metric.embedding), "solvers": {}}
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
    a, b = codes[order[: args.pairs]], codes[order[args.pairs : 2 * args.pairs]]
    metric.embedding.probe(a)
    straight = lg.curve_length(metric, torch.stack([a, b], 1))
    out["straight"] = float(straight.double().mean())
    unit = Unit(
        metric.embedding, torch.lerp(a[:, None], b[:, None], torch.linspace(0, 1, NODES)[:, None]).flatten(0, 1)
    )
    solvers = {
        "default (Sobolev)": (None, args.pairs),
        "Sobolev(certify=True)": (lg.Sobolev(certify=True), min(args.pairs, 32)),
        "Newton": (lg.Newton(), min(args.pairs, 32)),
        "Spline": (lg.Spline(), min(args.pairs, 32)),
        "Georce": (lg.Georce(), args.georce_pairs),
    }
    lengths: dict[str, Tensor] = {}
    for name, (solver, n) in solvers.items():
        ends = a[:n], b[:n]
        path, cost = unit.cost(lambda s=solver, e=ends: lg.connect(metric, *e, solver=s, throw=False), n * NODES)
        lengths[name] = path.length.double()
        out["solvers"][name] = {**told(path), **cost}
        print(name, json.dumps(out["solvers"][name]), file=sys.stderr, flush=True)
    best = lengths["default (Sobolev)"]
    for name, found in lengths.items():
        ratio = found / best[: len(found)]
        out["solvers"][name]["to_default"] = {"mean": float(ratio.nanmean()), "max": float(ratio.nan_to_num(0).max())}
    return out


def resnet(metric: lg.Metric, z: Tensor, a: Tensor, b: Tensor, solver: lg.Sobolev, *, step: bool) -> dict[str, Any]:
    phi = metric.embedding
    d = z.shape[-1]
    out: dict[str, Any] = {"start_mib": peak()}
    before = cpu()
    phi.probe(a)
    out |= {"probe_seconds": cpu() - before, "embedding": repr(phi), "row_bytes": phi.report.row_bytes}
    unit = Unit(phi, a[:4])
    out["forward_seconds_per_row"] = unit.measure()
    print(f"probe {out['probe_seconds']:.1f} s, a row {1e3 * out['forward_seconds_per_row']:.1f} ms", file=sys.stderr)

    def entry(name: str, call: Callable[[], Any], rows: float) -> Any:
        result, out[name] = unit.cost(call, rows)
        print(name, json.dumps(out[name]), file=sys.stderr, flush=True)
        return result

    G = entry("tensor", lambda: metric.tensor(z), len(z) * (1 + d))
    spectrum = torch.linalg.eigvalsh(G.double())
    out["tensor"] |= {"codes": len(z), "condition_median": float((spectrum[:, -1] / spectrum[:, 0]).median())}
    path = entry("connect", lambda: lg.connect(metric, a, b, solver=solver, throw=False), len(a) * NODES)
    straight = lg.curve_length(metric, torch.stack([a, b], 1))
    out["connect"] |= {**told(path), "mean_straight": float(straight.double().mean()), "solver": repr(solver)}
    few = z[:4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = entry("log_volume", lambda: metric.log_volume(few), len(few) * (1 + d))
    guess = entry(
        "estimate_log_volume",
        lambda: metric.estimate_log_volume(few, n_probes=8, n_steps=24, random_state=0),
        len(few) * (1 + d),
    )
    out["estimate_log_volume"] |= {
        "exact": exact.tolist(),
        "value": guess.value.tolist(),
        "standard_error": guess.standard_error.tolist(),
        "truncation": guess.truncation.tolist(),
    }
    if step:
        w = metric.product(z, torch.randn(z.shape, generator=torch.Generator().manual_seed(1)))
        found = entry("conjugate_gradients", lambda: conjugate_gradients(metric, z, w, max_steps=84), len(z))
        out["conjugate_gradients"] |= {
            "converged": int(found.converged.sum()),
            "steps": float(found.steps.double().mean()),
        }
        v = entry("inverse_metric_step", lambda: metric.random_tangent(z, random_state=0, throw=False), len(z))
        fair = v.isfinite().all(-1)
        out["inverse_metric_step"] |= {
            "finite": int(fair.sum()),
            "mean_squared_length_over_d": float(metric.norm(z[fair], v[fair]).square().mean() / d),  # 1 in expectation
        }
    return out


def metric_of(decoder: torch.nn.Module) -> lg.Metric:
    return lg.ExpectedMetric(lg.wrap(decoder, latent_dim=256, likelihood="deterministic"))


def full(args: argparse.Namespace) -> dict[str, Any]:
    metric = metric_of(random_resnet(256, 1.0))
    z = torch.randn(16 + 8, 256, generator=torch.Generator().manual_seed(1))
    # at random weights the image is rough at all scales: a bounded search, whose status says how far it came
    solver = lg.Sobolev(n_points=17, max_points=33, rtol=5e-2, residual_tol=5e-2, max_steps=40)
    return resnet(metric, z[:16], z[16:20], z[20:24], solver, step=False)


def quarter(args: argparse.Namespace) -> dict[str, Any]:
    cache = None if args.cache is None else Path(args.cache) / "resnet-quarter-mnist.pt"
    decoder, codes, facts = trained_resnet(256, 0.25, cache=cache)
    metric = metric_of(decoder)
    solver = lg.Sobolev(rtol=2e-2, residual_tol=2e-2)
    return {"model": facts, **resnet(metric, codes[:100], codes[100:132], codes[132:164], solver, step=True)}


CASES = {"mlp": mlp, "full": full, "quarter": quarter}


# --- report -----------------------------------------------------------------------------------------------------------


def table(name: str, result: dict[str, Any]) -> str:
    if name == "mlp":
        lines = [
            "| solver | pairs | failed | mean length | length / default: mean, max | units | seconds |",
            "|---" * 7 + "|",
        ]
        for solver, row in result["solvers"].items():
            ratio = row["to_default"]
            lines.append(
                f"| {solver} | {row['curves']} | {row['failed']} | {row['mean_length']:.4f} | {ratio['mean']:.5f}, "
                f"{ratio['max']:.4f} | {row['units']:,.0f} | {row['cpu_seconds']:.1f} |"
            )
        return "\n".join([f"straight lines: {result['straight']:.3f}", *lines])
    lines = ["| what | units | processor seconds | peak so far (MiB) |", "|---|---|---|---|"]
    for what, row in result.items():
        if isinstance(row, dict) and "units" in row:
            lines.append(f"| {what} | {row['units']:,.1f} | {row['cpu_seconds']:.1f} | {row['peak_mib']:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pairs", type=int, default=100, help="pairs for the default solver in the case mlp")
    parser.add_argument("--georce-pairs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5, help="of training in the case mlp")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", help="folder for trained weights")
    parser.add_argument("--json", help="where to write all figures")
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        torch.set_num_threads(args.threads)
        result = CASES[args.child](args)
        print(json.dumps({**result, "peak_mib": peak(), "threads": args.threads, "torch": torch.__version__}))
        return
    results = {}
    for name in args.only:
        command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"\n{name}: peak memory {results[name]['peak_mib']:,.0f} MiB\n{table(name, results[name])}\n", flush=True)
        if args.json:
            Path(args.json).parent.mkdir(parents=True, exist_ok=True)
            Path(args.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
