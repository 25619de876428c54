"""Spectral normalisation: each layer of the discriminator divided by its largest singular value.

Miyato, Kataoka, Koyama and Yoshida 2018, "Spectral Normalization for Generative Adversarial
Networks". The value is estimated by one power iteration at each update of the discriminator,
whose vectors are buffers of the network and so a part of its state.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def normalise(network: nn.Module, *, seed: int) -> None:
    """Normalise all convolutions and dense layers of a network on a CPU, from vectors by `seed`."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # a GPU's generator is left alone
        for layer in layers:
            spectral_norm(layer)
