"""What the options of solvers have in common: how they are checked."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..._calculus import check_integer, check_positive

__all__ = ["check_options"]

_TOLERANCES = ("rtol", "residual_tol")


def check_options(solver: Any, **least: int) -> None:
    """Check the fields that solvers share.

    Parameters
    ----------
    solver : dataclass
        Its tolerances must be positive, or None where that is their default; `max_points` at least `n_points`.
    **least : int
        Least values of its counts.

    Raises
    ------
    ValueError
        If any is not.
    """
    fields = {f.name: f for f in dataclasses.fields(solver)}
    for name, bound in least.items():
        check_integer(getattr(solver, name), name, bound)
    if "n_points" in fields and "max_points" in fields:
        check_integer(solver.max_points, "max_points", solver.n_points)
    for name in _TOLERANCES:
        if name in fields:
            check_positive(getattr(solver, name), name, optional=fields[name].default is None)
