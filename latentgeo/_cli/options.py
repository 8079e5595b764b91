"""Options that several commands have: one name, one meaning, one text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(StrEnum):
    """Floating-point precision of the computation."""

    float32 = "float32"
    float64 = "float64"


class Start(StrEnum):
    """Where curves start from."""

    straight = "straight"
    graph = "graph"


Starts = Annotated[
    Start,
    typer.Option(
        "--start",
        help="Curves start from straight lines, or from shortest paths in a graph over the codes: these come out "
        "nearly the shortest of all in two dimensions, for the time that building it takes.",
    ),
]
Codes = Annotated[
    Path | None,
    typer.Option(help="Codes, one per row (.npy, .npz, .csv, .parquet); the checkpoint's own if not given."),
]
CodesKey = Annotated[
    str | None, typer.Option(help="Which array of a .npz file holds the codes, if there are several.", metavar="NAME")
]
Labels = Annotated[
    Path | None,
    typer.Option(help="True classes of --codes, one whole number per row; the checkpoint's own codes bring theirs."),
]
Arrays = Annotated[Path, typer.Option(help="File of arrays to write (.npz).")]
Png = Annotated[
    bool, typer.Option("--png", help="Write a .png beside the page, of the same name (needs Chromium or Chrome).")
]
Json = Annotated[Path | None, typer.Option(help="Figures to write, for programs (.json).")]
ImageShape = Annotated[
    str | None,
    typer.Option(help="Shape of one decoded image; the decoder's own if not given.", metavar="28x28|3x32x32"),
]
Resolution = Annotated[int, typer.Option(help="Grid points along a map's shorter side.", min=8, max=2000)]
Rtol = Annotated[float, typer.Option(help="Relative error allowed on each length.", min=1e-12, max=0.5)]
Seed = Annotated[int, typer.Option(help="Seed of everything random; the same seed gives the same result.", min=0)]
Jobs = Annotated[int, typer.Option(help="Processes; -1 for one per processor. The result is the same.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, …")]
Precision = Annotated[
    Dtype | None, typer.Option("--dtype", help="Precision to compute in; that of the checkpoint if not given.")
]


def check_jobs(n_jobs: int) -> None:
    """Raise where `Jobs` is no number of processes."""
    if n_jobs == 0:
        raise ValueError("--n-jobs must be a number of processes, or -1; got 0")


def check_labels(labels: Path | None, codes: Path | None) -> None:
    """Raise where `Labels` come without the codes whose they are."""
    if labels is not None and codes is None:
        raise ValueError("--labels must go with --codes, whose classes they are; a checkpoint's own codes bring theirs")
