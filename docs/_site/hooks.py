"""What MkDocs does for this site beyond its configuration: reference and notebook pages, formulas, plotly.js.

Nothing is fetched: plotly.js comes out of the plotly package, formulas become MathML while the site is built.
"""

from __future__ import annotations

import ast
import html
import os
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import notebooks  # noqa: E402 - it lies beside this file

# Each public name is described on the page of its home. A home that is missing here stops the build.
REFERENCE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "models": (
        "Models and decoders",
        "What is wrapped, loaded and saved, and what its output means.",
        ("latentgeo.io", "latentgeo.decoders", "latentgeo.model"),
    ),
    "metrics": (
        "Metrics",
        "Local geometry: tensors, volumes, accelerations, curvature; and the maps they are pulled back through.",
        ("latentgeo.metrics", "latentgeo._calculus"),
    ),
    "geodesics": (
        "Geodesics and distances",
        "Global geometry: boundary and initial value problems, maps, graphs, distance matrices, and the solvers.",
        ("latentgeo.geodesics",),
    ),
    "learn": (
        "Clusters, means, densities",
        "Estimators with scikit-learn's interface.",
        ("latentgeo.learn",),
    ),
    "walks": ("Walks", "Random walks, sampling, the heat kernel.", ("latentgeo.walks",)),
    "health": ("Health report", "Whether a geometry can be trusted.", ("latentgeo._diagnose",)),
    "plot": ("Pictures", "Every function returns a plotly figure and never shows it.", ("latentgeo.plot",)),
    "train": ("Training", "Trainers and scores; they need the extra `train`.", ("latentgeo.train",)),
    "scores": ("Scores", "How good samples are; they need the extra `train`.", ("latentgeo.train.scores",)),
    "datasets": ("Data sets", "Readers of real data. Nothing is downloaded.", ("latentgeo.datasets",)),
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and scripts that are made, not written."""
    for name, text in reference_pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for page in notebooks.pages(ROOT, os.environ.get("LATENTGEO_NOTEBOOKS", "none")):
        files.append(File.generated(config, page.address, content=page.text))
        for address, script in page.scripts.items():
            files.append(File.generated(config, address, content=script))
    import plotly

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    files.append(File.generated(config, "assets/plotly.min.js", abs_src_path=str(script)))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Formulas to MathML, which browsers draw by themselves."""
    return re.sub(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', _formula, content, flags=re.DOTALL)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Put our own script where the offline plugin asks for one from the network."""
    local = "../" * page.url.count("/") + "assets/worker.js"
    return output.replace("https://unpkg.com/iframe-worker/shim", local)


def on_post_template(output_content: str, **_: Any) -> str:
    """The same in the page that says that a page is missing."""
    return output_content.replace("https://unpkg.com/iframe-worker/shim", "assets/worker.js")


def _formula(found: re.Match[str]) -> str:
    source = html.unescape(found[3]).strip()
    # \bigl( and \bigr): latex2mathml keeps the size command but not the side
    source = re.sub(r"\\([bB]igg?)[lr](?![a-zA-Z])", r"\\\1", source)
    return str(convert(source, display="inline" if found[2] == "(" else "block"))


def reference_pages() -> dict[str, str]:
    """The reference: an overview, and one page per part of the library."""
    homes = public_names()
    unknown = set(homes) - {home for *_, group in REFERENCE.values() for home in group}
    if unknown:
        raise ValueError(f"docs/_site/hooks.py: no reference page for {sorted(unknown)}; add them to REFERENCE")
    pages, overview = {}, ["# Reference", "", "Every public name, from its docstring.", ""]
    for page, (title, sentence, group) in REFERENCE.items():
        names = [(home, name) for home in group for name in homes.get(home, ())]
        if not names:
            continue
        text = [f"# {title}", "", sentence, ""]
        overview += [f"## {title}", "", sentence, ""]
        links = []
        for home, name in names:
            shown = (f"{home}.{name}" if home in SUBPACKAGES else f"latentgeo.{name}").replace("latentgeo.", "lg.", 1)
            where = definition(home, name)
            text += [f"::: {where}", "    options:", f"      heading: {shown}", f"      toc_label: {shown}"]
            text += ["      show_if_no_docstring: true", ""] if name in ENUMS else [""]
            links.append(f"[`{shown}`]({page}.md#{where})")
        overview += [", ".join(links), ""]
        pages[page] = "\n".join(text)
    return {"index": "\n".join(overview), **pages}


ENUMS = ("Advice", "Status", "WalkStatus")  # their members need no docstring: the value says all
SUBPACKAGES = ("latentgeo.plot", "latentgeo.train", "latentgeo.train.scores", "latentgeo.datasets")


def public_names() -> dict[str, list[str]]:
    """Home → public names, read from the source without importing it."""
    table = _assigned(ROOT / "latentgeo" / "__init__.py", "_HOMES")
    names = {home: [str(name) for name in group] for home, group in table.items()}
    for home in SUBPACKAGES:
        source = ROOT / home.replace(".", "/") / "__init__.py"
        if source.exists():
            names[home] = sorted(name for name in _assigned(source, "__all__") if f"{home}.{name}" not in SUBPACKAGES)
    return names


def definition(home: str, name: str) -> str:
    """Where a public name is defined: its own module, whose name it may share (`connect` is both)."""
    package = ROOT / home.replace(".", "/")
    source = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        for imported in node.names:
            if (imported.asname or imported.name) == name:
                inside = [home] if package.is_dir() else home.rsplit(".", 1)[:1]
                module = ".".join([*inside, node.module or ""]).strip(".") if node.level else str(node.module)
                return f"{home}.{name}" if module == home else definition(module, imported.name)
    return f"{home}.{name}"


def _assigned(path: Path, name: str) -> Any:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ast.literal_eval(node.value)  # type: ignore[attr-defined]
    raise ValueError(f"{path}: nothing is assigned to {name}")
