"""Likelihood families p(x | z) as frozen values: what a decoder's output means, and its flat embeddings.

The expected metric of a Gaussian follows Arvanitidis, Hansen, Hauberg (2018); the Fisher–Rao embeddings are the
classical variance-stabilising maps (see `latentgeo.decoders.coordinates`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentgeo.decoders._likelihood import Likelihood
from latentgeo.decoders.counts import Exponential, NegativeBinomial, Poisson
from latentgeo.decoders.discrete import Bernoulli, Categorical
from latentgeo.decoders.location_scale import Deterministic, Gaussian

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "Deterministic",
    "Exponential",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "as_likelihood",
]

LIKELIHOODS: dict[str, type[Likelihood]] = {
    cls.name: cls for cls in (Deterministic, Gaussian, Bernoulli, Categorical, Poisson, NegativeBinomial, Exponential)
}


def as_likelihood(value: Any) -> Likelihood:
    """A likelihood from a likelihood, a lower-case name (its defaults) or a description made by `to_dict`.

    Raises
    ------
    ValueError
        If the name or an option is unknown.
    TypeError
        If `value` is none of these.

    Examples
    --------
    >>> as_likelihood("bernoulli")
    Bernoulli(output='logits')
    """
    if isinstance(value, Likelihood):
        return value
    if isinstance(value, type) and issubclass(value, Likelihood):
        raise TypeError(f"likelihood must be a value, such as {value.__name__}(), not the class {value.__name__}")
    options: dict[str, Any] = {}
    if isinstance(value, Mapping):
        options = {str(key): item for key, item in value.items() if key != "name"}
        value = value.get("name")
    if isinstance(value, str):
        if value not in LIKELIHOODS:
            raise ValueError(f"likelihood must be one of {', '.join(map(repr, LIKELIHOODS))}; got {value[:100]!r}")
        try:
            return LIKELIHOODS[value](**options)
        except TypeError:
            raise ValueError(f"likelihood {value!r} does not take the options {str(sorted(options))[:200]}") from None
    raise TypeError(
        f"likelihood must be a likelihood such as Gaussian(scale='std') or its lower-case name; "
        f"got {type(value).__name__}"
    )
