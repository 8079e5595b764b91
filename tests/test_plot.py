"""Figures hold the right numbers; the pages that carry them are whole."""

from __future__ import annotations

import math
import re
import types

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from models import tiny_model
from numpy.testing import assert_allclose

import latentgeo as lg
from latentgeo import plot
from latentgeo.plot import overlays, theme

needs_browser = pytest.mark.skipif(plot.browser() is None, reason="no kaleido, or no Chromium or Chrome")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def metric(model):
    return lg.ExpectedMetric(model.decoder)


@pytest.fixture(scope="module")
def path(metric, model):
    return lg.connect(metric, model.codes[:3], model.codes[3:6], solver=lg.Newton(rtol=1e-2), throw=False)


@pytest.fixture(scope="module")
def figure(metric, model, path):
    return plot.measure(metric, codes=model.codes, labels=model.labels, paths=path, resolution=40, strips=True,
                        shape=(4, 5))  # fmt: skip


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def grid(trace):
    x, y = np.meshgrid(np.asarray(trace.x), np.asarray(trace.y))
    return torch.as_tensor(np.stack([x, y], axis=-1))


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_heatmap_holds_the_log_measure(figure, model):
    heatmap = figure.data[0]
    exact = lg.ExpectedMetric(model.decoder.to(torch.float64))
    expected = exact.log_volume(grid(heatmap)).detach().numpy()
    assert np.isfinite(expected).all()
    assert_allclose(heatmap.z, expected, rtol=1e-10)


def test_closed_form_measure_of_the_poincare_disc():
    heatmap = plot.measure(lg.PoincareBall(2), bounds=(-0.6, 0.6, -0.5, 0.5), resolution=11).data[0]
    radius = (grid(heatmap) ** 2).sum(-1).numpy()
    assert heatmap.z.shape == (11, 13)
    assert_allclose(heatmap.z, 2 * np.log(2 / (1 - radius)), rtol=1e-12)


@pytest.mark.parametrize("term", ["mean", "std"])
def test_terms_add_up_to_the_metric(metric, model, term):
    figure = plot.measure(metric, codes=model.codes, resolution=20, term=term)
    z = grid(figure.data[0])
    exact = lg.ExpectedMetric(model.decoder.to(torch.float64))
    tensor = exact.mean_tensor(z) if term == "mean" else exact.std_tensor(z)
    shown, expected = figure.data[0].z, 0.5 * torch.logdet(tensor).detach().numpy()
    there = (torch.linalg.cond(tensor) < 1e8).numpy()  # elsewhere the determinant itself is lost to rounding
    assert there.mean() > 0.5
    assert_allclose(shown[there], expected[there], atol=1e-6)


def test_title_says_which_term(metric, figure):
    titles = {t: plot.measure(metric, resolution=8, term=t).layout.title.text for t in ("both", "mean", "std")}
    assert "mean and σ parts" in titles["both"]
    assert "mean part only" in titles["mean"]
    assert "σ part only" in titles["std"]
    assert all("expected metric" in title for title in titles.values())


def test_constant_sigma_is_said_to_have_no_sigma_part(model):
    metric = lg.ExpectedMetric(lg.wrap(model.decoder.module, 2, lg.Deterministic()))
    assert "σ is constant" in plot.measure(metric, resolution=8).layout.title.text


def test_singular_metric_is_drawn_as_minus_infinity():
    metric = lg.PullbackMetric(lambda z: torch.cat([z[:, :1], z[:, :1] * 2], -1), dim=2)
    figure = plot.measure(metric, bounds=(-1, 1, -1, 1), resolution=8)
    measure, singular = figure.data[:2]
    assert np.isnan(measure.z).all()
    assert (singular.z == 1).all()
    assert "−∞" in singular.name
    assert "singular" in singular.hovertemplate


def test_codes_are_coloured_by_label_and_carry_their_measure(figure, metric, model):
    traces = [t for t in figure.data if t.type == "scatter" and t.customdata is not None]
    assert [t.name for t in traces] == ["label: 0", "1", "2"]
    assert len({t.marker.color for t in traces}) == 3
    for label, trace in enumerate(traces):
        index = trace.customdata[:, 0].astype(int)
        assert (model.labels[index] == label).all()
        assert_allclose(np.stack([trace.x, trace.y], -1), model.codes[index].numpy(), rtol=1e-6)
        assert_allclose(trace.customdata[:, 1], metric.log_volume(model.codes[index]).detach(), rtol=1e-3)
    assert sum(len(t.x) for t in traces) == len(model.codes)


def test_many_codes_are_thinned_and_it_is_said(metric, model):
    figure = plot.measure(metric, codes=model.codes, resolution=8, max_codes=25)
    (trace,) = named(figure, "codes (25 of 60)")
    assert len(trace.x) == 25


def test_curves_are_the_geodesics(figure, path, model):
    geodesics, lines = named(figure, "geodesic"), named(figure, "straight line")
    drawn = [t for t in geodesics if len(t.x) > 1]
    assert len(drawn) == int(path.converged.sum()) == 3
    z = path(torch.linspace(0, 1, len(drawn[0].x)))
    for index, trace in enumerate(drawn):
        assert_allclose(np.stack([trace.x, trace.y], -1), z[index].detach(), atol=1e-6)
        length, error = re.search(r"length (\S+) ± (\S+) data units", trace.hovertemplate).groups()
        assert float(length) == pytest.approx(float(path.length[index]), rel=1e-3)
        assert float(error) == pytest.approx(float(path.length_error[index]), rel=0.06)
    straight = [t for t in lines if len(t.x) > 1]
    assert straight[0].line.dash != "solid"
    assert_allclose([straight[0].x[0], straight[0].y[0]], model.codes[0], atol=1e-6)
    shown = float(re.search(r"length (\S+) data", straight[0].hovertemplate)[1])
    expected = lg.curve_length(path.metric, torch.stack([model.codes[0], model.codes[3]]))
    assert shown == pytest.approx(float(expected.detach()), rel=2e-3)


def test_failed_curves_look_different(metric, model):
    path = lg.connect(metric, model.codes[:1], model.codes[1:2], solver=lg.Newton(max_steps=1, rtol=1e-9), throw=False)
    assert not path.converged.any()
    figure = plot.measure(metric, paths=path, resolution=8)
    (failed,) = [t for t in named(figure, "not converged") if len(t.x) > 1]
    assert failed.line.color == theme.FAILED
    assert path.status[0].value in failed.hovertemplate
    assert not named(figure, "geodesic")


def test_strips_of_failed_curves_say_so(metric, model):
    path = lg.connect(metric, model.codes[:1], model.codes[1:2], solver=lg.Newton(max_steps=1, rtol=1e-9), throw=False)
    assert [t.name for t in plot.strip(model.decoder, path, n=2, shape=(4, 5)).data] == [
        "A: failed",
        "A: straight line",
    ]


def test_legend_of_many_labels_gets_the_room_it_needs(metric, model):
    few, many = (
        plot.measure(metric, codes=model.codes, labels=np.arange(60) % n, resolution=8).layout.height for n in (3, 60)
    )
    assert many > few + 3 * 20


def test_continuous_labels_are_refused(metric):
    codes = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="at most 200 groups, got 300; bin"):
        plot.measure(metric, codes=codes, labels=codes[:, 0], resolution=8)


def test_colours_span_a_bounded_range(metric, model):
    heatmap = plot.measure(metric, codes=model.codes, resolution=40, term="std").data[0]
    assert 0 < heatmap.zmax - heatmap.zmin <= 20


def test_saturated_region_is_hatched_and_nothing_else(figure, model):
    heatmap = figure.data[0]
    std = model.decoder.std(grid(heatmap).float()).detach().numpy().mean(-1)
    share = std * math.sqrt(float(model.decoder.precision.floor))
    assert_allclose(heatmap.customdata, share, rtol=1e-5)
    assert (share >= 0.95).any()
    assert (share < 0.95).any()
    (hatch,) = named(figure, "σ saturated")
    there = ~np.isnan(hatch.x.astype(float))
    z = torch.tensor(np.stack([hatch.x[there], hatch.y[there]], -1).astype(np.float32))
    bound = float(model.decoder.precision.floor) ** -0.5
    assert (model.decoder.std(z).mean(-1) / bound > 0.9).all()
    assert any("hatched" in (t.name or "") for t in figure.data)


def test_no_hatching_without_a_bound(model):
    metric = lg.ExpectedMetric(lg.wrap(model.decoder.module, 2, lg.Deterministic()))
    assert overlays.saturation(metric.decoder, torch.zeros(1, 2)) is None
    assert not named(plot.measure(metric, resolution=8), "σ saturated")


def test_strips_hold_the_decoded_means(figure, path, model):
    rows = [t for t in figure.data if t.name and re.fullmatch(r"[A-C]: (geodesic|straight line)", t.name)]
    assert [t.name for t in rows] == [f"{x}: {k}" for x in "ABC" for k in ("geodesic", "straight line")]
    n, gap = 8, 1
    z = path(torch.linspace(0, 1, n))
    tiles = [rows[0].z[:, i * (5 + gap) : i * (5 + gap) + 5] for i in range(n)]
    assert_allclose(tiles, model.decoder.mean(z[0]).detach().reshape(n, 4, 5), atol=1e-6)
    assert_allclose(rows[1].z[:, :5], model.decoder.mean(model.codes[0]).detach().reshape(4, 5), atol=1e-6)
    assert_allclose(rows[1].z[:, -5:], model.decoder.mean(model.codes[3]).detach().reshape(4, 5), atol=1e-6)


def test_strips_of_colour_images_and_of_vectors(path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 12), torch.nn.Sigmoid()).eval()
    decoder = lg.wrap(net, 2, lg.Deterministic())
    colour = plot.strip(decoder, path, n=4, shape=(3, 2, 2)).data[0]
    assert isinstance(colour, go.Image)
    first = (decoder.mean(path.z[0, 0]).detach().reshape(3, 2, 2).permute(1, 2, 0) * 255).round()
    pixels = np.asarray(colour.z)
    assert_allclose(pixels[:, :2, :3], first, atol=1)
    assert (pixels[:, :2, 3] == 255).all()
    assert (pixels[:, 2] == 0).all()  # the gap is clear
    vector = plot.strip(decoder, path, n=4, shape=(12,)).data[0]
    assert vector.z.shape == (12, 7)


def test_several_results_are_lettered_as_one(metric, path, model):
    both = (each for each in (path, path))  # what can be gone through once will do
    figure = plot.measure(metric, paths=both, decoder=model.decoder, strips=True, shape=(4, 5), resolution=8)
    (ends,) = named(figure, "ends")
    assert list(ends.text) == [letter for letter in "ABCDEF" for _ in range(2)]
    assert named(figure, "F: straight line")


def test_equal_aspect_and_whole_map_in_view(figure):
    heatmap = figure.data[0]
    assert figure.layout.yaxis.scaleanchor == "x"
    assert_allclose(np.diff(heatmap.x).mean(), np.diff(heatmap.y).mean(), rtol=0.05)
    low, high = figure.layout.xaxis.range
    assert low <= heatmap.x[0] < heatmap.x[-1] <= high


def test_colour_range_survives_infinities(figure):
    assert math.isfinite(figure.data[0].zmin)
    assert figure.data[0].zmin < figure.data[0].zmax


def test_figure_is_not_shown_and_nothing_is_edited(metric, model, path, monkeypatch):
    monkeypatch.setattr(go.Figure, "show", lambda *_, **__: pytest.fail("shown"))
    before = model.codes.clone()
    plot.measure(metric, codes=model.codes, paths=path, resolution=8)
    assert torch.equal(model.codes, before)


def test_decoders_of_one_map_share_their_look(figure):
    assert figure.layout.template == go.Figure(layout={"template": plot.template()}).layout.template


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codes": torch.zeros(3, 3)}, r"`codes` must have shape \(n, 2\), got \(3, 3\)"),
        ({"codes": torch.tensor([[0.0, math.nan]])}, "1 of 1 rows with NaN"),
        ({"codes": torch.zeros(3, 2), "labels": [1, 2]}, "one entry per code"),
        ({"labels": [1, 2]}, "one entry per code"),
        ({"term": "variance"}, "'both', 'mean', 'std', 'condition' or 'curvature'"),
        ({"resolution": 1}, "`resolution` must be an integer of at least 2"),
        ({"bounds": (1, 0, 0, 1)}, "`bounds` must be"),
        ({"bounds": (0, math.inf, 0, 1)}, "`bounds` must be"),
        ({"strips": True}, "`strips` needs"),
    ],
)
def test_bad_input(metric, options, message):
    with pytest.raises(ValueError, match=message):
        plot.measure(metric, **{"resolution": 8, **options})


def test_terms_need_two_terms():
    with pytest.raises(ValueError, match="needs an ExpectedMetric"):
        plot.measure(lg.Euclidean(2), term="mean", resolution=8)


def test_only_two_dimensions():
    with pytest.raises(ValueError, match="latent dimension 2 to be drawn as a map, got 3"):
        plot.measure(lg.Euclidean(3))


def test_strip_shapes(model, path):
    with pytest.raises(ValueError, match="must have 20 entries"):
        plot.strip(model.decoder, path, shape=(7, 7))
    with pytest.raises(ValueError, match="`n` must be an integer of at least 2"):
        plot.strip(model.decoder, path, n=1)


# --- theme, pages and pictures --------------------------------------------------------------------------------------


def test_labels_stay_distinct():
    assert len({theme.label_style(i) for i in range(48)}) == 48


def test_page_is_self_contained(figure, tmp_path):
    page = plot.write_html(
        [(figure, "A <caption>"), figure], tmp_path / "new" / "page.html", title="Maps & more", intro="One.\n\nTwo.",
        table=(["pair", "length"], [["A", "1 < 2"]]),
    )  # fmt: skip
    text = page.read_text(encoding="utf-8")
    assert "<h1>Maps &amp; more</h1>" in text
    assert "A &lt;caption&gt;" in text
    assert "1 &lt; 2" in text
    assert text.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)


def test_page_needs_a_figure(tmp_path):
    with pytest.raises(ValueError, match="at least one figure"):
        plot.write_html([], tmp_path / "page.html")


@needs_browser
@pytest.mark.parametrize("width", [1200, 600])
def test_png_has_the_width_asked_for(figure, tmp_path, width):
    data = plot.write_figure(figure, tmp_path / "map.png", width=width).read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == width


def test_no_browser_is_said_plainly(figure, tmp_path, monkeypatch):
    monkeypatch.setattr("latentgeo.plot.page.browser", lambda: None)
    with pytest.raises(RuntimeError, match="needs Chromium or Chrome"):
        plot.write_figure(figure, tmp_path / "map.png")
    assert not (tmp_path / "map.png").exists()


def test_no_kaleido_is_said_plainly(figure, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kaleido", None)
    assert plot.browser() is None
    with pytest.raises(RuntimeError, match="pip install"):
        plot.write_figure(figure, tmp_path / "map.png")


def test_unknown_picture_format(figure, tmp_path):
    with pytest.raises(ValueError, match="must end in one of"):
        plot.write_figure(figure, tmp_path / "map.bmp")
    with pytest.raises(ValueError, match="positive number of pixels"):
        plot.write_figure(figure, tmp_path / "map.png", width=0)


def test_saturation_needs_a_std():
    decoder = types.SimpleNamespace(precision=None)
    assert overlays.saturation(decoder, torch.zeros(1, 2)) is None
    assert overlays.saturation(None, torch.zeros(1, 2)) is None
