"""The Python of docs/training.md runs, as one program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:edges between neighbouring codes")
def test_the_pages_python_runs(monkeypatch, tmp_path):
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "training.md", "exec"), namespace)
    assert (tmp_path / "digits.safetensors").is_file()
    assert namespace["result"].scores["log_likelihood"] > namespace["result"].scores["elbo"]
