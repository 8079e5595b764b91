"""`LatentGraph`: near-global distances and starting curves from shortest paths over a grid, or over codes.

After Chen, Ferroni, Klushyn, Paraschos, Bayer, van der Smagt, "Fast Approximate Geodesics for Deep Generative Models"
(2019, arXiv:1812.08284): edges weigh what their segments measure. Here a grid takes the codes' place for d ≤ 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._calculus import broadcast_pair, check_flag, check_integer
from ..metrics import Metric, need_metric
from ._graph_arguments import check_codes, checked_points, checked_rows
from ._graph_build import Built, build
from ._graph_file import read_graph, write_graph
from ._network import Network
from ._ruler import Anchors

if TYPE_CHECKING:
    from ._lattice import Lattice
    from ._solvers.newton import Newton

__all__ = ["LatentGraph", "Nearest"]

_OPTIONS = ("n_neighbors", "grid", "max_codes", "substeps", "random_state")


class Nearest(NamedTuple):
    """Which of k points is nearest to each stored code, and how far it is."""

    label: Tensor
    distance: Tensor


class LatentGraph:
    """Graph over latent space whose edges weigh their segments' true lengths.

    Its distances are lengths of polygons through the nodes: never less than the geodesic distance, but for quadrature.
    In up to three dimensions the nodes are a regular grid, and codes are attached to the nodes around them, so that the
    time of a search does not depend on their number; in more, the nodes are the codes. Periodic coordinates wrap.

    Parameters
    ----------
    metric : Metric
    n_neighbors : int
        Without a grid: nearest codes, in latent coordinates, that each code is joined to.
    grid : int, optional
        Grid nodes along each axis of the codes' (slightly enlarged) bounding box, or of one period; as many in all, but
        more along those axes that are longer in the metric. 0 for none. None means 512 for d = 1, 128 for d = 2, 24
        for d = 3 and none above.
    max_codes : int, optional
        Without a grid: with more codes than this, only those nearest to that many k-means centres become nodes, and
        the others are attached to them.
    substeps : int
        Without a grid: sub-steps of the quadrature of each edge, at least 4.
    random_state : int
        Seed of the k-means thinning.
    progress : bool
        Show progress bars while fitting.

    Attributes
    ----------
    codes_ : ndarray of shape (N, d)
        The codes given to `fit`, in their order.
    nodes_ : ndarray of shape (n_nodes, d)
    weights_ : scipy.sparse.csr_array of shape (n_nodes, n_nodes)
        Symmetric edge lengths.
    n_components_ : int
        Connected components that hold codes, before they were bridged.
    bridges_ : ndarray of shape (n_bridges, 2)
        Node pairs joined so that the graph is connected.
    network_ : Network
        The same nodes and edges, with the searches on them: on arrays, and without checks.

    Raises
    ------
    ValueError
        If a parameter is out of range; from `fit`, if the codes have the wrong shape or hold NaN.

    Warns
    -----
    UserWarning
        From `fit`, if the metric is not finite between some of the codes: distances between those are inf.

    Examples
    --------
    >>> from latentgeo.metrics import Euclidean
    >>> codes = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> graph = LatentGraph(Euclidean(2)).fit(codes)
    >>> graph
    LatentGraph(200 codes on 128×128 grid nodes, 192278 edges)
    >>> graph.distances_from([0, 1]).shape
    torch.Size([2, 200])
    >>> graph.nearest([0, 1]).label[:2]
    tensor([0, 1])
    >>> graph.distances(codes[:3], codes[:5]).shape, graph.paths(codes[:3], codes[3:6], n_points=9).shape
    (torch.Size([3, 5]), torch.Size([3, 9, 2]))
    """

    codes_: NDArray[Any]
    network_: Network
    _anchors: Anchors | None
    _index: Any

    def __init__(
        self,
        metric: Metric,
        n_neighbors: int = 20,
        *,
        grid: int | None = None,
        max_codes: int | None = None,
        substeps: int = 8,
        random_state: int = 0,
        progress: bool = False,
    ) -> None:
        need_metric(metric)
        check_integer(n_neighbors, "n_neighbors")
        check_integer(max_codes, "max_codes", 2, optional=True)
        check_integer(substeps, "substeps", 4)
        check_integer(random_state, "random_state", 0)
        check_flag(progress, "progress")
        number = isinstance(grid, (int, np.integer)) and not isinstance(grid, bool)
        if grid is not None and (not number or grid < 0 or grid == 1):
            raise ValueError(f"`grid` must be None, 0 or an integer of at least 2, got {grid!r}")
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.grid = grid
        self.max_codes = max_codes
        self.substeps = substeps
        self.random_state = random_state
        self.progress = progress

    def __repr__(self) -> str:
        if not self.fitted:
            return f"LatentGraph({self.metric!r}, n_neighbors={self.n_neighbors}, not fitted)"
        edges = self.weights_.nnz // 2
        bridged = f", {len(self.bridges_)} bridges" if len(self.bridges_) else ""
        lattice = self.lattice_
        if lattice is not None:
            nodes = f" on {'×'.join(map(str, lattice.shape))} grid nodes"
        else:
            nodes = "" if len(self.nodes_) == self.n_codes_ else f", {len(self.nodes_)} of them nodes"
        return f"LatentGraph({self.n_codes_} codes{nodes}, {edges} edges{bridged})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_anchors": None, "_index": None} if self.fitted else self.__dict__

    @property
    def options(self) -> dict[str, Any]:
        """What `LatentGraph` was built with, besides the metric."""
        return {name: getattr(self, name) for name in _OPTIONS}

    @property
    def fitted(self) -> bool:
        """Whether there is anything to query: `fit` was called, or the graph was loaded."""
        return "network_" in self.__dict__

    @property
    def lattice_(self) -> Lattice | None:
        """The regular grid that the nodes form; None where they are codes."""
        return self.network_.nodes.lattice

    @property
    def n_codes_(self) -> int:
        """Number of codes given to `fit`."""
        return len(self.codes_)

    # --- building -----------------------------------------------------------------------------------------------------

    def fit(self, codes: Tensor) -> LatentGraph:
        """Build the graph.

        Parameters
        ----------
        codes : Tensor of shape (N, d)
            Latent codes, with the dtype and device of the metric's model.

        Returns
        -------
        LatentGraph
            Itself.
        """
        check_codes(self.metric, codes)
        return self._with(build(self.metric, codes.detach(), **self.options, bar=self.progress))

    def _with(self, built: Built) -> LatentGraph:
        self.codes_, self.network_ = built.codes, built.network
        self.nodes_, self.weights_ = built.network.nodes.nodes, built.network.weights
        self.bridges_, self.n_components_ = built.bridges, built.n_components
        self._anchors, self._index = built.anchors, None
        return self

    # --- queries ------------------------------------------------------------------------------------------------------

    def _need_fit(self) -> None:
        if not self.fitted:
            raise RuntimeError("the graph is not fitted; call fit(codes) first")

    def _points(self, X: Tensor, name: str) -> NDArray[Any]:
        """Checked points as rows."""
        self._need_fit()
        return checked_points(self.metric, X, self.codes_.shape[1], name)

    def attach(self, X: Tensor, name: str = "X") -> Anchors:
        """Points (*batch, d) attached to the nodes around them: what searches on `network_` begin and end with."""
        points = self._points(X, name)
        return self.network_.nodes.anchors(points)

    def _stored(self) -> Anchors:
        """The fitted codes, attached; computed when first needed."""
        self._need_fit()
        if self._anchors is None:
            self._anchors = self.network_.nodes.anchors(self.codes_)
        return self._anchors

    def _stored_index(self) -> Any:
        if self._index is None:
            self._index = self.network_.nodes.index(self._stored())
        return self._index

    def _sources(self, codes: Tensor | NDArray[Any] | Sequence[int]) -> Anchors:
        """Stored codes by number, or any points."""
        self._need_fit()
        if isinstance(codes, Tensor) and codes.is_floating_point():
            if codes.ndim != 2:
                raise ValueError(f"`codes` must have shape (k, d), or hold rows' numbers, got {tuple(codes.shape)}")
            return self.attach(codes, "codes")
        return self._stored().take(checked_rows(codes, self.n_codes_))

    def distances_from(self, codes: Tensor | NDArray[Any] | Sequence[int]) -> Tensor:
        """Distances from some points to every code that was given to `fit`, in that order.

        Parameters
        ----------
        codes : sequence or array of int, shape (k,), or Tensor of shape (k, d)
            Rows of the fitted codes, or any points.

        Returns
        -------
        Tensor of shape (k, N)
            In units of the metric's embedding; inf where no finite path was found.
        """
        some = self._sources(codes)
        return self._tensor(self.network_.between(some, self._stored(), self._stored_index()))

    def nearest(self, codes: Tensor | NDArray[Any] | Sequence[int]) -> Nearest:
        """Which of some points is nearest to each code that was given to `fit`; one search, whatever their number.

        Parameters
        ----------
        codes : sequence or array of int, shape (k,), or Tensor of shape (k, d)
            Rows of the fitted codes, or any points.

        Returns
        -------
        label : Tensor of shape (N,), int64
            Position in `codes` of the nearest; −1 where none can be reached.
        distance : Tensor of shape (N,)
            As `distances_from` gives it; inf where none can be reached.
        """
        some = self._sources(codes)
        if not len(some):
            raise ValueError("`codes` must hold at least one point, got none")
        label, distance = self.network_.nearest(some, self._stored(), self._stored_index())
        distances = self._tensor(distance)
        return Nearest(torch.as_tensor(label, device=distances.device), distances)

    def distances(self, A: Tensor, B: Tensor | None = None) -> Tensor:
        """Shortest-path lengths between all pairs.

        Parameters
        ----------
        A : Tensor of shape (n, d)
        B : Tensor of shape (m, d), optional
            None means the same as `A`.

        Returns
        -------
        Tensor of shape (n, m)
            In units of the metric's embedding.
        """
        a = self.attach(A, "A")
        b = a if B is None else self.attach(B, "B")
        flip = len(b) < len(a)
        some, others = (b, a) if flip else (a, b)
        D = self.network_.between(some, others, self.network_.nodes.index(others))
        return self._tensor(D.T.copy() if flip else D)

    def _tensor(self, x: NDArray[Any]) -> Tensor:
        return self.network_.ruler.tensor(x)

    def lengths(self, A: Tensor, B: Tensor) -> Tensor:
        """Shortest-path lengths between corresponding points.

        Parameters
        ----------
        A, B : Tensor of shape (*batch, d)
            End points; batch shapes broadcast.

        Returns
        -------
        Tensor of shape (*batch,)
            In units of the metric's embedding; inf where no finite path was found.
        """
        A, B = self._pairs(A, B)
        return self._tensor(self.network_.lengths(self.attach(A, "A"), self.attach(B, "B"))).reshape(A.shape[:-1])

    def _pairs(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        self.metric.check(A, name="A")
        return broadcast_pair(A, B, "B", like="A")

    def paths(self, A: Tensor, B: Tensor, n_points: int = 65) -> Tensor:
        """Shortest paths between corresponding points, as polygons of constant speed.

        Where no path through the nodes is shorter than the straight line, the straight line. Where coordinates are
        periodic, a path is continuous and ends at that copy of its end point that it leads to.

        Parameters
        ----------
        A, B : Tensor of shape (*batch, d)
            End points; batch shapes broadcast.
        n_points : int
            Nodes of each polygon, at least 2.

        Returns
        -------
        Tensor of shape (*batch, n_points, d)
            Ready to be the `init` of `connect`.
        """
        check_integer(n_points, "n_points", 2)
        A, B = self._pairs(A, B)
        start, stop = self._points(A, "A"), self._points(B, "B")
        # whichever side has fewer distinct ends is where the searches start
        flip = len(np.unique(stop, axis=0)) < len(np.unique(start, axis=0))
        a, b = (self.network_.nodes.anchors(x) for x in ((stop, start) if flip else (start, stop)))
        ruler, out = self.network_.ruler, self.network_.polygons(a, b, n_points)
        out = ruler.moved(out[:, ::-1], start) if flip else out
        curves = self._tensor(out).reshape(*A.shape[:-1], n_points, A.shape[-1])
        if len(a):
            turns = self._tensor(ruler.turns(out[:, -1] - stop)).reshape(B.shape)
            curves[..., 0, :] = A.detach()
            curves[..., -1, :] = torch.where(turns == 0, B.detach(), B.detach() + turns)
        return curves

    def error(self, A: Tensor, B: Tensor, *, solver: Newton | None = None) -> Tensor:
        """How much longer than refined geodesics the graph's distances are, as a check on a sample of pairs.

        Parameters
        ----------
        A, B : Tensor of shape (n, d)
            Corresponding end points, a random sample of the pairs of interest.
        solver : Newton, optional
            What refines the shortest paths.

        Returns
        -------
        Tensor of shape (n,)
            graph distance / refined length − 1; NaN where the refinement did not converge. Its median and upper
            quantiles estimate the graph's own error.
        """
        from .connect import connect

        start = self if self.metric.period else self.paths(A, B, 257)
        path = connect(self.metric, A, B, solver=solver, init=start, throw=False)
        return torch.where(path.converged, self.lengths(A, B) / path.length - 1, torch.nan)

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted graph to an `.npz` file, which `load` reads; the metric is not part of it."""
        self._need_fit()
        write_graph(path, self.options, Built(self.codes_, self.network_, self.bridges_, self.n_components_))

    @classmethod
    def load(cls, path: str | PathLike[str], metric: Metric) -> LatentGraph:
        """Read a graph written by `save`.

        Parameters
        ----------
        path : path
        metric : Metric
            The one that it was built with.

        Returns
        -------
        LatentGraph
            Fitted.

        Raises
        ------
        ValueError
            If the file is no graph, or of another latent dimension than the metric. Nothing is ever unpickled.
        """
        options, built = read_graph(path, metric)
        return cls(metric, **options)._with(built)
