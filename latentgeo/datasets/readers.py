"""Handwritten digits as float32 rows in [0, 1]: the 1,797 bundled with scikit-learn, and MNIST from IDX files.

MNIST is LeCun, Cortes, Burges, "The MNIST database of handwritten digits" (1998).
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_MNIST = {"train": ("train", 60_000), "test": ("t10k", 10_000)}


class DatasetNotFoundError(FileNotFoundError):
    """A data set is not where it was looked for; the message says where that was."""


@dataclass(frozen=True, repr=False, eq=False)
class Dataset:
    """Data with labels.

    Attributes
    ----------
    data : Tensor of shape (N, D)
        float32, in [0, 1].
    labels : Tensor of shape (N,)
        int64.
    shape : tuple of int
        The shape of one datum, e.g. (28, 28).
    name : str
        What it is.

    Examples
    --------
    >>> from latentgeo.datasets import load_digits
    >>> digits = load_digits()
    >>> digits.data.shape, digits.shape, int(digits.labels[0])
    (torch.Size([1797, 64]), (8, 8), 0)
    """

    data: Tensor
    labels: Tensor
    shape: tuple[int, ...]
    name: str

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"Dataset({self.name}, {len(self)} of {'×'.join(map(str, self.shape))})"


def load_digits() -> Dataset:
    """The 1,797 handwritten digits of 8×8 pixels that scikit-learn bundles.

    Returns
    -------
    Dataset
        Pixels divided by 16.

    Examples
    --------
    >>> load_digits()
    Dataset(digits, 1797 of 8×8)
    """
    from sklearn.datasets import load_digits as bundled

    bunch = bundled()
    data = torch.as_tensor(bunch.data, dtype=torch.float32) / 16
    return Dataset(data, torch.as_tensor(bunch.target, dtype=torch.int64), (8, 8), "digits")


def load_mnist(split: str = "train", root: str | os.PathLike[str] | None = None) -> Dataset:
    """MNIST from its original IDX files, gzipped or not.

    Parameters
    ----------
    split : {"train", "test"}
        60,000 or 10,000 images of 28×28 pixels.
    root : path, optional
        The folder that holds the files, or an `mnist` folder of them. Default: `$LATENTGEO_DATA`, else `./data`.

    Returns
    -------
    Dataset
        Pixels divided by 255.

    Raises
    ------
    DatasetNotFoundError
        If the files are not there.
    ValueError
        If `split` is unknown or a file is not what it should be.

    Examples
    --------
    >>> load_mnist("test")  # doctest: +SKIP
    Dataset(mnist test, 10000 of 28×28)
    """
    if split not in _MNIST:
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    prefix, n = _MNIST[split]
    folder = Path(root if root is not None else os.environ.get("LATENTGEO_DATA") or "data")
    images = _read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"), (n, 28, 28))
    labels = _read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"), (n,))
    return Dataset(images.reshape(n, -1).float() / 255, labels.long(), (28, 28), f"mnist {split}")


def _find(folder: Path, name: str) -> Path:
    places = [folder / "mnist", folder, folder / "MNIST" / "raw"]
    for place in places:
        for suffix in ("", ".gz"):
            if (path := place / (name + suffix)).is_file():
                return path
    raise DatasetNotFoundError(
        f"MNIST file {name}(.gz) not found in {', '.join(map(str, places))}; put the four IDX files there, or set "
        f"$LATENTGEO_DATA to the folder that has them"
    )


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Unsigned bytes of an IDX file of exactly this shape."""
    size = 1
    for s in shape:
        size *= s
    header = 4 + 4 * len(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = bytearray(file.read(header + size + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    expected = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    if content[:header] != expected or len(content) != header + size:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes of shape {shape}")
    return torch.frombuffer(content, dtype=torch.uint8, offset=header).reshape(shape)
