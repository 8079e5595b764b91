"""Expectation maximisation for mixtures of locally adaptive normal distributions.

Arvanitidis, Hansen, Hauberg, "A locally adaptive normal distribution" (2016, section 4), with the exact gradient by the
mean (theirs leaves out how logarithms turn as the mean moves) and steps that must not lower the likelihood.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._land_rays import Design, Normalizer, Rays, root
from ._land_space import Curved, Logs, Place, Space

__all__ = ["Fit", "State", "expect", "fit", "initial", "responsible", "settled"]

_SCALES = (1.0, 0.25, 0.0625)  # parts of a step that are tried
_IDLE = 1e-2  # a component rests while its step promises less than this times `tol` per code
_SLACK = 0.1  # of `tol`: a loss of likelihood that counts as none, for geodesics are no more accurate
_MOST = 4.0  # rays are good for covariances at most so many times those that they were cast for


@dataclasses.dataclass
class State:
    """Components and everything known about the codes at them."""

    place: Place
    S: Tensor  # covariances in normal coordinates
    weights: Tensor
    logs: Logs
    rays: Rays | None
    normal: Normalizer
    pace: Tensor  # (K,): the part of its step that a component tries first


@dataclasses.dataclass
class Fit:
    """A fitted mixture: its state, mean log-likelihoods before each step, and whether it settled."""

    state: State
    bounds: list[float]
    converged: bool


def expect(state: State) -> tuple[Tensor, Tensor]:
    """Log-densities with weights (K, N), minus infinity where a code has no logarithm, and of the mixture (N,)."""
    factor = torch.linalg.cholesky(state.S)
    y = torch.linalg.solve_triangular(factor, state.logs.xi.mT, upper=False)
    joint = state.weights.log()[:, None] - state.normal.log_constant[:, None] - 0.5 * y.square().sum(1)
    joint = torch.where(state.logs.lost, -torch.inf, joint)
    return joint, torch.logsumexp(joint, 0)


def _moments(logs: Logs, share: Tensor) -> Tensor:
    return torch.einsum("kn,kni,knj->kij", share, logs.xi, logs.xi)


def _checked(S: Tensor) -> Tensor:
    """Covariances, or the error that scikit-learn's mixtures raise for those that are none."""
    S = 0.5 * (S + S.mT)
    _, info = torch.linalg.cholesky_ex(S)
    if bool((info != 0).any()) or not bool(S.isfinite().all()):
        raise ValueError(
            "Fitting the mixture model failed because some components have ill-defined empirical covariance (for "
            "instance caused by singleton or collapsed samples). Try to decrease the number of components, or "
            "increase reg_covar."
        )
    return S


def initial(
    space: Space,
    Z: Tensor,
    means: Tensor,
    responsibilities: Tensor | None,
    reg: float,
    S: Tensor | None = None,
    weights: Tensor | None = None,
) -> State:
    """The state at means; covariances (latent components) and weights given, or those of responsibilities (K, N)."""
    K, d = means.shape
    everyone = torch.arange(K)
    place = space.place(means)
    logs = space.logs(place, Z, everyone, keep=True)
    if bool(logs.lost.all()):
        raise ValueError(
            f"no code can be reached from any of the {K} means: all logarithmic maps failed; check that the metric is "
            "finite between the codes"
        )
    if responsibilities is None:
        responsibilities = torch.full((K, len(Z)), 1.0 / K, dtype=torch.float64)
    known = torch.where(logs.lost, 0.0, responsibilities)
    mass = known.sum(1) + 10 * torch.finfo(torch.float64).eps
    if S is None:
        S = _moments(logs, known / mass[:, None]) + reg * torch.eye(d, dtype=torch.float64)
    else:
        inverse = torch.linalg.inv(place.frame)
        S = inverse @ S @ inverse.mT
    S = _checked(S)
    weights = mass / mass.sum() if weights is None else weights
    rays = space.rays(place, S, everyone)
    pace = torch.ones(K, dtype=torch.float64)
    return State(place, S, weights, logs, rays, space.normalizer(rays, S), pace)


def _value(logs: Logs, S: Tensor, normal: Normalizer, share: Tensor, reg: float) -> Tensor:
    """Expected log-likelihood per code (K,); minus infinity if a code that counts is out of reach."""
    P = torch.linalg.inv(S)
    spread = torch.einsum("kij,kij->k", P, _moments(logs, share)) + reg * torch.einsum("kii->k", P)
    value = -0.5 * spread - normal.log_constant
    out = (share * logs.lost).sum(1) > 0
    return torch.where(out | ~value.isfinite(), -torch.inf, value)


def _transport_map(M: Tensor, D: Tensor, share: float | Tensor = 1.0) -> Tensor:
    """The symmetric map that carries normal distributions of covariance M to D, or part of the way there."""
    r = root(M)
    inverse = torch.linalg.inv(r)
    T = inverse @ root(r @ D @ r) @ inverse
    eye = torch.eye(M.shape[-1], dtype=M.dtype)
    return eye + torch.as_tensor(share, dtype=M.dtype)[..., None, None] * (T - eye)


def _wanted(state: State, share: Tensor, step: Tensor, reg: float) -> Tensor:
    """Second moments that the model's are to be, after means have moved by `step`."""
    d = step.shape[-1]
    eye = reg * torch.eye(d, dtype=torch.float64)
    about = _moments(state.logs, share) + eye
    moved = about - step[:, :, None] * step[:, None, :]
    _, info = torch.linalg.cholesky_ex(moved)
    return torch.where((info == 0)[:, None, None], moved, about)


def _promise(state: State, step: Tensor, wanted: Tensor) -> Tensor:
    """About how much a step raises the expected log-likelihood per code, (K,)."""
    P = torch.linalg.inv(state.S)
    ratio = torch.linalg.solve(state.normal.second, wanted)
    shape = torch.einsum("kii->k", ratio) - torch.linalg.slogdet(ratio).logabsdet - ratio.shape[-1]
    return 0.5 * torch.einsum("ki,kij,kj->k", step, P, step) + 0.5 * shape.abs()


def _stepped(space: Space, Z: Tensor, state: State, responsibilities: Tensor, tol: float, reg: float) -> State:
    """One M-step: means along the gradient, covariances by matching second moments; the likelihood does not fall."""
    mass = responsibilities.sum(1) + 10 * torch.finfo(torch.float64).eps
    share = responsibilities / mass[:, None]
    S, normal = state.S, state.normal
    P = torch.linalg.inv(S)
    gradient = space.pull(state.place, state.logs, P, share) - normal.slope
    full = torch.einsum("kij,kj->ki", S, gradient)
    full = torch.where(full.isfinite().all(-1)[:, None], full, 0.0)
    before = _value(state.logs, S, normal, share, reg)
    pace = state.pace.clone()
    out = dataclasses.replace(state, weights=mass / mass.sum(), pace=pace)
    promise = _promise(state, full, _checked(_wanted(state, share, full, reg)))
    cheap = state.rays is None  # Euclidean space
    live = (torch.isfinite(promise) if cheap else promise > _IDLE * tol).nonzero()[:, 0]
    for part in _SCALES:
        if len(live) == 0:
            break
        scale = part * state.pace
        step = torch.zeros_like(full).index_copy(0, live, scale[live, None] * full[live])
        place, failed = space.carry(state.place, step)
        ask = live[~failed[live]]
        if len(ask) == 0:
            continue
        T = _transport_map(normal.second, _checked(_wanted(state, share, step, reg)), scale)
        there = T @ S @ T.mT
        there = torch.where(torch.isin(torch.arange(len(S)), ask)[:, None, None], 0.5 * (there + there.mT), S)
        logs = space.logs(place, Z, ask, state.logs, keep=True)
        rays = space.rays(place, there, ask)
        if rays is not None and state.rays is not None:
            rays = state.rays.replaced(ask, rays)
        ahead = space.normalizer(rays, there)
        value = _value(state.logs.replaced(ask, logs), there, ahead, share, reg)
        good = ask[value[ask] >= before[ask] - _SLACK * tol]
        pace[good] = (scale[good] * (2.0 if part == 1.0 else 1.0)).clamp_max(1.0)
        out = _taken(out, good, place, there, logs, rays, ahead)
        live = live[~torch.isin(live, good)]
    return _reshaped(space, out, share, live, before, reg) if len(live) else out


def _taken(
    state: State, index: Tensor, place: Place, S: Tensor, logs: Logs | None, rays: Rays | None, normal: Normalizer
) -> State:
    """The state with the components at `index` replaced."""
    put = {f.name: getattr(state.normal, f.name).clone() for f in dataclasses.fields(Normalizer)}
    for name, value in put.items():
        value[index] = getattr(normal, name)[index]
    return State(
        state.place.replaced(index, place),
        state.S.index_copy(0, index, S[index]),
        state.weights,
        state.logs if logs is None else state.logs.replaced(index, logs),
        state.rays if rays is None or state.rays is None else state.rays.replaced(index, rays),
        Normalizer(**put),
        state.pace,
    )


def _reshaped(space: Space, state: State, share: Tensor, live: Tensor, before: Tensor, reg: float) -> State:
    """Covariances alone, along rays that are known already, where no step of the mean was good."""
    wanted = _checked(_wanted(state, share, torch.zeros_like(state.S[:, 0]), reg))
    for scale in _SCALES:
        T = _transport_map(state.normal.second, wanted, scale)
        S = T @ state.S @ T.mT
        S = 0.5 * (S + S.mT)
        normal = space.normalizer(state.rays, S)
        value = _value(state.logs, S, normal, share, reg)
        small = torch.ones_like(value, dtype=torch.bool)
        if state.rays is not None:
            cast_for = state.rays.root @ state.rays.root.mT
            small = torch.linalg.eigvals(torch.linalg.solve(cast_for, S)).real.amax(-1) < _MOST
        good = live[(value[live] >= before[live]) & small[live]]
        state = _taken(state, good, state.place, S, None, None, normal)
        live = live[~torch.isin(live, good)]
        if len(live) == 0:
            break
    return state


def fit(space: Space, Z: Tensor, state: State, *, max_iter: int, tol: float, reg: float, bar: Any = None) -> Fit:
    """Expectation maximisation from a state, until the mean log-likelihood changes by less than `tol`."""
    bounds: list[float] = []
    for _ in range(max_iter):
        responsibilities, bound = responsible(state)
        state = _stepped(space, Z, state, responsibilities, tol, reg)
        bounds.append(bound)
        if bar is not None:
            bar.update()
        if len(bounds) > 1 and abs(bounds[-1] - bounds[-2]) < tol:
            return Fit(state, bounds, True)
    return Fit(state, bounds, False)


def settled(space: Space, state: State, Z: Tensor, n_directions: int, rng: np.random.RandomState) -> State:
    """The state with logarithms from the graph, as they are found after the fit, and constants by more directions."""
    if not isinstance(space, Curved):
        return state
    everyone = torch.arange(len(state.S))
    space.design = Design.draw(Z.shape[1], n_directions, space.design.n_radii, rng)
    logs, rays = space.logs(state.place, Z, everyone), space.rays(state.place, state.S, everyone)
    return dataclasses.replace(state, logs=logs, rays=rays, normal=space.normalizer(rays, state.S))


def responsible(state: State) -> tuple[Tensor, float]:
    """Responsibilities (K, N), zero for codes out of reach of all means, and the mean log-likelihood of the others."""
    joint, whole = expect(state)
    reach = whole > -torch.inf
    if not bool(reach.any()):
        raise ValueError(
            "no code can be reached from any mean: all logarithmic maps failed; give another `graph` or `solver`"
        )
    found = torch.where(reach, (joint - torch.where(reach, whole, 0.0)).exp(), 0.0)
    return found, float(whole[reach].mean())
