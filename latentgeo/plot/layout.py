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
    marks = _mark_rows(figure)
    above = PANEL[1] + LEGEND - (0 if marks else 35) + 27 * (_legend_rows(figure) + max(0, marks - 1))
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
        "font": {"size": theme.SMALL},
    }
    lines = (figure.layout.title.text or "").count("<br>")
    top = MARGIN["t"] + 26 * max(0, lines - 1)
    height = round(total) + top + MARGIN["b"]
    # plotly sets titles of more lines 18 pixels higher than it says
    title = {"y": 1 - (42 if lines else 24) / height, "yref": "container", "yanchor": "top"}
    figure.update_layout(
        title=title,
        height=height,
        margin={**MARGIN, "t": top},
        legend={**legend, "y": 1 - (PANEL[1] + 69 + (35 if marks else 0) + 27 * max(0, marks - 1)) / total},
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


def _mark_rows(figure: go.Figure) -> int:
    """Rows of the legend of marks: one, if all entries fit, else columns as wide as the longest."""
    named = [
        t.name for t in figure.data if getattr(t, "legend", None) == "legend2" and t.showlegend is not False and t.name
    ]
    if not named:
        return 0
    widths = [52 + 0.5 * theme.SMALL * len(name) for name in named]
    return 1 if sum(widths) <= PANEL[0] else -(-len(named) // max(1, int(PANEL[0] / max(widths))))
