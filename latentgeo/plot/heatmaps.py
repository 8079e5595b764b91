"""The map itself: a field as a heatmap with its colour bar, singular places marked as such.

The measure and the condition number are shown in cividis, the curvature, which has a sign, in red and blue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from latentgeo.plot import overlays, theme
from latentgeo.plot.fields import Field

SPAN = 20.0  # most that the colours tell apart: where σ dies away, ½ log det G falls without end
CURVATURE = "RdBu"  # reversed: red is positive; both ends stay apart under colour-vision deficiency
QUANTILE = 0.9  # of |K|: the ends of the colours


def heatmap(
    field: Field,
    x: NDArray[Any],
    y: NDArray[Any],
    values: NDArray[Any],
    level: NDArray[Any] | None,
    reach: float = 1.0,
) -> list[go.BaseTraceType]:
    """The field over a window, and where it is infinite.

    Parameters
    ----------
    x, y : array of shape (columns,), (rows,)
    values, level : array of shape (rows, columns)
        `level` is σ as a share of its bound, told in the hover.
    reach : float
        |K| at the ends of the colours, of a curvature.
    """
    finite = values[np.isfinite(values)]
    share = "" if level is None else "<br>σ at %{customdata:.0%} of its bound"
    bar: dict[str, Any] = {
        "title": {"text": field.bar, "side": "right", "font": {"size": theme.SMALL}},
        "tickfont": {"size": theme.SMALL},
        "ticksuffix": theme.SPACE,
        "thickness": 18,
        "outlinewidth": 0,
    }
    z = np.where(np.isfinite(values), values, np.nan)
    colours: dict[str, Any]
    if field.term == "curvature":
        colours = {"zmin": -reach, "zmax": reach, "zmid": 0.0, "colorscale": CURVATURE, "reversescale": True}
        bar["tickvals"] = [-reach, -reach / 2, 0.0, reach / 2, reach]
        bar["ticktext"] = [f"≤ −{reach:.2g}", f"−{reach / 2:.2g}", "0", f"{reach / 2:.2g}", f"≥ {reach:.2g}"]
        told = f"K = %{{z:.4g}} {field.units}"
    else:
        low, high = np.percentile(finite, (2, 99.5)) if finite.size else (0.0, 1.0)
        if field.term == "condition":
            low, high = max(0.0, min(low, high - 1e-6)), max(high, 1e-6)
            told = "log₁₀ κ(G) = %{z:.3f}"
        else:
            low = max(low, high - SPAN)
            told = f"{field.formula} = %{{z:.3f}}<br>{field.units}"
        colours = {"zmin": low, "zmax": max(high, low + 1e-6), "colorscale": theme.MEASURE}
    traces: list[go.BaseTraceType] = [
        go.Heatmap(
            x=x,
            y=y,
            z=z,
            customdata=level,
            colorbar=bar,
            hovertemplate=f"(%{{x:.3g}}, %{{y:.3g}})<br>{told}{share}<extra></extra>",
            hoverongaps=False,
            name="measure",  # where layouts look for the colour bar, whatever the field
            **colours,
        )
    ]
    sign = "∞" if field.term == "condition" else "−∞"
    singular = np.isposinf(values) if field.term == "condition" else np.isneginf(values)
    if singular.any():
        traces.append(
            go.Heatmap(
                x=x,
                y=y,
                z=np.where(singular, 1.0, np.nan),
                colorscale=[[0, theme.SINGULAR], [1, theme.SINGULAR]],
                showscale=False,
                showlegend=True,
                legend="legend2",
                hoverongaps=False,
                name=f"{sign} (singular)",
                hovertemplate=f"(%{{x:.3g}}, %{{y:.3g}})<br>{field.formula} = {sign}: singular here, some direction of "
                "the latent space changes nothing<extra></extra>",
            )
        )
    return traces


def reach_of(values: NDArray[Any], at_codes: NDArray[Any]) -> float:
    """|K| at the ends of the colours: that of nine tenths of the codes, or of the map where there are none."""
    typical = np.abs(at_codes if len(at_codes) else values)
    typical = typical[np.isfinite(typical)]
    return (float(np.quantile(typical, QUANTILE)) if typical.size else 0.0) or 1.0


def veil(x: NDArray[Any], y: NDArray[Any], level: NDArray[Any]) -> list[go.BaseTraceType]:
    """White over the region where σ is saturated, so that what means nothing there does not catch the eye."""
    inside = level >= overlays.SATURATED
    if not inside.any():
        return []
    colour = [[0.0, theme.PAPER], [1.0, theme.PAPER]]
    common: dict[str, Any] = {"colorscale": colour, "showscale": False, "hoverinfo": "skip", "hoverongaps": False}
    return [go.Heatmap(x=x, y=y, z=np.where(inside, 1.0, np.nan), opacity=0.7, name="saturated", **common)]


def darkened(traces: list[go.BaseTraceType]) -> list[go.BaseTraceType]:
    """Hatching that shows on a light map."""
    for trace in traces:
        if getattr(trace, "line", None) is not None and trace.line.color and "255" in str(trace.line.color):
            trace.line.color = "rgba(90,90,90,0.45)"
    return traces
