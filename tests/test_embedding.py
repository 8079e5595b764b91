"""`Embedding`: derivatives against finite differences and autograd, the probe's choices and refusals, memory."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from problems import normal
from torch import nn
from torch.testing import assert_close

from latentgeo._calculus import Embedding, EmbeddingError
from latentgeo._calculus import paths as P
from latentgeo.metrics import PullbackMetric


def network(*middle: nn.Module, d: int = 2, D: int = 20, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 16), *middle, nn.Linear(16, D)).double().eval()


SMOOTH = {
    "tanh": network(nn.Tanh()),
    "layer norm": network(nn.Tanh(), nn.LayerNorm(16)),
    "group norm": network(nn.Tanh(), nn.GroupNorm(4, 16)),
    "batch norm, eval": network(nn.BatchNorm1d(16), nn.SiLU()),
}
by_network = pytest.mark.parametrize("net", SMOOTH.values(), ids=SMOOTH)
INNER = {"rtol": 1e-6, "atol": 1e-8}


def central(f, h=1e-6):
    return (f(h) - f(-h)) / (2 * h)


@by_network
def test_first_derivatives(net):
    phi = Embedding(net, dim=2, module=net)
    z, v, w = normal(5, 2), normal(5, 2, seed=1), normal(5, 20, seed=2)
    Jv = central(lambda h: net(z + h * v)).detach()
    assert_close(phi.jvp(z, v).detach(), Jv, **INNER)
    assert_close(torch.einsum("bDd,bd->bD", phi.jacobian(z), v).detach(), Jv, **INNER)
    assert_close((phi.vjp(z, w) * v).sum(-1).detach(), (w * Jv).sum(-1), **INNER)
    assert phi.report.first == "forward"


@by_network
def test_second_derivatives(net):
    phi = Embedding(net, dim=2, module=net)
    z, u, v, w = normal(5, 2), normal(5, 2, seed=1), normal(5, 2, seed=3), normal(5, 20, seed=2)
    bend = central(lambda h: phi.vjp(z + h * v, w).detach())
    assert_close(phi.hvp(z, w, v).detach(), bend, rtol=1e-5, atol=1e-7)
    assert_close(torch.einsum("bij,bj->bi", phi.hessian(z, w), v).detach(), bend, rtol=1e-5, atol=1e-7)
    twice = central(lambda h: phi.jvp(z + h * u, v).detach())
    assert_close(phi.second(z, u, v).detach(), twice, rtol=1e-5, atol=1e-7)
    assert phi.report.hessian == "forward over reverse"


@by_network
def test_backward_through_tensor_and_log_volume_is_exact(net):
    """Plain backward through a forward-mode Jacobian is silently wrong for normalisation layers."""
    metric = PullbackMetric(net, dim=2)
    z = normal(4, 2).requires_grad_()
    L = normal(4, 2, 2, seed=7)
    (got,) = torch.autograd.grad((metric.tensor(z) * L).sum(), z)
    rows = torch.func.vmap(torch.func.jacrev(lambda x: net(x[None])[0]))  # reverse over reverse, independent of ours

    def by_reverse(x):
        J = rows(x)
        return ((J.mT @ J) * L).sum()

    x = z.detach().requires_grad_()
    (want,) = torch.autograd.grad(by_reverse(x), x)
    assert_close(got, want, rtol=1e-8, atol=1e-10)
    (got,) = torch.autograd.grad(metric.log_volume(z).sum(), z)
    y = z.detach().requires_grad_()
    J = rows(y)
    (want,) = torch.autograd.grad(0.5 * torch.logdet(J.mT @ J).sum(), y)
    assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_backward_to_the_weights():
    net = network(nn.Tanh(), nn.LayerNorm(16))
    z = normal(3, 2)
    PullbackMetric(net, dim=2).log_volume(z).sum().backward()
    weight = net[0].weight

    def value(h):
        with torch.no_grad():
            weight[2, 1] += h
            out = PullbackMetric(net, dim=2).log_volume(z).sum()
            weight[2, 1] -= h
        return out

    assert_close(weight.grad[2, 1], central(value, 1e-5).detach(), rtol=1e-6, atol=1e-9)


def test_gradcheck_of_jacobian_products():
    net = SMOOTH["layer norm"]
    phi = Embedding(net, dim=2, module=net)
    z, v = normal(3, 2).requires_grad_(), normal(3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(phi.jvp, (z, v))
    assert torch.autograd.gradcheck(phi.jacobian, (z,))


@pytest.mark.parametrize("name", ["hvp", "hessian", "second", "vjp"])
def test_what_is_not_differentiable_says_so(name):
    net = SMOOTH["tanh"]
    phi = Embedding(net, dim=2, module=net)
    z, v, w = normal(3, 2).requires_grad_(), normal(3, 2), normal(3, 20)
    args = {"hvp": (z, w, v), "hessian": (z, w), "second": (z, v, v), "vjp": (z, w)}[name]
    with pytest.raises(NotImplementedError, match=f"`{name}` is not differentiable"):
        getattr(phi, name)(*args).sum().backward()


class TestPaths:
    """Every path computes the same derivatives; the probe only chooses between right ones."""

    net = SMOOTH["tanh"]
    z, V, W = normal(4, 2), normal(3, 4, 2, seed=1), normal(3, 4, 20, seed=2)

    @pytest.mark.parametrize("name", P.FIRST)
    def test_first(self, name):
        want = P.double_backward(self.net, self.z, self.V)
        assert_close(P.FIRST[name](self.net, self.z, self.V).detach(), want, **INNER)

    @pytest.mark.parametrize("name", P.PULLBACK)
    def test_pullback(self, name):
        assert_close(P.PULLBACK[name](self.net, self.z, self.W).detach(), P.reverse(self.net, self.z, self.W), **INNER)

    @pytest.mark.parametrize("name", P.HESSIAN)
    def test_hessian(self, name):
        want = P.reverse_over_reverse(self.net, self.z, self.W, self.V)
        assert_close(P.HESSIAN[name](self.net, self.z, self.W, self.V).detach(), want, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", P.SECOND)
    def test_second(self, name):
        want = P.triple_reverse(self.net, self.z, self.V[0], self.V[1])
        assert_close(P.SECOND[name](self.net, self.z, self.V[0], self.V[1]).detach(), want, rtol=1e-4, atol=1e-5)


class TestProbe:
    def test_forward_mode_formula_that_is_wrong_is_not_used(self):
        """A function whose forward-mode derivative is 10 % off: the probe falls back to reverse mode."""

        class Cube(torch.autograd.Function):
            @staticmethod
            def forward(x):
                return x**3

            @staticmethod
            def setup_context(ctx, inputs, output):
                ctx.save_for_backward(*inputs)
                ctx.save_for_forward(*inputs)

            @staticmethod
            def backward(ctx, g):
                return 3 * ctx.saved_tensors[0] ** 2 * g

            @staticmethod
            def jvp(ctx, t):
                return 3.3 * ctx.saved_tensors[0] ** 2 * t

            @staticmethod
            def vmap(info, dims, x):
                return Cube.apply(x), dims[0]

        phi = Embedding(Cube.apply, dim=2)
        z = normal(3, 2)
        assert_close(phi.jacobian(z), torch.diag_embed(3 * z**2), rtol=1e-9, atol=1e-12)
        assert phi.report.first == "double backward"
        assert any("differs from" in reason for reason in phi.report.rejected)

    def test_function_without_derivatives_falls_back_to_differences_and_says_so(self):
        phi = Embedding(lambda z: torch.as_tensor(z.detach().numpy() ** 3), dim=2)
        z = normal(3, 2)
        with pytest.warns(UserWarning, match="finite differences"):
            J = phi.jacobian(z)
        assert_close(J, torch.diag_embed(3 * z**2), rtol=1e-6, atol=1e-6)

    def test_inference_mode_decorator(self):
        net = network(nn.Tanh())
        phi = Embedding(torch.inference_mode()(net.forward), dim=2)
        with pytest.warns(UserWarning, match="finite differences"):
            J = phi.jacobian(normal(3, 2))
        want = Embedding(net, dim=2).jacobian(normal(3, 2)).detach()
        assert_close(J, want, rtol=1e-6, atol=1e-6)

    def test_random_functions_are_refused(self):
        with pytest.raises(EmbeddingError, match="phi: is random"):
            Embedding(lambda z: z + torch.randn_like(z), dim=2).jacobian(normal(3, 2))

    def test_coupled_rows_are_refused(self):
        with pytest.raises(EmbeddingError, match="couples the rows of a batch"):
            Embedding(lambda z: z - z.mean(0), dim=2).jacobian(normal(3, 2))

    def test_train_mode_is_left_and_said(self):
        net = network(nn.BatchNorm1d(16), nn.Dropout(0.5)).train()
        with pytest.warns(UserWarning, match="put in eval mode"):
            J = Embedding(net, dim=2, module=net).jacobian(normal(5, 2))
        assert not net.training
        assert bool(J.isfinite().all())

    @pytest.mark.parametrize(
        ("function", "words"),
        [
            (lambda z: z.sum(), "must map"),
            (lambda z: z[:, :, None], "must map"),
            (lambda z: (z, z), "must return a tensor of shape"),
            (lambda z: z.float(), "must keep the dtype"),
            (lambda z: z / 0, "NaN or infinite"),
        ],
    )
    def test_bad_functions(self, function, words):
        with pytest.raises(EmbeddingError, match=words):
            Embedding(function, dim=2).jacobian(normal(3, 2))

    def test_piecewise_linear_maps_are_recognised(self):
        assert Embedding(network(nn.ReLU()), dim=2).probe().smooth is False
        assert Embedding(network(nn.LeakyReLU(), nn.Linear(16, 16).double(), nn.ReLU()), dim=2).probe().smooth is False
        for net in SMOOTH.values():
            assert Embedding(net, dim=2).probe().smooth is True

    def test_is_cheap(self):
        rows = 0

        def count(z):
            nonlocal rows
            rows += 1
            return z**2

        Embedding(count, dim=2).probe()
        assert rows <= 100

    def test_runs_once(self):
        calls = 0

        def count(z):
            nonlocal calls
            calls += 1
            return z**2

        phi = Embedding(count, dim=2)
        phi.probe()
        before = calls
        phi.jacobian(normal(3, 2))
        phi.jacobian(normal(3, 2))
        assert calls - before == 2

    def test_repr_tells_the_paths(self):
        phi = Embedding(lambda z: z**2, dim=2, name="square")
        assert repr(phi) == "Embedding(square: R^2 -> R^?, not probed yet)"
        phi.probe()
        assert repr(phi) == "Embedding(square: R^2 -> R^2, first: forward, second: forward over reverse)"


class TestBatching:
    def test_chunks_do_not_change_results(self):
        net = SMOOTH["layer norm"]
        whole, parts = Embedding(net, dim=2, module=net), Embedding(net, dim=2, module=net, max_bytes=20_000)
        z, w = normal(300, 2), normal(300, 20, seed=1)
        assert len(list(parts.chunks(z, 6))) == 1  # not probed: nothing is known yet
        for phi in (whole, parts):
            phi.probe()
        assert len(list(parts.chunks(z, 6))) > 3
        assert_close(parts.jacobian(z), whole.jacobian(z), rtol=1e-12, atol=1e-14)
        assert_close(parts.hessian(z, w), whole.hessian(z, w), rtol=1e-12, atol=1e-14)
        assert_close(parts.vjp(z, w), whole.vjp(z, w), rtol=1e-12, atol=1e-14)
        with torch.no_grad():
            assert_close(parts(z), whole(z), rtol=1e-12, atol=1e-14)

    def test_large_weights_are_given_large_batches(self):
        large = torch.nn.Linear(2, 2_000_000)  # 24 MB
        assert Embedding(large, dim=2, module=large).max_bytes == 6 * 24_000_000
        assert Embedding(large, dim=2, module=large, max_bytes=1000).max_bytes == 1000
        small = SMOOTH["layer norm"]
        assert Embedding(small, dim=2, module=small).max_bytes == Embedding(torch.sin).max_bytes == 2**26

    def test_expanded_codes_and_vectors(self):
        phi = Embedding(SMOOTH["layer norm"], dim=2)
        z, v, w = normal(1, 2), normal(5, 2, seed=1), normal(5, 20, seed=2)
        many = z.expand(5, 2)
        assert_close(phi.jvp(z, v), phi.jvp(z.repeat(5, 1), v), rtol=1e-12, atol=0)
        assert_close(phi.jvp(many, v[:1].expand(5, 2)), phi.jvp(z, v[:1]).repeat(5, 1), rtol=1e-12, atol=0)
        assert_close(phi.hvp(many, w, v), phi.hvp(z.repeat(5, 1), w, v), rtol=1e-12, atol=0)
        assert_close(phi.second(many, v, v[:1]), phi.second(z.repeat(5, 1), v, v[:1].repeat(5, 1)), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,), (0, 4)])
    def test_shapes(self, shape):
        phi = Embedding(SMOOTH["tanh"], dim=2)
        phi.probe()
        z = normal(*shape, 2)
        assert phi(z).shape == (*shape, 20)
        assert phi.jacobian(z).shape == (*shape, 20, 2)
        assert phi.jvp(z, z).shape == (*shape, 20)
        assert phi.vjp(z, normal(*shape, 20)).shape == (*shape, 2)
        assert phi.hvp(z, normal(*shape, 20), z).shape == (*shape, 2)
        assert phi.hessian(z, normal(*shape, 20)).shape == (*shape, 2, 2)
        assert phi.second(z, z, z).shape == (*shape, 20)

    def test_empty_batch_before_the_probe(self):
        phi = Embedding(SMOOTH["tanh"], dim=2)
        assert phi.jacobian(normal(0, 2)).shape == (0, 20, 2)

    def test_the_callers_tensors_are_left_alone(self):
        phi = Embedding(SMOOTH["tanh"], dim=2)
        z = normal(4, 2)
        before = z.clone()
        phi.hessian(z, normal(4, 20))
        phi.jacobian(z)
        assert torch.equal(z, before)
        assert not z.requires_grad


def test_identity_and_pickling():
    net = SMOOTH["tanh"]
    phi = Embedding(net, dim=2, module=net)
    assert copy.deepcopy(phi) is phi
    assert copy.copy(phi) is phi
    again = pickle.loads(pickle.dumps(phi))
    assert_close(again.jacobian(normal(2, 2)), phi.jacobian(normal(2, 2)))
    with pytest.raises(AttributeError, match="frozen"):
        phi.dim = 3


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"function": 3}, TypeError, "`function` must be callable"),
        ({"function": abs, "dim": 0}, ValueError, "`dim` must be an integer of at least 1 or None, got 0"),
        ({"function": abs, "dim": "two"}, ValueError, "`dim` must be an integer"),
        ({"function": abs, "max_bytes": 0}, ValueError, "`max_bytes` must be an integer of at least 1 or None, got 0"),
    ],
)
def test_bad_arguments(kwargs, error, words):
    with pytest.raises(error, match=words):
        Embedding(**kwargs)


def test_probing_an_unknown_dimension_needs_codes():
    with pytest.raises(ValueError, match="`z` must be given"):
        Embedding(lambda z: z).probe()


def test_bends_are_jacobian_and_second_derivatives():
    phi = Embedding(lambda z: torch.stack([z[..., 0] * z[..., 1], z[..., 0].sin(), z[..., 1].exp()], -1))
    z, v = torch.tensor([[0.3, -0.2], [1.0, 0.5]]).double(), torch.tensor([[1.0, 2.0], [0.5, -1.0]]).double()
    U = torch.stack([v, torch.tensor([[0.0, 1.0], [1.0, 1.0]]).double()])
    J, bends = phi.bends(z, v, U)
    assert_close(J, phi.pushforward_basis(z), rtol=1e-14, atol=1e-14)
    for u, bend in zip(U, bends, strict=True):
        x, y = z.unbind(-1)
        cross = v[:, 0] * u[:, 1] + v[:, 1] * u[:, 0]
        exact = torch.stack([cross, -x.sin() * v[:, 0] * u[:, 0], y.exp() * v[:, 1] * u[:, 1]], -1)
        assert_close(bend, exact, rtol=1e-13, atol=1e-14)
