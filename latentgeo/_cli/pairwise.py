"""`latentgeo pairwise`: the matrix of distances between all codes, in a file, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentgeo._cli import arrays, options, solving, tables
from latentgeo._cli.options import Codes, CodesKey, Device, Jobs, Precision
from latentgeo._cli.source import Source, place


def pairwise(
    source: Source,
    out: Annotated[Path, typer.Option(help="Matrix to write: .npy, or .zarr (a folder of chunks).")],
    codes: Codes = None,
    to: Annotated[
        Path | None, typer.Option(help="Codes of the columns, if not those of the rows: a rectangular matrix.")
    ] = None,
    codes_key: CodesKey = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Geodesics refined from the shortest paths: exact, but far slower.")
    ] = False,
    rtol: Annotated[
        float | None,
        typer.Option(help="With --refine: relative error allowed on each length (1e-3).", min=1e-12, max=0.5),
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option(
            help="Nodes of the graph along each axis (128 for 2-D codes); 0 makes the codes its nodes.", min=0
        ),
    ] = None,
    n_jobs: Jobs = 1,
    device: Device = "cpu",
    dtype: Precision = None,
) -> None:
    """Matrix of distances between all codes (or from those of --codes to those of --to), resumable.

    Distances are those of shortest paths in a graph, a per cent or so too long; --refine makes geodesics of them.
    Rows and columns are in the order of the codes: those of --codes, or the checkpoint's own. inf: no path of finite
    length joins two codes; NaN: the refinement failed.

    Interrupt it whenever you like: the same command goes on where it stopped. Until it is done, OUT has NaN where
    nothing was computed yet; OUT.progress is the record of finished blocks.

    Exit code 0: done; 1: some refinements failed (all is written); 2: bad input.
    """
    import latentgeo as lg

    tables.suffix(out, "--out", ".npy", ".zarr")
    if rtol is not None and not refine:
        raise ValueError(f"--rtol must go with --refine, got {rtol} without")
    options.check_jobs(n_jobs)
    model = source.load()
    decoder = place(model.decoder, device, dtype)
    X = solving.codes_of(model, decoder, codes, codes_key)
    Y = None if to is None else arrays.read_codes(to, decoder, codes_key)
    out.parent.mkdir(parents=True, exist_ok=True)
    metric = lg.metric(decoder)
    distances, report = lg.pairwise_distances(
        metric,
        X,
        Y,
        graph=None if grid is None else lg.LatentGraph(metric, grid=grid),
        refine=refine,
        solver=None if rtol is None else lg.Newton(rtol=rtol),
        out=out,
        n_jobs=n_jobs,
        throw=False,
        return_report=True,
    )
    resumed = f", {report.n_resumed} of {report.n_blocks} blocks found finished" if report.n_resumed else ""
    typer.echo(f"{'×'.join(map(str, distances.shape))} distances, {report.seconds:.1f} s of computing{resumed}")
    if report.n_infinite:
        typer.echo(f"{report.n_infinite} pairs are inf: the metric is not finite between them")
    typer.echo(f"wrote {out}")
    if len(report.failed):
        i, j = report.failed[0]
        typer.echo(
            f"latentgeo: {len(report.failed)} of {report.n_pairs} distances failed and are NaN, the first in row {i}, "
            f"column {j} ({report.reasons()})",
            err=True,
        )
        raise typer.Exit(1)
