"""Network families as frozen values: what a recipe takes to build an encoder and a decoder for any data shape.

`Dense` is a multi-layer perceptron, `LeNet` follows LeCun et al. 1998, `ResNet` He et al. 2016 (arXiv:1512.03385), each
in both directions. Activations are smooth by default: curvature and certificates need second derivatives.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

from torch import nn

from latentgeo.decoders.convolutional import ConvDecoder, ConvEncoder, ConvHead
from latentgeo.decoders.networks import MLP, MLPEncoder

Shape = tuple[int, ...]


class Network(abc.ABC):
    """A family of networks, in both directions."""

    @abc.abstractmethod
    def encoder(self, shape: Shape, latent_dim: int, transform: str | None = None) -> nn.Module:
        """X (B, *shape) or (B, D) → mean and std of the posterior, each (B, d). `transform`: of the data first."""

    @abc.abstractmethod
    def decoder(self, latent_dim: int, shape: Shape, output: str | None = None) -> nn.Module:
        """Z (B, d) → (B, *shape), after an `output` activation ("sigmoid", "softplus", …) or none."""

    @abc.abstractmethod
    def head(self, shape: Shape, n_outputs: int) -> nn.Module:
        """X (B, *shape) → (B, n_outputs): a classifier's logits, a critic's score."""


@dataclass(frozen=True)
class Dense(Network):
    """Multi-layer perceptrons; the decoder's hidden widths are the encoder's in reverse.

    Parameters
    ----------
    hidden : tuple of int
        Widths from the data side to the latent side, at least one.
    activation : str
        "tanh", "softplus", "gelu", "silu", "elu", "relu" or "sigmoid".

    Raises
    ------
    TypeError
        If `hidden` is no sequence.
    ValueError
        If it is empty; of a width or an activation that is none, when a network is built.

    Examples
    --------
    >>> import torch
    >>> Dense(hidden=(32,)).decoder(2, (8, 8))(torch.zeros(5, 2)).shape
    torch.Size([5, 8, 8])
    """

    hidden: tuple[int, ...] = (64, 32)
    activation: str = "tanh"

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, (list, tuple)):
            raise TypeError(f"hidden must be a sequence of widths, such as (64, 32); got {self.hidden!r}")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not self.hidden:
            raise ValueError("hidden must name at least one width; got none")

    def encoder(self, shape: Shape, latent_dim: int, transform: str | None = None) -> nn.Module:
        return MLPEncoder([math.prod(shape), *self.hidden, latent_dim], self.activation, transform)

    def decoder(self, latent_dim: int, shape: Shape, output: str | None = None) -> nn.Module:
        return MLP([latent_dim, *self.hidden[::-1], math.prod(shape)], self.activation, output, shape)

    def head(self, shape: Shape, n_outputs: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), MLP([math.prod(shape), *self.hidden, n_outputs], self.activation))


@dataclass(frozen=True)
class LeNet(Network):
    """LeNet-5's plan for images of at least 8×8 pixels: two 5×5 convolutions, average pooling, dense layers.

    Parameters
    ----------
    width : int
        Channels of the first convolution; the second has twice as many.
    activation : str
        As for `Dense`.

    References
    ----------
    .. [1] LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.

    Examples
    --------
    >>> import torch
    >>> LeNet(width=4).decoder(10, (28, 28))(torch.zeros(5, 10)).shape
    torch.Size([5, 28, 28])
    """

    width: int = 16
    activation: str = "silu"

    def encoder(self, shape: Shape, latent_dim: int, transform: str | None = None) -> nn.Module:
        return ConvEncoder("lenet", shape, latent_dim, self.width, self.activation, transform=transform)

    def decoder(self, latent_dim: int, shape: Shape, output: str | None = None) -> nn.Module:
        return ConvDecoder("lenet", shape, latent_dim, self.width, self.activation, output=output)

    def head(self, shape: Shape, n_outputs: int) -> nn.Module:
        return ConvHead("lenet", shape, n_outputs, self.width, self.activation)


@dataclass(frozen=True)
class ResNet(Network):
    """ResNet-18's plan for images of at least 4×4 pixels: four stages of residual blocks, each half as large.

    Parameters
    ----------
    width : int
        Channels of the first stage (64 in ResNet-18); each further one has twice as many.
    activation : str
        As for `Dense`.
    norm : {"batch", "group"}
        BatchNorm, which is an affine map in a finished model, or GroupNorm, whose derivatives cost more.
    blocks : int
        Residual blocks per stage, 2 in ResNet-18.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, arXiv:1512.03385.

    Examples
    --------
    >>> import torch
    >>> ResNet(width=4).decoder(10, (3, 16, 16))(torch.zeros(5, 10)).shape
    torch.Size([5, 3, 16, 16])
    """

    width: int = 16
    activation: str = "silu"
    norm: str = "batch"
    blocks: int = 2

    def encoder(self, shape: Shape, latent_dim: int, transform: str | None = None) -> nn.Module:
        return ConvEncoder("resnet", shape, latent_dim, self.width, self.activation, self.norm, self.blocks, transform)

    def decoder(self, latent_dim: int, shape: Shape, output: str | None = None) -> nn.Module:
        return ConvDecoder("resnet", shape, latent_dim, self.width, self.activation, self.norm, self.blocks, output)

    def head(self, shape: Shape, n_outputs: int) -> nn.Module:
        return ConvHead("resnet", shape, n_outputs, self.width, self.activation, self.norm, self.blocks)
