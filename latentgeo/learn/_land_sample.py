"""Codes drawn from a locally adaptive normal distribution: rejection whose bound is the supremum met so far.

Trials follow the change of volume along the nearest of the rays that are known already, so that few are refused. After
Caffo, Booth, Davis, "Empirical supremum rejection sampling" (Biometrika 89, 2002).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geodesics import connect, differential_exp
from ._land_cast import initial_solver
from ._land_rays import Design, Rays, refined
from ._land_space import Curved, Place, Space

__all__ = ["draw"]

_ROUNDS = 100
_BATCH = 2048
_RADII = 512
_LEVEL = 0.1  # of the mean change of volume, everywhere


def draw(
    space: Space, place: Place, S: Tensor, rays: Rays | None, k: int, count: int, rng: np.random.RandomState
) -> NDArray[Any]:
    """Codes (count, d) of component k."""
    d = S.shape[-1]
    if not isinstance(space, Curved):
        return np.asarray(rng.multivariate_normal(place.mean[k].numpy(), S[k].numpy(), count))
    assert rays is not None  # noqa: S101  # an invariant, not the caller's input
    guess = _Guess(rays, space.design, S, k)
    frame = place.frame[k]
    found: list[Tensor] = []
    have, tried, bound = 0, 0, 1.0
    for _ in range(_ROUNDS):
        if have >= count:
            break
        rate = max(have / tried, 0.02) if tried else 0.5
        batch = int(min(_BATCH, max(16, 1.2 * (count - have) / rate)))
        xi, expected = guess.draw(batch, rng)
        luck = torch.as_tensor(rng.uniform(size=batch))
        v = xi @ frame.mT
        point, volume = _shot(space, place.mean[k], v)
        ratio = volume / expected
        bound = max(bound, float(ratio.max()))
        rows = (luck * bound < ratio).nonzero()[:, 0]
        if len(rows):
            rows = rows[_shortest(space, place.mean[k], point[rows], v[rows])]
        found.append(point[rows])
        have, tried = have + len(rows), tried + batch
    if have < count:
        raise RuntimeError(
            f"only {have} of {count} codes of component {k} were drawn in {tried} trials: the exponential map's change "
            "of volume is too uneven, or it failed almost everywhere (see `lost_exp_`)"
        )
    return np.asarray(torch.cat([*found, torch.zeros(0, d, dtype=torch.float64)])[:count].numpy())


class _Guess:
    """Tangent vectors in proportion to exp(−½ ξᵀS⁻¹ξ) times the change of volume along the nearest ray.

    A little of the mean change of volume is added, so that nothing is left out where neighbouring rays differ.
    """

    def __init__(self, rays: Rays, design: Design, S: Tensor, k: int) -> None:
        self.root, self.P = rays.root[k], torch.linalg.inv(S[k])
        self.directions = design.directions.to(S)
        fine = refined(rays.volume[k])
        reach = float(rays.end[k].max())
        self.step = reach / _RADII
        self.radius = self.step * (torch.arange(_RADII, dtype=torch.float64) + 0.5)
        end = rays.end[k].clamp_min(1e-300)[:, None]
        at = (self.radius / end * (fine.shape[1] - 1)).clamp(0.0, fine.shape[1] - 1).round().long()
        inside = self.radius <= torch.minimum(rays.cut[k], rays.end[k])[:, None]
        volume = torch.where(inside, fine.gather(1, at).clamp_min(0.0), 0.0)
        density = self._density(self.directions)
        mean = (density * volume).sum() / (density * inside).sum().clamp_min(1e-300)
        self.volume = volume + _LEVEL * mean

    def _density(self, w: Tensor) -> Tensor:
        """ρ^(d−1) exp(−½ ξᵀPξ) along directions (B, d), (B, radii)."""
        aim = w @ self.root.mT
        q = torch.einsum("bi,ij,bj->b", aim, self.P, aim)
        return self.radius ** (w.shape[-1] - 1) * torch.exp(-0.5 * q[:, None] * self.radius.square())

    def draw(self, count: int, rng: np.random.RandomState) -> tuple[Tensor, Tensor]:
        """Vectors (count, d) in normal coordinates, and the change of volume that they were drawn for."""
        d = self.root.shape[-1]
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        have, most = 0, float((self._density(self.directions) * self.volume).sum(-1).max())
        if not 0 < most < math.inf:  # no trial would ever be kept
            raise RuntimeError("no code can be drawn: none of the component's rays could be followed (see `lost_exp_`)")
        while have < count:
            w = torch.as_tensor(rng.standard_normal((2 * count, d)))
            w = w / w.norm(dim=-1, keepdim=True)
            ray = (w @ self.directions.mT).argmax(-1)
            density = self._density(w) * self.volume[ray]
            mass = density.sum(-1)
            most = max(most, float(mass.max()))
            rows = (torch.as_tensor(rng.uniform(size=len(w))) * most < mass).nonzero()[:, 0]
            kept.append((w[rows], ray[rows], density[rows]))
            have += len(rows)
        w, ray, density = (torch.cat(parts)[:count] for parts in zip(*kept, strict=True))
        level = density.cumsum(-1)
        luck = torch.as_tensor(rng.uniform(size=(count, 2)))
        index = torch.searchsorted(level, luck[:, :1] * level[:, -1:]).clamp_max(_RADII - 1)
        radius = self.step * (index + luck[:, 1:])
        xi = radius * (w @ self.root.mT)
        normal = radius[:, 0] ** (d - 1) * torch.exp(-0.5 * torch.einsum("bi,ij,bj->b", xi, self.P, xi))
        return xi, density.gather(1, index)[:, 0] / normal  # all radii of a step are drawn alike


def _shot(space: Curved, mean: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Where velocities (B, d) lead, and the change of volume there: 0 where it could not be computed."""
    start, velocity = space.like(mean).expand(len(v), -1), space.like(v)
    shooter = initial_solver(space.metric, start) if space.shooter is None else space.shooter
    found = differential_exp(space.metric, start, velocity, solver=shooter, throw=False)
    volume = torch.where(found.det > 0, found.log_jacobian.exp(), 0.0).double().nan_to_num(0.0, posinf=0.0).cpu()
    return found.point.double().cpu(), volume


def _shortest(space: Curved, mean: Tensor, point: Tensor, v: Tensor) -> Tensor:
    """Which velocities lead along shortest geodesics, (B,)."""
    start = space.like(mean).expand(len(point), -1)
    init = space.graph if space.metric.period is None else None
    path = connect(space.metric, start, space.like(point), solver=space.solver, init=init, throw=False)
    return ~(path.length.double() < (1 - space.tol) * space.metric.norm(start, space.like(v)).double()).cpu()
