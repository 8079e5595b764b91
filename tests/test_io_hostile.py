"""Damaged and hostile files: a `CheckpointError` that says what is wrong, no code run, bounded time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from latentgeo.decoders import MLP, MLPEncoder, fit_precision, wrap
from latentgeo.io import CheckpointError, LatentModel, load, save
from latentgeo.io.native import MAX_HEADER_BYTES

GIVEN = {"builder": lambda: nn.Linear(2, 3), "latent_dim": 2, "likelihood": "deterministic"}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    torch.manual_seed(0)
    codes = torch.randn(30, 2)
    decoder = wrap(MLP([2, 6, 5]).eval(), 2, "deterministic")
    decoder = fit_precision(decoder, codes, decoder.mean(codes).detach() + 0.1, n_centers=4, bandwidth=3.0)
    path = tmp_path_factory.mktemp("good") / "good.safetensors"
    save(LatentModel(decoder, MLPEncoder([5, 4, 2]).eval(), codes, torch.arange(30)), path)
    load(path)
    return path.read_bytes()


@pytest.fixture
def refused(tmp_path):
    """Write bytes, load them, and hand back the error's message; anything but a CheckpointError fails."""

    def check(content: bytes, name: str = "bad.safetensors", **given) -> str:
        path = tmp_path / name
        path.write_bytes(content)
        started = time.perf_counter()
        with pytest.raises(CheckpointError) as caught:
            load(path, **given)
        assert time.perf_counter() - started < 5
        message = str(caught.value)
        assert str(path) in message
        assert len(message) < 1500
        assert caught.value.path == str(path)
        assert str(pickle.loads(pickle.dumps(caught.value))) == message
        return message

    return check


def parts(content: bytes) -> tuple[dict, dict, bytes]:
    """Tensor entries, our header, and the data of a native file."""
    n = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + n])
    return entries, json.loads(entries.pop("__metadata__")["latentgeo"]), content[8 + n :]


def assemble(entries: dict, header, data: bytes) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    raw = json.dumps({"__metadata__": {"latentgeo": text}, **entries}).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def test_missing_and_misplaced(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is not a file"):
        load(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"the ending '.txt'; expected .safetensors"):
        load(tmp_path / "a.txt")


def test_truncation_at_every_byte(good, tmp_path):
    path = tmp_path / "cut.safetensors"
    for n in range(len(good)):
        path.write_bytes(good[:n])
        with pytest.raises(CheckpointError):
            load(path)


def test_extra_bytes(good, refused):
    assert "truncated or damaged" in refused(good + b"\0")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt"])
def test_random_bytes(refused, suffix):
    rng = random.Random(0)
    for size in (1, 7, 8, 9, 100, 5000):
        for _ in range(5):
            refused(rng.randbytes(size), f"noise{suffix}", **GIVEN)
    refused(b"", f"empty{suffix}", **GIVEN)


def test_flipped_header_bytes_never_crash(good, tmp_path):
    rng = random.Random(1)
    n = 8 + int.from_bytes(good[:8], "little")
    path = tmp_path / "flip.safetensors"
    for _ in range(300):
        content = bytearray(good)
        for _ in range(rng.choice([1, 2, 8])):
            content[rng.randrange(n)] = rng.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(CheckpointError):  # not all are noticed: a flipped letter of the metadata cannot be
            load(path)


@pytest.mark.parametrize("n", [0, 1, 2**32, 2**63, 2**64 - 1, MAX_HEADER_BYTES + 1])
def test_header_lengths_that_lie(good, refused, n):
    assert "header" in refused(struct.pack("<Q", n) + good[8:])


def test_headers_are_bounded(refused):
    size = MAX_HEADER_BYTES + 1
    assert str(MAX_HEADER_BYTES) in refused(struct.pack("<Q", size) + b" " * size)


@pytest.mark.parametrize(
    "bomb", ["[" * 200_000, '{"a":' * 200_000, "9" * 100_000, '"' + "\\u0000" * 10, "NaN", "{}{}", "\xff"]
)
def test_json_bombs(good, refused, bomb):
    raw = bomb.encode("latin-1")
    refused(struct.pack("<Q", len(raw)) + raw)
    entries, _header, data = parts(good)
    refused(assemble(entries, bomb, data))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data_offsets": [0, 2**40]}, "does not fit"),
        ({"data_offsets": [-8, 0]}, "malformed"),
        ({"data_offsets": "all"}, "malformed"),
        ({"shape": [2**40, 2**40]}, "does not fit"),
        ({"shape": [1] * 100}, "malformed"),
        ({"shape": [True]}, "malformed"),
        ({"dtype": "F8_E5M2"}, "dtype"),
        ({"dtype": ["F32"]}, "dtype"),
    ],
)
def test_tensor_entries_that_lie(good, refused, change, says):
    entries, header, data = parts(good)
    entries["decoder.layers.0.weight"] = {**entries["decoder.layers.0.weight"], **change}
    assert says in refused(assemble(entries, header, data))


def test_overlapping_tensors(good, refused):
    entries, header, data = parts(good)
    entries["again"] = dict(entries["decoder.layers.0.weight"])
    assert "overlap" in refused(assemble(entries, header, data))


def test_entries_that_are_not_entries(good, refused):
    entries, header, data = parts(good)
    assert "described by" in refused(assemble({**entries, "x": 3}, header, data))
    raw = b"[1, 2]"
    assert "not a JSON object" in refused(struct.pack("<Q", len(raw)) + raw)


# --- our own header ---------------------------------------------------------------------------------------------------


def edited(header: dict, path: str, value) -> dict:
    header = json.loads(json.dumps(header))
    *keys, last = path.split(".")
    at = header
    for key in keys:
        at = at[key]
    if value is DELETE:
        del at[last]
    else:
        at[last] = value
    return header


DELETE = object()


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("schema", 2, "schema version 2"),
        ("schema", 10**30, "schema version 1000"),
        ("schema", 0, "the first is 1"),
        ("schema", "1", "without a schema version"),
        ("schema", DELETE, "without a schema version"),
        ("decoder", None, "'decoder' must be dict"),
        ("decoder", DELETE, "'decoder' must be dict"),
        ("decoder.builder", "os.system", "'os.system'"),
        ("decoder.builder", "latentgeo.decoders.networks.MLP", "not one of latentgeo's own"),
        ("decoder.builder", 3, "'builder' must be str"),
        ("decoder.builder", "x" * 10_000, "not one of latentgeo's own"),
        ("decoder.arguments", {"sizes": [2, 10**6, 10**6, 5]}, "does not fit its decoder"),
        ("decoder.arguments", {"sizes": [2, 10**12, 5]}, "cannot be built"),
        ("decoder.arguments", {"sizes": [2, 7, 5]}, "expected (7, 2)"),
        ("decoder.arguments", {"sizes": [2, 6, 6, 5]}, "missing"),
        ("decoder.arguments", {"sizes": [2, 5]}, "not part of it"),
        ("decoder.arguments", {"command": "true"}, "cannot be built"),
        ("decoder.arguments", [], "'arguments' must be dict"),
        ("decoder.likelihood", {"name": "magic"}, "likelihood"),
        ("decoder.likelihood", {"name": "os.system"}, "likelihood must be one of"),
        ("decoder.likelihood", {"name": []}, "likelihood cannot be read"),
        ("decoder.likelihood", {"name": "x" * 100_000}, "likelihood must be one of"),
        ("decoder.likelihood", {"name": "gaussian", "sigma": 10**400}, "sigma must be a number"),
        ("decoder.likelihood", {"name": "gaussian", "sigma": [0] * 100_000}, "sigma must be positive"),
        ("decoder.likelihood", {"name": "gaussian", "sigma": [1] * 100_000}, "5 entries"),
        ("decoder.likelihood", {"name": "gaussian", "scale": ["std"]}, "scale must be one of"),
        ("decoder.likelihood", {"name": "deterministic", "x" * 100_000: 1}, "does not take the options"),
        ("decoder.likelihood", {"name": "categorical", "axis": 10**100}, "axes after the batch"),
        ("decoder.likelihood", {"name": "categorical", "axis": "1"}, "axis must be an integer"),
        ("decoder.likelihood", {"name": "poisson", "output": {"a": [1] * 10_000}}, "output must be"),
        ("decoder.likelihood", {"name": "negative-binomial", "inverse_dispersion": {"a": 1}}, "must be a number"),
        ("decoder.likelihood", {"name": "negative-binomial", "inverse_dispersion": -1}, "must be positive"),
        ("decoder.likelihood", {"name": "gaussian", "scale": "std", "sigma": None}, "does not do what its header says"),
        ("decoder.latent_dim", 3, "does not do what its header says"),
        ("decoder.latent_dim", -1, "positive"),
        ("decoder.latent_dim", True, "'latent_dim' must be int"),
        ("decoder.data_shape", [7], "returns data of shape (5,)"),
        ("decoder.data_shape", [], "positive"),
        ("decoder.entry", "__class__", "'__class__'"),
        ("decoder.entry", "decode", "'decode'"),
        ("decoder.context", "tensor", "context"),
        ("decoder.context", "pickle", "context"),
        ("precision", None, "precision.* tensors"),
        ("precision.report", {"x": 1}, "fields"),
        ("encoder", None, "encoder.* tensors"),
        ("encoder.builder", "os.system", "pass encoder_builder="),
        ("encoder.arguments", {"sizes": [5, 9, 2]}, "does not fit its encoder"),
        ("metadata", [], "'metadata' must be dict"),
    ],
)
def test_headers_that_lie(good, refused, where, value, says):
    entries, header, data = parts(good)
    assert says in refused(assemble(entries, edited(header, where, value), data))


def retensored(good: bytes, name: str, tensor: torch.Tensor | None) -> bytes:
    """The file with one tensor replaced, added or left out."""
    from safetensors.torch import load as from_bytes
    from safetensors.torch import save as to_bytes

    tensors = from_bytes(good)
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    return to_bytes(tensors, {"latentgeo": json.dumps(parts(good)[1])})


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("decoder.layers.0.bias", None, "missing"),
        ("decoder.layers.0.bias", torch.zeros(7), "expected (6,)"),
        ("decoder.layers.0.bias", torch.full((6,), torch.nan), "not finite"),
        ("decoder.layers.0.bias", torch.zeros(6, dtype=torch.int64), "does not fit its decoder"),
        ("decoder.more", torch.zeros(1), "not part of it"),
        ("more", torch.zeros(1), "no known part"),
        ("context.0", torch.zeros(1), "describes no context"),
        ("precision.floor", None, "must have the tensors"),
        ("precision.floor", torch.tensor(-1.0), "positive"),
        ("precision.weights", torch.ones(4, 6), "expected 2 → 5"),
        ("precision.centers", torch.ones(3, 2), "of shape"),
        ("codes", torch.zeros(30, 3), "(N, 2)"),
        ("codes", None, "labels must be"),
        ("labels", torch.zeros(30), "integer"),
    ],
)
def test_tensors_that_do_not_fit(good, refused, name, tensor, says):
    assert says in refused(retensored(good, name, tensor))


# --- pickles ----------------------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["bomb.pt", "bomb.pth", "bomb.ckpt", "bomb.safetensors"])
@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_bombs_do_not_go_off(tmp_path, refused, name, legacy):
    mark = tmp_path / "exploded"
    made = tmp_path / "made"
    torch.save({"state_dict": {"weight": Bomb(mark)}}, made, _use_new_zipfile_serialization=not legacy)
    refused(made.read_bytes(), name, **GIVEN)
    refused(pickle.dumps(Bomb(mark)), name, **GIVEN)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["bomb.npy", "bomb.npz", "bomb.bin", "bomb.pkl", "bomb.json", "bomb", "bomb.safetensors.pt.x"]
)
@pytest.mark.parametrize("trust", [False, True])
def test_pickle_bombs_of_any_other_ending_are_not_even_opened(tmp_path, refused, name, trust):
    mark = tmp_path / "exploded"
    assert "the ending" in refused(pickle.dumps(Bomb(mark)), name, trust=trust, **GIVEN)
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_trust_does_not_unpickle_what_calls_itself_safetensors(tmp_path, refused, legacy):
    mark = tmp_path / "exploded"
    made = tmp_path / "made"
    torch.save(Bomb(mark), made, _use_new_zipfile_serialization=not legacy)
    refused(made.read_bytes(), "bomb.safetensors", trust=True, **GIVEN)
    assert not mark.exists()


@pytest.mark.parametrize("part", ["decoder", "encoder"])
@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.run", "builtins.exec", "torch.load", "os:mkdir", "custom:os.mkdir"]
)
def test_builders_named_in_a_header_are_never_called(good, refused, tmp_path, part, name):
    mark = tmp_path / "exploded"
    entries, header, data = parts(good)
    header[part] = {**header[part], "builder": name, "arguments": {"command": f"mkdir {mark}", "path": str(mark)}}
    assert "not one of latentgeo's own" in refused(assemble(entries, header, data))
    header[part]["arguments"] = {"args": [f"mkdir {mark}"]}
    refused(assemble(entries, header, data))
    assert not mark.exists()


def test_trust_is_needed_to_run_code(tmp_path):
    mark = tmp_path / "ran"
    torch.save(Bomb(mark), tmp_path / "code.pt")
    with pytest.raises(CheckpointError, match="expected a state dict"):
        load(tmp_path / "code.pt", trust=True, **GIVEN)
    assert mark.exists()  # that is what trust means


def test_truncated_weights(tmp_path, refused):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    for n in range(0, len(content), 97):
        refused(content[:n], "cut.pt", **GIVEN)


def test_truncated_legacy_weights(tmp_path, refused):
    torch.save(nn.Linear(2, 300).state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.pt").read_bytes()
    for n in range(0, len(content), 97):
        refused(content[:n], "cut.ckpt", **GIVEN)


@pytest.mark.parametrize("claim", [2**30, 2**31 - 1])
def test_legacy_weights_that_lie_about_their_size(tmp_path, refused, claim):
    n = 123_457
    torch.save({"weight": torch.zeros(n)}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.pt").read_bytes()
    honest, lie = (b"J" + struct.pack("<i", k) for k in (n, claim))
    assert content.count(honest) == 2
    content = content.replace(honest, lie)
    refused(content, "lie.pt", **GIVEN)
    stored = struct.pack("<q", n)
    assert content.count(stored) == 1
    refused(content.replace(stored, struct.pack("<q", claim)), "lie.pt", **GIVEN)


@pytest.mark.parametrize("name", ["digits-2d", "mnist-2d"])
def test_shipped_checkpoints_cut_at_every_kibibyte(name, tmp_path):
    content = Path(f"checkpoints/{name}.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content)
    started = time.perf_counter()
    for n in range(len(content) // 1024 * 1024, -1, -1024):
        os.truncate(path, n)
        with pytest.raises(CheckpointError):
            load(path)
    assert time.perf_counter() - started < 10


RESIDENT = """
import resource, sys
import latentgeo as lg
lg.load(sys.argv[1])  # loads what a load loads
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        lg.load(path, **({} if path.endswith("own.safetensors") else
            dict(builder=lambda: None, latent_dim=2, likelihood="deterministic")))
        sys.exit(f"{path} was loaded")
    except lg.CheckpointError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_resident_memory_stays_small(good, tmp_path):
    """Also what torch allocates, which tracemalloc does not see."""
    entries, header, data = parts(good)
    torch.save({"weight": torch.zeros(123_457)}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    legacy = (tmp_path / "w.pt").read_bytes()
    for kind, old, new in (("<i", 123_457, 2**31 - 1), ("<q", 123_457, 2**31 - 1)):
        legacy = legacy.replace(struct.pack(kind, old), struct.pack(kind, new))
    wide = {"sizes": [2] + [2**20] * 30 + [5]}
    big = {"dtype": "F32", "shape": [2**30, 2**8], "data_offsets": [0, 2**40]}
    files = {
        "wide-own.safetensors": assemble(entries, edited(header, "decoder.arguments", wide), data),
        "long-own.safetensors": struct.pack("<Q", 2**62) + good[8:],
        "big-own.safetensors": assemble({**entries, "decoder.layers.0.weight": big}, header, data),
        "foreign.safetensors": assemble({"weight": big}, "{}", b""),
        "legacy.pt": legacy,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good.safetensors").write_bytes(good)
    paths = [str(tmp_path / name) for name in ("good.safetensors", *files)]
    result = subprocess.run([sys.executable, "-c", RESIDENT, *paths], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 50  # MiB


def test_decompression_bombs_are_not_unpacked(tmp_path, refused):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as source,
        zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for item in source.infolist():
            out.writestr(item.filename, source.read(item))
        out.writestr("w/data/9", b"\0" * 50_000_000)
    tracemalloc.start()
    message = refused((tmp_path / "z.pt").read_bytes(), "bomb.pt", **GIVEN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "unpacks to" in message
    assert peak < 5_000_000


def test_misnamed_files_say_so(good, refused, tmp_path):
    assert "rename it to .safetensors" in refused(good, "native.pt", **GIVEN)
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    assert "rename it to .pt" in refused((tmp_path / "w.pt").read_bytes(), "weights.safetensors", **GIVEN)


def test_memory_is_bounded_by_the_file(good, tmp_path):
    entries, header, data = parts(good)
    path = tmp_path / "lie.safetensors"
    path.write_bytes(assemble(entries, edited(header, "decoder.arguments", {"sizes": [2] + [2**20] * 30 + [5]}), data))
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
