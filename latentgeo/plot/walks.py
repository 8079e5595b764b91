"""Random walks over the measure heatmap, one panel per walk, with what the decoder shows along each walker beneath.

The comparison of Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018), figure 6, with more kinds of walk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentgeo.plot import inputs, overlays, theme
from latentgeo.plot._mosaics import Row, add_row, decoded, letter
from latentgeo.plot.fields import describe, in_double
from latentgeo.plot.heatmaps import heatmap
from latentgeo.plot.planes import Plane, labels_of
from latentgeo.walks import Walk

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder
    from latentgeo.metrics import Metric

COLOURS = ("#FFFFFF", "#FF9E4A", "#FF6FB5", "#7FE3FF", "#B8F58A", "#E0B3FF")  # light, on a dark casing
GAP, INDENT = 44, 26  # pixels between panels, and before a strip
MARGIN = {"l": 82, "r": 128, "t": 150, "b": 76}


def walks(
    metric: Metric,
    walks: Walk | Mapping[str, Walk],
    *,
    codes: ArrayLike | Tensor | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    n_walkers: int = 3,
    n_images: int = 8,
    decoder: Decoder | None = None,
    shape: tuple[int, ...] | None = None,
    resolution: int = 110,
    max_codes: int = 1500,
    plane: Plane | None = None,
    title: str | None = None,
) -> go.Figure:
    """Walks over the log measure element of a 2-D latent space, side by side, with decoded filmstrips.

    Parameters
    ----------
    metric : Metric
        Of latent dimension 2, or of any with a `plane`.
    walks : Walk, or mapping from names to Walk
        One panel each; best with the same starts and the same seed.
    codes : array of shape (n, d), optional
        Drawn as points; they also set the bounds.
    bounds : (left, right, bottom, top), optional
        In latent units; around the codes, or the walks, if None.
    n_walkers : int
        Draw the first so many walkers of each walk.
    n_images : int
        Decoded images per walker, at equal times from its start to its end; 0 draws none.
    decoder : Decoder, optional
        Decodes the images; `metric.decoder` if None, and no images are drawn where there is none.
    shape : tuple of int, optional
        Shape of one decoded image; the decoder's own if None.
    resolution : int
        Grid points along the shorter side of a panel.
    max_codes : int
        At most this many codes are drawn, evenly picked.
    plane : Plane, optional
        As in `measure`; walks are projected onto it.
    title : str, optional
        First line of the title.

    Returns
    -------
    plotly.graph_objects.Figure
        The walkers' paths are traces named "A", "B", … in each panel; those that stopped early end in a cross.

    Raises
    ------
    ValueError
        If the metric or a walk has other dimensions than the map, there is no walk, or a count is out of range.

    Examples
    --------
    >>> from latentgeo.metrics import PoincareBall
    >>> from latentgeo.walks import random_walk
    >>> walk = random_walk(PoincareBall(2), torch.zeros(3, 2), n_steps=9, step_size=0.01, random_state=0)
    >>> figure = walks(PoincareBall(2), {"Brownian": walk}, bounds=(-0.5, 0.5, -0.5, 0.5), resolution=5)
    >>> [len(trace.x) for trace in figure.data if trace.name in ("A", "B", "C")]
    [10, 10, 10]
    """
    panels = {walks.law: walks} if isinstance(walks, Walk) else dict(walks)
    dim = inputs.check_plane(metric, plane)
    if not panels:
        raise ValueError("`walks` must hold at least one walk, got none")
    for name, least, value in (("n_walkers", 1, n_walkers), ("n_images", 0, n_images), ("resolution", 2, resolution)):
        if value < least or (name == "n_images" and value == 1):
            raise ValueError(
                f"`{name}` must be {'0 or at least 2' if least == 0 else f'at least {least}'}, got {value}"
            )
    for name, walk in panels.items():
        if walk.z.shape[-1] != dim:
            raise ValueError(f"`walks` must be in {dim} latent dimensions, got {walk.z.shape[-1]} for {name!r}")
    decoder = getattr(metric, "decoder", None) if decoder is None else decoder
    shown = {name: _paths(walk)[:n_walkers] for name, walk in panels.items()}
    if plane is not None:
        shown = {name: plane.project(paths)[0] for name, paths in shown.items()}
    like = inputs.like(metric, [], codes)
    points = inputs.as_codes(codes, like, dim)
    where = None if points is None else inputs.flat(points, plane)[0]
    x, y = inputs.window(bounds or square(where, list(shown.values())), [], resolution)
    grid = inputs.mesh(x, y, like.device, plane)
    field = describe(metric, "both", decoder, dim)
    level = overlays.saturation(decoder, grid)
    base = heatmap(field, x, y, field.values(in_double(metric), grid, plane), level)
    if level is not None:
        base += overlays.hatching(x, y, level)
    if where is not None:
        base.append(dots(where, max_codes))

    figure = go.Figure(layout={"template": theme.template(), "showlegend": False, "margin": MARGIN})
    rows = {name: _film(decoder, panels[name], n_walkers, n_images, shape) for name in panels}
    floor = panels_side_by_side(figure, list(panels), x, y, list(rows.values()), labels_of(plane))
    for number, (name, walk) in enumerate(panels.items(), start=1):
        suffix = "" if number == 1 else str(number)
        on = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        last = number == len(panels)
        for trace in base:
            if trace.type == "scatter" and trace.x is not None and len(trace.x) == 1 and trace.x[0] is None:
                continue  # entries of a legend that is not drawn
            copied = type(trace)(trace).update(on)
            if trace.name == "measure":
                copied.update(showscale=last, colorbar=bar_beside(figure, suffix, floor))
            figure.add_trace(copied)
        for index, path in enumerate(shown[name]):
            figure.add_traces([trace.update(on) for trace in _path(walk, path, index)])
        figure.layout.annotations[number - 1].text = f"<b>{name}</b><br>{_told(walk, shown[name], x, y)}"
    theme.title_at_top(figure, title or ("Random walks from the same codes" if _together(shown) else "Random walks"))
    key = _key(where, level, field.what + ("" if plane is None else f" on {plane.about}, walks projected"))
    figure.add_annotation(
        text=key, x=0.0, y=0.0, xref="paper", yref="paper", xanchor="left", yanchor="top",
        yshift=-14 if any(rows.values()) else -62, showarrow=False, align="left", font={"size": theme.SMALL},
    )  # fmt: skip
    return figure


def _together(shown: dict[str, NDArray[Any]]) -> bool:
    """Whether there are several walks, and all start at the same codes."""
    starts = [paths[:, 0] for paths in shown.values()]
    return len(starts) > 1 and all(np.array_equal(start, starts[0]) for start in starts)


def _paths(walk: Walk) -> NDArray[Any]:
    """Paths (walkers, n, 2)."""
    return walk.z.detach().cpu().double().numpy().reshape(-1, *walk.z.shape[-2:])


def square(
    points: NDArray[Any] | None, paths: list[NDArray[Any]], room: float = 1.3
) -> tuple[float, float, float, float]:
    """A square around the codes, or around the walks where there are none, so many times as large."""
    everything = np.concatenate([p.reshape(-1, 2) for p in paths]) if points is None else points
    everything = everything[np.isfinite(everything).all(1)]
    if not len(everything):
        everything = np.array([[-3.0, -3.0], [3.0, 3.0]])
    low, high = everything.min(0), everything.max(0)
    middle, half = (low + high) / 2, max(room / 2 * float((high - low).max()), 1e-3)
    return middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half


def dots(points: NDArray[Any], most: int) -> go.Scatter:
    """Codes as small white dots."""
    chosen = np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int)
    few = len(chosen) <= 200
    marker = {"size": 5 if few else 2.5, "color": f"rgba(255,255,255,{0.8 if few else 0.55})"}
    style: dict[str, Any] = {"mode": "markers", "marker": marker, "hoverinfo": "skip", "name": "codes"}
    return go.Scatter(x=points[chosen, 0], y=points[chosen, 1], **style)


def _path(walk: Walk, path: NDArray[Any], index: int) -> list[go.BaseTraceType]:
    """One walker: a light line on a dark casing, its start lettered, a cross where it was frozen."""
    name, colour = letter(index), COLOURS[index % len(COLOURS)]
    status = walk.status.reshape(-1)[index]
    steps = int(walk.steps.reshape(-1)[index])
    end = min(len(path) - 1, steps // walk.every)
    hover = f"{name}: {walk.law}<br>%{{text}}<br>z = (%{{x:.3g}}, %{{y:.3g}})<extra></extra>"
    common: dict[str, Any] = {"x": path[: end + 1, 0], "y": path[: end + 1, 1], "mode": "lines"}
    text = [f"step {k * walk.every} of {walk.n_steps}" for k in range(end + 1)]
    stopped = steps < walk.n_steps
    return [
        go.Scatter(**common, line={"color": theme.INK, "width": 3}, hoverinfo="skip", name=f"{name} casing"),
        go.Scatter(**common, line={"color": colour, "width": 1.4}, text=text, hovertemplate=hover, name=name),
        go.Scatter(
            x=[path[0, 0], path[end, 0]],
            y=[path[0, 1], path[end, 1]],
            mode="markers+text",
            text=[name, ""],
            textfont={"size": theme.SMALL - 1, "color": theme.INK},
            marker={
                "symbol": ["circle", "x" if stopped else "diamond"],
                "size": [24, 13],
                "color": colour,
                "line": {"color": theme.INK, "width": 1.5},
            },
            hovertext=[f"{name}: start", f"{name}: {status.value}"],
            hoverinfo="text",
            name=f"{name} ends",
        ),
    ]


def _told(walk: Walk, paths: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> str:
    """How the panel's walkers fared."""
    off = sum(not (x[0] <= p[-1, 0] <= x[-1] and y[0] <= p[-1, 1] <= y[-1]) for p in paths)
    stopped = int((~walk.finished.reshape(-1)[: len(paths)]).sum())
    text = f"{walk.n_steps:,} steps of δ = {walk.step_size:.2g}"
    fared = [f"{off} of {len(paths)} off the map"] * bool(off) + [f"{stopped} stopped"] * bool(stopped)
    return f"{text}<br>{', '.join(fared) or f'all {len(paths)} on the map'}"


def _key(points: NDArray[Any] | None, level: NDArray[Any] | None, what: str) -> str:
    parts = [what, "circle: start, diamond: end, cross: stopped"]
    if points is not None:
        parts.append("dots: codes")
    if level is not None and (level >= overlays.SATURATED).any():
        parts.append(f"hatched: σ ≥ {overlays.SATURATED:.0%} of its bound")
    return parts[0] + "<br>" + "; ".join(parts[1:])


def _film(
    decoder: Decoder | None, walk: Walk, n_walkers: int, n_images: int, shape: tuple[int, ...] | None
) -> list[Row]:
    """What the decoder shows at equal times along each of the first walkers."""
    if decoder is None or n_images == 0:
        return []
    when = torch.linspace(0, walk.z.shape[-2] - 1, n_images).round().long().to(walk.z.device)
    codes = walk.z.detach().reshape(-1, *walk.z.shape[-2:])[:n_walkers, when]
    films = (decoded(decoder, z, shape, columns=True) for z in codes)
    return [Row(film, f"{letter(k)}: decoded", f"<b>{letter(k)}</b>") for k, film in enumerate(films)]


def bar_beside(figure: go.Figure, suffix: str, floor: float) -> dict[str, float]:
    """Where the colour bar of a panel stands: beside it, as tall as it is."""
    return {"x": figure.layout[f"xaxis{suffix}"].domain[1] + 0.015, "y": (1 + floor) / 2, "len": 1 - floor}


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
