"""Any input at all: a result with a truthful status, or an error that names the argument.

No NaN goes unannounced and nothing hangs.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import latentgeo as lg

QUICK = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)

# of derivatives by differences, of volumes that are zero, of fewer distinct points than clusters
pytestmark = pytest.mark.filterwarnings("ignore")


def waves():
    return lg.PullbackMetric(lambda z: torch.cat([z, z.sin()], -1))


def cliff():
    return lg.TensorMetric(lambda z: torch.eye(z.shape[-1]).to(z) / (1 - z.square().sum(-1))[..., None, None] ** 2)


# fresh ones for each example: which derivatives to use is decided where a metric is first asked
METRICS = [lg.Euclidean, lg.Sphere, lg.PoincareBall, waves, cliff]
SOLVERS = [lg.Newton(), lg.Newton(rtol=1e-2, max_points=33), lg.Spline(max_points=65, max_steps=60), lg.Sobolev()]
SOLVERS += [lg.Georce(max_points=33, max_steps=20)]

numbers = st.one_of(
    st.floats(-3, 3),
    st.sampled_from([0.0, -0.0, 1.0, 1e-30, 1e-300, 1e12, -1e30, 1e300, math.nan, math.inf, -math.inf]),
)


@st.composite
def codes(draw, d=None, batch=None, values=numbers):
    """A tensor (*batch, d) of ordinary, extreme and impossible numbers."""
    d = draw(st.integers(1, 4)) if d is None else d
    batch = draw(st.sampled_from([(), (0,), (1,), (3,), (2, 2)])) if batch is None else batch
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    n = math.prod(batch) * d
    entries = draw(st.lists(values, min_size=n, max_size=n))
    return torch.tensor(entries, dtype=torch.float64).reshape(*batch, d).to(dtype)


@st.composite
def pairs(draw, values=numbers):
    a = draw(codes(values=values))
    return a, draw(codes(a.shape[-1], a.shape[:-1], values)).to(a)


def attempt(call, *errors):
    """The result and None, or None and the error of one of these kinds."""
    try:
        return call(), None
    except errors as error:
        return None, error


def truthful(path, d):
    """What every result must keep, whatever was asked."""
    for ok, status, length, error, z in zip(
        path.converged.reshape(-1).tolist(),
        path.status.reshape(-1).tolist(),
        path.length.reshape(-1).tolist(),
        path.length_error.reshape(-1).tolist(),
        path.z.reshape(-1, path.z.shape[-2], d),
        strict=True,
    ):
        assert ok == (status is lg.Status.CONVERGED)
        if ok:
            assert 0 <= length < math.inf
            assert 0 <= error < math.inf
            assert bool(z.isfinite().all())


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__)
@QUICK
@given(ends=pairs(), solver=st.sampled_from(SOLVERS))
def test_connect_on_any_pairs(metric, ends, solver):
    a, b = ends
    path = lg.connect(metric(), a, b, solver=solver, throw=False)
    truthful(path, a.shape[-1])
    bad = ~(a.isfinite().all(-1) & b.isfinite().all(-1))
    assert not bool(path.converged[bad].any())
    same = (a == b).all(-1) & ~bad
    assert bool((path.length[same] == 0).all())


@QUICK
@given(ends=pairs(), metric=st.sampled_from(METRICS))
def test_shoot_on_any_velocities(ends, metric):
    z, v = ends
    path = lg.shoot(metric(), z, v, solver=lg.RungeKutta(max_steps=50), throw=False)
    truthful(path, z.shape[-1])


@QUICK
@given(ends=pairs(), metric=st.sampled_from(METRICS))
def test_distance_is_finite_or_an_error(ends, metric):
    a, b = ends
    found, error = attempt(lambda: lg.distance(metric(), a, b, solver=lg.Newton(max_points=65)), lg.GeodesicError)
    if error is not None:
        assert not bool(error.result.converged.all())
    else:
        assert bool(found.isfinite().all())
        assert bool((found >= 0).all())


ordinary = st.one_of(st.floats(-3, 3), st.just(0.0))


@QUICK
@given(z=codes(2, (12,), ordinary), k=st.integers(1, 30))
def test_graph_of_any_codes(z, k):
    graph, error = attempt(lambda: lg.LatentGraph(waves(), n_neighbors=k).fit(z), ValueError)
    if error is not None:
        assert "`" in str(error)  # the argument
        return
    D = graph.distances(z, z)
    assert bool(D.isfinite().all())  # bridges connect what is apart
    assert bool((D >= 0).all())
    assert float((D - D.T).abs().max()) <= 1e-5 * (1 + float(D.max()))


@QUICK
@given(
    X=codes(2, (9,), numbers),
    k=st.integers(-1, 12),
    estimator=st.sampled_from([lg.GeodesicKMeans, lg.GeodesicKMedoids]),
)
def test_clusters_of_any_codes(X, k, estimator):
    model = estimator(None, n_clusters=k, random_state=0, max_iter=5)
    found, error = attempt(lambda: model.fit(X.numpy()), ValueError)
    if error is not None:
        return
    assert found.labels_.shape == (9,)
    assert set(found.labels_) <= set(range(k))
    assert math.isfinite(found.inertia_)


@QUICK
@given(z=codes(2, (3,)), size=numbers, n=st.integers(-1, 4), metric=st.sampled_from(METRICS))
def test_walks_from_anywhere(z, size, n, metric):
    walk, error = attempt(
        lambda: lg.random_walk(metric(), z, n_steps=n, step_size=size, random_state=0, throw=False),
        TypeError,
        ValueError,
    )
    if error is not None:
        assert any(f"`{name}`" in str(error) for name in ("z", "step_size", "n_steps")), error
        return
    moving = np.array([status is lg.WalkStatus.FINISHED for status in walk.status.reshape(-1)])
    assert bool(walk.z.reshape(3, -1, 2)[torch.as_tensor(moving)].isfinite().all())


@QUICK
@given(data=st.binary(max_size=400))
def test_a_file_of_any_bytes_is_an_error(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(lg.CheckpointError):
        lg.load(path)


@QUICK
@given(
    name=st.sampled_from(["n_points", "max_points", "rtol", "residual_tol", "max_steps"]),
    value=st.one_of(st.integers(), st.floats(), st.text(max_size=3), st.none(), st.booleans(), st.lists(st.integers())),
    solver=st.sampled_from([lg.Newton, lg.Georce, lg.Sobolev, lg.Shooting]),
)
def test_options_are_right_or_named(name, value, solver):
    _, error = attempt(lambda: solver(**{name: value}), TypeError, ValueError)
    if error is not None:
        assert f"`{name}`" in str(error) or "`n_points`" in str(error)
