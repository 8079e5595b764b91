"""Distances between all codes of the shipped models: time, memory, and error against refined geodesics.

python benchmarks/graph_distances.py [--tasks digits mnist many] [--codes 10000] [--pairs 500] [--n-jobs 1] [--json ...]

digits   all pairs of the codes that the digits model carries, in memory
mnist    all pairs of the first 10,000 codes of MNIST, streamed into a float32 .npy file
many     60,000 codes: building the graph, searches from single codes, nearest of ten codes (what k-means needs)
sharp    as digits, for the MNIST model with a sharper precision (128 centres, half as wide)

Each task runs in a process of its own, whose peak memory is its own. Times are wall and processor seconds; the unit is
one forward pass of the decoder over the same codes. The error is that of the graph's lengths of random pairs against
geodesics refined from its paths by `connect` (rtol 1e-3). "below" is the largest relative amount by which the graph
undercuts a refined length beyond the sum of the two error bounds: the refined length's own, and the difference between
the graph's length and an independent quadrature of its path. It must not be positive.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import latentgeo as lg

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"


class Clock:
    """Wall and processor seconds of a block of code, children included once they have ended."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), self._used()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, self._used() - self._cpu

    @staticmethod
    def _used() -> float:
        whole = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(u.ru_utime + u.ru_stime for u in whole)


class Memory:
    """Peak of this process's own memory (without mapped files) above that at the start, in MB; Linux only."""

    def __enter__(self) -> Memory:
        self._stop = threading.Event()
        self.base = self.peak = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.grown = max(self.peak, self._now()) - self.base

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> float:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return float("nan")
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def encoded(model: lg.LatentModel, n: int) -> Tensor:
    """Codes of the first n images of MNIST; drawn from the encoder again and again if there are not so many."""
    parts = [lg.datasets.load_mnist(split).data for split in ("train", "test")]
    data = torch.cat(parts)[:n]
    with torch.no_grad():
        mean, std = (torch.cat(x) for x in zip(*(model.encoder(rows) for rows in data.split(4096)), strict=True))
    generator = torch.Generator().manual_seed(0)
    codes = [mean]
    while sum(map(len, codes)) < n:
        codes.append(mean + std * torch.randn(mean.shape, generator=generator))
    return torch.cat(codes)[:n]


def unit(metric: lg.Metric, codes: Tensor) -> float:
    """Processor seconds of one forward pass of the decoder over the codes."""
    with torch.no_grad():
        metric.embedding(codes[:100])
        with Clock() as clock:
            for rows in codes.split(2048):
                metric.embedding(rows)
    return clock.cpu


def accuracy(metric: lg.Metric, graph: lg.LatentGraph, codes: Tensor, pairs: int) -> dict[str, float]:
    """The graph's lengths of random pairs against geodesics refined from its paths."""
    rng = np.random.default_rng(0)
    i = rng.integers(len(codes), size=pairs)
    j = (i + rng.integers(1, len(codes), size=pairs)) % len(codes)
    a, b = codes[i], codes[j]
    length = graph.lengths(a, b).double()
    path = lg.connect(metric, a, b, init=graph.paths(a, b, n_points=257), throw=False)
    polygon = graph.paths(a, b, n_points=1025)
    true = torch.cat([lg.curve_length(metric, p) for p in polygon.split(25)]).double()
    straight = lg.curve_length(metric, torch.stack([a, b], 1)).double()
    good = path.converged
    refined, bound = path.length.double()[good], path.length_error.double()[good]
    excess = (length[good] / refined - 1).numpy()
    below = (refined - length[good] - bound - (length - true).abs()[good]) / refined
    return {
        "pairs": pairs,
        "converged": int(good.sum()),
        "median": float(np.median(excess)),
        "p95": float(np.quantile(excess, 0.95)),
        "largest": float(excess.max()),
        "least": float(excess.min()),
        "below": float(below.max()),
        "straight": float((straight[good] / refined - 1).median()),
        "quadrature": float((length / true - 1).abs().median()),
    }


def all_pairs(name: str, codes: Tensor | None, args: argparse.Namespace, *, stream: bool) -> dict[str, Any]:
    model = lg.load(CHECKPOINTS / f"{name}.safetensors")
    if codes is None:
        codes = torch.as_tensor(model.codes)
    return measured(lg.metric(model), codes, args, stream=stream)


def measured(metric: lg.Metric, codes: Tensor, args: argparse.Namespace, *, stream: bool) -> dict[str, Any]:
    forward = unit(metric, codes)
    metric.tensor(codes[:8])
    with Memory() as memory, Clock() as building:
        graph = lg.LatentGraph(metric, grid=args.grid).fit(codes)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        out = Path(folder) / "D.npy" if stream else None
        with Memory() as filling_memory, Clock() as filling:
            D = lg.pairwise_distances(metric, codes, graph=graph, out=out, n_jobs=args.n_jobs)
        size = D.nbytes if isinstance(D, np.ndarray) else D.numel() * D.element_size()
        shape, kind = tuple(D.shape), str(D.dtype)
        del D
    return {
        "graph": repr(graph),
        "matrix": f"{shape[0]}×{shape[1]} {kind}",
        "megabytes": size / 1e6,
        "unit": forward,
        "build wall": building.wall,
        "build cpu": building.cpu,
        "build MB": memory.grown,
        "fill wall": filling.wall,
        "fill cpu": filling.cpu,
        "fill MB": filling_memory.grown,
        "cpu ms per row": 1e3 * filling.cpu / len(codes),
        "units": (building.cpu + filling.cpu) / forward,
    } | accuracy(metric, graph, codes, args.pairs)


def digits(args: argparse.Namespace) -> dict[str, Any]:
    return all_pairs("digits-2d", None, args, stream=False)


def mnist(args: argparse.Namespace) -> dict[str, Any]:
    model = lg.load(CHECKPOINTS / "mnist-2d.safetensors")
    return measured(lg.metric(model), encoded(model, args.codes), args, stream=True)


def sharp(args: argparse.Namespace) -> dict[str, Any]:
    model = lg.load(CHECKPOINTS / "mnist-2d.safetensors")
    data = lg.datasets.load_mnist("train").data
    decoder = lg.fit_precision(
        model.decoder, encoded(model, len(data)), data, n_centers=128, bandwidth=0.75, random_state=0
    )
    return measured(lg.ExpectedMetric(decoder), torch.as_tensor(model.codes), args, stream=False)


def many(args: argparse.Namespace) -> dict[str, Any]:
    model = lg.load(CHECKPOINTS / "mnist-2d.safetensors")
    metric, codes = lg.metric(model), encoded(model, 60_000)
    forward = unit(metric, codes)
    with Memory() as memory, Clock() as building:
        graph = lg.LatentGraph(metric, grid=args.grid).fit(codes)
    some = np.random.default_rng(0).integers(len(codes), size=200)
    with Clock() as single:
        for k in some[:50]:
            graph.distances_from([k])
    with Clock() as together:
        D = graph.distances_from(some)
    with Clock() as ten:
        for k in range(0, 200, 10):
            distance = graph.nearest(some[k : k + 10]).distance
    if not torch.equal(D[190:].min(0).values, distance):
        raise RuntimeError("nearest and distances_from do not agree")
    return {
        "graph": repr(graph),
        "unit": forward,
        "build wall": building.wall,
        "build cpu": building.cpu,
        "build MB": memory.grown,
        "cpu ms per code, one call each": 20 * single.cpu,
        "cpu ms per code, 200 in a call": 5 * together.cpu,
        "cpu ms per nearest of 10": 50 * ten.cpu,
        "units": building.cpu / forward,
    }


TASKS = {"digits": digits, "mnist": mnist, "many": many, "sharp": sharp}


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=["digits", "mnist", "many"], choices=sorted(TASKS))
    parser.add_argument("--codes", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--grid", type=int)
    parser.add_argument("--n-jobs", type=int, default=1)
    parser.add_argument("--folder", help="where the streamed matrix is put for the time being")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", choices=sorted(TASKS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.alone:
        result = TASKS[args.alone](args)
        result["peak RSS MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result))
        return
    results = {}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in vars(args).items() if value is not None]
    options = [o for o in options if not o.startswith(("--tasks", "--json"))]
    for task in args.tasks:
        print(task, flush=True)
        command = [sys.executable, __file__, f"--alone={task}", *options]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results[task] = json.loads(output.splitlines()[-1])
        for name, value in results[task].items():
            print(f"  {name:32s} {shown(value)}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
