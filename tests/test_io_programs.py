"""Programs and parts of models: TorchScript, torch.export, and weights under a prefix, each made here."""

from __future__ import annotations

import copy
import pickle
import zipfile

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from latentgeo.decoders import Bernoulli, wrap
from latentgeo.decoders._programs import Program
from latentgeo.io import CheckpointError, load, save

MEANING = {"latent_dim": 2, "likelihood": Bernoulli(output="logits")}


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Linear(2, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, 6)

    def forward(self, z):
        return self.last(torch.tanh(self.norm(self.first(z)))).view(-1, 2, 3)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


def export(net, rows=None):
    shapes = None if rows is not None else ({0: torch.export.Dim("rows")},)
    return torch.export.export(net, (torch.zeros(rows or 3, 2),), dynamic_shapes=shapes)


@pytest.fixture(scope="module")
def files(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    torch.jit.script(net).save(folder / "scripted.pt")
    torch.jit.trace(net, torch.zeros(3, 2)).save(folder / "traced.pt")
    torch.export.save(export(net), folder / "exported.pt2")
    torch.export.save(export(net, rows=3), folder / "fixed.pt2")
    return folder


KINDS = ["scripted.pt", "traced.pt", "exported.pt2"]


@pytest.mark.parametrize("name", KINDS)
def test_programs_are_decoders(files, net, name):
    model = load(files / name, trust=True, **MEANING)
    decoder, plain = model.decoder, wrap(net, **MEANING)
    assert decoder.data_shape == (2, 3)
    assert not any(p.requires_grad for p in decoder.module.parameters())
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    for rows in (z, z[:1]):
        assert_close(decoder.mean(rows), plain.mean(rows))
        assert_close(decoder.embedding.jacobian(rows), plain.embedding.jacobian(rows))
    double = decoder.to(torch.float64)
    assert_close(double.mean(z.double()), plain.to(torch.float64).mean(z.double()))
    assert decoder.dtype == torch.float32  # the first is unchanged


@pytest.mark.parametrize("name", KINDS)
def test_programs_pickle_by_value(files, name):
    decoder = load(files / name, trust=True, **MEANING).decoder.to(torch.float64)
    z = torch.randn(4, 2, dtype=torch.float64)
    again = pickle.loads(pickle.dumps(decoder))
    assert again.dtype == torch.float64
    assert_close(again.mean(z), decoder.mean(z), rtol=0, atol=0)
    assert not any(p.requires_grad for p in again.module.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_saved_programs_are_built_from_their_file(files, tmp_path, name):
    model = load(files / name, trust=True, **MEANING)
    save(model, tmp_path / "kept.safetensors")
    again = load(
        tmp_path / "kept.safetensors", builder=lambda: load(files / name, trust=True, **MEANING).decoder.module
    )
    z = torch.randn(4, 2)
    assert_close(again.decoder.mean(z), model.decoder.mean(z))


def test_programs_are_wrapped_as_torch_loads_them(files, net):
    z = torch.randn(4, 2)
    expected = wrap(net, **MEANING).mean(z)
    exported = torch.export.load(files / "exported.pt2")
    for program in (torch.jit.load(files / "scripted.pt"), exported, exported.module()):
        decoder = wrap(program, **MEANING)
        assert_close(decoder.mean(z), expected)
        assert isinstance(decoder.module, Program)
        again = copy.deepcopy(decoder.module)
        assert_close(again(z), decoder.module(z))
        assert all(p.is_leaf and p.requires_grad for p in again.double().parameters())
    with pytest.raises(TypeError, match="wrap the program itself"):
        pickle.dumps(wrap(exported.module(), **MEANING))


def test_a_script_in_train_mode_is_put_in_eval_mode(net):
    script = torch.jit.script(nn.Sequential(copy.deepcopy(net), nn.Dropout(0.5)).train())
    with pytest.warns(UserWarning, match="was in train mode"):
        decoder = wrap(script, **MEANING)
    assert not any(part.training for part in script.modules())
    z = torch.randn(4, 2)
    assert_close(decoder.mean(z), wrap(net, **MEANING).mean(z))


def test_a_fixed_number_of_rows_is_refused(files):
    with pytest.raises(ValueError, match=r"exported for batches of 3 rows .* dynamic_shapes"):
        load(files / "fixed.pt2", trust=True, **MEANING)


@pytest.mark.parametrize("name", KINDS)
def test_programs_need_trust(files, name):
    kind = "torch.export" if name.endswith(".pt2") else "TorchScript"
    with pytest.raises(CheckpointError, match=rf"is a {kind} program, .* pass trust=True"):
        load(files / name, builder=Net, **MEANING)


@pytest.mark.parametrize("name", KINDS)
def test_whole_networks_need_no_builder(files, name):
    for more in ({"builder": Net}, {"prefix": "net."}):
        with pytest.raises(TypeError, match="holds a whole network"):
            load(files / name, trust=True, **MEANING, **more)
    with pytest.raises(TypeError, match="latent_dim= and likelihood= must be given"):
        load(files / name, trust=True)


@pytest.mark.parametrize("name", ["scripted.pt", "exported.pt2"])
@pytest.mark.parametrize("trust", [False, True])
def test_cut_programs_are_refused(files, tmp_path, name, trust):
    content = (files / name).read_bytes()
    path = tmp_path / name
    for n in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:n])
        with pytest.raises(CheckpointError, match=name):
            load(path, trust=trust, **MEANING)


@pytest.mark.parametrize("name", ["scripted.pt", "exported.pt2"])
def test_changed_programs_are_refused(files, tmp_path, name):
    with zipfile.ZipFile(files / name) as source:
        item = max(source.infolist(), key=lambda i: i.file_size)
    content = bytearray((files / name).read_bytes())
    content[item.header_offset + 30 + len(item.filename.encode()) + item.compress_size // 2 + 64] ^= 0xFF
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|cannot be read"):
        load(tmp_path / name, trust=True, **MEANING)


@pytest.mark.parametrize("entry", ["code/bomb.py", "models/bomb.json"])
def test_bombs_in_programs_are_not_unpacked(files, tmp_path, entry):
    path = tmp_path / ("bomb.pt2" if entry.startswith("models") else "bomb.pt")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("bomb/constants.pkl", b"")
        with out.open(f"bomb/{entry}", "w") as file:
            for _ in range(80):
                file.write(b"\0" * 2**20)
    for trust in (False, True):
        with pytest.raises(CheckpointError, match="unpacks to"):
            load(path, trust=trust, **MEANING)


def test_what_is_no_program_is_not_made_one_by_its_name(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "weights.pt2")
    for trust in (False, True):
        with pytest.raises(CheckpointError, match=r"is not a torch\.export program"):
            load(tmp_path / "weights.pt2", builder=Net, trust=trust, **MEANING)


@pytest.mark.parametrize("name", ["hollow.pt", "hollow.pt2"])
def test_hollow_programs_are_refused_in_a_line(tmp_path, name, capfd):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as out:
        for entry in ("constants.pkl", "code/x.py") if name == "hollow.pt" else ("models/model.json", "archive_format"):
            out.writestr(f"a/{entry}", b"{}")
    with pytest.raises(CheckpointError, match=r"cannot be read: \w+: .") as told:
        load(path, trust=True, **MEANING)
    assert "\n" not in str(told.value)
    assert "report" not in str(told.value)
    assert "Traceback" not in capfd.readouterr().err


def test_frozen_scripts_are_decoders(net, tmp_path):
    torch.jit.freeze(torch.jit.script(net)).save(tmp_path / "frozen.pt")
    decoder = load(tmp_path / "frozen.pt", trust=True, **MEANING).decoder
    z = torch.randn(4, 2)
    assert_close(decoder.mean(z), wrap(net, **MEANING).mean(z))
    assert_close(pickle.loads(pickle.dumps(decoder)).mean(z), decoder.mean(z))


# --- parts of a model, as Lightning and others write them ---------------------------------------------------------


@pytest.fixture
def lightning_file(net, tmp_path):
    """What Lightning's Trainer.save_checkpoint writes, in its own words."""
    state = {f"decoder.{name}": value for name, value in net.state_dict().items()}
    state |= {f"encoder.{name}": value for name, value in nn.Linear(6, 4).state_dict().items()}
    path = tmp_path / "epoch=2-step=282.ckpt"
    torch.save(
        {
            "epoch": 2,
            "global_step": 282,
            "pytorch-lightning_version": "2.6.0",
            "state_dict": state,
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint": {"best_model_path": "", "best_model_score": torch.tensor(1.0)}},
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-3, "params": [0]}]}],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": {"d": 2, "lr": 1e-3},
        },
        path,
    )
    return path


def test_a_prefix_picks_a_part(net, lightning_file):
    model = load(lightning_file, builder=Net, prefix="decoder.", **MEANING)
    z = torch.randn(4, 2)
    assert_close(model.decoder.mean(z), wrap(net, **MEANING).mean(z))


def test_the_prefix_that_fits_is_named(net, lightning_file, tmp_path):
    with pytest.raises(CheckpointError, match=r"tensors that fit exactly: pass prefix='decoder\.'$"):
        load(lightning_file, builder=Net, **MEANING)
    with pytest.raises(CheckpointError, match=r"does not fit (?!.*prefix)"):
        load(lightning_file, builder=lambda: Net(9), **MEANING)
    with pytest.raises(CheckpointError, match=r"no tensors under 'dec\.'; its names start with decoder\., encoder\."):
        load(lightning_file, builder=Net, prefix="dec.", **MEANING)
    twice = {f"{part}.net.{name}": value for part in ("ema", "model") for name, value in net.state_dict().items()}
    torch.save(twice, tmp_path / "twice.pt")
    with pytest.raises(CheckpointError, match=r"pass prefix='ema\.net\.' or prefix='model\.net\.'$"):
        load(tmp_path / "twice.pt", builder=Net, **MEANING)


def test_a_prefix_is_for_weights(tmp_path):
    with pytest.raises(TypeError, match="prefix is for weights"):
        load("checkpoints/digits-2d.safetensors", prefix="decoder.")


def test_a_model_that_is_no_decoder_says_so():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(6, 2), Net()

    with pytest.raises(TypeError, match=r"neither `decode` nor a `forward` .*it has \.encoder, \.decoder"):
        wrap(Whole().eval(), **MEANING)


def test_what_torch_says_is_told_in_a_line(net, tmp_path):
    torch.save(net, tmp_path / "whole.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    for name, says in (("whole.pt", r"refers to \S+\.Net, which is code"), ("bare.pt", "Unsupported operand")):
        with pytest.raises(CheckpointError, match=says) as told:
            load(tmp_path / name, builder=Net, **MEANING)
        assert "\n" not in str(told.value)
        assert "add_safe_globals" not in str(told.value)


def test_what_is_no_builder_is_named(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    for builder, kind in ((Net(), "Net"), ("nets:Net", "str")):
        with pytest.raises(TypeError, match=rf"builder must be a function or class .* got a {kind}$"):
            load(tmp_path / "w.pt", builder=builder, **MEANING)


def test_codes_of_another_dimension_are_named(net, files):
    for obj in (net, torch.export.load(files / "exported.pt2")):
        with pytest.raises(ValueError, match=r"fails on codes of shape \(n, 3\), which is what latent_dim= says"):
            wrap(obj, latent_dim=3, likelihood=MEANING["likelihood"])


def test_weights_are_not_wrapped(net):
    for obj in (net.state_dict(), "weights.pt"):
        with pytest.raises(TypeError, match=r"latentgeo\.load takes a file of weights"):
            wrap(obj, **MEANING)
