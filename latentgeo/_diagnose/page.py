"""The health report as a page: findings, table, what the figures rest on, and maps of a latent plane."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from ..plot import curvature, indicatrix, theme, write_html

if TYPE_CHECKING:
    from .report import HealthReport

_HEADER = ("part", "figure", "value", "should be")
_INK, _SECOND = theme.LABELS[4], theme.LABELS[5]


def write(report: HealthReport, path: str | os.PathLike[str], metric: Any, codes: Any, labels: Any) -> Path:
    """Write the page."""
    figures: list[tuple[go.Figure, str]] = [(panels(report), "What the figures of the table rest on.")]
    if codes.shape[1] == 2:
        try:
            figures += _maps(report, metric, codes, labels)
        except TypeError as error:  # a decoder that cannot be cast to double precision, which maps are drawn in
            figures[0] = (figures[0][0], f"{figures[0][1]} There are no maps: {error}")
    verdict = "Nothing severe was found." if report.healthy else "Distances mean little until this is mended:"
    findings = [f"{f.severity.value.upper()} · {f.advice.name} · {f.text}; {f.advice.value}." for f in report.findings]
    intro = "\n\n".join([report.subject, verdict, *findings])
    rows = [list(row) for row in report.rows()]
    return write_html(figures, path, title="Health of a latent geometry", intro=intro, table=(_HEADER, rows))


def _maps(report: HealthReport, metric: Any, codes: Any, labels: Any) -> list[tuple[go.Figure, str]]:
    """Ellipses of equal steps over the measure, and curvature."""
    caption = "White ellipses: all steps that are equally long. Where they are small, small steps change the data much."
    maps = [(indicatrix(metric, codes=codes, labels=labels, resolution=100), caption)]
    if report.curvature is not None:
        caption = "Red: geodesics draw together, as on a sphere. Blue: they part, as on a saddle."
        maps.append((curvature(metric, codes=codes, resolution=80, max_codes=300), caption))
    return maps


def panels(report: HealthReport) -> go.Figure:
    """σ against distance from the codes, geodesics against straight lines, spread of condition and curvature."""
    drawn, unit = report.figures.drawn, report.unit
    wanted: list[tuple[str, str, str, list[go.BaseTraceType], dict[str, Any], dict[str, Any]]] = []
    if report.sigma is not None and "sigma" in drawn:
        traces, y_axis = _sigma(drawn, report.sigma.bound)
        wanted.append(
            ("σ near and off the codes", "distance to the 10th nearest code", f"σ ({unit})", traces, {}, y_axis)
        )
    if len(drawn.get("length", ())):
        traces = _lengths(drawn, unit)
        wanted.append(("Geodesics", f"straight line ({unit})", f"geodesic ({unit})", traces, {}, {}))
    if len(drawn.get("condition", ())):
        log = np.log10(np.maximum(drawn["condition"], 1.0))
        traces = [_histogram(log, "10^%{x}")]
        wanted.append(("Condition number of G", "log₁₀ of the condition number", "codes", traces, {}, {}))
    if "curvature" in drawn:
        K = drawn["curvature"]
        reach = float(np.quantile(np.abs(K), 0.95)) or 1.0
        traces = [_histogram(K[np.abs(K) <= reach], "%{x}")]
        x_axis = {"range": [-1.05 * reach, 1.05 * reach]}
        wanted.append(("Curvature (middle 95 %)", f"K (1/({unit})²)", "codes", traces, x_axis, {}))
    if len(wanted) < 4:
        traces = [_histogram(drawn["spacing"], "%{x}")]
        wanted.append(("Codes", "distance to the 10th nearest code", "codes", traces, {}, {}))
    columns = 2 if len(wanted) > 1 else 1
    rows = max(1, -(-len(wanted) // columns))
    figure = make_subplots(
        rows, columns, subplot_titles=[w[0] for w in wanted], horizontal_spacing=0.13, vertical_spacing=0.34 / rows
    )
    for k, (_, x_title, y_title, traces, x_axis, y_axis) in enumerate(wanted):
        at = {"row": k // columns + 1, "col": k % columns + 1}
        for trace in traces:
            figure.add_trace(trace, **at)
        figure.update_xaxes(title={"text": x_title, "font": {"size": theme.SIZE}}, **x_axis, **at)
        figure.update_yaxes(title={"text": y_title, "font": {"size": theme.SIZE}}, **y_axis, **at)
    figure.update_layout(
        template=theme.template(),
        height=60 + 420 * rows,
        margin={"l": 90, "r": 30, "t": 50, "b": 70},
        showlegend=False,
        bargap=0.04,
    )
    figure.update_annotations(font_size=theme.SIZE)
    return figure


def _sigma(drawn: Any, bound: float) -> tuple[list[go.BaseTraceType], dict[str, Any]]:
    distance, sigma = drawn["sigma_distance"], drawn["sigma"]
    traces: list[go.BaseTraceType] = [_dots(distance, sigma, "σ %{y:.3g} at %{x:.3g} latent units from the codes")]
    if math.isfinite(bound):
        ends = [0.0, float(distance.max())]
        line = {"color": _SECOND, "width": 2, "dash": "dash"}
        label = go.Scatter(
            x=ends,
            y=[bound, bound],
            mode="lines+markers+text",
            marker={"size": 12, "opacity": 0},  # keeps the text off the line
            text=["its bound", ""],
            textposition="bottom right",
            textfont={"color": _SECOND},
            line=line,
            hoverinfo="skip",
            name="bound",
        )
        traces.append(label)
    positive = bool((sigma > 0).all()) and float(sigma.max()) > 10 * float(sigma.min())
    return traces, {"type": "log", "dtick": 1} if positive else {"rangemode": "tozero"}


def _lengths(drawn: Any, unit: str) -> list[go.BaseTraceType]:
    straight, length = drawn["straight"], drawn["length"]
    top = float(straight.max())
    line = {"color": _SECOND, "width": 2, "dash": "dash"}
    return [
        go.Scatter(
            x=[0, top],
            y=[0, top],
            mode="lines+text",
            text=["", "equal"],
            textposition="middle left",
            textfont={"color": _SECOND},
            line=line,
            hoverinfo="skip",
            name="equal",
        ),
        _dots(straight, length, f"geodesic %{{y:.4g}} {unit}<br>straight line %{{x:.4g}} {unit}"),
    ]


def _dots(x: NDArray[Any], y: NDArray[Any], hover: str) -> go.Scatter:
    marker = {"size": 6, "color": _INK, "opacity": 0.55}
    return go.Scatter(x=x, y=y, mode="markers", marker=marker, hovertemplate=hover + "<extra></extra>")


def _histogram(values: NDArray[Any], x: str) -> go.Histogram:
    return go.Histogram(
        x=values, nbinsx=40, marker={"color": _INK}, hovertemplate=x + ": %{y} codes<extra></extra>", name="codes"
    )
