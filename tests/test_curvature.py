"""Curvature against closed forms, the tensor's symmetries, and Gauss–Bonnet."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from models import tiny_model
from problems import (
    BALL,
    BALL3,
    ELLIPSOID,
    EUCLIDEAN,
    HALF_PLANE,
    HALF_PLANE_AMBIENT,
    LINE,
    PARABOLOID,
    SPHERE,
    SPHERE3,
    SPHERE_BY_TENSOR,
    SWISS_ROLL,
    TORUS,
    normal,
)
from torch.testing import assert_close

import latentgeo as lg
from latentgeo._calculus import Embedding
from latentgeo.metrics import Metric, PullbackMetric, TensorMetric, conformal

SURFACES = [
    SPHERE,
    SPHERE_BY_TENSOR,
    BALL,
    HALF_PLANE,
    HALF_PLANE_AMBIENT,
    PARABOLOID,
    TORUS,
    SWISS_ROLL,
]
SPACES = [*SURFACES, SPHERE3, BALL3, EUCLIDEAN]
CLOSE = {"rtol": 1e-8, "atol": 1e-8}
by_surface = pytest.mark.parametrize("problem", SURFACES, ids=str)
by_space = pytest.mark.parametrize("problem", SPACES, ids=str)


def constant_curvature(K, G):
    """K (g_ik g_jl − g_il g_jk)."""
    one = torch.einsum("...ik,...jl->...ijkl", G, G)
    return K[..., None, None, None, None] * (one - one.transpose(-1, -2))


# --- closed forms ---------------------------------------------------------------------------------------------------


@by_surface
def test_gauss_curvature(problem):
    z = problem.points(200, 0)
    assert_close(problem.metric.gauss_curvature(z), problem.curvature(z), **CLOSE)


@by_space
def test_riemann_tensor(problem):
    z = problem.points(20, 0)
    G = problem.metric.tensor(z)
    assert_close(problem.metric.riemann(z), constant_curvature(problem.curvature(z), G), **CLOSE)


@by_space
def test_ricci_and_scalar(problem):
    z, d = problem.points(20, 0), problem.dim
    K = problem.curvature(z)
    assert_close(problem.metric.ricci(z), (d - 1) * K[:, None, None] * problem.metric.tensor(z), **CLOSE)
    assert_close(problem.metric.scalar_curvature(z), d * (d - 1) * K, **CLOSE)


@by_space
def test_sectional_curvature(problem):
    z, u, v = problem.points(20, 0), normal(20, problem.dim, seed=5), normal(20, problem.dim, seed=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no differences, whatever the metric
        assert_close(problem.metric.sectional_curvature(z, u, v), problem.curvature(z), **CLOSE)


def test_a_product_is_curved_in_its_factor_only():
    """S² × R in R⁴: Ricci is the sphere's in two directions and zero in the third."""
    sphere = lg.Sphere(2).embedding
    product = PullbackMetric(lambda z: torch.cat([sphere(z[:, :2]), z[:, 2:]], -1), dim=3)
    z = 0.5 * normal(7, 3)
    G = product.tensor(z)
    want = G.clone()
    want[:, 2, 2] = 0
    assert_close(product.ricci(z), want, **CLOSE)
    assert_close(product.scalar_curvature(z), torch.full((7,), 2.0, dtype=z.dtype), **CLOSE)
    e = torch.eye(3, dtype=z.dtype)
    assert_close(product.sectional_curvature(z, e[0], e[2]), 0 * z[:, 0], **CLOSE)
    assert_close(product.sectional_curvature(z, e[0], e[1]), 0 * z[:, 0] + 1, **CLOSE)


def _warped(z):
    """A three-dimensional image in R⁵ without any symmetry."""
    x, y, t = z.unbind(-1)
    return torch.stack([x + 0.3 * y * t, y.sin() + t, t - x * y, (x * t).cos(), (x + y).square() * 0.4], -1)


GENERIC = PullbackMetric(_warped, dim=3)
CURVED = PullbackMetric(_warped, dim=3, ambient=lambda x: 1 + 0.3 * x.square() + 0.2 * x.roll(1, -1).sin())
FULL = PullbackMetric(
    _warped,
    dim=3,
    ambient=lambda x: torch.eye(5, dtype=x.dtype) + 0.2 * x[:, :, None] * x[:, None, :] * x.sum(-1)[:, None, None],
)
BARE = TensorMetric(
    lambda z: torch.diag_embed(1.5 + z.sin()) + 0.3 * z[..., :, None] * z[..., None, :] * z.sum(-1)[..., None, None],
    dim=3,
)


def by_hand(metric, z):
    """Rᵢⱼₖₗ at one code from nested differences of the tensor: another way to the same number."""
    d = len(z)
    h = 2e-3

    def gamma(x):
        return metric.christoffel(x)

    dG = torch.stack([(gamma(z + h * e) - gamma(z - h * e)) / (2 * h) for e in torch.eye(d, dtype=z.dtype)])
    G0 = gamma(z)
    # R^i_jkl = ∂_k Γ^i_lj − ∂_l Γ^i_kj + Γ^i_km Γ^m_lj − Γ^i_lm Γ^m_kj
    up = torch.einsum("kilj->ijkl", dG) - torch.einsum("likj->ijkl", dG)
    up = up + torch.einsum("ikm,mlj->ijkl", G0, G0) - torch.einsum("ilm,mkj->ijkl", G0, G0)
    return torch.einsum("im,mjkl->ijkl", metric.tensor(z), up)


@pytest.mark.parametrize("metric", [GENERIC, CURVED, FULL, BARE], ids=["flat", "diagonal", "full", "tensor"])
def test_against_the_definition(metric):
    z = 0.4 * normal(3)
    exact = metric.riemann(z)
    assert exact.abs().amax() > 1e-2
    with warnings.catch_warnings():
        # under an ambient metric Christoffel symbols are themselves approximate
        warnings.simplefilter("ignore", UserWarning)
        assert_close(by_hand(metric, z), exact, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("metric", [GENERIC, CURVED, FULL, BARE], ids=["flat", "diagonal", "full", "tensor"])
def test_symmetries_and_contractions(metric):
    z, u, v = 0.4 * normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2)
    R, G = metric.riemann(z), metric.tensor(z)
    assert_close(R, -R.transpose(1, 2), **CLOSE)
    assert_close(R, -R.transpose(3, 4), **CLOSE)
    assert_close(R, torch.einsum("Bijkl->Bklij", R), **CLOSE)
    cyclic = R + torch.einsum("Biklj->Bijkl", R) + torch.einsum("Biljk->Bijkl", R)
    assert_close(cyclic, torch.zeros_like(R), **CLOSE)
    inverse = torch.linalg.inv(G)
    assert_close(torch.einsum("Bik,Bijkl->Bjl", inverse, R), metric.ricci(z), **CLOSE)
    assert_close(torch.einsum("Bjl,Bjl->B", inverse, metric.ricci(z)), metric.scalar_curvature(z), **CLOSE)
    area = metric.norm(z, u) ** 2 * metric.norm(z, v) ** 2 - metric.inner(z, u, v) ** 2
    plane = torch.einsum("Bijkl,Bi,Bj,Bk,Bl->B", R, u, v, u, v) / area
    assert_close(plane, metric.sectional_curvature(z, u, v), **CLOSE)


@pytest.mark.parametrize("metric", [GENERIC, CURVED], ids=["flat", "ambient"])
def test_invariant_under_reparametrisation(metric):
    def change(y):
        return torch.stack([y[:, 0] + 0.2 * y[:, 1] ** 2, y[:, 1] + 0.1 * y[:, 2].sin(), y[:, 2] - 0.3 * y[:, 0]], -1)

    y = 0.3 * normal(5, 3)
    again = PullbackMetric(lambda w: _warped(change(w)), dim=3, ambient=metric.ambient)
    assert_close(again.scalar_curvature(y), metric.scalar_curvature(change(y)), rtol=1e-7, atol=1e-8)


def test_scaling_by_a_constant():
    z = 0.5 * normal(5, 2)
    big = PullbackMetric(lambda w: 1e3 * PARABOLOID.metric.embedding(w), dim=2)
    assert_close(big.gauss_curvature(z), PARABOLOID.curvature(z) * 1e-6, rtol=1e-8, atol=1e-16)
    assert_close(big.ricci(z), PARABOLOID.metric.ricci(z), rtol=1e-8, atol=1e-10)


def test_conformal_change():
    """e^{2f}I has K = −e^{−2f} Δf; the paraboloid's factor acts through its Laplacian."""
    z = 0.6 * normal(50, 2)
    waves = conformal(lg.Euclidean(2), lambda w: (w[..., 0].sin() * w[..., 1]).exp())
    f = z[:, 0].sin() * z[:, 1]
    assert_close(waves.gauss_curvature(z), f * (-2 * f).exp(), **CLOSE)
    constant = conformal(PARABOLOID.metric, lambda w: 2 + 0 * w[..., 0])
    assert_close(constant.gauss_curvature(z), PARABOLOID.curvature(z) / 4, **CLOSE)


def test_fisher_rao_of_a_normal_is_hyperbolic():
    """N(m, s²) has curvature −½; coordinates that move different normals span flat planes."""
    one = lg.wrap(lambda z: (z[:, :1], z[:, 1:].exp()), latent_dim=2, likelihood=lg.Gaussian())
    z = 0.7 * normal(30, 2)
    metric = lg.FisherRaoMetric(one)
    assert_close(metric.gauss_curvature(z), torch.full((30,), -0.5, dtype=z.dtype), **CLOSE)
    two = lg.wrap(lambda z: (z[:, :2], z[:, 2:].exp()), latent_dim=4, likelihood=lg.Gaussian())
    z, e = 0.7 * normal(6, 4), torch.eye(4, dtype=torch.float64)
    metric = lg.FisherRaoMetric(two)
    for i, j, K in ((0, 2, -0.5), (1, 3, -0.5), (0, 1, 0.0), (0, 3, 0.0), (2, 3, 0.0)):
        want = torch.full((6,), K, dtype=z.dtype)
        assert_close(metric.sectional_curvature(z, e[i], e[j]), want, **CLOSE)
    assert_close(metric.scalar_curvature(z), torch.full((6,), -2.0, dtype=z.dtype), **CLOSE)


def test_a_geodesic_surface_of_the_sphere():
    """The round metric given as an ambient one, restricted to a latitude chart and to the whole space."""
    ambient = lambda x: (4 / (1 + x.square().sum(-1, keepdim=True)) ** 2).expand(-1, 3)  # noqa: E731 - S³
    equator = PullbackMetric(lambda z: torch.cat([z, 0 * z[:, :1]], -1), dim=2, ambient=ambient)
    z = 0.5 * normal(10, 2)
    assert_close(equator.gauss_curvature(z), torch.ones(10, dtype=z.dtype), **CLOSE)
    e = torch.eye(2, dtype=z.dtype)
    assert_close(equator.second_fundamental_form(z, e[0], e[1]), torch.zeros(10, 3, dtype=z.dtype), **CLOSE)
    small = PullbackMetric(  # a sphere of radius sin(1), curvature 1/sin²(1)
        lambda z: math.tan(0.5) * lg.Sphere(2).embedding(z), dim=2, ambient=ambient
    )
    assert_close(small.gauss_curvature(z), torch.full((10,), math.sin(1) ** -2, dtype=z.dtype), **CLOSE)


# --- second fundamental form ----------------------------------------------------------------------------------------


def test_second_fundamental_form_of_the_paraboloid():
    z, u, v = PARABOLOID.points(20, 0), normal(20, 2, seed=1), normal(20, 2, seed=2)
    normal_vector = torch.cat([-2 * z, torch.ones(20, 1, dtype=z.dtype)], -1)
    square = 1 + 4 * z.square().sum(-1, keepdim=True)
    want = 2 * (u * v).sum(-1, keepdim=True) * normal_vector / square
    assert_close(PARABOLOID.metric.second_fundamental_form(z, u, v), want, **CLOSE)


def test_principal_curvatures_of_the_torus():
    z = TORUS.points(20, 0)
    e = torch.eye(2, dtype=z.dtype)
    ring = 2 + z[:, 0].cos()
    II = TORUS.metric.second_fundamental_form
    assert_close(II(z, e[0], e[0]).norm(dim=-1), torch.ones(20, dtype=z.dtype), **CLOSE)
    assert_close(II(z, e[1], e[1]).norm(dim=-1) / ring**2, z[:, 0].cos().abs() / ring, **CLOSE)
    assert_close(II(z, e[0], e[1]), torch.zeros(20, 3, dtype=z.dtype), **CLOSE)


def test_it_is_normal_and_symmetric():
    z, u, v = 0.4 * normal(6, 3), normal(6, 3, seed=1), normal(6, 3, seed=2)
    for metric in (GENERIC, CURVED, FULL):
        II = metric.second_fundamental_form(z, u, v)
        assert_close(II, metric.second_fundamental_form(z, v, u), **CLOSE)
        lowered = metric._lowered(z, II[None])[0]
        J = metric.embedding.jacobian(z)
        assert_close(torch.einsum("BD,BDi->Bi", lowered, J), torch.zeros(6, 3, dtype=z.dtype), **CLOSE)


def test_a_horocycle_bends_by_one():
    """The line y = 1 of the upper half-plane: no geodesic, geodesic curvature 1."""
    line = PullbackMetric(
        lambda z: torch.cat([z, 0 * z + 1], -1), dim=1, ambient=lambda x: (x[:, 1:] ** -2).expand(-1, 2)
    )
    z, e = normal(4, 1), torch.ones(1, dtype=torch.float64)
    want = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(4, 2)
    assert_close(line.second_fundamental_form(z, e, e), want, **CLOSE)


# --- Gauss–Bonnet ---------------------------------------------------------------------------------------------------


def total(metric, grid, weights):
    """∫ K dA and ∫ |K| dA by quadrature."""
    KdA = metric.gauss_curvature(grid) * metric.log_volume(grid).detach().exp() * weights
    return float(KdA.sum()), float(KdA.abs().sum())


def test_gauss_bonnet_on_the_torus():
    u = torch.arange(64, dtype=torch.float64) * 2 * math.pi / 64
    grid = torch.cartesian_prod(u, u[:8])
    signed, unsigned = total(TORUS.metric, grid, (2 * math.pi / 64) ** 2 * 8)
    assert abs(signed) < 1e-9  # 2π·χ = 0
    assert abs(unsigned - 8 * math.pi) < 0.05  # outside 4π, inside −4π; |K| has kinks, so slowly


def test_gauss_bonnet_on_the_sphere():
    angles = PullbackMetric(
        lambda z: torch.stack([z[:, 0].sin() * z[:, 1].cos(), z[:, 0].sin() * z[:, 1].sin(), z[:, 0].cos()], -1), dim=2
    )
    x, w = (torch.as_tensor(t) for t in np.polynomial.legendre.leggauss(20))
    theta = 0.5 * math.pi * (x + 1)
    grid = torch.cartesian_prod(theta, torch.arange(8, dtype=torch.float64) * math.pi / 4)
    weights = (0.5 * math.pi * w)[:, None].expand(-1, 8).reshape(-1) * math.pi / 4
    assert abs(total(angles, grid, weights)[0] - 4 * math.pi) < 1e-9


def test_gauss_bonnet_on_an_ellipsoid():
    """No closed form of K is put in: the total is 4π all the same."""
    x, w = (torch.as_tensor(t) for t in np.polynomial.legendre.leggauss(64))
    v = torch.arange(64, dtype=torch.float64) * 2 * math.pi / 64
    grid = torch.cartesian_prod(0.5 * math.pi * x, v)
    weights = (0.5 * math.pi * w)[:, None].expand(-1, 64).reshape(-1) * 2 * math.pi / 64
    assert abs(total(ELLIPSOID.metric, grid, weights)[0] - 4 * math.pi) < 1e-7


def boundary_turning(metric, centre, radius, n):
    """∮ k_g ds along a circle of latent space, counter-clockwise, from `acceleration` alone."""
    t = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    circle = torch.stack([t.cos(), t.sin()], -1)
    z, v = centre + radius * circle, radius * torch.stack([-t.sin(), t.cos()], -1)
    bend = -radius * circle - metric.acceleration(z, v)  # covariant acceleration of the circle
    turn = v[:, 0] * bend[:, 1] - v[:, 1] * bend[:, 0]
    per_time = metric.log_volume(z).exp() * turn / metric.norm(z, v) ** 2
    return float(per_time.detach().mean()) * 2 * math.pi


def disc(centre, radius, n):
    """Quadrature points and weights on a disc of latent space."""
    x, w = (torch.as_tensor(t) for t in np.polynomial.legendre.leggauss(n))
    r, wr = 0.5 * radius * (x + 1), 0.5 * radius * w
    t = torch.arange(2 * n, dtype=torch.float64) * math.pi / n
    grid = centre + (r[:, None, None] * torch.stack([t.cos(), t.sin()], -1)).reshape(-1, 2)
    return grid, (r * wr)[:, None].expand(-1, 2 * n).reshape(-1) * math.pi / n


@pytest.mark.parametrize("problem", [BALL, PARABOLOID, HALF_PLANE_AMBIENT], ids=str)
def test_gauss_bonnet_on_a_disc(problem):
    """∫ K dA + ∮ k_g ds = 2π: curvature against first derivatives of the metric."""
    centre = torch.tensor([0.1, -0.2], dtype=torch.float64)
    inside = total(problem.metric, *disc(centre, 0.5, 32))[0]
    assert abs(inside + boundary_turning(problem.metric, centre, 0.5, 256) - 2 * math.pi) < 1e-8


def test_gauss_bonnet_of_a_decoder():
    metric = lg.ExpectedMetric(tiny_model().decoder.to(torch.float64))
    centre = torch.tensor([-1.0, 0.3], dtype=torch.float64)
    inside = total(metric, *disc(centre, 0.3, 32))[0]
    turning = boundary_turning(metric, centre, 0.3, 512)
    assert abs(inside) > 0.1
    assert abs(inside + turning - 2 * math.pi) < 1e-9


# --- precision, batches, failures -----------------------------------------------------------------------------------


@by_surface
def test_single_precision(problem):
    z = problem.points(50, 0)
    K = problem.metric.gauss_curvature(z.float())
    assert K.dtype == torch.float32
    # a bare tensor is differentiated twice in float32; an embedding's normal part keeps more digits
    close = 2e-4 if problem.metric.embedding is None or problem.metric.ambient is not None else 1e-5
    assert_close(K.double(), problem.curvature(z), rtol=close, atol=close)


def test_batch_shapes():
    metric = GENERIC
    z = 0.3 * normal(6, 3)
    whole = {name: getattr(metric, name)(z) for name in ("riemann", "ricci", "scalar_curvature")}
    for shape in [(), (2, 3), (1, 6)]:
        batch = z[0] if shape == () else z.reshape(*shape, 3)
        for name, value in whole.items():
            got = getattr(metric, name)(batch)
            assert got.shape == shape + value.shape[1:]
            assert_close(got.reshape((-1, *value.shape[1:])), value[: max(1, math.prod(shape))], **CLOSE)
    empty = z[:0]
    assert metric.riemann(empty).shape == (0, 3, 3, 3, 3)
    assert metric.scalar_curvature(empty).shape == (0,)
    assert metric.sectional_curvature(empty, empty, empty).shape == (0,)
    assert metric.second_fundamental_form(empty, empty, empty).shape == (0, 5)
    assert BARE.ricci(empty).shape == (0, 3, 3)


@pytest.mark.parametrize("ambient", [None, CURVED.ambient], ids=["flat", "ambient"])
def test_chunks_change_nothing(ambient):
    z, u, v = 0.3 * normal(40, 3), normal(40, 3, seed=1), normal(40, 3, seed=2)
    tight = PullbackMetric(Embedding(_warped, dim=3, max_bytes=20_000), ambient=ambient)
    loose = PullbackMetric(_warped, dim=3, ambient=ambient)
    assert_close(tight.riemann(z), loose.riemann(z), rtol=1e-12, atol=1e-13)
    assert_close(tight.sectional_curvature(z, u, v), loose.sectional_curvature(z, u, v), rtol=1e-12, atol=1e-13)
    assert_close(tight.second_fundamental_form(z, u, v), loose.second_fundamental_form(z, u, v), rtol=1e-12, atol=1e-13)


def test_one_dimension_has_no_curvature():
    z = normal(5, 1)
    assert_close(LINE.metric.scalar_curvature(z), torch.zeros(5, dtype=z.dtype))
    assert_close(LINE.metric.riemann(z), torch.zeros(5, 1, 1, 1, 1, dtype=z.dtype))
    assert LINE.metric.sectional_curvature(z, z, z).isnan().all()
    e = torch.ones(1, dtype=z.dtype)
    # but the curve bends in the plane: κ = 2 (1 + 4x²)^(−3/2)
    bend = LINE.metric.second_fundamental_form(z, e, e).norm(dim=-1) / LINE.metric.norm(z, e) ** 2
    assert_close(bend, 2 * (1 + 4 * z[:, 0] ** 2) ** -1.5, **CLOSE)


def test_many_dimensions():
    """A sphere S⁹ from its embedding: scalar curvature d (d − 1), no d⁴ array."""
    z = 0.3 * normal(4, 9)
    assert_close(lg.Sphere(9).scalar_curvature(z), torch.full((4,), 72.0, dtype=z.dtype), **CLOSE)
    assert_close(lg.Sphere(9).ricci(z), 8 * lg.Sphere(9).tensor(z), **CLOSE)


SINGULAR = PullbackMetric(lambda z: torch.stack([z[:, 0] ** 2, z[:, 1], z[:, 0] ** 3 * z[:, 1]], -1), dim=2)


def test_rank_deficient_codes():
    z = torch.tensor([[0.5, 0.1], [0.0, 0.3], [-0.4, 1.0]], dtype=torch.float64)
    e = torch.eye(2, dtype=z.dtype)
    calls = [
        SINGULAR.riemann,
        SINGULAR.ricci,
        SINGULAR.scalar_curvature,
        SINGULAR.gauss_curvature,
        lambda z, **throw: SINGULAR.sectional_curvature(z, e[0], e[1], **throw),
        lambda z: SINGULAR.second_fundamental_form(z, e[0], e[1]),
    ]
    for call in calls:
        with pytest.raises(lg.RankError, match=r"rank-deficient or not finite at 1 of 3 codes"):
            call(z)
    for call in calls[:5]:
        value = call(z, throw=False)
        assert value[1].isnan().all()
        assert value[[0, 2]].isfinite().all()


@pytest.mark.parametrize("metric", [PARABOLOID.metric, HALF_PLANE.metric, HALF_PLANE_AMBIENT.metric], ids=repr)
def test_nan_codes(metric):
    z = torch.tensor([[0.3, 0.4], [torch.nan, 0.1]], dtype=torch.float64)
    assert metric.gauss_curvature(z, throw=False).isnan().tolist() == [False, True]
    with pytest.raises(lg.RankError, match="not finite at 1 of 2"):
        metric.gauss_curvature(z)


def test_outside_the_chart():
    z = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    assert lg.PoincareBall(2).gauss_curvature(z, throw=False).isnan().tolist() == [False, True]


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"2 latent coordinates, got 3; use `scalar_curvature`"):
        GENERIC.gauss_curvature(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"pulled back through an embedding, which PoincareBall\(2\) is not"):
        lg.PoincareBall(2).second_fundamental_form(torch.zeros(2), torch.ones(2), torch.ones(2))
    with pytest.raises(TypeError, match=r"`z` must be a torch\.Tensor"):
        GENERIC.riemann([0.0])
    with pytest.raises(ValueError, match="`u` must have 3"):
        GENERIC.second_fundamental_form(torch.zeros(3), torch.zeros(2), torch.zeros(3))


def test_refuses_a_gradient():
    z = (0.3 * normal(3, 3)).requires_grad_()
    for value in (GENERIC.scalar_curvature(z), GENERIC.riemann(z), GENERIC.sectional_curvature(z, z, z.roll(1, -1))):
        with pytest.raises(NotImplementedError, match="not differentiable"):
            value.sum().backward()


def test_the_contract_agrees_with_the_embedding():
    """The metric tensor alone, differentiated twice, gives what Gauss's equation gives."""
    z = 0.3 * normal(5, 2)
    plain = TensorMetric(PARABOLOID.tensor, dim=2)
    assert_close(plain.riemann(z), PARABOLOID.metric.riemann(z), **CLOSE)
    assert isinstance(plain, Metric)


def test_an_ambient_metric_counts_whatever_class_brings_it():
    class Plain(Metric):
        dim, embedding, ambient = CURVED.dim, CURVED.embedding, staticmethod(lambda x: CURVED.ambient(x))

        def tensor(self, z):
            return CURVED.tensor(z)

    z = 0.3 * normal(3, CURVED.dim)
    assert_close(Plain().riemann(z), CURVED.riemann(z))
    assert Plain().flat_embedding is None
