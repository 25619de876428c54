"""What an augmentation study is asked for, found and checked before any long work."""

import argparse
import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from acgan.command import typed
from acgan.config import TrainConfig, derive_seed, nearest_name, validate
from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.run.device import default_device
from search.nodes.sees import StudyAt
from search.study import estimate
from search.study.folder import Study, study_images
from selection.augmentation.arms import ARMS, Arm, curve_arm, generated_counts, keep
from selection.augmentation.fit import Budget
from selection.augmentation.jobs import ArmJob, Setting
from selection.augmentation.result import AUGMENTATION_FORMAT, Split
from selection.jobs.results import Weights, Work, without_test
from selection.ledgers.reviews import looks, read_reviews
from selection.metrics.estimate import Images
from selection.settings import SelectionConfig
from selection.steps.objections import objections
from selection.steps.request import (
    Request,
    find_run,
    naming,
    require_idle,
    settle,
    weights_path,
)
from selection.steps.result import Pick, read_picks

FEWEST_SEEDS = 5
FEWEST_UPDATES = 500  # where the data set is so small that the epochs would be fewer
LARGEST_AMOUNT = 100.0
AMOUNTS = f"--amounts must be numbers above 0 and up to {LARGEST_AMOUNT:g}, for example 0.5,2,4"
KEEP = "--keep must be CLASS=FRACTION with a fraction above 0 and up to 1"
NEARLY_EVEN = 0.8  # of the largest class: nothing much to balance


@dataclass(frozen=True, kw_only=True)
class StudyRequest(Request):
    """What an augmentation study is asked for besides.

    pick: whose winner generates, None: the latest of the study or trial; seeds: CNNs of each arm
    amounts: of generated images, besides 1; updates: of each CNN, None: as the settings say
    keep: of a class, the fraction of its training images that the CNNs are given
    test: whether the test images are scored, on the record, and not the validation images
    """

    pick: str | None = None
    seeds: int = FEWEST_SEEDS
    amounts: Sequence[float] = (0.5, 2.0, 4.0)
    updates: int | None = None
    keep: Mapping[str, float] = field(default_factory=dict)
    test: bool = False

    @classmethod
    def of(cls, arguments: argparse.Namespace, **more: Any) -> Self:
        """Return what the flags of `selection.study` say; `InputError` for what is none."""
        amounts, keep = _numbers(arguments.amounts), _fractions(arguments.keep)
        return super().of(arguments, amounts=amounts, keep=keep, **more)


def _numbers(text: str) -> list[float]:
    with contextlib.suppress(ValueError):
        return [float(word) for word in text.split(",") if word.strip()]
    raise InputError(f"{AMOUNTS}, got {text!r}")


def _fractions(texts: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"{KEEP}, for example COVID-19=0.1, got {text!r}")
    return found


@dataclass(frozen=True)
class StudyPlan:
    """All that was asked for, checked.

    pick: the pick whose winner generates; data: without test images
    images, sources: of the split that is scored
    train_images: real training images of each class, before and after `--keep`
    """

    study: Study
    parent_id: str
    pick: Pick
    work: Work
    setting: Setting
    data: Dataset
    images: Images
    sources: tuple[str, ...]
    train_images: tuple[list[int], list[int]]
    arms: tuple[Arm, ...]
    seeds: int
    tracking_uri: str
    address: str | None

    @property
    def split(self) -> Split:
        """Which images are scored."""
        return self.setting.split

    @property
    def kept(self) -> dict[str, float]:
        """The fractions of classes that `--keep` leaves."""
        return {self.data.classes[label]: fraction for label, fraction in self.setting.kept}

    @property
    def id(self) -> str:
        """The study's name: the same request for the same pick has the same."""
        own, arms = self.setting, [(arm.name, arm.key) for arm in self.arms]
        parts = (self.pick.id, own.weights.sha256, own.budget, own.kept, own.split)
        decides = (AUGMENTATION_FORMAT, *parts, arms, self.seeds, self.work.settings.seed)
        return f"{derive_seed(*decides):016x}"[-8:]

    @property
    def folder(self) -> Path:
        """Where the study leaves its files."""
        return self.study.path / "selection" / f"study-{self.id}"

    def jobs(self) -> list[ArmJob]:
        """Return a job for each CNN of each arm, the first of all arms first."""
        return [
            ArmJob(self.work, self.setting, arm, number)
            for number in range(self.seeds)
            for arm in self.arms
        ]

    @property
    def notes(self) -> list[str]:
        """What a reader must know of how the question was asked."""
        before, after = self.train_images
        seen = looks(read_reviews(self.study))
        against = "; ".join(objection.reason for objection in objections(self.pick, seen))
        found = [f"against using this generator: {against}"] if against else []
        found += [
            f"only {after[label]} of the {before[label]} training images of {name} are given to "
            f"the CNNs (--keep), but the generator was trained on all {before[label]}: that "
            "favours the arms with generated images; a fair answer needs a search on a data set "
            "without the other images"
            for label, name in enumerate(self.data.classes)
            if after[label] < before[label]
        ]
        if min(after) >= NEARLY_EVEN * max(after):
            pairs = zip(after, self.data.classes, strict=True)
            counts = ", ".join(f"{count:,} {name}" for count, name in pairs)
            found.append(
                f"the classes are nearly even ({counts}): there is little to balance; "
                f"--keep {self.data.classes[0]}=0.1 makes one rare"
            )
        return found


def make_study_plan(request: StudyRequest) -> StudyPlan:
    """Find and check all that was asked for; `InputError` says what is wrong."""
    if request.seeds < FEWEST_SEEDS:
        raise InputError(
            f"--seeds must be at least {FEWEST_SEEDS}, got {request.seeds}: one CNN's accuracy "
            "says little"
        )
    amounts = _amounts(request.amounts)
    uri, study, parent_id, trial = find_run(request.named)
    require_idle(study)
    pick = _find_pick(study, trial, uri, request)
    settings, source = settle(request, study, picked=pick.settings)
    data = study_images(study, source)
    kept = _kept(request.keep, data)
    scored = data.test if request.test else data.val
    if not len(scored):
        raise InputError("the data set has no test images; type the same without --test")
    winner = pick.winner
    weights = Weights(winner.name, weights_path(study, winner.trial, winner.epoch), winner.weights)
    weights.load(torch.device("cpu"))  # now, rather than in every process
    train = keep(data.train, dict(kept), seed=settings.seed)
    counts = train.per_class(len(data.classes))
    at = StudyAt.of(study, source)
    setting = Setting(
        weights=weights,
        budget=_budget(settings, counts, request.updates),
        kept=kept,
        split="test" if request.test else "validation",
    )
    return StudyPlan(
        work=Work(at, settings, data.fingerprint, None),
        study=study,
        parent_id=parent_id,
        pick=pick,
        setting=setting,
        data=without_test(data),
        images=Images.of(scored),
        sources=scored.sources,
        train_images=(list(data.train.per_class(len(data.classes))), list(counts)),
        arms=(*ARMS, *map(curve_arm, amounts)),
        seeds=request.seeds,
        tracking_uri=uri,
        address=request.address,
    )


def _amounts(asked: Sequence[float]) -> list[float]:
    """Return the amounts of the curve besides 1, which is always there."""
    # As arms are named: two that read the same are one.
    found = sorted({float(f"{amount:g}") for amount in asked})
    if not all(0 < amount <= LARGEST_AMOUNT for amount in found):
        raise InputError(f"{AMOUNTS}, got {','.join(f'{amount:g}' for amount in asked)!r}")
    return [amount for amount in found if amount != 1]


def _find_pick(study: Study, trial: str | None, uri: str, request: StudyRequest) -> Pick:
    """Return the named pick, else the latest of the study or of the trial that was asked for."""
    found = read_picks(study)
    named, scope = request.pick, trial or "study"
    what = f"pick {named}" if named else f"pick of {trial or 'the study'}"
    own = [pick for pick in found if pick.id == named or (not named and pick.scope == scope)]
    if not own:
        words = naming(study, uri, request.named.run_id)
        command = typed(["python", "-m", "selection.pick", *words])
        there = f"; there are: {', '.join(pick.id for pick in found)}" if named and found else ""
        raise InputError(f"there is no {what} in {study.path}{there}; to make one, type: {command}")
    return max(own, key=lambda pick: pick.created)


def _kept(asked: Mapping[str, float], data: Dataset) -> tuple[tuple[int, float], ...]:
    """Return the fractions of classes by label; `InputError` for what is none."""
    found = {}
    for name, fraction in asked.items():
        text = f"{name}={fraction:g}"
        if not 0 < fraction <= 1:
            raise InputError(f"{KEEP}, for example {data.classes[0]}=0.1, got {text!r}")
        if name not in data.classes:
            raise InputError(f"--keep {text}: no such class{nearest_name(name, data.classes)}")
        if fraction < 1:
            found[data.classes.index(name)] = fraction
    return tuple(sorted(found.items()))


def _budget(settings: SelectionConfig, counts: Sequence[int], updates: int | None) -> Budget:
    """Return what every arm's CNN gets: by default step 2's epochs of the evened-out images."""
    epochs, batch_size = settings.cnn_epochs, settings.cnn_batch_size
    a_pass = math.ceil(len(counts) * max(counts) / batch_size)
    asked = max(epochs * a_pass, FEWEST_UPDATES) if updates is None else updates
    if asked < epochs:
        raise InputError(f"--updates must be at least {epochs}, one for each of --cnn-epochs")
    return Budget(asked, epochs, batch_size, settings.cnn_learning_rate)


def rough_seconds(plan: StudyPlan, jobs: Sequence[ArmJob]) -> float:
    """Return roughly how long these CNNs, and images for them, take on this machine alone."""
    budget, device = plan.setting.budget, default_device()
    fit = estimate.fit_seconds(
        classes=len(plan.data.classes),
        image_size=plan.data.train.images.shape[-1],
        batch_size=budget.batch_size,
        updates=budget.updates,
        device=device,
    )
    counts = plan.train_images[1]
    images = sum(sum(generated_counts(counts, job.arm.amount)) for job in jobs if job.arm.amount)
    config = validate(TrainConfig, "train", plan.study.info.train)
    return fit * len(jobs) + estimate.generate_seconds(config, images, device)
