"""Codes drawn from a locally adaptive normal distribution: rejection whose bound is the supremum met so far.

Caffo, Booth, Davis, "Empirical supremum rejection sampling" (Biometrika 89, 2002).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geodesics import connect, differential_exp
from ._land_rays import Rays, initial_solver, root
from ._land_space import Curved, Place, Space

__all__ = ["draw"]

_ROUNDS = 100
_BATCH = 2048


def draw(
    space: Space, place: Place, S: Tensor, rays: Rays | None, k: int, count: int, rng: np.random.RandomState
) -> NDArray[Any]:
    """Codes (count, d) of component k."""
    d = S.shape[-1]
    if not isinstance(space, Curved):
        return np.asarray(rng.multivariate_normal(place.mean[k].numpy(), S[k].numpy(), count))
    assert rays is not None  # noqa: S101  # an invariant, not the caller's input
    at = torch.linspace(0.0, 1.0, rays.volume.shape[-1], dtype=torch.float64) * rays.end[k][:, None]
    bound = float(torch.where(at <= rays.cut[k][:, None], rays.volume[k], 0.0).max())
    half = place.frame[k] @ root(S[k : k + 1])[0]
    found: list[Tensor] = []
    have, tried = 0, 0
    for _ in range(_ROUNDS):
        if have >= count:
            break
        rate = max(have / tried, 0.02) if tried else 0.5
        batch = int(min(_BATCH, max(16, 1.2 * (count - have) / rate)))
        normal = torch.as_tensor(rng.standard_normal((batch, d)))
        luck = torch.as_tensor(rng.uniform(size=batch))
        point, volume = _shot(space, place.mean[k], normal @ half.mT)
        bound = max(bound, float(volume.max()))
        rows = (luck * bound < volume).nonzero()[:, 0]
        if len(rows):
            rows = rows[_shortest(space, place.mean[k], point[rows], (normal @ half.mT)[rows])]
        found.append(point[rows])
        have, tried = have + len(rows), tried + batch
    if have < count:
        raise RuntimeError(
            f"only {have} of {count} codes of component {k} were drawn in {tried} trials: the exponential map's change "
            "of volume is too uneven, or it failed almost everywhere (see `lost_exp_`)"
        )
    return np.asarray(torch.cat([*found, torch.zeros(0, d, dtype=torch.float64)])[:count].numpy())


def _shot(space: Curved, mean: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Where velocities (B, d) lead, and the change of volume there: 0 where it could not be computed."""
    start, velocity = space._like(mean).expand(len(v), -1), space._like(v)
    shooter = initial_solver(space.metric, start) if space.shooter is None else space.shooter
    found = differential_exp(space.metric, start, velocity, solver=shooter, throw=False)
    volume = torch.where(found.det > 0, found.log_jacobian.exp(), 0.0).double().nan_to_num(0.0, posinf=0.0).cpu()
    return found.point.double().cpu(), volume


def _shortest(space: Curved, mean: Tensor, point: Tensor, v: Tensor) -> Tensor:
    """Which velocities lead along shortest geodesics, (B,)."""
    start = space._like(mean).expand(len(point), -1)
    init = space.graph if space.metric.period is None else None
    path = connect(space.metric, start, space._like(point), solver=space.solver, init=init, throw=False)
    return ~(path.length.double() < (1 - space.tol) * space.metric.norm(start, space._like(v)).double()).cpu()
