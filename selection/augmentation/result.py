"""What an augmentation study leaves behind: `study.json`, every number of it, and its sentence.

Images are named by their place in the split; patients by a number each, never by name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from acgan.files import Stored, read_json
from selection.augmentation.arms import BOTH, CLASSICAL, GAN, REAL
from selection.jobs.results import Result
from selection.metrics.calibration import calibration_gaps
from selection.metrics.estimate import Estimate, Images
from selection.metrics.intervals import Measure, interval, paired
from selection.steps.scores import measures, places_by_source

AUGMENTATION_FORMAT = 1
ECE = "calibration error"

Array = NDArray[np.float64]
Split = Literal["validation", "test"]

COMPARED = (
    (GAN, REAL, "by themselves"),
    (BOTH, CLASSICAL, "beside classical oversampling"),
    (GAN, CLASSICAL, "in its place"),
)
"""What the sentence compares: the first arm has generated images that the second has not."""


class Run(Result):
    """One CNN of one arm, as it was at its three last counted moments.

    predicted: one string per moment, one letter per image, see `as_letters`; confidence: likewise,
        of the predicted class
    """

    predicted: list[str]
    confidence: list[list[float]]

    @model_validator(mode="after")
    def _of_the_same_images(self) -> Self:
        if [*map(len, self.predicted)] != [*map(len, self.confidence)]:
            raise ValueError("every image must have one answer, and how sure it is")
        return self


def as_letters(labels: Sequence[int]) -> str:
    """Return one letter per label: `0` to `9`, and what follows in Unicode for further classes."""
    return "".join(chr(ord("0") + label) for label in labels)


def from_letters(text: str) -> NDArray[np.int64]:
    """Return the labels of `as_letters`."""
    return np.array([ord(letter) - ord("0") for letter in text], np.int64)


class ArmResult(Stored):
    """One arm: what it trained on, and its scores with their intervals, by measure.

    real, generated: how many different images of each class its CNNs were trained on
    against_real, against_classical: its scores minus those, paired by seed and patient
    """

    name: str
    title: str
    amount: float
    real: list[int]
    generated: list[int]
    runs: list[Run]
    scores: dict[str, Estimate]
    against_real: dict[str, Estimate] = Field(default_factory=dict)
    against_classical: dict[str, Estimate] = Field(default_factory=dict)


class AugmentationStudy(Stored):
    """`study.json`.

    kept: fractions of classes that `--keep` left; train_images: real ones before it, of each class
    images: those that were scored on; sources: where each is from
    touch: which look at the study's test images this was, from 1; None on validation images
    sentence: whether generated images help; empty on validation images
    """

    format: int
    id: str
    study: str
    study_id: str
    pick: str
    created: float
    code_version: str
    weights: str
    generator: str
    split: Split
    data_name: str
    fingerprint: str
    classes: list[str]
    warnings: list[str]
    notes: list[str]
    kept: dict[str, float]
    train_images: list[int]
    images: Images
    sources: list[str]
    budget: dict[str, float]
    seeds: int
    seed: int
    arms: list[ArmResult]
    touch: int | None = None
    sentence: str = ""

    def arm(self, name: str) -> ArmResult:
        """Return an arm by its name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def curve(self) -> list[ArmResult]:
        """The arms whose only difference is the number of generated images, fewest first."""
        plain = [arm for arm in self.arms if arm.amount and arm.name != BOTH.name]
        return [self.arm(REAL.name), *sorted(plain, key=lambda arm: arm.amount)]

    @property
    def chance(self) -> float:
        """The balanced accuracy of one constant answer, over the classes that have images."""
        return 1 / len(set(self.images.labels))

    @property
    def where(self) -> str:
        """`159 validation images of 119 patients`."""
        people = len(set(self.images.patients))
        return f"{len(self.images.labels)} {self.split} images of {people} patients"


def measured(
    first: Sequence[Run],
    second: Sequence[Run] | None,
    images: Images,
    *,
    sources: Sequence[str],
    classes: Sequence[str],
) -> dict[str, Estimate]:
    """Return an arm's scores by measure, or what they are above those of a second arm."""
    right, gaps = _answers(first, images)
    others = None if second is None else _answers(second, images)
    found = {
        name: _estimate(right, others and others[0], images, measure)
        for name, measure in measures(classes).items()
    }
    found[ECE] = _estimate(gaps, others and others[1], images, "accuracy")
    for name, places in places_by_source(sources).items():
        beside = None if others is None else others[0][:, places]
        found[name] = _estimate(right[:, places], beside, images.only(places), "accuracy")
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _answers(runs: Sequence[Run], images: Images) -> tuple[Array, Array]:
    """Return each CNN's share of right answers, and its part in the calibration error, [S, N]."""
    labels = np.array(images.labels)
    right, gaps = [], []
    for run in runs:
        hit = [from_letters(row) == labels for row in run.predicted]
        parts = [
            calibration_gaps(np.array(sure), own)
            for sure, own in zip(run.confidence, hit, strict=True)
        ]
        right.append(np.mean(hit, axis=0))
        gaps.append(np.mean(parts, axis=0))
    return np.array(right), np.array(gaps)


def _estimate(own: Array, other: Array | None, images: Images, measure: Measure) -> Estimate | None:
    if other is None:
        return interval(own, images, measure)
    return paired(own, other, images, measure)


def comparisons(arms: Mapping[str, ArmResult], images: Images) -> list[Estimate]:
    """Return the balanced accuracies that the sentence compares; the intervals hold together."""
    found = []
    for first, second, _ in COMPARED:
        own, other = (_answers(arms[arm.name].runs, images)[0] for arm in (first, second))
        estimate = paired(own, other, images, together=len(COMPARED))
        assert estimate is not None  # there are images
        found.append(estimate)
    return found


def answer_sentence(estimate: Estimate) -> str:
    """Say whether generated images help, no more than the interval allows."""
    if estimate.low > 0:
        return "yes"
    if estimate.high < 0:
        return "no, they harm"
    return "not shown"


def headline(differences: Sequence[Estimate]) -> str:
    """Return what the comparisons come to in a few words.

    To help or to harm is to be better or worse than the same training without generated images;
    the third comparison, with classical oversampling in their place, says nothing of that.
    """
    ways = [how for _, _, how in COMPARED[:2]]
    found = list(zip(ways, differences, strict=False))
    helps = [how for how, estimate in found if estimate.low > 0]
    harms = [how for how, estimate in found if estimate.high < 0]
    parts = [f"help {helps[0]}"] if len(helps) == 1 else ["help"] if helps else []
    parts += [f"harm {harms[0]}"] if len(harms) == 1 else ["harm"] if harms else []
    return f"They {' and '.join(parts)}" if parts else "No effect shown"


def sentence(differences: Sequence[Estimate], *, where: str, seeds: int, caveats: str) -> str:
    """Return the study's one sentence from the comparisons on test images."""
    parts = [
        f"{how}: {answer_sentence(estimate)} "
        f"({first.title} minus {second.title} {_signed(estimate)})"
        for (first, second, how), estimate in zip(COMPARED, differences, strict=True)
    ]
    found = "; ".join(parts)
    return (
        f"Do the generated images help a CNN, in balanced accuracy on {where}, {seeds} CNNs each? "
        f"{found[:1].upper()}{found[1:]}; the three intervals hold together at 95 %{caveats}."
    )


def _signed(estimate: Estimate) -> str:
    value, low, high = (
        f"{round(number, 3) + 0.0:+.3f}".replace("-", "\N{MINUS SIGN}")
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value}, {low} to {high}"


def read_study(path: Path) -> AugmentationStudy | None:
    """Read a `study.json`; None if there is none, `InputError` if it is damaged."""
    return read_json(AugmentationStudy, path, remedy="delete it and type the study again")
