"""Where a distance matrix goes: memory, a `.npy` file, a zarr array."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Target", "open_or_create", "open_target", "reopen"]

_FILL_BYTES = 2**24


class Target:
    """An array that blocks are written into: NumPy (memory or memmap) or zarr."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def write(self, rows: slice, cols: slice, values: NDArray[Any]) -> None:
        """Put values at a slice of rows and a slice of columns."""
        self.array[rows, cols] = values

    def read(self, rows: slice, cols: slice) -> NDArray[Any]:
        """Values at a slice of rows and a slice of columns."""
        return np.asarray(self.array[rows, cols])

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
    except BaseException as error:
        with suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
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
