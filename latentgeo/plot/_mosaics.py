"""Images as pixels of figures: what a decoder shows, in rows, mosaics and squares side by side, with their labels.

All figures with decoded images are made of these: strips along curves, films of walks, centres of clusters, samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentgeo._calculus import as_integers
from latentgeo.plot import theme

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder

Images = NDArray[Any]  # (n, height, width), or (n, height, width, 4) in 0…255: red, green, blue, opacity


def decoded(decoder: Decoder, z: Tensor, shape: tuple[int, ...] | None, *, columns: bool = False) -> Images:
    """Decoded means of codes (n, d) as images; see `as_images`."""
    with torch.no_grad():
        mean = decoder.mean(z.detach().to(dtype=decoder.dtype or z.dtype, device=decoder.device))
    return as_images(mean, decoder.data_shape if shape is None else shape, columns=columns)


def as_images(values: Tensor, shape: tuple[int, ...], *, columns: bool = False) -> Images:
    """Values (n, ...) as images.

    Parameters
    ----------
    values : Tensor of shape (n, ...)
    shape : tuple of int
        Of one image: (height, width), (1, height, width) or (3, height, width).
    columns : bool
        Draw data of any other shape as columns of cells, instead of refusing them.
    """
    values = values.detach().cpu().to(torch.promote_types(values.dtype, torch.float32)).flatten(1)
    sides = as_integers(shape)
    if sides is None or not all(n > 0 for n in sides):
        raise TypeError(f"`shape` must be a tuple of positive integers, got {shape!r}")
    shape = tuple(sides)
    drawn = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))
    if not (drawn or columns):
        raise ValueError(
            f"`shape` must be (height, width), (1, height, width) or (3, height, width), got {shape}; these data are "
            f"no images unless you say how"
        )
    if math.prod(shape) != values.shape[1]:
        raise ValueError(f"`shape` must have {values.shape[1]} entries in all, as one datum has, got {shape}")
    if not drawn:
        return values[:, :, None].numpy()
    if len(shape) == 3 and shape[0] == 3:
        colour = (values.unflatten(1, shape).permute(0, 2, 3, 1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return np.concatenate([colour, np.full_like(colour[..., :1], 255)], axis=-1)
    return values.unflatten(1, shape[-2:]).numpy()


def blank(images: Images) -> float:
    """What a pixel holds that shows nothing."""
    return 0 if images.ndim == 4 else np.nan


def gap_of(width: int) -> int:
    """Blank lines between images of this width."""
    return max(1, width // 14)


def mosaic(images: Images, columns: int, gap: int | None = None) -> Images:
    """Images row by row in one, with blank lines between them."""
    n, height, width = images.shape[:3]
    gap = gap_of(width) if gap is None else gap
    rows = -(-n // columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap, *images.shape[3:])
    pixels = np.full(size, blank(images), images.dtype)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        pixels[top : top + height, left : left + width] = image
    return pixels


def trace(pixels: Images, name: str, x: str, y: str) -> go.BaseTraceType:
    """Pixels on the axes of these names: grey values as a heatmap, colours as an image."""
    if pixels.ndim == 3:
        return go.Image(
            z=pixels, colormodel="rgba256", name=name, hovertemplate=f"{name}<extra></extra>", xaxis=x, yaxis=y
        )
    return go.Heatmap(
        z=pixels,
        colorscale="Greys",
        reversescale=True,
        zmin=float(min(0.0, np.nanmin(pixels))),
        zmax=float(max(1.0, np.nanmax(pixels))),
        showscale=False,
        name=name,
        hovertemplate=name + "<br>%{z:.3g} (data units)<extra></extra>",
        hoverongaps=False,
        xaxis=x,
        yaxis=y,
    )


@dataclass(frozen=True, eq=False)
class Row:
    """Images side by side: one strip, with the name of its trace and the text before it."""

    images: Images
    name: str
    text: str

    @property
    def height(self) -> int:
        """In data pixels."""
        return int(self.images.shape[1])

    @property
    def width(self) -> int:
        """In data pixels, gaps included."""
        n, width = len(self.images), self.images.shape[2]
        return int(n * (width + gap_of(width)) - gap_of(width))


def add_row(figure: go.Figure, row: Row, number: int, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Draw a row on axes ``x{number}``, ``y{number}`` that fill the given part of the figure."""
    _place(figure, number, mosaic(row.images, len(row.images)), row.name, x, y)
    _note(figure, row.text, x[0], sum(y) / 2, xanchor="right", yanchor="middle", xshift=-8)


def _place(
    figure: go.Figure, number: int, pixels: Images, name: str, x: tuple[float, float], y: tuple[float, float]
) -> None:
    """A trace on axes of its own, which fill the given part of the figure and show nothing but it."""
    suffix = "" if number == 1 else str(number)
    figure.add_trace(trace(pixels, name, f"x{suffix}", f"y{suffix}"))
    hidden = {"visible": False, "fixedrange": True, "showgrid": False, "zeroline": False}
    height, width = pixels.shape[:2]
    figure.update_layout(
        {
            f"xaxis{suffix}": {"domain": x, "anchor": f"y{suffix}", "range": [-0.5, width - 0.5], **hidden},
            f"yaxis{suffix}": {"domain": y, "anchor": f"x{suffix}", "range": [height - 0.5, -0.5], **hidden},
        }
    )


def _note(figure: go.Figure, text: str, x: float, y: float, **options: Any) -> None:
    figure.add_annotation(
        text=text, x=x, y=y, xref="paper", yref="paper", showarrow=False, font={"size": theme.SMALL}, **options
    )


def panels_figure(panels: Mapping[str, Images], columns: int, title: str, named: bool) -> go.Figure:
    """Mosaics side by side, each under its name."""
    gap, head, left, top = 30, 34 if named else 0, 20, 70
    inner = theme.WIDTH - 2 * left
    # one square alone need not be as wide as the page
    width = min(760.0, (inner - (columns - 1) * gap) / columns)
    total_width = columns * width + (columns - 1) * gap
    rows = [list(panels.items())[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [head + max(width * p.shape[0] / p.shape[1] for _, p in row) for row in rows]
    total = sum(heights) + gap * (len(rows) - 1)
    figure = go.Figure(layout={"template": theme.template(), "title": {"text": title}})
    edge, number = 0.0, 0
    for row, tall in zip(rows, heights, strict=True):
        for column, (name, pixels) in enumerate(row):
            number += 1
            x = column * (width + gap) / total_width
            start = edge + head
            end = start + width * pixels.shape[0] / pixels.shape[1]
            span = (x, min(1.0, x + width / total_width))
            _place(figure, number, pixels, name, span, (max(0.0, 1 - end / total), 1 - start / total))
            if named:
                _note(figure, f"<b>{name}</b>", x, 1 - start / total, xanchor="left", yanchor="bottom", yshift=4)
        edge += tall + gap
    figure.update_layout(
        width=int(total_width) + 2 * left,
        height=int(total) + top + 20,
        margin={"l": left, "r": left, "t": top, "b": 20},
    )
    return figure


def rows_figure(groups: Sequence[Sequence[Row]], title: str, ticks: Sequence[str] = ()) -> go.Figure:
    """Rows of images with a text before each; groups stand further apart. Ticks stand beneath the last row's images."""
    left, top, bottom, gap = (70, 70, 60, 6) if ticks else (150, 70, 20, 6)
    inner = theme.WIDTH - left - 20
    heights = [[inner * row.height / row.width for row in group] for group in groups]
    total = sum(map(sum, heights)) + gap * sum(map(len, groups)) + 3 * gap * (len(groups) - 1)
    figure = go.Figure(layout={"template": theme.template(), "title": {"text": title}})
    edge, number = 0.0, 0
    for group, tall in zip(groups, heights, strict=True):
        for row, height in zip(group, tall, strict=True):
            number += 1
            add_row(figure, row, number, (0.0, 1.0), (max(0.0, 1 - (edge + height) / total), 1 - edge / total))
            edge += height + gap
        edge += 3 * gap
    for i, tick in enumerate(ticks):
        row = groups[-1][-1]
        width = row.images.shape[2]
        centre = (i * (width + gap_of(width)) + width / 2) / row.width
        _note(figure, tick, centre, 0, xanchor="center", yanchor="top", yshift=-2)
    if ticks:
        _note(figure, "coordinate (latent units)", 0.5, 0, xanchor="center", yanchor="top", yshift=-26)
    figure.update_layout(
        width=theme.WIDTH,
        height=int(total) + top + bottom,
        margin={"l": left, "r": 20, "t": top, "b": bottom},
    )
    return figure
