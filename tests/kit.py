"""Small configurations and data sets for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acgan.config import TrainConfig
from acgan.data.dataset import Dataset, ImageSet
from acgan.run.records import QUALITY, Ranking

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"  # real X-rays, where they are at hand
MINI = SHARED / "covidx-mini"
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason="no covidx-mini images here")

LEAST = Ranking(QUALITY, sign=1)  # the smallest distance

CLASSES = ("COVID-19", "normal", "pneumonia")

# Fields that change the published step, as they are in it and otherwise.
OPTIONS_OFF: dict[str, Any] = {
    "discriminator_rate": 1.0,
    "class_balanced": False,
    "translation": 0.0,
    "cutout": 0.0,
    "spectral_norm": False,
    "r1_gamma": 0.0,
    "reacgan_head": False,
    "ema_decay": 0.0,
    "mode_seeking": 0.0,
    "grey": False,
    "upsampling": "transposed",
    "conditional_norm": False,
    "real_classes": False,
    "hinge": False,
    "generator_class_weight": 1.0,
    "precision": "float32",
}
OPTIONS_ON: dict[str, Any] = {
    "discriminator_rate": 2.0,
    "class_balanced": True,
    "translation": 0.125,
    "cutout": 0.5,
    "spectral_norm": True,
    "r1_gamma": 1e6,  # of a tiny young discriminator R1 is 3e-12
    "reacgan_head": True,
    "ema_decay": 0.9,
    "mode_seeking": 1.0,
    "grey": True,
    "upsampling": "nearest",
    "conditional_norm": True,
    "real_classes": True,
    "hinge": True,
    "generator_class_weight": 0.2,
    "precision": "bfloat16",
}


def tiny_config(**changes: Any) -> TrainConfig:
    """Return a configuration whose networks train in milliseconds."""
    tiny: dict[str, Any] = {
        "image_size": 16,
        "width": 1 / 32,
        "latent_size": 6,
        "embedding_size": 5,
        "batch_size": 8,
        "epochs": 2,
    }
    return TrainConfig(**{**tiny, **changes})


def tiny_images(count: int, *, image_size: int = 16, classes: int = 3, seed: int = 0) -> ImageSet:
    """Draw noisy grey ramps, [count, image_size, image_size]: each class in its own direction."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    angle = labels * np.pi / classes + random.normal(0, 0.1, count)
    position = np.linspace(-1, 1, image_size)
    ramp = (
        np.cos(angle)[:, None, None] * position[None, None, :]
        + np.sin(angle)[:, None, None] * position[None, :, None]
    )
    grey = 128 + 70 * ramp + random.normal(0, 8, ramp.shape)
    return ImageSet(
        images=grey.clip(0, 255).astype(np.uint8),
        labels=labels.astype(np.int64),
        patients=tuple(f"patient-{index}" for index in range(count)),
        sources=("ramps",) * count,
    )


def tiny_dataset(
    *, image_size: int = 16, train: int = 48, val: int = 24, test: int = 12
) -> Dataset:
    """Return a data set of ramps with the three classes."""
    return Dataset(
        name="ramps",
        classes=CLASSES,
        train=tiny_images(train, image_size=image_size, seed=0),
        val=tiny_images(val, image_size=image_size, seed=1),
        test=tiny_images(test, image_size=image_size, seed=2),
        fingerprint=f"ramps-{image_size}-{train}-{val}-{test}",
    )
