"""Execute notebooks, as the tests and the documentation do: ``python notebooks/execute.py [--force] [NAME ...]``.

The executed copies go to build/notebooks; one is made anew when the notebook, the library or a checkpoint changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "notebooks"
SHORT = ("1-first-geodesic", "5-your-own-model")
TIMEOUT = 600  # seconds for one cell


def names() -> list[str]:
    """The notebooks, in the order to read them."""
    return [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


def stored(path: Path) -> Path | None:
    """The executed copy of a notebook, if there is one that is up to date."""
    copy = RESULTS / path.name
    record = copy.with_suffix(".key")
    if copy.exists() and record.exists() and record.read_text(encoding="utf-8") == _key(path):
        return copy
    return None


def result(path: Path) -> Path:
    """The executed copy of a notebook, executed now if need be."""
    return stored(path) or execute(path)


def execute(path: Path, folder: Path = RESULTS) -> Path:
    """Execute a notebook in its own folder and keep the result; a cell that fails raises."""
    import nbformat
    from nbclient import NotebookClient

    copy = folder / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"  # figures as numbers; no network, no browser
    key, started = _key(path), time.perf_counter()
    book = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    quiet = ["--IPKernelApp.log_level=ERROR"]
    NotebookClient(
        book, kernel_name="python3", timeout=TIMEOUT, startup_timeout=TIMEOUT, resources=where, extra_arguments=quiet
    ).execute()
    nbformat.write(book, copy)
    copy.with_suffix(".key").write_text(key, encoding="utf-8")
    sys.stderr.write(f"{path.stem}: {time.perf_counter() - started:.1f} s\n")
    return copy


def _key(path: Path) -> str:
    """Names everything that a result depends on: the notebook, the library's source, the checkpoints."""
    digest = hashlib.sha256(path.read_bytes())
    for source in sorted([*(ROOT / "latentgeo").rglob("*.py"), *(ROOT / "checkpoints").glob("*.safetensors")]):
        digest.update(str(source.relative_to(ROOT)).encode() + source.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Execute the notebooks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(names())}")
    parser.add_argument("--force", action="store_true", help="also those whose result is up to date")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the executed copies go")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(names())
    if unknown:
        parser.error(f"no such notebook: {', '.join(sorted(unknown))}")
    for name in asked.names or names():
        path = ROOT / "notebooks" / f"{name}.ipynb"
        if asked.force or asked.out != RESULTS or stored(path) is None:
            execute(path, asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
