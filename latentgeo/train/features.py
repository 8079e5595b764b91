"""Features that scores are taken on: any network under a name, and a small classifier of images of our own.

One for MNIST comes with the source: checkpoints/features/mnist-classifier.safetensors, by the script beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from latentgeo.decoders._frozen import Frozen
from latentgeo.io.errors import CheckpointError
from latentgeo.io.native import KEY, SCHEMA, open_safetensors

_MAX_SIDE, _MAX_WIDTH, _MAX_CLASSES = 256, 1024, 10_000


class Classifier(nn.Module):
    """A small convolutional classifier: two strided 5×5 convolutions, one hidden layer, linear classes.

    Parameters
    ----------
    shape : sequence of int
        Of one image: (height, width) or (channels, height, width).
    n_classes : int
        Classes.
    n_features : int
        Width of the hidden layer, whose values before the activation are the features.
    width : int
        Channels of the first convolution; the second has twice as many.

    Raises
    ------
    ValueError
        If a number is out of bounds.

    Examples
    --------
    >>> net = Classifier((28, 28), n_classes=10)
    >>> net(torch.zeros(5, 784)).shape, net.features(torch.zeros(5, 1, 28, 28)).shape
    (torch.Size([5, 10]), torch.Size([5, 64]))
    """

    def __init__(self, shape: Sequence[int], n_classes: int, n_features: int = 64, width: int = 16) -> None:
        super().__init__()
        shape = tuple(shape)
        whole = all(type(s) is int and 1 <= s <= _MAX_SIDE for s in shape)
        if len(shape) not in (2, 3) or not whole:
            raise ValueError(f"shape must be (height, width) or (channels, height, width); got {str(shape)[:100]}")
        for name, value, most in (
            ("n_classes", n_classes, _MAX_CLASSES),
            ("n_features", n_features, _MAX_WIDTH),
            ("width", width, _MAX_WIDTH),
        ):
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} must be an integer from 1 to {most}; got {str(value)[:50]}")
        self.arguments = {"shape": list(shape), "n_classes": n_classes, "n_features": n_features, "width": width}
        self.image = (1, *shape) if len(shape) == 2 else shape
        height, side = (-(-s // 4) for s in self.image[1:])
        self.convolutions = nn.Sequential(
            nn.Conv2d(self.image[0], width, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(2 * width * height * side, n_features)
        self.classes = nn.Sequential(nn.GELU(), nn.Linear(n_features, n_classes))

    def features(self, x: Tensor) -> Tensor:
        """Images (N, ...) to features (N, n_features)."""
        x = x.reshape(len(x), *self.image).to(self.hidden.weight)
        result: Tensor = self.hidden(self.convolutions(x))
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, ...) to logits (N, n_classes)."""
        result: Tensor = self.classes(self.features(x))
        return result


class Features(Frozen):
    """A named feature map, with class probabilities where it is a classifier's.

    Parameters
    ----------
    name : str
        What scores call it.
    function : callable
        Samples (N, ...) to features (N, F).
    logits : callable, optional
        Samples (N, ...) to logits (N, C); the Inception Score needs them.
    metadata : dict, optional
        Where it comes from.

    Examples
    --------
    >>> pixels = Features("pixels", lambda x: x.flatten(1))
    >>> pixels(torch.zeros(3, 2, 2)).shape
    torch.Size([3, 4])
    """

    name: str
    metadata: dict[str, Any]

    def __init__(
        self,
        name: str,
        function: Callable[[Tensor], Tensor],
        logits: Callable[[Tensor], Tensor] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"name must be a non-empty string; got {name!r}")
        self._set(name=name, _function=function, _logits=logits, metadata=dict(metadata or {}))

    _function: Callable[[Tensor], Tensor]
    _logits: Callable[[Tensor], Tensor] | None

    @classmethod
    def of(cls, classifier: Classifier, metadata: dict[str, Any]) -> Features:
        """Those of a trained classifier; the name ends in a digest of its weights."""
        digest = hashlib.sha256()
        for key, value in sorted(classifier.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        name = (
            f"{metadata.get('dataset', 'unnamed')} classifier, {classifier.arguments['n_features']} features, "
            f"{digest.hexdigest()[:8]}"
        )
        return cls(name, classifier.eval().features, classifier, {**metadata, "sha256": digest.hexdigest()})

    def __call__(self, x: Tensor) -> Tensor:
        """Features (N, F), a thousand samples at a time, without gradient."""
        return _batched(self._function, x)

    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities (N, C).

        Raises
        ------
        ValueError
            If these features are not a classifier's.
        """
        if self._logits is None:
            raise ValueError(f"{self.name!r} has no classes, which the Inception Score needs")
        return _batched(self._logits, x).softmax(1)

    def __repr__(self) -> str:
        return f"Features({self.name})"


def _batched(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([function(part) for part in x.split(1000)])


def train_classifier(
    data: Tensor,
    labels: Tensor,
    shape: Sequence[int],
    *,
    dataset: str,
    held_out: tuple[Tensor, Tensor] | None = None,
    n_features: int = 64,
    epochs: int = 4,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> tuple[Classifier, dict[str, Any]]:
    """A small classifier of images, for its features.

    Parameters
    ----------
    data : Tensor of shape (N, D)
        Images as rows.
    labels : Tensor of shape (N,)
        Classes from 0.
    shape : sequence of int
        Of one image.
    dataset : str
        Its name, which the features' name begins with.
    held_out : tuple of Tensor, optional
        Data and labels that the accuracy is measured on.
    n_features, epochs, batch_size, learning_rate, seed
        As they say; Adam, the learning rate falling to zero along a cosine.

    Returns
    -------
    Classifier, dict
        In eval mode; and its provenance with the held-out accuracy.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or data and labels do not fit.

    Examples
    --------
    >>> from latentgeo.datasets import load_digits
    >>> digits = load_digits()
    >>> _, made = train_classifier(digits.data, digits.labels, digits.shape, dataset="digits", epochs=1)
    >>> made["dataset"], made["epochs"]
    ('digits', 1)
    """
    if len(data) != len(labels) or len(data) == 0:
        raise ValueError(f"data and labels must be as many, and not none; got {len(data)} and {len(labels)}")
    if int(labels.min()) < 0 or int(labels.max()) < 1:
        raise ValueError("labels must be classes from 0, at least two")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(shape, int(labels.max()) + 1, n_features)
    steps = epochs * -(-len(data) // batch_size)
    adam = torch.optim.Adam(net.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=generator).split(batch_size):
            loss = nn.functional.cross_entropy(net(data[rows]), labels[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
    made: dict[str, Any] = {"dataset": dataset, "epochs": epochs, "seed": seed, "n_train": len(data)}
    net.eval()
    if held_out is not None:
        x, y = held_out
        made["accuracy"] = float((_batched(net, x).argmax(1) == y).double().mean())
        made["n_held_out"] = len(x)
    return net, made


def save_features(classifier: Classifier, metadata: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a classifier as one safetensors file, read by `load_features`."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors; got {str(path)!r}")
    header = {"schema": SCHEMA, "classifier": classifier.arguments, "metadata": metadata}
    tensors = {k: v.detach().cpu().contiguous() for k, v in classifier.state_dict().items()}
    path.write_bytes(to_bytes(tensors, {KEY: json.dumps(header, sort_keys=True)}))


def load_features(path: str | os.PathLike[str]) -> Features:
    """Features of a classifier that `save_features` wrote. Nothing in the file is run.

    Parameters
    ----------
    path : path
        The `.safetensors` file.

    Returns
    -------
    Features
        On the CPU, in eval mode.

    Raises
    ------
    CheckpointError
        If the file holds no classifier.

    Examples
    --------
    >>> load_features("checkpoints/features/mnist-classifier.safetensors").metadata["dataset"]
    'mnist'
    """
    contents = open_safetensors(path)
    header = contents.header or {}
    arguments, metadata = header.get("classifier"), header.get("metadata")
    if not isinstance(arguments, dict) or not isinstance(metadata, dict):
        raise CheckpointError(contents.path, "holds no classifier; make one with train_classifier and save_features")
    try:
        with torch.device("meta"):
            blank = Classifier(**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(contents.path, f"describes no classifier: {error}") from None
    expected = {name: tuple(value.shape) for name, value in blank.state_dict().items()}
    if contents.shapes != expected:
        raise CheckpointError(contents.path, "has tensors that do not fit the classifier its header describes")
    classifier = blank.to_empty(device="cpu")
    classifier.load_state_dict(contents.tensors())
    return Features.of(classifier.eval(), metadata)
