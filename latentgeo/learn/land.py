"""`LAND`: locally adaptive normal distributions and their mixtures.

Arvanitidis, Hansen, Hauberg, "A locally adaptive normal distribution" (NeurIPS 2016, arXiv:1606.02518).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from .._calculus import check_integer
from .._calculus.seeds import numpy_random
from ..geodesics import LatentGraph
from ..metrics import Metric
from ._base import Geometric, as_numpy, as_tensor
from ._land_em import Fit, State, expect, fit, settled
from ._land_sample import draw
from ._land_space import Curved
from ._land_start import checked, memberships, space_of, started

__all__ = ["LAND"]

Array = NDArray[np.float64]


class LAND(Geometric, DensityMixin, BaseEstimator):
    r"""Mixture of locally adaptive normal distributions: normal in the metric's own coordinates about each mean.

    .. math:: p(z) = \sum_k \frac{π_k}{C_k} \exp\!\big(-\tfrac12 ⟨\log_{μ_k} z, Γ_k \log_{μ_k} z⟩\big)

    is a density with respect to the Riemannian measure √det G(z) dz. Its constants C are integrals over the segment
    domain of each mean, of which they state the standard error. Fitted by expectation maximisation; in Euclidean space
    it is scikit-learn's ``GaussianMixture`` with full covariances.

    Parameters
    ----------
    metric : Metric, optional
        None means Euclidean of any dimension.
    n_components : int
    measure : {"riemannian", "lebesgue"}
        What `score_samples` is the density of: per unit of Riemannian volume, or of latent volume, which is the same
        times √det G(z). The law, the fit and `predict_proba` do not depend on it.
    variant : {"exact", "paper"}
        "paper" has the formulas of [1]_: constants without the differential of the exponential map and over the whole
        tangent plane, gradients without the turning of logarithms. For comparison: its densities do not integrate to 1.
    tol : float
        The fit has converged when the mean log-likelihood changes by less.
    reg_covar : float
        Added to the variances along each direction of unit length, in squared units of length.
    max_iter, n_init : int
        Steps of each run at most; runs, of which the likeliest is kept.
    init_params : {"kmeans", "geodesic-kmeans", "random"}
        Which clusters start the runs: of k-means on the codes, of `GeodesicKMeans`, or random responsibilities.
    weights_init, means_init, precisions_init : array, optional
        Shapes (K,), (K, d), (K, d, d); as `weights_`, `means_`, `precisions_`. They replace what the clusters give.
    n_directions, n_radii : int
        Geodesics from each mean that its constant is integrated along, and points on each. After the fit four times as
        many directions give the final constants.
    segment_tol : float
        A point of a ray counts as within the segment domain if its distance is at least ``1 - segment_tol`` times the
        length of the ray up to it.
    graph : LatentGraph, optional
        Where geodesics start from. Fitted, it is used as it is; not fitted, its options are. None means the default.
    solver : Newton, optional
        Of the logarithms.
    shooter : RungeKutta, optional
        Of the rays; None means steps accurate to 1e-3 in float32 and to 1e-6 in float64.
    random_state : int, RandomState, torch.Generator or None
    progress : bool, optional
        Show a progress bar; None means on a terminal.

    Attributes
    ----------
    weights_ : ndarray of shape (K,)
    means_ : ndarray of shape (K, d)
    covariances_ : ndarray of shape (K, d, d)
        Σ = Γ⁻¹ of tangent vectors (velocities) at the means, in latent coordinates.
    precisions_ : ndarray of shape (K, d, d)
        Γ in the same coordinates: the exponent is −½ vᵀΓv for v = log z in latent coordinates.
    scales_ : ndarray of shape (K, d)
        Standard deviations along the principal axes, ascending, in units of length of the metric.
    log_normalizers_, normalizer_errors_ : ndarray of shape (K,)
        log C, with respect to the Riemannian measure, and its standard error: the relative one of C.
    lower_bound_, lower_bounds_ : float, list of float
        Mean log-likelihood per code (Riemannian) before the last step, and before each.
    n_iter_ : int
    converged_ : bool
    failed_logs_, lost_logs_ : ndarray of shape (K,)
        Codes whose geodesic from the mean did not converge, and those of them without a finite length. The former
        count with the curve found, the latter have density 0 under that component; a code out of reach of all
        components takes no part in the fit, with a warning.
    lost_exp_ : ndarray of shape (K,)
        Share of each normal distribution's mass where the exponential map could not be computed; it counts as outside
        of the domain, and C lacks about that share.
    graph_ : LatentGraph
        Not in Euclidean space.
    metric_ : Metric
        `metric`, or what None means.
    n_features_in_ : int

    Warns
    -----
    ConvergenceWarning
        If the best run did not converge, codes are out of reach, or exponential maps failed for more than 1 % of a
        component's mass.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "A locally adaptive normal distribution", NeurIPS 2016, arXiv:1606.02518.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> codes = 0.2 * np.random.RandomState(0).standard_normal((50, 2))
    >>> metric = Sphere(2)
    >>> land = LAND(metric, graph=LatentGraph(metric, grid=0), random_state=0).fit(codes)
    >>> land.scales_.round(2)  # lengths are twice the latent ones at 0
    array([[0.38, 0.4 ]])
    """

    def __init__(
        self,
        metric: Metric | None = None,
        n_components: int = 1,
        *,
        measure: str = "riemannian",
        variant: str = "exact",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        n_directions: int = 32,
        n_radii: int = 16,
        segment_tol: float = 0.01,
        graph: LatentGraph | None = None,
        solver: Any = None,
        shooter: Any = None,
        random_state: Any = None,
        progress: bool | None = None,
    ) -> None:
        self.metric = metric
        self.n_components = n_components
        self.measure = measure
        self.variant = variant
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.n_directions = n_directions
        self.n_radii = n_radii
        self.segment_tol = segment_tol
        self.graph = graph
        self.solver = solver
        self.shooter = shooter
        self.random_state = random_state
        self.progress = progress

    # --- fitting ----------------------------------------------------------------------------------------------------

    def fit(self, X: ArrayLike, y: Any = None) -> LAND:
        """Estimate the mixture.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)
        y : ignored

        Returns
        -------
        LAND
            Itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter is out of range; if X holds NaN, has another dimension than the metric or fewer codes than
            components; if a covariance collapses, or no code can be reached from any mean.
        """
        X = self._codes(X, reset=True, least=2)
        given = checked(self, X)
        rng = numpy_random(self.random_state)
        codes = np.asarray(X, dtype=np.float64)
        Z = as_tensor(self.metric_, codes).double().cpu()
        starts = [memberships(self, codes, rng) for _ in range(self.n_init)]
        self._space = space_of(self, codes, rng)
        if isinstance(self._space, Curved):
            self.graph_ = self._space.graph
        best: Fit | None = None
        total = self.max_iter * self.n_init
        hidden = None if self.progress is None else not self.progress
        with torch.no_grad(), tqdm(total=total, desc="LAND", unit="step", disable=hidden, leave=False) as bar:
            for responsibilities in starts:
                state = started(self._space, Z, responsibilities, given, self.reg_covar)
                found = fit(self._space, Z, state, max_iter=self.max_iter, tol=self.tol, reg=self.reg_covar, bar=bar)
                if best is None or found.bounds[-1] > best.bounds[-1]:
                    best = found
            assert best is not None  # noqa: S101  # n_init is at least 1
            state = settled(self._space, best.state, Z, _FINAL * self.n_directions, rng)
        self.converged_, self.n_iter_ = best.converged, len(best.bounds)
        self.lower_bound_, self.lower_bounds_ = best.bounds[-1], best.bounds
        self._keep(state, len(Z))
        return self

    def _keep(self, state: State, count: int) -> None:
        frame, S = state.place.frame, state.S
        self._place, self._S, self._rays = state.place, S, state.rays
        self.weights_ = state.weights.numpy()
        self.means_ = state.place.mean.numpy()
        self.covariances_ = (frame @ S @ frame.mT).numpy()
        self.precisions_ = np.linalg.inv(self.covariances_)
        self.scales_ = torch.linalg.eigvalsh(S).sqrt().numpy()
        self._normal = state.normal
        self.log_normalizers_ = state.normal.log_constant.numpy()
        self.normalizer_errors_ = state.normal.error.numpy()
        self.lost_exp_ = state.normal.lost.numpy()
        self.failed_logs_ = state.logs.failed.sum(1).numpy()
        self.lost_logs_ = state.logs.lost.sum(1).numpy()
        self._warn(int(state.logs.lost.all(0).sum()), count)

    def _warn(self, unreachable: int, count: int) -> None:
        said = []
        if not self.converged_:
            said.append(
                f"LAND did not converge in {self.max_iter} steps; raise `max_iter` or `tol`, or try other `init_params`"
            )
        if unreachable:
            said.append(
                f"{unreachable} of {count} codes cannot be reached from any mean and took no part in the fit: the "
                "metric is not finite in between"
            )
        if (worst := float(self.lost_exp_.max())) > 0.01:
            said.append(
                f"the exponential map could not be computed for {worst:.1%} of a component's mass, which its constant "
                "lacks; give a `shooter` of smaller `rtol` or more `max_steps`, or float64"
            )
        for text in said:
            warnings.warn(text, ConvergenceWarning, stacklevel=4)

    # --- use --------------------------------------------------------------------------------------------------------

    def log_joint(self, X: ArrayLike) -> Array:
        """Log-density of each code under each component, times its weight: densities and labels for one price.

        The log of the sum of their exponentials is `score_samples`; where they are greatest is `predict`.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)

        Returns
        -------
        ndarray of shape (n_samples, K)
            log π_k p_k(z), with respect to `measure`; minus infinity where no geodesic to the mean was found.

        Raises
        ------
        NotFittedError, ValueError
            If it is not fitted, or X holds NaN or has another dimension.
        """
        joint, codes = self._joint(X)
        if self.measure == "lebesgue":
            with torch.no_grad():
                joint = joint + self.metric_.log_volume(self._tensor(codes)).double().cpu().numpy()[:, None]
        return joint

    def _joint(self, X: ArrayLike, reach: float | None = None) -> tuple[Array, NDArray[Any]]:
        """Weighted log-densities (n, K), Riemannian, and the codes; with a `reach`, rough ones of codes within it."""
        codes = self._codes(X, reset=False)
        Z = self._tensor(codes)
        space, place, everyone = self._space, self._place, torch.arange(len(self._S))
        with torch.no_grad():
            if reach is None or not isinstance(space, Curved):
                logs = space.logs(place, Z.double().cpu(), everyone)
            else:
                near = torch.ones(len(everyone), len(Z), dtype=torch.bool)
                if space.graph is not None:
                    away = space.graph.distances(self._tensor(self.means_), Z).double().cpu()
                    near = _SLACK * away < reach * torch.as_tensor(self.scales_[:, -1:])
                logs = space.rough_logs(place, Z.double().cpu(), near)
            weights = torch.as_tensor(self.weights_)
            state = State(place, self._S, weights, logs, None, self._normal, torch.ones(len(everyone)))
            return np.asarray(expect(state)[0].T.numpy()), codes

    def rough_score_samples(self, X: ArrayLike, *, reach: float = 4.5) -> Array:
        """Riemannian log-density good enough for pictures, for many codes that are mostly far from all means.

        Geodesics are solved to 1 % of their lengths, and only where the graph's distance to a mean is within `reach` of
        its component's largest standard deviations.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)
        reach : float

        Returns
        -------
        ndarray of shape (n_samples,)
            Whatever `measure` is, per unit of Riemannian volume; minus infinity beyond the reach.
        """
        return _whole(self._joint(X, reach)[0])

    def score_samples(self, X: ArrayLike) -> Array:
        """Log-density of each code, with respect to `measure`.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)

        Returns
        -------
        ndarray of shape (n_samples,)
            Minus infinity where no geodesic to any mean was found.
        """
        return _whole(self.log_joint(X))

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log-density of codes."""
        return float(self.score_samples(X).mean())

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probability of each component given each code, (n_samples, K); NaN where no component is in reach."""
        joint = self._joint(X)[0]
        whole = _whole(joint)
        return np.asarray(np.exp(joint - np.where(whole > -np.inf, whole, np.nan)[:, None]))

    def predict(self, X: ArrayLike) -> NDArray[np.intp]:
        """The likeliest component of each code, (n_samples,); −1 where no component is in reach."""
        joint = self._joint(X)[0]
        return np.where(joint.max(1) > -np.inf, joint.argmax(1), -1)

    def fit_predict(self, X: ArrayLike, y: Any = None) -> NDArray[np.intp]:
        """Fit, and say the likeliest component of each code."""
        return self.fit(X).predict(X)

    def sample(self, n_samples: int = 1) -> tuple[Array, NDArray[np.intp]]:
        """Draw codes by rejection, of tangent vectors that the rays of the constant foretell.

        The bound is the greatest ratio met so far of a vector's change of volume to the nearest ray's; vectors beyond
        the segment domain are refused. In Euclidean space nothing is refused.

        Parameters
        ----------
        n_samples : int

        Returns
        -------
        codes : ndarray of shape (n_samples, d)
        labels : ndarray of shape (n_samples,)
            The component of each, ascending.

        Raises
        ------
        RuntimeError
            If almost everything is refused.
        """
        self._codes(self.means_, reset=False)
        check_integer(n_samples, "n_samples")
        rng = numpy_random(self.random_state)
        counts = rng.multinomial(n_samples, self.weights_ / self.weights_.sum())
        with torch.no_grad():
            parts = [draw(self._space, self._place, self._S, self._rays, k, int(n), rng) for k, n in enumerate(counts)]
        return np.concatenate(parts), np.repeat(np.arange(len(counts)), counts)

    def _n_parameters(self) -> int:
        K, d = self.means_.shape
        return int(K * d + K * d * (d + 1) // 2 + K - 1)

    def aic(self, X: ArrayLike) -> float:
        """Akaike's information criterion; the lower the better."""
        return -2 * self.score(X) * len(as_numpy(X)) + 2 * self._n_parameters()

    def bic(self, X: ArrayLike) -> float:
        """The Bayesian information criterion; the lower the better."""
        n = len(as_numpy(X))
        return -2 * self.score(X) * n + self._n_parameters() * float(np.log(n))


_FINAL = 4  # times as many directions for the final constants
_SLACK = 0.9  # graph distances exceed geodesic ones by less


def _whole(joint: Array) -> Array:
    """Log of the sum over components, minus infinity where all are."""
    return np.asarray(np.logaddexp.reduce(joint, axis=1))
