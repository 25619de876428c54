"""Which networks a configuration trains: the published pair, or a pair that a package adds.

A package adds its own by an entry point in the group `acgan_search.networks`, whose name is what
`train.networks` says and whose value is a `Networks`. Whatever builds or reads networks goes
through here, so weights of a plug-in are refused, and not misread, where it is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from acgan.config import PUBLISHED, TrainConfig
from acgan.errors import InputError
from acgan.gan.interface import DiscriminatorNetwork, GeneratorNetwork
from acgan.gan.models import Discriminator, Generator
from acgan.plugins import NETWORKS, find, reason


class Networks(NamedTuple):
    """A pair of networks: each is built from a configuration and the number of classes."""

    generator: Callable[[TrainConfig, int], GeneratorNetwork]
    discriminator: Callable[[TrainConfig, int], DiscriminatorNetwork]


def build_generator(config: TrainConfig, classes: int) -> GeneratorNetwork:
    """Return the generator of a configuration, untrained; `InputError` as `find_networks`."""
    return find_networks(config.networks).generator(config, classes)


def build_discriminator(config: TrainConfig, classes: int) -> DiscriminatorNetwork:
    """Return the discriminator of a configuration, untrained; `InputError` as `find_networks`."""
    return find_networks(config.networks).discriminator(config, classes)


def check_networks(config: TrainConfig, classes: int) -> None:
    """Try a package's networks on two images, before any long work.

    Raises `InputError` as `find_networks`, and where they fail or give other shapes than promised
    (`acgan.gan.interface`).
    """
    if config.networks == PUBLISHED:
        return
    found = find_networks(config.networks)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            generator = found.generator(config, classes).eval()
            discriminator = found.discriminator(config, classes).eval()
            images = generator(torch.zeros(2, config.latent_size), torch.tensor([0, classes - 1]))
            source, label = discriminator(images[:, :1] if config.grey else images)
            logits = discriminator.class_logits(label)
        except Exception as error:  # whatever another's code may raise
            hint = "; with grey: true images have one channel" if config.grey else ""
            raise InputError(
                f"networks {config.networks!r} cannot be trained with this configuration "
                f"({reason(error)}{hint}); mend them, or change it"
            ) from error
    side = config.image_size
    for what, own, wanted in (
        ("images", images, (2, 3, side, side)),
        ("source logits", source, (2,)),
        ("class logits", logits, (2, classes)),
    ):
        if tuple(own.shape) != wanted:
            raise InputError(
                f"networks {config.networks!r} give {what} of shape {list(own.shape)} where "
                f"{list(wanted)} is promised; mend them"
            )


def find_networks(name: str) -> Networks:
    """Return networks by name; `InputError` where no installed package has any of this name."""
    if name == PUBLISHED:
        return Networks(Generator, Discriminator)
    return find(NETWORKS, name, Networks, also=[PUBLISHED])
