"""Every metric against closed forms and against the contract that derives everything from `tensor`."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from problems import BALL, BALL3, EUCLIDEAN, LINE, PARABOLOID, PROBLEMS, SPHERE, TORUS, normal
from torch.testing import assert_close

from latentgeo._calculus import RankError, RankWarning
from latentgeo.metrics import Euclidean, HalfPlane, Metric, PoincareBall, PullbackMetric, Sphere, TensorMetric

EXACT = {"rtol": 1e-8, "atol": 1e-10}
by_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=str)


@by_problem
def test_tensor_is_exact(problem):
    if problem.tensor is None:
        pytest.skip("no closed form of the tensor")
    z = problem.points(50, 0)
    assert_close(problem.metric.tensor(z), problem.tensor(z), **EXACT)


@by_problem
def test_tensor_is_symmetric_and_positive_definite(problem):
    G = problem.metric.tensor(problem.points(50, 0))
    assert_close(G, G.mT, rtol=0, atol=1e-14)
    assert bool((torch.linalg.eigvalsh(G) > 0).all())


@by_problem
def test_acceleration_is_exact(problem):
    if problem.acceleration is None:
        pytest.skip("no closed form of the acceleration")
    z, v = problem.points(50, 0), normal(50, problem.dim, seed=5)
    assert_close(problem.metric.acceleration(z, v), problem.acceleration(z, v), **EXACT)


@by_problem
def test_christoffel_agrees_with_acceleration(problem):
    z, v = problem.points(20, 0), normal(20, problem.dim, seed=5)
    gamma = problem.metric.christoffel(z)
    assert_close(gamma, gamma.mT, rtol=1e-8, atol=1e-10)
    assert_close(-torch.einsum("...kij,...i,...j->...k", gamma, v, v), problem.metric.acceleration(z, v), **EXACT)


def test_christoffel_closed_form_on_the_paraboloid():
    z = PARABOLOID.points(20, 0)
    scale = 4 * z / (1 + 4 * z.square().sum(-1, keepdim=True))
    assert_close(PARABOLOID.metric.christoffel(z), scale[..., None, None] * torch.eye(2, dtype=z.dtype), **EXACT)


@by_problem
def test_curvature_is_exact(problem):
    if problem.curvature is None:
        pytest.skip("no closed form of the curvature")
    z, u, v = problem.points(20, 0), normal(20, problem.dim, seed=5), normal(20, problem.dim, seed=6)
    assert_close(problem.metric.sectional_curvature(z, u, v), problem.curvature(z), rtol=1e-8, atol=1e-8)


@by_problem
def test_overrides_agree_with_the_contract(problem):
    metric = problem.metric
    plain = TensorMetric(problem.tensor, metric.dim) if problem.tensor is not None else None
    if plain is None:
        pytest.skip("no closed form of the tensor")
    z, u, v = problem.points(20, 0), normal(20, problem.dim, seed=5), normal(20, problem.dim, seed=6)
    assert_close(metric.inner(z, u, v), Metric.inner(plain, z, u, v), **EXACT)
    assert_close(metric.norm(z, v), Metric.norm(plain, z, v), **EXACT)
    assert_close(metric.log_volume(z), Metric.log_volume(plain, z), **EXACT)
    assert_close(metric.acceleration(z, v), Metric.acceleration(plain, z, v), **EXACT)
    assert_close(metric.christoffel(z), Metric.christoffel(plain, z), **EXACT)


@by_problem
def test_gradients_of_tensor_and_log_volume(problem):
    z = problem.points(3, 0).requires_grad_()
    assert torch.autograd.gradcheck(problem.metric.tensor, (z,))
    assert torch.autograd.gradcheck(problem.metric.log_volume, (z,))


@by_problem
def test_single_precision_in_single_precision_out(problem):
    z = problem.points(10, 0)
    v = normal(10, problem.dim, seed=5)
    single = problem.metric.tensor(z.float())
    assert single.dtype == torch.float32
    assert_close(single.double(), problem.metric.tensor(z), rtol=1e-4, atol=1e-5)
    bend = problem.metric.acceleration(z.float(), v.float())
    assert bend.dtype == torch.float32
    assert_close(bend.double(), problem.metric.acceleration(z, v), rtol=1e-3, atol=1e-3)


@by_problem
def test_batch_shapes(problem):
    z = problem.points(6, 0)
    d = problem.dim
    for shape in [(), (6,), (2, 3), (1, 6)]:
        batch = z[0] if shape == () else z.reshape(*shape, d)
        assert problem.metric.tensor(batch).shape == (*shape, d, d)
        assert problem.metric.norm(batch, torch.ones_like(batch)).shape == shape
        assert problem.metric.acceleration(batch, torch.ones_like(batch)).shape == (*shape, d)
        assert problem.metric.log_volume(batch).shape == shape
        assert problem.metric.christoffel(batch).shape == (*shape, d, d, d)
    empty = z[:0]
    assert problem.metric.tensor(empty).shape == (0, d, d)
    assert problem.metric.log_volume(empty).shape == (0,)
    assert problem.metric.norm(empty, empty).shape == (0,)


@by_problem
def test_frozen_shared_and_picklable(problem):
    metric = problem.metric
    assert copy.deepcopy(metric) is metric
    assert copy.copy(metric) is metric
    assert "\n" not in repr(metric)
    with pytest.raises(AttributeError, match="frozen"):
        metric.dim = 7


@pytest.mark.parametrize("metric", [Euclidean(2), Sphere(2), PoincareBall(3), HalfPlane()], ids=repr)
def test_pickles_by_value(metric):
    z = 0.1 + 0.1 * torch.arange(metric.dim, dtype=torch.float64)
    metric.christoffel(z)  # fills the cache of derived functions, which must not travel
    again = pickle.loads(pickle.dumps(metric))
    assert_close(again.tensor(z), metric.tensor(z))


def test_any_dimension():
    for metric in (Euclidean(), Sphere(None), PoincareBall(None)):
        assert metric.tensor(torch.zeros(4, 3, dtype=torch.float64)).shape == (4, 3, 3)
        assert metric.tensor(torch.zeros(5, dtype=torch.float64)).shape == (5, 5)


def test_closed_charts_end_where_they_end():
    assert PoincareBall(2).tensor(torch.tensor([2.0, 0.0])).isnan().all()
    assert HalfPlane().norm(torch.tensor([0.0, -1.0]), torch.ones(2)).isnan()


def test_full_and_diagonal_ambient_agree():
    def phi(z):
        return torch.cat([z, z.prod(-1, keepdim=True)], -1)

    diagonal = PullbackMetric(phi, dim=2, ambient=lambda x: 1 + x**2)
    full = PullbackMetric(phi, dim=2, ambient=lambda x: torch.diag_embed(1 + x**2))
    z, v = normal(7, 2), normal(7, 2, seed=3)
    for name, args in (("tensor", (z,)), ("norm", (z, v)), ("acceleration", (z, v))):
        assert_close(getattr(diagonal, name)(*args), getattr(full, name)(*args), rtol=1e-10, atol=1e-12)
    assert_close(Metric.acceleration(diagonal, z, v), diagonal.acceleration(z, v), rtol=1e-8, atol=1e-10)


def test_parallel_vectors_span_no_plane():
    z, v = normal(2), normal(2, seed=1)
    assert SPHERE.metric.sectional_curvature(z, v, 2 * v).isnan()


class TestRank:
    """A rank-deficient metric is reported, never regularised."""

    metric = PullbackMetric(lambda z: z.sum(-1, keepdim=True), dim=2)

    def test_tensor_is_still_given(self):
        assert_close(self.metric.tensor(torch.zeros(2, dtype=torch.float64)), torch.ones(2, 2, dtype=torch.float64))

    def test_measure_element_is_zero(self):
        with pytest.warns(RankWarning, match="rank 1 of 2"):
            value = self.metric.log_volume(torch.zeros(3, 2, dtype=torch.float64))
        assert bool((value == -torch.inf).all())

    def test_inverting_raises_with_rank_and_condition(self):
        z = torch.zeros(3, 2, dtype=torch.float64)
        for call in (lambda: self.metric.acceleration(z, z + 1), lambda: self.metric.christoffel(z)):
            with pytest.raises(RankError, match=r"3 of 3 codes \(rank 1 of 2, condition number inf\)"):
                call()

    def test_zero_metric(self):
        flat = PullbackMetric(lambda z: 0 * z, dim=2)
        with pytest.warns(RankWarning, match="rank 0 of 2"):
            assert flat.log_volume(torch.zeros(2, dtype=torch.float64)) == -torch.inf


class TestBadInput:
    metric = PARABOLOID.metric

    @pytest.mark.parametrize(
        ("z", "error", "words"),
        [
            ([0.0, 1.0], TypeError, r"`z` must be a torch.Tensor, got list"),
            (torch.zeros(2, dtype=torch.long), TypeError, r"`z` must be floating point, got torch.int64"),
            (torch.zeros(2, dtype=torch.float16), TypeError, r"float32 or float64, got torch.float16"),
            (torch.zeros(3), ValueError, r"2 latent coordinates on its last axis, got shape \(3,\)"),
            (torch.tensor(1.0), ValueError, r"shape \(\*batch, d\), got a 0-d tensor"),
        ],
    )
    def test_codes(self, z, error, words):
        for call in (self.metric.tensor, self.metric.log_volume, lambda z: self.metric.norm(z, z)):
            with pytest.raises(error, match=words):
                call(z)

    def test_vectors(self):
        with pytest.raises(ValueError, match="`v` must have 2"):
            self.metric.norm(torch.zeros(2), torch.zeros(3))
        with pytest.raises(TypeError, match=r"`v` has dtype torch\.float32"):
            self.metric.acceleration(torch.zeros(2, dtype=torch.float64), torch.zeros(2))

    def test_dtype_of_the_module(self):
        metric = PullbackMetric(torch.nn.Linear(2, 3), dim=2)
        with pytest.raises(TypeError, match=r"`z` has dtype torch\.float64 but the model's weights are torch\.float32"):
            metric.tensor(torch.zeros(2, dtype=torch.float64))

    def test_device_of_the_module(self):
        with pytest.raises(ValueError, match=r"`z` is on meta but the model's weights are on cpu; move"):
            PullbackMetric(torch.nn.Linear(2, 3), dim=2).tensor(torch.zeros(2, device="meta"))

    def test_functions(self):
        with pytest.raises(TypeError, match="must be callable, got int"):
            PullbackMetric(3, dim=2)
        with pytest.raises(TypeError, match="must be callable, got int"):
            TensorMetric(3)
        with pytest.raises(ValueError, match=r"metric tensors of shape \(5, 2, 2\), got \(5, 2\)"):
            TensorMetric(lambda z: z, dim=2).tensor(torch.zeros(5, 2))
        with pytest.raises(ValueError, match="`ambient` must map"):
            PullbackMetric(lambda z: z, dim=2, ambient=lambda x: x[:, :1]).tensor(torch.zeros(2))
        with pytest.raises(ValueError, match="latent dimension 2, got 3"):
            PullbackMetric(PARABOLOID.metric.embedding, dim=3)

    @pytest.mark.parametrize("make", [Euclidean, Sphere, PoincareBall, HalfPlane])
    @pytest.mark.parametrize("dim", [0, -1, 2.0, True, "2"])
    def test_dimensions(self, make, dim):
        with pytest.raises(ValueError, match="`dim` must be an integer of at least"):
            make(dim)

    def test_nan_codes_give_nan_not_numbers(self):
        z = torch.tensor([[0.3, 0.1], [torch.nan, 0.0]], dtype=torch.float64)
        G = self.metric.tensor(z)
        assert G[0].isfinite().all()
        assert G[1].isnan().any()
        assert self.metric.log_volume(z)[1].isnan()
        with pytest.raises(RankError, match="not finite at 1 of 2 codes"):
            self.metric.acceleration(z, torch.ones_like(z))


def test_second_derivatives_refuse_a_gradient():
    z = normal(3, 2).requires_grad_()
    for result in (TORUS.metric.acceleration(z, torch.ones_like(z)), PARABOLOID.metric.christoffel(z)):
        with pytest.raises(NotImplementedError, match="not differentiable"):
            result.sum().backward()


def test_one_dimensional_latents():
    assert LINE.metric.tensor(torch.zeros(1, dtype=torch.float64)).shape == (1, 1)


def test_curvature_sign_and_dimension():
    z, u, v = normal(5, 3) * 0.2, normal(5, 3, seed=1), normal(5, 3, seed=2)
    one = torch.ones(5, dtype=torch.float64)
    assert_close(BALL3.metric.sectional_curvature(z, u, v), -one, rtol=1e-9, atol=1e-9)
    assert_close(EUCLIDEAN.metric.sectional_curvature(z, u, v), 0 * one, rtol=1e-9, atol=1e-9)
    assert_close(BALL.metric.sectional_curvature(z[:, :2], u[:, :2], v[:, :2]), -one, rtol=1e-9, atol=1e-9)
