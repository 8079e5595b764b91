"""Data set readers."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import pytest
import torch

from latentgeo.datasets import DatasetNotFoundError, load_digits, load_mnist


def mnist_folder() -> Path:
    folder = Path(os.environ.get("LATENTGEO_DATA") or "data")
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no MNIST in {folder} (set $LATENTGEO_DATA to the folder that has it)")
    return folder


def test_digits():
    data = load_digits()
    assert data.data.shape == (1797, 64)
    assert data.data.dtype == torch.float32
    assert (float(data.data.min()), float(data.data.max())) == (0.0, 1.0)
    assert data.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (len(data), data.shape) == (1797, (8, 8))


@pytest.mark.parametrize(("split", "n", "first"), [("train", 60_000, 5), ("test", 10_000, 7)])
def test_mnist(split, n, first):
    mnist_folder()
    data = load_mnist(split)
    assert data.data.shape == (n, 784)
    assert (float(data.data.min()), float(data.data.max())) == (0.0, 1.0)
    assert int(data.labels[0]) == first
    assert data.shape == (28, 28)
    assert repr(data) == f"Dataset(mnist {split}, {n} of 28×28)"


def write_mnist(folder: Path, *, zipped: bool, n: int = 10_000, cut: int = 0) -> None:
    folder.mkdir(parents=True)
    images = bytes(i % 251 for i in range(784)) * n
    for name, header, body in (
        ("t10k-images-idx3-ubyte", struct.pack(">IIII", 2051, n, 28, 28), images),
        ("t10k-labels-idx1-ubyte", struct.pack(">II", 2049, n), bytes(i % 10 for i in range(n))),
    ):
        content = (header + body)[: len(header + body) - cut]
        path = folder / (name + (".gz" if zipped else ""))
        path.write_bytes(gzip.compress(content, 1) if zipped else content)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", ["mnist", ".", "MNIST/raw"])
def test_files_are_found_where_people_keep_them(tmp_path, monkeypatch, zipped, inside):
    write_mnist(tmp_path / "data" / inside, zipped=zipped)
    monkeypatch.delenv("LATENTGEO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    data = load_mnist("test")
    assert torch.equal((data.data[3] * 255).round(), torch.arange(784).remainder(251).float())
    assert data.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert torch.equal(load_mnist("test", root=tmp_path / "data").labels, data.labels)


def test_missing_files_say_where_they_were_sought(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGEO_DATA", str(tmp_path))
    with pytest.raises(DatasetNotFoundError, match="LATENTGEO_DATA") as caught:
        load_mnist("train")
    assert str(tmp_path) in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("zipped", "n", "cut"), [(False, 9_999, 0), (True, 9_999, 0), (False, 10_000, 1), (True, 10_000, 5)]
)
def test_files_of_another_size_are_refused(tmp_path, zipped, n, cut):
    write_mnist(tmp_path / "mnist", zipped=zipped, n=n, cut=cut)
    with pytest.raises(ValueError, match="not an IDX file"):
        load_mnist("test", root=tmp_path)


def test_damaged_gzip_is_refused(tmp_path):
    write_mnist(tmp_path / "mnist", zipped=True)
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    for content in (path.read_bytes()[:500], b"\x00" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            load_mnist("test", root=tmp_path)


def test_unknown_split():
    with pytest.raises(ValueError, match="'train' or 'test'"):
        load_mnist("validation")
