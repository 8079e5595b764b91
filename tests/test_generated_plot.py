"""Pictures of what models make hold what the decoder says, at the codes they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import norm

import latentgeo as lg
from latentgeo.plot import generated
from latentgeo.plot.truncation import truncation
from latentgeo.train import scores


def reading(d, height=2, width=3):
    """A decoder whose image shows its own code: entry i is coordinate i mod d."""
    n = height * width
    net = torch.nn.Linear(d, n, bias=False).double().eval()
    with torch.no_grad():
        net.weight.copy_(torch.eye(d)[torch.arange(n) % d])
    return lg.wrap(lambda z: net(z).unflatten(-1, (height, width)), latent_dim=d, likelihood="deterministic")


@pytest.fixture(scope="module")
def plane():
    return reading(2)


def tiles(trace, rows, columns, height=2, width=3, gap=0):
    z = np.asarray(trace.z, dtype=float)
    assert z.shape == (rows * (height + gap) - gap, columns * (width + gap) - gap)
    return np.array(
        [
            [z[i * (height + gap) :][:height, j * (width + gap) :][:, :width] for j in range(columns)]
            for i in range(rows)
        ]
    )


def test_the_manifolds_codes_are_equal_steps_of_the_distribution_function(plane):
    n = 5
    figure = generated.manifold(plane, n=n, coverage=0.9)
    found = tiles(figure.data[0], n, n)
    across, upwards = found[..., 0, 0], found[..., 0, 1]
    steps = np.linspace(0.05, 0.95, n)
    assert_allclose(norm.cdf(across), np.tile(steps, (n, 1)), atol=1e-7)
    assert_allclose(norm.cdf(upwards), np.tile(steps[::-1, None], (1, n)), atol=1e-7)
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # rows from the top, as drawn


def test_the_manifolds_ticks_stand_at_their_images(plane):
    figure = generated.manifold(plane, n=5, coverage=0.9)
    found = tiles(figure.data[0], 5, 5)
    for place, text in zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext, strict=True):
        column = int(place // 3)
        assert place == column * 3 + 1
        assert float(text.replace("−", "-")) == pytest.approx(found[0, column, 0, 0], abs=0.005)
    for place, text in zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True):
        row = int(place // 2)
        assert float(text.replace("−", "-")) == pytest.approx(found[row, 0, 0, 1], abs=0.005)


def test_samples_per_latent_size_are_decoded_normal_codes():
    sizes = {f"d = {d}": reading(d, 5, 5) for d in (2, 5, 10, 20)}
    figure = generated.samples(sizes, n=4, random_state=3)
    assert [trace.name for trace in figure.data] == list(sizes)
    assert [a.text for a in figure.layout.annotations] == [f"<b>{name}</b>" for name in sizes]
    for d, trace in zip((2, 5, 10, 20), figure.data, strict=True):
        found = tiles(trace, 2, 2, 5, 5, gap=1).reshape(4, 25)
        codes = torch.randn(4, d, generator=torch.Generator().manual_seed(3))
        assert_allclose(found[:, :d], codes.numpy(), rtol=1e-6)
    layout = figure.layout
    domains = [(tuple(layout[f"xaxis{s}"].domain), tuple(layout[f"yaxis{s}"].domain)) for s in ("", 2, 3, 4)]
    assert len(set(domains)) == 4
    for (x0, x1), (y0, y1) in domains:
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
    # two by two: none covers another
    assert domains[0][0][1] < domains[1][0][0]
    assert domains[0][1][0] > domains[2][1][1]


def test_samples_of_given_images_and_their_gaps():
    images = torch.arange(5.0)[:, None, None].expand(5, 2, 2) / 5
    figure = generated.samples(images, n=9)
    z = figure.data[0].z
    assert z.shape == (5, 8)  # 3 columns, 2 rows, one line between
    assert np.isnan(z[2]).all()
    assert np.isnan(z[3:, 6:]).all()  # the sixth is not there
    assert z[0, 3] == pytest.approx(0.2)
    assert not figure.layout.annotations


def test_axes_shapes_and_shares_may_be_numpys():
    decoder = lg.wrap(torch.nn.Linear(3, 12).eval(), latent_dim=3, likelihood=lg.Deterministic())
    for axes in (np.array([2, 0]), torch.tensor([2, 0]), (np.int64(2), 0)):
        figure = generated.traversals(decoder, axes=axes, n=3, shape=np.array([3, 4]))
        assert [trace.name for trace in figure.data] == ["z₃", "z₁"]
    plane = lg.wrap(torch.nn.Linear(2, 12).eval(), latent_dim=2, likelihood=lg.Deterministic())
    (trace,) = generated.manifold(plane, n=2, coverage=np.float32(0.9), shape=(np.int64(3), 4)).data
    assert trace.z.shape == (6, 8)


def test_images_are_no_wider_than_single_precision():
    """Pages carry every number of them."""
    (trace,) = generated.samples((np.arange(60).reshape(5, 3, 4)).astype(np.uint8), n=4).data
    assert trace.z.dtype == np.float32
    with pytest.raises(ValueError, match=r"at least one image of 'samples', got shape \(3,\)"):
        generated.samples(np.arange(3.0))


def test_colour_images():
    images = torch.zeros(2, 3, 2, 2)
    images[0, 0] = 1.0
    images[1, 2] = 2.0  # beyond what a screen shows
    trace = generated.samples(images).data[0]
    assert trace.type == "image"
    assert_allclose(np.asarray(trace.z)[0, 0], [255, 0, 0, 255])
    assert_allclose(np.asarray(trace.z)[0, 3], [0, 0, 255, 255])
    assert np.asarray(trace.z)[0, 2, 3] == 0  # the gap is clear


def test_traversals_move_one_coordinate():
    decoder = reading(3)
    z = torch.tensor([0.5, -0.25, 2.0])
    figure = generated.traversals(decoder, z, axes=[2, 0], span=1.5, n=7)
    assert [trace.name for trace in figure.data] == ["z₃", "z₁"]
    for trace, axis in zip(figure.data, (2, 0), strict=True):
        found = tiles(trace, 1, 7, gap=1)[0, :, 0]
        expected = np.tile(z.numpy(), (7, 1))
        expected[:, axis] = np.linspace(-1.5, 1.5, 7)
        assert_allclose(found, expected, atol=1e-7)
    texts = [a.text for a in figure.layout.annotations]
    assert texts[:2] == ["z₃", "z₁"]
    assert texts[2:9] == ["−1.5", "−1.0", "−0.5", "0.0", "0.5", "1.0", "1.5"]


def test_interpolations_are_the_three_curves():
    decoder = reading(2)
    a, b = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), torch.tensor([[0.0, 1.0], [1.0, 1.0]]).double()
    path = lg.connect(lg.conformal(lg.Euclidean(2), lambda z: 1 + z.square().sum(-1)), a, b)
    figure = generated.interpolations(decoder, path, n=5)
    names = [f"{pair}: {kind}" for pair in "AB" for kind in ("straight", "spherical", "geodesic")]
    assert [trace.name for trace in figure.data] == names
    t = np.linspace(0, 1, 5)
    for pair in (0, 1):
        straight, spherical, geodesic = (tiles(figure.data[3 * pair + k], 1, 5, gap=1)[0, :, 0, :2] for k in range(3))
        assert_allclose(straight, (1 - t)[:, None] * a[pair].numpy() + t[:, None] * b[pair].numpy(), atol=1e-6)
        assert_allclose(geodesic, path(torch.as_tensor(t))[pair].numpy(), atol=1e-6)
        for row in (spherical, geodesic):
            assert_allclose(row[[0, -1]], np.stack([a[pair], b[pair]]), atol=1e-6)
    # a quarter turn from (2, 0) to (0, 1)
    angles = t * math.pi / 2
    spherical = tiles(figure.data[1], 1, 5, gap=1)[0, :, 0, :2]
    assert_allclose(spherical, np.stack([2 * np.cos(angles), np.sin(angles)], -1), atol=1e-6)


def test_failed_curves_say_so():
    decoder = reading(2)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 6)).double().eval()
    metric = lg.PullbackMetric(lambda z: net(3 * z).sin(), dim=2)
    a, b = torch.tensor([[-2.0, 0.0]]).double(), torch.tensor([[2.0, 0.3]]).double()
    path = lg.connect(metric, a, b, solver=lg.Newton(max_steps=1, max_points=33), throw=False)
    assert not bool(path.converged.any())
    figure = generated.interpolations(decoder, path, n=3)
    assert figure.data[2].name == "A: failed"
    assert any("failed" in note.text for note in figure.layout.annotations)


def test_spherical_interpolation():
    t = torch.linspace(0, 1, 7)
    a, b = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 3.0])
    on = generated.slerp(a, b, t)
    assert_allclose(on.norm(dim=1).numpy(), 3, rtol=1e-6)
    angle = torch.atan2(on[:, 2], on[:, 0])
    assert_allclose(angle.numpy(), t.numpy() * math.pi / 2, atol=1e-6)
    # no arc is defined between parallel codes, or from the origin: the straight line
    for other in (2 * a, -a, torch.zeros(3)):
        assert torch.equal(generated.slerp(a, other, t), torch.lerp(a, other, t[:, None]))


def test_the_truncation_figure_holds_the_curve():
    real = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    curve = scores.truncation_curve(lambda z: z, real, (0.3, 1.0, 3.0), dim=2)
    figure = truncation(curve)
    by_name = {trace.name: trace for trace in figure.data}
    for name in ("precision", "recall", "density", "coverage"):
        assert tuple(by_name[name].x) == curve.levels
        assert tuple(by_name[name].y) == getattr(curve, name)
    assert tuple(by_name["precision and recall"].x) == curve.recall
    assert "features: the arrays themselves" in figure.layout.title.text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: generated.manifold(reading(3)), "2 latent coordinates, got 3"),
        (lambda d: generated.manifold(d, n=1), "`n` must be an integer of at least 2"),
        (lambda d: generated.manifold(d, coverage=1.0), "`coverage` must be between 0 and 1"),
        (lambda d: generated.manifold(d, shape=(6,)), "no images unless you say how"),
        (lambda d: generated.manifold(d, shape=(2, 2)), "6 entries in all"),
        (lambda d: generated.samples({}), "at least one model"),
        (lambda d: generated.samples(torch.zeros(0, 2, 2)), "at least one image"),
        (lambda d: generated.samples(d, n=0), "`n` must be an integer of at least 1"),
        (lambda d: generated.traversals(d, torch.zeros(3)), r"`z` must be of shape \(2,\)"),
        (lambda d: generated.traversals(d, axes=[2]), "`axes` must be numbers from 0 to 1"),
        (lambda d: generated.traversals(d, span=0.0), "`span` must be a positive finite number"),
    ],
)
def test_bad_input_is_named(plane, call, message):
    with pytest.raises(ValueError, match=message):
        call(plane)
