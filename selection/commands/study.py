"""Whether generated images help a classifier: what `selection.study` does."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import time
from collections.abc import Callable

from acgan.command import duration, say
from acgan.files import remove_leftovers, write_json
from search.tracking import connection
from selection.augmentation import publish
from selection.augmentation.arms import CLASSICAL, REAL, Arm, generated_counts
from selection.augmentation.page import write_study_report
from selection.augmentation.plan import StudyPlan, StudyRequest, make_study_plan, rough_seconds
from selection.augmentation.result import (
    AUGMENTATION_FORMAT,
    ArmResult,
    AugmentationStudy,
    Run,
    comparisons,
    measured,
    read_study,
    sentence,
)
from selection.jobs.workers import LostError, Workers, tell_lost
from selection.ledgers import looks
from selection.metrics.estimate import Estimate
from selection.metrics.wording import interval_text
from selection.steps.request import at_work
from selection.steps.scores import BALANCED


def study(arguments: argparse.Namespace, again: str) -> int:
    """Train the CNNs and say whether it helps; return the exit code. again: as typed."""
    plan = make_study_plan(StudyRequest.of(arguments))
    for warning in (*plan.data.warnings, *plan.notes):
        print(f"warning: {warning}")
    print(asked(plan))
    if arguments.dry_run:
        print(_cost(plan))
        print("nothing was started; to start, type the same without --dry-run")
        return 0
    with at_work(plan.study):
        try:
            found = carry_out(plan, say=say, verbose=arguments.verbose)
        except LostError as error:
            return tell_lost(error, again)
        return _publish(plan, found, again)


def carry_out(
    plan: StudyPlan, *, say: Callable[[str], None], verbose: bool = False
) -> AugmentationStudy:
    """Train the CNNs and compare the arms, unless it is done already.

    say: is told how far it is. Raises `InputError` as a CNN's process did, and `LostError`.
    """
    remove_leftovers(plan.folder)  # all files of the folder go to MLflow
    found = read_study(plan.folder / "study.json")
    if found is not None:
        say(f"study {plan.id} is there already")
        return found
    say(_cost(plan))
    settings = plan.work.settings
    with Workers(settings, address=plan.address, verbose=verbose, say=say) as workers:
        return train_and_compare(plan, workers)


def asked(plan: StudyPlan) -> str:
    """Say which generator and which images it is about."""
    counts = zip(plan.data.classes, plan.train_images[1], strict=True)
    there = ", ".join(f"{count:,} {name}" for name, count in counts)
    people = len(set(plan.images.patients))
    return (
        f"generator: {plan.setting.weights.name}, of pick {plan.pick.id}; real training images: "
        f"{there}; scored on {len(plan.images.labels):,} {plan.split} images of {people:,} patients"
    )


def _cost(plan: StudyPlan) -> str:
    """Say what there is to do, and roughly for how long."""
    jobs, budget = plan.jobs(), plan.setting.budget
    missing = [job for job in jobs if not job.done()]
    rough = duration(rough_seconds(plan, missing))
    left = f"{len(missing)} of {len(jobs)} CNNs to train, roughly {rough} with all of this machine"
    return (
        f"{len(plan.arms)} arms of {plan.seeds} CNNs, each of {budget.updates:,} updates of "
        f"{budget.batch_size} images: {left if missing else 'all are trained'}"
    )


def train_and_compare(plan: StudyPlan, workers: Workers) -> AugmentationStudy:
    """Train the CNNs that are missing; return the study, whose files are written."""
    plan.work.folder.mkdir(parents=True, exist_ok=True)
    plan.folder.mkdir(exist_ok=True)
    touch = None
    if plan.split == "test":
        touch = looks.record(
            plan.study,
            pick=plan.folder.name,
            weights=[plan.setting.weights.sha256],
            reason="augmentation study",
        )
    jobs = plan.jobs()
    results = workers.do(jobs, "CNNs")
    runs: dict[str, list[Run]] = {}
    for job in jobs:
        runs.setdefault(job.arm.name, []).append(results[job])
    study = _result(plan, runs, touch)
    write_study_report(study, plan.folder)
    write_json(plan.folder / "study.json", study)  # last: with it the study is there
    return study


def _result(plan: StudyPlan, runs: dict[str, list[Run]], touch: int | None) -> AugmentationStudy:
    budget, settings = plan.setting.budget, plan.work.settings
    arms = {arm.name: _arm_result(plan, arm, runs) for arm in plan.arms}
    study = AugmentationStudy(
        format=AUGMENTATION_FORMAT,
        id=plan.id,
        study=plan.study.info.name,
        study_id=plan.study.info.uuid,
        pick=plan.pick.id,
        created=time.time(),
        code_version=importlib.metadata.version("acgan-search"),
        weights=plan.setting.weights.sha256,
        generator=plan.setting.weights.name,
        split=plan.split,
        data_name=plan.data.name,
        fingerprint=plan.data.fingerprint,
        classes=list(plan.data.classes),
        warnings=list(plan.data.warnings),
        notes=plan.notes,
        kept=plan.kept,
        train_images=plan.train_images[0],
        images=plan.images,
        sources=list(plan.sources),
        budget={
            "updates": budget.updates,
            "epochs": budget.epochs,
            "batch_size": budget.batch_size,
            "learning_rate": budget.learning_rate,
        },
        seeds=plan.seeds,
        seed=settings.seed,
        arms=list(arms.values()),
        touch=touch,
    )
    if touch is None:
        return study
    said = sentence(
        comparisons(arms, plan.images), where=study.where, seeds=plan.seeds, caveats=_caveats(plan)
    )
    return study.model_copy(update={"sentence": said})


def _caveats(plan: StudyPlan) -> str:
    before, after = plan.train_images
    thinned = [
        f"{after[label]} of {before[label]} {plan.data.classes[label]}"
        for label, _ in plan.setting.kept
        if after[label] < before[label]
    ]
    if not thinned:
        return ""
    return (
        f"; the CNNs had only {', '.join(thinned)} images, the generator had all of them, which "
        "favours it"
    )


def _arm_result(plan: StudyPlan, arm: Arm, runs: dict[str, list[Run]]) -> ArmResult:
    counts = plan.train_images[1]

    def scores(other: Arm | None) -> dict[str, Estimate]:
        return measured(
            runs[arm.name],
            None if other is None else runs[other.name],
            plan.images,
            sources=plan.sources,
            classes=plan.data.classes,
        )

    return ArmResult(
        name=arm.name,
        title=arm.title,
        amount=arm.amount,
        real=[min(counts)] * len(counts) if arm.fill == "fewer" else counts,
        generated=generated_counts(counts, arm.amount) if arm.amount else [0] * len(counts),
        runs=runs[arm.name],
        scores=scores(None),
        against_real={} if arm == REAL else scores(REAL),
        against_classical={} if arm == CLASSICAL else scores(CLASSICAL),
    )


def publish_study(plan: StudyPlan, study: AugmentationStudy) -> str:
    """Bring a study to MLflow; return its run. Raises `connection.FAILURES`."""
    client = connection.connect(plan.tracking_uri)
    return publish.publish(client, study, plan.parent_id, plan.folder)


def _publish(plan: StudyPlan, study: AugmentationStudy, again: str) -> int:
    code = 0
    try:
        print(f"in MLflow: run {publish_study(plan, study)}")
    except connection.FAILURES as error:
        print(f"error: {connection.not_taken(plan.tracking_uri, error)}", file=sys.stderr)
        print(f"nothing is lost; to send the study there, type: {again}", file=sys.stderr)
        code = 1
    _conclude(plan, study, again)
    return code


def _conclude(plan: StudyPlan, study: AugmentationStudy, again: str) -> None:
    print(f"{BALANCED} on {study.where}; minus real only; minus classical")
    for arm in study.arms:
        beside = (arm.against_real.get(BALANCED), arm.against_classical.get(BALANCED))
        differences = "".join(f"  {interval_text(each, 3):>26}" for each in beside)
        print(f"  {arm.title:<22}{interval_text(arm.scores[BALANCED]):>20}{differences}")
    if study.sentence:
        print(study.sentence)
        if study.touch is not None and study.touch > 1:
            print(f"this was touch number {study.touch} of the study's test images")
    else:
        print(
            "optimistic: the generator was picked on these images; whether it helps is said with "
            f"--test, which looks at the test images: {again} --test"
        )
    print(f"report: {plan.folder / 'study.html'}")
