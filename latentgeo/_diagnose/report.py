"""`HealthReport`: what `diagnose` hands back; prints as a table, writes a page, becomes JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.whole import whole
from . import findings as rules
from .findings import Advice, Finding, Severity
from .parts import (
    CurvatureHealth,
    DerivativeHealth,
    Figures,
    GeodesicHealth,
    GraphHealth,
    LatentHealth,
    SigmaHealth,
    TensorHealth,
)

__all__ = ["HealthReport"]

_WIDTH = 118
_PARTS = ("latent", "tensor", "sigma", "graph", "geodesics", "curvature", "derivatives")


@dataclass(frozen=True, eq=False, repr=False)
class HealthReport:
    """The health of a model's geometry. ``print(report)`` shows a table.

    Attributes
    ----------
    subject : str
        What was examined.
    unit : str
        Units of length.
    findings : tuple of Finding
        What to know or to do, the severe ones first.
    latent, tensor, sigma, graph, geodesics, curvature, derivatives
        The figures; `sigma` is None where the metric knows no σ, `curvature` where it is undefined (d = 1, piecewise
        linear decoders).
    seed : int or None
        The `random_state` that gives the same report again.

    Examples
    --------
    >>> import torch, latentgeo as lg
    >>> codes = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> report = lg.diagnose(lg.Sphere(2), 0.3 * codes, n_pairs=4)
    >>> report.healthy, report.geodesics.converged
    (True, 1.0)
    """

    subject: str
    unit: str
    seed: int | None
    findings: tuple[Finding, ...]
    figures: Figures
    _drawn_from: tuple[Any, Any, Any]  # metric, codes, labels

    @property
    def latent(self) -> LatentHealth:
        """The codes."""
        return self.figures.latent

    @property
    def tensor(self) -> TensorHealth:
        """Rank and condition of the metric."""
        return self.figures.tensor

    @property
    def sigma(self) -> SigmaHealth | None:
        """The standard deviation."""
        return self.figures.sigma

    @property
    def graph(self) -> GraphHealth:
        """Whether the codes hang together."""
        return self.figures.graph

    @property
    def geodesics(self) -> GeodesicHealth:
        """Geodesics against straight lines."""
        return self.figures.geodesics

    @property
    def curvature(self) -> CurvatureHealth | None:
        """Curvature at the codes."""
        return self.figures.curvature

    @property
    def derivatives(self) -> DerivativeHealth:
        """How derivatives are taken."""
        return self.figures.derivatives

    @property
    def healthy(self) -> bool:
        """Whether nothing severe was found."""
        return not self.severe

    @property
    def severe(self) -> tuple[Advice, ...]:
        """Names of the severe findings."""
        return tuple(f.advice for f in self.findings if f.severity is Severity.SEVERE)

    @property
    def advice(self) -> tuple[Advice, ...]:
        """Names of all findings."""
        return tuple(f.advice for f in self.findings)

    def __repr__(self) -> str:
        counts = {s: sum(f.severity is s for f in self.findings) for s in Severity}
        named = [f"{n} {s.value}{'s' if n > 1 and s is not Severity.SEVERE else ''}" for s, n in counts.items() if n]
        return f"HealthReport({self.subject}: {', '.join(named) or 'nothing to report'})"

    def __str__(self) -> str:
        rows = list(self.rows())
        widths = [max(len(row[k]) for row in rows) for k in range(3)]
        lines = [repr(self), ""]
        last = ""
        for part, name, value, aim in rows:
            head = part if part != last else ""
            cells = f"{head:<{widths[0]}}  {name:<{widths[1]}}  {value:<{widths[2]}}"
            lines.append(f"{cells}  {aim}".rstrip())
            last = part
        lines += ["", *(textwrap.fill(str(finding), _WIDTH, subsequent_indent="  ") for finding in self.findings)]
        return "\n".join(lines).rstrip()

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """The table: part, figure, value, and what it should be."""
        f, unit = self.figures, self.unit
        latent, tensor = f.latent, f.tensor
        yield "codes", "number, dimension", f"{latent.codes:,}, {latent.dim}", ""
        yield "", "spread per axis", _few(latent.std), ""
        yield "", "… that reaches the data", f"{_few(latent.extent)} {unit}", "no axis unused"
        every = "all" if tensor.full_rank == 1 else f"{tensor.full_rank:.1%}"
        used = latent.dim - len(latent.unused)
        yield "metric", "full rank", f"{every} of {tensor.codes:,} codes", f"all, in {used} of {latent.dim} directions"
        condition = f"{_number(tensor.condition)} ({_number(tensor.condition_high)})"
        yield "", "condition number (95 %)", condition, f"at most {rules.CONDITION:.0e}"
        if f.sigma is not None:
            yield from self._sigma_rows(f.sigma)
        yield "graph", f"parts ({f.graph.neighbors} neighbours)", f"{f.graph.components}", ""
        yield "", "codes in the largest", f"{f.graph.largest:.1%}", f"at least {rules.CONNECTED:.0%}"
        g = f.geodesics
        yield "geodesics", "converged", f"{g.converged:.0%} of {g.pairs}", f"at least {rules.CONVERGED:.0%}"
        yield "", "length (straight line)", f"{_number(g.length)} ({_number(g.straight)}) {unit}", ""
        yield "", "gain (95 %)", f"{_times(g.gain)} ({_times(g.gain_high)})", f"above {_times(rules.FLAT)}"
        near = f"{_share(g.near)} ({_share(g.near_straight)})"
        yield "", "near codes (straight lines)", near, "no fewer than straight lines"
        if f.curvature is not None:
            c = f.curvature
            kind = "Gauss" if latent.dim == 2 else "sectional"
            spread = f"{_number(c.median)} ({_number(c.low)} to {_number(c.high)}) per ({unit})²"
            yield "curvature", f"{kind} (5 to 95 %)", spread, ""
            yield "", "radius of curvature", f"{_number(c.radius)} {unit}", ""
        d = f.derivatives
        yield "derivatives", "first", d.first, "no differences"
        yield "", "second", d.second, "no differences"
        yield "", "smooth, dtype", f"{'yes' if d.smooth else 'no: piecewise linear'}, {d.dtype}", ""

    def _sigma_rows(self, s: SigmaHealth) -> Iterator[tuple[str, str, str, str]]:
        if not s.varies:
            yield "σ", "depends on the code", "no", "yes"
            return
        yield "σ", "at the codes", f"{_number(s.at_codes)} {self.unit}", ""
        growth = f"{_times(s.growth)} (10 %: {_times(s.growth_low)})"
        yield "", "growth off the data", growth, f"at least {_times(rules.GROWTH)}"
        if math.isfinite(s.bound):
            bound = f"{s.saturated:.1%} of places among codes (bound {_number(s.bound)})"
            yield "", "at its bound", bound, f"less than {rules.SATURATED:.0%}"
        yield "", "share of the metric's trace", f"{s.share:.0%}", ""
        low, high = rules.EDGE_RATIO
        yield "", "edges, σ over mean", f"{_number(s.edge_ratio)}", f"{low} to {high}, best 0.6 to 1.3"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can say it: figures, and findings by name; what is not finite is None."""
        parts = {name: getattr(self.figures, name) for name in _PARTS}
        return {
            "subject": self.subject,
            "unit": self.unit,
            "seed": self.seed,
            "healthy": self.healthy,
            "findings": [
                {"code": f.advice.name, "severity": f.severity.value, "text": f.text, "advice": f.advice.value}
                for f in self.findings
            ],
            **{name: None if part is None else _plain(dataclasses.asdict(part)) for name, part in parts.items()},
        }

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict` as a JSON file; its folder is made if need be."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as place:
            place.write_text(json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        return path

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page with the table, the findings and pictures, which needs no network to open."""
        from .page import write

        metric, codes, labels = self._drawn_from
        return write(self, path, metric, codes, labels)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "unknown" if math.isnan(value) else "∞"


def _times(value: float) -> str:
    return f"×{_number(value)}" if math.isfinite(value) else "unknown"


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "unknown"


def _few(values: tuple[float, ...]) -> str:
    shown = ", ".join(_number(value) for value in values[:6])
    return shown + (f", … (least {_number(min(values))})" if len(values) > 6 else "")
