"""The command line: `latentgeo info`, `distances`, `heatmap`, `demo`, and the commands with a module in `_cli`.

Takes and returns files (.npy, .npz, .csv, .parquet, .html); exit code 0 is success, 1 means that some curves failed
(the results are still written, with their status) or that a report has severe findings, 2 that the input was wrong,
130 and 143 that the command was interrupted. `--out` is the file that a command is for; further ones are named after
their kind (`--html`, `--json`), and all are written whole or not at all.
"""

from __future__ import annotations

import time
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from latentgeo._cli import arrays, interrupts, planes, solving, tables
from latentgeo._cli.cluster import cluster
from latentgeo._cli.diagnose import diagnose
from latentgeo._cli.fit_land import fit_land
from latentgeo._cli.group import Group
from latentgeo._cli.options import Codes, CodesKey, Device, ImageShape, Png, Precision, Resolution, Rtol, Seed
from latentgeo._cli.pairwise import pairwise
from latentgeo._cli.source import Source, place, takes_model
from latentgeo._cli.train import app as train
from latentgeo._cli.walk import walk

app = typer.Typer(
    cls=Group,
    help="The geometry that a trained generative model gives its latent space: distances, geodesics, maps.",
    epilog="Exit codes: 0 success; 1 something failed or did not converge (results are written, with their status); "
    "2 bad input (`--traceback` shows where in the program an error arose); 130 interrupted; 143 terminated.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Term(str, Enum):
    """What a heatmap shows."""

    both = "both"
    mean = "mean"
    std = "std"
    condition = "condition"
    curvature = "curvature"


@app.callback(invoke_without_command=True)
def _common(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="On an error, show where in the program it arose.")
    ] = False,
) -> None:
    if version:
        import latentgeo as lg

        typer.echo(f"latentgeo {lg.__version__}")
        raise typer.Exit


@app.command()
@takes_model
def info(source: Source) -> None:
    """Say what a checkpoint holds: the decoder, its likelihood, codes, labels and how it was trained."""
    import latentgeo as lg

    model = source.load()
    decoder = model.decoder
    lines = [
        ("file", f"{source.path} ({source.path.stat().st_size / 1e6:.2f} MB)"),
        ("decoder", repr(decoder)),
        ("latent dim", f"{decoder.latent_dim}"),
        ("data", f"{decoder.data_dim} numbers, shape {'×'.join(map(str, decoder.data_shape))}"),
        ("likelihood", repr(decoder.likelihood)),
        ("weights", f"{decoder.dtype} on {decoder.device}".replace("torch.", "")),
    ]
    if decoder.precision is not None:
        bound = float(decoder.precision.floor) ** -0.5
        lines.append(("σ", f"RBF precision of {decoder.precision.n_centers} centres; σ is at most {bound:.3g}"))
    lines.append(("encoder", "none" if model.encoder is None else type(model.encoder).__name__))
    lines.append(("codes", "none" if model.codes is None else "×".join(map(str, model.codes.shape))))
    if model.labels is not None:
        counts = Counter(model.labels.tolist())
        shown = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())[:12])
        lines.append(("labels", shown + (", …" if len(counts) > 12 else "")))
    lines.append(("metric", repr(lg.metric(decoder))))
    lines.append(("derivatives", tables.derivatives(decoder)))
    lines += [(f"no {name} metric", reason) for name, reason in sorted(decoder.missing.items())]
    lines += [(str(key), tables.brief(value)) for key, value in model.metadata.items()]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        typer.echo(f"{name:<{width}}  {text}")


@app.command()
@takes_model
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
    solved = solving.solve(lg.metric(decoder), a, b, rtol, keep=False)
    if codes is not None and pairs is None:
        matrix = np.zeros((len(points), len(points)))
        matrix[first, second] = matrix[second, first] = np.where(solved.converged, solved.length, np.nan)
        tables.write_matrix(out, matrix)
    else:
        tables.write_table(out, tables.table(first, second, solved))
    solving.summary(solved, out)


@app.command()
@takes_model
def heatmap(
    source: Source,
    out: Annotated[Path, typer.Option(help="Page to write (.html); it needs no network to open.")],
    png: Png = False,
    codes: Codes = None,
    codes_key: CodesKey = None,
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
    shape = tables.image_shape(model, image_shape)
    piece = planes.read_plane(plane, metric, points, decoder.latent_dim)
    tables.ready(out)
    solved = None
    if points is not None and pairs != 0:
        first, second = solving.choose(len(points), 4 if pairs is None else pairs, seed)
        solved = solving.solve(metric, points[first], points[second], rtol)
    figure = plot.measure(
        metric,
        codes=points,
        labels=model.labels if codes is None else None,
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


@app.command()
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


app.command()(takes_model(cluster))
app.command()(takes_model(diagnose))
app.command()(takes_model(fit_land))
app.command()(takes_model(pairwise))
app.command()(takes_model(walk))
app.add_typer(train, name="train")
_SHIPPED = Path(__file__).resolve().parent.parent / "checkpoints" / "mnist-2d.safetensors"
_INTRO = """\
A decoder turns each point of this latent space into an image and an uncertainty. The map shows how much of both one
unit of latent space holds: it is high where a small step changes the decoded image or its uncertainty much.

Solid curves are geodesics of the expected metric: no small change makes them shorter as the decoder measures length.
Dashed lines are the straight lines between the same two codes. The pairs are random ones of different labels, further
apart than half of all pairs. Beneath the map: what the decoder shows along each. Hover over anything to read its
numbers; in the hatched region the model only says that it knows nothing."""


def main() -> None:
    """Run the command line; the console script `latentgeo` calls this."""
    interrupts.listen()
    app(prog_name="latentgeo")


if __name__ == "__main__":
    main()
