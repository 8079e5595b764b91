"""Pairs of codes and the geodesics between them, solved in batches with progress."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from latentgeo._cli import arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from latentgeo.decoders import Decoder
    from latentgeo.geodesics import Geodesic
    from latentgeo.io import LatentModel
    from latentgeo.metrics import Metric

BATCH = 32  # curves solved at once: enough to share work, few enough for progress to move
SILENCE = 30.0  # seconds after which progress is told where no bar can be drawn


@dataclass(frozen=True, eq=False)
class Solved:
    """Curves of several batches, joined."""

    paths: list[Geodesic]
    length: NDArray[Any]
    error: NDArray[Any]
    straight: NDArray[Any]
    converged: NDArray[Any]
    status: list[str]
    seconds: float


def own_codes(model: LatentModel, decoder: Decoder, advice: str = "give yours with --codes FILE") -> Tensor:
    """The codes that a checkpoint carries, as the decoder takes them."""
    import torch

    if model.codes is None:
        raise ValueError(f"this model holds no codes; {advice}")
    return torch.as_tensor(model.codes).to(dtype=decoder.dtype, device=decoder.device)


def codes_of(model: LatentModel, decoder: Decoder, path: Path | None, key: str | None) -> Tensor:
    """The codes of --codes, or the checkpoint's own."""
    return own_codes(model, decoder) if path is None else arrays.read_codes(path, decoder, key)


def nodes_of(model: LatentModel, decoder: Decoder, a: Tensor, b: Tensor) -> Tensor:
    """The codes that a graph for these pairs is fitted to: the checkpoint's own, where it has some, and the ends."""
    import torch

    ends = torch.cat([a, b]).unique(dim=0)
    return ends if model.codes is None else torch.cat([own_codes(model, decoder), ends]).unique(dim=0)


def labels_of(model: LatentModel, codes: Path | None, labels: Path | None, count: int) -> NDArray[Any] | None:
    """The classes of --labels for the codes of --codes, or the checkpoint's own for its own."""
    import numpy as np

    if labels is None:
        return None if model.labels is None or codes is not None else np.asarray(model.labels)
    read = arrays.read_array(labels, what="classes")
    if read.size != count or max(read.shape) != count:
        raise ValueError(f"{labels} must hold one class for each of the {count} codes; got {read.shape}")
    if not np.array_equal(read, np.round(read)):
        raise ValueError(f"{labels} must hold whole numbers, one class for each code")
    return read.ravel().astype(np.int64)


def choose(count: int, pairs: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Random pairs of different codes."""
    import numpy as np

    if count < 2:
        raise ValueError(f"at least 2 codes are needed to make pairs, got {count}")
    rng = np.random.default_rng(seed)
    first = rng.integers(count, size=pairs)
    return first, (first + rng.integers(1, count, size=pairs)) % count


def choose_far(points: Tensor, pairs: int, seed: int, labels: list[Any] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Random pairs further apart in latent space than half of all pairs, of different labels where there are some."""
    first, second = choose(len(points), 64 * pairs, seed)
    gap = (points[first] - points[second]).norm(dim=-1).cpu().numpy()
    half = sorted(gap)[len(gap) // 2]
    told_apart = [labels is None or labels[i] != labels[j] for i, j in zip(first, second, strict=True)]
    order = sorted(range(len(first)), key=lambda k: not (told_apart[k] and gap[k] >= half))
    return first[order[:pairs]], second[order[:pairs]]


def solve(
    metric: Metric, a: Tensor, b: Tensor, rtol: float, *, nodes: Tensor | None = None, keep: bool = True
) -> Solved:
    """Geodesics from each row of `a` to the same row of `b`, in batches, with progress; `keep` keeps the curves.

    They start from straight lines, or from shortest paths in a graph over the codes `nodes`.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    import latentgeo as lg

    started = time.perf_counter()
    paths: list[Geodesic] = []
    columns: list[list[NDArray[Any]]] = []
    status: list[str] = []
    told = started
    graph = None if nodes is None else lg.LatentGraph(metric).fit(nodes)
    with tqdm(total=len(a), desc="geodesics", unit="curve", disable=None, leave=False) as bar:
        for lower in range(0, len(a), BATCH):
            ends = a[lower : lower + BATCH], b[lower : lower + BATCH]
            with torch.no_grad():
                path = lg.connect(metric, *ends, solver=lg.Newton(rtol=rtol), init=graph, throw=False)
                straight = lg.curve_length(metric, torch.stack(ends, dim=-2))
            if keep:
                paths.append(path)
            status += [s.value for s in np.asarray(path.status, dtype=object).reshape(-1)]
            numbers = (path.length, path.length_error, straight, path.converged)
            columns.append([x.detach().cpu().double().numpy() for x in numbers])
            bar.update(len(ends[0]))
            if bar.disable and (now := time.perf_counter()) - told > SILENCE:
                told = now
                typer.echo(f"{lower + len(ends[0])} of {len(a)} curves, {now - started:.0f} s", err=True)
    length, error, straights, converged = (
        (np.concatenate(column) for column in zip(*columns, strict=True)) if columns else (np.zeros(0),) * 4
    )
    return Solved(paths, length, error, straights, converged.astype(bool), status, time.perf_counter() - started)


def summary(solved: Solved, out: Path | None) -> None:
    """Say how it went; leave with exit code 1 if any curve failed."""
    import numpy as np

    total, good = len(solved.length), int(solved.converged.sum())
    text = f"{total} {'curve' if total == 1 else 'curves'}, {good} converged, {solved.seconds:.1f} s"
    gain = shorter(solved)[solved.converged]
    if np.isfinite(gain).any():
        text += f"; geodesics are {np.nanmedian(gain):.1f} % shorter than straight lines (median)"
    typer.echo(text)
    if out is not None:
        typer.echo(f"wrote {out}")
    if good < total:
        failed = Counter(s for s, c in zip(solved.status, solved.converged, strict=True) if not c)
        for advice, count in failed.most_common():
            typer.echo(f"{count} failed: {advice}", err=True)
        raise typer.Exit(1)


def shorter(solved: Solved) -> NDArray[Any]:
    """By how many per cent each geodesic is shorter than the straight line; NaN where that has no length."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(solved.straight > 0, 100 * (1 - solved.length / solved.straight), np.nan)
