"""Training data as tensors: from arrays, `.npy` and `.npz` files, IDX files, folders of images, and two names.

Everything is checked here, before a network sees it. The whole set is one tensor: no workers, no copies per epoch.
"""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentgeo._calculus.checks import as_integers, check_integer, is_number

NAMES = ("digits", "mnist")
STORED = 2000  # codes of so many data are kept with a model
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_IDX = {8: np.uint8, 9: np.int8, 11: np.int16, 12: np.int32, 13: np.float32, 14: np.float64}


@dataclass(frozen=True, eq=False, repr=False)
class TrainData:
    """Data to train on, data held out, and the data whose codes are stored with the model.

    Attributes
    ----------
    x : Tensor of shape (N, *shape)
        float32, finite, not constant.
    held_out : Tensor of shape (M, *shape) or None
        Never trained on; scores are of these.
    labels, held_out_labels : Tensor of shape (N,), (M,) or None
        int64.
    stored : Tensor of shape (S, *shape)
        The data whose codes are stored.
    stored_labels : Tensor of shape (S,) or None
        Their labels.
    stored_are : str
        What they are, in words.
    name : str
        Where the data come from, in words.
    classes : tuple of str
        What the labels stand for, where folders name them.

    Examples
    --------
    >>> as_data("digits", held_out=0.2)
    TrainData(digits, 1438 of 8×8, 359 held out, labels)
    """

    x: Tensor
    stored: Tensor
    name: str = "array"
    held_out: Tensor | None = None
    labels: Tensor | None = None
    held_out_labels: Tensor | None = None
    stored_labels: Tensor | None = None
    stored_are: str = ""
    classes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return tuple(self.x.shape[1:])

    @property
    def data_dim(self) -> int:
        """D, how many numbers a datum has."""
        return self.shape_numel(self.shape)

    @staticmethod
    def shape_numel(shape: tuple[int, ...]) -> int:
        """How many numbers a shape holds."""
        return torch.Size(shape).numel()

    @property
    def scored(self) -> Tensor:
        """What scores are of: the data held out, or the training data where none are."""
        return self.x if self.held_out is None else self.held_out

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        held = "none held out" if self.held_out is None else f"{len(self.held_out)} held out"
        labels = "no labels" if self.labels is None else "labels"
        return f"TrainData({self.name}, {len(self)} of {'×'.join(map(str, self.shape))}, {held}, {labels})"

    def split(self, fraction: float, seed: int) -> tuple[TrainData, Tensor]:
        """These data less a random fraction of the training data, and that fraction."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        n = min(len(self) - 1, max(1, round(fraction * len(self))))
        keep, part = order[n:], order[:n]
        labels = None if self.labels is None else self.labels[keep]
        return replace(self, x=self.x[keep], labels=labels), self.x[part]


def as_data(
    data: Any,
    labels: Any = None,
    *,
    held_out: float | None = None,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    name: str | None = None,
) -> TrainData:
    """Training data from whatever the user has.

    Parameters
    ----------
    data : TrainData, Dataset, array, Tensor, path or str
        Rows (N, ...): numbers, integer bytes are divided by 255. A path: `.npy`; `.npz` with `data` or `x` (or one
        array only) and perhaps `labels` or `y`; an IDX file, gzipped or not; a folder of images, whose sub-folders are
        classes, with 8 bits per channel. "digits" is scikit-learn's; "mnist" is read from `$LATENTGEO_DATA`, else
        `./data`, and its test set is held out.
    labels : array or Tensor of shape (N,), optional
        Integer labels.
    held_out : float, optional
        The fraction held out, drawn at random; 0 for none. Default: 0.1, or MNIST's own test set.
    shape : tuple of int, optional
        The shape of one datum where rows are flat, e.g. (28, 28).
    seed : int
        Of the split.
    name : str, optional
        What to call the data.

    Returns
    -------
    TrainData

    Raises
    ------
    ValueError
        If there are fewer than two data, shapes do not fit, or values are not finite, constant or not numbers.
    TypeError
        If labels or a shape are given with data that have their own ("mnist", a TrainData).
    FileNotFoundError
        If a path does not exist.

    Examples
    --------
    >>> as_data(np.random.default_rng(0).normal(size=(50, 3)), held_out=0)
    TrainData(array, 50 of 3, none held out, no labels)
    """
    if isinstance(data, TrainData):
        if labels is not None or held_out is not None or shape is not None:
            raise TypeError("labels, held_out and shape are part of a TrainData already; give them to `as_data` first")
        return data
    if held_out is not None and not (is_number(held_out) and 0 <= held_out < 1):
        raise ValueError(f"held_out must be a fraction in [0, 1); got {held_out!r}")
    check_integer(seed, "seed", 0)
    sizes = None if shape is None else as_integers(shape)
    if shape is not None and (not sizes or min(sizes) < 1):
        raise ValueError(f"`shape` must be a tuple of positive integers, got {shape!r}")
    shape = None if sizes is None else tuple(sizes)
    if isinstance(data, str) and data == "mnist" and not Path(data).exists():
        if labels is not None or shape is not None or name is not None:
            raise TypeError("labels, shape and name are part of 'mnist' already; got others")
        return _mnist(held_out, seed)
    x, found, label, classes = _read(data, shape)
    labels = found if labels is None else labels
    label = name or label
    x = check(x, label)
    y = None if labels is None else _labels(labels, len(x), label)
    fraction = 0.1 if held_out is None else held_out
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    n = min(len(x) - 2, max(1, round(fraction * len(x)))) if fraction > 0 else 0
    if n < 0:
        raise ValueError(f"{label} must hold at least two data; got {len(x)}")
    train, held = order[: len(x) - n], order[len(x) - n :]
    few = len(x) <= STORED
    return TrainData(
        check(x[train], f"the training part of {label}"),
        x[:STORED],
        label,
        x[held] if n else None,
        None if y is None else y[train],
        None if y is None or not n else y[held],
        None if y is None else y[:STORED],
        f"{f'all {len(x):,}' if few else f'the first {STORED:,}'} data, {len(train) / len(x):.0%} of all trained on",
        classes,
    )


def _mnist(held_out: float | None, seed: int) -> TrainData:
    from latentgeo.datasets import load_mnist

    train, test = load_mnist("train"), load_mnist("test")
    x, x_test = train.data.unflatten(1, train.shape), test.data.unflatten(1, test.shape)
    kept = torch.arange(len(x))
    held: tuple[Tensor | None, Tensor | None] = (x_test, test.labels)
    if held_out:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        n = round(held_out * len(x))
        kept, held = order[n:], (x[order[:n]], train.labels[order[:n]])
    elif held_out == 0:
        held = (None, None)
    return TrainData(
        x[kept],
        x_test[:STORED],
        "mnist",
        held[0],
        train.labels[kept],
        held[1],
        test.labels[:STORED],
        f"the first {STORED:,} test images",
    )


def _read(data: Any, shape: tuple[int, ...] | None) -> tuple[Any, Any, str, tuple[str, ...]]:
    """Values, labels, a name and class names."""
    labels, name = None, "array"
    classes: tuple[str, ...] = ()
    if isinstance(data, str) and data == "digits" and not Path(data).exists():
        from latentgeo.datasets import load_digits

        data = load_digits()
    if hasattr(data, "data") and hasattr(data, "labels") and hasattr(data, "shape"):  # a latentgeo.datasets.Dataset
        data, labels, shape, name = data.data, data.labels, shape or data.shape, data.name
    elif isinstance(data, (str, os.PathLike)):
        path = Path(data)
        name = path.name
        data, labels, classes = read_path(path)
    elif not isinstance(data, Tensor) and (kind := np.asarray(data).dtype).kind not in "biuf":
        if isinstance(data, np.ndarray):
            raise ValueError(f"`data` must hold numbers, got an array of {kind}")
        raise TypeError(f"`data` must be an array of numbers, a path or a name, got {type(data).__name__}")
    if shape is not None:
        value = data if isinstance(data, Tensor) else torch.as_tensor(np.asarray(data, order="C"))
        if value.ndim < 1 or not len(value):
            raise ValueError(f"`data` must hold at least two data, got shape {tuple(value.shape)}")
        if TrainData.shape_numel(tuple(shape)) != value[0].numel():
            raise ValueError(
                f"shape must have as many entries as a datum; got {tuple(shape)} for data of shape {tuple(value.shape)}"
            )
        data = value.reshape(len(value), *shape)
    return data, labels, name, classes


def read_path(path: Path) -> tuple[Any, Any, tuple[str, ...]]:
    """Data, labels or None, and class names, of a file or a folder of images."""
    if not path.exists():
        raise FileNotFoundError(
            f"data must be {' or '.join(map(repr, NAMES))}, or the path of a .npy, .npz or IDX file or of a folder of "
            f"images; {str(path)!r} does not exist"
        )
    if path.is_dir():
        return _folder(path)
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False), None, ()
        if path.suffix == ".npz":
            with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as loaded:
                arrays = {key: loaded[key] for key in loaded.files}
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        # numpy's own words advise to unpickle, which is never done here
        reason = "it holds Python objects, not numbers" if "allow_pickle" in str(error) else error
        raise ValueError(f"{path} cannot be read: {reason}") from error
    if path.suffix == ".npz":
        return _archive(path, arrays)
    if "idx" in stem.suffix or "idx" in stem.name:
        return read_idx(path), _idx_labels(path), ()
    raise ValueError(f"data must be a .npy, .npz or IDX (…-idx3-ubyte) file or a folder of images; got {path}")


def _archive(path: Path, arrays: dict[str, np.ndarray]) -> tuple[Any, Any, tuple[str, ...]]:
    y = next((arrays[key] for key in ("labels", "y") if key in arrays), None)
    x = next((arrays[key] for key in ("data", "x", "X") if key in arrays), None)
    rest = [key for key in arrays if key not in ("labels", "y")]
    if x is None and len(rest) == 1:
        x = arrays[rest[0]]
    if x is None:
        raise ValueError(f"{path} must hold an array named 'data' or 'x'; it has {', '.join(arrays) or 'none'}")
    return x, y, ()


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file, gzipped or not.

    Raises
    ------
    ValueError
        If it is not one, or is truncated.

    References
    ----------
    .. [1] LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998, which describes the format.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path} is not an IDX file")
    shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    dtype = np.dtype(_IDX[content[2]]).newbyteorder(">")
    start = 4 + 4 * content[3]
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(content) - start != wanted:
        raise ValueError(f"{path} announces {wanted} bytes of shape {shape} and has {len(content) - start}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _idx_labels(path: Path) -> np.ndarray | None:
    """Labels beside an IDX file of images, in MNIST's names for them."""
    if "images-idx3" not in path.name:
        return None
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    return read_idx(beside) if beside.exists() else None


def _folder(path: Path) -> tuple[Any, Any, tuple[str, ...]]:
    """Images of a folder as bytes (N, H, W) or (N, C, H, W); sub-folders are classes."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ImportError("a folder of images needs Pillow: pip install pillow") from None
    # sub-folders with images in them are classes
    folders = sorted(p for p in path.iterdir() if p.is_dir() and any(f.suffix.lower() in IMAGES for f in p.iterdir()))
    groups: list[tuple[Path, int | None]] = [(folder, index) for index, folder in enumerate(folders)] or [(path, None)]
    images: list[np.ndarray] = []
    labels: list[int] = []
    first: Path | None = None
    for folder, index in groups:
        for file in sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGES):
            try:
                with Image.open(file) as opened:
                    if opened.mode[0] in "IF":  # "I;16" and the like; Pillow would cut them off at 255
                        raise ValueError(
                            f"images must have 8 bits per channel; {file} has more (mode {opened.mode}): scale it "
                            "yourself, and give an array"
                        )
                    grey = opened.mode in ("1", "L", "LA")
                    image = np.asarray(opened.convert("L" if grey else "RGB"))
            except (OSError, UnidentifiedImageError) as error:
                raise ValueError(f"{file} cannot be read as an image: {error}") from None
            image = image if image.ndim == 2 else image.transpose(2, 0, 1)
            first = first or file
            if images and image.shape != images[0].shape:
                raise ValueError(
                    f"images must have one size and one kind; {first} has the shape {images[0].shape} and {file} "
                    f"{image.shape}"
                )
            images.append(image)
            labels.append(-1 if index is None else index)
    if not images:
        raise ValueError(f"{path} holds no images ({', '.join(IMAGES)}), neither itself nor in sub-folders")
    return np.stack(images), (labels if folders else None), tuple(f.name for f in folders)


def check(values: Any, name: str = "data") -> Tensor:
    """float32 data (N, *shape), at least two, finite and not constant; bytes are divided by 255."""
    if isinstance(values, Tensor):
        x = values.detach()
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} must hold numbers; got an array of {array.dtype}")
        x = torch.as_tensor(np.ascontiguousarray(array))
    if x.is_complex():
        raise ValueError(f"{name} must hold real numbers; got {x.dtype}")
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise ValueError(f"{name} must be of shape (N, D) or (N, *shape), one row per datum; got {tuple(x.shape)}")
    if len(x) < 2:
        raise ValueError(f"{name} must hold at least two data; got {len(x) or 'none'}")
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    finite = torch.isfinite(x).flatten(1).all(1)
    if not bool(finite.all()):
        bad = (~finite).nonzero()[:, 0].tolist()
        raise ValueError(
            f"{name} must be finite; {len(bad)} of {len(x)} rows have NaN or infinite entries (the first is row "
            f"{bad[0]})"
        )
    if bool((x == x[:1]).all()):
        raise ValueError(f"{name} must not be constant: all {len(x)} rows are the same")
    return x


def _labels(labels: Any, n: int, name: str) -> Tensor:
    if not isinstance(labels, Tensor):
        labels = np.asarray(labels, order="C")
        if labels.dtype.kind not in "biuf":
            raise TypeError(f"labels must be integers, one for each datum of {name}; got {labels.dtype}")
    y = torch.as_tensor(labels)
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or tuple(y.shape) != (n,):
        raise ValueError(
            f"labels must be integers of shape ({n},), one for each datum of {name}; got {y.dtype} of shape "
            f"{tuple(y.shape)}"
        )
    return y.long()
