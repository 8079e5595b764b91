"""Networks of the trainers: shapes, smoothness, the mirror, and headers that name them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import latentgeo as lg
from latentgeo import train
from latentgeo.decoders import MLP, MLPEncoder
from latentgeo.decoders.convolutional import ConvDecoder, ConvEncoder, ConvHead
from latentgeo.decoders.heads import MeanAndStd
from latentgeo.decoders.networks import build, registered

NETWORKS = {
    "dense": train.Dense((16, 8)),
    "lenet": train.LeNet(width=2),
    "resnet": train.ResNet(width=2),
    "resnet, group norm": train.ResNet(width=8, norm="group", blocks=1),
}
SHAPES = [(8, 8), (28, 28), (3, 9, 14)]


@pytest.fixture(params=sorted(NETWORKS))
def network(request):
    return NETWORKS[request.param]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_directions_fit_any_shape_and_latent_size(network, shape):
    torch.manual_seed(0)
    x = torch.rand(5, *shape)
    for latent_dim in (1, 7):
        encoder, decoder = network.encoder(shape, latent_dim).eval(), network.decoder(latent_dim, shape).eval()
        mean, std = encoder(x)
        assert mean.shape == std.shape == (5, latent_dim)
        assert bool((std > 0).all())
        assert_close(encoder(x.flatten(1))[0], mean)  # flat rows are the same data
        assert decoder(torch.randn(4, latent_dim)).shape == (4, *shape)
    assert network.head(shape, 10)(x).shape == (5, 10)


def test_output_activations(network):
    torch.manual_seed(0)
    z = 10 * torch.randn(50, 2)
    bounded = network.decoder(2, (8, 8), "sigmoid").eval()(z)
    assert bool(((bounded >= 0) & (bounded <= 1)).all())
    assert bool((network.decoder(2, (8, 8), "softplus").eval()(z) >= 0).all())


def test_decoders_are_smooth_and_certified_by_the_probe(network):
    torch.manual_seed(0)
    decoder = lg.wrap(network.decoder(2, (8, 8)).eval(), 2, lg.Gaussian(sigma=0.1))
    embedding = decoder.expected_embedding
    assert "forward" in repr(embedding)
    z, v = torch.randn(3, 2), torch.randn(3, 2)
    metric = lg.ExpectedMetric(decoder.to(torch.float64))
    acceleration = metric.acceleration(z.double(), v.double())
    assert bool((acceleration.norm(dim=-1) > 1e-8).all())  # a piecewise linear network would have none


def test_a_checkpoint_rebuilds_them(network, tmp_path):
    torch.manual_seed(0)
    encoder, decoder = network.encoder((9, 12), 3).eval(), network.decoder(3, (9, 12)).eval()
    model = lg.LatentModel(lg.wrap(decoder, 3, "deterministic"), encoder, codes=torch.randn(4, 3))
    lg.save(model, tmp_path / "m.safetensors")
    again = lg.load(tmp_path / "m.safetensors")
    z, x = torch.randn(6, 3), torch.rand(6, 9, 12)
    assert torch.equal(again.decoder(z)["mean"], model.decoder(z)["mean"])
    assert torch.equal(again.encode(x), model.encode(x))
    for module in (encoder, decoder, network.head((9, 12), 4)):
        if (known := registered(module)) is not None:
            name, arguments = known
            assert registered(build(name, arguments)) == known


def test_batch_norm_is_affine_in_a_finished_model():
    torch.manual_seed(0)
    decoder = train.ResNet(width=2).decoder(2, (8, 8))
    decoder(torch.randn(64, 2))  # running statistics
    decoder.eval()
    z = torch.randn(5, 2)
    assert_close(decoder(z)[2:3], decoder(z[2:3]), rtol=1e-5, atol=1e-6)  # a row does not see the others


def test_lenet_and_resnet_have_the_plans_that_their_papers_have():
    lenet = ConvEncoder("lenet", (32, 32), 2, width=6)
    sizes = [m.kernel_size for m in lenet.modules() if isinstance(m, nn.Conv2d)]
    assert sizes == [(5, 5), (5, 5)]
    assert sum(isinstance(m, nn.AvgPool2d) for m in lenet.modules()) == 2
    resnet = ConvHead("resnet", (3, 32, 32), 10, width=64)
    convolutions = [m for m in resnet.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == 17  # and the last, dense layer makes 18
    assert {m.out_channels for m in convolutions} == {64, 128, 256, 512}
    mirrored = [m for m in ConvDecoder("resnet", (3, 32, 32), 2, width=64).modules() if isinstance(m, nn.Conv2d)]
    assert sum(m.kernel_size == (3, 3) for m in mirrored) == 17


HOSTILE = [
    ("conv-decoder", {"plan": "vgg"}, "plan must be"),
    ("conv-decoder", {"shape": [7, 28]}, "sides from 8 to 4096"),
    ("conv-decoder", {"shape": [28]}, "shape must be"),
    ("conv-decoder", {"shape": [1, 1, 28, 28]}, "shape must be"),
    ("conv-decoder", {"shape": [10**9, 28]}, "shape must be"),
    ("conv-decoder", {"shape": [5000, 28, 28]}, "shape must be"),
    ("conv-decoder", {"shape": [4096, 4096, 4096], "width": 1}, "at most 268435456 numbers in a layer"),
    ("conv-decoder", {"shape": [4096, 4096], "width": 17}, "shape and width must leave"),
    ("conv-decoder", {"latent_dim": 10**6}, "latent_dim must be an integer from 1 to 4096"),
    ("conv-decoder", {"latent_dim": True}, "latent_dim must be"),
    ("conv-decoder", {"width": 10**6}, "width must be an integer from 1 to 512"),
    ("conv-decoder", {"blocks": 10**6}, "blocks must be an integer from 1 to 8"),
    ("conv-decoder", {"activation": "eval"}, "activation must be"),
    ("conv-decoder", {"norm": "layer"}, "norm must be"),
    ("conv-decoder", {"output": "exit"}, "output must be"),
    ("conv-encoder", {"transform": "exp"}, "transform must be"),
    ("conv-encoder", {"what": 1}, "do not fit"),
]


@pytest.mark.parametrize(("name", "change", "message"), HOSTILE)
def test_headers_cannot_ask_for_anything(name, change, message):
    with pytest.raises(ValueError, match=message):
        build(name, {"plan": "lenet", "shape": [28, 28], "latent_dim": 2, **change})


def test_mean_and_std():
    pair = MeanAndStd(MLP([2, 3]), MLP([2, 3], output="softplus"), floor=0.25)
    _, std = pair(torch.randn(4, 2))
    assert bool((std > 0.25).all())
    name, arguments = registered(pair)
    again = build(name, arguments)
    again.load_state_dict(pair.state_dict())
    z = torch.randn(4, 2)
    assert_close(again(z), pair(z))
    with pytest.raises(ValueError, match="single network"):
        build(name, {**arguments, "mean": {"builder": name, "arguments": arguments}})
    with pytest.raises(ValueError, match="floor must be"):
        build(name, {**arguments, "floor": -1.0})
    with pytest.raises(ValueError, match="not one of latentgeo's own"):
        build(name, {**arguments, "mean": {"builder": "os.system", "arguments": {}}})
    with pytest.raises(ValueError, match="one of latentgeo's own"):
        MeanAndStd(nn.Linear(2, 3), MLP([2, 3]), 0.0)


def test_counts_are_tamed_before_the_first_layer():
    plain, tamed = MLPEncoder([3, 4, 2]), MLPEncoder([3, 4, 2], transform="log1p")
    tamed.load_state_dict(plain.state_dict())
    x = torch.tensor([[0.0, 10.0, 1000.0]])
    assert_close(tamed(x), plain(x.log1p()))
    assert "transform" not in plain.arguments  # older releases read such headers
    with pytest.raises(ValueError, match="transform must be"):
        MLPEncoder([3, 4, 2], transform="sqrt")


def test_dense_needs_a_hidden_layer():
    with pytest.raises(ValueError, match="at least one width"):
        train.Dense(hidden=())
    for wrong in (64, "64"):
        with pytest.raises(TypeError, match="hidden must be a sequence of widths"):
            train.Dense(hidden=wrong)
