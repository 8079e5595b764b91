"""GEORCE: geodesics as an optimal-control problem with the metric frozen at every step.

Rygaard and Hauberg, "GEORCE: a fast new control algorithm for computing geodesics" (2025). Here the metric is taken at
the middle of each segment, so that the curve from b to a is the curve from a to b backwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from ..._calculus import Embedding, as_tolerance
from ...metrics import Metric
from ..curve import Curve
from ..geodesic import Status
from .line_search import LEAST_STEP, MOST_IDLE, judged
from .options import check_options
from .refinement import Descended, doubled, refine
from .solution import Solution

__all__ = ["Georce"]


@dataclasses.dataclass(frozen=True)
class Georce:
    r"""The GEORCE algorithm: each step solves the geodesic problem with metric and metric gradient held fixed.

    With steps u of the curve, metric G and g = ∇(uᵀGu) at the segments' middles, the new steps are
    u = −½G⁻¹(μ + Σ_{later} g), μ being such that they add up to b − a; a line search along the resulting direction uses
    its true slope, so that the energy always falls. It needs first derivatives of the metric only, and no linear system
    larger than d.

    Parameters
    ----------
    n_points : int
        Least number of nodes of a returned curve (solved coarse to fine), at least 3.
    max_points : int
        Most nodes of a curve.
    rtol : float
        Relative error allowed on the length.
    residual_tol : float, optional
        Stop when √(predicted decrease / energy) falls below it; None means 1e-6 in float64 and 1e-3 in float32.
    max_steps : int
        Most steps, refused ones included, at each number of nodes.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] Rygaard, Hauberg, "GEORCE: A Fast New Control Algorithm for Computing Geodesics", 2025.

    Examples
    --------
    >>> from latentgeo.geodesics import distance
    >>> from latentgeo.metrics import Sphere
    >>> a, b = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> distance(Sphere(2), a, b, solver=Georce())
    tensor(1.5708, dtype=torch.float64)
    """

    n_points: int = 33
    max_points: int = 513
    rtol: float = 1e-3
    residual_tol: float | None = None
    max_steps: int = 500

    def __post_init__(self) -> None:
        check_options(self, n_points=3, max_steps=1)

    def solve(self, metric: Metric, start: Curve) -> Solution:
        """Solve for geodesics in the basins of the starting curves (B, n, d), which have finite, distinct ends."""
        tol = as_tolerance(self.residual_tol, start.nodes.dtype)
        return refine(
            metric,
            start,
            levels=doubled(self.n_points, self.max_points),
            least=self.n_points,
            rtol=self.rtol,
            descend=lambda nodes: _Descent(metric, nodes, tol, self.max_steps).run(),
        )


class _Form:
    """The quadratic form uᵀG(z)u of a metric, with its gradient in z; sums in float64."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.flat = metric.flat_embedding
        if self.flat is None:

            def form(y: Tensor) -> Tensor:
                z, u = y.chunk(2, dim=-1)
                return torch.einsum("Bi,Bij,Bj->B", u, metric.tensor(z), u)[:, None]

            name = f"quadratic form of {type(metric).__name__}"
            self.form = metric.cached("form", lambda: Embedding(form, name=name))

    def value(self, z: Tensor, u: Tensor) -> Tensor:
        """uᵀG(z)u, (B, n)."""
        if self.flat is None:
            return self.form(torch.cat([z, u], -1))[..., 0].double()
        flat = self.flat

        def compute(z: Tensor, u: Tensor) -> tuple[Tensor, ...]:
            return (torch.linalg.vector_norm(flat.jvp(z, u), dim=-1).double().square(),)

        return self._by_rows(flat, compute, z, u, copies=4)[0]

    def model(self, z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Metric tensors (B, n, d, d) and gradients ∇_z(uᵀGu) (B, n, d)."""
        if self.flat is None:
            y = torch.cat([z, u], -1)
            slope = self.form.vjp(y, y.new_ones(*y.shape[:-1], 1)).chunk(2, dim=-1)[0]
            return self.metric.tensor(z).double(), slope.double()
        flat = self.flat

        def compute(z: Tensor, u: Tensor) -> tuple[Tensor, ...]:
            J = flat.pushforward_basis(z)
            w = torch.einsum("iRD,Ri->RD", J, u)
            return torch.einsum("iRD,jRD->Rij", J, J).double(), 2 * flat.hvp(z, w, u).double()

        G, slope = self._by_rows(flat, compute, z, u, copies=4 * (1 + z.shape[-1]))
        return G, slope

    @staticmethod
    def _by_rows(
        flat: Embedding, compute: Callable[[Tensor, Tensor], tuple[Tensor, ...]], z: Tensor, u: Tensor, copies: int
    ) -> list[Tensor]:
        """Apply to chunks of rows that keep within the embedding's memory budget; the batch shape is restored."""
        rows, steps = z.reshape(-1, z.shape[-1]), u.reshape(-1, z.shape[-1])
        flat.probe(rows)
        parts = [compute(rows[some], steps[some]) for some in flat.chunks(rows, copies)]
        return [torch.cat(part).reshape(*z.shape[:-1], *part[0].shape[1:]) for part in zip(*parts, strict=True)]


@dataclasses.dataclass
class _Model:
    """Per curve the direction of the nodes, the slope of the energy along it and the decrease it predicts."""

    direction: Tensor  # (B, n, d), zero at the ends
    slope: Tensor  # (B,)
    predicted: Tensor  # (B,)


class _Descent:
    """GEORCE steps with a line search on curves of a fixed number of nodes, in float64 but for the metric itself."""

    def __init__(self, metric: Metric, nodes: Tensor, tol: float, max_steps: int) -> None:
        B = nodes.shape[0]
        self.form, self.dtype, self.tol, self.max_steps = _Form(metric), nodes.dtype, tol, max_steps
        self.z = nodes.double()
        self.ends = nodes[:, [0, -1]]
        self.value = self._value(self.z)
        self.residual = torch.full_like(self.value, torch.inf)
        self.steps = torch.zeros(B, dtype=torch.long, device=nodes.device)
        self.idle = self.steps.clone()
        self.size = torch.ones_like(self.value)
        self.status = [Status.MAX_STEPS] * B
        self.active = torch.ones(B, dtype=torch.bool, device=nodes.device)
        self._finish(torch.arange(B, device=nodes.device), ~self.value.isfinite(), Status.NOT_FINITE)

    def _segments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        middle, u = 0.5 * (z[:, 1:] + z[:, :-1]), z[:, 1:] - z[:, :-1]
        return middle.to(self.dtype), u.to(self.dtype)

    def _value(self, z: Tensor) -> Tensor:
        return 0.5 * (z.shape[1] - 1) * self.form.value(*self._segments(z)).sum(-1)

    def _model(self, z: Tensor) -> _Model:
        middle, u = self._segments(z)
        G, g = self.form.model(middle, u)
        n1, u = u.shape[1], z[:, 1:] - z[:, :-1]
        at_node = 0.5 * (g[:, 1:] + g[:, :-1])
        # Σ_{j>t} of the nodes' gradients, for every segment t
        later = torch.cat([at_node.flip(1).cumsum(1).flip(1), torch.zeros_like(g[:, :1])], 1)
        scale = G.diagonal(dim1=-2, dim2=-1).mean((-2, -1))
        eye = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)
        floor = (1e-12 * scale)[:, None, None, None] * eye
        factor, info = torch.linalg.cholesky_ex((G + floor).nan_to_num(0.0, 0.0, 0.0))
        singular = (info > 0)[..., None, None]
        inverse = torch.cholesky_inverse(torch.where(singular, eye, factor))
        inverse = torch.where(singular, torch.nan, inverse)
        total = torch.linalg.inv_ex(inverse.sum(1))[0]
        pulled = torch.einsum("Bnij,Bnj->Bi", inverse, later)
        mu = -torch.einsum("Bij,Bj->Bi", total, 2 * (z[:, -1] - z[:, 0]) + pulled)
        new = -0.5 * torch.einsum("Bnij,Bnj->Bni", inverse, mu[:, None] + later)
        direction = torch.zeros_like(z)
        direction[:, 1:-1] = (new - u).cumsum(1)[:, :-1]
        Gu = torch.einsum("Bnij,Bnj->Bni", G, u)
        gradient = n1 * (Gu[:, :-1] - Gu[:, 1:] + 0.5 * at_node)
        slope = (gradient * direction[:, 1:-1]).sum((-2, -1))
        return _Model(direction, slope, -0.5 * slope)

    def _finish(self, index: Tensor, mask: Tensor, status: Status) -> None:
        for k in index[mask].tolist():
            if bool(self.active[k]):
                self.status[k] = status
        self.active[index[mask]] = False

    def run(self) -> Descended:
        index = self.active.nonzero()[:, 0]
        model = self._model(self.z[index]) if len(index) else None
        for _ in range(self.max_steps):
            if model is None or len(index) == 0:
                break
            noise = 16 * torch.finfo(self.dtype).eps * self.value[index]
            self.residual[index] = (model.predicted.clamp_min(0.0) / self.value[index].clamp_min(1e-300)).sqrt()
            bad = ~model.direction.isfinite().flatten(1).all(-1) | ~model.slope.isfinite()
            self._finish(index, bad, Status.NOT_FINITE)
            self._finish(index, (self.residual[index] <= self.tol) & (model.slope <= 0), Status.CONVERGED)
            swallowed = (self.idle[index] >= MOST_IDLE) | (self.size[index] < LEAST_STEP) | (model.slope >= 0)
            self._finish(index, swallowed, Status.PRECISION)
            stay = self.active[index]
            index = index[stay]
            model = _Model(model.direction[stay], model.slope[stay], model.predicted[stay])
            if len(index) == 0:
                break
            model = self._try(index, model, noise[stay])
        return Descended(self._nodes(), self.residual, self.steps, self.status)

    def _try(self, index: Tensor, model: _Model, noise: Tensor) -> _Model:
        """One trial per curve: a step that lowers the energy enough is taken, any other shortened."""
        size = self.size[index]
        trial = self.z[index] + size[:, None, None] * model.direction
        value = self._value(trial)
        everywhere = torch.ones_like(index, dtype=torch.bool)
        accepted, idle, self.size[index] = judged(value, self.value[index], model.slope, size, noise, everywhere)
        self.idle[index] = torch.where(idle, self.idle[index] + 1, 0)
        self.steps[index] += 1
        taken = accepted.nonzero()[:, 0]
        if len(taken):
            self.z[index[taken]], self.value[index[taken]] = trial[taken], value[taken]
            fresh = self._model(trial[taken])
            model.direction[taken], model.slope[taken] = fresh.direction, fresh.slope
            model.predicted[taken] = fresh.predicted
        return model

    def _nodes(self) -> Tensor:
        nodes = self.z.to(self.dtype)
        nodes[:, [0, -1]] = self.ends
        return nodes
