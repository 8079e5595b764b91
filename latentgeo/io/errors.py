"""The one error of reading and writing checkpoints: which file, what is wrong, what was expected."""

from __future__ import annotations

import os


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or is not what it should be.

    Attributes
    ----------
    path : str
        The file.
    problem : str
        What is wrong with it and what was expected.
    """

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        super().__init__(str(os.fspath(path)), problem)
        self.path = str(os.fspath(path))
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def shorten(value: object, limit: int = 80) -> str:
    """A value from a file, for a message: never longer than `limit`."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
