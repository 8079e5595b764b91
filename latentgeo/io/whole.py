"""Files that are written whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole"]


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A place to write a file at: it takes the file's name once the block has ended, and goes if the block fails.

    The place is hidden, in the same folder, and has the same ending (some writers add one where it is missing).

    Parameters
    ----------
    path : path
        The file meant; one that exists is replaced at the end only. Its folder must exist.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "numbers.txt"
    ...     with whole(file) as place:
    ...         _ = place.write_text("1 2 3")
    ...         before = file.exists()
    ...     before, file.read_text(), len(os.listdir(folder))
    (False, '1 2 3', 1)
    """
    target = Path(os.path.realpath(path))  # where a link leads: the link itself stays
    if target.exists() and not target.is_file():  # a pipe or /dev/null is written into, not replaced
        yield target
        return
    place = target.with_name(f".{target.stem[:40]}.{secrets.token_hex(6)}.partial{target.suffix}")
    try:
        yield place
        place.replace(target)
    finally:
        place.unlink(missing_ok=True)
