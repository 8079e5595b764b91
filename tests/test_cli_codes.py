"""Files of codes on the command line: every format, and what is wrong with a bad one."""

from __future__ import annotations

import importlib
import os
import sys

import numpy as np
import pytest
from commands import refused, run
from models import tiny_model
from numpy.testing import assert_allclose

import latentgeo as lg
from latentgeo._cli import arrays


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    lg.save(model, path)
    return str(path)


@pytest.fixture
def codes(model):
    return model.codes[:6].double().numpy()


def has_pyarrow():
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        return False
    return True


needs_pyarrow = pytest.mark.skipif(not has_pyarrow(), reason="pyarrow is not installed (pip install pyarrow)")


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def same(path, codes, key=None):
    assert_allclose(arrays.read_array(path, key), codes, rtol=1e-9)


# --- each format ----------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_distances(checkpoint, codes, tmp_path):
    np.save(tmp_path / "c.npy", codes)
    np.savez(tmp_path / "c.npz", codes)
    np.savetxt(tmp_path / "c.csv", codes, delimiter=",")
    files = ["c.npy", "c.npz", "c.csv"]
    if has_pyarrow():
        write_parquet(tmp_path / "c.parquet", a=codes[:, 0], b=codes[:, 1])
        files.append("c.parquet")
    results = []
    for file in files:
        out = tmp_path / f"{file}.npy"
        run("distances", checkpoint, "--codes", tmp_path / file, "--pairs", 3, "--seed", 1, "--out", out)
        results.append(np.load(out))
    for other in results[1:]:
        assert (other["from"] == results[0]["from"]).all()
        assert_allclose(other["length"], results[0]["length"], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8", ">f8"])
def test_every_number(codes, tmp_path, dtype):
    values = np.abs(codes * 10).astype(dtype)
    np.save(tmp_path / "c.npy", values)
    np.save(tmp_path / "f.npy", np.asfortranarray(values))
    same(tmp_path / "c.npy", values)
    same(tmp_path / "f.npy", values)


def test_npz_with_several_arrays(checkpoint, codes, tmp_path):
    path, out = tmp_path / "c.npz", tmp_path / "o.npy"
    np.savez_compressed(path, z=codes, labels=np.arange(6))
    run("distances", checkpoint, "--codes", path, "--codes-key", "z", "--out", out)
    assert np.load(out).shape == (6, 6)
    command = ("distances", checkpoint, "--codes", path, "--out", out)
    assert "--codes-key must name one of the 2 arrays" in refused(*command)
    assert "(z, labels)" in refused(*command)
    assert "(z, labels); got x" in refused(*command, "--codes-key", "x")
    assert "shape (n, 2)" in refused(*command, "--codes-key", "labels")
    both = ("--from", path, "--to", path, "--codes-key", "z")
    run("distances", checkpoint, *both, "--out", out)
    assert len(np.load(out)) == 6


def test_a_key_is_for_npz_only(checkpoint, codes, tmp_path):
    np.save(tmp_path / "c.npy", codes)
    command = ("distances", checkpoint, "--codes", tmp_path / "c.npy", "--codes-key", "z", "--out", tmp_path / "o.npy")
    assert "inside a .npz file" in refused(*command)


@pytest.mark.parametrize("header", [None, "z1,z2", "0,1", '"the first","second"'])
def test_csv_with_and_without_header(codes, tmp_path, header):
    text = "\n".join(",".join(map(repr, row)) for row in codes.tolist())
    (tmp_path / "c.csv").write_text(f"{header}\r\n{text}\n\n" if header else text, encoding="utf-8-sig")
    same(tmp_path / "c.csv", codes)


def test_csv_of_integers_has_no_numbered_header(tmp_path):
    (tmp_path / "c.csv").write_text("0,1\n2,3\n", encoding="utf-8")
    same(tmp_path / "c.csv", [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no codes"),
        ("a,b\n", "holds no codes"),
        ("1,2\n3\n", "line 2 has 1 columns"),
        ("1,2\n3,four\n", "line 2: 'four' is not a number"),
        ("1,2\n\n3,\n", "line 3: '' is not a number"),
        ("one,2\n3,4\n", "line 1: 'one' is not a number"),
        ("1;2\n3;4\n", "separated by commas"),
        (",0,1\n0,1.5,2.5\n", "got (1, 3); if the first column numbers the rows, leave it out"),
        ("1,inf\n", "1 of 1 rows have NaN or infinity"),
        ("1,1e300\n", "must hold numbers that fit torch.float32"),
    ],
)
def test_bad_csv(checkpoint, tmp_path, text, message):
    codes = tmp_path / "c.csv"
    codes.write_text(text, encoding="utf-8")
    line = refused("distances", checkpoint, "--codes", codes, "--out", tmp_path / "o.npy")
    assert message in line
    assert str(codes) in line


# --- damaged and hostile files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", arrays.SUFFIXES)
def test_noise_and_nothing(checkpoint, tmp_path, suffix):
    if suffix == ".parquet" and not has_pyarrow():
        pytest.skip("pyarrow is not installed (pip install pyarrow)")
    codes = tmp_path / f"c{suffix}"
    noise = np.random.default_rng(0).bytes(2000)
    for content in (b"", noise, b"PK\x03\x04" + noise, b"\x93NUMPY" + noise):
        codes.write_bytes(content)
        assert str(codes) in refused("distances", checkpoint, "--codes", codes, "--out", tmp_path / "o.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_truncated(checkpoint, codes, tmp_path, suffix):
    path = tmp_path / f"c{suffix}"
    (np.save if suffix == ".npy" else np.savez_compressed)(path, codes)
    whole = path.read_bytes()
    for length in range(0, len(whole), 24):
        path.write_bytes(whole[:length])
        refused("distances", checkpoint, "--codes", path, "--out", tmp_path / "o.npy")


def test_nothing_is_unpickled(checkpoint, tmp_path):
    marker = tmp_path / "code was run"
    bomb = np.array([Bomb(marker)], dtype=object)
    np.save(tmp_path / "array.npy", bomb, allow_pickle=True)
    np.savez(tmp_path / "archive.npz", bomb, allow_pickle=True)
    bomb.dump(tmp_path / "plain.npy")
    for name in ("array.npy", "archive.npz", "plain.npy"):
        command = ("distances", checkpoint, "--codes", tmp_path / name, "--out", tmp_path / "o.npy")
        assert "could not be read as an array of numbers" in refused(*command)
    assert "never unpickled" in refused(
        "distances", checkpoint, "--codes", tmp_path / "array.npy", "--out", tmp_path / "o.npy"
    )
    assert not marker.exists()


def test_a_header_that_lies_about_sizes(checkpoint, tmp_path):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2), }"
    header += " " * (118 - len(header) - 1) + "\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "c.npy").write_bytes(start + b"\0" * 64)
    message = refused("distances", checkpoint, "--codes", tmp_path / "c.npy", "--out", tmp_path / "o.npy")
    assert "could not be read" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 2), dtype=complex), "complex128"),
        (np.zeros((2, 2), dtype=bool), "bool"),
        (np.array([["1", "2"]]), "<U1"),
        (np.zeros(2, dtype=[("a", "f8")]), "could not be read"),
        (np.array(1.0), "got ()"),
    ],
)
def test_other_arrays(checkpoint, tmp_path, content, message):
    np.save(tmp_path / "c.npy", content)
    assert message in refused("distances", checkpoint, "--codes", tmp_path / "c.npy", "--out", tmp_path / "o.npy")


def test_other_files(checkpoint, tmp_path):
    for name in ("c.txt", "c", "c.pkl"):
        message = refused("distances", checkpoint, "--codes", tmp_path / name, "--out", tmp_path / "o.npy")
        assert "must end in .npy, .npz, .csv or .parquet" in message


# --- parquet --------------------------------------------------------------------------------------------------------


def write_parquet(path, **columns):
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)


def test_parquet_without_pyarrow(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    message = refused("distances", checkpoint, "--codes", tmp_path / "c.parquet", "--out", tmp_path / "o.npy")
    assert "pip install 'latentgeo[parquet]'" in message


@needs_pyarrow
def test_parquet(codes, tmp_path):
    write_parquet(tmp_path / "c.parquet", a=codes[:, 0], b=codes[:, 1], __index_level_0__=np.arange(6))
    same(tmp_path / "c.parquet", codes)


@needs_pyarrow
def test_bad_parquet(checkpoint, codes, tmp_path):
    command = ("distances", checkpoint, "--codes", tmp_path / "c.parquet", "--out", tmp_path / "o.npy")
    write_parquet(tmp_path / "c.parquet", a=codes[:, 0], name=["x"] * 6)
    assert "its column 'name' holds string, not numbers" in refused(*command)
    write_parquet(tmp_path / "c.parquet", a=codes[:, 0], b=[None, *codes[1:, 1]])
    assert "1 of 6 rows have NaN" in refused(*command)
    write_parquet(tmp_path / "c.parquet", a=codes[:, 0])
    assert "shape (n, 2), one code per row; got (6, 1)" in refused(*command)
    (tmp_path / "c.parquet").write_bytes((tmp_path / "c.parquet").read_bytes()[:-50])
    assert "could not be read" in refused(*command)
