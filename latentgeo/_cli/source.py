"""Where a command's model comes from: a checkpoint, or weights with the function that builds their network."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from latentgeo._cli import likelihood as families

if TYPE_CHECKING:
    from latentgeo.decoders import Decoder
    from latentgeo.io import LatentModel

PANEL = "A model of your own (instead of CHECKPOINT)"


def _own(help: str, **more: Any) -> Any:  # noqa: A002 - typer's own word
    return typer.Option(help=help, rich_help_panel=PANEL, show_default=False, **more)


@dataclass(frozen=True)
class Source:
    """The options that say which model; `takes_model` adds them to a command."""

    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A trained model, as written by latentgeo.save (.safetensors).", show_default=False),
    ] = None
    weights: Annotated[
        Path | None,
        _own(
            "Its state dict (.pt, .pth, .ckpt or .safetensors); with --trust also a whole module or program (.pt2).",
            metavar="FILE",
        ),
    ] = None
    builder: Annotated[
        str | None,
        _own("The function that returns its network, looked for in this folder first.", metavar="MODULE:FUNCTION"),
    ] = None
    builder_arg: Annotated[
        list[str] | None,
        _own("A keyword argument of the builder, as JSON or a bare word; may be repeated.", metavar="NAME=VALUE"),
    ] = None
    latent_dim: Annotated[int | None, _own("Number of latent coordinates.", min=1, metavar="N")] = None
    likelihood: Annotated[
        families.Family | None,
        _own(
            "What the output means; never guessed. One of " + ", ".join(f.value for f in families.Family) + ".",
            metavar="NAME",
        ),
    ] = None
    scale: Annotated[
        families.Scale | None,
        _own("gaussian: what the second output is; std*, var, log_var or precision. (* if not given)", metavar="NAME"),
    ] = None
    sigma: Annotated[
        str | None,
        _own("gaussian: a fixed standard deviation, for a decoder of the mean alone.", metavar="NUMBER|FILE"),
    ] = None
    output: Annotated[
        families.Output | None,
        _own(
            "What the output is. bernoulli, categorical: logits* or probs; poisson, exponential: rate* or log_rate; "
            "negative-binomial: mean* or log_mean. (* if not given)",
            metavar="NAME",
        ),
    ] = None
    class_axis: Annotated[
        int | None,
        _own("categorical: the output's axis of classes, the batch being axis 0; the last if not given.", metavar="N"),
    ] = None
    inverse_dispersion: Annotated[
        str | None, _own("negative-binomial: r of the variance m + m²/r.", metavar="NUMBER|FILE")
    ] = None
    prefix: Annotated[
        str | None,
        _own("Take only the weights whose names start with this, and take it off, as in decoder.", metavar="TEXT"),
    ] = None
    trust: Annotated[
        bool,
        _own("Let FILE run code: a pickled module, TorchScript or torch.export program, which needs no builder."),
    ] = False
    encoder_builder: Annotated[
        str | None,
        typer.Option(
            help="For a CHECKPOINT with an encoder of your own.",
            metavar="MODULE:FUNCTION",
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None

    @property
    def path(self) -> Path:
        """The file that the model's numbers come from."""
        path = self.weights if self.checkpoint is None else self.checkpoint
        if path is None:
            raise ValueError("a model must be given: a CHECKPOINT, or --weights FILE with --builder MODULE:FUNCTION")
        return path

    def load(self) -> LatentModel:
        """The model.

        Raises
        ------
        FileNotFoundError, TypeError, ValueError
            If the options contradict each other, or the model cannot be loaded; in the words of the command line.
        """
        try:
            return self._native() if self.weights is None else self._foreign(self.weights)
        except (ImportError, OSError, TypeError, ValueError) as error:
            message = str(error)
            told = families.in_options(message)
            if told == message:
                raise
            raise ValueError(told) from error
        except Exception as error:  # the network is the user's: it can fail in any way
            if self.weights is None or isinstance(error, Warning):
                raise
            network = "the network" if self.builder is None else f"the network of --builder {self.builder}"
            raise ValueError(
                f"{network} fails on codes of shape (n, {self.latent_dim}), which is "
                f"what --latent-dim says: {type(error).__name__}: {error}"
            ) from error

    def _native(self) -> LatentModel:
        import latentgeo as lg
        from latentgeo.io.native import open_safetensors

        path = self.path
        if stray := [name for name, value in self._of_weights().items() if value is not None]:
            raise ValueError(f"{stray[0]} must go with --weights FILE, which is not given; {path} says it itself")
        if self.builder_arg and self.builder is None:
            raise ValueError("--builder-arg must go with --builder, which is not given")
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is a folder, not a checkpoint" if path.is_dir() else f"there is no checkpoint at {path}"
            )
        if path.suffix != ".safetensors" or open_safetensors(path).header is None:
            raise ValueError(
                f"CHECKPOINT must be a .safetensors file written by latentgeo.save; {path} is none; for the weights of "
                f"a network of yours: --weights {path} --builder MODULE:FUNCTION --latent-dim N --likelihood NAME"
            )
        return lg.load(path, builder=self._builder(), encoder_builder=self._encoder_builder())

    def _foreign(self, weights: Path) -> LatentModel:
        import latentgeo as lg
        from latentgeo._cli.builder import look_here
        from latentgeo.io.native import open_safetensors

        if self.checkpoint is not None:
            raise ValueError(
                f"either CHECKPOINT or --weights must be given, not both; got {self.checkpoint} and --weights {weights}"
            )
        needed = {"--builder": self.builder, "--latent-dim": self.latent_dim, "--likelihood": self.likelihood}
        if self.trust:
            del needed["--builder"]
        if missing := [name for name, value in needed.items() if value is None]:
            choices = (
                f" (one of {', '.join(f.value for f in families.Family)})" if missing[-1] == "--likelihood" else ""
            )
            whole = " (a whole module or program needs --trust instead of --builder)" if "--builder" in missing else ""
            raise ValueError(
                f"--weights must go with {' and '.join(missing)}{choices}, since a file of weights cannot say{whole}"
            )
        if self.encoder_builder is not None:
            raise ValueError("--encoder-builder must go with a CHECKPOINT; --weights needs no encoder")
        if not weights.is_file():
            raise FileNotFoundError(f"there is no file of weights at {weights}")
        if weights.suffix == ".safetensors" and open_safetensors(weights).header is not None:
            raise ValueError(
                f"--weights must be a state dict; {weights} is a checkpoint written by latentgeo.save, which says the "
                f"rest itself: give it alone, without --weights (and --builder, unless its network is yours)"
            )
        options = {name: value for name, value in self._of_weights().items() if name in _LIKELIHOOD_OPTIONS}
        assert self.likelihood is not None  # noqa: S101 - checked above
        likelihood = families.build(self.likelihood, options)
        if self.trust:
            look_here()  # for the classes of a pickled module
        return lg.load(
            weights,
            builder=self._builder(),
            latent_dim=self.latent_dim,
            likelihood=likelihood,
            prefix=self.prefix,
            trust=self.trust,
        )

    def _of_weights(self) -> dict[str, Any]:
        return {
            "--latent-dim": self.latent_dim,
            "--likelihood": self.likelihood,
            "--scale": self.scale,
            "--sigma": self.sigma,
            "--output": self.output,
            "--class-axis": self.class_axis,
            "--inverse-dispersion": self.inverse_dispersion,
            "--prefix": self.prefix,
            "--trust": self.trust or None,
        }

    def _builder(self) -> Callable[..., Any] | None:
        from latentgeo._cli.builder import builder

        return None if self.builder is None else builder(self.builder, self.builder_arg or ())

    def _encoder_builder(self) -> Callable[..., Any] | None:
        from latentgeo._cli.builder import builder

        return None if self.encoder_builder is None else builder(self.encoder_builder, (), "--encoder-builder")


_LIKELIHOOD_OPTIONS = ("--scale", "--sigma", "--output", "--class-axis", "--inverse-dispersion")


def takes_model(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a `Source`, with the source's fields as parameters of its own."""
    hints = get_type_hints(Source, include_extras=True)
    own = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(Source)
    ]
    rest = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def flat(**options: Any) -> None:
        command(Source(**{p.name: options.pop(p.name) for p in own}), **options)

    # The command's own options first: they are what it is for.
    parameters = [own[0], *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in rest), *own[1:]]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    return flat


def place(decoder: Decoder, device: str, dtype: Any) -> Decoder:
    """The decoder on a device and in a precision (None: as it is)."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used on this machine: {reason}") from None
    if dtype is not None:
        decoder = decoder.to(getattr(torch, dtype.value))
    if decoder.device is not None and decoder.device != torch.device(device):
        decoder = decoder.to(device)
    return decoder
