"""Is the requested accuracy delivered, and is the error estimate honest? Exact distances of the closed-form problems.

python benchmarks/accuracy.py [--pairs 1000] [--rtol 1e-2 1e-4 1e-6 1e-8]

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

from latentgeo.geodesics import Newton, connect

LEFT_OUT = {"S2", "S2 by tensor", "S3", "Euclidean 3", "Swiss roll", "curve in the plane"}


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
        for problem in tqdm(problems.WITH_DISTANCE, desc=f"rtol {rtol:g}", leave=False):
            a, b, exact = problem.pairs(args.pairs, args.seed)
            start = time.perf_counter()
            path = connect(problem.metric, a, b, solver=Newton(rtol=rtol, max_points=2049), throw=False)
            seconds = time.perf_counter() - start
            error = (path.length - exact).abs()
            rounding = 64 * torch.finfo(torch.float64).eps * exact
            ok = path.converged
            inside = error <= path.length_error + rounding
            good = error <= rtol * exact + rounding
            visible = (error > 1e-13 * exact) & ok
            ratio = (path.length_error / error)[visible]
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
