"""`Shooting`: boundary values met by initial ones, by Newton's method on the velocity through Jacobi fields.

Single shooting as in Stoer and Bulirsch, "Introduction to Numerical Analysis" (1993), section 7.3, with Levenberg's
damping. It refines good starting curves to high accuracy; where geometry is sharp it fails, and says so.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..._calculus import as_tolerance
from ..._calculus.linalg import root as cholesky_root
from ...metrics import Metric
from .._ode import Shot, lengths
from ..curve import Curve, arc_length, equal_speed
from ..geodesic import Status
from ..jacobi import propagate
from .options import check_options
from .runge_kutta import RungeKutta
from .solution import Solution
from .verdict import judge

__all__ = ["Aimed", "Shooting", "aim"]

_MOST_DAMPING = 1e6
_BOLDEST = 0.5  # of the velocity, the most that one step may change it
_NEAR = 1e-2  # relative miss at which a goal is approached
_TRIES = 6  # shots at one goal before a nearer one is tried
_LEAST_STRIDE = 1 / 128


@dataclasses.dataclass(frozen=True)
class Shooting:
    """Newton's method on the initial velocity, from that of the starting curve; its derivative by Jacobi fields.

    Geodesics that are no local minima, or longer than their starts, are told by their status.

    Parameters
    ----------
    n_points, max_points : int
        Least and most nodes of a returned curve, at least 3.
    rtol : float
        Relative error allowed on the length.
    residual_tol : float, optional
        Stop when the geodesic misses the end point by less, in metric length relative to its own; None means 1e-6 in
        float64 and 1e-3 in float32. Never more than a quarter of `rtol`.
    max_steps : int
        Most geodesics shot for each pair.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] Shao, Kumar, Fletcher, "The Riemannian Geometry of Deep Generative Models", CVPRW 2018, arXiv:1711.08014.

    Examples
    --------
    >>> from latentgeo.geodesics import distance
    >>> from latentgeo.metrics import Sphere
    >>> a, b = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> distance(Sphere(2), a, b, solver=Shooting())
    tensor(1.5708, dtype=torch.float64)
    """

    n_points: int = 33
    max_points: int = 513
    rtol: float = 1e-3
    residual_tol: float | None = None
    max_steps: int = 50

    def __post_init__(self) -> None:
        check_options(self, n_points=3, max_steps=1)

    def solve(self, metric: Metric, start: Curve) -> Solution:
        """Solve for geodesics near the starting curves (B, n, d), which have finite, distinct ends."""
        a, b = start.nodes[:, 0], start.nodes[:, -1]
        begin = Curve(equal_speed(metric, start, max(9, self.n_points)))
        entry = arc_length(metric, begin, rtol=self.rtol).length
        v = begin.velocity(torch.zeros(1, dtype=torch.float64, device=a.device))[:, 0]
        speed = lengths(metric, a, v[:, None])[:, 0]
        v = torch.where(speed > 0, entry / torch.where(speed > 0, speed, 1.0), 1.0)[:, None].to(v.dtype) * v
        tol = min(as_tolerance(self.residual_tol, a.dtype), 0.25 * self.rtol)
        points = (self.n_points, self.max_points)
        found = aim(metric, a, b, v, tol=tol, max_steps=self.max_steps, points=points, along=begin)
        return self._collect(metric, found, entry, b)

    def _collect(self, metric: Metric, found: Aimed, entry: Tensor, b: Tensor) -> Solution:
        """Lengths and certificates; where no geodesic arrives there is no curve, only a status."""
        B = len(b)
        status = list(found.status)
        certified = torch.zeros(B, dtype=torch.bool, device=b.device)
        points = torch.zeros(B, dtype=torch.long, device=b.device)
        arrived = torch.tensor([s is Status.CONVERGED for s in status], device=b.device)
        length = torch.where(arrived, found.length, torch.nan)
        pieces: list[tuple[Tensor, Curve]] = []
        for index, curve in found.pieces:
            # the last node is b itself, which the geodesic misses by no more than the residual
            curve.nodes[:, -1] = b[index]
            pieces.append((index, curve))
            points[index] = curve.n
            verdict = judge(metric, curve.nodes, self.rtol)
            certified[index] = verdict.definite & verdict.smooth
            for i, k in enumerate(index.tolist()):
                if status[k] is not Status.CONVERGED:
                    certified[k] = False
                elif not bool(verdict.finite[i]):
                    status[k] = Status.NOT_FINITE
                elif bool(verdict.saddle[i]):
                    status[k] = Status.NOT_MINIMAL
                elif bool(length[k] > (1 + self.rtol) * entry[k]):
                    status[k] = Status.LONGER
        error = length * (found.residual + found.error)
        return Solution(
            tuple(pieces),
            length,
            error,
            0.5 * length.square(),
            found.residual,
            certified,
            found.steps,
            points,
            status,
        )


@dataclasses.dataclass
class Aimed:
    """Velocities of B geodesics and how they meet their end points. Tensors have shape (B,), float64.

    Attributes
    ----------
    velocity : Tensor of shape (B, d)
    length : Tensor
        Metric length of the velocity; of those that converged, less what its geodesic goes beyond the end point.
    residual : Tensor
        Distance by which the end point is missed, relative to the length.
    error : Tensor
        Estimated error of the end point itself, relative to the length.
    steps : Tensor
        Geodesics shot.
    status : list of Status
    pieces : list of (indices, Curve)
        The curves that converged.
    """

    velocity: Tensor
    length: Tensor
    residual: Tensor
    error: Tensor
    steps: Tensor
    status: list[Status]
    pieces: list[tuple[Tensor, Curve]]


def aim(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    v: Tensor,
    *,
    tol: float,
    max_steps: int,
    points: tuple[int, int],
    along: Curve | None = None,
) -> Aimed:
    """Correct velocities v (B, d) until the geodesics from a arrive at b to a relative accuracy `tol`.

    Where that fails from `v`, places on the way `along` a curve from a to b, of constant speed and as long as `v`, are
    aimed at first.
    """
    return _Aim(metric, a, b, v, tol, points, along).run(max_steps)


class _Aim:
    """Per curve the best velocity for its present goal, with its damping; curves that are done leave the batch.

    Goals are approached by loose shots and met by tight ones. A goal that is not approached in a few shots is replaced
    by one half as far along the given curve; one that is, by the next.
    """

    def __init__(
        self,
        metric: Metric,
        a: Tensor,
        b: Tensor,
        v: Tensor,
        tol: float,
        points: tuple[int, int],
        along: Curve | None,
    ) -> None:
        B, d, device = len(a), a.shape[-1], a.device
        self.metric, self.a, self.b, self.tol, self.along = metric, a, b, tol, along
        self.way = torch.linalg.vector_norm(_apply(_frame(metric, a), v.double()), dim=-1)  # `v` is as long as `along`
        n, most = points
        self.tight = RungeKutta(rtol=tol / 3, n_points=n, max_points=most)
        self.loose = RungeKutta(rtol=0.1 * _NEAR, n_points=9, max_points=17, checked=False)
        unknown = torch.full((B,), torch.nan, dtype=torch.float64, device=device)
        self.out = Aimed(
            v.clone(),
            unknown,
            torch.full_like(unknown, torch.inf),
            unknown.clone(),
            torch.zeros(B, dtype=torch.long, device=device),
            [Status.ASTRAY] * B,
            [],
        )
        self.damping = torch.zeros_like(unknown)
        self.tries = torch.zeros_like(self.out.steps)  # shots at the present goal
        self.part, self.stride = torch.zeros_like(unknown), torch.ones_like(unknown)  # of the way along: done, next
        self.sure = v.clone()  # velocity for the part that is done; for none, that of the whole
        self.frame_a, self.frame_b = _frame(metric, a), _frame(metric, b)
        self.goal, self.frame = b.clone(), self.frame_b.clone()
        self.miss = torch.zeros(B, d, dtype=torch.float64, device=device)  # Lᵀ(exp v − goal)
        self.slope = torch.zeros(B, d, d, dtype=torch.float64, device=device)

    def run(self, max_steps: int) -> Aimed:
        """Shoot, correct, shoot again."""
        sound = self.frame_a.isfinite().flatten(1).all(-1) & self.frame_b.isfinite().flatten(1).all(-1)
        self._set(torch.arange(len(sound), device=sound.device)[~sound], Status.NOT_FINITE)
        rows = sound.nonzero()[:, 0]
        near = [rows[:0]]
        trial = self.out.velocity[rows]
        for _ in range(max_steps):
            if len(rows) == 0:
                break
            hit, _shot = self._shoot(rows, trial, self.loose, _NEAR)
            part = self.part[rows] + self.stride[rows]
            wrong = hit & self._no_minimum(rows, part)
            hit &= ~wrong
            there = hit & (part >= 1.0)
            near.append(rows[there])
            failed = wrong | (self.tries[rows] >= _TRIES) | (self.damping[rows] > _MOST_DAMPING)
            failed |= ~self.out.residual[rows].isfinite()
            self._advance(rows[hit & ~there])
            lost = self._retreat(rows[failed & ~hit])
            rows = rows[~there]
            rows = rows[~torch.isin(rows, lost)]
            trial = self._correct(rows)
        self._set(rows, Status.MAX_STEPS)
        rows = torch.cat(near).sort().values
        self._renew(rows, self.out.velocity[rows])
        trial = self.out.velocity[rows]
        for _ in range(max_steps):
            if len(rows) == 0:
                break
            hit, shot = self._shoot(rows, trial, self.tight, self.tol)
            self._keep(rows, hit, shot)
            self._set(rows[hit], Status.CONVERGED)
            lost = ~hit & ((self.damping[rows] > _MOST_DAMPING) | ~self.out.residual[rows].isfinite())
            self._set(rows[lost], Status.PRECISION)
            rows = rows[~hit & ~lost]
            trial = self._correct(rows)
        self._set(rows, Status.MAX_STEPS)
        return self.out

    def _set(self, rows: Tensor, status: Status) -> None:
        for k in rows.tolist():
            self.out.status[k] = status

    def _shoot(self, rows: Tensor, trial: Tensor, solver: RungeKutta, tol: float) -> tuple[Tensor, Shot]:
        """Try velocities; keep the better ones with the derivative there. Returns which meet their goals."""
        out = self.out
        shot = solver.follow(self.metric, self.a[rows], trial, path=True)
        out.steps[rows] += 1
        self.tries[rows] += 1
        arrived = torch.tensor([s is Status.CONVERGED for s in shot.flow.status], device=rows.device)
        length = torch.linalg.vector_norm(_apply(self.frame_a[rows], trial.double()), dim=-1)
        off = _apply(self.frame[rows], shot.flow.end[:, 0] - self.goal[rows].double())
        residual = torch.linalg.vector_norm(off, dim=-1) / length
        residual = torch.where(arrived & residual.isfinite(), residual, torch.inf)
        old = out.residual[rows]
        better = residual * length < torch.where(old.isfinite(), old * out.length[rows], torch.inf)
        kept = rows[better]
        out.velocity[kept], out.length[kept], self.miss[kept] = trial[better], length[better], off[better]
        out.residual[kept], out.error[kept] = residual[better], shot.error[better]
        easier = torch.where(self.damping[rows] > 1e-3, 0.1 * self.damping[rows], 0.0)
        self.damping[rows] = torch.where(better, easier, 10 * self.damping[rows].clamp_min(1e-3))
        hit = better & (residual <= tol)
        wanted = better & ~(hit & (tol < _NEAR))
        self.slope[rows[wanted]] = self._slopes(shot, wanted)[wanted]
        return hit, shot

    def _renew(self, rows: Tensor, trial: Tensor) -> None:
        """Forget what was found for the last goal."""
        self.out.velocity[rows], self.out.residual[rows] = trial, torch.inf
        self.damping[rows], self.tries[rows] = 0.0, 0

    def _no_minimum(self, rows: Tensor, part: Tensor) -> Tensor:
        """Geodesics past a conjugate point, or longer than the given curve up to their goal: not to be followed on."""
        if self.along is None:
            return torch.zeros_like(rows, dtype=torch.bool)
        passed = torch.linalg.det(self.slope[rows].nan_to_num(0.0, 0.0, 0.0)) < 0
        return passed | (self.out.length[rows] > (1 + _NEAR) * part * self.way[rows])

    def _advance(self, rows: Tensor) -> None:
        """Aim further along, after a goal that is not the last was met."""
        self.part[rows] += self.stride[rows]
        self.stride[rows] = torch.minimum(2 * self.stride[rows], 1 - self.part[rows])
        self.sure[rows] = self.out.velocity[rows]
        self._head_for(rows)

    def _retreat(self, rows: Tensor) -> Tensor:
        """Aim half as far along; returns the curves for which that is no use."""
        self.stride[rows] *= 0.5
        lost = self.stride[rows] < _LEAST_STRIDE
        if self.along is None:
            lost = torch.ones_like(lost)
        self._head_for(rows[~lost])
        return rows[lost]

    def _head_for(self, rows: Tensor) -> None:
        if len(rows) == 0 or self.along is None:
            return
        done, next_ = self.part[rows], self.part[rows] + self.stride[rows]
        self.goal[rows] = self.along.select(rows)(next_[:, None])[:, 0]
        self.goal[rows[next_ >= 1.0]] = self.b[rows[next_ >= 1.0]]
        self.frame[rows] = _frame(self.metric, self.goal[rows])
        stretch = torch.where(done > 0, next_ / torch.where(done > 0, done, 1.0), next_)
        self._renew(rows, stretch[:, None].to(self.a.dtype) * self.sure[rows])

    def _keep(self, rows: Tensor, won: Tensor, shot: Shot) -> None:
        # the first variation of length takes away what missing the end point does to it
        towards = _apply(self.frame[rows], shot.flow.end[:, 1])
        towards = towards / torch.linalg.vector_norm(towards, dim=-1, keepdim=True)
        kept = rows[won]
        self.out.length[kept] -= (towards * self.miss[rows]).sum(-1)[won]
        for index, curve in shot.pieces:
            chosen = won[index]
            if bool(chosen.any()):
                self.out.pieces.append((rows[index[chosen]], curve.select(chosen)))

    def _slopes(self, shot: Shot, wanted: Tensor) -> Tensor:
        """Derivatives of the end points by the velocities in orthonormal frames at both, (R, d, d)."""
        d = self.a.shape[-1]
        eye = torch.eye(d, dtype=torch.float64, device=self.a.device)
        field = torch.cat([torch.zeros_like(eye), eye])
        out = torch.zeros(len(wanted), d, d, dtype=torch.float64, device=self.a.device)
        for index, curve in shot.pieces:
            some = wanted[index].nonzero()[:, 0]
            if len(some):
                start = field.expand(len(some), 2 * d, d)
                fields, _ = propagate(self.metric, curve.select(some), start, rtol=1e-3, strict=False)
                out[index[some]] = fields[:, -1, :d]
        return out

    def _correct(self, rows: Tensor) -> Tensor:
        """Levenberg's step from the best velocities, in the frames where lengths are Euclidean."""
        v = self.out.velocity[rows]
        fresh = ~self.out.residual[rows].isfinite()  # not yet shot
        if len(rows) == 0 or bool(fresh.all()):
            return v
        inverse = torch.linalg.inv(self.frame_a[rows])
        J = self.frame[rows] @ self.slope[rows].nan_to_num(0.0, 0.0, 0.0) @ inverse
        U, s, V = torch.linalg.svd(J)
        damping = self.damping[rows, None].clamp_min(1e-12) * s[:, :1].clamp_min(1e-300) ** 2
        step = -_apply(V.mT, s / (s.square() + damping) * _apply(U.mT, self.miss[rows]))
        size = torch.linalg.vector_norm(step, dim=-1)
        step = step * (_BOLDEST * self.out.length[rows] / size.clamp_min(1e-300)).clamp_max(1.0)[:, None]
        return torch.where(fresh[:, None], v, v + _apply(inverse, step).to(v.dtype))


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("Bij,Bj->Bi", matrix, vector)


def _frame(metric: Metric, z: Tensor) -> Tensor:
    """Lᵀ with G = LLᵀ, float64: maps latent vectors to orthonormal coordinates; NaN where there is none."""
    return cholesky_root(metric.tensor(z)).mT
