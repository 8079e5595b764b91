"""The command line, as a user meets it: good input, bad input, exit codes, files."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from commands import refused, run
from models import tiny_model
from numpy.testing import assert_allclose
from typer.testing import CliRunner

import latentgeo as lg
from latentgeo import plot
from latentgeo._cli import demo, distances, solving
from latentgeo._cli.app import app
from latentgeo.decoders import MLP

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    lg.save(model, path)
    return str(path)


def exact(model, a, b):
    metric = lg.ExpectedMetric(model.decoder)
    return lg.connect(metric, a, b, solver=lg.Newton(rtol=1e-2), throw=False)


# --- help, version, info --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["info"], ["distances"], ["heatmap"], ["demo"]])
def test_help(arguments):
    text = run(*arguments, "--help").stdout
    assert "Usage: " in text
    assert len(text.splitlines()) > 8


def options():
    """Every option of every command: (command, name) and what is said of it."""
    group = typer.main.get_command(app)
    commands = {**group.commands, **group.commands["train"].commands}
    del commands["train"]
    return {
        (name, word): option
        for name, command in commands.items()
        for option in command.params
        for word in option.opts
        if word.startswith("--")
    }


def test_options_of_one_name_are_one_option():
    """One text and, but for what a picture or a training needs, one default."""
    trained = {"vae", "vqvae", "gan", "flow"}
    for word in ("--codes", "--codes-key", "--png", "--image-shape", "--resolution", "--seed", "--n-jobs", "--device",
                 "--dtype", "--rtol", "--likelihood", "--weights", "--json"):  # fmt: skip
        found = {command: option for (command, name), option in options().items() if name == word}
        if word != "--codes":  # which no trainer may mean anything else by
            found = {command: option for command, option in found.items() if command not in trained}
        alike = {option.help for option in found.values() if word != "--rtol"}  # of pairwise it goes with --refine
        assert len(alike) <= 1, (word, alike)
        if word not in ("--resolution", "--rtol"):
            assert len({str(option.default) for option in found.values()}) == 1, word


def test_commands_that_take_a_device_take_a_precision_and_a_seed():
    found = options()
    for command, word in found:
        if word == "--device":
            assert (command, "--dtype") in found or (command, "--precision") in found
            assert (command, "--seed") in found or command == "pairwise"


def test_no_command_shows_help():
    result = CliRunner().invoke(app, [])
    assert "distances" in result.output


def test_version():
    assert run("--version").stdout.strip() == f"latentgeo {lg.__version__}"


def test_console_script_and_module():
    for command in ([Path(sys.executable).parent / "latentgeo"], [sys.executable, "-m", "latentgeo.cli"]):
        result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == f"latentgeo {lg.__version__}"


def test_help_needs_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from latentgeo._cli.app import app;"
        "CliRunner().invoke(app, ['--help']); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_info(checkpoint):
    text = run("info", checkpoint).stdout
    for expected in (
        "latent dim  ",
        "20 numbers",
        "6 centres",
        "first: ",
        "60×2",
        "0: 20, 1: 20, 2: 20",
        "made up",
        "Gaussian",
    ):
        assert expected in text


# --- distances ------------------------------------------------------------------------------------------------------


def test_pairs_to_csv(checkpoint, model, tmp_path):
    out = tmp_path / "new folder" / "pairs.csv"
    assert "5 curves, 5 converged" in run("distances", checkpoint, "--pairs", 5, "--seed", 3, "--out", out).stdout
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["from", "to", "length", "length_error", "straight_length", "converged", "status"]
    first, second = ([int(row[name]) for row in rows] for name in ("from", "to"))
    path = exact(model, model.codes[first], model.codes[second])
    assert_allclose([float(row["length"]) for row in rows], path.length, rtol=1e-5)
    assert_allclose([float(row["length_error"]) for row in rows], path.length_error, rtol=1e-3, atol=1e-6)
    assert {row["status"] for row in rows} == {"converged"}
    assert all(float(row["length"]) <= float(row["straight_length"]) * (1 + 1e-2) for row in rows)


def test_same_seed_same_pairs(checkpoint, tmp_path):
    outs = [tmp_path / f"{i}.npy" for i in range(3)]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        run("distances", checkpoint, "--pairs", 4, "--seed", seed, "--out", out)
    a, b, c = (np.load(out) for out in outs)
    assert (a == b).all()
    assert (a["from"] != c["from"]).any()
    assert (a["from"] != a["to"]).all()


def test_codes_to_matrix(checkpoint, model, tmp_path):
    codes, out = tmp_path / "codes.npy", tmp_path / "matrix.npy"
    np.save(codes, model.codes[:4].numpy())
    run("distances", checkpoint, "--codes", codes, "--out", out)
    matrix = np.load(out)
    assert_allclose(matrix, matrix.T)
    assert_allclose(np.diag(matrix), 0)
    path = exact(model, model.codes[[0, 1]], model.codes[[2, 3]])
    assert_allclose(matrix[[0, 1], [2, 3]], path.length, rtol=1e-4)


def test_matrix_to_csv(checkpoint, model, tmp_path):
    codes, out = tmp_path / "codes.csv", tmp_path / "matrix.csv"
    np.savetxt(codes, model.codes[:3].numpy(), delimiter=",", header="z1,z2", comments="")
    run("distances", checkpoint, "--codes", codes, "--out", out)
    assert np.loadtxt(out, delimiter=",").shape == (3, 3)


def test_from_one_to_many(checkpoint, model, tmp_path):
    np.save(tmp_path / "a.npy", model.codes[:1].numpy())
    np.save(tmp_path / "b.npy", model.codes[1:4].numpy().astype(np.float64))
    out = tmp_path / "out.npy"
    run("distances", checkpoint, "--from", tmp_path / "a.npy", "--to", tmp_path / "b.npy", "--out", out)
    rows = np.load(out)
    assert rows["from"].tolist() == [0, 0, 0]
    assert rows["to"].tolist() == [0, 1, 2]
    assert_allclose(rows["length"], exact(model, model.codes[:1].expand(3, 2), model.codes[1:4]).length, rtol=1e-4)


def test_double_precision(checkpoint, model, tmp_path):
    out = tmp_path / "out.npy"
    run("distances", checkpoint, "--pairs", 2, "--out", out, "--dtype", "float64", "--rtol", "1e-4")
    rows = np.load(out)
    metric = lg.ExpectedMetric(model.decoder.to(torch.float64))
    a, b = model.codes[rows["from"]].double(), model.codes[rows["to"]].double()
    assert_allclose(rows["length"], lg.distance(metric, a, b, solver=lg.Newton(rtol=1e-4)).detach(), rtol=1e-10)


def test_a_code_to_itself_is_zero(checkpoint, model, tmp_path):
    np.save(tmp_path / "a.npy", model.codes[:2].numpy())
    run("distances", checkpoint, "--from", tmp_path / "a.npy", "--to", tmp_path / "a.npy", "--out", tmp_path / "o.npy")
    rows = np.load(tmp_path / "o.npy")
    assert rows["length"].tolist() == [0, 0]
    assert rows["converged"].all()


def test_one_code_has_a_matrix_too(checkpoint, model, tmp_path):
    np.save(tmp_path / "a.npy", model.codes[:1].numpy())
    run("distances", checkpoint, "--codes", tmp_path / "a.npy", "--out", tmp_path / "o.npy")
    assert np.load(tmp_path / "o.npy").tolist() == [[0.0]]


def test_failed_curves_are_written_and_told(checkpoint, tmp_path, monkeypatch):
    newton = lg.Newton
    monkeypatch.setattr(lg, "Newton", lambda **options: newton(max_steps=1, **options))
    out = tmp_path / "out.csv"
    result = run("distances", checkpoint, "--pairs", 3, "--rtol", "1e-9", "--out", out, code=1)
    assert "3 curves, 0 converged" in result.stdout
    assert sum(int(count) for count in re.findall(r"^(\d+) failed: ", result.stderr, flags=re.MULTILINE)) == 3
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["converged"] for row in rows] == ["False"] * 3
    assert all(row["status"] != "converged" for row in rows)


def test_failed_entries_of_a_matrix_are_nan(checkpoint, model, tmp_path, monkeypatch):
    newton = lg.Newton
    monkeypatch.setattr(lg, "Newton", lambda **options: newton(max_steps=1, **options))
    np.save(tmp_path / "a.npy", model.codes[:2].numpy())
    run("distances", checkpoint, "--codes", tmp_path / "a.npy", "--rtol", "1e-9", "--out", tmp_path / "o.npy", code=1)
    matrix = np.load(tmp_path / "o.npy")
    assert np.isnan(matrix[0, 1])
    assert matrix[0, 0] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([[0.0, np.nan], [0.0, 0.0]]), "1 of 2 rows have NaN or infinity"),
        (np.zeros((3, 3)), r"shape \(n, 2\), one code per row; got \(3, 3\)"),
        (np.zeros(2), r"got \(2,\)"),
        (np.zeros((0, 2)), "holds no codes"),
        (np.array([["a", "b"]]), "could not be read as an array of numbers"),
        (np.array([{}], dtype=object), "could not be read as an array of numbers"),
    ],
)
def test_bad_codes(checkpoint, tmp_path, content, message):
    codes = tmp_path / "codes.npy"
    np.save(codes, content, allow_pickle=content.dtype == object)
    assert re.search(message, refused("distances", checkpoint, "--codes", codes, "--out", tmp_path / "o.npy"))
    assert not (tmp_path / "o.npy").exists()


@pytest.mark.parametrize("text", ["1,2\n3\n", "1,2\nx,y\n", "", "a,b\n"])
def test_bad_csv(checkpoint, tmp_path, text):
    codes = tmp_path / "codes.csv"
    codes.write_text(text, encoding="utf-8")
    assert str(codes) in refused("distances", checkpoint, "--codes", codes, "--out", tmp_path / "o.npy")


def test_bad_options(checkpoint, tmp_path):
    out = tmp_path / "o.npy"
    assert ".npy or .csv" in refused("distances", checkpoint, "--out", tmp_path / "o.txt")
    assert "without --codes or --pairs" in refused(
        "distances", checkpoint, "--pairs", 2, "--from", out, "--to", out, "--out", out
    )
    assert "go together" in refused("distances", checkpoint, "--from", out, "--out", out)
    assert "no file of codes at" in refused("distances", checkpoint, "--codes", out, "--out", out)
    assert "cannot be used" in refused("distances", checkpoint, "--device", "nonsense", "--out", out)
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    np.save(tmp_path / "b.npy", np.zeros((3, 2)))
    both = ("--from", tmp_path / "a.npy", "--to", tmp_path / "b.npy")
    assert "equally many rows, or one; got 2 and 3" in refused("distances", checkpoint, *both, "--out", out)
    for option, value in (("--pairs", "0"), ("--rtol", "-1"), ("--dtype", "float16"), ("--seed", "x")):
        message = refused("distances", checkpoint, "--out", out, option, value)
        assert option in message
        assert repr(value) in message
    assert "Missing option '--out'" in refused("distances", checkpoint)
    assert "No such option: --nonsense" in refused("--nonsense")
    assert "No such command 'inof'" in refused("inof")
    for folder in (tmp_path / "a.npy" / "o.npy", "/proc/none/o.npy"):
        assert "--out must be a file that can be written" in refused("distances", checkpoint, "--out", folder)
    (tmp_path / "folder.npy").mkdir()
    assert "it is a folder" in refused("distances", checkpoint, "--out", tmp_path / "folder.npy")


@pytest.mark.parametrize(
    "command", [["info"], ["distances", "--out", "o.npy"], ["heatmap", "--out", "o.html"], ["demo"]]
)
def test_bad_checkpoints(command, tmp_path):
    missing, noise = tmp_path / "missing.safetensors", tmp_path / "noise.safetensors"
    noise.write_bytes(os.urandom(1000))
    assert "no checkpoint at" in refused(command[0], missing, *command[1:])
    assert refused(command[0], noise, *command[1:])
    assert refused(command[0], tmp_path, *command[1:])


def test_checkpoint_without_codes(model, tmp_path):
    bare = tmp_path / "bare.safetensors"
    lg.save(lg.LatentModel(model.decoder), bare)
    assert "holds no codes" in refused("distances", bare, "--out", tmp_path / "o.npy")
    assert "holds no codes" in refused("heatmap", bare, "--pairs", 2, "--out", tmp_path / "o.html")
    assert "holds no codes" in refused("demo", bare)
    result = run("heatmap", bare, "--resolution", 8, "--out", tmp_path / "o.html")
    assert "−3 to 3" in result.stderr
    assert run("heatmap", bare, "--pairs", 0, "--resolution", 8, "--out", tmp_path / "o.html").stderr == ""
    assert "none" in run("info", bare).stdout


def test_traceback_on_request(tmp_path):
    result = CliRunner().invoke(app, ["--traceback", "info", str(tmp_path / "none")])
    assert isinstance(result.exception, FileNotFoundError)
    result = CliRunner().invoke(app, ["info", str(tmp_path / "none"), "--traceback"])
    assert isinstance(result.exception, FileNotFoundError)


def test_progress_is_told_where_no_bar_can_be_drawn(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(solving, "SILENCE", 0.0)
    monkeypatch.setattr(solving, "BATCH", 2)
    result = run("distances", checkpoint, "--pairs", 4, "--out", tmp_path / "o.npy")
    assert re.findall(r"^(\d) of 4 curves", result.stderr, flags=re.MULTILINE) == ["2", "4"]


def test_warnings_are_one_line(checkpoint, tmp_path, monkeypatch):
    def warn(*_):
        warnings.warn("if it ends in a sigmoid, pass Bernoulli(output='probs')", UserWarning, stacklevel=1)

    monkeypatch.setattr(distances, "place", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = CliRunner().invoke(app, ["distances", checkpoint, "--out", str(tmp_path / "o.npy")])
    expected = "latentgeo: warning: if it ends in a sigmoid, pass --likelihood bernoulli --output probs"
    assert result.stderr.splitlines()[0] == expected


# --- completion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell):
    """The script that --show-completion prints calls the program back, which answers."""
    latentgeo = Path(sys.executable).parent / "latentgeo"
    options = {"capture_output": True, "text": True, "check": True}
    plain = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    script = subprocess.run([latentgeo, "--show-completion", shell], env=plain, **options).stdout
    assert f"_LATENTGEO_COMPLETE=complete_{shell}" in script
    for words, expected in (("latentgeo hea", "heatmap"), ("latentgeo info --likelihood neg", "negative-binomial")):
        asked = {
            "_LATENTGEO_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
            "_TYPER_COMPLETE_ARGS": words,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "_TYPER_COMPLETE_WORD_TO_COMPLETE": words.split()[-1],
        }
        answer = subprocess.run([latentgeo], env={**os.environ, **asked}, **options).stdout
        assert expected in answer


def test_completion_is_installed_in_the_home_folder(tmp_path):
    latentgeo = Path(sys.executable).parent / "latentgeo"
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    subprocess.run([latentgeo, "--install-completion", "bash"], env=environment, check=True, capture_output=True)
    assert "latentgeo" in (tmp_path / ".bashrc").read_text(encoding="utf-8")


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["both", "mean", "std"])
def test_heatmap(checkpoint, tmp_path, term):
    out = tmp_path / "map.html"
    result = run("heatmap", checkpoint, "--out", out, "--pairs", 2, "--resolution", 12, "--term", term)
    assert "2 curves, 2 converged" in result.stdout
    text = out.read_text(encoding="utf-8")
    assert "½ log det" in text or "\\u00bd log det" in text
    assert "straight line" in text


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """A checkpoint of ten latent dimensions, with codes."""
    torch.manual_seed(0)
    decoder = lg.wrap(MLP([10, 16, 12]).eval(), 10, lg.Deterministic())
    path = tmp_path_factory.mktemp("ten") / "ten.safetensors"
    lg.save(lg.LatentModel(decoder, codes=torch.randn(30, 10), labels=torch.arange(30) % 2), path)
    return path


@pytest.mark.parametrize("plane", [(), ("--plane", "principal"), ("--plane", "axes:3,0"), ("--plane", "codes:4,0,7")])
def test_heatmap_of_many_dimensions(ten, tmp_path, plane):
    out = tmp_path / "map.html"
    run("heatmap", ten, "--out", out, "--pairs", 1, "--resolution", 8, *plane)
    text = out.read_text(encoding="utf-8")
    kind = plane[1].partition(":")[0] if plane else "principal"
    assert {"principal": "principal geodesic plane", "axes": "z\\u2084", "codes": "through three codes"}[kind] in text
    assert "latent units off this plane" in text


@pytest.mark.parametrize("term", ["condition", "curvature"])
def test_heatmap_of_another_field(checkpoint, ten, tmp_path, term):
    for model, extra in ((checkpoint, ()), (ten, ("--plane", "axes:0,1"))):
        out = tmp_path / f"{term}.html"
        run("heatmap", model, "--out", out, "--pairs", 0, "--resolution", 8, "--term", term, *extra)
        assert term in out.read_text(encoding="utf-8").lower()


@pytest.mark.parametrize(
    ("plane", "message"),
    [
        ("plane", "must be principal, axes:I,J or codes:I,J,K"),
        ("axes:0", "must be principal"),
        ("axes:0,-1", "must be principal"),
        ("codes:0,1", "must be principal"),
        ("codes:0,1,30", "there are 30"),
        ("axes:0,10", "two different positions in 0 … 9"),
        ("codes:1,1,2", "must not lie on one line"),
    ],
)
def test_no_such_plane(ten, tmp_path, plane, message):
    assert message in refused("heatmap", ten, "--out", tmp_path / "o.html", "--plane", plane)


@pytest.mark.skipif(plot.browser() is None, reason="no kaleido, or no Chromium or Chrome")
def test_heatmap_as_picture(checkpoint, tmp_path):
    out = tmp_path / "map.html"
    run("heatmap", checkpoint, "--out", out, "--png", "--pairs", 1, "--resolution", 12)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_picture_without_browser(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "browser", lambda: None)
    assert "--png needs" in refused("heatmap", checkpoint, "--out", tmp_path / "o.html", "--png")


def test_distances_from_a_graph_are_no_longer(checkpoint, tmp_path):
    lengths = {}
    for start in ("straight", "graph"):
        out = tmp_path / f"{start}.npy"
        run("distances", checkpoint, "--pairs", 12, "--start", start, "--out", out)
        lengths[start] = np.load(out)["length"]
    assert (lengths["graph"] <= 1.01 * lengths["straight"]).all()
    assert np.abs(lengths["graph"] / lengths["straight"] - 1).max() > 0  # they did start elsewhere


def test_heatmap_of_own_codes_and_labels(checkpoint, tmp_path):
    np.save(tmp_path / "z.npy", np.linspace(-1, 1, 12).reshape(6, 2))
    np.save(tmp_path / "y.npy", np.array([3, 3, 5, 5, 5, 3]))
    own = ("heatmap", checkpoint, "--out", tmp_path / "m.html", "--pairs", "0", "--resolution", "8")
    run(*own, "--codes", tmp_path / "z.npy", "--labels", tmp_path / "y.npy")
    page = (tmp_path / "m.html").read_text(encoding="utf-8")
    assert "label 3" in page
    assert "label 5" in page
    assert "must go with --codes" in refused(*own, "--labels", tmp_path / "y.npy")
    np.save(tmp_path / "y.npy", np.arange(5))
    assert "one class for each of the 6 codes" in refused(
        *own, "--codes", tmp_path / "z.npy", "--labels", tmp_path / "y.npy"
    )
    (tmp_path / "empty.npy").touch()
    assert "it is empty" in refused(*own, "--codes", tmp_path / "empty.npy")


def test_heatmap_bad_options(checkpoint, tmp_path):
    assert ".html" in refused("heatmap", checkpoint, "--out", tmp_path / "o.png")
    decoder = lg.wrap(MLP([3, 4]).eval(), 3, lg.Deterministic())
    lg.save(lg.LatentModel(decoder, codes=torch.zeros(2, 3)), tmp_path / "three.safetensors")
    assert "three codes or more" in refused("heatmap", tmp_path / "three.safetensors", "--out", tmp_path / "o.html")
    assert "--plane is for more than 2" in refused(
        "heatmap", checkpoint, "--out", tmp_path / "o.html", "--plane", "axes:0,1"
    )
    assert "2-D latent space" in refused("demo", tmp_path / "three.safetensors")


@pytest.mark.parametrize("given", ["4x6", "20", "2x2x5", "axb", "-4x-5"])
def test_bad_image_shapes(checkpoint, tmp_path, given):
    message = refused("heatmap", checkpoint, "--out", tmp_path / "o.html", f"--image-shape={given}")
    assert "--image-shape must be" in message
    assert "20 numbers" in message
    assert repr(given) in message


def test_image_shape(checkpoint, tmp_path, monkeypatch):
    shapes = []
    monkeypatch.setattr(plot, "measure", lambda *_, shape, **__: shapes.append(shape))
    monkeypatch.setattr(plot, "write_html", lambda *_, **__: None)
    for given in ([], ["--image-shape", "5x4"], ["--image-shape", "1×2×10"]):
        run("heatmap", checkpoint, "--out", tmp_path / "o.html", "--pairs", 1, *given)
    assert shapes == [(4, 5), (5, 4), (1, 2, 10)]


def test_demo(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "browser", lambda: None)
    text = run("demo", checkpoint, "--pairs", 2, "--resolution", 12, "--out", tmp_path / "d" / "page.html").stdout
    assert len(re.findall(r"converged", text)) == 2
    assert "no picture" in text
    assert (tmp_path / "d" / "page.html").stat().st_size > 1e6


def test_demo_finds_the_shipped_checkpoint_from_anywhere(tmp_path, monkeypatch):
    if not (ROOT / "checkpoints" / "mnist-2d.safetensors").exists():
        pytest.skip("the shipped checkpoint is not there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plot, "browser", lambda: None)
    text = run("demo", "--pairs", 1, "--resolution", 8).stdout
    assert "mnist-2d" in text
    assert (tmp_path / "demo" / "index.html").exists()


def test_demo_without_the_shipped_checkpoint(tmp_path, monkeypatch):
    """As in an installed wheel, which carries no checkpoints."""
    monkeypatch.setattr(demo, "_SHIPPED", tmp_path / "mnist-2d.safetensors")
    message = refused("demo")
    assert "CHECKPOINT must be given" in message
    assert "latentgeo demo PATH" in message


def test_demo_takes_no_other_checkpoint_for_a_missing_one(tmp_path):
    assert "no checkpoint at" in refused("demo", tmp_path / "mnist-2d.safetensors")


def test_far_pairs_are_far_and_of_different_labels(model):
    labels = model.labels.tolist()
    first, second = solving.choose_far(model.codes, 6, 0, labels)
    assert all(labels[i] != labels[j] for i, j in zip(first, second, strict=True))
    gap = (model.codes[first] - model.codes[second]).norm(dim=-1)
    assert (gap >= torch.pdist(model.codes).median() * 0.9).all()


def test_pairs_of_a_single_code_are_refused():
    with pytest.raises(ValueError, match="at least 2 codes"):
        solving.choose(1, 3, 0)
