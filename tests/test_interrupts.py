"""Ctrl-C and `kill`: one line, the exit code that shells know, and no file that is not whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import typer
from models import tiny_model
from typer.testing import CliRunner

import latentgeo as lg
from latentgeo import plot
from latentgeo._cli import interrupts
from latentgeo._cli.group import Group
from latentgeo.io.whole import whole

# Each sends the program a signal at one moment of a command's life.
LOADING = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            strike()
sys.meta_path.insert(0, Finder())
"""
WRITING = """
import numpy
def save(path, *_, **options):
    with open(path, "wb") as file:
        file.write(b"half of it")
    strike()
numpy.save = save
"""
ONE_BLOCK = """
from latentgeo.geodesics._record import Record
add = Record.add
def struck(self, block, **facts):
    add(self, block, **facts)
    if len(self.done) == 1:
        strike()
Record.add = struck
"""
SECOND_EPOCH = """
from latentgeo.train._loop import Driver
step = Driver.training_step
def struck(self, *arguments):
    if self.current_epoch == 1:
        strike()
    return step(self, *arguments)
Driver.training_step = struck
"""


def struck(moment, number, folder, *arguments):
    """A command that a signal meets; its one line on standard error."""
    # a test run in the background hands on that Ctrl-C is ignored, which the program would respect
    strike = f"import os, signal, sys\nsignal.signal({int(number)}, signal.SIG_DFL)\n"
    strike += f"def strike():\n    os.kill(os.getpid(), {int(number)})\n"
    script = f"{strike}{moment}\nfrom latentgeo.cli import main\nmain()"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 128 + number, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    lg.save(tiny_model(), path)
    return path


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")], ids=["Ctrl-C", "kill"]
)
def test_while_the_program_loads(checkpoint, tmp_path, number, word):
    assert struck(LOADING, number, tmp_path, "info", checkpoint) == f"latentgeo: {word}"


def test_while_it_writes_the_old_file_stays(checkpoint, tmp_path):
    (tmp_path / "d.npy").write_bytes(b"of an earlier run")
    command = ("distances", checkpoint, "--pairs", 1, "--rtol", 0.1, "--out", "d.npy")
    assert struck(WRITING, signal.SIGINT, tmp_path, *command) == "latentgeo: interrupted"
    assert [file.name for file in tmp_path.iterdir()] == ["d.npy"]
    assert (tmp_path / "d.npy").read_bytes() == b"of an earlier run"


def test_pairwise_loses_no_block_that_was_finished(checkpoint, tmp_path):
    np.save(tmp_path / "z.npy", tiny_model().codes[:20].numpy())
    command = ("pairwise", checkpoint, "--codes", "z.npy", "--refine", "--rtol", 0.1, "--grid", 4, "--out", "D.npy")
    line = struck(ONE_BLOCK, signal.SIGTERM, tmp_path, *command)
    assert line == "latentgeo: terminated; the same command goes on where it stopped"
    assert not [file.name for file in tmp_path.iterdir() if ".part" in file.name]
    done = subprocess.run(
        [sys.executable, "-m", "latentgeo.cli", *map(str, command)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ", 1 of 3 blocks found finished" in done.stdout
    assert np.isfinite(np.load(tmp_path / "D.npy")).all()


def test_training_loses_no_epoch_that_was_finished(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 3)))
    command = ("train", "vae", "--data", "x.npy", "--epochs", 3, "--centers", 4, "--out", "m.safetensors")
    line = struck(SECOND_EPOCH, signal.SIGTERM, tmp_path, *command)
    assert line.startswith("latentgeo: terminated; the same command, without --fresh, goes on")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.ckpt", "x.npy"]


# --- what they rest on ----------------------------------------------------------------------------------------------


def test_an_interrupt_in_a_command_of_a_group_is_told_once():
    """Also where a library has made another exception of it."""
    inner, outer = typer.Typer(cls=Group), typer.Typer(cls=Group)

    @inner.command()
    def train():
        raise KeyboardInterrupt

    @inner.command()
    def other():
        """Typer makes a group of two commands only."""

    outer.command()(other)
    outer.add_typer(inner, name="train")
    result = CliRunner().invoke(outer, ["train", "train"])
    assert result.exit_code == 130
    assert result.stderr.count("interrupted") == 1
    assert "without --fresh" in result.stderr


def test_an_exit_that_a_library_makes_of_a_signal_keeps_the_signals_code(monkeypatch):
    monkeypatch.setattr(interrupts, "_received", [int(signal.SIGTERM)])
    app = typer.Typer(cls=Group)

    @app.command()
    def one():
        sys.exit(1)

    @app.command()
    def two():
        """Typer makes a group of two commands only."""

    result = CliRunner().invoke(app, ["one"])
    assert (result.exit_code, result.stderr) == (143, "latentgeo: terminated\n")


def test_ignored_signals_stay_ignored(monkeypatch):
    """As the shell wants it of commands in the background."""
    handlers = {signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_DFL}
    monkeypatch.setattr(signal, "getsignal", handlers.get)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    interrupts.listen()
    assert handlers[signal.SIGINT] is signal.SIG_IGN
    assert handlers[signal.SIGTERM] is interrupts._interrupt


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a.npy"
    for content in (b"first", b"second"):
        with whole(path) as place:
            assert place.parent == tmp_path
            assert place.suffix == ".npy"
            place.write_bytes(content)
        assert path.read_bytes() == content

    def broken():
        with whole(path) as place:
            place.write_bytes(b"th")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.npy", b"second")]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Of one process, too: the last to end is what stays, whole."""
    path = tmp_path / ("long" * 60 + ".npy")
    with whole(path) as first, whole(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
        assert first != second
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, b"first")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_written_into(tmp_path):
    """/dev/null is not replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with whole(pipe) as place:
        place.write_bytes(b"1 2 3")
    assert os.read(reader, 10) == b"1 2 3"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    with whole(tmp_path / "link") as place:
        place.write_bytes(b"1")
    assert os.readlink(tmp_path / "link") == str(tmp_path / "folder" / "file")
    assert (tmp_path / "folder" / "file").read_bytes() == b"1"


def test_pages_and_reports_are_whole(tmp_path, monkeypatch):
    """A page whose writing fails leaves the one before."""
    import plotly.graph_objects as go

    page = plot.write_html(go.Figure(), tmp_path / "page.html")
    before = page.read_bytes()
    monkeypatch.setattr("pathlib.Path.write_text", lambda self, *_, **__: self.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plot.write_html(go.Figure(), page)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]
