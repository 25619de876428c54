"""Shear and zoom of a batch, as Keras' `ImageDataGenerator` does them, on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def matrices(count: int, *, shear_degrees: float, zoom: float, random: torch.Generator) -> Tensor:
    """Draw `count` maps [count, 2, 2] from output to input pixels (x, y) around the centre.

    Shear ~ U(-shear_degrees, shear_degrees); zoom of each axis ~ U(1 - zoom, 1 + zoom). As in
    Keras 2.10 a map is [[1, -sin], [0, cos]] of the shear times the diagonal of the zooms.
    """
    u = torch.rand(3, count, generator=random, device=random.device).mul_(2).sub_(1)
    shear = u[0] * math.radians(shear_degrees)
    columns, rows = 1 + zoom * u[1], 1 + zoom * u[2]
    x = torch.stack([columns, -rows * shear.sin()], dim=1)
    y = torch.stack([torch.zeros_like(shear), rows * shear.cos()], dim=1)
    return torch.stack([x, y], dim=1)


def warp(images: Tensor, maps: Tensor, shifts: Tensor | None = None) -> Tensor:
    """Resample images [B, C, H, W] through maps [B, 2, 2]: bilinear, edges repeated outside.

    shifts: [B, 2] (x, y) in half images, from the output's centre to the input's; None for none
    """
    theta = F.pad(maps, (0, 1))  # [B, 2, 3]
    if shifts is not None:
        theta[..., 2] = shifts
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def augment(
    images: Tensor, *, shear_degrees: float, zoom: float, random: torch.Generator
) -> Tensor:
    """Shear and zoom each image [B, C, H, W] by its own random amount; at zero, change nothing."""
    if shear_degrees == 0 and zoom == 0:
        return images
    maps = matrices(len(images), shear_degrees=shear_degrees, zoom=zoom, random=random)
    return warp(images, maps)
