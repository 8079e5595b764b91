"""Digests of metrics, arrays and options, so that an interrupted job is resumed by its own problem only.

A digest is the same in every process. It covers every tensor, number and function that an object holds, but not what it
has only looked up (caches, probes), nor what its functions read from their modules.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["digest"]

_LOOKED_UP = frozenset({"_cache", "_report", "_warned", "_weight_bytes", "__dict__", "__weakref__"})
_DEPTH = 64


def digest(*things: Any) -> str:
    """Hexadecimal digest of anything made of tensors, arrays, numbers, functions and plain classes."""
    sink = hashlib.sha256()
    for thing in things:
        _Walk(sink).visit(thing, 0)
    return sink.hexdigest()[:32]


class _Walk:
    def __init__(self, sink: Any) -> None:
        self.sink = sink
        self.seen: dict[int, int] = {}
        self.kept: list[Any] = []  # alive, so that no id is used twice

    def say(self, *words: Any) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            self.sink.update(len(data).to_bytes(8, "little"))
            self.sink.update(data)

    def visit(self, x: Any, depth: int) -> None:
        if depth > _DEPTH:
            raise ValueError(f"cannot tell problems apart: {type(x).__name__} is nested deeper than {_DEPTH} levels")
        if x is None or isinstance(x, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
            self.say(type(x).__name__, repr(x))
            return
        if isinstance(x, Enum):
            self.say(type(x).__qualname__, x.name)
            return
        if isinstance(x, (types.ModuleType, type, types.BuiltinFunctionType)):
            self.say(getattr(x, "__module__", ""), getattr(x, "__qualname__", x.__class__.__name__))
            return
        if id(x) in self.seen:
            self.say("again", self.seen[id(x)])
            return
        self.seen[id(x)] = len(self.seen)
        self.kept.append(x)
        self._visit_once(x, depth + 1)

    def _visit_once(self, x: Any, depth: int) -> None:
        if isinstance(x, Tensor):
            whole = x.detach().cpu().contiguous()
            self.say("tensor", whole.dtype, tuple(whole.shape), whole.view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(x, np.ndarray) and x.dtype.kind != "O":
            self.say("array", x.dtype.str, x.shape, np.ascontiguousarray(x).tobytes())
        elif isinstance(x, Mapping):
            self.say("mapping", len(x))
            for key in sorted(x, key=repr):
                self.visit(key, depth)
                self.visit(x[key], depth)
        elif isinstance(x, (list, tuple)):
            self.say(type(x).__name__, len(x))
            for item in x:
                self.visit(item, depth)
        elif isinstance(x, (set, frozenset)):
            self.say("set", *sorted(digest(item) for item in x))
        elif isinstance(x, types.CodeType):
            self.say("code", x.co_name, x.co_code, *x.co_names, *x.co_varnames)
            self.visit(x.co_consts, depth)
        elif isinstance(x, types.FunctionType):
            self.say("function", x.__module__, x.__qualname__)
            self.visit([x.__code__, x.__defaults__, x.__kwdefaults__], depth)
            self.visit([_content(cell) for cell in x.__closure__ or ()], depth)
        elif isinstance(x, functools.partial):
            self.visit([x.func, x.args, x.keywords], depth)
        elif isinstance(x, types.MethodType):
            self.visit([x.__func__, x.__self__], depth)
        elif isinstance(x, torch.nn.Module):
            self.say(type(x).__module__, type(x).__qualname__, x.extra_repr())
            own = {k: v for k, v in vars(x).items() if not k.startswith("_") and k != "training"}
            self.visit(own, depth)
            self.visit(dict(x.named_parameters(recurse=False)) | dict(x.named_buffers(recurse=False)), depth)
            self.visit(list(x.named_children()), depth)
        else:
            self._visit_object(x, depth)

    def _visit_object(self, x: Any, depth: int) -> None:
        self.say("object", type(x).__module__, type(x).__qualname__, getattr(x, "__name__", ""))
        state = dict(getattr(x, "__dict__", {}))
        for kind in type(x).__mro__:
            slots = getattr(kind, "__slots__", ())
            names = (slots,) if isinstance(slots, str) else slots
            state |= {name: getattr(x, name) for name in names if hasattr(x, name)}
        self.visit({k: v for k, v in state.items() if k not in _LOOKED_UP}, depth)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None
