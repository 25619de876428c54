"""DiffAugment: translation and cutout of all images that the discriminator sees.

Zhao, Liu, Lin, Zhu and Han 2020, "Differentiable Augmentation for Data-Efficient GAN Training":
real and generated images are changed alike, in both networks' updates, and the generator learns
through the change, so that it is not taught to make it. Never colour: in an X-ray grey is tissue.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def translate(images: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Shift each image [B, C, H, W] by whole pixels, each axis ~ U{-s, …, s}, s = share · side.

    What comes in is 0, the middle of the range, as in the paper.
    """
    count, channels, height, width = images.shape
    reach = (round(share * height), round(share * width))
    padded = F.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    rows = _starts(count, reach[0], random)[:, None] + torch.arange(height, device=images.device)
    columns = _starts(count, reach[1], random)[:, None] + torch.arange(width, device=images.device)
    places = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]  # [B, H, W]
    chosen = places.flatten(1)[:, None].expand(-1, channels, -1)
    return padded.flatten(2).gather(2, chosen).view(images.shape)


def _starts(count: int, reach: int, random: torch.Generator) -> Tensor:
    return torch.randint(2 * reach + 1, (count,), generator=random, device=random.device)


def cut_out(images: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Set a square of `share` of the side to 0 in each image [B, C, H, W].

    Its centre is uniform over the image, so that a part of it may lie outside.
    """
    count, _, height, width = images.shape
    rows = _hidden(count, height, share, random)
    columns = _hidden(count, width, share, random)
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _hidden(count: int, side: int, share: float, random: torch.Generator) -> Tensor:
    """Return for each of `count` images which of its rows (or columns) are cut, [count, side]."""
    size = round(share * side)
    centres = torch.randint(side + 1 - size % 2, (count,), generator=random, device=random.device)
    places = torch.arange(side, device=random.device) - (centres[:, None] - size // 2)
    return (places >= 0) & (places < size)
