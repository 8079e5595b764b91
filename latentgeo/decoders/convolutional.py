"""Convolutional encoders and decoders for images: LeNet-5's plan, and ResNet-18's, in both directions.

LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition" (1998); He, Zhang, Ren, Sun,
"Deep residual learning" (CVPR 2016). Smooth activations and average pooling: geometry needs second derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from latentgeo.decoders._halving import Size, enlarged, sizes
from latentgeo.decoders.networks import _ACTIVATIONS, _sizes, register, transform_argument, transformed

_PLANS = ("lenet", "resnet")
_NORMS = ("batch", "group")
_MAX_CHANNELS = 4096
_MAX_SIDE = 4096
_MAX_NUMBERS = 2**28  # of the largest feature map of one datum: a GiB
_GROUPS = 8
_LEAST = {"lenet": 8, "resnet": 4}  # pixels that a side must have


class _Settings:
    """What encoders and decoders share: the plan's checked arguments, and sizes that follow from them."""

    def __init__(
        self,
        plan: str,
        shape: Sequence[int],
        latent_dim: int,
        width: int,
        activation: str,
        norm: str,
        blocks: int,
        what: str = "latent_dim",
    ) -> None:
        if plan not in _PLANS:
            raise ValueError(f"plan must be one of {', '.join(map(repr, _PLANS))}; got {str(plan)[:100]!r}")
        self.shape = _sizes(shape, at_least=2, name="shape")
        if len(self.shape) not in (2, 3) or max(self.shape) > _MAX_SIDE or min(self.shape[-2:]) < _LEAST[plan]:
            raise ValueError(
                f"shape must be (height, width) or (channels, height, width), sides from {_LEAST[plan]} to {_MAX_SIDE} "
                f"pixels, for the {plan} plan; got {tuple(self.shape)}"
            )
        for name, value, most in (
            (what, latent_dim, _MAX_SIDE),
            ("width", width, _MAX_CHANNELS // 8),
            ("blocks", blocks, 8),
        ):
            if type(value) is not int or not 0 < value <= most:
                raise ValueError(f"{name} must be an integer from 1 to {most}; got {str(value)[:100]}")
        _named("activation", activation)
        if norm not in _NORMS:
            raise ValueError(f"norm must be one of {', '.join(map(repr, _NORMS))}; got {str(norm)[:100]!r}")
        self.plan, self.latent_dim, self.width, self.activation = plan, latent_dim, width, activation
        self.norm, self.blocks = norm, blocks
        self.channels, self.height, self.side = ([1, *self.shape] if len(self.shape) == 2 else self.shape)[-3:]
        self.image = (self.channels, self.height, self.side)
        halvings = 2 if plan == "lenet" else 3
        #: heights and widths from the image down to the last feature map
        self.sizes = sizes((self.height, self.side), halvings)
        # weights of a few kilobytes could else ask for any amount of memory
        if (numbers := max(self.channels, width) * self.height * self.side) > _MAX_NUMBERS:
            raise ValueError(f"shape and width must leave at most {_MAX_NUMBERS} numbers in a layer; got {numbers}")

    def arguments(self) -> dict[str, Any]:
        return {
            "plan": self.plan,
            "shape": self.shape,
            "latent_dim": self.latent_dim,
            "width": self.width,
            "activation": self.activation,
            "norm": self.norm,
            "blocks": self.blocks,
        }

    def act(self) -> nn.Module:
        return _ACTIVATIONS[self.activation]()

    def normalised(self, channels: int) -> nn.Module:
        """BatchNorm (an affine map once in eval mode) or GroupNorm."""
        return nn.BatchNorm2d(channels) if self.norm == "batch" else nn.GroupNorm(math.gcd(channels, _GROUPS), channels)


def _named(name: str, activation: str, more: str = "") -> None:
    if activation not in _ACTIVATIONS:
        known = ", ".join(map(repr, _ACTIVATIONS))
        raise ValueError(f"{name} must be one of {known}{more}; got {str(activation)[:100]!r}")


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut, ResNet-18's basic block; `stride` 2 halves the image."""

    def __init__(self, n_in: int, n_out: int, stride: int, settings: _Settings) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            settings.normalised(n_out),
            settings.act(),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False),
            settings.normalised(n_out),
        )
        same = stride == 1 and n_in == n_out
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), settings.normalised(n_out))
        )
        self.act = settings.act()

    def forward(self, h: Tensor) -> Tensor:
        """Feature maps (B, C, H, W) to (B, C', H', W')."""
        result: Tensor = self.act(self.body(h) + self.shortcut(h))
        return result


class Enlarge(nn.Module):
    """Each pixel twice in both directions, cut to a size: the inverse of a halving that rounded up."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, *size)."""
        return enlarged(h, self.size)


@register
class ConvEncoder(nn.Module):
    """An image encoder x → (mean, std) of a diagonal Gaussian posterior.

    Parameters
    ----------
    plan : {"lenet", "resnet"}
        LeNet-5's (two 5×5 convolutions, each followed by average pooling, and two dense layers) or ResNet-18's (four
        stages of residual blocks, and the average over the image).
    shape : sequence of int
        Of an image: (height, width) or (channels, height, width).
    latent_dim : int
        d.
    width : int
        Channels of the first layer; LeNet doubles them once, ResNet three times.
    activation : str
        As for `MLP`.
    norm : {"batch", "group"}
        Normalisation of the ResNet plan.
    blocks : int
        Residual blocks per stage (2 in ResNet-18).
    transform : {"log1p"}, optional
        Applied to the data first.

    Raises
    ------
    ValueError
        If an argument is not what it must be, or the image is too small for the plan.

    Examples
    --------
    >>> import torch
    >>> mean, std = ConvEncoder("lenet", (28, 28), latent_dim=10, width=4)(torch.zeros(5, 784))
    >>> mean.shape, bool((std > 0).all())
    (torch.Size([5, 10]), True)
    """

    builder = "conv-encoder"

    def __init__(
        self,
        plan: str,
        shape: Sequence[int],
        latent_dim: int,
        width: int = 16,
        activation: str = "silu",
        norm: str = "batch",
        blocks: int = 2,
        transform: str | None = None,
    ) -> None:
        super().__init__()
        s = _Settings(plan, shape, latent_dim, width, activation, norm, blocks)
        self.arguments: dict[str, Any] = {**s.arguments(), **transform_argument(transform)}
        self.image, self.transform = s.image, transform
        self.trunk, features = _trunk(s)
        self.mean = nn.Linear(features, latent_dim)
        self.log_std = nn.Linear(features, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, D) or (B, *shape) to the posterior's mean and standard deviation, each (B, d)."""
        h = self.trunk(transformed(x.reshape(len(x), *self.image), self.transform))
        return self.mean(h), self.log_std(h).clamp(-20.0, 20.0).exp()


@register
class ConvDecoder(nn.Module):
    """An image decoder z → (B, *shape), the mirror of `ConvEncoder`.

    Parameters
    ----------
    plan, shape, latent_dim, width, activation, norm, blocks
        As for `ConvEncoder`.
    output : str, optional
        Applied to the last layer: one of the activations' names; None for none.

    Raises
    ------
    ValueError
        If an argument is not what it must be, or the image is too small for the plan.

    Examples
    --------
    >>> import torch
    >>> ConvDecoder("resnet", (3, 20, 17), latent_dim=5, width=4)(torch.zeros(2, 5)).shape
    torch.Size([2, 3, 20, 17])
    """

    builder = "conv-decoder"

    def __init__(
        self,
        plan: str,
        shape: Sequence[int],
        latent_dim: int,
        width: int = 16,
        activation: str = "silu",
        norm: str = "batch",
        blocks: int = 2,
        output: str | None = None,
    ) -> None:
        super().__init__()
        s = _Settings(plan, shape, latent_dim, width, activation, norm, blocks)
        if output is not None:
            _named("output", output, ", or None")
        self.arguments: dict[str, Any] = {**s.arguments(), "output": output}
        self.shape = tuple(s.shape)
        layers = _lenet_mirror(s) if plan == "lenet" else _resnet_mirror(s)
        self.layers = nn.Sequential(*layers, *([] if output is None else [_ACTIVATIONS[output]()]))

    def forward(self, z: Tensor) -> Tensor:
        """Codes (B, d) to images (B, *shape)."""
        result: Tensor = self.layers(z)
        return result.reshape(len(z), *self.shape)


@register
class ConvHead(nn.Module):
    """An image network x → (B, n) numbers: a classifier's logits, a critic's score. Arguments as for `ConvEncoder`.

    Examples
    --------
    >>> import torch
    >>> ConvHead("lenet", (8, 8), 10, width=4)(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 10])
    """

    builder = "conv-head"

    def __init__(
        self,
        plan: str,
        shape: Sequence[int],
        n_outputs: int,
        width: int = 16,
        activation: str = "silu",
        norm: str = "batch",
        blocks: int = 2,
    ) -> None:
        super().__init__()
        s = _Settings(plan, shape, n_outputs, width, activation, norm, blocks, "n_outputs")
        self.arguments: dict[str, Any] = {k: v for k, v in s.arguments().items() if k != "latent_dim"}
        self.arguments["n_outputs"] = n_outputs
        self.image = s.image
        self.trunk, features = _trunk(s)
        self.last = nn.Linear(features, n_outputs)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees: images (B, D) or (B, *shape) to (B, F)."""
        result: Tensor = self.trunk(x.reshape(len(x), *self.image))
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, D) or (B, *shape) to (B, n)."""
        result: Tensor = self.last(self.features(x))
        return result


def _trunk(s: _Settings) -> tuple[nn.Module, int]:
    """What makes features of an image, and how many."""
    return _lenet_trunk(s) if s.plan == "lenet" else _resnet_trunk(s)


def _lenet_trunk(s: _Settings) -> tuple[nn.Module, int]:
    w, (h, v) = s.width, s.sizes[-1]
    layers = [
        nn.Conv2d(s.channels, w, 5, padding=2), s.act(), nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(w, 2 * w, 5, padding=2), s.act(), nn.AvgPool2d(2, ceil_mode=True),
        nn.Flatten(), nn.Linear(2 * w * h * v, 8 * w), s.act(), nn.Linear(8 * w, 4 * w), s.act(),
    ]  # fmt: skip
    return nn.Sequential(*layers), 4 * w


def _lenet_mirror(s: _Settings) -> list[nn.Module]:
    w, (h, v) = s.width, s.sizes[-1]
    return [
        nn.Linear(s.latent_dim, 4 * w), s.act(), nn.Linear(4 * w, 8 * w), s.act(),
        nn.Linear(8 * w, 2 * w * h * v), s.act(), nn.Unflatten(1, (2 * w, h, v)),
        Enlarge(s.sizes[1]), nn.Conv2d(2 * w, w, 5, padding=2), s.act(),
        Enlarge(s.sizes[0]), nn.Conv2d(w, s.channels, 5, padding=2),
    ]  # fmt: skip


class _Average(nn.Module):
    """The mean over an image."""

    def forward(self, h: Tensor) -> Tensor:
        return h.mean((-2, -1))


def _resnet_trunk(s: _Settings) -> tuple[nn.Module, int]:
    w = s.width
    layers: list[nn.Module] = [nn.Conv2d(s.channels, w, 3, padding=1, bias=False), s.normalised(w), s.act()]
    channels = w
    for stage in range(4):
        for block in range(s.blocks):
            wanted = w * 2**stage
            layers.append(Block(channels, wanted, 2 if stage > 0 and block == 0 else 1, s))
            channels = wanted
    return nn.Sequential(*layers, _Average()), channels


def _resnet_mirror(s: _Settings) -> list[nn.Module]:
    w, (h, v) = s.width, s.sizes[-1]
    channels = 8 * w
    layers: list[nn.Module] = [nn.Linear(s.latent_dim, channels * h * v), nn.Unflatten(1, (channels, h, v))]
    for stage in range(3, -1, -1):
        for block in range(s.blocks):
            wanted = w * 2 ** max(0, stage - 1) if block == s.blocks - 1 else channels
            layers.append(Block(channels, wanted, 1, s))
            channels = wanted
        if stage > 0:
            layers.append(Enlarge(s.sizes[stage - 1]))
    return [*layers, nn.Conv2d(channels, s.channels, 3, padding=1)]


__all__ = ["ConvDecoder", "ConvEncoder", "ConvHead"]
