"""Docstrings as Markdown: the few marks of reStructuredText that NumPy style needs are translated before rendering.

A formula (``:math:`x```, ``.. math::``) becomes ``$x$`` and ``$$x$$``, a reference (``.. [1]``, ``[1]_``) a list item.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class Markdown(griffe.Extension):
    """Translate every docstring that griffe reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Translate the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """NumPy-style docstring with reStructuredText marks → the same with Markdown marks.

    >>> markdown("Density :math:`p`, see [1]_.")
    'Density $p$, see [1].'
    """
    text = re.sub(
        r"^([ \t]*)\.\. math::[ \t]*(.*(?:\n(?:\1[ \t]+\S.*|[ \t]*(?=\n\1[ \t]+\S)))*)", _block, text, flags=re.M
    )
    text = re.sub(r"^([ \t]*)=+ +=+\n((?:.*\n)*?)\1=+ +=+$", _table, text, flags=re.M)
    text = re.sub(r":math:`([^`]+)`", lambda found: f"${' '.join(found[1].split())}$", text)
    text = re.sub(r":(?:class|func|meth|mod|attr|obj):`~?([^`]+)`", r"`\1`", text)
    text = re.sub(r"^\.\. \[(\w+)\] (.*(?:\n[ \t]+\S.*)*)", _reference, text, flags=re.M)
    return re.sub(r"\[(\w+)\]_", r"[\1]", text)


def _block(found: re.Match[str]) -> str:
    lines = [line.strip() for line in found[2].splitlines()]
    return f"\n{found[1]}$$\n{found[1]}{' '.join(line for line in lines if line)}\n{found[1]}$$\n"


def _table(found: re.Match[str]) -> str:
    """A simple table of two columns, without a header, as a list."""
    start = found[0].index(" =", len(found[1])) + 1 - len(found[1])
    items: list[str] = []
    for line in found[2].splitlines():
        row = line[len(found[1]) :]
        if row[:start].strip():
            items.append(f"{found[1]}- {row[:start].strip()}: {row[start:].strip()}")
        else:
            items[-1] += f" {row.strip()}"
    return "\n".join(items) + "\n"


def _reference(found: re.Match[str]) -> str:
    lines = [line.strip() for line in found[2].splitlines()]
    return f"- [{found[1]}] " + "\n  ".join(lines)
