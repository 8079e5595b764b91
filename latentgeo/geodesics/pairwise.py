"""`pairwise_distances`: matrices of distances, streamed block by block, in parallel, resumable.

Shortest paths of a `LatentGraph`, or geodesics refined from them.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .._calculus import check_flag, check_like
from ..io.whole import whole
from ..metrics import Metric, need_metric
from . import _store
from ._blocks import Block, Problem, Result, compute, one_thread, packed, unpacked
from ._fingerprint import digest
from ._record import Record
from ._solvers.newton import Newton
from .connect import need_solver
from .geodesic import Status
from .graph import LatentGraph
from .pairwise_report import PairwiseReport, delivered

__all__ = ["pairwise_distances"]

_WAVE = 4  # blocks per worker that are handed out before the next are
_MOST_WORKERS = 1024  # named by number; −1 takes all that a backend has


def pairwise_distances(
    metric: Metric,
    X: Tensor,
    Y: Tensor | None = None,
    *,
    graph: LatentGraph | None = None,
    refine: bool = False,
    solver: Any = None,
    out: Any = None,
    n_jobs: int | None = None,
    throw: bool = True,
    return_report: bool = False,
    progress: bool | None = None,
) -> Any:
    """Distances between all pairs of codes.

    Lengths of shortest paths in a graph, a per cent or so too long; or, with `refine`, of geodesics that start from
    those paths. The matrix is filled block by block, in bounded memory, by as many workers as joblib is told to use; it
    is the same to the last bit whatever their number. Of a symmetric matrix one half is computed and mirrored.

    Parameters
    ----------
    metric : Metric
    X : Tensor of shape (n, d)
    Y : Tensor of shape (m, d), optional
        None means the same as `X`: a symmetric matrix with zero diagonal.
    graph : LatentGraph, optional
        A graph of the same metric. One that is not fitted yet, or ``LatentGraph(metric)`` where there is none, is
        fitted to the rows of X and Y before the first block; where `out` is a path it is kept beside it (``out`` +
        .graph.npz) until all is done, so that an interrupted job does not build it again.
    refine : bool
        Refine every distance by `connect`; minutes per thousand pairs rather than milliseconds.
    solver : Newton or other solver, optional
        What refines; None means ``Newton()``.
    out : path, array or zarr array of shape (n, m), optional
        Where the matrix goes. A path that ends in .npy makes a file read by memory map, one that ends in .zarr a
        chunked array: **these two are resumable**. A record of finished blocks is kept beside it (``out`` + .progress);
        the same call after an interruption, at whatever moment, computes the missing blocks only. An array is written
        into. None means memory.
    n_jobs : int, optional
        Workers, as in joblib: None means 1, unless `joblib.parallel_config` says otherwise; −1 all processors; at most
        1024 by number. No more are started than there are blocks. The backend is joblib's current one (loky,
        threading, dask, …).
    throw : bool
        Raise once everything is computed if any pair failed. With False, failed pairs are NaN, with a warning unless
        the report is asked for.
    return_report : bool
        Return ``(distances, PairwiseReport)``.
    progress : bool, optional
        Show a progress bar; None means on a terminal.

    Returns
    -------
    Tensor, memmap or zarr array of shape (n, m)
        In units of the metric's embedding: a tensor like X where `out` is None, else what is at `out` (read-only where
        that is a path). **inf where no path of finite length joins two codes**, NaN where a refinement failed.

    Raises
    ------
    PairwiseError
        If ``throw`` and any pair failed; the whole matrix is on the error (and at `out`).
    ValueError, TypeError
        If an argument has the wrong shape, dtype or device or holds NaN; if `out` is another problem's file.
    FileExistsError
        If `out` exists and was not made by this function.
    OSError
        If there is no room for `out`, before anything is computed.

    References
    ----------
    .. [1] Chen et al., "Fast Approximate Geodesics for Deep Generative Models", 2019, arXiv:1812.08284.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> Z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> (pairwise_distances(Sphere(2), Z, refine=True) / torch.pi).round(decimals=4)
    tensor([[0.0000, 0.5000, 0.5000],
            [0.5000, 0.0000, 0.5000],
            [0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    for name, flag in (("refine", refine), ("throw", throw), ("return_report", return_report)):
        check_flag(flag, name)
    check_flag(progress, "progress", optional=True)
    _check(metric, X, Y, graph, refine, solver, n_jobs)
    X, Y = X.detach(), None if Y is None else Y.detach()
    graph = LatentGraph(metric) if graph is None else graph
    solver = (Newton() if solver is None else solver) if refine else None
    shape = (len(X), len(X) if Y is None else len(Y))
    number = np.dtype(str(X.dtype).removeprefix("torch."))
    sources, others = (Y, X) if Y is not None and len(Y) < len(X) else (X, Y)
    flip = sources is not X
    outline = Problem(graph, sources, others, refine, solver, number)
    blocks = outline.blocks()
    target, path = _store.open_target(out, shape, number)
    record = None if path is None else Record(path, _described(metric, X, Y, graph, refine, solver, outline))
    with nullcontext() if record is None else closing(record), one_thread():
        if record is not None and path is not None:
            record.open()
            target = _store.open_or_create(path, shape, number, outline.chunk)
            for k in record.unsure:
                if _checksums(target, blocks[k], flip, Y is None) != record.done[k]["sums"]:
                    record.forget(k)
        done: dict[int, dict[str, Any]] = {} if record is None else record.done
        resumed = len(done)
        todo = [block for block in blocks if block.number not in done]
        if todo and min(shape) > 0:
            keep = None if record is None or graph.fitted else record.graph
            problem = dataclasses.replace(outline, graph=_graph(metric, X, Y, graph, keep, progress)).prepared()
            _fill(problem, todo, target, record, done, flip, n_jobs, _bar(blocks, todo, progress))
            if record is not None:
                target.flush()
                record.sync()
                record.graph.unlink(missing_ok=True)
    report = _report(outline, blocks, done, resumed, flip)
    distances = _result(out, path, target, X, shape, number)
    return delivered(distances, report, throw=throw, return_report=return_report)


# --- the problem ------------------------------------------------------------------------------------------------------


def _check(metric: Metric, X: Any, Y: Any, graph: Any, refine: bool, solver: Any, n_jobs: Any) -> None:
    need_metric(metric)
    for name, Z in (("X", X), ("Y", Y)):
        if name == "Y" and Z is None:
            continue
        metric.check(Z, name=name)
        if Z.ndim != 2:
            raise ValueError(f"`{name}` must have shape (n, d), got {tuple(Z.shape)}")
        bad = (~Z.isfinite().all(-1)).nonzero()[:, 0].tolist()
        if bad:
            shown = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
            raise ValueError(f"`{name}` must be finite, got NaN or inf in {len(bad)} of {len(Z)} rows: {shown}")
    if Y is not None:
        check_like(Y, X, "Y", like="X")
    if solver is not None and not refine:
        raise ValueError(f"`solver` must come with refine=True, got {solver!r} without")
    need_solver(solver)
    if n_jobs is not None:
        whole = isinstance(n_jobs, (int, np.integer)) and not isinstance(n_jobs, bool)
        if not whole or n_jobs == 0 or n_jobs > _MOST_WORKERS:
            raise ValueError(
                f"`n_jobs` must be None or an integer other than 0, such as 2 or -1, and at most {_MOST_WORKERS}, got "
                f"{n_jobs!r}"
            )
    if graph is None:
        return
    if not isinstance(graph, LatentGraph):
        raise TypeError(f"`graph` must be a LatentGraph or None, got {type(graph).__name__}")
    if graph.fitted and graph.codes_.shape[1] != X.shape[1]:
        raise ValueError(
            f"`graph` must be of {X.shape[1]}-d codes like `X`, got one of {graph.codes_.shape[1]}-d codes"
        )
    if graph.metric is not metric and digest(graph.metric) != digest(metric):
        raise ValueError("`graph` must have been built for the same metric")


def _described(
    metric: Metric, X: Tensor, Y: Tensor | None, graph: LatentGraph, refine: bool, solver: Any, outline: Problem
) -> dict[str, Any]:
    """What makes the matrix what it is, in words that tell problems apart."""
    from importlib.metadata import version

    if graph.fitted:
        kind = digest(graph.weights_.data, graph.weights_.indices, graph.nodes_, graph.network_.nodes.table())
    else:
        kind = f"fitted to X and Y, {graph.options}"
    return {
        "metric": digest(metric),
        "X": digest(X),
        "Y": "X" if Y is None else digest(Y),
        "graph": kind,
        "refine": refine,
        "solver": repr(solver),
        "dtype": str(outline.dtype),
        "shape": list(outline.shape),
        "version": version("latentgeo"),
        "blocks": len(outline.blocks()),
    }


def _graph(
    metric: Metric, X: Tensor, Y: Tensor | None, graph: LatentGraph, keep: Path | None, progress: bool | None
) -> LatentGraph:
    """The graph given, the one an interrupted job left, or a new one."""
    if graph.fitted:
        return graph
    if keep is not None and keep.exists():
        return LatentGraph.load(keep, metric)
    codes = X if Y is None else torch.cat([X, Y])
    if len(codes) == 1:
        codes = codes.expand(2, -1)
    built = LatentGraph(metric, progress=bool(progress), **graph.options).fit(codes)
    if keep is not None:
        with whole(keep) as place:
            built.save(place)
    return built


# --- filling ----------------------------------------------------------------------------------------------------------


def _fill(
    problem: Problem,
    todo: list[Block],
    target: _store.Target,
    record: Record | None,
    done: dict[int, dict[str, Any]],
    flip: bool,
    n_jobs: int | None,
    bar: Any,
) -> None:
    """Compute blocks and write them as they come; each is recorded after it is written."""
    symmetric = problem.others is None
    with bar:
        for result in _results(problem, todo, n_jobs):
            rows, cols = result.block.rows, result.block.cols
            if flip:
                target.write(cols, rows, result.values.T)
            else:
                target.write(rows, cols, result.values)
            if symmetric:
                target.write(cols, rows, result.values.T)
            facts = {"failed": result.failed, "infinite": result.infinite, "seconds": round(result.seconds, 3)}
            if record is None:
                done[result.block.number] = facts
            else:
                sums = _checksums(target, result.block, flip, symmetric)
                record.add(result.block.number, **facts, sums=sums)
                if record.due:
                    target.flush()
                    record.sync()
            bar.update(_size(result.block))


def _checksums(target: _store.Target, block: Block, flip: bool, symmetric: bool) -> list[int]:
    """Of a block as it stands in the matrix, and of its mirror image."""
    places = [(block.cols, block.rows) if flip else (block.rows, block.cols)]
    places += [(block.cols, block.rows)] if symmetric else []
    return [zlib.crc32(np.ascontiguousarray(target.read(*place)).data) for place in places]


def _results(problem: Problem, todo: list[Block], n_jobs: int | None) -> Iterator[Result]:
    """Blocks in their order, from joblib's workers; never more than a few for each wait to be written."""
    key = digest(os.urandom(16), time.time())
    jobs = min(joblib.effective_n_jobs(n_jobs), len(todo))  # more would only be started and sent home
    with unpacked(key, problem):
        if jobs == 1:
            yield from (compute(key, None, block) for block in todo)
            return
        package = packed(problem)
        try:
            pool = joblib.Parallel(n_jobs=jobs, return_as="generator")
        except ValueError:  # a backend that can only return lists
            pool = joblib.Parallel(n_jobs=jobs)
        with pool:
            for i in range(0, len(todo), _WAVE * jobs):
                yield from pool(joblib.delayed(compute)(key, package, block) for block in todo[i : i + _WAVE * jobs])


def _size(block: Block) -> int:
    return (block.rows.stop - block.rows.start) * (block.cols.stop - block.cols.start)


def _bar(blocks: Sequence[Block], todo: Sequence[Block], progress: bool | None) -> Any:
    """A progress bar over distances; None shows it on a terminal."""
    total, rest = sum(map(_size, blocks)), sum(map(_size, todo))
    hidden = None if progress is None else not progress
    return tqdm(
        total=total, initial=total - rest, desc="distances", unit="", unit_scale=True, disable=hidden, leave=False
    )


# --- results ----------------------------------------------------------------------------------------------------------


def _report(
    outline: Problem, blocks: Sequence[Block], done: dict[int, dict[str, Any]], resumed: int, flip: bool
) -> PairwiseReport:
    n, m = outline.shape
    failed = sorted(
        (tuple(pair[1::-1] if flip else pair[:2]), pair[2]) for facts in done.values() for pair in facts["failed"]
    )
    return PairwiseReport(
        n_pairs=n * (n - 1) // 2 if outline.others is None else n * m,
        failed=np.array([pair for pair, _ in failed], dtype=np.int64).reshape(-1, 2),
        status=tuple(Status[name] for _, name in failed),
        n_infinite=sum(facts["infinite"] for facts in done.values()),
        n_blocks=len(blocks),
        n_resumed=resumed,
        seconds=math.fsum(facts["seconds"] for facts in done.values()),
    )


def _result(
    out: Any, path: Path | None, target: _store.Target, X: Tensor, shape: tuple[int, int], number: np.dtype[Any]
) -> Any:
    if path is not None:
        return _store.reopen(path, shape, number, write=False)
    if out is not None:
        return out
    return torch.from_numpy(target.array).to(X)
