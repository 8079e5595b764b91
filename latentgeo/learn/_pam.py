"""k-medoids on a table of distances: seeding, and swaps that each cost one pass over the codes.

The loss of every swap of a candidate with any of the k medoids comes from one pass (Schubert & Rousseeuw, "Faster
k-medoids clustering: improving the PAM, CLARA, and CLARANS algorithms", SISAP 2019, arXiv:1810.05691), and improving
swaps are taken at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._spaces import Array

__all__ = ["swap"]


def swap(
    table: NDArray[Any], weights: Array, medoids: NDArray[np.intp], *, max_iter: int
) -> tuple[NDArray[np.intp], float, int, bool]:
    """Medoids that no swap with one candidate improves: positions (k,), loss Σ w d, passes taken, whether it settled.

    `table` (M, N) holds finite distances from candidates to codes of weights (N,).
    """
    medoids = medoids.copy()
    k = len(medoids)
    near, first, second = _two_nearest(table, medoids)
    loss = float(weights @ first)
    since = 0
    for passes in range(1, max_iter + 1):
        for m in range(len(table)):
            if since >= len(table):
                return medoids, loss, passes, True
            since += 1
            if m in medoids:
                continue
            d = table[m]
            gain = weights * np.minimum(d - first, 0.0)  # what candidate m alone takes over
            # a medoid that goes leaves its codes to their second choice, or to m
            alone = np.bincount(near, weights=weights * (np.minimum(d, second) - first) - gain, minlength=k)
            change = float(gain.sum()) + alone
            best = int(change.argmin())
            if change[best] < -1e-9 * max(loss, np.finfo(float).tiny):
                medoids[best] = m
                near, first, second = _two_nearest(table, medoids)
                loss = float(weights @ first)
                since = 0
    return medoids, loss, max_iter, since >= len(table)


def _two_nearest(table: NDArray[Any], medoids: NDArray[np.intp]) -> tuple[NDArray[np.intp], Array, Array]:
    """The nearest medoid of each code, its distance, and that of the second nearest."""
    rows = table[medoids].astype(np.float64)
    near = rows.argmin(0)
    everyone = np.arange(rows.shape[1])
    first = rows[near, everyone]
    rows[near, everyone] = np.inf
    second = rows.min(0) if len(medoids) > 1 else np.full(rows.shape[1], np.inf)
    return near, first, second
