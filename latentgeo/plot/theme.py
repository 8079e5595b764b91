"""The one look that all figures share: fonts, colours, and marks that survive colour blindness and small sizes.

Labels use the palette of Okabe & Ito (2008, "Color Universal Design"); the measure uses cividis
(Nuñez, Anderton, Renslow 2018), which keeps its order in greyscale and under colour-vision deficiency.
"""

from __future__ import annotations

from functools import cache

import plotly.graph_objects as go

# Okabe–Ito, in an order that keeps neighbouring labels apart, then white and Tol's wine, so that ten labels have ten.
LABELS = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#000000",
    "#FFFFFF",
    "#882255",
)
# Past the eighth label the marker's shape changes too, and goes on changing where colours repeat.
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star")
MEASURE = "Cividis"
FAILED = "#D55E00"
INK = "#1A1A1A"
PAPER = "#FFFFFF"
SINGULAR = "#8C8C8C"
WIDTH = 1200  # pixels that layouts are made for
SIZE = 18  # of text, in pixels: still readable in a picture shrunk to half
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


@cache
def template() -> go.layout.Template:
    """The template that every figure of this package carries.

    Returns
    -------
    plotly.graph_objects.layout.Template
        Pass it as ``layout.template`` to give a figure of your own the same look.

    Examples
    --------
    >>> template().layout.font.size
    18
    """
    axis = {
        "showgrid": False,
        "zeroline": False,
        "tickfont": {"size": SIZE - 2},
        "linecolor": INK,
        "linewidth": 1,
        "mirror": True,
        "ticks": "outside",
        "tickcolor": INK,
        "title": {"standoff": 8},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": SIZE, "color": INK},
            "title": {"font": {"size": 24}, "x": 0.0, "xref": "paper", "xanchor": "left"},
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "colorway": list(LABELS),
            "hoverlabel": {"font": {"family": FONT, "size": 15}, "align": "left"},
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"bgcolor": "rgba(255,255,255,0.85)", "itemsizing": "constant"},
        }
    )


def label_style(index: int) -> tuple[str, str]:
    """Colour and marker symbol of the label at position `index` in the sorted list of labels.

    Parameters
    ----------
    index : int
        Position of the label, from 0.

    Returns
    -------
    tuple of str
        A colour and a plotly marker symbol; no two of the first 48 positions share both.

    Examples
    --------
    >>> label_style(0), label_style(8)
    (('#E69F00', 'circle'), ('#FFFFFF', 'diamond'))
    """
    return LABELS[index % len(LABELS)], SYMBOLS[index // 8 % len(SYMBOLS)]
