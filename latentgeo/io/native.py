"""The native format: one safetensors file whose header carries a versioned JSON description of the model.

A header is bounded, parsed and compared with the file's size and with the network it describes before any tensor is
read, so that a broken or hostile file costs little and runs nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentgeo.io.errors import CheckpointError, shorten

SCHEMA = 1
KEY = "latentgeo"  # the one entry of the safetensors metadata that is ours
MAX_HEADER_BYTES = 4 * 2**20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Contents:
    """What a safetensors file says about itself, checked against its size.

    Attributes
    ----------
    path : Path
        The file.
    header : dict or None
        latentgeo's description; None for a file that some other program wrote.
    shapes : dict of str to tuple of int
        Shapes of its tensors by name.
    """

    path: Path
    header: dict[str, Any] | None
    shapes: dict[str, tuple[int, ...]]

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`, by the rest of their names."""
        try:
            with safe_open(os.fspath(self.path), framework="pt") as file:
                return {name[len(prefix) :]: file.get_tensor(name) for name in self.shapes if name.startswith(prefix)}
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(self.path, f"is not a valid safetensors file: {error}") from error


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Latentgeo's description of a model, from a native checkpoint's header; no tensor is read.

    Parameters
    ----------
    path : path
        A `.safetensors` file that `save` wrote.

    Returns
    -------
    dict
        "schema", "library", "decoder", "precision", "encoder" and "metadata", as JSON has them.

    Raises
    ------
    CheckpointError
        If the file is not a native checkpoint.

    Examples
    --------
    >>> read_header("checkpoints/digits-2d.safetensors")["decoder"]["latent_dim"]
    2
    """
    contents = open_safetensors(path)
    if contents.header is None:
        raise foreign(contents.path)
    return contents.header


def foreign(path: Path) -> CheckpointError:
    """The error for a safetensors file that some other program wrote."""
    return CheckpointError(
        path,
        "is a safetensors file without a latentgeo header, so what its tensors mean is unknown; pass builder= (a "
        "callable that returns the module), latent_dim= and likelihood=",
    )


def open_safetensors(path: str | os.PathLike[str]) -> Contents:
    """Read and check the header of a safetensors file."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            n = int.from_bytes(start, "little")
            _check_start(path, start, n, size)
            raw = file.read(n)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error
    entries = _parse(path, raw, "its safetensors header")
    if not isinstance(entries, dict):
        raise CheckpointError(path, "has a safetensors header that is not a JSON object")
    metadata = entries.pop("__metadata__", {})
    shapes = _check_entries(path, entries, size - 8 - n)
    header = None
    if isinstance(metadata, dict) and KEY in metadata:
        text = metadata[KEY]
        header = _parse(path, text.encode() if isinstance(text, str) else b"", "its latentgeo header")
        _check_schema(path, header)
    return Contents(path, header, shapes)


def _check_start(path: Path, start: bytes, n: int, size: int) -> None:
    if size == 0:
        raise CheckpointError(path, "is empty")
    if len(start) == 8 and 2 <= n <= min(size - 8, MAX_HEADER_BYTES):
        return
    # looked at only now: the length of a sound header may start with the same bytes
    if start[:2] == b"PK" or start[:1] == b"\x80":
        raise CheckpointError(
            path,
            "is a PyTorch (pickle) file in spite of its name; if you know where it comes from, rename it to .pt and "
            "load it with builder=",
        )
    raise CheckpointError(
        path,
        f"is truncated or not a safetensors file: it announces a header of {n} bytes in a file of {size} bytes "
        f"(at most {MAX_HEADER_BYTES} are read)",
    )


def _parse(path: Path, raw: bytes, what: str) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(path, f"{what} is not valid JSON: {shorten(str(error))}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_entries(path: Path, entries: dict[str, Any], available: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors, once their sizes are known to fit the file exactly."""
    shapes = {}
    spans = []
    for name, entry in entries.items():
        where = f"tensor {shorten(name)!r}"
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
            raise CheckpointError(path, f"{where} is not described by dtype, shape and data_offsets")
        dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise CheckpointError(path, f"{where} has the dtype {shorten(dtype)}; expected one of {', '.join(_DTYPES)}")
        if not _whole(shape) or not _whole(span) or len(span) != 2 or len(shape) > 16:
            raise CheckpointError(path, f"{where} has a malformed shape or offsets")
        size = _DTYPES[dtype].itemsize
        for s in shape:
            size *= s
            if size > available:
                break
        if size != span[1] - span[0]:
            raise CheckpointError(
                path, f"{where} of shape {shorten(shape)} and dtype {dtype} does not fit its {span[1] - span[0]} bytes"
            )
        shapes[name] = tuple(shape)
        spans.append((span[0], span[1]))
    end = 0
    for a, b in sorted(spans):
        if a != end:
            raise CheckpointError(path, "has tensors that overlap or leave gaps")
        end = b
    if end != available:
        raise CheckpointError(
            path, f"is truncated or damaged: its header announces {end} bytes of tensors, and {available} are there"
        )
    return shapes


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_schema(path: Path, header: Any) -> None:
    if not isinstance(header, dict) or type(header.get("schema")) is not int:
        raise CheckpointError(path, "has a latentgeo header without a schema version")
    if header["schema"] > SCHEMA:
        raise CheckpointError(
            path,
            f"was written in schema version {shorten(header['schema'])} (by latentgeo "
            f"{shorten(header.get('library', 'of unknown version'))}); this one reads up to {SCHEMA}: upgrade it",
        )
    if header["schema"] < 1:
        raise CheckpointError(path, f"has the schema version {shorten(header['schema'])}; the first is 1")


def field(path: Path, header: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """A field of the header that must be of this kind."""
    value = header.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise CheckpointError(path, f"its header's {name!r} must be {expected}; got {shorten(value)}")
    return value
