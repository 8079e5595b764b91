"""Cost of curvatures in forward passes of the decoder over the same codes, and their accuracy on closed forms.

python benchmarks/curvature.py [--checkpoint checkpoints/mnist-2d.safetensors] [--codes 2000] [--repeats 7] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
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


def surfaces() -> dict[str, tuple[lg.Metric, torch.Tensor, torch.Tensor]]:
    """Metric, codes and exact Gauss curvature there."""
    z = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    disc = 0.8 * z / (1 + z.norm(dim=-1, keepdim=True))

    def torus(w: torch.Tensor) -> torch.Tensor:
        ring = 2 + w[:, 0].cos()
        return torch.stack([ring * w[:, 1].cos(), ring * w[:, 1].sin(), w[:, 0].sin()], -1)

    def paraboloid(w: torch.Tensor) -> torch.Tensor:
        return torch.cat([w, w.square().sum(-1, keepdim=True)], -1)

    one = torch.ones(len(z), dtype=z.dtype)
    normal = lg.wrap(lambda w: (w[:, :1], w[:, 1:].exp()), latent_dim=2, likelihood=lg.Gaussian())
    return {
        "sphere": (lg.Sphere(2), z, one),
        "hyperbolic plane": (lg.PoincareBall(2), disc, -one),
        "torus": (lg.PullbackMetric(torus, dim=2), z, z[:, 0].cos() / (2 + z[:, 0].cos())),
        "paraboloid": (lg.PullbackMetric(paraboloid, dim=2), z, 4 / (1 + 4 * z.square().sum(-1)) ** 2),
        "normal distributions": (lg.FisherRaoMetric(normal), z, -0.5 * one),
    }


def gauss_bonnet() -> float:
    """∫ K dA of a torus, which must be 0, over ∫ |K| dA, which is 8π."""
    metric, _, _ = surfaces()["torus"]
    u = torch.arange(64, dtype=torch.float64) * 2 * math.pi / 64
    grid = torch.cartesian_prod(u, u)
    return float((metric.gauss_curvature(grid) * metric.log_volume(grid).exp()).mean()) * 4 * math.pi**2 / (8 * math.pi)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/mnist-2d.safetensors")
    parser.add_argument("--codes", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = lg.load(args.checkpoint)
    decoder, metric = model.decoder, lg.metric(model)
    generator = torch.Generator().manual_seed(0)
    z = model.codes[torch.randint(len(model.codes), (args.codes,), generator=generator)]
    u, v = torch.randn(2, *z.shape, generator=generator)
    calls = {
        "tensor": lambda: metric.tensor(z),
        "sectional_curvature": lambda: metric.sectional_curvature(z, u, v),
        "scalar_curvature": lambda: metric.scalar_curvature(z),
        "riemann": lambda: metric.riemann(z),
        "second_fundamental_form": lambda: metric.second_fundamental_form(z, u, v),
    }
    if decoder.fisher_ambient is not None:
        fisher = lg.FisherRaoMetric(decoder)
        calls["scalar_curvature, ambient"] = lambda: fisher.scalar_curvature(z)
    with torch.no_grad():
        unit = clock(lambda: decoder(z), args.repeats)
        times = {name: clock(call, args.repeats) for name, call in calls.items()}
    double = lg.ExpectedMetric(decoder.to(torch.float64)) if decoder.dtype == torch.float32 else metric
    exact = double.scalar_curvature(z.double())
    single = ((metric.scalar_curvature(z).double() - exact).abs() / exact.abs().median()).quantile(0.95)
    errors = {}
    for name, (surface, codes, K) in surfaces().items():
        for dtype in (torch.float64, torch.float32):
            got = surface.gauss_curvature(codes.to(dtype)).double()
            errors[f"{name}, {str(dtype).removeprefix('torch.')}"] = float((got - K).abs().amax())
    result = {
        "checkpoint": args.checkpoint,
        "codes": args.codes,
        "latent_dim": z.shape[-1],
        "threads": 1,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "forward_ms": [round(1e3 * t, 3) for t in unit],
        "ratio": {name: [round(t / unit[0], 2) for t in three] for name, three in times.items()},
        "float32_error_p95_over_median": float(single),
        "largest_error": errors,
        "gauss_bonnet_torus": gauss_bonnet(),
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"one forward pass of the decoder over {len(z)} codes: {1e3 * unit[0]:.1f} ms (median of {args.repeats})")
    for name, (median, low, high) in times.items():
        print(f"{name:>26}: {median / unit[0]:6.1f}x  (min {low / unit[0]:.1f}, max {high / unit[0]:.1f})")
    print(f"float32 against float64, 95 % of codes, relative to the median |R|: {float(single):.1e}")
    for name, error in errors.items():
        print(f"{name:>30}: largest error of the Gauss curvature {error:.1e}")
    print(f"∫ K dA over ∫ |K| dA of the torus: {result['gauss_bonnet_torus']:.1e}")


if __name__ == "__main__":
    main()
