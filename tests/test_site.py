"""The documentation's own machinery: the check of links finds what is broken, and every public name has its place.

The site itself is built and checked by ``make docs-check``.
"""

from __future__ import annotations

import html
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

import latentgeo as lg

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "checkpoints" / "README.md", *sorted(DOCS.rglob("*.md"))]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_site"))
    loaded = []

    def load(name):
        loaded.append(name)
        return importlib.import_module(name)

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


def write(folder, **pages):
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{body}</body></html>", encoding="utf-8")


def test_links_that_lead_somewhere(tool, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    write(tmp_path, one='<h2 id="x y"></h2><a href="two.html#t">2</a><a href="https://elsewhere.org">e</a>')
    write(tmp_path, two='<p id="t"></p><a href="one.html#x%20y">1</a><a href="#t">t</a><img src="a.png">')
    assert tool("links").problems(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<a href="gone.html">', "one.html: gone.html is not in the site"),
        ('<a href="#gone">', "one.html: #gone has no such anchor"),
        ('<img src="gone.png">', "one.html: gone.png is not in the site"),
        ('<div data-src="gone.js">', "one.html: gone.js is not in the site"),
        ('<script src="https://x.org/a.js">', "one.html: loads https://x.org/a.js from the network"),
        ('<link rel="stylesheet" href="//x.org/a.css">', "one.html: loads //x.org/a.css from the network"),
    ],
)
def test_links_that_lead_nowhere(tool, tmp_path, body, said):
    write(tmp_path, one=body)
    assert tool("links").problems(tmp_path) == [said]


def test_a_site_without_pages_is_a_problem(tool, tmp_path):
    assert len(tool("links").problems(tmp_path)) == 1


def anchors(page):
    """What a heading's anchor is called: as Python-Markdown names them, for headings without markup."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = {""}
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.encode("ascii", "ignore").decode()).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", plain))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sources_link_to_files_and_headings_that_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        made = page.parent / path
        if made.parent in (DOCS / "reference", DOCS / "notebooks"):
            continue  # pages that are made with the site, which checks them
        assert not path or made.exists(), target
        if anchor and made.suffix == ".md":
            assert anchor in anchors(made if path else page), target


def test_docstrings_become_markdown(tool):
    pytest.importorskip("griffe")
    markdown = tool("docstrings").markdown
    assert markdown("Density :math:`p`, see [1]_.") == "Density $p$, see [1]."
    assert markdown("A\n\n.. math:: a\n   + b\n\nB") == "A\n\n\n$$\na + b\n$$\n\n\nB"
    assert markdown("References\n----------\n.. [1] A,\n   B.") == "References\n----------\n- [1] A,\n  B."
    assert markdown("=== =====\na   long\n    text\nb   more\n=== =====\n") == "- a: long text\n- b: more\n\n"


def test_formulas_become_mathml(tool):
    pytest.importorskip("mkdocs")
    pytest.importorskip("latex2mathml")
    hooks = tool("hooks")
    made = hooks.on_page_content('<p><span class="arithmatex">\\(a &lt; \\bigl(b\\bigr)\\)</span></p>')
    assert made.startswith("<p><math")
    assert "<" in re.findall(r"<mo>(.*?)</mo>", html.unescape(made))
    assert "arithmatex" not in made


def test_every_public_name_is_in_the_reference(tool):
    pytest.importorskip("mkdocs")
    pytest.importorskip("latex2mathml")
    pages = tool("hooks").reference_pages()
    headings = {name for text in pages.values() for name in re.findall(r"heading: (\S+)", text)}
    modules = {"datasets", "plot", "train", "__version__"}
    assert {f"lg.{name}" for name in lg.__all__ if name not in modules} <= headings
    for module in (lg.plot, lg.datasets):
        short = module.__name__.replace("latentgeo", "lg")
        assert {f"{short}.{name}" for name in module.__all__} <= headings


def test_a_notebook_becomes_a_page(tool, tmp_path):
    book = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "See [a](../docs/a.md#x) and [b](2-b.ipynb)."]},
            {
                "cell_type": "code",
                "source": ["1 + 1"],
                "outputs": [
                    {"output_type": "stream", "name": "stdout", "text": ["a <\n"]},
                    {"output_type": "stream", "name": "stdout", "text": ["b\n"]},
                    {
                        "output_type": "display_data",
                        "data": {"application/vnd.plotly.v1+json": {"data": [], "layout": {"height": 300}}},
                    },
                ],
            },
        ]
    }
    path = tmp_path / "1-a.ipynb"
    path.write_text(json.dumps(book), encoding="utf-8")
    page = tool("notebooks").page(path, path.name, executed=True)
    assert "[a](../a.md#x) and [b](2-b.md)" in page.text
    assert "```python\n1 + 1\n```" in page.text
    assert "a &lt;\nb" in page.text
    assert list(page.scripts) == ["assets/notebooks/1-a-1-1.js"]
    assert 'data-src="../assets/notebooks/1-a-1-1.js"' in page.text
