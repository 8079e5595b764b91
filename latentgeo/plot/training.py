"""Training curves: every figure that a training kept, epoch by epoch, with that of the data held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from latentgeo.plot.theme import LABELS, SIZE, template

_HELD = "held_out_"
_NAMES = {
    "elbo": "evidence lower bound",
    "iwae": "importance-weighted bound",
    "kl": "KL divergence",
    "reconstruction": "log p(x | z)",
}
_NATS = ("elbo", "iwae", "kl", "reconstruction")


def training(history: Sequence[Mapping[str, float]], title: str = "Training") -> go.Figure:
    """Curves of a training.

    Parameters
    ----------
    history : sequence of mappings
        As `latentgeo.train.fit` returns it: "epoch" and figures; those named "held_out_…" are drawn with their
        namesakes.
    title : str
        Above the figure.

    Returns
    -------
    plotly.graph_objects.Figure
        One panel per figure.

    Raises
    ------
    ValueError
        If the history is empty.

    Examples
    --------
    >>> figure = training([{"epoch": 1, "loss": 3.0, "held_out_loss": 3.5}, {"epoch": 2, "loss": 2.0}])
    >>> [(trace.name, list(trace.y)) for trace in figure.data]
    [('training data', [3.0, 2.0]), ('data held out', [3.5])]
    """
    if not isinstance(history, Sequence) or not all(isinstance(figures, Mapping) for figures in history):
        raise TypeError(f"`history` must be a sequence of mappings, one for each epoch, got {type(history).__name__}")
    if not history:
        raise ValueError("history must hold at least one epoch; got none")
    names = list(dict.fromkeys(k.removeprefix(_HELD) for figures in history for k in figures if k != "epoch"))
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    titles = [_NAMES.get(name, name.replace("_", " ")) + (" (nats)" if name in _NATS else "") for name in names]
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.24 / rows, horizontal_spacing=0.1)
    for i, name in enumerate(names):
        row, column = divmod(i, columns)
        for key, label, colour in ((name, "training data", LABELS[4]), (_HELD + name, "data held out", LABELS[5])):
            points = [(figures["epoch"], figures[key]) for figures in history if key in figures]
            if points:
                figure.add_trace(
                    go.Scatter(
                        x=[x for x, _ in points],
                        y=[y for _, y in points],
                        name=label,
                        legendgroup=label,
                        showlegend=i == 0,
                        mode="lines" if len(points) > 1 else "markers",
                        line={"color": colour, "width": 2.5, "dash": "solid" if key == name else "dot"},
                        hovertemplate=f"epoch %{{x}}<br>{titles[i]}: %{{y:.5g}}<extra>{label}</extra>",
                    ),
                    row=row + 1,
                    col=column + 1,
                )
        if i + columns >= len(names):  # the last of its column
            figure.update_xaxes(title="epoch", row=row + 1, col=column + 1)
    figure.update_annotations(font_size=SIZE)  # titles of the panels
    figure.update_layout(
        template=template(),
        title=title,
        height=160 + 330 * rows,
        width=1200,
        margin={"t": 130, "l": 90, "r": 30, "b": 70},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 0.98, "yref": "container", "yanchor": "top"},
    )
    return figure
