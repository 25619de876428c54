"""What the step does beside the published one: composed once from a configuration, off by default.

Each option is a function in a module of its own; the step calls the hooks and knows no option.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from acgan.config import TrainConfig
from acgan.diffaugment import cut_out, translate
from acgan.penalty import lazy_r1

Augment = Callable[[Tensor, torch.Generator], Tensor]
Penalty = Callable[[nn.Module, Tensor, int], Tensor | None]


@dataclass(frozen=True)
class Options:
    """The hooks of a step.

    augment: changes images [B, 3, H, W] before the discriminator sees them, by random numbers
    penalty: from discriminator, real images and its updates so far to what its loss grows by, or
        None
    """

    augment: Augment
    penalty: Penalty


def compose(config: TrainConfig) -> Options:
    """Return the hooks that a configuration asks for."""
    penalty: Penalty = _no_penalty
    if config.r1_gamma:
        penalty = partial(lazy_r1, gamma=config.r1_gamma, every=config.r1_every)
    return Options(augment=_augment(config), penalty=penalty)


def _no_penalty(discriminator: nn.Module, images: Tensor, updates: int) -> None:  # noqa: ARG001
    return None


def _augment(config: TrainConfig) -> Augment:
    wanted: list[Augment] = []
    if config.translation:
        wanted.append(lambda images, random: translate(images, config.translation, random))
    if config.cutout:
        wanted.append(lambda images, random: cut_out(images, config.cutout, random))

    def augment(images: Tensor, random: torch.Generator) -> Tensor:
        for change in wanted:
            images = change(images, random)
        return images

    return augment
