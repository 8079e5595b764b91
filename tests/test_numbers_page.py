"""The page of figures: its commands exist, and what it prints is what was measured."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def tool(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("numbers_page", BENCHMARKS / "numbers_page.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "numbers_page", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    return module


def keep(tool, run: int, tensor: float) -> None:
    figures = {
        "ratio": {name: [tensor, 0.5, 2.0] for name in ("tensor", "log_volume", "norm", "acceleration")},
        "forward_ms": [10.0 + run, 9.0, 12.0],
    }
    tool.KEPT.mkdir(exist_ok=True)
    record = {"figures": figures, "machine": tool.machine(), "load": 0.25}
    (tool.KEPT / f"metric-{run}.json").write_text(json.dumps(record))


def test_median_and_spread_over_runs(tool):
    for run, value in enumerate((1.25, 1.5, 1.0)):
        keep(tool, run, value)
    text = tool.page({"peers": "no environment"})
    assert "| metric tensors | passes | 1.25 | 1 – 1.5 |" in text
    assert "| one pass over the rows | ms on the clock | 11 | 10 – 12 |" in text
    assert "`python benchmarks/metric_cost.py --repeats 21`, 3 runs" in text
    assert "load up to 0.2" in text
    assert "Not measured: no environment." in text
    assert text.count("Not measured: not asked for.") == len(tool.PARTS) - 2


def test_every_option_is_one_of_its_script(tool):
    for part in tool.PARTS.values():
        script, *words = part.command
        source = (BENCHMARKS / script).read_text(encoding="utf-8")
        for word in words:
            assert not word.startswith("--") or f'"{word}"' in source, (script, word)


def test_a_part_that_fails_is_named_and_keeps_nothing(tool, monkeypatch, capfd):
    part = tool.Part("a", "b", ("metric_cost.py", "--codes", "none"), tool.metric_rows)
    assert "exit status 2" in tool.measure("metric", part, None, fresh=False)
    assert not list(tool.KEPT.iterdir())
    monkeypatch.setenv("LATENTGEO_DATA", "nowhere")
    assert "MNIST" in tool.measure("graph", tool.PARTS["graph"], None, fresh=False)
    assert "--peers-python" in tool.measure("peers", tool.PARTS["peers"], None, fresh=False)


def test_nothing_measured_is_said(tool):
    with pytest.raises(SystemExit, match="nothing has been measured"):
        tool.page({})


@pytest.mark.parametrize(("x", "shown"), [(1.0, "1"), (12345.6, "12,346"), (0.123456, "0.1235"), (float("nan"), "–")])
def test_figures_are_short(tool, x, shown):
    assert tool.figure(x) == shown


def test_no_benchmark_hides_a_module_that_python_brings():
    """Scripts beside each other find each other first: one of a standard module's name breaks all of them."""
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert not names & set(sys.stdlib_module_names)
    subprocess.run(
        [sys.executable, str(BENCHMARKS / "numbers_page.py"), "--help"], check=True, stdout=subprocess.DEVNULL
    )
