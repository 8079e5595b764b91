"""`wrap` and `Decoder`: every kind of decoder gives its values, or is refused with the reason."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import distributions as td
from torch import nn
from torch.testing import assert_close

from latentgeo._calculus import EmbeddingError
from latentgeo.decoders import MLP, Bernoulli, Decoder, Deterministic, Gaussian, MLPEncoder, OutputError, wrap
from latentgeo.decoders.networks import UnknownBuilderError, build, registered

F64 = torch.float64
Z = torch.randn(7, 2, generator=torch.Generator().manual_seed(3), dtype=F64)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def mu(z):
    return torch.stack([z[:, 0], z[:, 1].sin(), z.prod(-1)], -1)


def sigma(z):
    return torch.stack([z[:, 0].cosh(), (z**2).sum(-1) + 1, z[:, 1].exp()], -1)


class Attributed:
    """An output object of attributes, as diffusers has."""

    def __init__(self, sample):
        self.sample = sample


class ModelOutput(OrderedDict):
    """An output object of items, as pythae has."""


class Items:
    """Has items but is no mapping."""

    def __init__(self, **items):
        self.items = items

    def __getitem__(self, key):
        return self.items[key]


Pair = namedtuple("Pair", ["mu", "log_var"])

GAUSSIANS = {
    "tuple": (lambda z: (mu(z), sigma(z)), Gaussian()),
    "list": (lambda z: [mu(z), sigma(z)], Gaussian()),
    "variance": (lambda z: (mu(z), sigma(z) ** 2), Gaussian(scale="var")),
    "log variance": (lambda z: (mu(z), 2 * sigma(z).log()), Gaussian(scale="log_var")),
    "precision": (lambda z: (mu(z), sigma(z) ** -2), Gaussian(scale="precision")),
    "normal": (lambda z: td.Normal(mu(z), sigma(z)), None),
    "independent": (lambda z: td.Independent(td.Normal(mu(z), sigma(z)), 1), "gaussian"),
    "mapping": (lambda z: {"mean": mu(z), "std": sigma(z), "z": z}, Gaussian()),
    "named tuple": (lambda z: Pair(mu(z), 2 * sigma(z).log()), Gaussian(scale="log_var")),
    "unnamed scale": (lambda z: {"reconstruction": mu(z), "scale": sigma(z) ** 2}, Gaussian(scale="var")),
}


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_gaussian_outputs(kind):
    function, likelihood = GAUSSIANS[kind]
    decoder = wrap(_in_float64(function), 2, likelihood)
    got = decoder(Z)
    assert set(got) == {"mean", "std"}
    assert_close(got["mean"], mu(Z))
    assert_close(got["std"], sigma(Z))
    assert_close(decoder.embedding(Z), torch.cat([mu(Z), sigma(Z)], -1))
    assert_close(decoder.mean_embedding(Z), mu(Z))
    assert_close(decoder.std_embedding(Z), sigma(Z))
    assert decoder.fisher_embedding is None
    assert decoder.fisher_coordinates is decoder.expected_embedding


def _in_float64(function):
    """A module with a float64 weight, so that the probe's codes are float64."""

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.unit = nn.Parameter(torch.ones((), dtype=F64))

        def forward(self, z):
            return function(z * self.unit)

    return Wrapped().eval()


TENSORS = {
    "tensor": lambda z: mu(z),
    "one tuple": lambda z: (mu(z),),
    "sample": lambda z: Attributed(mu(z)),
    "namespace": lambda z: SimpleNamespace(sample=mu(z)),
    "pythae": lambda z: ModelOutput(reconstruction=mu(z)),
    "pythae encode and decode": lambda z: ModelOutput(recon_x=mu(z), z=z, loss=None),
    "items": lambda z: Items(reconstruction=mu(z)),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_deterministic_outputs(kind):
    decoder = wrap(TENSORS[kind], 2, "deterministic")
    assert_close(decoder(Z)["mean"], mu(Z))
    assert_close(decoder.embedding(Z), mu(Z))
    assert decoder.std(Z) is None
    assert decoder.std_embedding is None
    assert decoder.fisher_embedding is None


@pytest.mark.parametrize(
    ("function", "likelihood", "name"),
    [
        (lambda z: 5 * mu(z), "bernoulli", "logits"),
        (lambda z: torch.sigmoid(5 * mu(z)), Bernoulli("probs"), "probs"),
        (lambda z: td.Bernoulli(logits=5 * mu(z)), None, "logits"),
        (lambda z: td.Independent(td.Bernoulli(probs=torch.sigmoid(5 * mu(z))), 1), None, "probs"),
        (lambda z: {"logits": 5 * mu(z)}, Bernoulli(), "logits"),
    ],
)
def test_bernoulli_outputs(function, likelihood, name):
    decoder = wrap(function, 2, likelihood)
    assert list(decoder(Z)) == [name]
    assert_close(decoder.mean(Z), torch.sigmoid(5 * mu(Z)))
    assert_close(decoder.embedding(Z), 2 * torch.asin(torch.sigmoid(5 * mu(Z)).sqrt()))
    assert decoder.expected_embedding is None
    assert "FisherRaoMetric" in decoder.missing["expected"]


def test_fixed_sigma():
    decoder = wrap(mu, 2, Gaussian(sigma=0.5))
    assert_close(decoder.std(Z), torch.full((7, 3), 0.5, dtype=F64))
    assert_close(decoder.expected_embedding(Z), mu(Z))
    assert_close(decoder.fisher_embedding(Z), 2 * mu(Z))
    assert decoder.std_embedding is None
    assert decoder.fisher_ambient is None


def test_fisher_ambient_is_the_gaussian_fisher_information():
    decoder = wrap(lambda z: (mu(z), sigma(z)), 2, "gaussian")
    x = decoder.fisher_coordinates(Z)
    diagonal = decoder.fisher_ambient(x)
    # the expectation of minus the Hessian of log p, by autograd: log p is quadratic in x, so three points suffice
    m, s = x.chunk(2, -1)
    want_mean = 1 / s**2
    want_std = 2 / s**2
    assert_close(diagonal, torch.cat([want_mean, want_std], -1))
    p, q = td.Normal(m, s), td.Normal(m + 1e-4, s * (1 + 1e-4))
    step = torch.cat([torch.full_like(m, 1e-4), 1e-4 * s], -1)
    assert_close(2 * td.kl_divergence(p, q).sum(-1), (diagonal * step**2).sum(-1), rtol=1e-3, atol=0)
    assert bool(torch.isfinite(decoder.fisher_ambient(torch.zeros(1, 6))).all())


def test_images_are_flattened_and_their_shape_kept():
    net = nn.Sequential(nn.Linear(2, 24), nn.Unflatten(1, (2, 3, 4)), nn.Conv2d(2, 1, 3, padding=1)).eval()
    decoder = wrap(net, 2, "deterministic")
    assert decoder.data_shape == (1, 3, 4)
    assert decoder.data_dim == 12
    z = torch.randn(5, 6, 2, generator=torch.Generator().manual_seed(0))
    assert decoder(z)["mean"].shape == (5, 6, 12)
    assert_close(decoder.mean(z)[1], net(z[1]).flatten(1))
    assert wrap(lambda z: z.sum(-1), 2, "deterministic").data_shape == (1,)


def test_scales_are_broadcast_to_the_mean():
    decoder = wrap(lambda z: (mu(z), z.norm(dim=-1, keepdim=True) + 1), 2, "gaussian")
    assert_close(decoder.std(Z), (Z.norm(dim=-1, keepdim=True) + 1).expand(7, 3))
    assert_close(wrap(lambda z: (mu(z), torch.ones(())), 2, "gaussian").std(Z.float()), torch.ones(7, 3))
    with pytest.raises(OutputError, match=r"does not broadcast"):
        wrap(lambda z: (mu(z), z), 2, "gaussian")


def test_decode_is_preferred_and_need_not_be_a_module():
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 3, dtype=F64)

        def decode(self, z):
            return self.net(z)

        def forward(self, x):
            raise RuntimeError("this is the reconstruction, not the decoder")

    vae = VAE().eval()
    for obj in (vae, SimpleNamespace(decode=vae.decode), vae.decode, functools.partial(vae.decode)):
        decoder = wrap(obj, 2, "deterministic")
        assert decoder.module is vae
        assert decoder.dtype == F64
        assert_close(decoder.mean(Z), vae.net(Z))


# --- refusals ---------------------------------------------------------------------------------------------------

REFUSED = {
    "unknown likelihood": (lambda z: mu(z), None, ValueError, "likelihood must be given"),
    "mean alone as learned Gaussian": (lambda z: mu(z), Gaussian(), ValueError, "fit_precision"),
    "pair as deterministic": (lambda z: (mu(z), sigma(z)), Deterministic(), ValueError, "Gaussian"),
    "pair as fixed sigma": (lambda z: (mu(z), sigma(z)), Gaussian(sigma=1.0), ValueError, "fixed sigma"),
    "pair as Bernoulli": (lambda z: (mu(z), sigma(z)), Bernoulli(), ValueError, "takes one tensor"),
    "probabilities outside": (lambda z: 5 * mu(z), Bernoulli("probs"), ValueError, "outside"),
    "negative deviation": (lambda z: (mu(z), mu(z)), Gaussian(), ValueError, "log_var"),
    "contradicting name": (lambda z: {"mu": mu(z), "log_var": mu(z)}, Gaussian(), ValueError, "scale='log_var'"),
    "logits as Gaussian": (lambda z: td.Bernoulli(logits=mu(z)), Gaussian(sigma=1.0), ValueError, "Bernoulli"),
    "sigma of wrong size": (lambda z: mu(z), Gaussian(sigma=(1.0, 2.0)), ValueError, "3 entries"),
    "triple": (lambda z: (mu(z), z, z), "gaussian", OutputError, "3 items"),
    "nothing known": (lambda z: {"z": z}, "gaussian", OutputError, "no key that is understood"),
    "two means": (lambda z: {"mu": mu(z), "recon_x": mu(z)}, "deterministic", OutputError, "both"),
    "two names": (lambda z: {"mu": mu(z), "mean": mu(z)}, "deterministic", OutputError, "both"),
    "array": (lambda z: z.detach().numpy(), "deterministic", OutputError, "ndarray"),
    "none": (lambda z: None, "deterministic", OutputError, "NoneType"),
    "integers": (lambda z: (z > 0).long(), "deterministic", OutputError, "floating"),
    "batch last": (lambda z: torch.cat([mu(z), mu(z)], -1).T, "deterministic", OutputError, "first axis"),
    "no batch": (lambda z: z.sum(), "deterministic", OutputError, "first axis"),
    "gamma": (lambda z: td.Gamma(sigma(z), sigma(z)), None, OutputError, "Gamma"),
    "full covariance": (
        lambda z: td.MultivariateNormal(mu(z), torch.eye(3)),
        None,
        OutputError,
        "not diagonal",
    ),
    "not finite": (lambda z: mu(z) / 0, "deterministic", ValueError, "not finite"),
    "random": (lambda z: mu(z) + torch.rand(len(z), 3), "deterministic", EmbeddingError, "random"),
    "coupled rows": (lambda z: mu(z) - mu(z).mean(0), "deterministic", EmbeddingError, "rows"),
    "a class": (MLP, "deterministic", TypeError, "instance"),
    "not callable": (3, "deterministic", TypeError, "callable"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_say_why(kind):
    function, likelihood, error, says = REFUSED[kind]
    with pytest.raises(error, match=says):
        wrap(function, 2, likelihood)


@pytest.mark.parametrize(
    ("latent_dim", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (None, TypeError)]
)
def test_latent_dim_must_be_a_positive_integer(latent_dim, error):
    with pytest.raises(error, match="latent_dim must be a positive integer"):
        wrap(mu, latent_dim, "deterministic")


def test_wrong_latent_dim_is_noticed():
    with pytest.raises(ValueError, match=r"which is what latent_dim= says: .*shapes cannot be multiplied"):
        wrap(nn.Linear(3, 4).eval(), 2, "deterministic")


def test_probabilities_declared_as_logits_are_doubted():
    net = nn.Sequential(nn.Linear(2, 16), nn.Sigmoid()).eval()
    with pytest.warns(UserWarning, match=r"Bernoulli\(output='probs'\)"):
        wrap(net, 2, "bernoulli")


def test_train_mode_is_left_with_a_warning():
    net = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    with pytest.warns(UserWarning, match=r"train mode; it has been put in eval mode"):
        decoder = wrap(net, 2, "deterministic")
    assert not any(part.training for part in net.modules())
    z = Z.float()
    assert_close(decoder.mean(z), net[0](z))


def test_several_modules_behind_a_function_are_found():
    first, second = nn.Linear(2, 4).eval(), nn.Linear(4, 3).eval()
    decoder = wrap(lambda z: second(first(z).tanh()), 2, "deterministic")
    assert {id(p) for p in decoder.module.parameters()} == {id(p) for m in (first, second) for p in m.parameters()}
    second.train()
    with pytest.warns(UserWarning, match="train mode"):
        wrap(lambda z: second(first(z).tanh()), 2, "deterministic")


# --- context ------------------------------------------------------------------------------------------------------


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 3, dtype=F64)
        self.net = nn.Linear(2, 3, dtype=F64)

    def forward(self, z, label, shift=None):
        out = self.net(z) + self.embed(label)
        return out if shift is None else out + shift


def test_context_is_fixed_and_expanded():
    net = Conditional().eval()
    label, shift = torch.tensor([2]), torch.tensor([[1.0, 2.0, 3.0]], dtype=F64)
    want = net.net(Z) + net.embed.weight[2]
    for context in (label, torch.tensor(2), (label,), {"label": label}):
        assert_close(wrap(net, 2, "deterministic", context=context).mean(Z), want)
    for context in ((label, shift), {"label": label, "shift": shift}):
        decoder = wrap(net, 2, "deterministic", context=context)
        assert_close(decoder.mean(Z), want + shift)
        assert_close(decoder.embedding.jacobian(Z), net.net.weight.expand(7, 3, 2))


@pytest.mark.parametrize(
    ("context", "error", "says"),
    [
        (torch.zeros(3), ValueError, r"context\[None\]"),
        ((torch.zeros(1), torch.zeros(2, 3)), ValueError, r"context\[1\] must hold one row"),
        ({"label": 3}, TypeError, r"context\['label'\] must be a tensor"),
        ("3", TypeError, "context must be"),
    ],
)
def test_bad_context(context, error, says):
    with pytest.raises(error, match=says):
        wrap(Conditional().eval(), 2, "deterministic", context=context)


# --- codes --------------------------------------------------------------------------------------------------------


def test_codes_are_checked():
    decoder = wrap(MLP([2, 8, 5]).eval(), 2, "deterministic")
    with pytest.raises(TypeError, match="float32"):
        decoder(torch.zeros(3, 2, dtype=F64))
    with pytest.raises(TypeError):
        decoder(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(TypeError):
        decoder([[0.0, 0.0]])
    with pytest.raises(ValueError, match="2"):
        decoder(torch.zeros(3, 3))


def test_every_batch_shape():
    decoder = wrap(MLP([2, 8, 5]).eval(), 2, "deterministic")
    z = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    flat = decoder.mean(z.reshape(-1, 2))
    assert_close(decoder.mean(z).reshape(-1, 5), flat)
    assert decoder.mean(z[0, 0]).shape == (5,)
    assert decoder.mean(z[:0]).shape == (0, 3, 5)
    one = wrap(lambda z: torch.cat([z, z**2], -1), 1, "deterministic")
    assert one.mean(torch.ones(4, 1)).shape == (4, 2)


# --- being a frozen value ------------------------------------------------------------------------------------------


def test_frozen_shared_and_picklable():
    decoder = wrap(MLP([2, 8, 5]).eval(), 2, "deterministic")
    assert copy.copy(decoder) is decoder
    assert copy.deepcopy(decoder) is decoder
    with pytest.raises(AttributeError, match="frozen"):
        decoder.latent_dim = 3
    with pytest.raises(AttributeError, match="frozen"):
        del decoder.latent_dim
    again = pickle.loads(pickle.dumps(decoder))
    z = Z.float()
    assert_close(again.embedding.jacobian(z), decoder.embedding.jacobian(z))
    assert again.module is not decoder.module
    assert "\n" not in repr(decoder)
    assert repr(decoder) == "Decoder(2 → 5, Deterministic(), float32 on cpu)"


def test_to_converts_a_copy():
    net = MLP([2, 8, 5]).eval()
    decoder = wrap(net, 2, "deterministic")
    double = decoder.to(F64)
    assert (double.dtype, decoder.dtype) == (F64, torch.float32)
    assert next(net.parameters()).dtype == torch.float32
    assert_close(double.mean(Z), decoder.mean(Z.float()).double(), rtol=1e-5, atol=1e-6)
    assert decoder.to("cpu").device == torch.device("cpu")

    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 3)

        def decode(self, z):
            return self.net(z)

    owner = Owner().eval()
    moved = wrap(owner, 2, "deterministic").to(F64)
    assert moved.mean(Z).dtype == F64
    assert owner.net.weight.dtype == torch.float32
    context = wrap(Conditional().eval(), 2, "deterministic", context=(torch.tensor([1]), torch.ones(1, 3, dtype=F64)))
    single = context.to(torch.float32)
    assert [c.dtype for c in single.context] == [torch.int64, torch.float32]
    assert_close(single.mean(Z.float()).double(), context.mean(Z), rtol=1e-5, atol=1e-6)


def test_to_refuses_what_it_cannot_convert():
    net = nn.Linear(2, 3).eval()
    with pytest.raises(TypeError, match="plain function over a module"):
        wrap(lambda z: net(z), 2, "deterministic").to(F64)
    decoder = wrap(net, 2, "deterministic")
    with pytest.raises(TypeError, match="floating dtype"):
        decoder.to(torch.int64)
    with pytest.raises(TypeError, match="floating dtype or a device"):
        decoder.to(3)


def test_a_decoder_cannot_be_wrapped_again():
    with pytest.raises(TypeError, match="already a Decoder"):
        wrap(wrap(mu, 2, "deterministic"), 2, "deterministic")


def test_saturated_bernoulli_decoder_has_finite_derivatives_in_float32():
    class Saturated(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([200.0, -200.0, 30.0, 1.0]))
            self.kind = kind

        def forward(self, z):
            logits = self.scale * (1 + 0.1 * z.sum(-1, keepdim=True))
            return torch.sigmoid(logits) if self.kind == "probs" else logits

    z = 0.1 * Z.float()
    for kind in ("logits", "probs"):
        decoder = wrap(Saturated(kind).eval(), 2, Bernoulli(kind))
        J = decoder.embedding.jacobian(z)
        H = decoder.embedding.hvp(z, torch.ones(7, 4), torch.ones(7, 2))
        assert bool(torch.isfinite(J).all())
        assert bool(torch.isfinite(H).all())
        assert bool((J[:, 3] != 0).all())


# --- networks -------------------------------------------------------------------------------------------------------


def test_networks_rebuild_themselves():
    for net in (MLP([2, 4, 6], "softplus", "sigmoid", shape=(2, 3)), MLPEncoder([6, 4, 2])):
        name, arguments = registered(net)
        again = build(name, arguments)
        again.load_state_dict(net.state_dict())
        x = torch.ones(3, 2 if isinstance(net, MLP) else 6)
        assert_close(again(x), net(x))
    assert registered(nn.Linear(2, 2)) is None
    assert registered(type("Sub", (MLP,), {})([2, 2])) is None  # a subclass may do something else


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("os.system", {"command": "true"}, UnknownBuilderError),
        ("MLP", {"sizes": [2, 3]}, UnknownBuilderError),
        (None, {}, UnknownBuilderError),
        ("mlp", {"sizes": [2]}, ValueError),
        ("mlp", {"sizes": [2, 0]}, ValueError),
        ("mlp", {"sizes": [2, 1.5]}, ValueError),
        ("mlp", {"sizes": [2, 10**12]}, ValueError),
        ("mlp", {"sizes": [2] * 1000}, ValueError),
        ("mlp", {"sizes": [2, 3], "activation": "eval"}, ValueError),
        ("mlp", {"sizes": [2, 3], "shape": [2, 2]}, ValueError),
        ("mlp", {"size": [2, 3]}, ValueError),
        ("mlp-encoder", {"sizes": [2, 3]}, ValueError),
    ],
)
def test_the_registry_builds_nothing_else(name, arguments, error):
    with pytest.raises(error):
        build(name, arguments)


def test_wrapping_is_silent_when_nothing_is_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(wrap(MLP([2, 8, 5]).eval(), 2, "deterministic"), Decoder)
