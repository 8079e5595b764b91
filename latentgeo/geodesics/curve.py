"""Curves in latent space: C¹ cubic interpolation, length by extrapolated quadrature, reparametrisation.

The interpolant is a cubic Hermite spline through the nodes with fourth-order difference velocities. Lengths are sums
over sub-steps of each segment, Romberg-extrapolated; chords of φ and the trapezoidal rule have even error expansions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..metrics import Metric

__all__ = ["Curve", "Quadrature", "arc_length", "by_nodes", "curve_groups", "equal_speed", "paced", "row_budget"]

_MOST_SUBSTEPS = 64
_UNEVEN = 1.5  # longest over mean segment
_TRUSTED = 0.1  # relative difference up to which a slope of fourth order is believed rather than one of second order
_DOUBT = 2.0  # on the error of a rule of so few nodes, which need not converge as fast as it will


class Curve:
    """A batch of curves through nodes z (B, n, d) at equally spaced times in [0, 1].

    Cubic and C¹ by default; `linear` joins the nodes by straight segments.
    """

    def __init__(self, nodes: Tensor, *, linear: bool = False, slopes: Tensor | None = None) -> None:
        self.nodes = nodes
        self.linear = linear or nodes.shape[1] < 3
        self.slopes = None if self.linear else _velocities(nodes) if slopes is None else slopes

    @property
    def n(self) -> int:
        """Number of nodes."""
        return self.nodes.shape[1]

    def select(self, index: Tensor | slice) -> Curve:
        """The sub-batch of curves at `index`."""
        return Curve(self.nodes[index], linear=self.linear, slopes=None if self.slopes is None else self.slopes[index])

    def paced_at_ends(self, metric: Metric, speed: Tensor) -> Curve:
        """The same nodes, left and reached with the given speed (B,); one-sided differences give the direction only.

        Where a curve turns within a few nodes of its end they are off by a multiple of its speed, and low orders know
        the direction better.
        """
        if self.slopes is None:
            return self
        z, n = self.nodes, self.n
        at = torch.tensor([0, n - 1], device=z.device)
        fine = self.slopes[:, at]
        rough = torch.stack(_at_ends(z), 1)
        far, size = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (fine - rough, rough))
        ends = torch.where(far > _TRUSTED * size, rough, fine)
        now = metric.norm(z[:, at], ends)
        factor = speed.to(now)[:, None] / torch.where(now > 0, now, 1.0)
        factor = torch.where((now > 0) & factor.isfinite() & (factor > 0), factor, 1.0)
        return Curve(z, slopes=self.slopes.index_copy(1, at, factor[..., None] * ends))

    def __call__(self, t: Tensor) -> Tensor:
        """Positions at times t, (k,) shared or (B, k) per curve: (B, k, d)."""
        return self._evaluate(t, derivative=False)

    def velocity(self, t: Tensor) -> Tensor:
        """Time derivatives at times t, (k,) or (B, k): (B, k, d)."""
        return self._evaluate(t, derivative=True)

    def _evaluate(self, t: Tensor, *, derivative: bool) -> Tensor:
        z, n = self.nodes, self.n
        t = t.to(z).expand(z.shape[0], -1) if t.ndim == 1 else t.to(z)
        where = (t * (n - 1)).clamp(0.0, n - 1)
        left = where.floor().clamp_max(n - 2)
        s = (where - left)[..., None]
        index = left.long()[..., None].expand(-1, -1, z.shape[-1])
        z0, z1 = z.gather(1, index), z.gather(1, index + 1)
        if self.slopes is None:
            return (z1 - z0) * (n - 1) if derivative else torch.lerp(z0, z1, s)
        m0, m1 = self.slopes.gather(1, index) / (n - 1), self.slopes.gather(1, index + 1) / (n - 1)
        rise = z1 - z0
        if derivative:
            return (6 * s * (1 - s) * rise + (1 - s) * (1 - 3 * s) * m0 + s * (3 * s - 2) * m1) * (n - 1)
        return z0 + s * s * (3 - 2 * s) * rise + s * (1 - s) * ((1 - s) * m0 - s * m1)

    def substeps(self, k: int) -> tuple[Tensor, Tensor]:
        """Times and positions that cut every segment into k equal parts: ((n-1)k + 1,), (B, (n-1)k + 1, d)."""
        t = torch.linspace(0.0, 1.0, (self.n - 1) * k + 1, dtype=torch.float64, device=self.nodes.device)
        return t, self(t)

    def refined(self) -> Tensor:
        """Nodes with one more between each two: (B, 2n - 1, d); the old ones are kept to the last bit."""
        mid = (torch.arange(self.n - 1, dtype=torch.float64, device=self.nodes.device) + 0.5) / (self.n - 1)
        out = self.nodes.new_empty(self.nodes.shape[0], 2 * self.n - 1, self.nodes.shape[-1])
        out[:, 0::2], out[:, 1::2] = self.nodes, self(mid)
        return out


def _at_ends(z: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives at the first and the last node by one-sided differences of second order, (B, d) each."""
    h = 1.0 / (z.shape[1] - 1)
    return (4 * z[:, 1] - 3 * z[:, 0] - z[:, 2]) / (2 * h), (3 * z[:, -1] - 4 * z[:, -2] + z[:, -3]) / (2 * h)


def _velocities(z: Tensor) -> Tensor:
    """Derivatives at the nodes by differences of fourth order (lower with fewer than five nodes)."""
    n = z.shape[1]
    h = 1.0 / (n - 1)
    if n < 5:
        inner = (z[:, 2:] - z[:, :-2]) / (2 * h)
        first, last = _at_ends(z)
        return torch.cat([first[:, None], inner, last[:, None]], 1)
    inner = (8 * (z[:, 3:-1] - z[:, 1:-3]) - (z[:, 4:] - z[:, :-4])) / (12 * h)
    edge = torch.tensor([[-25.0, 48.0, -36.0, 16.0, -3.0], [-3.0, -10.0, 18.0, -6.0, 1.0]]).to(z) / (12 * h)
    first = torch.einsum("ij,Bjd->Bid", edge, z[:, :5])
    last = -torch.einsum("ij,Bjd->Bid", edge, z[:, -5:].flip(1)).flip(1)
    return torch.cat([first, inner, last], 1)


class Quadrature:
    """Lengths of a batch of curves, segment by segment.

    Attributes
    ----------
    segments : Tensor of shape (B, n - 1), float64
        Arc length of each segment.
    length, error : Tensor of shape (B,), float64
        Their sum and the quadrature's own error estimate.
    chord : Tensor of shape (B,), float64
        Length of the polygon of node images (for a general metric: the one-step rule), never more than a flat `length`.
    """

    def __init__(self, segments: Tensor, error: Tensor, chord: Tensor) -> None:
        self.segments, self.error, self.chord = segments, error, chord
        self.length = segments.sum(-1)

    def select(self, index: Tensor) -> Quadrature:
        """The sub-batch of curves at `index`."""
        return Quadrature(self.segments[index], self.error[index], self.chord[index])

    @staticmethod
    def joined(parts: Sequence[Quadrature]) -> Quadrature:
        """One batch of several."""
        return Quadrature(*(torch.cat([getattr(p, name) for p in parts]) for name in ("segments", "error", "chord")))

    def replaced(self, index: Tensor, other: Quadrature) -> Quadrature:
        """With the curves at `index` replaced."""
        names = ("segments", "error", "chord")
        return Quadrature(*(getattr(self, name).index_copy(0, index, getattr(other, name)) for name in names))

    @property
    def ratio(self) -> Tensor:
        """Arc over chord, (B,): well above one where nodes jump across thin ridges. One for curves of no length."""
        return torch.where(self.chord > 0, self.length / torch.where(self.chord > 0, self.chord, 1.0), 1.0)


def row_budget(metric: Metric, like: Tensor) -> int:
    """How many codes' images may be held at once."""
    if metric.embedding is None:
        return 2**16
    width = metric.embedding.out_dim(like[..., :0, :].reshape(0, like.shape[-1]))
    return max(64, metric.embedding.max_bytes // (4 * width * like.element_size()))


def curve_groups(metric: Metric, z: Tensor, rows: int) -> Iterator[slice]:
    """Slices of a batch of curves such that `rows` images of each are held at once within the memory budget."""
    size = max(1, row_budget(metric, z) // rows)
    yield from (slice(i, i + size) for i in range(0, z.shape[0], size))


def arc_length(
    metric: Metric, curve: Curve, *, rtol: float = 1e-3, substeps: int = 4, known: Quadrature | None = None
) -> Quadrature:
    """Arc lengths by Romberg quadrature, with more sub-steps for the curves that need them to meet `rtol`.

    Two sub-steps are extrapolated over pairs of segments; they serve flat embeddings and an odd number of nodes, where
    they are cheaper, and are made four elsewhere. What is `known` from that many sub-steps is not computed again.
    """
    if substeps == 2 and (metric.flat_embedding is None or curve.linear or curve.n % 2 == 0):
        substeps = 4
    result = _by_groups(metric, curve, substeps) if known is None else known
    while substeps < _MOST_SUBSTEPS:
        substeps *= 2
        poor = (result.error > 0.25 * rtol * result.length).nonzero()[:, 0]
        if len(poor) == 0:
            break
        better = _by_groups(metric, curve.select(poor), substeps)
        result = result.replaced(poor, better)
    return result


def _by_groups(metric: Metric, curve: Curve, substeps: int) -> Quadrature:
    groups = list(curve_groups(metric, curve.nodes, (curve.n - 1) * substeps + 1))
    if len(groups) <= 1:
        return _quadrature(metric, curve, substeps)
    return Quadrature.joined([_quadrature(metric, curve.select(group), substeps) for group in groups])


def _quadrature(metric: Metric, curve: Curve, substeps: int) -> Quadrature:
    t, z = curve.substeps(substeps)
    n = curve.n
    flat = metric.flat_embedding
    if flat is not None:
        x = flat(z)
        if substeps == 2:
            return by_nodes(x)
        rounding = _rounding(x)
    else:
        before, after = _speeds(metric, curve, t, z, substeps)

    def rule(stride: int) -> Tensor:
        if flat is not None:
            nodes = x[:, ::stride]
            pieces = torch.linalg.vector_norm(nodes[:, 1:] - nodes[:, :-1], dim=-1).double()
        else:
            pieces = 0.5 * stride * (before[:, ::stride] + after[:, stride - 1 :: stride])
        return pieces.unflatten(1, (n - 1, substeps // stride)).sum(-1)

    wide, middle, fine = rule(4), rule(2), rule(1)
    first, second = (4 * middle - wide) / 3, (4 * fine - middle) / 3
    best = (16 * second - first) / 15
    if flat is None:
        rounding = 4 * torch.finfo(z.dtype).eps * fine.sum(-1)
    return Quadrature(best, (best - second).abs().sum(-1) + rounding, rule(substeps).sum(-1))


def _rounding(x: Tensor) -> Tensor:
    """Size (B,) of the rounding error in lengths by chords of images x (B, n, D)."""
    size = torch.linalg.vector_norm(x.detach(), dim=-1).amax(-1).double() / x.shape[-1] ** 0.5
    return 4 * torch.finfo(x.dtype).eps * size * (x.shape[1] - 1) ** 0.5


def by_nodes(x: Tensor) -> Quadrature:
    """Romberg quadrature from images x (B, 2n - 1, D) of nodes and middles: chords of two, one and half segments.

    n must be odd; `segments` are the n - 1 between nodes.
    """

    def chords(stride: int) -> Tensor:
        nodes = x[:, ::stride]
        return torch.linalg.vector_norm(nodes[:, 1:] - nodes[:, :-1], dim=-1).double()

    pairs, single, half = chords(4), chords(2), chords(1)
    second = (4 * half.unflatten(1, (-1, 2)).sum(-1) - single) / 3
    first = (4 * single.unflatten(1, (-1, 2)).sum(-1) - pairs) / 3
    change = (second.unflatten(1, (-1, 2)).sum(-1) - first) / 15
    best = second + 0.5 * change.repeat_interleave(2, 1)
    return Quadrature(best, _DOUBT * change.abs().sum(-1) + _rounding(x), single.sum(-1))


def _speeds(metric: Metric, curve: Curve, t: Tensor, z: Tensor, substeps: int) -> tuple[Tensor, Tensor]:
    """Lengths per sub-step at its start and at its end; they differ where a polygon has a corner."""
    steps = len(t) - 1
    before = metric.norm(z[:, :-1], curve.velocity(t[:-1])).double() / steps
    last = metric.norm(z[:, -1:], curve.velocity(t[-1:])).double() / steps
    after = torch.cat([before[:, 1:], last], 1)
    if curve.linear:
        corners = torch.arange(substeps - 1, steps, substeps, device=z.device)
        after[:, corners] = metric.norm(z[:, corners + 1], curve.velocity(t[corners])).double() / steps
    return before, after


def equal_speed(metric: Metric, curve: Curve, n: int) -> Tensor:
    """Nodes (B, n, d) of the same curve at (nearly) equal arc length."""
    steps = _steps(curve, n)
    groups = curve_groups(metric, curve.nodes, steps + 1)
    out = [_equal_speed(metric, curve.select(group), n, steps)[0] for group in groups]
    return torch.cat(out) if out else curve.nodes.new_empty(0, n, curve.nodes.shape[-1])


def paced(metric: Metric, curve: Curve, n: int) -> tuple[Tensor, Quadrature]:
    """`equal_speed`, and roughly the curves' lengths and what polygons of so many nodes hide."""
    steps = _steps(curve, n)
    if metric.flat_embedding is None or n % 2 == 0 or steps != 2 * (n - 1) or len(curve.nodes) == 0:
        nodes = equal_speed(metric, curve, n)
        return nodes, arc_length(metric, Curve(nodes), rtol=0.1, substeps=2)
    groups = curve_groups(metric, curve.nodes, steps + 1)
    found = [_paced(metric, curve.select(group), n, steps) for group in groups]
    nodes, spans = torch.cat([z for z, _ in found]), Quadrature.joined([part for _, part in found])
    # the same samples serve where their speed is nearly equal already
    uneven = (spans.segments.amax(-1) > _UNEVEN * spans.segments.mean(-1)).nonzero()[:, 0]
    if len(uneven):
        there = arc_length(metric, Curve(nodes[uneven]), rtol=0.1, substeps=2)
        spans = spans.replaced(uneven, there)
    return nodes, spans


def _paced(metric: Metric, curve: Curve, n: int, steps: int) -> tuple[Tensor, Quadrature]:
    """For one group of curves, whose images are given back before the next group's are asked for."""
    nodes, x = _equal_speed(metric, curve, n, steps)
    return nodes, by_nodes(x)


def _steps(curve: Curve, n: int) -> int:
    """In how many equal steps to look at a curve for n nodes: about two for each segment, at its own nodes."""
    own, wanted = curve.n - 1, 2 * (n - 1)
    if own >= wanted:
        return own if own % wanted else wanted
    return own * -(-wanted // own)


def _equal_speed(metric: Metric, curve: Curve, n: int, steps: int) -> tuple[Tensor, Tensor]:
    """The nodes, and the images of the samples that they were found with (speeds where there is no flat map)."""
    t = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64, device=curve.nodes.device)
    z = curve(t)
    if metric.flat_embedding is not None:
        x = metric.flat_embedding(z)
        pieces = torch.linalg.vector_norm(x[:, 1:] - x[:, :-1], dim=-1).double()
    else:
        middle = 0.5 * (t[1:] + t[:-1])
        x = pieces = metric.norm(curve(middle), curve.velocity(middle)).double() / len(middle)
    pieces = pieces.nan_to_num(0.0, 0.0, 0.0)
    # a little of the parameter itself keeps the map invertible where the metric vanishes
    pieces = pieces + 1e-3 * pieces.mean(-1, keepdim=True) + torch.finfo(torch.float64).tiny
    s = torch.cat([torch.zeros_like(pieces[:, :1]), pieces.cumsum(-1)], -1)
    s = s / s[:, -1:]
    want = torch.linspace(0.0, 1.0, n, dtype=torch.float64, device=s.device).expand(s.shape[0], -1).contiguous()
    right = torch.searchsorted(s, want).clamp(1, s.shape[1] - 1)
    s0, s1 = s.gather(1, right - 1), s.gather(1, right)
    times = t[right - 1] + (want - s0) / (s1 - s0) * (t[1] - t[0])
    out = curve(times.clamp(0.0, 1.0))
    out[:, 0], out[:, -1] = curve.nodes[:, 0], curve.nodes[:, -1]
    return out, x
