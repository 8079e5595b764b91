"""What truncation trades: precision and recall, density and coverage of samples against its level.

After Kynkäänniemi, Karras, Laine, Lehtinen, Aila (NeurIPS 2019, arXiv:1904.06991), figure 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from latentgeo.plot import theme

if TYPE_CHECKING:
    from latentgeo.train.scores import TruncationCurve


def truncation(curve: TruncationCurve, *, title: str = "What truncation trades") -> go.Figure:
    """Scores of samples against the level of truncation, and precision against recall.

    Parameters
    ----------
    curve : TruncationCurve
        As `latentgeo.train.scores.truncation_curve` returns it.
    title : str
        The figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        Left, one line per score; right, "precision and recall", a point per level.

    Examples
    --------
    >>> import torch
    >>> from latentgeo.train.scores import truncation_curve
    >>> real = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    >>> figure = truncation(truncation_curve(lambda z: z, real, (0.5, 1.0), dim=2))
    >>> [trace.name for trace in figure.data]
    ['precision', 'recall', 'density', 'coverage', 'precision and recall']
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.11, column_widths=[0.58, 0.42])
    styles = (("precision", 5, "solid"), ("recall", 4, "solid"), ("density", 5, "dot"), ("coverage", 4, "dot"))
    for name, colour, dash in styles:
        line = {"color": theme.LABELS[colour], "dash": dash, "width": 2.5}
        values = getattr(curve, name)
        figure.add_trace(
            go.Scatter(x=curve.levels, y=values, name=name, mode="lines+markers", line=line, marker={"size": 8}), 1, 1
        )
    figure.add_trace(
        go.Scatter(
            x=curve.recall,
            y=curve.precision,
            name="precision and recall",
            mode="lines+markers+text",
            text=[f"{level:g}" for level in curve.levels],
            # labels towards the middle, so that none runs off the panel, above and below in turn for close points
            textposition=[
                f"{'top' if k % 2 else 'bottom'} {'right' if recall < 0.5 else 'left'}"
                for k, recall in enumerate(curve.recall)
            ],
            textfont={"size": theme.SMALL},
            line={"color": theme.INK, "width": 2},
            marker={"size": 8},
            showlegend=False,
            meta=theme.ON_PAGE,
            hovertemplate="level %{text}<br>recall %{x:.3f}, precision %{y:.3f}<extra></extra>",
        ),
        1,
        2,
    )
    top = max(1.0, *curve.density)
    figure.update_xaxes(title_text=f"level: {curve.truncation}", row=1, col=1)
    figure.update_yaxes(title_text="score", range=[-0.03, 1.05 * top], row=1, col=1)
    figure.update_xaxes(title_text="recall", range=[-0.05, 1.05], row=1, col=2)
    figure.update_yaxes(title_text="precision", range=[-0.12, 1.12], row=1, col=2)
    about = f"{curve.n_real:,} real, {curve.n_generated:,} generated; features: {curve.features}"
    figure.update_layout(
        template=theme.template(),
        title={"text": f"{title}<br><sup>{about}</sup>"},
        width=theme.WIDTH,
        height=560,
        margin={"l": 80, "r": 20, "t": 100, "b": 120},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
    )
    return figure
