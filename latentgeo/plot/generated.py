"""What a generative model makes: its manifold as a grid, samples, traversals of latent axes, interpolations.

The manifold grid follows Kingma & Welling (2014, arXiv:1312.6114, figure 4), whose codes are equal steps of the prior's
distribution function; spherical interpolation is White (2016, arXiv:1609.04468).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from latentgeo._calculus import as_integers, as_numbers, check_integer, check_positive
from latentgeo._calculus.checks import is_number
from latentgeo._calculus.seeds import torch_random
from latentgeo.decoders import Decoder
from latentgeo.plot import theme
from latentgeo.plot._mosaics import Row, as_images, decoded, mosaic, panels_figure, rows_figure, trace
from latentgeo.plot.inputs import need_decoder, need_path
from latentgeo.plot.planes import coordinate

if TYPE_CHECKING:
    from latentgeo.geodesics import Geodesic


def manifold(
    decoder: Decoder,
    *,
    n: int = 20,
    coverage: float = 0.98,
    shape: tuple[int, ...] | None = None,
    title: str = "The decoded prior: codes at equal steps of the Gaussian distribution function",
) -> go.Figure:
    """Images decoded from a grid of 2-D codes, equal steps of the standard normal distribution function apart.

    Parameters
    ----------
    decoder : Decoder
        With two latent coordinates; its mean is what is drawn.
    n : int
        Images along each axis.
    coverage : float
        The prior's mass along each axis that the grid spans, between 0 and 1.
    shape : tuple of int, optional
        Shape of one image: (height, width), (1, height, width) or (3, height, width). The decoder's own if None.
    title : str
        The figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        One trace, "manifold", with all images side by side; the first coordinate grows to the right, the second
        upwards, and ticks give them in latent units.

    Raises
    ------
    ValueError
        If there are not two latent coordinates, data are no images, or a number is out of bounds.

    Examples
    --------
    >>> import latentgeo as lg
    >>> decoder = lg.wrap(torch.nn.Linear(2, 12).eval(), latent_dim=2, likelihood=lg.Deterministic())
    >>> manifold(decoder, n=5, shape=(3, 4)).data[0].z.shape
    (15, 20)
    """
    need_decoder(decoder)
    if decoder.latent_dim != 2:
        raise ValueError(f"`decoder` must have 2 latent coordinates, got {decoder.latent_dim}; see `traversals`")
    check_integer(n, "n", 2)
    if not is_number(coverage) or not 0 < coverage < 1:
        raise ValueError(f"`coverage` must be between 0 and 1, got {coverage!r}")
    z = ndtri(np.linspace((1 - coverage) / 2, (1 + coverage) / 2, n))
    codes = np.stack(np.meshgrid(z, z[::-1]), axis=-1).reshape(-1, 2)
    images = decoded(decoder, torch.as_tensor(codes), shape)
    pixels = mosaic(images, n, gap=0)
    height, width = images.shape[1:3]
    figure = go.Figure(layout={"template": theme.template(), "title": {"text": title}})
    figure.add_trace(trace(pixels, "manifold", "x", "y"))
    every = range(0, n, max(1, -(-n // 7)))
    ticks = [f"{z[i]:.2f}".replace("-", "−") for i in every]
    figure.update_xaxes(
        title_text="z₁ (latent units)",
        tickvals=[(i + 0.5) * width - 0.5 for i in every],
        ticktext=ticks,
        constrain="domain",
        constraintoward="left",
    )
    figure.update_yaxes(
        title_text="z₂ (latent units)",
        tickvals=[(n - 1 - i + 0.5) * height - 0.5 for i in every],
        ticktext=ticks,
        range=[n * height - 0.5, -0.5],
        scaleanchor="x",
        constrain="domain",
    )
    margin, side = {"l": 90, "r": 20, "t": 70, "b": 80}, 1000
    tall = round(side * pixels.shape[0] / pixels.shape[1])
    figure.update_layout(width=side + 110, height=tall + 150, margin=margin)
    return figure


def samples(
    source: Decoder | Tensor | NDArray[Any] | Mapping[str, Any],
    *,
    n: int = 36,
    random_state: int = 0,
    shape: tuple[int, ...] | None = None,
    title: str = "Samples",
) -> go.Figure:
    """Images that models made, one square of them per model: to compare latent sizes, or samples with data.

    Parameters
    ----------
    source : Decoder, images, or a mapping of names to these
        Of a Decoder, the means of standard normal codes are drawn; of images (N, ...), the first `n`.
    n : int
        Images per square.
    random_state : int
        Seed of the codes.
    shape : tuple of int, optional
        Shape of one image. That of the decoder, or of one entry, if None.
    title : str
        The figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        One trace per name, of that name.

    Raises
    ------
    ValueError
        If there is nothing to draw, or data are no images.

    Examples
    --------
    >>> sizes = {"noise": torch.rand(9, 4, 4), "more noise": torch.rand(9, 4, 4)}
    >>> [(trace.name, trace.z.shape) for trace in samples(sizes, n=9).data]  # a line of one pixel between images
    [('noise', (14, 14)), ('more noise', (14, 14))]
    """
    check_integer(n, "n")
    named = dict(source) if isinstance(source, Mapping) else {"samples": source}
    if not named:
        raise ValueError("`source` must hold at least one model or set of images, got none")
    panels = {}
    for name, item in named.items():
        if isinstance(item, Decoder):
            codes = torch.randn(n, item.latent_dim, generator=torch_random(random_state))
            images = decoded(item, codes, shape)
        else:
            several = isinstance(item, (list, tuple)) or getattr(item, "ndim", 0) > 0
            values = as_numbers(item[:n] if several else item, "source").float()
            if values.ndim < 2 or len(values) == 0:
                raise ValueError(f"`source` must hold at least one image of {name!r}, got shape {tuple(values.shape)}")
            images = as_images(values, tuple(values.shape[1:]) if shape is None else shape)
        panels[str(name)] = mosaic(images, math.ceil(math.sqrt(len(images))))
    columns = len(panels) if len(panels) < 4 else 2 if len(panels) == 4 else 3
    return panels_figure(panels, columns, title, named=isinstance(source, Mapping))


def traversals(
    decoder: Decoder,
    z: Tensor | None = None,
    *,
    axes: Sequence[int] | None = None,
    span: float = 3.0,
    n: int = 11,
    shape: tuple[int, ...] | None = None,
    title: str = "Traversals: one latent coordinate at a time",
) -> go.Figure:
    """Images decoded along single latent axes through one code.

    Parameters
    ----------
    decoder : Decoder
        Its mean is what is drawn.
    z : Tensor of shape (d,), optional
        The code whose other coordinates are kept; the origin if None.
    axes : sequence of int, optional
        Which coordinates, from 0; all, up to 20, if None.
    span : float
        Coordinates go from -span to span, in latent units.
    n : int
        Images per row.
    shape : tuple of int, optional
        Shape of one image; the decoder's own if None.
    title : str
        The figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        One trace per axis, named z₁, z₂, …

    Raises
    ------
    ValueError
        If `z` or an axis does not fit the decoder, data are no images, or a number is out of bounds.

    Examples
    --------
    >>> import latentgeo as lg
    >>> decoder = lg.wrap(torch.nn.Linear(3, 12).eval(), latent_dim=3, likelihood=lg.Deterministic())
    >>> [trace.name for trace in traversals(decoder, axes=[0, 2], shape=(3, 4)).data]
    ['z₁', 'z₃']
    """
    need_decoder(decoder)
    d = decoder.latent_dim
    check_integer(n, "n", 2)
    check_positive(span, "span")
    start = torch.zeros(d) if z is None else as_numbers(z, "z").detach().cpu()
    if tuple(start.shape) != (d,):
        raise ValueError(f"`z` must be of shape ({d},), got {tuple(start.shape)}")
    chosen = list(range(min(d, 20))) if axes is None else as_integers(axes)
    if not chosen or not all(0 <= axis < d for axis in chosen):
        raise ValueError(f"`axes` must be numbers from 0 to {d - 1}, got {axes}")
    steps = torch.linspace(-span, span, n, dtype=torch.float64)
    rows = []
    for axis in chosen:
        codes = start.double().repeat(n, 1)
        codes[:, axis] = steps
        rows.append(Row(decoded(decoder, codes, shape), coordinate(axis), coordinate(axis)))
    return rows_figure([rows], title, ticks=[f"{step:.1f}".replace("-", "−") for step in steps.tolist()])


def interpolations(
    decoder: Decoder,
    path: Geodesic,
    *,
    n: int = 11,
    shape: tuple[int, ...] | None = None,
    title: str = "Interpolations",
) -> go.Figure:
    """Images decoded along the straight line, the great arc and the geodesic between the same two codes.

    Parameters
    ----------
    decoder : Decoder
        Its mean is what is drawn.
    path : Geodesic
        A result of `connect`, with any batch shape; each curve gives three rows.
    n : int
        Images per row, evenly spaced in each curve's parameter.
    shape : tuple of int, optional
        Shape of one image; the decoder's own if None.
    title : str
        The figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        Three traces per curve: "A: straight", "A: spherical", "A: geodesic" (or "A: failed").

    Raises
    ------
    ValueError
        If data are no images, or `n` is below 2.

    Examples
    --------
    >>> import latentgeo as lg
    >>> decoder = lg.wrap(torch.nn.Linear(2, 12).eval(), latent_dim=2, likelihood=lg.Deterministic())
    >>> path = lg.connect(lg.metric(decoder), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    >>> [trace.name for trace in interpolations(decoder, path, shape=(3, 4)).data]
    ['A: straight', 'A: spherical', 'A: geodesic']
    """
    need_path(path)
    need_decoder(decoder, path.z.shape[-1])
    check_integer(n, "n", 2)
    t = torch.linspace(0, 1, n, dtype=path.z.dtype, device=path.z.device)
    curves = path(t).detach().reshape(-1, n, path.z.shape[-1])
    groups = []
    for index, (curve, done) in enumerate(zip(curves, path.converged.reshape(-1).tolist(), strict=True)):
        pair = theme.letter(index)
        kinds = {
            "straight": torch.lerp(curve[0], curve[-1], t[:, None]),
            "spherical": slerp(curve[0], curve[-1], t),
            "geodesic" if done else "failed": curve,
        }
        texts = [f"<b>{pair}</b>  straight", "spherical", list(kinds)[-1]]
        groups.append(
            [
                Row(decoded(decoder, codes, shape), f"{pair}: {kind}", text)
                for (kind, codes), text in zip(kinds.items(), texts, strict=True)
            ]
        )
    return rows_figure(groups, title)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    r"""Spherical interpolation: a point whose direction and length go from those of a to those of b.

    Parameters
    ----------
    a, b : Tensor of shape (d,)
        Codes.
    t : Tensor of shape (n,)
        From 0 (at `a`) to 1 (at `b`).

    Returns
    -------
    Tensor of shape (n, d)
        :math:`\frac{\sin((1-t)\omega)}{\sin\omega} a + \frac{\sin(t\omega)}{\sin\omega} b`, :math:`\omega` the angle
        between the codes; the straight line where they are parallel or one is zero.

    Examples
    --------
    >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.5]))
    tensor([[0.7071, 0.7071]])
    """
    t = t[:, None]
    lengths = a.norm() * b.norm()
    cosine = float((a @ b / lengths).clamp(-1, 1)) if float(lengths) > 0 else 1.0
    angle = math.acos(cosine)
    if math.sin(angle) < 1e-6:
        return torch.lerp(a, b, t)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / math.sin(angle)
