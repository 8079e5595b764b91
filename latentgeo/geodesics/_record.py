"""The record of which blocks of a distance matrix are finished.

A text file beside the matrix, one line per block, written after the block itself. At whatever moment a process is
killed, each block is either recorded and complete, or not recorded and computed anew.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Record"]

_FORMAT = 1
_SYNC_SECONDS = 10.0


class Record:
    """Which blocks of a matrix are finished, and what became of their pairs; one line of JSON each.

    Attributes
    ----------
    done : dict
        Facts about each finished block.
    unsure : list of int
        Blocks recorded after everything was last known to be on the disk: if the machine itself stopped, and not only
        the process, they may be missing in the matrix.
    graph : Path
        Where the job keeps the graph that it built.
    """

    def __init__(self, matrix: Path, problem: Mapping[str, Any]) -> None:
        self.matrix = matrix
        self.path = matrix.with_name(matrix.name + ".progress")
        self.graph = matrix.with_name(matrix.name + ".graph.npz")
        self.problem = json.loads(json.dumps(problem))
        self.done: dict[int, dict[str, Any]] = {}
        self.unsure: list[int] = []
        self._file: Any = None
        self._synced = time.monotonic()

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
                self.done = {line["block"]: line for line in lines[1:] if "block" in line}
                last = max((k for k, line in enumerate(lines) if "on disk" in line), default=0)
                self.unsure = [line["block"] for line in lines[last + 1 :] if "block" in line]
            else:
                raise ValueError(f"{self.path} is damaged: it is empty; delete it and the matrix to begin anew")
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """No block is finished."""
        self.done.clear()
        self.graph.unlink(missing_ok=True)
        self._file.truncate(0)
        self._write({"format": _FORMAT, "problem": self.problem})
        self.sync()

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

    @property
    def due(self) -> bool:
        """Whether it is time to hand everything to the disk."""
        return time.monotonic() - self._synced > _SYNC_SECONDS

    def sync(self) -> None:
        """Note that all blocks so far are on the disk; the matrix itself must be."""
        self._write({"on disk": len(self.done)})
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def forget(self, block: int) -> None:
        """A block that is not what it was recorded as."""
        del self.done[block]

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

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
