"""The arms of the augmentation study: ways to deal with a rare class, and what each trains on.

All arms have the same real training images, the same CNN and the same number of updates of equally
many images; what differs is which images an update draws from.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acgan.config import derive_seed
from acgan.data.dataset import ImageSet

Fill = Literal["nothing", "fewer", "weights", "repeats", "generated"]
Indices = NDArray[np.int64]
Generate = Callable[[int, int], NDArray[np.uint8]]
"""(label, count) → the first `count` images of a class, uint8 [count, H, W] or [count, 3, H, W]."""


@dataclass(frozen=True)
class Arm:
    """One way to deal with a rare class.

    name: as it stands in files; title: as a person reads it
    fill: what evens the classes out: nothing; fewer images of the others; weights in the loss;
        repeated real images; generated images
    augmented: every image is moved and brightened anew each time it is drawn
    amount: of generated images, see `generated_counts`
    """

    name: str
    title: str
    fill: Fill
    augmented: bool = False
    amount: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        """What decides the arm's CNNs: arms that are the same by another name share them."""
        return self.fill, self.augmented, float(self.amount)


REAL = Arm("real-only", "real only", "nothing")
UNDERSAMPLING = Arm("undersampling", "undersampling", "fewer")
WEIGHTS = Arm("class-weights", "class weights", "weights")
CLASSICAL = Arm("classical", "classical oversampling", "repeats", augmented=True)
GAN = Arm("gan", "GAN oversampling", "generated", amount=1.0)
BOTH = Arm("classical-gan", "classical + GAN", "generated", augmented=True, amount=1.0)
ARMS = (REAL, UNDERSAMPLING, WEIGHTS, CLASSICAL, GAN, BOTH)


def curve_arm(amount: float) -> Arm:
    """Return the arm of another amount of generated images, for the curve."""
    return Arm(
        f"gan-{amount:g}", f"GAN \N{MULTIPLICATION SIGN} {amount:g}", "generated", amount=amount
    )


def generated_counts(counts: Sequence[int], amount: float) -> list[int]:
    """Return how many generated images of each class an amount adds to so many real ones.

    Up to 1, it is the share of what each class lacks of the largest one; each further 1 adds as
    many images to every class as the largest one has real ones.
    """
    largest = max(counts)
    short, more = min(amount, 1.0), max(amount - 1.0, 0.0)
    return [round(short * (largest - own)) + round(more * largest) for own in counts]


@dataclass(frozen=True)
class ArmPool:
    """What an arm's updates draw from.

    images: uint8 [M, H, W] or [M, 3, H, W]; labels: int64 [M]
    rows: int64 [N], the images that one pass draws, some of them several times or never
    weights: float64 [C], each class's weight in the loss, or None
    """

    images: NDArray[np.uint8]
    labels: Indices
    rows: Indices
    weights: NDArray[np.float64] | None = None


def pool(arm: Arm, real: ImageSet, *, classes: int, generate: Generate, seed: int) -> ArmPool:
    """Return what an arm's updates draw from; `seed` decides which images are left out or repeated.

    Class weights are N / (C · N_c), so that they are 1 on average over the images.
    """
    counts = real.per_class(classes)
    images, labels, every = np.asarray(real.images), real.labels, np.arange(len(real))
    random = np.random.default_rng(derive_seed("pool", seed))
    if arm.fill == "fewer":
        return ArmPool(images, labels, _drawn(labels, [min(counts)] * classes, random))
    if arm.fill == "repeats":
        return ArmPool(images, labels, _drawn(labels, [max(counts)] * classes, random))
    if arm.fill == "weights":
        return ArmPool(images, labels, every, len(real) / (classes * np.array(counts, np.float64)))
    if arm.fill == "generated":
        added = generated_counts(counts, arm.amount)
        made = [generate(label, count) for label, count in enumerate(added) if count]
        images = np.concatenate([images, *made])
        labels = np.concatenate([labels, np.repeat(np.arange(classes), added)])
        return ArmPool(images, labels, np.arange(len(labels)))
    return ArmPool(images, labels, every)


def _drawn(labels: Indices, wanted: Sequence[int], random: np.random.Generator) -> Indices:
    """Return so many rows of each class: all of its images equally often, give or take once."""
    rows = []
    for label, count in enumerate(wanted):
        own = np.flatnonzero(labels == label)
        times, rest = divmod(count, len(own))
        rows += [np.tile(own, times), random.permutation(own)[:rest]]
    return np.concatenate(rows)


def keep(images: ImageSet, fractions: Mapping[int, float], *, seed: int) -> ImageSet:
    """Return the images with only this fraction of those of some classes, whole patients first.

    Patients are taken in an order that depends on their name and the seed alone, with all their
    images of the class, until there are enough; of the last one as many as are missing. So a
    smaller fraction's images are among a larger one's. At least one image of a class stays.
    """
    chosen = np.ones(len(images), bool)
    for label, fraction in fractions.items():
        own = np.flatnonzero(images.labels == label).tolist()
        order = sorted(own, key=lambda i: (derive_seed("keep", seed, images.patients[i]), i))
        count = max(1, math.floor(fraction * len(own) + 0.5))
        chosen[order[count:]] = False
    return images.where(chosen)
