"""`frechet_mean`: the point with the least mean squared geodesic distance to weighted codes.

Fréchet (1948), Karcher (1977); uniqueness after Afsari, "Riemannian Lᵖ center of mass: existence, uniqueness, and
convexity", Proc. AMS 139 (2011).
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._calculus import as_numbers, check_integer
from ..geodesics import LatentGraph, connect
from ..metrics import Euclidean, HalfPlane, Metric, PoincareBall, Sphere
from ._base import as_tensor, check_metric
from ._descent import Descent, MeanStatus, descend

__all__ = ["FrechetMean", "FrechetWarning", "frechet_mean", "starting_point"]

_CANDIDATES = 256  # codes among which a graph's medoid is sought
_SAME = 1e-2  # means nearer to each other than this times the standard deviation are one


class FrechetWarning(UserWarning):
    """A Fréchet mean did not converge, or is not known to be the only one."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FrechetMean:
    """A Fréchet mean and how good it is.

    Attributes
    ----------
    mean : Tensor (or ndarray) of shape (d,)
    variance : float
        Mean squared geodesic distance from the codes, in squared units of the metric's embedding.
    distances : Tensor (or ndarray) of shape (N,)
        Geodesic distance of each code.
    velocities : Tensor (or ndarray) of shape (N, d)
        Logarithm of each code at the mean.
    status : MeanStatus
    n_iter : int
    residual : float
        Length of the mean logarithm, over the standard deviation; zero at an exact mean.
    n_failed : int
        Codes whose geodesics did not converge; their lengths count as they are.
    unique : bool or None
        True where a theorem says so (codes within Afsari's radius, of a metric whose curvature is known); False where
        another start led to another mean as good; None where neither is known.
    n_minima : int
        Different means that the starts led to.

    Examples
    --------
    >>> import torch, latentgeo as lg
    >>> found = lg.frechet_mean(lg.Sphere(2), torch.tensor([[0.2, 0.0], [-0.2, 0.0], [0.0, 0.1], [0.0, -0.1]]))
    >>> found.mean.abs().max() < 1e-3, found.unique
    (tensor(True), True)
    """

    mean: Any
    variance: float
    distances: Any
    velocities: Any
    status: MeanStatus
    n_iter: int
    residual: float
    n_failed: int
    unique: bool | None
    n_minima: int

    @property
    def converged(self) -> bool:
        """Whether the mean logarithm vanishes to the tolerance, and every geodesic converged."""
        return self.status is MeanStatus.CONVERGED

    @property
    def support_radius(self) -> float:
        """Largest distance of a code from the mean."""
        return float(self.distances.max())

    def __repr__(self) -> str:
        known = {True: ", unique", False: ", not unique", None: ""}[self.unique]
        where = ", ".join(f"{x:.4g}" for x in self.mean[:4].tolist()) + (", …" if len(self.mean) > 4 else "")
        done = "converged" if self.converged else self.status.name
        return f"FrechetMean(({where}), variance {self.variance:.4g}, {done} in {self.n_iter} steps{known})"


def frechet_mean(
    metric: Metric | None,
    Z: Any,
    weights: Any = None,
    *,
    init: Any = None,
    graph: LatentGraph | None = None,
    solver: Any = None,
    starts: int = 1,
    tol: float | None = None,
    max_iter: int = 50,
) -> FrechetMean:
    r"""Fréchet mean: the point that minimises Σ wᵢ d(c, zᵢ)².

    A local minimum, near the best of the codes. Found by Riemannian BFGS whose first step is Karcher's; the geodesics
    of each step start from those of the last.

    Parameters
    ----------
    metric : Metric or None
        None means Euclidean.
    Z : Tensor or array of shape (N, d)
        Latent codes. A tensor must have the metric's dtype and device; an array is cast, and arrays come back.
    weights : array of shape (N,), optional
        Not negative, not all zero; None means equal weights.
    init : array of shape (d,), optional
        Where to start. None means the medoid of the graph's distances if there is one, else the code (or the codes'
        latent mean) whose image is nearest to the mean of the images.
    graph : LatentGraph, optional
        Fitted; gives the first geodesics their starts.
    solver : Newton, optional
        Of the geodesics; None means ``Newton()``, whose lengths are good to 1e-3.
    starts : int
        Starts to descend from: the first, and codes far from it and from each other. The best mean is kept.
    tol : float, optional
        Length of the mean logarithm, over the standard deviation, at which to stop; None means 1e-3. The mean is no
        more exact than the geodesics' directions are, whose error falls as the square of the solver's `n_points`.
    max_iter : int
        Most steps.

    Returns
    -------
    FrechetMean

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape, or codes are NaN.

    Warns
    -----
    FrechetWarning
        If it did not converge, if the codes reach beyond the radius within which a mean is known to be unique, or if
        another start led to another mean as good.

    References
    ----------
    .. [1] Karcher, "Riemannian center of mass and mollifier smoothing", CPAM 30 (1977).
    .. [2] Afsari, "Riemannian Lᵖ center of mass: existence, uniqueness, and convexity", Proc. AMS 139 (2011).

    Examples
    --------
    >>> from latentgeo.metrics import HalfPlane
    >>> frechet_mean(HalfPlane(), torch.tensor([[0.0, 1.0], [0.0, 4.0]], dtype=torch.float64))
    FrechetMean((0, 2), variance 0.4805, converged in ... steps, unique)
    """
    given = isinstance(Z, Tensor)
    metric, codes = _checked_codes(metric, Z)
    check_integer(starts, "starts")
    check_integer(max_iter, "max_iter", 0)
    tol = 1e-3 if tol is None else tol
    if not (isinstance(tol, (int, float)) and math.isfinite(tol) and tol > 0):
        raise ValueError(f"`tol` must be a positive number or None, got {tol!r}")
    share = _checked_weights(weights, codes)
    first = starting_point(metric, codes, share, graph) if init is None else _checked_point(init, codes)
    with torch.no_grad():
        points = _spread(codes[share > 0], first, starts)
        results = [_descend(metric, point, codes, share, solver, graph, tol, max_iter) for point in points]
    order = sorted(results, key=lambda r: (not math.isfinite(float(r.variance[0])), float(r.variance[0])))
    result = _outcome(metric, order, share)
    _warn(metric, result, starts)
    return result if given else _as_arrays(result, np.asarray(Z).dtype)


def _checked_codes(metric: Metric | None, Z: Any) -> tuple[Metric, Tensor]:
    shape = tuple(Z.shape) if isinstance(Z, Tensor) else np.shape(Z)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"`Z` must have shape (N, d) with N >= 1, got {shape}")
    metric = check_metric(metric, shape[1])
    if isinstance(Z, Tensor):
        metric.check(Z, name="Z")
        codes = Z.detach()
    else:
        array = np.asarray(Z)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"`Z` must hold real numbers, got {array.dtype}")
        codes = torch.as_tensor(array) if not np.isfinite(array).all() else as_tensor(metric, array, "Z")
    if not bool(codes.isfinite().all()):
        bad = int((~codes.isfinite().all(-1)).sum())
        raise ValueError(f"`Z` must be finite, got {bad} of {len(codes)} codes with NaN or infinity")
    return metric, codes


def _checked_weights(weights: Any, codes: Tensor) -> Tensor:
    if weights is None:
        return torch.ones(len(codes), dtype=torch.float64, device=codes.device)
    w = as_numbers(weights, "weights", codes.device).detach()
    if w.shape != (len(codes),):
        raise ValueError(f"`weights` must have shape ({len(codes)},), one for each code; got {tuple(w.shape)}")
    if not bool(w.isfinite().all()) or bool((w < 0).any()) or not bool((w > 0).any()):
        raise ValueError("`weights` must be finite, none of them negative and not all of them zero")
    return w


def _checked_point(init: Any, codes: Tensor) -> Tensor:
    point = as_numbers(init, "init", codes.device).detach().to(codes)
    if point.shape != codes.shape[1:] or not bool(point.isfinite().all()):
        raise ValueError(f"`init` must be one finite code of shape ({codes.shape[1]},), got shape {tuple(point.shape)}")
    return point


def starting_point(metric: Metric, codes: Tensor, share: Tensor, graph: LatentGraph | None = None) -> Tensor:
    """A point to start from: the graph's medoid, or that of the chords of the embedding."""
    kept = codes[share > 0]
    if bool((kept == kept[0]).all()):
        return kept[0]
    w = share[share > 0] / share.sum()
    middle = (w[:, None] * kept.double()).sum(0).to(kept)
    with torch.no_grad():
        if graph is not None:
            near = (kept - middle).square().sum(-1).argsort()
            some = near[:: max(1, -(-len(near) // _CANDIDATES))]
            squared = graph.distances(kept[some], kept).double().square()
            return kept[some[int((squared * w).sum(-1).argmin())]]
        options = torch.cat([middle[None], kept])
        if metric.embedding is not None:
            x = metric.embedding(options).double()
            gap = (x - (w[:, None] * x[1:]).sum(0)).square().sum(-1)
            return options[int(gap.nan_to_num(torch.inf).argmin())]
        order = torch.cat([torch.zeros(1, dtype=torch.long, device=kept.device), 1 + _nearness(kept, middle)])
        usable = metric.log_volume(options[order]).isfinite()
        return options[order[int(usable.long().argmax())]]


def _nearness(codes: Tensor, point: Tensor) -> Tensor:
    return (codes - point).square().sum(-1).argsort()


def _spread(codes: Tensor, first: Tensor, count: int) -> list[Tensor]:
    """`first`, and codes farthest from it and from each other."""
    points = [first]
    gap = (codes - first).square().sum(-1)
    while len(points) < count and float(gap.max()) > 0:
        points.append(codes[int(gap.argmax())])
        gap = torch.minimum(gap, (codes - points[-1]).square().sum(-1))
    return points


def _descend(
    metric: Metric,
    point: Tensor,
    codes: Tensor,
    share: Tensor,
    solver: Any,
    graph: LatentGraph | None,
    tol: float,
    max_iter: int,
) -> Descent:
    owner = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
    return descend(metric, point[None], codes, owner, share, solver=solver, init=graph, tol=tol, max_iter=max_iter)


def _outcome(metric: Metric, results: list[Descent], share: Tensor) -> FrechetMean:
    best = results[0]
    variance = float(best.variance[0])
    others = [r for r in results[1:] if r.status[0] is not MeanStatus.NOT_FINITE]
    different, rivals = _others(metric, best, others)
    radius = _radius_of_uniqueness(metric)
    reach = float(best.distances[share > 0].max())
    unique = False if rivals else True if reach < radius and best.status[0] is MeanStatus.CONVERGED else None
    return FrechetMean(
        mean=best.mean[0],
        variance=variance,
        distances=best.distances.to(best.mean.dtype),
        velocities=best.velocities,
        status=best.status[0],
        n_iter=int(best.steps[0]),
        residual=float(best.residual[0]),
        n_failed=int(best.failed.sum()),
        unique=unique,
        n_minima=1 + different,
    )


def _others(metric: Metric, best: Descent, others: list[Descent]) -> tuple[int, int]:
    """How many further means there are, and how many of them are as good to the geodesics' accuracy."""
    if not others:
        return 0, 0
    known = [best.mean[0]]
    rivals = 0
    variance = float(best.variance[0])
    for other in others:
        to = torch.stack(known)
        length = connect(metric, other.mean.expand_as(to), to, throw=False).length.double()
        near = length.nan_to_num(torch.inf) <= _SAME * math.sqrt(max(variance, 0.0))
        if bool(near.any()):
            continue
        known.append(other.mean[0])
        rivals += float(other.variance[0]) <= (1 + 3e-3) * variance
    return len(known) - 1, rivals


def _radius_of_uniqueness(metric: Metric) -> float:
    """Codes within this distance of a mean have no other: ½ min(injectivity radius, π/√curvature); 0 if not known."""
    if isinstance(metric, (Euclidean, PoincareBall, HalfPlane)):
        return math.inf
    return 0.5 * math.pi if isinstance(metric, Sphere) else 0.0


def _warn(metric: Metric, result: FrechetMean, starts: int) -> None:
    def say(text: str) -> None:
        warnings.warn(text, FrechetWarning, stacklevel=3)

    if not result.converged:
        count = f" ({result.n_failed} of {len(result.distances)} codes)" if result.n_failed else ""
        say(f"the Fréchet mean did not converge (residual {result.residual:.1e}): {result.status.value}{count}")
    radius = _radius_of_uniqueness(metric)
    if result.unique is False:
        say(f"the Fréchet mean is not unique: {result.n_minima} different means were found, of equal variance")
    elif result.unique is None and radius > 0 and starts == 1 and result.converged:
        say(
            f"the Fréchet mean need not be unique: codes lie up to {result.support_radius:.3g} from it, and only below "
            f"{radius:.3g} is there one mean; `starts=` looks for others"
        )


def _as_arrays(result: FrechetMean, dtype: np.dtype[Any]) -> FrechetMean:
    kind = dtype if dtype.kind == "f" else np.dtype(np.float64)
    arrays = {
        name: getattr(result, name).cpu().numpy().astype(kind, copy=False)
        for name in ("mean", "distances", "velocities")
    }
    return dataclasses.replace(result, **arrays)
