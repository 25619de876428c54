"""One CNN of one arm of the augmentation study, in whatever process Ray places it.

Its answers are left in the study's store under a name that follows from all that decides them, so
a study that is typed again, or another one with more seeds or amounts, trains only what is missing.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acgan.config import derive_seed
from acgan.errors import InputError
from acgan.evaluation.grids import as_grey
from acgan.generation.generator import LoadedGenerator, NotFiniteError, generate
from search.nodes.sees import set_aside
from selection.augmentation.arms import Arm, keep, pool
from selection.augmentation.fit import Budget, answers, fit_arm
from selection.augmentation.result import Run, Split
from selection.jobs.results import StoredJob, Weights

STUDY_VERSION = 1  # of arms, augmentation and training: a change makes all CNNs be trained again


@dataclass(frozen=True)
class Setting:
    """What all CNNs of a study share.

    kept: (label, fraction) of the classes that are thinned out
    """

    weights: Weights
    budget: Budget
    kept: tuple[tuple[int, float], ...]
    split: Split


@dataclass(frozen=True)
class ArmJob(StoredJob[Run]):
    """CNN `number` (from 0) of an arm: trained, and asked about every image of the split."""

    kind = "study"
    model = Run
    setting_names = frozenset({"seed"})

    setting: Setting
    arm: Arm
    number: int

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.arm.title}, CNN {self.number + 1}"

    @property
    def parts(self) -> tuple[object, ...]:
        """The setting, the arm, which CNN of it, and the generator if the arm has one."""
        own = self.setting
        generator = own.weights.sha256 if self.arm.amount else ""
        parts = (STUDY_VERSION, own.budget, own.kept, own.split, self.arm.key, generator)
        return *parts, self.number

    def compute(self, *, gpu: bool) -> Run:
        """Train it, and ask it.

        CNN n starts from the same weights in every arm, and the generated images of a smaller
        amount are among those of a larger one.
        """
        own, work, device = self.setting, self.work, set_aside(gpu)
        data = work.all_data() if own.split == "test" else work.data()
        classes, seed = len(data.classes), work.settings.seed
        generator = work.load(own.weights, device) if self.arm.amount else None
        drawn = pool(
            self.arm,
            keep(data.train, dict(own.kept), seed=seed),
            classes=classes,
            generate=functools.partial(
                _generate,
                generator,
                derive_seed(seed, "study images", self.number),
                data.train.in_colour,
            ),
            seed=derive_seed(seed, "study pool", self.number),
        )
        models = fit_arm(
            drawn,
            own.budget,
            augmented=self.arm.augmented,
            classes=classes,
            seed=derive_seed(seed, "study CNN", self.number),
            device=device,
        )
        scored = data.test if own.split == "test" else data.val
        predicted, confidence = answers(models, scored.images)
        return Run(predicted=predicted, confidence=confidence)


def _generate(
    generator: LoadedGenerator | None, seed: int, colour: bool, label: int, count: int
) -> NDArray[np.uint8]:
    """Return generated images in grey or colour, as they would be read from a folder of them."""
    assert generator is not None  # the arm has generated images
    try:
        images = generate(generator, label, count=count, seed=seed)
    except NotFiniteError as error:
        raise InputError(f"{error}; pick again") from error
    return images if colour else as_grey(images)
