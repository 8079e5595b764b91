"""What the commands write: tables and arrays in files, each whole or not at all; tables as text."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from latentgeo._cli.solving import Solved, shorter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from plotly.graph_objects import Figure

    from latentgeo.decoders import Decoder
    from latentgeo.io import LatentModel

PAGES = (".html", ".htm")


def suffix(path: Path | None, option: str, *allowed: str) -> None:
    """Raise unless a file to write, if there is one, has one of the allowed suffixes."""
    if path is not None and path.suffix.lower() not in allowed:
        raise ValueError(f"{option} must end in {' or '.join(allowed)}, got {path}")


def page_suffix(html: Path | None, png: bool) -> None:
    """Raise unless a page, and a picture beside it, can be written as asked for, before any time is spent."""
    suffix(html, "--html", *PAGES)
    if png and html is None:
        raise ValueError("--png must go with --html FILE, beside which the picture is written")
    if png:
        need_browser()


def ready(path: Path | None, option: str = "--out") -> None:
    """Make the folder of a file to write, if any; raise if it cannot be written, before any time is spent."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        folder = Path(os.path.realpath(path)).parent  # files are written beside their place first
        if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise PermissionError("permission denied")
    except OSError as error:
        raise ValueError(
            f"{option} must be a file that can be written; got {path}: {error.strerror or error}"
        ) from None


def need_browser() -> None:
    """Raise unless pictures can be drawn, before any time is spent."""
    from latentgeo import plot

    if plot.browser() is None:
        raise ValueError("--png needs kaleido (pip install 'latentgeo[png]') and Chromium or Chrome; none was found")


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

    from latentgeo.io.whole import whole

    with whole(path) as place:
        if path.suffix.lower() == ".npy":
            np.save(place, rows, allow_pickle=False)
            return
        with place.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(rows.dtype.names or ())
            writer.writerows([_cell(value) for value in row] for row in rows.tolist())


def _cell(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float) else value


def write_matrix(path: Path, matrix: NDArray[Any]) -> None:
    """Write a matrix as .npy or as .csv without a header."""
    import numpy as np

    from latentgeo.io.whole import whole

    with whole(path) as place:
        if path.suffix.lower() == ".npy":
            np.save(place, matrix, allow_pickle=False)
        else:
            np.savetxt(place, matrix, delimiter=",", fmt="%.9g")


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write named arrays as .npz."""
    import numpy as np

    from latentgeo.io.whole import whole

    with whole(path) as place:
        np.savez_compressed(place, **arrays)


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write figures for programs, and say so."""
    from latentgeo.io.whole import whole

    with whole(path) as place:
        place.write_text(json.dumps(figures, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    typer.echo(f"wrote {path}")


def write_page(figure: Figure, path: Path, png: bool, **page: Any) -> None:
    """Write a page, and if asked for its picture beside it, and say so."""
    from latentgeo import plot

    typer.echo(f"wrote {plot.write_html(figure, path, **page)}")
    if png:
        typer.echo(f"wrote {plot.write_figure(figure, path.with_suffix('.png'))}")


def report(
    solved: Solved, first: NDArray[Any], second: NDArray[Any], labels: list[Any] | None
) -> tuple[list[str], list[list[str]]]:
    """The demo's table: a header and one row of text per curve."""
    from latentgeo.plot.theme import letter

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


def image_shape(model: LatentModel, given: str | None = None) -> tuple[int, ...] | None:
    """The shape of one image, given or noted by the training script; None for the decoder's own."""
    noted = model.metadata.get("image_shape")
    if given is None:
        return None if noted is None else tuple(int(side) for side in noted)
    size = model.decoder.data_dim
    wanted = f"--image-shape must be heightxwidth or 3xheightxwidth, {size} numbers in all"
    try:
        shape = tuple(int(side) for side in given.lower().replace("×", "x").split("x"))
    except ValueError:
        raise ValueError(f"{wanted}; got {given!r}") from None
    image = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))
    if not image or min(shape) < 1 or math.prod(shape) != size:
        raise ValueError(f"{wanted}; got {given!r}")
    return shape


def derivatives(decoder: Decoder) -> str:
    """How the derivatives of a decoder's embedding are taken, or why it has none."""
    try:
        decoder.embedding.probe()
    except ValueError as error:
        return f"refused: {' '.join(str(error).split())}"
    return repr(decoder.embedding)


def pictured(decoder: Decoder, shape: tuple[int, ...] | None) -> bool:
    """Whether decoded data can be drawn: images, and vectors short enough to be a column of cells."""
    shape = tuple(decoder.data_shape) if shape is None else shape
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)) or decoder.data_dim <= 64
