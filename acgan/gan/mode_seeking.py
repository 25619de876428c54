"""Mode seeking: the generator is paid for images that differ as their latents do.

Mao, Lee, Tseng, Ma and Yang 2019, "Mode Seeking Generative Adversarial Networks for Diverse Image
Synthesis". Nothing in the published step pays for variety: in the generator's update the
discriminator sees no batch, so that one picture per class can be a good answer.

Without a bound the images go on drifting apart, into glaring contrast. As in Yang, Hong, Jang, Zhao
and Lee 2019, "Diversity-Sensitive Conditional Generative Adversarial Networks", nothing is paid
beyond a bound: here the difference that real images of one class have.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5
LATENT_DIFFERENCE = 2 / 3  # the mean absolute difference of two numbers ~ U(-1, 1)


def pair_labels(labels: Tensor) -> Tensor:
    """Return labels [2·B] whose second half repeats the first: i and i + B are a pair."""
    return labels[: len(labels) // 2].repeat(2)


def reach(images: Tensor, labels: Tensor) -> Tensor:
    """Return how far real images of one class differ, over what latents do: the bound, a scalar.

    images [B, C, H, W] with labels [B]: the mean absolute difference of those that follow each
    other within a class, all numbers alike. Infinite for a batch without two of one class.
    """
    order = labels.argsort(stable=True)
    first, second = order[:-1], order[1:]
    same = labels[first] == labels[second]
    differences = (images[first] - images[second]).abs().mean(dim=(1, 2, 3))
    sums = torch.where(same, differences, 0).sum()
    mean = torch.where(same.any(), sums / same.sum().clamp(min=1), torch.inf)
    return mean / LATENT_DIFFERENCE


def variety_loss(images: Tensor, latents: Tensor, bound: Tensor) -> Tensor:
    """Return 1 / (min(d(images) / d(latents), bound) + ε), to be made small.

    images [2·B, C, H, W] of latents [2·B, Z], i and i + B of one class; d is the mean absolute
    difference within the pairs, over all numbers of all pairs.
    """
    ratio = _difference(images) / _difference(latents)
    return 1 / (torch.minimum(ratio, bound) + EPSILON)


def _difference(values: Tensor) -> Tensor:
    first, second = values.chunk(2)
    return (first - second).abs().mean()
