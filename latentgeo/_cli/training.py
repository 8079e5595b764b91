"""What every `latentgeo train` command takes: the data, how long and where to train; and the report at the end."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from latentgeo._cli import tables
from latentgeo._cli.likelihood import in_options

if TYPE_CHECKING:
    from latentgeo.train import Recipe, TrainResult


_data = functools.partial(typer.Option, rich_help_panel="Data")
_loop = functools.partial(typer.Option, rich_help_panel="Training")
of_model = functools.partial(typer.Option, rich_help_panel="Model")
of_objective = functools.partial(typer.Option, rich_help_panel="Objective")


@dataclass(frozen=True)
class Training:
    """The options that all trainers share; `takes_training` adds them to a command."""

    data: Annotated[
        str,
        _data(
            help="What to train on: digits, mnist, or a path: .npy, .npz, an IDX file, a folder of images (sub-folders "
            "are classes).",
            metavar="digits|mnist|PATH",
        ),
    ] = ""
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors).")] = Path()
    labels: Annotated[
        Path | None, _data(help="Integer labels, one per datum (.npy, .npz, .csv, .parquet).", show_default=False)
    ] = None
    shape: Annotated[
        str | None,
        _data(help="Shape of one datum, where rows are flat: 28x28, 3x32x32.", metavar="HxW", show_default=False),
    ] = None
    held_out: Annotated[
        float | None,
        _data(
            help="Fraction held out for the scores; 0.1 if not given, MNIST: its test set.", show_default=False, min=0.0
        ),
    ] = None
    epochs: Annotated[int, _loop(help="Passes over the data.", min=1)] = 100
    batch_size: Annotated[int, _loop(help="Data per step.", min=1)] = 128
    learning_rate: Annotated[float, _loop(help="Of Adam, at its highest.")] = 1e-3
    seed: Annotated[int, _loop(help="Seed of everything random.", min=0)] = 0
    patience: Annotated[
        int | None,
        _loop(
            help="Stop after so many epochs without a better loss on a tenth of the training data.",
            min=1,
            show_default=False,
        ),
    ] = None
    device: Annotated[str, _loop(help="Where to train: cpu, cuda, cuda:1, …")] = "cpu"
    precision: Annotated[str, _loop(help="Lightning's: 32-true, bf16-mixed, 16-mixed, …")] = "32-true"
    devices: Annotated[int, _loop(help="How many devices.", min=1)] = 1
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--fresh",
            help="Go on from the state that a killed run left beside --out.",
            rich_help_panel="Training",
        ),
    ] = True

    def check(self) -> None:
        """Raise where something cannot work, before any time is spent."""
        tables.suffix(self.out, "--out", ".safetensors")
        if self.held_out is not None and self.held_out >= 1:
            raise ValueError(f"--held-out must be a fraction below 1; got {self.held_out:g}")

    def run(self, recipe: Recipe) -> TrainResult:
        """Train, write, and say what came of it."""
        from latentgeo import train

        self.check()
        prepared = train.as_data(self.data, self._labels(), held_out=self.held_out, shape=self._shape(), seed=self.seed)
        tables.ready(self.out)
        typer.echo(f"{prepared!r}")
        with warnings.catch_warnings(record=True) as caught, _in_options():
            warnings.simplefilter("always")
            result = train.fit(
                recipe,
                prepared,
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                seed=self.seed,
                out=self.out,
                resume=self.resume,
                patience=self.patience,
                device=self.device,
                precision=self.precision,
                devices=self.devices,
            )
        for warning in caught:
            if issubclass(warning.category, UserWarning):
                typer.echo(f"latentgeo: warning: {' '.join(str(warning.message).split())}", err=True)
        report(result)
        return result

    def _labels(self) -> Any:
        if self.labels is None:
            return None
        from latentgeo._cli.arrays import read_array

        values = read_array(self.labels, what="labels").reshape(-1)
        whole = values.astype("int64")
        if (whole != values).any():
            raise ValueError(f"--labels must be integers; {self.labels} has others")
        return whole

    def _shape(self) -> tuple[int, ...] | None:
        if self.shape is None:
            return None
        parts = self.shape.lower().replace("×", "x").split("x")
        if not all(part.isdigit() and int(part) > 0 for part in parts):
            raise ValueError(
                f"--shape must be positive integers with an x between them, such as 28x28; got {self.shape}"
            )
        return tuple(map(int, parts))


def widths(hidden: str) -> tuple[int, ...]:
    """The widths that --hidden lists."""
    parts = hidden.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"--hidden must be positive integers with commas between them, such as 64,32; got {hidden}")
    return tuple(map(int, parts))


@contextmanager
def _in_options() -> Iterator[None]:
    """Errors about arguments in the words of the command line."""
    try:
        yield
    except ValueError as error:
        told = re.sub(r"\bbinarise='(\w+)'", r"--binarise \1", in_options(str(error)))
        if told == str(error):
            raise
        raise ValueError(told) from error


def report(result: TrainResult) -> None:
    """What came of it, and what to do next."""
    metadata, path = result.model.metadata, result.path
    stopped = f" (stopped {metadata['stopped']})" if "stopped" in metadata else ""
    typer.echo(f"{metadata['epochs']} epochs in {metadata['seconds']:.0f} s{stopped}")
    rows = [[name.replace("_", " "), _shown(value)] for name, value in result.scores.items()]
    if rows:
        typer.echo(tables.aligned(["score", "value"], rows))
    if path is None:
        return
    typer.echo(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
    if result.curves is not None:
        typer.echo(f"wrote {result.curves}")
    decoder = result.model.decoder
    if decoder.latent_dim == 2:
        next_step = f"latentgeo heatmap {path} --out {path.with_suffix('.html')}"
    else:
        next_step = f"latentgeo diagnose {path}"
    typer.echo(f"next: {next_step}")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def takes_training(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose first parameter is a `Training`, with its fields as options; `defaults` replace its own."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(Training, include_extras=True)
        own = []
        for field in fields(Training):
            default = defaults.get(
                field.name, inspect.Parameter.empty if field.name in ("data", "out") else field.default
            )
            keyword = inspect.Parameter.KEYWORD_ONLY
            own.append(inspect.Parameter(field.name, keyword, default=default, annotation=hints[field.name]))
        rest = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        @functools.wraps(command)
        def flat(**options: Any) -> None:
            command(Training(**{p.name: options.pop(p.name) for p in own}), **options)

        parameters = [*own[:2], *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in rest), *own[2:]]
        flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        flat.__annotations__ = {p.name: p.annotation for p in parameters}
        return flat

    return decorated
