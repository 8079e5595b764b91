"""What a health report may find, and when: every threshold of the report stands here.

The aim for the ratio of the two terms' edge lengths and the limit of 3 are those of `fit_precision`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .parts import Figures

__all__ = ["Advice", "Finding", "Severity", "judge"]

GROWTH = 1.5  # σ off the data over σ at the codes, at least
SATURATED = 0.05  # share of places among the codes where σ is at its bound, less than
DEFICIENT = 0.05  # share of codes at which the decoder loses rank, less than
CONDITION = 1e6  # of G, at most
EDGE_RATIO = (0.3, 3.0)  # of edges between neighbours under the σ term over the mean term; 0.6 to 1.3 is the aim
CONVERGED = 0.9  # share of geodesics, at least
CONNECTED = 0.95  # share of codes in the largest part of the neighbourhood graph, at least
FLAT = 1.02  # straight line over geodesic, at the 95th percentile: below that both are the same


class Severity(enum.Enum):
    """How much a finding matters."""

    SEVERE = "severe"  # distances and geodesics mean little until it is mended
    WARNING = "warning"  # look before you trust
    NOTE = "note"  # good to know


class Advice(enum.StrEnum):
    """Named findings; the value says what to do.

    Examples
    --------
    >>> import torch, latentgeo as lg
    >>> codes = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> lg.Advice.GEODESICS_FAIL in lg.diagnose(lg.Sphere(2), 0.3 * codes, n_pairs=4).advice
    False
    """

    TRAIN_MODE = "put the decoder in eval mode (module.eval()): dropout and batch statistics make distances random"
    NOT_FINITE = "the metric is not finite at some of the codes: check the codes and the decoder's output there"
    LATENT_COLLAPSED = (
        "part of the latent space is not used: train again with KL warm-up or fewer latent dimensions, or leave the "
        "unused coordinates out"
    )
    RANK_DEFICIENT = (
        "different codes decode to the same data, so some directions have no length: look for a layer narrower than "
        "the latent space, or train with fewer latent dimensions"
    )
    SIGMA_DOES_NOT_GROW = (
        "σ does not grow off the data, so geodesics may cut through regions the model has never seen: fit a precision "
        "network (lg.fit_precision)"
    )
    SIGMA_SATURATES = (
        "σ is at its bound between the codes and tells nothing there: fit the precision again with a larger bandwidth "
        "or fewer centres"
    )
    RANK_DROPS = "the decoder loses rank at a few codes: volumes vanish and curvature is undefined there"
    ILL_CONDITIONED = "the metric is nearly singular at the codes: compute in float64 (decoder.to(torch.float64))"
    DERIVATIVES_APPROXIMATE = (
        "derivatives are taken by differences, because no exact path is right; `embedding.report` says why"
    )
    SIGMA_DOMINATES = "distances see little but σ: raise the precision's bandwidth"
    SIGMA_GROWS_UNEVENLY = "σ does not grow in some directions off the data: fit a precision network (lg.fit_precision)"
    GRAPH_DISCONNECTED = (
        "the codes fall into parts with gaps between them: paths across the gaps rest on the decoder alone"
    )
    GEODESICS_FAIL = "many geodesics do not converge: give starts by init=lg.LatentGraph(metric).fit(codes)"
    GEODESICS_LEAVE_DATA = (
        "geodesics keep no closer to the codes than straight lines do: check how σ grows off the data"
    )
    KINKS = "the decoder is piecewise linear: curvature is blind to its kinks, and no geodesic is certified"
    SIGMA_WEAK = "σ hardly matters between neighbouring codes: lower the precision's bandwidth if it should"
    NEARLY_FLAT = "geodesics are hardly shorter than straight lines: Euclidean distances would do nearly as well"


SEVERE = (
    Advice.TRAIN_MODE,
    Advice.NOT_FINITE,
    Advice.LATENT_COLLAPSED,
    Advice.RANK_DEFICIENT,
    Advice.SIGMA_DOES_NOT_GROW,
    Advice.SIGMA_SATURATES,
)
NOTES = (Advice.KINKS, Advice.SIGMA_WEAK, Advice.NEARLY_FLAT)


@dataclass(frozen=True)
class Finding:
    """One thing that a report found.

    Attributes
    ----------
    advice : Advice
        Its name, and what to do.
    text : str
        The figures it rests on.
    """

    advice: Advice
    text: str

    @property
    def severity(self) -> Severity:
        """Severe, a warning or a note: always the same for the same advice."""
        if self.advice in SEVERE:
            return Severity.SEVERE
        return Severity.NOTE if self.advice in NOTES else Severity.WARNING

    def __str__(self) -> str:
        return f"{self.severity.value}: {self.advice.name}: {self.text}; {self.advice.value}"


def judge(figures: Figures) -> tuple[Finding, ...]:
    """All findings, the severe ones first."""
    found = [Finding(advice, text) for advice, text in _found(figures)]
    order = list(Severity)
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _found(f: Figures) -> Iterator[tuple[Advice, str]]:
    yield from _of_decoder(f)
    if f.sigma is not None:
        yield from _of_sigma(f)
    yield from _of_curves(f)


def _of_decoder(f: Figures) -> Iterator[tuple[Advice, str]]:
    d = f.latent.dim
    if f.derivatives.train_mode:
        yield Advice.TRAIN_MODE, "the decoder's module was in train mode; it was examined in eval mode"
    if f.tensor.finite < 1:
        yield Advice.NOT_FINITE, f"G is not finite at {1 - f.tensor.finite:.1%} of the codes"
    if f.latent.unused:
        yield (
            Advice.LATENT_COLLAPSED,
            f"of {d} latent directions {len(f.latent.unused)} hardly change the data "
            + (f"({', '.join(f.latent.unused)})"),
        )
    lost = 1 - f.tensor.full_rank
    if lost >= DEFICIENT:
        yield Advice.RANK_DEFICIENT, f"the decoded mean has rank {f.tensor.rank} of {d} at {lost:.0%} of the codes"
    elif lost > 0:
        yield Advice.RANK_DROPS, f"it has rank {f.tensor.rank} of {d} at {lost:.1%} of the codes"
    singular = f.latent.unused or lost >= DEFICIENT  # said already, with its cause
    if not singular and f.tensor.condition > CONDITION:
        yield Advice.ILL_CONDITIONED, f"the median condition number of G is {f.tensor.condition:.1e}"
    if f.derivatives.approximate:
        yield Advice.DERIVATIVES_APPROXIMATE, f"first: {f.derivatives.first}, second: {f.derivatives.second}"
    if not f.derivatives.smooth:
        yield Advice.KINKS, "second derivatives do not explain how slopes change"


def _of_sigma(f: Figures) -> Iterator[tuple[Advice, str]]:
    sigma = f.sigma
    assert sigma is not None  # noqa: S101 - the caller looked
    if not sigma.varies:
        yield Advice.SIGMA_DOES_NOT_GROW, "the decoder has no σ that depends on the code"
        return
    if sigma.saturated >= SATURATED:
        yield (
            Advice.SIGMA_SATURATES,
            f"σ is at its bound {sigma.bound:.3g} at {sigma.saturated:.0%} of places among codes",
        )
    elif not sigma.growth >= GROWTH:
        yield Advice.SIGMA_DOES_NOT_GROW, f"σ off the data is {sigma.growth:.2f} times that at the codes (median)"
    elif not sigma.growth_low >= GROWTH:
        yield Advice.SIGMA_GROWS_UNEVENLY, f"in a tenth of the directions it is below {sigma.growth_low:.2f} times"
    if sigma.edge_ratio > EDGE_RATIO[1]:
        yield Advice.SIGMA_DOMINATES, f"edges are {sigma.edge_ratio:.1f} times longer under the σ term than the mean's"
    elif sigma.edge_ratio < EDGE_RATIO[0]:
        yield Advice.SIGMA_WEAK, f"edges under the σ term have {sigma.edge_ratio:.2f} times the length under the mean's"


def _of_curves(f: Figures) -> Iterator[tuple[Advice, str]]:
    if f.graph.largest < CONNECTED:
        text = f"{f.graph.components} parts, the largest with {f.graph.largest:.0%} of the codes"
        yield Advice.GRAPH_DISCONNECTED, text
    g = f.geodesics
    if g.converged < CONVERGED:
        yield Advice.GEODESICS_FAIL, f"{g.converged:.0%} of {g.pairs} geodesics converged"
    if g.near < min(g.near_straight, 0.9):
        text = f"{g.near:.0%} of geodesics stay near the codes, of straight lines {g.near_straight:.0%}"
        yield Advice.GEODESICS_LEAVE_DATA, text
    if g.gain_high < FLAT:
        yield Advice.NEARLY_FLAT, f"straight lines are at most {g.gain_high - 1:.1%} longer (95th percentile)"
