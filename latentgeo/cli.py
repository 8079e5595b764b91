"""The command line: `latentgeo info`, `distances`, `heatmap` and `demo`.

Takes and returns files (.npy, .csv, .html); exit code 0 is success, 1 means that some curves failed (the results are
still written, with their status), 2 means that the input was wrong.
"""

from __future__ import annotations

import time
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from latentgeo import _cli_support as support


class Group(TyperGroup):
    """Turns the library's errors about input into one line and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has left
            raise
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            # typer.Exit is a RuntimeError, and carries its exit code already.
            if ctx.params.get("traceback") or isinstance(error, (typer.Exit, typer.Abort)):
                raise
            typer.echo(f"latentgeo: {' '.join(str(error).split()) or type(error).__name__}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Group,
    help="The geometry that a trained generative model gives its latent space: distances, geodesics, maps.",
    epilog="Exit codes: 0 success; 1 some curves failed (results are written, with their status); 2 bad input.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Term(str, Enum):
    """Which part of the expected metric a heatmap shows."""

    both = "both"
    mean = "mean"
    std = "std"


class Dtype(str, Enum):
    """Floating-point precision of the computation."""

    float32 = "float32"
    float64 = "float64"


Checkpoint = Annotated[Path, typer.Argument(help="A trained model, as written by latentgeo.save (.safetensors).")]
Seed = Annotated[int, typer.Option(help="Seed of the random choice of pairs; the same seed gives the same pairs.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, …")]
Precision = Annotated[
    Dtype | None, typer.Option("--dtype", help="Precision to compute in; that of the checkpoint if not given.")
]
Rtol = Annotated[float, typer.Option(help="Relative error allowed on each length.", min=1e-12, max=0.5)]
Resolution = Annotated[int, typer.Option(help="Grid points along the map's shorter side.", min=8, max=2000)]


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
def info(checkpoint: Checkpoint) -> None:
    """Say what a checkpoint holds: the decoder, its likelihood, codes, labels and how it was trained."""
    model = support.load(checkpoint)
    decoder = model.decoder
    lines = [
        ("file", f"{checkpoint} ({checkpoint.stat().st_size / 1e6:.2f} MB)"),
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
    lines.append(("metric", repr(support.metric(decoder))))
    lines += [(f"no {name} metric", reason) for name, reason in sorted(decoder.missing.items())]
    lines += [(str(key), support.brief(value)) for key, value in model.metadata.items()]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        typer.echo(f"{name:<{width}}  {text}")


@app.command()
def distances(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="File to write: .npy or .csv.")],
    codes: Annotated[
        Path | None, typer.Option(help="Codes, one per row (.npy or .csv): writes the matrix of all distances.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Take this many random pairs of the checkpoint's own codes.", min=1)
    ] = None,
    start: Annotated[Path | None, typer.Option("--from", help="Codes that the curves start at, one per row.")] = None,
    end: Annotated[Path | None, typer.Option("--to", help="Codes that the curves end at, one per row.")] = None,
    rtol: Rtol = 1e-2,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = None,
) -> None:
    """Geodesic distances between latent codes.

    Say which codes with one of --codes, --pairs, or --from with --to (100 random pairs if none is given).

    For pairs, the file has one row each: from, to, length, length_error, straight_length, converged, status
    (a .npy file holds these as a structured array). For --codes it is the symmetric matrix of lengths, NaN where a
    curve failed. Lengths are in data units for the expected metric.
    """
    import numpy as np

    support.suffix(out, "--out", ".npy", ".csv")
    if sum([codes is not None, pairs is not None, start is not None or end is not None]) > 1:
        raise ValueError("give only one of --codes, --pairs, or --from with --to")
    if (start is None) != (end is None):
        raise ValueError("--from and --to go together: each row of one is joined to the same row of the other")
    model = support.load(checkpoint)
    decoder = support.place(model.decoder, device, dtype)
    if codes is not None:
        points = support.read(codes, decoder)
        first, second = np.triu_indices(len(points), 1)
        a, b = points[first], points[second]
    elif start is not None and end is not None:
        a, b = support.read(start, decoder), support.read(end, decoder)
        if len(a) != len(b) and 1 not in (len(a), len(b)):
            raise ValueError(f"--from and --to must have equally many rows, or one; got {len(a)} and {len(b)}")
        count = max(len(a), len(b))
        first, second = np.arange(count) % len(a), np.arange(count) % len(b)
        a, b = a[first], b[second]
    else:
        points = support.own_codes(model, decoder)
        first, second = support.choose(len(points), pairs or 100, seed)
        a, b = points[first], points[second]

    solved = support.solve(support.metric(decoder), a, b, rtol)
    out.parent.mkdir(parents=True, exist_ok=True)
    if codes is not None:
        matrix = np.zeros((len(points), len(points)))
        matrix[first, second] = matrix[second, first] = np.where(solved.converged, solved.length, np.nan)
        support.write_matrix(out, matrix)
    else:
        support.write_table(out, support.table(first, second, solved))
    support.summary(solved, out)


@app.command()
def heatmap(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="Page to write (.html); it needs no network to open.")],
    png: Annotated[bool, typer.Option("--png", help="Write a .png beside it too (needs Chromium or Chrome).")] = False,
    pairs: Annotated[int, typer.Option(help="Draw geodesics between this many random pairs of codes.", min=0)] = 4,
    term: Annotated[
        Term, typer.Option(help="What to draw of the expected metric: all of it, its mean part, its σ part.")
    ] = Term.both,
    resolution: Resolution = 160,
    rtol: Rtol = 1e-2,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = None,
) -> None:
    """Map of the measure element ½ log det G over a 2-D latent space, with the codes and some geodesics.

    Where the map is high, a small step in latent space changes the decoded data much.
    """
    from latentgeo import plot

    support.suffix(out, "--out", ".html", ".htm")
    if png:
        support.need_browser()
    model = support.load(checkpoint)
    decoder = support.place(model.decoder, device, dtype)
    metric = support.metric(decoder)
    if decoder.latent_dim != 2:
        raise ValueError(f"a heatmap needs a 2-D latent space; {checkpoint} has {decoder.latent_dim} dimensions")
    points = None if model.codes is None and not pairs else support.own_codes(model, decoder)
    solved = None
    if pairs and points is not None:
        first, second = support.choose(len(points), pairs, seed)
        solved = support.solve(metric, points[first], points[second], rtol)
    figure = plot.measure(
        metric,
        codes=points,
        labels=model.labels,
        paths=None if solved is None else solved.paths,
        resolution=resolution,
        term=term.value,
        decoder=decoder,
        strips=solved is not None,
        shape=support.image_shape(model),
    )
    plot.write_html(figure, out, title=f"Latent space of {checkpoint.name}")
    typer.echo(f"wrote {out}")
    if png:
        typer.echo(f"wrote {plot.write_png(figure, out.with_suffix('.png'))}")
    if solved is not None:
        support.summary(solved, None)


@app.command()
def demo(
    checkpoint: Annotated[Path, typer.Argument(help="A trained model with a 2-D latent space.")] = Path(
        "checkpoints/mnist-2d.safetensors"
    ),
    out: Annotated[Path, typer.Option(help="Folder to write the page and picture to.")] = Path("demo"),
    pairs: Annotated[int, typer.Option(help="Number of pairs of codes to join.", min=1, max=26)] = 6,
    resolution: Resolution = 160,
    seed: Seed = 0,
) -> None:
    """From a trained VAE to geodesics and a map in under a minute: a table here, a page in a folder."""
    from latentgeo import plot

    started = time.perf_counter()
    shipped = Path(__file__).resolve().parent.parent / "checkpoints" / checkpoint.name
    if not checkpoint.exists() and shipped.exists():
        checkpoint = shipped
    model = support.load(checkpoint)
    decoder = support.place(model.decoder, "cpu", None)
    if decoder.latent_dim != 2:
        raise ValueError(f"the demo needs a 2-D latent space; {checkpoint} has {decoder.latent_dim} dimensions")
    points = support.own_codes(model, decoder)
    labels = None if model.labels is None else model.labels.tolist()
    typer.echo(f"{checkpoint}: {decoder!r}, {len(points)} codes")
    metric = support.metric(decoder)
    first, second = support.choose_far(points, pairs, seed, labels)
    solved = support.solve(metric, points[first], points[second], 1e-2)
    header, rows = support.report(solved, first, second, labels)
    typer.echo(f"{pairs} random pairs of different labels, further apart in latent space than half of all pairs:")
    typer.echo(f"\n{support.aligned(header, rows)}\n")
    typer.echo(f"{len(solved.length)} geodesics in {solved.seconds:.1f} s; lengths in {plot.length_units(metric)}")

    figure = plot.measure(
        metric,
        codes=points,
        labels=model.labels,
        paths=solved.paths,
        resolution=resolution,
        decoder=decoder,
        strips=True,
        shape=support.image_shape(model),
        title=f"The latent space of {checkpoint.stem}",
    )
    page = out / "index.html"
    plot.write_html(figure, page, title="The geometry of a trained VAE", intro=_INTRO, table=(header, rows))
    typer.echo(f"page: {page}")
    if plot.browser() is None:
        typer.echo("picture: none (it needs kaleido and Chromium or Chrome; the page has everything)")
    else:
        typer.echo(f"picture: {plot.write_png(figure, out / 'demo.png')}")
    typer.echo(f"{time.perf_counter() - started:.1f} s in all")


_INTRO = """\
A decoder turns each point of this latent space into an image and an uncertainty. The map shows how much of both one
unit of latent space holds: it is high where a small step changes the decoded image or its uncertainty much.

Solid curves are geodesics of the expected metric: no small change makes them shorter as the decoder measures length.
Dashed lines are the straight lines between the same two codes. The pairs are random ones of different labels, further
apart than half of all pairs. Beneath the map: what the decoder shows along each. Hover over anything to read its
numbers; in the hatched region the model only says that it knows nothing."""


def main() -> None:
    """Run the command line; the console script `latentgeo` calls this."""
    app(prog_name="latentgeo")


if __name__ == "__main__":
    main()
