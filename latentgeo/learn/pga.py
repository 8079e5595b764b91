"""`GeodesicPCA`: principal component analysis of the logarithms of codes at their Fréchet mean.

Principal geodesic analysis in its tangent-space form: Fletcher, Lu, Pizer, Joshi, "Principal geodesic analysis for the
study of nonlinear statistics of shape", IEEE TMI 23 (2004).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from .._calculus import check_integer
from .._calculus.linalg import cholesky
from ..geodesics import LatentGraph, exp
from ..metrics import Euclidean, Metric
from ._base import Geometric, as_numpy, as_tensor, check_weights, merge
from ._descent import rays
from .frechet import frechet_mean

__all__ = ["GeodesicPCA"]


class GeodesicPCA(Geometric, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Principal directions at the Fréchet mean, along which geodesics explain the most variance.

    Every code is written as a tangent vector at the mean (its logarithm, of the length of its geodesic distance), and
    the vectors' principal components are taken in the metric there.

    Parameters
    ----------
    metric : Metric, optional
        None means Euclidean of any dimension: ordinary principal component analysis.
    n_components : int, optional
        None means all d.
    graph : LatentGraph, optional
        Fitted; gives geodesics their starts.
    solver : Newton, optional
        Of the geodesics.
    tol : float, optional
    max_iter : int
        Of the Fréchet mean; see `frechet_mean`.

    Attributes
    ----------
    mean_ : ndarray of shape (d,)
        Fréchet mean.
    components_ : ndarray of shape (n_components, d)
        Tangent vectors at the mean, orthonormal in the metric, the most variance first.
    explained_variance_ : ndarray of shape (n_components,)
        Variance of the codes' logarithms along each component, in squared units of the metric's embedding (weights
        summing to n, divided by n: they add up to the Fréchet variance if all components are kept).
    explained_variance_ratio_ : ndarray of shape (n_components,)
    n_components_ : int
    n_iter_ : int
        Steps of the Fréchet mean.
    frechet_ : FrechetMean
        The mean with its variance and status; the codes it speaks of are the distinct ones. Not in Euclidean space.
    metric_ : Metric
        `metric`, or what None means.
    n_features_in_ : int

    References
    ----------
    .. [1] Fletcher, Lu, Pizer, Joshi, "Principal geodesic analysis for the study of nonlinear statistics of shape",
       IEEE Transactions on Medical Imaging 23 (2004).

    Examples
    --------
    >>> from latentgeo.metrics import HalfPlane
    >>> codes = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]])
    >>> pca = GeodesicPCA(HalfPlane()).fit(codes)
    >>> pca.explained_variance_ratio_.round(6).tolist()  # they lie on one geodesic
    [1.0, 0.0]
    """

    def __init__(
        self,
        metric: Metric | None = None,
        n_components: int | None = None,
        *,
        graph: LatentGraph | None = None,
        solver: Any = None,
        tol: float | None = None,
        max_iter: int = 50,
    ) -> None:
        self.metric = metric
        self.n_components = n_components
        self.graph = graph
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> GeodesicPCA:
        """Find the mean and the components.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)
        y : ignored
        sample_weight : array of shape (n_samples,), optional

        Returns
        -------
        GeodesicPCA
            Itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter is out of range, or X holds NaN or has another dimension than the metric.
        RankError
            If the metric is rank-deficient at the mean.

        Warns
        -----
        FrechetWarning
            If the mean did not converge, or is not known to be the only one.
        """
        X = self._codes(X, reset=True)
        d = X.shape[1]
        weights = check_weights(sample_weight, X)
        check_integer(self.n_components, "n_components", optional=True)
        count = d if self.n_components is None else int(self.n_components)
        if count > d:
            raise ValueError(f"`n_components` must be at most the {d} features of X, got {count}")
        data = merge(X, weights)
        share = data.weights / data.weights.sum()
        Z = as_tensor(self.metric_, data.codes)
        self.n_iter_ = 1
        if isinstance(self.metric_, Euclidean):
            middle = (torch.as_tensor(share)[:, None] * Z).sum(0)
            vectors = Z - middle
        else:
            found = frechet_mean(
                self.metric_, Z, share, graph=self.graph, solver=self.solver, tol=self.tol, max_iter=self.max_iter
            )
            self.frechet_ = found
            self.n_iter_ = max(1, found.n_iter)
            middle, vectors = found.mean, found.velocities
        factor = self._factor(middle)
        coordinates = vectors.double().cpu().numpy() @ factor
        moment = (share[:, None] * coordinates).T @ coordinates
        variance, axes = np.linalg.eigh(moment)
        variance, axes = variance[::-1][:count].clip(min=0.0), axes[:, ::-1][:, :count]
        largest = np.abs(axes).argmax(0)
        axes = axes * np.where(axes[largest, np.arange(count)] < 0, -1.0, 1.0)
        total = float(np.trace(moment))
        self.mean_ = middle.double().cpu().numpy().astype(X.dtype)
        self.components_ = np.linalg.solve(factor.T, axes).T.astype(X.dtype)
        self.explained_variance_ = variance
        self.explained_variance_ratio_ = variance / total if total > 0 else np.zeros(count)
        self.n_components_ = count
        return self

    def _factor(self, middle: Tensor) -> NDArray[np.float64]:
        """L with G = LLᵀ at the mean: vᵀL are coordinates of a vector in an orthonormal frame."""
        found: NDArray[np.float64] = cholesky(self.metric_.tensor(middle).detach(), "GeodesicPCA").cpu().numpy()
        return found

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Coordinates of codes: components of their logarithms at the mean.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            In units of the metric's embedding; NaN for codes that no geodesic reaches.
        """
        X = self._codes(X, reset=False)
        Z, middle = as_tensor(self.metric_, X), as_tensor(self.metric_, self.mean_[None])
        with torch.no_grad():
            if isinstance(self.metric_, Euclidean):
                vectors = (Z - middle).double().cpu().numpy()
            else:
                start = middle.expand(len(Z), -1)
                vectors = rays(self.metric_, start, Z, self.solver, self.graph).velocity.cpu().numpy()
            G = self.metric_.tensor(middle[0]).double().cpu().numpy()
        return np.asarray(vectors @ G @ self.components_.T.astype(np.float64), dtype=X.dtype)

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """Codes from coordinates, by the exponential map at the mean.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, n_components)

        Returns
        -------
        ndarray of shape (n_samples, d)
            NaN where a geodesic leaves the region where the metric is finite.
        """
        check_is_fitted(self)
        Y = check_array(as_numpy(X), dtype=[np.float64, np.float32])
        if Y.shape[1] != self.n_components_:
            raise ValueError(f"X must have {self.n_components_} components, got {Y.shape[1]}")
        v = as_tensor(self.metric_, Y @ self.components_.astype(np.float64))
        middle = as_tensor(self.metric_, self.mean_[None])
        with torch.no_grad():
            if isinstance(self.metric_, Euclidean):
                out = middle + v
            else:
                out = exp(self.metric_, middle.expand_as(v), v, throw=False)
        return np.asarray(out.double().cpu().numpy(), dtype=Y.dtype)

    @property
    def _n_features_out(self) -> int:
        return self.n_components_
