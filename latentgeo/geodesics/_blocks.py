"""Blocks of a distance matrix: which there are, how one is computed, and how workers come by the problem.

Blocks follow from the problem alone, never from the number of workers, and each is computed on one thread: the same
numbers to the last bit, whoever computes them.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import Metric
from ._ruler import Anchors
from .geodesic import Status
from .graph import LatentGraph

try:
    import cloudpickle  # type: ignore[import-untyped]  # it has no annotations
except ImportError:  # joblib before 1.6 brings its own
    from joblib.externals import cloudpickle

__all__ = ["Block", "Problem", "Result", "compute", "one_thread", "packed", "unpacked"]

_ROWS = 64  # searches of a block, at most
_ENTRIES = 2**22  # distances of a block, about
_CHUNK = 256  # rows and columns of a chunk of a zarr file, about
_TILE = 16  # rows and columns of a block of refined distances
_START_POINTS = 257  # of the polygon that a refined curve starts from


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows and columns of the matrix, and for a symmetric one whether to write them mirrored too."""

    number: int
    rows: slice
    cols: slice


@dataclasses.dataclass(frozen=True)
class Result:
    """Values (r, c) of a block, and the pairs in it that failed: row, column, name of the status."""

    block: Block
    values: NDArray[Any]
    failed: list[tuple[int, int, str]]
    infinite: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Problem:
    """All distances between two sets of codes. Sources are the smaller set; None for `others` means a symmetric one."""

    graph: LatentGraph
    sources: Tensor
    others: Tensor | None
    refine: bool
    solver: Any
    dtype: np.dtype[Any]
    attached: tuple[Anchors, Anchors] | None = None

    @property
    def metric(self) -> Metric:
        """The graph's."""
        return self.graph.metric

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of sources and of others."""
        n = len(self.sources)
        return n, n if self.others is None else len(self.others)

    @property
    def step(self) -> int:
        """Rows of a block."""
        return _TILE if self.refine else max(1, min(_ROWS, _ENTRIES // max(1, self.shape[1])))

    @property
    def chunk(self) -> int:
        """Rows and columns of a chunk on disk: whole blocks, and not too small."""
        return self.step * max(1, _CHUNK // self.step)

    def blocks(self) -> list[Block]:
        """All blocks; of a symmetric problem those on and right of the diagonal."""
        n, m = self.shape
        found: list[Block] = []
        width = _TILE if self.refine else max(1, m)
        for i in range(0, n, self.step):
            first = i if self.others is None else 0
            for j in range(first, m, width):
                found.append(Block(len(found), slice(i, min(i + self.step, n)), slice(j, min(j + width, m))))
        return found

    def compute(self, block: Block) -> Result:
        """Distances of one block."""
        started = time.perf_counter()
        values, failed = self._refined(block) if self.refine else (self._shortest(block), [])
        lost = np.isinf(values)
        if self.others is None and block.rows.start == block.cols.start:
            lost[:, : len(lost)] = np.triu(lost[:, : len(lost)])  # each pair once
        infinite = int(lost.sum())
        return Result(block, values.astype(self.dtype), failed, infinite, time.perf_counter() - started)

    # --- shortest paths -----------------------------------------------------------------------------------------------

    def prepared(self) -> Problem:
        """With both sets attached to the graph, which is done once and not by every worker."""
        if self.refine:
            return self
        some = self.graph.attach(self.sources)
        return dataclasses.replace(
            self, attached=(some, some if self.others is None else self.graph.attach(self.others))
        )

    def _index(self, others: Anchors) -> Any:
        """What close points are looked up in; built once in each process."""
        if "_kept" not in self.__dict__:
            object.__setattr__(self, "_kept", self.graph.network_.nodes.index(others))
        return self.__dict__["_kept"]

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def _shortest(self, block: Block) -> NDArray[Any]:
        if self.attached is None:
            raise RuntimeError("the points are not attached to the graph yet")
        some, others = self.attached
        values = self.graph.network_.between(some.take(block.rows), others, self._index(others))[:, block.cols]
        if self.others is None:
            size = len(values)
            corner = np.triu(values[:, :size], 1)
            values[:, :size] = corner + corner.T
        return values

    # --- geodesics ----------------------------------------------------------------------------------------------------

    def _refined(self, block: Block) -> tuple[NDArray[Any], list[tuple[int, int, str]]]:
        from .connect import connect

        i, j = (x.ravel() for x in np.mgrid[block.rows, block.cols])
        values = np.zeros((block.rows.stop - block.rows.start, block.cols.stop - block.cols.start))
        if self.others is None:
            i, j = i[i < j], j[i < j]
        if not len(i):
            return values, []
        a, b = self.sources[i], (self.sources if self.others is None else self.others)[j]
        start: LatentGraph | Tensor = self.graph
        if self.metric.period is None:
            start = self.graph.paths(a, b, _START_POINTS)
        path = connect(self.metric, a, b, solver=self.solver, init=start, throw=False)
        length = torch.where(path.converged, path.length, torch.nan).double().cpu().numpy()
        failed = [
            (int(p), int(q), s.name) for p, q, s in zip(i, j, path.status, strict=True) if s is not Status.CONVERGED
        ]
        row, col = i - block.rows.start, j - block.cols.start
        values[row, col] = length
        if self.others is None and block.rows.start == block.cols.start:
            values[col, row] = length
        return values, failed


# --- in workers -------------------------------------------------------------------------------------------------------

_HERE: dict[str, Problem] = {}  # the problem that this process works on
_TURN = threading.Lock()  # forward-mode differentiation cannot be done by two threads at once


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch's: the rounding of a sum depends on how many share it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def unpacked(key: str, problem: Problem) -> Iterator[None]:
    """Let workers in this very process use the problem as it is."""
    _HERE[key] = problem
    try:
        yield
    finally:
        _HERE.pop(key, None)


def packed(problem: Problem) -> NDArray[Any]:
    """The problem by value, as an array: joblib's backends share those between processes without copying."""
    return np.frombuffer(cloudpickle.dumps(problem), dtype=np.uint8)


def compute(key: str, package: NDArray[Any] | None, block: Block) -> Result:
    """One block, in whatever process; the problem is unpacked once in each."""
    with _TURN, one_thread():
        problem = _HERE.get(key)
        if problem is None:
            problem = cloudpickle.loads(np.asarray(package).data)
            _HERE.clear()
            _HERE[key] = problem
        return problem.compute(block)
