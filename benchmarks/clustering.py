"""Geodesic k-means on MNIST codes: time, memory and convergence against the number of codes; agreement with the digits.

    python benchmarks/clustering.py scale     # 5,000 to 60,000 codes: build, fit, memory, inertia at full convergence
    python benchmarks/clustering.py triples   # digit triples: F-measure, ARI and NMI of Euclidean and geodesic k-means

The codes are those of the shipped encoder (checkpoints/mnist-2d.safetensors). MNIST must be at hand (see
`latentgeo.datasets.load_mnist`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

import latentgeo as lg

CHECKPOINT = Path(__file__).resolve().parent.parent / "checkpoints" / "mnist-2d.safetensors"
TRIPLES = ((0, 1, 2), (3, 4, 7), (5, 6, 9))


def codes(split: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """The model, and the codes and labels of a part of MNIST."""
    model = lg.load(CHECKPOINT)
    data = lg.datasets.load_mnist(split)
    with torch.no_grad():
        z = torch.cat([model.encode(x) for x in data.data.split(10_000)])
    return model, z.numpy(), data.labels.numpy()


class Clock:
    """Wall and processor seconds of a block: they differ where other work shares the machine."""

    def __enter__(self) -> Clock:
        self.wall, self.cpu = -time.perf_counter(), -_processor()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter()
        self.cpu += _processor()


def _processor() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def fit(n: int, k: int, n_init: int, seed: int, converged: bool) -> dict[str, Any]:
    """Cluster n codes and measure it."""
    model, Z, _ = codes("train")
    Z = Z[np.random.default_rng(seed).permutation(len(Z))[:n]]
    metric = lg.metric(model)
    with Clock() as build:
        graph = lg.LatentGraph(metric).fit(torch.as_tensor(np.unique(Z, axis=0)))
    with Clock() as fitting:
        found = lg.GeodesicKMeans(metric, k, n_init=n_init, graph=graph, random_state=seed).fit(Z)
    row = {
        "codes": n,
        "build_s": build.wall,
        "build_cpu_s": build.cpu,
        "fit_s": fitting.wall,
        "fit_cpu_s": fitting.cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "inertia": found.inertia_,
        "steps": found.n_iter_,
    }
    if converged:
        start = found.cluster_centers_
        with Clock() as long:
            options = {"tol": 0.0, "max_iter": 1000, "batch_size": None, "n_candidates": 2048, "n_refine": 32}
            full = lg.GeodesicKMeans(metric, k, init=start, graph=graph, **options).fit(Z)
        row |= {"full_inertia": full.inertia_, "ratio": found.inertia_ / full.inertia_, "full_s": long.wall}
    return row


def scale(args: argparse.Namespace) -> dict[str, Any]:
    """Each size in a process of its own, so that its peak memory is its own."""
    rows = []
    print(
        f"k = {args.clusters}, n_init = {args.n_init}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    )
    head = ("codes", "build s", "(cpu)", "fit s", "(cpu)", "peak GiB", "inertia", "steps", "inertia / converged")
    print("".join(f"{name:>12}" for name in head[:-1]) + f"{head[-1]:>22}")
    for n in args.sizes:
        one = [sys.executable, __file__, "one", str(n), "--clusters", str(args.clusters), "--n-init", str(args.n_init)]
        one += ["--seed", str(args.seed)] + (["--converged"] if n == max(args.sizes) else [])
        out = subprocess.run(one, check=True, capture_output=True, text=True).stdout
        row = json.loads(out.splitlines()[-1])
        rows.append(row)
        numbers = [row[key] for key in ("build_s", "build_cpu_s", "fit_s", "fit_cpu_s", "peak_gib")]
        print(
            f"{row['codes']:>12}"
            + "".join(f"{x:>12.2f}" for x in numbers)
            + f"{row['inertia']:>12.5g}{row['steps']:>12}"
            f"{row.get('ratio', float('nan')):>22.4f}",
            flush=True,
        )
    slope = (
        np.polyfit(*(np.log([[r[key] for r in rows] for key in ("codes", "fit_cpu_s")])), 1)[0]
        if len(rows) > 1
        else None
    )
    if slope is not None:
        print(f"processor time of a fit grows as N^{slope:.2f}")
    return {"rows": rows, "slope": slope}


def scores(truth: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """F-measure of the best match of clusters with digits (weighted by their sizes), ARI, NMI."""
    table = contingency_matrix(truth, found).astype(float)
    sizes, given = table.sum(1), table.sum(0)
    F = 2 * table / (sizes[:, None] + given[None])
    rows, columns = linear_sum_assignment(-F * sizes[:, None])
    measure = float((F[rows, columns] * sizes[rows]).sum() / sizes.sum())
    return measure, adjusted_rand_score(truth, found), normalized_mutual_info_score(truth, found)


class Remembering(lg.LatentGraph):
    """A graph that keeps the distances it has found: those between a subset's codes serve all seeds."""

    def distances(self, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        key = A.numpy().tobytes(), B.numpy().tobytes()
        known = self.__dict__.setdefault("known", {})
        if key not in known:
            known[key] = super().distances(A, B)
        return known[key]


def triples(args: argparse.Namespace) -> dict[str, Any]:
    """Euclidean and geodesic k-means on disjoint subsets of the test codes of three digits.

    Every run is noted in --json at once, and is not done again when the command is given a second time.
    """
    model, Z, labels = codes("test")
    metric = lg.metric(model)
    runs: dict[str, list[float]] = {}
    if args.json is not None and args.json.exists():
        runs = json.loads(args.json.read_text())["runs"]
    print(f"{args.subsets} disjoint subsets, {args.seeds} seeds; %, mean ± std over all of them")
    print(f"{'digits':>8}{'codes':>7}{'':>12}{'F':>16}{'ARI':>16}{'NMI':>16}{'cpu s':>9}")
    for triple in TRIPLES:
        digits = ",".join(map(str, triple))
        mine = np.flatnonzero(np.isin(labels, triple))
        mine = mine[np.random.default_rng(0).permutation(len(mine))]
        graph = Remembering(metric).fit(torch.as_tensor(np.unique(Z[mine], axis=0)))
        parts = np.array_split(mine, args.subsets)
        kinds = {
            "Euclidean": lambda seed: KMeans(3, n_init=10, random_state=seed),
            "geodesic": lambda seed, graph=graph: lg.GeodesicKMeans(
                metric, 3, n_init=10, graph=graph, n_refine=args.refine, random_state=seed
            ),
        }
        for name, make in kinds.items():
            got = []
            for (i, part), seed in itertools.product(enumerate(parts), range(args.seeds)):
                key = f"{digits} {name} refine={args.refine} subset={i}/{args.subsets} seed={seed}"
                if key not in runs:
                    with Clock() as clock:
                        found = make(seed).fit(Z[part])
                    runs[key] = [*scores(labels[part], found.labels_), clock.cpu]
                    if args.json is not None:
                        args.json.write_text(json.dumps({"runs": runs}, indent=1))
                got.append(runs[key])
            *measures, cpu = np.array(got).T
            cells = "".join(f"{100 * m.mean():>9.1f} ± {100 * m.std():>4.1f}" for m in measures)
            print(f"{digits:>8}{len(parts[0]):>7}{name:>12}{cells}{cpu.sum():>9.0f}", flush=True)
    return {"runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=Path, help="write the numbers here too")
    common.add_argument("--seed", type=int, default=0)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name in ("scale", "one"):
        sub = kinds.add_parser(name, parents=[common])
        sub.add_argument("--clusters", type=int, default=10)
        sub.add_argument("--n-init", type=int, default=10)
    kinds.choices["scale"].add_argument("--sizes", type=int, nargs="+", default=[5000, 10_000, 20_000, 40_000, 60_000])
    kinds.choices["one"].add_argument("codes", type=int)
    kinds.choices["one"].add_argument("--converged", action="store_true")
    sub = kinds.add_parser("triples", parents=[common])
    sub.add_argument("--subsets", type=int, default=10)
    sub.add_argument("--seeds", type=int, default=5)
    sub.add_argument("--refine", type=int, default=16, help="codes per cluster that Karcher steps see")
    args = parser.parse_args()
    if args.kind == "one":
        print(json.dumps(fit(args.codes, args.clusters, args.n_init, args.seed, args.converged)))
        return
    result = {"scale": scale, "triples": triples}[args.kind](args)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
