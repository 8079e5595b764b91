"""Reading PyTorch's own `.pt`, `.pth`, `.ckpt` and `.pt2` files: weights only, unless the caller trusts the file.

With trust also whole pickled modules, TorchScript and `torch.export` programs, which run code when they are loaded.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from latentgeo.decoders._programs import read as read_program
from latentgeo.io.errors import CheckpointError, shorten

_CODE_BYTES = 64 * 2**20  # how much larger than the file the code of a program may be, which is compressed


def read_pickled(path: Path, trust: bool) -> Any:
    """The object in a PyTorch file: state dicts and containers of tensors; anything at all with `trust`."""
    kind = _examine(path)
    if kind is not None and not trust:
        raise CheckpointError(
            path,
            f"is a {kind} program, and loading one can run any code; pass trust=True if you know where the file comes "
            "from",
        )
    try:
        if kind is not None:
            return read_program(str(path), kind)
        with warnings.catch_warnings():
            # said of a bare pickle, before it is refused
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # a damaged or hostile file can make the reader fail in any way
        if trust:
            problem = f"cannot be read: {type(error).__name__}: {_first_line(error)}"
        else:
            problem = (
                f"does not hold plain weights, or is damaged: {_reason(error)}. Ask for a state dict "
                "(torch.save(module.state_dict(), ...)), or pass trust=True if you know where the file comes from, "
                "which lets it run code"
            )
        raise CheckpointError(path, problem) from error


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    return shorten(re.sub(r"\s*(\(Could this error message be improved|Please check the warnings).*", "", line), 300)


def _reason(error: Exception) -> str:
    """What torch says is wrong, without its advice on options of its own."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it refers to {shorten(found[1])}, which is code"
    told = re.search(r"WeightsUnpickler error:\s*(.+)", text) or re.search(r"(.+)", text)
    return shorten(told[1] if told else type(error).__name__, 200).rstrip(". ")


def _examine(path: Path) -> str | None:
    """Refuse what no PyTorch file looks like; say which kind of program it is, if one."""
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
    kind = None
    if start[:2] == b"PK":
        kind = _examine_archive(path, size)
    if path.suffix == ".pt2" and kind != "torch.export":
        raise CheckpointError(path, "is not a torch.export program, or is damaged, in spite of its ending")
    return kind


def _examine_archive(path: Path, size: int) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
            kind = _program({item.filename for item in archive.infolist()})
            # PyTorch stores without compression, but for the code of programs: more inside than outside is a bomb
            if unpacked > size + (0 if kind is None else _CODE_BYTES):
                raise CheckpointError(path, f"unpacks to {unpacked} bytes from {size}, which no PyTorch file does")
            # torch's readers of programs can end the process on a damaged one
            if kind is not None and (damaged := archive.testzip()) is not None:
                raise CheckpointError(path, f"is a damaged {kind} program: its entry {shorten(damaged)} has changed")
    except CheckpointError:
        raise
    except Exception as error:  # whatever a crafted archive makes zipfile do
        raise CheckpointError(path, f"is a damaged or truncated PyTorch file: {shorten(str(error))}") from error
    return kind


def _program(names: set[str]) -> str | None:
    """Which kind of program has such entries: "TorchScript", "torch.export" or none."""
    inner = {name.partition("/")[2] for name in names}
    if "serialized_exported_program.json" in names or any(
        name.startswith("models/") and name.endswith(".json") for name in inner
    ):
        return "torch.export"
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "TorchScript"
    return None
