"""`GeodesicKMeans`: k-means whose distances are geodesic and whose centres are Fréchet means.

The clustering of Arvanitidis, Hansen, Hauberg, "Latent Space Oddity" (ICLR 2018, section 5), with k-means++ seeds
(Arthur & Vassilvitskii 2007).
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning

from .._calculus import check_integer
from .._calculus.seeds import numpy_random
from ..geodesics import LatentGraph
from ..metrics import Metric
from ._base import as_numpy, check_weights, merge
from ._clusters import Centred
from ._lloyd import Clustering, inertia, lloyd, masses, medoid_lloyd, nearest, seeds
from ._refine import SMOOTH_DIM, polished, smoothed
from ._spaces import Array, Graph, Space, space

__all__ = ["GeodesicKMeans"]

_SMOOTHED = 3  # of the best runs whose centres leave the codes before one is chosen
_BATCH = 20_000  # codes that runs with a graph see, unless told otherwise


class GeodesicKMeans(Centred):
    r"""k-means under a Riemannian metric.

    Minimises Σ wᵢ min_k d(zᵢ, c_k)². A fit depends on the weighted set of codes alone: not on their order, nor on
    whether a code of weight two is given twice.

    With ``distances="graph"`` the distances are shortest paths in a `LatentGraph`. Every run seeds and iterates over
    candidate centres among the codes (each cluster's medoid), so that all runs share one table of distances. The best
    runs' centres then leave the codes: for d ≤ 3 by minima of quadratics through what the table says, and finally by
    Karcher steps along refined geodesics, as long as the distances to all codes agree that they are better. For d > 3,
    where a graph's paths are detours between sparse codes, distances from centres that are no longer codes are those of
    straight lines where these are shorter.

    With ``distances="exact"`` every distance is a refined geodesic: for a few hundred codes. In Euclidean space both
    are closed forms, and this is Lloyd's algorithm.

    Parameters
    ----------
    metric : Metric, optional
        None means Euclidean of any dimension.
    n_clusters : int
    init : {"k-means++", "random"} or array of shape (n_clusters, d)
        How the centres start; k-means++ draws codes in proportion to their *squared* geodesic distance.
    n_init : int
        Runs from different seeds, of which the one with the least inertia is kept; one where `init` is an array.
    max_iter : int
        Most steps of a run, and of the best run's refinement.
    tol : float
        A run has settled when the centres' squared geodesic steps sum to less than `tol` times the inertia per unit of
        weight.
    distances : {"graph", "exact"}
    graph : LatentGraph, optional
        Of the same metric. Fitted, it is used as it is; not fitted, its options are. None means the default graph.
    n_candidates : int
        With a graph: how many of the codes may be centres in the search. More take longer, in proportion.
    n_refine : int
        With a graph: how many codes of each cluster, each standing for those around it, Karcher steps see; 0 for none:
        then centres are codes, or for d ≤ 3 minima of quadratics between them.
    batch_size : int, "auto" or None
        With more codes than this, runs see a random batch of that many, and the best ones' centres go on with all
        codes. A graph's table of distances takes ``4·n_candidates·batch_size`` bytes. "auto" means 20,000 with a graph
        and all codes else, None always all.
    solver : Newton, optional
        Of the refined geodesics.
    random_state : int, RandomState, torch.Generator or None
    n_jobs : int, optional
        Workers that the table of distances (or the exact distances) is shared among, as joblib counts them.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, d)
    labels_ : ndarray of shape (n_samples,)
        −1 for codes from which no centre can be reached, where the metric is not finite in between.
    inertia_ : float
        Weighted sum of squared geodesic distances to the nearest centre.
    n_iter_ : int
    graph_ : LatentGraph
        Only with a graph.
    metric_ : Metric
        `metric`, or what None means.
    n_features_in_ : int

    Warns
    -----
    ConvergenceWarning
        If the best run did not settle, there are fewer distinct codes than clusters, or codes are out of reach.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379.
    .. [2] Arthur, Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.

    Examples
    --------
    >>> from latentgeo.metrics import Sphere
    >>> codes = np.array([[0.0, 0.1], [0.1, 0.0], [0.0, -0.1], [0.9, 0.0], [1.0, 0.1], [1.1, 0.0]])
    >>> model = GeodesicKMeans(Sphere(2), n_clusters=2, random_state=0).fit(codes)
    >>> bool((model.labels_[:3] == model.labels_[0]).all()), np.bincount(model.labels_).tolist()
    (True, [3, 3])
    """

    def __init__(
        self,
        metric: Metric | None = None,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: int = 10,
        max_iter: int = 300,
        tol: float = 1e-4,
        distances: str = "graph",
        graph: LatentGraph | None = None,
        n_candidates: int = 1024,
        n_refine: int = 16,
        batch_size: int | str | None = "auto",
        solver: Any = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.metric = metric
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.distances = distances
        self.graph = graph
        self.n_candidates = n_candidates
        self.n_refine = n_refine
        self.batch_size = batch_size
        self.solver = solver
        self.random_state = random_state
        self.n_jobs = n_jobs

    # --- fitting ------------------------------------------------------------------------------------------------------

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> GeodesicKMeans:
        """Find the clusters.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, d)
        y : ignored
        sample_weight : array of shape (n_samples,), optional

        Returns
        -------
        GeodesicKMeans
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
        rng = numpy_random(self.random_state)
        data = merge(X, weights)
        self._warn_of_few(len(data.codes))
        if len(data.codes) <= self.n_clusters:
            centres = self._each_its_own(data.codes)
        else:
            centres = self._best(data.codes, data.weights, rng)
        self.cluster_centers_ = centres.astype(X.dtype)
        labels, gap = nearest(self._space.to_codes(self.cluster_centers_.astype(np.float64)))
        self.labels_, gap = labels[data.inverse], gap[data.inverse]
        if (idle := data.inverse < 0).any():
            self.labels_[idle], gap[idle] = nearest(self._measured(X[idle]))
        self.inertia_ = inertia(gap, weights)
        if (lost := int((self.labels_ < 0).sum())) and len(data.codes) > self.n_clusters:
            warnings.warn(
                f"{lost} of {len(X)} codes cannot be reached from any centre and are labelled -1: the metric is not "
                "finite in between; more clusters would reach them",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _check(self, X: NDArray[Any]) -> None:
        super()._check(X)
        check_integer(self.n_refine, "n_refine", 0)
        if self.batch_size not in (None, "auto"):
            check_integer(self.batch_size, "batch_size", self.n_clusters)
        if not (isinstance(self.tol, (int, float)) and 0 <= self.tol < np.inf):
            raise ValueError(f"`tol` must be a number of at least 0, got {self.tol!r}")
        if isinstance(self.init, str) and self.init not in ("k-means++", "random"):
            raise ValueError(f"`init` must be 'k-means++', 'random' or an array of centres, got {self.init!r}")

    def _given(self, d: int) -> Array | None:
        """The centres to start from, if `init` says them."""
        if isinstance(self.init, str):
            return None
        centres = np.asarray(as_numpy(self.init), dtype=np.float64)
        if centres.shape != (self.n_clusters, d):
            raise ValueError(f"`init` must have shape ({self.n_clusters}, {d}), got {centres.shape}")
        if not np.isfinite(centres).all():
            raise ValueError("`init` must be finite, got NaN or infinite centres")
        return centres

    def _each_its_own(self, codes: NDArray[Any]) -> Array:
        """Centres where there are no more distinct codes than clusters."""
        self.n_iter_ = 1
        self._space = self._made(np.resize(codes, (max(2, len(codes)), codes.shape[1])))  # a graph needs two
        return np.asarray(np.resize(codes, (self.n_clusters, codes.shape[1])), dtype=np.float64)

    def _made(self, codes: NDArray[Any]) -> Space:
        made = space(
            self.metric_,
            codes,
            distances=self.distances,
            graph=self.graph,
            solver=self.solver,
            n_refine=self.n_refine,
            n_jobs=self.n_jobs,
            straight=codes.shape[1] > SMOOTH_DIM,
        )
        if isinstance(made, Graph):
            self.graph_ = made.graph
        return made

    def _best(self, codes: NDArray[Any], weights: Array, rng: np.random.RandomState) -> Array:
        """Centres of the best run, refined."""
        self._space = whole = self._made(codes)
        given = self._given(codes.shape[1])
        size = self.batch_size
        if size in (None, "auto"):
            size = _BATCH if size == "auto" and isinstance(whole, Graph) else len(codes)
        batch = np.arange(len(codes))
        if len(codes) > int(size):
            batch = np.sort(rng.choice(len(codes), size=int(size), replace=False))
        if isinstance(whole, Graph):
            found = self._search(whole, weights, batch, given, rng)
        else:
            part = whole if len(batch) == len(codes) else self._made(codes[batch])
            found = self._runs(part, weights[batch], given, rng)
            if part is not whole:
                found = self._continued(whole, found, weights)
        self.n_iter_ = found.steps
        if not found.converged:
            warnings.warn(
                f"k-means did not settle in {self.max_iter} steps; raise `max_iter` or `tol`",
                ConvergenceWarning,
                stacklevel=4,
            )
        return np.asarray(found.centres, dtype=np.float64)

    def _continued(self, whole: Space, found: Clustering, weights: Array) -> Clustering:
        after = lloyd(whole, found.centres, weights, max_iter=self.max_iter, tol=self.tol)
        return Clustering(after.centres, after.labels, after.inertia, found.steps + after.steps, after.converged)

    def _runs(self, part: Space, weights: Array, given: Array | None, rng: np.random.RandomState) -> Clustering:
        """The best of `n_init` runs of Lloyd's iteration."""
        everyone = np.arange(len(part.codes))
        found: list[Clustering] = []
        for _ in range(self.n_init if given is None else 1):
            start = given
            if start is None:
                careful = self.init == "k-means++"
                chosen = seeds(part.rows, everyone, weights, weights, self.n_clusters, rng, careful=careful)
                start = part.codes[chosen]
            found.append(lloyd(part, start, weights, max_iter=self.max_iter, tol=self.tol))
        return min(found, key=lambda run: run.inertia)

    def _search(
        self, whole: Graph, weights: Array, batch: NDArray[np.intp], given: Array | None, rng: np.random.RandomState
    ) -> Clustering:
        """The best of `n_init` runs whose centres are candidates, by one table of distances from all candidates."""
        k = self.n_clusters
        count = min(len(batch), max(self.n_candidates, k))
        odds = weights[batch] / weights[batch].sum()
        place = np.arange(len(batch))
        if count < len(batch):
            place = np.sort(rng.choice(len(batch), size=count, replace=False, p=odds))
        table = whole.table(batch[place], batch)
        share = weights[batch]
        labels = None
        if given is not None:
            labels, _ = nearest(whole.to_codes(given)[:, batch])
        mass = masses(nearest(table)[0], share, count)
        found: list[Clustering] = []
        for _ in range(self.n_init if given is None else 1):
            start = None
            if given is None:
                careful = self.init == "k-means++"
                start = seeds(lambda m: table[m], place, mass, share, k, rng, careful=careful)
            found.append(medoid_lloyd(table, place, share, start, labels, k, max_iter=self.max_iter))
        found.sort(key=lambda run: run.inertia)
        ways = [dataclasses.replace(run, centres=whole.codes[batch[place[run.centres]]]) for run in found]
        if whole.codes.shape[1] <= SMOOTH_DIM:
            ways = [
                smoothed(whole, table, batch[place], batch, way, weights, max_iter=self.max_iter, tol=self.tol)
                for way in ways[:_SMOOTHED]
            ]
        best = min(ways, key=lambda way: way.inertia)
        return polished(whole, best, weights) if self.n_refine else best

    # --- use ----------------------------------------------------------------------------------------------------------

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Minus the inertia of codes: the larger, the nearer they are to the centres.

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
        return -inertia(nearest(self._measured(X))[1], check_weights(sample_weight, X))
