"""`latentgeo distances`: geodesics between pairs of codes, in a table or a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentgeo._cli import arrays, solving, tables
from latentgeo._cli.options import Codes, CodesKey, Device, Precision, Rtol, Seed, Start, Starts
from latentgeo._cli.source import Source, place


def distances(
    source: Source,
    out: Annotated[Path, typer.Option(help="File to write: .npy or .csv.")],
    codes: Codes = None,
    pairs: Annotated[
        int | None, typer.Option(help="Take this many random pairs of --codes, or of the checkpoint's own.", min=1)
    ] = None,
    start: Annotated[Path | None, typer.Option("--from", help="Codes that the curves start at, one per row.")] = None,
    end: Annotated[Path | None, typer.Option("--to", help="Codes that the curves end at, one per row.")] = None,
    codes_key: CodesKey = None,
    starts: Starts = Start.straight,
    rtol: Rtol = 1e-2,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = None,
) -> None:
    """Geodesic distances between latent codes.

    Say which codes: --codes alone for the matrix of all distances between them, --codes with --pairs for random
    pairs of them, --from with --to for row by row. Without any: random pairs of the checkpoint's own codes
    (100 if --pairs is not given).

    For pairs, the file has one row each: from, to, length, length_error, straight_length, converged, status
    (a .npy file holds these as a structured array). For a matrix it is the symmetric array of lengths, NaN where a
    curve failed. Lengths are in data units for the expected metric.

    Exit code 0: all curves converged; 1: some failed (all is written); 2: bad input. Interrupted, it has written
    nothing; `latentgeo pairwise` can be resumed.
    """
    import numpy as np

    import latentgeo as lg

    tables.suffix(out, "--out", ".npy", ".csv")
    if (codes is not None or pairs is not None) and (start is not None or end is not None):
        raise ValueError("--from and --to must be given without --codes or --pairs: they say already what to join")
    if (start is None) != (end is None):
        raise ValueError("--from and --to must go together: each row of one is joined to the same row of the other")
    model = source.load()
    decoder = place(model.decoder, device, dtype)
    if start is not None and end is not None:
        a, b = (arrays.read_codes(path, decoder, codes_key) for path in (start, end))
        if len(a) != len(b) and 1 not in (len(a), len(b)):
            raise ValueError(f"--from and --to must have equally many rows, or one; got {len(a)} and {len(b)}")
        count = max(len(a), len(b))
        first, second = np.arange(count) % len(a), np.arange(count) % len(b)
        a, b = a[first], b[second]
    else:
        if codes is None:
            points = solving.own_codes(model, decoder, "give yours with --codes FILE, or --from FILE and --to FILE")
        else:
            points = arrays.read_codes(codes, decoder, codes_key)
        if codes is not None and pairs is None:
            first, second = np.triu_indices(len(points), 1)
        else:
            first, second = solving.choose(len(points), pairs or 100, seed)
        a, b = points[first], points[second]

    tables.ready(out)
    nodes = None if starts is Start.straight else solving.nodes_of(model, decoder, a, b)
    solved = solving.solve(lg.metric(decoder), a, b, rtol, nodes=nodes, keep=False)
    if codes is not None and pairs is None:
        matrix = np.zeros((len(points), len(points)))
        matrix[first, second] = matrix[second, first] = np.where(solved.converged, solved.length, np.nan)
        tables.write_matrix(out, matrix)
    else:
        tables.write_table(out, tables.table(first, second, solved))
    solving.summary(solved, out)
