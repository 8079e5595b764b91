"""Notebooks as pages: text as it is, code with highlighting, figures as scripts that plotly.js draws from the disk.

A notebook that was executed (``notebooks/execute.py`` keeps results in build/notebooks) is shown with its outputs.
"""

from __future__ import annotations

import html
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PLOTLY = "application/vnd.plotly.v1+json"


@dataclass
class Page:
    """One page to be: where, what, and the scripts that hold its figures."""

    address: str
    text: str
    scripts: dict[str, str] = field(default_factory=dict)


def pages(root: Path, which: str) -> list[Page]:
    """Pages of all notebooks; those asked for ("none", "short", "all") are executed where no result is at hand."""
    sys.path.insert(0, str(root / "notebooks"))
    import execute

    found = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        wanted = which == "all" or (which == "short" and path.stem in execute.SHORT)
        result = execute.result(path) if wanted else execute.stored(path)
        found.append(page(path if result is None else result, path.name, executed=result is not None))
    return found


def page(path: Path, name: str, *, executed: bool) -> Page:
    """The page of one notebook."""
    stem = Path(name).stem
    made = Page(f"notebooks/{stem}.md", "")
    parts: list[str] = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(relative(source))
        elif cell["cell_type"] == "code" and source.strip():
            parts.append(f"```python\n{source}\n```")
            for k, output in enumerate(joined(cell["outputs"])):
                parts.append(_output(made, output, f"{stem}-{number}-{k}"))
    where = f"This page is `notebooks/{name}`; open it in Jupyter to change it and run it."
    note = where if executed else f"{where} It was built without its outputs: `make docs` builds it with them."
    first, *rest = [part for part in parts if part]
    made.text = "---\nhide: [toc]\n---\n\n" + "\n\n".join([first, f'!!! note ""\n    {note}', *rest]) + "\n"
    return made


def joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs, with pieces of the same stream that follow one another put together."""
    found: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream" and found and found[-1].get("name") == output["name"]:
            found[-1] = {**output, "text": "".join(found[-1]["text"]) + "".join(output["text"])}
        else:
            found.append(output)
    return found


def relative(text: str) -> str:
    """Links of a notebook, which lies in notebooks/, as they must read in docs/notebooks/."""
    return re.sub(r"\]\(([\w-]+)\.ipynb", r"](\1.md", re.sub(r"\]\(\.\./docs/", "](../", text))


def _output(made: Page, output: dict[str, Any], name: str) -> str:
    data = output.get("data", {})
    if PLOTLY in data:
        figure = {"data": data[PLOTLY]["data"], "layout": data[PLOTLY]["layout"]}
        made.scripts[f"assets/notebooks/{name}.js"] = (
            f"latentgeoFigure({json.dumps(name)}, {json.dumps(figure, separators=(',', ':'))});\n"
        )
        width = int(figure["layout"].get("width") or 1200)
        height = int(figure["layout"].get("height") or 600)
        return (
            f'<div class="lg-figure" data-figure="{name}" data-src="../assets/notebooks/{name}.js" '
            f'data-width="{width}" data-height="{height}" style="aspect-ratio: {width} / {height}"></div>'
        )
    if "image/png" in data:
        return f'<p><img alt="{name}" src="data:image/png;base64,{"".join(data["image/png"]).strip()}"></p>'
    text = "".join(output.get("text", "") or data.get("text/plain", ""))
    if output["output_type"] == "error":
        raise ValueError(f"{made.address}: a cell failed: {output['ename']}: {output['evalue']}")
    return f'<div class="lg-output"><pre><code>{html.escape(text.rstrip())}</code></pre></div>' if text.strip() else ""
