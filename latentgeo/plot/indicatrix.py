"""Indicatrices: at each place the ellipse of all steps that are equally long under the metric.

Tissot's device for maps of the earth, on the map of the measure: small where a small step changes the data much,
long in the directions that change them little.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentgeo._calculus import check_integer, check_positive
from latentgeo.metrics import Metric
from latentgeo.plot import inputs, theme
from latentgeo.plot.fields import in_double, length_units
from latentgeo.plot.layout import lay_out
from latentgeo.plot.measure import measure
from latentgeo.plot.planes import Plane, labels_of

TYPICAL = 0.3  # semi-axis of the median ellipse, in spacings of the grid
LONGEST = 0.47  # what longer ellipses are shrunk to, so that neighbours do not overlap
CORNERS = 49  # of the polygon that draws an ellipse


def indicatrix(
    metric: Metric,
    *,
    codes: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    resolution: int = 160,
    ellipses: int = 15,
    radius: float | None = None,
    max_codes: int = 300,
    plane: Plane | None = None,
    title: str | None = None,
) -> go.Figure:
    """Ellipses of equal length over the heatmap of the log measure element.

    Each ellipse holds the steps v with √(vᵀ G v) ≤ `radius`. One that would reach its neighbours keeps its shape but is
    shrunk, and drawn dashed.

    Parameters
    ----------
    metric : Metric
        Of latent dimension 2, or of any with a `plane`.
    codes, labels, bounds, resolution, plane, title
        As in `measure`; on a plane the ellipses hold steps along it.
    ellipses : int
        Ellipses along the shorter side of the map.
    radius : float, optional
        Length of the steps, in units of the metric; a round number that fits the typical ellipse (at the codes where
        there are any) into the grid if None.
    max_codes : int
        At most this many codes are drawn, evenly picked.

    Returns
    -------
    plotly.graph_objects.Figure
        The heatmap is the first trace; the traces "indicatrix" and "indicatrix, shrunk" hold the ellipses, each with
        its centre in `customdata`, parted by NaN.

    Raises
    ------
    ValueError
        If the metric is not 2-D, an array has another shape or non-finite entries, or an option is out of range.

    References
    ----------
    .. [1] Tissot, "Mémoire sur la représentation des surfaces", 1881.

    Examples
    --------
    >>> from latentgeo.metrics import Euclidean
    >>> figure = indicatrix(Euclidean(2), bounds=(-1, 1, -1, 1), resolution=4, ellipses=3, radius=0.25)
    >>> x = next(trace for trace in figure.data if trace.name == "indicatrix").x
    >>> round(float((x[:49].max() - x[:49].min()) / 2), 6)  # a circle
    0.25
    """
    check_integer(ellipses, "ellipses")
    check_positive(radius, "radius", optional=True)
    figure = measure(
        metric,
        codes=codes,
        labels=labels,
        bounds=bounds,
        resolution=resolution,
        max_codes=max_codes,
        plane=plane,
        title=title or "Steps of equal length",
    )
    x, y = figure.data[0].x, figure.data[0].y
    half = (x[1] - x[0]) / 2  # the map's cells reach half a cell beyond its points
    width, height = x[-1] - x[0] + 2 * half, y[-1] - y[0] + 2 * half
    spacing = min(width, height) / ellipses
    sides = []
    for low, size in ((x[0] - half, width), (y[0] - half, height)):
        count = max(1, int(size / spacing + 1e-9))
        sides.append(low + (size - count * spacing) / 2 + spacing * (np.arange(count) + 0.5))
    centres = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)
    exact, like = in_double(metric), inputs.like(metric, [], codes)
    places = torch.as_tensor(centres if plane is None else plane.lift(centres))
    axes, turn = _shapes(exact, places.to(like), plane)
    points = inputs.as_codes(codes, like, inputs.check_plane(metric, plane))
    typical = axes if points is None or len(points) == 0 else _shapes(exact, points, plane)[0]
    mean = np.sqrt(typical.prod(1))
    mean = mean[np.isfinite(mean) & (mean > 0)]
    if radius is None:
        radius = _round(TYPICAL * spacing / float(np.median(mean))) if mean.size else 1.0
    longest = radius * axes[:, 0]
    known = np.isfinite(axes).all(1)
    whole = known & (longest <= LONGEST * spacing)
    # a direction of no length at all has an endless axis: drawn as a stroke
    shrink = np.where(known, LONGEST * spacing / np.where(known, longest, 1.0), 0.0)
    unit = length_units(metric)
    figure.add_traces(
        [
            *_traces(centres[whole], radius * axes[whole], turn[whole], False, radius, unit),
            *_traces(
                centres[known & ~whole],
                (radius * shrink[:, None] * axes)[known & ~whole],
                turn[known & ~whole],
                True,
                radius,
                unit,
            ),
        ]
    )
    lay_out(figure, [], np.asarray(x), np.asarray(y), labels_of(plane))  # for the entries of the legend that came since
    return figure


def _shapes(metric: Metric, z: Tensor, plane: Plane | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Semi-axes (n, 2) of unit indicatrices, the long one first, and their directions as columns (n, 2, 2)."""
    with torch.no_grad():
        G = metric.tensor(z.to(metric.dtype or z.dtype)).cpu().double().numpy()
    if plane is not None:
        basis = np.array([plane.first, plane.second])
        G = basis @ G @ basis.T
    bad = ~np.isfinite(G).all((1, 2))
    values, vectors = np.linalg.eigh(np.where(bad[:, None, None], np.eye(2), G))
    # beyond 10¹² the short axis is invisible anyway
    values = np.maximum(values, 1e-24 * values[:, -1:])
    with np.errstate(divide="ignore"):
        axes = 1 / np.sqrt(values)
    axes[bad] = np.nan
    return axes, vectors


def _round(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that does not exceed a value."""
    power = 10.0 ** math.floor(math.log10(value))
    return power * max(step for step in (1, 2, 5) if step * power <= value * (1 + 1e-12))


def _traces(
    centres: NDArray[Any], axes: NDArray[Any], turn: NDArray[Any], shrunk: bool, radius: float, unit: str
) -> list[go.Scatter]:
    """All ellipses of one kind as one line, and its entry in the legend."""
    if not len(centres):
        return []
    t = np.linspace(0, 2 * np.pi, CORNERS)
    circle = np.stack([np.cos(t), np.sin(t)], -1)
    lines = centres[:, None] + np.einsum("nij,nj,kj->nki", turn, axes, circle)
    broken = np.concatenate([lines, np.full((len(lines), 1, 2), np.nan)], 1).reshape(-1, 2)
    told = np.repeat(centres, CORNERS + 1, axis=0)
    name = "indicatrix, shrunk" if shrunk else "indicatrix"
    style = {"color": theme.PAPER, "width": 1.6, "dash": "2px,2px" if shrunk else "solid"}
    text = "the same, shrunk to fit" if shrunk else f"steps of length {radius:.3g} {unit}"
    common: dict[str, Any] = {"legendgroup": name, "mode": "lines"}
    return [
        go.Scatter(
            x=broken[:, 0],
            y=broken[:, 1],
            customdata=told,
            line=style,
            fill="toself",
            fillcolor="rgba(255,255,255,0.10)" if shrunk else "rgba(255,255,255,0.22)",
            hoverinfo="skip",
            showlegend=False,
            name=name,
            **common,
        ),
        go.Scatter(
            x=[None], y=[None], name=text, legend="legend2", line={**style, "color": theme.INK, "width": 2}, **common
        ),
    ]
