"""Supporting trainers: models that give the toolkit something to analyse. `fit` is the front door.

Lightning runs the loop; it is imported when `fit` is called, and comes with the extra `train`.
"""

from __future__ import annotations

from latentgeo.train.binarise import Binarise
from latentgeo.train.data import TrainData, as_data
from latentgeo.train.evidence import Evidence, log_evidence
from latentgeo.train.fit import TrainResult, fit
from latentgeo.train.networks import Dense, Network
from latentgeo.train.recipe import Learner, Recipe, TrainingError
from latentgeo.train.vae import RBF, VAE, ScaleNetwork

__all__ = [
    "RBF",
    "VAE",
    "Binarise",
    "Dense",
    "Evidence",
    "Learner",
    "Network",
    "Recipe",
    "ScaleNetwork",
    "TrainData",
    "TrainResult",
    "TrainingError",
    "as_data",
    "fit",
    "log_evidence",
]
