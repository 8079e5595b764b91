"""Exact derivatives of row-wise functions, memory-bounded batching and small linear algebra.

Everything above rests on these; nothing here knows what a decoder or a metric is.
"""

from __future__ import annotations

from .blocktridiagonal import BlockTridiagonal
from .embedding import DEFAULT_MAX_BYTES, Embedding
from .errors import DerivativeWarning, EmbeddingError, RankError, RankWarning, as_tolerance, check_latent, check_like
from .linalg import concave_part
from .probe import Report

__all__ = [
    "DEFAULT_MAX_BYTES",
    "BlockTridiagonal",
    "DerivativeWarning",
    "Embedding",
    "EmbeddingError",
    "RankError",
    "RankWarning",
    "Report",
    "as_tolerance",
    "check_latent",
    "check_like",
    "concave_part",
]
