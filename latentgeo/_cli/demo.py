"""`latentgeo demo`: a trained VAE, geodesics in a table and a map as a page, with nothing to prepare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from latentgeo._cli import solving, tables
from latentgeo._cli.options import Resolution, Seed
from latentgeo._cli.source import Source, place

_SHIPPED = Path(__file__).resolve().parents[2] / "checkpoints" / "mnist-2d.safetensors"
_INTRO = """\
A decoder turns each point of this latent space into an image and an uncertainty. The map shows how much of both one
unit of latent space holds: it is high where a small step changes the decoded image or its uncertainty much.

Solid curves are geodesics of the expected metric: no small change makes them shorter as the decoder measures length.
Dashed lines are the straight lines between the same two codes. The pairs are random ones of different labels, further
apart than half of all pairs. Beneath the map: what the decoder shows along each. Hover over anything to read its
numbers; in the hatched region the model only says that it knows nothing."""


def demo(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="A trained model with a 2-D latent space and codes; a VAE of MNIST that comes with latentgeo's source "
            "if not given.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Page to write (.html), with a .png beside it if there is Chromium or Chrome.")
    ] = Path("demo/index.html"),
    pairs: Annotated[int, typer.Option(help="Number of pairs of codes to join.", min=1, max=26)] = 6,
    resolution: Resolution = 160,
    seed: Seed = 0,
) -> None:
    """From a trained VAE to geodesics and a map in under a minute: a table here, and a page.

    Exit code 0: done; 1: some curves failed (the page is written); 2: bad input. Interrupted, it has written nothing.
    """
    import latentgeo as lg
    from latentgeo import plot

    started = time.perf_counter()
    tables.suffix(out, "--out", *tables.PAGES)
    if checkpoint is None:
        checkpoint = _SHIPPED
        if not checkpoint.is_file():
            raise FileNotFoundError(
                "CHECKPOINT must be given: the demo's own model is part of latentgeo's source, not of the installed "
                f"package ({checkpoint} does not exist); fetch checkpoints/{checkpoint.name} from there, or take a "
                "model of yours: latentgeo demo PATH"
            )
    model = Source(checkpoint).load()
    decoder = place(model.decoder, "cpu", None)
    if decoder.latent_dim != 2:
        raise ValueError(f"the demo needs a 2-D latent space; {checkpoint} has {decoder.latent_dim} dimensions")
    points = solving.own_codes(model, decoder, "the demo needs them; `latentgeo heatmap` takes a file of them")
    tables.ready(out)
    labels = None if model.labels is None else model.labels.tolist()
    typer.echo(f"{checkpoint}: {decoder!r}, {len(points)} codes")
    metric = lg.metric(decoder)
    first, second = solving.choose_far(points, pairs, seed, labels)
    solved = solving.solve(metric, points[first], points[second], 1e-2)
    header, rows = tables.report(solved, first, second, labels)
    typer.echo(f"{pairs} random pairs of different labels, further apart in latent space than half of all pairs:")
    typer.echo(f"\n{tables.aligned(header, rows)}\n")
    typer.echo(f"{len(solved.length)} geodesics in {solved.seconds:.1f} s; lengths in {plot.length_units(metric)}")

    figure = plot.measure(
        metric,
        codes=points,
        labels=model.labels,
        paths=solved.paths,
        resolution=resolution,
        decoder=decoder,
        strips=True,
        shape=tables.image_shape(model),
        title=f"The latent space of {checkpoint.stem}",
    )
    png = plot.browser() is not None
    tables.write_page(figure, out, png, title="The geometry of a trained VAE", intro=_INTRO, table=(header, rows))
    if not png:
        typer.echo("no picture (it needs kaleido and Chromium or Chrome; the page has everything)")
    typer.echo(f"{time.perf_counter() - started:.1f} s in all")
    if not solved.converged.all():
        raise typer.Exit(1)
