"""What README.md says, works: its Python runs, its commands exist (test_site.py follows its links)."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from typer.testing import CliRunner

import latentgeo as lg
from latentgeo._cli.app import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_python_runs(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    assert len(blocks("python")) >= 2
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert (tmp_path / "map.html").exists()
    assert torch.equal(namespace["again"].codes, namespace["codes"])
    assert bool(namespace["path"].converged.all())
    assert namespace["distance"].item() > 0


def test_commands_exist():
    commands = re.findall(r"^latentgeo (.*?)(?:#.*)?$", "\n".join(blocks("sh")), flags=re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        name, *words = command.split()
        text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout
        for option in (w for w in words if w.startswith("--")):
            assert option in text


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_names_of_the_table_are_public():
    for name in re.findall(r"`([A-Z]\w+|[a-z_]+)`", README.split("## What is computed")[1].split("\n## ")[0]):
        assert hasattr(lg, name), name
