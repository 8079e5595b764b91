"""scikit-learn's own checks, on every estimator, with no metric and with a pullback of any dimension."""

from __future__ import annotations

import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

from latentgeo.geodesics import LatentGraph
from latentgeo.learn import GeodesicKMeans, GeodesicKMedoids, GeodesicNeighbors, GeodesicPCA
from latentgeo.metrics import PullbackMetric


def wave(z):
    return torch.cat([z, z.sin()], -1)


WAVE = PullbackMetric(wave)
COARSE = LatentGraph(WAVE, grid=0)  # the checks' codes have any dimension


@parametrize_with_checks(
    [
        GeodesicKMeans(n_clusters=3, n_init=2),
        GeodesicKMeans(WAVE, n_clusters=3, n_init=2, n_refine=4, graph=COARSE),
        GeodesicKMedoids(n_clusters=3),
        GeodesicKMedoids(WAVE, n_clusters=3, graph=COARSE),
        GeodesicPCA(),
        GeodesicPCA(WAVE),
        GeodesicNeighbors(n_neighbors=2),
        GeodesicNeighbors(WAVE, n_neighbors=2, graph=COARSE),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
