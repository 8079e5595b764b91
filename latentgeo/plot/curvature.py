"""Map of the Gauss curvature of a 2-D latent space: where geodesics draw together, and where they part.

Positive curvature (as on a sphere) bends geodesics towards each other, negative (as on a saddle) away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from numpy.typing import ArrayLike
from torch import Tensor

from latentgeo.plot.measure import measure

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder
    from latentgeo.geodesics import Geodesic
    from latentgeo.metrics import Metric
    from latentgeo.plot.planes import Plane


def curvature(
    metric: Metric,
    *,
    codes: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    resolution: int = 100,
    limit: float | None = None,
    paths: Geodesic | Sequence[Geodesic] | None = None,
    plane: Plane | None = None,
    decoder: Decoder | None = None,
    max_codes: int = 2000,
    title: str | None = None,
) -> go.Figure:
    """Heatmap of the Gauss curvature over a 2-D latent space, or of the sectional curvature over a plane.

    Parameters
    ----------
    metric : Metric
        Of latent dimension 2, or of any with a `plane`.
    codes : array of shape (n, d), optional
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
    paths : Geodesic or sequence of Geodesic, optional
        Drawn with the straight lines between their ends.
    plane : Plane, optional
        As in `measure`; the curvature is then the sectional curvature of its two directions.
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
        If the metric is not 2-D and there is no plane, an array has another shape or non-finite entries, or an option
        is out of range.

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
    return measure(
        metric,
        codes=codes,
        labels=labels,
        paths=paths,
        bounds=bounds,
        resolution=resolution,
        term="curvature",
        plane=plane,
        limit=limit,
        decoder=decoder,
        max_codes=max_codes,
        title=title,
    )
