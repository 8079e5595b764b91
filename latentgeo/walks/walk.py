"""`random_walk`: many walkers at once on a Riemannian metric, and `Walk`, what became of them.

Brownian motion with its drift, and the inverse-metric walk of Arvanitidis, Hansen, Hauberg, "Latent Space Oddity"
(ICLR 2018) for comparison.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .._calculus import RankError, check_flag, check_integer, check_positive
from .._calculus.seeds import torch_random
from ..metrics import Metric, need_metric
from ._local import in_chunks
from ._random import normal
from .kinds import FAILED, FINE, OUTSIDE, ROUGH, SINGULAR, Brownian, Kind, as_kind

__all__ = ["StepSizeWarning", "Walk", "WalkStatus", "random_walk"]


_ROUGH_SHARE = 0.01


class StepSizeWarning(UserWarning):
    """Steps are too large for the metric they are taken on."""


class WalkStatus(enum.Enum):
    """What became of one walker; the value is a sentence of advice.

    Examples
    --------
    >>> import torch, latentgeo as lg
    >>> walk = lg.random_walk(lg.Euclidean(2), torch.full((1, 2), torch.nan), n_steps=1, step_size=0.1, throw=False)
    >>> walk.status[0].name
    'BAD_START'
    """

    FINISHED = "all steps were taken"
    OUTSIDE = "left the region where the metric is finite, and was frozen at its last code inside"
    SINGULAR = "came to a code where the metric is rank-deficient, and was frozen at the last code before it"
    FAILED = "a step could not be computed, and the walker was frozen; take a smaller `step_size`"
    BAD_START = "the starting code, or the metric or density there, is NaN or infinite; check the codes"
    SINGULAR_START = "the metric is rank-deficient at the starting code; check the decoder there"


_STATUS = {OUTSIDE: WalkStatus.OUTSIDE, SINGULAR: WalkStatus.SINGULAR, FAILED: WalkStatus.FAILED}
_START = {OUTSIDE: WalkStatus.BAD_START, SINGULAR: WalkStatus.SINGULAR_START, FAILED: WalkStatus.FAILED}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Walk:
    """Paths of random walkers.

    Attributes
    ----------
    z : Tensor of shape (*walkers, n_steps // every + 1, d)
        Codes at every `every`-th step, the start first; a frozen walker repeats its last code. Coordinates with a
        `period` are not wrapped.
    status : object array of WalkStatus, shape (*walkers,)
    steps : Tensor of shape (*walkers,)
        Steps taken by each walker.
    rough : Tensor of shape (*walkers,)
        How many of them were too large for the metric: the bending of the geodesic was longer than the step.
    step_size : float
        Time δ of one step.
    n_steps, every : int
    law : str
        What was walked.
    metric : Metric

    Examples
    --------
    >>> import torch, latentgeo as lg
    >>> walk = lg.random_walk(lg.Euclidean(2), torch.zeros(3, 2), n_steps=10, step_size=0.1, random_state=0)
    >>> walk.z.shape, walk.status[0].name
    (torch.Size([3, 11, 2]), 'FINISHED')
    """

    z: Tensor
    status: np.ndarray[Any, np.dtype[np.object_]]
    steps: Tensor
    rough: Tensor
    step_size: float
    n_steps: int
    every: int
    law: str
    metric: Metric

    @property
    def walkers(self) -> tuple[int, ...]:
        """Batch shape of the walkers."""
        return tuple(self.steps.shape)

    @property
    def t(self) -> Tensor:
        """Times of the codes, shape (n_steps // every + 1,)."""
        count = self.z.shape[-2]
        return torch.arange(count, dtype=torch.float64, device=self.z.device) * (self.step_size * self.every)

    @property
    def finished(self) -> Tensor:
        """Whether each walker took all its steps, shape (*walkers,), bool."""
        return self.steps >= self.n_steps

    @property
    def rms_step(self) -> float:
        """Root mean square of the Euclidean length of the steps between recorded codes, in latent units."""
        moves = self.z.detach().double().diff(dim=-2).square().sum(-1)
        moved = torch.arange(moves.shape[-1], device=moves.device) < (self.steps // self.every)[..., None]
        return float(moves[moved].mean().sqrt()) if bool(moved.any()) else math.nan

    def __repr__(self) -> str:
        number, done = self.steps.numel(), int(self.finished.sum())
        return (
            f"Walk({self.law}, walkers={self.walkers}, d={self.z.shape[-1]}, {self.n_steps} steps of "
            f"{self.step_size:.3g}, {done}/{number} finished)"
        )


def random_walk(
    metric: Metric,
    z: Tensor,
    *,
    n_steps: int,
    step_size: float,
    kind: Kind | str = Brownian(),  # noqa: B008 - a frozen value
    every: int = 1,
    random_state: int | torch.Generator | None = None,
    throw: bool = True,
    progress: bool | None = None,
) -> Walk:
    r"""Random walks on a metric, all walkers at once.

    `Brownian` walks have generator ½Δ: after time t = n_steps·step_size a walker on the unit sphere has
    E[cos θ] = e^(−t), and in flat space covariance t·I. The root-mean-square length of a step is √(δ·d).

    Parameters
    ----------
    metric : Metric
    z : Tensor of shape (*walkers, d)
        Starting codes. For many walkers from one code, expand it.
    n_steps : int
        Number of steps.
    step_size : float
        Time δ of one step: squared units of the metric's length (`EuclideanWalk`: squared latent units). Take it so
        small that the metric hardly changes over √δ of length.
    kind : Kind or str
        `Brownian()`, `InverseMetric()`, `EuclideanWalk()` or a kind of your own; "brownian", "inverse-metric" and
        "euclidean" mean their defaults.
    every : int
        Record every so many steps, for long walks.
    random_state : int, torch.Generator or None
        The same seed gives the same walk, and the same normal numbers for every kind and dtype; None draws a seed from
        torch's global generator.
    throw : bool
        Raise if any walker cannot take a first step; with False it is frozen where it stands.
    progress : bool or None
        Show a progress bar; None shows one for long walks on a terminal.

    Returns
    -------
    Walk
        A walker that leaves the region where the metric is finite, or meets a rank-deficient one, is frozen and has a
        status that says so. (Repeating such a step until it stays inside would bias the law.)

    Warns
    -----
    StepSizeWarning
        If more than 1 % of the steps are too large for the metric where they are taken.

    Raises
    ------
    ValueError, TypeError
        If an argument is not what it must be; if ``throw`` and a start is NaN or has no finite metric.
    RankError
        If ``throw`` and the metric is rank-deficient at a start.

    Notes
    -----
    Numbers are drawn for all walkers, frozen or not, once per step on the generator's device, so that memory limits and
    frozen walkers change no other walker's path. Linear algebra is in float64, codes keep their dtype. Not
    differentiable.

    References
    ----------
    .. [1] Hsu, "Stochastic Analysis on Manifolds", AMS 2002, section 3.
    .. [2] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379 (`InverseMetric`).

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> start = torch.zeros(1000, 2, dtype=torch.float64)  # the north pole
    >>> walk = random_walk(Sphere(2), start, n_steps=10, step_size=0.05, random_state=0)
    >>> walk
    Walk(Brownian(step='second-order'), walkers=(1000,), d=2, 10 steps of 0.05, 1000/1000 finished)
    >>> height = Sphere(2).embedding(walk.z[:, -1])[:, 2]  # cos θ, whose mean is e^(−0.5) = 0.607
    >>> bool((height.mean() - 0.607).abs() < 0.03)
    True
    """
    check_walk(metric, z, n_steps=n_steps, step_size=step_size, every=every, throw=throw)
    kind = as_kind(kind)
    source = torch_random(random_state)
    shape, d = z.shape[:-1], z.shape[-1]
    with torch.no_grad():
        now = z.detach().reshape(-1, d).clone()
        crowd = Crowd(len(now), now.device)
        crowd.freeze(~now.isfinite().all(-1), WalkStatus.BAD_START)
        record = now.new_empty(len(now), n_steps // every + 1, d)
        before = now
        for k in progress_bar(n_steps, progress, "random walk"):
            xi = normal(source, now)
            alive = crowd.alive
            new, trouble = _advance(kind, metric, now[alive], xi[alive], step_size)
            for code, status in (_STATUS if k else _START).items():
                crowd.freeze(alive[trouble == code], status)
            if k:  # a code without a metric was one step too far: it is taken back
                now, far = now.clone(), alive[(trouble == OUTSIDE) | (trouble == SINGULAR)]
                now[far] = before[far]
                crowd.steps[far] -= 1
            elif throw:
                crowd.check_starts()
            if k % every == 0:
                record[:, k // every] = now
            before, now = now, now.clone()
            taken = (trouble == FINE) | (trouble == ROUGH)
            now[alive[taken]] = new[taken]
            crowd.steps[alive[taken]] += 1
            crowd.rough[alive[trouble == ROUGH]] += 1
        alive = crowd.alive
        parts = [metric.tensor(now[alive[s]]).isfinite().flatten(1).all(-1) for s in in_chunks(metric, now[alive])]
        far = alive[~torch.cat(parts)] if parts else alive
        crowd.freeze(far, WalkStatus.OUTSIDE)
        now[far] = before[far]
        crowd.steps[far] -= 1
        if n_steps % every == 0:
            record[:, -1] = now
    crowd.warn_if_rough()
    return Walk(
        z=record.reshape(*shape, *record.shape[1:]),
        status=crowd.status.reshape(shape),
        steps=crowd.steps.reshape(shape),
        rough=crowd.rough.reshape(shape),
        step_size=float(step_size),
        n_steps=n_steps,
        every=every,
        law=repr(kind),
        metric=metric,
    )


class Crowd:
    """Who still walks, how far everyone came, and why the others stopped."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.status = np.full(count, WalkStatus.FINISHED, dtype=object)
        self.walking = torch.ones(count, dtype=torch.bool, device=device)
        self.steps = torch.zeros(count, dtype=torch.long, device=device)
        self.rough = torch.zeros_like(self.steps)

    @property
    def alive(self) -> Tensor:
        return self.walking.nonzero()[:, 0]

    def freeze(self, who: Tensor, status: WalkStatus) -> None:
        self.walking[who] = False
        self.status[who.cpu().numpy()] = status

    def warn_if_rough(self) -> None:
        """Say so if the law of the walk cannot be trusted."""
        taken = int(self.steps.sum())
        share = int(self.rough.sum()) / max(1, taken)
        if share > _ROUGH_SHARE:
            warnings.warn(
                f"in {share:.1%} of {taken:,} steps the metric bends more than the step is long, so that the walk "
                "overshoots; take a smaller `step_size`, or Brownian(step='exponential')",
                StepSizeWarning,
                stacklevel=3,
            )

    def check_starts(self) -> None:
        """Raise if a walker was frozen before its first step."""
        bad = [s for s in self.status if s is not WalkStatus.FINISHED]
        if bad:
            error = RankError if all(s is WalkStatus.SINGULAR_START for s in bad) else ValueError
            raise error(
                f"`z` must hold codes that a walk can start from; {len(bad)} of {len(self.status)} cannot: "
                f"{bad[0].value}. Pass throw=False to leave them where they are"
            )


def _advance(kind: Kind, metric: Metric, z: Tensor, xi: Tensor, step_size: float) -> tuple[Tensor, Tensor]:
    """One step, in memory-bounded chunks of walkers."""
    parts = [kind.advance(metric, z[s], xi[s], step_size) for s in in_chunks(metric, z)]
    if not parts:
        return z, torch.zeros(0, dtype=torch.long, device=z.device)
    return torch.cat([new for new, _ in parts]), torch.cat([trouble for _, trouble in parts])


def check_walk(metric: Metric, z: Tensor, *, n_steps: int, step_size: float, every: int, throw: bool) -> None:
    """Raise unless the arguments that all walks share make sense."""
    need_metric(metric)
    metric.check(z)
    check_integer(n_steps, "n_steps")
    check_integer(every, "every")
    check_positive(step_size, "step_size")
    check_flag(throw, "throw")


def progress_bar(n: int, progress: bool | None, what: str) -> Any:
    """Steps 0 … n − 1, with a bar if asked for, or on a terminal if they take more than a few seconds."""
    if progress is False:
        return range(n)
    return tqdm(
        range(n),
        desc=what,
        unit="step",
        leave=False,
        disable=None if progress is None else False,
        delay=5.0 if progress is None else 0.0,
    )
