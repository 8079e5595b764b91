"""Clusters over the measure heatmap, and what the decoder shows at their centres.

The clusterings of Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018, section 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentgeo._calculus import as_numbers
from latentgeo.plot import inputs, theme
from latentgeo.plot._mosaics import Row, blank, decoded, gap_of
from latentgeo.plot.layout import PANEL, lay_out
from latentgeo.plot.measure import measure
from latentgeo.plot.planes import Plane, labels_of

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder
    from latentgeo.metrics import Metric

__all__ = ["MOST_TILES", "clusters"]

MOST_TILES = 20  # decoded centres in one row
ROOM = 1.15  # size of the map over that of the codes
_LEAST_TILES = 8  # a row is as wide as so many, however few there are


def clusters(
    metric: Metric,
    codes: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    centres: ArrayLike | Tensor,
    *,
    averages: bool = True,
    decoder: Decoder | None = None,
    shape: tuple[int, ...] | None = None,
    resolution: int = 160,
    max_codes: int = 5000,
    plane: Plane | None = None,
    title: str | None = None,
) -> go.Figure:
    """Clusters of codes over the log measure element of a 2-D latent space, with their decoded centres.

    Parameters
    ----------
    metric : Metric
        Of latent dimension 2, or of any with a `plane`.
    codes : array of shape (n, d)
    labels : array of int, shape (n,)
        The cluster of each code; −1 for codes of none.
    centres : array of shape (k, d)
        The clusters' centres, such as Fréchet means.
    averages : bool
        Show the average of each cluster's codes too: its mean in latent coordinates, beside the one of the geometry.
    decoder : Decoder, optional
        Decodes the centres; `metric.decoder` if None, and no images are drawn where there is none.
    shape : tuple of int, optional
        Shape of one decoded image; the decoder's own if None.
    resolution : int
        Grid points along the shorter side.
    max_codes : int
        At most this many codes are drawn, evenly picked; the legend says so.
    plane : Plane, optional
        As in `measure`; codes and centres are projected onto it.
    title : str, optional

    Returns
    -------
    plotly.graph_objects.Figure
        Of `measure`, with a trace "centres" and, if asked for, one "averages".

    Raises
    ------
    ValueError
        If an array has another shape, or a label names no centre.

    Examples
    --------
    >>> from latentgeo.metrics import PoincareBall
    >>> codes = np.array([[-0.5, 0.0], [-0.4, 0.0], [0.5, 0.1], [0.4, 0.0]])
    >>> figure = clusters(PoincareBall(2), codes, [0, 0, 1, 1], [[-0.45, 0.0], [0.45, 0.05]], resolution=5)
    >>> [trace.name for trace in figure.data if trace.name in ("centres", "averages")]
    ['averages', 'centres']
    """
    z, label, middle = _checked(codes, labels, centres, inputs.check_plane(metric, plane))
    decoder = getattr(metric, "decoder", None) if decoder is None else decoder

    def flat(points: NDArray[Any]) -> NDArray[Any]:
        return points if plane is None else plane.project(points)[0]

    figure = measure(
        metric,
        codes=codes,
        labels=label,
        bounds=_bounds(flat(np.concatenate([z, middle]))),
        decoder=decoder,
        resolution=resolution,
        max_codes=max_codes,
        plane=plane,
        title=title or f"{len(middle)} clusters of {len(z):,} codes",
    )
    for trace in figure.data:
        if trace.name is not None and trace.name.startswith("label"):
            trace.name = trace.name.replace("label", "cluster", 1)
    own = [z[label == k] for k in range(len(middle))]
    average = np.stack([part.mean(0) if len(part) else np.full(z.shape[1], np.nan) for part in own])
    if averages:
        figure.add_traces(_averages(flat(average), flat(middle)))
    figure.add_traces(_centres(flat(middle), [len(part) for part in own]))
    rows: list[Row] = []
    if decoder is not None:
        tiles = [("centres", middle)] + ([("averages", average)] if averages else [])
        rows = [_row(decoder, points[:MOST_TILES], shape, name) for name, points in tiles]
    lay_out(
        figure,
        rows,
        np.asarray(figure.data[0].x),
        np.asarray(figure.data[0].y),
        labels_of(plane),
    )
    if rows:
        _number(figure, min(len(middle), MOST_TILES), rows[0])
    return figure


def _bounds(points: NDArray[Any]) -> tuple[float, float, float, float]:
    """A window around the points, of the panel's shape; closer than that of `measure`: what parts them is the point."""
    low, high = points.min(0), points.max(0)
    panel = np.array(PANEL) / PANEL[1]
    half = panel * float(max(np.maximum((high - low) * ROOM, 1e-3) / panel)) / 2
    (left, bottom), (right, top) = (low + high) / 2 - half, (low + high) / 2 + half
    return float(left), float(right), float(bottom), float(top)


def _checked(codes: Any, labels: Any, centres: Any, dim: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    label = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    z, middle = (as_numbers(x, name).detach().cpu().numpy() for x, name in ((codes, "codes"), (centres, "centres")))
    if z.ndim != 2 or z.shape[1] != dim or not len(z) or not np.isfinite(z).all():
        raise ValueError(f"`codes` must be finite and have shape (n, {dim}) with n >= 1, got {z.shape}")
    if middle.ndim != 2 or middle.shape[1] != dim or not len(middle) or not np.isfinite(middle).all():
        raise ValueError(f"`centres` must be finite and have shape (k, {dim}), got {middle.shape}")
    if label.shape != (len(z),) or label.dtype.kind not in "iu":
        raise ValueError(f"`labels` must be one whole number per code, shape ({len(z)},), got {label.shape}")
    if label.size and not (label.min() >= -1 and label.max() < len(middle)):
        raise ValueError(
            f"`labels` must name one of the {len(middle)} centres, or be -1; got {label.min()} to {label.max()}"
        )
    return z, label, middle


def _centres(middle: NDArray[Any], sizes: list[int]) -> list[go.BaseTraceType]:
    """Numbered discs at the centres."""
    disc = {"size": 25, "color": theme.PAPER, "line": {"color": theme.INK, "width": 1.5}}
    return [
        go.Scatter(
            x=middle[:, 0],
            y=middle[:, 1],
            mode="markers+text",
            text=[str(k) for k in range(len(middle))],
            textfont={"size": theme.SMALL - 1, "color": theme.INK},
            marker=disc,
            customdata=sizes,
            hovertemplate="centre of cluster %{text}<br>z = (%{x:.4g}, %{y:.4g}) latent units<br>"
            "%{customdata:,} codes<extra></extra>",
            showlegend=False,
            legendgroup="centres",
            name="centres",
        ),
        _key("centre of a cluster", {**disc, "size": 14}, "centres"),
    ]


def _averages(average: NDArray[Any], middle: NDArray[Any]) -> list[go.BaseTraceType]:
    """Crosses at the averages, each joined to its centre."""
    cross = {"size": 11, "symbol": "x", "color": theme.PAPER, "line": {"color": theme.INK, "width": 1.2}}
    ends = np.stack([middle, average, np.full_like(middle, np.nan)], 1).reshape(-1, 2)
    return [
        go.Scatter(
            x=ends[:, 0],
            y=ends[:, 1],
            mode="lines",
            line={"color": theme.INK, "width": 1.5},
            hoverinfo="skip",
            showlegend=False,
            legendgroup="averages",
            name="from centre to average",
        ),
        go.Scatter(
            x=average[:, 0],
            y=average[:, 1],
            mode="markers",
            text=[str(k) for k in range(len(average))],
            marker=cross,
            hovertemplate="average of cluster %{text}<br>z = (%{x:.4g}, %{y:.4g}) latent units<extra></extra>",
            showlegend=False,
            legendgroup="averages",
            name="averages",
        ),
        _key("average of its codes", cross, "averages"),
    ]


def _key(name: str, marker: dict[str, Any], group: str) -> go.Scatter:
    """An entry of the legend of marks."""
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=name, legendgroup=group, legend="legend2")


def _row(decoder: Decoder, points: NDArray[Any], shape: tuple[int, ...] | None, name: str) -> Row:
    """Decoded points side by side, with empty places after the last where there are few."""
    z = torch.as_tensor(np.nan_to_num(points), dtype=decoder.dtype or torch.float64, device=decoder.device)
    images = decoded(decoder, z, shape, columns=True)
    images[~np.isfinite(points).all(1)] = blank(images)
    missing = _LEAST_TILES - len(images)
    if missing > 0:
        empty = np.full((missing, *images.shape[1:]), blank(images), images.dtype)
        images = np.concatenate([images, empty])
    return Row(images, f"decoded {name}", name)


def _number(figure: go.Figure, count: int, row: Row) -> None:
    """Numbers in the corners of the first row's images."""
    width = row.images.shape[2]
    step = width + gap_of(width)
    for k in range(count):
        figure.add_annotation(
            x=k * step - 0.5,
            y=-0.5,
            xref="x2",
            yref="y2",
            xanchor="left",
            yanchor="top",
            text=str(k),
            showarrow=False,
            bgcolor=theme.PAPER,
            borderpad=1,
            font={"size": theme.SMALL, "color": theme.INK},
        )
