"""How an arm's CNN is trained: so many updates of equally many images, whatever the arm."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from acgan.config import derive_seed
from acgan.evaluation.classifier import Classifier, predict, recompute_statistics, to_rgb
from acgan.gan.adam import Adam
from acgan.gan.augment import warp
from selection.augmentation.arms import ArmPool
from selection.augmentation.result import as_letters
from selection.steps.result import LAST_EPOCHS

# The published ranges of classical oversampling, but not its mirroring: that is another anatomy.
ROTATION_DEGREES = 10.0
SHIFT = 0.1  # of a side
ZOOM = 0.15
BRIGHTNESS = 0.1


@dataclass(frozen=True)
class Budget:
    """What every arm's CNN gets: `updates` of `batch_size` images, in `epochs` equal parts.

    An arm with few images sees them more often. As in step 2 the CNN counts as it is after each of
    the last three parts.
    """

    updates: int
    epochs: int
    batch_size: int
    learning_rate: float

    @property
    def counted(self) -> tuple[int, ...]:
        """After which updates the CNN counts."""
        part = self.updates // self.epochs
        return tuple(self.updates - part * left for left in reversed(range(LAST_EPOCHS)))


def fit_arm(
    pool: ArmPool, budget: Budget, *, augmented: bool, classes: int, seed: int, device: torch.device
) -> list[Classifier]:
    """Train the published CNN as `acgan.evaluation.classifier.fit_last` does, by updates instead of
    epochs.

    Every batch is full: one random order of the pool follows another. Initial weights depend on
    `seed` alone, so they are the same for all arms. Weighted losses are divided by the number of
    images, as Keras does it.
    """
    pixels, labels = (torch.tensor(own, device=device) for own in (pool.images, pool.labels))
    rows = torch.from_numpy(pool.rows)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Classifier(classes=classes, image_size=pixels.shape[-1]).to(device)
        model.train()
        optimizer = Adam(model.parameters(), learning_rate=budget.learning_rate)
        random = torch.Generator(device).manual_seed(derive_seed("augmentation", seed))
        weights = None if pool.weights is None else torch.tensor(pool.weights, device=device)
        batches = _batches(rows, budget.batch_size)
        counted = []
        for update in range(1, budget.updates + 1):
            batch = next(batches).to(device)
            images = augment_batch(pixels[batch], random) if augmented else pixels[batch]
            loss = _loss(model(to_rgb(images)), labels[batch], weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if update in budget.counted:
                counted.append(copy.deepcopy(model).eval())
    seen = pixels[rows.to(device)]
    for model in counted:
        recompute_statistics(model, seen, batch_size=budget.batch_size)
    return counted


def _batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Yield batches of exactly `size` rows for ever, one random order of all after another."""
    left = rows[:0]
    while True:
        while len(left) < size:
            left = torch.cat([left, rows[torch.randperm(len(rows))]])  # drawn on the CPU
        yield left[:size]
        left = left[size:]


def _loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return functional.cross_entropy(logits, labels)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return (weights[labels].to(losses) * losses).mean()


def augment_batch(images: Tensor, random: torch.Generator) -> Tensor:
    """Turn, shift, zoom and brighten each image by its own random amount.

    images: uint8 [B, H, W] or [B, 3, H, W]. Up to 10 degrees, 10 % of a side, 15 % and 10 %; edges
    are repeated outside.
    """
    count = len(images)
    u = torch.rand(6, count, generator=random, device=random.device).mul_(2).sub_(1)
    angle = u[0] * math.radians(ROTATION_DEGREES)
    columns, rows = 1 + ZOOM * u[1], 1 + ZOOM * u[2]
    x = torch.stack([columns * angle.cos(), -rows * angle.sin()], dim=1)
    y = torch.stack([columns * angle.sin(), rows * angle.cos()], dim=1)
    shifts = 2 * SHIFT * u[3:5].T  # a side is 2 long
    channels = images if images.ndim == 4 else images[:, None]
    moved = warp(channels.float(), torch.stack([x, y], dim=1), shifts)
    brightness = (1 + BRIGHTNESS * u[5])[:, None, None, None]
    return (moved * brightness).round().clamp(0, 255).to(torch.uint8).reshape(images.shape)


def answers(
    models: list[Classifier], images: NDArray[np.uint8]
) -> tuple[list[str], list[list[float]]]:
    """Return what each model takes each image for (see `as_letters`), and how sure it is."""
    found = [predict(model, images).cpu() for model in models]
    predicted = [as_letters(each.argmax(dim=1).tolist()) for each in found]
    return predicted, [[round(p, 6) for p in each.amax(dim=1).tolist()] for each in found]
