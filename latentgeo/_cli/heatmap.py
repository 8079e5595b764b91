"""`latentgeo heatmap`: a map of the measure element, with codes and geodesics, as a page."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from latentgeo._cli import planes, solving, tables
from latentgeo._cli.options import (
    Codes,
    CodesKey,
    Device,
    ImageShape,
    Labels,
    Png,
    Precision,
    Resolution,
    Rtol,
    Seed,
    Start,
    Starts,
    check_labels,
)
from latentgeo._cli.source import Source, place


class Term(StrEnum):
    """What a heatmap shows."""

    both = "both"
    mean = "mean"
    std = "std"
    condition = "condition"
    curvature = "curvature"


def heatmap(
    source: Source,
    out: Annotated[Path, typer.Option(help="Page to write (.html); it needs no network to open.")],
    png: Png = False,
    codes: Codes = None,
    codes_key: CodesKey = None,
    labels: Labels = None,
    pairs: Annotated[
        int | None, typer.Option(help="Draw geodesics between this many random pairs of codes (4).", min=0)
    ] = None,
    term: Annotated[
        Term,
        typer.Option(
            help="What to draw: ½ log det of the whole metric, of its mean part or of its σ part; log₁₀ of the "
            "condition number of G; curvature."
        ),
    ] = Term.both,
    plane: Annotated[
        str | None, typer.Option(help=planes.HELP, metavar="principal|axes:I,J|codes:I,J,K", show_default=False)
    ] = None,
    starts: Starts = Start.straight,
    image_shape: ImageShape = None,
    resolution: Resolution = 160,
    rtol: Rtol = 1e-2,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = None,
) -> None:
    """Map of the measure element ½ log det G over a latent space or a plane in it, with the codes and some geodesics.

    Where the map is high, a small step in latent space changes the decoded data much. The codes are those of --codes,
    or the checkpoint's own; without any the map shows −3 to 3.

    Exit code 0: done; 1: some curves failed (the map is written); 2: bad input. Interrupted, it has written nothing.
    """
    import latentgeo as lg
    from latentgeo import plot

    tables.suffix(out, "--out", *tables.PAGES)
    check_labels(labels, codes)
    if png:
        tables.need_browser()
    model = source.load()
    decoder = place(model.decoder, device, dtype)
    metric = lg.metric(decoder)
    if decoder.latent_dim < 2:
        raise ValueError(f"a heatmap needs 2 latent dimensions or more; {source.path} has {decoder.latent_dim}")
    if term in (Term.mean, Term.std) and (not isinstance(metric, lg.ExpectedMetric) or decoder.std_embedding is None):
        raise ValueError(f"--term {term.value} needs a metric of two parts; {metric!r} has one")
    points = None
    if codes is not None or model.codes is not None or pairs:
        points = solving.codes_of(model, decoder, codes, codes_key)
    elif pairs is None:
        typer.echo("latentgeo: without codes the map shows −3 to 3; give yours with --codes FILE", err=True)
    classes = None if points is None else solving.labels_of(model, codes, labels, len(points))
    shape = tables.image_shape(model, image_shape)
    piece = planes.read_plane(plane, metric, points, decoder.latent_dim)
    tables.ready(out)
    solved = None
    if points is not None and pairs != 0:
        first, second = solving.choose(len(points), 4 if pairs is None else pairs, seed)
        a, b = points[first], points[second]
        nodes = None if starts is Start.straight else solving.nodes_of(model, decoder, a, b)
        solved = solving.solve(metric, a, b, rtol, nodes=nodes)
    figure = plot.measure(
        metric,
        codes=points,
        labels=classes,
        paths=None if solved is None else solved.paths,
        resolution=resolution,
        term=term.value,
        plane=piece,
        decoder=decoder,
        strips=solved is not None and tables.pictured(decoder, shape),
        shape=shape,
    )
    tables.write_page(figure, out, png, title=f"Latent space of {source.path.name}")
    if solved is not None:
        solving.summary(solved, None)
