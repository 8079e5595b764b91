"""The measure heatmap: ½ log det G over a 2-D latent space, with codes, curves and decoded strips.

Shows the measure of the *expected metric* (Arvanitidis, Hansen, Hauberg 2018, figure 4), which is not the expected
measure (Hauberg, "Only Bayes should learn a manifold", 2018): the title says so, and which term is drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentgeo._calculus import RankWarning
from latentgeo._calculus.linalg import half_log_det
from latentgeo.geodesics import Geodesic
from latentgeo.metrics import ExpectedMetric, FisherRaoMetric, Metric
from latentgeo.plot import overlays, theme
from latentgeo.plot.layout import PANEL, lay_out
from latentgeo.plot.strips import Row, strip_rows

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder

Term = Literal["both", "mean", "std"]
ROOM = 1.55  # size of the map over that of the codes: the rim around them belongs to the picture
SPAN = 20.0  # most that the colours tell apart: where σ dies away, ½ log det G falls without end
TILES = 8  # decoded images per strip


def log_measure(metric: Metric, z: Tensor, *, term: Term = "both") -> Tensor:
    """Half the log-determinant of a metric, or of one of the two terms of the expected metric.

    Parameters
    ----------
    metric : Metric
        For a single term, one with `mean_tensor` and `std_tensor` (`ExpectedMetric`).
    z : Tensor of shape (*batch, d)
        Latent codes.
    term : {"both", "mean", "std"}
        The whole metric, JμᵀJμ alone, or JσᵀJσ alone.

    Returns
    -------
    Tensor of shape (*batch,)
        ½ log det, in log of (units of the embedding per latent unit)ᵈ; −inf where the tensor is singular.

    Raises
    ------
    ValueError
        If `term` is none of the three, or the metric has no such term.

    Examples
    --------
    >>> from latentgeo.metrics import PoincareBall
    >>> log_measure(PoincareBall(2), torch.zeros(2)).item()  # G = 4·I at the origin, det G = 16
    1.386294...
    """
    if term not in ("both", "mean", "std"):
        raise ValueError(f"`term` must be 'both', 'mean' or 'std', got {term!r}")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)  # a singular place is drawn as one
        if term == "both":
            return metric.log_volume(z)
        if not isinstance(metric, ExpectedMetric):
            raise ValueError(f"`term={term!r}` needs an ExpectedMetric, which has two terms; got {metric!r}")
        return half_log_det(metric.mean_tensor(z) if term == "mean" else metric.std_tensor(z))


def measure(
    metric: Metric,
    *,
    codes: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    paths: Geodesic | Sequence[Geodesic] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    resolution: int = 160,
    term: Term = "both",
    decoder: Decoder | None = None,
    strips: bool = False,
    shape: tuple[int, ...] | None = None,
    max_codes: int = 5000,
    title: str | None = None,
) -> go.Figure:
    """Heatmap of the log measure element over a 2-D latent space.

    Parameters
    ----------
    metric : Metric
        Of latent dimension 2.
    codes : array of shape (n, 2), optional
        Drawn as points; they also set the bounds.
    labels : array of shape (n,), optional
        Colour of each code.
    paths : Geodesic or sequence of Geodesic, optional
        Drawn with the straight lines between their ends; curves that did not converge look different.
    bounds : (left, right, bottom, top), optional
        In latent units; around codes and curves if None.
    resolution : int
        Grid points along the shorter side.
    term : {"both", "mean", "std"}
        What to draw of an `ExpectedMetric`: all of it, its mean part, its σ part.
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
        If the metric is not 2-D, an array has another shape or non-finite entries, `term` does not exist, or strips
        are asked for without curves or a decoder.

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
    if metric.dim not in (None, 2):
        raise ValueError(f"`metric` must have latent dimension 2 to be drawn as a map, got {metric.dim}")
    if resolution < 2:
        raise ValueError(f"`resolution` must be at least 2 grid points, got {resolution}")
    if decoder is None:
        decoder = getattr(metric, "decoder", None)
    results = _as_list(paths)
    like = _like(metric, results, codes)
    points = _codes(codes, like)
    names = _labels(labels, points)
    curves = [curve for result in results for curve in overlays.curves(metric, result)]

    x, y = _grid(bounds, points, curves, resolution)
    axes = (torch.as_tensor(side, device=like.device) for side in (x, y))
    grid = torch.stack(torch.meshgrid(*axes, indexing="xy"), dim=-1)
    # A rim of σ can be 10⁸ times steeper across than along: single precision would take it for singular.
    exact = _in_double(metric)
    values = _values(exact, grid, term)
    what, formula, units = _describe(metric, term, decoder)
    level = overlays.saturation(decoder, grid)

    figure = go.Figure(layout={"template": theme.template()})
    figure.add_traces(_heatmap(x, y, values, level, formula, units))
    if level is not None:
        figure.add_traces(overlays.hatching(x, y, level))
    if points is not None:
        heights = _values(exact, points, term)
        figure.add_traces(overlays.code_traces(points.cpu().double().numpy(), names, heights, formula, max_codes))
    figure.add_traces(overlays.curve_traces(curves, length_units(metric)))

    rows: list[Row] = []
    if strips:
        if decoder is None or not results:
            raise ValueError("`strips` needs `paths` and a decoder (`decoder=` or a metric made from one)")
        rows = [row for result in results for row in strip_rows(decoder, result, n=TILES, shape=shape)]
    overlays.reletter(rows)
    lay_out(figure, rows, x, y)
    first = title or what
    second = f"{what}: {formula}" if title else formula
    figure.update_layout(title={"text": f"{first}<br><span style='font-size:{theme.SIZE}px'>{second}</span>"})
    return figure


def _in_double(metric: Metric) -> Metric:
    """The same metric in double precision, where it is made from a decoder that can be cast."""
    if not isinstance(metric, (ExpectedMetric, FisherRaoMetric)) or metric.dtype != torch.float32:
        return metric
    if metric.device is not None and metric.device.type == "mps":  # has no double precision
        return metric
    try:
        return type(metric)(metric.decoder.to(torch.float64))
    except TypeError:  # a plain function has nothing to cast
        return metric


def _values(metric: Metric, z: Tensor, term: Term) -> NDArray[Any]:
    return log_measure(metric, z.to(metric.dtype or z.dtype), term=term).cpu().double().numpy()


def _as_list(paths: Geodesic | Iterable[Geodesic] | None) -> list[Geodesic]:
    if paths is None:
        return []
    return [paths] if isinstance(paths, Geodesic) else list(paths)


def _like(metric: Metric, results: list[Geodesic], codes: Any) -> Tensor:
    """A tensor with the dtype and device that the metric wants."""
    embedding = metric.embedding
    if embedding is not None and embedding.dtype is not None:
        return torch.empty(0, dtype=embedding.dtype, device=embedding.device)
    if results:
        return results[0].z.new_empty(0)
    if isinstance(codes, Tensor) and codes.is_floating_point():
        return codes.new_empty(0)
    return torch.empty(0, dtype=torch.float64)


def _codes(codes: Any, like: Tensor) -> Tensor | None:
    if codes is None:
        return None
    points = torch.as_tensor(codes).detach().to(dtype=like.dtype, device=like.device)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"`codes` must have shape (n, 2), got {tuple(points.shape)}")
    if not torch.isfinite(points).all():
        bad = int((~torch.isfinite(points).all(dim=1)).sum())
        raise ValueError(f"`codes` must be finite, got {bad} of {len(points)} rows with NaN or infinity")
    return points


def _labels(labels: Any, points: Tensor | None) -> NDArray[Any] | None:
    if labels is None:
        return None
    names = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    expected = None if points is None else (len(points),)
    if names.shape != expected:
        raise ValueError(f"`labels` must have one entry per code, shape {expected}, got {names.shape}")
    return names


def _grid(
    bounds: tuple[float, float, float, float] | None,
    points: Tensor | None,
    curves: list[overlays.Curve],
    resolution: int,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Grid coordinates along each axis; square cells, at least `resolution` along the shorter side."""
    if bounds is None:
        shown = [np.concatenate([c.z, c.line]) for c in curves]
        if points is not None and len(points):
            shown.append(points.cpu().double().numpy())
        everything = np.concatenate(shown) if shown else np.zeros((0, 2))
        everything = everything[np.isfinite(everything).all(axis=1)]
        if not len(everything):
            everything = np.array([[-3.0, -3.0], [3.0, 3.0]])
        low, high = everything.min(axis=0), everything.max(axis=0)
        middle, size = (low + high) / 2, np.maximum((high - low) * ROOM, 1e-3)
        # The map fills the panel: the shorter side grows until the shapes agree.
        shape = np.array(PANEL) / PANEL[1]
        half = shape * max(size / shape) / 2
        left, bottom = middle - half
        right, top = middle + half
    else:
        left, right, bottom, top = (float(edge) for edge in bounds)
        if not (np.isfinite([left, right, bottom, top]).all() and left < right and bottom < top):
            raise ValueError(f"`bounds` must be (left, right, bottom, top), finite and in order, got {bounds}")
    cell = min(right - left, top - bottom) / (resolution - 1)
    return (
        np.linspace(left, right, round((right - left) / cell) + 1),
        np.linspace(bottom, top, round((top - bottom) / cell) + 1),
    )


def _describe(metric: Metric, term: Term, decoder: Decoder | None) -> tuple[str, str, str]:
    """What is drawn, its formula, and its units."""
    if isinstance(metric, ExpectedMetric):
        units = "log of data units² per latent unit²"
        if term == "mean":
            return "Measure of the expected metric, mean part only", "½ log det JμᵀJμ", units
        if term == "std":
            return "Measure of the expected metric, σ part only", "½ log det JσᵀJσ", units
        if decoder is not None and decoder.std_embedding is None:
            return "Measure of the expected metric, mean part (σ is constant)", "½ log det JμᵀJμ", units
        return "Measure of the expected metric, mean and σ parts", "½ log det(JμᵀJμ + JσᵀJσ)", units
    if isinstance(metric, FisherRaoMetric):
        return "Measure of the Fisher–Rao metric", "½ log det G", "log of nats per latent unit²"
    return f"Measure of {type(metric).__name__}", "½ log det G", "log of area per latent unit²"


def length_units(metric: Metric) -> str:
    """What a metric's lengths are measured in.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> length_units(Sphere(2))
    'units of the metric'
    """
    if isinstance(metric, FisherRaoMetric):
        return "√nat"
    return "data units" if isinstance(metric, ExpectedMetric) else "units of the metric"


def _heatmap(
    x: NDArray[Any], y: NDArray[Any], values: NDArray[Any], level: NDArray[Any] | None, formula: str, units: str
) -> list[go.BaseTraceType]:
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (2, 99.5)) if finite.size else (0.0, 1.0)
    low = max(low, high - SPAN)
    share = "" if level is None else "<br>σ at %{customdata:.0%} of its bound"
    traces = [
        go.Heatmap(
            x=x,
            y=y,
            z=np.where(np.isfinite(values), values, np.nan),
            customdata=level,
            zmin=low,
            zmax=max(high, low + 1e-6),
            colorscale=theme.MEASURE,
            colorbar={
                "title": {"text": "½ log det G" if "+" in formula else formula, "side": "right"},
                "thickness": 18,
                "outlinewidth": 0,
            },
            hovertemplate=f"z = (%{{x:.3g}}, %{{y:.3g}})<br>{formula} = %{{z:.3f}}<br>{units}{share}<extra></extra>",
            hoverongaps=False,
            name="measure",
        )
    ]
    singular = np.isneginf(values)
    if singular.any():
        traces.append(
            go.Heatmap(
                x=x,
                y=y,
                z=np.where(singular, 1.0, np.nan),
                colorscale=[[0, theme.SINGULAR], [1, theme.SINGULAR]],
                showscale=False,
                showlegend=True,
                legend="legend2",
                hoverongaps=False,
                name="−∞ (singular)",
                hovertemplate="z = (%{x:.3g}, %{y:.3g})<br>" + formula + " = −∞: singular here, some direction of the "
                "latent space changes nothing<extra></extra>",
            )
        )
    return traces
