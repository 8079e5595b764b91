"""Latent graphs on disk: one `.npz` of plain arrays, never unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from ..metrics import Metric
from ._code_nodes import CodeNodes
from ._graph_build import Built
from ._lattice import GridNodes, Lattice
from ._network import Network
from ._ruler import Ruler

__all__ = ["read_graph", "write_graph"]

_FORMAT = 2
_OTHERS = ("n_components", "bits")  # numbers that are no options


def write_graph(path: str | PathLike[str], options: Mapping[str, int | None], built: Built) -> None:
    """Write a graph's options, its codes and its network."""
    nodes, weights, ruler = built.network.nodes, built.network.weights, built.network.ruler
    numbers = {name: -1 if value is None else value for name, value in options.items()}
    numbers |= {"n_components": built.n_components, "bits": torch.finfo(ruler.like.dtype).bits}
    arrays = {"codes": built.codes, "bridges": built.bridges}
    arrays |= {"nodes": nodes.nodes} if nodes.lattice is None else nodes.lattice.arrays()
    parts: dict[str, Any] = {"format": np.array(_FORMAT)}
    parts |= {f"number_{name}": np.array(value) for name, value in numbers.items()}
    parts |= {f"array_{name}": value for name, value in arrays.items()}
    parts |= {f"weights_{name}": getattr(weights, name) for name in ("data", "indices", "indptr")}
    with open(path, "wb") as file:
        np.savez_compressed(file, **parts)


def read_graph(path: str | PathLike[str], metric: Metric) -> tuple[dict[str, Any], Built]:
    """Options of a graph of that metric, its codes and its network.

    Raises
    ------
    ValueError
        If the file is anything else, damaged, of a newer format, or of another latent dimension.
    """
    numbers, arrays, weights = _parts(path)
    d = arrays["codes"].shape[1]
    if metric.dim is not None and d != metric.dim:
        raise ValueError(f"{path} holds a graph of {d}-d codes, but the metric has dimension {metric.dim}")
    options = {name: None if value < 0 else value for name, value in numbers.items() if name not in _OTHERS}
    dtype = metric.dtype or {32: torch.float32}.get(numbers["bits"], torch.float64)
    ruler = Ruler(metric, torch.empty(0, d, dtype=dtype, device=metric.device), numbers["substeps"])
    nodes: GridNodes | CodeNodes
    if "nodes" in arrays:
        nodes = CodeNodes(arrays["nodes"], numbers["n_neighbors"], ruler)
    else:
        nodes = GridNodes(Lattice.of(arrays), ruler)
    network = Network(nodes, weights, ruler)
    return options, Built(arrays["codes"], network, arrays["bridges"], numbers["n_components"])


def _parts(path: str | PathLike[str]) -> tuple[dict[str, int], dict[str, NDArray[Any]], sp.csr_array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = {name: file[name] for name in file.files}
        if int(parts["format"]) != _FORMAT:
            kind = "newer" if int(parts["format"]) > _FORMAT else "older"
            raise ValueError(f"format {int(parts['format'])} is {kind} than {_FORMAT}, the one known; fit it again")
        numbers = {name[7:]: int(value) for name, value in parts.items() if name.startswith("number_")}
        arrays = {name[6:]: value for name, value in parts.items() if name.startswith("array_")}
        if "nodes" not in arrays and "field" not in arrays:
            raise ValueError("it has neither nodes nor a grid")
        n = len(parts["weights_indptr"]) - 1
        weights = sp.csr_array(tuple(parts[f"weights_{name}"] for name in ("data", "indices", "indptr")), shape=(n, n))
        weights.check_format(full_check=True)
    except FileNotFoundError:
        raise
    except Exception as reason:
        raise ValueError(f"{path} is not a graph written by LatentGraph.save: {reason}") from None
    return numbers, arrays, weights
