"""The normalising constant of a locally adaptive normal distribution, by geodesic rays from its mean.

In normal coordinates ξ at the mean, C = ∫ exp(−½ ξᵀS⁻¹ξ) J(ξ) dξ over the segment domain, where J is the change of
volume of the exponential map. The domain is star-shaped and one geodesic, with its Jacobi fields, knows J along a whole
ray: directions are drawn at random, radii are integrated. Arvanitidis, Hansen, Hauberg, "A locally adaptive normal
distribution" (2016, section 3.3), draw single tangent vectors.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.special import gamma, gammainc, gammaincc
from scipy.stats import chi2
from torch import Tensor

from ..geodesics import LatentGraph, RungeKutta, connect, shoot
from ..geodesics.curve import Curve
from ..geodesics.jacobi import propagate
from ..metrics import Metric

__all__ = ["Design", "Normalizer", "Rays", "cast", "fields", "initial_solver", "normalizer", "root"]

_TAIL = 1e-5  # of a normal distribution's mass, beyond the rays' ends
_FINE = 16  # radii between two at which Jacobi fields are solved for
_SHORTENED = 0.98  # a ray that cannot be followed is followed to a little before where it was lost
_BISECTIONS = 5


@dataclasses.dataclass(frozen=True)
class Design:
    """Directions on the unit sphere, fixed for a whole fit, so that its likelihood is one deterministic function.

    Attributes
    ----------
    directions : Tensor of shape (S, d)
        Their second moment is exactly I/d and their mean 0, so that flat space is integrated exactly.
    group : ndarray of shape (S,)
        Which replicate each belongs to; the spread between replicates is the standard error.
    reach : float
        Length of the rays, in standard deviations.
    n_radii : int
    """

    directions: Tensor
    group: np.ndarray[Any, np.dtype[np.intp]]
    reach: float
    n_radii: int

    @staticmethod
    def draw(d: int, n_directions: int, n_radii: int, rng: np.random.RandomState) -> Design:
        """For d = 2 equally spaced angles from a random one on; else random orthonormal frames and their opposites."""
        if d == 1:
            directions, group = np.array([[1.0], [-1.0]]), np.zeros(2, dtype=np.intp)
        elif d == 2:
            count = 16 * math.ceil(n_directions / 16)
            angle = 2 * np.pi * (np.arange(count) + rng.uniform()) / count
            directions, group = np.stack([np.cos(angle), np.sin(angle)], 1), np.arange(count) % 4
        else:
            frames = [_frame(d, rng) for _ in range(max(2, math.ceil(n_directions / (2 * d))))]
            directions = np.concatenate([np.concatenate([Q, -Q]) for Q in frames])
            group = np.repeat(np.arange(len(frames)), 2 * d)
        return Design(torch.as_tensor(directions), group, float(chi2.ppf(1 - _TAIL, d)) ** 0.5, n_radii)


def _frame(d: int, rng: np.random.RandomState) -> np.ndarray[Any, Any]:
    """A uniformly distributed orthogonal matrix (Stewart 1980)."""
    Q, R = np.linalg.qr(rng.standard_normal((d, d)))
    return np.asarray(Q * np.sign(np.diag(R)))


@dataclasses.dataclass
class Rays:
    """What S geodesic rays from each of K means found.

    Radii are in standard deviations of `root`, evenly from 0 to `end`.

    Attributes
    ----------
    root : Tensor of shape (K, d, d)
        Ray s of component k starts along ``root[k] @ directions[s]``, in normal coordinates.
    volume : Tensor of shape (K, S, n_radii + 1)
        J.
    turn : Tensor of shape (K, S, n_radii + 1, d, d)
        J times minus the derivative of log by the mean (the identity in flat space), in normal coordinates.
    end, cut : Tensor of shape (K, S)
        Where rays end, and where they leave the segment domain.
    lost : Tensor of shape (K, S), bool
        The geodesic could be followed to `end` only, not to the design's reach.
    """

    root: Tensor
    volume: Tensor
    turn: Tensor
    end: Tensor
    cut: Tensor
    lost: Tensor

    def replaced(self, index: Tensor, other: Rays) -> Rays:
        """A copy with the components at `index` taken from another."""
        names = [f.name for f in dataclasses.fields(self)]
        return Rays(**{n: getattr(self, n).index_copy(0, index, getattr(other, n)[index]) for n in names})


@dataclasses.dataclass
class Normalizer:
    """Normalising constants and moments of K components, in normal coordinates.

    Attributes
    ----------
    log_constant, error : Tensor of shape (K,)
        log C, and its standard error.
    second : Tensor of shape (K, d, d)
        Mean of ξξᵀ under the model.
    slope : Tensor of shape (K, d)
        Gradient of log C by the mean.
    lost : Tensor of shape (K,)
        Share of the normal distribution's mass where the exponential map could not be computed.
    """

    log_constant: Tensor
    error: Tensor
    second: Tensor
    slope: Tensor
    lost: Tensor


def initial_solver(metric: Metric, like: Tensor) -> RungeKutta:
    """How rays are followed unless told otherwise: errors of single steps are bounded, nothing is solved twice."""
    return RungeKutta(rtol=1e-6 if like.dtype == torch.float64 else 1e-3, checked=False)


def root(S: Tensor) -> Tensor:
    """Symmetric square roots of positive definite matrices (K, d, d)."""
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.clamp_min(0.0).sqrt()[:, None, :]) @ vectors.mT


def cast(
    metric: Metric,
    mean: Tensor,
    frame: Tensor,
    S: Tensor,
    design: Design,
    *,
    graph: LatentGraph | None,
    solver: Any,
    shooter: Any,
    tol: float,
    paper: bool,
) -> Rays:
    """Follow rays from means (K, d), whose orthonormal frames (K, d, d) are columns, for covariances S (K, d, d)."""
    K, d = mean.shape
    shooter = initial_solver(metric, mean) if shooter is None else shooter
    A = root(S)
    aim = torch.einsum("kij,sj->ksi", A, design.directions.to(A))  # unit standard deviations, normal coordinates
    count = aim.shape[1]
    start = mean.repeat_interleave(count, 0)
    unit = torch.einsum("kij,ksj->ksi", frame, aim).reshape(-1, d)
    end = torch.full((K * count,), design.reach, dtype=torch.float64, device=mean.device)
    path = shoot(metric, start, (design.reach * unit).to(mean.dtype), solver=shooter, throw=False)
    nodes = path.z.double()
    lost = ~nodes.isfinite().flatten(1).all(-1)
    if (short := lost.nonzero()[:, 0]).numel():
        end[short] *= _SHORTENED * path.stats["reached"].to(end)[short].nan_to_num(0.0)
        some = short[end[short] > 0]
        again = shoot(metric, start[some], (end[some, None] * unit[some]).to(mean.dtype), solver=shooter, throw=False)
        nodes[short] = torch.nan
        if len(some):
            at = torch.linspace(0.0, 1.0, nodes.shape[1], dtype=torch.float64, device=mean.device)
            nodes[some] = again(at).double()
        dead = short[~nodes[short].isfinite().flatten(1).all(-1)]
        end[dead] = 0.0
    alive = (end > 0).nonzero()[:, 0]
    marks = design.n_radii + 1
    volume = torch.zeros(K * count, marks, dtype=torch.float64, device=mean.device)
    turn = torch.zeros(K * count, marks, d, d, dtype=torch.float64, device=mean.device)
    eye = torch.eye(d, dtype=torch.float64, device=mean.device)
    volume[:, 0], turn[:, 0] = 1.0, eye
    curve = Curve(nodes[alive].to(mean.dtype))
    t = torch.linspace(0.0, 1.0, marks, dtype=torch.float64, device=mean.device)
    if len(alive):
        at = curve(t)
        grown = metric.log_volume(at).double() - metric.log_volume(start[alive]).double()[:, None]
        volume[alive], turn[alive] = _spread(metric, curve, grown, frame.repeat_interleave(count, 0)[alive], paper)
    finite = volume.isfinite().all(-1) & turn.isfinite().flatten(1).all(-1)
    end = torch.where(finite, end, 0.0)
    volume[~finite], turn[~finite] = 1.0, eye
    lost |= ~finite
    found = Rays(
        A, volume.reshape(K, count, marks), turn.reshape(K, count, marks, d, d), end.reshape(K, count),
        end.reshape(K, count).clone(), lost.reshape(K, count),
    )  # fmt: skip
    if not paper:
        size = aim.norm(dim=-1).reshape(-1)  # length of a standard deviation along each ray
        usable = (end > 0).nonzero()[:, 0]
        mask = torch.isin(alive, usable)
        cut = _first_zero(found.volume.reshape(-1, marks)[usable], end[usable])
        cut = _segments(metric, start[usable], curve.select(mask), cut, end[usable], size[usable], graph, solver, tol)
        found.cut.view(-1)[usable] = cut
    return found


def fields(metric: Metric, curve: Curve, segments: int, *, rtol: float) -> tuple[Tensor, Tensor]:
    """Covariant fundamental solutions of Jacobi's equation at ends of segments: Φ_a, Φ_b (B, segments + 1, d, d)."""
    B, d = curve.nodes.shape[0], curve.nodes.shape[-1]
    eye = torch.eye(2 * d, dtype=torch.float64, device=curve.nodes.device)
    out, _ = propagate(metric, curve, eye.expand(B, -1, -1), rtol=rtol, segments=segments, strict=False)
    return out[..., :d, :d], out[..., :d, d:]


def _spread(metric: Metric, curve: Curve, grown: Tensor, frame: Tensor, paper: bool) -> tuple[Tensor, Tensor]:
    """J and J times the turn at equal times along rays, from the growth of the measure element's logarithm."""
    marks, d = grown.shape[1], frame.shape[-1]
    eye = torch.eye(d, dtype=torch.float64, device=grown.device)
    if paper:
        volume = grown.exp()
        return volume, volume[..., None, None] * eye
    a, b = fields(metric, curve, marks - 1, rtol=1e-4 if curve.nodes.dtype == torch.float64 else 1e-2)
    t = torch.linspace(0.0, 1.0, marks, dtype=torch.float64, device=grown.device)[:, None, None]
    b = torch.where(t > 0, b / torch.where(t > 0, t, 1.0), eye)
    det = torch.linalg.det(b)
    inverse, info = torch.linalg.inv_ex(b)
    turn = torch.where((info == 0)[..., None, None], inverse, 0.0) @ a
    inside = torch.linalg.inv(frame)[:, None] @ turn @ frame[:, None]
    volume = grown.exp() * det
    return volume, volume[..., None, None] * inside


def _first_zero(volume: Tensor, end: Tensor) -> Tensor:
    """The radius of the first conjugate point, (B,); that of the end where there is none."""
    fine = _refined(volume)
    bad = fine <= 0
    first = torch.where(bad.any(-1), bad.double().argmax(-1), fine.shape[-1] - 1)
    before = (first - 1).clamp_min(0)
    high, low = fine.gather(1, before[:, None])[:, 0], fine.gather(1, first[:, None])[:, 0]
    share = torch.where(low <= 0, high / (high - low).clamp_min(1e-300), 1.0)
    return end * (before + share) / (fine.shape[-1] - 1)


def _refined(volume: Tensor) -> Tensor:
    """Values at radii `_FINE` times as dense, by cubic splines along the second axis."""
    coarse = volume.shape[1]
    spline = CubicSpline(np.arange(coarse), np.eye(coarse))
    matrix = torch.as_tensor(spline(np.linspace(0, coarse - 1, _FINE * (coarse - 1) + 1)))
    return torch.einsum("fc,bc...->bf...", matrix.to(volume), volume)


def _segments(
    metric: Metric,
    start: Tensor,
    curve: Curve,
    cut: Tensor,
    end: Tensor,
    size: Tensor,
    graph: LatentGraph | None,
    solver: Any,
    tol: float,
) -> Tensor:
    """Radii up to which rays are shortest geodesics: of length at most 1/(1 − tol) times the distance."""

    def points(radius: Tensor, rows: Tensor) -> Tensor:
        """Where rays are at radii (rows, m)."""
        t, index = (radius / end[rows, None]).clamp(0.0, 1.0).reshape(-1), torch.arange(len(rows)).to(rows)
        n = curve.n - 1
        i = (t * n).floor().long().clamp(0, n - 1).reshape(radius.shape)
        s = (t * n).reshape(radius.shape) - i
        z, v = curve.nodes[rows].double(), curve.velocity(torch.linspace(0.0, 1.0, n + 1).double().to(t))[rows] / n
        a, b = z[index[:, None], i], z[index[:, None], i + 1]
        p, q = v[index[:, None], i].double(), v[index[:, None], i + 1].double()
        s = s[..., None]
        h = (1 + 2 * s) * (1 - s) ** 2 * a + s * (1 - s) ** 2 * p + s**2 * (3 - 2 * s) * b + s**2 * (s - 1) * q
        return h.to(start.dtype)

    # the followed curve's own length, by its nodes' speeds: a solver's drift must not pass for a short cut
    times = torch.linspace(0.0, 1.0, curve.n, dtype=torch.float64, device=start.device)
    speed = metric.norm(curve(times).to(start.dtype), curve.velocity(times).to(start.dtype)).double()
    arc = torch.cat([torch.zeros_like(speed[:, :1]), (0.5 * (speed[:, 1:] + speed[:, :-1])).cumsum(-1)], -1)
    arc = arc / (curve.n - 1)

    def lengths(radius: Tensor, rows: Tensor) -> Tensor:
        """Lengths of rays up to radii (rows, m); the nominal ones where the curve is longer than it should be."""
        at = ((radius / end[rows, None]).clamp(0.0, 1.0) * (curve.n - 1)).clamp_max(curve.n - 1 - 1e-9)
        i = at.floor().long()
        measured = arc[rows].gather(1, i) + (at - i) * (arc[rows].gather(1, i + 1) - arc[rows].gather(1, i))
        return torch.minimum(measured, radius * size[rows, None])

    everyone = torch.arange(len(start), device=start.device)
    if graph is not None:  # its distances are bounds from above, and cheap
        m = 16
        radius = cut[:, None] * torch.arange(1, m + 1, device=cut.device) / m
        bound = _graph_lengths(graph, start, points(radius, everyone))
        out = bound < (1 - tol) * lengths(radius, everyone)
        first = torch.where(out.any(-1), out.double().argmax(-1) + 1, m)
        cut = cut * first / m

    def inside(radius: Tensor, rows: Tensor) -> Tensor:
        goal = points(radius[:, None], rows)[:, 0]
        init = graph if metric.period is None else None
        found = connect(metric, start[rows], goal, solver=solver, init=init, throw=False).length.double()
        return ~(found < (1 - tol) * lengths(radius[:, None], rows)[:, 0])

    rows = everyone
    good = inside(cut, rows)
    low, high = torch.where(good, cut, 0.0), cut.clone()
    rows = (~good).nonzero()[:, 0]
    for _ in range(_BISECTIONS):
        if len(rows) == 0:
            break
        middle = 0.5 * (low[rows] + high[rows])
        good = inside(middle, rows)
        low[rows], high[rows] = torch.where(good, middle, low[rows]), torch.where(good, high[rows], middle)
    return torch.where(high > low, 0.5 * (low + high), cut)


def _graph_lengths(graph: LatentGraph, start: Tensor, goals: Tensor) -> Tensor:
    """Graph distances (B, m) from starts (B, d) to goals (B, m, d); infinite where a goal cannot be attached."""
    out = torch.full(goals.shape[:2], torch.inf, dtype=torch.float64, device=goals.device)
    codes, owner = torch.unique(start, dim=0, return_inverse=True)
    for k, code in enumerate(codes):
        mine = (owner == k).nonzero()[:, 0]
        out[mine] = graph.distances(code[None], goals[mine].flatten(0, 1)).double().reshape(len(mine), -1)
    return out


def normalizer(rays: Rays, S: Tensor, design: Design) -> Normalizer:
    """Constants and moments for covariances S (K, d, d), which need not be those that the rays were cast for."""
    full = _integrals(rays, S, design, stride=1)
    value, second, slope, parts, lost = full
    quadrature = torch.zeros_like(value)
    if design.n_radii % 2 == 0:
        quadrature = (_integrals(rays, S, design, stride=2)[0] - value).abs() / 4
    error = torch.zeros_like(value)
    if parts.shape[1] > 1:
        error = parts.std(1) / parts.shape[1] ** 0.5
    return Normalizer(value.log(), (error.square() + quadrature.square()).sqrt() / value, second, slope, lost)


def _integrals(rays: Rays, S: Tensor, design: Design, *, stride: int) -> tuple[Tensor, ...]:
    K, count = rays.volume.shape[:2]
    d = S.shape[-1]
    w = design.directions.to(S)
    aim = torch.einsum("kij,sj->ksi", rays.root, w)
    P = torch.linalg.inv(S)
    q = torch.einsum("ksi,kij,ksj->ks", aim, P, aim)
    flat = rays.volume[:, :, ::stride].reshape(K * count, -1)
    J = _refined(flat).reshape(K, count, -1)
    turn = _refined(rays.turn[:, :, ::stride].reshape(K * count, -1, d, d)).reshape(K, count, -1, d, d)
    if stride == 1:
        J = J.clamp_min(0.0)
    radius = rays.end[..., None] * torch.linspace(0.0, 1.0, J.shape[-1], dtype=torch.float64, device=S.device)
    uncut = (rays.cut >= rays.end) & ~rays.lost
    weights = [_weights(radius, rays.cut, uncut, q, power) for power in (d - 1, d + 1, d)]
    # ∫ dξ = |det root| ∫ dω ∫ ρ^{d−1} dρ, and the sphere's area is 2 π^{d/2} / Γ(d/2)
    area = 2 * math.pi ** (d / 2) / float(gamma(d / 2)) * torch.linalg.det(rays.root).abs()
    mass = (weights[0] * J).sum(-1)
    value = area * mass.mean(1)
    second = torch.einsum("ks,ksi,ksj->kij", (weights[1] * J).sum(-1), aim, aim) / mass.sum(1)[:, None, None]
    bent = torch.einsum("ksf,ksfij,kil,ksl->kj", weights[2], turn, P, aim) / mass.sum(1)[:, None]
    parts = torch.stack([mass[:, torch.as_tensor(design.group == g)].mean(1) for g in range(design.group.max() + 1)], 1)
    whole = _moment(torch.full_like(q, torch.inf), q, d - 1)
    beyond = whole - _moment(rays.end, q, d - 1)
    missing = torch.where(rays.lost & (rays.cut >= rays.end), beyond, 0.0)
    return value, second, bent, area[:, None] * parts, missing.sum(1) / whole.sum(1)


def _moment(upto: Tensor, q: Tensor, power: int) -> Tensor:
    """∫₀^b ρ^power exp(−½qρ²) dρ."""
    a = (power + 1) / 2
    x = (0.5 * q * upto.square()).cpu().numpy()
    return 0.5 * float(gamma(a)) * (2 / q) ** a * torch.as_tensor(gammainc(a, x)).to(q)


def _weights(radius: Tensor, cut: Tensor, uncut: Tensor, q: Tensor, power: int) -> Tensor:
    """Quadrature weights (K, S, F) of ∫₀^cut ρ^power exp(−½qρ²) f(ρ) dρ, exact for f linear between radii.

    Beyond the end of a ray that was followed all the way, f is taken for constant.
    """
    ends = torch.minimum(radius, cut[..., None])
    zero, one = (_moment(ends, q[..., None], p).diff(dim=-1) for p in (power, power + 1))
    step = radius[..., 1:] - radius[..., :-1]
    rise = torch.where(step > 0, (one - radius[..., :-1] * zero) / torch.where(step > 0, step, 1.0), 0.0)
    out = torch.zeros_like(radius)
    out[..., :-1] += zero - rise
    out[..., 1:] += rise
    a = (power + 1) / 2
    x = (0.5 * q * radius[..., -1].square()).cpu().numpy()
    tail = 0.5 * float(gamma(a)) * (2 / q) ** a * torch.as_tensor(gammaincc(a, x)).to(q)
    out[..., -1] += torch.where(uncut, tail, 0.0)
    return out
