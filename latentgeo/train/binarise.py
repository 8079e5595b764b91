"""Binarisation of data in [0, 1] for Bernoulli models: always chosen, always stated with a figure.

Dynamic: Burda et al. 2016 (arXiv:1509.00519), anew at each look. Static: once, as in Salakhutdinov, Murray 2008.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KINDS = ("dynamic", "static", "threshold", "none")


@dataclass(frozen=True)
class Binarise:
    """How grey values become bits.

    Parameters
    ----------
    kind : {"dynamic", "static", "threshold", "none"}
        "dynamic": each value is the probability of a 1, drawn anew whenever a datum is looked at; "static": drawn once,
        by `seed`; "threshold": 1 above a half; "none": grey values as they are, which makes the Bernoulli likelihood no
        density of them, so that its figures compare with nothing.
    seed : int
        For "static", and for what data held out are scored on with "dynamic".

    Raises
    ------
    ValueError
        If `kind` is none of the four.

    Examples
    --------
    >>> str(Binarise("static", seed=3))
    'statically binarised (seed 3)'
    """

    kind: str = "dynamic"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"binarise must be one of {', '.join(map(repr, KINDS))}; got {str(self.kind)[:100]!r}")

    def once(self, x: Tensor) -> Tensor:
        """Data (N, ...) binarised once: what "static" trains on, and what scores are of."""
        if self.kind == "none":
            return x
        if self.kind == "threshold":
            return (x > 0.5).to(x)
        return draw(x.cpu(), torch.Generator().manual_seed(self.seed)).to(x)

    def __str__(self) -> str:
        return {
            "dynamic": f"dynamically binarised (one draw for scores, seed {self.seed})",
            "static": f"statically binarised (seed {self.seed})",
            "threshold": "binarised at one half",
            "none": "grey values, not binarised",
        }[self.kind]


def draw(x: Tensor, generator: torch.Generator) -> Tensor:
    """Bits with probabilities x.

    Examples
    --------
    >>> draw(torch.tensor([0.0, 1.0]), torch.Generator().manual_seed(0))
    tensor([0., 1.])
    """
    return (torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) < x).to(x)


def as_binarise(value: Any) -> Binarise | None:
    """A `Binarise`, from one or from the name of its kind; None stays None."""
    return value if value is None or isinstance(value, Binarise) else Binarise(value)


def is_binary(x: Tensor) -> bool:
    """Whether all values are 0 or 1."""
    return bool(((x == 0) | (x == 1)).all())
