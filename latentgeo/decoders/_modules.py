"""Finding the modules behind a callable: the weights that give a decoder its dtype, device and parameters."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import nn


def find_modules(function: Any, depth: int = 3) -> list[nn.Module]:
    """Modules that a callable runs, as far as they can be seen.

    Itself, the owner of a method, the parts of a partial, what a function's body names, an object's attributes.

    Examples
    --------
    >>> net = nn.Linear(2, 3)
    >>> [type(m).__name__ for m in find_modules(lambda z: net(z).exp())]
    ['Linear']
    """
    found: list[nn.Module] = []

    def look(item: Any, depth: int) -> None:
        if isinstance(item, nn.Module):
            if not any(item is other for other in found):
                found.append(item)
        elif depth > 0:
            for part in _parts(item):
                look(part, depth - 1)

    look(function, depth)
    return found


def _parts(item: Any) -> list[Any]:
    if inspect.ismethod(item):
        return [item.__self__]
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if inspect.isfunction(item):
        named = inspect.getclosurevars(item)
        return [*named.nonlocals.values(), *named.globals.values()]
    if inspect.isclass(item) or inspect.ismodule(item) or inspect.isbuiltin(item):
        return []
    return list(getattr(item, "__dict__", {}).values())


def module_of(function: Any) -> nn.Module | None:
    """The one module behind a callable; several are put in a list that leaves their modes as they are."""
    found = find_modules(function)
    if len(found) <= 1:
        return found[0] if found else None
    together = nn.ModuleList(found)
    together.training = any(part.training for module in found for part in module.modules())
    return together
