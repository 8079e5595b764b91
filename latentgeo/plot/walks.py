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

from latentgeo._calculus import check_integer
from latentgeo.plot import inputs, overlays, theme
from latentgeo.plot._mosaics import Row, decoded
from latentgeo.plot._panels import MARGIN, ground, panels_side_by_side
from latentgeo.plot.planes import Plane, labels_of
from latentgeo.walks import Walk

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder
    from latentgeo.metrics import Metric

COLOURS = ("#FFFFFF", "#FF9E4A", "#FF6FB5", "#7FE3FF", "#B8F58A", "#E0B3FF")  # light, on a dark casing


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
    panels = {walks.law: walks} if isinstance(walks, Walk) else walks
    if not isinstance(panels, Mapping) or not all(isinstance(walk, Walk) for walk in panels.values()):
        raise TypeError(f"`walks` must be a Walk, as `random_walk` returns it, or several by name, got {walks!r}")
    dim = inputs.check_plane(metric, plane)
    if not panels:
        raise ValueError("`walks` must hold at least one walk, got none")
    check_integer(n_walkers, "n_walkers")
    check_integer(resolution, "resolution", 2)
    check_integer(n_images, "n_images", 0)
    if n_images == 1:
        raise ValueError("`n_images` must be 0 or at least 2, got 1")
    for name, walk in panels.items():
        if walk.z.shape[-1] != dim:
            raise ValueError(f"`walks` must be in {dim} latent dimensions, got {walk.z.shape[-1]} for {name!r}")
    decoder = getattr(metric, "decoder", None) if decoder is None else decoder
    shown = {name: _paths(walk)[:n_walkers] for name, walk in panels.items()}
    if plane is not None:
        shown = {name: plane.project(paths)[0] for name, paths in shown.items()}
    base = ground(
        metric,
        decoder,
        dim,
        codes,
        list(shown.values()),
        plane=plane,
        bounds=bounds,
        resolution=resolution,
        max_codes=max_codes,
    )
    figure = go.Figure(layout={"template": theme.template(), "showlegend": False, "margin": MARGIN})
    rows = {name: _film(decoder, panels[name], n_walkers, n_images, shape) for name in panels}
    floor = panels_side_by_side(figure, list(panels), base.x, base.y, list(rows.values()), labels_of(plane))
    for number, (name, walk) in enumerate(panels.items(), start=1):
        on = base.lay(figure, number, len(panels), floor)
        for index, path in enumerate(shown[name]):
            figure.add_traces([trace.update(on) for trace in _path(walk, path, index)])
        figure.layout.annotations[number - 1].text = f"<b>{name}</b><br>{_told(walk, shown[name], base.x, base.y)}"
    theme.title_at_top(figure, title or ("Random walks from the same codes" if _together(shown) else "Random walks"))
    key = _key(
        base.codes, base.level, base.field.what + ("" if plane is None else f" on {plane.about}, walks projected")
    )
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


def _path(walk: Walk, path: NDArray[Any], index: int) -> list[go.BaseTraceType]:
    """One walker: a light line on a dark casing, its start lettered, a cross where it was frozen."""
    name, colour = theme.letter(index), COLOURS[index % len(COLOURS)]
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
    return [Row(film, f"{theme.letter(k)}: decoded", f"<b>{theme.letter(k)}</b>") for k, film in enumerate(films)]
