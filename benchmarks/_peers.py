"""Geodesics by other packages, run by `boundary_value.py` with the Python of an environment of their own.

    python _peers.py problem.pt result.pt METHOD PAIRS

The problem file holds a decoder's weights and pairs of codes; the result file the curves found, finely sampled, and
what they cost, in forward passes timed in this process. Needs torch, numpy < 2.4, stochman, geomstats.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time

os.environ["GEOMSTATS_BACKEND"] = "pytorch"

import torch

SAMPLES = 4001
ACTIVATIONS = {"Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Softplus": torch.nn.functional.softplus}


def embedding(problem: dict):
    """The decoder's mean and standard deviation, side by side: the map whose pullback the metric is."""

    def phi(z: torch.Tensor) -> torch.Tensor:
        x = z
        for weight, bias, activation in problem["layers"]:
            x = torch.nn.functional.linear(x, weight, bias)
            x = x if activation is None else ACTIVATIONS[activation](x)
        squared = sum((z[..., i, None] - problem["centers"][:, i]).square() for i in range(z.shape[-1]))
        basis = torch.exp(-problem["bandwidths"] * squared)
        return torch.cat([x, (basis @ problem["weights"] + problem["floor"]).rsqrt()], -1)

    return phi


def doubled(value):
    """The same, with all tensors in float64."""
    if isinstance(value, torch.Tensor):
        return value.double()
    if isinstance(value, dict):
        return {key: doubled(part) for key, part in value.items()}
    return [doubled(part) for part in value] if isinstance(value, (list, tuple)) else value


def unit(phi, rows: torch.Tensor) -> tuple[float, float]:
    """Wall and processor seconds of one forward pass."""
    times = []
    with torch.no_grad():
        for _ in range(15):
            start, cpu = time.perf_counter(), time.process_time()
            phi(rows)
            times.append((time.perf_counter() - start, time.process_time() - cpu))
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


# --- stochman --------------------------------------------------------------------------------------------------------


def stochman(phi, a, b, *, num_nodes, max_iter, eval_grid):
    """All pairs at once, by `geodesic_minimizing_energy` (Adam, as `connecting_geodesic` calls it)."""
    from stochman.curves import CubicSpline
    from stochman.geodesic import geodesic_minimizing_energy
    from stochman.manifold import EmbeddedManifold

    class Manifold(EmbeddedManifold):
        def embed(self, points, jacobian=False):
            return phi(points)

    curve = CubicSpline(a, b, num_nodes=num_nodes)
    success = geodesic_minimizing_energy(curve, Manifold(), max_iter=max_iter, eval_grid=eval_grid)

    def sample():
        with torch.no_grad():
            parts = [curve[k](torch.linspace(0, 1, SAMPLES)).reshape(SAMPLES, -1) for k in range(len(a))]
        return torch.stack(parts)

    return sample, torch.full((len(a),), bool(success))


# --- geomstats -------------------------------------------------------------------------------------------------------


def geomstats_space(phi, dim):
    from geomstats.geometry.base import ImmersedSet
    from geomstats.geometry.euclidean import Euclidean

    class Decoded(ImmersedSet):
        """The decoder's image; derivatives are vectorised here, which the package's own are not."""

        def _define_embedding_space(self):
            return Euclidean(phi(torch.zeros(1, dim, dtype=torch.float64)).shape[-1])

        def immersion(self, point):
            return phi(point)

        def jacobian_immersion(self, base_point):
            flat = base_point.reshape(-1, dim)
            J = torch.func.vmap(torch.func.jacfwd(phi))(flat)
            return J.reshape(*base_point.shape[:-1], *J.shape[1:])

        def hessian_immersion(self, base_point):
            flat = base_point.reshape(-1, dim)
            H = torch.func.vmap(torch.func.jacfwd(torch.func.jacfwd(phi)))(flat)
            return H.reshape(*base_point.shape[:-1], *H.shape[1:])

    return Decoded(dim)


def path_straightening(phi, a, b, *, n_nodes, energy):
    from geomstats.numerics.geodesic import PathStraightening

    def chords(path):
        return 0.5 * (len(path) - 1) * phi(path).diff(dim=0).square().sum()

    solver = PathStraightening(
        geomstats_space(phi, a.shape[-1]), n_nodes=n_nodes, path_energy=chords if energy == "chords" else None
    )
    results = []
    minimize = solver.optimizer.minimize

    def recorded(*args, **kwargs):
        results.append(minimize(*args, **kwargs))
        return results[-1]

    solver.optimizer.minimize = recorded
    paths = torch.stack([solver.discrete_geodesic_bvp(q, p) for p, q in zip(a, b, strict=True)])

    def sample():
        at = torch.linspace(0, n_nodes - 1, SAMPLES, dtype=torch.float64)
        left = at.floor().clamp_max(n_nodes - 2)
        z = paths.double()
        return torch.lerp(z[:, left.long()], z[:, left.long() + 1], (at - left)[:, None])

    return sample, torch.tensor([bool(r.success) for r in results])


def ode(phi, a, b, *, n_nodes, max_nodes):
    from geomstats.numerics.bvp import ScipySolveBVP
    from geomstats.numerics.geodesic import LogODESolver

    integrator = ScipySolveBVP(max_nodes=max_nodes, save_result=True)
    solver = LogODESolver(geomstats_space(phi, a.shape[-1]), n_nodes=n_nodes, integrator=integrator, use_jac=False)
    paths, success = [], []
    for p, q in zip(a, b, strict=True):
        try:
            paths.append(solver.geodesic_bvp(q, p))
            success.append(integrator.result_.status == 0)
        except Exception as error:
            print(f"pair {len(paths)}: {error!r}"[:200], file=sys.stderr)
            paths.append(None)
            success.append(False)

    def sample():
        t = torch.linspace(0, 1, SAMPLES, dtype=torch.float64)
        return torch.stack(
            [torch.full((SAMPLES, a.shape[-1]), torch.nan) if p is None else torch.as_tensor(p(t)) for p in paths]
        )

    return sample, torch.tensor(success)


METHODS = {
    "stochman, as shipped": (stochman, {"num_nodes": 5, "max_iter": 150, "eval_grid": 20}),
    "stochman, tuned": (stochman, {"num_nodes": 10, "max_iter": 300, "eval_grid": 50}),
    "stochman, long": (stochman, {"num_nodes": 20, "max_iter": 1000, "eval_grid": 100}),
    "geomstats path straightening": (path_straightening, {"n_nodes": 100, "energy": "default"}),
    "geomstats path straightening, chords": (path_straightening, {"n_nodes": 33, "energy": "chords"}),
    "geomstats solve_bvp": (ode, {"n_nodes": 10, "max_nodes": 1000}),
}


def main() -> None:
    logging.disable(logging.WARNING)
    problem_file, result_file, name, pairs = *sys.argv[1:4], int(sys.argv[4])
    torch.set_num_threads(1)
    problem = torch.load(problem_file, weights_only=True)
    if name.startswith("geomstats"):  # works in float64; so is its unit
        problem = doubled(problem)
    phi = embedding(problem)
    a, b = problem["a"], problem["b"]
    with torch.no_grad():
        gap = float((phi(a) - problem["check"]).abs().max())
    if gap > 1e-4:
        raise SystemExit(f"the decoder was not rebuilt faithfully: off by {gap:.1e}")
    solve, settings = METHODS[name]
    a, b = a[:pairs], b[:pairs]
    before = unit(phi, problem["rows"])
    start, cpu = time.perf_counter(), time.process_time()
    sample, success = solve(phi, a, b, **settings)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    after = unit(phi, problem["rows"])
    torch.save(
        {
            "curves": sample().double(),
            "success": success,
            "wall_seconds": seconds,
            "cpu_seconds": cpu,
            "wall_unit": 0.5 * (before[0] + after[0]),
            "cpu_unit": 0.5 * (before[1] + after[1]),
            "settings": ", ".join(f"{k}={v}" for k, v in settings.items()),
        },
        result_file,
    )


if __name__ == "__main__":
    main()
