"""A search from its plan to its table: what `search.run` does."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import torch

from acgan.command import duration, typed
from acgan.cores import usable_cores
from acgan.errors import InputError
from acgan.jsonfile import write_json
from search.plan import SearchPlan, make_search_plan
from search.study import estimate, table
from search.study.folder import Outcome, Study, check_same, open_or_create
from search.study.lock import driver_at_work, driver_lock
from search.study.optuna_ledger import Ledger, Proposal
from search.study.restore import mark_interrupted, restore, write_missing_ends
from search.tracking.connection import naming, next_step, shown
from search.tracking.recorder import Recorder
from search.tune.driver import Driver, missing_repeats
from search.tune.progress import Progress

RECORDER_TIMEOUT_S = 60.0
SHOWN_TRIALS = 5


def search(arguments: argparse.Namespace, again: str) -> int:
    """Bring a study to the trials asked for; return the exit code. again: as typed."""
    plan = make_search_plan(arguments)
    for warning in plan.warnings:
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
        "train, else as published": plan.train.model_dump(exclude_defaults=True),
        "space": plan.info.space,
        "search, else as by default": plan.search.model_dump(exclude_defaults=True),
    }
    for name, section in sections.items():
        print(f"{name}:")
        for key, value in section.items():
            print(f"  {key}: {value}")
    data = plan.data
    print(f"data: {data.name}, {len(data.train)} training, {len(data.val)} validation images")
    print(f"study: {plan.folder}\nMLflow: {shown(plan.tracking_uri)}")
    missing, rows = _next_trials(plan)
    print(f"trials: {missing} of {plan.search.num_samples} are to be trained")
    for row in rows:
        params = ", ".join(f"{k} {table.short(v)}" for k, v in row.params.items())
        print(f"  {row.name}: {params}")
    each = estimate.trial_seconds(plan.train, len(data.train))
    at_once = max(1, min(_places(plan), missing))
    together = f"{at_once} at once" if at_once > 1 else "one after another"
    print(
        f"disk: {estimate.gigabytes(plan.disk(missing))}; time: roughly {duration(each)} a trial "
        f"alone on this machine, {duration(each * missing / at_once)} for all, {together}"
    )
    print("nothing was started; to start, type the same without --dry-run")


def _next_trials(plan: SearchPlan) -> tuple[int, list[Proposal]]:
    """Return how many trials are still to be trained, and the first, by a copy of the ledger."""
    path = plan.folder / "optuna.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        if path.exists():
            shutil.copy(path, copy)
        ledger = plan.ledger(copy)
        missing = max(plan.search.num_samples - ledger.ended(), 0)
        rows = ledger.open_rows()[: min(missing, SHOWN_TRIALS)]
        more = min(missing, SHOWN_TRIALS) - len(rows)
        return missing, [*rows, *(ledger.propose() for _ in range(more))]


def _places(plan: SearchPlan) -> int:
    """Return how many trials this machine holds at once."""
    search = plan.search
    places = int(usable_cores() / search.cpus_per_trial)
    gpus = torch.cuda.device_count()
    if gpus and search.gpus_per_trial != 0:
        places = min(places, int(gpus / (search.gpus_per_trial or 1)))
    return min(places, search.max_concurrent or places)


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
        asked=plan.search.num_samples,
        ended=ledger.ended(),
        epochs=plan.train.epochs,
        objective=plan.search.objective,
        sign=plan.search.sign,
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
    where = next_step(plan.tracking_uri, *recorder.study_links)
    look = f"to compare the trials in MLflow: {where}\nto pick one: {pick}"
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
