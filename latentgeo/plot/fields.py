"""What a map shows at each code: ½ log det G or one of its terms, the condition number of G, curvature; with units.

Measure and condition are those of the whole metric, on a plane too (Arvanitidis, Hansen, Hauberg 2018, figure 4, has
the measure of the expected metric).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentgeo._calculus import RankWarning
from latentgeo._calculus.linalg import half_log_det
from latentgeo.metrics import ExpectedMetric, FisherRaoMetric, Metric
from latentgeo.plot import theme
from latentgeo.plot.planes import Plane

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder

Term = Literal["both", "mean", "std", "condition", "curvature"]
TERMS = ("both", "mean", "std", "condition", "curvature")
_ROWS = 8192  # codes at once
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def log_measure(metric: Metric, z: Tensor, *, term: Literal["both", "mean", "std"] = "both") -> Tensor:
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


def condition_number(metric: Metric, z: Tensor) -> Tensor:
    """Condition number of the metric tensor: its largest eigenvalue over its smallest.

    The square of how much longer a latent step can be in one direction than in another.

    Parameters
    ----------
    metric : Metric
    z : Tensor of shape (*batch, d)
        Latent codes.

    Returns
    -------
    Tensor of shape (*batch,)
        At least 1; inf where G is singular to the precision it is computed in, NaN where it is not finite.

    Examples
    --------
    >>> from latentgeo.metrics import PullbackMetric
    >>> stretched = PullbackMetric(lambda z: z * torch.tensor([1.0, 10.0], dtype=z.dtype), dim=2)
    >>> condition_number(stretched, torch.zeros(2, dtype=torch.float64)).item()
    100.0
    """
    with torch.no_grad():
        G = metric.tensor(z)
        finite = G.isfinite().all(-1).all(-1)
        eye = torch.eye(G.shape[-1], dtype=torch.float64, device=G.device)
        values = torch.linalg.eigvalsh(torch.where(finite[..., None, None], G.double(), eye))
        low, high = values[..., 0], values[..., -1]
        singular = low <= G.shape[-1] * torch.finfo(G.dtype).eps * high
        found = torch.where(singular, torch.inf, high / torch.where(singular, 1.0, low))
        return torch.where(finite, found, torch.nan).to(G.dtype)


@dataclass(frozen=True)
class Field:
    """One quantity over a map: what it is, its formula, its units, and its numbers."""

    term: Term
    what: str
    formula: str
    units: str

    @property
    def bar(self) -> str:
        """Title of the colour bar."""
        formula = "½ log det G" if self.term in ("both", "mean", "std") and "+" in self.formula else self.formula
        return f"{formula}<br><span style='font-size:{theme.SMALL}px'>{self.units}</span>"

    def values(self, metric: Metric, z: Tensor, plane: Plane | None = None) -> NDArray[Any]:
        """Numbers at codes z (*batch, d), shape (*batch,); log₁₀ of the condition number."""
        flat = z.to(metric.dtype or z.dtype).reshape(-1, z.shape[-1])
        found = [self._values(metric, rows, plane).cpu().double() for rows in flat.split(_ROWS)]
        whole = torch.cat(found) if found else torch.empty(0, dtype=torch.float64)
        return np.asarray(whole.reshape(z.shape[:-1]).numpy())

    def _values(self, metric: Metric, z: Tensor, plane: Plane | None) -> Tensor:
        if self.term == "condition":
            return condition_number(metric, z).double().log10()
        if self.term == "curvature":
            if plane is None or z.shape[-1] == 2:
                return metric.gauss_curvature(z, throw=False)
            return metric.sectional_curvature(z, *plane.directions(z), throw=False)
        return log_measure(metric, z, term=self.term)


def describe(metric: Metric, term: Term, decoder: Decoder | None = None, dim: int = 2) -> Field:
    """The field of a term: what is drawn, its formula, and its units in a latent space of dimension `dim`."""
    if term not in TERMS:
        raise ValueError(f"`term` must be {', '.join(map(repr, TERMS[:-1]))} or {TERMS[-1]!r}, got {term!r}")
    expected = isinstance(metric, ExpectedMetric)
    name = type(metric).__name__
    if isinstance(metric, (ExpectedMetric, FisherRaoMetric)):
        name = "the expected metric" if expected else "the Fisher–Rao metric"
    if term == "condition":
        return Field(term, f"Condition number of {name}", "log₁₀ κ(G)", "no units")
    if term == "curvature":
        kind = "Gauss" if dim == 2 else "Sectional"
        return Field(term, f"{kind} curvature of {name}", f"{kind} curvature K", f"1 / ({length_units(metric)})²")
    power = str(dim).translate(_SUPERSCRIPTS)
    if expected:
        units = f"log of data units{power} per latent unit{power}"
        if term == "mean":
            return Field(term, "Measure of the expected metric, mean part only", "½ log det JμᵀJμ", units)
        if term == "std":
            return Field(term, "Measure of the expected metric, σ part only", "½ log det JσᵀJσ", units)
        if decoder is not None and decoder.std_embedding is None:
            what = "Measure of the expected metric, mean part (σ is constant)"
            return Field(term, what, "½ log det JμᵀJμ", units)
        return Field(term, "Measure of the expected metric, mean and σ parts", "½ log det(JμᵀJμ + JσᵀJσ)", units)
    if term != "both":
        raise ValueError(f"`term={term!r}` needs an ExpectedMetric, which has two terms; got {metric!r}")
    if isinstance(metric, FisherRaoMetric):
        root = "nat" if dim == 2 else f"nat^({dim}/2)" if dim % 2 else f"nat{str(dim // 2).translate(_SUPERSCRIPTS)}"
        return Field(term, "Measure of the Fisher–Rao metric", "½ log det G", f"log of {root} per latent unit{power}")
    size = "area" if dim == 2 else "volume"
    return Field(term, f"Measure of {name}", "½ log det G", f"log of {size} per latent unit{power}")


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


def in_double(metric: Metric) -> Metric:
    """The same metric in double precision, where it is made from a decoder that can be cast.

    A rim of σ can be 10⁸ times steeper across than along: single precision would take it for singular.
    """
    if not isinstance(metric, (ExpectedMetric, FisherRaoMetric)) or metric.dtype != torch.float32:
        return metric
    if metric.device is not None and metric.device.type == "mps":  # has no double precision
        return metric
    try:
        return type(metric)(metric.decoder.to(torch.float64))
    except TypeError:  # a plain function has nothing to cast
        return metric
