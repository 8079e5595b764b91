"""Densities of locally adaptive normal distributions over the measure heatmap, beside those of a Gaussian mixture.

After Arvanitidis, Hansen, Hauberg, "A locally adaptive normal distribution" (NeurIPS 2016), figures 1 and 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from latentgeo._calculus import check_integer
from latentgeo.learn.land import LAND
from latentgeo.plot import inputs, theme
from latentgeo.plot._panels import ground, panels_side_by_side
from latentgeo.plot.planes import Plane, labels_of

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

__all__ = ["land"]

_SHARES = (0.95, 0.8, 0.5)  # of the probability, within the contours
_COLOURS = ("#8fd3ff", "#ffffff", "#ffb347")
_DASHES = ("dot", "dash", "solid")
_ROOM = 1.7  # size of the map over that of the codes: the regions with most of the probability reach beyond them


def land(
    model: LAND,
    *,
    mixture: GaussianMixture | None = None,
    codes: ArrayLike | Tensor | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    resolution: int = 160,
    contour_resolution: int = 56,
    max_codes: int = 2000,
    plane: Plane | None = None,
    title: str | None = None,
) -> go.Figure:
    """Contours of a `LAND` density over the measure heatmap, beside a Gaussian mixture's.

    Contours bound the smallest regions that hold 50 %, 80 % and 95 % of the probability on the map; smallest in
    Riemannian volume for LAND and in latent area for the mixture, which are what their densities are of. On a plane of
    a latent space of more dimensions, densities are those at its codes, and the probability that which they give it: of
    codes that are known to lie there.

    Parameters
    ----------
    model : LAND
        Fitted, with a metric; on a 2-D latent space, or on any with a `plane`.
    mixture : GaussianMixture, optional
        Of scikit-learn, fitted; drawn in a panel of its own.
    codes : array of shape (n, d), optional
        Drawn as points; they also set the bounds.
    bounds : (left, right, bottom, top), optional
        In latent units, on the plane if there is one; around the codes, or the means, if None.
    resolution : int
        Grid points of the heatmap along its shorter side.
    contour_resolution : int
        Grid points of the density along the shorter side: one geodesic for each and each component, where it is near.
    max_codes : int
        At most this many codes are drawn, evenly picked.
    plane : Plane, optional
        As in `measure`; codes and means are projected onto it. Geodesics of more dimensions cost more: a
        `contour_resolution` of 24 will do.
    title : str, optional
        First line of the title.

    Returns
    -------
    plotly.graph_objects.Figure
        Traces "LAND 50 %", … and "mixture 50 %", … hold the log-densities.

    Raises
    ------
    TypeError, ValueError
        If `model` is no LAND, or is not of two dimensions and there is no plane of its own; if an array has another
        shape, or a count is out of range.

    Examples
    --------
    >>> from latentgeo.geodesics import LatentGraph
    >>> from latentgeo.metrics import Sphere
    >>> codes = 0.2 * np.random.RandomState(0).standard_normal((30, 2))
    >>> metric = Sphere(2)
    >>> model = LAND(metric, graph=LatentGraph(metric, grid=0), random_state=0).fit(codes)
    >>> figure = land(model, codes=codes, resolution=8, contour_resolution=6)
    >>> [trace.name for trace in figure.data if trace.type == "contour"]
    ['LAND 95 %', 'LAND 80 %', 'LAND 50 %']
    """
    if not isinstance(model, LAND):
        raise TypeError(f"`model` must be a LAND, got {type(model).__name__}")
    check_is_fitted(model)
    dim = model.n_features_in_
    if dim != 2 and plane is None:
        raise ValueError(f"`model` must be of 2 latent dimensions to be drawn as a map, got {dim}; pass `plane=`")
    if plane is not None and (not isinstance(plane, Plane) or plane.dim != dim):
        got = f"one of {plane.dim}" if isinstance(plane, Plane) else type(plane).__name__
        raise ValueError(f"`plane` must be a plot.Plane in the model's {dim} latent dimensions, got {got}")
    if mixture is not None and getattr(mixture, "n_features_in_", None) != dim:
        raise ValueError(f"`mixture` must be a GaussianMixture fitted to codes of {dim} dimensions")
    check_integer(resolution, "resolution", 2)
    check_integer(contour_resolution, "contour_resolution", 2)
    metric = model.metric_
    decoder = getattr(metric, "decoder", None)
    base = ground(
        metric,
        decoder,
        dim,
        codes,
        [_flat(model.means_, plane)],
        plane=plane,
        bounds=bounds,
        resolution=resolution,
        max_codes=max_codes,
        room=_ROOM,
    )
    x, y = base.x, base.y

    cx, cy = inputs.window((x[0], x[-1], y[0], y[-1]), [], contour_resolution)
    mesh = inputs.mesh(cx, cy, torch.device("cpu"), plane)
    near = mesh.reshape(-1, dim)
    area = float((cx[1] - cx[0]) * (cy[1] - cy[0]))
    with torch.no_grad():
        volume = metric.log_volume(near.to(base.like)).double().cpu().numpy()
    panels = {"LAND": (model.rough_score_samples(near), volume, model.means_)}
    if mixture is not None:
        flat = np.asarray(mixture.score_samples(near.numpy()), dtype=np.float64)
        panels["mixture"] = (flat, np.zeros_like(volume), np.asarray(mixture.means_))

    titles = {"LAND": "Locally adaptive normal distributions", "mixture": "Gaussian mixture"}
    figure = go.Figure(layout={"template": theme.template(), "showlegend": False, "margin": _MARGIN})
    floor = panels_side_by_side(figure, [titles[name] for name in panels], x, y, [[] for _ in panels], labels_of(plane))
    for number, (name, (log_density, log_measure, means)) in enumerate(panels.items(), start=1):
        on = base.lay(figure, number, len(panels), floor)
        total = log_density + log_measure
        mass = np.exp(np.where(np.isfinite(total), total, -np.inf)) * area  # no metric, no probability
        levels = _levels(log_density, mass)
        for trace in _contours(cx, cy, log_density.reshape(mesh.shape[:2]), levels, name):
            figure.add_trace(trace.update(on))
        figure.add_trace(_means(means, name, plane).update(on))
        unit = "Riemannian volume" if name == "LAND" else "latent area" if dim == 2 else "latent volume"
        figure.layout.annotations[number - 1].text = f"<b>{titles[name]}</b><br>density per unit of {unit}"
    more = 26 if plane is None else 52  # for the key
    figure.update_layout(height=figure.layout.height + more, margin={**_MARGIN, "b": _MARGIN["b"] + more})
    first = title or f"{base.field.what}, and where the probability is"
    theme.title_at_top(figure, first)
    key = "contours: smallest regions with 50 % (solid), 80 % (dashed), 95 % (dotted) of probability; diamonds: means"
    key += "; dots: codes" if base.codes is not None else ""
    if plane is not None:
        key += f"<br>on {plane.about}; " + ("codes and means" if base.codes is not None else "means") + " projected"
    figure.add_annotation(
        text=key, x=0.0, y=0.0, xref="paper", yref="paper", align="left",
        xanchor="left", yanchor="top", yshift=-62, showarrow=False, font={"size": theme.SMALL},
    )  # fmt: skip
    return figure


_MARGIN = {"l": 82, "r": 128, "t": 120, "b": 72}


def _levels(log_density: NDArray[Any], mass: NDArray[Any]) -> list[float]:
    """Log-densities above which the shares of the probability lie."""
    order = np.argsort(-log_density, kind="stable")
    reached = np.cumsum(mass[order])
    total = reached[-1]
    if not total > 0:
        return [np.nan] * len(_SHARES)
    return [float(log_density[order[np.searchsorted(reached, share * total)]]) for share in _SHARES]


def _contours(
    x: NDArray[Any], y: NDArray[Any], log_density: NDArray[Any], levels: list[float], name: str
) -> list[go.Contour]:
    finite = log_density[np.isfinite(log_density)]
    low = float(finite.max()) - 40 if finite.size else 0.0
    drawn = np.clip(np.where(np.isfinite(log_density), log_density, low), low, None)
    return [
        go.Contour(
            x=x,
            y=y,
            z=drawn,
            contours={"start": level, "end": level, "size": 1.0, "coloring": "none"},
            line={"width": 2.5, "color": colour, "dash": dash, "smoothing": 0.6},
            showscale=False,
            name=f"{name} {share:.0%}".replace("%", " %"),
            hovertemplate="z = (%{x:.3g}, %{y:.3g})<br>log-density %{z:.3f}<extra></extra>",
        )
        for level, share, dash, colour in zip(levels, _SHARES, _DASHES, _COLOURS, strict=True)
        if np.isfinite(level)
    ]


def _flat(means: NDArray[Any], plane: Plane | None) -> NDArray[Any]:
    return means if plane is None else plane.project(means)[0]


def _means(means: NDArray[Any], name: str, plane: Plane | None) -> go.Scatter:
    flat = _flat(means, plane)
    hover = "mean at (%{x:.3g}, %{y:.3g})"
    if plane is not None:
        hover += "<br>projected: %{customdata:.3g} latent units off this plane"
    told: dict[str, Any] = {"hovertemplate": hover + "<extra></extra>", "name": f"{name} means"}
    if plane is not None:
        told["customdata"] = plane.project(means)[1]
    marker = {"symbol": "diamond", "size": 13, "color": "#ffffff", "line": {"color": theme.INK, "width": 1.5}}
    return go.Scatter(x=flat[:, 0], y=flat[:, 1], mode="markers", marker=marker, **told)
