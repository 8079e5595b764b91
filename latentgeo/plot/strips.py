"""Decoded strips: what the decoder shows along a geodesic and along the straight line between the same two codes.

The comparison of Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018), figure 5.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray

from latentgeo.plot import theme

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder
    from latentgeo.geodesics import Geodesic


def letter(index: int) -> str:
    """Name of curve number `index`: A … Z, then AA, AB, …

    Examples
    --------
    >>> letter(0), letter(25), letter(26)
    ('A', 'Z', 'AA')
    """
    name = ""
    while index >= 0:
        name = string.ascii_uppercase[index % 26] + name
        index = index // 26 - 1
    return name


def strip(
    decoder: Decoder,
    path: Geodesic,
    *,
    n: int = 11,
    shape: tuple[int, ...] | None = None,
    title: str = "Decoded along the geodesic and along the straight line",
) -> go.Figure:
    """Decoded images along each geodesic of a result, and along the straight line between its ends.

    Parameters
    ----------
    decoder : Decoder
        Its mean is what is drawn.
    path : Geodesic
        A result of `connect`, with any batch shape; each curve gives two rows.
    n : int
        Images per row, evenly spaced in the curve's parameter (constant speed along the geodesic).
    shape : tuple of int, optional
        Shape of one decoded datum: (height, width), (1, height, width) or (3, height, width).
        The decoder's own shape if None; data that are no images are drawn as columns of a matrix.
    title : str
        The figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        One heatmap (or, for colour images, one image) per curve and row; its z holds the decoded values. Rows of curves
        that did not converge say so.

    Raises
    ------
    ValueError
        If `n` is below 2 or `shape` does not have as many entries as one decoded datum.

    Examples
    --------
    >>> import latentgeo as lg
    >>> net = torch.nn.Linear(2, 12).eval()
    >>> decoder = lg.wrap(net, latent_dim=2, likelihood=lg.Deterministic())
    >>> path = lg.connect(lg.PullbackMetric(decoder.embedding), torch.zeros(2), torch.ones(2))
    >>> [trace.z.shape for trace in strip(decoder, path, n=5, shape=(3, 4)).data]
    [(3, 24), (3, 24)]
    """
    rows = strip_rows(decoder, path, n=n, shape=shape)
    pixel = (theme.WIDTH - 170) / rows[0].width
    heights = [row.height * pixel for row in rows]
    figure = go.Figure(layout={"template": theme.template(), "title": {"text": title}})
    top, bottom, gap = 70, 20, 8
    total = sum(heights) + gap * len(rows)
    edge = 0.0
    for number, (row, height) in enumerate(zip(rows, heights, strict=True), start=1):
        add_row(figure, row, number, (0.0, 1.0), (max(0.0, 1 - (edge + height) / total), 1 - edge / total))
        # The two rows of one pair stand closer together than the pairs do.
        edge += height + (gap * 0.5 if number % 2 else gap * 1.5)
    figure.update_layout(height=int(total) + top + bottom, margin={"l": 150, "r": 20, "t": top, "b": bottom})
    return figure


class Row:
    """One strip: its trace, label and size in data pixels."""

    def __init__(self, images: NDArray[Any], label: str, pair: str) -> None:
        self.label = label
        self.pair = pair
        self.colour = images.ndim == 4
        if self.colour and images.shape[-1] == 3:
            images = np.concatenate([images, np.full_like(images[..., :1], 255)], axis=-1)
        n, height, width = images.shape[:3]
        gap = max(1, width // 14)
        blank = np.full((height, gap, *images.shape[3:]), 0 if self.colour else np.nan, images.dtype)
        pieces = [piece for image in images for piece in (image, blank)][:-1]
        self.pixels = np.concatenate(pieces, axis=1)
        self.height, self.width = height, width * n + gap * (n - 1)

    def trace(self, **axes: str) -> go.BaseTraceType:
        """The strip as a trace on the given axes."""
        name = f"{self.pair}: {self.label}"
        if self.colour:
            return go.Image(
                z=self.pixels, colormodel="rgba256", name=name, hovertemplate=f"{name}<extra></extra>", **axes
            )
        return go.Heatmap(
            z=self.pixels,
            colorscale="Greys",
            reversescale=True,
            zmin=float(min(0.0, np.nanmin(self.pixels))),
            zmax=float(max(1.0, np.nanmax(self.pixels))),
            showscale=False,
            name=name,
            hovertemplate=name + "<br>decoded value %{z:.3g} (data units)<extra></extra>",
            hoverongaps=False,
            **axes,
        )


def strip_rows(decoder: Decoder, path: Geodesic, *, n: int, shape: tuple[int, ...] | None) -> list[Row]:
    """Decode both curves of each pair; a list of rows in drawing order."""
    if n < 2:
        raise ValueError(f"`n` must be at least 2 images, got {n}")
    shape = tuple(decoder.data_shape if shape is None else shape)
    t = torch.linspace(0, 1, n, dtype=path.z.dtype, device=path.z.device)
    curves = path(t).detach().reshape(-1, n, path.z.shape[-1])
    lines = torch.lerp(curves[:, :1], curves[:, -1:], t[:, None])
    names = ["geodesic" if done else "failed" for done in path.converged.reshape(-1).tolist()]
    rows = []
    for index, (name, curve, line) in enumerate(zip(names, curves, lines, strict=True)):
        rows.append(Row(_images(decoder, curve, shape), name, letter(index)))
        rows.append(Row(_images(decoder, line, shape), "straight line", letter(index)))
    return rows


def _images(decoder: Decoder, z: torch.Tensor, shape: tuple[int, ...]) -> NDArray[Any]:
    """Decoded means (n, height, width), or (n, height, width, 3) in 0…255."""
    with torch.no_grad():
        mean = decoder.mean(z).cpu().double().numpy()
    if int(np.prod(shape)) != mean.shape[-1]:
        raise ValueError(f"`shape` must have {mean.shape[-1]} entries in all, as one decoded datum has, got {shape}")
    if len(shape) == 3 and shape[0] == 3:
        colour = mean.reshape(len(mean), *shape).transpose(0, 2, 3, 1)
        return (np.clip(colour, 0, 1) * 255).round().astype(np.uint8)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 2:
        return mean.reshape(len(mean), *shape)
    # No image: each datum is one column of cells.
    return mean.reshape(len(mean), -1, 1)


def add_row(
    figure: go.Figure,
    row: Row,
    number: int,
    x: tuple[float, float],
    y: tuple[float, float],
) -> None:
    """Draw one row on axes ``x{number}``, ``y{number}`` that fill the given part of the figure."""
    suffix = "" if number == 1 else str(number)
    hidden = {"visible": False, "fixedrange": True, "showgrid": False, "zeroline": False}
    figure.add_trace(row.trace(xaxis=f"x{suffix}", yaxis=f"y{suffix}"))
    figure.update_layout(
        {
            f"xaxis{suffix}": {"domain": x, "anchor": f"y{suffix}", "range": [-0.5, row.width - 0.5], **hidden},
            f"yaxis{suffix}": {"domain": y, "anchor": f"x{suffix}", "range": [row.height - 0.5, -0.5], **hidden},
        }
    )
    figure.add_annotation(
        text=row.label if row.label == "straight line" else f"<b>{row.pair}</b>  {row.label}",
        x=x[0],
        y=sum(y) / 2,
        xref="paper",
        yref="paper",
        xanchor="right",
        yanchor="middle",
        xshift=-8,
        showarrow=False,
        font={"size": theme.SIZE - 1},
    )
