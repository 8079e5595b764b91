"""Latent graphs on disk: one `.npz` of plain arrays, never unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import scipy.sparse as sp

__all__ = ["read_graph", "write_graph"]

_FORMAT = 2


def write_graph(
    path: str | PathLike[str],
    numbers: Mapping[str, int],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    weights: sp.csr_array,
) -> None:
    """Write whole numbers, arrays and edge weights."""
    parts: dict[str, Any] = {"format": np.array(_FORMAT)}
    parts |= {f"number_{name}": np.array(value) for name, value in numbers.items()}
    parts |= {f"array_{name}": value for name, value in arrays.items()}
    parts |= {f"weights_{name}": getattr(weights, name) for name in ("data", "indices", "indptr")}
    with open(path, "wb") as file:
        np.savez_compressed(file, **parts)


def read_graph(
    path: str | PathLike[str],
) -> tuple[dict[str, int], dict[str, np.ndarray[Any, Any]], sp.csr_array]:
    """Read what `write_graph` wrote.

    Raises
    ------
    ValueError
        If the file is anything else, damaged, or of a newer format.
    """
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
