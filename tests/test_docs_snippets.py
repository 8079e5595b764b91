"""What the documentation says, runs: the Python of every page, in order, in one namespace, in a folder of its own.

A block after a comment ``<!-- not run: why -->`` is left out; one with a title is a file that later blocks import.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
# Pages whose snippets take more than ten seconds, or train models.
SLOW = {
    "big_data.md",
    "choose_solver.md",
    "clustering.md",
    "concepts.md",
    "curvature.md",
    "distances.md",
    "generators.md",
    "land.md",
    "pictures.md",
    "scores.md",
    "training.md",
    "tutorial.md",
    "vqvae.md",
    "walks.md",
}
ELSEWHERE = {"clustering.md"}  # run by test_learn_docs.py
BLOCK = re.compile(r"(<!-- not run[^>]*-->\s*)?^```python(?: title=\"([\w.]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets(page):
    """(title, code) of each block of Python that runs."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [(title, code) for skipped, title, code in BLOCK.findall(text) if not skipped]


def marked(page):
    return pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page


@pytest.mark.parametrize("page", [marked(page) for page in PAGES if snippets(page) and page not in ELSEWHERE])
def test_python_runs(page, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    written = []
    namespace: dict[str, object] = {"__name__": "__main__"}
    try:
        for number, (title, code) in enumerate(snippets(page)):
            if title:
                Path(title).write_text(code, encoding="utf-8")
                written.append(Path(title).stem)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("default")  # a warning is the page's reader's to see
                exec(compile(code, f"{page}, block {number + 1}", "exec"), namespace)
    finally:
        for name in written:
            sys.modules.pop(name, None)


def test_every_block_of_python_is_seen():
    """A fence that the pattern misses would never run: one that is indented, or has other words after `python`."""
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        fences = re.findall(r"^[ \t]*```+[ \t]*(?:python|py)\b", text, re.MULTILINE)
        assert len(fences) == len(BLOCK.findall(text)), page
