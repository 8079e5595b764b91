"""f-divergences and their bounds, adversarial losses, spectral norms, inversion of generators, and the GAN learner."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.testing import assert_close

import latentgeo as lg
from latentgeo.decoders import MLP
from latentgeo.train import (
    FGAN,
    GAN,
    KL,
    Dense,
    JensenShannon,
    NonSaturating,
    PearsonChi2,
    ReverseKL,
    TotalVariation,
    WassersteinGP,
    gradient_penalty,
    invert,
    normalise_spectrally,
)
from latentgeo.train.adversarial import AdversarialLoss
from latentgeo.train.divergences import as_divergence
from latentgeo.train.gan import GANLearner, SpectralNorm, output_for

DIVERGENCES = [KL(), ReverseKL(), JensenShannon(), PearsonChi2(), TotalVariation()]
SMOOTH = DIVERGENCES[:4]
GAP, WIDTH = 0.8, 1.3  # N(0, 1) against N(GAP, 1), and against N(GAP, WIDTH²)

x_grid, dx = torch.linspace(-14, 14, 4001, dtype=torch.float64), 28 / 4000


def normal(mean: float, std: float = 1.0) -> torch.Tensor:
    return -0.5 * ((x_grid - mean) / std).square() - math.log(std * math.sqrt(2 * math.pi))


def expectation(log_p: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * values).sum() * dx


def bound_of(divergence, log_p, log_q, v):
    t = divergence.activation(v)
    return expectation(log_p, t) - expectation(log_q, divergence.conjugate_activation(v))


def known(divergence) -> float:
    """Closed forms between N(0, 1) and N(GAP, 1), where there are any; quadrature by SciPy for Jensen–Shannon."""
    if isinstance(divergence, (KL, ReverseKL)):
        return GAP**2 / 2
    if isinstance(divergence, PearsonChi2):
        return math.expm1(GAP**2)
    if isinstance(divergence, TotalVariation):
        return math.erf(GAP / (2 * math.sqrt(2)))
    p, q = stats.norm(0, 1).pdf, stats.norm(GAP, 1).pdf

    def halves(x):
        m = (p(x) + q(x)) / 2
        return p(x) * math.log(p(x) / m) + q(x) * math.log(q(x) / m)

    return integrate.quad(halves, -12, 12, epsabs=1e-12)[0]


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.name)
def test_the_best_critic_attains_the_known_divergence_between_gaussians(divergence):
    log_p, log_q = normal(0.0), normal(GAP)
    t = divergence.derivative((log_p - log_q).exp())
    bound = expectation(log_p, t) - expectation(log_q, divergence.conjugate(t))
    # the total variation's integrand has a kink, where the trapezoid rule is of second order
    tolerance = 1e-5 if isinstance(divergence, TotalVariation) else 1e-10
    assert_close(bound.item(), known(divergence), rtol=0, atol=tolerance)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.name)
def test_every_critic_stays_below_it(divergence):
    log_p, log_q = normal(0.0), normal(GAP)
    generator = torch.Generator().manual_seed(0)
    best = known(divergence)
    found = []
    for _ in range(200):
        a, b, c, s = torch.randn(4, generator=generator, dtype=torch.float64)
        found.append(float(bound_of(divergence, log_p, log_q, 0.5 * a + b * x_grid.sin() + c * (s * x_grid).tanh())))
    assert max(found) < best
    assert max(found) > 0  # some of them learned something


@pytest.mark.parametrize("divergence", [KL(), ReverseKL(), JensenShannon()], ids=lambda d: d.name)
def test_ascending_the_bound_finds_the_divergence(divergence):
    """Between Gaussians the best v is a quadratic, so that ascent over quadratics must reach the divergence itself."""
    log_p, log_q = normal(0.0), normal(GAP, WIDTH)
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    powers = torch.stack([torch.ones_like(x_grid), x_grid, x_grid.square()])
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -bound_of(divergence, log_p, log_q, weights @ powers)
        loss.backward()
        return loss

    optimizer.step(closure)
    u = (log_p - log_q).exp()
    exact = expectation(log_q, divergence.f(u))
    if isinstance(divergence, KL):
        closed = math.log(WIDTH) + (1 + GAP**2) / (2 * WIDTH**2) - 0.5
        assert_close(exact.item(), closed, rtol=0, atol=1e-10)
    assert_close(-closure().item(), exact.item(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.name)
def test_conjugates_are_those_of_f(divergence):
    u = torch.logspace(-3, 3, 200, dtype=torch.float64)
    t = divergence.derivative(u)
    if not isinstance(divergence, TotalVariation):
        assert_close(divergence.conjugate(t), u * t - divergence.f(u), rtol=1e-9, atol=1e-9)
    # Fenchel–Young: u·t − f(u) ≤ f*(t) for every u and t of the domain, with equality for the best u
    v = torch.linspace(-2, 2, 41, dtype=torch.float64)
    t = divergence.activation(v)
    fine = torch.logspace(-4, 3, 40_001, dtype=torch.float64)
    sup = (fine[:, None] * t - divergence.f(fine)[:, None]).amax(0)
    assert (sup <= divergence.conjugate(t) + 1e-9).all()
    assert_close(sup, divergence.conjugate(t), rtol=0, atol=1e-3)
    assert divergence.f(torch.ones((), dtype=torch.float64)).item() == 0


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.name)
def test_activations_stay_in_the_conjugates_domain_and_do_not_overflow(divergence):
    v = torch.linspace(-30, 30, 401, dtype=torch.float64)
    assert (divergence.activation(v).diff() >= 0).all()
    inside = v.abs() < 10
    assert_close(
        divergence.conjugate_activation(v)[inside],
        divergence.conjugate(divergence.activation(v))[inside],
        rtol=1e-7,
        atol=1e-7,
    )
    assert divergence.conjugate_activation(v).isfinite().all()


def test_names_of_divergences():
    assert [as_divergence(d.name) for d in DIVERGENCES] == DIVERGENCES
    assert FGAN("kl").divergence == KL()
    with pytest.raises(ValueError, match="divergence must be one of 'kl'"):
        FGAN("hellinger")


def test_non_saturating_is_the_first_gans_game():
    real, fake = torch.randn(2, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cross = nn.BCEWithLogitsLoss()
    as_classifier = cross(real, torch.ones_like(real)) + cross(fake, torch.zeros_like(fake))
    assert_close(NonSaturating().estimate(real, fake), 2 * math.log(2) - as_classifier)
    assert_close(NonSaturating().generator_loss(fake), cross(fake, torch.ones_like(fake)))
    assert_close(FGAN("jensen-shannon").estimate(real, fake), NonSaturating().estimate(real, fake))


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.name)
def test_both_losses_of_a_generator_raise_the_critics_output(divergence):
    for saturating in (False, True):
        v = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        FGAN(divergence, saturating=saturating).generator_loss(v).backward()
        assert (v.grad < 0).all()


def test_gradient_penalty_by_hand():
    """A network of one tanh layer: the gradient in x is W₁ᵀ((1 − tanh²)·w₂)."""
    generator = torch.Generator().manual_seed(0)
    w1, b1 = torch.randn(7, 3, generator=generator).double(), torch.randn(7, generator=generator).double()
    w2 = torch.randn(7, generator=generator).double().requires_grad_()
    x = torch.randn(11, 3, generator=generator).double()

    def critic(x):
        return torch.tanh(x @ w1.T + b1) @ w2

    slope = ((1 - torch.tanh(x @ w1.T + b1).square()) * w2) @ w1
    by_hand = (slope.norm(dim=1) - 1).square().mean()
    penalty = gradient_penalty(critic, x)
    assert_close(penalty, by_hand)
    assert_close(torch.autograd.grad(penalty, w2)[0], torch.autograd.grad(by_hand, w2)[0])
    assert torch.autograd.gradcheck(
        lambda w: gradient_penalty(lambda x: torch.tanh(x @ w1.T + b1) @ w, x), w2.detach().requires_grad_()
    )


def test_the_penalty_is_taken_between_real_and_generated_data():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    real, fake = torch.zeros(64, 2, 3), torch.ones(64, 2, 3)
    loss = WassersteinGP(penalty=3.0)
    found = loss.regulariser(critic, real, fake, torch.Generator().manual_seed(0))
    assert_close(found, torch.tensor(3.0 * (math.sqrt(6) - 1) ** 2))
    between = seen[0].flatten(1)
    assert (between.std(1) < 1e-6).all()  # one share for a whole datum
    assert 0 < between.min() < 0.2
    assert 0.8 < between.max() < 1


def test_a_critic_of_no_slope_has_a_finite_gradient():
    w = torch.zeros(2, requires_grad=True)
    gradient_penalty(lambda x: x @ w, torch.randn(4, 2)).backward()
    assert w.grad.isfinite().all()


@pytest.mark.parametrize("norm", [1.0, 2.5])
def test_spectral_norms_agree_with_the_singular_values(norm):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 6, 3), nn.SiLU(), nn.Flatten(), nn.Linear(6 * 9, 5)).double()
    before = [layers[i].weight.detach().clone() for i in (0, 3)]
    normalise_spectrally(layers, norm)
    with torch.no_grad():
        for _ in range(300):  # one power iteration each
            layers(torch.zeros(1, 2, 5, 5, dtype=torch.float64))
    for i, weight in zip((0, 3), before, strict=True):
        matrix = layers[i].weight.detach().flatten(1)
        assert_close(torch.linalg.svdvals(matrix)[0].item(), norm, rtol=1e-6, atol=0)
        exact = weight.flatten(1) * (norm / torch.linalg.svdvals(weight.flatten(1))[0])
        assert_close(matrix, exact, rtol=1e-5, atol=1e-8)


def test_stacked_matrices_are_each_normalised():
    torch.manual_seed(0)
    weight = torch.randn(4, 6, 5, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1, 3.0]).double()[:, None, None]
    spectral = SpectralNorm(weight, 1.5, stacked=True)
    for _ in range(300):
        held = spectral(weight)
    assert_close(torch.linalg.svdvals(held)[:, 0], torch.full((4,), 1.5).double(), rtol=1e-6, atol=0)


def test_a_spectrally_normalised_critic_is_lipschitz():
    torch.manual_seed(0)
    learner = GANLearner(GAN(2, Dense((32, 32), "relu"), spectral_norm=1.0), (2,))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(200):
            learner.score(torch.zeros(1, 2))
    x, y = 3 * torch.randn(2, 500, 2, generator=generator)
    with torch.no_grad():
        slope = (learner.score(x) - learner.score(y)).abs() / (x - y).norm(dim=1)
    assert slope.max() <= 1 + 1e-4


def steps_of(recipe: GAN, n: int, seed: int = 0, learning_rate: float = 1e-3) -> GANLearner:
    torch.manual_seed(seed)
    learner = GANLearner(recipe, (2,))
    optimizers = learner.optimizers(learning_rate, n)
    generator = torch.Generator().manual_seed(seed)
    for k in range(n):
        learner.training_step(torch.randn(32, 2, generator=generator) + 3, k / n, optimizers, generator)
    return learner


@pytest.mark.parametrize(
    "loss", [NonSaturating(), WassersteinGP(n_critic=2), *(FGAN(d) for d in DIVERGENCES)], ids=repr
)
def test_generators_move_to_the_data(loss):
    learner = steps_of(GAN(2, Dense((16,), "silu"), loss=loss, average=0.0), 300, learning_rate=3e-3)
    generator = torch.Generator().manual_seed(1)
    sample = learner.sample(2000, generator).detach()
    assert sample.isfinite().all()
    assert (sample.mean(0) - 3).norm() < 2.0  # from the origin, 4.2 away
    assert set(learner.losses(sample, 1.0, generator)) == {"loss", "generator"}


def test_the_generator_takes_a_step_after_each_n_critic():
    learner = steps_of(GAN(2, Dense((8,), "silu"), loss=WassersteinGP(n_critic=3)), 0)
    optimizers = learner.optimizers(1e-3, 10)
    generator = torch.Generator().manual_seed(0)
    moved = []
    for _ in range(6):
        before = [p.detach().clone() for p in learner.generator.parameters()]
        learner.training_step(torch.randn(8, 2, generator=generator), 0.0, optimizers, generator)
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, learner.generator.parameters(), strict=True)))
    assert moved == [False, False, True, False, False, True]
    assert all(p.requires_grad for p in learner.critic.parameters())


def test_a_learner_goes_on_from_its_state():
    """Steps counted, running average and spectral vectors are all in the state dict."""
    recipe = GAN(2, Dense((8,), "silu"), loss=WassersteinGP(n_critic=3), spectral_norm=1.0)
    learner = steps_of(recipe, 7)
    again = GANLearner(recipe, (2,))
    again.load_state_dict(learner.state_dict())
    assert again.steps == 7
    a, b = learner.optimizers(1e-3, 1), again.optimizers(1e-3, 1)
    for _ in range(5):
        x = torch.randn(16, 2)
        learner.training_step(x, 0.0, a, torch.Generator().manual_seed(3))
        again.training_step(x, 0.0, b, torch.Generator().manual_seed(3))
    for name, value in learner.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_same_seed_gives_the_same_weights_and_the_average_lags():
    recipe = GAN(2, Dense((8,), "silu"), average=0.9)
    a, b = steps_of(recipe, 20), steps_of(recipe, 20)
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    gap = [(p - q).abs().max().item() for p, q in zip(a.average.parameters(), a.generator.parameters(), strict=True)]
    assert max(gap) > 0
    without = steps_of(GAN(2, Dense((8,), "silu"), average=0.0), 20)
    for p, q in zip(without.average.parameters(), without.generator.parameters(), strict=True):
        assert torch.equal(p, q)


def test_outputs_follow_the_data():
    assert output_for("auto", torch.rand(5, 2)) == "sigmoid"
    assert output_for("auto", torch.randn(50, 2)) is None
    assert output_for("tanh", torch.rand(5, 2)) == "tanh"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be an integer of at least 1"),
        ({"loss": "wasserstein"}, "loss must be NonSaturating"),
        ({"betas": (0.5, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
        ({"average": 1.0}, r"average must be in \[0, 1\)"),
        ({"spectral_norm": 0.0}, "spectral_norm must be positive"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GAN(**options)


def test_a_penalised_critic_sees_each_datum_on_its_own():
    """With BatchNorm the slope at one datum would be a function of all."""
    recipe = GAN(2, lg.train.ResNet(width=8, blocks=1), loss=WassersteinGP())
    learner = GANLearner(recipe, (8, 8))
    x = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0))
    other = torch.cat([x[:1], 5 * x[1:]])
    assert_close(learner.score(x)[0], learner.score(other)[0])
    assert GAN(2, lg.train.ResNet(width=8)).critic is None  # no penalty, no change
    with pytest.raises(ValueError, match="critic must not have BatchNorm"):
        GAN(2, critic=lg.train.ResNet(), loss=WassersteinGP())


def test_a_gan_does_not_stop_where_its_critic_is_weakest():
    with pytest.raises(ValueError, match="patience must be None for the kind 'gan'"):
        lg.train.fit(GAN(), "digits", epochs=2, patience=1, progress=False)


def test_losses_refuse_bad_options():
    with pytest.raises(ValueError, match="penalty must be positive"):
        WassersteinGP(penalty=-1.0)
    with pytest.raises(ValueError, match="n_critic must be a positive integer"):
        NonSaturating(n_critic=0)
    assert all(isinstance(loss, AdversarialLoss) for loss in (NonSaturating(), WassersteinGP(), FGAN()))


def test_inversion_of_a_linear_generator_is_ridge_regression():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(6, 3, generator=generator).double()
    decoder = lg.wrap(nn.Linear(3, 6, bias=False).double().eval(), 3, "deterministic")
    with torch.no_grad():
        decoder.module.weight.copy_(A)
    x = torch.randn(9, 6, generator=generator).double()
    for weight in (0.0, 0.7):
        found = invert(decoder, x, prior_weight=weight, rtol=1e-14, n_steps=60)
        exact = torch.linalg.solve(A.T @ A + weight * torch.eye(3).double(), A.T @ x.T).T
        assert_close(found.codes, exact, rtol=1e-6, atol=1e-8)
        assert_close(found.error, (x - exact @ A.T).square().mean(1), rtol=1e-6, atol=1e-10)
        assert found.converged.all()


def test_inversion_finds_codes_again():
    torch.manual_seed(0)
    decoder = lg.wrap(MLP([2, 32, 20]).double().eval(), 2, "deterministic")
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = invert(decoder, decoder.mean(z).detach())
    assert found.mse < 1e-10
    assert_close(found.codes, z, rtol=0, atol=1e-3)
    assert "50 codes" in repr(found)


def test_more_starts_are_never_worse():
    decoder = lg.wrap(lambda z: torch.cat([(3 * z).sin(), z.square() / 4], -1), 1, "deterministic")
    x = torch.tensor([[0.3, 0.8], [-0.9, 0.1], [0.0, 2.0]])
    few, many = invert(decoder, x, n_starts=1), invert(decoder, x, n_starts=16)
    assert (many.error <= few.error + 1e-6).all()
    fine = torch.linspace(-4, 4, 200_001)[:, None]
    best = torch.cdist(x, decoder.mean(fine)).amin(1).square() / 2
    assert_close(many.error, best, rtol=0, atol=1e-5)


def test_inversion_says_what_is_wrong():
    decoder = lg.wrap(nn.Tanh().eval(), 2, "deterministic")
    with pytest.raises(ValueError, match=r"x must be a tensor of shape \(N, 2\)"):
        invert(decoder, torch.zeros(3, 5))
    with pytest.raises(ValueError, match="x must be finite; 1 of its entries"):
        invert(decoder, torch.tensor([[0.0, torch.nan]]))
    with pytest.raises(ValueError, match="n_starts must be a positive integer"):
        invert(decoder, torch.zeros(3, 2), n_starts=0)
    with pytest.raises(TypeError, match="model must be"):
        invert(nn.Tanh(), torch.zeros(3, 2))


@pytest.mark.filterwarnings("ignore:edges between neighbouring codes")  # of a generator that has hardly learned
def test_a_trained_gan_is_a_model_like_any_other(tmp_path):
    recipe = GAN(2, Dense((24,), "silu"), loss=WassersteinGP(n_critic=2), n_centers=8, encoder_steps=60)
    path = tmp_path / "gan.safetensors"
    result = lg.train.fit(recipe, "digits", epochs=2, batch_size=256, out=path, progress=False, curves=False)
    model = lg.load(path)
    assert model.decoder.precision is not None
    assert model.decoder.data_shape == (8, 8)
    assert model.codes.shape == (1797, 2)
    assert model.labels.shape == (1797,)
    scores = model.metadata["scores"]
    assert scores == result.scores
    assert scores["inverted"] == 180
    assert model.codes.norm(dim=1).max() < 6  # likeliest codes under N(0, I), not just nearest
    x = lg.datasets.load_digits().data[:20]
    assert_close(invert(model, x).codes, invert(result.model, x).codes)
    assert lg.distance(lg.metric(model), model.codes[0], model.codes[1]) > 0
