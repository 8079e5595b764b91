"""Checkpoints: what is saved comes back, and only that."""

from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from latentgeo.decoders import MLP, Bernoulli, Gaussian, MLPEncoder, fit_precision, wrap
from latentgeo.io import CheckpointError, LatentModel, load, read_header, save


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def full_model(dtype=torch.float32):
    net = MLP([2, 8, 12], output="sigmoid", shape=(3, 4)).to(dtype).eval()
    codes = torch.randn(40, 2, dtype=dtype)
    decoder = wrap(net, 2, "deterministic")
    decoder = fit_precision(decoder, codes, decoder.mean(codes).detach() + 0.1, n_centers=5, bandwidth=3.0)
    encoder = MLPEncoder([12, 8, 2]).to(dtype).eval()
    metadata = {"dataset": "made up", "scores": {"x": 1.5, "none": None}, "tags": ["a", "é"]}
    return LatentModel(decoder, encoder, codes, torch.arange(40) % 3, metadata)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_full_model_comes_back(tmp_path, dtype):
    model = full_model(dtype)
    path = tmp_path / "model.safetensors"
    save(model, path)
    again = load(path)
    z = torch.randn(6, 2, dtype=dtype)
    for name, value in model.decoder(z).items():
        assert_close(again.decoder(z)[name], value, rtol=0, atol=0)
    assert_close(again.decoder.embedding.jacobian(z), model.decoder.embedding.jacobian(z), rtol=0, atol=0)
    assert again.decoder.likelihood == model.decoder.likelihood == Gaussian(scale="std")
    assert again.decoder.data_shape == (3, 4)
    assert again.decoder.precision_report == model.decoder.precision_report
    assert torch.equal(again.codes, model.codes)
    assert torch.equal(again.labels, model.labels)
    assert again.metadata == model.metadata
    x = torch.rand(5, 12, dtype=dtype)
    assert_close(again.encode(x), model.encoder(x)[0])
    assert_close(again.encode(x.reshape(5, 3, 4)), again.encode(x))
    assert repr(again) == repr(model)
    assert "\n" not in repr(again)
    assert not any(p.requires_grad for p in again.decoder.module.parameters())
    assert not any(part.training for part in again.decoder.module.modules())


def test_a_decoder_alone_comes_back(tmp_path):
    decoder = wrap(MLP([2, 8, 5]).eval(), 2, Bernoulli(output="logits"))
    save(decoder, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert (again.encoder, again.codes, again.labels, again.metadata) == (None, None, None, {})
    assert again.decoder.likelihood == Bernoulli(output="logits")
    assert again.decoder.precision is None


def test_the_same_model_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        save(full_model_of_seed(), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def full_model_of_seed():
    torch.manual_seed(1)
    return full_model()


def test_headers_of_every_length(tmp_path):
    # some lengths start with the first bytes of a pickle or a zip file
    decoder = wrap(MLP([2, 3, 1]).eval(), 2, "deterministic")
    starts = set()
    for n in [*range(0, 264, 8), *range(18_000, 19_600, 8)]:
        save(LatentModel(decoder, metadata={"x": "y" * n}), tmp_path / "a.safetensors")
        starts.add((tmp_path / "a.safetensors").read_bytes()[:2])
        assert load(tmp_path / "a.safetensors").metadata["x"] == "y" * n
    assert b"PK" in starts or any(s[0] == 0x80 for s in starts)


def test_the_header_can_be_read_alone(tmp_path):
    save(full_model(), tmp_path / "a.safetensors")
    header = read_header(tmp_path / "a.safetensors")
    assert header["schema"] == 1
    assert header["decoder"]["builder"] == "mlp"
    assert header["precision"]["report"]["n_centers"] == 5


class Custom(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Linear(2, width)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 3)
        self.tied = self.last

    def forward(self, z):
        return self.last(self.norm(self.first(z)).tanh())


class CustomVAE(Custom):
    def decode(self, z):
        return super().forward(z)

    def forward(self, x):
        raise RuntimeError("not the decoder")


@pytest.mark.parametrize("kind", [Custom, CustomVAE])
def test_other_modules_need_their_builder(tmp_path, kind):
    path = tmp_path / "custom.safetensors"
    decoder = wrap(kind().eval(), 2, "deterministic")
    save(LatentModel(decoder, encoder=nn.Linear(3, 2).eval()), path)
    with pytest.raises(CheckpointError, match="pass builder="):
        load(path)
    with pytest.raises(CheckpointError, match="pass encoder_builder="):
        load(path, builder=kind)
    again = load(path, builder=kind, encoder_builder=lambda: nn.Linear(3, 2))
    z = torch.randn(4, 2)
    assert_close(again.decoder.mean(z), decoder.mean(z))
    with pytest.raises(CheckpointError, match=r"does not fit its decoder .*shape"):
        load(path, builder=lambda: kind(9), encoder_builder=lambda: nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match=r"missing .*not part"):
        load(path, builder=lambda: nn.Linear(2, 3))
    with pytest.raises(TypeError, match="builder must return a torch"):
        load(path, builder=lambda: 3)


def test_context_comes_back(tmp_path):
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 3)

        def forward(self, z, shift, scale):
            return scale * self.net(z) + shift

    tensors = {"shift": torch.randn(1, 3), "scale": torch.tensor([[2.0]])}
    net = Conditional().eval()
    for context in (tensors, tuple(tensors.values())):
        decoder = wrap(net, 2, "deterministic", context=context)
        save(decoder, tmp_path / "c.safetensors")
        again = load(tmp_path / "c.safetensors", builder=Conditional).decoder
        assert_close(again.mean(torch.ones(3, 2)), decoder.mean(torch.ones(3, 2)))
    wrapped = wrap(nn.Bilinear(2, 1, 3).eval(), 2, "deterministic", context=torch.ones(1, 1))
    save(wrapped, tmp_path / "t.safetensors")
    again = load(tmp_path / "t.safetensors", builder=lambda: nn.Bilinear(2, 1, 3)).decoder
    assert_close(again.mean(torch.ones(3, 2)), wrapped.mean(torch.ones(3, 2)))


def test_what_cannot_be_rebuilt_is_not_saved(tmp_path):
    net = Custom().eval()
    path = tmp_path / "a.safetensors"
    for function in (lambda z: net(z), net.forward):
        with pytest.raises(ValueError, match="cannot carry"):
            save(wrap(function, 2, "deterministic"), path)
    decoder = wrap(net, 2, "deterministic")
    with pytest.raises(ValueError, match="the encoder is a function"):
        save(LatentModel(decoder, encoder=lambda x: x), path)
    with pytest.raises(ValueError, match="JSON"):
        save(LatentModel(decoder, metadata={"x": object()}), path)
    with pytest.raises(ValueError, match="JSON"):
        save(LatentModel(decoder, metadata={"x": float("nan")}), path)
    with pytest.raises(ValueError, match="too large"):
        save(LatentModel(decoder, metadata={"x": "y" * 3_000_000}), path)
    with pytest.raises(ValueError, match=r"path must end in \.safetensors"):
        save(decoder, tmp_path / "a.pt")
    with pytest.raises(TypeError, match="LatentModel or a Decoder"):
        save(net, path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save(full_model(), path)
    before = path.read_bytes()

    def full_disk(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(full_model(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


# --- weights with a builder -----------------------------------------------------------------------------------------

GIVEN = {"builder": Custom, "latent_dim": 2, "likelihood": "deterministic"}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_state_dicts(tmp_path, suffix, nested, legacy):
    net = Custom().eval()
    path = tmp_path / f"weights{suffix}"
    state = {"state_dict": net.state_dict(), "epoch": 3} if nested else net.state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    model = load(path, **GIVEN)
    z = torch.randn(4, 2)
    assert_close(model.decoder.mean(z), net(z))
    with pytest.raises(CheckpointError, match="pass builder="):
        load(path, latent_dim=2, likelihood="deterministic")
    with pytest.raises(TypeError, match="latent_dim= and likelihood= must be given"):
        load(path, builder=Custom)
    with pytest.raises(CheckpointError, match="expected"):
        load(path, **{**GIVEN, "builder": lambda: Custom(9)})


def test_foreign_safetensors_with_a_builder(tmp_path):
    from safetensors.torch import save_file

    net = nn.Linear(2, 3).eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="without a latentgeo header"):
        load(tmp_path / "w.safetensors")
    model = load(tmp_path / "w.safetensors", builder=lambda: nn.Linear(2, 3), latent_dim=2, likelihood="deterministic")
    assert_close(model.decoder.mean(torch.ones(1, 2)), net(torch.ones(1, 2)))


def test_whole_modules_need_trust(tmp_path):
    path = tmp_path / "whole.pt"
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh()).eval()
    torch.save(net, path)
    with pytest.raises(CheckpointError, match="trust=True"):
        load(path, latent_dim=2, likelihood="deterministic")
    model = load(path, latent_dim=2, likelihood="deterministic", trust=True)
    assert_close(model.decoder.mean(torch.ones(1, 2)), net(torch.ones(1, 2)))


def test_native_files_answer_for_themselves(tmp_path):
    save(full_model(), tmp_path / "a.safetensors")
    with pytest.raises(TypeError, match="in the header"):
        load(tmp_path / "a.safetensors", latent_dim=2)


# --- the model ------------------------------------------------------------------------------------------------------


def test_models_are_frozen_shared_and_picklable():
    model = full_model()
    assert copy.deepcopy(model) is model
    assert copy.copy(model) is model
    with pytest.raises(AttributeError, match="frozen"):
        model.codes = None
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.codes, model.codes)
    assert repr(again) == repr(model)


def test_model_parts_are_checked():
    decoder = wrap(MLP([2, 8, 5]).eval(), 2, "deterministic")
    codes = torch.zeros(3, 2)
    for arguments, error, says in (
        ({"decoder": MLP([2, 2])}, TypeError, "decoder must be a Decoder"),
        ({"encoder": 3}, TypeError, "encoder must be"),
        ({"codes": [[0.0, 0.0]]}, TypeError, "codes must be a floating"),
        ({"codes": torch.zeros(3, 3)}, ValueError, r"\(N, 2\)"),
        ({"labels": torch.zeros(3).long()}, ValueError, "one for each of the 0 codes"),
        ({"codes": codes, "labels": torch.zeros(2).long()}, ValueError, "one for each of the 3 codes"),
        ({"codes": codes, "labels": torch.zeros(3)}, TypeError, "integer"),
        ({"codes": codes, "labels": "abc"}, TypeError, "integer"),
        ({"metadata": 3}, TypeError, "mapping"),
    ):
        with pytest.raises(error, match=says):
            LatentModel(**{"decoder": decoder, **arguments})
    assert LatentModel(decoder, codes=np.zeros((3, 2), np.float32), labels=np.arange(3)).labels.tolist() == [0, 1, 2]
    with pytest.warns(UserWarning, match="encoder MLPEncoder was in train mode"):
        LatentModel(decoder, encoder=MLPEncoder([5, 4, 2]))


def test_encode_reads_what_encoders_return():
    decoder = wrap(MLP([2, 8, 5]).eval(), 2, "deterministic")
    x = torch.randn(4, 5)
    mean = x[:, :2]
    for encoder in (
        lambda x: x[:, :2],
        lambda x: (x[:, :2], x[:, :2].exp()),
        lambda x: torch.distributions.Normal(x[:, :2], x[:, :2].exp()),
        lambda x: {"mu": x[:, :2], "log_var": x[:, :2]},
    ):
        assert_close(LatentModel(decoder, encoder).encode(x), mean)
    with pytest.raises(ValueError, match="no encoder"):
        LatentModel(decoder).encode(x)
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        LatentModel(decoder, lambda x: x).encode(x)
    with pytest.raises(ValueError, match="x must be a tensor"):
        LatentModel(decoder, lambda x: x).encode(x[0])
