"""Arguments that are wrong: what each argument of a call is replaced by, and what must then happen."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import latentgeo as lg

LIMIT = 60  # seconds of one call: it ends, whatever it was given

JUNK: dict[str, Any] = {
    "None": None,
    "a word": "nonsense",
    "minus one": -1,
    "nought": 0,
    "half": 0.5,
    "NaN": math.nan,
    "infinity": math.inf,
    "complex": 1j,
    "a flag": True,
    "an object": object(),
    "an empty list": [],
    "words": ["a", "b"],
    "a number of no shape": torch.tensor(1.0),
    "no rows": torch.zeros(0, 2),
    "five columns": torch.zeros(3, 5),
    "three rows": torch.zeros(3, 2),
    "NaNs": torch.full((2, 2), math.nan),
    "infinite": torch.full((2, 2), math.inf),
    "enormous": torch.full((2, 2), 1e30),
    "integers": torch.ones(2, 2, dtype=torch.int64),
    "double": torch.ones(2, 2, dtype=torch.float64),
    "half precision": torch.ones(2, 2, dtype=torch.float16),
    "imaginary": torch.ones(2, 2, dtype=torch.complex64),
    "NumPy": np.ones((2, 2), dtype=np.float32),
}


def names(error: BaseException, argument: str, arguments: dict[str, Any]) -> bool:
    if isinstance(error, lg.RankError) or argument == "X":  # says at how many codes; scikit-learn's own words
        return True
    return any(re.search(rf"\b{re.escape(name)}\b", str(error)) for name in arguments)


def faults(call: Callable[..., Any], good: dict[str, Any]) -> str:
    """Replace each argument by each piece of junk; what went wrong, one line each."""
    found = []
    for argument in good:
        for junk, value in JUNK.items():
            before = value.clone() if isinstance(value, torch.Tensor) else None
            start = time.monotonic()
            try:
                call(**{**good, argument: value})
            except (TypeError, ValueError, FileNotFoundError, lg.GeodesicError) as error:
                # one raised by another library's code, or by Python's binding of arguments, names nothing of ours
                if not names(error, argument, good):
                    found.append(f"{argument} = {junk}: {type(error).__name__} names no argument: {str(error)[:150]}")
            except Exception as error:  # any other kind is the fault looked for
                found.append(f"{argument} = {junk}: {type(error).__name__}: {str(error)[:150]}")
            if time.monotonic() - start > LIMIT:
                found.append(f"{argument} = {junk}: took {time.monotonic() - start:.0f} s")
            if before is not None and not torch.equal(before.nan_to_num(), value.nan_to_num()):
                found.append(f"{argument} = {junk}: edited in place")
    return "\n".join(found)
