"""Calls of trainers, of scores and of what estimators do after their fit, with arguments that are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from models import tiny_model

import latentgeo as lg
from latentgeo import train
from latentgeo.train import scores

REAL = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
MADE = torch.rand(40, 6, generator=torch.Generator().manual_seed(1))
IMAGES = tiny_model().decoder.mean(tiny_model().codes[:6]).detach()
X = tiny_model().codes[:12].numpy().astype(float)
KMEANS = lg.GeodesicKMeans(None, 2, n_init=1, random_state=0).fit(X)
MEDOIDS = lg.GeodesicKMedoids(None, 2, random_state=0).fit(X)
NEAR = lg.GeodesicNeighbors(None, 2).fit(X)
PCA = lg.GeodesicPCA(None, 1).fit(X)
LAND = lg.LAND(None, max_iter=3, n_directions=8, n_radii=8, random_state=0).fit(X)
DENSITY = lg.KernelDensity(tiny_model().codes, bandwidth=0.3)

CALLS: dict[str, Any] = {
    "VAE": (
        train.VAE,
        {"latent_dim": 2, "network": train.Dense((8,)), "likelihood": "bernoulli", "beta": 1.0, "warmup": 0.1},
    ),
    "VQVAE": (train.VQVAE, {"n_codes": 16, "code_dim": 4, "levels": 1, "width": 8, "commitment": 0.25, "revive": 0.02}),
    "GAN": (train.GAN, {"latent_dim": 2, "network": train.Dense((8,)), "loss": train.NonSaturating(), "average": 0.9}),
    "Flow": (train.Flow, {"transform": "nsf", "transforms": 2, "hidden": (8,), "bins": 4, "steps": 4}),
    "Dense": (train.Dense, {"hidden": (8,), "activation": "tanh"}),
    "LeNet": (train.LeNet, {"width": 8, "activation": "silu"}),
    "ResNet": (train.ResNet, {"width": 8, "activation": "silu", "norm": "batch", "blocks": 1}),
    "RBF": (train.RBF, {"sigma": None, "n_centers": 4, "bandwidth": 1.0, "floor": 1e-3, "posterior_samples": 1}),
    "ScaleNetwork": (train.ScaleNetwork, {"floor": 0.01}),
    "WassersteinGP": (train.WassersteinGP, {"penalty": 10.0, "n_critic": 5}),
    "FGAN": (train.FGAN, {"divergence": "kl", "saturating": False, "n_critic": 1}),
    "MovingAverage": (train.MovingAverage, {"decay": 0.99, "epsilon": 1e-5}),
    "Transformer": (train.Transformer, {"width": 8, "layers": 1, "heads": 2, "share": 0.5, "weight_decay": 0.01}),
    "as_data": (
        train.as_data,
        {"data": REAL.numpy(), "labels": np.arange(40) % 2, "held_out": 0.1, "shape": (2, 3), "seed": 0},
    ),
    "invert": (
        train.invert,
        {"model": tiny_model(), "x": IMAGES, "n_starts": 2, "n_steps": 2, "prior_weight": 0.0, "random_state": 0},
    ),
    "frechet_distance": (scores.frechet_distance, {"real": REAL, "generated": MADE, "features": None}),
    "kernel_distance": (
        scores.kernel_distance,
        {"real": REAL, "generated": MADE, "features": None, "n_blocks": 4, "random_state": 0},
    ),
    "precision_recall": (scores.precision_recall, {"real": REAL, "generated": MADE, "features": None, "k": 3}),
    "density_coverage": (scores.density_coverage, {"real": REAL, "generated": MADE, "features": None, "k": 3}),
    "truncated_normal": (scores.truncated_normal, {"n": 5, "dim": 2, "threshold": 1.0, "random_state": 0}),
    "truncation_curve": (
        scores.truncation_curve,
        {"generate": tiny_model().decoder, "real": IMAGES.repeat(4, 1), "levels": (0.5, 1.0), "n": 20, "k": 3},
    ),
    "kmeans.predict": (KMEANS.predict, {"X": X}),
    "kmeans.transform": (KMEANS.transform, {"X": X}),
    "medoids.predict": (MEDOIDS.predict, {"X": X}),
    "neighbors.kneighbors": (NEAR.kneighbors, {"X": X, "n_neighbors": 2, "return_distance": True}),
    "pca.transform": (PCA.transform, {"X": X}),
    "land.score_samples": (LAND.score_samples, {"X": X}),
    "land.predict": (LAND.predict, {"X": X}),
    "land.sample": (LAND.sample, {"n_samples": 3}),
    "density": (lambda z: DENSITY(z), {"z": tiny_model().codes[:4]}),
    "density.sample": (DENSITY.sample, {"n": 3, "random_state": 0}),
    "plot.land": (lg.plot.land, {"model": LAND, "codes": X, "resolution": 6, "contour_resolution": 4}),
    "plot.training": (lg.plot.training, {"history": [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.5}]}),
}
