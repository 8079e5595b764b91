"""Walks in pictures and on the command line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from commands import refused, run
from models import tiny_model
from numpy.testing import assert_allclose, assert_array_equal

import latentgeo as lg
from latentgeo import plot


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def metric(model):
    return lg.metric(model)


@pytest.fixture(scope="module")
def walks(model, metric):
    options = {"n_steps": 12, "step_size": 2e-3, "random_state": 0}
    kinds = {"Euclidean": "euclidean", "Inverse metric": "inverse-metric", "Brownian": "brownian"}
    return {name: lg.random_walk(metric, model.codes[:4], kind=kind, **options) for name, kind in kinds.items()}


@pytest.fixture(scope="module")
def figure(model, metric, walks):
    return plot.walks(metric, walks, codes=model.codes, shape=(4, 5), resolution=20, n_images=5)


def test_three_panels_hold_the_paths(figure, walks):
    for number, walk in enumerate(walks.values(), start=1):
        axis = "x" if number == 1 else f"x{number}"
        lines = {t.name: t for t in figure.data if t.xaxis == axis and t.name in ("A", "B", "C")}
        assert sorted(lines) == ["A", "B", "C"]
        for index, name in enumerate("ABC"):
            assert_allclose(np.stack([lines[name].x, lines[name].y], -1), walk.z[index].numpy())
            assert len(lines[name].text) == 13
        maps = [t for t in figure.data if t.name == "measure" and t.xaxis == axis]
        assert len(maps) == 1
        assert np.isfinite(maps[0].z).all()
    assert sum(bool(t.showscale) for t in figure.data if t.name == "measure") == 1
    titles = [a.text for a in figure.layout.annotations[:3]]
    assert [t.split("</b>")[0] for t in titles] == ["<b>Euclidean", "<b>Inverse metric", "<b>Brownian"]


def test_strips_are_what_the_decoder_shows(figure, model, walks):
    strips = [t for t in figure.data if t.type == "heatmap" and t.name not in ("measure", "−∞ (singular)")]
    assert len(strips) == 9
    z = walks["Euclidean"].z[0][[0, 3, 6, 9, 12]]
    image = model.decoder.mean(z[:1]).detach().numpy().reshape(4, 5)
    assert_allclose(strips[0].z[:, :5], image, rtol=1e-5)
    last = model.decoder.mean(z[-1:]).detach().numpy().reshape(4, 5)
    assert_allclose(strips[0].z[:, -5:], last, rtol=1e-5)


def test_stopped_walkers_end_in_a_cross_where_they_stopped():
    metric = lg.PoincareBall(2)
    z = torch.tensor([[0.0, 0.0], [0.9, 0.0]])
    walk = lg.random_walk(metric, z, n_steps=30, step_size=0.1, kind="euclidean", random_state=0)
    assert not bool(walk.finished[1])
    figure = plot.walks(metric, walk, bounds=(-0.5, 0.5, -0.5, 0.5), resolution=5)
    ends = {t.name: t for t in figure.data if t.name in ("A ends", "B ends")}
    assert ends["B ends"].marker.symbol[1] == "x"
    assert "left the region" in ends["B ends"].hovertext[1]
    line = next(t for t in figure.data if t.name == "B")
    assert len(line.x) == int(walk.steps[1]) + 1
    assert "stopped" in figure.layout.annotations[0].text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_walkers": 0}, "`n_walkers` must be an integer of at least 1, got 0"),
        ({"n_images": 1}, "`n_images` must be 0 or at least 2, got 1"),
        ({"resolution": 1}, "`resolution` must be an integer of at least 2, got 1"),
        ({"walks": {}}, "`walks` must hold at least one walk"),
        ({"metric": lg.Sphere(3)}, "`metric` must have latent dimension 2"),
        ({"codes": torch.zeros(3, 3)}, "`codes` must have shape"),
    ],
)
def test_bad_arguments(metric, walks, options, message):
    arguments = {"metric": metric, "walks": walks, **options}
    with pytest.raises(ValueError, match=message):
        plot.walks(arguments.pop("metric"), arguments.pop("walks"), **arguments)


def test_walks_of_another_dimension_are_refused(metric):
    deep = lg.random_walk(lg.Sphere(3), torch.zeros(2, 3), n_steps=2, step_size=0.1)
    with pytest.raises(ValueError, match="`walks` must be in 2 latent dimensions, got 3 for 'deep'"):
        plot.walks(metric, {"deep": deep})


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    lg.save(model, path)
    return path


def test_command(checkpoint, model, metric, tmp_path):
    out, page = tmp_path / "walk.npz", tmp_path / "walk.html"
    result = run("walk", checkpoint, "--out", out, "--html", page, "--walkers", 5, "--steps", 8, "--step-size", 1e-3,
                 "--resolution", 12)  # fmt: skip
    assert "wrote" in result.stdout
    text = page.read_text(encoding="utf-8")
    assert "Inverse metric" in text
    with np.load(out) as file:
        assert file["brownian"].shape == file["euclidean"].shape == file["inverse_metric"].shape == (5, 9, 2)
        assert_array_equal(file["brownian_status"], ["finished"] * 5)
        assert_array_equal(file["brownian_steps"], [8] * 5)
        z = torch.as_tensor(file["brownian"][:, 0])
        again = lg.random_walk(metric, z, n_steps=8, step_size=1e-3, random_state=0)
        assert_allclose(file["brownian"], again.z.numpy())
        plain = np.diff(file["euclidean"], axis=1)
        assert np.sqrt((plain**2).sum(-1).mean()) == pytest.approx(again.rms_step, rel=0.3)
        assert float(file["inverse_metric_step_size"]) == 1e-3


def test_command_with_langevin_given_starts_and_thinning(checkpoint, model, tmp_path):
    np.save(tmp_path / "starts.npy", model.codes[:3].numpy())
    out = tmp_path / "walk.npz"
    starts = tmp_path / "starts.npy"
    result = run("walk", checkpoint, "--out", out, "--from", starts, "--kind", "langevin", "--steps", 20, "--every", 5)
    assert "accepted" in result.stdout
    with np.load(out) as file:
        assert sorted(file.files) == ["langevin", "langevin_status", "langevin_step_size", "langevin_steps"]
        assert file["langevin"].shape == (3, 5, 2)


def test_refusals(checkpoint, tmp_path):
    out = tmp_path / "walk.npz"
    assert "--out must end in .npz" in refused("walk", checkpoint, "--out", tmp_path / "walk.csv")
    assert "--step-size must be positive" in refused("walk", checkpoint, "--out", out, "--step-size", -1)
    assert "--png must go with --html" in refused("walk", checkpoint, "--out", out, "--png")
    np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
    assert "finite" in refused("walk", checkpoint, "--out", out, "--from", tmp_path / "nan.npy")
    assert not out.exists()
