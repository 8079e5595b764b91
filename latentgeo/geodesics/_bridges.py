"""Joining the components of a latent graph by the shortest segments between them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from ._network import symmetric
from ._ruler import Anchors, Ruler

__all__ = ["joined"]

_CANDIDATES = 16


def joined(
    weights: sp.csr_array, nodes: NDArray[Any], codes: Anchors | None, ruler: Ruler
) -> tuple[sp.csr_array, NDArray[Any], int]:
    """The graph with its parts joined where the metric is finite between them; warns of those that cannot be.

    Parameters
    ----------
    weights : csr_array of shape (n, n)
    nodes : ndarray of shape (n, d)
    codes : Anchors, optional
        Codes attached to nodes: parts of the graph that hold none are left alone. None means that all nodes are codes.
    ruler : Ruler

    Returns
    -------
    weights : csr_array of shape (n, n)
    bridges : ndarray of shape (n_bridges, 2)
    parts : int
        Number of parts that hold codes, before they were joined.
    """
    held, lost = np.arange(len(nodes)), 0
    if codes is not None:
        ways = np.isfinite(codes.weights)
        held, lost = np.unique(codes.ids[ways]), int((~ways.any(1)).sum())
    weights, bridges, parts, apart = _bridged(weights, nodes, held, ruler)
    if apart or lost:
        what = [f"{apart + 1} groups of codes cannot be joined"] if apart else []
        what += [f"{lost} codes cannot be joined to any node"] if lost else []
        warnings.warn(
            f"{' and '.join(what)}, because the metric is not finite between them; distances between those are inf",
            stacklevel=4,
        )
    return weights, bridges, parts


def _bridged(
    weights: sp.csr_array, nodes: NDArray[Any], held: NDArray[Any], ruler: Ruler
) -> tuple[sp.csr_array, NDArray[Any], int, int]:
    _, label = connected_components(weights, directed=False)
    parts = set(np.unique(label[held]).tolist())
    count, apart = len(parts), 0
    bridges: list[NDArray[Any]] = []
    while len(parts) > 1:
        sizes = np.bincount(label)
        small = min(parts, key=lambda part: (sizes[part], part))
        parts.remove(small)
        inside, outside = np.flatnonzero(label == small), np.flatnonzero(np.isin(label, list(parts)))
        gap, near = ruler.tree(nodes[outside]).query(nodes[inside])
        best = np.argsort(gap, kind="stable")[:_CANDIDATES]
        ends = np.stack([inside[best], outside[near[best]]], 1)
        start, stop = nodes[ends[:, 0]], nodes[ends[:, 1]]
        lengths = ruler(start, ruler.gap(start, stop), substeps=64)
        if not np.isfinite(lengths).any():
            apart += 1
            continue
        k = int(np.nanargmin(np.where(np.isfinite(lengths), lengths, np.nan)))
        bridges.append(ends[k])
        weights = weights + symmetric(ends[k : k + 1], lengths[k : k + 1], len(nodes))
        label[label == small] = label[ends[k, 1]]
    return weights, np.array(bridges, dtype=int).reshape(-1, 2), count, apart
