"""What a generator and a discriminator promise to the step, the evaluation and the weights file."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GeneratorNetwork(nn.Module):
    """Latents and class labels → images in [-1, 1].

    It is built from a configuration and the number of classes. Its initial weights must follow
    from `config.seed` alone, and its state is its `state_dict`.
    """

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents [B, config.latent_size] and labels int64 [B] to images [B, 3, H, W]."""
        raise NotImplementedError


class DiscriminatorNetwork(nn.Module):
    """Images → source and class logits; built and initialised as a generator is."""

    def forward(
        self, images: Tensor, noise: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map images [B, 3, H, W] in [-1, 1] to source logits [B] and what the class head gives.

        With `config.grey` images are also [B, 1, H, W]: one channel of three equal ones. A positive
        source logit says real. `noise` draws all random numbers, as those of dropout; None: none
        are drawn.
        """
        raise NotImplementedError

    def class_logits(self, label: Tensor) -> Tensor:
        """Return class logits [B, classes] from what the class head gives: the same, by default."""
        return label
