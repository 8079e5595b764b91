"""Images as pixels of figures: mosaics, squares side by side, labelled rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from torch import Tensor, uint8

from latentgeo.plot import theme
from latentgeo.plot.strips import letter

Images = NDArray[Any]  # (n, height, width), or (n, height, width, 3) in 0…255


def as_images(values: Tensor, shape: tuple[int, ...]) -> Images:
    """Values (n, ...) as images (n, height, width), or (n, height, width, 3) in 0…255."""
    values = values.detach().cpu().float().flatten(1)
    shape = tuple(shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        raise ValueError(
            f"`shape` must be (height, width), (1, height, width) or (3, height, width), got {shape}; these data are "
            f"no images unless you say how"
        )
    if math.prod(shape) != values.shape[1]:
        raise ValueError(f"`shape` must have {values.shape[1]} entries in all, as one datum has, got {shape}")
    if len(shape) == 3 and shape[0] == 3:
        colour = values.unflatten(1, shape).permute(0, 2, 3, 1).clamp(0, 1) * 255
        return colour.round().to(uint8).numpy()
    return values.unflatten(1, shape[-2:]).numpy()


def mosaic(images: Images, columns: int, gap: int | None = None) -> Images:
    """Images row by row in one, with blank lines between them."""
    n, height, width = images.shape[:3]
    gap = max(1, width // 14) if gap is None else gap
    rows = -(-n // columns)
    blank = 255 if images.ndim == 4 else np.nan
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap, *images.shape[3:])
    pixels = np.full(size, blank, images.dtype)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        pixels[top : top + height, left : left + width] = image
    return pixels


def trace(pixels: Images, name: str, x: str, y: str) -> go.BaseTraceType:
    if pixels.ndim == 3:
        return go.Image(z=pixels, name=name, hovertemplate=f"{name}<extra></extra>", xaxis=x, yaxis=y)
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
        text=text, x=x, y=y, xref="paper", yref="paper", showarrow=False, font={"size": theme.SIZE - 1}, **options
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


def rows_figure(groups: list[list[tuple[str, Images]]], title: str, ticks: list[str] | None = None) -> go.Figure:
    """Rows of images with a label before each; groups stand further apart and begin with a letter."""
    lettered = ticks is None
    left, top, bottom, gap = 165 if lettered else 70, 70, 20 if ticks is None else 60, 6
    inner = theme.WIDTH - left - 20
    mosaics = [[(name, mosaic(images, len(images))) for name, images in group] for group in groups]
    heights = [inner * p.shape[0] / p.shape[1] for group in mosaics for _, p in group]
    total = sum(heights) + gap * len(heights) + 3 * gap * (len(groups) - 1)
    figure = go.Figure(layout={"template": theme.template(), "title": {"text": title}})
    edge, number = 0.0, 0
    for index, group in enumerate(mosaics):
        for place, (name, pixels) in enumerate(group):
            height = heights[number]
            number += 1
            y = (max(0.0, 1 - (edge + height) / total), 1 - edge / total)
            known = f"{letter(index)}: {name}" if lettered else name
            _place(figure, number, pixels, known, (0.0, 1.0), y)
            text = f"<b>{letter(index)}</b>  {name}" if lettered and place == 0 else name
            _note(figure, text, 0, sum(y) / 2, xanchor="right", yanchor="middle", xshift=-8)
            edge += height + gap
        edge += 3 * gap
    for i, tick in enumerate(ticks or []):
        width = groups[0][0][1].shape[2]
        step = width + max(1, width // 14)
        centre = (i * step + width / 2) / (len(ticks or []) * step - max(1, width // 14))
        _note(figure, tick, centre, 0, xanchor="center", yanchor="top", yshift=-2)
    if ticks:
        _note(figure, "coordinate (latent units)", 0.5, 0, xanchor="center", yanchor="top", yshift=-26)
    figure.update_layout(
        width=theme.WIDTH,
        height=int(total) + top + bottom,
        margin={"l": left, "r": 20, "t": top, "b": bottom},
    )
    return figure
