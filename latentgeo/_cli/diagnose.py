"""`latentgeo diagnose`: the health report of a checkpoint's geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentgeo._cli import arrays, tables
from latentgeo._cli.options import Codes, CodesKey, Device, Json, Precision, Seed
from latentgeo._cli.source import Source, place


def diagnose(
    source: Source,
    codes: Codes = None,
    codes_key: CodesKey = None,
    html: Annotated[Path | None, typer.Option(help="Page to write (.html); it needs no network to open.")] = None,
    json: Json = None,
    pairs: Annotated[int, typer.Option(help="Random pairs of codes to join by geodesics.", min=1)] = 24,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = None,
) -> None:
    """Health report: can distances in this latent space be trusted, and if not, what is to be done?

    Looks at the metric's rank and condition, at how σ grows off the data, at geodesics against straight lines, at the
    codes' neighbourhood graph, at curvature and at how derivatives are taken.

    Exit code 0: nothing severe was found; 1: something severe was; 2: bad input. Interrupted, it has written nothing.
    """
    import latentgeo as lg

    tables.suffix(html, "--html", *tables.PAGES)
    tables.suffix(json, "--json", ".json")
    model = source.load()
    decoder = place(model.decoder, device, dtype)
    if codes is None and model.codes is None:
        raise ValueError("this model holds no codes; give yours with --codes FILE")
    points = None if codes is None else arrays.read_codes(codes, decoder, codes_key)
    tables.ready(html, "--html")
    tables.ready(json, "--json")
    moved = lg.LatentModel(decoder, codes=model.codes, labels=model.labels)
    report = lg.diagnose(moved, points, n_pairs=pairs, random_state=seed)
    typer.echo(str(report))
    if html is not None:
        typer.echo(f"wrote {report.to_html(html)}")
    if json is not None:
        typer.echo(f"wrote {report.to_json(json)}")
    if not report.healthy:
        raise typer.Exit(1)
