"""The main jobs on a GPU give what the CPU gives, stay on the device, and agree to the precision of the numbers.

Skipped where torch sees no CUDA device. Float64 on both sides: differences are rounding, not precision.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from models import tiny_model
from sklearn.exceptions import ConvergenceWarning
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.decoders import MLP

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine")
DEVICE = "cuda"
KINDS = {
    "rbf": lambda: tiny_model().decoder,
    "bernoulli": lambda: lg.wrap(seeded(MLP([2, 16, 20])), 2, lg.Bernoulli(output="logits")),
    "layer norm": lambda: lg.wrap(seeded(_layer_norm()), 2, lg.Deterministic()),
}


def seeded(net: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net.eval()


def _layer_norm() -> torch.nn.Module:
    nn = torch.nn
    return nn.Sequential(nn.Linear(2, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 20))


def both(kind: str = "rbf", dtype: torch.dtype = torch.float64) -> tuple[lg.Metric, lg.Metric]:
    decoder = KINDS[kind]().to(dtype)
    return lg.metric(decoder), lg.metric(decoder.to(DEVICE))


def codes(n: int = 40, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return tiny_model().codes[:n].to(dtype)


def agree(there: torch.Tensor, here: torch.Tensor, **tolerances: float) -> None:
    assert there.device.type == torch.device(DEVICE).type
    assert_close(there.cpu(), here, **tolerances)


@pytest.mark.parametrize("kind", KINDS)
def test_local_geometry(kind):
    here, there = both(kind)
    z = codes()
    v = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    calls = ("tensor", "log_volume", "christoffel", "gauss_curvature")
    for name in calls:
        agree(getattr(there, name)(z.to(DEVICE)), getattr(here, name)(z), rtol=1e-8, atol=1e-9)
    for name in ("norm", "acceleration", "product"):
        agree(getattr(there, name)(z.to(DEVICE), v.to(DEVICE)), getattr(here, name)(z, v), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    gradients = []
    for metric, device in zip(both(kind), ("cpu", DEVICE), strict=True):
        z = codes(10).to(device).requires_grad_()
        (metric.log_volume(z).sum() + metric.tensor(z).sum()).backward()
        gradients.append(z.grad)
    agree(gradients[1], gradients[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "solver", [None, lg.Spline(rtol=1e-2), lg.Georce(rtol=1e-2), lg.Sobolev(rtol=1e-2), lg.Shooting(rtol=1e-2)]
)
def test_connect(solver, dtype):
    here, there = both(dtype=dtype)
    z = codes(16, dtype)
    a, b = z[:8], z[:8] + 0.3 * (z[8:] - z[:8])
    one = lg.connect(here, a, b, solver=solver, throw=False)
    other = lg.connect(there, a.to(DEVICE), b.to(DEVICE), solver=solver, throw=False)
    assert [s.name for s in other.status] == [s.name for s in one.status]
    done = one.converged
    assert int(done.sum()) >= 6
    agree(other.length[done.to(DEVICE)], one.length[done], rtol=1e-6 if dtype == torch.float64 else 2e-3, atol=0.0)
    assert other.z.device.type == other(torch.tensor([0.5], device=DEVICE, dtype=dtype)).device.type
    assert other.z.device.type == torch.device(DEVICE).type


def test_distance_is_differentiable():
    slopes = []
    for metric, device in zip(both(), ("cpu", DEVICE), strict=True):
        a, b = codes(6)[:3].to(device).requires_grad_(), codes(6)[3:].to(device).requires_grad_()
        lg.distance(metric, a, b).sum().backward()
        slopes.append(a.grad)
    agree(slopes[1], slopes[0], rtol=1e-5, atol=1e-8)


def test_graph():
    here, there = both()
    z = codes()
    one, other = lg.LatentGraph(here).fit(z), lg.LatentGraph(there).fit(z.to(DEVICE))
    agree(other.distances(z[:5].to(DEVICE), z.to(DEVICE)), one.distances(z[:5], z), rtol=1e-8, atol=1e-10)
    path = lg.connect(there, z[:5].to(DEVICE), z[5:10].to(DEVICE), init=other)
    agree(path.length, lg.connect(here, z[:5], z[5:10], init=one).length, rtol=1e-5, atol=0.0)
    matrix = lg.pairwise_distances(there, z.to(DEVICE), graph=other)
    assert_close(matrix.cpu(), lg.pairwise_distances(here, z, graph=one), rtol=1e-8, atol=1e-10)


def test_maps():
    here, there = both()
    z, v = codes(6), 0.1 * torch.randn(6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    path = lg.shoot(there, z.to(DEVICE), v.to(DEVICE))
    agree(path.length, lg.shoot(here, z, v).length, rtol=1e-7, atol=0.0)
    end = lg.exp(there, z.to(DEVICE), v.to(DEVICE))
    agree(end, lg.exp(here, z, v), rtol=1e-6, atol=1e-8)
    agree(lg.log(there, z.to(DEVICE), end), v, rtol=1e-4, atol=1e-6)
    u = torch.ones_like(z)
    moved, still = lg.transport(path, u.to(DEVICE)), lg.transport(lg.shoot(here, z, v), u)
    agree(moved, still, rtol=1e-5, atol=1e-7)
    fields = [lg.jacobi_field(p, u.to(p.z.device), u.to(p.z.device)) for p in (lg.shoot(here, z, v), path)]
    agree(fields[1], fields[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["brownian", "inverse-metric", "euclidean"])
def test_walks(kind):
    here, there = both()
    z = codes(8)
    options = {"n_steps": 20, "step_size": 1e-4, "kind": kind, "random_state": 0}
    one, other = lg.random_walk(here, z, **options), lg.random_walk(there, z.to(DEVICE), **options)
    agree(other.z, one.z, rtol=1e-6, atol=1e-8)


def test_langevin_and_heat_kernel():
    here, there = both()
    z = codes()
    options = {"n_steps": 10, "step_size": 1e-4, "random_state": 0}
    one = lg.langevin(here, lg.KernelDensity(z), z[:6], **options)
    other = lg.langevin(there, lg.KernelDensity(z.to(DEVICE)), z[:6].to(DEVICE), **options)
    agree(other.z, one.z, rtol=1e-5, atol=1e-7)
    a, b = z[:3], z[:3] + 0.05
    kernels = [lg.heat_kernel(m, a.to(device), b.to(device), 0.05) for m, device in ((here, "cpu"), (there, DEVICE))]
    agree(kernels[1], kernels[0], rtol=1e-5, atol=1e-5)


def test_estimators():
    here, there = both()
    Z = codes(60).numpy()
    for make in (
        lambda m: lg.GeodesicKMeans(m, 3, random_state=0),
        lambda m: lg.GeodesicKMedoids(m, 3, random_state=0),
    ):
        one, other = make(here).fit(Z), make(there).fit(Z)
        np.testing.assert_array_equal(other.labels_, one.labels_)
        np.testing.assert_allclose(other.cluster_centers_, one.cluster_centers_, rtol=1e-4, atol=1e-5)
    means = [lg.frechet_mean(m, codes()[::3].to(d)).mean for m, d in ((here, "cpu"), (there, DEVICE))]
    agree(means[1], means[0], rtol=1e-4, atol=1e-5)
    axes = [lg.GeodesicPCA(m, n_components=1).fit(Z[::3]).explained_variance_ for m in (here, there)]
    np.testing.assert_allclose(axes[1], axes[0], rtol=1e-4)
    near = [lg.GeodesicNeighbors(m, n_neighbors=5).fit_transform(Z).toarray() for m in (here, there)]
    np.testing.assert_allclose(near[1], near[0], rtol=1e-6)


def test_land():
    here, there = both()
    Z = codes(60)[::3].numpy()
    scores = []
    for metric in (here, there):
        land = lg.LAND(metric, random_state=0, max_iter=1, n_directions=8, n_radii=8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            scores.append(land.fit(Z).score_samples(Z))
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3, atol=1e-3)


def test_pictures_and_report():
    _, there = both()
    z = codes().to(DEVICE)
    path = lg.connect(there, z[:2], z[2:4])
    figure = lg.plot.measure(there, codes=z, paths=path, resolution=20)
    assert len(figure.data) > 2
    model = tiny_model()
    moved = lg.LatentModel(model.decoder.to(DEVICE), codes=model.codes.to(DEVICE), labels=model.labels)
    assert "codes" in str(lg.diagnose(moved)).lower()


def test_many_dimensions():
    net = seeded(MLP([24, 32, 40]))
    decoder = lg.wrap(net, 24, lg.Deterministic()).to(torch.float64)
    z = torch.randn(6, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    here, there = lg.metric(decoder), lg.metric(decoder.to(DEVICE))
    a, b = z[:3], z[:3] + 0.1 * z[3:]  # so near that there is one basin
    one = lg.connect(here, a, b, solver=lg.Sobolev(rtol=1e-4))
    other = lg.connect(there, a.to(DEVICE), b.to(DEVICE), solver=lg.Sobolev(rtol=1e-4))
    agree(other.length, one.length, rtol=2e-4, atol=0.0)


def test_a_mismatch_names_the_cast():
    _, there = both()
    with pytest.raises((TypeError, ValueError), match="cuda"):
        there.tensor(codes())


def test_memory_does_not_grow_with_the_pairs():
    decoder = tiny_model().decoder.to(DEVICE)
    metric = lg.ExpectedMetric(decoder)
    z = codes(dtype=torch.float32).to(DEVICE)
    peaks = []
    for n in (6400, 25_600):
        a, b = z[torch.arange(n) % 40], z[(7 * torch.arange(n) + 3) % 40]
        torch.cuda.reset_peak_memory_stats()
        lg.connect(metric, a, b, solver=lg.Newton(rtol=1e-2), throw=False)
        peaks.append(torch.cuda.max_memory_allocated())
    result = 19_200 * 2 * 4 * (33 + 129)  # what is given back grows: nodes and the curves behind `path(t)`
    assert peaks[1] < 1.1 * peaks[0] + result
