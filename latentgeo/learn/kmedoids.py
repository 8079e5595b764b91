"""`GeodesicKMedoids`: clusters around codes that are their own centres, by swaps on geodesic distances.

Kaufman & Rousseeuw, "Finding groups in data" (1990), with the fast swaps of Schubert & Rousseeuw (2019).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning

from .._calculus.seeds import numpy_random
from ..geodesics import LatentGraph
from ..metrics import Metric
from ._base import check_weights, merge
from ._clusters import Centred
from ._lloyd import masses, nearest, seeds
from ._pam import swap
from ._spaces import Array, Graph, Space, space

__all__ = ["GeodesicKMedoids"]


class GeodesicKMedoids(Centred):
    r"""k-medoids under a Riemannian metric: Σ wᵢ min_k d(zᵢ, m_k), the medoids m_k being codes.

    Distances are not squared, so that codes far from everything pull less than in k-means. A fit depends on the
    weighted set of codes alone, not on their order.

    Parameters
    ----------
    metric : Metric, optional
        None means Euclidean of any dimension.
    n_clusters : int
    init : {"k-means++", "random"}
        How the medoids start.
    n_init : int
        Runs from different seeds, of which the one with the least loss is kept.
    max_iter : int
        Most passes over the candidates of a run.
    distances : {"graph", "exact"}
        Shortest paths in a graph, or refined geodesics, as in `GeodesicKMeans`.
    graph : LatentGraph, optional
        As in `GeodesicKMeans`.
    n_candidates : int
        How many codes may be medoids; a random choice of that many where there are more.
    solver : Newton, optional
        Of the refined geodesics.
    random_state : int, RandomState, torch.Generator or None
    n_jobs : int, optional
        Workers that the table of distances is shared among, as joblib counts them.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, d)
    medoid_indices_ : ndarray of shape (n_clusters,)
        Rows of X.
    labels_ : ndarray of shape (n_samples,)
        −1 for codes from which no medoid can be reached.
    inertia_ : float
        Weighted sum of distances to the nearest medoid.
    n_iter_ : int
    metric_ : Metric
        `metric`, or what None means.
    n_features_in_ : int

    Warns
    -----
    ConvergenceWarning
        If the best run did not settle, or there are fewer distinct codes than clusters.

    References
    ----------
    .. [1] Kaufman, Rousseeuw, "Finding groups in data", 1990.
    .. [2] Schubert, Rousseeuw, "Faster k-medoids clustering", SISAP 2019, arXiv:1810.05691.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> codes = np.array([[0.0, 0.1], [0.0, 0.0], [0.0, -0.1], [0.9, 0.0], [1.0, 0.0], [1.1, 0.0]])
    >>> GeodesicKMedoids(Sphere(2), n_clusters=2, random_state=0).fit(codes).medoid_indices_.tolist()
    [1, 4]
    """

    def __init__(
        self,
        metric: Metric | None = None,
        n_clusters: int = 8,
        *,
        init: str = "k-means++",
        n_init: int = 3,
        max_iter: int = 100,
        distances: str = "graph",
        graph: LatentGraph | None = None,
        n_candidates: int = 2048,
        solver: Any = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.metric = metric
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.distances = distances
        self.graph = graph
        self.n_candidates = n_candidates
        self.solver = solver
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> GeodesicKMedoids:
        """Find the medoids.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)
        y : ignored
        sample_weight : array of shape (n_samples,), optional

        Returns
        -------
        GeodesicKMedoids
            Itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter is out of range, X holds NaN, has another dimension than the metric or fewer codes than
            clusters.
        """
        X = self._codes(X, reset=True)
        weights = check_weights(sample_weight, X)
        self._check(X)
        if self.init not in ("k-means++", "random"):
            raise ValueError(f"`init` must be 'k-means++' or 'random', got {self.init!r}")
        rng = numpy_random(self.random_state)
        data = merge(X, weights)
        codes = np.resize(data.codes, (max(2, len(data.codes)), X.shape[1]))  # a graph needs two
        self._space = space(
            self.metric_,
            codes,
            distances=self.distances,
            graph=self.graph,
            solver=self.solver,
            n_jobs=self.n_jobs,
        )
        self._warn_of_few(len(data.codes))
        if len(data.codes) <= self.n_clusters:
            medoids = np.resize(np.arange(len(data.codes)), self.n_clusters)
            self.n_iter_ = 1
        else:
            medoids = self._best(self._space, data.weights, rng)
        first = np.full(len(data.codes), len(X))
        np.minimum.at(first, data.inverse[data.inverse >= 0], np.flatnonzero(data.inverse >= 0))
        self.medoid_indices_ = first[medoids]
        self.cluster_centers_ = X[self.medoid_indices_]
        labels, gap = nearest(self._measured(X))
        self.labels_ = labels
        self.inertia_ = float(weights @ np.where(np.isfinite(gap), gap, 0.0))
        return self

    def _best(self, whole: Space, weights: Array, rng: np.random.RandomState) -> NDArray[np.intp]:
        """Rows of the best run's medoids."""
        n, k = len(weights), self.n_clusters
        count = min(n, max(self.n_candidates, k))
        which = np.arange(n)
        if count < n:
            which = np.sort(rng.choice(n, size=count, replace=False, p=weights / weights.sum()))
        everyone = np.arange(n)
        table = whole.table(which, everyone) if isinstance(whole, Graph) else whole.rows(which)
        mass = masses(nearest(table)[0], weights, count)
        finite = table[np.isfinite(table)]
        # a code out of reach is as far as can be, but not infinitely: swaps compare sums
        far = 10 * float(finite.max()) if finite.size else 1.0
        table = np.where(np.isfinite(table), table, far)
        found = []
        for _ in range(self.n_init):
            careful = self.init == "k-means++"
            start = seeds(lambda m: table[m], which, mass, weights, k, rng, careful=careful)
            found.append(swap(table, weights, start, max_iter=self.max_iter))
        medoids, _, self.n_iter_, settled = min(found, key=lambda run: run[1])
        if not settled:
            warnings.warn(
                f"k-medoids did not settle in {self.max_iter} passes; raise `max_iter`",
                ConvergenceWarning,
                stacklevel=3,
            )
        return np.sort(which[medoids])

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Minus the weighted sum of distances to the nearest medoid: the larger, the nearer codes are to those.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)
        y : ignored
        sample_weight : array of shape (n_samples,), optional

        Returns
        -------
        float
        """
        X = self._codes(X, reset=False)
        gap = nearest(self._measured(X))[1]
        return -float(check_weights(sample_weight, X) @ np.where(np.isfinite(gap), gap, 0.0))
