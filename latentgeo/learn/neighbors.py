"""`GeodesicNeighbors`: the geodesically nearest codes, as scikit-learn's transformers of neighbours give them.

A pipeline can put it before any estimator that takes sparse ``metric="precomputed"`` distances (DBSCAN, OPTICS, t-SNE,
Isomap, spectral clustering, nearest-neighbour classifiers).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .._calculus import check_flag, check_integer
from ..geodesics import LatentGraph
from ..metrics import Metric
from ._base import Geometric
from ._spaces import Array, space

__all__ = ["GeodesicNeighbors"]

_ROWS = 256  # queries whose distances to all codes are held at once


class GeodesicNeighbors(Geometric, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Weighted graph of the k geodesically nearest codes: the interface of `sklearn.neighbors.KNeighborsTransformer`.

    Parameters
    ----------
    metric : Metric, optional
        None means Euclidean of any dimension.
    n_neighbors : int
        With ``mode="distance"`` a code of the fit is its own first neighbour, and one more is given.
    mode : {"distance", "connectivity"}
        Values of the matrix: distances, or ones.
    distances : {"graph", "exact"}
        Shortest paths in a graph, or refined geodesics, as in `GeodesicKMeans`.
    graph : LatentGraph, optional
        As in `GeodesicKMeans`.
    solver : Newton, optional
        Of the refined geodesics.
    n_jobs : int, optional
        Workers that exact distances are shared among.

    Attributes
    ----------
    n_samples_fit_ : int
    metric_ : Metric
        `metric`, or what None means.
    n_features_in_ : int
    graph_ : LatentGraph
        Only with a graph.

    Notes
    -----
    Codes out of reach, where the metric is not finite in between, are never neighbours: a row has fewer entries then,
    and what is not stored in a sparse matrix of distances is "too far" to scikit-learn.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> codes = np.array([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0], [1.1, 0.0]])
    >>> GeodesicNeighbors(Sphere(2), n_neighbors=1).fit_transform(codes).indices.reshape(4, 2).tolist()
    [[0, 1], [1, 0], [2, 3], [3, 2]]
    """

    def __init__(
        self,
        metric: Metric | None = None,
        n_neighbors: int = 5,
        *,
        mode: str = "distance",
        distances: str = "graph",
        graph: LatentGraph | None = None,
        solver: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.mode = mode
        self.distances = distances
        self.graph = graph
        self.solver = solver
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: Any = None) -> GeodesicNeighbors:
        """Take the codes that neighbours are sought among.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)
        y : ignored

        Returns
        -------
        GeodesicNeighbors
            Itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter is out of range, or X holds NaN or has another dimension than the metric.
        """
        X = self._codes(X, reset=True)
        check_integer(self.n_neighbors, "n_neighbors")
        if not isinstance(self.mode, str) or self.mode not in ("distance", "connectivity"):
            raise ValueError(f"`mode` must be 'distance' or 'connectivity', got {self.mode!r}")
        codes = X if len(X) > 1 else np.repeat(X, 2, axis=0)  # a graph needs two
        self._space = space(
            self.metric_,
            codes,
            distances=self.distances,
            graph=self.graph,
            solver=self.solver,
            n_jobs=self.n_jobs,
        )
        self._fit_dtype = X.dtype
        self.n_samples_fit_ = len(X)
        return self

    def kneighbors(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """The nearest codes of the fit.

        Parameters
        ----------
        X : array or Tensor of shape (n_queries, d), optional
            None means the codes of the fit, none of them its own neighbour.
        n_neighbors : int, optional
        return_distance : bool

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors)
            Ascending; inf for codes out of reach. Only with `return_distance`.
        indices : ndarray of shape (n_queries, n_neighbors)

        Raises
        ------
        ValueError
            If there are fewer codes than neighbours.
        """
        check_is_fitted(self)
        check_integer(n_neighbors, "n_neighbors", optional=True)
        check_flag(return_distance, "return_distance")
        k = self.n_neighbors if n_neighbors is None else int(n_neighbors)
        queries = None if X is None else self._codes(X, reset=False)
        most = self.n_samples_fit_ - (X is None)
        if k > most:
            raise ValueError(
                f"Expected n_neighbors <= n_samples_fit, but n_neighbors = {k}, n_samples_fit = {self.n_samples_fit_}, "
                f"n_samples = {self.n_samples_fit_ if queries is None else len(queries)}"
            )
        count = self.n_samples_fit_ if queries is None else len(queries)
        length = np.empty((count, k))
        index = np.empty((count, k), dtype=np.intp)
        for s in range(0, count, _ROWS):
            rows = np.arange(s, min(s + _ROWS, count))
            D = self._rows(rows, queries)
            if queries is None:
                D[np.arange(len(rows)), rows] = np.inf
            order = _lowest(D, k)
            if queries is None:  # a code that is out of reach of all others is still not its own neighbour
                own = order == rows[:, None]
                order[own] = ((rows + 1) % self.n_samples_fit_)[own.any(1)]
            index[rows], length[rows] = order, np.take_along_axis(D, order, 1)
        length = length.astype(self._fit_dtype)
        return (length, index) if return_distance else index

    def _rows(self, rows: NDArray[np.intp], queries: NDArray[Any] | None) -> Array:
        """Distances (m, n_samples_fit) from queries, or from codes of the fit."""
        codes = self._space.codes[rows] if queries is None else np.asarray(queries[rows], dtype=np.float64)
        return np.array(self._space.to_codes(codes)[:, : self.n_samples_fit_], dtype=np.float64)

    def kneighbors_graph(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, mode: str | None = None
    ) -> sp.csr_matrix:
        """The nearest codes as a sparse matrix.

        Parameters
        ----------
        X : array or Tensor of shape (n_queries, d), optional
            None means the codes of the fit, none of them its own neighbour.
        n_neighbors : int, optional
        mode : {"connectivity", "distance"}, optional
            None means the estimator's own.

        Returns
        -------
        scipy.sparse.csr_matrix of shape (n_queries, n_samples_fit)
        """
        length, index = self.kneighbors(X, n_neighbors)
        mode = self.mode if mode is None else mode
        if mode not in ("distance", "connectivity"):
            raise ValueError(f"`mode` must be 'distance' or 'connectivity', got {mode!r}")
        near = np.isfinite(length)
        data = length[near] if mode == "distance" else np.ones(int(near.sum()), dtype=length.dtype)
        ends = np.concatenate([[0], np.cumsum(near.sum(1))])
        return sp.csr_matrix((data, index[near], ends), shape=(len(length), self.n_samples_fit_))

    def transform(self, X: ArrayLike) -> sp.csr_matrix:
        """The nearest codes of the fit to each code; a code of the fit is its own nearest.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)

        Returns
        -------
        scipy.sparse.csr_matrix of shape (n_samples, n_samples_fit)
        """
        check_is_fitted(self)
        return self.kneighbors_graph(X, self.n_neighbors + (self.mode == "distance"))

    def fit_transform(self, X: ArrayLike, y: Any = None) -> sp.csr_matrix:
        """Take the codes, and give the nearest of them to each."""
        return self.fit(X).transform(X)

    @property
    def _n_features_out(self) -> int:
        return self.n_samples_fit_


def _lowest(D: Array, k: int) -> NDArray[np.intp]:
    """Positions of the k smallest entries of each row, ascending; the first of equal ones first."""
    if k < D.shape[1]:
        bound = np.partition(D, k - 1, axis=1)[:, k - 1 : k]
        masked = np.where(bound >= D, D, np.inf)
    else:
        masked = D
    return np.argsort(masked, axis=1, kind="stable")[:, :k]
