"""Supporting trainers: models that give the toolkit something to analyse. `fit` is the front door.

Lightning runs the loop; it is imported when `fit` is called, and comes with the extra `train`.
"""

from __future__ import annotations

from latentgeo.train.adversarial import FGAN, NonSaturating, WassersteinGP, gradient_penalty
from latentgeo.train.binarise import Binarise
from latentgeo.train.data import TrainData, as_data
from latentgeo.train.divergences import KL, Divergence, JensenShannon, PearsonChi2, ReverseKL, TotalVariation
from latentgeo.train.evidence import Evidence, log_evidence
from latentgeo.train.fit import TrainResult, fit
from latentgeo.train.flow import Flow, FlowDensity
from latentgeo.train.gan import GAN, normalise_spectrally
from latentgeo.train.inversion import Inversion, invert
from latentgeo.train.networks import Dense, LeNet, Network, ResNet
from latentgeo.train.recipe import Learner, Recipe, TrainingError
from latentgeo.train.vae import RBF, VAE, ScaleNetwork

__all__ = [
    "invert",
    "Inversion",
    "normalise_spectrally",
    "GAN",
    "FlowDensity",
    "Flow",
    "TotalVariation",
    "ReverseKL",
    "PearsonChi2",
    "JensenShannon",
    "Divergence",
    "KL",
    "gradient_penalty",
    "WassersteinGP",
    "NonSaturating",
    "FGAN",
    "RBF",
    "VAE",
    "Binarise",
    "Dense",
    "Evidence",
    "LeNet",
    "Learner",
    "Network",
    "Recipe",
    "ResNet",
    "ScaleNetwork",
    "TrainData",
    "TrainResult",
    "TrainingError",
    "as_data",
    "fit",
    "log_evidence",
]
