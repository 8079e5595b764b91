"""A decoder of two networks, one for the mean and one for the standard deviation.

As in Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018), section 2: the learned-σ network that their RBF
precision replaces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from latentgeo.decoders.networks import build, register, registered


@register
class MeanAndStd(nn.Module):
    """z → (mean, floor + std), of two networks.

    Parameters
    ----------
    mean, std : Module or mapping
        Networks of latentgeo's own, or how to build them: {"builder": name, "arguments": {...}}. The second must not
        give negative values (an output activation "softplus" or "sigmoid").
    floor : float
        The least standard deviation, in data units, not negative.

    Raises
    ------
    ValueError
        If a network is not latentgeo's own or is itself a pair, or `floor` is negative or not finite.

    Examples
    --------
    >>> import torch
    >>> from latentgeo.decoders import MLP
    >>> mean, std = MeanAndStd(MLP([2, 3]), MLP([2, 3], output="softplus"), floor=0.1)(torch.zeros(5, 2))
    >>> mean.shape, bool((std > 0.1).all())
    (torch.Size([5, 3]), True)
    """

    builder = "mean-and-std"

    def __init__(self, mean: nn.Module | Mapping[str, Any], std: nn.Module | Mapping[str, Any], floor: float) -> None:
        super().__init__()
        if isinstance(floor, bool) or not isinstance(floor, (int, float)) or not 0 <= floor < math.inf:
            raise ValueError(f"floor must be finite and not negative; got {str(floor)[:100]!r}")
        self.mean, about_mean = _part("mean", mean)
        self.std, about_std = _part("std", std)
        self.floor = float(floor)
        self.arguments: dict[str, Any] = {"mean": about_mean, "std": about_std, "floor": self.floor}

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, d) to mean and standard deviation, each (B, *shape)."""
        return self.mean(z), self.floor + self.std(z)


def _part(name: str, given: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A network and its description; pairs of pairs are refused, so that a header cannot nest without end."""
    if isinstance(given, Mapping):
        about = {"builder": given.get("builder"), "arguments": given.get("arguments")}
        if about["builder"] == MeanAndStd.builder or not isinstance(about["arguments"], Mapping):
            raise ValueError(f"{name} must name a single network and its arguments; got {str(about)[:100]}")
        return build(str(about["builder"]), about["arguments"]), about
    known = registered(given) if isinstance(given, nn.Module) else None
    if known is None or isinstance(given, MeanAndStd):
        raise ValueError(f"{name} must be one of latentgeo's own networks; got {type(given).__name__}")
    return given, {"builder": known[0], "arguments": known[1]}
