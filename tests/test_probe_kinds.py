"""Every kind of decoder works, with right derivatives, or is refused for a reason that no library could mend.

References are differences of the decoder's values, extrapolated from steps of their own; nothing of the package's
derivative code is used for them.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import warnings

import pytest
import torch
from decoder_kinds import KINDS, Kind
from problems import normal
from torch import nn
from torch.testing import assert_close

import latentgeo as lg
from latentgeo._calculus import DerivativeWarning, Embedding, EmbeddingError

FIRST, SECOND = 1e-6, 1e-5  # relative errors allowed
D = 2
Z = 0.8 * normal(5, D, seed=11)
WORKING = [name for name, kind in KINDS.items() if kind.refused is None]
REFUSED = [name for name, kind in KINDS.items() if kind.refused is not None]


@dataclasses.dataclass(frozen=True)
class Reference:
    """Jacobian (B, D, d) and second derivatives (B, D, d, d) of a function at Z."""

    J: torch.Tensor
    H: torch.Tensor


def limit(quotient, ratio=2.0, start=0.04, levels=14):
    """Extrapolated limit of a difference quotient with even error; per row, from the steps that agree best."""
    best = error = None
    table = []
    for level in range(levels):
        row = [quotient(start / ratio**level)]
        for k in range(min(level, 3)):
            row.append(row[k] + (row[k] - table[k]) / (ratio ** (2 * k + 2) - 1))
        if table:
            gap = torch.maximum((row[-1] - row[-2]).abs(), (row[-1] - table[-1]).abs()).flatten(1).amax(1)
            better = gap < error if error is not None else torch.ones_like(gap, dtype=torch.bool)
            mask = better.reshape(-1, *(1,) * (row[-1].ndim - 1))
            best = row[-1] if best is None else torch.where(mask, row[-1], best)
            error = gap if error is None else torch.where(better, gap, error)
        table = row
    return best


@torch.no_grad()
def reference(f) -> Reference:
    e = torch.eye(D, dtype=Z.dtype)
    J = torch.stack([limit(lambda h, v=v: (f(Z + h * v) - f(Z - h * v)) / (2 * h)) for v in e], -1)
    H = torch.zeros(*J.shape, D, dtype=Z.dtype)
    for i, j in itertools.product(range(D), repeat=2):
        u, v = e[i], e[j]
        H[..., i, j] = limit(
            lambda h, u=u, v=v: (
                (f(Z + h * (u + v)) - f(Z + h * (u - v)) - f(Z - h * (u - v)) + f(Z - h * (u + v))) / (4 * h * h)
            )
        )
    return Reference(J, H)


@dataclasses.dataclass(frozen=True)
class Case:
    decoder: lg.Decoder
    phi: Embedding
    ref: Reference


def build(kind: Kind) -> Case:
    """The decoder as a user would wrap it, and the reference for the same function."""
    made = kind.make()
    if kind.warns is None:
        decoder = lg.wrap(made, D, "deterministic")
    else:
        with pytest.warns(UserWarning, match=kind.warns):
            decoder = lg.wrap(made, D, "deterministic")
    if decoder.dtype == torch.float32:  # half precision: its float32 copy, compared in float64
        decoder = decoder.to(torch.float64)
    function = copy.deepcopy(made).double() if isinstance(made, nn.Module) and kind.name == "half precision" else made
    phi = decoder.embedding
    if decoder.dtype is None:  # a plain function is probed in the default dtype first
        phi = Embedding(phi.function, dim=D, name=kind.name)
        decoder = None
    return Case(decoder, phi, reference(lambda z: function(z.clone()).detach().flatten(1)))


@pytest.fixture(scope="module")
def case():
    cache = {}

    def get(name: str) -> Case:
        if name not in cache:
            cache[name] = build(KINDS[name])
        return cache[name]

    return get


@pytest.fixture(autouse=True)
def _approximate_paths_may_say_so():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DerivativeWarning)
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")  # checkpoint's own
        yield


def relative(got, want, floor=0.0):
    return float((got.detach() - want).abs().amax() / want.abs().amax().clamp_min(floor))


by_kind = pytest.mark.parametrize("name", WORKING)


@by_kind
def test_first_derivatives(name, case):
    phi, J = case(name).phi, case(name).ref.J
    v, w = normal(5, D, seed=1), normal(5, J.shape[1], seed=2)
    assert relative(phi.jacobian(Z), J) < FIRST
    assert relative(phi.jvp(Z, v), torch.einsum("bDi,bi->bD", J, v)) < FIRST
    assert relative(phi.vjp(Z, w), torch.einsum("bDi,bD->bi", J, w)) < FIRST


@by_kind
def test_second_derivatives(name, case):
    phi, ref = case(name).phi, case(name).ref
    floor = float(ref.J.abs().amax())  # of a piecewise linear decoder they are zero
    u, v, w = normal(5, D, seed=1), normal(5, D, seed=3), normal(5, ref.J.shape[1], seed=2)
    assert relative(phi.second(Z, u, v), torch.einsum("bDij,bi,bj->bD", ref.H, u, v), floor) < SECOND
    assert relative(phi.hvp(Z, w, v), torch.einsum("bDij,bD,bj->bi", ref.H, w, v), floor) < SECOND
    assert relative(phi.hessian(Z, w), torch.einsum("bDij,bD->bij", ref.H, w), floor) < SECOND


@by_kind
def test_backward_through_the_metric(name, case):
    phi, ref = case(name).phi, case(name).ref
    metric = lg.PullbackMetric(phi)
    G = ref.J.mT @ ref.J
    half = torch.einsum("bDki,bDj->bkij", ref.H, ref.J)
    dG = half + half.mT
    L = normal(5, D, D, seed=4)
    floor = float(G.abs().amax())
    z = Z.clone().requires_grad_()
    (got,) = torch.autograd.grad((metric.tensor(z) * L).sum(), z)
    assert relative(got, torch.einsum("bkij,bij->bk", dG, L), floor) < SECOND
    (got,) = torch.autograd.grad(metric.log_volume(z).sum(), z)
    want = 0.5 * torch.einsum("bij,bkji->bk", torch.linalg.inv(G), dG)
    condition = float(torch.linalg.cond(G).amax())
    assert relative(got, want, 1.0) < SECOND * max(1.0, condition / 100)


@by_kind
def test_kinks_are_noticed_and_nothing_else(name, case):
    assert case(name).phi.probe(Z).smooth is KINDS[name].smooth


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name):
    with pytest.raises(EmbeddingError, match=KINDS[name].refused):
        lg.wrap(KINDS[name].make(), D, "deterministic")


def test_there_are_enough_kinds_and_few_refusals():
    assert len(WORKING) >= 25
    assert len(REFUSED) <= 5


class Counted:
    def __init__(self, function):
        self.function, self.calls, self.rows = function, 0, 0

    def __call__(self, z):
        self.calls += 1
        self.rows += z.shape[0]
        return self.function(z)


@by_kind
def test_probing_is_cheap(name):
    made = KINDS[name].make()
    if isinstance(made, nn.Module):
        made = made.double().eval()
    counted = Counted(made)
    Embedding(lambda z: counted(z).flatten(1), dim=D).probe()
    assert counted.calls < 100
    assert counted.rows < 100 * 32  # a few rows each


@pytest.mark.parametrize(
    "name",
    ["LayerNorm", "GroupNorm", "MultiheadAttention", "scaled_dot_product_attention", "GRU", "LSTM", "ReLU"],
)
def test_common_layers_have_exact_paths(name, case):
    report = case(name).phi.probe(Z)
    assert report.first == "forward"
    assert report.hessian == "forward over reverse"
    assert report.second == "triple reverse"


def test_attention_has_exact_paths_without_gradients_of_weights():
    """Frozen weights and no_grad are what switches fused kernels on."""
    net = KINDS["TransformerEncoderLayer"].make().requires_grad_(False)
    phi = Embedding(net, dim=D, module=net)
    with torch.no_grad():
        J = phi.jacobian(Z)
    assert relative(J, reference(net).J) < FIRST
    assert phi.report.plain
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("name", ["RBF on cdist", "custom, once differentiable", "LayerNorm"])
def test_backward_to_the_weights(name):
    """Also where the second derivatives that it needs are differences."""
    net = KINDS[name].make()
    lg.PullbackMetric(net, dim=D).log_volume(Z).sum().backward()
    for weight in [p for p in net.parameters() if p.grad is not None]:
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype)

        def value(h, weight=weight, direction=direction):
            with torch.no_grad():
                weight += h * direction
                out = lg.PullbackMetric(net, dim=D).log_volume(Z).sum()
                weight -= h * direction
            return out.detach()

        slope = (8 * (value(1e-3) - value(-1e-3)) - (value(2e-3) - value(-2e-3))) / 12e-3
        assert_close((weight.grad * direction).sum(), slope, rtol=1e-6, atol=1e-7)


def in_single(made):
    return made.float() if isinstance(made, nn.Module) else made


@pytest.mark.parametrize("name", [n for n in WORKING if KINDS[n].warns is None and n != "internal cancellation"])
def test_single_precision_takes_the_same_paths(name, case):
    made = in_single(KINDS[name].make())
    phi = Embedding(lambda z: made(z).flatten(1), dim=D)
    report, double = phi.probe(Z.float()), case(name).phi.probe(Z)
    assert report.smooth is KINDS[name].smooth
    J = case(name).ref.J
    assert relative(phi.jacobian(Z.float()).double(), J) < 2e-3
    # a tenth of a percent is finer than single precision can tell; the fused LSTM of float32 has no forward mode
    if name not in ("custom, backward wrong by 0.1 %", "LSTM"):
        assert (report.first, report.hessian, report.second) == (double.first, double.hessian, double.second)


def test_the_callers_codes_are_left_alone():
    decoder = lg.wrap(KINDS["in-place operations"].make(), D, "deterministic")
    z = Z.clone()
    decoder(z)
    decoder.embedding(z)
    lg.metric(decoder).tensor(z)
    assert torch.equal(z, Z)


# --- half precision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_that_cannot_be_copied_names_the_cast(dtype):
    net = nn.Linear(2, 3).to(dtype).eval()
    with pytest.raises(TypeError, match=r"`\.float\(\)`"):
        lg.wrap(lambda z: net(z), D, "deterministic")
    with pytest.raises(TypeError, match=r"cast it with `\.float\(\)`"):
        lg.PullbackMetric(net, dim=D).tensor(Z)
    with pytest.raises(TypeError, match="float32 or float64"):
        lg.wrap(nn.Linear(2, 3).eval(), D, "deterministic").to(dtype)


def test_half_precision_weights_are_left_as_they_were():
    net = KINDS["half precision"].make()
    with pytest.warns(UserWarning, match="float32 copy"):
        decoder = lg.wrap(net, D, "deterministic")
    assert decoder.dtype == torch.float32
    assert next(net.parameters()).dtype == torch.float16


def test_parts_in_train_mode_are_noticed():
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5)).double().eval()
    net[1].train()
    with pytest.warns(UserWarning, match="train mode"):
        Embedding(net, dim=D, module=net).probe()
    assert not net[1].training


def test_batches_of_any_size_are_asked_for():
    net = nn.Linear(2, 3).double()
    with pytest.raises(EmbeddingError, match="works on a batch of 4 codes but not of 1"):
        Embedding(lambda z: net(z).reshape(4, 3), dim=D).probe()
    with pytest.raises(EmbeddingError, match=r"must map \(1, 2\)"):
        Embedding(lambda z: net(z).squeeze(), dim=D).probe()


# --- steps that adapt ---------------------------------------------------------------------------------------------

SCALES = {
    "tiny codes": (lambda z: torch.sin(z / 1e-3), 1e-3),
    "huge codes": (lambda z: torch.sin(z / 1e4), 1e4),
    "huge codes, fine features": (lambda z: torch.sin(z), 1e4),
    "steep": (lambda z: 1e8 * torch.tanh(z), 1.0),
    "flat": (lambda z: 1e-8 * torch.tanh(z), 1.0),
    "on a pedestal": (lambda z: 1e6 + torch.tanh(z), 1.0),
    "spike": (lambda z: torch.exp(-(((z - 0.3) / 1e-2) ** 2)) + z, 1.0),
}


@pytest.mark.parametrize("derivatives", [True, False])
@pytest.mark.parametrize("kind", SCALES)
def test_badly_scaled_functions(kind, derivatives):
    function, scale = SCALES[kind]
    z = 0.3 + 0.02 * Z if kind == "spike" else scale * Z
    phi = Embedding(function if derivatives else lambda z: function(z.detach()), dim=D)
    x = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    v = torch.ones_like(z)
    size = 1e2 if kind == "on a pedestal" and not derivatives else 1.0  # its round-off is a millionth of its slope
    assert relative(phi.jvp(z, v), slope.detach()) < FIRST * size
    assert relative(phi.second(z, v, v), bend) < (SECOND if derivatives else 1e-3) * size
    if (
        derivatives or kind != "huge codes, fine features"
    ):  # differences do not look that close; they err to the safe side
        assert phi.report.smooth
    if derivatives:
        assert phi.report.first == "forward"


# --- kinks -----------------------------------------------------------------------------------------------------------


def mlp(activation, width, depth, scale, seed, dtype):
    torch.manual_seed(seed)
    layers = [nn.Linear(2, width), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), activation()]
    net = nn.Sequential(*layers, nn.Linear(width, 30)).to(dtype).eval()
    with torch.no_grad():
        for p in net.parameters():
            p *= scale
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("width", "depth"), [(16, 1), (64, 2), (256, 3)])
def test_kinks_of_many_networks(width, depth, dtype):
    sharp = lambda: nn.Softplus(beta=20)  # noqa: E731
    for seed, scale in itertools.product(range(3), (1.0, 3.0)):
        codes = normal(20, 2, seed=seed).to(dtype)
        for activation in (nn.ReLU, nn.LeakyReLU, nn.Hardtanh):
            assert not Embedding(mlp(activation, width, depth, scale, seed, dtype), dim=2).probe(codes).smooth
        for activation in (nn.ELU, nn.Tanh, nn.SiLU, sharp):
            assert Embedding(mlp(activation, width, depth, scale, seed, dtype), dim=2).probe(codes).smooth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_kinks_do_not_send_exact_derivatives_away(dtype):
    """So many kinks that differences see curvature, where the second derivative is zero almost everywhere."""
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(512, 512), nn.ReLU())]
    net = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), *layers, nn.Linear(512, 4000)).to(dtype).eval()
    with torch.no_grad():
        for p in net.parameters():
            p *= 2
    report = Embedding(net, dim=2).probe(normal(20, 2).to(dtype))
    assert report.hessian == "forward over reverse"
    assert not report.smooth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mnist-2d", "digits-2d"])
def test_shipped_models_are_smooth(name, dtype):
    model = lg.load(f"checkpoints/{name}.safetensors")
    decoder = model.decoder.to(dtype)
    for seed in range(5):
        index = torch.randint(len(model.codes), (300,), generator=torch.Generator().manual_seed(seed))
        codes = model.codes[index].to(dtype) + (seed > 2) * normal(300, 2, seed=seed).to(dtype)
        for phi in (decoder.expected_embedding, decoder.std_embedding):
            assert Embedding(phi.function, dim=2).probe(codes).smooth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("activation", "smooth"), [("relu", False), ("tanh", True)])
def test_kinks_of_the_mean_are_seen_beside_a_sharp_deviation(activation, smooth, dtype):
    torch.manual_seed(0)
    net = lg.decoders.MLP([2, 64, 64, 50], activation=activation, output="sigmoid").to(dtype).eval()
    codes = normal(300, 2).to(dtype)
    decoder = lg.wrap(net, 2, "deterministic")
    with torch.no_grad():
        data = decoder.mean(codes) + 0.05 * normal(300, 50, seed=1).to(dtype)
    decoder = lg.fit_precision(decoder, codes, data, n_centers=32, random_state=0)
    assert decoder.embedding.probe(codes).smooth is smooth
