"""Geodesics from initial values: the cost of an acceleration, and solvers on batches with one hard curve among many.

Accelerations are weighed in forward passes of the decoder over (1 + d)·N rows; d = 10 is a decoder of the shipped
architecture with random weights. Solvers are weighed by the codes at which they evaluate the acceleration, and by the
greatest and median error at the end points, relative to the lengths: exact on the Poincaré disc, against a solution at
1e-9 on the decoder (in float64).

python benchmarks/shoot.py [--checkpoint checkpoints/mnist-2d.safetensors] [--curves 1000] [--decoded 60] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchdiffeq import odeint

import latentgeo as lg
from latentgeo.decoders import MLP


class Counted(lg.Metric):
    """A metric that counts the codes at which its acceleration is asked for."""

    def __init__(self, metric: lg.Metric) -> None:
        self.metric, self.dim, self.count = metric, metric.dim, 0

    def tensor(self, z: Tensor) -> Tensor:
        return self.metric.tensor(z)

    def norm(self, z: Tensor, v: Tensor) -> Tensor:
        return self.metric.norm(z, v)

    def log_volume(self, z: Tensor) -> Tensor:
        return self.metric.log_volume(z)

    def acceleration(self, z: Tensor, v: Tensor) -> Tensor:
        self.count += len(z)
        return self.metric.acceleration(z, v)


def clocks(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, taken in turns so that whatever else the machine does falls on all."""
    for call in calls.values():
        call(), call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def ten_dimensional() -> tuple[lg.Decoder, Tensor]:
    """A decoder 10-64-32-784 with sigmoid mean and RBF precision, random weights, and codes."""
    generator = torch.Generator().manual_seed(0)
    net = MLP([10, 64, 32, 784], output="sigmoid").eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5)
    codes = torch.randn(2000, 10, generator=generator)
    decoder = lg.wrap(net, latent_dim=10, likelihood=lg.Deterministic())
    with torch.no_grad():
        data = decoder.mean(codes) + 0.05 * torch.randn(2000, 784, generator=generator)
    return lg.fit_precision(decoder, codes, data, n_centers=64, random_state=0), codes


def accelerations(decoder: lg.Decoder, codes: Tensor, rows: int, repeats: int) -> dict[str, Any]:
    metric = lg.ExpectedMetric(decoder)
    z = codes[torch.arange(rows) % len(codes)]
    v = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    many = z.repeat(1 + z.shape[-1], 1)
    with torch.no_grad():
        times = clocks({"unit": lambda: decoder(many), "acceleration": lambda: metric.acceleration(z, v)}, repeats)
    return {
        "d": z.shape[-1],
        "codes": rows,
        "ratio": times["acceleration"] / times["unit"],
        "unit_ms": 1e3 * times["unit"],
    }


def averaged(metric: lg.Metric, z: Tensor, v: Tensor, rtol: float) -> Tensor:
    """End points by torchdiffeq as it comes: one error norm, the mean over the batch."""

    def rates(_t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 1], metric.acceleration(y[:, 0], y[:, 1])], 1)

    size = v.norm(dim=-1)[:, None, None].expand(-1, 2, z.shape[-1])
    y = torch.stack([z, v], 1)
    try:
        return odeint(rates, y, torch.tensor([0.0, 1.0]), rtol=0.0, atol=rtol * size, method="dopri5")[-1, :, 0]
    except AssertionError:  # steps underflow: the whole batch is lost with the one curve that left the disc
        return torch.full_like(z, torch.nan)


def solvers(metric: lg.Metric, z: Tensor, v: Tensor, exact: Tensor, rtol: float) -> list[dict[str, Any]]:
    length = metric.norm(z, v)

    def by(solver: Any) -> Callable[[lg.Metric], Tensor]:
        return lambda counted: lg.exp(counted, z, v, solver=solver, throw=False)

    table: dict[str, Callable[[lg.Metric], Tensor]] = {
        "RungeKutta": by(lg.RungeKutta(rtol=rtol)),
        "RungeKutta, unchecked": by(lg.RungeKutta(rtol=rtol, checked=False)),
        "TorchDiffEq dopri5": by(lg.TorchDiffEq("dopri5", rtol=rtol)),
        "TorchDiffEq dopri8": by(lg.TorchDiffEq("dopri8", rtol=rtol)),
        "torchdiffeq, mean norm": lambda counted: averaged(counted, z, v, rtol),
    }
    rows = []
    for name, solve in table.items():
        counted = Counted(metric)
        start = time.perf_counter()
        end = solve(counted)
        seconds = time.perf_counter() - start
        good = end.isfinite().all(-1)
        error = metric.norm(exact, end - exact)[good] / length[good] if bool(good.any()) else length * torch.nan
        rows.append(
            {
                "solver": name,
                "solved": int(good.sum()),
                "worst": float(error.max() / rtol),
                "median": float(error.median() / rtol),
                "codes_per_curve": counted.count / len(z),
                "seconds": seconds,
            }
        )
    return rows


def disc(curves: int) -> tuple[lg.Metric, Tensor, Tensor, Tensor]:
    """Short geodesics of the Poincaré disc and, among them, one long one that starts near its rim."""
    metric, generator = lg.PoincareBall(2), torch.Generator().manual_seed(0)
    z = 0.2 * torch.randn(curves, 2, dtype=torch.float64, generator=generator).clamp(-2, 2)
    v = torch.randn(curves, 2, dtype=torch.float64, generator=generator)
    v = 0.5 * v / metric.norm(z, v)[:, None]
    z[0], v[0] = torch.tensor([-0.99, 0.05]), torch.tensor([1e-3, 1.0])
    v[0] *= 7.0 / metric.norm(z[0], v[0])
    size = v.norm(dim=-1, keepdim=True)
    y = torch.tanh(size / (1 - z.square().sum(-1, keepdim=True))) * v / size
    xy, xx, yy = ((p * q).sum(-1, keepdim=True) for p, q in ((z, y), (z, z), (y, y)))
    return metric, z, v, ((1 + 2 * xy + yy) * z + (1 - xx) * y) / (1 + 2 * xy + xx * yy)


def decoded(checkpoint: str, curves: int) -> tuple[lg.Metric, Tensor, Tensor, Tensor]:
    """Geodesics of a decoder, of about a tenth of the distance between far codes."""
    model = lg.load(checkpoint)
    metric = lg.ExpectedMetric(model.decoder.to(torch.float64))
    z = model.codes[:curves].double()
    v = torch.randn(z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v = 4.0 * v / metric.norm(z, v)[:, None]
    exact = lg.exp(metric, z, v, solver=lg.RungeKutta(rtol=1e-9, checked=False, max_steps=4000), throw=False)
    sound = exact.isfinite().all(-1)
    return metric, z[sound], v[sound], exact[sound]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/mnist-2d.safetensors")
    parser.add_argument("--curves", type=int, default=1000)
    parser.add_argument("--decoded", type=int, default=60)
    parser.add_argument("--codes", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = lg.load(args.checkpoint)
    costs = [
        accelerations(decoder, codes, args.codes, args.repeats)
        for decoder, codes in ((model.decoder, model.codes), ten_dimensional())
    ]
    runs = {
        "disc, one curve hard, rtol 1e-6": solvers(*disc(args.curves), 1e-6),
        "decoder, rtol 1e-4": solvers(*decoded(args.checkpoint, args.decoded), 1e-4),
    }
    if args.json:
        print(json.dumps({"acceleration": costs, "solvers": runs, "torch": torch.__version__, "threads": 1}))
        return
    for cost in costs:
        print(f"acceleration, d = {cost['d']:>2}, {cost['codes']} codes: {cost['ratio']:.2f} forward passes")
    for problem, rows in runs.items():
        print(
            f"\n{problem}\n{'solver':<24}{'solved':>7}{'worst/rtol':>12}{'median':>9}{'codes/curve':>13}{'seconds':>9}"
        )
        for r in rows:
            print(
                f"{r['solver']:<24}{r['solved']:>7}{r['worst']:>12.2g}{r['median']:>9.2g}"
                f"{r['codes_per_curve']:>13.0f}{r['seconds']:>9.2f}"
            )


if __name__ == "__main__":
    main()
