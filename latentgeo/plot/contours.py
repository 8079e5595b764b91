"""Circles of the geometry: curves of equal geodesic distance from one code, over the measure heatmap.

Distances are those of a `LatentGraph` (after Chen et al., "Fast Approximate Geodesics for Deep Generative Models",
2019): lengths of polygons, never less than the geodesics' but for quadrature.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentgeo._calculus import as_numbers, check_integer
from latentgeo.geodesics import LatentGraph
from latentgeo.metrics import Metric
from latentgeo.plot import inputs, theme
from latentgeo.plot.fields import length_units
from latentgeo.plot.layout import lay_out
from latentgeo.plot.measure import measure
from latentgeo.plot.planes import Plane, labels_of

__all__ = ["distance_contours"]

REACH = 0.8  # of the codes, or of the map, lie within the last contour


def distance_contours(
    metric: Metric,
    code: ArrayLike | Tensor,
    *,
    graph: LatentGraph | None = None,
    codes: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    contours: int = 10,
    resolution: int = 160,
    contour_resolution: int = 96,
    max_codes: int = 2000,
    plane: Plane | None = None,
    title: str | None = None,
) -> go.Figure:
    """Curves of equal geodesic distance from a code, over the heatmap of the log measure element.

    Parameters
    ----------
    metric : Metric
        Of latent dimension 2, or of any with a `plane`.
    code : array of shape (d,)
        Where distances are measured from.
    graph : LatentGraph, optional
        Fitted, of the same metric. None means one over the whole map (and over the codes, for d > 2).
    codes, labels, bounds, resolution, max_codes, plane, title
        As in `measure`.
    contours : int
        About how many curves are drawn, at round distances, as far out as four fifths of the codes (of the map where
        there are none).
    contour_resolution : int
        Grid points of the distance along the shorter side.

    Returns
    -------
    plotly.graph_objects.Figure
        Of `measure`, with a trace "distance" whose z holds the distances (rows, columns) from the code.

    Raises
    ------
    ValueError
        If the code or an array has another shape or non-finite entries, or an option is out of range.

    Examples
    --------
    >>> from latentgeo.metrics import Euclidean
    >>> figure = distance_contours(Euclidean(2), [0.0, 0.0], bounds=(-1, 1, -1, 1), resolution=5)
    >>> distance = next(trace for trace in figure.data if trace.name == "distance")
    >>> round(float(distance.z[0, 0]), 3)  # a corner
    1.414
    """
    dim = inputs.check_plane(metric, plane)
    check_integer(contours, "contours")
    check_integer(contour_resolution, "contour_resolution", 2)
    like = inputs.like(metric, [], codes)
    start = as_numbers(code, "code").detach().to(like)
    if start.shape != (dim,) or not bool(start.isfinite().all()):
        raise ValueError(f"`code` must be one finite code of shape ({dim},), got shape {tuple(start.shape)}")
    points = inputs.as_codes(codes, like, dim)
    spot, away = inputs.flat(start[None], plane)
    if bounds is None and points is None:
        bounds = (spot[0, 0] - 3, spot[0, 0] + 3, spot[0, 1] - 2, spot[0, 1] + 2)
    figure = measure(
        metric, codes=codes, labels=labels, bounds=bounds, resolution=resolution, max_codes=max_codes, plane=plane,
        title=title or "Equal distances from one code",
    )  # fmt: skip
    across, up = np.asarray(figure.data[0].x), np.asarray(figure.data[0].y)
    x, y = inputs.window((across[0], across[-1], up[0], up[-1]), [], contour_resolution)
    mesh = inputs.mesh(x, y, like.device, plane).to(like)
    if graph is None:
        nodes = [mesh.reshape(-1, dim), start[None]] + ([] if points is None else [points])
        graph = LatentGraph(metric).fit(torch.cat(nodes))
    with torch.no_grad():
        distance = graph.distances(start[None], mesh.reshape(-1, dim))[0].reshape(mesh.shape[:-1])
        own = distance.reshape(-1) if points is None else graph.distances(start[None], points)[0]
    z = distance.cpu().double().numpy()
    reach = own.cpu().double().numpy()
    reach = reach[np.isfinite(reach)]
    far = float(np.quantile(reach, REACH)) if reach.size else 0.0
    step = _round(far / contours) if far > 0 else 1.0
    unit = length_units(metric)
    figure.add_traces(_contours(x, y, z, step, max(step, step * math.floor(far / step)), unit))
    mark = {"symbol": "star", "size": 22, "color": theme.PAPER, "line": {"color": theme.INK, "width": 1.5}}
    note = "" if away is None else f"<br>projected: {away[0]:.3g} latent units off this plane"
    figure.add_trace(
        go.Scatter(
            x=spot[:, 0],
            y=spot[:, 1],
            mode="markers",
            marker=mark,
            name="from here",
            showlegend=True,
            legend="legend2",
            hovertemplate="distances from here: (%{x:.3g}, %{y:.3g})" + note + "<extra></extra>",
        )
    )
    lay_out(figure, [], across, up, labels_of(plane))  # for the entries of the legend that came since
    return figure


def _contours(
    x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], step: float, last: float, unit: str
) -> list[go.BaseTraceType]:
    """White curves on dark casings, each with its distance."""
    levels = {"start": step, "end": last, "size": step, "coloring": "none"}
    common: dict[str, Any] = {"x": x, "y": y, "z": np.where(np.isfinite(z), z, np.nan), "showscale": False}
    font = {"size": theme.SMALL, "color": theme.PAPER}
    text = f"equally far, in steps of {step:.4g} up to {last:.4g} ({unit})"
    return [
        go.Contour(
            contours=levels, line={"width": 4, "color": theme.INK, "smoothing": 0.8}, hoverinfo="skip",
            name="distance casing", showlegend=False, **common,
        ),
        go.Contour(
            contours={**levels, "showlabels": True, "labelfont": font},
            line={"width": 1.8, "color": theme.PAPER, "smoothing": 0.8},
            hovertemplate=f"(%{{x:.3g}}, %{{y:.3g}})<br>distance %{{z:.4g}} {unit}<extra></extra>",
            name="distance", showlegend=False, **common,
        ),
        go.Scatter(
            x=[None], y=[None], mode="lines", line={"color": theme.INK, "width": 3}, name=text, legend="legend2",
        ),
    ]  # fmt: skip


def _round(value: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return min((1.0, 2.0, 5.0, 10.0), key=lambda c: abs(math.log(c * power / value))) * power
