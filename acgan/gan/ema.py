"""The exponential moving average of a generator's weights, a generator of its own.

Yazıcı et al. 2019, "The Unusual Effectiveness of Averaging in GAN Training". Averaging changes
nothing of the training: the weights that are trained are those of a run without it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from acgan.gan.interface import GeneratorNetwork


class Ema:
    """An average generator, which begins as the one that is trained.

    After update t it moves by 1 − min(decay, (1 + t) / (10 + t)) of the way to the trained one, as
    TensorFlow's moving average does: a short training is not averaged over its whole length. The
    moving statistics of BatchNorm are averaged like weights.

    generator: the average, in inference mode
    """

    def __init__(self, generator: GeneratorNetwork, *, decay: float) -> None:
        self.generator = copy.deepcopy(generator).requires_grad_(False).eval()
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, trained: GeneratorNetwork) -> None:
        """Take in the weights after an update of the trained generator."""
        self._updates += 1
        step = 1 - min(self._decay, (1 + self._updates) / (10 + self._updates))
        own, new = (network.state_dict() for network in (self.generator, trained))
        for name, average in own.items():
            if average.is_floating_point():
                average.lerp_(new[name], step)
            else:  # BatchNorm's count of batches
                average.copy_(new[name])

    def tensors(self) -> dict[str, Tensor]:
        """Return the average's weights by name, and the number of updates."""
        return {"updates": torch.tensor(self._updates), **self.generator.state_dict()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` returned; `KeyError` or `RuntimeError` for anything else."""
        weights = dict(tensors)
        self._updates = int(weights.pop("updates"))
        self.generator.load_state_dict(weights)
