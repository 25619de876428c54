"""What a generator is worth to a classifier: two numbers, on real validation images.

(a) balanced accuracy of CNNs trained on its images alone, as in step 2 of a pick;
(b) what its images add to real ones of which one class was made rare: the balanced accuracy of
    CNNs trained on both, less that of CNNs trained on the real ones alone.

All CNNs have as many updates, and those of one number start from the same weights.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from acgan.config import derive_seed
from acgan.data.dataset import Dataset
from acgan.evaluation.classifier import fit_last, predict
from acgan.evaluation.fit import FitConfig
from acgan.evaluation.grids import as_grey
from acgan.files import replace_bytes
from acgan.generation.generator import (
    LoadedGenerator,
    NotFiniteError,
    generate,
    generate_all,
    load_generator,
)
from benchmarks.train_runs import images

CNNS = 2
BATCH = 16
RARE = 0  # the class that is made rare: COVID-19 of COVIDx
KEPT = 0.2  # of its training patients

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """One generator to be measured.

    weights: its file; per_class: images that CNNs learn from, in so many updates; out: where the
        result is kept
    """

    weights: Path
    source: str
    image_size: int
    per_class: int
    updates: int
    out: Path


@dataclass(frozen=True)
class Worth:
    """Balanced accuracies, one per CNN: on generated images alone; gained beside real ones."""

    alone: tuple[float, ...]
    gain: tuple[float, ...]

    @classmethod
    def read(cls, path: Path) -> Worth:
        """Read what `measure` left."""
        content = json.loads(path.read_bytes())
        return cls(tuple(content["alone"]), tuple(content["gain"]))


def measure(asked: Asked) -> None:
    """Measure one generator, unless its result is there; one whose pixels are NaN is worth 0."""
    if asked.out.exists():
        return
    data = images(asked.source, asked.image_size)
    try:
        worth = Worth(_alone(asked, data), _gain(asked, data))
    except NotFiniteError:
        worth = Worth((0.0,) * CNNS, (0.0,) * CNNS)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(asked.out, json.dumps({"alone": worth.alone, "gain": worth.gain}).encode())


def _alone(asked: Asked, data: Dataset) -> tuple[float, ...]:
    loaded = load_generator(asked.weights, device=torch.device("cpu"))
    pixels, labels = generate_all(loaded, per_class=asked.per_class, seed=1)
    return accuracies(pixels, labels, data, updates=asked.updates)


def _gain(asked: Asked, data: Dataset) -> tuple[float, ...]:
    """Return what filling up the rare class to the largest one adds, one per CNN."""
    loaded = load_generator(asked.weights, device=torch.device("cpu"))
    both = accuracies(*filled(loaded, data), data, updates=asked.updates)
    alone = _rare_alone(asked.source, asked.image_size, asked.updates)
    return tuple(a - b for a, b in zip(both, alone, strict=True))


def filled(loaded: LoadedGenerator, data: Dataset) -> tuple[Pixels, Labels]:
    """Return the images of `rare`, and generated ones, which fill the rare class up.

    They are grey where the real ones are, as they would be read from a folder of them.
    """
    pixels, labels = rare(data)
    missing = int(np.bincount(labels).max() - (labels == RARE).sum())
    made = generate(loaded, RARE, count=missing, seed=2)
    made = made if data.train.in_colour else as_grey(made)
    return np.concatenate([pixels, made]), np.concatenate([labels, np.full(missing, RARE)])


@functools.cache
def _rare_alone(source: str, image_size: int, updates: int) -> tuple[float, ...]:
    data = images(source, image_size)
    return accuracies(*rare(data), data, updates=updates)


def rare(data: Dataset) -> tuple[Pixels, Labels]:
    """Return the training images with few of one class: those of a fifth of its patients."""
    labels, patients = np.asarray(data.train.labels), np.array(data.train.patients)
    own = np.unique(patients[labels == RARE])
    order = np.random.default_rng(derive_seed("rare patients")).permutation(own)
    kept = np.isin(patients, order[: max(round(KEPT * len(own)), 2)]) | (labels != RARE)
    return np.asarray(data.train.images)[kept], labels[kept]


def accuracies(pixels: Pixels, labels: Labels, data: Dataset, *, updates: int) -> tuple[float, ...]:
    """Return the balanced accuracy on the validation images of each of `CNNS` CNNs."""
    epochs = max(round(updates * BATCH / len(labels)), 1)
    config = FitConfig(learning_rate=5e-4, epochs=epochs, batch_size=BATCH)
    scores = []
    for number in range(CNNS):
        seed = derive_seed("worth", number)
        (model,) = fit_last(pixels, labels, config=config, classes=len(data.classes), seed=seed)
        right = predict(model, data.val.images).argmax(1).numpy() == data.val.labels
        scores.append(_balanced(right, data.val.labels))
    return tuple(scores)


def _balanced(right: NDArray[np.bool_], labels: Sequence[int] | Labels) -> float:
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
