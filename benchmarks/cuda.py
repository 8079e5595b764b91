"""What a GPU buys: metric tensors, accelerations and geodesics of one model, on the CPU and on a CUDA device.

    python benchmarks/cuda.py [--checkpoint checkpoints/mnist-2d.safetensors] [--pairs 100 1000 10000] [--json FILE]

Times are wall seconds, the device synchronised; the CPU uses all of its threads. A unit is one forward pass of the
decoder over 100 × 33 rows on the same device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import latentgeo as lg


def clock(call: Callable[[], Any], device: str, repeats: int = 5) -> float:
    """Median seconds of a call after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        if device != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) if repeats else times[0]


def measure(model: lg.LatentModel, device: str, pairs: list[int]) -> dict[str, Any]:
    decoder = model.decoder.to(device)
    metric = lg.metric(decoder)
    generator = torch.Generator().manual_seed(0)
    codes = model.codes
    rows = codes[torch.randint(len(codes), (3300,), generator=generator)].to(device)
    many = codes[torch.randint(len(codes), (100_000,), generator=generator)].to(device)
    v = torch.randn(many.shape, generator=generator).to(device)
    with torch.no_grad():
        unit = clock(lambda: decoder(rows), device)
        row: dict[str, Any] = {
            "device": torch.cuda.get_device_name() if device != "cpu" else f"cpu, {torch.get_num_threads()} threads",
            "unit_ms": 1e3 * unit,
            "tensor_100k_s": clock(lambda: metric.tensor(many), device),
            "acceleration_100k_s": clock(lambda: metric.acceleration(many, v), device),
            "connect": [],
        }
        graph = lg.LatentGraph(metric).fit(codes.to(device))
        for n in pairs:
            first, second = torch.randint(len(codes), (2, n), generator=generator)
            a, b = codes[first].to(device), codes[second].to(device)
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            path = lg.connect(metric, a, b, init=graph, throw=False)
            seconds = time.perf_counter() - start
            row["connect"].append(
                {
                    "pairs": n,
                    "seconds": seconds,
                    "units_per_100": seconds / unit / n * 100,
                    "converged": int(path.converged.sum()),
                    "mean_length": float(path.length[path.converged].mean()),
                    "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else None,
                }
            )
            print(device, row["connect"][-1], flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/mnist-2d.safetensors")
    parser.add_argument("--pairs", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device on this machine")
    model = lg.load(args.checkpoint)
    result = [measure(model, device, args.pairs if device != "cpu" else args.pairs[:2]) for device in ("cuda", "cpu")]
    for row in result:
        print(json.dumps(row))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
