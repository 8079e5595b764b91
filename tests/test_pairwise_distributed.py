"""`pairwise_distances` on workers of a Dask cluster: the same bits, in memory and in chunked files."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
import torch
from models import tiny_model
from problems import PARABOLOID

import latentgeo as lg
from latentgeo.geodesics import LatentGraph, pairwise_distances

distributed = pytest.importorskip("distributed", reason="dask is not installed (extra `distributed`)")


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes on this machine."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs="ERROR"
        ) as cluster,
        distributed.Client(cluster, set_as_default=True) as client,
    ):
        client.wait_for_workers(2, timeout=120)
        yield client


@pytest.mark.parametrize("refine", [False, True])
def test_same_bits_as_alone(cluster, refine):
    X = PARABOLOID.points(40 if refine else 300, 5)
    graph = LatentGraph(PARABOLOID.metric, grid=24).fit(PARABOLOID.points(200, 0))
    alone = pairwise_distances(PARABOLOID.metric, X, graph=graph, refine=refine)
    with joblib.parallel_config("dask"):
        together = pairwise_distances(PARABOLOID.metric, X, graph=graph, refine=refine, n_jobs=2)
    assert torch.equal(alone, together)


def test_a_trained_model_and_a_chunked_file(cluster, tmp_path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed (extra `distributed`)")
    model = tiny_model()
    metric = lg.metric(model)
    alone = pairwise_distances(metric, model.codes, model.codes[:7], graph=LatentGraph(metric, grid=16), refine=True)
    with joblib.parallel_config("dask"):
        file = pairwise_distances(
            metric,
            model.codes,
            model.codes[:7],
            graph=LatentGraph(metric, grid=16),
            refine=True,
            out=tmp_path / "D.zarr",
        )
    assert isinstance(file, zarr.Array)
    assert np.array_equal(file[:], alone.numpy())
    pids = set(cluster.run(__import__("os").getpid).values())
    assert len(pids) == 2
