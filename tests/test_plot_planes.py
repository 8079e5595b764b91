"""Planes in latent spaces of any dimension, and the fields that maps show: closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.mixture import GaussianMixture

import latentgeo as lg
from latentgeo import plot
from latentgeo.plot import inputs


def grid(trace):
    return np.stack(np.meshgrid(np.asarray(trace.x), np.asarray(trace.y)), axis=-1)


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# --- the plane ------------------------------------------------------------------------------------------------------


def test_plane_of_two_axes_keeps_the_coordinates():
    plane = plot.Plane.axes(2, 0, at=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert_allclose(plane.lift([[7.0, 8.0]]), [[8.0, 2.0, 7.0, 4.0]])
    assert plane.labels == ("z₃", "z₁")


def test_plane_through_three_codes_holds_them(rng):
    a, b, c = rng.normal(size=(3, 6))
    plane = plot.Plane.through(a, b, c)
    flat, away = plane.project(np.stack([a, b, c]))
    assert_allclose(away, 0, atol=1e-12)
    assert_allclose(flat[:2], [[0, 0], [np.linalg.norm(b - a), 0]], atol=1e-12)
    assert flat[2, 1] > 0
    assert_allclose(np.linalg.norm(flat[2] - flat[1]), np.linalg.norm(c - b), rtol=1e-12)


def test_projection_is_the_nearest_point(rng):
    plane = plot.Plane.through(*rng.normal(size=(3, 5)))
    z = rng.normal(size=(4, 7, 5))
    flat, away = plane.project(z)
    foot = plane.lift(flat)
    assert_allclose(np.linalg.norm(z - foot, axis=-1), away, rtol=1e-12)
    for way in (plane.first, plane.second):
        assert_allclose((z - foot) @ np.array(way), 0, atol=1e-12)
    assert_allclose(plane.project(foot)[0], flat, atol=1e-12)


def test_principal_plane_of_a_linear_map_is_that_of_the_data(rng):
    A = rng.normal(size=(7, 4))
    metric = lg.PullbackMetric(lambda z: z @ torch.as_tensor(A, dtype=z.dtype).T, dim=4)
    codes = rng.normal(size=(40, 4))
    plane = plot.Plane.principal(metric, torch.as_tensor(codes), n_codes=40)
    data = codes @ A.T
    _, size, axes = np.linalg.svd(data - data.mean(0))
    wanted = np.linalg.lstsq(A, axes[:2].T, rcond=None)[0].T  # the latent directions that make the components
    assert_allclose(plane.origin, codes.mean(0), atol=1e-8)
    _, away = plane.project(np.array(plane.origin) + wanted)
    assert_allclose(away, 0, atol=1e-7)
    assert f"{(size[:2] ** 2).sum() / (size**2).sum():.0%}" in plane.about


def test_plane_is_a_frozen_value():
    plane = plot.Plane.axes(0, 1, at=[0.0, 0.0, 1.0])
    assert plane == plot.Plane.axes(0, 1, at=[5.0, 6.0, 1.0])
    assert hash(plane) == hash(plot.Plane.axes(0, 1, at=[5.0, 6.0, 1.0]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plane.labels = ("a", "b")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plot.Plane.axes(0, 0, at=[1.0, 2.0]), "two different positions in 0 … 1"),
        (lambda: plot.Plane.axes(0, 4, at=[1.0, 2.0]), "`j` must be one of two different positions"),
        (lambda: plot.Plane.axes(0, 1, at=[1.0, math.nan]), "`at` must be one finite code"),
        (lambda: plot.Plane.through([0.0, 0.0], [1.0, 1.0], [2.0, 2.0]), "must not lie on one line"),
        (lambda: plot.Plane.through([0.0, 0.0], [0.0, 0.0], [2.0, 2.0]), "must not lie on one line"),
        (lambda: plot.Plane.through([0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 2.0]), "the same length"),
        (lambda: plot.Plane((0.0, 0.0), (1.0, 0.0), (1.0, 0.0)), "orthonormal"),
        (lambda: plot.Plane((0.0,), (1.0,), (1.0,)), "same length d >= 2"),
        (lambda: plot.Plane.principal(lg.Euclidean(3), np.zeros((2, 3))), "n >= 3"),
        (lambda: plot.Plane.axes(0, 1, at=[1.0, 2.0]).project(np.zeros((4, 3))), "must have 2 latent coordinates"),
    ],
)
def test_no_such_plane(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- maps of planes -------------------------------------------------------------------------------------------------


def test_measure_on_a_plane_is_that_of_the_whole_space():
    plane = plot.Plane.axes(0, 1, at=[0.0, 0.0, 0.3])
    heatmap = plot.measure(lg.PoincareBall(3), plane=plane, bounds=(-0.5, 0.5, -0.5, 0.5), resolution=9).data[0]
    radius = (grid(heatmap) ** 2).sum(-1) + 0.09
    assert_allclose(heatmap.z, 3 * np.log(2 / (1 - radius)), rtol=1e-12)
    assert "volume per latent unit³" in heatmap.colorbar.title.text


def test_curvature_of_a_plane_is_sectional():
    plane = plot.Plane.through([0.0, 0.1, 0.0], [0.3, 0.0, 0.2], [0.0, 0.2, 0.4])
    figure = plot.curvature(lg.PoincareBall(3), plane=plane, bounds=(-0.3, 0.3, -0.3, 0.3), resolution=5)
    assert_allclose(figure.data[0].z, -1, atol=1e-9)
    assert "Sectional curvature" in figure.layout.title.text
    assert "the plane through three codes" in figure.layout.title.text


def test_codes_and_curves_off_the_plane_are_projected_and_say_so():
    metric = lg.Euclidean(3)
    codes = np.array([[0.0, 0.0, 1.0], [1.0, 2.0, 3.0], [-1.0, 1.0, 1.0]])
    plane = plot.Plane.axes(0, 1, at=[0.0, 0.0, 1.0])
    z = torch.as_tensor(codes)
    path = lg.connect(metric, z[0], z[1])
    figure = plot.measure(metric, codes=codes, paths=path, plane=plane, resolution=6)
    (dots,) = named(figure, "codes")
    assert_allclose(np.stack([dots.x, dots.y], -1), codes[:, :2])
    assert_allclose(dots.customdata[:, 2], [0, 2, 0])
    assert "latent units off this plane" in dots.hovertemplate
    (curve,) = (t for t in named(figure, "geodesic") if len(t.x) > 1)
    assert_allclose([curve.x[-1], curve.y[-1]], [1, 2], atol=1e-12)
    assert "up to 2 latent units off this plane" in curve.hovertemplate
    assert "codes and curves projected" in figure.layout.title.text


def test_indicatrices_on_a_plane_are_those_of_the_steps_along_it():
    A = torch.diag(torch.tensor([1.0, 2.0, 7.0], dtype=torch.float64))
    metric = lg.PullbackMetric(lambda z: z @ A.to(z), dim=3)
    plane = plot.Plane.axes(0, 1, at=[0.0, 0.0, 0.0])
    figure = plot.indicatrix(metric, plane=plane, bounds=(-1, 1, -1, 1), resolution=4, ellipses=1, radius=0.5)
    (ellipse,) = named(figure, "indicatrix")
    assert_allclose([np.nanmax(ellipse.x), np.nanmax(ellipse.y)], [0.5, 0.25], rtol=1e-12)


def test_walks_and_clusters_on_a_plane():
    metric, plane = lg.Euclidean(3), plot.Plane.axes(0, 2, at=[0.0, 0.0, 0.0])
    walk = lg.random_walk(metric, torch.zeros(2, 3, dtype=torch.float64), n_steps=5, step_size=0.01, random_state=0)
    figure = plot.walks(metric, walk, plane=plane, bounds=(-1, 1, -1, 1), resolution=4)
    (line,) = named(figure, "A")
    assert_allclose(np.stack([line.x, line.y], -1), walk.z[0][:, [0, 2]])
    codes = np.random.default_rng(0).normal(size=(9, 3))
    figure = plot.clusters(metric, codes, np.arange(9) % 2, codes[:2], plane=plane, resolution=4)
    (centres,) = (t for t in named(figure, "centres") if t.x is not None and len(t.x) == 2)
    assert_allclose(np.stack([centres.x, centres.y], -1), codes[:2][:, [0, 2]])
    (averages,) = (t for t in named(figure, "averages") if t.x is not None and len(t.x) == 2)
    assert_allclose(averages.x[0], codes[::2, 0].mean())


def test_more_dimensions_need_a_plane_and_the_right_one():
    with pytest.raises(ValueError, match=r"got 3; pass `plane=`, such as plot\.Plane\.axes"):
        plot.measure(lg.Euclidean(3))
    with pytest.raises(ValueError, match="must lie in the metric's 3 latent dimensions, got 4"):
        plot.measure(lg.Euclidean(3), plane=plot.Plane.axes(0, 1, at=np.zeros(4)))
    with pytest.raises(ValueError, match=r"must be a plot\.Plane, got str"):
        inputs.check_plane(lg.Euclidean(3), "principal")
    with pytest.raises(ValueError, match=r"shape \(n, 3\), got \(4, 2\)"):
        plot.measure(lg.Euclidean(3), plane=plot.Plane.axes(0, 1, at=np.zeros(3)), codes=np.zeros((4, 2)))


# --- fields ---------------------------------------------------------------------------------------------------------


def fold():
    """G = diag(1, 4y²): singular on the line y = 0."""
    return lg.PullbackMetric(lambda z: torch.stack([z[..., 0], z[..., 1] ** 2], -1), dim=2)


def test_condition_number_of_a_fold():
    figure = plot.measure(fold(), bounds=(-1, 1, -1, 1), resolution=5, term="condition")
    heatmap, singular = figure.data[:2]
    y = grid(heatmap)[..., 1]
    with np.errstate(divide="ignore"):
        wanted = np.abs(np.log10(4 * y**2))
    there = np.isfinite(wanted)
    assert (~there).sum() == 5
    assert_allclose(heatmap.z[there], wanted[there], atol=1e-12)
    assert np.isnan(heatmap.z[~there]).all()
    assert singular.name == "∞ (singular)"
    assert (np.isfinite(singular.z) == ~there).all()
    assert "Condition number" in figure.layout.title.text
    assert "κ(G)" in heatmap.colorbar.title.text


def test_condition_number_where_the_metric_is_not_finite():
    metric = lg.PullbackMetric(lambda z: torch.stack([z[..., 0], z[..., 1].sqrt()], -1), dim=2)
    found = plot.condition_number(metric, torch.tensor([[0.0, -1.0], [0.0, 0.5]], dtype=torch.float64))
    assert math.isnan(found[0])
    assert found[1].item() == pytest.approx(2.0, rel=1e-14)


def test_curvature_as_a_term_is_the_curvature():
    bounds = {"bounds": (-0.4, 0.4, -0.4, 0.4), "resolution": 5}
    a = plot.measure(lg.PoincareBall(2), term="curvature", limit=2.0, **bounds)
    b = plot.curvature(lg.PoincareBall(2), limit=2.0, **bounds)
    assert_allclose(a.data[0].z, -1, atol=1e-9)
    assert a == b
    assert (a.data[0].zmin, a.data[0].zmax) == (-2.0, 2.0)


@pytest.mark.parametrize("term", ["both", "condition", "curvature"])
def test_every_colour_bar_says_its_units(term):
    figure = plot.measure(lg.PoincareBall(2), bounds=(-0.4, 0.4, -0.4, 0.4), resolution=4, term=term)
    title = figure.data[0].colorbar.title.text
    assert {"both": "log of area per latent unit²", "condition": "no units", "curvature": "1 / (units"}[term] in title


# --- densities ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def land():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(60, 3)) @ np.array([[1.0, 0.4, 0.2], [0.0, 0.7, -0.3], [0.0, 0.0, 0.5]])
    return Z, lg.LAND(lg.Euclidean(3), random_state=0).fit(Z)


def test_densities_on_a_plane_are_those_at_its_codes(land):
    Z, model = land
    mixture = GaussianMixture(1, random_state=0).fit(Z)
    plane = plot.Plane.through([0.1, 0.0, 0.2], [1.0, 0.3, 0.0], [0.0, 1.0, 0.5])
    figure = plot.land(
        model, mixture=mixture, codes=Z, plane=plane, bounds=(-4, 4, -4, 4), resolution=4, contour_resolution=81
    )
    for name, density in (("LAND", model), ("mixture", mixture)):
        for share in (0.5, 0.8, 0.95):
            (contour,) = named(figure, f"{name} {share:.0%}".replace("%", " %"))
            at = plane.lift(grid(contour)).reshape(-1, 3)
            expected = density.score_samples(at)
            assert_allclose(np.ravel(contour.z), np.maximum(expected, expected.max() - 40), rtol=1e-9)
            # in flat space it is a normal distribution of two dimensions, whose regions have closed forms
            level = contour.contours.start
            top = (-(at - density.means_) @ np.linalg.inv(covariance(density)) * (at - density.means_)).sum(-1) / 2
            peak = expected[0] - top[0] + highest(density, plane)
            assert 1 - np.exp(level - peak) == pytest.approx(share, abs=0.01)  # the densest cell holds 0.4 %
        (means,) = named(figure, f"{name} means")
        where, away = plane.project(density.means_)
        assert_allclose([means.x[0], means.y[0], means.customdata[0]], [*where[0], away[0]])
    (dots,) = (t for t in named(figure, "codes") if t.xaxis == "x")
    assert_allclose(np.stack([dots.x, dots.y], -1), plane.project(Z)[0])
    assert any("codes and means projected" in note.text for note in figure.layout.annotations)


def covariance(density):
    return np.linalg.inv(density.precisions_[0]) if hasattr(density, "log_normalizers_") else density.covariances_[0]


def highest(density, plane):
    """The largest exponent −½(z − μ)ᵀΣ⁻¹(z − μ) on the plane, by least squares."""
    half = np.linalg.cholesky(np.linalg.inv(covariance(density))).T
    basis = np.array([plane.first, plane.second])
    _, rest, _, _ = np.linalg.lstsq(half @ basis.T, half @ (density.means_[0] - np.array(plane.origin)), rcond=None)
    return -rest[0] / 2


def test_a_density_needs_a_plane_of_its_own_dimensions(land):
    _, model = land
    with pytest.raises(ValueError, match="got 3; pass `plane=`"):
        plot.land(model)
    with pytest.raises(ValueError, match=r"must be a plot\.Plane in the model's 3 latent dimensions, got one of 4"):
        plot.land(model, plane=plot.Plane.axes(0, 1, at=np.zeros(4)))
    with pytest.raises(ValueError, match="fitted to codes of 3 dimensions"):
        plot.land(model, plane=plot.Plane.axes(0, 1, at=np.zeros(3)), mixture=GaussianMixture().fit(np.eye(2)))
