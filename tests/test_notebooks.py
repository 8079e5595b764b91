"""The notebooks: outputs stripped, links that lead somewhere, every cell runs (two short ones in every test run)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORT = {"1-first-geodesic", "5-your-own-model"}


def marked(path):
    return pytest.param(path, id=path.stem, marks=[] if path.stem in SHORT else [pytest.mark.slow])


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks():
    stems = {path.stem for path in NOTEBOOKS}
    assert stems >= SHORT
    listed = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert stems == set(re.findall(r"\]\(([\w-]+)\.ipynb\)", listed))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert not cell["metadata"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)", "".join(cell["source"])):
            assert "://" in target or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", [marked(path) for path in NOTEBOOKS])
def test_every_cell_runs(path, tmp_path):
    # A process of its own: the kernel's machinery warns of its own future, and must not see the tests' settings.
    done = subprocess.run(
        [sys.executable, str(ROOT / "notebooks" / "execute.py"), "--force", "--out", str(tmp_path), path.stem],
        env={**os.environ, "OMP_NUM_THREADS": "1", "JUPYTER_PLATFORM_DIRS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    executed = tmp_path / path.name
    figures = errors = 0
    for cell in cells(executed, "code"):
        assert cell["execution_count"] is not None
        for output in cell["outputs"]:
            figures += "application/vnd.plotly.v1+json" in output.get("data", {})
            errors += output["output_type"] == "error" or output.get("name") == "stderr"
    assert errors == 0
    assert figures >= 1
