"""Geodesics beside straight lines, equal distances, distance matrices, surfaces; both looks; every format."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from models import tiny_model
from numpy.testing import assert_allclose
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist, squareform

import latentgeo as lg
from latentgeo import plot
from latentgeo.plot import theme
from latentgeo.train import scores

needs_browser = pytest.mark.skipif(plot.browser() is None, reason="no kaleido, or no Chromium or Chrome")
DISC = {"bounds": (-0.6, 0.6, -0.4, 0.4), "resolution": 5}


def named(figure, name, kind=None):
    return [trace for trace in figure.data if trace.name == name and (kind is None or trace.type == kind)]


@pytest.fixture(scope="module")
def disc_path():
    a = torch.tensor([[-0.5, 0.1], [0.0, -0.6]], dtype=torch.float64)
    b = torch.tensor([[0.6, 0.2], [0.3, 0.5]], dtype=torch.float64)
    return lg.connect(lg.PoincareBall(2), a, b, solver=lg.Newton(rtol=1e-6))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


# --- geodesic and straight line -------------------------------------------------------------------------------------


def test_speed_of_a_geodesic_is_its_length(disc_path):
    figure = plot.geodesic(lg.PoincareBall(2), disc_path)
    for k, name in enumerate("AB"):
        (speed,) = named(figure, f"{name}: geodesic")
        assert_allclose(speed.y, disc_path.length[k].item(), rtol=2e-3)


def test_speed_of_the_straight_line_in_the_disc(disc_path):
    figure = plot.geodesic(lg.PoincareBall(2), disc_path)
    for k, name in enumerate("AB"):
        (speed,) = named(figure, f"{name}: straight line")
        a, b = disc_path.z[k, 0].numpy(), disc_path.z[k, -1].numpy()
        z = a + np.asarray(speed.x)[:, None] * (b - a)
        assert_allclose(speed.y, 2 * np.linalg.norm(b - a) / (1 - (z**2).sum(-1)), rtol=1e-9)
        area = np.trapezoid(speed.y, speed.x)
        assert f"straight line: {area:.4g} units of the metric" in figure.layout.annotations[k].text


def test_images_stand_above_their_times(model):
    metric = lg.ExpectedMetric(model.decoder)
    path = lg.connect(metric, model.codes[0], model.codes[1], solver=lg.Newton(rtol=1e-2), throw=False)
    figure = plot.geodesic(metric, path, n=5, shape=(4, 5))
    (strip,) = named(figure, "A: geodesic", "heatmap")
    assert_allclose(strip.z[:, :5], model.decoder.mean(path.z[0]).detach().reshape(4, 5), atol=1e-6)
    panel = named(figure, "A: geodesic", "scatter")[0].xaxis
    low, high = figure.layout[panel.replace("x", "xaxis")].range
    assert_allclose((0.5 - low) / (high - low), 0.5)
    assert_allclose((0 - low) / (high - low), 1 / 10)  # the middle of the first of five images


def test_curves_that_failed_say_so(model):
    metric = lg.ExpectedMetric(model.decoder)
    path = lg.connect(metric, model.codes[:1], model.codes[1:2], solver=lg.Newton(max_steps=1, rtol=1e-9), throw=False)
    figure = plot.geodesic(metric, path, n=3, shape=(4, 5))
    (line,) = named(figure, "A: failed", "scatter")
    assert line.line.color == theme.FAILED
    assert path.status[0].value in line.hovertemplate
    assert any("not converged" in note.text for note in figure.layout.annotations)


def test_too_many_curves_for_one_picture():
    path = lg.connect(lg.Euclidean(2), torch.zeros(7, 2), torch.ones(7, 2))
    with pytest.raises(ValueError, match="1 to 6 curves to be drawn side by side, got 7"):
        plot.geodesic(lg.Euclidean(2), path)


# --- equal distances ------------------------------------------------------------------------------------------------


def test_contours_hold_the_graphs_distances():
    metric, code = lg.PoincareBall(2), torch.tensor([0.1, 0.05], dtype=torch.float64)
    corners = torch.tensor([[-0.6, -0.4], [0.6, 0.4]], dtype=torch.float64)
    graph = lg.LatentGraph(metric, grid=40).fit(corners)
    figure = plot.distance_contours(metric, code, graph=graph, contour_resolution=9, **DISC)
    (drawn,) = named(figure, "distance")
    z = torch.as_tensor(np.stack(np.meshgrid(drawn.x, drawn.y), -1))
    assert_allclose(drawn.z, graph.distances(code[None], z.reshape(-1, 2)).reshape(z.shape[:-1]), rtol=1e-12)


def test_contours_are_the_circles_of_the_disc():
    figure = plot.distance_contours(lg.PoincareBall(2), [0.0, 0.0], contour_resolution=31, **DISC)
    (drawn,) = named(figure, "distance")
    exact = 2 * np.arctanh(np.hypot(*np.meshgrid(drawn.x, drawn.y)))
    assert (drawn.z > exact * (1 - 1e-6)).all()  # a graph's paths are never shorter
    assert (drawn.z < exact * 1.03 + 1e-12).all()
    step = drawn.contours.size
    assert step in {s * 10.0**k for s in (1, 2, 5) for k in (-3, -2, -1, 0)}
    assert 3 <= round(drawn.contours.end / step) <= 20
    assert_allclose(drawn.contours.end / step, round(drawn.contours.end / step))


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        ([0.0, 0.0, 0.0], {}, r"`code` must be one finite code of shape \(2,\), got shape \(3,\)"),
        ([0.0, math.nan], {}, "one finite code"),
        ([0.0, 0.0], {"contours": 0}, "`contours` must be an integer of at least 1"),
        ([0.0, 0.0], {"contour_resolution": 1}, "`contour_resolution` must be an integer of at least 2"),
    ],
)
def test_no_such_contours(code, options, message):
    with pytest.raises(ValueError, match=message):
        plot.distance_contours(lg.PoincareBall(2), code, **DISC, **options)


# --- distance matrices ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_groups():
    generator = np.random.default_rng(0)
    label = np.arange(30) % 3
    return squareform(pdist(np.array([[0, 0], [5, 0], [0, 9]])[label] + 0.3 * generator.normal(size=(30, 2)))), label


def test_matrix_is_reordered_and_its_groups_stand_together(three_groups):
    D, label = three_groups
    figure = plot.distance_matrix(D, label, units="data units")
    heatmap = figure.data[0]
    order = np.array(heatmap.meta["order"])
    assert sorted(order) == list(range(30))
    assert (heatmap.z == D[np.ix_(order, order)]).all()
    assert (np.diff(label[order]) != 0).sum() == 2
    assert "data units" in heatmap.colorbar.title.text
    for band in named(figure, "labels"):
        assert (np.asarray(band.z).ravel() == label[order]).all()


@pytest.mark.parametrize("kind", ["average", "complete", "single"])
def test_dendrogram_has_the_heights_of_the_merges(three_groups, kind):
    D, _ = three_groups
    (tree,) = named(plot.distance_matrix(D, linkage=kind), "dendrogram")
    tops = np.asarray(tree.y).reshape(-1, 5)[:, 1]
    assert_allclose(np.sort(tops), np.sort(linkage(squareform(D), kind)[:, 2]), rtol=1e-12)
    assert np.nanmin(tree.x) == 0
    assert np.nanmax(tree.x) == 29


def test_missing_distances_are_blank_and_said(three_groups):
    D = three_groups[0].copy()
    D[0, 1] = D[1, 0] = np.nan
    D[2, 3] = D[3, 2] = np.inf
    figure = plot.distance_matrix(D)
    assert np.isnan(figure.data[0].z).sum() == 4
    assert "2 pairs without a distance" in figure.layout.title.text


@pytest.mark.parametrize(
    ("D", "options", "message"),
    [
        (np.zeros((2, 3)), {}, r"shape \(n, n\)"),
        (np.zeros((1, 1)), {}, "n from 2 to"),
        (np.array([[0.0, -1.0], [-1.0, 0.0]]), {}, "none negative"),
        (np.array([[1.0, 1.0], [1.0, 0.0]]), {}, "zeros on the diagonal"),
        (np.array([[0.0, 1.0], [2.0, 0.0]]), {}, "must be symmetric"),
        (np.zeros((2, 2)), {"labels": [1]}, "one entry per row"),
        (np.zeros((2, 2)), {"linkage": "ward"}, "'average', 'complete' or 'single'"),
        (np.zeros((60, 60)), {"labels": range(60)}, "at most 40 groups, got 60"),
    ],
)
def test_no_such_matrix(D, options, message):
    with pytest.raises(ValueError, match=message):
        plot.distance_matrix(D, **options)


# --- surfaces -------------------------------------------------------------------------------------------------------


def bowl():
    return lg.PullbackMetric(lambda z: torch.cat([z, (z**2).sum(-1, keepdim=True), 0 * z], -1), dim=2)


def test_a_surface_in_three_dimensions_is_shown_as_it_is():
    figure = plot.surface(bowl(), bounds=(-1, 1, -0.5, 0.8), resolution=6)
    skin = figure.data[0]
    seen = np.stack([skin.x, skin.y, skin.z], -1).reshape(-1, 3)
    z = torch.as_tensor(np.asarray(skin.customdata).reshape(-1, 2))
    assert_allclose(pdist(seen), pdist(bowl().embedding(z)), atol=1e-12)
    assert_allclose(np.asarray(skin.surfacecolor).ravel(), bowl().log_volume(z), atol=1e-12)
    assert "100% of the surface's variance" in figure.layout.title.text


def test_curves_and_codes_lie_on_the_surface():
    metric = bowl()
    z = torch.tensor([[-0.8, 0.1], [0.7, 0.6], [0.2, -0.7], [0.0, 0.0]], dtype=torch.float64)
    path = lg.connect(metric, z[0], z[1])
    figure = plot.surface(metric, codes=z, paths=path, resolution=6)
    whole = {name: named(figure, name) for name in ("geodesic", "straight line", "codes")}
    above, below = (np.stack([t.x, t.y, t.z], -1) for t in whole["geodesic"])
    points = np.stack([whole["codes"][0].x, whole["codes"][0].y, whole["codes"][0].z], -1).reshape(2, 4, 3).mean(0)
    exact = metric.embedding(torch.cat([path(torch.linspace(0, 1, 200, dtype=torch.float64)), z]))
    assert_allclose(pdist(np.concatenate([(above + below) / 2, points])), pdist(exact), atol=1e-9)
    lift = np.linalg.norm(above - below, axis=-1) / 2
    assert 0 < lift.max() < 0.02
    assert len(whole["straight line"]) == 2


def test_surface_far_from_the_codes_is_left_out():
    metric = lg.PullbackMetric(lambda z: torch.cat([z, (6 * z[..., :1]).exp()], -1), dim=2)
    codes = torch.tensor([[-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-0.5, 0.3]], dtype=torch.float64)
    skin = plot.surface(metric, codes=codes, bounds=(-1, 1, -1, 1), resolution=9).data[0]
    image = metric.embedding(torch.as_tensor(np.asarray(skin.customdata)))
    middle = metric.embedding(codes).mean(0)
    far = (metric.embedding(codes) - middle).norm(dim=-1).max() * 1.15
    assert (np.isfinite(skin.x) == ((image - middle).norm(dim=-1) <= far).numpy()).all()
    assert 0 < np.isfinite(skin.x).mean() < 1


def test_surface_needs_an_embedding():
    with pytest.raises(ValueError, match="must be that of a map into a flat space"):
        plot.surface(lg.PoincareBall(2), bounds=(-0.5, 0.5, -0.5, 0.5))


# --- looks and formats ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def figures(model, three_groups, disc_path):
    metric = lg.ExpectedMetric(model.decoder)
    some = {"codes": model.codes, "resolution": 8}
    path = lg.connect(metric, model.codes[:1], model.codes[3:4], solver=lg.Newton(rtol=1e-2), throw=False)
    walk = lg.random_walk(metric, model.codes[:2], n_steps=4, step_size=1e-4, random_state=0)
    real = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    curve = scores.truncation_curve(lambda z: z, real, (0.5, 1.0), dim=2)
    found = {
        "measure": plot.measure(metric, labels=model.labels, paths=path, strips=True, shape=(4, 5), **some),
        "condition": plot.measure(metric, term="condition", **some),
        "curvature": plot.curvature(metric, **some),
        "indicatrix": plot.indicatrix(metric, ellipses=3, **some),
        "geodesic": plot.geodesic(metric, path, shape=(4, 5)),
        "strip": plot.strip(model.decoder, path, shape=(4, 5)),
        "clusters": plot.clusters(metric, model.codes, model.labels, model.codes[:3], shape=(4, 5), resolution=8),
        "walks": plot.walks(metric, walk, shape=(4, 5), **some),
        "contours": plot.distance_contours(lg.PoincareBall(2), [0.0, 0.0], contour_resolution=8, **DISC),
        "matrix": plot.distance_matrix(*three_groups),
        "surface": plot.surface(metric, paths=path, **some),
        "training": plot.training([{"epoch": 1, "loss": 3.0, "kl": 1.0, "elbo": 1.0}]),
        "truncation": plot.truncation(curve),
        "manifold": plot.manifold(model.decoder, n=3, shape=(4, 5)),
        "traversals": plot.traversals(model.decoder, n=3, shape=(4, 5)),
    }
    return found


NAMES = ["measure", "condition", "curvature", "indicatrix", "geodesic", "strip", "clusters", "walks", "contours",
         "matrix", "surface", "training", "truncation", "manifold", "traversals"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_turns_dark_and_back(figures, name):
    figure = figures[name]
    before = go.Figure(figure)
    dark = plot.themed(figure, "dark")
    assert figure == before  # nothing is edited in place
    assert dark.layout.template.layout.paper_bgcolor == theme.page("dark").paper
    assert plot.themed(dark, "dark") == dark
    assert plot.themed(dark, "light") == figure
    for note in dark.layout.annotations:
        assert note.font.color in (None, theme.page("dark").ink)


@pytest.mark.parametrize("name", NAMES)
def test_no_line_of_a_dark_page_or_legend_is_dark(figures, name):
    for trace in plot.themed(figures[name], "dark").data:
        key = trace.type == "scatter" and trace.x is not None and len(trace.x) == 1 and trace.x[0] is None
        if trace.meta == theme.ON_PAGE or (key and trace.mode == "lines"):
            assert trace.line.color not in (theme.INK, theme.FAINT)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_too_small_for_half_the_width(figures, name):
    figure = figures[name].to_plotly_json()
    sizes = list(font_sizes([figure["data"], {k: v for k, v in figure["layout"].items() if k != "template"}]))
    sizes += list(font_sizes(figures[name].layout.template.layout.to_plotly_json()))
    bars = [getattr(trace, "colorbar", None) for trace in figures[name].data]
    inline = re.findall(r"font-size:(\d+)px", str(figures[name].layout.title) + str(bars))
    assert min(sizes + list(map(int, inline))) >= 15
    assert theme.SIZE in sizes


def font_sizes(part):
    """Every size of text in a figure's parts."""
    if isinstance(part, (list, tuple)):
        for inner in part:
            yield from font_sizes(inner)
    if isinstance(part, dict):
        for key, inner in part.items():
            if key.endswith("font") and isinstance(inner, dict) and "size" in inner:
                yield inner["size"]
            yield from font_sizes(inner)


@pytest.mark.parametrize("name", ["measure", "condition", "indicatrix", "clusters", "contours"])
def test_legends_stand_one_below_the_other(figures, name):
    layout = figures[name].layout
    assert layout.legend.y < layout.legend2.y or not any(t.legend == "legend2" for t in figures[name].data)
    assert layout.legend.y < layout.yaxis.domain[0]


def test_a_long_title_has_room_and_every_epoch_its_name(figures):
    plane = plot.Plane.axes(0, 1, at=[0.0, 0.0, 0.0])
    about = "a plane whose name is so long that it does not fit beside what else there is to say, in one line of it"
    long = dataclasses.replace(plane, about=about)
    low, high = (plot.measure(lg.PoincareBall(3), plane=p, **DISC) for p in (plane, long))
    assert high.layout.title.text.count("<br>") > low.layout.title.text.count("<br>")
    assert high.layout.margin.t - low.layout.margin.t == high.layout.height - low.layout.height > 0
    named_axes = [axis for axis in figures["training"].select_xaxes() if axis.title.text == "epoch"]
    assert len(named_axes) == 2  # three panels in two columns: the last of each


def test_the_bar_of_one_walk_stands_beside_it(figures):
    figure = figures["walks"]
    (bar,) = (t.colorbar for t in figure.data if t.name == "measure")
    assert 0 < bar.x - figure.layout.xaxis.domain[1] < 0.03


def test_a_dark_map_holds_the_same_numbers(figures):
    light, dark = figures["measure"], plot.themed(figures["measure"], "dark")
    for a, b in zip(light.data, dark.data, strict=True):
        if a.type == "heatmap":
            assert_allclose(b.z, a.z)
            assert b.colorscale == a.colorscale


def test_no_such_look(figures, tmp_path):
    for call in (
        lambda: plot.template("grey"),
        lambda: plot.themed(figures["strip"], "grey"),
        lambda: plot.write_html(figures["strip"], tmp_path / "a.html", theme="grey"),
        lambda: plot.write_figure(figures["strip"], tmp_path / "a.png", theme="grey"),
    ):
        with pytest.raises(ValueError, match="`theme` must be 'light' or 'dark', got 'grey'"):
            call()


@pytest.mark.parametrize(("given", "asked", "found"), [("light", "dark", "dark"), ("dark", None, "dark")])
def test_pages_take_a_look(figures, tmp_path, given, asked, found):
    page = plot.write_figure(plot.themed(figures["strip"], given), tmp_path / "page.html", theme=asked)
    text = page.read_text(encoding="utf-8")
    assert f"color-scheme: {found}" in text
    assert f"background: {theme.page(found).paper}" in text
    assert f'"paper_bgcolor":"{theme.page(found).paper}"' in text


@needs_browser
@pytest.mark.parametrize(("suffix", "magic"), [("svg", b"<svg"), ("pdf", b"%PDF")])
def test_every_format_by_its_suffix(figures, tmp_path, suffix, magic):
    out = plot.write_figure(figures["strip"], tmp_path / f"strip.{suffix}", width=600, theme="dark")
    assert out.read_bytes().startswith(magic)


# --- the gallery ----------------------------------------------------------------------------------------------------

DOCS = Path(__file__).resolve().parent.parent / "docs"
GALLERY = re.findall(r"^@figure\ndef (\w+)", (DOCS / "make_images.py").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", GALLERY)
def test_gallery_shows_every_figure_of_its_script(name):
    png = (DOCS / "images" / f"{name}.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) <= 150_000
    assert f"](images/{name}.png)" in (DOCS / "pictures.md").read_text(encoding="utf-8")


def test_gallery_is_not_empty():
    assert len(GALLERY) >= 13
