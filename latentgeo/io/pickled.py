"""Reading PyTorch's own `.pt`, `.pth` and `.ckpt` files: weights only, unless the caller trusts the file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from latentgeo.io.errors import CheckpointError, shorten


def read_pickled(path: Path, trust: bool) -> Any:
    """The object in a PyTorch file: state dicts and containers of tensors; anything at all with `trust`."""
    _check_start(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # a damaged or hostile file can make the reader fail in any way
        if trust:
            problem = f"cannot be read: {shorten(str(error), 300)}"
        else:
            problem = (
                "does not hold plain weights, or is damaged: it could not be read without running code from the file. "
                "Ask for a state dict (torch.save(module.state_dict(), ...)), or pass trust=True if you know where the "
                f"file comes from ({type(error).__name__}: {shorten(str(error), 200)})"
            )
        raise CheckpointError(path, problem) from error


def _check_start(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error
    if size == 0:
        raise CheckpointError(path, "is empty")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        raise CheckpointError(path, "is a safetensors file in spite of its name; rename it to .safetensors")
    if start[:2] != b"PK":
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(path, f"is a damaged or truncated PyTorch file: {shorten(str(error))}") from error
    # PyTorch stores without compression: more bytes inside than outside is a decompression bomb
    if unpacked > size:
        raise CheckpointError(path, f"unpacks to {unpacked} bytes from {size}, which no PyTorch file does")
