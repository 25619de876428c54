"""From the kept epochs of a study to registered weights: what `selection.pick` does."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from acgan.command import duration, say, significant, typed
from acgan.evaluation.variety import ONE_PICTURE
from acgan.files import remove_leftovers, write_json
from acgan.run.device import default_device
from search.study import estimate
from search.study.folder import trial_config
from search.tracking import connection, notes, uris
from selection.jobs.workers import LostError, Workers, tell_lost
from selection.ledgers.reviews import looks, read_reviews
from selection.metrics.wording import counted, interval_text, number
from selection.registry import publish as of_pick
from selection.registry import versions
from selection.registry.promotion import Verdict, judge_promotion
from selection.report.cards import cards, description, write_cards
from selection.report.page import TrackingLinks, write_report
from selection.steps.funnel import Funnel
from selection.steps.objections import objections
from selection.steps.plan import PickPlan, PickRequest, make_pick_plan
from selection.steps.request import at_work, naming
from selection.steps.result import Pick, read_pick


@dataclass(frozen=True)
class Published:
    """What a pick's winner is in MLflow's registry, and why."""

    standing: versions.Standing
    verdict: Verdict


def pick(arguments: argparse.Namespace, again: str) -> int:
    """Pick, register and report; return the exit code. again: as typed."""
    plan = make_pick_plan(PickRequest.of(arguments))
    for warning in plan.warnings:
        print(f"warning: {warning}")
    print(filtered(plan))
    if arguments.dry_run:
        _show(plan)
        return 0
    with at_work(plan.study):
        try:
            pick = carry_out(plan, say=say, verbose=arguments.verbose)
        except LostError as error:
            return tell_lost(error, again)
        return _publish(plan, pick, again, promote=arguments.promote)


def carry_out(plan: PickPlan, *, say: Callable[[str], None], verbose: bool = False) -> Pick:
    """Measure the candidates and decide, unless it is done already.

    say: is told how far it is. Raises `InputError` as a measurement did, and `LostError`.
    """
    remove_leftovers(plan.folder)  # all files of the folder go to MLflow
    pick = read_pick(plan.folder / "pick.json")
    if pick is None:
        with Workers(plan.settings, address=plan.address, verbose=verbose, say=say) as workers:
            return Funnel(plan, workers).run()
    say(f"pick {plan.id} is there already")
    if pick.filter != (now := plan.filtered.report):  # searched on, without a new candidate
        pick = pick.model_copy(update={"filter": now})
        write_json(plan.folder / "pick.json", pick)
    return pick


def filtered(plan: PickPlan) -> str:
    """Say what step 1 left."""
    report = plan.filtered.report
    failed = ", ".join(f"{count} {reason}" for reason, count in report.reasons.items())
    chosen = len(plan.filtered.chosen)
    left_out = {
        "by --per-trial": report.over_per_trial,
        "by --max-candidates": report.over_cap,
        "without weights": report.passed - chosen - report.over_per_trial - report.over_cap,
    }
    reasons = ", ".join(f"{count} {why}" for why, count in left_out.items() if count)
    text = (
        f"step 1: {report.passed} of {report.recorded} epochs of {counted(report.trials, 'trial')} "
        f"pass the filter{f' (the others: {failed})' if failed else ''}; "
        f"{counted(chosen, 'candidate')}{f' (left out: {reasons})' if reasons else ''}"
    )
    if report.one_picture:
        text += f"; {report.one_picture} of those that pass are {ONE_PICTURE}"
    if report.better_without_weights:
        text += (
            f"; {counted(report.better_without_weights, 'epoch')} without weights may have been "
            "better"
        )
    decided = Counter(each.review for each in plan.candidates if each.review)
    return text + "".join(f"; people {review} {count}" for review, count in sorted(decided.items()))


def _show(plan: PickPlan) -> None:
    """Print the candidates and what measuring them takes."""
    if (plan.folder / "pick.json").exists():
        print(f"pick {plan.id} of them is there: nothing is left to measure")
        print("nothing was started; without --dry-run it is told, and registered where it is not")
        return
    for chosen in plan.candidates:
        role = "" if chosen.competes else " (to compare with)"
        value = significant(chosen.epoch.value)
        print(f"  {chosen.weights.name}: {plan.study.info.ranking.metric} {value}{role}")
    settings, classes = plan.settings, len(plan.data.classes)
    first, most = settings.cnn_seeds[0], settings.cnn_seeds[-1]
    fits = len(plan.candidates) + 1  # and the real images
    updates = settings.cnn_epochs * math.ceil(
        classes * settings.cnn_images / settings.cnn_batch_size
    )
    each = estimate.fit_seconds(
        classes=classes,
        image_size=plan.data.train.images.shape[-1],
        batch_size=settings.cnn_batch_size,
        updates=updates,
        device=default_device(),
    )
    counts = [fits * count for count in dict.fromkeys((first, most))]
    numbers = " or, where all are tied, ".join(map(str, counts))
    times = " to ".join(duration(each * count) for count in counts)
    print(
        f"step 2: {numbers} CNNs of {updates:,} updates: {times} one after another on this machine"
    )
    print(
        f"step 3: {settings.fidelity_images:,} images of each class of the tied, by "
        f"{settings.extractor}"
    )
    look = "looked at once" if plan.look_at_test else "left alone"
    print(f"test images: {plan.test_images}, {look}; results: {plan.folder}")
    print("nothing was started; to start, type the same without --dry-run")


def publish(plan: PickPlan, pick: Pick, *, promote: bool = False) -> Published:
    """Bring a pick to MLflow and write its report, which is there also where MLflow fails.

    promote: make it the champion whatever speaks against it. Raises `connection.FAILURES`.
    """
    weights = plan.candidates[pick.decision.winner].weights.path
    links = None
    reviews = read_reviews(plan.study)
    texts = cards(pick, plan.facts, winners_config(plan, pick), reviews)
    write_cards(plan.folder, texts)
    try:
        client = connection.connect(plan.tracking_uri)
        run_id = of_pick.selection_run(client, pick, plan.parent_id)
        about = versions.About(description(pick, plan.facts, reviews), texts)
        verdict = judge_promotion(pick, of_pick.champion(client, reviews), looks(reviews))
        held_back = "" if promote else verdict.against
        version = of_pick.register_pick(
            client, pick, run_id, weights, reviews=reviews, about=about, held_back=held_back
        )
        if promote:
            versions.promote(client, version)
        standing = versions.standing(client, version)
        links = _links(pick, run_id, standing)
        write_report(pick, plan.folder, records=plan.records, tracking=links, reviews=reviews)
        of_pick.finish(client, pick, run_id, plan.folder)
        of_pick.send_reviews(client, plan.study)
        notes.send_study(client, plan.study, plan.parent_id)
    except connection.FAILURES:
        if links is None:
            write_report(pick, plan.folder, records=plan.records, tracking=None, reviews=reviews)
        raise
    return Published(standing, verdict)


def _publish(plan: PickPlan, pick: Pick, again: str, *, promote: bool) -> int:
    """Bring a pick to MLflow and say what came out; return the exit code."""
    try:
        published = publish(plan, pick, promote=promote)
    except connection.FAILURES as error:
        _conclude(pick, plan)
        print(f"error: {connection.not_taken(plan.tracking_uri, error)}", file=sys.stderr)
        print(f"nothing is lost; to register the pick, type: {again}", file=sys.stderr)
        return 1
    _conclude(pick, plan)
    _tell_standing(published.standing, published.verdict, again)
    print(f"to make images of it: {_generate_command(plan, published.standing)}")
    return 0


def _links(pick: Pick, run_id: str, standing: versions.Standing) -> TrackingLinks:
    return TrackingLinks(
        run_id=run_id,
        model=versions.NAME,
        version=str(standing.version),
        alias=versions.CHAMPION if standing.is_champion else "",
        code=versions.usage(pick.classes[0], standing.uri),
        held_back=standing.held_back,
    )


def _tell_standing(standing: versions.Standing, verdict: Verdict, again: str) -> None:
    """Print what the winner is in the registry, why, and what was compared."""
    if verdict.compared:
        print(verdict.compared)
    registered = f"registered as version {standing.version} of {versions.NAME}"
    there = f"version {standing.champion} is it" if standing.champion else "there is none"
    if standing.is_champion:
        print(f"{registered}, alias {versions.CHAMPION}")
    elif standing.held_back:
        print(f"{registered}, but not as the champion ({there}), because {standing.held_back}")
        print(f"to make it the champion all the same: {again} --promote")
    else:
        print(f"{registered}, no longer the champion ({there})")


def winners_config(plan: PickPlan, pick: Pick) -> dict[str, Any]:
    """Return the configuration with which the winner's trial was trained."""
    info = plan.study.info
    return trial_config(info, plan.study.trial(pick.winner.trial).info).model_dump()


def _conclude(pick: Pick, plan: PickPlan) -> None:
    winner, baseline = pick.winner, pick.against_baseline
    print(f"picked {winner.name} (rule: {pick.decision.rule})")
    if winner.utility is not None:
        score = interval_text(winner.utility.balanced_accuracy)
        ceiling = interval_text(pick.ceiling.balanced_accuracy)
        print(
            f"balanced accuracy of CNNs on {len(pick.validation.labels):,} validation images, by "
            "what they were trained on:"
        )
        print(f"  its images alone: {score}, optimistic because it was picked by this")
        print(f"  the real images:  {ceiling}")
    if pick.one_picture:
        alike = ", like those of every candidate," if pick.none_varies else ""
        print(
            f"warning: its images{alike} are {ONE_PICTURE}: they spread "
            f"{number(winner.diversity)} times as far as real ones"
        )
    if pick.at_chance:
        print("warning: that is not told from chance: its images teach a CNN nothing yet")
    if winner.baseline:
        print("the picked one is the baseline's own best epoch")
    elif baseline is not None:
        print(
            "  difference to the baseline's best epoch: "
            f"{interval_text(baseline.difference)}, above 0 where the picked one is better"
        )
    for row in pick.test.rows[:1] if pick.test else ():
        beside = f", the baseline's {interval_text(row.baseline)}" if row.baseline else ""
        print(f"  on the test images, its images alone: {interval_text(row.winner)}{beside}")
    if pick.at_chance_on_test:
        print("warning: on the test images that is not told from chance")
    if pick.memorisation != "passed":
        print(f"warning: the memorisation check says {pick.memorisation}")
    seen = looks(read_reviews(plan.study))
    for objection in objections(pick, seen)[:1]:
        print(objection.advice)
    if not any(look.weights == winner.weights for look in seen):
        named = naming(plan.study, plan.tracking_uri, plan.trial_run)
        review = typed(["python", "-m", "selection.review", *named])
        print(f"nobody has looked at its images; to do so: {review}")
    print(f"report: {plan.folder / 'report.html'}")


def _generate_command(plan: PickPlan, standing: versions.Standing) -> str:
    words = ["python", "-m", "selection.generate", "--per-class", "1000", "--out", "generated"]
    if not standing.is_champion:
        words += ["--model", standing.uri]
    return typed([*words, *uris.uri_flag(plan.tracking_uri)])
