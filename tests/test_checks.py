"""Argument checks: one wording for flags, whole numbers, positive numbers and vectors, whoever asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentgeo._calculus import (
    as_integers,
    as_numbers,
    as_tolerance,
    check_flag,
    check_integer,
    check_like,
    check_positive,
)
from latentgeo.decoders import fit_precision, wrap
from latentgeo.geodesics import (
    LatentGraph,
    RungeKutta,
    Sobolev,
    connect,
    differential_exp,
    exp,
    log,
    pairwise_distances,
    shoot,
)
from latentgeo.io import LatentModel
from latentgeo.learn import LAND
from latentgeo.metrics import LocalDiagonalMetric, PullbackMetric, Sphere, TensorMetric
from latentgeo.train import as_data
from latentgeo.train.scores import frechet_distance

JUNK = [0, 1, None, "no", 1.0, np.array([True])]
ZERO = torch.zeros(2, dtype=torch.float64)


@pytest.mark.parametrize("value", JUNK)
def test_flags(value):
    with pytest.raises(ValueError, match="`throw` must be True or False, got"):
        check_flag(value, "throw")
    check_flag(True, "throw")
    check_flag(None, "progress", optional=True)


@pytest.mark.parametrize("value", [0, -3, 2.0, True, "3", None, np.float64(3), 10**400 * -1])
def test_integers(value):
    with pytest.raises(ValueError, match="`n_points` must be an integer of at least 1, got"):
        check_integer(value, "n_points")


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "1", None, 1j, np.float32(-1)])
def test_positive_numbers(value):
    with pytest.raises(ValueError, match="`rtol` must be a positive finite number, got"):
        check_positive(value, "rtol")


@pytest.mark.parametrize(
    "value",
    [
        np.linspace(1, 0, 3)[::-1],
        np.linspace(0, 1, 3).astype(">f8"),
        np.linspace(0, 1, 3).astype(np.longdouble),
        [0, 0.5, 1],
        [torch.tensor(0.0), torch.tensor(0.5), torch.tensor(1.0)],
        torch.tensor([0.0, 0.5, 1.0]),
    ],
    ids=["reversed", "big-endian", "long", "list", "list of tensors", "float32"],
)
def test_arrays_of_any_layout_are_numbers(value):
    assert torch.equal(as_numbers(value, "t"), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("value", [None, "1", 1j, [[1.0], [1.0, 2.0]], torch.ones(2, dtype=torch.complex64)])
def test_what_is_no_number_is_named(value):
    with pytest.raises(TypeError, match="`t` must be a real number or an array of real numbers, got"):
        as_numbers(value, "t")


def test_whole_numbers_of_any_kind():
    for value in ((3, 4), [np.int64(3), 4], np.array([3, 4]), torch.tensor([3, 4]), torch.Size([3, 4])):
        assert as_integers(value) == [3, 4]
    for value in (3, None, "34", [3, 4.0], np.array([3.0])):
        assert as_integers(value) is None


def test_options_of_numpy_are_options():
    check_flag(np.True_, "throw")
    assert LatentGraph(Sphere(2), grid=np.int64(8)).grid == 8
    a = torch.eye(2, dtype=torch.float64)
    assert connect(Sphere(2), a, a.flip(0), starts=np.int64(2), throw=np.True_).converged.all()
    for certify in (True, np.True_, False, np.False_):
        path = connect(Sphere(2), a, a.flip(0), solver=Sobolev(certify=certify))
        assert path.certified.tolist() == [bool(certify)] * 2


def test_numbers_of_numpy_are_numbers():
    check_integer(np.int64(3), "n_points", 3)
    check_positive(np.float32(1e-3), "rtol")
    assert as_tolerance(np.float64(1e-4), torch.float32) == 1e-4
    assert as_tolerance(None, torch.float64) == 1e-6
    with pytest.raises(ValueError, match="`rtol` must be a positive finite number or None, got 0"):
        as_tolerance(0, torch.float64)


def test_vectors_are_told_what_they_should_be_like():
    with pytest.raises(TypeError, match=r"`v` has dtype torch\.float32 but `z` has torch\.float64; cast with"):
        Sphere(2).norm(ZERO, ZERO.float())
    with pytest.raises(ValueError, match="`b` must have 2 latent coordinates on its last axis, as `a` has, got shape"):
        check_like(torch.zeros(3), torch.zeros(2), "b", like="a")


@pytest.mark.parametrize(
    "call",
    [
        lambda m, z: m.riemann(z, throw=1),
        lambda m, z: m.ricci(z, throw=None),
        lambda m, z: m.scalar_curvature(z, throw="yes"),
        lambda m, z: m.gauss_curvature(z, throw=0),
        lambda m, z: m.sectional_curvature(z, z, z, throw=0),
        lambda m, z: m.solve(z, z, throw=1),
        lambda m, z: m.random_tangent(z, throw=1),
    ],
)
def test_flags_of_metrics(call):
    with pytest.raises(ValueError, match="`throw` must be True or False, got"):
        call(Sphere(2), ZERO)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: TensorMetric(lambda z: z, dim=-1), "dim"),
        (lambda: PullbackMetric(Sphere(2).embedding, dim="2"), "dim"),
        (lambda: PullbackMetric(lambda z: z, dim=2, period=3.0), "period"),
        (lambda: PullbackMetric(lambda z: z, dim=2, period=(1.0, "x")), "period"),
        (lambda: LocalDiagonalMetric(torch.zeros(2, 2), sigma="wide", rho=1.0), "sigma"),
        (lambda: LocalDiagonalMetric(torch.zeros(2, 2), sigma=1.0, rho=True), "rho"),
    ],
)
def test_arguments_of_metrics(build, name):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        build()


@pytest.mark.parametrize("junk", [0, 1, None, "no"])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m, z, x: connect(m, z, z, throw=x), "throw"),
        (lambda m, z, x: shoot(m, z, z, throw=x), "throw"),
        (lambda m, z, x: exp(m, z, z, throw=x), "throw"),
        (lambda m, z, x: log(m, z, z, throw=x), "throw"),
        (lambda m, z, x: log(m, z, z, verify=x), "verify"),
        (lambda m, z, x: differential_exp(m, z, z, throw=x), "throw"),
        (lambda m, z, x: pairwise_distances(m, z[None], throw=x), "throw"),
        (lambda m, z, x: LatentGraph(m, progress=x), "progress"),
        (lambda m, z, x: RungeKutta(checked=x), "checked"),
        (lambda m, z, x: Sobolev(certify=0 if x is None else x), "certify"),
    ],
)
def test_flags_of_geodesics(call, name, junk):
    with pytest.raises(ValueError, match=f"`{name}` must be True"):
        call(Sphere(2), ZERO, junk)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g, z: g.paths(z, z, n_points=1), "`n_points` must be an integer of at least 2"),
        (lambda g, z: g.lengths(z.expand(3, 2), z.expand(2, 2)), "`A` and `B` must have batch shapes that broadcast"),
        (lambda g, z: g.paths(z, torch.zeros(3).double()), "`B` must have 2 latent coordinates"),
        (lambda g, z: LatentGraph(g.metric, random_state=-1), "`random_state` must be an integer of at least 0"),
    ],
)
def test_arguments_of_graphs(call, words):
    graph = LatentGraph(Sphere(2), grid=8).fit(torch.eye(2, dtype=torch.float64))
    with pytest.raises(ValueError, match=words):
        call(graph, ZERO)


def test_a_graph_that_is_not_fitted_says_so():
    graph = LatentGraph(Sphere(2))
    assert not graph.fitted
    for call in (graph.attach, graph.distances, graph.nearest):
        with pytest.raises(RuntimeError, match="not fitted"):
            call(ZERO[None])


def test_reversed_arrays_are_arrays():
    """Torch takes none with negative strides; whoever takes arrays does."""
    generator = np.random.default_rng(0)
    z, x, y = generator.normal(size=(12, 2))[::-1], generator.normal(size=(12, 3))[::-1], np.arange(12)[::-1]
    decoder = wrap(torch.nn.Linear(2, 3).double().eval(), 2, "deterministic")
    model = LatentModel(decoder, codes=z, labels=y)
    assert torch.equal(model.codes, torch.tensor(z.copy()))
    assert model.labels.tolist() == y.tolist()
    fitted, copied = (
        fit_precision(decoder, a, b, n_centers=2, n_iter=2, random_state=0, progress=False)
        for a, b in ((z, x), (z.copy(), x.copy()))
    )
    assert torch.equal(fitted.std(model.codes), copied.std(model.codes))
    data = as_data(x, labels=y, shape=(3, 1), held_out=0)
    assert sorted(data.labels.tolist()) == sorted(y.tolist())
    land = LAND(None, 2, weights_init=np.array([0.25, 0.75])[::-1], tol=0.1, random_state=0).fit(z)
    assert land.weights_.sum() == pytest.approx(1)
    assert frechet_distance(x, x) == pytest.approx(frechet_distance(x.copy(), x.copy()))
