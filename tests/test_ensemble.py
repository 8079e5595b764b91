"""`Ensemble`: the mean of the members' metrics, the mixture of their distributions, a decoder like any other."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from models import tiny_model
from torch import nn
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.decoders import MLP

F64 = torch.float64
Z = torch.randn(7, 2, generator=torch.Generator().manual_seed(3), dtype=F64)


def net(seed: int, out: int, dtype: torch.dtype = F64) -> nn.Module:
    torch.manual_seed(seed)
    return MLP([2, 8, out]).eval().to(dtype)


class Halves(nn.Module):
    """(mean, log variance) of a network with twice as many outputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, z):
        return self.inner(z).chunk(2, -1)


def gaussian(n: int = 3) -> lg.Ensemble:
    gauss = lg.Gaussian(scale="log_var")
    return lg.Ensemble([lg.wrap(Halves(net(seed, 8)).eval(), 2, gauss) for seed in range(n)])


def bernoulli(n: int = 3) -> lg.Ensemble:
    return lg.Ensemble([lg.wrap(net(seed, 5), 2, "bernoulli") for seed in range(n)])


@pytest.mark.parametrize(
    ("ensemble", "kind"),
    [(gaussian(), lg.ExpectedMetric), (gaussian(), lg.FisherRaoMetric), (bernoulli(), lg.FisherRaoMetric)],
    ids=["expected", "hyperbolic", "bernoulli"],
)
def test_metric_is_the_mean_of_the_members(ensemble, kind):
    each = torch.stack([kind(member).tensor(Z) for member in ensemble.members])
    assert_close(kind(ensemble).tensor(Z), each.mean(0))
    assert each.std(0).min() > 0  # they do differ


def test_acceleration_is_that_of_the_mean_metric():
    metric = lg.metric(gaussian())
    v = torch.randn(Z.shape, generator=torch.Generator().manual_seed(4), dtype=F64)
    assert_close(metric.acceleration(Z, v), lg.TensorMetric(metric.tensor, dim=2).acceleration(Z, v))


def test_two_terms_add_up_also_where_one_member_has_no_sigma():
    fixed = lg.wrap(net(9, 4), 2, lg.Gaussian(sigma=0.3))
    metric = lg.ExpectedMetric(lg.Ensemble([*gaussian(2).members, fixed]))
    assert_close(metric.mean_tensor(Z) + metric.std_tensor(Z), metric.tensor(Z))


def test_one_member_is_itself():
    (member,) = gaussian(1).members
    one = lg.Ensemble([member])
    assert_close(lg.metric(one).tensor(Z), lg.metric(member).tensor(Z))
    assert_close(one.std(Z), member.std(Z))


def test_moments_and_likelihood_are_the_mixtures():
    ensemble = gaussian()
    x = torch.randn(7, 4, dtype=F64, generator=torch.Generator().manual_seed(5))
    parts = torch.distributions.Independent(
        torch.distributions.Normal(
            torch.stack([m.mean(Z) for m in ensemble.members], 1), torch.stack([m.std(Z) for m in ensemble.members], 1)
        ),
        1,
    )
    weights = torch.distributions.Categorical(torch.ones(7, 3, dtype=F64))
    mixture = torch.distributions.MixtureSameFamily(weights, parts)
    assert_close(ensemble.mean(Z), mixture.mean)
    assert_close(ensemble.std(Z), mixture.stddev)
    assert_close(ensemble.log_prob(Z, x), mixture.log_prob(x))
    assert {name: value.shape for name, value in ensemble(Z).items()} == {"mean": (3, 7, 4), "std": (3, 7, 4)}


def test_disagreement_makes_space_longer():
    """J = ±c on a line: the mean decoder is constant, the members' metric is c²."""
    ensemble = lg.Ensemble([lg.wrap(lambda z, c=c: c * z, 1, "deterministic") for c in (-2.0, 2.0)])
    a, b = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    assert_close(lg.distance(lg.metric(ensemble), a, b), torch.tensor(2.0, dtype=F64))
    assert float(ensemble.mean(b)) == 0
    assert float(ensemble.std(b)) == 2


def test_works_in_a_decoders_place():
    model = tiny_model()
    other = lg.fit_precision(
        lg.wrap(model.decoder.module, 2, "deterministic"),
        model.codes,
        model.decoder.mean(model.codes) + 0.1,
        n_centers=4,
    )
    ensemble = lg.Ensemble([model.decoder, other])
    whole = lg.LatentModel(ensemble, codes=model.codes, labels=model.labels)
    metric = lg.metric(whole)
    path = lg.connect(metric, model.codes[:3], model.codes[3:6])
    assert bool(path.converged.all())
    figure = lg.plot.measure(metric, resolution=8, codes=model.codes)
    assert figure.data
    assert lg.diagnose(whole, n_pairs=2).to_dict().keys() == lg.diagnose(model, n_pairs=2).to_dict().keys()


def test_copies_pickles_moves():
    ensemble = bernoulli()
    assert copy.deepcopy(ensemble) is ensemble
    back = pickle.loads(pickle.dumps(ensemble))
    assert_close(lg.metric(back).tensor(Z), lg.metric(ensemble).tensor(Z))
    single = ensemble.to(torch.float32)
    assert single.dtype == torch.float32
    assert ensemble.dtype == F64
    assert_close(lg.metric(single).tensor(Z.float()).double(), lg.metric(ensemble).tensor(Z), rtol=1e-4, atol=1e-5)
    assert repr(ensemble).startswith("Ensemble(3 × Decoder(2 → 5, Bernoulli")


def test_what_is_refused(tmp_path):
    ensemble = bernoulli()
    for wrong, error, words in (
        ([], ValueError, "at least one decoder"),
        (3, TypeError, "must be decoders.* got int"),
        ([ensemble.members[0], net(0, 5)], TypeError, r"decoders\[1\].* must be a Decoder; got MLP"),
        ([tiny_model()], TypeError, r"its `.decoder`"),
        ([ensemble.members[0], lg.wrap(net(0, 6), 2, "bernoulli")], ValueError, r"shape of data of the first, \(5,\)"),
        ([ensemble.members[0], lg.wrap(net(0, 5), 2, "deterministic")], ValueError, "likelihood of the first"),
        ([ensemble.members[0], ensemble.members[1].to(torch.float32)], ValueError, "dtype of the first"),
    ):
        with pytest.raises(error, match=words):
            lg.Ensemble(wrong)
    with pytest.raises(ValueError, match="members of the ensemble one by one"):
        lg.save(ensemble, tmp_path / "a.safetensors")
    with pytest.raises(TypeError, match="fit its members"):
        lg.fit_precision(ensemble, Z, torch.rand(7, 5, dtype=F64))
    with pytest.raises(ValueError, match="FisherRaoMetric"):
        lg.ExpectedMetric(ensemble)
    with pytest.raises(AttributeError, match="frozen"):
        ensemble.members = ()
