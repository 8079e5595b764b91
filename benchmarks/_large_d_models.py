"""Decoders of many latent dimensions for the benchmark of matrix-free geometry, and short trainings on MNIST."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import latentgeo as lg


class BasicBlock(nn.Module):
    """ResNet's basic block (He et al. 2016) run backwards: it can up-sample by two, and has a shortcut."""

    def __init__(self, inputs: int, outputs: int, scale: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=scale) if scale > 1 else nn.Identity()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(inputs),
            activation(),
            self.up,
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and scale == 1
        shortcut = (self.up, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if same else nn.Sequential(*shortcut)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class ResNetDecoder(nn.Module):
    """ResNet-18 mirrored: a linear layer to 4 × 4, four stages of two blocks, three of which up-sample, and a head.

    Codes (B, latent_dim) to images (B, 3, 32, 32) in [0, 1]; `width` multiplies the 64 to 512 channels.
    """

    def __init__(self, latent_dim: int = 256, width: float = 1.0, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        channels = [max(1, round(width * c)) for c in (512, 512, 256, 128, 64)]
        self.stem = nn.Sequential(
            nn.Linear(latent_dim, channels[0] * 16),
            nn.Unflatten(1, (channels[0], 4, 4)),
            nn.BatchNorm2d(channels[0]),
            activation(),
        )
        stages = []
        for k, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            stages += [
                BasicBlock(inputs, inputs, 1, activation),
                BasicBlock(inputs, outputs, 2 if k else 1, activation),
            ]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Conv2d(channels[-1], 3, 3, padding=1), nn.Sigmoid())

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(z)))


def resnet_encoder(latent_dim: int, width: float) -> nn.Module:
    """A small convolutional encoder of 32 × 32 × 3 images."""
    c = max(4, round(64 * width))
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((3, c, 2 * c, 4 * c, 8 * c)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * c * 4, 2 * latent_dim))


def train_vae(
    encoder: nn.Module,
    decoder: nn.Module,
    data: Tensor,
    *,
    epochs: int,
    seed: int = 0,
    batch: int = 128,
    rate: float = 1e-3,
) -> float:
    """Gaussian VAE with one variance, in closed form (σ-VAE, Rybkin et al. 2021); returns the last epoch's RMSE."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], rate)
    encoder.train()
    decoder.train()
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(data), generator=generator).split(batch):
            x = data[rows]
            mean, log_var = encoder(x).chunk(2, -1)
            log_var = log_var.clamp(-10, 10)
            noise = torch.randn(mean.shape, generator=generator)
            error = (decoder(mean + (0.5 * log_var).exp() * noise).flatten(1) - x.flatten(1)).square()
            divergence = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(-1).mean()
            loss = 0.5 * error.shape[-1] * error.mean().log() + divergence
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(error.detach().mean()) * len(rows)
    encoder.eval()
    decoder.eval().requires_grad_(False)
    return (total / len(data)) ** 0.5


def initialise(*modules: nn.Module, seed: int = 0) -> None:
    """Seeded weights, without touching the global random state."""
    generator = torch.Generator().manual_seed(seed)
    for module in modules:
        for part in module.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                fan = part.weight[0].numel()
                with torch.no_grad():
                    part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * (2 / fan) ** 0.5)
                    if part.bias is not None:
                        part.bias.zero_()


def mlp_vae(latent_dim: int = 32, *, epochs: int = 10, seed: int = 0) -> tuple[lg.Metric, Tensor, dict[str, float]]:
    """An MLP VAE on MNIST with RBF precision: its metric, codes of the test images, and facts about the training."""
    start = time.perf_counter()
    train = lg.datasets.load_mnist("train").data.flatten(1)
    test = lg.datasets.load_mnist("test").data.flatten(1)
    hidden = 256
    encoder = nn.Sequential(nn.Linear(784, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent_dim))
    decoder = nn.Sequential(
        nn.Linear(latent_dim, hidden // 2), nn.Tanh(), nn.Linear(hidden // 2, hidden), nn.Tanh(), nn.Linear(hidden, 784)
    )
    decoder.append(nn.Sigmoid())
    initialise(encoder, decoder, seed=seed)
    rmse = train_vae(encoder, decoder, train, epochs=epochs, seed=seed)
    with torch.no_grad():
        codes = encoder(train).chunk(2, -1)[0]
        held = encoder(test).chunk(2, -1)[0]
    wrapped = lg.wrap(decoder, latent_dim=latent_dim, likelihood="deterministic")
    fitted = lg.fit_precision(wrapped, codes[:20000], train[:20000], n_centers=64, random_state=seed, progress=False)
    facts = {"rmse": rmse, "seconds": time.perf_counter() - start, "code_std": float(codes.std(0).mean())}
    return lg.ExpectedMetric(fitted), held, facts


def random_resnet(latent_dim: int = 256, width: float = 1.0, seed: int = 0) -> ResNetDecoder:
    """Random weights; batch normalisation has the statistics of normal codes."""
    decoder = ResNetDecoder(latent_dim, width)
    initialise(decoder, seed=seed)
    for part in decoder.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        decoder.train()(torch.randn(32, latent_dim, generator=torch.Generator().manual_seed(seed)))
    return decoder.eval().requires_grad_(False)


def padded_mnist(split: str) -> Tensor:
    """MNIST as (N, 3, 32, 32)."""
    images = lg.datasets.load_mnist(split).data.reshape(-1, 1, 28, 28)
    return nn.functional.pad(images, (2, 2, 2, 2)).expand(-1, 3, -1, -1)


def trained_resnet(
    latent_dim: int = 256, width: float = 0.25, *, epochs: int = 1, seed: int = 0, cache: Path | None = None
) -> tuple[ResNetDecoder, Tensor, dict[str, float]]:
    """A VAE on padded MNIST: its decoder, codes of the test images, and facts about the training."""
    encoder, decoder = resnet_encoder(latent_dim, width), ResNetDecoder(latent_dim, width)
    initialise(encoder, decoder, seed=seed)
    facts: dict[str, float] = {}
    if cache is not None and cache.exists():
        stored = torch.load(cache, weights_only=True)
        encoder.load_state_dict(stored["encoder"])
        decoder.load_state_dict(stored["decoder"])
        facts = stored["facts"]
    else:
        start = time.perf_counter()
        facts["rmse"] = train_vae(encoder, decoder, padded_mnist("train"), epochs=epochs, seed=seed)
        facts["seconds"] = time.perf_counter() - start
        if cache is not None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            states = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "facts": facts}
            torch.save(states, cache)
    encoder.eval()
    decoder.eval().requires_grad_(False)
    with torch.no_grad():
        codes = torch.cat([encoder(part).chunk(2, -1)[0] for part in padded_mnist("test")[:1000].split(250)])
    return decoder, codes, facts
