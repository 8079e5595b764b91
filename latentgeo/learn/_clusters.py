"""What k-means and k-medoids share: codes belong to the nearest of some centres, by any distance."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning

from .._calculus import check_integer
from ._base import Geometric
from ._lloyd import nearest
from ._spaces import Array, Space

__all__ = ["Centred"]


class Centred(Geometric, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Base of clusterings with centres; `fit` sets `cluster_centers_` and the space that measures from them."""

    n_clusters: int
    cluster_centers_: NDArray[Any]
    _space: Space

    def _check(self, X: NDArray[Any]) -> None:
        """Raise ValueError if a parameter that all have is out of range."""
        for name in ("n_clusters", "n_init", "max_iter", "n_candidates"):
            check_integer(getattr(self, name), name)
        if len(X) < self.n_clusters:
            raise ValueError(f"n_samples={len(X)} should be >= n_clusters={self.n_clusters}.")

    def _warn_of_few(self, count: int) -> None:
        """Say that there are fewer distinct codes than clusters, if so; called from `fit`."""
        if count < self.n_clusters:
            warnings.warn(
                f"Number of distinct clusters ({count}) found smaller than n_clusters ({self.n_clusters}). "
                "Possibly due to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _measured(self, X: NDArray[Any]) -> Array:
        """Distances (n_clusters, n) from the centres."""
        return self._space.between(self.cluster_centers_.astype(np.float64), np.asarray(X, dtype=np.float64))

    def predict(self, X: ArrayLike) -> NDArray[np.intp]:
        """The cluster of each code: its nearest centre; −1 where none can be reached.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)

        Returns
        -------
        ndarray of shape (n_samples,)

        Raises
        ------
        NotFittedError, ValueError
            If it is not fitted, or X holds NaN or has another dimension.
        """
        return nearest(self._measured(self._codes(X, reset=False)))[0]

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Geodesic distance of each code to each centre.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)

        Returns
        -------
        ndarray of shape (n_samples, n_clusters)
            In units of the metric's embedding; inf where there is no way.

        Raises
        ------
        NotFittedError, ValueError
            If it is not fitted, or X holds NaN or has another dimension.
        """
        X = self._codes(X, reset=False)
        return np.ascontiguousarray(self._measured(X).T, dtype=X.dtype)

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)
