"""Vector-quantised autoencoders: codebooks, networks, the prior over codes, training in two stages, files."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import latentgeo as lg
from latentgeo.decoders.code_prior import CodePrior
from latentgeo.decoders.networks import build
from latentgeo.decoders.quantised import VQDecoder, VQEncoder, nearest
from latentgeo.train import TrainData
from latentgeo.train.quantise import Codebook, CodebookLoss, MovingAverage, perplexity, straight_through

SMALL = {"width": 8, "code_dim": 3, "n_codes": 6, "halvings": 1, "blocks": 1}
TINY = lg.train.Transformer(width=16, layers=1, heads=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


# --- codebooks


def test_nearest_is_nearest():
    z, vectors = normal(4, 7, 3).double(), normal(5, 3, seed=1).double()
    expected = (z[..., None, :] - vectors).square().sum(-1).argmin(-1)
    assert torch.equal(nearest(z, vectors), expected)


def test_straight_through_hands_on_the_gradient():
    z = normal(6, 3).requires_grad_()
    chosen, weight = normal(6, 3, seed=1), normal(6, 3, seed=2)
    found = straight_through(z, chosen)
    torch.testing.assert_close(found, chosen)
    (found.sin() * weight).sum().backward()
    torch.testing.assert_close(z.grad, chosen.cos() * weight)


def test_perplexity_of_known_uses():
    assert float(perplexity(torch.arange(8).repeat(5), 8)) == pytest.approx(8, rel=1e-6)
    assert float(perplexity(torch.zeros(40, dtype=torch.int64), 8)) == 1
    uneven = torch.tensor([0, 0, 0, 5])
    assert float(perplexity(uneven, 8)) == pytest.approx(4 / 3**0.75, rel=1e-6)


def test_moving_averages_have_their_closed_form():
    book = Codebook(2, 2, MovingAverage(decay=0.8, epsilon=0.0), revive=0)
    book.start(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), generator())
    before = book.vectors.clone()
    z = torch.tensor([[2.0, 1.0], [4.0, 1.0], [-3.0, 0.0]])
    right = int(book(torch.tensor([[1.0, 0.0]])))
    steps = 5
    for _ in range(steps):
        book.update(z, torch.tensor([right, right, 1 - right]), generator())
    kept = 0.8**steps
    expected = torch.empty(2, 2)
    expected[right] = (kept * before[right] + (1 - kept) * z[:2].sum(0)) / (kept + (1 - kept) * 2)
    expected[1 - right] = kept * before[1 - right] + (1 - kept) * z[2]
    torch.testing.assert_close(book.vectors, expected)


def test_a_code_that_is_never_chosen_keeps_its_place_but_for_revival():
    z = normal(64, 2)
    for revive, moved in ((0.0, False), (0.1, True)):
        book = Codebook(3, 2, MovingAverage(decay=0.9), revive=revive)
        far = torch.tensor([0.0, 100.0])
        book.vectors.copy_(torch.stack([z[0], z[1], far]))
        book.total.copy_(book.vectors)
        for step in range(80):
            book.update(z, book(z), generator(step))
        assert bool((book.vectors[2, 1] < 50).item()) is moved
        used = book(z).unique()
        assert (2 in used) is moved
    # a revived code begins at a vector of the batch
    book = Codebook(2, 2, MovingAverage(decay=0.5), revive=0.4)
    book.vectors.copy_(torch.tensor([[0.0, 0.0], [0.0, 100.0]]))
    for _ in range(2):
        book.update(z, torch.zeros(64, dtype=torch.int64), generator())
    assert bool((book.vectors[1] == z).all(1).any())


def test_a_gradient_moves_codes_under_the_codebook_loss():
    book = Codebook(2, 2, CodebookLoss())
    z = normal(5, 2)
    indices = torch.tensor([0, 0, 1, 1, 1])
    (z - book.vectors[indices]).square().sum().backward()
    means = torch.stack([z[:2].sum(0), z[2:].sum(0)])
    torch.testing.assert_close(book.vectors.grad, 2 * (torch.tensor([[2.0], [3.0]]) * book.vectors.detach() - means))
    before = book.vectors.detach().clone()
    book.update(z, indices, generator())
    torch.testing.assert_close(book.vectors.detach(), before)  # no averages beside the gradient


@pytest.mark.parametrize("rule", [MovingAverage(), CodebookLoss()])
def test_both_rules_end_at_the_means_of_what_codes_stand_for(rule):
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    z = (centres[:, None] + normal(3, 20, 2)).flatten(0, 1)
    means = z.unflatten(0, (3, 20)).mean(1)
    book = Codebook(3, 2, rule)
    with torch.no_grad():
        book.vectors.copy_(centres + 1)
        book.total.copy_(book.vectors)
    book.count.fill_(1.0)
    for step in range(1200):
        indices = book(z)
        if isinstance(rule, CodebookLoss):
            (gradient,) = torch.autograd.grad((z - book.vectors[indices]).square().mean(), book.vectors)
            with torch.no_grad():
                book.vectors.sub_(gradient)
        book.update(z, indices, generator(step))
    torch.testing.assert_close(book.vectors.detach(), means, rtol=1e-3, atol=1e-3)


# --- the prior over codes


def prior(positions=(2, 3), n_codes=3, seed=0):
    torch.manual_seed(seed)
    net = CodePrior(list(positions), n_codes, width=16, layers=2, heads=2).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    return net


def everything(net):
    return torch.tensor(list(itertools.product(range(net.n_codes), repeat=sum(net.positions))))


def test_the_prior_is_a_distribution():
    net = prior()
    with torch.no_grad():
        p = (-net.nats(everything(net)).sum(1)).exp()
    assert float(p.sum()) == pytest.approx(1, rel=1e-12)
    assert float(p.max()) > 5 / len(p)  # and not the uniform one


def test_the_prior_sees_earlier_codes_alone():
    net = prior()
    codes = torch.tensor([[0, 1, 2, 0, 1]])
    with torch.no_grad():
        before = net(codes)
        for i in range(5):
            other = codes.clone()
            other[0, i] = (codes[0, i] + 1) % 3
            changed = (net(other) - before).abs().amax((0, 2))
            assert torch.equal(changed[: i + 1], torch.zeros(i + 1, dtype=torch.float64))
            assert bool((changed[i + 1 :] > 1e-4).all())


def test_samples_have_the_priors_law():
    net = prior((1, 2))
    codes = net.sample(20000, generator=generator())
    numbers = (codes * torch.tensor([9, 3, 1])).sum(1)
    counts = torch.bincount(numbers, minlength=27).numpy()
    with torch.no_grad():
        expected = (-net.nats(everything(net)).sum(1)).exp().numpy()
    assert stats.chisquare(counts, expected / expected.sum() * 20000).pvalue > 0.001
    assert stats.chisquare(counts).pvalue < 1e-6


def test_samples_read_codes_as_training_does():
    """At a temperature near zero each code is the likeliest given those before it."""
    net = prior((2, 3), n_codes=5)
    given = torch.tensor([[0, 4], [2, 2]])
    codes = net.sample(2, generator=generator(), temperature=1e-6, given=given)
    assert torch.equal(codes[:, :2], given)
    with torch.no_grad():
        assert torch.equal(net(codes)[:, 2:].argmax(-1), codes[:, 2:])


def test_bits_of_a_prior_that_knows_nothing_are_log2_of_k():
    net = prior((4, 6), n_codes=8)
    with torch.no_grad():
        for head in net.heads:
            head.weight.zero_()
            head.bias.zero_()
    codes = torch.randint(8, (10, 10), generator=generator())
    assert net.bits_per_code(codes) == pytest.approx([3, 3], rel=1e-6)


def test_the_prior_learns_that_the_bottom_repeats_the_top():
    """One top code, uniform over 4; the bottom's four repeat it with probability 0.9: 2 bits, and the entropy."""
    torch.manual_seed(0)
    net = CodePrior([1, 4], 4, width=16, layers=1, heads=2)
    source = generator()

    def draw(n):
        top = torch.randint(4, (n, 1), generator=source)
        other = torch.randint(4, (n, 4), generator=source)
        keep = torch.rand(n, 4, generator=source) < 0.9
        return torch.cat([top, torch.where(keep, top, other)], dim=1)

    adam = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(250):
        loss = net.nats(draw(64)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    p = np.array([0.925, 0.025, 0.025, 0.025])
    entropy = float(-(p * np.log2(p)).sum())
    top, bottom = net.eval().bits_per_code(draw(5000))
    assert top == pytest.approx(2, rel=0.01)
    # the mean of 20,000 codes has a standard error of 0.01 bits; five seeds came out at −0.010 to +0.014
    assert abs(bottom - entropy) < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": [4096, 4096, 1]}, "one or two levels"),
        ({"positions": [0]}, "positions must be an integer from 1 to 4096"),
        ({"n_codes": 2**20}, "n_codes must be an integer from 1 to 65536"),
        ({"width": 10, "heads": 4}, "width must be a multiple of heads"),
        ({"layers": 10**9}, "layers must be an integer from 1 to 64"),
        ({"width": True}, "width must be an integer"),
    ],
)
def test_a_prior_is_bounded(arguments, message):
    with pytest.raises(ValueError, match=message):
        CodePrior(**{"positions": [4], "n_codes": 4, **arguments})


def test_what_cannot_be_sampled():
    net = prior()
    with pytest.raises(ValueError, match="temperature must be positive"):
        net.sample(2, generator=generator(), temperature=0)
    with pytest.raises(ValueError, match=r"given must be of shape \(2, l\), l up to 5"):
        net.sample(2, generator=generator(), given=torch.zeros(3, 1, dtype=torch.int64))


# --- networks


@pytest.mark.parametrize(
    ("shape", "levels", "halvings", "grids"),
    [
        ((28, 28), 1, 2, [(7, 7)]),
        ((28, 28), 2, 2, [(4, 4), (7, 7)]),
        ((3, 9, 10), 2, 1, [(3, 3), (5, 5)]),
        ((1, 5, 2), 1, 3, [(1, 1)]),
    ],
)
def test_grids_of_any_image(shape, levels, halvings, grids):
    options = {**SMALL, "levels": levels, "halvings": halvings}
    encoder, decoder = VQEncoder(list(shape), **options), VQDecoder(list(shape), **options)
    assert encoder.grids == decoder.grids == grids
    z = encoder(normal(2, *shape))
    assert z.shape == (2, 3 * sum(math.prod(g) for g in grids)) == (2, decoder.latent_dim)
    assert decoder(z).shape == (2, *shape)


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    encoder, decoder = (kind([8, 8], **SMALL, levels=2).eval() for kind in (VQEncoder, VQDecoder))
    books = normal(2, 6, 3, seed=3)
    for net in (encoder, decoder):
        net.codebooks.copy_(books)
    return encoder, decoder


def test_codes_and_their_numbers(pair):
    _, decoder = pair
    indices = torch.randint(6, (5, 4 + 16), generator=generator())
    z = decoder.embed(indices)
    assert torch.equal(decoder.indices(z), indices)
    assert torch.equal(decoder.quantise(z), z)
    moved = z + 1e-3 * normal(*z.shape)
    assert torch.equal(decoder.quantise(moved), z)
    top, bottom = decoder.split(z)
    assert top.shape == (5, 3, 2, 2)
    assert bottom.shape == (5, 3, 4, 4)
    assert torch.equal(bottom[1, :, 2, 3], decoder.codebooks[1][indices[1, 4 + 2 * 4 + 3]])
    with pytest.raises(ValueError, match=r"indices must be of shape \(B, 20\)"):
        decoder.embed(indices[:, 1:])


def test_the_bottom_is_encoded_and_decoded_with_the_top(pair):
    encoder, decoder = pair
    with torch.no_grad():
        h = encoder.features(normal(1, 8, 8))
        chosen = [encoder.vectors(0, torch.full((1, 4), k)) for k in (0, 1)]
        assert not torch.allclose(encoder.bottom_grid(h, chosen[0]), encoder.bottom_grid(h, chosen[1]))
        z = normal(1, 60)
        other = torch.cat([z[:, :12] + 1, z[:, 12:]], dim=1)
        assert not torch.allclose(decoder(z), decoder(other))
        # and the encoder's own way from data to codes goes through the quantised top
        x = normal(1, 8, 8, seed=5)
        h, z = encoder.features(x), encoder(x)
        top = encoder.vectors(0, encoder.nearest(0, encoder.top_grid(h)))
        torch.testing.assert_close(z[:, 12:], encoder.bottom_grid(h, top).flatten(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": [2**40, 8]}, "shape must be an integer from 1 to 4096"),
        ({"shape": [8]}, r"shape must be \(height, width\)"),
        ({"shape": [4096, 4096], "halvings": 1}, "at most 4096 codes"),
        ({"shape": [4096, 4096, 4096], "halvings": 6}, "at most 268435456 numbers in a layer"),
        ({"width": 10**9}, "width must be an integer from 1 to 4096"),
        ({"n_codes": 1}, "n_codes must be an integer from 2"),
        ({"code_dim": "8"}, "code_dim must be an integer"),
        ({"levels": 3}, "levels must be an integer from 1 to 2"),
        ({"halvings": 99}, "halvings must be"),
        ({"blocks": -1}, "blocks must be"),
        ({"output": "exec"}, "output must be 'sigmoid' or None"),
        ({"prior": "big"}, "prior must be a mapping"),
        ({"prior": {"width": 10**9}}, "width must be an integer"),
        ({"prior": {"depth": 3}}, "do not fit it"),
    ],
)
def test_a_header_cannot_ask_for_too_much(arguments, message):
    with pytest.raises(ValueError, match=message):
        build("vq-decoder", {"shape": [8, 8], **SMALL, **arguments})


# --- training


@pytest.fixture(scope="module")
def data():
    digits = lg.datasets.load_digits()
    x, labels = digits.data.reshape(-1, 8, 8), digits.labels
    return TrainData(
        x[:1400], x[1400:1500], "digits", x[1400:], labels[:1400], labels[1400:], labels[1400:1500], "held out"
    )


def recipe(**changes):
    options = {**SMALL, "n_codes": 16, "width": 16, "prior": TINY, **changes}
    return lg.train.VQVAE(**options)


def steps(learner, data, n, first=0.0, last=1.0, batch=64, rate=3e-3):
    """Train by hand, without the loop."""
    optimizers = learner.optimizers(rate, n)
    source = generator(1)
    for i in range(n):
        progress = first + (last - first) * i / n
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * learner.rate(progress)
        rows = torch.randint(len(data.x), (batch,), generator=source)
        learner.training_step(data.x[rows], progress, optimizers, source)
    return learner


def make(data, seed=0, **changes):
    torch.manual_seed(seed)
    return recipe(**changes).learner(data, generator(seed))


@pytest.fixture(scope="module", params=[1, 2], ids=["flat", "hierarchy"])
def trained(request, data):
    learner = steps(make(data, levels=request.param), data, 360, rate=5e-3)
    return learner, learner.finish(data, generator())


def test_it_learns_to_reconstruct_with_many_codes_and_a_prior_below_log2_k(trained, data):
    learner, model = trained
    found = model.metadata["scores"]
    assert found["log2_n_codes"] == 4
    assert found["of"] == "data held out"
    assert found["n"] == 397
    variance = float((data.held_out - data.x.mean(0)).square().mean())
    # seven runs with other seeds: at most 0.34; 10.8 to 15.0; 2.30 to 2.66 bits
    assert found["squared_error"] < 0.4 * variance
    for name in learner.level_names:
        assert 8 < found[f"perplexity{name}"] <= 16
        assert 2 < found[f"bits_per_code{name}"] < 3
    assert found["bound"] == pytest.approx(found["distortion"] + found["rate"], abs=1e-5)


def test_scores_are_what_the_model_does(trained, data):
    learner, model = trained
    network, found = model.decoder.module, model.metadata["scores"]
    x = data.held_out
    with torch.no_grad():
        z = model.encode(x)
        again = network(network.quantise(z))
        assert float((again - x).square().mean()) == pytest.approx(found["squared_error"], rel=1e-4)
        indices = network.indices(z)
        nats = float(network.prior.nats(indices).sum(1).mean())
    assert nats == pytest.approx(found["rate"], rel=1e-4)
    bits = network.prior.bits_per_code(indices)
    for name, value in zip(learner.level_names, bits, strict=True):
        assert value == pytest.approx(found[f"bits_per_code{name}"], rel=1e-4)
    distortion = -lg.Gaussian(sigma=0.1).log_prob({"mean": again.flatten(1), "std": torch.tensor(0.1)}, x.flatten(1))
    assert float(distortion.mean()) == pytest.approx(found["distortion"], rel=1e-4)


def test_samples_of_the_prior_are_nearer_to_data_than_random_codes(trained, data):
    _, model = trained
    network = model.decoder.module
    drawn = network.sample(300, random_state=1)
    assert torch.equal(drawn, network.sample(300, random_state=1))
    uniform = torch.randint(16, (300, sum(network.positions)), generator=generator())
    with torch.no_grad():
        random = network(network.embed(uniform))
    near, far = (float(lg.train.scores.frechet_distance(data.held_out, x)) for x in (drawn, random))
    assert near < 0.25 * far  # seven runs with other seeds: at most 0.17


def test_a_file_carries_codebooks_and_prior(trained, tmp_path):
    _, model = trained
    lg.save(model, tmp_path / "vq.safetensors")
    again = lg.load(tmp_path / "vq.safetensors")
    assert torch.equal(again.codes, model.codes)
    assert torch.equal(again.decoder.module.sample(3), model.decoder.module.sample(3))
    x = normal(2, 8, 8)
    assert torch.equal(again.encode(x), model.encode(x))
    assert "before they are quantised" in again.metadata["geometry"]


def test_its_latent_space_has_a_geometry(trained):
    _, model = trained
    metric = lg.metric(model)
    z = model.codes[:2]
    tensor = metric.tensor(z)
    jacobian = torch.func.vmap(torch.func.jacfwd(lambda v: model.decoder.mean(v[None])[0]))(z)
    torch.testing.assert_close(tensor, jacobian.transpose(1, 2) @ jacobian, rtol=1e-4, atol=1e-5)


def test_the_stages_train_one_part_each(data):
    learner = make(data)
    first = {name: value.clone() for name, value in learner.state_dict().items()}
    steps(learner, data, 3, 0.0, 0.4)
    second = {name: value.clone() for name, value in learner.state_dict().items()}
    steps(learner, data, 3, 0.5, 1.0)
    third = learner.state_dict()
    for name in first:
        of_prior = ".prior." in name
        if name.endswith("codebooks"):
            continue
        assert torch.equal(first[name], second[name]) == of_prior or "offset" in name, name
        if not of_prior:
            assert torch.equal(second[name], third[name]), name
    assert any(not torch.equal(second[n], third[n]) for n in first if ".prior." in n)
    assert learner.warmup == 0.5
    assert learner.rate(0.0) == learner.rate(0.5) == 1.0
    assert learner.rate(0.4999) < 0.06


def test_the_loss_is_the_bound_and_what_holds_it_together(data):
    for rule in (lg.train.MovingAverage(), lg.train.CodebookLoss()):
        learner = make(data, codebook=rule)
        with torch.no_grad():
            found = learner.losses(data.x[:50], 0.0, generator())
        expected = found["distortion"] + found["rate"] + 0.25 * found["commitment"]
        if isinstance(rule, lg.train.CodebookLoss):
            expected = expected + found["codebook"]
            assert float(found["codebook"]) == pytest.approx(float(found["commitment"]), rel=1e-5)
        torch.testing.assert_close(found["loss"], expected)
        # an untrained prior is not asked: every code costs log K
        assert float(found["rate"]) == pytest.approx(16 * math.log(16), rel=1e-6)
        assert float(found["bits_per_code"]) == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize("codebook", [lg.train.MovingAverage(), lg.train.CodebookLoss()], ids=["average", "loss"])
def test_both_rules_train_without_a_prior_too(data, codebook):
    learner = make(data, codebook=codebook, prior=None, levels=2)
    with torch.no_grad():
        before = learner.losses(data.x[:200], 1.0, generator())
    steps(learner, data, 60, batch=32, rate=5e-3)
    with torch.no_grad():
        found = learner.losses(data.x[:200], 1.0, generator())
    assert float(found["squared_error"]) < 0.4 * float(before["squared_error"])  # other runs: 0.20 to 0.29
    assert learner.warmup == 0
    model = learner.finish(data, generator())
    assert model.metadata["scores"]["bits_per_code_top"] == pytest.approx(4, rel=1e-5)
    with pytest.raises(ValueError, match="no prior over its codes"):
        model.decoder.module.sample(2)


def test_binary_data_under_bernoulli(data):
    binary = TrainData((data.x > 0.5).float(), (data.stored > 0.5).float(), "bits")
    learner = steps(make(binary, likelihood="bernoulli"), binary, 60)
    model = learner.finish(binary, generator())
    assert model.metadata["scores"]["of"] == "training data"
    # grey images cost 64 log 2 = 44.4 nats; five runs with other seeds came to 23.3 to 28.4
    assert model.metadata["scores"]["distortion"] < 0.75 * 64 * math.log(2)
    assert isinstance(lg.metric(model), lg.FisherRaoMetric)
    with torch.no_grad():
        drawn = model.decoder.mean(model.codes)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1


def test_training_starts_at_the_datas_mean_with_signals_of_some_size(data):
    """A decoder that starts grey on black data goes black and stays there: its codes are never used."""
    learner = make(data, blocks=2)
    torch.testing.assert_close(learner.decoder.up[-1].bias.sigmoid(), data.x.mean().reshape(1))
    colour = TrainData(normal(50, 3, 8, 8) + torch.tensor([1.0, 2.0, 3.0])[:, None, None], normal(2, 3, 8, 8), "colour")
    torch.testing.assert_close(make(colour).decoder.up[-1].bias, colour.x.mean((0, 2, 3)))
    with torch.no_grad():
        found = learner.losses(data.x, 0.0, generator())
        z = learner.encoder(data.x)
    assert float(z.std()) > 0.1  # torch's own start leaves a hundredth
    assert float(found["squared_error"]) < 2 * float(data.x.var())


def test_the_same_seed_gives_the_same_weights(data):
    a, b, c = (steps(make(data, seed=seed), data, 6).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_data_that_have_no_grid_are_refused(data):
    flat = TrainData(normal(20, 64), normal(5, 64), "rows")
    with pytest.raises(ValueError, match=r"data must be images.*got \(64,\)"):
        make(flat)
    with pytest.raises(ValueError, match="grey values"):
        make(data, likelihood="bernoulli")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_codes": 1}, "n_codes must be an integer from 2"),
        ({"levels": 3}, "levels must be"),
        ({"halvings": 0}, "halvings must be"),
        ({"likelihood": lg.Gaussian()}, r"likelihood must be Gaussian\(sigma=...\) or Bernoulli"),
        ({"likelihood": "poisson"}, "likelihood must be"),
        ({"commitment": -1.0}, "commitment must not be negative"),
        ({"revive": 1.0}, "below 1 for revive"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        lg.train.VQVAE(**options)


def test_options_of_the_wrong_kind_are_named():
    with pytest.raises(TypeError, match="codebook must be"):
        lg.train.VQVAE(codebook="average")
    with pytest.raises(TypeError, match="prior must be"):
        lg.train.VQVAE(prior={"width": 8})
    for options in ({"share": 0.0}, {"share": 1.0}, {"weight_decay": -1.0}, {"width": 10, "heads": 4}):
        with pytest.raises(ValueError, match=r"must be (between|finite|a multiple)"):
            lg.train.Transformer(**options)
    with pytest.raises(ValueError, match="decay must be between"):
        lg.train.MovingAverage(decay=1.0)
    with pytest.raises(ValueError, match="epsilon must be"):
        lg.train.MovingAverage(epsilon=-1.0)
    with pytest.raises(ValueError, match="decay must be between"):
        lg.train.CodebookLoss(decay=0.0)


# --- through fit, and from the command line


class Kill(Exception):
    pass


def test_kill_and_resume_gives_the_same_weights(data, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Killer(lightning.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 3:  # in the prior's half
                raise Kill

    few = TrainData(data.x[:200], data.stored[:5], "digits", data.held_out[:20])
    options = {"epochs": 4, "batch_size": 50, "progress": False, "curves": False}
    paths = [tmp_path / f"{name}.safetensors" for name in ("whole", "killed")]
    whole = lg.train.fit(recipe(levels=2), few, out=paths[0], **options)
    with pytest.raises(Kill):
        lg.train.fit(recipe(levels=2), few, out=paths[1], trainer={"callbacks": [Killer()]}, **options)
    assert not paths[1].exists()
    again = lg.train.fit(recipe(levels=2), few, out=paths[1], **options)
    a, b = (result.model.decoder.module.state_dict() for result in (whole, again))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len(again.history) == 4
    assert again.history[-1]["held_out_loss"] == whole.history[-1]["held_out_loss"]
    assert again.model.metadata["kind"] == "vqvae"
    assert again.scores == whole.scores


def test_the_command(tmp_path):
    pytest.importorskip("lightning.pytorch")
    from commands import run

    out = tmp_path / "vq.safetensors"
    small = ["--codebook-size", "8", "--code-dim", "2", "--width", "8", "--halvings", "1", "--blocks", "0"]
    small += ["--epochs", "1", "--prior-width", "8", "--prior-layers", "1", "--levels", "2"]
    result = run("train", "vqvae", "--data", "digits", "--out", str(out), *small)
    assert "bits per code top" in result.stdout
    assert lg.load(out).decoder.module.sample(2).shape == (2, 8, 8)
