"""Builders named on the command line: ``--builder package.module:function --builder-arg name=value``."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_FORM = "must be package.module:function, a function or class that returns a torch.nn.Module"
_WORD = re.compile(r"[A-Za-z_./~][\w./:@+-]*")
_NOT_JSON = {"True": "true", "False": "false", "None": "null"}


def builder(spec: str, arguments: Sequence[str] = (), option: str = "--builder") -> Callable[..., nn.Module]:
    """The function that `spec` names, imported with the current directory first, its keyword arguments bound.

    Raises
    ------
    ValueError
        If it cannot be imported or an argument cannot be read; the function it returns, if the builder fails.
    """
    keywords = _keywords(arguments)
    function = _find(spec, option)

    @functools.wraps(function, updated=())
    def build(**more: Any) -> nn.Module:
        import torch

        try:
            module = function(**{**more, **keywords})
        except (Exception, SystemExit) as error:
            raise ValueError(f"{option} {spec} failed: {_told(error)}") from error
        if not isinstance(module, torch.nn.Module):
            raise ValueError(f"{option} {_FORM}; {spec} returned a {type(module).__name__}")
        return module

    return build


def _find(spec: str, option: str) -> Callable[..., Any]:
    name, _, path = spec.partition(":")
    if name.endswith(".py") or "/" in name or os.sep in name:
        file = Path(name if name.endswith(".py") else f"{name}.py").resolve()
        inside = file.is_relative_to(Path.cwd())
        stem = ".".join(file.relative_to(Path.cwd() if inside else file.parent).with_suffix("").parts)
        where = "" if inside else f", from the folder {file.parent}"
        raise ValueError(f"{option} {_FORM}; got the file {name!r}: write {stem}:{path or 'function'}{where}")
    if not path or not all(part.isidentifier() for part in [*name.split("."), *path.split(".")]):
        raise ValueError(f"{option} {_FORM}; got {spec!r}")
    look_here()
    try:
        importlib.invalidate_caches()
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(
                f"{option} {_FORM}; got {spec!r}, and no module {error.name!r} is here or installed"
            ) from error
        raise ValueError(f"{option} {spec}: the module cannot be imported: {_told(error)}") from error
    except (Exception, SystemExit) as error:  # importing runs the user's file
        raise ValueError(f"{option} {spec}: the module cannot be imported: {_told(error)}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(
                f"{option} {_FORM}; got {spec!r}, and {name} ({_file(name)}) has no {part!r}{_instead(found)}"
            )
        found = getattr(found, part)
    import torch

    if isinstance(found, torch.nn.Module) or not callable(found):
        raise ValueError(f"{option} {_FORM}; {spec} is itself a {type(found).__name__}")
    return found


def look_here() -> None:
    """Imports look in the current folder first."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def _file(name: str) -> str:
    return getattr(sys.modules.get(name), "__file__", None) or "a module without a file"


def _instead(found: Any) -> str:
    """The functions and classes that a module defines itself, for a message."""
    own = (
        [
            name
            for name, value in vars(found).items()
            if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == found.__name__
        ]
        if hasattr(found, "__name__") and hasattr(found, "__dict__")
        else []
    )
    return f"; it has {', '.join(own[:8])}" if own else ""


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _keywords(arguments: Sequence[str]) -> dict[str, Any]:
    keywords: dict[str, Any] = {}
    for text in arguments:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--builder-arg must be name=value, such as hidden=64 or sizes=[2,64]; got {text!r}")
        if name in keywords:
            raise ValueError(f"--builder-arg must give each name once; got {name} twice")
        keywords[name] = _value(name, value)
    return keywords


def _value(name: str, text: str) -> Any:
    """A JSON value; a bare word is text, so that the quotes of JSON need no quotes of the shell."""
    if text in _NOT_JSON:
        raise ValueError(f"--builder-arg {name} must be JSON: write {name}={_NOT_JSON[text]}; got {name}={text}")
    try:
        return json.loads(text)
    except ValueError:
        if _WORD.fullmatch(text):
            return text
        raise ValueError(
            f"--builder-arg {name} must be JSON (64, 0.5, true, null, [2,64], '\"text\"') or a bare word; got {text!r}"
        ) from None
