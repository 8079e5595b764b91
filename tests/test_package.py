"""The package itself: a light import, every public name where it should be, one source for the version."""

from __future__ import annotations

import ast
import configparser
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import latentgeo as lg

ROOT = Path(__file__).resolve().parent.parent


def test_import_is_light():
    heavy = {"torch", "numpy", "scipy", "sklearn", "plotly", "typer", "safetensors", "joblib", "tqdm"}
    code = f"import sys, latentgeo; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_geometry_needs_no_plotly():
    code = "import sys, latentgeo as lg; lg.connect, lg.load, lg.metric; print('plotly' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("name", lg.__all__)
def test_every_export_resolves(name):
    value = getattr(lg, name)
    assert name in dir(lg)
    if isinstance(value, type):
        assert value.__name__ == name
        assert value.__doc__


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "latentgeo" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.asname or alias.name for node in block.body for alias in getattr(node, "names", [])}
    assert imported - {"_version"} | {"__version__"} == set(lg.__all__)


def test_metric_is_the_function_and_metrics_the_package():
    import latentgeo.metrics
    import latentgeo.model

    assert lg.metric is latentgeo.model.metric
    assert lg.metrics is latentgeo.metrics


def test_unknown_names_raise():
    with pytest.raises(AttributeError, match="no attribute 'geodesy'"):
        lg.geodesy


def test_version_has_one_source():
    setup = configparser.RawConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert lg.__version__ == setup["metadata"]["version"]
    assert setup["metadata"]["version"] not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_changelog_and_citation_tell_the_version():
    version = lg.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    head = re.search(r"^## \[(.+?)\] - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
    assert head is not None
    assert head[1] == version
    assert f"version: {version}\ndate-released: {head[2]}\n" in citation


def test_python_floor_agrees_with_the_linter():
    setup = configparser.RawConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    floor = setup["options"]["python_requires"].removeprefix(">=").replace(".", "")
    assert f'target-version = "py{floor}"' in (ROOT / "ruff.toml").read_text(encoding="utf-8")


def test_package_pickles_by_name():
    assert pickle.loads(pickle.dumps(lg.connect)) is lg.connect
