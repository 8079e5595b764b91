"""The evidence log p(x) of a model with an encoder, by importance sampling from the posterior.

Burda, Grosse, Salakhutdinov 2016 (arXiv:1509.00519), section 5: a lower bound in expectation, tight as samples grow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentgeo.train.binarise import Binarise, as_binarise, is_binary
from latentgeo.train.objectives import gaussian_kl, log_ratio

if TYPE_CHECKING:
    from latentgeo.io import LatentModel


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """An estimate of the mean log p(x), in nats per datum.

    Attributes
    ----------
    log_likelihood : float
        The mean over data.
    standard_error : float
        Of that mean, over data.
    elbo, kl : float
        Means of the evidence lower bound at the same samples, and of its KL term; their sum is that of log p(x | z).
    per_datum : Tensor of shape (N,)
        float64, on the CPU.
    effective_samples : float
        Median over data of (Σw)² / Σw²: near 1 means that the estimate hangs on single samples and is too low.
    n_samples : int
        Importance samples per datum.
    binarisation : str
        What the data were, in words.

    Examples
    --------
    >>> import latentgeo as lg
    >>> decoder = lg.wrap(lambda z: 0 * z, latent_dim=1, likelihood=lg.Gaussian(sigma=1.0))
    >>> model = lg.LatentModel(
    ...     decoder, lambda x: (x / 2, torch.full_like(x, 0.5**0.5))
    ... )  # the prior and a wide posterior
    >>> found = log_evidence(model, torch.zeros(5, 1), n_samples=2000, generator=torch.Generator().manual_seed(0))
    >>> round(found.log_likelihood, 1)  # −½ log 2π, for a decoder that says the same of every code
    -0.9
    """

    log_likelihood: float
    standard_error: float
    elbo: float
    kl: float
    per_datum: Tensor
    effective_samples: float
    n_samples: int
    binarisation: str

    @property
    def n_data(self) -> int:
        """How many data it is the mean of."""
        return len(self.per_datum)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can say them."""
        return {
            "log_likelihood": self.log_likelihood,
            "standard_error": self.standard_error,
            "elbo": self.elbo,
            "kl": self.kl,
            "reconstruction": self.elbo + self.kl,
            "n_data": self.n_data,
            "importance_samples": self.n_samples,
            "effective_samples": self.effective_samples,
            "data": self.binarisation,
        }

    def __repr__(self) -> str:
        return (
            f"Evidence({self.log_likelihood:.2f} ± {self.standard_error:.2f} nats per datum; {self.n_data} data, "
            f"{self.binarisation}; {self.n_samples} importance samples)"
        )


@torch.no_grad()
def log_evidence(
    model: LatentModel,
    data: Tensor,
    *,
    n_samples: int = 200,
    binarise: Binarise | str | None = None,
    generator: torch.Generator | None = None,
    max_bytes: int = 2**26,
) -> Evidence:
    r"""Importance-sampled log p(x): log of the mean of p(x | z) p(z) / q(z | x) over samples of the posterior q.

    Parameters
    ----------
    model : LatentModel
        With an encoder that returns mean and standard deviation of a Gaussian posterior, as those trained here do.
    data : Tensor of shape (N, D) or (N, \*data_shape)
        In the decoder's dtype.
    n_samples : int
        Importance samples per datum. The bound rises with their number; state it with the figure.
    binarise : Binarise or str, optional
        For a Bernoulli decoder and data that are not 0 and 1: how they are made so, once.
    generator : torch.Generator, optional
        On the decoder's device; seed 0 if not given.
    max_bytes : int
        Memory budget for (samples, data, D) intermediates.

    Returns
    -------
    Evidence

    Raises
    ------
    ValueError
        If there is no encoder, grey data are given to a Bernoulli decoder with no word on how to binarise them, or
        there is such a word for another decoder.

    Examples
    --------
    >>> import latentgeo as lg
    >>> model = lg.load("checkpoints/digits-2d.safetensors")
    >>> data = lg.datasets.load_digits().data[:50]
    >>> log_evidence(model, data, n_samples=20)
    Evidence(... nats per datum; 50 data, as given; 20 importance samples)
    """
    if model.encoder is None:
        raise ValueError("model must have an encoder to draw importance samples with")
    if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 1:
        raise ValueError(f"n_samples must be a positive integer; got {n_samples!r}")
    decoder = model.decoder
    x = data.reshape(len(data), *decoder.data_shape)
    how = as_binarise(binarise)
    words = "as given"
    if how is not None and decoder.likelihood.name != "bernoulli":
        raise ValueError(f"binarise is for the Bernoulli likelihood; got a model with {decoder.likelihood!r}")
    if decoder.likelihood.name == "bernoulli":
        if how is None and not is_binary(x):
            raise ValueError(
                "data must be 0 and 1 for a Bernoulli decoder; say how to make them so: binarise='dynamic', 'static', "
                "'threshold' or 'none'"
            )
        words = "binary as given" if how is None or is_binary(x) else str(how)
    if how is not None:
        x = how.once(x)
    if decoder.device is not None:
        x = x.to(decoder.device)
    if generator is None:
        generator = torch.Generator(x.device).manual_seed(0)
    flat = x.flatten(1)
    size = flat.element_size() * (decoder.data_dim + decoder.latent_dim) * 4
    samples = max(1, min(n_samples, max_bytes // size))
    rows = max(1, max_bytes // (size * samples))
    totals, squares, elbos, kls = [], [], [], []
    for s in range(0, len(x), rows):
        mean, std = model.encoder(x[s : s + rows])
        weights = []
        for k in range(0, n_samples, samples):
            n = min(samples, n_samples - k)
            noise = torch.randn(n, *mean.shape, generator=generator, device=x.device, dtype=mean.dtype)
            z = mean + std * noise
            likely = decoder.log_prob(z, flat[s : s + rows].expand(n, -1, -1))
            weights.append(likely.double() + log_ratio(z, noise, std).double())
        w = torch.cat(weights)
        totals.append(torch.logsumexp(w, 0) - math.log(n_samples))
        squares.append(2 * torch.logsumexp(w, 0) - torch.logsumexp(2 * w, 0))
        elbos.append(w.mean(0))
        kls.append(gaussian_kl(mean, std).sum(-1).double())
    per_datum = torch.cat(totals).cpu()
    return Evidence(
        log_likelihood=float(per_datum.mean()),
        standard_error=float(per_datum.std() / math.sqrt(len(per_datum))) if len(per_datum) > 1 else math.nan,
        elbo=float(torch.cat(elbos).mean()),
        kl=float(torch.cat(kls).mean()),
        per_datum=per_datum,
        effective_samples=float(torch.cat(squares).exp().median()),
        n_samples=n_samples,
        binarisation=words,
    )
