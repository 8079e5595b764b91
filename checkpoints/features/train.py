"""Train the small classifier whose features scores of generated images are taken on.

    LATENTGEO_DATA=/path/to/data python checkpoints/features/train.py mnist    # mnist-classifier.safetensors

The same command gives the same file on the same machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from latentgeo.datasets import load_digits, load_mnist
from latentgeo.train.features import load_features, save_features, train_classifier

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("digits", "mnist"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.data == "mnist":
        train, test = load_mnist("train"), load_mnist("test")
        data, labels, held_out = train.data, train.labels, (test.data, test.labels)
        shape, epochs = train.shape, given.epochs or 4
    else:
        digits = load_digits()
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(given.seed))
        kept, rest = order[:1437], order[1437:]
        data, labels = digits.data[kept], digits.labels[kept]
        held_out = (digits.data[rest], digits.labels[rest])
        shape, epochs = digits.shape, given.epochs or 40
    net, made = train_classifier(
        data,
        labels,
        shape,
        dataset=given.data,
        held_out=held_out,
        n_features=given.features,
        epochs=epochs,
        seed=given.seed,
    )
    out = given.out or HERE / f"{given.data}-classifier.safetensors"
    save_features(net, made, out)
    print(f"{out}: {load_features(out)!r}, held-out accuracy {made['accuracy']:.4f}")


if __name__ == "__main__":
    main()
