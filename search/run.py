"""Search: train many AC-GANs around a baseline, and compare them in MLflow.

`python -m search.run --num-samples 32` trains 32 trials of `configs/demo.yaml`. The same command
again goes on where it was; a larger number adds trials to the same study.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from acgan.command import command_parser, duration, interrupt_on_sigterm, run_command, typed
from acgan.config import TrainConfig, add_flags
from acgan.errors import InputError
from search import estimate, summary
from search.driver import Driver, missing_repeats, write_end
from search.plan import DEMO, Plan, make_plan
from search.progress import Progress
from search.recorder import Recorder
from search.searcher import Ledger
from search.settings import SearchConfig
from search.study import (
    Outcome,
    Study,
    check_same,
    driver_at_work,
    driver_lock,
    open_or_create,
    write,
)
from search.tracking import naming, next_step

RECORDER_TIMEOUT_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = _parser().parse_args(argv)
    again = typed(["python", "-m", "search.run", *(sys.argv[1:] if argv is None else argv)])
    interrupt_on_sigterm()
    return run_command(lambda: _search(arguments, again), resume=f"type: {again}")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("search.run", __doc__)
    parser.add_argument("--config", type=Path, help=f"YAML file (default: {DEMO})")
    parser.add_argument("--data", help="folder of images and label files, or 'phantom'")
    parser.add_argument("--study", help="name of the study (default: the configuration file's)")
    parser.add_argument("--storage-path", default="runs", help="folder of studies (default: runs)")
    parser.add_argument(
        "--tracking-uri", help="MLflow (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )
    parser.add_argument("--address", help="Ray cluster to join (default: RAY_ADDRESS, else none)")
    parser.add_argument("--time-budget", type=_duration, metavar="TIME", help="90s, 30m or 8h")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and end")
    parser.add_argument("--verbose", action="store_true", help="show what Ray prints")
    add_flags(parser, SearchConfig, "search")
    # A trial's seed follows from the search's.
    add_flags(parser, TrainConfig, "training: what all trials share", skip={"seed"})
    return parser


def _duration(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a time such as 90s, 30m or 8h, got {text!r}")
    return seconds


def _search(arguments: argparse.Namespace, again: str) -> int:
    plan = make_plan(arguments)
    for warning in plan.data.warnings:
        print(f"warning: {warning}")
    _check_folder(plan.folder)
    if arguments.dry_run:
        check_same(plan.folder, plan.info)
        _show(plan)
        return 0
    if driver_at_work(plan.folder / "selection"):
        raise InputError(
            f"a pick of the study at {plan.folder} is at work on its weights; wait for its end"
        )
    plan.folder.mkdir(parents=True, exist_ok=True)
    with driver_lock(plan.folder):
        study = open_or_create(plan.folder, plan.info)
        write(study.path / "start.json", plan.last_start)
        return _drive(plan, study, again)


def _check_folder(folder: Path) -> None:
    """Raise `InputError` if the study's folder cannot be made or written."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"cannot write in {there}; name another folder with --storage-path")


def _show(plan: Plan) -> None:
    """Print what would be done."""
    sections = {
        "train": plan.info.train,
        "space": plan.info.space,
        "search": plan.search.model_dump(),
    }
    for name, section in sections.items():
        print(f"{name}:")
        for key, value in section.items():
            print(f"  {key}: {value}")
    data = plan.data
    print(f"data: {data.name}, {len(data.train)} training, {len(data.val)} validation images")
    print(f"study: {plan.folder}\nMLflow: {plan.tracking_uri}")
    ledger = plan.ledger(None)
    count = min(plan.search.num_samples, 5)
    print(f"the first {count} trials of a new study:")
    for _ in range(count):
        row = ledger.propose()
        print(f"  {row.name}: {', '.join(f'{k} {v}' for k, v in row.params.items())}")
    asked = plan.search.num_samples
    seconds = estimate.trial_seconds(plan.train, len(data.train))
    needed = plan.disk(asked)
    print(
        f"disk: {estimate.gigabytes(needed)}; time: roughly {duration(seconds)} a trial "
        f"on this machine, {duration(seconds * asked)} for all, one after another"
    )
    print("nothing was started; to start, type the same without --dry-run")


def _drive(plan: Plan, study: Study, again: str) -> int:
    """Bring a study, which this process has locked, to the trials asked for."""
    if not study.ledger_path.exists() and study.trials():
        raise InputError(
            f"{study.ledger_path} is missing although trials are there; restore it, or name a new "
            "study with --study NAME"
        )
    ledger = plan.ledger(study.ledger_path)
    _write_missing_ends(study, ledger)
    missing = max(plan.search.num_samples - ledger.ended(), 0)
    needed = plan.disk(missing + 2 * plan.search.repeats)
    estimate.check_disk(plan.folder, needed)
    progress = Progress(
        asked=plan.search.num_samples, ended=ledger.ended(), epochs=plan.train.epochs
    )
    recorder = Recorder(
        study, uri=plan.tracking_uri, experiment=plan.search.experiment, say=progress.say
    )
    recorder.start()
    driver = Driver(plan, study, ledger, progress)
    interrupted = False
    try:
        if missing or missing_repeats(study, plan.search):
            print(f"{plan.folder}: {missing} trials to train, {estimate.gigabytes(needed)} of disk")
            driver.run()
        else:
            print(f"all {plan.search.num_samples} trials asked for are there")
    except KeyboardInterrupt:
        interrupted = True
    finally:
        _write_missing_ends(study, ledger)
        _mark_interrupted(study)
        whole = recorder.close(RECORDER_TIMEOUT_S)
    spent = driver.seconds_left is not None and driver.seconds_left <= 0
    code = 130 if interrupted else 0 if spent else 1
    if spent:
        print(f"the time budget of {plan.time_budget_s:g} s is spent")
    pick = typed(["python", "-m", "selection.pick", *naming(study, plan.tracking_uri)])
    look = f"to compare the trials in MLflow: {next_step(plan.tracking_uri)}\nto pick one: {pick}"
    following = look if whole else f"to send the rest to MLflow: {recorder.sync_command}"
    return _conclude(plan, study, ledger, again=again, following=following, code_if_missing=code)


def _write_missing_ends(study: Study, ledger: Ledger) -> None:
    """Write the ends that the ledger has and an interruption kept from the directories."""
    for row in ledger.rows():
        if row.outcome is None:
            continue
        end = study.trial(row.name).end()
        if end is None or end.outcome is not row.outcome:
            write_end(study, row.name, row.outcome, row.reason)


def _mark_interrupted(study: Study) -> None:
    for trial in study.trials():
        if trial.end() is None:
            write_end(study, trial.name, Outcome.INTERRUPTED, "")


def _conclude(
    plan: Plan, study: Study, ledger: Ledger, *, again: str, following: str, code_if_missing: int
) -> int:
    """Print the table and what to type next; return the exit code."""
    found = summary.lines(study, plan.search)
    if found:
        print(summary.table(found, plan.search))
    print(summary.comparison(found, plan.search))
    crashed = [line.trial.name for line in found if line.outcome is Outcome.CRASHED]
    missing = max(plan.search.num_samples - ledger.ended(), 0)
    repeats = len(missing_repeats(study, plan.search))
    if not missing and not repeats:
        print(following)
        return 0
    left = f"{missing} of {plan.search.num_samples} trials"
    left += f" and {repeats} repeats" if repeats else ""
    print(f"still missing: {left}{'; crashed: ' + ', '.join(crashed) if crashed else ''}")
    print(f"to continue: {again}")
    return 1 if crashed and code_if_missing == 0 else code_if_missing


if __name__ == "__main__":
    raise SystemExit(main())
