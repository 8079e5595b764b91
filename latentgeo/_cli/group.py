"""The group of commands: turns errors about input (exit code 2) and interrupts into one line on standard error."""

from __future__ import annotations

import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from latentgeo._cli import interrupts

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_TOLD = (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


class Group(TyperGroup):
    """Commands whose errors and warnings are one line each; ``--traceback`` shows where in the program they arose."""

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the options that stand before the command; ``--traceback`` may stand anywhere."""
        given = list(args)
        if "--traceback" in args:
            args = ["--traceback", *(word for word in args if word != "--traceback")]
        try:
            context = super().make_context(info_name, args, parent, **extra)
        except _UsageError as error:
            raise _told(error, given) from None
        except KeyboardInterrupt:
            raise _stopped(None) from None
        context.obj = {**(context.obj or {}), "given": given}
        return context

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except (BrokenPipeError, typer.Exit, typer.Abort):  # the reader of our output has left; all has been said
                raise
            except _UsageError as error:
                raise _told(error, ctx.obj["given"]) from None
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) or interrupts.came():
                    raise _stopped(ctx.invoked_subcommand if ctx.parent is None else ctx.info_name) from None
                if not isinstance(error, _TOLD) or ctx.params.get("traceback"):
                    raise
                _line(str(error) or type(error).__name__)
                raise typer.Exit(2) from None


def _told(error: Exception, given: list[str]) -> Exception:
    """What to raise for wrong options: exit code 2 once they are told in a line, or the help where nothing is given."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return error
    context: Any = getattr(error, "ctx", None)
    where = "latentgeo" if context is None else context.command_path
    message: str = error.format_message()  # type: ignore[attr-defined]  # of click's exceptions
    message = message.replace("Value error, ", "").rstrip(" .")
    value = _value(getattr(getattr(error, "param", None), "opts", None) or [], given)
    got = "" if value is None or repr(value) in message else f", got {value!r}"
    _line(f"{message}{got}; `{where} --help` lists what it takes")
    return typer.Exit(2)


def _stopped(command: str | None) -> typer.Exit:
    """What to raise for an interrupt once it is told in a line."""
    text, code = interrupts.outcome(command)
    _line(text)
    return typer.Exit(code)


def _value(names: list[str], given: list[str]) -> str | None:
    """What was given for an option."""
    for word, after in zip(given, [*given[1:], ""], strict=True):
        if word in names:
            return after
        if word.partition("=")[0] in names:
            return word.partition("=")[2]
    return None


def _show_warning(message: Warning | str, *_where: Any, **_more: Any) -> None:
    from latentgeo._cli.likelihood import in_options

    _line(f"warning: {in_options(str(message))}")


def _line(text: str) -> None:
    typer.echo(f"latentgeo: {' '.join(text.split())}", err=True)
