"""Selection: from every kept epoch of every trial to one set of weights.

`python -m selection.pick --run-id ID` takes the MLflow run of a study (or of one trial), filters
its epochs, trains CNNs on the images of those that are left, compares the images of those that
the CNNs cannot tell apart, and makes the winner the champion of MLflow's registry. The same
command again goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acgan.command import command, command_parser, run_command, typed
from acgan.config import add_flags
from acgan.files import remove_leftovers
from search import tracking
from search.lock import driver_lock
from search.study import trial_config
from selection import publish, registry
from selection.cards import cards, description, write_cards
from selection.funnel import Funnel, filter_report
from selection.plan import Plan, add_study_options, make_plan
from selection.report import TrackingLinks, write_report
from selection.result import Pick, read_pick, write_json
from selection.reviews import looks, read_reviews
from selection.settings import SelectionConfig
from selection.wording import counted, interval
from selection.workers import by_workers


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code."""
    arguments = pick_parser().parse_args(argv)
    again = tracking.as_typed("selection.pick", argv)
    return run_command(lambda: _pick(arguments, again), resume=f"type: {again}")


def _pick(arguments: argparse.Namespace, again: str) -> int:
    plan = make_plan(arguments)
    for warning in plan.data.warnings:
        print(f"warning: {warning}")
    print(_filtered(plan))
    plan.folder.parent.mkdir(exist_ok=True)
    with driver_lock(plan.folder.parent):
        remove_leftovers(plan.folder)  # all files of the folder go to MLflow
        pick = read_pick(plan.folder / "pick.json")
        if pick is not None:
            print(f"pick {plan.id} is there already")
            if pick.filter != (now := filter_report(plan)):  # searched on, without a new candidate
                pick = pick.model_copy(update={"filter": now})
                write_json(plan.folder / "pick.json", pick)
        else:
            pick = by_workers(
                lambda workers: Funnel(plan, workers).run(),
                plan.settings,
                address=plan.address,
                verbose=arguments.verbose,
                again=again,
            )
        return 1 if pick is None else _publish(plan, pick, again)


def _filtered(plan: Plan) -> str:
    found = plan.filtered
    failed = ", ".join(f"{count} {reason}" for reason, count in found.reasons.items())
    text = (
        f"step 1: of {found.recorded} epochs of {counted(plan.trials, 'trial')} {found.passed} pass"
        f"{f' ({failed} do not)' if failed else ''}, {len(found.chosen)} are candidates"
    )
    if found.over_cap:
        text += f"; --max-candidates cut {found.over_cap}"
    if found.better_without_weights:
        text += f"; {found.better_without_weights} that look better kept no weights"
    decided = Counter(chosen.review for chosen in plan.candidates if chosen.review)
    return text + "".join(f"; people {review} {count}" for review, count in sorted(decided.items()))


def _publish(plan: Plan, pick: Pick, again: str) -> int:
    """Bring a pick to MLflow and write its report; return the exit code."""
    weights = plan.candidates[pick.decision.winner].weights
    links = None
    reviews = read_reviews(plan.study)
    texts = cards(pick, plan.facts, winners_config(plan, pick), reviews)
    write_cards(plan.folder, texts)
    try:
        client = tracking.connect(plan.tracking_uri)
        run_id = publish.selection_run(client, pick, plan.parent_id)
        about = registry.About(description(pick, plan.facts), texts)
        version = publish.register(client, pick, run_id, weights, reviews=reviews, about=about)
        links = TrackingLinks(
            run_id=run_id,
            model=registry.NAME,
            version=str(version),
            alias=registry.CHAMPION,
            code=registry.usage(pick.classes[0]),
        )
        write_report(pick, plan.folder, records=plan.records, tracking=links, reviews=reviews)
        publish.finish(client, pick, run_id, plan.folder)
        publish.send_reviews(client, plan.study)
    except tracking.FAILURES as error:
        if links is None:
            write_report(pick, plan.folder, records=plan.records, tracking=None, reviews=reviews)
        _conclude(pick, plan)
        print(f"error: {tracking.not_taken(plan.tracking_uri, error)}", file=sys.stderr)
        print(f"nothing is lost; to register the pick, type: {again}", file=sys.stderr)
        return 1
    _conclude(pick, plan)
    print(f"registered as version {version} of {registry.NAME}, alias {registry.CHAMPION}")
    print(f"to make images of it: {_generate_command(plan)}")
    return 0


def winners_config(plan: Plan, pick: Pick) -> dict[str, Any]:
    """Return the configuration with which the winner's trial was trained."""
    info = plan.study.info
    return trial_config(info, plan.study.trial(pick.winner.trial).info).model_dump()


def _conclude(pick: Pick, plan: Plan) -> None:
    winner, baseline = pick.winner, pick.against_baseline
    print(f"picked {winner.name} (rule: {pick.decision.rule})")
    if winner.utility is not None:
        score = interval(winner.utility.balanced_accuracy)
        ceiling = interval(pick.ceiling.balanced_accuracy)
        print(
            f"balanced accuracy of CNNs trained on its images alone: {score}, optimistic because "
            f"it was picked; trained on the real images: {ceiling}"
        )
    if pick.at_chance:
        print("warning: that is not told from chance: its images teach a CNN nothing yet; search")
        print("with more --epochs or --num-samples before you use them")
    if winner.baseline:
        print("it is the baseline's own best epoch")
    elif baseline is not None:
        print(f"minus that of the baseline's best epoch: {interval(baseline.difference)}")
    for row in pick.test.rows[:1] if pick.test else ():
        beside = f", the baseline's {interval(row.baseline)}" if row.baseline else ""
        print(f"on the test images: {interval(row.winner)}{beside}")
    if pick.memorisation != "passed":
        print(f"warning: the memorisation check says {pick.memorisation}")
    if not any(look.weights == winner.weights for look in looks(read_reviews(plan.study))):
        named = tracking.naming(plan.study, plan.tracking_uri)
        review = typed(["python", "-m", "selection.review", *named])
        print(f"nobody has looked at its images; to do so: {review}")
    print(f"report: {plan.folder / 'report.html'}")


def _generate_command(plan: Plan) -> str:
    words = ["python", "-m", "selection.generate", "--per-class", "1000", "--out", "generated"]
    return typed([*words, *tracking.uri_flag(plan.tracking_uri)])


def pick_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = command_parser("selection.pick", __doc__)
    add_study_options(parser)
    parser.add_argument("--address", help="Ray cluster to join (default: RAY_ADDRESS, else none)")
    parser.add_argument(
        "--inception-weights", type=Path, metavar="FILE", help="torch-fidelity's Inception weights"
    )
    parser.add_argument(
        "--test",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look at the test images at the end, once (default: yes)",
    )
    parser.add_argument("--verbose", action="store_true", help="show what Ray prints")
    add_flags(parser, SelectionConfig, "selection")
    return parser


if __name__ == "__main__":
    main()
