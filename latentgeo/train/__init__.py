"""Supporting trainers: models that give the toolkit something to analyse. `fit` is the front door.

Lightning runs the loop; it is imported when `fit` is called, and comes with the extra `train`.
"""

from __future__ import annotations

from latentgeo.train import scores
from latentgeo.train.adversarial import FGAN, NonSaturating, WassersteinGP, gradient_penalty
from latentgeo.train.binarise import Binarise
from latentgeo.train.data import TrainData, as_data
from latentgeo.train.divergences import KL, Divergence, JensenShannon, PearsonChi2, ReverseKL, TotalVariation
from latentgeo.train.evidence import Evidence, log_evidence
from latentgeo.train.features import Features, load_features
from latentgeo.train.fit import TrainResult, fit
from latentgeo.train.flow import Flow, FlowDensity
from latentgeo.train.gan import GAN, normalise_spectrally
from latentgeo.train.inversion import Inversion, invert
from latentgeo.train.networks import Dense, LeNet, Network, ResNet
from latentgeo.train.quantise import CodebookLoss, MovingAverage
from latentgeo.train.recipe import Learner, Recipe, TrainingError
from latentgeo.train.vae import RBF, VAE, ScaleNetwork
from latentgeo.train.vqvae import VQVAE, Transformer

__all__ = [
    "FGAN",
    "GAN",
    "KL",
    "RBF",
    "VAE",
    "VQVAE",
    "Binarise",
    "CodebookLoss",
    "Dense",
    "Divergence",
    "Evidence",
    "Features",
    "Flow",
    "FlowDensity",
    "Inversion",
    "JensenShannon",
    "LeNet",
    "Learner",
    "MovingAverage",
    "Network",
    "NonSaturating",
    "PearsonChi2",
    "Recipe",
    "ResNet",
    "ReverseKL",
    "ScaleNetwork",
    "TotalVariation",
    "TrainData",
    "TrainResult",
    "TrainingError",
    "Transformer",
    "WassersteinGP",
    "as_data",
    "fit",
    "gradient_penalty",
    "invert",
    "load_features",
    "log_evidence",
    "normalise_spectrally",
    "scores",
]
