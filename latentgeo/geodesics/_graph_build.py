"""From codes to the network of a latent graph: which nodes there are, their edges, and bridges between parts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import Metric
from ._bridges import joined
from ._code_nodes import CodeNodes, thinned
from ._lattice import GridNodes, Lattice
from ._network import Network, symmetric
from ._ruler import Anchors, Ruler

__all__ = ["Built", "build"]

_AUTO_GRID = {1: 512, 2: 128, 3: 24}


class Built(NamedTuple):
    """Codes and the network over them, its bridges, the parts they join, and the codes attached where that is known."""

    codes: NDArray[Any]
    network: Network
    bridges: NDArray[Any]
    n_components: int
    anchors: Anchors | None = None


def build(
    metric: Metric,
    codes: Tensor,
    *,
    n_neighbors: int,
    grid: int | None,
    max_codes: int | None,
    substeps: int,
    random_state: int,
    bar: bool,
) -> Built:
    """The network over codes (N, d), by the options of `LatentGraph`."""
    per_axis = _AUTO_GRID.get(codes.shape[1], 0) if grid is None else grid
    if 0 < per_axis < 4 and metric.period is not None:
        raise ValueError(f"`grid` must be 0 or at least 4 for a metric with periodic coordinates, got {per_axis}")
    given, ruler = codes.double().cpu().numpy(), Ruler(metric, codes[:0], substeps)
    points = ruler.wrapped(given)
    nodes: GridNodes | CodeNodes
    if per_axis:
        nodes = GridNodes(Lattice.over(points, per_axis, ruler, bar), ruler)
    else:
        nodes = CodeNodes(thinned(np.unique(points, axis=0), max_codes, ruler, random_state), n_neighbors, ruler)
    weights = symmetric(*nodes.edges(bar), nodes.size)
    anchors = nodes.anchors(given) if per_axis else None
    weights, bridges, parts = joined(weights, nodes.nodes, anchors, ruler)
    return Built(given, Network(nodes, weights, ruler), bridges, parts, anchors)
