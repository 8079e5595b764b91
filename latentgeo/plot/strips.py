"""Decoded strips: what the decoder shows along a geodesic and along the straight line between the same two codes.

The comparison of Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018), figure 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import torch

from latentgeo._calculus import check_integer
from latentgeo.plot import theme
from latentgeo.plot._mosaics import Row, decoded, rows_figure
from latentgeo.plot.inputs import need_decoder, need_path

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder
    from latentgeo.geodesics import Geodesic


def strip(
    decoder: Decoder,
    path: Geodesic,
    *,
    n: int = 11,
    shape: tuple[int, ...] | None = None,
    title: str = "Decoded along the geodesic and along the straight line",
) -> go.Figure:
    """Decoded images along each geodesic of a result, and along the straight line between its ends.

    Parameters
    ----------
    decoder : Decoder
        Its mean is what is drawn.
    path : Geodesic
        A result of `connect`, with any batch shape; each curve gives two rows.
    n : int
        Images per row, evenly spaced in the curve's parameter (constant speed along the geodesic).
    shape : tuple of int, optional
        Shape of one decoded datum: (height, width), (1, height, width) or (3, height, width).
        The decoder's own shape if None; data that are no images are drawn as columns of a matrix.
    title : str
        The figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        One heatmap (or, for colour images, one image) per curve and row; its z holds the decoded values. Rows of curves
        that did not converge say so.

    Raises
    ------
    ValueError
        If `n` is below 2 or `shape` does not have as many entries as one decoded datum.

    Examples
    --------
    >>> import latentgeo as lg
    >>> net = torch.nn.Linear(2, 12).eval()
    >>> decoder = lg.wrap(net, latent_dim=2, likelihood=lg.Deterministic())
    >>> path = lg.connect(lg.PullbackMetric(decoder.embedding), torch.zeros(2), torch.ones(2))
    >>> [trace.z.shape for trace in strip(decoder, path, n=5, shape=(3, 4)).data]
    [(3, 24), (3, 24)]
    """
    rows = strip_rows(decoder, path, n=n, shape=shape)
    # the two rows of one pair stand closer together than the pairs do
    return rows_figure([rows[i : i + 2] for i in range(0, len(rows), 2)], title)


def strip_rows(decoder: Decoder, path: Geodesic, *, n: int, shape: tuple[int, ...] | None, first: int = 0) -> list[Row]:
    """Decode both curves of each pair; rows in drawing order, the first pair's letter that of number `first`."""
    need_path(path)
    need_decoder(decoder, path.z.shape[-1])
    check_integer(n, "n", 2)
    t = torch.linspace(0, 1, n, dtype=path.z.dtype, device=path.z.device)
    curves = path(t).detach().reshape(-1, n, path.z.shape[-1])
    lines = torch.lerp(curves[:, :1], curves[:, -1:], t[:, None])
    names = ["geodesic" if done else "failed" for done in path.converged.reshape(-1).tolist()]
    rows = []
    for index, (name, curve, line) in enumerate(zip(names, curves, lines, strict=True), start=first):
        pair = theme.letter(index)
        rows.append(Row(decoded(decoder, curve, shape, columns=True), f"{pair}: {name}", f"<b>{pair}</b>  {name}"))
        rows.append(Row(decoded(decoder, line, shape, columns=True), f"{pair}: straight line", "straight line"))
    return rows
