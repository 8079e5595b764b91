"""Whether data suit a likelihood, and where a decoder's last bias should start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentgeo.decoders import Categorical
from latentgeo.decoders._likelihood import Likelihood
from latentgeo.train.binarise import Binarise, as_binarise, is_binary
from latentgeo.train.data import TrainData

_EDGE = 0.01  # probabilities start no nearer to 0 and 1


def check(likelihood: Likelihood, binarise: Binarise | str | None, data: TrainData) -> Binarise | None:
    """Raise where the data cannot come from the likelihood; the binarisation that is to be done, or None."""
    how = as_binarise(binarise)
    x, name = data.x, likelihood.name
    low, high = float(x.min()), float(x.max())
    if how is not None and name != "bernoulli":
        raise ValueError(f"binarise is for the Bernoulli likelihood; got likelihood {likelihood!r}")
    if name == "gaussian":
        return None
    if name == "bernoulli":
        if low < 0 or high > 1:
            raise ValueError(
                f"data must lie in [0, 1] for a Bernoulli likelihood; they go from {low:.3g} to {high:.3g}"
            )
        if is_binary(x):
            return None
        if how is None:
            raise ValueError(
                "data have grey values, which a Bernoulli likelihood does not have; say how they become 0 and 1: "
                "binarise='dynamic' (anew at each look), binarise='static' (once, by a seed), binarise='threshold', or "
                "binarise='none' to leave them grey"
            )
        return how
    if isinstance(likelihood, Categorical):
        if likelihood.output != "logits":
            raise ValueError("a categorical decoder is trained with logits; pass Categorical(output='logits')")
        axis = likelihood.axis if likelihood.axis > 0 else likelihood.axis + x.ndim
        if not 0 < axis < x.ndim or not is_binary(x) or not bool((x.sum(axis) == 1).all()):
            raise ValueError(
                f"data must be one-hot along axis {likelihood.axis} for {likelihood!r}; got data of shape "
                f"{tuple(x.shape)}"
            )
        return None
    if name in ("poisson", "negative-binomial"):
        if low < 0 or not bool((x == x.round()).all()):
            raise ValueError(
                f"data must be counts (0, 1, 2, …) for {likelihood!r}; they go from {low:.3g} to {high:.3g}"
                + ("" if low < 0 else " and are not whole (bytes are divided by 255: give counts in a wider type)")
            )
        return None
    raise ValueError(
        f"likelihood must be Gaussian, Bernoulli, Categorical, Poisson or NegativeBinomial; got {likelihood!r}"
    )


@torch.no_grad()
def centre(decoder: nn.Module, likelihood: Likelihood, x: Tensor) -> None:
    """Let an untrained decoder's last bias say the data's mean, where its output is a logit or a logarithm."""
    output = getattr(likelihood, "output", None)
    last = [m for m in decoder.modules() if isinstance(m, nn.Linear)][-1:]
    mean = x.flatten(1).mean(0)
    if output not in ("logits", "log_rate", "log_mean") or not last or last[0].bias.shape != mean.shape:
        return
    if likelihood.name == "bernoulli":
        last[0].bias.copy_(torch.logit(mean.clamp(_EDGE, 1 - _EDGE)))
    else:
        last[0].bias.copy_(mean.clamp(min=_EDGE * float(mean.mean())).log())
