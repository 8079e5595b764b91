"""Every public function, each of its arguments in turn replaced by what it should not be.

A result, or an error of Python's own kinds or of ours that names an argument: no foreign traceback, no hang, and
nothing edited in place. What good input gives is checked elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from bad_input import faults
from bad_input_train import CALLS as OF_TRAINING
from models import tiny_model

import latentgeo as lg

# of counts that are too small, differences in place of derivatives, clusters that could not be filled
pytestmark = pytest.mark.filterwarnings("ignore")


def tensor(*rows: Any) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


@cache
def metric() -> lg.Metric:
    return lg.metric(tiny_model())


SPHERE = lg.Sphere(2)  # what follows curves for long does so where a step costs little


@cache
def graph() -> lg.LatentGraph:
    return lg.LatentGraph(metric(), grid=12).fit(tiny_model().codes)


@cache
def path() -> lg.Geodesic:
    return lg.connect(metric(), *ends(), throw=False)


@cache
def arc() -> lg.Geodesic:
    return lg.connect(SPHERE, *ends())


@cache
def walk() -> lg.Walk:
    return lg.random_walk(metric(), ends()[0], n_steps=3, step_size=0.01, random_state=0)


def ends() -> tuple[torch.Tensor, torch.Tensor]:
    return tensor([-0.9, 0.1], [0.2, 1.0]), tensor([0.8, 0.1], [-0.7, 0.2])


Z, V = ends()
CODES = tiny_model().codes[:12]
DATA = tiny_model().decoder.mean(CODES).detach()
CURVE = torch.stack([Z, 0.5 * (Z + V), V], 1)
LABELS = np.arange(12) % 3
COARSE = lg.Newton(n_points=9, max_points=129, rtol=0.1)


def local(name: str, *vectors: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    return (lambda **given: getattr(metric(), name)(**given)), {"z": Z, **dict.fromkeys(vectors, V)}


# name → the call, and arguments that are right
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "tensor": local("tensor"),
    "log_volume": local("log_volume"),
    "norm": local("norm", "v"),
    "inner": local("inner", "u", "v"),
    "acceleration": local("acceleration", "v"),
    "christoffel": local("christoffel"),
    "product": local("product", "v"),
    "solve": (lambda **given: metric().solve(**given), {"z": Z, "w": V}),
    "random_tangent": (lambda **given: metric().random_tangent(**given), {"z": Z, "random_state": 0}),
    "sectional_curvature": local("sectional_curvature", "u", "v"),
    "riemann": local("riemann"),
    "ricci": local("ricci"),
    "scalar_curvature": local("scalar_curvature"),
    "gauss_curvature": local("gauss_curvature"),
    "mean_tensor": local("mean_tensor"),
    "std_tensor": local("std_tensor"),
    "PullbackMetric": (lg.PullbackMetric, {"phi": torch.sin, "dim": 2, "ambient": None, "period": None}),
    "TensorMetric": (lg.TensorMetric, {"function": lambda z: torch.diag_embed(1 + z**2), "dim": 2}),
    "ExpectedMetric": (lg.ExpectedMetric, {"decoder": tiny_model().decoder}),
    "FisherRaoMetric": (lg.FisherRaoMetric, {"decoder": tiny_model().decoder}),
    "metric": (lg.metric, {"model": tiny_model()}),
    "conformal": (lg.conformal, {"metric": metric(), "scale": lambda z: 1 + z[:, 0] ** 2}),
    "LocalDiagonalMetric": (lg.LocalDiagonalMetric, {"data": CODES, "sigma": 0.5, "rho": 0.1}),
    "Euclidean": (lg.Euclidean, {"dim": 2}),
    "Sphere": (lg.Sphere, {"dim": 2}),
    "PoincareBall": (lg.PoincareBall, {"dim": 2}),
    "HalfPlane": (lg.HalfPlane, {}),
    "decoder": (lambda **given: tiny_model().decoder(**given), {"z": Z}),
    "decoder.log_prob": (lambda **given: tiny_model().decoder.log_prob(**given), {"z": CODES, "x": DATA}),
    "decoder.to": (lambda **given: tiny_model().decoder.to(**given), {"target": torch.float64}),
    "wrap": (lg.wrap, {"obj": torch.nn.Tanh().eval(), "latent_dim": 2, "likelihood": "deterministic", "context": None}),
    "Ensemble": (lg.Ensemble, {"decoders": [tiny_model().decoder]}),
    "fit_precision": (
        lambda **given: lg.fit_precision(**given, progress=False),
        {
            "decoder": tiny_model().decoder,
            "codes": CODES,
            "data": DATA,
            "n_centers": 2,
            "bandwidth": 1.0,
            "floor": 1e-3,
            "random_state": 0,
            "n_iter": 3,
            "min_variance": None,
            "holdout": 0.1,
        },
    ),
    "LatentModel": (lg.LatentModel, {"decoder": tiny_model().decoder, "codes": CODES, "labels": LABELS}),
    "connect": (
        lg.connect,
        {"metric": SPHERE, "a": Z, "b": V, "solver": COARSE, "init": None, "starts": 1, "throw": False},
    ),
    "shoot": (lg.shoot, {"metric": SPHERE, "z": Z, "v": V, "solver": lg.RungeKutta(max_steps=40), "throw": False}),
    "exp": (lg.exp, {"metric": SPHERE, "z": Z, "v": V, "solver": lg.RungeKutta(max_steps=40), "throw": False}),
    "log": (
        lg.log,
        {"metric": SPHERE, "a": Z, "b": V, "solver": COARSE, "init": None, "throw": False, "verify": False},
    ),
    "distance": (lg.distance, {"metric": SPHERE, "a": Z, "b": V, "solver": COARSE}),
    "curve_length": (lg.curve_length, {"metric": metric(), "curve": CURVE}),
    "transport": (lg.transport, {"path": arc(), "u": V, "rtol": None}),
    "jacobi_field": (lg.jacobi_field, {"path": arc(), "start": V, "rate": V, "rtol": None}),
    "differential_exp": (
        lg.differential_exp,
        {"metric": SPHERE, "z": Z, "v": V, "solver": lg.RungeKutta(max_steps=40), "throw": False},
    ),
    "path": (lambda **given: path()(**given), {"t": 0.5}),
    "velocity": (lambda **given: path().velocity(**given), {"t": 0.5}),
    "LatentGraph": (
        lambda metric, codes, n_neighbors, grid, substeps: lg.LatentGraph(
            metric, n_neighbors=n_neighbors, grid=grid, substeps=substeps
        ).fit(codes),
        {"metric": metric(), "codes": CODES, "n_neighbors": 4, "grid": 8, "substeps": 8},
    ),
    "graph.distances": (lambda **given: graph().distances(**given), {"A": Z, "B": V}),
    "graph.paths": (lambda **given: graph().paths(**given), {"A": Z, "B": V, "n_points": 9}),
    "graph.lengths": (lambda **given: graph().lengths(**given), {"A": Z, "B": V}),
    "pairwise_distances": (
        lg.pairwise_distances,
        {"metric": metric(), "X": Z, "Y": V, "graph": graph(), "refine": False, "n_jobs": 1, "throw": False},
    ),
    "frechet_mean": (
        lg.frechet_mean,
        {"metric": lg.Sphere(2), "Z": CODES, "weights": None, "init": None, "tol": 1e-2, "max_iter": 5},
    ),
    "GeodesicKMeans": (
        lambda X, **given: lg.GeodesicKMeans(None, **given).fit(X),
        {"X": CODES.numpy(), "n_clusters": 2, "n_init": 1, "max_iter": 5, "tol": 1e-3, "random_state": 0},
    ),
    "GeodesicKMedoids": (
        lambda X, **given: lg.GeodesicKMedoids(None, **given).fit(X),
        {"X": CODES.numpy(), "n_clusters": 2, "n_init": 1, "max_iter": 5, "random_state": 0},
    ),
    "GeodesicNeighbors": (
        lambda X, **given: lg.GeodesicNeighbors(None, **given).fit(X),
        {"X": CODES.numpy(), "n_neighbors": 2, "mode": "distance"},
    ),
    "GeodesicPCA": (
        lambda X, **given: lg.GeodesicPCA(None, **given).fit(X),
        {"X": CODES.numpy(), "n_components": 1, "tol": None, "max_iter": 5},
    ),
    "LAND": (
        lambda X, **given: lg.LAND(lg.Sphere(2), **given, n_directions=8, n_radii=8).fit(X),
        {"X": CODES.numpy().astype(float), "n_components": 1, "max_iter": 2, "tol": 1e-2, "random_state": 0},
    ),
    "random_walk": (
        lg.random_walk,
        {
            "metric": SPHERE,
            "z": Z,
            "n_steps": 2,
            "step_size": 0.01,
            "kind": "brownian",
            "every": 1,
            "random_state": 0,
            "throw": False,
        },
    ),
    "langevin": (
        lambda **given: lg.langevin(**given, progress=False),
        {
            "metric": SPHERE,
            "log_density": lambda z: -(z**2).sum(-1),
            "z": Z,
            "n_steps": 2,
            "step_size": 0.01,
            "measure": "lebesgue",
            "burn_in": 0,
            "target_acceptance": 0.5,
            "random_state": 0,
            "throw": False,
        },
    ),
    "KernelDensity": (lg.KernelDensity, {"codes": CODES, "bandwidth": 0.3, "random_state": 0}),
    "heat_kernel": (
        lg.heat_kernel,
        {"metric": SPHERE, "a": Z, "b": V, "t": 0.1, "solver": COARSE, "init": None, "throw": False},
    ),
    "plot.measure": (
        lg.plot.measure,
        {"metric": metric(), "codes": CODES, "labels": LABELS, "paths": path(), "bounds": None, "resolution": 6},
    ),
    "plot.curvature": (lg.plot.curvature, {"metric": metric(), "codes": CODES, "resolution": 5, "limit": None}),
    "plot.surface": (lg.plot.surface, {"metric": metric(), "codes": CODES, "labels": LABELS, "resolution": 6}),
    "plot.indicatrix": (lg.plot.indicatrix, {"metric": metric(), "codes": CODES, "resolution": 6, "ellipses": 2}),
    "plot.strip": (lg.plot.strip, {"decoder": tiny_model().decoder, "path": path(), "n": 3, "shape": (4, 5)}),
    "plot.geodesic": (lg.plot.geodesic, {"metric": metric(), "path": path(), "n": 3, "shape": (4, 5)}),
    "plot.interpolations": (
        lg.plot.interpolations,
        {"decoder": tiny_model().decoder, "path": path(), "n": 3, "shape": (4, 5)},
    ),
    "plot.manifold": (lg.plot.manifold, {"decoder": tiny_model().decoder, "n": 3, "coverage": 0.9, "shape": (4, 5)}),
    "plot.samples": (lg.plot.samples, {"source": tiny_model().decoder, "n": 4, "random_state": 0, "shape": (4, 5)}),
    "plot.traversals": (
        lg.plot.traversals,
        {"decoder": tiny_model().decoder, "z": Z[0], "axes": None, "span": 1.0, "n": 3, "shape": (4, 5)},
    ),
    "plot.clusters": (
        lg.plot.clusters,
        {"metric": metric(), "codes": CODES, "labels": LABELS, "centres": CODES[:3], "resolution": 6},
    ),
    "plot.distance_contours": (
        lg.plot.distance_contours,
        {"metric": metric(), "code": Z[0], "codes": CODES, "contours": 3, "resolution": 6, "contour_resolution": 8},
    ),
    "plot.distance_matrix": (lg.plot.distance_matrix, {"D": np.ones((12, 12)) - np.eye(12), "labels": LABELS}),
    "plot.walks": (lg.plot.walks, {"metric": metric(), "walks": walk(), "codes": CODES, "n_walkers": 1, "n_images": 2}),
    "diagnose": (
        lambda **given: lg.diagnose(**given, progress=False),
        {"model": tiny_model(), "codes": CODES, "n_codes": 12, "n_pairs": 2, "n_neighbors": 3, "random_state": 0},
    ),
}

CALLS |= OF_TRAINING


@pytest.mark.parametrize("name", CALLS)
def test_any_argument_may_be_wrong(name):
    assert not faults(*CALLS[name])


@pytest.mark.parametrize("name", CALLS)
def test_good_input_passes(name):
    """The table is no good if its right arguments are wrong."""
    call, good = CALLS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(**good)
