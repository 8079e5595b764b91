"""How a fit of `LAND` starts: parameters checked, the space, codes shared among components, components of those."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from .._calculus import check_integer
from ..geodesics import LatentGraph
from ..metrics import Euclidean
from ._base import as_numpy
from ._land_em import State, initial
from ._land_rays import Design
from ._land_space import Curved, Flat, Space
from ._spaces import fitted_graph
from .kmeans import GeodesicKMeans

__all__ = ["checked", "memberships", "space_of", "started"]

_CHOICES = {
    "measure": ("riemannian", "lebesgue"),
    "variant": ("exact", "paper"),
    "init_params": ("kmeans", "geodesic-kmeans", "random"),
}


def checked(land: Any, X: NDArray[Any]) -> dict[str, Tensor]:
    """The starting weights, means and precisions that are given; ValueError if a parameter is out of range."""
    for name in ("n_components", "max_iter", "n_init", "n_directions"):
        check_integer(getattr(land, name), name)
    check_integer(land.n_radii, "n_radii", 4)
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
        value = np.asarray(as_numpy(value), dtype=np.float64, order="C")
        if value.shape != shape or not np.isfinite(value).all():
            raise ValueError(f"`{name}_init` must be finite and have shape {shape}, got {value.shape}")
        given[name] = torch.as_tensor(value)
    if "weights" in given:
        w = given["weights"]
        if bool((w < 0).any()) or abs(float(w.sum()) - 1) > 1e-6:
            raise ValueError(f"`weights_init` must be positive and sum to 1, got {w.tolist()}")
    return given


def space_of(land: Any, codes: NDArray[np.float64], rng: np.random.RandomState) -> Space:
    """Where the mixture lives."""
    if isinstance(land.metric_, Euclidean):
        return Flat()
    distinct = np.unique(codes, axis=0)
    graph = fitted_graph(land.metric_, distinct, land.graph) if len(distinct) > 1 else None
    design = Design.draw(codes.shape[1], land.n_directions, land.n_radii, rng)
    paper = land.variant == "paper"
    return Curved(
        land.metric_, graph, design, solver=land.solver, shooter=land.shooter, tol=land.segment_tol, paper=paper
    )


def memberships(land: Any, codes: NDArray[np.float64], rng: np.random.RandomState) -> Tensor:
    """Responsibilities (K, n) that a run starts from, as `init_params` says."""
    K = land.n_components
    if land.init_params == "random":
        share = rng.uniform(size=(len(codes), K))
        return torch.as_tensor((share / share.sum(1, keepdims=True)).T.copy())
    if land.init_params == "kmeans":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of duplicates; covariances tell
            labels = KMeans(K, n_init=1, random_state=rng).fit(codes).labels_
    else:
        clusters = GeodesicKMeans(land.metric_, K, graph=land.graph, solver=land.solver, random_state=rng)
        labels = clusters.fit(codes).labels_
    return torch.as_tensor((labels[None, :] == np.arange(K)[:, None]).astype(np.float64))


def started(space: Space, Z: Tensor, responsibilities: Tensor, given: dict[str, Tensor], reg: float) -> State:
    """The state that responsibilities (K, n) and the parameters that are given make."""
    mass = responsibilities.sum(1) + 10 * torch.finfo(torch.float64).eps
    means = responsibilities @ Z / mass[:, None]
    if not isinstance(space, Flat):  # a code is where the metric is good: that of the cluster nearest to its mean
        others = responsibilities < responsibilities.amax(1, keepdim=True)
        means = Z[torch.cdist(means, Z).masked_fill(others, torch.inf).argmin(1)]
    means = given.get("means", means)
    S = None
    if "precisions" in given:
        S, info = torch.linalg.inv_ex(given["precisions"])
        if bool((info != 0).any()) or bool((torch.linalg.eigvalsh(S) <= 0).any()):
            raise ValueError("`precisions_init` must be positive definite")
    return initial(space, Z, means, responsibilities, reg, S, given.get("weights"))
