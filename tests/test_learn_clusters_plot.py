"""The picture of clusters, and `latentgeo cluster`: what they hold and write, and what they refuse."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from commands import refused, run
from models import tiny_model

import latentgeo as lg
from latentgeo import plot
from latentgeo._cli.cluster import f_measure


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    lg.save(model, path)
    return str(path)


def trace(figure, name):
    return next(t for t in figure.data if t.name == name)


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_figure_holds_clusters_centres_and_averages(model):
    z = model.codes.numpy()
    label = model.labels.numpy()
    centres = np.stack([z[label == k][0] for k in range(3)])
    figure = plot.clusters(lg.metric(model), z, label, centres, shape=(4, 5), resolution=12)
    assert figure.data[0].name == "measure"
    shown = trace(figure, "centres")
    np.testing.assert_allclose(np.stack([shown.x, shown.y], 1), centres, rtol=1e-6)
    assert list(shown.text) == ["0", "1", "2"]
    assert list(shown.customdata) == [20, 20, 20]
    mean = trace(figure, "averages")
    np.testing.assert_allclose(
        np.stack([mean.x, mean.y], 1), [z[label == k].mean(0) for k in range(3)], rtol=1e-5, atol=1e-6
    )
    rows = [t for t in figure.data if t.name in ("decoded centres", "decoded averages")]
    assert len(rows) == 2
    decoded = np.asarray(rows[0].z)[:, :5]
    with_model = model.decoder.mean(model.codes[label == 0][:1]).detach().numpy().reshape(4, 5)
    np.testing.assert_allclose(decoded, with_model, atol=1e-6)
    assert [a.text for a in figure.layout.annotations[-3:]] == ["0", "1", "2"]


def test_codes_of_no_cluster_and_empty_clusters_are_drawn(model):
    z = model.codes.numpy()
    label = np.where(model.labels.numpy() == 2, -1, 0)
    figure = plot.clusters(lg.metric(model), z, label, [[0.0, 0.0], [1.0, 1.0]], shape=(4, 5), resolution=8)
    assert {t.name for t in figure.data} >= {"cluster: -1", "0", "centres", "averages"}
    assert np.isnan(trace(figure, "averages").x[1])
    bare = plot.clusters(lg.PoincareBall(2), 0.2 * z, label, [[0.0, 0.0]], averages=False, resolution=8)
    assert "averages" not in {t.name for t in bare.data}


@pytest.mark.parametrize(
    ("codes", "labels", "centres", "match"),
    [
        (np.zeros((3, 3)), [0, 0, 0], [[0.0, 0.0]], "codes"),
        (np.full((3, 2), np.nan), [0, 0, 0], [[0.0, 0.0]], "codes"),
        (np.zeros((3, 2)), [0, 0], [[0.0, 0.0]], "labels"),
        (np.zeros((3, 2)), [0.5, 0, 0], [[0.0, 0.0]], "labels"),
        (np.zeros((3, 2)), [0, 0, 1], [[0.0, 0.0]], "one of the 1 centres"),
        (np.zeros((3, 2)), [0, 0, 0], [[0.0]], "centres"),
        (np.zeros((3, 2)), [0, 0, 0], [[np.nan, 0.0]], "centres"),
    ],
)
def test_the_figure_refuses(codes, labels, centres, match):
    with pytest.raises(ValueError, match=match):
        plot.clusters(lg.Euclidean(2), codes, labels, centres, resolution=5)


# --- the command ------------------------------------------------------------------------------------------------------


def test_cluster_writes_labels_centres_scores_and_a_page(checkpoint, model, tmp_path):
    result = run("cluster", checkpoint, "-k", 3, "--out", tmp_path / "c", "--n-init", 2, "--resolution", 12)
    assert "60 codes in 3 clusters" in result.output
    with (tmp_path / "c" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["code"]) for r in rows] == list(range(60))
    assert {int(r["cluster"]) for r in rows} == {0, 1, 2}
    assert all(float(r["distance"]) >= 0 for r in rows)
    assert np.loadtxt(tmp_path / "c" / "centres.csv", delimiter=",").shape == (3, 2)
    scores = json.loads((tmp_path / "c" / "scores.json").read_text())
    assert set(scores) == {"geodesic", "Euclidean"}
    assert set(scores["geodesic"]) == {"inertia", "F", "ARI", "NMI"}
    got = np.array([int(r["cluster"]) for r in rows])
    assert scores["geodesic"]["F"] == pytest.approx(f_measure(model.labels.numpy(), got))
    page = (tmp_path / "c" / "index.html").read_text(encoding="utf-8")
    assert "Clusters in tiny.safetensors" in page
    assert "averages" in page


def test_medoids_of_given_codes_with_their_classes(checkpoint, model, tmp_path):
    np.save(tmp_path / "z.npy", model.codes.numpy()[:30])
    np.save(tmp_path / "y.npy", model.labels.numpy()[:30])
    run(
        "cluster", checkpoint, "-k", 3, "--method", "k-medoids", "--codes", tmp_path / "z.npy", "--labels",
        tmp_path / "y.npy", "--out", tmp_path / "c", "--n-init", 1, "--resolution", 10,
    )  # fmt: skip
    centres = np.loadtxt(tmp_path / "c" / "centres.csv", delimiter=",")
    gap = np.abs(centres[:, None] - model.codes.numpy()[:30]).max(-1).min(1)
    assert gap.max() < 1e-6
    assert "F" in json.loads((tmp_path / "c" / "scores.json").read_text())["geodesic"]


def test_the_command_refuses_what_makes_no_sense(checkpoint, model, tmp_path):
    np.save(tmp_path / "z.npy", model.codes.numpy()[:4])
    np.save(tmp_path / "y.npy", np.zeros(3))
    np.save(tmp_path / "half.npy", np.full(4, 0.5))
    codes = ("--codes", tmp_path / "z.npy")
    out = ("--out", tmp_path / "c")
    assert "at most the number of codes, 4; got 5" in refused("cluster", checkpoint, *codes, *out, "-k", 5)
    assert "--labels must go with --codes" in refused("cluster", checkpoint, *out, "--labels", tmp_path / "y.npy")
    bad = refused("cluster", checkpoint, *codes, *out, "-k", 2, "--labels", tmp_path / "y.npy")
    assert "one class for each of the 4 codes" in bad
    bad = refused("cluster", checkpoint, *codes, *out, "-k", 2, "--labels", tmp_path / "half.npy")
    assert "whole numbers" in bad
    assert "--n-jobs" in refused("cluster", checkpoint, *out, "--n-jobs", 0)
    assert "--clusters" in refused("cluster", checkpoint, *out, "-k", 0)


def test_f_measure_matches_clusters_with_classes():
    truth = np.array([0, 0, 0, 1, 1, 2])
    assert f_measure(truth, np.array([2, 2, 2, 0, 0, 1])) == 1
    # class 0: 2·2/(3+2) = 0.8; class 1: 2·2/(2+4) = 2/3; class 2 is left with nothing
    assert f_measure(truth, np.array([0, 0, 1, 1, 1, 1])) == pytest.approx((3 * 0.8 + 2 * 2 / 3) / 6)
