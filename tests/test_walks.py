"""Random walks against theory, in charts where the drift of Brownian motion does not vanish."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from problems import BALL, ELLIPSOID, HALF_PLANE, PARABOLOID, SPHERE, SPHERE3, TORUS, generator
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.walks import StepSizeWarning
from latentgeo.walks.kinds import as_kind

BROWNIAN = [lg.Brownian(), lg.Brownian(step="projection"), lg.Brownian(step="exponential")]
DRIFTING = [TORUS, PARABOLOID, SPHERE3, ELLIPSOID]  # charts in which the drift does not vanish


def hermite(order=20):
    """Gauss–Hermite nodes (order², 2) and weights for two standard normal numbers."""
    x, w = np.polynomial.hermite_e.hermegauss(order)
    w = w / w.sum()
    nodes = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    return torch.as_tensor(nodes), torch.as_tensor(np.outer(w, w).reshape(-1))


def slope(steps, errors):
    return np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0]


# --- one step against the generator ½Δ --------------------------------------------------------------------------------


def laplacian(problem, f, z):
    """Δf = det(G)^(−½) ∂ᵢ(det(G)^½ Gⁱʲ ∂ⱼf), by reverse mode on the closed-form tensor."""
    tensor = problem.tensor or problem.metric.tensor
    d = z.shape[-1]
    flux = []
    x = z.clone().requires_grad_()
    G = tensor(x) if problem.tensor else _pullback(problem, x)
    volume = torch.linalg.det(G).sqrt()
    gradient = torch.autograd.grad(f(x).sum(), x, create_graph=True)[0]
    flux = volume[:, None] * torch.linalg.solve(G, gradient)
    divergence = sum(torch.autograd.grad(flux[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(d))
    return (divergence / volume).detach()


def _pullback(problem, x):
    J = torch.func.vmap(torch.func.jacrev(lambda p: problem.metric.embedding.function(p[None])[0]))(x)
    return J.mT @ J


def observable(z):
    return (z.cos() + 0.5 * z.sin().roll(1, -1)).prod(-1)


def one_step_error(kind, problem, z, step_size):
    """(E f(z₁) − f(z₀))/δ − ½Δf(z₀) by quadrature over the noise; exact up to rounding."""
    d = z.shape[-1]
    if d == 2:
        xi, weight = hermite()
    else:
        x, w = np.polynomial.hermite_e.hermegauss(12)
        w = w / w.sum()
        xi = torch.as_tensor(np.stack(np.meshgrid(x, x, x, indexing="ij"), -1).reshape(-1, 3))
        weight = torch.as_tensor(np.einsum("i,j,k->ijk", w, w, w).reshape(-1))
    rows = z[:, None].expand(-1, len(xi), -1).reshape(-1, d)
    new, trouble = kind.advance(problem.metric, rows, xi.repeat(len(z), 1), step_size)
    assert set(trouble.unique().tolist()) <= {0, 4}  # far out, where the weights are tiny, some steps are too large
    mean = observable(new).reshape(len(z), -1) @ weight
    return (mean - observable(z)) / step_size - 0.5 * laplacian(problem, observable, z)


@pytest.mark.parametrize("kind", BROWNIAN[:2], ids=repr)
@pytest.mark.parametrize("problem", DRIFTING, ids=str)
def test_one_step_has_the_generator_of_brownian_motion(problem, kind):
    z = 0.5 * problem.points(6, 3)
    steps = [4e-2, 2e-2, 1e-2, 5e-3]
    errors = [one_step_error(kind, problem, z, h).abs().mean().item() for h in steps]
    assert errors[-1] < 0.05
    assert slope(steps, errors) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("problem", DRIFTING, ids=str)
def test_the_naive_walk_has_another_generator(problem):
    z = 0.5 * problem.points(6, 3)
    steps = [4e-2, 2e-2, 1e-2, 5e-3]
    errors = [one_step_error(lg.InverseMetric(), problem, z, h).abs().mean().item() for h in steps]
    assert errors[-1] > 0.01
    assert slope(steps, errors) < 0.3


# --- weak order of whole walks, without Monte Carlo error -------------------------------------------------------------


class Torus:
    """E[cos u_t] on the torus of revolution in angles: a Markov chain in u alone, by Fourier interpolation."""

    problem, start, time, n = TORUS, 1.0, 0.8, 32
    nodes = 2 * np.pi * np.arange(32) / 32

    def interpolate(self, u):
        k = np.arange(-self.n // 2 + 1, self.n // 2)
        return (np.exp(1j * u[:, None] * k) @ np.exp(-1j * k[:, None] * self.nodes)).real / self.n

    def codes(self):
        return torch.as_tensor(np.stack([self.nodes, 0 * self.nodes], -1))

    def coordinate(self, z):
        return z[:, 0].numpy()

    def values(self):
        return np.cos(self.nodes)

    def exact(self):
        k = np.fft.fftfreq(self.n, 1 / self.n)
        k[self.n // 2] = 0
        F = np.fft.fft(np.eye(self.n), axis=0)
        D = np.fft.ifft(1j * k[:, None] * F, axis=0).real
        A = 0.5 * (D @ D - np.diag(np.sin(self.nodes) / (2 + np.cos(self.nodes))) @ D)
        return scipy.linalg.expm(self.time * A) @ self.values()

    def at_start(self, values):
        return float(self.interpolate(np.array([self.start]))[0] @ values)


class Paraboloid(Torus):
    """E[exp(−|z_t|²)] on the paraboloid: a Markov chain in s = |z|², by Chebyshev interpolation on [0, 12]."""

    problem, start, time, n, top = PARABOLOID, 0.25, 0.4, 72, 12.0
    nodes = 6.0 * (1 - np.cos(np.pi * np.arange(72) / 71))
    weights = (-1.0) ** np.arange(72) * np.where((np.arange(72) == 0) | (np.arange(72) == 71), 0.5, 1.0)

    def interpolate(self, s):
        gap = s[:, None] - self.nodes
        exact = np.abs(gap) < 1e-13
        terms = self.weights / np.where(exact, 1.0, gap)
        terms = np.where(exact.any(1, keepdims=True), exact.astype(float), terms)
        inside = s[:, None] <= self.top
        return np.where(inside, terms, 0.0) / np.where(inside, terms.sum(1, keepdims=True), 1.0)

    def codes(self):
        return torch.as_tensor(np.stack([np.sqrt(self.nodes), 0 * self.nodes], -1))

    def coordinate(self, z):
        return z.square().sum(-1).numpy()

    def values(self):
        return np.exp(-self.nodes)

    def exact(self):
        s, w = self.nodes, self.weights
        gap = s[:, None] - s + np.eye(self.n)
        D = w[None] / w[:, None] / gap
        np.fill_diagonal(D, 0.0)
        np.fill_diagonal(D, -D.sum(1))
        E = 1 + 4 * s
        A = 0.5 * (np.diag(4 * s / E) @ D @ D + np.diag(4 / E - 8 * s / E**2) @ D)
        A[-1] = 0  # e^(−12) stays what it is
        return scipy.linalg.expm(self.time * A) @ self.values()


def expectation(chain, kind, n_steps):
    """E f after n steps, by iterating the transition operator of the walk's own step."""
    xi, weight = hermite()
    z = chain.codes()
    rows = z[:, None].expand(-1, len(xi), -1).reshape(-1, 2)
    new, trouble = kind.advance(chain.problem.metric, rows, xi.repeat(len(z), 1), chain.time / n_steps)
    assert set(trouble.unique().tolist()) <= {0, 4}  # far out, where the weights are tiny, some steps are too large
    operator = chain.interpolate(chain.coordinate(new)).reshape(len(z), len(xi), -1)
    operator = np.einsum("ijk,j->ik", operator, weight.numpy())
    return chain.at_start(np.linalg.matrix_power(operator, n_steps) @ chain.values())


@pytest.mark.parametrize("chain", [Torus(), Paraboloid()], ids=["torus", "paraboloid"])
@pytest.mark.parametrize("kind", BROWNIAN[:2], ids=repr)
def test_weak_order_one(chain, kind):
    exact = chain.at_start(chain.exact())
    counts = [8, 16, 32, 64]
    bias = [expectation(chain, kind, n) - exact for n in counts]
    assert abs(bias[-1]) < 3e-3  # the naive walk's is 0.08 and 0.13
    assert slope([1 / n for n in counts], bias) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("chain", [Torus(), Paraboloid()], ids=["torus", "paraboloid"])
def test_the_naive_walk_does_not_converge(chain):
    exact = chain.at_start(chain.exact())
    bias = [expectation(chain, lg.InverseMetric(), n) - exact for n in (8, 64)]
    assert min(map(abs, bias)) > 1e-2
    assert slope([1 / 8, 1 / 64], bias) < 0.3


# --- whole walks against closed forms ---------------------------------------------------------------------------------


def cosine(z):
    return (1 - z.square().sum(-1)) / (1 + z.square().sum(-1))  # of the angle to the pole, in the stereographic chart


def cosh(z):
    return (1 + z.square().sum(-1)) / (1 - z.square().sum(-1))  # of the distance to the centre of the ball


CLOSED = [
    pytest.param(SPHERE, [0.0, 0.0], cosine, -1.0, id="S2"),  # E cos θ = e^(−t)
    pytest.param(SPHERE3, [0.0, 0.0, 0.0], cosine, -1.5, id="S3"),  # Δ cos θ = −3 cos θ
    pytest.param(BALL, [0.0, 0.0], cosh, 1.0, id="H2"),  # E cosh ρ = e^t
]


def means(problem, start, f, *, n_walkers, n_steps, time, every=1, kind=None, seed=0):
    """Means of f along a walk, their standard errors, and times."""
    z = torch.tensor(start, dtype=torch.float64).expand(n_walkers, -1)
    walk = lg.random_walk(problem.metric, z, n_steps=n_steps, step_size=time / n_steps, kind=kind or lg.Brownian(),
                          every=every, random_state=seed)  # fmt: skip
    assert float(walk.finished.double().mean()) > 1 - 2e-5
    values = f(walk.z)
    return values.mean(0), values.std(0) / n_walkers**0.5, walk.t


@pytest.mark.parametrize(("problem", "start", "f", "rate"), CLOSED)
def test_expectations_up_to_half(problem, start, f, rate):
    mean, error, t = means(problem, start, f, n_walkers=20_000, n_steps=25, time=0.5)
    exact = (rate * t).exp()
    # the bias of order δ, and four standard errors
    assert bool(((mean - exact).abs() <= 4 * error + 0.4 * 0.02 * t).all())


COUNTS = {"S2": [2, 4, 8, 16], "S3": [2, 4, 8, 16], "H2": [5, 8, 12, 20]}  # at δ = 0.25 walkers leave the ball


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "start", "f", "rate"), CLOSED)
def test_weak_order_by_simulation(problem, start, f, rate, request):
    bias, noise, counts = [], [], COUNTS[request.node.callspec.id]
    for n in counts:
        mean, error, _ = means(problem, start, f, n_walkers=1_000_000, n_steps=n, every=n, time=0.5, seed=n)
        bias.append(float(mean[-1]) - math.exp(0.5 * rate))
        noise.append(float(error[-1]))
    print([f"{b:.5f} ± {e:.5f}" for b, e in zip(bias, noise, strict=True)])
    assert all(e < abs(b) / 5 for b, e in zip(bias, noise, strict=True))
    assert slope([1 / n for n in counts], bias) == pytest.approx(1.0, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [lg.Brownian(), lg.Brownian(step="projection"), lg.InverseMetric()], ids=repr)
def test_weak_order_by_simulation_on_the_torus(kind):
    """The inverse-metric walk of u is plain Brownian motion: with the same noise it is a control variate."""
    chain, counts, bias, noise = Torus(), [2, 4, 8, 16], [], []
    exact = chain.at_start(chain.exact())
    plain = math.exp(-chain.time / 2) * math.cos(chain.start)
    z = torch.tensor([chain.start, 0.0], dtype=torch.float64).expand(500_000, -1)
    for n in counts:
        options = {"n_steps": n, "step_size": chain.time / n, "every": n, "random_state": n}
        u = lg.random_walk(TORUS.metric, z, kind=kind, **options).z[:, -1, 0]
        if kind != lg.InverseMetric():
            value = (
                u.cos() - lg.random_walk(TORUS.metric, z, kind="inverse-metric", **options).z[:, -1, 0].cos() + plain
            )
        else:
            value = u.cos()
        bias.append(float(value.mean()) - exact)
        noise.append(float(value.std()) / len(z) ** 0.5)
    print(kind, [f"{b:.5f} ± {e:.5f}" for b, e in zip(bias, noise, strict=True)])
    assert all(e < abs(b) / 5 for b, e in zip(bias, noise, strict=True))
    order = slope([1 / n for n in counts], bias)
    if kind == lg.InverseMetric():
        assert order < 0.2  # a bias that stays
    else:
        assert order == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("kind", ["brownian", "inverse-metric"])
def test_stationary_law_on_the_torus(kind):
    z = torch.zeros(3000, 2, dtype=torch.float64)
    walk = lg.random_walk(TORUS.metric, z, n_steps=240, step_size=0.05, kind=kind, every=240, random_state=0)
    u = np.mod(walk.z[:, -1, 0].numpy(), 2 * np.pi)
    by_volume = scipy.stats.kstest(u, lambda x: (2 * x + np.sin(x)) / (4 * np.pi)).pvalue  # density ∝ 2 + cos u
    uniform = scipy.stats.kstest(u, lambda x: x / (2 * np.pi)).pvalue
    right, wrong = (by_volume, uniform) if kind == "brownian" else (uniform, by_volume)
    assert right > 0.01
    assert wrong < 1e-6


# --- results, reproducibility, precision ------------------------------------------------------------------------------


def walk_on(problem=TORUS, walkers=(4, 3), n_steps=7, **options):
    z = 0.3 * torch.randn(*walkers, problem.dim, generator=generator(5), dtype=torch.float64)
    options = {"step_size": 0.02, "random_state": 3, **options}
    return z, lg.random_walk(problem.metric, z, n_steps=n_steps, **options)


def test_result_has_the_shapes_it_says():
    z, walk = walk_on()
    assert walk.z.shape == (4, 3, 8, 2)
    assert walk.status.shape == walk.walkers == (4, 3)
    assert_close(walk.z[..., 0, :], z)
    assert_close(walk.t, 0.02 * torch.arange(8, dtype=torch.float64))
    assert (walk.status == lg.WalkStatus.FINISHED).all()
    assert repr(walk) == "Walk(Brownian(step='second-order'), walkers=(4, 3), d=2, 7 steps of 0.02, 12/12 finished)"
    single = lg.random_walk(TORUS.metric, z[0, 0], n_steps=2, step_size=0.1)
    assert single.z.shape == (3, 2)
    assert single.status.shape == ()


def test_rms_step_of_the_euclidean_walk():
    z = torch.zeros(2000, 3, dtype=torch.float64)
    walk = lg.random_walk(lg.Euclidean(3), z, n_steps=10, step_size=0.04, kind="euclidean", random_state=0)
    assert walk.rms_step == pytest.approx(math.sqrt(0.04 * 3), rel=0.02)
    brownian = lg.random_walk(lg.Euclidean(3), z, n_steps=10, step_size=0.04, random_state=0)
    assert_close(brownian.z, walk.z)


def test_every_thins_the_record_only():
    _, walk = walk_on(n_steps=8)
    _, thin = walk_on(n_steps=8, every=3)
    assert_close(thin.z, walk.z[..., [0, 3, 6], :], rtol=0, atol=0)
    assert_close(thin.t, walk.t[[0, 3, 6]])


@pytest.mark.parametrize("kind", ["euclidean", "inverse-metric", "brownian"])
def test_same_seed_same_bits_however_it_is_chunked(kind):
    phi = TORUS.metric.embedding
    small = lg.PullbackMetric(lg.Embedding(phi.function, dim=2, max_bytes=4_000))
    z, walk = walk_on(walkers=(24,), kind=kind)
    again = lg.random_walk(small, z, n_steps=7, step_size=0.02, kind=kind, random_state=3)
    assert_close(again.z, walk.z, rtol=0, atol=0)
    other = lg.random_walk(small, z, n_steps=7, step_size=0.02, kind=kind, random_state=4)
    assert not torch.equal(other.z, walk.z)


def test_random_states():
    z, walk = walk_on()
    options = {"n_steps": 7, "step_size": 0.02}
    given = lg.random_walk(TORUS.metric, z, random_state=torch.Generator().manual_seed(3), **options)
    assert_close(given.z, walk.z, rtol=0, atol=0)
    torch.manual_seed(7)
    first = lg.random_walk(TORUS.metric, z, **options)
    torch.manual_seed(7)
    assert_close(lg.random_walk(TORUS.metric, z, **options).z, first.z, rtol=0, atol=0)


@pytest.mark.parametrize("kind", BROWNIAN, ids=repr)
def test_single_precision_follows_double(kind):
    z, walk = walk_on(kind=kind, n_steps=3)
    single = lg.random_walk(TORUS.metric, z.float(), n_steps=3, step_size=0.02, kind=kind, random_state=3)
    assert single.z.dtype == torch.float32
    assert_close(single.z.double(), walk.z, rtol=0, atol=2e-4)


@pytest.mark.parametrize("problem", [TORUS, SPHERE, SPHERE3, HALF_PLANE], ids=str)
def test_steps_agree_to_the_order_of_the_step(problem):
    """The three Brownian steps are one series up to (√δ)³: bending is right, not only its mean."""
    z = problem.points(50, 2)
    xi = torch.randn(50, problem.dim, generator=generator(9), dtype=torch.float64).clamp(-2, 2)
    gaps = []
    for step_size in (1e-2, 1e-4):
        exact = lg.Brownian(step="exponential").advance(problem.metric, z, xi, step_size)[0]
        steps = ["second-order"] if problem.metric.embedding is None else ["second-order", "projection"]
        each = [lg.Brownian(step=s).advance(problem.metric, z, xi, step_size)[0] for s in steps]
        gaps.append(max(float((new - exact).norm(dim=-1).mean()) for new in each))
    assert gaps[1] < gaps[0] * 2e-3  # (1e-2)^(3/2) = 1e-3


def test_a_real_model():
    model = lg.load("checkpoints/digits-2d.safetensors")
    metric = lg.metric(model)
    z = model.codes[:20]
    for kind in ("euclidean", "inverse-metric", "brownian", lg.Brownian(step="projection")):
        walk = lg.random_walk(metric, z, n_steps=3, step_size=1e-3, kind=kind, random_state=0)
        assert bool(walk.finished.all())
        assert walk.z.dtype == z.dtype


# --- walkers that stop ------------------------------------------------------------------------------------------------


def disc_metric():
    """Flat, but it ends at |z| = 1."""
    return lg.TensorMetric(
        lambda z: torch.where(z.square().sum(-1)[..., None, None] < 1, torch.eye(2, dtype=z.dtype), torch.nan), dim=2
    )


@pytest.mark.parametrize("kind", ["euclidean", "inverse-metric", "brownian"])
def test_a_walker_that_leaves_is_frozen_inside(kind):
    z = torch.zeros(200, 2, dtype=torch.float64)
    walk = lg.random_walk(disc_metric(), z, n_steps=60, step_size=0.02, kind=kind, random_state=0)
    left = walk.status == lg.WalkStatus.OUTSIDE
    assert 20 < left.sum() < 200
    assert np.array_equal(left, ~walk.finished.numpy())
    assert set(walk.status) == {lg.WalkStatus.OUTSIDE, lg.WalkStatus.FINISHED}
    assert bool((walk.z.square().sum(-1) < 1).all())
    k = int(np.flatnonzero(left)[0])
    stop = int(walk.steps[k])
    assert bool((walk.z[k, stop:] == walk.z[k, stop]).all())
    assert not torch.equal(walk.z[k, stop], walk.z[k, stop - 1])
    # other walkers are where they would be anyway: steps are those of the free walk
    free = lg.random_walk(lg.Euclidean(2), z, n_steps=60, step_size=0.02, kind=kind, random_state=0)
    assert_close(walk.z[walk.finished], free.z[walk.finished])
    assert_close(walk.z[k, : stop + 1], free.z[k, : stop + 1])
    assert bool(free.z[k, stop + 1].square().sum() >= 1)


def test_the_exponential_step_stays_on_a_complete_manifold():
    z = torch.tensor([[0.9, 0.0]], dtype=torch.float64).expand(50, -1)
    walk = lg.random_walk(lg.PoincareBall(2), z, n_steps=5, step_size=0.3, kind=lg.Brownian(step="exponential"),
                          random_state=0)  # fmt: skip
    assert bool(walk.finished.all())
    crude = lg.random_walk(lg.PoincareBall(2), z, n_steps=5, step_size=0.3, random_state=0)
    assert (crude.status == lg.WalkStatus.OUTSIDE).any()


def test_steps_that_are_too_large_are_counted_and_told():
    z = torch.tensor([[1.0, 0.5]], dtype=torch.float64).expand(50, -1)
    with pytest.warns(StepSizeWarning, match="the metric bends more than the step is long.*exponential"):
        crude = lg.random_walk(TORUS.metric, z, n_steps=5, step_size=10.0, random_state=0)
    assert 0 < int(crude.rough.max()) <= 5
    assert int(walk_on()[1].rough.sum()) == 0


def flat_beyond_one():
    """A half-plane of the latent space, z₁ ≥ 1, decodes to a line: G has rank 1 there."""
    return lg.PullbackMetric(lambda z: torch.stack([z[:, 0], z[:, 1] * (1 - z[:, 0]).clamp(min=0)], -1), dim=2)


def test_a_walker_that_meets_a_rank_deficient_metric_is_frozen_before_it():
    z = torch.zeros(100, 2, dtype=torch.float64)
    walk = lg.random_walk(flat_beyond_one(), z, n_steps=100, step_size=0.02, kind="inverse-metric", random_state=0)
    stopped = walk.status == lg.WalkStatus.SINGULAR
    assert stopped.sum() > 5
    assert bool((walk.z[..., :-1, 0] < 1).all())
    with pytest.raises(lg.RankError, match=r"`z` must hold codes .* 100 of 100 cannot: .*rank-deficient"):
        lg.random_walk(flat_beyond_one(), z + 2, n_steps=2, step_size=0.1)


def test_bad_starts_raise_or_have_a_status():
    z = torch.zeros(4, 2, dtype=torch.float64)
    z[1] = torch.nan
    z[2] = 3.0
    options = {"n_steps": 5, "step_size": 1e-3, "random_state": 0}
    with pytest.raises(ValueError, match=r"2 of 4 cannot: .*NaN or infinite.*throw=False"):
        lg.random_walk(disc_metric(), z, **options)
    walk = lg.random_walk(disc_metric(), z, throw=False, **options)
    assert [s.name for s in walk.status] == ["FINISHED", "BAD_START", "BAD_START", "FINISHED"]
    assert walk.steps.tolist() == [5, 0, 0, 5]
    assert_close(walk.z[2], z[2].expand(6, 2))
    nothing = lg.random_walk(disc_metric(), z[1:3], throw=False, **options)
    assert {s.name for s in nothing.status} == {"BAD_START"}
    assert math.isnan(nothing.rms_step)


def test_no_walkers():
    walk = lg.random_walk(TORUS.metric, torch.zeros(0, 2, dtype=torch.float64), n_steps=3, step_size=0.1)
    assert walk.z.shape == (0, 4, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_steps": 0}, ValueError, "`n_steps` must be an integer of at least 1, got 0"),
        ({"n_steps": 2.0}, ValueError, "`n_steps` must be an integer of at least 1, got 2.0"),
        ({"every": -1}, ValueError, "`every` must be an integer of at least 1"),
        ({"step_size": -0.1}, ValueError, "`step_size` must be a positive finite number, got -0.1"),
        ({"step_size": math.nan}, ValueError, "`step_size` must be a positive finite number, got nan"),
        ({"step_size": "small"}, ValueError, "`step_size` must be a positive finite number, got 'small'"),
        ({"kind": "levy"}, ValueError, "`kind` must be one of 'euclidean', 'inverse-metric', 'brownian'"),
        ({"kind": lg.Brownian}, TypeError, "`kind` must be a value such as"),
        ({"kind": 3}, TypeError, "`kind` must be a value such as"),
        ({"random_state": "7"}, TypeError, "`random_state` must be an integer, a torch.Generator or None"),
        ({"z": torch.zeros(3, 3)}, ValueError, "`z` must have 2 latent coordinates"),
        ({"z": torch.zeros(3, 2, dtype=torch.long)}, TypeError, "`z` must be floating point"),
        ({"z": [[0.0, 0.0]]}, TypeError, "`z` must be a torch.Tensor"),
        ({"metric": torch.eye(2)}, TypeError, "`metric` must be a Metric"),
    ],
)
def test_bad_arguments(options, error, message):
    arguments = {"metric": TORUS.metric, "z": torch.zeros(3, 2), "n_steps": 2, "step_size": 0.1, **options}
    with pytest.raises(error, match=message):
        lg.random_walk(arguments.pop("metric"), arguments.pop("z"), **arguments)


def test_kinds_are_values():
    assert as_kind("brownian") == lg.Brownian() == lg.Brownian(step="second-order")
    with pytest.raises(
        ValueError, match="`step` must be one of 'second-order', 'projection', 'exponential', got 'euler'"
    ):
        lg.Brownian(step="euler")
    with pytest.raises(ValueError, match="needs a metric pulled back from a flat space"):
        lg.random_walk(lg.HalfPlane(), torch.ones(1, 2), n_steps=1, step_size=0.1, kind=lg.Brownian(step="projection"))


def test_starts_are_not_edited():
    z = torch.zeros(3, 2, dtype=torch.float64)
    lg.random_walk(TORUS.metric, z, n_steps=2, step_size=0.1)
    assert_close(z, torch.zeros(3, 2, dtype=torch.float64), rtol=0, atol=0)
