"""The health report: every advice by a model that deserves it, and the shipped models deserve none of the severe."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run
from models import tiny_model
from problems import TORUS
from torch import nn

import latentgeo as lg
from latentgeo import plot
from latentgeo._diagnose import Finding, Severity
from latentgeo._diagnose.findings import NOTES, SEVERE
from latentgeo.decoders import MLP
from latentgeo.decoders.precision import RBFPrecision
from latentgeo.metrics import PullbackMetric, TensorMetric

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
QUICK = {"n_codes": 100, "n_pairs": 1, "progress": False}


@cache
def shipped(name="digits-2d"):
    return lg.load(CHECKPOINTS / f"{name}.safetensors")


def examine(model, codes=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what there is to say, the report says
        return lg.diagnose(model, codes, **{**QUICK, **options})


class Changed(nn.Module):
    """The shipped decoder's mean behind a linear map of the latent space; with its own σ, or another."""

    def __init__(self, change=None, precision="own", model=None):
        super().__init__()
        decoder = (model or shipped()).decoder
        self.mean = decoder.module
        self.precision = decoder.precision if precision == "own" else precision
        self.register_buffer("change", torch.eye(2) if change is None else torch.tensor(change))

    def forward(self, z):
        mean = self.mean(z @ self.change).flatten(1)
        return mean if self.precision is None else (mean, self.precision.std(z))


def wrapped(change=None, precision="own", likelihood="gaussian"):
    return lg.wrap(Changed(change, precision).eval(), latent_dim=2, likelihood=likelihood)


# --- the shipped models, and what can go wrong with them ------------------------------------------------------------


SLOW = [("digits-2d", 1), ("digits-2d", 2), ("mnist-2d", 0), ("mnist-2d", 1)]


@pytest.mark.parametrize(
    ("name", "seed"), [("digits-2d", 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_shipped_models_are_healthy(name, seed):
    report = lg.diagnose(shipped(name), n_pairs=8 if name == "digits-2d" else 24, random_state=seed)
    assert report.severe == ()
    assert set(report.advice) <= {lg.Advice.NEARLY_FLAT}  # says something of a few pairs
    assert report.sigma.growth > 50
    assert 0.6 < report.sigma.edge_ratio < 1.3
    assert report.geodesics.converged == 1
    assert 0.1 < report.sigma.share < 0.6


def test_without_sigma():
    for decoder in (
        wrapped(precision=None, likelihood="deterministic"),
        wrapped(precision=None, likelihood=lg.Gaussian(sigma=0.1)),
    ):
        report = examine(decoder, shipped().codes)
        assert report.severe == (lg.Advice.SIGMA_DOES_NOT_GROW,)
        assert report.sigma.varies is False
        assert "fit a precision network" in " ".join(str(report).split())


class LearnedSigma(nn.Module):
    """A standard deviation from a network, as most trained models have it."""

    def __init__(self, sigma):
        super().__init__()
        self.mean = shipped().decoder.module
        self.sigma = sigma

    def forward(self, z):
        mean = self.mean(z).flatten(1)
        return mean, self.sigma(z).expand_as(mean)


def test_sigma_that_does_not_grow():
    for sigma in (
        lambda z: 0.1 + 0.02 * torch.sigmoid(z[:, :1]),
        lambda z: 0.1 + 0 * z[:, :1],
        lambda z: 0.3 * torch.exp(-0.1 * z.square().sum(-1, keepdim=True)),
    ):
        decoder = lg.wrap(LearnedSigma(sigma).eval(), latent_dim=2, likelihood="gaussian")
        assert examine(decoder, shipped().codes).severe == (lg.Advice.SIGMA_DOES_NOT_GROW,)


def test_sigma_that_grows_to_one_side_only():
    decoder = lg.wrap(LearnedSigma(lambda z: 0.1 * torch.exp(z[:, :1])).eval(), 2, "gaussian")
    report = examine(decoder, shipped().codes)
    assert report.sigma.growth_low < 1.5
    found = lg.Advice.SIGMA_DOES_NOT_GROW if report.sigma.growth < 1.5 else lg.Advice.SIGMA_GROWS_UNEVENLY
    assert found in report.advice


@pytest.mark.parametrize("axis", [0, 1])
def test_collapsed_latent_as_training_leaves_it(axis):
    """Posterior collapse: the mean does not look at a coordinate, and codes hardly spread along it."""
    keep = torch.eye(2)
    keep[axis, axis] = 0
    codes = shipped().codes.clone()
    codes[:, axis] *= 0.02
    report = examine(wrapped(keep.tolist()), codes)
    assert report.severe == (lg.Advice.LATENT_COLLAPSED,)
    assert report.latent.unused == (f"z{axis + 1}",)


def test_collapsed_latent_of_sampled_codes():
    """The codes spread over the coordinate that the mean does not look at."""
    report = examine(wrapped([[1.0, 0.0], [0.0, 0.0]]), shipped().codes)
    assert report.severe == (lg.Advice.LATENT_COLLAPSED,)
    assert report.latent.unused == ("z2",)


def test_collapsed_codes_of_a_decoder_that_could():
    codes = shipped().codes * torch.tensor([1.0, 0.015])
    report = examine(shipped().decoder, codes)
    assert report.severe == (lg.Advice.LATENT_COLLAPSED,)
    askew = codes @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    report = examine(shipped().decoder, askew)
    assert report.severe == (lg.Advice.LATENT_COLLAPSED,)
    assert report.latent.unused[0].count("z") == 2


@pytest.mark.parametrize("change", [[[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]], [[0.6, -0.2], [0.3, -0.1]]])
def test_rank_deficient_decoder(change):
    report = examine(wrapped(change), shipped().codes)
    assert report.severe == (lg.Advice.RANK_DEFICIENT,)
    assert (report.tensor.rank, report.tensor.full_rank) == (1, 0.0)


def test_rank_deficient_without_sigma_is_both():
    report = examine(wrapped([[1.0, 0.0], [1.0, 0.0]], None, "deterministic"), shipped().codes)
    assert set(report.severe) == {lg.Advice.RANK_DEFICIENT, lg.Advice.SIGMA_DOES_NOT_GROW}
    assert report.curvature is None


def test_rank_deficient_in_double_precision():
    decoder = wrapped([[0.6, -0.2], [0.3, -0.1]]).to(torch.float64)
    assert examine(decoder, shipped().codes).severe == (lg.Advice.RANK_DEFICIENT,)


@pytest.mark.parametrize("part", ["whole", "a layer"])
def test_train_mode(part):
    model = pickle.loads(pickle.dumps(shipped()))
    assert examine(model).severe == ()
    layers = list(model.decoder.module.modules())
    target = layers[0] if part == "whole" else layers[-1]
    target.train()
    before = [layer.training for layer in layers]
    report = examine(model)
    assert report.severe == (lg.Advice.TRAIN_MODE,)
    assert [layer.training for layer in layers] == before  # a report changes nothing


def test_train_mode_of_a_metric():
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 5))
    report = examine(PullbackMetric(net, dim=2), shipped().codes)
    assert report.severe == (lg.Advice.TRAIN_MODE,)
    assert net.training


def saturating(factor):
    own = shipped().decoder.precision
    return RBFPrecision(own.centers, own.bandwidths * factor, own.weights, own.floor)


def test_sigma_that_saturates_among_the_codes():
    report = examine(wrapped(precision=saturating(200.0)), shipped().codes)
    assert report.severe == (lg.Advice.SIGMA_SATURATES,)
    assert report.sigma.saturated > 0.2
    # and of a fitted decoder, whose bound is known
    decoder = shipped().decoder
    decoder = decoder._rebuild(decoder._core.replace(precision=saturating(200.0)), None)
    report = examine(decoder, shipped().codes)
    assert report.severe == (lg.Advice.SIGMA_SATURATES,)
    assert report.sigma.bound == pytest.approx(1e-3**-0.5, rel=1e-6)


def test_precision_fitted_with_too_small_a_bandwidth():
    model, data = shipped(), torch.as_tensor(lg.datasets.load_digits().data).float().reshape(1797, -1)
    mean = lg.wrap(model.decoder.module, 2, "deterministic")
    for bandwidth, severe in ((1.0, ()), (0.2, (lg.Advice.SIGMA_SATURATES,))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of its edge ratio
            fitted = lg.fit_precision(mean, model.codes, data, bandwidth=bandwidth, random_state=0)
        assert examine(fitted, model.codes).severe == severe


def test_sigma_that_is_at_its_bound_everywhere():
    decoder = shipped().decoder
    decoder = decoder._rebuild(decoder._core.replace(precision=saturating(1e6)), None)
    assert examine(decoder, shipped().codes).severe == (lg.Advice.SIGMA_SATURATES,)


def test_metric_that_is_not_finite():
    codes = 0.6 * shipped().codes
    report = examine(lg.PoincareBall(2), codes)
    assert report.severe == (lg.Advice.NOT_FINITE,)
    inside = float((codes.norm(dim=-1) < 1).double().mean())
    assert abs(report.tensor.finite - inside) < 0.1


# --- warnings and notes ---------------------------------------------------------------------------------------------


def test_sigma_that_dominates_and_sigma_that_is_weak():
    own = shipped().decoder.precision
    loud = RBFPrecision(own.centers, own.bandwidths, own.weights / 400, own.floor / 400)
    report = examine(wrapped(precision=loud), shipped().codes)
    assert lg.Advice.SIGMA_DOMINATES in report.advice
    assert report.healthy
    assert report.sigma.edge_ratio > 3
    quiet = RBFPrecision(own.centers, own.bandwidths, own.weights * 25, own.floor * 25)
    report = examine(wrapped(precision=quiet), shipped().codes)
    assert lg.Advice.SIGMA_WEAK in report.advice
    assert report.healthy


def test_codes_in_two_parts():
    codes = torch.cat([shipped().codes, shipped().codes + 100])
    report = examine(lg.Euclidean(2), codes)
    assert report.advice == (lg.Advice.GRAPH_DISCONNECTED, lg.Advice.NEARLY_FLAT)
    assert report.graph.components == 2
    assert abs(report.graph.largest - 0.5) < 0.02


def test_nearly_singular_metric():
    report = examine(PullbackMetric(lambda z: z * torch.tensor([1.0, 2e-4]), dim=2), 1.0 * shipped().codes)
    stretched = shipped().codes * torch.tensor([1.0, 1 / 2e-4])
    again = examine(PullbackMetric(lambda z: z * torch.tensor([1.0, 2e-4]), dim=2), stretched)
    assert lg.Advice.LATENT_COLLAPSED in report.severe  # the second coordinate moves nothing
    assert again.severe == ()  # here it does, but G is badly scaled
    assert lg.Advice.ILL_CONDITIONED in again.advice


def test_rank_lost_in_places():
    """A fold along z1 = 0: rank drops only there."""
    codes = shipped().codes.double().clone()
    codes[: len(codes) // 50, 0] = 0
    fold = PullbackMetric(lambda z: torch.stack([z[:, 0] ** 2, z[:, 1], z[:, 0] ** 2 * z[:, 1]], -1), dim=2)
    report = examine(fold, codes, n_codes=10_000)
    assert lg.Advice.RANK_DROPS in report.advice
    assert report.healthy
    assert report.tensor.rank == 1


def test_kinks():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 9)).eval()
    report = examine(PullbackMetric(net, dim=2), shipped().codes)
    assert lg.Advice.KINKS in report.advice
    assert report.curvature is None
    assert report.derivatives.smooth is False


def test_differences():
    def numpy_inside(z):
        return torch.as_tensor(np.tanh(z.detach().numpy() @ np.array([[1.0, 0.3, 0.5], [0.0, 1.0, -0.7]])))

    report = examine(PullbackMetric(numpy_inside, dim=2), shipped().codes.double())
    assert lg.Advice.DERIVATIVES_APPROXIMATE in report.advice
    assert report.healthy


def test_geodesics_that_leave_the_data():
    """A ring of codes under a metric that is cheapest in its middle: straight lines bend inwards."""
    t = torch.linspace(0, 2 * math.pi, 301, dtype=torch.float64)[:-1]
    ring = torch.stack([t.cos(), t.sin()], -1)
    dear = lg.conformal(lg.Euclidean(2), lambda z: 0.3 + 2 * torch.exp(-4 * (1 - z.square().sum(-1)).square()))
    cheap = lg.conformal(lg.Euclidean(2), lambda z: 0.2 + 3 * (1 - z.square().sum(-1)).square())
    report = examine(dear, ring, n_pairs=12)
    assert report.geodesics.near < 0.5
    report = examine(cheap, ring, n_pairs=12)
    assert report.geodesics.near > report.geodesics.near_straight + 0.5
    assert report.geodesics.gain > 1.5
    assert lg.Advice.GEODESICS_LEAVE_DATA not in report.advice


# --- other dimensions, other metrics --------------------------------------------------------------------------------


@cache
def deep(d, D=40):
    net = MLP([d, 32, D], output=None).eval()
    generator = torch.Generator().manual_seed(d)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    codes = torch.randn(300, d, generator=generator)
    decoder = lg.wrap(net, latent_dim=d, likelihood="deterministic")
    with torch.no_grad():
        data = decoder.mean(codes) + 0.05 * torch.randn(300, D, generator=generator)
    return lg.fit_precision(decoder, codes, data, n_centers=16, random_state=0, bandwidth=2.0), codes


@pytest.mark.parametrize("d", [1, 3, 10])
def test_other_dimensions(d):
    report = examine(*deep(d))
    assert report.severe == ()
    assert report.latent.dim == d
    assert len(report.latent.std) == d
    assert report.tensor.rank == d
    assert (report.curvature is None) == (d == 1)
    assert f"all, in {d} of {d} directions" in str(report)


def test_collapsed_coordinates_of_many():
    decoder, codes = deep(10)
    keep = torch.ones(10)
    keep[[3, 7]] = 0
    net = decoder.module
    blind = lg.wrap(lambda z: net(z * keep), latent_dim=10, likelihood="deterministic")
    report = examine(blind, codes)
    assert set(report.severe) == {lg.Advice.LATENT_COLLAPSED, lg.Advice.SIGMA_DOES_NOT_GROW}
    assert report.latent.unused == ("z4", "z8")
    assert report.tensor.full_rank == 1  # in the eight directions that are used


def test_metrics_without_embedding():
    codes = 0.3 * shipped().codes.double()
    for metric in (lg.PoincareBall(2), TensorMetric(lambda z: torch.diag_embed(2 + z.sin()), dim=2)):
        report = examine(metric, codes)
        assert report.healthy
        assert report.sigma is None
        assert report.derivatives.first == "of the tensor"
    assert report.tensor.rank == 2
    assert examine(lg.PoincareBall(2), codes).curvature.median == pytest.approx(-1, abs=1e-9)


def test_a_likelihood_without_sigma():
    """Fisher–Rao: nothing is said about σ."""
    net = MLP([2, 16, 12]).eval()
    report = examine(lg.wrap(net, 2, lg.Bernoulli(output="logits")), shipped().codes)
    assert report.sigma is None
    assert lg.Advice.SIGMA_DOES_NOT_GROW not in report.advice
    assert report.unit == "√nat"


def test_periodic_metric():
    torus = PullbackMetric(TORUS.metric.embedding, dim=2, period=(2 * math.pi, 2 * math.pi))
    assert examine(torus, shipped().codes.double()).healthy


# --- the report itself ----------------------------------------------------------------------------------------------


def test_same_seed_same_report():
    one, two, other = (examine(shipped(), random_state=seed).to_dict() for seed in (3, 3, 4))
    assert one == two
    assert one != other


def test_arrays_and_precisions():
    codes = shipped().codes
    tensor = examine(shipped().decoder, codes).to_dict()
    assert examine(shipped().decoder, codes.double().numpy()).to_dict() == tensor
    assert examine(shipped()).to_dict() == tensor
    whole = examine(lg.Euclidean(2), np.arange(60).reshape(30, 2) % 17)  # integers
    assert whole.healthy


def test_text_and_repr():
    report = examine(shipped())
    assert "\n" not in repr(report)
    assert repr(report).startswith("HealthReport(Decoder(2 → 64")
    text = str(report)
    for expected in (
        "condition number",
        "growth off the data",
        "near codes",
        "radius of curvature",
        "forward over reverse",
    ):
        assert expected in text
    assert max(len(line) for line in text.splitlines()) < 150
    broken = str(examine(wrapped(precision=None, likelihood="deterministic"), shipped().codes))
    assert "severe: SIGMA_DOES_NOT_GROW: the decoder has no σ" in broken


def test_json(tmp_path):
    report = examine(wrapped([[1.0, 0.0], [1.0, 0.0]], None, "deterministic"), shipped().codes)
    path = report.to_json(tmp_path / "new" / "r.json")
    read = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert read == report.to_dict()
    assert read["healthy"] is False
    assert {f["code"] for f in read["findings"] if f["severity"] == "severe"} == {
        "RANK_DEFICIENT",
        "SIGMA_DOES_NOT_GROW",
    }
    assert read["curvature"] is None


def test_html(tmp_path):
    report = examine(wrapped(precision=None, likelihood="deterministic"), shipped().codes)
    text = report.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "SIGMA_DOES_NOT_GROW" in text
    assert "Gauss curvature" in text
    assert 'src="http' not in text
    page = examine(*deep(10)).to_html(tmp_path / "ten.html").read_text(encoding="utf-8")
    assert "Condition number of G" in page
    assert "steps of length" not in page  # no map of ten dimensions


def test_findings_are_named_and_sorted():
    assert set(SEVERE).isdisjoint(NOTES)
    for advice in lg.Advice:
        finding = Finding(advice, "why")
        assert isinstance(finding.severity, Severity)
        assert str(finding).startswith(f"{finding.severity.value}: {advice.name}: why; ")
        assert len(advice.value) > 30
    order = list(Severity)
    shear = PullbackMetric(nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 2)).train(), dim=2)
    report = examine(shear, torch.cat([shipped().codes, shipped().codes + 100]))
    assert len(report.findings) >= 3
    ranks = [order.index(f.severity) for f in report.findings]
    assert ranks == sorted(ranks)


def test_frozen_and_picklable():
    report = examine(shipped())
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.subject = "other"
    assert pickle.loads(pickle.dumps(report)).to_dict() == report.to_dict()


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (None, ValueError, "`codes` must be given, since the model holds none"),
        (torch.zeros(9, 2), ValueError, "at least 10"),
        (torch.zeros(0, 2), ValueError, "at least 10"),
        (torch.zeros(20, 3), ValueError, r"shape \(N, 2\), got \(20, 3\)"),
        (torch.zeros(20), ValueError, r"shape \(N, 2\), got \(20,\)"),
        (torch.zeros(20, 2), ValueError, "must differ"),
        (torch.full((20, 2), torch.nan), ValueError, "20 of 20 rows with NaN"),
        (torch.full((20, 2), torch.inf), ValueError, "must be finite"),
        (np.array([["a", "b"]] * 20), TypeError, "must be numbers"),
        (torch.zeros(20, 2, dtype=torch.complex64), TypeError, "must be real"),
    ],
)
def test_bad_codes(codes, error, message):
    with pytest.raises(error, match=message):
        lg.diagnose(shipped().decoder, codes)


def test_few_codes_of_many_dimensions():
    with pytest.raises(ValueError, match="at least 42 to say anything about a 40-dimensional"):
        lg.diagnose(lg.Euclidean(40), torch.randn(41, 40))
    assert examine(lg.Euclidean(2), shipped().codes[:10]).healthy


def test_duplicates_do_not_matter():
    codes = shipped().codes[:20].repeat(10, 1)
    assert examine(shipped().decoder, codes).geodesics.converged == 1


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Linear(2, 3), TypeError, "wrap a module with latentgeo.wrap"),
        ("digits-2d", TypeError, "must be a LatentModel, a Decoder or a Metric, got str"),
    ],
)
def test_bad_models(model, error, message):
    with pytest.raises(error, match=message):
        lg.diagnose(model, torch.randn(20, 2))


def test_random_decoder_is_refused():
    with pytest.raises(lg.EmbeddingError, match="is random"):
        lg.diagnose(PullbackMetric(lambda z: z + torch.rand_like(z), dim=2), shipped().codes)


@pytest.mark.parametrize("option", ["n_codes", "n_pairs", "n_neighbors"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_bad_options(option, value):
    with pytest.raises(ValueError, match=f"`{option}` must be an integer of at least 1"):
        lg.diagnose(shipped(), **{option: value})


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model = tiny_model()
    lg.save(model, folder / "good.safetensors")
    bare = lg.wrap(model.decoder.module, 2, "deterministic")
    lg.save(lg.LatentModel(bare, codes=model.codes), folder / "bad.safetensors")
    lg.save(lg.LatentModel(bare), folder / "empty.safetensors")
    return folder


def test_command(files, tmp_path):
    result = run("diagnose", files / "good.safetensors", "--pairs", 3, "--json", tmp_path / "r.json")
    assert "HealthReport" in result.stdout
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["healthy"] is True


def test_command_on_an_ill_model(files, tmp_path):
    page = tmp_path / "deep" / "page.html"
    result = run("diagnose", files / "bad.safetensors", "--pairs", 3, "--html", page, code=1)
    assert "severe: SIGMA_DOES_NOT_GROW" in result.stdout
    assert page.stat().st_size > 1e6


def test_command_with_bad_input(files, tmp_path):
    good = files / "good.safetensors"
    assert "holds no codes" in refused("diagnose", files / "empty.safetensors")
    assert "no checkpoint at" in refused("diagnose", tmp_path / "none.safetensors")
    assert "--html must end in" in refused("diagnose", good, "--html", tmp_path / "page.txt")
    assert "--json must end in .json" in refused("diagnose", good, "--json", tmp_path / "r.txt")
    np.save(tmp_path / "few.npy", np.zeros((3, 2)))
    assert "at least 10" in refused("diagnose", good, "--codes", tmp_path / "few.npy")
    assert "--pairs" in refused("diagnose", good, "--pairs", 0)


# --- pictures -------------------------------------------------------------------------------------------------------


def named(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def test_curvature_map():
    figure = plot.curvature(lg.PoincareBall(2), bounds=(-1.2, 1.2, -1, 1), resolution=21)
    heat = figure.data[0]
    square = np.add.outer(np.square(heat.y), np.square(heat.x))
    np.testing.assert_allclose(heat.z[square < 0.99], -1, atol=1e-6)
    assert np.isnan(heat.z[square > 1.01]).all()
    assert (heat.zmid, heat.zmin, heat.zmax) == (0, -heat.zmax, -heat.zmin)
    assert "Gauss curvature" in figure.layout.title.text


def test_curvature_map_has_robust_colours():
    model = shipped()
    figure = plot.curvature(lg.metric(model), codes=model.codes, labels=model.labels, resolution=12)
    K = lg.metric(model).gauss_curvature(model.codes).abs().double()
    assert figure.data[0].zmax == pytest.approx(float(K.quantile(0.9)), rel=1e-3)
    drawn = (t for t in figure.data if t.type == "scatter" and t.customdata is not None)
    assert sum(len(trace.x) for trace in drawn) == len(model.codes)
    narrow = plot.curvature(lg.metric(model), codes=model.codes, resolution=12, limit=3.0)
    assert narrow.data[0].zmax == 3.0
    flat = plot.curvature(lg.Euclidean(2), resolution=5)
    assert flat.data[0].zmax == 1.0


def test_indicatrix_of_the_paraboloid():
    """Each ellipse's points lie at equal length from its centre."""
    metric = PullbackMetric(lambda z: torch.cat([z, z.square().sum(-1, keepdim=True)], -1), dim=2)
    figure = plot.indicatrix(metric, bounds=(-1, 1, -1, 1), resolution=8, ellipses=5, radius=0.1)
    trace = named(figure, "indicatrix")
    there = np.isfinite(trace.x)
    centre, point = trace.customdata[there], np.stack([trace.x, trace.y], -1)[there]
    length = metric.norm(torch.as_tensor(centre), torch.as_tensor(point - centre))
    np.testing.assert_allclose(length, 0.1, rtol=1e-9)
    assert (~there).sum() == 25
    assert not any(t.name == "indicatrix, shrunk" for t in figure.data)


def test_long_ellipses_are_shrunk_in_shape():
    metric = PullbackMetric(lambda z: z * torch.tensor([1.0, 0.1], dtype=z.dtype), dim=2)
    figure = plot.indicatrix(metric, bounds=(-1, 1, -1, 1), resolution=8, ellipses=4, radius=0.1)
    trace = named(figure, "indicatrix, shrunk")
    first = slice(0, 49)
    width, height = np.ptp(trace.x[first]), np.ptp(trace.y[first])
    assert height / width == pytest.approx(10, rel=1e-2)
    assert height <= (trace.customdata[50, 0] - trace.customdata[0, 0])
    assert "shrunk" in figure.data[-1].name


def test_indicatrix_of_a_degenerate_metric():
    """Where the metric is singular there is a stroke, where it does not exist nothing."""
    one = PullbackMetric(lambda z: z.sum(-1, keepdim=True), dim=2)
    figure = plot.indicatrix(one, bounds=(-1, 1, -1, 1), resolution=8, ellipses=3)
    assert np.isfinite(named(figure, "indicatrix, shrunk").x).any()
    outside = plot.indicatrix(lg.PoincareBall(2), bounds=(2, 3, 2, 3), resolution=8, ellipses=3)
    assert not any((t.name or "").startswith("indicatrix") for t in outside.data)


@pytest.mark.parametrize("draw", [plot.curvature, plot.indicatrix])
def test_maps_refuse(draw):
    with pytest.raises(ValueError, match="latent dimension 2"):
        draw(lg.Euclidean(3))
    with pytest.raises(ValueError, match="`codes` must have shape"):
        draw(lg.Euclidean(2), codes=np.zeros((4, 3)))
    with pytest.raises(ValueError, match="`codes` must be finite"):
        draw(lg.Euclidean(2), codes=np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match="`bounds` must be"):
        draw(lg.Euclidean(2), bounds=(1, 0, 0, 1))
    with pytest.raises(ValueError, match="`resolution` must be"):
        draw(lg.Euclidean(2), resolution=1)
    bad = {"limit": -1.0} if draw is plot.curvature else {"radius": 0.0}
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}` must be a positive"):
        draw(lg.Euclidean(2), **bad)
