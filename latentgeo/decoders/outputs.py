"""Reading what a decoder returns: tensors, tuples, distributions, mappings and output objects become named tensors.

Every tensor is flattened to (B, D); scales are broadcast to the mean's shape first. Names are never invented: a bare
tensor stays "value" and a bare second element "scale", and the likelihood says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

ALIASES: dict[str, tuple[str, ...]] = {
    "value": ("reconstruction", "recon_x", "recon", "x_hat", "sample", "value"),
    "mean": ("mean", "mu", "loc"),
    "std": ("std", "sigma", "stddev"),
    "var": ("var", "variance"),
    "log_var": ("log_var", "logvar", "log_variance"),
    "precision": ("precision",),
    "scale": ("scale",),
    "logits": ("logits",),
    "probs": ("probs",),
    "rate": ("rate",),
    "log_rate": ("log_rate",),
    "log_mean": ("log_mean",),
    "inverse_dispersion": ("inverse_dispersion", "theta", "total_count"),
}
"""Keys of a mapping that are understood, by what they mean; other keys are ignored."""

_FIRST = (
    "value",
    "mean",
    "logits",
    "probs",
    "rate",
    "log_rate",
    "log_mean",
)  # one of these carries the shape of the data
_UNDERSTOOD = "Normal, Bernoulli, Categorical, OneHotCategorical, Poisson, NegativeBinomial or Exponential"
_NAMES = {alias: name for name, aliases in ALIASES.items() for alias in aliases}


class OutputError(ValueError):
    """A decoder's output could not be read; the message says what it was and what is accepted."""


def _accepted() -> str:
    return (
        f"a tensor, a (mean, scale) tuple, a torch.distributions {_UNDERSTOOD} (also inside Independent), a mapping "
        "with keys such as 'reconstruction', 'mean', 'std', 'log_var', 'logits', 'probs', 'rate', or an object with a "
        "tensor `.sample`"
    )


def _from_distribution(output: td.Distribution) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Named tensors, and the likelihood that the distribution declares (see `as_likelihood`)."""
    while isinstance(output, td.Independent):
        output = output.base_dist
    if type(output) is td.Normal:
        return {"mean": output.loc, "std": output.scale}, {"name": "gaussian"}
    if type(output) is td.Bernoulli:
        return _logits_or_probs(output), {"name": "bernoulli"}
    if type(output) is td.Categorical:
        return _logits_or_probs(output), {"name": "categorical"}
    if type(output) is td.OneHotCategorical:
        return _logits_or_probs(output._categorical), {"name": "categorical"}
    if type(output) is td.Poisson:
        return {"rate": output.rate}, {"name": "poisson"}
    if type(output) is td.Exponential:
        return {"rate": output.rate}, {"name": "exponential"}
    if type(output) is td.NegativeBinomial:
        r = output.total_count
        if "logits" in output.__dict__:
            return {"log_mean": output.logits + r.log(), "inverse_dispersion": r}, {"name": "negative-binomial"}
        return {"mean": r * output.probs / (1 - output.probs), "inverse_dispersion": r}, {"name": "negative-binomial"}
    why = {
        "MultivariateNormal": "its covariance is not diagonal, and the embedding [mean, std] needs independent "
        "coordinates",
        "LowRankMultivariateNormal": "its covariance is not diagonal, and the embedding [mean, std] needs independent "
        "coordinates",
        "TransformedDistribution": "its density is not that of a family with a known embedding",
    }.get(type(output).__name__, f"only {_UNDERSTOOD} (also inside Independent) are understood")
    raise OutputError(f"the decoder returns a torch.distributions {type(output).__name__}, which is refused: {why}")


def _logits_or_probs(output: Any) -> dict[str, Tensor]:
    """The parameter it was built from: converting probabilities to logits clamps them."""
    return {"logits": output.logits} if "logits" in output.__dict__ else {"probs": output.probs}


def _from_mapping(output: Mapping[Any, Any]) -> dict[str, Tensor]:
    found: dict[str, str] = {}
    for key in output:
        name = _NAMES.get(key) if isinstance(key, str) else None
        if name is None or output[key] is None:
            continue
        if name in found:
            raise OutputError(f"the decoder's output has both {found[name]!r} and {key!r}; return only one of them")
        found[name] = key
    if len(first := [found[name] for name in _FIRST if name in found]) != 1:
        shown = ", ".join(map(repr, output)) or "none"
        what = f"both {first[0]!r} and {first[1]!r}" if first else "no key that is understood"
        raise OutputError(
            f"the decoder returns a mapping with {what} (its keys: {shown}); wrap a function that returns just what "
            f"the likelihood needs, e.g. lambda z: decoder(z)[...]. Accepted: {_accepted()}"
        )
    return {name: output[key] for name, key in found.items()}


def _named(output: Any) -> dict[str, Tensor]:
    if isinstance(output, Tensor):
        return {"value": output}
    if isinstance(output, td.Distribution):
        return _from_distribution(output)[0]
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        output = output._asdict()
    if isinstance(output, Mapping):
        return _from_mapping(output)
    if isinstance(output, (tuple, list)):
        if len(output) == 1:
            return _named(output[0])
        if len(output) == 2:
            return {"value": output[0], "scale": output[1]}
        raise OutputError(
            f"the decoder returns a {type(output).__name__} of {len(output)} items, but (mean, scale) has two; wrap a "
            f"function that picks what the likelihood needs"
        )
    if isinstance(sample := getattr(output, "sample", None), Tensor):
        return {"value": sample}
    try:
        value = output["reconstruction"]
    except Exception:  # an arbitrary object: whatever it raises, it has no such item
        value = None
    if isinstance(value, Tensor):
        return {"value": value}
    raise OutputError(f"the decoder returns a {type(output).__name__}; it must return {_accepted()}")


def family(output: Any) -> dict[str, Any] | None:
    """The likelihood that an output itself declares (only distributions do), as `as_likelihood` reads it, or None."""
    return _from_distribution(output)[1] if isinstance(output, td.Distribution) else None


def read(output: Any, batch: int) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Named, flattened outputs and the shape of one datum.

    Parameters
    ----------
    output : object
        What a decoder returned for `batch` codes.
    batch : int
        How many codes it was given.

    Returns
    -------
    dict of str to Tensor of shape (batch, D)
        By the names of `ALIASES`.
    tuple of int
        The shape of one datum before it was flattened.

    Raises
    ------
    OutputError
        If the output is of another kind, does not have the batch as its first axis, or a scale does not fit the mean.

    Examples
    --------
    >>> named, shape = read((torch.zeros(4, 1, 2, 3), torch.ones(4, 1, 1, 1)), 4)
    >>> {name: tuple(value.shape) for name, value in named.items()}, shape
    ({'value': (4, 6), 'scale': (4, 6)}, (1, 2, 3))
    """
    named = _named(output)
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise OutputError(f"the decoder's {name} must be a tensor; got {type(value).__name__}")
        if not value.is_floating_point():
            raise OutputError(f"the decoder's {name} must be floating point; got {value.dtype}")
    first = next(name for name in _FIRST if name in named)
    shape = tuple(named[first].shape)
    if not shape or shape[0] != batch:
        raise OutputError(
            f"the first axis of the decoder's output must be the batch ({batch} codes were given); got shape {shape}"
        )
    if named[first].numel() == 0 and batch:
        raise OutputError(f"the decoder's output is empty: shape {shape}")
    flat = {}
    for name, value in named.items():
        if value.shape != shape:
            try:
                value = value.broadcast_to(shape)
            except RuntimeError:
                raise OutputError(
                    f"the decoder's {name} of shape {tuple(value.shape)} does not broadcast to the shape {shape} of "
                    f"its {first}"
                ) from None
        flat[name] = value.reshape(batch, -1) if batch else value.reshape(0, max(1, torch.Size(shape[1:]).numel()))
    return flat, shape[1:] or (1,)
