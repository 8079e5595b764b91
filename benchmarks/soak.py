"""A long run: many geodesics one block after the other, memory and failures noted after each.

python benchmarks/soak.py [--checkpoint checkpoints/digits-2d.safetensors] [--geodesics 100000] [--json FILE]

Every block connects random pairs of the model's codes from graph starts and asks each path for its velocities, as a
long analysis would. Memory is the resident set after a block, so that a leak of a few bytes per geodesic is a slope.
The figures after the first tenth of the run stand beside those at its end; an interrupted run tells of what it did.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import latentgeo as lg


def resident_mib() -> float:
    """Memory of this process now, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def told(blocks: list[dict[str, float]], statuses: collections.Counter[str], block: int) -> dict[str, Any]:
    """What a run of so many blocks says: the slope is a least-squares line through all but the first tenth."""
    late = blocks[len(blocks) // 10 :]
    memory = np.array([b["resident_mib"] for b in late])
    slope = float(np.polyfit(np.arange(len(late)), memory, 1)[0]) if len(late) > 2 else float("nan")
    return {
        "geodesics": block * len(blocks),
        "statuses": dict(statuses),
        "cpu_seconds": sum(b["cpu_seconds"] for b in blocks),
        "resident_mib_after_a_tenth": float(memory[: max(1, len(memory) // 20)].mean()),
        "resident_mib_at_the_end": float(memory[-max(1, len(memory) // 20) :].mean()),
        "resident_mib_most": float(memory.max()),
        "bytes_per_geodesic": slope * 2**20 / block,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "worst_length_error": max(b["worst_length_error"] for b in blocks),
        "ms_per_geodesic_first_tenth": 1e3
        * float(np.mean([b["cpu_seconds"] for b in blocks[: -len(late)] or blocks]))
        / block,
        "ms_per_geodesic_last_tenth": 1e3
        * float(np.mean([b["cpu_seconds"] for b in blocks[-max(1, len(blocks) // 10) :]]))
        / block,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/digits-2d.safetensors")
    parser.add_argument("--geodesics", type=int, default=100_000)
    parser.add_argument("--block", type=int, default=500, help="geodesics per call of connect")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the figures go, block by block")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = lg.load(args.checkpoint)
    metric = lg.metric(model)
    graph = lg.LatentGraph(metric).fit(model.codes)
    generator = torch.Generator().manual_seed(args.seed)
    blocks: list[dict[str, float]] = []
    statuses: collections.Counter[str] = collections.Counter()
    result: dict[str, Any] = {}
    try:
        for _ in tqdm(range(max(1, args.geodesics // args.block)), unit="block"):
            a, b = model.codes[torch.randint(len(model.codes), (2, args.block), generator=generator)]
            before = time.process_time()
            path = lg.connect(metric, a, b, init=graph, throw=False)
            path.velocity(torch.linspace(0, 1, 5))
            seconds = time.process_time() - before
            statuses.update(status.name for status in path.status)
            good = path.converged & (path.length > 0)
            blocks.append(
                {
                    "cpu_seconds": seconds,
                    "resident_mib": resident_mib(),
                    "worst_length_error": float((path.length_error / path.length)[good].max()),
                }
            )
            result = {"checkpoint": args.checkpoint, **told(blocks, statuses, args.block)}
            if args.json is not None:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                args.json.write_text(json.dumps({**result, "blocks": blocks}, indent=1) + "\n", encoding="utf-8")
    except KeyboardInterrupt:
        print("interrupted: the figures are of what was done")
    for name, value in result.items():
        print(f"{name:>28}: {value:.4g}" if isinstance(value, float) else f"{name:>28}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
