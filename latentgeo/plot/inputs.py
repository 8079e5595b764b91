"""What every map checks and prepares: codes, labels, the window it shows, and the grid of codes it evaluates.

Maps are of a 2-D latent space, or of a plane in one of more dimensions: then codes have d coordinates, the window two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentgeo._calculus import as_numbers
from latentgeo.decoders import Decoder
from latentgeo.geodesics import Geodesic
from latentgeo.metrics import Metric, need_metric
from latentgeo.plot.layout import PANEL
from latentgeo.plot.planes import Plane

ROOM = 1.55  # size of the map over that of the codes: the rim around them belongs to the picture


def check_plane(metric: Metric, plane: Plane | None) -> int:
    """The dimension of the latent space, once it is sure that a map of it can be drawn."""
    need_metric(metric)
    if plane is None:
        if metric.dim not in (None, 2):
            raise ValueError(
                f"`metric` must have latent dimension 2 to be drawn as a map, got {metric.dim}; pass `plane=`, such as "
                "plot.Plane.axes(0, 1, at=code) or plot.Plane.principal(metric, codes)"
            )
        return 2
    if not isinstance(plane, Plane):
        raise ValueError(f"`plane` must be a plot.Plane, got {type(plane).__name__}")
    if metric.dim not in (None, plane.dim):
        raise ValueError(f"`plane` must lie in the metric's {metric.dim} latent dimensions, got {plane.dim}")
    return plane.dim


def need_decoder(decoder: Any, dim: int | None = None) -> None:
    """Raise TypeError unless it is a decoder, ValueError unless it is one of `dim` latent dimensions."""
    if not isinstance(decoder, Decoder):
        raise TypeError(f"`decoder` must be a Decoder (see `wrap`), got {type(decoder).__name__}")
    if dim is not None and decoder.latent_dim != dim:
        raise ValueError(f"`decoder` must have {dim} latent dimensions, as the codes have, got {decoder.latent_dim}")


def need_path(path: Any) -> None:
    """Raise TypeError unless it is a result of `connect` or `shoot`."""
    if not isinstance(path, Geodesic):
        raise TypeError(f"`path` must be a Geodesic, as `connect` returns it, got {type(path).__name__}")


def as_list(paths: Geodesic | Iterable[Geodesic] | None) -> list[Geodesic]:
    """Results as a list."""
    if paths is None:
        return []
    found: list[Any]
    try:
        found = [paths] if isinstance(paths, Geodesic) else list(paths)
    except TypeError:
        found = [paths]
    if not all(isinstance(path, Geodesic) for path in found):
        raise TypeError(f"`paths` must be a Geodesic, as `connect` returns it, or a list of them, got {paths!r}")
    return found


def like(metric: Metric, results: list[Geodesic], codes: Any) -> Tensor:
    """A tensor with the dtype and device that the metric wants."""
    embedding = metric.embedding
    if embedding is not None and embedding.dtype is not None:
        return torch.empty(0, dtype=embedding.dtype, device=embedding.device)
    if results:
        return results[0].z.new_empty(0)
    if isinstance(codes, Tensor) and codes.dtype in (torch.float32, torch.float64):
        return codes.new_empty(0)
    return torch.empty(0, dtype=torch.float64)


def as_codes(codes: Any, like: Tensor, dim: int = 2) -> Tensor | None:
    """Codes (n, d) in the metric's dtype and device."""
    if codes is None:
        return None
    points = as_numbers(codes, "codes").detach().to(dtype=like.dtype, device=like.device)
    if points.ndim != 2 or points.shape[1] != dim:
        raise ValueError(f"`codes` must have shape (n, {dim}), got {tuple(points.shape)}")
    if not torch.isfinite(points).all():
        bad = int((~torch.isfinite(points).all(dim=1)).sum())
        raise ValueError(f"`codes` must be finite, got {bad} of {len(points)} rows with NaN or infinity")
    return points


def as_labels(labels: Any, points: Tensor | None) -> NDArray[Any] | None:
    """Labels, one per code."""
    if labels is None:
        return None
    names = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    expected = None if points is None else (len(points),)
    if names.shape != expected:
        raise ValueError(f"`labels` must have one entry per code, shape {expected}, got {names.shape}")
    return names


def flat(points: Tensor, plane: Plane | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Where codes stand on the map (n, 2), and how far off its plane they are."""
    return (points.cpu().double().numpy(), None) if plane is None else plane.project(points)


def window(
    bounds: tuple[float, float, float, float] | None, shown: list[NDArray[Any]], resolution: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Grid coordinates along each axis; square cells, at least `resolution` along the shorter side.

    Around all points of `shown`, each (n, 2), where there are no bounds.
    """
    if bounds is None:
        everything = np.concatenate([np.zeros((0, 2)), *shown])
        everything = everything[np.isfinite(everything).all(axis=1)]
        if not len(everything):
            everything = np.array([[-3.0, -3.0], [3.0, 3.0]])
        low, high = everything.min(axis=0), everything.max(axis=0)
        middle = (low + high) / 2
        size = np.maximum((high - low) * ROOM, np.maximum(1e-3, 1e-6 * abs(middle)))  # no digits are finer
        # The map fills the panel: the shorter side grows until the shapes agree.
        shape = np.array(PANEL) / PANEL[1]
        half = shape * max(size / shape) / 2
        left, bottom = middle - half
        right, top = middle + half
    else:
        edges = as_numbers(bounds, "bounds").reshape(-1).tolist()
        if len(edges) != 4:
            raise ValueError(f"`bounds` must be four numbers (left, right, bottom, top), got {bounds!r}")
        left, right, bottom, top = edges
        if not (np.isfinite([left, right, bottom, top]).all() and left < right and bottom < top):
            raise ValueError(f"`bounds` must be (left, right, bottom, top), finite and in order, got {bounds}")
    cell = min(right - left, top - bottom) / (resolution - 1)
    return (
        np.linspace(left, right, round((right - left) / cell) + 1),
        np.linspace(bottom, top, round((top - bottom) / cell) + 1),
    )


def mesh(x: NDArray[Any], y: NDArray[Any], device: torch.device, plane: Plane | None = None) -> Tensor:
    """Codes (rows, columns, d) of a window's grid points, in double precision."""
    points = np.stack(np.meshgrid(x, y), axis=-1)
    return torch.as_tensor(points if plane is None else plane.lift(points), device=device)
