"""The one look that all figures share: fonts, colours, and marks that survive colour blindness and small sizes.

Labels use the palette of Okabe & Ito (2008, "Color Universal Design"); the measure uses cividis
(Nuñez, Anderton, Renslow 2018), which keeps its order in greyscale and under colour-vision deficiency.
"""

from __future__ import annotations

import string
import textwrap
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

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
ON_PAGE = "page"  # `meta` of traces drawn on the page, not over a map: they take its colours
WIDTH = 1200  # pixels that layouts are made for
SIZE = 20  # of text, in pixels: still readable in a picture shrunk to half
SMALL = 18  # the smallest text that there is
SPACE = "\u2002"  # after the numbers of a colour bar, which its title would else touch
LINE = 108  # characters of small text that fit beside a map's margins
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


Look = Literal["light", "dark"]


@dataclass(frozen=True)
class Page:
    """Colours of what is drawn on the page; what is drawn over a map has the same colours on either."""

    ink: str
    paper: str
    faint: str
    outline: str
    grid: str


PAGES: dict[str, Page] = {
    "light": Page(ink=INK, paper=PAPER, faint="#5F6368", outline=INK, grid="#D0D4D9"),
    "dark": Page(ink="#E8EAED", paper="#15181D", faint="#A8ADB3", outline="#C4C7CC", grid="#454B54"),
}
FAINT = PAGES["light"].faint


def page(theme: Look) -> Page:
    """The colours of a look.

    Examples
    --------
    >>> page("dark").paper
    '#15181D'
    """
    if theme not in PAGES:
        raise ValueError(f"`theme` must be 'light' or 'dark', got {theme!r}")
    return PAGES[theme]


def template(theme: Look = "light") -> go.layout.Template:
    """The template that every figure of this package carries.

    Parameters
    ----------
    theme : {"light", "dark"}

    Returns
    -------
    plotly.graph_objects.layout.Template
        Pass it as ``layout.template`` to give a figure of your own the same look.

    Raises
    ------
    ValueError
        If `theme` is neither.

    Examples
    --------
    >>> template().layout.font.size
    20
    >>> template("dark").layout.paper_bgcolor
    '#15181D'
    """
    page(theme)
    return _template(theme)


@cache
def _template(theme: Look) -> go.layout.Template:
    look = page(theme)
    axis = {
        "showgrid": False,
        "zeroline": False,
        "tickfont": {"size": SMALL},
        "linecolor": look.ink,
        "linewidth": 1,
        "showline": True,
        "mirror": True,
        "ticks": "outside",
        "tickcolor": look.ink,
        "title": {"standoff": 8},
    }
    space = {
        "backgroundcolor": look.paper,
        "showgrid": True,
        "gridcolor": look.grid,
        "showline": True,
        "linecolor": look.faint,
        "tickfont": {"size": SMALL - 2},
        "nticks": 5,
        "title": {"font": {"size": SMALL}},
        "zeroline": False,
        "showspikes": False,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": SIZE, "color": look.ink},
            "title": {"font": {"size": 25}, "x": 0.0, "xref": "paper", "xanchor": "left"},
            "paper_bgcolor": look.paper,
            "plot_bgcolor": look.paper,
            "colorway": list(LABELS),
            "hoverlabel": {"font": {"family": FONT, "size": SMALL - 3}, "align": "left"},
            "xaxis": axis,
            "yaxis": axis,
            "scene": {f"{name}axis": space for name in "xyz"},
            "legend": {"bgcolor": "rgba(0,0,0,0)", "itemsizing": "constant", "font": {"size": SMALL}},
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


def themed(figure: go.Figure, theme: Look) -> go.Figure:
    """The same figure in another look; the one given is left as it is.

    Changes what is drawn on the page: text, axes, keys of the legends, lines on plain panels. Maps, and the marks on
    them, stay: cividis and the white lines with dark edges read on either page.

    Parameters
    ----------
    figure : Figure
        Of this package, in any look, or any other with its template.
    theme : {"light", "dark"}

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    ValueError
        If `theme` is neither.

    Examples
    --------
    >>> figure = go.Figure(layout={"template": template()})
    >>> dark = themed(figure, "dark")
    >>> dark.layout.template.layout.paper_bgcolor, figure.layout.template.layout.paper_bgcolor
    ('#15181D', '#FFFFFF')
    >>> themed(dark, "light") == figure
    True
    """
    look = page(theme)
    swap = {getattr(other, part): getattr(look, part) for other in PAGES.values() for part in ("ink", "paper", "faint")}
    # part by part: a whole figure as JSON has its arrays packed into text
    layout = {key: value for key, value in figure.layout.to_plotly_json().items() if key != "template"}
    data = [_recoloured(trace.to_plotly_json(), swap, look) for trace in figure.data]
    return go.Figure(data=data, layout={**_swapped(layout, swap), "template": template(theme)})


def look_of(figure: go.Figure) -> Look:
    """The look that a figure has: dark if its template's page is, else light.

    Examples
    --------
    >>> look_of(go.Figure(layout={"template": template("dark")})), look_of(go.Figure())
    ('dark', 'light')
    """
    return "dark" if figure.layout.template.layout.paper_bgcolor == PAGES["dark"].paper else "light"


def heading(first: str, *rest: str) -> str:
    """A title and, smaller, what stands beneath it: on one line if that fits the page, else each part on its own.

    Examples
    --------
    >>> heading("Distances", "of 12 codes")
    "Distances<br><span style='font-size:18px'>of 12 codes</span>"
    """
    whole = " ".join(rest)
    lines = [whole] if len(whole) <= LINE else [line for part in rest for line in textwrap.wrap(part, LINE)]
    return "<br>".join([first, *(f"<span style='font-size:{SMALL}px'>{line}</span>" for line in lines)])


def title_at_top(figure: go.Figure, text: str) -> None:
    """Title just under the upper edge, for figures with something between it and their panels."""
    y = 1 - 26 / figure.layout.height
    figure.update_layout(title={"text": text, "y": y, "yref": "container", "yanchor": "top"})


def _recoloured(trace: dict[str, Any], swap: dict[str, str], look: Page) -> dict[str, Any]:
    """A trace on the page in its colours; of a trace on a map, the outlines of black points, which vanish on black."""
    marker = trace.get("marker") or {}
    key = _is_key(trace) and (trace.get("mode") == "lines" or str(marker.get("symbol", "")).endswith("-open"))
    if key or trace.get("meta") == ON_PAGE:
        return {name: part if name == "meta" else _swapped(part, swap) for name, part in trace.items()}
    if isinstance(marker.get("color"), str) and marker["color"] == "#000000" and marker.get("line"):
        return {**trace, "marker": {**marker, "line": {**marker["line"], "color": look.outline}}}
    return trace


def _is_key(trace: dict[str, Any]) -> bool:
    """Whether a trace is there for its entry in the legend alone."""
    x = trace.get("x")
    return trace.get("type") == "scatter" and x is not None and len(x) == 1 and x[0] is None


def _swapped(part: Any, swap: dict[str, str]) -> Any:
    if isinstance(part, dict):
        return {name: _swapped(inner, swap) for name, inner in part.items()}
    if isinstance(part, list):
        return [_swapped(inner, swap) for inner in part]
    if isinstance(part, tuple):
        return tuple(_swapped(inner, swap) for inner in part)
    return swap.get(part, part) if isinstance(part, str) else part


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
