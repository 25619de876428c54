"""A search from its plan to its table: what `search.run` does."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

from acgan.command import duration, typed
from acgan.errors import InputError
from acgan.jsonfile import write_json
from search.plan import SearchPlan, make_search_plan
from search.study import estimate, table
from search.study.folder import Outcome, Study, check_same, open_or_create
from search.study.lock import driver_at_work, driver_lock
from search.study.optuna_ledger import Ledger
from search.study.restore import mark_interrupted, restore, write_missing_ends
from search.tracking.connection import naming, next_step, shown
from search.tracking.recorder import Recorder
from search.tune.driver import Driver, missing_repeats
from search.tune.progress import Progress

RECORDER_TIMEOUT_S = 60.0


def search(arguments: argparse.Namespace, again: str) -> int:
    """Bring a study to the trials asked for; return the exit code. again: as typed."""
    plan = make_search_plan(arguments)
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
        write_json(study.path / "start.json", plan.last_start)
        return _drive(plan, study, again)


def _check_folder(folder: Path) -> None:
    """Raise `InputError` if the study's folder cannot be made or written."""
    there = estimate.existing(folder)
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"cannot write in {there}; name another folder with --storage-path")


def _show(plan: SearchPlan) -> None:
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
    print(f"study: {plan.folder}\nMLflow: {shown(plan.tracking_uri)}")
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


def _drive(plan: SearchPlan, study: Study, again: str) -> int:
    """Bring a study, which this process has locked, to the trials asked for."""
    ledger = plan.ledger(study.ledger_path)
    for sentence in restore(study, ledger, seed=plan.search.seed):
        print(f"warning: {sentence}")
    missing = max(plan.search.num_samples - ledger.ended(), 0)
    repeats = 2 * plan.search.repeats if missing else len(missing_repeats(study, plan.search))
    begun = [study.path / row.name for row in ledger.rows() if row.outcome is None]
    needed = plan.disk(missing + repeats, begun)
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
        if missing or repeats:
            print(f"{plan.folder}: {missing} trials to train, {estimate.gigabytes(needed)} of disk")
            driver.run()
        else:
            print(f"all {plan.search.num_samples} trials asked for are there")
    except KeyboardInterrupt:
        interrupted = True
    finally:
        with contextlib.suppress(OSError):  # of a disk that failed: the next start writes them
            write_missing_ends(study, ledger)
            mark_interrupted(study)
        whole = recorder.close(RECORDER_TIMEOUT_S)
    spent = driver.seconds_left is not None and driver.seconds_left <= 0
    code = 130 if interrupted else 0 if spent else 1
    if spent:
        print(f"the time budget of {plan.time_budget_s:g} s is spent")
    pick = typed(["python", "-m", "selection.pick", *naming(study, plan.tracking_uri)])
    look = f"to compare the trials in MLflow: {next_step(plan.tracking_uri)}\nto pick one: {pick}"
    following = look if whole else f"to send the rest to MLflow: {recorder.sync_command}"
    return _conclude(plan, study, ledger, again=again, following=following, code_if_missing=code)


def _conclude(
    plan: SearchPlan,
    study: Study,
    ledger: Ledger,
    *,
    again: str,
    following: str,
    code_if_missing: int,
) -> int:
    """Print the table and what to type next; return the exit code."""
    found = table.table_lines(study, plan.search)
    if found:
        print(table.table(found, plan.search))
    print(table.comparison(found, plan.search))
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
