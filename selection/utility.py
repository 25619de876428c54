"""Step 2: how well a classifier that has only seen generated images knows real ones.

For each candidate the published CNN is trained on its images alone: the same number of every
class, the same length for all candidates, several seeds with fresh images each. What counts is the
mean over the last three epochs of a fit, never its best one (Ravuri and Vinyals 2019,
"Classification accuracy score").
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray

from acgan.classifier import Classifier, FitConfig, fit_last, predict
from acgan.config import derive_seed
from acgan.dataset import ImageSet
from acgan.generator import LoadedGenerator, generate_all
from selection.result import LAST_EPOCHS
from selection.settings import SelectionConfig

REVERSE_IMAGES = 512  # of a class: as good as thousands, and CNNs are slow on a CPU


class ConstantError(ValueError):
    """A generator makes one and the same image of a class, whatever its latents."""


def train_on_generated(
    generator: LoadedGenerator, config: SelectionConfig, *, number: int
) -> list[Classifier]:
    """Return CNN `number` (from 0) of a generator as it was after each of its last epochs.

    Raises `acgan.generator.NotFiniteError` if the generated images are not finite, and
    `ConstantError` if those of a class are all the same.
    """
    seed = derive_seed(config.seed, "utility images", number)
    images, labels = generate_all(generator, per_class=config.cnn_images, seed=seed)
    for label, name in enumerate(generator.classes):
        own = images[labels == label]
        if (own == own[0]).all():
            raise ConstantError(
                f"the generator of {generator.run}, epoch {generator.epoch}, makes one and the "
                f"same image of {name}"
            )
    return fit_last(
        images,
        labels,
        config=config.fit,
        classes=len(generator.classes),
        seed=derive_seed(config.seed, "utility CNN", number),
        device=generator.device,
        count=LAST_EPOCHS,
    )


def train_on_real(
    images: ImageSet, config: SelectionConfig, *, number: int, classes: int, device: torch.device
) -> list[Classifier]:
    """Return CNN `number` of the real training images: what generated ones can at best replace.

    It gets as many updates as the CNNs of generated images, hence more epochs of fewer images.
    """
    return fit_last(
        images.images,
        images.labels,
        config=real_fit(config, len(images), classes),
        classes=classes,
        seed=derive_seed(config.seed, "ceiling CNN", number),
        device=device,
        count=LAST_EPOCHS,
    )


def real_fit(config: SelectionConfig, images: int, classes: int) -> FitConfig:
    """Return how a CNN is trained on so many real images: with the updates of step 2's CNNs."""
    updates = config.cnn_epochs * math.ceil(classes * config.cnn_images / config.cnn_batch_size)
    epochs = max(round(updates / math.ceil(images / config.cnn_batch_size)), LAST_EPOCHS)
    return dataclasses.replace(config.fit, epochs=epochs)


def hits(models: list[Classifier], images: ImageSet) -> str:
    """Return how many of the models classify each image right, one digit an image."""
    right = [(predict(m, images.images).argmax(1).cpu().numpy() == images.labels) for m in models]
    return "".join(str(count) for count in np.sum(right, axis=0))


def reverse(
    models: list[Classifier], images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> list[float]:
    """Return the mean accuracy of real-trained CNNs on the first 512 images of each class."""
    found = []
    for label in range(int(labels.max()) + 1):
        own = images[labels == label][:REVERSE_IMAGES]
        found.append(np.mean([(predict(m, own).argmax(1) == label).cpu().numpy() for m in models]))
    return [float(share) for share in found]
