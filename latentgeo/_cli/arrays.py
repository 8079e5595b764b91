"""Arrays of numbers from files: .npy, .npz, .csv and .parquet. Nothing is ever unpickled."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from latentgeo.decoders import Decoder

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")


class _WhichArray(ValueError):
    """Which array is meant is not clear; the message is complete."""


def read_codes(path: Path, decoder: Decoder, key: str | None = None) -> Tensor:
    """Codes (n, d) from a file, as the decoder takes them.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        If the file is missing, its reader is not installed, or it does not hold finite codes of that dimension.
    """
    import numpy as np
    import torch

    codes = read_array(path, key)
    wanted = f"{path} must hold an array of shape (n, {decoder.latent_dim}), one code per row"
    if codes.size == 0:
        raise ValueError(f"{path} holds no codes")
    if codes.ndim != 2 or codes.shape[1] != decoder.latent_dim:
        index = codes.ndim == 2 and codes.shape[1] == decoder.latent_dim + 1 and path.suffix.lower() == ".csv"
        hint = "; if the first column numbers the rows, leave it out" if index else ""
        raise ValueError(f"{wanted}; got {codes.shape}{hint}")
    bad = int((~np.isfinite(codes).all(axis=1)).sum())
    if bad:
        raise ValueError(f"{path} must hold finite numbers; {bad} of {len(codes)} rows have NaN or infinity")
    tensor = torch.as_tensor(codes).to(dtype=decoder.dtype, device=decoder.device)
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{path} must hold numbers that fit {decoder.dtype}; some are too large for it")
    return tensor


def read_array(path: Path, key: str | None = None, *, what: str = "codes") -> NDArray[Any]:
    """The array of numbers in a file, in double precision; `key` names one of several in a .npz file."""
    import numpy as np

    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise ValueError(f"a file of {what} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of {what} at {path}")
    if key is not None and kind != ".npz":
        raise ValueError(f"--codes-key names an array inside a .npz file; got {path}")
    parquet = _pyarrow(path) if kind == ".parquet" else None
    try:
        if kind == ".npy":
            if path.stat().st_size == 0:
                raise ValueError("it is empty")
            with path.open("rb") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        elif kind == ".npz":
            array = _read_npz(path, key)
        elif kind == ".csv":
            array = _read_csv(path)
        else:
            array = _read_parquet(path, parquet)
        if array.dtype.kind not in "iuf":
            raise ValueError(f"its entries are of the type {array.dtype}")
        return np.asarray(array, dtype=np.float64)
    except _WhichArray:
        raise
    except Exception as error:  # a damaged file can make a reader fail in any way
        reason = str(error) or type(error).__name__
        if "allow_pickle" in reason:
            reason = "it holds pickled Python objects, which are never unpickled; save an array of floats"
        raise ValueError(f"{path} could not be read as an array of numbers: {reason}") from error


def _read_npz(path: Path, key: str | None) -> NDArray[Any]:
    import zipfile

    import numpy as np

    if not zipfile.is_zipfile(path):
        raise ValueError("it is no .npz file, or is damaged")
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays.files)
        listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        if key is None:
            if len(names) != 1:
                raise _WhichArray(
                    f"--codes-key must name one of the {len(names)} arrays in {path} ({listed}); it was not given"
                    if names
                    else f"{path} holds no arrays"
                )
            key = names[0]
        if key not in names:
            raise _WhichArray(f"--codes-key must name an array in {path} ({listed or 'which is empty'}); got {key}")
        return np.asarray(arrays[key])


def _read_csv(path: Path) -> NDArray[Any]:
    """Rows of numbers; a header is left out."""
    import numpy as np

    rows: list[list[float]] = []
    first: list[str] | None = None
    whole = True  # whether every number after the first line is an integer
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        for row in reader:
            if not row:
                continue
            try:
                rows.append([float(cell) for cell in row])
            except ValueError:
                # A header has no numbers, but for those that pandas names columns by; its index has no name.
                if (first is None and not any(map(_is_number, row[1:] if not row[0] else row))) or row[:2] == ["", "0"]:
                    if len(row) == 1 and any(mark in row[0] for mark in ";\t"):
                        raise ValueError("its columns must be separated by commas") from None
                    first = row
                    continue
                cell = next(cell for cell in row if not _is_number(cell))
                raise ValueError(f"line {reader.line_num}: {cell[:40]!r} is not a number") from None
            if len(rows[-1]) != len(rows[0]):
                raise ValueError(f"line {reader.line_num} has {len(rows[-1])} columns, those before {len(rows[0])}")
            if first is None:
                first = row
            else:
                whole = whole and all(cell.strip().lstrip("+-").isdigit() for cell in row)
    if len(rows) > 1 and not whole and first == [str(i) for i in range(len(rows[0]))]:
        rows = rows[1:]  # the columns' numbers: what pandas writes for an array
    return np.array(rows, dtype=np.float64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pyarrow(path: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ImportError(
            f"{path} needs pyarrow, which is not installed: pip install 'latentgeo[parquet]' (or pip install pyarrow), "
            "or save the codes as .npy or .csv"
        ) from None
    return parquet


def _read_parquet(path: Path, parquet: Any) -> NDArray[Any]:
    """The columns of a table side by side, without the index that pandas may have written."""
    import numpy as np

    table = parquet.read_table(path)
    columns = []
    for name in table.column_names:
        if name.startswith("__index_level_"):
            continue
        column = table.column(name)
        values = np.asarray(column.to_numpy())
        if values.dtype.kind not in "iuf":
            raise ValueError(f"its column {name!r} holds {column.type}, not numbers; keep only the codes' columns")
        columns.append(values.astype(np.float64))
    return np.stack(columns, axis=1) if columns else np.zeros((0, 0))
