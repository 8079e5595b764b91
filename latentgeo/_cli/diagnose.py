"""`latentgeo diagnose`: the health report of a checkpoint's geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentgeo._cli import arrays, tables
from latentgeo._cli.source import Source, place


def diagnose(
    source: Source,
    codes: Annotated[Path | None, typer.Option(help="Codes, one per row (.npy, .npz, .csv, .parquet).")] = None,
    codes_key: Annotated[
        str | None, typer.Option(help="Which array of a .npz file holds the codes.", metavar="NAME")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Page to write (.html); it needs no network to open.")] = None,
    json: Annotated[Path | None, typer.Option(help="Figures and findings to write, for programs (.json).")] = None,
    pairs: Annotated[int, typer.Option(help="Random pairs of codes to join by geodesics.", min=1)] = 24,
    seed: Annotated[int, typer.Option(help="Seed of every draw; the same seed gives the same report.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, …")] = "cpu",
) -> None:
    """Health report: can distances in this latent space be trusted, and if not, what is to be done?

    Looks at the metric's rank and condition, at how σ grows off the data, at geodesics against straight lines, at the
    codes' neighbourhood graph, at curvature and at how derivatives are taken.

    Exit code 0: nothing severe was found; 1: something severe was; 2: bad input.
    """
    import latentgeo as lg

    for path, option, endings in ((html, "--html", (".html", ".htm")), (json, "--json", (".json",))):
        if path is not None:
            tables.suffix(path, option, *endings)
    model = source.load()
    decoder = place(model.decoder, device, None)
    if codes is None and model.codes is None:
        raise ValueError("this model holds no codes; give yours with --codes FILE")
    points = None if codes is None else arrays.read_codes(codes, decoder, codes_key)
    for path, option in ((html, "--html"), (json, "--json")):
        if path is not None:
            tables.ready(path, option)
    moved = lg.LatentModel(decoder, codes=model.codes, labels=model.labels)
    report = lg.diagnose(moved, points, n_pairs=pairs, random_state=seed)
    typer.echo(str(report))
    if html is not None:
        typer.echo(f"wrote {report.to_html(html)}")
    if json is not None:
        typer.echo(f"wrote {report.to_json(json)}")
    if not report.healthy:
        raise typer.Exit(1)
