"""`fit_precision`: Latent Space Oddity's precision network on a frozen decoder, by Gaussian likelihood.

Centres by k-means and bandwidths as in Arvanitidis, Hansen, Hauberg (2018), section 4; the weights by multiplicative
(minorise-maximise) updates, which stay positive and never lower the likelihood.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latentgeo._calculus.checks import check_integer, check_positive, is_number
from latentgeo._calculus.seeds import numpy_random
from latentgeo.decoders.decoder import Core, Decoder
from latentgeo.decoders.ensemble import Ensemble
from latentgeo.decoders.likelihoods import Gaussian
from latentgeo.decoders.precision import PrecisionReport, RBFPrecision

_MAX_KMEANS_CODES = 100_000
_RATIO_WARNING = 3.0


def fit_precision(
    decoder: Decoder,
    codes: Any,
    data: Any,
    n_centers: int = 64,
    bandwidth: float = 1.0,
    floor: float = 1e-3,
    random_state: int | np.random.RandomState | None = 0,
    *,
    n_iter: int = 40,
    min_variance: float | None = None,
    holdout: float = 0.1,
    progress: bool = True,
    max_bytes: int = 2**28,
) -> Decoder:
    r"""Give a decoder a standard deviation that is small at the data and saturates away from it.

    The decoder's mean stays as it is; a standard deviation of its own is replaced.

    Parameters
    ----------
    decoder : Decoder
        Any decoder: deterministic, of constant or learned standard deviation, or Bernoulli (whose mean is used).
    codes : Tensor or array of shape (N, d) or (m, N, d)
        Codes of the data, or m posterior samples of each (better: the fit then knows how far codes spread).
    data : Tensor or array of shape (N, D) or (N, \*data_shape)
        The data themselves.
    n_centers : int
        K; fewer where there are fewer distinct codes.
    bandwidth : float
        The a of the paper: λ_k = ½ (a · mean distance of cluster k to its centre)^(-2). The default 1 makes both terms
        of the expected metric matter on MNIST (the paper used 2, with which σ adds almost nothing). A cluster without
        extent (one code, or duplicates) takes the median extent of the others.
    floor : float
        ζ, in inverse squared data units; the standard deviation saturates at ζ^(-1/2).
    random_state : int, RandomState or None
        For the split and k-means.
    n_iter : int
        Multiplicative updates of W.
    min_variance : float, optional
        Squared residuals are raised to this, in squared data units, so that a coordinate which was always predicted
        (an ever black pixel) does not become infinitely precise and ruin the likelihood of the first datum where it is
        not. Default: a hundredth of their mean, which holds σ above a tenth of the constant σ that fits best.
    holdout : float
        Fraction of the data held out to report the likelihood; 0 for none (the report then says nan).
    progress : bool
        Show a progress bar, on a terminal.
    max_bytes : int
        Memory budget for (rows, D) intermediates.

    Returns
    -------
    Decoder
        With likelihood Gaussian, `.precision` (`RBFPrecision`) and `.precision_report` (`PrecisionReport`).

    Raises
    ------
    ValueError
        If shapes disagree, an option is out of range, a code or datum is not finite, or all codes are the same.
    TypeError
        If tensors are of another dtype or device than the decoder.

    Warns
    -----
    UserWarning
        If the median edge ratio exceeds 3: distances then see σ alone; raise `bandwidth`.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379, section 4.

    Examples
    --------
    >>> import latentgeo as lg
    >>> z = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    >>> decoder = lg.wrap(torch.nn.Tanh().eval(), latent_dim=2, likelihood="deterministic")
    >>> fitted = fit_precision(decoder, z, torch.tanh(z) + 0.5, n_centers=8)
    >>> fitted
    Decoder(2 → 2, Gaussian with RBF precision of 8 centres, float32 on cpu)
    >>> [round(s, 2) for s in fitted.std(torch.tensor([50.0, 0.0])).tolist()]  # far away it saturates at 1e-3 ** -0.5
    [31.62, 31.62]
    """
    if isinstance(decoder, Ensemble):
        raise TypeError("decoder must be a Decoder, not an Ensemble: fit its members, then make an ensemble of them")
    if not isinstance(decoder, Decoder):
        raise TypeError(f"decoder must be a Decoder (see `wrap`); got {type(decoder).__name__}")
    _check_options(n_centers, bandwidth, floor, n_iter, min_variance, holdout, max_bytes)
    samples, x = _check_data(decoder, codes, data)
    m, n = samples.shape[:2]
    rng = numpy_random(random_state)
    order = rng.permutation(n)
    n_heldout = min(n - 1, max(1, round(holdout * n))) if holdout > 0 else 0
    held, train = order[:n_heldout], order[n_heldout:]
    core = decoder._core.replace(precision=None)

    z, xs = _flat(samples, x, train)
    centers, bandwidths = _centers(z, n_centers, bandwidth, rng)
    rows = max(1, max_bytes // (4 * z.element_size() * decoder.data_dim))
    with torch.no_grad():
        variance = _residual_variance(core, z, xs, m, rows)
        if min_variance is None:
            min_variance = max(0.01 * float(variance.mean()), torch.finfo(z.dtype).tiny)
        variance = variance.clamp(min=min_variance)
        start = RBFPrecision(centers, bandwidths, z.new_zeros(len(centers), decoder.data_dim), floor)
        precision = _fit_weights(core, z, xs, m, start, n_iter, min_variance, rows, progress)
        fitted = decoder._rebuild(core.replace(precision=precision), None)
        scores: list[Any] = [math.nan, math.nan, math.nan, None]
        if n_heldout:
            zh, xh = _flat(samples, x, held)
            before = decoder.likelihood
            scores = [
                _score(fitted.log_prob, zh, xh, m, rows),
                _score(_constant(core, variance.mean()), zh, xh, m, rows),
                _score(_constant(core, variance), zh, xh, m, rows),
                _score(decoder.log_prob, zh, xh, m, rows) if isinstance(before, Gaussian) else None,
            ]
        ratio = edge_ratio(fitted, samples.mean(0), random_state=rng, max_bytes=max_bytes)
    if ratio > _RATIO_WARNING:
        warnings.warn(
            f"edges between neighbouring codes are {ratio:.1f} times longer under the σ term than under the mean term "
            f"(median): distances see little but σ; raise bandwidth (now {bandwidth:g})",
            UserWarning,
            stacklevel=2,
        )
    report = PrecisionReport(
        n_centers=precision.n_centers,
        bandwidth=float(bandwidth),
        floor=float(floor),
        n_iter=n_iter,
        n_train=len(train),
        n_heldout=n_heldout,
        log_likelihood=scores[0],
        log_likelihood_constant=scores[1],
        log_likelihood_per_coordinate=scores[2],
        log_likelihood_before=scores[3],
        edge_ratio=ratio,
    )
    return decoder._rebuild(core.replace(precision=precision), report)


def edge_ratio(
    decoder: Decoder,
    codes: Tensor,
    *,
    n_neighbors: int = 10,
    n_steps: int = 8,
    max_codes: int = 1000,
    random_state: int | np.random.RandomState | None = 0,
    max_bytes: int = 2**28,
) -> float:
    """Median, over edges between neighbouring codes, of length under the σ term over length under the mean term.

    Parameters
    ----------
    decoder : Decoder
        With a standard deviation.
    codes : Tensor of shape (N, d)
        Codes; edges start at `max_codes` of them, drawn at random, and end at their Euclidean neighbours.
    n_neighbors, n_steps : int
        Neighbours of each, and straight sub-steps by which an edge is measured.
    random_state : int, RandomState or None
        For the draw.
    max_bytes : int
        Memory budget for intermediates.

    Returns
    -------
    float
        Dimensionless; nan where no edge has a length.

    Examples
    --------
    >>> import latentgeo as lg
    >>> both = lg.wrap(lambda z: (z, 2 * z.abs()), latent_dim=1, likelihood="gaussian")
    >>> edge_ratio(both, torch.linspace(1, 2, 20)[:, None])
    2.0...
    """
    from sklearn.neighbors import NearestNeighbors

    rng = numpy_random(random_state)
    points = codes.detach().cpu().double().numpy()
    k = min(n_neighbors, len(points) - 1)
    if k < 1:
        return math.nan
    starts = rng.permutation(len(points))[:max_codes]
    # one neighbour more, since a code is its own nearest; duplicates have no length and drop out below
    ends = NearestNeighbors(n_neighbors=k + 1).fit(points).kneighbors(points[starts], return_distance=False)[:, 1:]
    a, b = codes[np.repeat(starts, k)], codes[ends.reshape(-1)]
    t = torch.linspace(0, 1, n_steps + 1, dtype=codes.dtype, device=codes.device)[:, None]
    rows = max(1, max_bytes // (8 * codes.element_size() * decoder.data_dim * (n_steps + 1)))
    ratios = []
    with torch.no_grad():
        for s in range(0, len(a), rows):
            parameters = decoder(a[s : s + rows, None] + t * (b - a)[s : s + rows, None])
            lengths = [parameters[name].diff(dim=-2).norm(dim=-1).sum(-1).double() for name in ("std", "mean")]
            ratios.append((lengths[0] / lengths[1])[lengths[1] > 0])
    found = torch.cat(ratios)
    return float(found.median()) if len(found) else math.nan


def _check_options(
    n_centers: int,
    bandwidth: float,
    floor: float,
    n_iter: int,
    min_variance: float | None,
    holdout: float,
    max_bytes: int,
) -> None:
    for name, value in (("n_centers", n_centers), ("n_iter", n_iter), ("max_bytes", max_bytes)):
        check_integer(value, name)
    check_positive(bandwidth, "bandwidth")
    check_positive(floor, "floor")
    check_positive(min_variance, "min_variance", optional=True)
    if not is_number(holdout) or not 0 <= holdout < 1:
        raise ValueError(f"`holdout` must be a fraction in [0, 1), got {holdout!r}")


def _check_data(decoder: Decoder, codes: Any, data: Any) -> tuple[Tensor, Tensor]:
    """Codes as (m, N, d) and data as (N, D), in the decoder's dtype and on its device."""
    checked = []
    dtype = decoder.dtype or (codes.dtype if isinstance(codes, Tensor) else torch.get_default_dtype())
    for name, value in (("codes", codes), ("data", data)):
        if not isinstance(value, Tensor):
            array = np.asarray(value, order="C")
            if array.dtype.kind not in "fiub":
                raise TypeError(f"{name} must be an array or a tensor of real numbers; got {type(value).__name__}")
            value = torch.as_tensor(array).to(dtype=dtype, device=decoder.device)
        if value.dtype != dtype:
            raise TypeError(f"{name} must be of the decoder's dtype {dtype}; got {value.dtype}: {name}.to({dtype})")
        if decoder.device is not None and value.device != decoder.device:
            raise TypeError(
                f"{name} must be on the decoder's device {decoder.device}; got {value.device}: "
                f"{name}.to({str(decoder.device)!r})"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite; it has NaN or infinite entries")
        checked.append(value.detach())
    samples, x = checked
    samples = samples[None] if samples.ndim == 2 else samples
    if samples.ndim != 3 or samples.shape[-1] != decoder.latent_dim or 0 in samples.shape:
        raise ValueError(
            f"codes must be of shape (N, {decoder.latent_dim}) or (m, N, {decoder.latent_dim}) and not empty; got "
            f"{tuple(np.shape(codes))}"
        )
    n = samples.shape[1]
    if n < 2:
        raise ValueError(f"codes must hold at least two data; got {n}")
    if tuple(x.shape) not in ((n, decoder.data_dim), (n, *decoder.data_shape)):
        raise ValueError(
            f"data must be of shape ({n}, {decoder.data_dim}) or {(n, *decoder.data_shape)}, one row for each of the "
            f"{n} codes; got {tuple(x.shape)}"
        )
    return samples, x.reshape(n, -1)


def _flat(samples: Tensor, x: Tensor, which: np.ndarray) -> tuple[Tensor, Tensor]:
    """Chosen samples as (m·n, d), sample after sample, and their data (n, D)."""
    index = torch.as_tensor(which, device=x.device)
    return samples[:, index].reshape(-1, samples.shape[-1]), x[index]


def _chunks(z: Tensor, x: Tensor, m: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Codes with the data they belong to, in chunks of at most `rows`."""
    n = x.shape[0]
    for i in range(m):
        for s in range(0, n, rows):
            yield z[i * n + s : i * n + min(s + rows, n)], x[s : s + rows]


def _centers(z: Tensor, n_centers: int, bandwidth: float, rng: np.random.RandomState) -> tuple[Tensor, Tensor]:
    """k-means centres and the bandwidths λ_k of the paper; empty clusters are dropped, those without extent mended."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    points = z.cpu().double().numpy()
    if len(points) > _MAX_KMEANS_CODES:
        points = points[rng.choice(len(points), _MAX_KMEANS_CODES, replace=False)]
    distinct = len(np.unique(points, axis=0))
    if distinct < 2:
        raise ValueError("codes are all the same: there is no extent to take a bandwidth from")
    k = min(n_centers, distinct)
    with (
        warnings.catch_warnings(),
        threadpool_limits(1),
    ):  # one thread: sums in a fixed order, the same centres each time
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = KMeans(k, n_init=3, random_state=rng.randint(2**31 - 1)).fit(points)
    labels = kmeans.labels_
    count = np.bincount(labels, minlength=k)
    to_center = np.linalg.norm(points - kmeans.cluster_centers_[labels], axis=1)
    extent = np.bincount(labels, weights=to_center, minlength=k)[count > 0] / count[count > 0]
    # the mean of identical points differs from them by rounding: that is no extent
    real = extent > 1e-6 * np.linalg.norm(points.std(0))
    typical = np.median(extent[real]) if real.any() else _spacing(kmeans.cluster_centers_[count > 0])
    extent = np.where(real, extent, typical)
    centers = torch.as_tensor(kmeans.cluster_centers_[count > 0]).to(z)
    return centers, torch.as_tensor(0.5 / (bandwidth * extent) ** 2).to(z)


def _spacing(centers: np.ndarray) -> float:
    """Half the median distance to the nearest other centre: an extent where every cluster is a single point."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=2).fit(centers).kneighbors()[0][:, 0]
    return float(np.median(nearest)) / 2


def _mean(core: Core, z: Tensor) -> Tensor:
    return core.likelihood.mean(core.parameters(z))


def _residual_variance(core: Core, z: Tensor, x: Tensor, m: int, rows: int) -> Tensor:
    """Mean squared residual of each coordinate, (D,), float64."""
    total = x.new_zeros(x.shape[1], dtype=torch.float64)
    for zc, xc in _chunks(z, x, m, rows):
        total += (xc - _mean(core, zc)).square().sum(0).double()
    return total / len(z)


def _constant(core: Core, variance: Tensor) -> Any:
    """Log-likelihood under the decoder's mean with a constant variance, shared or per coordinate."""

    def log_prob(z: Tensor, x: Tensor) -> Tensor:
        mean = _mean(core, z)
        std = variance.sqrt().to(mean).expand_as(mean)
        return Gaussian().log_prob({"mean": mean, "std": std}, x)

    return log_prob


def _score(log_prob: Any, z: Tensor, x: Tensor, m: int, rows: int) -> float:
    return float(sum(log_prob(zc, xc).double().sum() for zc, xc in _chunks(z, x, m, rows))) / len(z)


def _fit_weights(
    core: Core,
    z: Tensor,
    x: Tensor,
    m: int,
    empty: RBFPrecision,
    n_iter: int,
    min_variance: float,
    rows: int,
    progress: bool,
) -> RBFPrecision:
    """W by multiplicative updates W ← W √(Vᵀβ⁻¹ / Vᵀr²), r² the squared residuals."""
    shape, basis, floor = empty.weights.shape, empty.basis, empty.floor
    covered = torch.zeros(shape[0], dtype=torch.float64, device=z.device)
    residual = torch.zeros(shape, dtype=torch.float64, device=z.device)
    for zc, xc in _chunks(z, x, m, rows):
        v = basis(zc)
        covered += v.sum(0).double()
        residual += (v.T @ (xc - _mean(core, zc)).square().clamp(min=min_variance)).double()
    # a centre that no datum reaches (underflow) keeps the start, which is the global inverse variance
    reached = (residual > 0).all(-1, keepdim=True)
    start = torch.where(reached, covered[:, None] / residual, covered.sum() / residual.sum(0))
    overlap = max(1.0, float(covered.sum()) / len(z))
    tiny = torch.finfo(z.dtype).tiny
    weights = (start / overlap).clamp(min=tiny)
    for _ in tqdm(range(n_iter), desc="precision", disable=None if progress else True, leave=False):
        gain = torch.zeros(shape, dtype=torch.float64, device=z.device)
        now = weights.to(z)
        for zc, _xc in _chunks(z, x, m, rows):
            v = basis(zc)
            gain += (v.T @ (v @ now + floor).reciprocal()).double()
        weights = torch.where(reached, weights * (gain / residual).sqrt(), weights).clamp(min=tiny)
    if not bool(weights.to(z).isfinite().all()):
        raise ValueError(
            "`bandwidth` must be large enough for the codes to feel the centres: with the one given, precision weights "
            "overflow; give a larger bandwidth, more centres, or float64 codes and decoder"
        )
    return RBFPrecision(empty.centers, empty.bandwidths, weights.to(z), floor)
