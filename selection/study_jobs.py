"""One CNN of one arm of the augmentation study, in whatever process Ray places it.

Its answers are left in the study's store under a name that follows from all that decides them, so
a study that is typed again, or another one with more seeds or amounts, trains only what is missing.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acgan.config import derive_seed
from acgan.dataset import ImageSet
from acgan.errors import InputError
from acgan.generator import LoadedGenerator, NotFiniteError, generate
from search.node import set_aside
from selection.result import write_json
from selection.study_arms import Arm, keep, pool
from selection.study_fit import Budget, answers, fit
from selection.study_result import Run, Split
from selection.work import Weights, Work, read_stored

STUDY_VERSION = 1  # of arms, augmentation and training: a change makes all CNNs be trained again


@dataclass(frozen=True)
class Setting:
    """What all CNNs of a study share.

    kept: (label, fraction) of the classes that are thinned out
    """

    work: Work
    weights: Weights
    budget: Budget
    kept: tuple[tuple[int, float], ...]
    split: Split

    def real(self, train: ImageSet) -> ImageSet:
        """Return the real training images that are kept."""
        return keep(train, dict(self.kept), seed=self.work.settings.seed)


@dataclass(frozen=True)
class ArmJob:
    """CNN `number` (from 0) of an arm: trained, and asked about every image of the split."""

    setting: Setting
    arm: Arm
    number: int

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.arm.title}, CNN {self.number + 1}"

    @property
    def path(self) -> Path:
        """Where its answers stand."""
        own = self.setting
        generator = own.weights.sha256 if self.arm.amount else ""
        parts = (STUDY_VERSION, own.budget, own.kept, own.split, self.arm.key, generator)
        return own.work.path("study", {"seed"}, *parts, self.number)

    def result(self) -> Run | None:
        """Return its answers; None before it is trained."""
        return read_stored(Run, self.path)

    def done(self) -> bool:
        """Whether it is trained and its answers are there."""
        return self.result() is not None

    def run(self, *, gpu: bool) -> None:
        """Train it, and write down its answers.

        CNN n starts from the same weights in every arm, and the generated images of a smaller
        amount are among those of a larger one.
        """
        started = time.perf_counter()
        own, work, device = self.setting, self.setting.work, set_aside(gpu)
        data = work.all_data() if own.split == "test" else work.data()
        classes, seed = len(data.classes), work.settings.seed
        generator = own.weights.load(device) if self.arm.amount else None
        drawn = pool(
            self.arm,
            own.real(data.train),
            classes=classes,
            generate=functools.partial(
                _generate, generator, derive_seed(seed, "study images", self.number)
            ),
            seed=derive_seed(seed, "study pool", self.number),
        )
        models = fit(
            drawn,
            own.budget,
            augmented=self.arm.augmented,
            classes=classes,
            seed=derive_seed(seed, "study CNN", self.number),
            device=device,
        )
        scored = data.test if own.split == "test" else data.val
        predicted, confidence = answers(models, scored.images)
        seconds = time.perf_counter() - started
        write_json(self.path, Run(predicted=predicted, confidence=confidence, seconds=seconds))


def _generate(
    generator: LoadedGenerator | None, seed: int, label: int, count: int
) -> NDArray[np.uint8]:
    """Return generated images in grey, as they would be read from a folder of them."""
    assert generator is not None  # the arm has generated images
    try:
        images = generate(generator, label, count=count, seed=seed)
    except NotFiniteError as error:
        raise InputError(f"{error}; pick again") from error
    return np.stack(
        [np.asarray(Image.fromarray(i.transpose(1, 2, 0)).convert("L")) for i in images]
    )
