"""What is drawn over a map of latent space: codes, curves, and where σ can grow no further.

The precision network's floor ζ bounds σ by ζ^(−1/2) (Arvanitidis, Hansen, Hauberg 2018, section 4): beyond the
hatched edge the decoder says only that it knows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentgeo.geodesics import curve_length
from latentgeo.plot import theme

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder
    from latentgeo.geodesics import Geodesic
    from latentgeo.metrics import Metric
    from latentgeo.plot.planes import Plane

SATURATED = 0.95
MOST_LABELS = 200
POINTS = 200  # points drawn per curve


@dataclass(frozen=True, eq=False)
class Curve:
    """One geodesic as it is drawn, with the straight line between its ends."""

    z: NDArray[Any]
    line: NDArray[Any]
    length: float
    error: float
    straight: float
    converged: bool
    status: str
    away: float = 0.0  # most latent units off the plane that is drawn


def curves(metric: Metric, path: Geodesic, plane: Plane | None = None) -> list[Curve]:
    """Sample every curve of a result, as it is seen on the plane if there is one."""
    t = torch.linspace(0, 1, POINTS, dtype=path.z.dtype, device=path.z.device)
    with torch.no_grad():
        z = path(t).reshape(-1, POINTS, path.z.shape[-1])
        lines = torch.lerp(z[:, :1], z[:, -1:], t[:, None])
        straight = curve_length(metric, lines)
    dim = 2 if plane is None else plane.dim
    if z.shape[-1] != dim:
        raise ValueError(f"`paths` must hold curves in {dim} latent dimensions, got {z.shape[-1]}")
    drawn, ends, away = z.cpu().double().numpy(), lines.cpu().double().numpy(), np.zeros(len(z))
    if plane is not None:
        drawn, off = plane.project(drawn)
        ends, _ = plane.project(ends)
        away = off.max(-1)
    flat = (x.reshape(-1).tolist() for x in (path.length, path.length_error, straight, path.converged))
    status = [s.value for s in np.asarray(path.status, dtype=object).reshape(-1)]
    return [Curve(*numbers) for numbers in zip(drawn, ends, *flat, status, away.tolist(), strict=True)]


def curve_traces(curves: list[Curve], units: str) -> list[go.BaseTraceType]:
    """Straight lines dashed, geodesics solid, curves that failed dotted in another colour, ends lettered."""
    traces: list[go.BaseTraceType] = []
    shown: set[str] = set()
    for index, curve in enumerate(curves):
        gain = 100 * (1 - curve.length / curve.straight) if curve.straight > 0 else 0.0
        line_hover = f"{theme.letter(index)}: straight line<br>length {curve.straight:.4g} {units}"
        traces += _line(curve.line, "straight line", line_hover, theme.PAPER, shown, width=2, dash="6px,5px")
        hover = (
            f"{theme.letter(index)}: geodesic<br>length {curve.length:.4g} ± {curve.error:.2g} {units}"
            f"<br>{gain:.1f} % shorter than the straight line<br>{curve.status}"
        )
        if curve.away > 0:
            hover += f"<br>projected: up to {curve.away:.3g} latent units off this plane"
        if curve.converged:
            traces += _line(curve.z, "geodesic", hover, theme.PAPER, shown, width=3.5)
        else:
            traces += _line(curve.z, "not converged", hover, theme.FAILED, shown, width=3.5, dash="dot")
    for name in ("geodesic", "straight line", "not converged"):
        if name in shown:
            # White lines would vanish on the legend's white: these stand in for them.
            colour = theme.FAILED if name == "not converged" else theme.INK
            dash = {"straight line": "6px,5px", "not converged": "dot"}.get(name, "solid")
            traces.append(_key(name, name, mode="lines", line={"color": colour, "width": 3, "dash": dash}))
    if curves:
        ends = np.array([end for curve in curves for end in (curve.z[0], curve.z[-1])])
        traces.append(
            go.Scatter(
                x=ends[:, 0],
                y=ends[:, 1],
                mode="markers+text",
                text=[theme.letter(i // 2) for i in range(len(ends))],
                textfont={"size": theme.SMALL - 1, "color": theme.INK},
                marker={"size": 25, "color": theme.PAPER, "line": {"color": theme.INK, "width": 1.5}},
                hoverinfo="skip",
                showlegend=False,
                name="ends",
            )
        )
    return traces


def _line(
    z: NDArray[Any], name: str, hover: str, colour: str, shown: set[str], *, width: float, dash: str = "solid"
) -> list[go.BaseTraceType]:
    """A line with a dark casing, so that it reads on any background."""
    shown.add(name)
    common: dict[str, Any] = {"x": z[:, 0], "y": z[:, 1], "mode": "lines", "legendgroup": name, "showlegend": False}
    casing = {"color": "rgba(26,26,26,0.75)" if name == "straight line" else theme.INK, "width": width + 2.5}
    line = {"color": colour, "width": width, "dash": dash}
    return [
        go.Scatter(**common, line=casing, hoverinfo="skip", name=f"{name} casing"),
        go.Scatter(**common, line=line, hovertemplate=hover + "<extra></extra>", name=name),
    ]


def _key(name: str, group: str, **style: Any) -> go.Scatter:
    """An entry of the legend of marks that draws nothing; a click on it hides its group."""
    return go.Scatter(x=[None], y=[None], name=name, legendgroup=group, legend="legend2", **style)


def code_traces(
    points: NDArray[Any],
    labels: NDArray[Any] | None,
    heights: NDArray[Any],
    formula: str,
    most: int,
    away: NDArray[Any] | None = None,
) -> list[go.BaseTraceType]:
    """One trace of points per label."""
    groups: list[Any] = [None] if labels is None else sorted(set(labels.tolist()))
    if len(groups) > MOST_LABELS:
        raise ValueError(
            f"`labels` must name at most {MOST_LABELS} groups, got {len(groups)}; bin continuous values first"
        )
    chosen = np.arange(len(points))
    if len(points) > most:
        chosen = np.linspace(0, len(points) - 1, most).round().astype(int)
    note = "" if len(chosen) == len(points) else f" ({len(chosen):,} of {len(points):,})"
    told = [np.arange(len(points)), heights] + ([] if away is None else [away])
    traces: list[go.BaseTraceType] = []
    for position, label in enumerate(groups):
        member = chosen if labels is None else chosen[labels[chosen] == label]
        if not len(member):
            continue
        colour, symbol = (theme.PAPER, "circle") if labels is None else theme.label_style(position)
        name = f"codes{note}" if label is None else str(label) if traces else f"label{note}: {label}"
        # SVG points: plotly lays WebGL points under a heatmap, where nobody sees them.
        traces.append(
            go.Scatter(
                x=points[member, 0],
                y=points[member, 1],
                mode="markers",
                marker={
                    "size": 5 if symbol == "circle" else 6,
                    "color": colour,
                    "symbol": symbol,
                    "opacity": 0.85,
                    "line": {"color": theme.INK, "width": 0.4},
                },
                customdata=np.column_stack([part[member] for part in told]),
                hovertemplate="code %{customdata[0]:d}"
                + ("" if label is None else f", label {label}")
                + ("<br>z = " if away is None else "<br>at ")
                + "(%{x:.3g}, %{y:.3g}) latent units<br>"
                + formula
                + " = %{customdata[1]:.3f}"
                + ("" if away is None else "<br>projected: %{customdata[2]:.3g} latent units off this plane")
                + "<extra></extra>",
                name=name,
            )
        )
    return traces


def saturation(decoder: Decoder | None, z: Tensor) -> NDArray[Any] | None:
    """σ as a share of its bound ζ^(−1/2), averaged over the data's coordinates; None if σ has no such bound."""
    precision = None if decoder is None else decoder.precision
    if decoder is None or precision is None:
        return None
    bound = float(precision.floor) ** -0.5
    shares = []
    with torch.no_grad():
        for chunk in z.to(decoder.dtype or z.dtype).reshape(-1, z.shape[-1]).split(4096):
            std = decoder.std(chunk)
            if std is None:
                return None
            shares.append(std.mean(-1) / bound)
    return torch.cat(shares).reshape(z.shape[:-1]).cpu().double().numpy()


def hatching(x: NDArray[Any], y: NDArray[Any], level: NDArray[Any]) -> list[go.BaseTraceType]:
    """Diagonal lines over the region where σ is saturated, and its edge."""
    from scipy.interpolate import RegularGridInterpolator

    inside = level >= SATURATED
    if not inside.any():
        return []
    width, height = x[-1] - x[0], y[-1] - y[0]
    share = RegularGridInterpolator((y, x), level)
    spacing = max(width, height) / 48
    xs: list[NDArray[Any]] = []
    ys: list[NDArray[Any]] = []
    for offset in np.arange(x[0] - height, x[-1], spacing):
        # the line that rises at 45° from (offset, bottom)
        t = np.linspace(max(0.0, x[0] - offset), min(height, x[-1] - offset), 400)
        points = np.stack([y[0] + t, offset + t], axis=-1)
        points = np.clip(points, [y[0], x[0]], [y[-1], x[-1]])
        kept = share(points) >= SATURATED
        xs += [np.where(kept, points[:, 1], np.nan), np.array([np.nan])]
        ys += [np.where(kept, points[:, 0], np.nan), np.array([np.nan])]
    line_x, line_y = _squeeze(np.concatenate(xs), np.concatenate(ys))
    traces: list[go.BaseTraceType] = [
        go.Scatter(
            x=line_x,
            y=line_y,
            mode="lines",
            line={"color": "rgba(255,255,255,0.35)", "width": 1},
            connectgaps=False,
            hoverinfo="skip",
            showlegend=False,
            legendgroup="saturated",
            name="σ saturated",
        )
    ]
    if not inside.all():
        traces.append(
            go.Contour(
                x=x,
                y=y,
                z=level,
                contours={"start": SATURATED, "end": SATURATED, "size": 1, "coloring": "none"},
                line={"color": "rgba(255,255,255,0.9)", "width": 1.5, "dash": "dot"},
                showscale=False,
                hoverinfo="skip",
                showlegend=False,
                legendgroup="saturated",
                name="edge of saturation",
            )
        )
    key = {"symbol": "square-open", "size": 13, "color": theme.INK, "line": {"width": 1.5}}
    traces.append(_key(f"hatched: σ ≥ {SATURATED:.0%} of its bound", "saturated", mode="markers", marker=key))
    return traces


def _squeeze(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Keep the ends of each straight run of points: a run's middle adds nothing to a straight line."""
    there = np.isfinite(x)
    before = np.concatenate([[False], there[:-1]])
    after = np.concatenate([there[1:], [False]])
    keep = (there & ~(before & after)) | (~there & before)
    return x[keep], y[keep]
