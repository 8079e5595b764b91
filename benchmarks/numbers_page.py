"""The page docs/numbers.md: every figure that we stand by, measured by the benchmarks beside this file.

python benchmarks/numbers_page.py                     # all parts, then the page: 45 minutes of one core
python benchmarks/numbers_page.py --only metric d256  # these parts again; the others as they were
python benchmarks/numbers_page.py --write             # the page alone, from what has been measured

Each run of each part is a process of its own, and its figures are kept in build/numbers/ at once: an interrupted
command goes on where it was. `--fresh` measures what is kept again. The other package (stochman) needs an environment
of its own, given by `--peers-python` (see docs/benchmarks.md); MNIST in $LATENTGEO_DATA gives the encoder's codes.
Parts that lack what they need are left out, and the page says so.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "numbers.md"
KEPT = HERE.parent / "build" / "numbers"
LIBRARIES = ("latentgeo", "torch", "numpy", "scipy", "scikit-learn")

Result = dict[str, Any]
Row = tuple[str, str, list[float]]  # what, unit, its value in each run


@dataclass(frozen=True)
class Part:
    """One benchmark: how it is run, how often, and what the page takes from its JSON."""

    title: str
    about: str  # a sentence or two above the table
    command: tuple[str, ...]  # script and options; {json} and {peers} are filled in
    rows: Callable[[Sequence[Result]], Iterable[Row]]
    runs: int = 3
    minutes: float = 1.0  # of one run, about
    data: bool = False  # needs MNIST


# --- what each part says ----------------------------------------------------------------------------------------------


def each(results: Sequence[Result], *keys: Any) -> list[float]:
    """One figure of every run."""
    found = []
    for result in results:
        value: Any = result
        for key in keys:
            value = value[key]
        found.append(float(value))
    return found


def metric_rows(results: Sequence[Result]) -> Iterable[Row]:
    names = {"tensor": "metric tensors", "log_volume": "measure elements (log)", "norm": "norms of vectors"}
    for key, name in {**names, "acceleration": "geodesic accelerations"}.items():
        yield name, "passes", each(results, "ratio", key, 0)
    yield "one pass over the rows", "ms on the clock", each(results, "forward_ms", 0)


def methods(result: Result) -> dict[str, Result]:
    return {row["method"]: row for row in result["results"] if "method" in row}


def curve_rows(results: Sequence[Result]) -> Iterable[Row]:
    runs = [methods(result) for result in results]
    for name in runs[0]:
        if name == "straight line":
            continue
        seconds = [100 / run[name]["pairs"] * run[name]["cost"]["cpu_seconds"] for run in runs]
        yield f"{name}: 100 pairs", "s of processor", seconds
        yield f"{name}: 100 pairs", "units", each(runs, name, "cost", "cpu_units")
        yield f"{name}: failed, by its own account", "of 100", each(runs, name, "failed")
        yield f"{name}: length over the best known, 95th percentile", "ratio", each(runs, name, "summary", "ratio_p95")
    yield "straight lines over the best known, mean", "ratio", each(runs, "straight line", "summary", "ratio_mean")
    solved = [next(iter(run[name]["cost"] for name in run if name != "straight line")) for run in runs]
    yield "one unit", "ms of processor", [1e3 * cost["cpu_seconds"] / cost["cpu_units"] for cost in solved]


def accuracy_rows(results: Sequence[Result]) -> Iterable[Row]:
    for i, row in enumerate(results[0]):
        name = f"rtol {row['rtol']:g}"
        yield f"{name}: converged", f"of {row['pairs']:,}", each(results, i, "converged")
        yield f"{name}: error within `length_error`", "share", each(results, i, "within_length_error")
        yield f"{name}: converged curves within rtol", "share", each(results, i, "converged_within_rtol")
        yield f"{name}: `length_error` over the true error, median", "ratio", each(results, i, "median_padding")


def graph_rows(results: Sequence[Result]) -> Iterable[Row]:
    for task, title in (("digits", "digits, 1,797 codes"), ("mnist", "MNIST, 10,000 codes")):
        if task not in results[0]:
            continue
        yield f"{title}: graph and whole matrix", "passes", each(results, task, "units")
        yield f"{title}: a row of the matrix", "ms", each(results, task, "cpu ms per row")
        yield f"{title}: too long, median", "share", each(results, task, "median")
        yield f"{title}: too long, 95th percentile", "share", each(results, task, "p95")
        yield f"{title}: memory that filling it takes", "MB", each(results, task, "fill MB")
    if "many" in results[0]:
        yield "MNIST, 60,000 codes: graph", "passes", each(results, "many", "units")
        yield "MNIST, 60,000 codes: from one code to all", "ms", each(results, "many", "cpu ms per code, 200 in a call")


def cluster_rows(results: Sequence[Result]) -> Iterable[Row]:
    runs = [result["rows"][-1] for result in results]
    yield "building the graph", "s of processor", each(runs, "build_cpu_s")
    yield "fit", "s of processor", each(runs, "fit_cpu_s")
    yield "fit", "s on the clock", each(runs, "fit_s")
    yield "inertia over that of a fit without limits", "ratio", each(runs, "ratio")
    yield "peak memory", "GiB", each(runs, "peak_gib")


def large_rows(results: Sequence[Result]) -> Iterable[Row]:
    yield "16 metric tensors", "passes", each(results, "full", "tensor", "units")
    yield "16 metric tensors", "s of processor", each(results, "full", "tensor", "cpu_seconds")
    yield "4 geodesics, a bounded search", "units", each(results, "full", "connect", "units")
    yield "4 geodesics, a bounded search", "s of processor", each(results, "full", "connect", "cpu_seconds")
    yield "peak memory", "MiB", each(results, "full", "peak_mib")


def growth_rows(results: Sequence[Result]) -> Iterable[Row]:
    for i, row in enumerate(results[0]["scaling"]):
        what = f"{row['pairs']:,} pairs" + ("" if row["nodes"] == "default" else f", {row['nodes']} nodes")
        per = [1e3 * r["scaling"][i]["cpu_seconds"] / row["pairs"] for r in results]
        yield f"{what}: a pair", "ms of processor", per
        yield f"{what}: peak memory", "MiB", [r["scaling"][i]["peak_mib"] for r in results]


def soak_rows(results: Sequence[Result]) -> Iterable[Row]:
    count = results[0]["geodesics"]
    yield "converged", f"of {count:,}", [r["statuses"].get("CONVERGED", 0) for r in results]
    yield "a geodesic, the first tenth of the run", "ms of processor", each(results, "ms_per_geodesic_first_tenth")
    yield "a geodesic, the last tenth", "ms of processor", each(results, "ms_per_geodesic_last_tenth")
    yield "resident memory after a tenth", "MiB", each(results, "resident_mib_after_a_tenth")
    yield "resident memory at the end", "MiB", each(results, "resident_mib_at_the_end")
    yield (
        "growth, by a line through all blocks after the first tenth",
        "bytes a geodesic",
        each(results, "bytes_per_geodesic"),
    )


METHODS = ("Newton from graph", "Newton from straight")
PEERS = ("stochman, as shipped", "stochman, tuned")
CURVES = ("boundary_value.py", "--models", "shipped", "--json", "{json}")
PARTS = {
    "metric": Part(
        "What a metric costs",
        "2,000 codes of the shipped MNIST model (d = 2, D = 784, RBF σ), in forward passes of the decoder over as many "
        "rows as the derivatives need, 3 × 2,000. One is the cost of autograd at its best.",
        ("metric_cost.py", "--repeats", "21"),
        metric_rows,
    ),
    "curves": Part(
        "Geodesics between 100 random pairs",
        "The shipped MNIST model. One unit is one forward pass over 100 × 33 rows, in the same process: it takes half "
        "as long once the allocator keeps memory, so units of two processes may differ by two. Lengths are measured in "
        "float64, apart from the solver; the best known is the shortest that anything here, or a far dearer solve, has "
        "found.",
        (*CURVES, "--only", *METHODS),
        curve_rows,
    ),
    "peers": Part(
        "The same pairs by another package",
        "stochman 0.1 on the same decoder, whole batch at once, as it comes and with its better settings.",
        (*CURVES, "--only", *PEERS, "--peers-python", "{peers}"),
        curve_rows,
        runs=1,
        minutes=6,
    ),
    "accuracy": Part(
        "Accuracy that is delivered",
        "Manifolds with known distances, or with far finer solves to compare with, in float64. The default solver, "
        "`Newton(rtol=...)`.",
        ("accuracy.py", "--pairs", "1000"),
        accuracy_rows,
        runs=1,
        minutes=10,
    ),
    "growth": Part(
        "Growth with pairs and nodes",
        "The default solver from straight lines, each size in a process of its own, Python and torch included in its "
        "memory.",
        ("boundary_value.py", "--scaling", "--json", "{json}"),
        growth_rows,
        runs=1,
        minutes=8,
    ),
    "graph": Part(
        "Whole matrices over a graph",
        "`LatentGraph` and `pairwise_distances`; a pass is one of the decoder over the codes. Too long: against "
        "geodesics refined from the same paths, 500 pairs.",
        ("graph_distances.py", "--tasks", "digits", "mnist", "many", "--json", "{json}"),
        graph_rows,
        runs=2,
        minutes=4,
        data=True,
    ),
    "clusters": Part(
        "k-means of 60,000 codes",
        "`GeodesicKMeans(n_clusters=10, n_init=10)` over a graph, MNIST's training codes, d = 2.",
        ("clustering.py", "scale", "--sizes", "60000", "--json", "{json}"),
        cluster_rows,
        minutes=2,
        data=True,
    ),
    "d256": Part(
        "256 latent dimensions",
        "A ResNet-18-like decoder of full width, 256 → 3×64×64, random weights: the worst case for a solver, since the "
        "image is rough at all scales. A pass is one over as many rows as the derivatives need, 257 for a tensor.",
        ("large_d.py", "--only", "full", "--json", "{json}"),
        large_rows,
        runs=1,
        minutes=6,
    ),
    "soak": Part(
        "100,000 geodesics in one process",
        "Blocks of 500 random pairs of the digits' codes from graph starts, default solver.",
        ("soak.py", "--json", "{json}"),
        soak_rows,
        runs=1,
        minutes=15,
    ),
}


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(name: str, part: Part, peers: str | None, *, fresh: bool) -> str | None:
    """Run a part as often as it wants, but for what is kept; the reason if it cannot be run."""
    if part.data and not (Path(os.environ.get("LATENTGEO_DATA", "data")) / "mnist").is_dir():
        return "MNIST is not in $LATENTGEO_DATA"
    if "{peers}" in part.command and peers is None:
        return "no environment with the other packages was given (`--peers-python`)"
    KEPT.mkdir(parents=True, exist_ok=True)
    for run in range(part.runs):
        target = KEPT / f"{name}-{run}.json"
        if target.exists() and not fresh:
            print(f"{name}, run {run + 1} of {part.runs}: kept")
            continue
        print(f"{name}, run {run + 1} of {part.runs}: about {part.minutes:g} min ...", flush=True)
        written = target.with_suffix(".part")
        words = [word.format(json=written, peers=peers) for word in part.command]
        done = subprocess.run(
            [sys.executable, str(HERE / words[0]), *words[1:]], cwd=HERE.parent, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            return f"`{' '.join(words)}` ended with exit status {done.returncode}"
        figures = (
            json.loads(written.read_text()) if "{json}" in part.command else json.loads(done.stdout.splitlines()[-1])
        )
        record = {"figures": figures, "machine": machine(), "load": os.getloadavg()[0]}
        written.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        written.replace(target)
    return None


def machine() -> dict[str, str]:
    """What a figure depends on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return {
        "processor": f"{cpu}, {os.cpu_count()} cores",
        "threads": "1",
        "versions": f"Python {platform.python_version()}, {versions}",
        "date": dt.date.today().isoformat(),
    }


# --- the page ---------------------------------------------------------------------------------------------------------


def figure(x: float) -> str:
    """Four figures, thousands apart, and no more digits than that."""
    if x != x:
        return "–"
    if x == int(x) and abs(x) < 1e9:
        return f"{int(x):,}"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"


def section(name: str, part: Part, why: str | None) -> list[str]:
    command = " ".join(["python", "benchmarks/" + part.command[0], *part.command[1:]])
    command = command.replace(" --json {json}", "").replace("{peers}", "PATH")
    for words in (*METHODS, *PEERS):
        command = command.replace(words, f'"{words}"')
    lines = [f"## {part.title}", "", part.about, ""]
    kept = [json.loads(path.read_text()) for path in sorted(KEPT.glob(f"{name}-[0-9]*.json"))]
    if not kept:
        return [*lines, f"Not measured: {why or 'not asked for'}.", ""]
    results = [one["figures"] for one in kept]
    lines += ["| what | unit | median | least – most |", "| --- | --- | --- | --- |"]
    for what, unit, values in part.rows(results):
        spread = f"{figure(min(values))} – {figure(max(values))}" if len(values) > 1 else "one run"
        lines.append(f"| {what} | {unit} | {figure(statistics.median(values))} | {spread} |")
    load = max(one["load"] for one in kept)
    dates = " to ".join(dict.fromkeys((kept[0]["machine"]["date"], kept[-1]["machine"]["date"])))
    lines += ["", f"`{command}`, {len(kept)} run{'s' * (len(kept) > 1)}, {dates}, load up to {load:.1f}.", ""]
    return lines


def page(reasons: dict[str, str | None]) -> str:
    kept = [json.loads(path.read_text())["machine"] for path in sorted(KEPT.glob("*.json"))]
    if not kept:
        raise SystemExit("nothing has been measured yet; run without --write")
    several = {key: "; ".join(dict.fromkeys(one[key] for one in kept)) for key in ("processor", "threads", "versions")}
    lines = [
        "# Numbers",
        "",
        "The figures that we stand by, each with its spread over runs in processes of their own. One command measures",
        "them and writes this page:",
        "",
        "```",
        "make numbers",
        "```",
        "",
        "Costs are processor time. Those in passes or units of the decoder travel best between machines; seconds and",
        "memory are of this one:",
        "",
        *(f"- {key}: {value}" for key, value in several.items()),
        "",
        "What the methods are, and comparisons with more of them, is told in [Benchmarks](benchmarks.md); what is slow",
        "or approximate, in [Known limits](limits.md).",
        "",
    ]
    for name, part in PARTS.items():
        lines += section(name, part, reasons.get(name))
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these parts")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    parser.add_argument("--peers-python", help="Python of an environment with stochman")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    reasons: dict[str, str | None] = {}
    for name in () if args.write else args.only:
        reasons[name] = measure(name, PARTS[name], args.peers_python, fresh=args.fresh)
        if reasons[name]:
            print(f"{name}: left out, {reasons[name]}", file=sys.stderr)
    if args.write or any(KEPT.glob("*.json")):
        args.page.write_text(page(reasons), encoding="utf-8")
        print(f"written: {args.page}")
    if any(reasons.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
