"""Cost of metric tensors, measure elements and accelerations, in forward passes of the decoder over (1 + d)·N rows.

python benchmarks/metric_cost.py [--checkpoint checkpoints/mnist-2d.safetensors] [--codes 2000] [--repeats 21]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch

import latentgeo as lg


def clock(call: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Median, least and greatest seconds of a call, after two warm-ups."""
    call(), call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), min(times), max(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/mnist-2d.safetensors")
    parser.add_argument("--codes", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=21)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = lg.load(args.checkpoint)
    metric = lg.metric(model)
    generator = torch.Generator().manual_seed(0)
    z = model.codes[torch.randint(len(model.codes), (args.codes,), generator=generator)]
    v = torch.randn(z.shape, generator=generator)
    d = z.shape[-1]
    rows = z.repeat(1 + d, 1)
    decoder = model.decoder
    with torch.no_grad():
        unit = clock(lambda: decoder(rows), args.repeats)
        calls = {
            "tensor": lambda: metric.tensor(z),
            "log_volume": lambda: metric.log_volume(z),
            "norm": lambda: metric.norm(z, v),
            "acceleration": lambda: metric.acceleration(z, v),
        }
        times = {name: clock(call, args.repeats) for name, call in calls.items()}
    result = {
        "checkpoint": args.checkpoint,
        "codes": args.codes,
        "latent_dim": d,
        "threads": 1,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "forward_ms": [round(1e3 * t, 3) for t in unit],
        "ratio": {name: [round(t / unit[0], 3) for t in three] for name, three in times.items()},
    }
    print(f"one forward pass of the decoder over {len(rows)} rows: {1e3 * unit[0]:.1f} ms (median of {args.repeats})")
    for name, (median, low, high) in times.items():
        print(f"{name:>14}: {median / unit[0]:.2f}x  (min {low / unit[0]:.2f}, max {high / unit[0]:.2f})")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
