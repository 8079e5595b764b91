"""Seeding and Lloyd's iteration with any distances.

k-means++ after Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding" (SODA 2007), with *squared*
distances and the greedy trials of scikit-learn; means are Fréchet means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._spaces import Array, Space

__all__ = ["Clustering", "inertia", "lloyd", "masses", "medoid_lloyd", "nearest", "relocate", "seeds"]


@dataclasses.dataclass(frozen=True, eq=False)
class Clustering:
    """Centres (k, d), or positions (k,) of the candidates that are; labels (N,); Σ w d²; steps; whether it settled."""

    centres: NDArray[Any]
    labels: NDArray[np.intp]
    inertia: float
    steps: int
    converged: bool


def nearest(distances: NDArray[Any]) -> tuple[NDArray[np.intp], Array]:
    """Which row is nearest to each column, and how far; −1 and inf where no row is within reach."""
    labels = distances.argmin(0)
    gap = distances[labels, np.arange(distances.shape[1])].astype(np.float64)
    labels[~np.isfinite(gap)] = -1
    return labels, gap


def inertia(gap: Array, weights: Array) -> float:
    """Σ w d² over the codes within reach of a centre."""
    return float(weights @ np.square(np.where(np.isfinite(gap), gap, 0.0)))


def masses(labels: NDArray[np.intp], weights: Array, k: int) -> Array:
    """Weight of each cluster."""
    return np.bincount(labels + 1, weights=weights, minlength=k + 1)[1:].astype(np.float64)


def seeds(
    rows: Callable[[NDArray[np.intp]], NDArray[Any]],
    which: NDArray[np.intp],
    mass: Array,
    weights: Array,
    k: int,
    rng: np.random.RandomState,
    *,
    careful: bool = True,
) -> NDArray[np.intp]:
    """Positions of k of the M candidates: by k-means++ (`careful`), or at random.

    Candidate m is code `which[m]`, stands for codes of weight `mass[m]`, and has distances `rows([m])` (1, N) to all.
    """
    odds = mass / mass.sum()
    if not careful:
        return np.asarray(rng.choice(len(mass), size=k, replace=False, p=odds))
    chosen = [int(rng.choice(len(mass), p=odds))]
    closest = np.square(rows(np.array(chosen))[0].astype(np.float64))
    trials = 2 + int(np.log(k))
    while len(chosen) < k:
        odds = mass * np.where(np.isfinite(closest), closest, 0.0)[which]
        lost = ~np.isfinite(closest[which])
        if lost.any():  # a part of the codes that no seed can reach yet comes first
            odds = np.where(lost, mass, 0.0)
        odds[chosen] = 0.0
        if not odds.sum() > 0:  # what is left coincides with a seed
            odds = mass.copy()
            odds[chosen] = 0.0
        some = rng.choice(len(odds), size=trials, p=odds / odds.sum())
        gaps = np.minimum(closest, np.square(rows(some).astype(np.float64)))
        unreached = ~np.isfinite(gaps)
        potential = np.where(unreached, 0.0, gaps) @ weights
        best = min(range(trials), key=lambda t: (float(weights[unreached[t]].sum()), float(potential[t])))
        chosen.append(int(some[best]))
        closest = gaps[best]
    return np.array(chosen)


def relocate(labels: NDArray[np.intp], gap: Array, weights: Array, k: int) -> NDArray[np.intp]:
    """Labels in which every empty cluster has been given one of the codes farthest from their centres."""
    empty = np.flatnonzero(masses(labels, weights, k) == 0)
    if not len(empty):
        return labels
    out = labels.copy()
    far = np.argsort(-gap, kind="stable")
    sizes = np.bincount(labels + 1, minlength=k + 1)
    donors = (i for i in far if labels[i] < 0 or sizes[labels[i] + 1] > 1)
    for cluster in empty:
        i = next(donors, None)
        if i is None:
            break
        sizes[labels[i] + 1] -= 1
        out[i] = cluster
    return out


def lloyd(space: Space, centres: Array, weights: Array, *, max_iter: int, tol: float) -> Clustering:
    """Lloyd's iteration from given centres, until no code changes its cluster or the centres hardly move.

    It settles when the squared steps of the centres sum to less than `tol` times the inertia per unit of weight.
    """
    before = np.full(len(space.codes), -1)
    done = False
    steps = 0
    for steps in range(1, max_iter + 1):  # noqa: B007 - told to the caller
        labels, gap = nearest(space.to_codes(centres))
        given = relocate(labels, gap, weights, len(centres))
        better = space.means(centres, given, weights)
        same = np.array_equal(labels, before)
        shift = 0.0 if same else space.moved(centres, better)
        centres, before = better, labels
        done = same or shift <= tol * inertia(gap, weights) / float(weights.sum())
        if done:
            break
    labels, gap = nearest(space.to_codes(centres))
    return Clustering(centres, labels, inertia(gap, weights), steps, done)


def medoid_lloyd(
    distances: NDArray[Any],
    which: NDArray[np.intp],
    weights: Array,
    start: NDArray[np.intp] | None,
    labels: NDArray[np.intp] | None,
    k: int,
    *,
    max_iter: int,
) -> Clustering:
    """Lloyd's iteration whose centres are candidates: in each cluster the one of least mean squared distance.

    `distances` (M, N) are those of candidates `which` (M,) to all codes; it begins with candidates `start` (k,), or
    with `labels` (N,).
    """
    centres = start
    done = False
    steps = 0
    gap = np.zeros(len(weights))
    for steps in range(1, max_iter + 1):  # noqa: B007 - told to the caller
        if centres is not None:
            labels, gap = nearest(distances[centres])
        assert labels is not None  # noqa: S101 - one of the two is given
        given = relocate(labels, gap, weights, k)
        better = np.array([_medoid(distances, which, given == c, given[which] == c, weights) for c in range(k)])
        if centres is not None:
            better = np.where(better < 0, centres, better)
        elif (better < 0).any():
            free = np.setdiff1d(np.arange(len(which)), better)
            better[better < 0] = free[: int((better < 0).sum())]
        done = centres is not None and np.array_equal(better, centres)
        centres = better
        if done:
            break
    assert centres is not None  # noqa: S101 - set by the first step
    labels, gap = nearest(distances[centres])
    return Clustering(centres, labels, inertia(gap, weights), steps, done)


def _medoid(
    distances: NDArray[Any], which: NDArray[np.intp], members: NDArray[np.bool_], own: NDArray[np.bool_], weights: Array
) -> int:
    """The candidate in a cluster with the least weighted sum of squared distances to it; −1 where there is none."""
    rows = np.flatnonzero(own)
    cols = np.flatnonzero(members)
    if not len(rows) or not len(cols):
        return -1
    block = distances[np.ix_(rows, cols)]
    return int(rows[int((np.square(block) @ weights[cols].astype(block.dtype)).argmin())])
