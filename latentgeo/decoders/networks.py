"""Small networks of latentgeo's own, and the registry of builder names that checkpoint headers may use.

A header can name nothing but what is registered here; every other builder is handed to `load` by the caller.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

_MAX_LAYERS = 64
_MAX_WIDTH = 2**20

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
}


class UnknownBuilderError(ValueError):
    """A builder name that is not in latentgeo's registry."""


class MLP(nn.Module):
    """A plain multi-layer perceptron.

    Parameters
    ----------
    sizes : sequence of int
        Widths from input to output, at least two.
    activation : str
        Between layers: "tanh", "softplus", "gelu", "silu", "elu", "relu" or "sigmoid".
    output : str, optional
        Applied to the last layer, one of the same names; None for none.
    shape : sequence of int, optional
        The shape that each output row is given, e.g. (28, 28); its product is the last size.

    Raises
    ------
    ValueError
        If a size is not a positive integer, an activation is unknown, or `shape` does not fit.

    Examples
    --------
    >>> import torch
    >>> MLP([2, 32, 64, 784], output="sigmoid", shape=(28, 28))(torch.zeros(5, 2)).shape
    torch.Size([5, 28, 28])
    """

    builder = "mlp"

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "tanh",
        output: str | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        sizes = _sizes(sizes)
        shape = [sizes[-1]] if shape is None else _sizes(shape, at_least=1, name="shape")
        if math.prod(shape) != sizes[-1]:
            raise ValueError(f"shape must have {sizes[-1]} entries, as the last of sizes; got {shape}")
        self.arguments: dict[str, Any] = {"sizes": sizes, "activation": activation, "output": output, "shape": shape}
        self.layers = nn.Sequential(*_layers(sizes, activation, output))
        self.shape = tuple(shape)

    def forward(self, z: Tensor) -> Tensor:
        """Rows (B, sizes[0]) to rows (B, sizes[-1]), in their `shape`."""
        result: Tensor = self.layers(z)
        return result.unflatten(-1, self.shape)


class MLPEncoder(nn.Module):
    """An encoder x → (mean, std) of a diagonal Gaussian posterior, with one trunk and two linear heads.

    Parameters
    ----------
    sizes : sequence of int
        Widths from data to latent dimension, at least three.
    activation : str
        As for `MLP`.
    transform : {"log1p"}, optional
        Applied to the data first: log(1 + x) tames counts. None for none.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or the activation or transform is unknown.

    Examples
    --------
    >>> import torch
    >>> mean, std = MLPEncoder([784, 64, 32, 2])(torch.zeros(5, 784))
    >>> mean.shape, bool((std > 0).all())
    (torch.Size([5, 2]), True)
    """

    builder = "mlp-encoder"

    def __init__(self, sizes: Sequence[int], activation: str = "tanh", transform: str | None = None) -> None:
        super().__init__()
        sizes = _sizes(sizes, at_least=3)
        self.arguments: dict[str, Any] = {"sizes": sizes, "activation": activation, **transform_argument(transform)}
        self.transform = transform
        self.trunk = nn.Sequential(*_layers(sizes[:-1], activation, activation))
        self.mean = nn.Linear(sizes[-2], sizes[-1])
        self.log_std = nn.Linear(sizes[-2], sizes[-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data (B, D) or (B, ...) to the posterior's mean and standard deviation, each (B, d)."""
        h = self.trunk(transformed(x.flatten(1), self.transform))
        return self.mean(h), self.log_std(h).clamp(-20.0, 20.0).exp()


def transform_argument(transform: str | None) -> dict[str, Any]:
    """What a header says about an encoder's transform of the data: nothing where there is none."""
    if transform not in (None, "log1p"):
        raise ValueError(f"transform must be 'log1p' or None; got {str(transform)[:100]!r}")
    return {} if transform is None else {"transform": transform}


def transformed(x: Tensor, transform: str | None) -> Tensor:
    """Data as an encoder's first layer takes them."""
    return x if transform is None else x.log1p()


def _sizes(sizes: Sequence[int], at_least: int = 2, name: str = "sizes") -> list[int]:
    ok = isinstance(sizes, (list, tuple)) and at_least <= len(sizes) <= _MAX_LAYERS
    if not ok or not all(type(size) is int and 0 < size <= _MAX_WIDTH for size in sizes):
        raise ValueError(
            f"{name} must be {at_least} to {_MAX_LAYERS} positive integers up to {_MAX_WIDTH}; got {str(sizes)[:100]}"
        )
    return list(sizes)


def _layers(sizes: Sequence[int], activation: str, output: str | None) -> list[nn.Module]:
    for name, value in (("activation", activation), ("output", output)):
        if not (value is None and name == "output") and value not in _ACTIVATIONS:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, _ACTIVATIONS))}; got {str(value)[:100]!r}")
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(n_in, n_out))
        last = output if i == len(sizes) - 2 else activation
        if last is not None:
            layers.append(_ACTIVATIONS[last]())
    return layers


_BUILDERS: dict[str, Callable[..., nn.Module]] = {cls.builder: cls for cls in (MLP, MLPEncoder)}

Built = TypeVar("Built", bound=type[nn.Module])


def register(kind: Built) -> Built:
    """Let headers name a network by its attribute `builder`; a class decorator for modules of this package.

    The class sets `arguments`, by which `build` makes the same network again. A header may come from anywhere: the
    class must refuse, with ValueError, whatever would take unbounded time or memory to build.
    """
    _BUILDERS[kind.builder] = kind  # type: ignore[attr-defined]  # each registered class has it
    return kind


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A fresh network from a registered builder name and its keyword arguments.

    Raises
    ------
    UnknownBuilderError
        If the name is not registered. Nothing is imported or evaluated to find out.
    ValueError
        If the arguments do not fit the builder.

    Examples
    --------
    >>> build("mlp", {"sizes": [2, 8, 3]}).arguments["activation"]
    'tanh'
    """
    if not isinstance(name, str) or name not in _BUILDERS:
        raise UnknownBuilderError(
            f"builder {str(name)[:100]!r} is not one of latentgeo's own ({', '.join(_BUILDERS)}); pass builder="
        )
    try:
        return _BUILDERS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"the arguments of builder {name!r} do not fit it: {error}") from None


def registered(module: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """Builder name and arguments of a network that `build` can rebuild; None for any other module."""
    for name, kind in _BUILDERS.items():
        if kind is type(module):  # a subclass may do something else
            return name, dict(vars(module)["arguments"])
    return None
