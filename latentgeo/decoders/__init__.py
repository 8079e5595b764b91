"""Decoders: what a generative model's output means, and the flat embedding that carries its geometry.

Likelihood families and their embeddings, `wrap` for any module or callable, and Latent Space Oddity's RBF precision.
"""

from __future__ import annotations

from latentgeo.decoders.convolutional import ConvDecoder, ConvEncoder, ConvHead
from latentgeo.decoders.decoder import Decoder
from latentgeo.decoders.ensemble import Ensemble
from latentgeo.decoders.fit import fit_precision
from latentgeo.decoders.flows import FlowEncoder, FlowNetwork
from latentgeo.decoders.heads import MeanAndStd
from latentgeo.decoders.likelihoods import (
    Bernoulli,
    Categorical,
    Deterministic,
    Exponential,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
)
from latentgeo.decoders.networks import MLP, MLPEncoder
from latentgeo.decoders.outputs import OutputError
from latentgeo.decoders.precision import PrecisionReport, RBFPrecision
from latentgeo.decoders.quantised import VQDecoder, VQEncoder
from latentgeo.decoders.wrap import wrap

__all__ = [
    "MLP",
    "Bernoulli",
    "Categorical",
    "ConvDecoder",
    "ConvEncoder",
    "ConvHead",
    "Decoder",
    "Deterministic",
    "Ensemble",
    "Exponential",
    "FlowEncoder",
    "FlowNetwork",
    "Gaussian",
    "Likelihood",
    "MLPEncoder",
    "MeanAndStd",
    "NegativeBinomial",
    "OutputError",
    "Poisson",
    "PrecisionReport",
    "RBFPrecision",
    "VQDecoder",
    "VQEncoder",
    "fit_precision",
    "wrap",
]
