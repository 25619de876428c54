"""The hinge loss for the source head, in place of binary cross-entropy.

Lim and Ye 2017, "Geometric GAN"; with spectral norm: Miyato et al. 2018.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def discriminator_loss(source: Tensor, target: Tensor) -> Tensor:
    """Return the mean of max(0, 1 − s · logit) over source logits [B], s = 2 · target − 1.

    A target that is smoothed wants as much less of its side.
    """
    side = 2 * target - 1
    return F.relu(1 - side * source).mean()


def generator_loss(source: Tensor, target: Tensor) -> Tensor:  # noqa: ARG001
    """Return the mean of −logit over source logits [B] of generated images."""
    return -source.mean()
