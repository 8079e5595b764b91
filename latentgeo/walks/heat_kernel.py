"""`heat_kernel`: the transition density of Brownian motion at short times, as a log density.

The first terms of the expansion of Minakshisundaram and Pleijel (1949) with the van Vleck determinant, and the Gaussian
form of Kalatzis et al., "Variational Autoencoders with Riemannian Brownian Motion Priors" (ICML 2020).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from .._calculus import as_numbers
from ..geodesics import Geodesic, Newton, connect, differential_exp
from ..geodesics.maps import verified
from ..metrics import Metric, need_metric

__all__ = ["heat_kernel"]

Form = Literal["van-vleck", "kalatzis"]
_STEP = 0.05  # of differences, as a share of √t: far below where a kernel of time t changes


def heat_kernel(
    metric: Metric,
    a: Tensor,
    b: Tensor,
    t: float | Tensor,
    *,
    form: Form = "van-vleck",
    solver: Any = None,
    init: Any = None,
    throw: bool = True,
) -> Tensor:
    r"""Log density of Brownian motion (generator ½Δ) from `a` at `b` after a short time t.

    .. math:: \log p_t(a, b) = -\tfrac d2 \log 2\pi t - \frac{\ell^2}{2t}
              - \tfrac12 \log\Big(|\det \mathrm d\exp_a|\sqrt{\tfrac{\det G(b)}{\det G(a)}}\Big) + \frac{t R}{12}

    with ℓ the length of the geodesic and R the scalar curvature, averaged along it. It is a density with respect to the
    Riemannian measure √det G db; add ``metric.log_volume(b)`` for one with respect to db. What is left out is of order
    t² near `a`, and t·ℓ² away from it. Only one geodesic counts: the one that `connect` finds.

    Differentiable in `b` and `t`: the gradient in `b` is the score, in the chart's coordinates. Its leading part, of
    order 1/t, is exact for the computed geodesic; the gradient of determinant and curvature comes from central
    differences, 2d more geodesics for each pair, taken only when it is asked for: use float64 there.

    Parameters
    ----------
    metric : Metric
    a, b : Tensor of shape (*batch, d)
        Latent codes; batch shapes broadcast.
    t : float or Tensor
        Time, in squared units of the metric's length; broadcasts with the batch. Short against the squares of the
        injectivity radius and of the radius of curvature.
    form : {"van-vleck", "kalatzis"}
        The expansion above, or log p = −(d/2) log 2πt + ½ log(det G(a)/det G(b)) − ℓ²/2t as in the Riemannian VAE,
        which leaves curvature out and depends on the chart: from the pole of the unit sphere in the stereographic chart
        it is 0.34 off at ℓ = 0.9, t = 0.05, where the expansion is 1e-4 off.
    solver : Newton, optional
        None means one that makes ℓ²/2t accurate enough: ``Newton(rtol=1e-6)`` in float64, ``1e-4`` in float32.
    init : LatentGraph or Tensor, optional
        Starting curves, as in `connect`.
    throw : bool
        Raise if any geodesic failed; with False the log density is NaN there.

    Returns
    -------
    Tensor of shape (*batch,)

    Raises
    ------
    GeodesicError
        If ``throw`` and any geodesic did not converge.
    ValueError
        If `t` is not positive, `form` does not exist, or a gradient in `a` is asked for.

    References
    ----------
    .. [1] Hsu, "Stochastic Analysis on Manifolds", AMS 2002, theorem 5.1.1.
    .. [2] Kalatzis, Eklund, Arvanitidis, Hauberg, "Variational Autoencoders with Riemannian Brownian Motion Priors",
       ICML 2020, arXiv:2002.05227.

    Examples
    --------
    >>> from latentgeo.metrics import Euclidean
    >>> heat_kernel(Euclidean(2), torch.zeros(2), torch.tensor([0.3, 0.4]), 0.1)  # N(0, 0.1·I)
    tensor(-0.7853)
    """
    if form not in ("van-vleck", "kalatzis"):
        raise ValueError(f"`form` must be 'van-vleck' or 'kalatzis', got {form!r}")
    need_metric(metric)
    metric.check(a, name="a")
    metric.check(b, name="b")
    times = as_numbers(t, "t", a.device)
    if not bool(((times > 0) & times.isfinite()).all()):
        raise ValueError(f"`t` must be positive and finite, got {t!r}")
    try:
        torch.broadcast_shapes(a.shape[:-1], b.shape[:-1], times.shape)
    except RuntimeError:
        raise ValueError(
            f"`t` must be a number, or of a shape that broadcasts with the batch shapes of `a` and `b`, "
            f"{tuple(a.shape[:-1])} and {tuple(b.shape[:-1])}, got shape {tuple(times.shape)}"
        ) from None
    live = torch.is_grad_enabled()
    if live and a.requires_grad:
        raise ValueError("`a` must not require a gradient; the kernel is symmetric, so take that in `b`")
    if solver is None:
        solver = Newton(rtol=1e-6 if a.dtype == torch.float64 else 1e-4)
    with torch.no_grad():
        path = connect(metric, a.detach(), b.detach(), solver=solver, init=init, throw=throw)
        square = path.length.double().square()
        rest = _rest(path, form)
    tracked = live and b.requires_grad
    if tracked:
        step = (b - b.detach()).double()
        with torch.no_grad():
            covector = torch.einsum("...ij,...j->...i", metric.tensor(path.z[..., -1, :]), _velocity(path, 1.0))
            slopes = _slopes(path, b.detach(), times, form, solver, throw)
        square = square + 2 * (covector.double() * step).sum(-1)
        rest = [value + (slope * step).sum(-1) for value, slope in zip(rest, slopes, strict=True)]
    d = a.shape[-1]
    gaussian = -0.5 * d * torch.log(2 * math.pi * times) - square / (2 * times)
    return (gaussian + rest[0] + times * rest[1] / 12).to(a.dtype)


def _velocity(path: Geodesic, t: float) -> Tensor:
    return path.velocity(t)[..., 0, :]


def _rest(path: Geodesic, form: Form) -> list[Tensor]:
    """The term that does not depend on t, and the scalar curvature that goes with t/12, both (*batch,), float64."""
    metric, a = path.metric, path.z[..., 0, :]
    done = path.converged
    if form == "kalatzis":
        volume = metric.log_volume(a).double() - metric.log_volume(path.z[..., -1, :]).double()
        return [torch.where(done, volume, torch.nan), torch.zeros_like(volume)]
    known = done.reshape(-1).nonzero()[:, 0]
    grown, scalar = (torch.full_like(path.length, torch.nan, dtype=torch.float64).reshape(-1) for _ in range(2))
    velocity, d = _velocity(path, 0.0), a.shape[-1]
    # the nodes of a curve are two orders less accurate than its length: shooting corrects the velocity
    shot, exact = verified(path, velocity)
    velocity = torch.where(shot.converged[..., None], exact, velocity)
    spread = differential_exp(metric, a.reshape(-1, d)[known], velocity.reshape(-1, d)[known], throw=False)
    grown[known] = spread.log_jacobian.double()
    along = path(torch.tensor([0.0, 0.5, 1.0], dtype=a.dtype, device=a.device)).reshape(-1, 3, d)[known]
    weight = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64, device=a.device) / 6
    scalar[known] = metric.scalar_curvature(along, throw=False).double() @ weight
    return [-0.5 * grown.reshape(done.shape), scalar.reshape(done.shape)]


def _slopes(path: Geodesic, b: Tensor, times: Tensor, form: Form, solver: Any, throw: bool) -> list[Tensor]:
    """Gradients of `_rest` in b, (*batch, d), by central differences along the axes."""
    metric, a, end = path.metric, path.z[..., 0, :], path.z[..., -1, :]
    scale = metric.tensor(end).diagonal(dim1=-2, dim2=-1).double().sqrt()
    shift = torch.diag_embed(_STEP * times.sqrt()[..., None] / scale)  # (*batch, axis, d)
    nearby = torch.stack([end[..., None, :] + sign * shift.to(end) for sign in (1.0, -1.0)])
    near = connect(metric, a[..., None, :].expand(nearby.shape), nearby, solver=solver, init=_bent(path, nearby),
                   throw=throw)  # fmt: skip
    length = shift.diagonal(dim1=-2, dim2=-1)
    return [(value[0] - value[1]) / (2 * length) for value in _rest(near, form)]


def _bent(path: Geodesic, ends: Tensor) -> Tensor:
    """The curves, each with its end moved to those given: in the same basin."""
    curves = path.z[..., None, :, :] + path.t[:, None] * (ends - path.z[..., None, -1, :])[..., None, :]
    curves[..., -1, :] = ends
    return curves
