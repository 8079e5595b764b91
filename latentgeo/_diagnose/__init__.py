"""`diagnose`: a health report of the geometry that a model gives its latent space.

The module is not called `diagnose`, because importing a module of that name would hide the function of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from latentgeo._calculus import check_integer
from latentgeo._calculus.seeds import numpy_random

from ..decoders import Decoder
from ..io import LatentModel
from ..metrics import ExpectedMetric, FisherRaoMetric, Metric
from ..model import metric as default_metric
from .figures import measure
from .findings import Advice, Finding, Severity, judge
from .report import HealthReport
from .sampling import Sample

__all__ = ["Advice", "Finding", "HealthReport", "Severity", "diagnose"]

_FEWEST = 10


def diagnose(
    model: LatentModel | Decoder | Metric,
    codes: ArrayLike | Tensor | None = None,
    *,
    n_codes: int = 1000,
    n_pairs: int = 24,
    n_neighbors: int = 10,
    random_state: int | np.random.RandomState | None = 0,
    progress: bool | None = None,
) -> HealthReport:
    """Examine the geometry of a latent space: can its distances be trusted, and if not, what is to be done?

    Looks at the rank and condition of the metric at the codes, at how σ grows off the data and how much of the metric
    it is, at geodesics between random pairs of codes, at the codes' neighbourhood graph, at curvature, and at how
    derivatives are taken. Takes seconds.

    Parameters
    ----------
    model : LatentModel, Decoder or Metric
        What to examine; of a model or decoder, its default metric (`latentgeo.metric`).
    codes : array or Tensor of shape (N, d), optional
        Latent codes of data, at least 10; a model's own if None. They are cast to the model's dtype and device.
    n_codes : int
        Codes at which the metric is measured.
    n_pairs : int
        Pairs of codes to join by geodesics.
    n_neighbors : int
        Of each code, in the neighbourhood graph.
    random_state : int, RandomState or None
        For every draw; the same number gives the same report.
    progress : bool, optional
        Show a progress bar; None means on a terminal.

    Returns
    -------
    HealthReport
        ``print`` it, ask ``.healthy``, ``.severe`` or ``.advice``, write ``.to_html(path)`` or ``.to_json(path)``.

    Raises
    ------
    TypeError
        If `model` is none of the three, or `codes` are not numbers.
    ValueError
        If there are no codes, or too few, of another dimension, not finite or all the same; if an option is out of
        range; or if the model has no metric.
    EmbeddingError
        If the decoder has no derivative.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379.

    Examples
    --------
    >>> import latentgeo as lg
    >>> codes = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> report = lg.diagnose(lg.Sphere(2), 0.3 * codes, n_pairs=8)
    >>> report.healthy, report.tensor.rank, round(report.curvature.median, 6)
    (True, 2, 1.0)
    """
    for name, value in (("n_codes", n_codes), ("n_pairs", n_pairs), ("n_neighbors", n_neighbors)):
        check_integer(value, name)
    rng = numpy_random(random_state)
    labels = None
    if isinstance(model, LatentModel):
        labels = model.labels if codes is None else None
        codes = model.codes if codes is None else codes
    if isinstance(model, Metric):
        metric = model
    elif isinstance(model, (LatentModel, Decoder)):
        metric = default_metric(model)
    else:
        raise TypeError(
            f"`model` must be a LatentModel, a Decoder or a Metric, got {type(model).__name__}; "
            "wrap a module with latentgeo.wrap, or a map with PullbackMetric"
        )
    points = _codes(codes, metric)
    with _examined(metric) as train_mode:
        sample = Sample(points, int(n_codes), int(n_neighbors), rng)
        figures = measure(metric, sample, int(n_pairs), train_mode=train_mode, progress=progress)
    return HealthReport(
        subject=repr(getattr(metric, "decoder", metric)),
        unit=_unit(metric),
        seed=int(random_state) if isinstance(random_state, (int, np.integer)) else None,
        findings=judge(figures),
        figures=figures,
        _drawn_from=(metric, points, labels),
    )


def _codes(codes: Any, metric: Metric) -> Tensor:
    if codes is None:
        raise ValueError("`codes` must be given, since the model holds none: an array of shape (N, d) of latent codes")
    if not isinstance(codes, Tensor):
        array = np.asarray(codes)
        if array.dtype.kind not in "iuf":
            raise TypeError(f"`codes` must be numbers, got an array of {array.dtype}")
        codes = torch.as_tensor(
            array.astype(np.float64) if metric.dtype is not None or array.dtype.kind != "f" else array
        )
    if codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(f"`codes` must be real numbers, got {codes.dtype}")
    dtype = metric.dtype or (codes.dtype if codes.dtype in (torch.float32, torch.float64) else torch.float64)
    codes = codes.detach().to(dtype=dtype, device=metric.device or codes.device)
    d = "d" if metric.dim is None else metric.dim
    if codes.ndim != 2 or 0 in codes.shape[1:] or (metric.dim is not None and codes.shape[1] != metric.dim):
        raise ValueError(f"`codes` must have shape (N, {d}), got {tuple(codes.shape)}")
    if len(codes) < max(_FEWEST, codes.shape[1] + 2):
        raise ValueError(
            f"`codes` must be at least {max(_FEWEST, codes.shape[1] + 2)} to say anything about a "
            f"{codes.shape[1]}-dimensional latent space, got {len(codes)}"
        )
    bad = int((~codes.isfinite().all(-1)).sum())
    if bad:
        raise ValueError(f"`codes` must be finite, got {bad} of {len(codes)} rows with NaN or infinity")
    if bool((codes == codes[0]).all()):
        raise ValueError("`codes` must differ, got the same code in all rows")
    return codes


@contextmanager
def _examined(metric: Metric) -> Iterator[bool]:
    """The metric's modules in eval mode; whether any was in train mode, which it is put back to."""
    owners: list[Any] = [metric.embedding, getattr(metric, "decoder", None)]
    modules: list[Any] = [owner.module for owner in owners if getattr(owner, "module", None) is not None]
    training = [part for module in modules for part in module.modules() if part.training]
    for module in modules:
        module.eval()
    try:
        yield bool(training)
    finally:
        for part in training:
            part.training = True


def _unit(metric: Metric) -> str:
    if isinstance(metric, FisherRaoMetric):
        return "√nat"
    return "data units" if isinstance(metric, ExpectedMetric) else "units"
