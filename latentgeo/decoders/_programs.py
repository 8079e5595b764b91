"""TorchScript and exported programs as ordinary modules, which `wrap` and `load` take like any other.

A program is code and weights in one. What it lacks of a module is added here: TorchScript cannot be pickled, so no
worker could be given it, and an exported program has no modes and cannot be called before it is unlifted.
"""

from __future__ import annotations

import copy
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class Program(nn.Module):
    """A compiled decoder that has modes, can be converted and copied, and pickles by value.

    Parameters
    ----------
    program : torch.jit.ScriptModule, or the module of an exported program
        What is called: its `decode` where it has one.
    exported : torch.export.ExportedProgram, optional
        Where `program` comes from; without it an exported one cannot be pickled.

    Examples
    --------
    >>> net = torch.nn.Linear(2, 3)
    >>> rows = torch.export.Dim("rows")
    >>> exported = torch.export.export(net, (torch.zeros(2, 2),), dynamic_shapes=({0: rows},))
    >>> Program(exported.module(), exported)(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    program: nn.Module

    def __init__(self, program: nn.Module, exported: ExportedProgram | None = None) -> None:
        super().__init__()
        self.program = program
        self._exported = exported
        self._entry = "decode" if callable(getattr(program, "decode", None)) else "__call__"
        self._modal = _has_modes(program)
        if not self._modal:  # it computes what it was exported or frozen to compute, whatever its flags say
            for part in self.modules():
                part.training = False
        self.training = self._modal and any(part.training for part in program.modules())

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the program returns."""
        return getattr(self.program, self._entry)(*arguments, **named)

    def train(self, mode: bool = True) -> Program:
        """Training or eval mode; an exported program has neither and stays as it is."""
        return super().train(mode) if self._modal else self

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        with warnings.catch_warnings():
            # torch's own: about gradients of weights that are not leaves, and about what describes a program's inputs
            warnings.filterwarnings("ignore", message=r"The \.grad attribute", category=UserWarning)
            warnings.filterwarnings("ignore", message=r".*LeafSpec", category=FutureWarning)
            again = Program(copy.deepcopy(self.program, memo), self._exported)
            for old, new in zip(self.parameters(), again.parameters(), strict=True):
                if not new.is_leaf:  # TorchScript copies weights as functions of the old ones
                    new.detach_().requires_grad_(old.requires_grad)
        memo[id(self)] = again
        return again

    def __reduce__(self) -> tuple[Any, ...]:
        content = io.BytesIO()
        if isinstance(self.program, torch.jit.ScriptModule):
            with _no_advice():
                torch.jit.save(self.program, content)
            kind = "TorchScript"
        elif self._exported is not None:
            torch.export.save(self._exported, content)
            kind = "torch.export"
        else:
            raise TypeError(
                "the module of an exported program cannot be pickled; wrap the program itself, as torch.export.load "
                "returns it, instead of its .module()"
            )
        learns = any(p.requires_grad for p in self.parameters())
        return _revive, (kind, content.getvalue(), dict(self.state_dict()), learns)


def read(source: Any, kind: str) -> Program:
    """The program in a file: "TorchScript" or "torch.export". Runs what the file holds."""
    if kind == "TorchScript":
        with _no_advice():
            return Program(torch.jit.load(source, map_location="cpu"))
    with _no_log():
        exported = torch.export.load(source)
    return Program(exported.module(), exported)


def as_module(obj: Any) -> Any:
    """Programs as a `Program`; anything else as it is.

    Raises
    ------
    ValueError
        If an exported program takes one number of rows alone.
    """
    if isinstance(obj, torch.jit.ScriptModule):
        return Program(obj)
    export = sys.modules.get("torch.export")
    if export is not None and isinstance(obj, export.ExportedProgram):
        obj = Program(obj.module(), obj)
    if isinstance(obj, torch.fx.GraphModule) and not _has_modes(obj):
        obj = Program(obj)
    if isinstance(obj, Program) and (rows := _fixed_rows(obj._exported)) is not None:
        raise ValueError(
            f"the program was exported for batches of {rows} rows and takes no others; export it with a free first "
            "axis: torch.export.export(module, (codes,), dynamic_shapes=({0: torch.export.Dim('rows')},)), codes of "
            "two rows or more"
        )
    return obj


def _has_modes(module: nn.Module) -> bool:
    try:
        module.train(module.training)
    except (NotImplementedError, AttributeError):  # exported; frozen by torch.jit.freeze
        return False
    return True


def _fixed_rows(exported: ExportedProgram | None) -> int | None:
    """The number of rows that an exported program was specialised to, if it was."""
    if exported is None:
        return None
    names = exported.graph_signature.user_inputs
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name == names[0]:
            value = node.meta.get("val")
            if isinstance(value, Tensor) and value.ndim > 0 and type(value.shape[0]) is int:
                return value.shape[0]
    return None


def _revive(kind: str, content: bytes, state: dict[str, Tensor], learns: bool) -> Program:
    program = read(io.BytesIO(content), kind)
    program.load_state_dict(state, assign=True)  # with the dtype and device they had
    program.requires_grad_(learns)
    return program


@contextmanager
def _no_log() -> Iterator[None]:
    """Keeps torch from logging the traceback of one attempt before it makes another."""
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _no_advice() -> Iterator[None]:
    """Silences torch's advice to use torch.export instead, which whoever reads a file cannot follow."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        yield
