"""Augmentation studies: by hand, whose CNNs answer as they are told, and as a user types them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from selection import study
from selection.augmentation.arms import ARMS, Arm, curve_arm, generated_counts
from selection.augmentation.plan import StudyPlan, StudyRequest, make_study_plan
from selection.augmentation.result import ArmResult, AugmentationStudy, Run, Split, measured
from selection.commands.study import train_and_compare
from selection.metrics.estimate import Images
from tests.kit import CLASSES
from tests.picks import Here

COUNT = 150
SEEDS = 5
IMAGES = Images(labels=[i % 3 for i in range(COUNT)], patients=[i // 2 for i in range(COUNT)])
SOURCES = ["nih" if i % 3 else ("cohen" if i < 90 else "fig1") for i in range(COUNT)]
TRAIN = [20, 80, 60]


def runs(accuracy: float, *, seed: int = 0, seeds: int = SEEDS) -> list[Run]:
    """CNNs that classify this share of the images right; which ones, chance decides."""
    random = np.random.default_rng(seed)
    labels = np.array(IMAGES.labels)
    found = []
    for _ in range(seeds):
        right = random.random((3, COUNT)) < accuracy
        answers = np.where(right, labels, (labels + random.integers(1, 3, (3, COUNT))) % 3)
        sure = random.uniform(0.4, 1, (3, COUNT)).round(6)
        found.append(
            Run(
                predicted=["".join(map(str, row)) for row in answers.tolist()],
                confidence=sure.tolist(),
                seconds=1.5,
            )
        )
    return found


def all_arms() -> list[Arm]:
    return [*ARMS, curve_arm(0.5), curve_arm(2)]


def plan_of(options: Sequence[str]) -> StudyPlan:
    """Return the plan of a command with these options."""
    return make_study_plan(StudyRequest.of(study.parser().parse_args(options)))


def study_here(options: Sequence[str]) -> AugmentationStudy:
    """Do all the work of a command with these options in this process, save for MLflow's part."""
    plan = plan_of(options)
    workers = Here(plan.work.settings, address=None, verbose=False)
    return train_and_compare(plan, workers)


def made_study(
    accuracies: Mapping[str, float] | None = None,
    *,
    split: Split = "validation",
    sentence: str = "",
    notes: tuple[str, ...] = (),
) -> AugmentationStudy:
    """Return a study whose arms have these accuracies, others 0.7."""
    answered = {
        arm.name: runs((accuracies or {}).get(arm.name, 0.7), seed=number)
        for number, arm in enumerate(all_arms())
    }

    def scores(name: str, other: str | None = None) -> dict[str, object]:
        beside = None if other is None else answered[other]
        return dict(measured(answered[name], beside, IMAGES, sources=SOURCES, classes=CLASSES))

    arms = [
        ArmResult(
            name=arm.name,
            title=arm.title,
            amount=arm.amount,
            real=TRAIN,
            generated=generated_counts(TRAIN, arm.amount) if arm.amount else [0, 0, 0],
            runs=answered[arm.name],
            scores=scores(arm.name),
            against_real={} if arm.name == "real-only" else scores(arm.name, "real-only"),
            against_classical={} if arm.name == "classical" else scores(arm.name, "classical"),
        )
        for arm in all_arms()
    ]
    return AugmentationStudy(
        format=1,
        id="12345678",
        study="lungs",
        study_id="0" * 32,
        pick="abcdef01",
        created=1_700_000_000.0,
        code_version="0.1.0",
        weights="f" * 64,
        generator="t0001, epoch 12",
        split=split,
        data_name="covidx",
        fingerprint="e" * 64,
        classes=list(CLASSES),
        warnings=["validation has few patients (12 of COVID-19)"],
        notes=list(notes),
        kept={"COVID-19": 0.25},
        train_images=[80, 80, 60],
        images=IMAGES,
        sources=SOURCES,
        budget={"updates": 500, "epochs": 15, "batch_size": 64, "learning_rate": 1e-4},
        seeds=SEEDS,
        seed=0,
        arms=arms,
        touch=2 if sentence else None,
        sentence=sentence,
    )
