"""The measure heatmap: ½ log det G over a 2-D latent space or a plane, with codes, curves and decoded strips.

Shows the measure of the *expected metric* (Arvanitidis, Hansen, Hauberg 2018, figure 4), which is not the expected
measure (Hauberg, "Only Bayes should learn a manifold", 2018): the title says so, and which term is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from torch import Tensor

from latentgeo._calculus import check_integer, check_positive
from latentgeo.geodesics import Geodesic
from latentgeo.metrics import Metric
from latentgeo.plot import heatmaps, inputs, overlays, theme
from latentgeo.plot._mosaics import Row
from latentgeo.plot.fields import Term, describe, in_double, length_units
from latentgeo.plot.layout import lay_out
from latentgeo.plot.planes import Plane, labels_of
from latentgeo.plot.strips import strip_rows

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder

TILES = 8  # decoded images per strip


def measure(
    metric: Metric,
    *,
    codes: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    paths: Geodesic | Sequence[Geodesic] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    resolution: int = 160,
    term: Term = "both",
    plane: Plane | None = None,
    limit: float | None = None,
    decoder: Decoder | None = None,
    strips: bool = False,
    shape: tuple[int, ...] | None = None,
    max_codes: int = 5000,
    title: str | None = None,
) -> go.Figure:
    """Heatmap of the log measure element, or another field, over a 2-D latent space or a plane.

    Parameters
    ----------
    metric : Metric
        Of latent dimension 2, or of any with a `plane`.
    codes : array of shape (n, d), optional
        Drawn as points; they also set the bounds.
    labels : array of shape (n,), optional
        Colour of each code.
    paths : Geodesic or sequence of Geodesic, optional
        Drawn with the straight lines between their ends; curves that did not converge look different.
    bounds : (left, right, bottom, top), optional
        In latent units, on the plane if there is one; around codes and curves if None.
    resolution : int
        Grid points along the shorter side.
    term : {"both", "mean", "std", "condition", "curvature"}
        ½ log det of the metric or of one part of an `ExpectedMetric`; log₁₀ of the condition number of G; Gauss
        curvature (of a plane: the sectional curvature of its directions).
    plane : Plane, optional
        The piece of a latent space of more dimensions that is shown. Fields are those of the whole metric, at codes on
        the plane; codes and curves off it are drawn where they fall on it at a right angle, and say how far off.
    limit : float, optional
        |K| at the ends of the colours of a curvature; see `curvature`.
    decoder : Decoder, optional
        Tells where σ saturates (hatched) and decodes the strips; `metric.decoder` if None.
    strips : bool
        Draw decoded images along each curve and each straight line beneath the map.
    shape : tuple of int, optional
        Shape of one decoded image; the decoder's own if None.
    max_codes : int
        At most this many codes are drawn, evenly picked; the legend says so.
    title : str, optional
        Replaces the first line of the title; the second always says what is drawn.

    Returns
    -------
    plotly.graph_objects.Figure
        The first trace is the heatmap, with z of shape (rows, columns).

    Raises
    ------
    ValueError
        If the metric is not 2-D and there is no plane, an array has another shape or non-finite entries, `term` does
        not exist, or strips are asked for without curves or a decoder.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379.

    Examples
    --------
    >>> from latentgeo.metrics import PoincareBall
    >>> figure = measure(PoincareBall(2), bounds=(-0.5, 0.5, -0.5, 0.5), resolution=5)
    >>> figure.data[0].z.shape
    (5, 5)
    """
    dim = inputs.check_plane(metric, plane)
    check_integer(resolution, "resolution", 2)
    check_positive(limit, "limit", optional=True)
    if decoder is None:
        decoder = getattr(metric, "decoder", None)
    else:
        inputs.need_decoder(decoder, dim)
    results = inputs.as_list(paths)
    like = inputs.like(metric, results, codes)
    points = inputs.as_codes(codes, like, dim)
    names = inputs.as_labels(labels, points)
    curves = [curve for result in results for curve in overlays.curves(metric, result, plane)]
    field = describe(metric, term, decoder, dim)
    where, away = (None, None) if points is None else inputs.flat(points, plane)
    shown = [xy for curve in curves for xy in (curve.z, curve.line)] + ([] if where is None else [where])

    x, y = inputs.window(bounds, shown, resolution)
    grid = inputs.mesh(x, y, like.device, plane)
    curved = term == "curvature"
    exact = metric if curved else in_double(metric)  # curvature forms no determinant of G
    values = field.values(exact, grid, plane)
    heights = values[:0, 0] if points is None else field.values(exact, points, plane)
    reach = limit or heatmaps.reach_of(values, heights)
    level = overlays.saturation(decoder, grid)

    figure = go.Figure(layout={"template": theme.template()})
    figure.add_traces(heatmaps.heatmap(field, x, y, values, level, reach))
    if level is not None:
        hatching = overlays.hatching(x, y, level)
        figure.add_traces(heatmaps.veil(x, y, level) + heatmaps.darkened(hatching) if curved else hatching)
    if where is not None:
        formula = "K" if curved else field.formula
        figure.add_traces(overlays.code_traces(where, names, heights, formula, max_codes, away))
    figure.add_traces(overlays.curve_traces(curves, length_units(metric)))

    rows: list[Row] = []
    if strips:
        if decoder is None or not results:
            raise ValueError("`strips` needs `paths` and a decoder (`decoder=` or a metric made from one)")
        for result in results:  # lettered as one run, as the curves on the map are
            rows += strip_rows(decoder, result, n=TILES, shape=shape, first=len(rows) // 2)
    second = f"{field.what}: {field.formula}" if title else field.formula
    if curved:
        known = np.abs(values[np.isfinite(values)])
        beyond = float((known > reach * (1 + 1e-6)).mean()) if known.size else 0.0
        second = f"K in {field.units}; colours end at ±{reach:.3g}, beyond which {beyond:.0%} of the map lies"
    parts = [second]
    if plane is not None:
        parts.append(f"on {plane.about}")
        if shown:
            parts[1] += "; " + " and ".join(["codes"] * (where is not None) + ["curves"] * bool(curves)) + " projected"
    figure.update_layout(title={"text": theme.heading(title or field.what, *parts)})
    lay_out(figure, rows, x, y, labels_of(plane))
    return figure
