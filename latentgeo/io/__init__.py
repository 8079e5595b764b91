"""Checkpoints in and out: the native safetensors format, and weights handed over with a builder.

Nothing is unpickled unless the caller trusts the file; whatever is wrong with one is a `CheckpointError`.
"""

from __future__ import annotations

from latentgeo.io.errors import CheckpointError
from latentgeo.io.load import load
from latentgeo.io.model import LatentModel
from latentgeo.io.native import read_header
from latentgeo.io.save import save

__all__ = ["CheckpointError", "LatentModel", "load", "read_header", "save"]
