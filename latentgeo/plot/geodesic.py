"""A geodesic beside the straight line between the same codes: what the decoder shows along both, and how fast both go.

After Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018), figure 5. A geodesic has constant speed; a
straight line rushes through the places where the decoder changes fast, and its length is the area under its speed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentgeo._calculus import check_integer
from latentgeo.geodesics import Geodesic, curve_length
from latentgeo.metrics import Metric, need_metric
from latentgeo.plot import theme
from latentgeo.plot._mosaics import add_row
from latentgeo.plot.fields import length_units
from latentgeo.plot.inputs import need_path
from latentgeo.plot.strips import strip_rows

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder

__all__ = ["geodesic"]

MOST_CURVES = 6
TIMES = 401  # of the speed
MARGIN = {"l": 150, "r": 30, "t": 104, "b": 20}
PANEL, ROW_GAP, PANEL_GAP, BLOCK_GAP = 190, 4, 44, 62  # pixels


def geodesic(
    metric: Metric,
    path: Geodesic,
    *,
    decoder: Decoder | None = None,
    n: int = 11,
    shape: tuple[int, ...] | None = None,
    title: str = "Along the geodesic and along the straight line",
) -> go.Figure:
    """Decoded strips and speed of each geodesic of a result, and of the straight line between its ends.

    The images stand above the times they are decoded at.

    Parameters
    ----------
    metric : Metric
        Of any latent dimension; measures the speeds.
    path : Geodesic
        A result of `connect` of at most six curves.
    decoder : Decoder, optional
        Decodes the images; `metric.decoder` if None, and no images are drawn where there is none.
    n : int
        Images per strip, at equal times.
    shape : tuple of int, optional
        Shape of one decoded image; the decoder's own if None.
    title : str

    Returns
    -------
    plotly.graph_objects.Figure
        Traces "A: geodesic" and "A: straight line" of type scatter hold time and speed |ż|, in the metric's units of
        length per unit of time, which is all of the curve. Those of the same names that are images hold the strips.

    Raises
    ------
    ValueError
        If there are more than six curves, `n` is below 2, or `shape` has not as many entries as a decoded datum.

    Examples
    --------
    >>> import latentgeo as lg
    >>> path = lg.connect(lg.Sphere(2), torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]))
    >>> speed = geodesic(lg.Sphere(2), path).data[0].y
    >>> bool(abs(speed - path.length.item()).max() < 1e-3)
    True
    """
    need_metric(metric)
    need_path(path)
    check_integer(n, "n", 2)
    z = path.z.reshape(-1, *path.z.shape[-2:])
    if not 1 <= len(z) <= MOST_CURVES:
        raise ValueError(f"`path` must hold 1 to {MOST_CURVES} curves to be drawn side by side, got {len(z)}")
    decoder = getattr(metric, "decoder", None) if decoder is None else decoder
    rows = [] if decoder is None else strip_rows(decoder, path, n=n, shape=shape)
    units = length_units(metric)
    room = theme.WIDTH - MARGIN["l"] - MARGIN["r"]
    strips = [row.height * room / row.width for row in rows]
    blocks = [sum(strips[2 * k : 2 * k + 2]) + (ROW_GAP + 10 if rows else 0) for k in range(len(z))]
    total = sum(blocks) + len(z) * (PANEL + PANEL_GAP) + (len(z) - 1) * (BLOCK_GAP - PANEL_GAP)

    figure = go.Figure(layout={"template": theme.template()})
    t, along, straight, lengths = _speeds(metric, path)
    status = [s.value for s in np.asarray(path.status, dtype=object).reshape(-1)]
    half = 0.5 / (n - 1) if rows else 0.0  # so that each image stands above its time
    edge = 0.0
    number = 0
    for k in range(len(z)):
        for row, tall in zip(rows[2 * k : 2 * k + 2], strips[2 * k : 2 * k + 2], strict=True):
            number += 1
            add_row(figure, row, number, (0.0, 1.0), (max(0.0, 1 - (edge + tall) / total), 1 - edge / total))
            edge += tall + ROW_GAP
        edge += 10 + 26 - ROW_GAP if rows else 26
        number += 1
        top = 1 - edge / total
        axes = _panel(figure, number, (max(0.0, top - (PANEL - 26) / total), top), (-half, 1 + half), units)
        name = theme.letter(k)
        converged = bool(path.converged.reshape(-1)[k])
        figure.add_traces(_lines(name, t, along[k], straight[k], units, converged, status[k], axes, k == 0))
        length, error = (float(x.reshape(-1)[k]) for x in (path.length, path.length_error))
        told = f"length {length:.4g} ± {error:.2g} {units}" if converged else "not converged"
        gain = f", {lengths[k] / length:.2f} times as long" if converged and length > 0 else ""
        figure.add_annotation(
            text=f"<b>{name}</b>  geodesic: {told}; straight line: {lengths[k]:.4g} {units}{gain}",
            x=0.0, y=top, xref="paper", yref="paper", xanchor="left", yanchor="bottom", yshift=3, showarrow=False,
            font={"size": theme.SMALL},
        )  # fmt: skip
        edge += PANEL - 26 + BLOCK_GAP
    figure.update_layout(
        title={"text": theme.heading(title, "the area under each speed is a length")},
        height=round(total) + MARGIN["t"] + MARGIN["b"],
        margin=MARGIN,
        hovermode="closest",
        legend={"orientation": "h", "x": 1.0, "xanchor": "right", "y": 1 + 12 / total, "yanchor": "bottom"},
    )
    return figure


def _speeds(metric: Metric, path: Geodesic) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], list[float]]:
    """Times (m,), speeds of geodesics and of straight lines (curves, m), and the straight lines' lengths."""
    t = torch.linspace(0, 1, TIMES, dtype=path.z.dtype, device=path.z.device)
    with torch.no_grad():
        d = path.z.shape[-1]
        z, v = (x.reshape(-1, TIMES, d) for x in (path(t), path.velocity(t)))
        a, b = z[:, :1], z[:, -1:]
        lines = torch.lerp(a, b, t[:, None])
        lengths = curve_length(metric, lines)
        along = _norm(metric, z, v)
        straight = _norm(metric, lines, (b - a).expand_as(lines))
    return t.cpu().double().numpy(), along, straight, lengths.reshape(-1).tolist()


def _norm(metric: Metric, z: Tensor, v: Tensor) -> NDArray[Any]:
    flat = metric.norm(z.reshape(-1, z.shape[-1]), v.reshape(-1, z.shape[-1]))
    return np.asarray(flat.reshape(z.shape[:-1]).cpu().double().numpy())


def _panel(
    figure: go.Figure, number: int, domain: tuple[float, float], reach: tuple[float, float], units: str
) -> dict[str, str]:
    suffix = "" if number == 1 else str(number)
    title = {"font": {"size": theme.SMALL}}
    figure.update_layout(
        {
            f"xaxis{suffix}": {
                "domain": [0.0, 1.0],
                "anchor": f"y{suffix}",
                "range": list(reach),
                "tickvals": [0, 0.25, 0.5, 0.75, 1],
                "title": {"text": "time t", "standoff": 2, **title},
            },
            f"yaxis{suffix}": {
                "domain": list(domain),
                "anchor": f"x{suffix}",
                "rangemode": "tozero",
                "nticks": 5,
                "title": {"text": f"speed<br>({units})", **title},
            },
        }
    )
    return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}


def _lines(
    name: str, t: NDArray[Any], along: NDArray[Any], straight: NDArray[Any], units: str, converged: bool, status: str,
    axes: dict[str, str], legend: bool,
) -> list[go.Scatter]:  # fmt: skip
    hover = "t = %{x:.3f}<br>speed %{y:.4g} " + units
    solid = {"color": theme.INK, "width": 3} if converged else {"color": theme.FAILED, "width": 3, "dash": "dot"}
    what = "geodesic" if converged else "failed"
    common: dict[str, Any] = {"x": t, "mode": "lines", "showlegend": False, "meta": theme.ON_PAGE, **axes}
    traces = [
        go.Scatter(
            y=along, line=solid, name=f"{name}: {what}", hovertemplate=f"{name}: {status}<br>{hover}<extra></extra>",
            **common,
        ),
        go.Scatter(
            y=straight, line={"color": theme.FAINT, "width": 2.5, "dash": "8px,5px"}, name=f"{name}: straight line",
            hovertemplate=f"{name}: straight line<br>{hover}<extra></extra>", **common,
        ),
    ]  # fmt: skip
    if legend:
        for text, line in (("geodesic", {"color": theme.INK, "width": 3}), ("straight line", traces[1].line)):
            traces.append(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=text))
    return traces
