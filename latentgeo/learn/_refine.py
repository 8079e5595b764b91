"""How centres leave the codes they were found among, when distances are a graph's.

First by the minimum of a quadratic through the values that the table of distances already has, then by Karcher steps
along refined geodesics; a step counts only if the graph's distances to all codes of the cluster agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._lloyd import Clustering, inertia, nearest, relocate
from ._spaces import Array, Graph, karcher, represented

__all__ = ["SMOOTH_DIM", "polished", "smoothed"]

_FIT = 4  # candidates per coefficient of a quadratic
SMOOTH_DIM = 3  # most latent dimensions for which candidates are dense enough for one
_LEAST_GAIN = 1e-3  # relative fall of the inertia below which refining stops: graphs are no more accurate
_LEAST_SCALE = 0.2
_ROUNDS = 10


def smoothed(
    space: Graph,
    table: NDArray[np.float32],
    which: NDArray[np.intp],
    columns: NDArray[np.intp],
    found: Clustering,
    weights: Array,
    *,
    max_iter: int,
    tol: float,
) -> Clustering:
    """Lloyd's iteration whose centres are minima of quadratics through the mean squared distances of candidates.

    `table` (M, c) holds distances of the codes `which` to the codes `columns`.
    """
    steps, done = 0, True
    centres = found.centres
    distances = space.to_codes(centres)
    labels, gap = nearest(distances)
    scale = np.ones(len(centres))
    for steps in range(1, max_iter + 1):  # noqa: B007 - told to the caller
        own = relocate(labels, gap, weights, len(centres))
        goals = [
            _vertex(space.codes[which], table, own[columns] == c, weights[columns], centre)
            for c, centre in enumerate(centres)
        ]
        trial = centres + scale[:, None] * (np.stack(goals) - centres)
        value = inertia(gap, weights)
        wins, distances = _better(space, distances, trial, own, weights)
        centres = np.where(wins[:, None], trial, centres)
        scale = np.where(wins, 1.0, 0.5 * scale)  # a quadratic that was wrong is followed less far
        labels, gap = nearest(distances)
        fell = value - inertia(gap, weights) > tol * value
        done = bool((scale < _LEAST_SCALE).all()) or (bool(wins.any()) and not fell)
        if done:
            break
    return Clustering(centres, labels, inertia(gap, weights), found.steps + steps, done)


def _vertex(
    candidates: Array,
    table: NDArray[np.float32],
    members: NDArray[np.bool_],
    weights: Array,
    centre: Array,
) -> Array:
    """Where the quadratic through Σ w d² at the candidates around a centre is least; else the best of them."""
    d = candidates.shape[1]
    terms = (d + 1) * (d + 2) // 2
    away = np.linalg.norm(candidates - centre, axis=1)
    some = np.argsort(away, kind="stable")[: _FIT * terms]
    cols = np.flatnonzero(members)
    if not len(cols):
        return centre
    value = np.square(table[np.ix_(some, cols)]) @ weights[cols].astype(np.float32)
    best = candidates[some[int(np.where(np.isfinite(value), value, np.inf).argmin())]]
    use = some[np.isfinite(value)]
    reach = float(away[use].max()) if len(use) else 0.0
    if len(use) < 2 * terms or reach == 0:
        return best
    x = (candidates[use] - centre) / reach
    i, j = np.triu_indices(d)
    design = np.concatenate([np.ones((len(x), 1)), x, x[:, i] * x[:, j]], axis=1)
    fit = np.linalg.lstsq(design, value[np.isfinite(value)].astype(np.float64), rcond=None)[0]
    hessian = np.zeros((d, d))
    hessian[i, j] = fit[1 + d :]
    hessian = hessian + hessian.T
    if np.linalg.eigvalsh(hessian)[0] <= 1e-6 * np.abs(hessian).max():
        return best
    step = -np.linalg.solve(hessian, fit[1 : 1 + d])
    if not np.linalg.norm(step) <= 1:
        return best
    return np.asarray(centre + reach * step)


def _better(
    space: Graph, distances: Array, trial: Array, own: NDArray[np.intp], weights: Array
) -> tuple[NDArray[np.bool_], Array]:
    """Which trial centres bring their clusters' codes nearer, and the distances from those and from the old others."""
    ahead = space.to_codes(trial)
    wins = np.array(
        [
            weights[mine] @ np.square(ahead[c, mine]) < weights[mine] @ np.square(distances[c, mine])
            for c, mine in enumerate(own == np.arange(len(trial))[:, None])
        ]
    )
    return wins, np.where(wins[:, None], ahead, distances)


def polished(space: Graph, found: Clustering, weights: Array) -> Clustering:
    """Karcher steps along refined geodesics to codes that represent each cluster."""
    rounds = 1 if space.codes.shape[1] <= SMOOTH_DIM else _ROUNDS
    centres = found.centres
    distances = space.to_codes(centres)
    labels, gap = nearest(distances)
    steps = 0
    for steps in range(1, rounds + 1):  # noqa: B007 - told to the caller
        own = relocate(labels, gap, weights, len(centres))
        Z, owner, mass = represented(space.codes, own, weights, len(centres), space.n_refine)
        trial = karcher(space.metric, Z, centres, owner, mass, space.solver, space.graph, 3)
        value = inertia(gap, weights)
        wins, distances = _better(space, distances, trial, own, weights)
        centres = np.where(wins[:, None], trial, centres)
        labels, gap = nearest(distances)
        if inertia(gap, weights) > (1 - _LEAST_GAIN) * value:
            break
    return Clustering(centres, labels, inertia(gap, weights), found.steps + steps, found.converged)
