"""Flows: inverses, exact densities, derivatives, the torus, and what a flow is to the rest of the toolkit."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.decoders import FlowEncoder, FlowNetwork
from latentgeo.decoders.flows import FLOW_KINDS, wrap_angle
from latentgeo.train import Flow, FlowDensity, TrainData
from latentgeo.train.flow import FlowLearner, gaussian_log_prob

# What rounding and quadrature leave: CNF is integrated in steps, UNAF by 20-point quadrature.
TOLERANCE = {"cnf": 1e-5, "unaf": 1e-5}


def network(kind: str, dim: int = 2, seed: int = 0, **more) -> FlowNetwork:
    """A small flow in float64, its weights made larger so that it is far from the identity."""
    torch.manual_seed(seed)
    flow = FlowNetwork(kind, dim, **{"transforms": 2, "hidden": (16,), **more}).double().eval()
    with torch.no_grad():
        for weight in flow.parameters():
            weight.mul_(1.5)
        if not flow.periodic:
            flow.loc.copy_(torch.linspace(-1, 1, dim))
            flow.scale.copy_(torch.linspace(0.5, 2, dim))
    return flow.requires_grad_(False)


def codes(flow: FlowNetwork, n: int = 20, seed: int = 1) -> torch.Tensor:
    return flow.base_sample(n, torch.Generator().manual_seed(seed))


def gap(flow: FlowNetwork, a: torch.Tensor, b: torch.Tensor) -> float:
    difference = wrap_angle(a - b) if flow.periodic else a - b
    return float(difference.abs().max())


CASES = [(kind, dim) for kind in FLOW_KINDS for dim in (1, 2, 3) if (kind, dim) != ("coupling", 1)]


@pytest.mark.parametrize(("kind", "dim"), CASES)
def test_both_directions_undo_each_other(kind, dim):
    flow = network(kind, dim)
    z = codes(flow)
    x = flow.points(z)
    assert gap(flow, x, z) > 0.1  # not the identity
    assert gap(flow, flow.normalise(x), z) < TOLERANCE.get(kind, 1e-9)
    assert gap(flow, flow.points(flow.normalise(x)), x) < TOLERANCE.get(kind, 1e-9)


@pytest.mark.parametrize(("kind", "dim"), CASES)
def test_densities_agree_with_numeric_jacobians(kind, dim):
    flow = network(kind, dim)
    x = flow.points(codes(flow))
    h = 3e-7
    columns = [(flow.normalise(x + h * e) - flow.normalise(x - h * e)) / (2 * h) for e in torch.eye(dim).double()]
    if flow.periodic:
        columns = [wrap_angle(c * 2 * h) / (2 * h) for c in columns]
    change = torch.linalg.slogdet(torch.stack(columns, -1))[1]
    expected = flow.base_log_prob(flow.normalise(x)) + change
    assert_close(flow.log_prob(x), expected, rtol=0, atol=max(1e-6, TOLERANCE.get(kind, 0)))


@pytest.mark.parametrize("kind", FLOW_KINDS)
def test_densities_integrate_to_one(kind):
    flow = network(kind)
    n = {"unaf": 80, "cnf": 150, "nsf": 300, "circular": 300}.get(kind, 1000)
    if flow.periodic:
        axis = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * math.pi / n) - math.pi
        grid = torch.cartesian_prod(axis, axis)
        area = (2 * math.pi / n) ** 2
    else:
        x = flow.points(codes(flow, 1000))
        low, high = x.amin(0), x.amax(0)
        margin = high - low
        low, high = low - margin, high + margin
        u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        grid = low + (high - low) * torch.cartesian_prod(u, u)
        area = float(((high - low) / n).prod())
    total = sum(float(flow.log_prob(part).exp().sum()) for part in grid.split(20_000)) * area
    assert total == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("kind", FLOW_KINDS)
def test_rows_do_not_see_each_other(kind):
    flow = network(kind)
    x = flow.points(codes(flow, 5))
    together = flow.log_prob(x)
    assert_close(together, torch.cat([flow.log_prob(row[None]) for row in x]), rtol=1e-12, atol=1e-12)
    z = codes(flow, 5)
    assert_close(flow.points(z), torch.cat([flow.points(row[None]) for row in z]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [k for k in FLOW_KINDS if k != "circular"])
def test_the_decoders_derivatives_are_those_of_the_inverse(kind):
    """J of the generator is the inverse of J of the other direction; the probe accepts it, second order too."""
    flow = network(kind)
    decoder = lg.wrap(flow, 2, "deterministic")
    z = codes(flow, 4)
    J = decoder.embedding.jacobian(z)
    x = flow.points(z)
    back = torch.stack([torch.autograd.functional.jacobian(flow.normalise, row[None])[0, :, 0] for row in x])
    assert_close(J @ back, torch.eye(2).double().expand(4, 2, 2), rtol=0, atol=TOLERANCE.get(kind, 1e-9))
    report = decoder.embedding.probe(z)
    assert report.first in ("forward", "reverse")
    assert "differences" not in report.second


def test_the_root_of_a_monotone_network_has_a_right_second_derivative():
    flow = network("unaf", 1)
    z = codes(flow, 6)

    def slope(z):
        z = z.clone().requires_grad_()
        return torch.autograd.grad(flow.points(z).sum(), z, create_graph=True)[0], z

    first, at = slope(z)
    (second,) = torch.autograd.grad(first.sum(), at)
    h = 1e-4
    numeric = (slope(z + h)[0] - slope(z - h)[0]).detach() / (2 * h)
    assert_close(second, numeric, rtol=1e-4, atol=1e-5)


def test_a_flow_decoder_is_flat_so_its_distances_are_known():
    """As many codes as data: the pullback of flat space through a bijection is flat, geodesics are straight in data."""
    flow = network("coupling")
    metric = lg.metric(lg.wrap(flow, 2, "deterministic"))
    a, b = codes(flow, 6, 3), codes(flow, 6, 4)
    path = lg.connect(metric, a, b, solver=lg.Newton(rtol=1e-6))
    straight = (flow.points(a) - flow.points(b)).norm(dim=1)
    assert_close(path.length, straight, rtol=1e-5, atol=1e-8)
    middle = flow.points(path(torch.tensor([0.5], dtype=torch.float64))[:, 0])
    assert_close(middle, (flow.points(a) + flow.points(b)) / 2, rtol=0, atol=1e-3)


def test_the_measure_element_is_the_change_of_density():
    """Log det of the generator's J is log N(z) − log p(x)."""
    flow = network("maf")
    metric = lg.metric(lg.wrap(flow, 2, "deterministic"))
    z = codes(flow, 10)
    assert_close(metric.log_volume(z), flow.base_log_prob(z) - flow.log_prob(flow.points(z)), rtol=0, atol=1e-8)


def test_densities_on_the_torus_do_not_jump_where_angles_wrap():
    flow = network("circular")
    edge, other = torch.full((50,), math.pi).double(), torch.linspace(-3, 3, 50).double()
    for x in (torch.stack([edge, other], 1), torch.stack([other, edge], 1)):
        e = 1e-9 * (x == math.pi)
        assert_close(flow.log_prob(x - e), flow.log_prob(x - 2 * math.pi * (x == math.pi) + e), rtol=0, atol=1e-6)
    x = torch.stack([other, other.flip(0)], 1)
    assert_close(flow.log_prob(x), flow.log_prob(x + 2 * math.pi), rtol=0, atol=1e-9)


def test_embedded_angles_decode_without_a_jump():
    flow = network("circular", embed=True)
    decoder = lg.wrap(flow, 2, "deterministic")
    assert decoder.data_dim == 4
    z = codes(flow, 8)
    assert_close(flow(z), flow(z + 2 * math.pi), rtol=0, atol=1e-9)
    assert gap(flow, FlowEncoder.of(flow)(flow(z)), z) < 1e-9
    metric = lg.PullbackMetric(decoder.embedding, dim=2, period=(2 * math.pi,) * 2)
    assert metric.log_volume(z).isfinite().all()


def data_of(x: torch.Tensor, held: torch.Tensor) -> lg.train.TrainData:
    return lg.train.TrainData(x, x[:10], "toy", held)


def moons(n: int, seed: int) -> torch.Tensor:
    """Two crescents: far from any normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    t = math.pi * torch.rand(n, generator=generator)
    upper = torch.rand(n, generator=generator) < 0.5
    x = torch.where(upper, t.cos(), 1 - t.cos())
    y = torch.where(upper, t.sin(), 0.5 - t.sin())
    return torch.stack([x, y], 1) + 0.1 * torch.randn(n, 2, generator=generator)


def trained(recipe: Flow, x: torch.Tensor, steps: int, learning_rate: float, seed: int = 0) -> FlowLearner:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    learner = recipe.learner(data_of(x, x), generator)
    optimizers = learner.optimizers(learning_rate, steps)
    for k in range(steps):
        optimizers[0].param_groups[0]["lr"] = learning_rate * learner.rate(k / steps)
        rows = torch.randint(len(x), (256,), generator=generator)
        learner.training_step(x[rows], k / steps, optimizers, generator)
    return learner


def test_a_flow_learns_what_a_normal_distribution_cannot():
    x, held = moons(4000, 0), moons(2000, 1)
    learner = trained(Flow("nsf", transforms=2, hidden=(32,)), x, 200, 1e-2)
    model = learner.finish(data_of(x, held), torch.Generator())
    scores = model.metadata["scores"]
    assert scores["log_likelihood"] > scores["log_likelihood_gaussian"] + 0.3
    assert scores["log_likelihood_gaussian"] == pytest.approx(float(gaussian_log_prob(x, held).mean()))
    assert_close(model.encode(held), learner.network.normalise(held).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in FLOW_KINDS if k != "circular"])
def test_every_kind_learns_crescents(kind):
    x, held = moons(8000, 0), moons(4000, 1)
    learner = trained(Flow(kind, transforms=1 if kind == "cnf" else 4, hidden=(64, 64)), x, 800, 5e-3)
    with torch.no_grad():
        own = float(learner.network.eval().log_prob(held).mean())
    assert own > float(gaussian_log_prob(x, held).mean()) + 0.4


def wrapped(n: int, seed: int) -> torch.Tensor:
    """A wrapped normal distribution of two angles that depend on each other, centred where they wrap."""
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(n, 2, generator=generator)
    return wrap_angle(torch.stack([math.pi + 0.5 * e[:, 0], math.pi + 0.5 * e[:, 0] + 0.3 * e[:, 1]], 1))


def test_a_torus_flow_learns_wrapped_data():
    x, held = wrapped(4000, 0), wrapped(4000, 1)
    learner = trained(Flow("circular", transforms=3, hidden=(32,)), x, 300, 1e-2)
    with torch.no_grad():
        own = float(learner.network.eval().log_prob(held).mean())
    exact = -math.log(0.5) - math.log(0.3) - math.log(2 * math.pi) - 1  # the chance to wrap right round is nil
    assert own == pytest.approx(exact, abs=0.1)
    flat = float(gaussian_log_prob(x, held).mean())  # of the angles as numbers
    assert own > flat + 1.0


def test_gaussian_log_prob_is_the_fitted_normals():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 3) + 1
    fitted = torch.distributions.MultivariateNormal(x.double().mean(0), torch.cov(x.double().T, correction=0))
    assert_close(gaussian_log_prob(x, x[:50]), fitted.log_prob(x[:50].double()), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="hyperplane"):
        gaussian_log_prob(torch.ones(5, 2), torch.ones(5, 2))


def test_densities_are_kept_in_files(tmp_path):
    density = FlowDensity(network("nsf").float())
    path = tmp_path / "prior.safetensors"
    density.save(path)
    again = FlowDensity.load(path)
    x = density.sample(30, random_state=0)
    assert torch.equal(again(x), density(x))
    assert torch.equal(again.sample(30, random_state=0), x)
    model = lg.load(path)
    assert isinstance(model.encoder, FlowEncoder)
    assert_close(model.decoder.mean(model.encode(x)), x, rtol=0, atol=1e-4)
    torus = FlowDensity(network("circular").float())
    torus.save(path)
    assert FlowDensity.load(path).period == (2 * math.pi, 2 * math.pi)
    with pytest.raises(lg.CheckpointError, match="not a flow"):
        FlowDensity.load("checkpoints/digits-2d.safetensors")


def test_langevin_walks_sample_a_flow():
    flow = network("coupling")
    density = FlowDensity(flow)
    start = density.sample(400, random_state=0)
    walk = lg.langevin(lg.Euclidean(2), density, start, n_steps=40, step_size=0.2, random_state=0)
    assert walk.acceptance.mean() > 0.3
    fresh = density.sample(4000, random_state=1)
    assert_close(walk.z[:, -1].mean(0), fresh.mean(0), rtol=0, atol=0.25)
    assert_close(walk.z[:, -1].std(0), fresh.std(0), rtol=0.15, atol=0)


def test_samples_have_the_density():
    """The mean log-density of samples is minus the entropy: that of the base, and the mean log det J."""
    density = FlowDensity(network("maf"))
    x = density.sample(20_000, random_state=0)
    z = codes(density.network, 20_000, 7)
    metric = lg.metric(density.model)
    entropy = math.log(2 * math.pi) + 1 + float(metric.log_volume(z).mean())
    assert float(density(x).mean()) == pytest.approx(-entropy, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transforms": 0}, "transforms must be an integer from 1"),
        ({"hidden": ()}, "hidden must be 1 to"),
        ({"bins": 1}, "bins must be"),
        ({"steps": 0}, "steps must be"),
    ],
)
def test_a_recipe_is_checked_when_it_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        Flow("nsf", **options)


def test_one_datum_held_out_has_no_standard_error():
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    data = TrainData(x, x, held_out=x[:1] + 0.1)
    model = Flow("maf", transforms=1, hidden=(4,)).learner(data, torch.Generator()).finish(data, torch.Generator())
    assert "log_likelihood_sem" not in model.metadata["scores"]


def test_what_is_wrong_is_said():
    density = FlowDensity(network("nsf"))
    with pytest.raises(TypeError, match=r"x must be torch\.float64"):
        density(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"x must be a tensor of shape \(\*batch, 2\)"):
        density(torch.zeros(2, 3).double())
    with pytest.raises(AttributeError, match="frozen"):
        density.dim = 3
    with pytest.raises(TypeError, match="source must be"):
        FlowDensity(lg.load("checkpoints/digits-2d.safetensors"))
    assert density.to(torch.float32)(torch.zeros(2, 2)).dtype == torch.float32
    with pytest.raises(ValueError, match="transform must be one of"):
        Flow("glow")
    with pytest.raises(ValueError, match=r"every coordinate must vary.*\[1\]"):
        network("maf").standardise(torch.tensor([[1.0, 2.0], [3.0, 2.0]]).double())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "maf", "dim": 10**9}, "dim must be an integer from 1"),
        ({"kind": "maf", "dim": 2, "transforms": 10**6}, "transforms must be an integer"),
        ({"kind": "maf", "dim": 2, "hidden": [10**9]}, "hidden must be 1 to"),
        ({"kind": "maf", "dim": 1024, "hidden": [2048] * 8, "transforms": 32}, "hidden and transforms are too large"),
        ({"kind": "nsf", "dim": 1024, "bins": 64}, "dim and bins are too large"),
        ({"kind": "coupling", "dim": 1}, "dim must be at least 2"),
        ({"kind": "maf", "dim": 2, "embed": True}, "embed must be a bool"),
        ({"kind": "os.system", "dim": 2}, "kind must be one of"),
    ],
)
def test_hostile_headers_cost_nothing(arguments, message):
    from latentgeo.decoders.networks import build

    with pytest.raises(ValueError, match=message):
        build("flow", arguments)


def test_without_zuko_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "latentgeo.decoders._zuko", raising=False)
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.setitem(sys.modules, "zuko.flows.continuous", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'latentgeo\[train\]'"):
        FlowNetwork("maf", 2)


def test_the_shipped_prior_beats_normal_distributions_on_the_codes_it_is_for():
    model = lg.load("checkpoints/mnist-2d.safetensors")
    prior = lg.load("checkpoints/mnist-2d-flow.safetensors")
    density = FlowDensity(prior)
    with torch.no_grad():
        own = float(density(model.codes).double().mean())
    assert own > float(gaussian_log_prob(model.codes, model.codes).mean()) + 0.08  # fitted to these very 2,000 codes
    scores = prior.metadata["scores"]
    assert scores["scored"] == 10_000
    assert scores["log_likelihood"] > scores["log_likelihood_gaussian"] + 0.1
    assert scores["log_likelihood"] > scores["log_likelihood_standard_normal"] + 0.1
    assert abs(own - scores["log_likelihood"]) < 4 * scores["log_likelihood_sem"] * math.sqrt(5)
    assert_close(prior.decoder.mean(prior.codes), model.codes, rtol=0, atol=1e-3)


def test_the_command_line_fits_a_prior_to_a_checkpoints_codes(tmp_path):
    from typer.testing import CliRunner

    from latentgeo._cli.app import app

    out = tmp_path / "prior.safetensors"
    words = ["train", "flow", "--data", "checkpoints/digits-2d.safetensors", "--out", str(out), "--epochs", "1"]
    result = CliRunner().invoke(app, [*words, "--transform", "maf", "--transforms", "1", "--hidden", "8"])
    assert result.exit_code == 0, result.output
    assert "log likelihood gaussian" in result.output
    assert FlowDensity.load(out).metadata["dataset"] == "codes of checkpoints/digits-2d.safetensors"
    wrong = CliRunner().invoke(app, [*words, "--hidden", "0"])
    assert wrong.exit_code == 2
    assert "--hidden must be positive integers" in wrong.output
