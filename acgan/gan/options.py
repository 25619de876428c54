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
from acgan.gan import hinge, mode_seeking
from acgan.gan.diffaugment import cut_out, translate
from acgan.gan.interface import DiscriminatorNetwork
from acgan.gan.r1 import lazy_r1
from acgan.gan.reacgan import ProxyHead, d2d_cross_entropy

Augment = Callable[[Tensor, torch.Generator], Tensor]
Penalty = Callable[[nn.Module, Tensor, int], Tensor | None]
ClassLoss = Callable[[Tensor, Tensor], Tensor]
SourceLoss = Callable[[Tensor, Tensor], Tensor]
Reach = Callable[[Tensor, Tensor], Tensor | None]
Variety = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Options:
    """The hooks of a step.

    augment: changes images [B, 3, H, W] before the discriminator sees them, by random numbers
    penalty: from discriminator, real images and its updates so far to what its loss grows by, or
        None
    discriminator_class_loss, generator_class_loss: from what the class head gives and labels [B]
        to each network's class loss; the discriminator's batch is real images, then as many
        generated ones
    discriminator_source_loss, generator_source_loss: from source logits [B] and what they are
        wanted to be [B], 1 for real, to each network's source loss
    generator_class_weight: of that loss in the generator's. An auxiliary classifier's generator
        makes images that are easier to classify than real ones; a tenth is what Gulrajani, Ahmed,
        Arjovsky, Dumoulin and Courville 2017 trained with ("Improved Training of Wasserstein GANs")
    reach: from real images [B, 3, H, W] and labels [B] to how varied generated ones are to be, or
        None: they are not asked to be
    variety: from generated images [2·B, 3, H, W], i and i + B of one class, their latents [2·B, Z]
        and this reach to what the generator's loss grows by
    """

    augment: Augment
    penalty: Penalty
    discriminator_class_loss: ClassLoss
    generator_class_loss: ClassLoss
    discriminator_source_loss: SourceLoss
    generator_source_loss: SourceLoss
    generator_class_weight: float
    reach: Reach
    variety: Variety


def compose(config: TrainConfig, discriminator: DiscriminatorNetwork) -> Options:
    """Return the hooks that a configuration asks for."""
    penalty: Penalty = _no_penalty
    if config.r1_gamma:
        penalty = partial(lazy_r1, gamma=config.r1_gamma, every=config.r1_every)
    of_discriminator, of_generator = _class_losses(config, discriminator)
    return Options(
        augment=_augment(config),
        penalty=penalty,
        discriminator_class_loss=of_discriminator,
        generator_class_loss=of_generator,
        discriminator_source_loss=hinge.discriminator_loss if config.hinge else _cross_entropy,
        generator_source_loss=hinge.generator_loss if config.hinge else _cross_entropy,
        generator_class_weight=config.generator_class_weight,
        reach=partial(_reach, seen=_seen(config)) if config.mode_seeking else _no_reach,
        variety=partial(_variety, weight=config.mode_seeking, seen=_seen(config)),
    )


def _seen(config: TrainConfig) -> slice:
    """Return the channels that are looked at: of three equal ones the first."""
    return slice(1) if config.grey else slice(None)


def _reach(images: Tensor, labels: Tensor, *, seen: slice) -> Tensor:
    return mode_seeking.reach(images[:, seen], labels)


def _no_reach(images: Tensor, labels: Tensor) -> None:  # noqa: ARG001
    return None


def _variety(
    images: Tensor, latents: Tensor, bound: Tensor, *, weight: float, seen: slice
) -> Tensor:
    return weight * mode_seeking.variety_loss(images[:, seen], latents, bound)


def _class_losses(
    config: TrainConfig, discriminator: DiscriminatorNetwork
) -> tuple[ClassLoss, ClassLoss]:
    head = getattr(discriminator, "label", None)  # a plug-in names its layers as it likes
    loss = partial(_proxy_loss, head) if isinstance(head, ProxyHead) else _softmax_loss
    if config.real_classes or isinstance(head, ProxyHead):  # as in ReACGAN's paper
        return partial(_of_real_images, loss), loss
    return loss, loss


def _of_real_images(loss: ClassLoss, label: Tensor, labels: Tensor) -> Tensor:
    real = len(labels) // 2
    return loss(label[:real], labels[:real])


def _proxy_loss(head: ProxyHead, embeddings: Tensor, labels: Tensor) -> Tensor:
    return d2d_cross_entropy(embeddings, head.cosines(embeddings), labels)


def _softmax_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted)


def _no_penalty(discriminator: nn.Module, images: Tensor, updates: int) -> None:  # noqa: ARG001
    return None


def _augment(config: TrainConfig) -> Augment:
    wanted: list[Augment] = [lambda images, _: images[:, _seen(config)]]
    if config.translation:
        wanted.append(lambda images, random: translate(images, config.translation, random))
    if config.cutout:
        wanted.append(lambda images, random: cut_out(images, config.cutout, random))

    def augment(images: Tensor, random: torch.Generator) -> Tensor:
        for change in wanted:
            images = change(images, random)
        return images

    return augment
