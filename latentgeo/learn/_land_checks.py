"""What the parameters of `LAND` may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geodesics import LatentGraph
from ._base import as_numpy, check_positive

__all__ = ["checked"]

_CHOICES = {
    "measure": ("riemannian", "lebesgue"),
    "variant": ("exact", "paper"),
    "init_params": ("kmeans", "geodesic-kmeans", "random"),
}


def checked(land: Any, X: NDArray[Any]) -> dict[str, Tensor]:
    """The starting weights, means and precisions that are given; ValueError if a parameter is out of range."""
    for name in ("n_components", "max_iter", "n_init", "n_directions"):
        check_positive(getattr(land, name), name)
    check_positive(land.n_radii, "n_radii", 4)
    for name in ("tol", "reg_covar"):
        value = getattr(land, name)
        if not (isinstance(value, (int, float)) and 0 <= value < np.inf):
            raise ValueError(f"`{name}` must be a number of at least 0, got {value!r}")
    if not (isinstance(land.segment_tol, float) and 0 < land.segment_tol < 1):
        raise ValueError(f"`segment_tol` must be between 0 and 1, got {land.segment_tol!r}")
    for name, allowed in _CHOICES.items():
        if getattr(land, name) not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {getattr(land, name)!r}")
    if len(X) < land.n_components:
        raise ValueError(
            f"Expected n_samples >= n_components but got n_components = {land.n_components}, n_samples = {len(X)}"
        )
    if land.graph is not None and not isinstance(land.graph, LatentGraph):
        raise TypeError(f"`graph` must be a LatentGraph or None, got {type(land.graph).__name__}")
    K, d = land.n_components, X.shape[1]
    given = {}
    for name, shape in (("weights", (K,)), ("means", (K, d)), ("precisions", (K, d, d))):
        value = getattr(land, f"{name}_init")
        if value is None:
            continue
        value = np.asarray(as_numpy(value), dtype=np.float64)
        if value.shape != shape or not np.isfinite(value).all():
            raise ValueError(f"`{name}_init` must be finite and have shape {shape}, got {value.shape}")
        given[name] = torch.as_tensor(value)
    if "weights" in given:
        w = given["weights"]
        if bool((w < 0).any()) or abs(float(w.sum()) - 1) > 1e-6:
            raise ValueError(f"`weights_init` must be positive and sum to 1, got {w.tolist()}")
    return given
