"""Likelihoods as options of the command line, and the library's advice about them put into those options."""

from __future__ import annotations

import math
import re
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentgeo.decoders import Likelihood


class Family(StrEnum):
    """Likelihood families; the names are those that `latentgeo.wrap` takes."""

    gaussian = "gaussian"
    deterministic = "deterministic"
    bernoulli = "bernoulli"
    categorical = "categorical"
    poisson = "poisson"
    negative_binomial = "negative-binomial"
    exponential = "exponential"


class Scale(StrEnum):
    """What the second output of a Gaussian decoder is."""

    std = "std"
    var = "var"
    log_var = "log_var"
    precision = "precision"


class Output(StrEnum):
    """What the output of a decoder is."""

    logits = "logits"
    probs = "probs"
    rate = "rate"
    log_rate = "log_rate"
    mean = "mean"
    log_mean = "log_mean"


# Which options belong to which family: option, name of the field.
OPTIONS: dict[Family, dict[str, str]] = {
    Family.gaussian: {"--scale": "scale", "--sigma": "sigma"},
    Family.deterministic: {},
    Family.bernoulli: {"--output": "output"},
    Family.categorical: {"--output": "output", "--class-axis": "axis"},
    Family.poisson: {"--output": "output"},
    Family.negative_binomial: {"--output": "output", "--inverse-dispersion": "inverse_dispersion"},
    Family.exponential: {"--output": "output"},
}


def build(family: Family, given: dict[str, Any]) -> Likelihood:
    """The likelihood that options (name to value, None where it was not given) describe."""
    from latentgeo.decoders.likelihoods import as_likelihood

    known = OPTIONS[family]
    options = {}
    for name, value in given.items():
        if value is None:
            continue
        if name not in known:
            owners = " or ".join(f"--likelihood {f.value}" for f, names in OPTIONS.items() if name in names)
            raise ValueError(f"{name} must go with {owners}; got --likelihood {family.value}")
        options[known[name]] = value.value if isinstance(value, Enum) else value
    for name in ("--sigma", "--inverse-dispersion"):
        if name in known and known[name] in options:
            options[known[name]] = _number_or_file(name, options[known[name]])
    try:
        return as_likelihood({"name": family.value, **options})
    except ValueError as error:
        message = re.sub(r"^(\w+) must", lambda m: f"{_option(known, m[1])} must", str(error))
        raise ValueError(f"{message} (with --likelihood {family.value})") from None


def _option(known: dict[str, str], field: str) -> str:
    return next((option for option, name in known.items() if name == field), field)


def _number_or_file(name: str, text: str) -> float | tuple[float, ...]:
    try:
        return float(text)
    except ValueError:
        pass
    from latentgeo._cli.arrays import SUFFIXES, read_array

    if Path(text).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{name} must be a positive number, or a file of numbers ({', '.join(SUFFIXES)}); got {text}")
    values: list[float] = read_array(Path(text), what=f"numbers for {name}").reshape(-1).tolist()
    if bad := sum(not (math.isfinite(value) and value > 0) for value in values):
        raise ValueError(f"{name} must be positive and finite; {bad} of the {len(values)} numbers in {text} are not")
    return tuple(values)


_VALUE = re.compile(
    r"(?<!likelihood is )(?:likelihood=)?\b"
    r"(Gaussian|Deterministic|Bernoulli|Categorical|Poisson|NegativeBinomial|Exponential)\(([^()]*)\)"
)


def in_options(text: str) -> str:
    """The library's advice, with likelihoods and keyword arguments as options of the command line.

    Examples
    --------
    >>> in_options("if they are logits, pass Bernoulli(output='logits')")
    'if they are logits, pass --likelihood bernoulli --output logits'
    """

    def value(found: re.Match[str]) -> str:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", found[1]).lower()
        words = [f"--likelihood {name}"]
        for pair in filter(None, (part.strip() for part in found[2].split(","))):
            key, _, item = pair.partition("=")
            if item and item != "None":
                key = {"axis": "class-axis"}.get(key, key.replace("_", "-"))
                words.append(f"--{key} {item.strip(chr(39))}")
        return " ".join(words)

    text = _VALUE.sub(value, text)
    for python, option in _SPELLINGS:
        text = re.sub(python, option, text)
    return text


_SPELLINGS = (
    (r"\btrust=True", "--trust"),
    (r"\bprefix='([^']*)'", r"--prefix \1"),
    (r"\bprefix=(?!\w)", "--prefix"),
    (r"\bencoder_builder=(?!\w)", "--encoder-builder MODULE:FUNCTION"),
    (r"\bbuilder=(?!\w)", "--builder MODULE:FUNCTION"),
    (r"\blatent_dim=(?!\w)", "--latent-dim"),
    (r"\blikelihood=(?!\w)", "--likelihood"),
    (r"\bsigma=(?![\w(])", "--sigma"),
    (r"\binverse_dispersion=(?![\w(])", "--inverse-dispersion"),
)
