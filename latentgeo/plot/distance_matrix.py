"""A matrix of distances, its rows in the order of a dendrogram, so that groups stand together as dark squares.

Average linkage (Sokal, Michener 1958) with the leaf order of SciPy's `dendrogram`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentgeo._calculus import as_numbers
from latentgeo.plot import theme

__all__ = ["distance_matrix"]

Linkage = Literal["average", "complete", "single"]
MOST_CODES = 3000
MOST_GROUPS = 40
_TOLD = 400  # codes up to which every cell tells the two it is of
SIDE, TREE, BAND, GAP = 800, 150, 20, 4  # pixels
MARGIN = {"l": 120, "r": 280, "t": 104, "b": 70}


def distance_matrix(
    D: ArrayLike | Tensor,
    labels: ArrayLike | Tensor | None = None,
    *,
    units: str = "units of the metric",
    linkage: Linkage = "average",
    title: str | None = None,
) -> go.Figure:
    """Heatmap of a distance matrix under the dendrogram of its hierarchical clustering.

    Parameters
    ----------
    D : array of shape (n, n)
        Symmetric distances with a zero diagonal, as `pairwise_distances` gives them; n at most 3000. NaN and infinity
        are left blank, and count as farther than everything else in the clustering.
    labels : array of shape (n,), optional
        Drawn as coloured bands along both sides.
    units : str
        Of the distances; `plot.length_units(metric)` knows.
    linkage : {"average", "complete", "single"}
        How far two groups are apart: the mean, the largest or the smallest of their codes' distances.
    title : str, optional

    Returns
    -------
    plotly.graph_objects.Figure
        Trace "distances" holds the matrix in its new order, which is its `meta["order"]`; trace "dendrogram" the tree,
        its heights the distances at which groups merge.

    Raises
    ------
    ValueError
        If D is not such a matrix, or labels are not one per row.

    Examples
    --------
    >>> D = np.abs(np.subtract.outer([0.0, 5.0, 1.0], [0.0, 5.0, 1.0]))
    >>> figure = distance_matrix(D)
    >>> figure.data[0].meta["order"], figure.data[0].z[0].tolist()
    ([1, 0, 2], [0.0, 5.0, 4.0])
    """
    from scipy.cluster.hierarchy import dendrogram
    from scipy.cluster.hierarchy import linkage as cluster
    from scipy.spatial.distance import squareform

    if linkage not in ("average", "complete", "single"):
        raise ValueError(f"`linkage` must be 'average', 'complete' or 'single', got {linkage!r}")
    matrix = _matrix(D)
    names, groups = _groups(labels, len(matrix))
    finite = np.isfinite(matrix)
    filled = np.where(finite, matrix, 1.1 * float(matrix[finite].max()) if finite.any() else 1.0)
    tree = cluster(squareform((filled + filled.T) / 2, checks=False), linkage)
    drawn = dendrogram(tree, no_plot=True)
    order = np.array(drawn["leaves"])

    n = len(matrix)
    figure = go.Figure(layout={"template": theme.template()})
    figure.add_trace(_heatmap(matrix[np.ix_(order, order)], order, names, units))
    figure.add_trace(_tree(drawn, units))
    if names is not None:
        figure.add_traces(_bands(names[order], groups))
    _lay_out(figure, n, units, names is not None)
    missing = int((~finite).sum()) // 2
    second = f"in the order of a dendrogram ({linkage} linkage)"
    second += f"; {missing:,} pairs without a distance are blank" if missing else ""
    first = title or f"Distances of {n:,} codes"
    figure.update_layout(title={"text": theme.heading(first, second)})
    return figure


def _matrix(D: Any) -> NDArray[np.float64]:
    matrix = as_numbers(D, "D").detach().cpu().numpy()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not 2 <= len(matrix) <= MOST_CODES:
        raise ValueError(f"`D` must have shape (n, n) with n from 2 to {MOST_CODES}, got {matrix.shape}")
    known = np.where(np.isfinite(matrix), matrix, 0.0)
    scale = float(known.max())
    if known.min() < 0 or np.diagonal(known).max() > 1e-6 * scale:
        raise ValueError("`D` must hold distances: none negative, and zeros on the diagonal")
    both = np.isfinite(matrix) & np.isfinite(matrix.T)
    if np.abs(np.where(both, known - known.T, 0.0)).max() > 1e-3 * scale:
        raise ValueError("`D` must be symmetric; take (D + D.T) / 2 of distances that were solved both ways")
    return matrix


def _groups(labels: Any, n: int) -> tuple[NDArray[Any] | None, list[Any]]:
    if labels is None:
        return None, []
    names = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if names.shape != (n,):
        raise ValueError(f"`labels` must have one entry per row of `D`, shape ({n},), got {names.shape}")
    groups = sorted(set(names.tolist()))
    if len(groups) > MOST_GROUPS:
        raise ValueError(f"`labels` must name at most {MOST_GROUPS} groups, got {len(groups)}")
    return names, groups


def _heatmap(z: NDArray[Any], order: NDArray[Any], names: NDArray[Any] | None, units: str) -> go.Heatmap:
    told, which = None, ""
    if len(z) <= _TOLD:
        text = [str(k) if names is None else f"{k} ({names[k]})" for k in order.tolist()]
        told = np.array([[f"{a} and {b}" for b in text] for a in text])
        which = "codes %{text}<br>"
    return go.Heatmap(
        z=np.where(np.isfinite(z), z, np.nan),
        text=told,
        colorscale=theme.MEASURE,
        colorbar={
            "title": {
                "text": f"distance<br><span style='font-size:{theme.SMALL}px'>{units}</span>",
                "side": "right",
                "font": {"size": theme.SMALL},
            },
            "tickfont": {"size": theme.SMALL},
            "ticksuffix": theme.SPACE,
            "thickness": 18,
            "outlinewidth": 0,
        },
        hovertemplate=f"{which}distance %{{z:.4g}} {units}<extra></extra>",
        hoverongaps=False,
        meta={"order": order.tolist()},
        name="distances",
    )


def _tree(drawn: dict[str, Any], units: str) -> go.Scatter:
    """All brackets of the tree as one line; leaves stand at whole numbers, as the matrix's columns do."""
    blank = np.full((len(drawn["icoord"]), 1), np.nan)
    x = np.concatenate([(np.asarray(drawn["icoord"]) - 5) / 10, blank], axis=1)
    y = np.concatenate([np.asarray(drawn["dcoord"]), blank], axis=1)
    return go.Scatter(
        x=x.ravel(), y=y.ravel(), mode="lines", line={"color": theme.INK, "width": 1.2}, xaxis="x", yaxis="y2",
        showlegend=False, meta=theme.ON_PAGE, name="dendrogram",
        hovertemplate=f"merged at %{{y:.4g}} {units}<extra></extra>",
    )  # fmt: skip


def _bands(names: NDArray[Any], groups: list[Any]) -> list[go.BaseTraceType]:
    """The labels of columns above the matrix and of rows beside it, and a legend of them."""
    index = np.array([groups.index(name) for name in names.tolist()], dtype=float)
    colours = [theme.label_style(k)[0] for k in range(len(groups))]
    count = len(groups)
    scale = [[edge / count, colour] for k, colour in enumerate(colours) for edge in (k, k + 1)]
    common: dict[str, Any] = {
        "colorscale": scale, "zmin": -0.5, "zmax": count - 0.5, "showscale": False, "name": "labels",
    }  # fmt: skip
    text = [str(name) for name in names.tolist()]
    hover = "label %{text}<extra></extra>"
    traces: list[go.BaseTraceType] = [
        go.Heatmap(z=index[None], text=[text], yaxis="y3", hovertemplate=hover, **common),
        go.Heatmap(z=index[:, None], text=[[t] for t in text], xaxis="x2", hovertemplate=hover, **common),
    ]
    for k, group in enumerate(groups):
        marker = {"symbol": "square", "size": 13, "color": colours[k], "line": {"color": theme.SINGULAR, "width": 1}}
        entry = f"label: {group}" if k == 0 else str(group)
        traces.append(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=entry))
    return traces


def _lay_out(figure: go.Figure, n: int, units: str, banded: bool) -> None:
    band = BAND + GAP if banded else 0
    wide, tall = SIDE + band, SIDE + band + TREE + GAP
    left = band / wide
    hidden = {"visible": False, "fixedrange": True}
    title = {"font": {"size": theme.SMALL}}
    figure.update_layout(
        xaxis={"domain": [left, 1.0], "range": [-0.5, n - 0.5], "showticklabels": False, "ticks": "",
               "title": {"text": "codes", **title}},
        yaxis={"domain": [0.0, SIDE / tall], "range": [n - 0.5, -0.5], "showticklabels": False, "ticks": "",
               "anchor": "x2" if banded else "x", "title": {"text": "codes", **title}},
        yaxis2={"domain": [1 - TREE / tall, 1.0], "anchor": "x", "rangemode": "tozero", "showline": False, "nticks": 4,
                "title": {"text": f"merged at<br>({units})", **title}},
        xaxis2={"domain": [0.0, BAND / wide], "range": [-0.5, 0.5], "anchor": "y", **hidden},
        yaxis3={"domain": [(SIDE + GAP) / tall, (SIDE + GAP + BAND) / tall], "range": [-0.5, 0.5], "anchor": "x",
                **hidden},
        height=tall + MARGIN["t"] + MARGIN["b"],
        margin=MARGIN,
        shapes=[
            {"type": "rect", "xref": f"{x} domain", "yref": f"{y} domain", "x0": 0, "x1": 1, "y0": 0, "y1": 1,
             "line": {"color": theme.SINGULAR, "width": 1}}
            for x, y in ((("x", "y3"), ("x2", "y")) if banded else ())
        ],
        legend={"x": 1.16, "xanchor": "left", "y": SIDE / tall, "yanchor": "top"},
        hovermode="closest",
    )  # fmt: skip
    figure.update_traces(
        colorbar={"x": 1.015, "y": SIDE / tall / 2, "len": SIDE / tall, "lenmode": "fraction"},
        selector={"name": "distances"},
    )
