"""The figures of a health report, measured at a sample of codes and on geodesics between pairs of them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from .._calculus import Embedding
from ..geodesics import LatentGraph, Newton, connect, curve_length
from ..metrics import ExpectedMetric, Metric
from .parts import (
    CurvatureHealth,
    DerivativeHealth,
    Figures,
    GeodesicHealth,
    GraphHealth,
    LatentHealth,
    SigmaHealth,
    TensorHealth,
)
from .sampling import Sample

__all__ = ["measure"]

_BYTES = 2**26
_CURVE_POINTS = 65
_GRAPH_CODES = 500
# A direction is not used if the data hardly change along it: by a hundredth of what they change along the longest, or
# by three hundredths where the codes themselves hardly spread along it.
_UNUSED, _UNUSED_NARROW = 0.01, 0.03


def measure(metric: Metric, sample: Sample, pairs: int, *, train_mode: bool, progress: bool | None) -> Figures:
    """Measure everything; about as long as `pairs` geodesics take, twice."""
    drawn: dict[str, NDArray[Any]] = {"spacing": sample.spacing}
    bar = tqdm(total=6, desc="diagnose", disable=None if progress is None else not progress, leave=False)
    with bar, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say, the findings say

        def done(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        derivatives = _derivatives(metric, sample, train_mode)
        done("derivatives")
        latent, tensor = _tensor(metric, sample, drawn)
        done("metric")
        sigma = _sigma(metric, sample, drawn)
        done("σ")
        graph = _graph(sample)
        geodesics = _geodesics(metric, sample, pairs, drawn)
        done("geodesics")
        done("graph")
        curvature = _curvature(metric, sample, drawn) if derivatives.smooth else None
        done("curvature")
    return Figures(latent, tensor, sigma, graph, geodesics, curvature, derivatives, drawn)


def _derivatives(metric: Metric, sample: Sample, train_mode: bool) -> DerivativeHealth:
    dtype = str(metric.dtype or sample.codes.dtype).removeprefix("torch.")
    if metric.embedding is None:
        return DerivativeHealth("of the tensor", "of the tensor", True, False, dtype, train_mode)
    report = metric.embedding.probe(sample.codes)
    approximate = any("differences" in path for path in (report.first, report.pullback, report.hessian))
    return DerivativeHealth(report.first, report.hessian, report.smooth, approximate, dtype, train_mode)


# --- rank, condition, unused directions -----------------------------------------------------------------------------


def _tensor(metric: Metric, sample: Sample, drawn: dict[str, NDArray[Any]]) -> tuple[LatentHealth, TensorHealth]:
    z = sample.some
    whole = _root(metric, None, z)
    # σ moves with the code even where the decoded mean does not: only the mean says whether data change
    both = isinstance(metric, ExpectedMetric) and metric.decoder.std_embedding is not None
    root = _root(metric, metric.decoder.mean_embedding, z) if both else whole  # type: ignore[attr-defined]  # an ExpectedMetric has one
    finite = whole.isfinite().flatten(1).all(-1)
    extent, unused, used = _directions(root[finite], sample)
    d = z.shape[-1]
    size = torch.linalg.svdvals(root[finite] @ used) if used.shape[1] else root.new_zeros(int(finite.sum()), 0)
    rank = (size > _tolerance(metric, z) * size[:, :1]).sum(-1) if size.shape[1] else torch.zeros(len(size))
    widths = torch.linalg.svdvals(whole[finite])
    singular = widths[:, -1] <= _tolerance(metric, z) * widths[:, 0]
    condition = torch.where(singular, torch.inf, (widths[:, 0] / widths[:, -1]).square())
    drawn["condition"] = condition[~singular].cpu().numpy()
    latent = LatentHealth(d, len(sample.codes), tuple(sample.std.tolist()), tuple(extent.tolist()), unused)
    known = len(size) > 0
    return latent, TensorHealth(
        codes=len(z),
        finite=float(finite.double().mean()),
        rank=int(rank.min()) if known else 0,
        full_rank=float((rank == used.shape[1]).double().mean()) if known else 0.0,
        condition=float(condition.median()) if known else math.nan,
        condition_high=float(condition.quantile(0.95, interpolation="higher")) if known else math.nan,
    )


def _tolerance(metric: Metric, z: Tensor) -> float:
    eps = torch.finfo(z.dtype).eps
    exact = metric.embedding is not None and metric.ambient is None
    return 16 * z.shape[-1] * eps if exact else math.sqrt(4 * z.shape[-1] * eps)


def _root(metric: Metric, embedding: Embedding | None, z: Tensor) -> Tensor:
    """A factor R with G = RᵀR, (n, d, d) in float64: of an embedding's metric, or of `metric` itself."""
    if embedding is None and metric.ambient is None:
        embedding = metric.embedding
    d = z.shape[-1]
    if embedding is None:
        values, vectors = torch.linalg.eigh(_finite(metric.tensor(z).double()))
        return (values.clamp_min(0.0).sqrt()[:, :, None] * vectors.mT).where(
            metric.tensor(z).isfinite().all(-1).all(-1)[:, None, None], torch.nan
        )
    rows = max(1, _BYTES // (8 * d * embedding.out_dim(z)))
    parts = []
    for some in z.split(rows):
        J = embedding.jacobian(some).double()
        R = torch.linalg.qr(_finite(J), mode="r")[1]
        R = torch.nn.functional.pad(R, (0, 0, 0, max(0, d - R.shape[1])))
        parts.append(R.where(J.isfinite().flatten(1).all(-1)[:, None, None], torch.nan))
    return torch.cat(parts)


def _finite(T: Tensor) -> Tensor:
    return T.nan_to_num(0.0, 0.0, 0.0)


def _directions(root: Tensor, sample: Sample) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """Extent of the decoded data along each axis, names of unused directions, an orthonormal basis of the others."""
    d = sample.codes.shape[-1]
    if len(root) == 0:
        return sample.std.new_full((d,), torch.nan), (), torch.eye(d, dtype=torch.float64, device=root.device)
    axes = torch.eye(d, dtype=torch.float64, device=root.device)
    principal = torch.linalg.eigh(sample.within)[1].flip(-1)

    def extents(V: Tensor) -> tuple[Tensor, Tensor]:
        spread = torch.einsum("ik,ij,jk->k", V, sample.within, V).clamp_min(0.0).sqrt()
        return spread, spread * (root @ V).norm(dim=1).median(0).values

    (std, extent), (spread, reach) = extents(axes), extents(principal)
    longest, widest = torch.maximum(extent.amax(), reach.amax()), spread.amax()

    def idle(spread: Tensor, reach: Tensor) -> Tensor:
        narrow = spread <= _UNUSED_NARROW * widest
        return (reach <= _UNUSED * longest) | (narrow & (reach <= _UNUSED_NARROW * longest))

    lost = idle(std, extent)
    names = [f"z{i + 1}" for i in range(d) if lost[i]]
    # a direction askew counts if the codes do not spread along it; else it is the decoder that merges them
    askew = (spread <= _UNUSED_NARROW * widest) & idle(spread, reach)
    basis = [axes[:, lost]]
    for k in askew.nonzero()[:, 0].tolist():
        v = principal[:, k : k + 1]
        rest = v - basis[0] @ (basis[0].mT @ v)
        if float(rest.norm()) > 0.5:
            basis.append(v)
            names.append(" + ".join(f"{float(c):.2g}·z{i + 1}" for i, c in enumerate(v[:, 0]) if abs(c) > 0.1))
    taken = torch.cat(basis, -1)
    if taken.shape[1] == 0:
        return extent, (), axes
    full = torch.linalg.svd(taken, full_matrices=True)[0]
    return extent, tuple(names), full[:, min(d, taken.shape[1]) :]


# --- σ --------------------------------------------------------------------------------------------------------------


def _sigma(metric: Metric, sample: Sample, drawn: dict[str, NDArray[Any]]) -> SigmaHealth | None:
    if not isinstance(metric, ExpectedMetric):
        return None
    decoder = metric.decoder
    if decoder.std_embedding is None:
        return SigmaHealth(varies=False)

    def sigma(z: Tensor) -> Tensor:
        rows = max(1, _BYTES // (8 * decoder.data_dim))
        return torch.cat([decoder.std(some).double().mean(-1) for some in z.split(rows)])

    from ..decoders.fit import edge_ratio

    z = sample.some
    at, off = sigma(z), sigma(sample.off)
    among = torch.cat([z, sample.between])
    near = torch.cat([at, sigma(sample.between)])
    typical = at.median()
    growth = (off / typical).nan_to_num(0.0)
    low, middle = growth.quantile(torch.tensor([0.1, 0.5], dtype=growth.dtype, device=growth.device)).tolist()
    if decoder.precision is not None:
        bound = decoder.precision.saturation
    else:  # what σ comes to far away, if that is the same everywhere and more than among the codes
        far = sigma(sample.far)
        ends = far.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=far.dtype, device=far.device)).tolist()
        grown = ends[1] > 1.5 * float(at.quantile(0.05))
        bound = ends[1] if grown and ends[2] - ends[0] < 0.05 * ends[1] else math.nan
    drawn["sigma_distance"] = np.concatenate([sample.distance(among), sample.distance(sample.off)])
    drawn["sigma"] = torch.cat([near, off]).cpu().numpy()
    parts = [
        tensor(z).diagonal(dim1=-2, dim2=-1).sum(-1).double() for tensor in (metric.std_tensor, metric.mean_tensor)
    ]
    share = parts[0] / (parts[0] + parts[1])
    return SigmaHealth(
        varies=True,
        at_codes=float(typical),
        growth=middle,
        growth_low=low,
        bound=bound,
        saturated=float((near >= 0.95 * bound).double().mean()) if math.isfinite(bound) else 0.0,
        share=float(share.nanmedian()),
        edge_ratio=edge_ratio(decoder, z, random_state=0),
    )


# --- curves ---------------------------------------------------------------------------------------------------------


def _graph(sample: Sample) -> GraphHealth:
    sizes = np.bincount(sample.part)
    return GraphHealth(sample.neighbors, len(sizes), float(sizes.max() / len(sample.part)))


def _geodesics(metric: Metric, sample: Sample, pairs: int, drawn: dict[str, NDArray[Any]]) -> GeodesicHealth:
    a, b = sample.pairs(pairs)
    t = torch.linspace(0, 1, _CURVE_POINTS, dtype=a.dtype, device=a.device)
    lines = torch.lerp(a[:, None], b[:, None], t[:, None])
    straight = curve_length(metric, torch.stack([a, b], 1)).double()
    try:
        path = connect(metric, a, b, solver=Newton(rtol=1e-2), init=_starts(metric, sample), throw=False)
    except ValueError:  # a metric with no geodesics at all
        nothing = math.nan
        return GeodesicHealth(pairs, 0.0, nothing, nothing, nothing, nothing, nothing, sample.near(lines))
    ok = path.converged & (path.length > 0)
    length, gain = path.length[ok].double(), straight[ok] / path.length[ok].double()
    drawn["length"], drawn["straight"] = length.cpu().numpy(), straight[ok].cpu().numpy()
    known = len(length) > 0
    return GeodesicHealth(
        pairs=pairs,
        converged=float(path.converged.double().mean()),
        length=float(length.median()) if known else math.nan,
        straight=float(straight[ok].median()) if known else math.nan,
        gain=float(gain.median()) if known else math.nan,
        gain_high=float(gain.quantile(0.95)) if known else math.nan,
        near=sample.near(path(t)[ok]) if known else math.nan,
        near_straight=sample.near(lines),
    )


def _starts(metric: Metric, sample: Sample) -> LatentGraph | None:
    """Shortest paths over some of the codes; None where there is no such graph."""
    if metric.period is not None:
        return None
    graph = LatentGraph(metric, sample.neighbors, grid=0, max_codes=_GRAPH_CODES)
    try:
        return graph.fit(sample.codes if len(sample.codes) < 20 * _GRAPH_CODES else sample.some)
    except ValueError:
        return None


def _curvature(metric: Metric, sample: Sample, drawn: dict[str, NDArray[Any]]) -> CurvatureHealth | None:
    z = sample.some[:256]
    if z.shape[-1] < 2:
        return None
    u, v = sample.normal(2, *z.shape)
    K = metric.sectional_curvature(z, u, v, throw=False).double()
    K = K[K.isfinite()]
    if len(K) == 0:
        return None
    drawn["curvature"] = K.cpu().numpy()
    low, middle, high = K.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=K.dtype, device=K.device)).tolist()
    typical = float(K.abs().median())
    return CurvatureHealth(len(K), low, middle, high, typical**-0.5 if typical > 0 else math.inf)
