"""The option --plane: which flat piece of a latent space of more than two dimensions a heatmap shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from latentgeo.metrics import Metric
    from latentgeo.plot import Plane

HELP = (
    "For more than 2 latent dimensions: principal (what codes spread along most), axes:I,J (two coordinates, from 0, "
    "the others as in the mean of the codes) or codes:I,J,K (through three codes, from 0); principal if not given."
)


def read_plane(text: str | None, metric: Metric, points: Tensor | None, dim: int) -> Plane | None:
    """The plane that an option names; None where the latent space is one itself.

    Raises
    ------
    ValueError
        If the option says no plane, or one that needs codes where there are none.
    """
    import torch

    from latentgeo.plot import Plane

    if dim == 2:
        if text is not None:
            raise ValueError(f"--plane is for more than 2 latent dimensions; got {text!r} for a 2-D latent space")
        return None
    kind, _, rest = (text or ("axes:0,1" if points is None else "principal")).partition(":")
    if kind == "principal" and not rest:
        if points is None or len(points) < 3:
            raise ValueError("--plane principal needs three codes or more; give yours with --codes FILE")
        return Plane.principal(metric, points)
    wanted = {"axes": 2, "codes": 3}.get(kind)
    try:
        places = [int(place) for place in rest.split(",")]
    except ValueError:
        places = []
    if wanted is None or len(places) != wanted or min(places) < 0:
        raise ValueError(f"--plane must be principal, axes:I,J or codes:I,J,K, with whole numbers from 0; got {text!r}")
    if kind == "axes":
        return Plane.axes(places[0], places[1], at=torch.zeros(dim) if points is None else points.mean(0))
    if points is None or max(places) >= len(points):
        count = "there are none; give yours with --codes FILE" if points is None else f"there are {len(points)}"
        raise ValueError(f"--plane {text} must name three of the codes, counted from 0; {count}")
    return Plane.through(*(points[place] for place in places))
