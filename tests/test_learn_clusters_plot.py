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


def arrays(path):
    with np.load(path) as file:
        return dict(file)


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


def test_cluster_writes_arrays_scores_and_a_page(checkpoint, model, tmp_path):
    out, page, scores = tmp_path / "new" / "c.npz", tmp_path / "c.html", tmp_path / "c.json"
    options = ("--html", page, "--json", scores, "--n-init", 2, "--resolution", 12)
    result = run("cluster", checkpoint, "-k", 3, "--out", out, *options)
    assert "60 codes in 3 clusters" in result.output
    found = arrays(out)
    assert set(found["labels"]) == {0, 1, 2}
    assert found["distances"].shape == (60,)
    assert (found["distances"] >= 0).all()
    assert found["centres"].shape == (3, 2)
    told = json.loads(scores.read_text(encoding="utf-8"))
    assert set(told) == {"geodesic", "Euclidean"}
    assert set(told["geodesic"]) == {"inertia", "F", "ARI", "NMI"}
    assert told["geodesic"]["F"] == pytest.approx(f_measure(model.labels.numpy(), found["labels"]))
    text = page.read_text(encoding="utf-8")
    assert "Clusters in tiny.safetensors" in text
    assert "averages" in text
    assert {file.name for file in tmp_path.iterdir()} == {"new", "c.html", "c.json"}


def test_cluster_writes_a_table(checkpoint, tmp_path):
    for name in ("c.csv", "c.npz"):
        run("cluster", checkpoint, "-k", 3, "--out", tmp_path / name, "--n-init", 1)
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["code"]) for row in rows] == list(range(60))
    found = arrays(tmp_path / "c.npz")
    np.testing.assert_array_equal([int(row["label"]) for row in rows], found["labels"])
    np.testing.assert_allclose([float(row["distance"]) for row in rows], found["distances"], rtol=1e-8)


def test_medoids_of_given_codes_with_their_classes(checkpoint, model, tmp_path):
    np.save(tmp_path / "z.npy", model.codes.numpy()[:30])
    np.save(tmp_path / "y.npy", model.labels.numpy()[:30])
    run(
        "cluster", checkpoint, "-k", 3, "--method", "k-medoids", "--codes", tmp_path / "z.npy", "--labels",
        tmp_path / "y.npy", "--out", tmp_path / "c.npz", "--json", tmp_path / "c.json", "--n-init", 1,
    )  # fmt: skip
    centres = arrays(tmp_path / "c.npz")["centres"]
    gap = np.abs(centres[:, None] - model.codes.numpy()[:30]).max(-1).min(1)
    assert gap.max() < 1e-6
    assert "F" in json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["geodesic"]


def test_the_command_refuses_what_makes_no_sense(checkpoint, model, tmp_path):
    np.save(tmp_path / "z.npy", model.codes.numpy()[:4])
    np.save(tmp_path / "y.npy", np.zeros(3))
    np.save(tmp_path / "half.npy", np.full(4, 0.5))
    codes = ("--codes", tmp_path / "z.npy")
    out = ("--out", tmp_path / "c.npz")
    assert "--out must end in .npz or .csv" in refused("cluster", checkpoint, "--out", tmp_path / "folder")
    assert "--json must end in .json" in refused("cluster", checkpoint, *out, "--json", tmp_path / "c.txt")
    assert "--png must go with --html" in refused("cluster", checkpoint, *out, "--png")
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
