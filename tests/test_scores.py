"""Scores of generated samples against closed forms, constructed sets and known expectations."""

from __future__ import annotations

import itertools
import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import latentgeo as lg
from latentgeo.train import scores
from latentgeo.train.features import Classifier, Features, load_features, save_features, train_classifier

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def with_moments(n, mean, factor, seed=0):
    """n samples whose empirical mean and (unbiased) covariance are exactly `mean` and `factor @ factor.T`."""
    x = normal(n, factor.shape[1], seed=seed)
    x = x - x.mean(0)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return mean + (u @ vh) * math.sqrt(n - 1) @ factor.T


# --- Fréchet distance


def test_frechet_of_commuting_gaussians():
    rotation = torch.linalg.qr(normal(4, 4)).Q
    a = torch.tensor([1.0, 4.0, 9.0, 0.25], dtype=torch.float64)
    b = torch.tensor([4.0, 1.0, 1.0, 0.25], dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    found = scores.frechet_from_moments(
        torch.zeros(4), rotation @ a.diag() @ rotation.T, shift, rotation @ b.diag() @ rotation.T
    )
    assert found == pytest.approx(float(shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()), rel=1e-12)


def test_frechet_of_gaussians_that_do_not_commute():
    """2×2: Tr (AB)^(1/2) = sqrt(Tr AB + 2 sqrt(det AB))."""
    a = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, -0.7], [-0.7, 3.0]], dtype=torch.float64)
    cross = torch.sqrt((a @ b).trace() + 2 * torch.det(a @ b).sqrt())
    expected = float(a.trace() + b.trace() - 2 * cross)
    assert scores.frechet_from_moments(torch.zeros(2), a, torch.zeros(2), b) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_rank_deficient_gaussians():
    """Two lines: W² = a² + b² − 2ab|cos| for N(0, a² uuᵀ) and N(0, b² vvᵀ)."""
    u = torch.nn.functional.normalize(normal(6, seed=1), dim=0)
    v = torch.nn.functional.normalize(normal(6, seed=2), dim=0)
    zero = torch.zeros(6)
    found = scores.frechet_from_moments(zero, 9 * torch.outer(u, u), zero, 4 * torch.outer(v, v))
    assert found == pytest.approx(13 - 12 * abs(float(u @ v)), rel=1e-7)
    same = scores.frechet_from_moments(zero, 9 * torch.outer(u, u), zero, 9 * torch.outer(u, u))
    assert same == pytest.approx(0, abs=1e-12)
    point = torch.zeros(6, 6)
    assert scores.frechet_from_moments(zero, point, u, 4 * torch.outer(v, v)) == pytest.approx(5, rel=1e-12)


def test_frechet_of_samples_with_known_moments():
    a = normal(5, 5, seed=3)
    mean = normal(5, seed=4)
    x = with_moments(40, torch.zeros(5, dtype=torch.float64), a, seed=5)
    y = with_moments(30, mean, 3 * a, seed=6)
    score = scores.frechet_distance(x, y)
    expected = float(mean.square().sum()) + 4 * float((a @ a.T).trace())
    assert float(score) == pytest.approx(expected, rel=1e-10)
    assert (score.n_real, score.n_generated, score.features) == (40, 30, "the arrays themselves")


def test_frechet_with_fewer_samples_than_features_of_a_shift():
    x = normal(5, 50)
    assert float(scores.frechet_distance(x, x + 2)) == pytest.approx(200, rel=1e-10)


def test_the_bias_of_frechet_is_as_documented():
    """2 F/N of the means, and ¼ E|S₁ − S₂|² = F(F + 1)/(2N) of the covariances, to the first order in 1/N."""
    n, size = 2000, 20
    found = [float(scores.frechet_distance(*normal(2, n, size, seed=seed))) for seed in range(20)]
    spread = np.std(found, ddof=1) / math.sqrt(20)
    assert abs(np.mean(found) - size * (size + 5) / (2 * n)) < 4 * spread
    assert spread < 0.02 * np.mean(found)


def test_frechet_agrees_with_one_dimension():
    x, y = normal(100, 1), 3 * normal(80, 1, seed=1) + 1
    expected = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert float(scores.frechet_distance(x, y)) == pytest.approx(float(expected), rel=1e-12)


def test_covariances_must_be_positive():
    eye, bad = torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match="cov_2 must be positive semi-definite; its least eigenvalue is -1"):
        scores.frechet_from_moments(torch.zeros(2), eye, torch.zeros(2), bad)
    with pytest.raises(ValueError, match="covariances of shape"):
        scores.frechet_from_moments(torch.zeros(2), eye, torch.zeros(2), torch.eye(3))


# --- kernel distance


def test_kernel_distance_is_the_u_statistic():
    x, y = normal(6, 2), normal(6, 2, seed=1)

    def kernel(a, b):
        return (float(a @ b) / 2 + 1) ** 3

    found = scores.kernel_distance(x, y, n_blocks=2, random_state=4)
    order = generator(4)
    x, y = x[torch.randperm(6, generator=order)], y[torch.randperm(6, generator=order)]
    values = []
    for i in (0, 3):
        a, b = x[i : i + 3], y[i : i + 3]
        pairs = list(itertools.permutations(range(3), 2))
        within = sum(kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs) / 6
        values.append(within - 2 * sum(kernel(p, q) for p in a for q in b) / 9)
    assert found.value == pytest.approx(np.mean(values), rel=1e-12)
    assert found.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(2), rel=1e-12)


def test_kernel_distance_leaves_no_sample_out():
    """Sets of different sizes: a far sample, in whichever place, moves the estimate."""
    x, y = normal(7, 1), normal(20, 1, seed=1)
    still = scores.kernel_distance(x, y, n_blocks=3).value
    for i in range(20):
        other = y.clone()
        other[i] += 1
        assert scores.kernel_distance(x, other, n_blocks=3).value != still


def test_kernel_distance_of_equal_distributions_is_zero_within_its_error():
    ratios = []
    for seed in range(40):
        score = scores.kernel_distance(normal(500, 3, seed=seed), normal(500, 3, seed=1000 + seed))
        ratios.append(score.value / score.error)
    # means over standard errors of ten blocks: Student's t with 9 degrees of freedom
    assert max(map(abs, ratios)) < stats.t(9).isf(1e-4 / 2)
    assert stats.kstest(ratios, stats.t(9).cdf).pvalue > 0.01
    assert min(ratios) < 0 < max(ratios)  # unbiased, so it takes both signs


def test_kernel_distance_has_its_closed_form():
    """MMD² of N(0, 1) and N(1, 1) under (xy + 1)³ is Σ C(3, j) (difference of the j-th moments)²."""
    score = scores.kernel_distance(normal(20000, 1), normal(20000, 1, seed=1) + 1, n_blocks=20)
    exact = 3 * 1**2 + 3 * (2 - 1) ** 2 + (4 - 0) ** 2
    assert abs(score.value - exact) < 3 * score.error
    assert score.error < 0.05 * exact


def test_kernel_distance_takes_two_to_a_block():
    with pytest.raises(ValueError, match=r"at least 2 samples to a block; got 10 blocks of 1"):
        scores.kernel_distance(normal(15, 2), normal(15, 2))


# --- Inception Score


def test_inception_score_bounds():
    sure = torch.eye(10).repeat(5, 1)
    assert float(scores.inception_score(sure, n_splits=5)) == pytest.approx(10, rel=1e-12)
    assert float(scores.inception_score(torch.full((20, 10), 0.1))) == pytest.approx(1, rel=1e-7)
    assert float(scores.inception_score(torch.eye(10)[:1].repeat(20, 1))) == pytest.approx(1, rel=1e-12)
    p = normal(1000, 10).mul(3).softmax(1)
    assert 1 < float(scores.inception_score(p)) < 10


def test_inception_score_of_two_kinds_of_rows():
    """Half the rows (a, 1 − a), half the other way round: log 2 minus the entropy of (a, 1 − a)."""
    a = 0.8
    p = torch.tensor([[a, 1 - a], [1 - a, a]], dtype=torch.float64).repeat(10, 1)
    score = scores.inception_score(p, n_splits=10)
    assert float(score) == pytest.approx(2 * a**a * (1 - a) ** (1 - a), rel=1e-12)
    assert score.error == pytest.approx(0, abs=1e-12)
    assert scores.inception_score(p, n_splits=1).error is None


def test_inception_score_refuses_what_are_no_probabilities():
    with pytest.raises(ValueError, match="must be class probabilities"):
        scores.inception_score(normal(10, 3))
    with pytest.raises(ValueError, match="has no classes"):
        scores.inception_score(normal(10, 3), Features("pixels", lambda x: x))
    with pytest.raises(TypeError, match="must be a Features with classes"):
        scores.inception_score(normal(10, 3), lambda x: x)


# --- precision, recall, density, coverage


def test_precision_and_recall_on_a_constructed_set():
    """Real: two clusters; generated: one of them, and as many far from both."""
    line = torch.arange(5.0, dtype=torch.float64)[:, None]
    real = torch.cat([line, line + 100])
    generated = torch.cat([line + 0.25, line + 1000])
    found = scores.precision_recall(real, generated, k=2)
    assert (found.precision, found.recall) == (0.5, 0.5)
    swapped = scores.precision_recall(generated, real, k=2)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)


def test_precision_and_recall_of_the_same_set_and_of_strangers():
    x = normal(50, 3)
    same, far = scores.precision_recall(x, x), scores.precision_recall(x, x + 100)
    assert (same.precision, same.recall) == (1, 1)
    assert (far.precision, far.recall) == (0, 0)


def test_a_point_on_a_balls_rim_is_inside():
    real = torch.tensor([[0.0], [1.0], [3.0]])
    # balls: around 0 and 1 of radius 1, around 3 of radius 2
    assert scores.precision_recall(real, torch.tensor([[-1.0], [5.0]]), k=1).precision == 1
    assert scores.precision_recall(real, torch.tensor([[-1.001], [5.001]]), k=1).precision == 0


def test_mode_collapse_costs_recall_and_coverage_but_not_precision():
    x = normal(400, 2)
    collapsed = 0.01 * normal(400, 2, seed=1)
    found, cover = scores.precision_recall(x, collapsed), scores.density_coverage(x, collapsed)
    assert found.precision == 1
    # 0.3 data are expected within 0.04 of the mean; at most 2 were reached with any of 40 other seeds
    assert found.recall <= 2 / 400
    # a point of the plane is among the k nearest neighbours of at most 6 k others
    assert cover.coverage <= 6 * 5 / 400


def test_density_and_coverage_on_a_constructed_set():
    real = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    generated = torch.tensor([[0.5], [0.5], [0.5], [500.0]])
    found = scores.density_coverage(real, generated, k=1)
    # three generated samples, each in the balls of 0 and 1, over k M = 4; two of four balls hold one
    assert (found.density, found.coverage) == (1.5, 0.5)


@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_of_equal_distributions_have_their_expectation(k):
    n, m, repeats = 60, 40, 300
    found = [scores.density_coverage(normal(n, 2, seed=s), normal(m, 2, seed=9000 + s), k=k) for s in range(repeats)]
    density, coverage = np.array([(f.density, f.coverage) for f in found]).T
    missed = math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    # P(no generated sample within the k nearest) is that of k real ones among the other n − 1 + m coming first
    for values, expected in ((density, 1.0), (coverage, 1 - missed)):
        assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / math.sqrt(repeats)
        assert values.std(ddof=1) / math.sqrt(repeats) < 0.02


def test_blocks_of_distances_change_nothing(monkeypatch):
    from latentgeo.train.scores import neighbours

    x, y = normal(70, 3), normal(50, 3, seed=1) + 0.5
    whole = scores.precision_recall(x, y), scores.density_coverage(x, y)
    monkeypatch.setattr(neighbours, "_MAX_BYTES", 8 * 70 * 7)
    assert (scores.precision_recall(x, y), scores.density_coverage(x, y)) == whole


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: scores.precision_recall(x, x, k=10), "k must be an integer of at least 1 and at most 9; got 10"),
        (lambda x: scores.density_coverage(x, x, k=0), "k must be an integer"),
        (lambda x: scores.precision_recall(x, x[:, :1]), "as many features; got 2 and 1"),
        (lambda x: scores.frechet_distance(x, x / 0), "generated must be finite"),
        (lambda x: scores.frechet_distance(x[:1], x), "real must hold at least two samples"),
        (lambda x: scores.frechet_distance(x, x, torch.nn.Dropout()), "train mode"),
        (lambda x: scores.frechet_distance(x, x, lambda v: v.sum()), "must map samples"),
        (lambda x: scores.inception_score(x.softmax(1), n_splits=11), "n_splits must be an integer"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(10, 2))


def test_a_score_names_its_features():
    x = normal(20, 4)
    assert scores.frechet_distance(x, x, Features("four pixels", lambda v: v)).features == "four pixels"
    assert scores.frechet_distance(x, x, torch.nn.Flatten().eval()).features == "an unnamed Flatten"
    score = scores.kernel_distance(x, x, Features("four pixels", lambda v: v))
    assert "on four pixels, 20 real, 20 generated" in repr(score)
    assert json.loads(json.dumps(score.to_dict()))["features"] == "four pixels"
    for name in scores.__all__:
        assert "fid" not in name.lower()


def test_numpy_and_tensors_give_the_same():
    x, y = normal(20, 3), normal(20, 3, seed=1)
    assert scores.frechet_distance(x, y) == scores.frechet_distance(x.numpy(), y.numpy())


# --- truncation


@pytest.mark.parametrize("threshold", [0.3, 1.0, 2.5])
def test_truncated_normal_has_its_law(threshold):
    z = scores.truncated_normal(20000, 1, threshold, dtype=torch.float64)
    assert float(z.abs().max()) <= threshold
    law = stats.truncnorm(-threshold, threshold)
    assert stats.kstest(z.flatten().numpy(), law.cdf).pvalue > 0.01
    variance = 1 - 2 * threshold * stats.norm.pdf(threshold) / (2 * stats.norm.cdf(threshold) - 1)
    assert float(z.var()) == pytest.approx(variance, rel=0.03)


def test_no_truncation_is_the_normal_law():
    z = scores.truncated_normal(20000, 1, math.inf, dtype=torch.float64)
    assert bool(torch.isfinite(z).all())
    assert stats.kstest(z.flatten().numpy(), stats.norm.cdf).pvalue > 0.01


def test_towards_the_mean():
    z = normal(10, 2)
    mean = (1.0, -1.0)
    found = scores.TowardsMean(mean).apply(z, 0.25)
    torch.testing.assert_close(found, 0.75 * torch.tensor(mean, dtype=z.dtype) + 0.25 * z)
    torch.testing.assert_close(scores.TowardsMean().apply(z, 1.0), z)
    with pytest.raises(ValueError, match="mean must have 2 entries; got 3"):
        scores.TowardsMean((0.0, 0.0, 0.0)).apply(z, 0.5)


@pytest.mark.parametrize("kind", [scores.Resample(), scores.TowardsMean()])
def test_truncation_trades_recall_for_precision(kind):
    """A generator that spreads too far: less of it looks real the less it is truncated, and more is reached."""
    real = normal(500, 2, seed=7)
    curve = scores.truncation_curve(lambda z: 5 * z.double(), real, (0.1, 0.5, 1.0), dim=2, truncation=kind)
    assert list(curve.precision) == sorted(curve.precision, reverse=True)
    # over ten other seeds: at least 0.958 and at most 0.562; at most 0.826 and at least 0.966
    assert curve.precision[0] > 0.93 > 0.65 > curve.precision[-1]
    assert curve.recall[0] < 0.87 < 0.94 < curve.recall[-1]
    assert curve.coverage[0] < curve.coverage[1]
    assert (curve.n_real, curve.n_generated) == (500, 500)


def test_truncation_of_a_decoder_and_its_errors():
    decoder = lg.wrap(torch.nn.Linear(2, 6).eval(), 2, "deterministic")
    curve = scores.truncation_curve(decoder, normal(30, 6), (0.5, 1.0), n=20)
    assert curve.n_generated == 20
    assert curve.levels == (0.5, 1.0)
    with pytest.raises(ValueError, match="dim must be given"):
        scores.truncation_curve(lambda z: z, normal(30, 6))
    with pytest.raises(ValueError, match="levels must be positive numbers"):
        scores.truncation_curve(decoder, normal(30, 6), (0.0, 1.0))
    with pytest.raises(ValueError, match="threshold must be positive"):
        scores.truncated_normal(10, 2, -1.0)


# --- features


@pytest.fixture(scope="module")
def digits():
    return lg.datasets.load_digits()


@pytest.fixture(scope="module")
def classifier(digits):
    held_out = (digits.data[1400:], digits.labels[1400:])
    return train_classifier(
        digits.data[:1400], digits.labels[:1400], digits.shape, dataset="digits", held_out=held_out, epochs=12
    )


def test_the_classifier_learns_and_its_features_see_what_is_missing(classifier, digits):
    net, made = classifier
    assert made["accuracy"] > 0.8  # 0.849 to 0.874 with five seeds; the error of 397 is 0.018
    features = Features.of(net, made)
    assert features.name.startswith("digits classifier, 64 features, ")
    real, other = digits.data[:700], digits.data[700:1400]
    few = other[digits.labels[700:1400] < 3]
    noise = torch.rand(700, 64, generator=generator())
    near, missing, far = (float(scores.frechet_distance(real, x, features)) for x in (other, few, noise))
    # five seeds: at most 0.113 and 0.055; inception 3.29–3.45 and 6.9–7.5; recall at most 0.50, at least 0.78
    assert near < 0.15 * missing
    assert near < 0.08 * far
    all_kinds, three_kinds = (float(scores.inception_score(x, features, n_splits=1)) for x in (other, few))
    assert 1 < three_kinds < 4 < 5 < all_kinds < 10
    alike, partial = scores.precision_recall(real, other, features), scores.precision_recall(real, few, features)
    assert partial.recall < 0.6 < 0.7 < alike.recall
    assert min(partial.precision, alike.precision) > 0.7


def test_features_come_back_from_a_file(classifier, digits, tmp_path):
    net, made = classifier
    save_features(net, made, tmp_path / "c.safetensors")
    again = load_features(tmp_path / "c.safetensors")
    assert again.name == Features.of(net, made).name
    assert torch.equal(again(digits.data[:9]), Features.of(net, made)(digits.data[:9]))
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_features(net, made, tmp_path / "c.pt")
    with pytest.raises(lg.CheckpointError, match="decoder"):
        lg.load(tmp_path / "c.safetensors")


def test_a_file_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(lg.CheckpointError, match="holds no classifier"):
        load_features(CHECKPOINTS / "digits-2d.safetensors")
    net = Classifier((8, 8), 10)
    net.arguments["width"] = 10**9
    save_features(net, {}, tmp_path / "huge.safetensors")
    with pytest.raises(lg.CheckpointError, match="width must be an integer from 1 to 1024"):
        load_features(tmp_path / "huge.safetensors")
    net.arguments["width"] = 8
    save_features(net, {}, tmp_path / "other.safetensors")
    with pytest.raises(lg.CheckpointError, match="do not fit"):
        load_features(tmp_path / "other.safetensors")


def test_training_is_reproducible_and_leaves_the_global_generator_alone(digits):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    nets = [
        train_classifier(digits.data[:200], digits.labels[:200], (8, 8), dataset="digits", epochs=1)[0]
        for _ in range(2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_command_writes_features(tmp_path, capsys):
    path = tmp_path / "digits.safetensors"
    script = runpy.run_path(str(CHECKPOINTS / "features" / "train.py"))
    script["main"](["digits", "--epochs", "1", "--out", str(path)])
    assert "held-out accuracy" in capsys.readouterr().out
    assert load_features(path).metadata["dataset"] == "digits"


def test_the_shipped_classifier():
    features = load_features(CHECKPOINTS / "features/mnist-classifier.safetensors")
    assert features.metadata["accuracy"] > 0.985
    assert features(torch.zeros(3, 784)).shape == (3, 64)
    assert features.probabilities(torch.zeros(3, 784)).shape == (3, 10)
