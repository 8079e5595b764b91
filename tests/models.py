"""A small trained-looking model that tests of files, pictures and commands share; made in a fraction of a second."""

from __future__ import annotations

from functools import cache

import torch

import latentgeo as lg
from latentgeo.decoders import MLP


@cache
def tiny_model() -> lg.LatentModel:
    """Three clusters of 2-D codes, images of 4×5 pixels, a Gaussian decoder with an RBF precision."""
    generator = torch.Generator().manual_seed(0)
    net = MLP([2, 16, 20], output="sigmoid").eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    labels = torch.arange(60) % 3
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.2]])
    codes = centres[labels] + 0.2 * torch.randn(60, 2, generator=generator)
    decoder = lg.wrap(net, latent_dim=2, likelihood=lg.Deterministic())
    with torch.no_grad():
        data = decoder.mean(codes) + 0.05 * torch.randn(60, 20, generator=generator)
    decoder = lg.fit_precision(decoder, codes, data, n_centers=6, random_state=0)
    metadata = {"dataset": "made up", "image_shape": [4, 5], "seed": 0}
    return lg.LatentModel(decoder, codes=codes, labels=labels, metadata=metadata)
