"""`PairwiseReport`: what became of a matrix of distances, and the error that carries it."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from typing import Any

from numpy.typing import NDArray

from .geodesic import Status

__all__ = ["PairwiseError", "PairwiseReport", "delivered"]


class PairwiseError(RuntimeError):
    """Some distances failed.

    Attributes
    ----------
    distances : array or Tensor
        The whole matrix, NaN where a pair failed.
    report : PairwiseReport
        Which pairs failed and why.

    Examples
    --------
    >>> import torch, latentgeo as lg
    >>> X = torch.tensor([[0.0, 1.0], [1.0, 1.0], [5.0, 0.1]])
    >>> hasty = lg.Newton(n_points=5, max_points=5)
    >>> try:
    ...     lg.pairwise_distances(lg.HalfPlane(), X, refine=True, solver=hasty)
    ... except lg.PairwiseError as error:
    ...     D = error.distances
    >>> D.isnan()[0]
    tensor([False,  True,  True])
    """

    def __init__(self, message: str, distances: Any, report: PairwiseReport) -> None:
        super().__init__(message)
        self.distances = distances
        self.report = report


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PairwiseReport:
    """What became of a matrix of distances.

    Attributes
    ----------
    n_pairs : int
        Distances computed: half of the off-diagonal ones of a symmetric matrix.
    failed : ndarray of shape (k, 2)
        Row and column of each failed pair, NaN in the matrix; of a symmetric one with the row first that is smaller.
    status : tuple of Status, length k
        Why each failed.
    n_infinite : int
        Pairs at distance inf: no path of finite length joins them.
    n_blocks, n_resumed : int
        Blocks in all, and blocks found finished.
    seconds : float
        Time spent on all blocks, over all workers, finished ones included.

    Examples
    --------
    >>> import torch
    >>> from latentgeo.geodesics import pairwise_distances
    >>> from latentgeo.metrics import Euclidean
    >>> D, report = pairwise_distances(Euclidean(2), torch.eye(2), return_report=True)
    >>> report
    PairwiseReport(1 pairs, 0 failed, ... s)
    """

    n_pairs: int
    failed: NDArray[Any]
    status: tuple[Status, ...]
    n_infinite: int
    n_blocks: int
    n_resumed: int
    seconds: float

    def __repr__(self) -> str:
        parts = [f"{self.n_pairs} pairs", f"{len(self.failed)} failed"]
        parts += [f"{self.n_infinite} not joined"] if self.n_infinite else []
        parts += [f"{self.n_resumed}/{self.n_blocks} blocks resumed"] if self.n_resumed else []
        return f"PairwiseReport({', '.join(parts)}, {self.seconds:.1f} s)"

    def reasons(self) -> str:
        """How many failed for which reason."""
        counts = Counter(self.status)
        return "; ".join(f"{counts[s]}× {s.name}: {s.value}" for s in Status if counts[s])


def delivered(distances: Any, report: PairwiseReport, *, throw: bool, return_report: bool) -> Any:
    """The matrix, with its report if that is asked for; an error or a warning if any distance failed."""
    if len(report.failed):
        i, j = report.failed[0]
        message = (
            f"{len(report.failed)} of {report.n_pairs} distances failed ({report.reasons()}); the first is that of "
            f"rows {i} and {j}"
        )
        if throw:
            raise PairwiseError(
                f"{message}. Pass throw=False to have NaN there, with return_report=True for the list, or catch this "
                "error and read its `.distances` and `.report`.",
                distances,
                report,
            )
        if not return_report:
            warnings.warn(f"{message}; they are NaN", stacklevel=3)
    return (distances, report) if return_report else distances
