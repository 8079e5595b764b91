"""`metric`: the geometry that a model's likelihood suggests, expected (Arvanitidis et al. 2018) or Fisher–Rao."""

from __future__ import annotations

from latentgeo.decoders import Decoder
from latentgeo.io import LatentModel
from latentgeo.metrics import ExpectedMetric, FisherRaoMetric, Metric


def metric(model: LatentModel | Decoder) -> Metric:
    """The default metric of a model.

    Parameters
    ----------
    model : LatentModel or Decoder
        As made by `load`, `wrap` or `fit_precision`.

    Returns
    -------
    Metric
        `ExpectedMetric` for Gaussian and deterministic decoders (lengths in data units), `FisherRaoMetric` for all
        others (lengths in nats^(1/2): for close codes, half the squared distance is the Kullback–Leibler divergence).

    Raises
    ------
    TypeError
        If `model` is neither.

    References
    ----------
    .. [1] Arvanitidis, Hansen, Hauberg, "Latent Space Oddity", ICLR 2018, arXiv:1710.11379.

    Examples
    --------
    >>> import torch, latentgeo as lg
    >>> decoder = lg.wrap(torch.nn.Linear(2, 6).eval(), 2, lg.Bernoulli(output="logits"))
    >>> type(metric(decoder)).__name__
    'FisherRaoMetric'
    """
    decoder = model.decoder if isinstance(model, LatentModel) else model
    if not isinstance(decoder, Decoder):
        raise TypeError(
            f"model must be a LatentModel or a Decoder; got {type(model).__name__} (latentgeo.wrap makes a decoder of "
            "a module)"
        )
    return ExpectedMetric(decoder) if decoder.likelihood.default == "expected" else FisherRaoMetric(decoder)
