"""What the commands of the command line share: reading and writing files, choosing pairs, solving in batches.

NumPy outside, torch inside: codes are cast to the decoder's dtype and device on their way in.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from latentgeo.decoders import Decoder
    from latentgeo.geodesics import Geodesic
    from latentgeo.io import LatentModel
    from latentgeo.metrics import Metric

BATCH = 32  # curves solved at once: enough to share work, few enough for progress to move


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


# --- models ---------------------------------------------------------------------------------------------------------


def load(checkpoint: Path) -> LatentModel:
    """Load a checkpoint; a missing file is named plainly."""
    import latentgeo as lg

    if not checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {checkpoint}")
    return lg.load(checkpoint)


def place(decoder: Decoder, device: str, dtype: Any) -> Decoder:
    """The decoder on a device and in a precision (None: as it is)."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used on this machine: {reason}") from None
    if dtype is not None:
        decoder = decoder.to(getattr(torch, dtype.value))
    if decoder.device is not None and decoder.device != torch.device(device):
        decoder = decoder.to(device)
    return decoder


def metric(decoder: Decoder) -> Metric:
    """The decoder's default metric."""
    import latentgeo as lg

    return lg.metric(decoder)


def own_codes(model: LatentModel, decoder: Decoder) -> Tensor:
    """The codes that a checkpoint carries, as the decoder takes them."""
    import torch

    if model.codes is None:
        raise ValueError("this checkpoint holds no codes; give your own with --codes, or --from and --to")
    return torch.as_tensor(model.codes).to(dtype=decoder.dtype, device=decoder.device)


def image_shape(model: LatentModel) -> tuple[int, ...] | None:
    """The shape of one image, where the training script noted it; None for the decoder's own."""
    shape = model.metadata.get("image_shape")
    return None if shape is None else tuple(int(side) for side in shape)


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
    told_apart = [labels is None or labels[i] != labels[j] for i, j in zip(first, second, strict=True)]
    order = sorted(range(len(first)), key=lambda k: not (told_apart[k] and gap[k] >= sorted(gap)[len(gap) // 2]))
    return first[order[:pairs]], second[order[:pairs]]


# --- solving --------------------------------------------------------------------------------------------------------


def solve(metric: Metric, a: Tensor, b: Tensor, rtol: float) -> Solved:
    """Geodesics from each row of `a` to the same row of `b`, in batches, with progress."""
    import numpy as np
    import torch
    from tqdm import tqdm

    import latentgeo as lg

    started = time.perf_counter()
    paths, columns = [], []
    with tqdm(total=len(a), desc="geodesics", unit="curve", disable=None, leave=False) as bar:
        for lower in range(0, len(a), BATCH):
            ends = a[lower : lower + BATCH], b[lower : lower + BATCH]
            with torch.no_grad():
                path = lg.connect(metric, *ends, solver=lg.Newton(rtol=rtol), throw=False)
                straight = lg.curve_length(metric, torch.stack(ends, dim=-2))
            paths.append(path)
            numbers = (path.length, path.length_error, straight, path.converged)
            columns.append([x.detach().cpu().double().numpy() for x in numbers])
            bar.update(len(ends[0]))
    length, error, straights, converged = (
        (np.concatenate(column) for column in zip(*columns, strict=True)) if columns else (np.zeros(0),) * 4
    )
    status = [s.value for path in paths for s in np.asarray(path.status, dtype=object).reshape(-1)]
    return Solved(paths, length, error, straights, converged.astype(bool), status, time.perf_counter() - started)


def summary(solved: Solved, out: Path | None) -> None:
    """Say how it went; leave with exit code 1 if any curve failed."""
    import numpy as np

    total, good = len(solved.length), int(solved.converged.sum())
    text = f"{total} curves, {good} converged, {solved.seconds:.1f} s"
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


def report(
    solved: Solved, first: NDArray[Any], second: NDArray[Any], labels: list[Any] | None
) -> tuple[list[str], list[list[str]]]:
    """The demo's table: a header and one row of text per curve."""
    from latentgeo.plot.strips import letter

    header = ["pair", "codes", "straight line", "geodesic", "shorter by", "status"]
    if labels is not None:
        header.insert(2, "labels")
    rows = []
    for index, gain in enumerate(shorter(solved)):
        i, j = int(first[index]), int(second[index])
        row = [letter(index), f"{i} → {j}"]
        if labels is not None:
            row.append(f"{labels[i]} → {labels[j]}")
        row += [
            f"{solved.straight[index]:#.4g}",
            with_error(solved.length[index], solved.error[index]),
            f"{gain:.1f} %",
            solved.status[index] if solved.converged[index] else f"failed: {solved.status[index]}",
        ]
        rows.append(row)
    return header, rows


def with_error(value: float, error: float) -> str:
    """A number with its error, to the error's first digit.

    Examples
    --------
    >>> with_error(4.8412, 0.0063), with_error(1234.5, 20.0), with_error(2.0, 0.0)
    ('4.841 ± 0.006', '1234 ± 20', '2 ± 0')
    """
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.6g} ± {error:.1g}"
    digits = min(12, max(0, -math.floor(math.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def aligned(header: list[str], rows: list[list[str]]) -> str:
    """A table as text, columns aligned to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]
    )


def brief(value: Any) -> str:
    """A metadata value on one line."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "…"


# --- files ----------------------------------------------------------------------------------------------------------


def suffix(path: Path, option: str, *allowed: str) -> None:
    """Raise unless a file to write has one of the allowed suffixes."""
    if path.suffix.lower() not in allowed:
        raise ValueError(f"{option} must end in {' or '.join(allowed)}, got {path}")


def need_browser() -> None:
    """Raise unless pictures can be drawn, before any time is spent."""
    from latentgeo import plot

    if plot.browser() is None:
        raise ValueError("--png needs kaleido (pip install 'latentgeo[png]') and Chromium or Chrome; none was found")


def read(path: Path, decoder: Decoder) -> Tensor:
    """Codes (n, d) from a .npy or .csv file; a first CSV line that is no numbers is taken for a header."""
    import numpy as np
    import torch

    suffix(path, "a file of codes", ".npy", ".csv")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of codes at {path}")
    try:
        if path.suffix.lower() == ".npy":
            codes = np.load(path, allow_pickle=False)
        else:
            codes = _read_csv(path)
        codes = np.asarray(codes, dtype=np.float64)
    except (ValueError, TypeError, EOFError) as error:
        raise ValueError(f"{path} could not be read as an array of numbers: {error}") from None
    if codes.ndim != 2 or codes.shape[1] != decoder.latent_dim:
        raise ValueError(
            f"{path} must hold an array of shape (n, {decoder.latent_dim}), one code per row; got {codes.shape}"
        )
    if len(codes) == 0:
        raise ValueError(f"{path} holds no codes")
    bad = int((~np.isfinite(codes).all(axis=1)).sum())
    if bad:
        raise ValueError(f"{path} must hold finite numbers; {bad} of {len(codes)} rows have NaN or infinity")
    return torch.as_tensor(codes).to(dtype=decoder.dtype, device=decoder.device)


def _read_csv(path: Path) -> NDArray[Any]:
    import numpy as np

    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"rows have different numbers of columns: {sorted(widths)}")
    return np.array([[float(cell) for cell in row] for row in rows])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def table(first: NDArray[Any], second: NDArray[Any], solved: Solved) -> np.ndarray[Any, np.dtype[np.void]]:
    """One structured row per curve; text has a fixed width, so that the file loads without pickle."""
    import numpy as np

    width = max((len(s) for s in solved.status), default=1)
    columns = [
        ("from", "i8"),
        ("to", "i8"),
        ("length", "f8"),
        ("length_error", "f8"),
        ("straight_length", "f8"),
        ("converged", "?"),
        ("status", f"U{width}"),
    ]
    # Aligned, because torch takes no index whose stride is not a whole number of its entries.
    rows = np.empty(len(first), dtype=np.dtype(columns, align=True))
    values = (first, second, solved.length, solved.error, solved.straight, solved.converged, solved.status)
    for name, column in zip(rows.dtype.names or (), values, strict=True):
        rows[name] = column
    return rows


def write_table(path: Path, rows: NDArray[Any]) -> None:
    """Write structured rows as .npy, or as .csv with a header."""
    import numpy as np

    if path.suffix.lower() == ".npy":
        np.save(path, rows, allow_pickle=False)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(rows.dtype.names or ())
        writer.writerows([_cell(value) for value in row] for row in rows.tolist())


def _cell(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float) else value


def write_matrix(path: Path, matrix: NDArray[Any]) -> None:
    """Write a matrix as .npy or as .csv without a header."""
    import numpy as np

    if path.suffix.lower() == ".npy":
        np.save(path, matrix, allow_pickle=False)
    else:
        np.savetxt(path, matrix, delimiter=",", fmt="%.9g")
