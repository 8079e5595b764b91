"""Exact derivatives of row-wise functions, memory-bounded batching and small linear algebra.

Everything above rests on these; nothing here knows what a decoder or a metric is.
"""

from __future__ import annotations

from .autograd import mark_constant
from .blocktridiagonal import BlockTridiagonal
from .checks import (
    as_integers,
    as_numbers,
    as_tolerance,
    broadcast_pair,
    check_flag,
    check_integer,
    check_latent,
    check_like,
    check_positive,
    check_vectors,
)
from .embedding import DEFAULT_MAX_BYTES, Embedding
from .errors import DerivativeWarning, EmbeddingError, RankError, RankWarning
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
    "as_integers",
    "as_numbers",
    "as_tolerance",
    "broadcast_pair",
    "check_flag",
    "check_integer",
    "check_latent",
    "check_like",
    "check_positive",
    "check_vectors",
    "concave_part",
    "mark_constant",
]
