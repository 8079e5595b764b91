"""The surface that a decoder makes of a 2-D latent space, seen in its three principal components, with geodesics on it.

Where figure 1 of Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018) is a sketch, this is the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentgeo._calculus import check_integer
from latentgeo.geodesics import Geodesic
from latentgeo.metrics import Metric
from latentgeo.plot import inputs, overlays, theme
from latentgeo.plot.fields import describe, in_double, length_units
from latentgeo.plot.planes import Plane

__all__ = ["surface"]

ROOM = 1.2  # size of the window over that of the codes
HEIGHT = 900
FARTHEST = 1.15  # of the surface that is drawn: times as far from the middle as the farthest code
_LIFT = 0.004  # of the surface's size: how far curves stand off it, on both sides, so that it does not hide them


def surface(
    metric: Metric,
    *,
    codes: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    paths: Geodesic | Sequence[Geodesic] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    resolution: int = 100,
    plane: Plane | None = None,
    max_codes: int = 1000,
    title: str | None = None,
) -> go.Figure:
    """The embedded latent space φ(z) in three dimensions: its first three principal components.

    Lengths on the true surface are those of the metric; in three of its dimensions they are shorter. The title says
    how much of the variance is seen. With codes, only as much of the surface is drawn as is about as far from their
    middle as they are: where σ grows, it leaves everything else behind.

    Parameters
    ----------
    metric : Metric
        With an embedding, and of latent dimension 2, or of any with a `plane`.
    codes : array of shape (n, d), optional
        Drawn as points where the decoder puts them; they also set the bounds, and the principal components are theirs.
    labels : array of shape (n,), optional
        Colour of each code.
    paths : Geodesic or sequence of Geodesic, optional
        Drawn on the surface, with the images of the straight lines between their ends.
    bounds : (left, right, bottom, top), optional
        In latent units; just around codes and curves if None.
    resolution : int
        Grid points along the shorter side.
    plane : Plane, optional
        The piece of a latent space of more dimensions that is shown; curves and codes are drawn where they truly are,
        on or off that piece.
    max_codes : int
        At most this many codes are drawn, evenly picked.
    title : str, optional

    Returns
    -------
    plotly.graph_objects.Figure
        Trace "surface" holds x, y, z of shape (rows, columns), in units of φ, and ½ log det G as its colour; its
        `customdata` is z's place on the map. Curves "geodesic" and "straight line", and codes, stand a little off
        it, on both of its sides.

    Raises
    ------
    ValueError
        If the metric has no embedding, or as `measure` does.

    Examples
    --------
    >>> from latentgeo.metrics import PullbackMetric
    >>> bowl = PullbackMetric(lambda z: torch.cat([z, (z**2).sum(-1, keepdim=True)], -1), dim=2)
    >>> figure = surface(bowl, bounds=(-1, 1, -1, 1), resolution=5)
    >>> figure.data[0].z.shape
    (5, 5)
    """
    dim = inputs.check_plane(metric, plane)
    check_integer(resolution, "resolution", 2)
    if metric.embedding is None or metric.ambient is not None:
        raise ValueError(f"`metric` must be that of a map into a flat space, to be drawn as a surface, got {metric!r}")
    results = inputs.as_list(paths)
    like = inputs.like(metric, results, codes)
    points = inputs.as_codes(codes, like, dim)
    names = inputs.as_labels(labels, points)
    curves = [_sampled(result, dim) for result in results]
    shown = [inputs.flat(part.reshape(-1, dim), plane)[0] for pair in curves for part in pair]
    if points is not None:
        shown.append(inputs.flat(points, plane)[0])
    x, y = inputs.window(bounds or _bounds(shown), [], resolution)
    grid = inputs.mesh(x, y, like.device, plane)
    image = _embedded(metric, grid, like)
    dots = None if points is None else _embedded(metric, points, like)
    frame = _Frame(image.reshape(-1, image.shape[-1]) if dots is None else dots)
    seen = frame(image)
    if dots is not None:
        drawn = [_embedded(metric, geodesics, like).reshape(-1, dots.shape[-1]) for geodesics, _ in curves]
        far = FARTHEST * max(float(frame.away(part).max()) for part in (dots, *drawn))
        seen = np.where(frame.away(image)[..., None] <= far, seen, np.nan)
    field = describe(metric, "both", getattr(metric, "decoder", None), dim)
    heights = field.values(in_double(metric), grid, plane)

    figure = go.Figure(layout={"template": theme.template()})
    figure.add_trace(_skin(seen, heights, np.stack(np.meshgrid(x, y), -1), field.bar, field.formula))
    size = float((np.nanmax(seen, axis=(0, 1)) - np.nanmin(seen, axis=(0, 1))).max())
    if dots is not None and points is not None:
        off = _LIFT * size * _normals(metric, points, plane, frame, like)
        figure.add_traces(_points(frame(dots), off, names, max_codes))
    index, notes = 0, list[dict[str, Any]]()
    for result, (geodesics, lines) in zip(results, curves, strict=True):
        done = result.converged.reshape(-1).tolist()
        lengths = result.length.reshape(-1).tolist()
        for k in range(len(geodesics)):
            for name, z in (("straight line", lines[k]), ("geodesic" if done[k] else "not converged", geodesics[k])):
                where = frame(_embedded(metric, z, like))
                lift = _LIFT * size * _normals(metric, z, plane, frame, like)
                told = f"{theme.letter(index)}: {name}"
                told += f", length {lengths[k]:.4g} {length_units(metric)}" if name == "geodesic" else ""
                figure.add_traces(_curve(where, lift, name, told, not any(t.name == name for t in figure.data)))
            ends = frame(_embedded(metric, geodesics[k][[0, -1]], like))
            notes += [_note(end, theme.letter(index)) for end in ends]
            index += 1
    share, whose = (frame.share(image), "surface's") if dots is None else (frame.share(dots), "codes'")
    first = title or "The surface that the decoder makes of the latent space"
    second = f"first three principal components of φ, {share:.0%} of the {whose} variance"
    figure.update_layout(
        title={"text": theme.heading(first, second)},
        height=HEIGHT,
        margin={"l": 20, "r": 130, "t": 96, "b": 20},
        scene={
            **{f"{axis}axis": {"title": {"text": f"component {k + 1}<br>({length_units(metric)})"}}
               for k, axis in enumerate("xyz")},
            "aspectmode": "data",
            "annotations": notes,
            "domain": {"x": [0.0, 1.0], "y": [0.06, 1.0]},
            "camera": {"eye": {"x": 1.36, "y": -1.36, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.16}},
        },
        legend={"x": 0.0, "y": 0.0, "xanchor": "left", "yanchor": "bottom", "orientation": "h"},
    )  # fmt: skip
    return figure


class _Frame:
    """The first three principal components of some points of the embedding space."""

    def __init__(self, points: NDArray[Any]) -> None:
        if len(points) > 4000:
            points = points[np.linspace(0, len(points) - 1, 4000).round().astype(int)]
        self.middle = points.mean(0)
        _, _, axes = np.linalg.svd(points - self.middle, full_matrices=False)
        axes = axes[:3]
        axes = axes * np.where(axes[np.arange(len(axes)), np.abs(axes).argmax(1)] < 0, -1.0, 1.0)[:, None]
        self.axes = np.concatenate([axes, np.zeros((3 - len(axes), axes.shape[1]))])

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Components (*batch, 3) of points (*batch, D)."""
        return np.asarray((image - self.middle) @ self.axes.T)

    def away(self, image: NDArray[Any]) -> NDArray[Any]:
        """Distances (*batch,) of points (*batch, D) from the middle."""
        return np.asarray(np.linalg.norm(image - self.middle, axis=-1))

    def share(self, image: NDArray[Any]) -> float:
        """How much of the variance of points the components hold."""
        flat = image.reshape(-1, image.shape[-1])
        whole = float(((flat - flat.mean(0)) ** 2).sum())
        seen = self(flat)
        return float(((seen - seen.mean(0)) ** 2).sum()) / whole if whole > 0 else 1.0


def _embedded(metric: Metric, z: Tensor, like: Tensor) -> NDArray[Any]:
    embedding = metric.embedding
    if embedding is None:
        raise ValueError("`metric` must have an embedding")
    with torch.no_grad():
        flat = embedding(z.to(like).reshape(-1, z.shape[-1]))
    return np.asarray(flat.reshape(*z.shape[:-1], -1).cpu().double().numpy())


def _normals(metric: Metric, z: Tensor, plane: Plane | None, frame: _Frame, like: Tensor) -> NDArray[Any]:
    """Unit normals, in three dimensions, of the surface at codes (m, d)."""
    z = z.to(like)
    directions = plane.directions(z) if plane is not None else tuple(torch.eye(2).to(z)[k].expand_as(z) for k in (0, 1))
    embedding = metric.embedding
    if embedding is None:
        return np.zeros((len(z), 3))
    with torch.no_grad():
        u, v = (embedding.jvp(z, way).cpu().double().numpy() @ frame.axes.T for way in directions)
    normal = np.cross(u, v)
    size = np.linalg.norm(normal, axis=-1, keepdims=True)
    return np.asarray(normal / np.where(size > 0, size, 1.0))


def _sampled(result: Geodesic, dim: int) -> tuple[Tensor, Tensor]:
    """Geodesics and straight lines (curves, m, d)."""
    t = torch.linspace(0, 1, overlays.POINTS, dtype=result.z.dtype, device=result.z.device)
    with torch.no_grad():
        z = result(t).reshape(-1, overlays.POINTS, result.z.shape[-1])
    if z.shape[-1] != dim:
        raise ValueError(f"`paths` must hold curves in {dim} latent dimensions, got {z.shape[-1]}")
    return z, torch.lerp(z[:, :1], z[:, -1:], t[:, None])


def _bounds(shown: list[NDArray[Any]]) -> tuple[float, float, float, float] | None:
    points = np.concatenate([np.zeros((0, 2)), *shown])
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return None
    low, high = points.min(0), points.max(0)
    middle, half = (low + high) / 2, ROOM * np.maximum(high - low, 1e-3) / 2
    return (
        float(middle[0] - half[0]),
        float(middle[0] + half[0]),
        float(middle[1] - half[1]),
        float(middle[1] + half[1]),
    )


def _skin(seen: NDArray[Any], heights: NDArray[Any], where: NDArray[Any], bar: str, formula: str) -> go.Surface:
    heights = np.where(np.isfinite(seen).all(-1), heights, np.nan)
    finite = heights[np.isfinite(heights)]
    low, high = np.percentile(finite, (2, 99.5)) if finite.size else (0.0, 1.0)
    return go.Surface(
        x=seen[..., 0],
        y=seen[..., 1],
        z=seen[..., 2],
        surfacecolor=heights,
        customdata=where,
        cmin=low,
        cmax=max(high, low + 1e-6),
        colorscale=theme.MEASURE,
        colorbar={
            "title": {"text": bar, "side": "right", "font": {"size": theme.SMALL}},
            "tickfont": {"size": theme.SMALL},
            "ticksuffix": theme.SPACE,
            "thickness": 18,
            "len": 0.8,
        },
        lighting={"ambient": 0.75, "diffuse": 0.5, "specular": 0.05},
        hovertemplate="z = (%{customdata[0]:.3g}, %{customdata[1]:.3g})<br>" + formula
        + " = %{surfacecolor:.3f}<extra></extra>",
        name="surface",
    )  # fmt: skip


def _points(seen: NDArray[Any], off: NDArray[Any], labels: NDArray[Any] | None, most: int) -> list[go.Scatter3d]:
    chosen = np.linspace(0, len(seen) - 1, min(most, len(seen))).round().astype(int)
    groups: list[Any] = [None] if labels is None else sorted(set(labels.tolist()))
    if len(groups) > overlays.MOST_LABELS:
        raise ValueError(f"`labels` must name at most {overlays.MOST_LABELS} groups, got {len(groups)}")
    traces: list[go.Scatter3d] = []
    for position, label in enumerate(groups):
        member = chosen if labels is None else chosen[labels[chosen] == label]
        both = np.concatenate([seen[member] + off[member], seen[member] - off[member]])
        colour = theme.PAPER if label is None else theme.label_style(position)[0]
        name = "codes" if label is None else str(label) if traces else f"label: {label}"
        traces.append(
            go.Scatter3d(
                x=both[:, 0],
                y=both[:, 1],
                z=both[:, 2],
                mode="markers",
                name=name,
                text=np.concatenate([member, member]),
                marker={"size": 2.5, "color": colour, "line": {"color": theme.SINGULAR, "width": 0.5}},
                hovertemplate="code %{text}" + ("" if label is None else f", label {label}") + "<extra></extra>",
            )
        )
    return traces


def _curve(where: NDArray[Any], lift: NDArray[Any], name: str, told: str, legend: bool) -> list[go.Scatter3d]:
    """The same curve just above the surface and just beneath it."""
    dash = {"geodesic": "solid", "straight line": "dash"}.get(name, "dot")
    line = {"color": "#CC79A7" if name == "straight line" else "#D55E00", "width": 7, "dash": dash}
    return [
        go.Scatter3d(
            x=side[:, 0],
            y=side[:, 1],
            z=side[:, 2],
            mode="lines",
            line=line,
            name=name,
            legendgroup=name,
            showlegend=legend and k == 0,
            hovertemplate=f"{told}<extra></extra>",
        )
        for k, side in enumerate((where + lift, where - lift))
    ]


def _note(where: NDArray[Any], name: str) -> dict[str, Any]:
    """A curve's letter beside its end, before everything else."""
    return {
        **dict(zip("xyz", where.tolist(), strict=True)),
        "text": f"<b>{name}</b>",
        "font": {"size": theme.SMALL, "color": theme.INK},
        "bgcolor": theme.PAPER,
        "bordercolor": theme.INK,
        "borderpad": 2,
        "arrowcolor": theme.INK,
        "arrowwidth": 1.5,
        "arrowhead": 6,
        "arrowsize": 0.8,
        "ax": 26,
        "ay": -26,
    }
