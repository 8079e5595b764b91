"""Errors and warnings shared by every layer."""

from __future__ import annotations

__all__ = ["DerivativeWarning", "EmbeddingError", "RankError", "RankWarning"]


class EmbeddingError(ValueError):
    """A function cannot serve as an embedding: it is random, couples rows, or has no derivative."""


class RankError(ValueError):
    """A metric tensor that must be inverted is rank-deficient."""


class RankWarning(UserWarning):
    """A metric tensor is rank-deficient: its volume is zero."""


class DerivativeWarning(UserWarning):
    """A derivative is taken by finite differences because no exact path is right."""
