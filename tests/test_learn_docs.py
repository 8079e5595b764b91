"""The Python of docs/clustering.md runs, as one program."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_pages_python_runs(monkeypatch):
    page = (ROOT / "docs" / "clustering.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, about parameters whose defaults will change
            exec(compile(block, "clustering.md", "exec"), namespace)
    assert set(np.unique(namespace["clusters"].labels_)) <= set(range(10))
    assert namespace["mean"].converged
