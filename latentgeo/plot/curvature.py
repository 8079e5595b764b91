"""Map of the Gauss curvature of a 2-D latent space: where geodesics draw together, and where they part.

Positive curvature (as on a sphere) bends geodesics towards each other, negative (as on a saddle) away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentgeo.metrics import ExpectedMetric, FisherRaoMetric, Metric
from latentgeo.plot import overlays, theme
from latentgeo.plot.layout import lay_out
from latentgeo.plot.measure import _codes, _grid, _labels, _like, length_units

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder

CURVATURE = "RdBu"  # reversed: red is positive; both ends stay apart under colour-vision deficiency
QUANTILE = 0.9  # of |K| over the map: the ends of the colours


def curvature(
    metric: Metric,
    *,
    codes: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    resolution: int = 100,
    limit: float | None = None,
    decoder: Decoder | None = None,
    max_codes: int = 2000,
    title: str | None = None,
) -> go.Figure:
    """Heatmap of the Gauss curvature over a 2-D latent space.

    Parameters
    ----------
    metric : Metric
        Of latent dimension 2.
    codes : array of shape (n, 2), optional
        Drawn as points; they also set the bounds.
    labels : array of shape (n,), optional
        Colour of each code.
    bounds : (left, right, bottom, top), optional
        In latent units; around the codes if None.
    resolution : int
        Grid points along the shorter side.
    limit : float, optional
        |K| at the ends of the colour scale. None means the 90th percentile of |K|, at the codes where there are any:
        curvature has sharp peaks, which would drown everything else.
    decoder : Decoder, optional
        Tells where σ saturates (hatched); `metric.decoder` if None.
    max_codes : int
        At most this many codes are drawn, evenly picked.
    title : str, optional
        Replaces the first line of the title.

    Returns
    -------
    plotly.graph_objects.Figure
        The first trace is the heatmap, with z of shape (rows, columns); NaN where the metric is singular.

    Raises
    ------
    ValueError
        If the metric is not 2-D, an array has another shape or non-finite entries, or an option is out of range.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379.

    Examples
    --------
    >>> from latentgeo.metrics import PoincareBall
    >>> figure = curvature(PoincareBall(2), bounds=(-0.5, 0.5, -0.5, 0.5), resolution=5)
    >>> float(figure.data[0].z.max().round(6))
    -1.0
    """
    if metric.dim not in (None, 2):
        raise ValueError(f"`metric` must have latent dimension 2 to be drawn as a map, got {metric.dim}")
    if resolution < 2:
        raise ValueError(f"`resolution` must be at least 2 grid points, got {resolution}")
    if limit is not None and not (np.isfinite(limit) and limit > 0):
        raise ValueError(f"`limit` must be a positive number, got {limit!r}")
    if decoder is None:
        decoder = getattr(metric, "decoder", None)
    like = _like(metric, [], codes)
    points = _codes(codes, like)
    names = _labels(labels, points)
    x, y = _grid(bounds, points, [], resolution)
    axes = (torch.as_tensor(side, device=like.device) for side in (x, y))
    grid = torch.stack(torch.meshgrid(*axes, indexing="xy"), dim=-1)
    values = _values(metric, grid)  # single precision will do: no determinant of G is formed
    at_codes = values[:0, 0] if points is None else _values(metric, points)
    typical = at_codes if len(at_codes) else values
    size = np.abs(typical[np.isfinite(typical)])
    reach = limit or (float(np.quantile(size, QUANTILE)) if size.size else 0.0) or 1.0
    units = f"1 / ({length_units(metric)})²"
    level = overlays.saturation(decoder, grid)

    figure = go.Figure(layout={"template": theme.template()})
    figure.add_trace(_heatmap(x, y, values, reach, units))
    if level is not None:
        figure.add_traces(_veil(x, y, level))
        figure.add_traces(_dark(overlays.hatching(x, y, level)))
    if points is not None:
        where = points.cpu().double().numpy()
        figure.add_traces(overlays.code_traces(where, names, at_codes, "K", max_codes))
    lay_out(figure, [], x, y)
    what = type(metric).__name__
    if isinstance(metric, (ExpectedMetric, FisherRaoMetric)):
        what = "the expected metric" if isinstance(metric, ExpectedMetric) else "the Fisher–Rao metric"
    first = title or f"Gauss curvature of {what}"
    beyond = float((np.abs(values[np.isfinite(values)]) > reach).mean()) if np.isfinite(values).any() else 0.0
    second = f"K in {units}; colours end at ±{reach:.3g}, beyond which {beyond:.0%} of the map lies"
    figure.update_layout(title={"text": f"{first}<br><span style='font-size:{theme.SIZE}px'>{second}</span>"})
    return figure


def _values(metric: Metric, z: Tensor) -> NDArray[Any]:
    K = metric.gauss_curvature(z.to(metric.dtype or z.dtype), throw=False)
    return K.cpu().double().numpy()


def _heatmap(x: NDArray[Any], y: NDArray[Any], values: NDArray[Any], reach: float, units: str) -> go.Heatmap:
    ends = [f"≤ −{reach:.2g}", f"−{reach / 2:.2g}", "0", f"{reach / 2:.2g}", f"≥ {reach:.2g}"]
    return go.Heatmap(
        x=x,
        y=y,
        z=values,
        zmin=-reach,
        zmax=reach,
        zmid=0.0,
        colorscale=CURVATURE,
        reversescale=True,
        colorbar={
            "title": {"text": "Gauss curvature K", "side": "right"},
            "thickness": 18,
            "outlinewidth": 0,
            "tickvals": [-reach, -reach / 2, 0.0, reach / 2, reach],
            "ticktext": ends,
        },
        hovertemplate=f"z = (%{{x:.3g}}, %{{y:.3g}})<br>K = %{{z:.4g}} {units}<extra></extra>",
        hoverongaps=False,
        name="measure",  # where the layout looks for the colour bar
    )


def _veil(x: NDArray[Any], y: NDArray[Any], level: NDArray[Any]) -> list[go.BaseTraceType]:
    """White over the region where σ is saturated, so that what means nothing there does not catch the eye."""
    inside = level >= overlays.SATURATED
    if not inside.any():
        return []
    colour = [[0.0, theme.PAPER], [1.0, theme.PAPER]]
    common: dict[str, Any] = {"colorscale": colour, "showscale": False, "hoverinfo": "skip", "hoverongaps": False}
    veil = go.Heatmap(x=x, y=y, z=np.where(inside, 1.0, np.nan), opacity=0.7, name="saturated", **common)
    return [veil]


def _dark(traces: list[go.BaseTraceType]) -> list[go.BaseTraceType]:
    """Hatching that shows on a light map."""
    for trace in traces:
        if getattr(trace, "line", None) is not None and trace.line.color and "255" in str(trace.line.color):
            trace.line.color = "rgba(90,90,90,0.45)"
    return traces
