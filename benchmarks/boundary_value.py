"""Boundary-value solvers side by side on MNIST decoders: how long their curves are and what they cost.

    python benchmarks/boundary_value.py [--peers-python PATH] [--docs docs/benchmarks.md] [--only NAME ...]
    python benchmarks/boundary_value.py --scaling

Cost is the time of a call over that of one forward pass of the embedding over 100 x 33 rows, timed in the same process
just before and after: wall over wall, and, for machines that are not idle, processor time over processor time. Lengths
do not come from the solvers: every curve is sampled at 4,001 times and measured in float64 by the embedding's chords.
The shipped checkpoint is the smooth model; the sharp one has the same mean network and a precision with 128 narrower
centres, fitted here (needs MNIST: set LATENTGEO_DATA). Other packages run under --peers-python, the Python of an
environment with torch==2.13.0, "numpy<2.4", stochman and geomstats.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import latentgeo as lg

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parent / "checkpoints" / "mnist-2d.safetensors"
SAMPLES, UNIT_NODES = 4001, 33
PEERS = {  # slow ones on fewer pairs: the first of the same list
    "stochman, as shipped": 100,
    "stochman, tuned": 100,
    "stochman, long": 10,
    "geomstats path straightening": 3,
    "geomstats path straightening, chords": 10,
    "geomstats solve_bvp": 2,
}


@dataclasses.dataclass
class Problem:
    """A model and pairs of its codes."""

    name: str
    model: lg.LatentModel
    a: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        self.metric = lg.metric(self.model)
        self.metric.embedding.probe()
        exact = lg.metric(lg.LatentModel(self.model.decoder.to(torch.float64)))
        self.phi64 = exact.embedding
        rows = torch.randint(len(self.model.codes), (100 * UNIT_NODES,), generator=torch.Generator().manual_seed(1))
        self.rows = self.model.codes[rows]

    def unit(self) -> tuple[float, float]:
        """Wall and processor seconds of one forward pass over 100 x 33 rows."""
        times = []
        with torch.no_grad():
            for _ in range(15):
                start, cpu = time.perf_counter(), time.process_time()
                self.metric.embedding(self.rows)
                times.append((time.perf_counter() - start, time.process_time() - cpu))
        wall, cpu = (statistics.median(each) for each in zip(*times, strict=True))
        return wall, cpu

    def lengths(self, curves: Tensor) -> Tensor:
        """Lengths of finely sampled curves (P, SAMPLES, d); NaN where their ends are not the pair's."""
        ends = torch.stack([self.a[: len(curves)], self.b[: len(curves)]], 1).double()
        off = (curves[:, [0, -1]] - ends).abs().amax((-2, -1))
        with torch.no_grad():
            found = torch.stack([self.phi64(c).diff(dim=0).norm(dim=-1).sum() for c in curves])
        return torch.where(off < 1e-4, found, torch.nan)


@dataclasses.dataclass
class Row:
    """What one method did on one model."""

    model: str
    method: str
    settings: str
    pairs: int
    failed: int
    cost: Cost  # units scaled to 100 pairs
    statuses: dict[str, int]
    lengths: list[float]
    summary: dict[str, float] = dataclasses.field(default_factory=dict)


# --- models -----------------------------------------------------------------------------------------------------------


def pairs_of(model: lg.LatentModel, n: int, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(model.codes), generator=torch.Generator().manual_seed(seed))
    order = order.repeat(-(-2 * n // len(order)))  # codes are used again where there are not enough
    return model.codes[order[:n]], model.codes[order[n : 2 * n]]


def sharpened(model: lg.LatentModel) -> lg.LatentModel:
    """The same mean network with a sharper precision."""
    data = lg.datasets.load_mnist("train").data
    with torch.no_grad():
        mean, std = model.encoder(data)
    codes = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    decoder = lg.fit_precision(model.decoder, codes, data, n_centers=128, bandwidth=0.75, random_state=0)
    return lg.LatentModel(decoder, model.encoder, model.codes)


# --- methods ----------------------------------------------------------------------------------------------------------


def ours(slow: int) -> dict[str, tuple[lg.Metric | object, bool, int]]:
    """Solver, whether it starts from the graph, and on how many pairs it runs (0: all)."""
    loose = {"rtol": 1e-2, "residual_tol": 1e-2}  # about the accuracy that the other packages' defaults reach
    return {
        "Newton from graph": (lg.Newton(), True, 0),
        "Newton from straight": (lg.Newton(), False, 0),
        "Spline from straight": (lg.Spline(), False, 0),
        "Spline from graph": (lg.Spline(), True, 0),
        "Georce from straight": (lg.Georce(), False, slow),
        "Georce from graph": (lg.Georce(), True, slow),
        "Newton from graph, loose": (lg.Newton(**loose), True, 0),
        "Newton from straight, loose": (lg.Newton(**loose), False, 0),
        "Spline from graph, loose": (lg.Spline(**loose), True, 0),
        "Spline from straight, loose": (lg.Spline(**loose), False, 0),
        "Georce from graph, loose": (lg.Georce(**loose), True, slow),
        "Georce from straight, loose": (lg.Georce(**loose), False, slow),
        "Collocation from straight": (lg.Collocation(), False, slow),
        "Collocation from graph": (lg.Collocation(), True, slow),
    }


@dataclasses.dataclass
class Cost:
    """Seconds of one call, and the same in forward passes timed just before and after it (medians of up to 3 runs)."""

    wall_seconds: float
    cpu_seconds: float
    wall_units: float
    cpu_units: float


def timed(problem: Problem, call: Callable[[], object]) -> tuple[object, Cost]:
    runs, before = [], problem.unit()
    while True:
        start, cpu = time.perf_counter(), time.process_time()
        result = call()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        after = problem.unit()
        units = [0.5 * (first + last) for first, last in zip(before, after, strict=True)]
        runs.append((wall, cpu, wall / units[0], cpu / units[1]))
        before = after
        if len(runs) == 3 or sum(run[0] for run in runs) > 20:
            break
    return result, Cost(*(statistics.median(each) for each in zip(*runs, strict=True)))


def run_ours(problem: Problem, name: str, graph: lg.LatentGraph, slow_pairs: int) -> Row:
    solver, from_graph, limit = ours(slow_pairs)[name]
    n = limit or len(problem.a)
    a, b = problem.a[:n], problem.b[:n]
    init = graph if from_graph else None
    path, cost = timed(problem, lambda: lg.connect(problem.metric, a, b, solver=solver, init=init, throw=False))
    lengths = problem.lengths(path(torch.linspace(0, 1, SAMPLES, dtype=torch.float64)).double())
    gap = (lengths - path.length.double()).abs() > path.length_error.double() + 1e-4 * lengths
    statuses = collections.Counter(s.name for s in path.status)
    if n_wrong := int((gap & path.converged).sum()):
        statuses["length_error too small"] = n_wrong
    failed = int((~path.converged | lengths.isnan()).sum())
    cost.wall_units, cost.cpu_units = cost.wall_units * 100 / n, cost.cpu_units * 100 / n
    return Row(problem.name, name, repr(solver), n, failed, cost, dict(statuses), lengths.tolist())


def run_peer(problem: Problem, name: str, python: str) -> Row | None:
    module = problem.model.decoder.module
    layers: list[tuple[Tensor, Tensor, str | None]] = []
    for part in module.layers:
        if isinstance(part, torch.nn.Linear):
            layers.append((part.weight.detach(), part.bias.detach(), None))
        else:
            layers[-1] = (*layers[-1][:2], type(part).__name__)
    precision = problem.model.decoder.precision
    keys = ("centers", "bandwidths", "weights", "floor")
    with torch.no_grad():
        check = problem.metric.embedding(problem.a)
    told = {"layers": layers, "a": problem.a, "b": problem.b, "rows": problem.rows, "check": check}
    told |= {key: getattr(precision, key).detach() for key in keys}
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "problem.pt"), Path(folder, "result.pt")
        torch.save(told, question)
        command = [python, str(HERE / "_peers.py"), str(question), str(answer), name, str(PEERS[name])]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode:
            print(f"{name}: failed with exit status {done.returncode}", file=sys.stderr)
            return None
        found = torch.load(answer, weights_only=True)
    lengths = problem.lengths(found["curves"])
    success, n = found["success"], len(lengths)
    failed = int((~success | lengths.isnan()).sum())
    statuses = {"success": int(success.sum()), "failure": int((~success).sum())}
    wall, cpu = found["wall_seconds"], found["cpu_seconds"]
    cost = Cost(wall, cpu, wall / found["wall_unit"] * 100 / n, cpu / found["cpu_unit"] * 100 / n)
    return Row(problem.name, name, found["settings"], n, failed, cost, statuses, lengths.tolist())


def best_effort(problem: Problem, graph: lg.LatentGraph) -> list[Tensor]:
    """Lengths by more work than any method is given, for the best known ones."""
    t = torch.linspace(0, 1, SAMPLES, dtype=torch.float64)
    solver = lg.Newton(n_points=129, max_points=1025, rtol=1e-4, max_steps=200)
    path = lg.connect(problem.metric, problem.a, problem.b, solver=solver, init=graph, throw=False)
    return [problem.lengths(path(t).double())]


def summarise(rows: list[Row], extra: list[Tensor]) -> None:
    """Mean length, and ratios to the shortest curve that anything found for the same pair."""
    n = max(row.pairs for row in rows)
    table = [torch.tensor(row.lengths + [torch.nan] * (n - row.pairs), dtype=torch.float64) for row in rows]
    best = torch.stack([*table, *(e[:n] for e in extra)]).nan_to_num(torch.inf).amin(0)
    for row, lengths in zip(rows, table, strict=True):
        ratio = (lengths / best)[~lengths.isnan()]
        row.summary = {
            "mean_length": float(lengths.nanmean()),
            "ratio_mean": float(ratio.mean()),
            "ratio_p95": float(ratio.quantile(0.95)) if len(ratio) else float("nan"),
            "ratio_max": float(ratio.max()) if len(ratio) else float("nan"),
        }


def table(rows: list[Row]) -> str:
    head = "| method | pairs | failed | mean length | ratio to best: mean | p95 | max | cost: processor | wall |\n"
    lines = [head + "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        s = row.summary
        lines.append(
            f"| {row.method} | {row.pairs} | {row.failed} | {s['mean_length']:.3f} | {s['ratio_mean']:.4f} | "
            f"{s['ratio_p95']:.4f} | {s['ratio_max']:.3f} | {row.cost.cpu_units:,.0f} | {row.cost.wall_units:,.0f} |"
        )
    return "\n".join(lines)


def compare(args: argparse.Namespace) -> None:
    shipped = lg.load(CHECKPOINT)
    models = {"shipped": shipped}
    if "sharp" in args.models:
        try:
            models["sharp"] = sharpened(shipped)
        except FileNotFoundError as error:
            print(f"no sharp model: {error}")
    texts, results = {}, []
    for name in args.models:
        if name not in models:
            continue
        problem = Problem(name, models[name], *pairs_of(shipped, args.pairs, args.seed))
        unit = problem.unit()
        graph, build = timed(problem, lambda p=problem: lg.LatentGraph(p.metric).fit(p.model.codes))
        straight = torch.lerp(
            problem.a[:, None].double(), problem.b[:, None].double(), torch.linspace(0, 1, SAMPLES)[:, None].double()
        )
        lengths = problem.lengths(straight)
        rows = [Row(name, "straight line", "", args.pairs, 0, Cost(0.0, 0.0, 0.0, 0.0), {}, lengths.tolist())]
        known = best_effort(problem, graph)
        note = (
            f"One unit is {1e3 * unit[0]:.1f} ms here. Building the graph, once per model: {build.cpu_units:.0f} units."
        )
        done = list(results)
        for method in args.only or (*ours(args.slow_pairs), *PEERS):
            if method not in PEERS:
                row = run_ours(problem, method, graph, args.slow_pairs)
            elif args.peers_python:
                row = run_peer(problem, method, args.peers_python)
            else:
                continue
            if row is None:
                continue
            rows.append(row)
            print(f"{name}: {method}: {row.cost.cpu_units:.0f} units, {row.statuses}", flush=True)
            summarise(rows, known)
            texts[name] = f"{note}\n\n{table(rows)}"
            results = [*done, *map(dataclasses.asdict, rows)]
            results.append({"model": name, "unit_seconds": unit[0], "graph": dataclasses.asdict(build)})
            if args.docs:  # after each method: what is done is kept
                write(Path(args.docs), texts, results)
            save(args, {"torch": torch.__version__, "seed": args.seed, "texts": texts, "results": results})
        print(f"\n{name}\n{texts.get(name, note)}\n")
    if not args.peers_python:
        print("stochman and geomstats were left out; --peers-python PATH runs them")


# --- scaling ----------------------------------------------------------------------------------------------------------


def one_size(pairs: int, nodes: int) -> None:
    """Print the cost and peak memory of one call in this fresh process."""
    shipped = lg.load(CHECKPOINT)
    problem = Problem("shipped", shipped, *pairs_of(shipped, pairs, 0))
    solver = lg.Newton() if nodes == 0 else lg.Newton(n_points=nodes, max_points=nodes, rtol=0.5)
    lg.connect(problem.metric, problem.a[:2], problem.b[:2], solver=solver, throw=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # the allocator keeps large blocks only once some have been freed: a unit measured before that is twice as long
    few = min(pairs, 100)
    lg.connect(problem.metric, problem.a[:few], problem.b[:few], solver=solver, throw=False)
    path, cost = timed(problem, lambda: lg.connect(problem.metric, problem.a, problem.b, solver=solver, throw=False))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps = float(path.stats["steps"].double().mean())
    print(
        json.dumps(
            {
                "pairs": pairs,
                "nodes": nodes or "default",
                **dataclasses.asdict(cost),
                "mean_steps": steps,
                "before_mib": before / 1024,
                "peak_mib": peak / 1024,
            }
        )
    )


def scaling(args: argparse.Namespace) -> None:
    results = []
    sizes = [(n, 0) for n in (25, 100, 400)] + [(50, n) for n in (33, 65, 129, 257)] + [(n, 0) for n in (1600, 6400)]
    lines = [
        "| pairs | nodes | units | units per pair | Newton steps | peak memory (MiB) |",
        "|---|---|---|---|---|---|",
    ]
    for pairs, nodes in sizes:
        command = [sys.executable, __file__, "--one-size", str(pairs), str(nodes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        r = json.loads(done.stdout.splitlines()[-1])
        results.append(r)
        lines.append(
            f"| {pairs} | {r['nodes']} | {r['cpu_units']:.1f} | {r['cpu_units'] / pairs:.3f} | {r['mean_steps']:.1f} | "
            f"{r['peak_mib']:.0f} (before: {r['before_mib']:.0f}) |"
        )
        print(lines[-1], flush=True)
        if args.docs:
            write(Path(args.docs), {"scaling": "\n".join(lines)}, [])
    save(args, {"torch": torch.__version__, "scaling": results})


def save(args: argparse.Namespace, result: dict[str, object]) -> None:
    Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


def write(page: Path, texts: dict[str, str], results: list[dict[str, object]]) -> None:
    """Replace the page's parts between their markers."""
    content = page.read_text(encoding="utf-8")
    if results:
        settings = {r["method"]: r["settings"] for r in results if r.get("settings")}
        texts = texts | {"settings": "\n".join(f"- {name}: `{value}`" for name, value in settings.items())}
    for name, text in texts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        i, j = content.index(begin) + len(begin), content.index(end)
        content = f"{content[:i]}\n\n{text}\n\n{content[j:]}"
    page.write_text(content, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["shipped", "sharp"], choices=["shipped", "sharp"])
    parser.add_argument("--only", nargs="*", help="run these methods alone, in this order")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--slow-pairs", type=int, default=20, help="for Georce and Collocation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers-python", help="Python of an environment with stochman and geomstats")
    parser.add_argument("--json", default="build/boundary_value.json", help="where the figures go")
    parser.add_argument("--docs", help="page whose tables to replace")
    parser.add_argument("--scaling", action="store_true", help="cost and memory against pairs and nodes instead")
    parser.add_argument("--one-size", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one_size:
        one_size(*args.one_size)
        return
    scaling(args) if args.scaling else compare(args)


if __name__ == "__main__":
    main()
