"""The invertible maps of `FlowNetwork`, assembled from zuko's parts; the only module that imports zuko.

Where zuko's own would couple the rows of a batch, have no second derivative or jump on the torus, a subclass here does
not: quadrature and root of UNAF (Wehenkel, Louppe 2019), integration of CNF, conditioning of circular splines.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.flows.continuous import FFJTransform
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.flows.neural import UMNN
from zuko.flows.spline import CircularRQSTransform
from zuko.lazy import UnconditionalTransform
from zuko.nn import MaskedMLP
from zuko.transforms import (
    AdditiveTransform,
    AutoregressiveTransform,
    ComposedTransform,
    DependentTransform,
    MonotonicRQSTransform,
    SoftclipTransform,
    UnconstrainedMonotonicTransform,
)
from zuko.utils import unpack

_SIGNAL = 16  # numbers that modulate each monotone network of UNAF
_INTEGRAND = (32, 32)  # widths of those networks
_QUADRATURE = 20
_BRACKET = 1e-2  # width at which bisection hands a root over to Newton's method
_CLIP = 11.0  # what a later layer of UNAF is given is smaller than this
_FREQUENCIES = 3  # of time, in the velocity field of CNF


def layers(kind: str, dim: int, transforms: int, hidden: Sequence[int], bins: int, steps: int) -> list[nn.Module]:
    """Lazy transforms in the direction x → z: calling one gives a `torch.distributions.Transform`."""
    network: dict[str, Any] = {"hidden_features": list(hidden), "activation": nn.SiLU}
    up = torch.arange(dim)
    orders = [up if i % 2 == 0 else up.flip(0) for i in range(transforms)]
    if kind == "coupling":
        masks = [up % 2 == i % 2 for i in range(transforms)]
        return [GeneralCouplingTransform(dim, mask=mask, **network) for mask in masks]
    if kind == "maf":
        return [MaskedAutoregressiveTransform(dim, order=order, **network) for order in orders]
    shapes: list[Any] = [(bins,), (bins,), (bins - 1,)]
    if kind == "nsf":
        spline = {"univariate": MonotonicRQSTransform, "shapes": shapes}
        return [MaskedAutoregressiveTransform(dim, order=order, **spline, **network) for order in orders]
    if kind == "circular":
        return [_Circular(order, bins, network) for order in orders]
    if kind == "cnf":
        return [_Continuous(dim, steps, hidden) for _ in range(transforms)]
    parts: list[nn.Module] = []
    for order in orders:
        if parts:  # keeps what the next one is given inside the interval where its root is sought
            parts.append(UnconditionalTransform(SoftclipTransform, bound=_CLIP))
        monotone = _Monotone(signal=_SIGNAL, stack=dim, hidden_features=_INTEGRAND, activation=nn.SiLU)
        monotone.bound = _CLIP if parts else 3 * _CLIP
        parts.append(
            MaskedAutoregressiveTransform(dim, order=order, univariate=monotone, shapes=[(_SIGNAL,), ()], **network)
        )
    return parts


@functools.cache
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


class _Integral(UnconstrainedMonotonicTransform):
    """x ↦ ∫₀ˣ g, and its inverse, both with derivatives of every order that plain operations have.

    zuko's quadrature and bisection can be differentiated once.
    """

    def f(self, x: Tensor) -> Tensor:
        nodes, weights = (torch.as_tensor(a, dtype=x.dtype, device=x.device) for a in _legendre(self.n))
        inner = self.g((x[..., None] * nodes).movedim(-1, 0))
        return x * torch.tensordot(weights, inner, dims=1)

    def _inverse(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            target = y.detach()
            low, high = torch.full_like(target, -self.bound), torch.full_like(target, self.bound)
            for _ in range(math.ceil(math.log2(2 * self.bound / _BRACKET))):
                middle = (low + high) / 2
                below = self.f(middle) < target
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            x = (low + high) / 2
            for _ in range(3):
                x = torch.clamp(x - (self.f(x) - target) / self.g(x), low - _BRACKET, high + _BRACKET)
        # From a root without a graph, one Newton step carries the first derivative of the inverse, two the second
        # and third: each doubles the order to which the Taylor series agree.
        x = x.detach()
        for _ in range(2):
            x = x - (self.f(x) - y) / self.g(x)
        return x


class _Monotone(UMNN):
    bound: float

    def forward(self, signal: Tensor, constant: Tensor) -> Transform:
        integral = _Integral(g=functools.partial(self.g, signal), n=_QUADRATURE, bound=self.bound)
        return ComposedTransform(integral, AdditiveTransform(shift=constant))


class _Circular(nn.Module):
    """Autoregressive circular splines (Rezende et al. 2020), conditioned on cosines and sines of earlier angles.

    Conditioned on the angles themselves, as in zuko's NCSF, the density would jump where they wrap.
    """

    def __init__(self, order: Tensor, bins: int, network: dict[str, Any]) -> None:
        super().__init__()
        self.shapes = [(bins,), (bins,), (bins - 1,)]
        self.total = 3 * bins - 1
        dim = len(order)
        self.passes = dim
        if dim > 1:
            before = order[:, None] > order
            adjacency = torch.cat([before, before], 1).repeat_interleave(self.total, 0)
            self.hyper: nn.Module = MaskedMLP(adjacency, **network)
        else:
            self.hyper = nn.Linear(2, self.total)
            nn.init.zeros_(self.hyper.weight)
            self.hyper.weight.requires_grad_(False)  # one angle alone has nothing to be conditioned on

    def _spline(self, x: Tensor) -> Transform:
        phi = self.hyper(torch.cat([x.cos(), x.sin()], -1)).unflatten(-1, (-1, self.total))
        return DependentTransform(CircularRQSTransform(*unpack(phi, self.shapes)), 1)

    def forward(self, c: Tensor | None = None) -> Transform:
        return AutoregressiveTransform(self._spline, self.passes)


class _Continuous(FFJTransform):
    """The flow of zuko's time-dependent velocity field, by Runge–Kutta's fourth-order method in equal steps.

    zuko's adaptive steps are shared by a batch, so that a row's value would depend on the others, and its adjoint can
    be differentiated once. The trace is exact: tangents are carried through the layers.
    """

    def __init__(self, dim: int, steps: int, hidden: Sequence[int]) -> None:
        super().__init__(dim, freqs=_FREQUENCIES, hidden_features=list(hidden), activation=nn.Tanh)
        self.steps = steps

    def _velocity(self, t: float, x: Tensor) -> Tensor:
        angle = self.freqs * t
        phase = torch.cat([angle.cos(), angle.sin()]).expand(*x.shape[:-1], -1)
        velocity: Tensor = self.ode(torch.cat([phase, x], -1))
        return velocity

    def _velocity_and_divergence(self, t: float, x: Tensor) -> tuple[Tensor, Tensor]:
        angle = self.freqs * t
        phase = torch.cat([angle.cos(), angle.sin()]).expand(*x.shape[:-1], -1)
        h = torch.cat([phase, x], -1)
        first, *rest = self.ode
        # rows of `tangents` are derivatives along the coordinates of x: (..., d, width)
        tangents = first.weight[:, -x.shape[-1] :].mT.expand(*x.shape[:-1], -1, -1)
        h = first(h)
        for layer in rest:
            if isinstance(layer, nn.Tanh):
                h = h.tanh()
                tangents = tangents * (1 - h.square())[..., None, :]
            else:
                h, tangents = layer(h), tangents @ layer.weight.mT
        return h, tangents.diagonal(dim1=-2, dim2=-1).sum(-1)

    def forward(self, c: Tensor | None = None) -> Transform:
        return _Integrated(self)


class _Integrated(Transform):
    bijective = True
    domain = codomain = torch.distributions.constraints.real_vector

    def __init__(self, field: _Continuous) -> None:
        super().__init__()
        self.field = field

    def _times(self) -> Iterable[float]:
        return (k / self.field.steps for k in range(self.field.steps))

    def _run(self, x: Tensor, sign: int) -> Tensor:
        h, v = sign / self.field.steps, self.field._velocity
        for t in self._times():
            t = t if sign > 0 else 1 - t
            a = v(t, x)
            b = v(t + h / 2, x + h / 2 * a)
            c = v(t + h / 2, x + h / 2 * b)
            x = x + h / 6 * (a + 2 * b + 2 * c + v(t + h, x + h * c))
        return x

    def _call(self, x: Tensor) -> Tensor:
        return self._run(x, 1)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._run(y, -1)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, v = 1 / self.field.steps, self.field._velocity_and_divergence
        total = x.new_zeros(x.shape[:-1])
        for t in self._times():
            a, da = v(t, x)
            b, db = v(t + h / 2, x + h / 2 * a)
            c, dc = v(t + h / 2, x + h / 2 * b)
            d, dd = v(t + h, x + h * c)
            x = x + h / 6 * (a + 2 * b + 2 * c + d)
            total = total + h / 6 * (da + 2 * db + 2 * dc + dd)
        return x, total

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]
