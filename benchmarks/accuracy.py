"""Is the requested accuracy delivered, and is the error estimate honest? Against exact distances and fine solves.

python benchmarks/accuracy.py [--pairs 1000] [--rtol 1e-2 1e-4 1e-6 1e-8]

Distances are exact where a closed form is known. On four surfaces in flat space none is: the reference is then the same
geodesic refined to 1e-10, and pairs count whose reference is surer than what it judges.

For each problem and tolerance, over random pairs within half the injectivity radius: converged curves, the share whose
true error is within `length_error` and within rtol, the worst true error over rtol, and the median of length_error over
true error where the latter is visible (relative error above 1e-13; spheres and flat spaces are left out of that figure,
because discrete geodesics are exact or nearly so there). The last line sums up all pairs as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import problems

from latentgeo import PullbackMetric
from latentgeo.geodesics import Geodesic, Newton, connect

SURFACES = [
    problems.PARABOLOID,
    problems.TORUS,
    problems.ELLIPSOID,
    problems.Problem(
        "waves",
        PullbackMetric(
            lambda z: torch.stack(
                [z[:, 0], z[:, 1], (2 * z[:, 0]).sin() * (1.5 * z[:, 1]).cos(), 0.3 * (5 * z[:, 0]).sin()], -1
            ),
            dim=2,
        ),
        2,
        lambda n, seed: 0.7 * problems.normal(n, 2, seed=seed),
    ),
]
LEFT_OUT = {"S2", "S2 by tensor", "S3", "Euclidean 3", "Swiss roll", "curve in the plane"}


def reference(path: Geodesic, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths of the same geodesics refined much further, and where they are sure enough to judge by."""
    solver = Newton(n_points=257, max_points=2049, rtol=1e-10)
    fine = connect(path.metric, a, b, solver=solver, init=path.z, throw=False)
    return fine.length, ~path.converged | (fine.converged & (fine.length_error < 0.2 * path.length_error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs per problem, about")
    parser.add_argument("--rtol", type=float, nargs="+", default=[1e-2, 1e-4, 1e-6, 1e-8])
    parser.add_argument("--seed", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    titles = ("rtol", "pairs", "conv.", "in err", "in rtol", "worst/rtol", "padding", "s")
    widths = (6, 6, 6, 7, 7, 10, 8, 6)
    print(f"{'problem':>34} " + " ".join(f"{t:>{w}}" for t, w in zip(titles, widths, strict=True)))
    summary = []
    for rtol in args.rtol:
        padding, within, converged, delivered, count = [], 0, 0, 0, 0
        for problem in tqdm([*problems.WITH_DISTANCE, *SURFACES], desc=f"rtol {rtol:g}", leave=False):
            if problem.distance is None:
                a, b = (problem.points(args.pairs // 2, args.seed + k) for k in range(2))
            else:
                a, b, exact = problem.pairs(args.pairs, args.seed)
            start = time.perf_counter()
            path = connect(problem.metric, a, b, solver=Newton(rtol=rtol, max_points=2049), throw=False)
            seconds = time.perf_counter() - start
            sure = torch.ones_like(path.converged)
            if problem.distance is None:
                exact, sure = reference(path, a, b)
            error = (path.length - exact).abs()[sure]
            exact, ok, estimate = exact[sure], path.converged[sure], path.length_error[sure]
            a = a[sure]
            rounding = 64 * torch.finfo(torch.float64).eps * exact
            inside = error <= estimate + rounding
            good = error <= rtol * exact + rounding
            visible = (error > 1e-13 * exact) & ok
            ratio = (estimate / error)[visible]
            median = float(ratio.median()) if len(ratio) else float("nan")
            if problem.name not in LEFT_OUT:
                padding.append(ratio)
            within += int(inside.sum())
            converged += int(ok.sum())
            delivered += int((good & ok).sum())
            count += len(a)
            worst = float((error[ok] / exact[ok]).max()) / rtol
            tqdm.write(
                f"{problem.name:>34} {rtol:6.0e} {len(a):6d} {int(ok.sum()):6d} {float(inside.double().mean()):7.4f} "
                f"{float(good[ok].double().mean()):7.4f} {worst:10.2e} {median:8.1f} {seconds:6.1f}"
            )
        summary.append(
            {
                "rtol": rtol,
                "pairs": count,
                "converged": converged,
                "within_length_error": round(within / count, 5),
                "converged_within_rtol": round(delivered / converged, 5),
                "median_padding": round(float(torch.cat(padding).median()), 2),
            }
        )
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
