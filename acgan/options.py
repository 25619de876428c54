"""What the step does beside the published one: composed once from a configuration, off by default.

Each option is a function in a module of its own; the step calls the hooks and knows no option.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acgan.config import TrainConfig
from acgan.diffaugment import cut_out, translate
from acgan.models import Discriminator
from acgan.penalty import lazy_r1
from acgan.reacgan import ProxyHead, d2d_cross_entropy

Augment = Callable[[Tensor, torch.Generator], Tensor]
Penalty = Callable[[nn.Module, Tensor, int], Tensor | None]
ClassLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Options:
    """The hooks of a step.

    augment: changes images [B, 3, H, W] before the discriminator sees them, by random numbers
    penalty: from discriminator, real images and its updates so far to what its loss grows by, or
        None
    discriminator_class_loss, generator_class_loss: from what the class head gives and labels [B]
        to each network's class loss; the discriminator's batch is real images, then as many
        generated ones
    """

    augment: Augment
    penalty: Penalty
    discriminator_class_loss: ClassLoss
    generator_class_loss: ClassLoss


def compose(config: TrainConfig, discriminator: Discriminator) -> Options:
    """Return the hooks that a configuration asks for."""
    penalty: Penalty = _no_penalty
    if config.r1_gamma:
        penalty = partial(lazy_r1, gamma=config.r1_gamma, every=config.r1_every)
    of_discriminator, of_generator = _class_losses(discriminator)
    return Options(
        augment=_augment(config),
        penalty=penalty,
        discriminator_class_loss=of_discriminator,
        generator_class_loss=of_generator,
    )


def _class_losses(discriminator: Discriminator) -> tuple[ClassLoss, ClassLoss]:
    head = discriminator.label
    if not isinstance(head, ProxyHead):
        return _softmax_loss, _softmax_loss

    def loss(embeddings: Tensor, labels: Tensor) -> Tensor:
        return d2d_cross_entropy(embeddings, head.cosines(embeddings), labels)

    def of_real_images(embeddings: Tensor, labels: Tensor) -> Tensor:
        real = len(labels) // 2  # as in the paper, generated ones do not teach the classes
        return loss(embeddings[:real], labels[:real])

    return of_real_images, loss


def _softmax_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


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
