"""`pairwise_distances`: exact answers, shapes and symmetry, files that survive any kill, failures told, bad input."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from commands import refused, run
from models import tiny_model
from problems import BALL, EUCLIDEAN, PARABOLOID, SPHERE, euclidean_distance, normal, sphere_distance
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.geodesics import LatentGraph, Newton, PairwiseError, Status, distance, pairwise_distances
from latentgeo.geodesics._fingerprint import digest
from latentgeo.metrics import Euclidean, PullbackMetric

SMALL = LatentGraph(PARABOLOID.metric, grid=24).fit(PARABOLOID.points(200, 0))


class TestShortestPaths:
    def test_agrees_with_the_graph(self):
        X, Y = PARABOLOID.points(7, 1), PARABOLOID.points(90, 2)
        assert torch.equal(pairwise_distances(PARABOLOID.metric, X, Y, graph=SMALL), SMALL.distances(X, Y))

    def test_either_side_may_be_the_longer(self):
        X, Y = PARABOLOID.points(7, 1), PARABOLOID.points(90, 2)
        D = pairwise_distances(PARABOLOID.metric, X, Y, graph=SMALL)
        assert torch.equal(pairwise_distances(PARABOLOID.metric, Y, X, graph=SMALL), D.T)

    def test_symmetric_to_the_last_bit(self):
        X = PARABOLOID.points(150, 0)
        X[20] = X[3]
        D = pairwise_distances(PARABOLOID.metric, X, graph=SMALL)
        assert torch.equal(D, D.T)
        assert torch.equal(D.diagonal(), torch.zeros(150, dtype=torch.float64))
        assert float(D[3, 20]) == 0.0

    def test_triangle_inequality_up_to_a_cell(self):
        """Paths lead through nodes, not through codes, so that it holds but for the ways to the nearest nodes."""
        X = PARABOLOID.points(150, 0)
        worst = []
        for n in (32, 128):
            D = pairwise_distances(PARABOLOID.metric, X, graph=LatentGraph(PARABOLOID.metric, grid=n))
            worst.append(float((D[:, None] - D[:, :, None] - D[None]).max()))
        assert worst[0] < 0.1
        assert worst[1] < 0.3 * worst[0]

    @pytest.mark.parametrize("problem", [SPHERE, BALL], ids=str)
    def test_a_graph_is_built_where_none_is_given(self, problem):
        X = problem.points(40, 0)
        D, exact = pairwise_distances(problem.metric, X), problem.distance(X[:, None], X[None])
        far = (exact > 0.05) & (exact < problem.farthest)
        ratio = D[far] / exact[far]
        assert float(ratio.min()) > 1 - 1e-3
        assert float(ratio.quantile(0.95)) < 1.02

    def test_a_graph_that_is_not_fitted_yet(self):
        X, Y = PARABOLOID.points(5, 0), PARABOLOID.points(4, 1)
        graph = LatentGraph(PARABOLOID.metric, grid=12)
        D = pairwise_distances(PARABOLOID.metric, X, Y, graph=graph)
        assert not hasattr(graph, "weights_")
        assert torch.equal(D, graph.fit(torch.cat([X, Y])).distances(X, Y))

    def test_without_a_grid(self):
        X = normal(300, 5)
        graph = LatentGraph(Euclidean(5), max_codes=100).fit(X)
        D = pairwise_distances(Euclidean(5), X, graph=graph)
        exact = euclidean_distance(X[:, None], X[None])
        assert torch.equal(D, D.T)
        assert torch.equal(D.diagonal(), torch.zeros(300, dtype=torch.float64))
        assert bool((exact - 1e-9 <= D).all())
        assert_close(D[:9], graph.distances(X[:9], X))

    def test_disconnected_codes_are_infinitely_far(self):
        X = torch.cat([BALL.points(10, 0) * 0.1, BALL.points(10, 1) * 0.1 + 3])
        metric = PullbackMetric(lambda z: torch.where(z[:, :1].abs() < 1, z, torch.where(z > 2, z, torch.nan)), dim=2)
        with pytest.warns(UserWarning, match="distances between those are inf"):
            graph = LatentGraph(metric, grid=32).fit(X)
        D, report = pairwise_distances(metric, X, graph=graph, return_report=True)
        assert bool(D[:10, 10:].isinf().all())
        assert bool(D[:10, :10].isfinite().all())
        assert report.n_infinite == 100
        assert len(report.failed) == 0
        assert "100 not joined" in repr(report)

    def test_single_precision(self):
        X = PARABOLOID.points(20, 0).float()
        D = pairwise_distances(PARABOLOID.metric, X, graph=LatentGraph(PARABOLOID.metric, grid=24).fit(X))
        assert D.dtype == torch.float32


class TestRefined:
    def test_exact(self):
        X, Y = SPHERE.points(5, 0), SPHERE.points(23, 1)
        graph = LatentGraph(SPHERE.metric, grid=24).fit(X)
        D, report = pairwise_distances(SPHERE.metric, X, Y, graph=graph, refine=True, return_report=True)
        assert_close(D, sphere_distance(X[:, None], Y[None]), rtol=1e-3, atol=0)
        assert report.n_pairs == 5 * 23
        D = pairwise_distances(SPHERE.metric, Y, graph=graph, refine=True, solver=Newton(rtol=1e-6))
        assert_close(D, sphere_distance(Y[:, None], Y[None]), rtol=1e-6, atol=1e-7)
        assert torch.equal(D, D.T)

    def test_never_longer_than_the_shortest_path(self):
        X = PARABOLOID.points(12, 3)
        D, G = (pairwise_distances(PARABOLOID.metric, X, graph=SMALL, refine=r) for r in (True, False))
        assert bool((D <= G * (1 + 2e-3)).all())
        assert_close(D, distance(PARABOLOID.metric, X[:, None], X[None]), rtol=2e-3, atol=0)

    def test_failures_are_told(self):
        X = PARABOLOID.points(18, 3)
        options = {"graph": SMALL, "refine": True, "solver": Newton(rtol=1e-12, max_points=33, max_steps=2)}
        with pytest.raises(PairwiseError, match=r"of 153 distances failed \(.*throw=False") as caught:
            pairwise_distances(PARABOLOID.metric, X, **options)
        D, report = pairwise_distances(PARABOLOID.metric, X, throw=False, return_report=True, **options)
        assert len(report.failed) == len(report.status) == len(caught.value.report.failed) > 0
        assert all(isinstance(s, Status) and s is not Status.CONVERGED for s in report.status)
        i, j = report.failed.T
        assert bool((i < j).all())
        assert bool(D[i, j].isnan().all())
        assert bool(D[j, i].isnan().all())
        assert int(D.isnan().sum()) == 2 * len(i)
        assert torch.equal(D.isnan(), caught.value.distances.isnan())
        with pytest.warns(UserWarning, match="they are NaN"):
            pairwise_distances(PARABOLOID.metric, X, throw=False, **options)

    def test_failures_of_a_tall_matrix(self):
        X, Y = PARABOLOID.points(19, 3), PARABOLOID.points(2, 4)
        options = {"graph": SMALL, "refine": True, "solver": Newton(rtol=1e-12, max_points=33, max_steps=2)}
        D, report = pairwise_distances(PARABOLOID.metric, X, Y, throw=False, return_report=True, **options)
        i, j = report.failed.T
        assert int(i.max()) > 1
        assert bool(D[i, j].isnan().all())
        assert int(D.isnan().sum()) == len(i)


class TestWorkers:
    X = PARABOLOID.points(150, 5)

    @pytest.mark.parametrize(("backend", "n_jobs"), [("threading", 3), ("loky", 2)])
    @pytest.mark.parametrize("refine", [False, True])
    def test_same_bits(self, backend, n_jobs, refine):
        X = self.X[:40] if refine else self.X
        one = pairwise_distances(PARABOLOID.metric, X, graph=SMALL, refine=refine)
        with joblib.parallel_config(backend, n_jobs=n_jobs):
            many = pairwise_distances(PARABOLOID.metric, X, graph=SMALL, refine=refine)
        assert torch.equal(one, many)

    def test_threads_of_torch_are_given_back(self):
        before = torch.get_num_threads()
        pairwise_distances(PARABOLOID.metric, self.X[:5], graph=SMALL)
        assert torch.get_num_threads() == before


class TestFiles:
    X = PARABOLOID.points(150, 5)
    want = pairwise_distances(PARABOLOID.metric, X, graph=SMALL).numpy()

    def fill(self, out, **options):
        return pairwise_distances(PARABOLOID.metric, self.X, **{"graph": SMALL, "out": out} | options)

    def test_npy(self, tmp_path):
        path = tmp_path / "D.npy"
        D, report = self.fill(path, return_report=True)
        assert isinstance(D, np.memmap)
        assert not D.flags.writeable
        assert np.array_equal(np.load(path), self.want)
        assert report.n_resumed == 0
        before = path.stat().st_mtime_ns
        _, report = self.fill(path, return_report=True)
        assert report.n_resumed == report.n_blocks == 3
        assert path.stat().st_mtime_ns == before
        assert {p.name for p in tmp_path.iterdir()} == {"D.npy", "D.npy.progress"}

    def test_zarr(self, tmp_path):
        pytest.importorskip("zarr", reason="zarr is not installed (extra `distributed`)")
        D = self.fill(tmp_path / "D.zarr")
        assert np.array_equal(D[:], self.want)
        assert np.array_equal(self.fill(tmp_path / "D.zarr")[:], self.want)

    def test_zarr_array(self):
        zarr = pytest.importorskip("zarr", reason="zarr is not installed (extra `distributed`)")
        out = zarr.create_array(store=zarr.storage.MemoryStore(), shape=(150, 150), chunks=(40, 70), dtype="float64")
        assert self.fill(out) is out
        assert np.array_equal(out[:], self.want)

    def test_array(self):
        out = np.empty((150, 150), dtype=np.float32)
        assert self.fill(out) is out
        assert np.array_equal(out, self.want.astype(np.float32))

    def test_resumes_after_any_block(self, tmp_path):
        for stop in range(4):
            path = tmp_path / f"{stop}.npy"
            self.fill(path)
            record = path.with_name(path.name + ".progress")
            lines = record.read_bytes().splitlines(keepends=True)
            D = np.load(path, mmap_mode="r+")
            # as a kill in the midst of the next block leaves it: half written, its line cut short
            kept = lines[: stop + 2]
            seen = np.zeros(3, dtype=bool)
            seen[[json.loads(line)["block"] for line in kept if b'"block"' in line]] = True
            for block in np.flatnonzero(~seen):
                D[64 * block : 64 * (block + 1), 64 * block :] = -1.0
            D.flush()
            record.write_bytes(b"".join(kept) + b'{"block": 7, "fai')
            again, report = self.fill(path, return_report=True)
            assert report.n_resumed == stop
            assert np.array_equal(again, self.want)

    def test_blocks_that_never_reached_the_disk(self, tmp_path):
        """If the power fails, the record may be there and the block it speaks of not."""
        path = tmp_path / "D.npy"
        self.fill(path)
        record = tmp_path / "D.npy.progress"
        lines = record.read_bytes().splitlines(keepends=True)
        assert b"on disk" in lines[-1]
        record.write_bytes(b"".join(lines[:-1]))
        D = np.load(path, mmap_mode="r+")
        D[100, 3] = np.nan  # the mirror image of a value in the first block
        D.flush()
        D, report = self.fill(path, return_report=True)
        assert report.n_resumed == 2
        assert np.array_equal(D, self.want)

    def test_a_graph_left_by_another_job_is_not_used(self, tmp_path):
        path = tmp_path / "D.npy"
        other = LatentGraph(PARABOLOID.metric, grid=9).fit(self.X)
        other.save(tmp_path / "D.npy.graph.npz")
        D = self.fill(path, graph=LatentGraph(PARABOLOID.metric, grid=12))
        assert np.array_equal(D, self.fill(None, graph=LatentGraph(PARABOLOID.metric, grid=12)))

    def test_the_graph_it_builds_is_kept_until_it_is_done(self, tmp_path, monkeypatch):
        path = tmp_path / "D.npy"
        X = self.X[:70]
        want = pairwise_distances(PARABOLOID.metric, X)
        from latentgeo.geodesics import _blocks, pairwise

        whole = _blocks.Problem.compute

        def fails(problem, block):
            if block.number == 1:
                raise KeyboardInterrupt
            return whole(problem, block)

        monkeypatch.setattr(_blocks.Problem, "compute", fails)
        with pytest.raises(KeyboardInterrupt):
            pairwise_distances(PARABOLOID.metric, X, out=path)
        assert (tmp_path / "D.npy.graph.npz").exists()
        assert bool(np.isnan(np.load(path)[64:, 64:]).all())
        monkeypatch.setattr(_blocks.Problem, "compute", whole)
        monkeypatch.setattr(pairwise.LatentGraph, "fit", None)  # not needed again
        D, report = pairwise_distances(PARABOLOID.metric, X, out=path, return_report=True)
        assert report.n_resumed == 1
        assert np.array_equal(D, want)
        assert not (tmp_path / "D.npy.graph.npz").exists()

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"X": PARABOLOID.points(150, 6)}, "different: X"),
            ({"Y": PARABOLOID.points(150, 6)}, "different: Y"),
            ({"graph": None}, "different: graph"),
            ({"metric": BALL.metric, "graph": None}, "different: graph, metric"),
            ({"refine": True}, "different: refine, solver"),
        ],
    )
    def test_another_problem_is_refused(self, tmp_path, change, what):
        path = tmp_path / "D.npy"
        self.fill(path)
        options = {"metric": PARABOLOID.metric, "X": self.X, "graph": SMALL, "out": path} | change
        with pytest.raises(ValueError, match=f"`out` holds the distances of another problem .{what}."):
            pairwise_distances(**options)
        assert np.array_equal(np.load(path), self.want)

    def test_a_foreign_file_is_refused(self, tmp_path):
        np.save(tmp_path / "D.npy", np.zeros((150, 150)))
        with pytest.raises(FileExistsError, match="no record of its blocks"):
            self.fill(tmp_path / "D.npy")
        assert [p.name for p in tmp_path.iterdir()] == ["D.npy"]

    def test_a_matrix_that_was_deleted_is_made_anew(self, tmp_path):
        path = tmp_path / "D.npy"
        self.fill(path)
        path.unlink()
        assert np.array_equal(self.fill(path), self.want)

    def test_killed_before_the_matrix_was_there(self, tmp_path):
        (tmp_path / "D.npy.progress").write_bytes(b'{"format": 1, "prob')
        (tmp_path / "D.npy.part").write_bytes(b"half a matrix")
        assert np.array_equal(self.fill(tmp_path / "D.npy"), self.want)
        assert {p.name for p in tmp_path.iterdir()} == {"D.npy", "D.npy.progress"}

    def test_damage_is_told(self, tmp_path):
        path = tmp_path / "D.npy"
        self.fill(path)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match="is damaged"):
            self.fill(path)
        np.save(path, np.zeros((3, 3)))
        with pytest.raises(ValueError, match="its record says"):
            self.fill(path)
        (tmp_path / "D.npy.progress").write_bytes(b"nonsense\n")
        with pytest.raises(ValueError, match="is damaged"):
            self.fill(path)

    def test_no_room(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", lambda fd: None if fd < 0 else full() if _size(fd) > 10_000 else None)
        with pytest.raises(OSError, match=r"no room for `out`: it needs 0\.2 MB"):
            self.fill(tmp_path / "D.npy")
        assert [p.name for p in tmp_path.iterdir()] == ["D.npy.progress"]
        monkeypatch.undo()
        assert np.array_equal(self.fill(tmp_path / "D.npy"), self.want)

    def test_one_writer_at_a_time(self, tmp_path):
        pytest.importorskip("fcntl", reason="this system has no file locks")
        from latentgeo.geodesics._record import Record

        record = Record(tmp_path / "D.npy", {})
        record.open()
        with pytest.raises(RuntimeError, match="another process is writing"):
            self.fill(tmp_path / "D.npy")
        record.close()

    def test_read_only_folder(self, tmp_path):
        if os.geteuid() == 0:
            pytest.skip("nothing is read-only for the superuser")
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError):
            self.fill(tmp_path / "D.npy")


def _size(fd):
    return os.fstat(fd).st_size


JOB = """
import sys, torch
sys.path[:0] = [{tests!r}, {root!r}]
from problems import PARABOLOID
import latentgeo as lg
torch.set_num_threads(1)
graph = lg.LatentGraph(PARABOLOID.metric, grid=24).fit(PARABOLOID.points(200, 0))
X = PARABOLOID.points({n}, 5)
lg.pairwise_distances(PARABOLOID.metric, X, graph=graph, refine={refine}, out={out!r}, n_jobs={n_jobs})
"""


def killed_and_resumed(folder, *, n, refine, n_jobs, kills, seed):
    """Run a job in a process of its own, killed a few times at random moments; the number of blocks in the record."""
    out = folder / "D.npy"
    record = folder / "D.npy.progress"
    here = Path(__file__).parent
    code = JOB.format(tests=str(here), root=str(here.parent), n=n, refine=refine, out=str(out), n_jobs=n_jobs)
    rng = random.Random(seed)
    for attempt in range(kills + 1):
        process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        before = record.read_bytes().count(b"\n") if record.exists() else 2
        deadline = time.monotonic() + 300
        if attempt < kills:
            while process.poll() is None and time.monotonic() < deadline:
                if record.exists() and record.read_bytes().count(b"\n") > before:
                    break
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.2))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:
            assert process.wait(300) == 0
    lines = [json.loads(line) for line in record.read_bytes().splitlines()]
    blocks = [line["block"] for line in lines if "block" in line]
    assert len(blocks) == len(set(blocks)) == lines[0]["problem"]["blocks"]  # none was computed twice
    return np.load(out)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system cannot kill a group of processes")
class TestKills:
    def test_shortest_paths(self, tmp_path):
        D = killed_and_resumed(tmp_path, n=1000, refine=False, n_jobs=1, kills=1, seed=0)
        assert np.array_equal(D, pairwise_distances(PARABOLOID.metric, PARABOLOID.points(1000, 5), graph=SMALL))

    @pytest.mark.slow
    @pytest.mark.parametrize("n_jobs", [1, 2])
    @pytest.mark.parametrize(("n", "refine"), [(3000, False), (100, True)])
    def test_many_kills(self, tmp_path, n, refine, n_jobs):
        D = killed_and_resumed(tmp_path, n=n, refine=refine, n_jobs=n_jobs, kills=4, seed=n_jobs)
        want = pairwise_distances(PARABOLOID.metric, PARABOLOID.points(n, 5), graph=SMALL, refine=refine)
        assert np.array_equal(D, want)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    lg.save(tiny_model(), path)
    return path


class TestCommand:
    def test_own_codes(self, checkpoint, tmp_path):
        out = tmp_path / "new" / "D.npy"
        text = run("pairwise", checkpoint, "--out", out, "--grid", 16).output
        assert "60×60 distances" in text
        model = tiny_model()
        want = pairwise_distances(lg.metric(model), model.codes, graph=LatentGraph(lg.metric(model), grid=16))
        assert np.array_equal(np.load(out), want)
        assert "1 of 1 blocks found finished" in run("pairwise", checkpoint, "--out", out, "--grid", 16).output
        assert "another problem (different: graph)" in refused("pairwise", checkpoint, "--out", out, "--grid", 17)

    def test_files_of_codes(self, checkpoint, tmp_path):
        np.save(tmp_path / "a.npy", tiny_model().codes[:3].double().numpy())
        np.save(tmp_path / "b.npy", tiny_model().codes[3:8].double().numpy())
        files = ["--codes", tmp_path / "a.npy", "--to", tmp_path / "b.npy", "--out", tmp_path / "D.npy"]
        run("pairwise", checkpoint, *files, "--grid", 16, "--refine", "--rtol", 1e-2)
        D = np.load(tmp_path / "D.npy")
        assert D.shape == (3, 5)
        assert bool((D > 0).all())

    def test_failures(self, checkpoint, tmp_path):
        options = ["--grid", 16, "--refine", "--rtol", 1e-12, "--out", tmp_path / "D.npy"]
        np.save(tmp_path / "a.npy", tiny_model().codes[:3].double().numpy())
        result = run("pairwise", checkpoint, "--codes", tmp_path / "a.npy", *options, code=1)
        assert "distances failed and are NaN" in result.stderr
        assert bool(np.isnan(np.load(tmp_path / "D.npy")).any())

    def test_bad_options(self, checkpoint, tmp_path):
        out = tmp_path / "D.npy"
        assert "--out must end in .npy or .zarr" in refused("pairwise", checkpoint, "--out", tmp_path / "D.csv")
        assert "--rtol must go with --refine" in refused("pairwise", checkpoint, "--out", out, "--rtol", 0.1)
        assert "--n-jobs must be" in refused("pairwise", checkpoint, "--out", out, "--n-jobs", 0)


class TestFingerprint:
    def test_same_in_every_process(self):
        code = (
            "import latentgeo as lg\nfrom latentgeo.geodesics._fingerprint import digest\n"
            "print(digest(lg.metric(lg.load('checkpoints/digits-2d.safetensors'))))"
        )
        root = Path(__file__).parent.parent
        there = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        metric = lg.metric(lg.load(root / "checkpoints" / "digits-2d.safetensors"))
        before = digest(metric)
        metric.tensor(torch.zeros(1, 2))  # probes; that changes nothing
        assert there.stdout.strip() == before == digest(metric)

    def test_any_weight_counts(self):
        def metric(x):
            net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.fill_(0.5)
                net[0].bias[2] = x
            return PullbackMetric(net, dim=2)

        assert digest(metric(1.0)) == digest(metric(1.0)) != digest(metric(1.0000001))

    def test_functions_count(self):
        def metric(scale, power=2):
            return PullbackMetric(lambda z: torch.cat([z, scale * z**power], -1), dim=2)

        assert digest(metric(1.0)) == digest(metric(1.0)) != digest(metric(2.0))
        assert digest(PullbackMetric(lambda z: z + 1)) != digest(PullbackMetric(lambda z: z + 2))
        assert digest(PullbackMetric(torch.sin)) != digest(PullbackMetric(torch.cos))
        assert digest(Euclidean(2)) != digest(Euclidean(3))

    def test_cycles_end(self):
        loop: list = []
        loop.append(loop)
        assert digest(loop) != digest([])


class TestInput:
    metric = EUCLIDEAN.metric
    X = EUCLIDEAN.points(4, 0)

    @pytest.mark.parametrize(
        ("options", "kind", "words"),
        [
            ({"metric": lambda z: z}, TypeError, "`metric` must be a Metric"),
            ({"X": X[0]}, ValueError, r"`X` must have shape \(n, d\)"),
            ({"X": X[:, :2]}, ValueError, "latent"),
            ({"X": X.numpy()}, TypeError, "`X` must be"),
            (
                {"Y": X.float()},
                TypeError,
                r"`Y` has dtype .*32 but `X` has .*64; cast with `Y\.to\(",
            ),
            ({"Y": X.int()}, TypeError, "`Y` must"),
            ({"Y": X[:, :2]}, ValueError, "latent"),
            ({"Y": torch.full_like(X, torch.nan)}, ValueError, "`Y` must be finite, got NaN or inf in 4 of 4 rows: 0"),
            ({"X": X * torch.tensor([[1], [1], [torch.inf], [1]])}, ValueError, "`X` must be finite.* 1 of 4 rows: 2"),
            ({"refine": 1}, ValueError, "`refine` must be True or False, got 1"),
            ({"throw": 0}, ValueError, "`throw` must be True or False, got 0"),
            ({"return_report": "yes"}, ValueError, "`return_report` must be True or False, got 'yes'"),
            ({"progress": "bar"}, ValueError, "`progress` must be True, False or None, got 'bar'"),
            ({"n_jobs": 10**9}, ValueError, "`n_jobs` must be None or an integer .* at most 1024, got 1000000000"),
            ({"n_jobs": 0}, ValueError, "`n_jobs` must be None or an integer other than 0"),
            ({"n_jobs": True}, ValueError, "`n_jobs` must be"),
            ({"solver": Newton()}, ValueError, "`solver` must come with refine=True"),
            ({"solver": "newton", "refine": True}, TypeError, "`solver` must be a solver"),
            ({"graph": "graph"}, TypeError, "`graph` must be"),
            ({"graph": SMALL}, ValueError, "`graph` must be of 3-d codes"),
            ({"graph": LatentGraph(SPHERE.metric).fit(SPHERE.points(9, 0))}, ValueError, "`graph` must be of 3-d"),
            ({"out": "D.csv"}, ValueError, "ends in .npy or .zarr"),
            ({"out": "/nowhere/D.npy"}, FileNotFoundError, "a folder that exists"),
            ({"out": [1]}, TypeError, "`out` must be None, a path"),
            ({"out": np.zeros((4, 3))}, ValueError, r"`out` must have shape \(4, 4\)"),
            ({"out": np.zeros((4, 4), dtype=int)}, ValueError, "floating-point"),
            ({"out": np.broadcast_to(0.0, (4, 4))}, ValueError, "read-only"),
        ],
    )
    def test_refused(self, options, kind, words):
        with pytest.raises(kind, match=words):
            pairwise_distances(**{"metric": self.metric, "X": self.X} | options)

    def test_graph_of_another_metric(self):
        with pytest.raises(ValueError, match="the same metric"):
            pairwise_distances(SPHERE.metric, SPHERE.points(4, 0), graph=SMALL)

    @pytest.mark.parametrize("refine", [False, True])
    @pytest.mark.parametrize(("n", "m"), [(0, None), (0, 3), (3, 0), (1, None), (1, 1)])
    def test_few(self, n, m, refine, tmp_path):
        X, Y = PARABOLOID.points(n, 0), None if m is None else PARABOLOID.points(m, 1)
        shape = (n, n if m is None else m)
        assert pairwise_distances(PARABOLOID.metric, X, Y, graph=SMALL, refine=refine).shape == shape
        D = pairwise_distances(PARABOLOID.metric, X, Y, graph=SMALL, refine=refine, out=tmp_path / "D.npy")
        assert D.shape == np.load(tmp_path / "D.npy").shape == shape

    def test_one_code_without_a_graph(self):
        assert torch.equal(pairwise_distances(SPHERE.metric, SPHERE.points(1, 0)), torch.zeros(1, 1).double())

    def test_progress(self, capsys):
        pairwise_distances(PARABOLOID.metric, PARABOLOID.points(4, 0), graph=SMALL, progress=True)
        assert "distances" in capsys.readouterr().err
        pairwise_distances(PARABOLOID.metric, PARABOLOID.points(4, 0), graph=SMALL)
        assert not capsys.readouterr().err
