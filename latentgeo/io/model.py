"""`LatentModel`: a decoder together with what came with it — encoder, codes, labels, provenance."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentgeo.decoders._frozen import Frozen
from latentgeo.decoders.decoder import Decoder
from latentgeo.decoders.outputs import read


class LatentModel(Frozen):
    """A trained model: decoder, and encoder, codes, labels and metadata where there are any.

    Frozen and shared: copies are the same object, pickling is by value.

    Parameters
    ----------
    decoder : Decoder
        From `wrap` or `fit_precision`.
    encoder : torch.nn.Module or callable, optional
        x → codes, or (mean, scale) of the posterior, or a `torch.distributions` Normal.
    codes : Tensor or array of shape (N, d), optional
        Codes of some data.
    labels : Tensor or array of shape (N,), optional
        Integer labels of those data.
    metadata : mapping, optional
        Anything JSON can say; by convention "dataset", "seed", "epochs", "scores".

    Raises
    ------
    TypeError, ValueError
        If a part is of the wrong kind or shape.

    Examples
    --------
    >>> import latentgeo as lg
    >>> decoder = lg.wrap(torch.nn.Tanh().eval(), 2, "deterministic")
    >>> LatentModel(decoder, codes=torch.zeros(5, 2))
    LatentModel(Decoder(2 → 2, Deterministic()), no encoder, 5 codes)
    """

    decoder: Decoder
    encoder: Callable[[Tensor], Any] | None
    codes: Tensor | None
    labels: Tensor | None
    metadata: Mapping[str, Any]

    def __init__(
        self,
        decoder: Decoder,
        encoder: Callable[[Tensor], Any] | None = None,
        codes: Any = None,
        labels: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(decoder, Decoder):
            raise TypeError(f"decoder must be a Decoder (see `wrap`); got {type(decoder).__name__}")
        if encoder is not None and not callable(encoder):
            raise TypeError(f"encoder must be a module or callable; got {type(encoder).__name__}")
        if isinstance(encoder, nn.Module) and any(part.training for part in encoder.modules()):
            warnings.warn(
                f"the encoder {type(encoder).__name__} was in train mode; it has been put in eval mode",
                UserWarning,
                stacklevel=2,
            )
            encoder.eval()
        if metadata is not None and not isinstance(metadata, Mapping):
            raise TypeError(f"metadata must be a mapping; got {type(metadata).__name__}")
        self._set(
            decoder=decoder,
            encoder=encoder,
            codes=_codes(codes, decoder),
            labels=_labels(labels, codes),
            metadata=dict(metadata or {}),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Mean codes (N, d) of data (N, D) or (N, *data_shape).

        Raises
        ------
        ValueError
            If the model has no encoder, or its output cannot be read.
        """
        if self.encoder is None:
            raise ValueError("this model has no encoder; find codes some other way, or give LatentModel an encoder")
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise ValueError(f"x must be a tensor of shape (N, {self.decoder.data_dim}) or (N, *data_shape)")
        named, _shape = read(self.encoder(x), x.shape[0])
        codes = named["mean"] if "mean" in named else named.get("value")
        if codes is None or codes.shape[1] != self.decoder.latent_dim:
            raise ValueError(f"the encoder must return codes or (mean, scale) of shape (N, {self.decoder.latent_dim})")
        return codes

    def __repr__(self) -> str:
        encoder = "no encoder" if self.encoder is None else f"encoder {type(self.encoder).__name__}"
        codes = "no codes" if self.codes is None else f"{len(self.codes)} codes"
        return f"LatentModel({self.decoder!r}, {encoder}, {codes}{'' if self.labels is None else ' with labels'})"


def _codes(codes: Any, decoder: Decoder) -> Tensor | None:
    if codes is None:
        return None
    codes = torch.as_tensor(np.asarray(codes, order="C")) if isinstance(codes, np.ndarray) else codes
    if not isinstance(codes, Tensor) or not codes.is_floating_point():
        raise TypeError("codes must be a floating tensor or array")
    if codes.ndim != 2 or codes.shape[1] != decoder.latent_dim:
        raise ValueError(f"codes must be of shape (N, {decoder.latent_dim}); got {tuple(codes.shape)}")
    return codes.detach()


def _labels(labels: Any, codes: Any) -> Tensor | None:
    if labels is None:
        return None
    if isinstance(labels, (np.ndarray, list)):
        array = np.asarray(labels, order="C")
        labels = torch.as_tensor(array) if array.dtype.kind in "iub" else array
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        got = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"labels must be an integer tensor or array; got {got}")
    if codes is None or tuple(labels.shape) != (len(codes),):
        raise ValueError(
            f"labels must be of shape (N,), one for each of the {0 if codes is None else len(codes)} codes; got "
            f"{tuple(labels.shape)}"
        )
    return labels.detach().long()
