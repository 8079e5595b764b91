"""Riemannian problems with exact answers, in float64, for every test that needs one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from latentgeo.metrics import Euclidean, HalfPlane, Metric, PoincareBall, PullbackMetric, Sphere, TensorMetric


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A metric, points of its chart, and what is known exactly about it. None means not known in closed form."""

    name: str
    metric: Metric
    dim: int
    points: Callable[[int, int], Tensor]  # (n, seed) -> (n, d)
    tensor: Callable[[Tensor], Tensor] | None = None
    acceleration: Callable[[Tensor, Tensor], Tensor] | None = None
    curvature: Callable[[Tensor], Tensor] | None = None
    distance: Callable[[Tensor, Tensor], Tensor] | None = None
    farthest: float = math.inf  # pairs within this distance (half the injectivity radius)

    def pairs(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """About n pairs of points within `farthest`, and their exact distances."""
        assert self.distance is not None
        a, b = self.points(n, seed), self.points(n, seed + 1)
        exact = self.distance(a, b)
        near = (exact < self.farthest) & (exact > 1e-2)
        return a[near], b[near], exact[near]

    def __str__(self) -> str:
        return self.name


def _gaussian(dim: int, scale: float = 0.7) -> Callable[[int, int], Tensor]:
    return lambda n, seed: scale * normal(n, dim, seed=seed)


def _disc(dim: int, radius: float) -> Callable[[int, int], Tensor]:
    def draw(n: int, seed: int) -> Tensor:
        x = normal(n, dim, seed=seed)
        r = radius * torch.rand(n, 1, generator=generator(seed + 100), dtype=torch.float64) ** (1 / dim)
        return r * x / x.norm(dim=-1, keepdim=True)

    return draw


def _identity(z: Tensor) -> Tensor:
    return torch.eye(z.shape[-1], dtype=z.dtype)


# --- spheres --------------------------------------------------------------------------------------------------------


def sphere_distance(a: Tensor, b: Tensor) -> Tensor:
    phi = Sphere().embedding
    assert phi is not None
    return 2 * torch.asin((0.5 * (phi(a) - phi(b)).norm(dim=-1)).clamp(max=1.0))


def _sphere_acceleration(z: Tensor, v: Tensor) -> Tensor:
    s = 1 + z.square().sum(-1, keepdim=True)
    return (4 * (z * v).sum(-1, keepdim=True) * v - 2 * v.square().sum(-1, keepdim=True) * z) / s


def _sphere_tensor(z: Tensor) -> Tensor:
    return 4 * _identity(z) / (1 + z.square().sum(-1)[..., None, None]) ** 2


def sphere(dim: int, *, bare: bool = False) -> Problem:
    metric = TensorMetric(_sphere_tensor, dim) if bare else Sphere(dim)
    return Problem(
        f"S{dim}{' by tensor' if bare else ''}",
        metric,
        dim,
        _disc(dim, 0.9),
        _sphere_tensor,
        _sphere_acceleration,
        lambda z: torch.ones_like(z[..., 0]),
        sphere_distance,
        math.pi / 2,
    )


# --- hyperbolic spaces ----------------------------------------------------------------------------------------------


def ball_distance(a: Tensor, b: Tensor) -> Tensor:
    gap = (1 - a.square().sum(-1)) * (1 - b.square().sum(-1))
    return 2 * torch.asinh(((a - b).square().sum(-1) / gap).sqrt())


def _ball_acceleration(z: Tensor, v: Tensor) -> Tensor:
    s = 1 - z.square().sum(-1, keepdim=True)
    return (2 * v.square().sum(-1, keepdim=True) * z - 4 * (z * v).sum(-1, keepdim=True) * v) / s


def ball(dim: int) -> Problem:
    return Problem(
        f"Poincaré ball {dim}",
        PoincareBall(dim),
        dim,
        _disc(dim, 0.8),
        lambda z: 4 * _identity(z) / (1 - z.square().sum(-1)[..., None, None]) ** 2,
        _ball_acceleration,
        lambda z: -torch.ones_like(z[..., 0]),
        ball_distance,
    )


def _upper(n: int, seed: int) -> Tensor:
    z = normal(n, 2, seed=seed)
    return torch.stack([z[:, 0], (0.5 * z[:, 1]).exp()], -1)


def half_plane_distance(a: Tensor, b: Tensor) -> Tensor:
    return 2 * torch.asinh(0.5 * (a - b).norm(dim=-1) / (a[..., 1] * b[..., 1]).sqrt())


HALF_PLANE = Problem(
    "half plane",
    HalfPlane(2),
    2,
    _upper,
    lambda z: _identity(z) / z[..., 1, None, None] ** 2,
    lambda z, v: torch.stack([2 * v[..., 0] * v[..., 1], v[..., 1] ** 2 - v[..., 0] ** 2], -1) / z[..., 1:],
    lambda z: -torch.ones_like(z[..., 0]),
    half_plane_distance,
)
HALF_PLANE_AMBIENT = dataclasses.replace(
    HALF_PLANE,
    name="half plane as ambient of (x, log y)",
    metric=PullbackMetric(
        lambda z: torch.stack([z[:, 0], z[:, 1].exp()], -1), dim=2, ambient=lambda x: (x[:, 1:] ** -2).expand(-1, 2)
    ),
    points=_gaussian(2),
    tensor=lambda z: torch.diag_embed(torch.stack([(-2 * z[..., 1]).exp(), torch.ones_like(z[..., 0])], -1)),
    acceleration=lambda z, v: torch.stack([2 * v[..., 0] * v[..., 1], -(v[..., 0] ** 2) * (-2 * z[..., 1]).exp()], -1),
    distance=lambda a, b: half_plane_distance(
        torch.stack([a[..., 0], a[..., 1].exp()], -1), torch.stack([b[..., 0], b[..., 1].exp()], -1)
    ),
)

# --- surfaces -------------------------------------------------------------------------------------------------------

PARABOLOID = Problem(
    "paraboloid",
    PullbackMetric(lambda z: torch.cat([z, z.square().sum(-1, keepdim=True)], -1), dim=2),
    2,
    _gaussian(2),
    lambda z: _identity(z) + 4 * z[..., :, None] * z[..., None, :],
    lambda z, v: -4 * z * v.square().sum(-1, keepdim=True) / (1 + 4 * z.square().sum(-1, keepdim=True)),
    lambda z: 4 / (1 + 4 * z.square().sum(-1)) ** 2,
)


def _torus(z: Tensor) -> Tensor:
    u, v = z[..., 0], z[..., 1]
    ring = 2 + u.cos()
    return torch.stack([ring * v.cos(), ring * v.sin(), u.sin()], -1)


def _torus_acceleration(z: Tensor, w: Tensor) -> Tensor:
    u, ring = z[..., 0], 2 + z[..., 0].cos()
    return torch.stack([-ring * u.sin() * w[..., 1] ** 2, 2 * u.sin() / ring * w[..., 0] * w[..., 1]], -1)


TORUS = Problem(
    "torus of revolution",
    PullbackMetric(_torus, dim=2),
    2,
    _gaussian(2),
    lambda z: torch.diag_embed(torch.stack([torch.ones_like(z[..., 0]), (2 + z[..., 0].cos()) ** 2], -1)),
    _torus_acceleration,
    lambda z: z[..., 0].cos() / (2 + z[..., 0].cos()),
)

ELLIPSOID = Problem(
    "ellipsoid",
    PullbackMetric(
        lambda z: torch.stack(
            [z[:, 0].cos() * z[:, 1].cos(), 1.5 * z[:, 0].cos() * z[:, 1].sin(), 0.7 * z[:, 0].sin()], -1
        ),
        dim=2,
    ),
    2,
    _gaussian(2, 0.4),
)

# --- flat spaces ----------------------------------------------------------------------------------------------------


def euclidean_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).norm(dim=-1)


EUCLIDEAN = Problem(
    "Euclidean 3",
    Euclidean(3),
    3,
    _gaussian(3),
    lambda z: _identity(z).expand(*z.shape, 3),
    lambda z, v: torch.zeros_like(v),
    lambda z: torch.zeros_like(z[..., 0]),
    euclidean_distance,
)


def _swiss(z: Tensor) -> Tensor:
    r = 3 + z[..., :1]
    return torch.cat([r * r.cos(), r * r.sin(), z[..., 1:]], -1)


def _unroll(z: Tensor) -> Tensor:
    """Arc length of the spiral r = 3 + z₀ and the height: the Swiss roll is flat in these coordinates."""
    r = 3 + z[..., :1]
    return torch.cat([0.5 * (r * (1 + r**2).sqrt() + r.asinh()), z[..., 1:]], -1)


SWISS_ROLL = Problem(
    "Swiss roll",
    PullbackMetric(_swiss, dim=2),
    2,
    _gaussian(2),
    curvature=lambda z: torch.zeros_like(z[..., 0]),
    distance=lambda a, b: euclidean_distance(_unroll(a), _unroll(b)),
)
LINE = Problem(
    "curve in the plane",
    PullbackMetric(lambda z: torch.cat([z, z.square()], -1), dim=1),
    1,
    _gaussian(1),
    lambda z: (1 + 4 * z.square())[..., None],
    lambda z, v: -4 * z * v.square() / (1 + 4 * z.square()),
    None,
    lambda a, b: _parabola_arc(b[..., 0]).sub(_parabola_arc(a[..., 0])).abs(),
)


def _parabola_arc(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + 4 * x**2).sqrt() + 0.25 * (2 * x).asinh()


SPHERE, SPHERE_BY_TENSOR, SPHERE3, BALL, BALL3 = sphere(2), sphere(2, bare=True), sphere(3), ball(2), ball(3)
PROBLEMS = [
    SPHERE,
    SPHERE_BY_TENSOR,
    SPHERE3,
    BALL,
    BALL3,
    HALF_PLANE,
    HALF_PLANE_AMBIENT,
    PARABOLOID,
    TORUS,
    ELLIPSOID,
    EUCLIDEAN,
    SWISS_ROLL,
    LINE,
]
WITH_DISTANCE = [p for p in PROBLEMS if p.distance is not None]
