"""Panels side by side, each on the same map of the measure element: what walks and densities are drawn on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentgeo.plot import inputs, overlays, theme
from latentgeo.plot._mosaics import Row, add_row
from latentgeo.plot.fields import Field, describe, in_double
from latentgeo.plot.heatmaps import heatmap
from latentgeo.plot.planes import Plane

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder
    from latentgeo.metrics import Metric

__all__ = ["MARGIN", "Ground", "ground", "panels_side_by_side"]

GAP, INDENT = 44, 26  # pixels between panels, and before a strip
MARGIN = {"l": 82, "r": 128, "t": 150, "b": 76}


@dataclasses.dataclass(frozen=True, eq=False)
class Ground:
    """The map that every panel lies on.

    Attributes
    ----------
    x, y : ndarray
        Its grid, in latent units.
    field : Field
        What it shows.
    level : ndarray or None
        How near σ is to its bound at the grid's points, if it has one.
    codes : ndarray of shape (n, 2) or None
        Where the codes lie on it.
    like : Tensor
        A code's dtype and device.
    traces : list
    """

    x: NDArray[Any]
    y: NDArray[Any]
    field: Field
    level: NDArray[Any] | None
    codes: NDArray[Any] | None
    like: Tensor
    traces: list[go.BaseTraceType]

    def lay(self, figure: go.Figure, number: int, count: int, floor: float) -> dict[str, str]:
        """Draw it in one of the panels, the colour bar beside the last; the names of that panel's axes."""
        suffix = "" if number == 1 else str(number)
        on = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        for trace in self.traces:
            if trace.type == "scatter" and trace.x is not None and len(trace.x) == 1 and trace.x[0] is None:
                continue  # entries of a legend that is not drawn
            copied = type(trace)(trace).update(on)
            if trace.name == "measure":
                beside = figure.layout[f"xaxis{suffix}"].domain[1] + 0.015
                copied.update(showscale=number == count, colorbar={"x": beside, "y": (1 + floor) / 2, "len": 1 - floor})
            figure.add_trace(copied)
        return on


def ground(
    metric: Metric,
    decoder: Decoder | None,
    dim: int,
    codes: ArrayLike | Tensor | None,
    others: list[NDArray[Any]],
    *,
    plane: Plane | None,
    bounds: tuple[float, float, float, float] | None,
    resolution: int,
    max_codes: int,
    room: float = 1.3,
) -> Ground:
    """The map around the codes, or around `others` (…, 2) where there are none, `room` times as large."""
    like = inputs.like(metric, [], codes)
    points = inputs.as_codes(codes, like, dim)
    where = None if points is None else inputs.flat(points, plane)[0]
    x, y = inputs.window(bounds or _square(where, others, room), [], resolution)
    grid = inputs.mesh(x, y, like.device, plane)
    field = describe(metric, "both", decoder, dim)
    level = overlays.saturation(decoder, grid)
    traces = heatmap(field, x, y, field.values(in_double(metric), grid, plane), level)
    if level is not None:
        traces += overlays.hatching(x, y, level)
    if where is not None:
        traces.append(_dots(where, max_codes))
    return Ground(x, y, field, level, where, like, traces)


def _square(points: NDArray[Any] | None, others: list[NDArray[Any]], room: float) -> tuple[float, float, float, float]:
    """A square around the codes, or around the others where there are none, so many times as large."""
    everything = np.concatenate([p.reshape(-1, 2) for p in others]) if points is None else points
    everything = everything[np.isfinite(everything).all(1)]
    if not len(everything):
        everything = np.array([[-3.0, -3.0], [3.0, 3.0]])
    low, high = everything.min(0), everything.max(0)
    middle = (low + high) / 2
    half = max(room / 2 * float((high - low).max()), 1e-3, 1e-6 * float(abs(middle).max()))  # no digits are finer
    return middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half


def _dots(points: NDArray[Any], most: int) -> go.Scatter:
    """Codes as small white dots."""
    chosen = np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int)
    few = len(chosen) <= 200
    marker = {"size": 5 if few else 2.5, "color": f"rgba(255,255,255,{0.8 if few else 0.55})"}
    style: dict[str, Any] = {"mode": "markers", "marker": marker, "hoverinfo": "skip", "name": "codes"}
    return go.Scatter(x=points[chosen, 0], y=points[chosen, 1], **style)


def panels_side_by_side(
    figure: go.Figure,
    names: list[str],
    x: NDArray[Any],
    y: NDArray[Any],
    rows: list[list[Row]],
    labels: tuple[str, str] | None = None,
) -> float:
    """Panels side by side, each walk's strips beneath it; returns where the panels' lower edge is."""
    across, up = labels or ("z₁", "z₂")
    room = theme.WIDTH - MARGIN["l"] - MARGIN["r"]
    n = len(names)
    side = min(room if n > 1 else 0.62 * room, (room - GAP * (n - 1)) / n)
    tall = side * (y[-1] - y[0]) / (x[-1] - x[0])
    strip = max((row.height / row.width * (side - INDENT) for film in rows for row in film), default=0.0)
    below = 66.0
    total = tall + (below + max(len(film) for film in rows) * (strip + 6) if strip else 0.0)
    floor = 1 - tall / total
    step = (x[1] - x[0]) / 2
    for number, name in enumerate(names, start=1):
        left = (number - 1) * (side + GAP) / room
        suffix = "" if number == 1 else str(number)
        domain = [left, min(1.0, left + side / room)]
        figure.update_layout(
            {
                f"xaxis{suffix}": {
                    "domain": domain,
                    "anchor": f"y{suffix}",
                    "range": [x[0] - step, x[-1] + step],
                    "title": {"text": f"{across} (latent units)", "font": {"size": theme.SMALL}},
                },
                f"yaxis{suffix}": {
                    "domain": [floor, 1.0],
                    "anchor": f"x{suffix}",
                    "range": [y[0] - step, y[-1] + step],
                    "title": {"text": f"{up} (latent units)" if number == 1 else "", "font": {"size": theme.SMALL}},
                },
            }
        )
        figure.add_annotation(
            text=name, x=domain[0], y=1.0, xref="paper", yref="paper", xanchor="left", yanchor="bottom", yshift=4,
            showarrow=False, align="left", font={"size": theme.SMALL},
        )  # fmt: skip
    for number, film in enumerate(rows):
        left = (number * (side + GAP) + INDENT) / room
        for index, row in enumerate(film):
            top = 1 - (tall + below + index * (strip + 6)) / total
            height = row.height / row.width * (side - INDENT) / total
            place = n + 1 + sum(len(f) for f in rows[:number]) + index
            right = min(1.0, left + (side - INDENT) / room)
            add_row(figure, row, place, (left, right), (max(0.0, top - height), top))
    figure.update_layout(height=round(total) + MARGIN["t"] + MARGIN["b"] + (0 if strip else 44), hovermode="closest")
    return float(floor)
