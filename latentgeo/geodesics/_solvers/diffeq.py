"""`TorchDiffEq`: geodesics from initial values by the solvers of torchdiffeq (R. T. Q. Chen, 2018).

They share one step size over a batch. So that no curve is the less accurate for it, errors are weighed by the greatest
over the batch, not their mean, against each curve's own length; all curves then pay for the stiffest.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..._calculus import as_tolerance
from ...metrics import Metric
from .._ode import Flow, Hermite, Shot, acceleration
from ..curve import Curve
from ..geodesic import Status
from .options import check_options

__all__ = ["TorchDiffEq"]

_ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")
_FIXED = ("rk4", "heun3", "heun2", "midpoint", "euler", "explicit_adams")


@dataclasses.dataclass(frozen=True)
class TorchDiffEq:
    """The initial-value solvers of torchdiffeq, for comparison and for its many methods.

    `RungeKutta` is more accurate for less on all but batches of equally easy curves: it steps every curve on its own,
    measures errors in the metric and estimates the error at the end point.

    Parameters
    ----------
    method : str
        "dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun"; with one step from node to node "rk4",
        "heun3", "heun2", "midpoint", "euler", "explicit_adams".
    rtol : float, optional
        Error allowed in each step of an adaptive method, in latent units relative to the curve's initial velocity;
        None means 1e-6 in float64 and 1e-3 in float32.
    max_steps : int
        Most steps between two nodes.
    n_points : int
        Nodes of the returned curves.

    Raises
    ------
    ValueError
        If a parameter is out of range, or torchdiffeq has no such method.

    References
    ----------
    .. [1] Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", NeurIPS 2018,
       arXiv:1806.07366.

    Examples
    --------
    >>> from latentgeo.geodesics import exp
    >>> from latentgeo.metrics import HalfPlane
    >>> exp(HalfPlane(), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), solver=TorchDiffEq("dopri8"))
    tensor([0.0000, 2.7183])
    """

    method: str = "dopri8"
    rtol: float | None = None
    max_steps: int = 1000
    n_points: int = 33

    def __post_init__(self) -> None:
        check_options(self, max_steps=1, n_points=2)
        if self.method not in _ADAPTIVE + _FIXED:
            raise ValueError(f"`method` must be one of {', '.join(_ADAPTIVE + _FIXED)}, got {self.method!r}")

    def follow(self, metric: Metric, z: Tensor, v: Tensor, *, path: bool) -> Shot:
        """Follow geodesics from codes z with velocities v (B, d), finite and not zero."""
        n = self.n_points if path or self.method in _FIXED else 2
        times = torch.linspace(0.0, 1.0, n, dtype=torch.float64, device=z.device)
        B = len(z)
        states = torch.full((n, B, 2, z.shape[-1]), torch.nan, dtype=torch.float64, device=z.device)
        steps = torch.zeros(B, dtype=torch.long, device=z.device)
        status = [Status.STEP_LIMIT] * B
        begin = acceleration(metric, z, v).isfinite().all(-1)
        for k in (~begin).nonzero()[:, 0].tolist():
            status[k] = Status.NOT_FINITE
        todo = [begin.nonzero()[:, 0]]
        while todo:  # a batch that fails is halved: at most two solves a curve
            rows = todo.pop()
            if len(rows) == 0:
                continue
            why, found, count = self._solve(metric, z[rows], v[rows], times)
            steps[rows] += count
            if why is not Status.CONVERGED and len(rows) > 1:
                todo += rows.tensor_split(2)
                continue
            status[int(rows[0])] = why
            if why is Status.CONVERGED:
                states[:, rows] = found
                for k in rows.tolist():
                    status[k] = why
        reached = torch.where(states[-1].isfinite().flatten(1).all(-1), 1.0, 0.0).double()
        flow = Flow(torch.where(reached[:, None, None] == 1, states[-1], torch.nan), reached, steps, status, [])
        pieces: list[tuple[Tensor, Curve]] = []
        if path:
            where, towards = (part.movedim(0, 1).to(z.dtype) for part in states.unbind(2))
            bends = acceleration(metric, where.flatten(0, 1), towards.flatten(0, 1)).reshape(where.shape)
            pieces = [(torch.arange(B, device=z.device), Hermite(where, towards, bends))]
        return Shot(flow, torch.full_like(reached, torch.nan), pieces)

    def _solve(self, metric: Metric, z: Tensor, v: Tensor, times: Tensor) -> tuple[Status, Any, int]:
        from torchdiffeq import odeint

        count, finite = 0, True

        def rates(_t: Tensor, y: Tensor) -> Tensor:
            nonlocal count, finite
            count += 1
            a = acceleration(metric, y[:, 0].to(z.dtype), y[:, 1].to(z.dtype)).double()
            finite = bool(a.isfinite().all())
            return torch.stack([y[:, 1], a], 1)

        options: dict[str, Any] = {}
        if self.method in _ADAPTIVE:
            # steps end at the nodes: between steps dopri8's interpolant is of lower order than its solution
            options = {
                "norm": lambda error: error.abs().amax(),
                "max_num_steps": self.max_steps,
                "step_t": times[1:],
            }
        rtol = as_tolerance(self.rtol, z.dtype)
        size = torch.linalg.vector_norm(v.double(), dim=-1)[:, None, None].expand(-1, 2, z.shape[-1])
        y = torch.stack([z, v], 1).double()
        try:
            found = odeint(rates, y, times, rtol=0.0, atol=rtol * size, method=self.method, options=options)
        except AssertionError as error:  # how torchdiffeq tells of its limits
            spent = "max_num_steps" in str(error)
            return Status.STEP_LIMIT if spent else Status.STEP_FLOOR if finite else Status.LEFT_REGION, None, count
        if not bool(found[-1].isfinite().all()):
            return Status.LEFT_REGION, None, count
        return Status.CONVERGED, found, count
