"""Where the parts of a map stand: the panel, its legends below it, decoded strips beneath.

Lengths are pixels of a figure of the theme's width; a wider or narrower page keeps the heights.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from numpy.typing import NDArray

from latentgeo.plot import theme
from latentgeo.plot._mosaics import Row, add_row

PANEL = (960, 640)  # size of the map in pixels, in a figure of the theme's width
MARGIN = {"l": 112, "r": 128, "t": 98, "b": 16}
LEGEND = 126  # pixels between the map and what stands beneath: ticks, axis title, legend of marks


def lay_out(
    figure: go.Figure, rows: list[Row], x: NDArray[Any], y: NDArray[Any], labels: tuple[str, str] | None = None
) -> None:
    """Map above, legends below it, strips beneath in two columns of pairs."""
    across, up = labels or ("z₁", "z₂")
    columns = 2 if len(rows) > 2 else 1
    indent, row_gap, pair_gap = 140, 4, 20
    column = (PANEL[0] - (columns - 1) * indent) / columns
    heights = [column * row.height / row.width for row in rows]
    tallest = max(heights, default=0.0)
    pair_height = 2 * tallest + row_gap + pair_gap
    above = PANEL[1] + LEGEND + 27 * _legend_rows(figure)
    below = -(-len(rows) // (2 * columns)) * pair_height
    total = above + below
    floor = 1 - PANEL[1] / total
    step = (x[1] - x[0]) / 2
    # A map that is narrower than the panel leaves no gap before its colour bar.
    width = min(1.0, (x[-1] - x[0]) / (y[-1] - y[0]) * PANEL[1] / PANEL[0])
    figure.update_xaxes(
        title_text=f"{across} (latent units)",
        range=[x[0] - step, x[-1] + step],
        domain=[0.0, width],
        constrain="domain",
    )
    figure.update_yaxes(
        title_text=f"{up} (latent units)",
        range=[y[0] - step, y[-1] + step],
        domain=[floor, 1.0],
        constrain="domain",
        scaleanchor="x",
    )
    bar = {"x": width + 0.02, "y": (1 + floor) / 2, "len": 1 - floor, "lenmode": "fraction"}
    figure.update_traces(colorbar=bar, selector={"name": "measure"})
    for index, row in enumerate(rows):
        pair, second = divmod(index, 2)
        line, place = divmod(pair, columns)
        left = place * (column + indent) / PANEL[0]
        top = above + line * pair_height + second * (tallest + row_gap)
        add_row(
            figure,
            row,
            index + 2,
            (left, min(1.0, left + column / PANEL[0])),
            (max(0.0, 1 - (top + heights[index]) / total), 1 - top / total),
        )
    legend = {
        "orientation": "h",
        "traceorder": "normal",
        "x": 0.0,
        "xanchor": "left",
        "yanchor": "top",
        "bgcolor": "rgba(0,0,0,0)",
    }
    top = MARGIN["t"] + 26 * max(0, (figure.layout.title.text or "").count("<br>") - 1)  # a title of more lines
    figure.update_layout(
        height=round(total) + top + MARGIN["b"],
        margin={**MARGIN, "t": top},
        legend={**legend, "y": 1 - (PANEL[1] + 104) / total},
        legend2={**legend, "y": 1 - (PANEL[1] + 69) / total},
        hovermode="closest",
    )


def _legend_rows(figure: go.Figure) -> int:
    """Rows that the legend of codes will wrap into; none without codes."""
    names = [trace.name for trace in figure.data if trace.type == "scatter" and trace.customdata is not None]
    if not names:
        return 0
    entry = 56 + 0.56 * theme.SMALL * max(map(len, names))
    return -(-len(names) // max(1, int(PANEL[0] / entry)))
