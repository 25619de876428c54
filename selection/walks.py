"""What a generator does between two latents of a class, and from class to class at one latent."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from acgan.config import derive_seed
from acgan.generator import LoadedGenerator, Pixels, images_of
from acgan.grids import grid
from acgan.models import draw_latents

WALKS = 2  # of a class
STEPS = 9  # both ends included
LATENTS = 6  # that are shown in every class

_SMALLEST = 2.0**-25  # half of what separates two uniform numbers of 32 bits


def between(first: Tensor, second: Tensor, steps: int = STEPS) -> Tensor:
    """Return a path [steps, D] from one latent ~ U(-1, 1) [D] to another, both ends exact.

    Each number goes through the normal distribution's quantiles and back, and in between by
    cos(t) and sin(t), whose squares sum to one: so each step is distributed as a latent of its
    own is. A straight line is not: its middle is 0.71 times as long as any latent that the
    generator was trained on. A great circle between uniform latents leaves their cube.
    """
    start, end = (_normal(latent) for latent in (first, second))
    angles = torch.linspace(0, math.pi / 2, steps, dtype=torch.float64)[:, None]
    path = _uniform(angles.cos() * start + angles.sin() * end).to(first.dtype)
    path[0], path[-1] = first, second
    return path


def _normal(latent: Tensor) -> Tensor:
    shares = latent.double().add(1).div(2).clamp(_SMALLEST, 1 - _SMALLEST)
    normal: Tensor = torch.special.ndtri(shares)
    return normal


def _uniform(values: Tensor) -> Tensor:
    shares: Tensor = torch.special.ndtr(values)
    return shares.mul(2).sub(1)


def walks(loaded: LoadedGenerator, *, seed: int) -> Pixels:
    """Return images along paths within each class, uint8 [classes · 2 · 9, 3, H, W], path by path.

    The same paths in every class. Raises `NotFiniteError`.
    """
    ends = _latents(loaded, 2 * WALKS, seed).view(WALKS, 2, -1)
    paths = torch.cat([between(first, second) for first, second in ends])
    classes = len(loaded.classes)
    labels = torch.arange(classes).repeat_interleave(len(paths))
    return images_of(loaded, paths.repeat(classes, 1), labels)


def changes(loaded: LoadedGenerator, *, seed: int) -> Pixels:
    """Return images of the same latents in every class, uint8 [6 · classes, 3, H, W].

    Latent by latent, the classes in their order. Raises `NotFiniteError`.
    """
    classes = len(loaded.classes)
    latents = _latents(loaded, LATENTS, seed).repeat_interleave(classes, dim=0)
    return images_of(loaded, latents, torch.arange(classes).repeat(LATENTS))


def _latents(loaded: LoadedGenerator, count: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(derive_seed(seed, "walks"))
    return draw_latents(count, loaded.config.latent_size, random)


def walks_picture(loaded: LoadedGenerator, *, seed: int) -> bytes:
    """Return a PNG of `walks`: a row a path, two rows a class."""
    return grid(walks(loaded, seed=seed), columns=STEPS)


def changes_picture(loaded: LoadedGenerator, *, seed: int) -> bytes:
    """Return a PNG of `changes`: a row a latent, a column a class."""
    return grid(changes(loaded, seed=seed), columns=len(loaded.classes))
