"""`Geodesic`: the result of a boundary-value or initial-value problem, with a truthful status per curve."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._calculus import as_numbers
from ..metrics import Metric
from .curve import Curve

__all__ = ["Geodesic", "GeodesicError", "Status"]


class Status(enum.Enum):
    """What became of one curve; the value is a sentence of advice.

    Examples
    --------
    >>> import torch, latentgeo as lg
    >>> path = lg.connect(lg.PoincareBall(2), torch.zeros(2), torch.tensor([2.0, 0.0]), throw=False)
    >>> path.status.item().name
    'NOT_FINITE'
    """

    CONVERGED = "converged"
    MAX_STEPS = "the step limit was reached; raise `max_steps` or give better starting curves by `init=`"
    MAX_POINTS = "the length is not yet accurate to `rtol`; raise `max_points` or `rtol`"
    UNRESOLVED = "ridges of the metric are thinner than the spacing of the nodes; raise `max_points`"
    NOT_MINIMAL = "a critical point that is not a local minimum; give other starting curves by `init=`"
    LONGER = "a geodesic longer than its starting curve, so another must be shorter; give other curves by `init=`"
    SINGULAR = "the boundary-value equations became singular, as near conjugate points; give other curves by `init=`"
    PRECISION = "rounding hides any further progress; use float64 or a larger `residual_tol`"
    NOT_FINITE = "the metric is not finite along the starting curve; start inside the region where it is"
    BAD_ENDPOINT = "an end point is NaN or infinite; check the codes"
    BAD_START = "the code or the velocity is NaN or infinite; check both"
    LEFT_REGION = "the curve came to the edge of the region where the metric is finite; shorten the velocity"
    STEP_LIMIT = "the step limit was reached on the way; raise `max_steps` or `rtol`, or shorten the velocity"
    STEP_FLOOR = "steps became too small to advance, as at a singularity of the metric; use float64 or a larger `rtol`"
    ASTRAY = "no geodesic was found that arrives at the end point; give a better start by `init=`, or use Newton()"
    INACCURATE = "solutions of different tolerances do not agree to `rtol`; use float64 or a larger `rtol`"


class GeodesicError(RuntimeError):
    """Some curves of a batch failed.

    Attributes
    ----------
    result : Geodesic
        The whole batch, failed curves included.

    Examples
    --------
    >>> import torch, latentgeo as lg
    >>> ends = torch.tensor([[0.0, 0.0], [0.9, 0.0]]), torch.tensor([[0.1, 0.0], [2.0, 0.0]])
    >>> try:
    ...     lg.connect(lg.PoincareBall(2), *ends)  # the last end lies outside
    ... except lg.GeodesicError as error:
    ...     found = error.result
    >>> found.converged
    tensor([ True, False])
    """

    def __init__(self, message: str, result: Geodesic) -> None:
        super().__init__(message)
        self.result = result


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Geodesic:
    """Curves on [0, 1] of constant speed, one per batch element.

    Attributes
    ----------
    z : Tensor of shape (*batch, n, d)
        Nodes of every curve at the shared times `t`; a solver's own nodes where a curve needed all n.
    t : Tensor of shape (n,)
        Equally spaced times.
    length : Tensor of shape (*batch,)
        Length of `path(t)`, in units of the metric's embedding.
    length_error : Tensor of shape (*batch,)
        Estimate of |length − length of the exact geodesic in this basin|, absolute.
    energy : Tensor of shape (*batch,)
        ½∫|ċ|²dt; ½·length² for constant speed.
    converged : Tensor of shape (*batch,), bool
    status : object array of Status, shape (*batch,)
    residual : Tensor of shape (*batch,)
        √(decrease that Newton's model still predicts / energy), scale-free.
    certified : Tensor of shape (*batch,), bool
        Whether the discrete energy's undamped Hessian is positive definite: a strict local minimum of it.
    stats : mapping
        Tensors of shape (*batch,): "steps" (Newton steps), "points" (nodes solved for).
    metric : Metric
    pieces : tuple of (indices, Curve)
        The curves as they were solved, with their own numbers of nodes: which of the flattened batch each holds.
        `path(t)` and `velocity(t)` evaluate them.

    Examples
    --------
    >>> from latentgeo.geodesics import connect
    >>> from latentgeo.metrics import Sphere
    >>> path = connect(Sphere(2), torch.zeros(3, 2), torch.eye(2)[[0, 1, 1]])
    >>> path
    Geodesic(batch=(3,), d=2, n=33, 3/3 converged, length 1.57–1.57)
    >>> path.status[0]
    <Status.CONVERGED: 'converged'>
    >>> path(0.5).shape, path.velocity(0.5).shape
    (torch.Size([3, 1, 2]), torch.Size([3, 1, 2]))
    """

    z: Tensor
    t: Tensor
    length: Tensor
    length_error: Tensor
    energy: Tensor
    converged: Tensor
    status: np.ndarray[Any, np.dtype[np.object_]]
    residual: Tensor
    certified: Tensor
    stats: Mapping[str, Tensor]
    metric: Metric
    pieces: tuple[tuple[Tensor, Curve], ...]

    @property
    def batch(self) -> tuple[int, ...]:
        """Batch shape."""
        return tuple(self.length.shape)

    def __call__(self, t: Tensor | float) -> Tensor:
        """Positions at times t in [0, 1].

        Parameters
        ----------
        t : float or Tensor of shape (k,)

        Returns
        -------
        Tensor of shape (*batch, k, d)

        Raises
        ------
        ValueError
            If `t` is not one-dimensional or leaves [0, 1].
        """
        return self._evaluate(t, velocity=False)

    def velocity(self, t: Tensor | float) -> Tensor:
        """Velocities dz/dt at times t in [0, 1], as positions are asked for; shape (*batch, k, d)."""
        return self._evaluate(t, velocity=True)

    def _evaluate(self, t: Tensor | float, *, velocity: bool) -> Tensor:
        times = as_numbers(t, "t", self.z.device)
        times = times[None] if times.ndim == 0 else times
        if times.ndim != 1:
            raise ValueError(f"`t` must be a number or have shape (k,), got shape {tuple(times.shape)}")
        if times.numel() and not bool(((times >= 0) & (times <= 1)).all()):
            raise ValueError(f"`t` must lie in [0, 1], got values from {float(times.min())} to {float(times.max())}")
        d = self.z.shape[-1]
        out = self.z.new_full((self.length.numel(), len(times), d), torch.nan)
        for index, curve in self.pieces:
            out[index] = curve.velocity(times) if velocity else curve(times)
        return out.reshape(*self.batch, len(times), d)

    def __repr__(self) -> str:
        count = self.length.numel()
        batch = f"batch={self.batch}, " if self.batch else ""
        lengths = self.length.detach()
        known = lengths[lengths.isfinite()]
        span = ""
        if known.numel() == 1:
            span = f", length {float(known.flatten()[0]):.4g}"
        elif known.numel():
            span = f", length {float(known.min()):.3g}–{float(known.max()):.3g}"
        return (
            f"Geodesic({batch}d={self.z.shape[-1]}, n={self.z.shape[-2]}, "
            f"{int(self.converged.sum())}/{count} converged{span})"
        )

    def raise_for_status(self) -> Geodesic:
        """Return self if every curve converged.

        Raises
        ------
        GeodesicError
            If any did not: it says how many, why and what to try, and carries this result.
        """
        flat = self.status.reshape(-1)
        failed = [i for i, s in enumerate(flat) if s is not Status.CONVERGED]
        if not failed:
            return self
        counts = {s: sum(flat[i] is s for i in failed) for s in Status}
        reasons = "; ".join(f"{c}× {s.name}: {s.value}" for s, c in counts.items() if c)
        residual = self.residual.detach().reshape(-1)[failed].nan_to_num(-1.0)
        worst = int(residual.argmax())
        known = bool(residual[worst] > 0)
        detail = f"; largest residual {float(residual[worst]):.1e} at curve {failed[worst]}" if known else ""
        raise GeodesicError(
            f"{len(failed)} of {len(flat)} curves failed ({reasons}{detail}). "
            "Pass throw=False to get all curves with a status each, or catch this error and read its `.result`.",
            self,
        )
