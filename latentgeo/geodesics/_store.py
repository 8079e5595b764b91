"""Where a distance matrix goes: memory, a `.npy` file, a zarr array; and the record of which blocks are in it.

The record is a text file beside the matrix, one line per finished block, written after the block itself. At
whatever moment a process is killed, each block is either recorded and complete, or not recorded and computed anew.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Record", "Target", "open_or_create", "open_target", "reopen"]

_FORMAT = 1
_FILL_BYTES = 2**24


class Target:
    """An array that blocks are written into: NumPy (memory or memmap) or zarr."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def write(self, rows: Any, cols: Any, values: NDArray[Any]) -> None:
        """Put values at a slice of rows and a slice of columns."""
        self.array[rows, cols] = values

    def flush(self) -> None:
        """Hand what was written to the disk, where there is one."""
        if isinstance(self.array, np.memmap):
            self.array.flush()


def open_target(out: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> tuple[Target, Path | None]:
    """The array to write into, and the path it lives at if it can be resumed (`open_or_create` follows)."""
    if out is None:
        return Target(np.full(shape, np.nan, dtype)), None
    if isinstance(out, (str, os.PathLike)):
        path = Path(out)
        if path.suffix not in (".npy", ".zarr"):
            raise ValueError(f"`out` must be an array or a path that ends in .npy or .zarr, got {str(path)!r}")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"`out` must be in a folder that exists, got {path}")
        return Target(None), path
    module = type(out).__module__.partition(".")[0]
    if not isinstance(out, np.ndarray) and module != "zarr":
        raise TypeError(
            f"`out` must be None, a path (.npy or .zarr), a NumPy or a zarr array, got {type(out).__name__}"
        )
    if tuple(out.shape) != shape:
        raise ValueError(f"`out` must have shape {shape}, got {tuple(out.shape)}")
    if np.dtype(out.dtype).kind != "f":
        raise ValueError(f"`out` must hold floating-point numbers, got {out.dtype}")
    writeable = out.flags.writeable if isinstance(out, np.ndarray) else not out.read_only
    if not writeable:
        raise ValueError("`out` must be writeable, got a read-only array")
    return Target(out), None


def open_or_create(path: Path, shape: tuple[int, int], dtype: np.dtype[Any], chunk: int) -> Target:
    """The matrix at a path, as its (open) record says it was left."""
    if not path.exists():
        create(path, shape, dtype, chunk)
    return Target(reopen(path, shape, dtype, write=True))


def create(path: Path, shape: tuple[int, int], dtype: np.dtype[Any], chunk: int) -> None:
    """Make the file of a matrix, NaN everywhere, at once or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".zarr":
            shutil.rmtree(part, ignore_errors=True)
            zarr = _zarr()
            zarr.open_array(str(part), mode="w", shape=shape, chunks=(chunk, chunk), dtype=dtype, fill_value=np.nan)
        else:
            with part.open("wb") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                )
                rest = shape[0] * shape[1]
                blank = np.full(min(rest, _FILL_BYTES // dtype.itemsize), np.nan, dtype)
                while rest:  # really written, so that a full disk shows now, not as a crash of a memory map
                    file.write(blank[:rest].data)
                    rest -= min(rest, len(blank))
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            size = shape[0] * shape[1] * dtype.itemsize
            free = shutil.disk_usage(path.parent).free
            raise OSError(
                error.errno,
                f"no room for `out`: it needs {size / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free",
                str(path),
            ) from None
        raise


def reopen(path: Path, shape: tuple[int, int], dtype: np.dtype[Any], *, write: bool) -> Any:
    """The array at a path that `create` made."""
    try:
        if path.suffix == ".zarr":
            array = _zarr().open_array(str(path), mode="r+" if write else "r")
        else:
            mode: Any = None if 0 in shape else "r"  # nothing cannot be mapped
            array = np.load(path, mmap_mode=mode, allow_pickle=False)
            if write and mode:  # only now: that mode would lengthen a file that was cut short
                array = np.load(path, mmap_mode="r+", allow_pickle=False)
    except PermissionError:
        raise
    except Exception as reason:
        raise ValueError(f"{path} is damaged: {reason}; delete it and its record to begin anew") from None
    if tuple(array.shape) != shape or np.dtype(array.dtype) != dtype:
        raise ValueError(
            f"{path} holds {array.dtype} of shape {tuple(array.shape)}, but its record says {dtype} of shape {shape}; "
            "delete both to begin anew"
        )
    return array


def _zarr() -> Any:
    try:
        import zarr
    except ImportError:
        raise ImportError("a .zarr `out` needs zarr: pip install 'latentgeo[distributed]'") from None
    return zarr


class Record:
    """Which blocks of a matrix are finished, and what became of their pairs; one line of JSON each."""

    def __init__(self, matrix: Path, problem: Mapping[str, Any]) -> None:
        self.matrix = matrix
        self.path = matrix.with_name(matrix.name + ".progress")
        self.problem = json.loads(json.dumps(problem))
        self.done: dict[int, dict[str, Any]] = {}
        self._file: Any = None

    def open(self) -> None:
        """Take the record for this process alone, and read which blocks are finished.

        Raises
        ------
        ValueError
            If the record is another problem's, or damaged.
        FileExistsError
            If the matrix exists without a record.
        RuntimeError
            If another process works on it.
        """
        known = self.path.exists()
        if self.matrix.exists() and not known:
            raise FileExistsError(
                f"{self.matrix} exists, and no record of its blocks beside it; delete it or give another `out`"
            )
        self._file = self.path.open("a+b")
        _lock(self._file, self.matrix)
        try:
            lines = self._lines()
            if not self.matrix.exists():
                self.begin()
            elif lines:
                self._compare(lines[0])
                self.done = {line["block"]: line for line in lines[1:]}
            else:
                raise ValueError(f"{self.path} is damaged: it is empty; delete it and the matrix to begin anew")
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """No block is finished."""
        self.done.clear()
        self._file.truncate(0)
        self._write({"format": _FORMAT, "problem": self.problem})

    def _lines(self) -> list[dict[str, Any]]:
        """Complete lines; the last may have been cut short by a kill, and is then cut off."""
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            self._file.truncate(len(whole))
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as reason:
            raise ValueError(f"{self.path} is damaged: {reason}; delete it and the matrix to begin anew") from None

    def _compare(self, header: Mapping[str, Any]) -> None:
        found = header.get("problem", {})
        names = sorted({*self.problem, *found} - {"blocks"})
        other = [name for name in names if self.problem.get(name) != found.get(name)]
        if header.get("format") != _FORMAT or other:
            what = ", ".join(other) or "its format"
            raise ValueError(
                f"`out` holds the distances of another problem (different: {what}); give another `out`, or delete the "
                f"file and {self.path.name} to begin anew"
            )

    def add(self, block: int, **facts: Any) -> None:
        """Note a block as finished."""
        self.done[block] = {"block": block, **facts}
        self._write(self.done[block])

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let other processes have it."""
        if self._file is not None:
            self._file.close()


def _lock(file: Any, matrix: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RuntimeError(f"another process is writing {matrix}; wait for it, or give another `out`") from None
    except OSError:  # a file system without locks
        return
