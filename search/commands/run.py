"""A search as it is typed: its dry run, its work, its table: what `search.run` does."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from acgan.command import duration, loading, typed
from acgan.cores import usable_cores
from search.plan import SearchPlan, SearchRequest, largest, make_search_plan
from search.study import estimate, table
from search.study.folder import Outcome, check_same, open_study
from search.study.optuna_ledger import Proposal
from search.study.store.study_copy import address_of, shown_place
from search.tracking.uris import naming, next_step, shown

if TYPE_CHECKING:
    from search.tune.carry_out import CarriedOut

SHOWN_TRIALS = 5


def search(arguments: argparse.Namespace, again: str) -> int:
    """Bring a study to the trials asked for; return the exit code. again: as typed."""
    plan = make_search_plan(SearchRequest.of(arguments), say=print)
    for warning in plan.warnings:
        print(f"warning: {warning}")
    if arguments.dry_run:
        estimate.check_folder(plan.folder)
        check_same(plan.folder, plan.info)
        _show(plan)
        return 0
    with loading():
        from search.tune.carry_out import carry_out  # noqa: PLC0415 (a plan in hand, Tune comes)

    return _conclude(plan, carry_out(plan), again)


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
    print(f"study: {shown_place(plan.folder)}\nMLflow: {shown(plan.tracking_uri)}")
    missing, rows = _next_trials(plan)
    asked, repeats = plan.search.num_samples, _missing_repeats(plan, missing)
    left = missing + repeats
    if not left:
        print(f"trials: all {asked} asked for are there, so nothing is left to train")
        print("nothing was started; for more trials, ask for more with --num-samples")
        return
    then = f", then {repeats} repeats" if repeats else ""
    print(f"trials: {missing} of {asked} are to be trained{then}")
    for row in rows:
        params = ", ".join(f"{k} {table.short(v)}" for k, v in row.params.items())
        print(f"  {row.name}: {params}")
    each = estimate.trial_seconds(plan.train, len(data.train))
    at_once = max(1, min(_places(plan), left))
    together = f"{at_once} at once" if at_once > 1 else "one after another"
    print(
        f"disk: {estimate.gigabytes(plan.disk(left))}; time: roughly {duration(each)} a trial "
        f"alone on this machine, {duration(each * left / at_once)} for all, {together}"
    )
    if address_of(plan.folder.parent):
        print(_sent(plan))
    print("nothing was started; to start, type the same without --dry-run")


def _sent(plan: SearchPlan) -> str:
    """Return what an epoch sends to an object store."""
    config = largest(plan.train, plan.space)
    sent = estimate.gigabytes(estimate.epoch_bytes(config, len(plan.data.classes)))
    every = "" if config.state_every == 1 else f" (the state once in {config.state_every} epochs)"
    return (
        f"object store: an epoch sends up to {sent} in 5 uploads{every}, beside the training of "
        "the next, with 4 deletions, a listing and 4 small reads, however many epochs there are"
    )


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


def _missing_repeats(plan: SearchPlan, missing: int) -> int:
    """Return how many repeats are still trained; missing: how many trials are."""
    if missing:
        return 2 * plan.search.repeats
    return len(table.missing_repeats(open_study(plan.folder), plan.search))


def _places(plan: SearchPlan) -> int:
    """Return how many trials this machine holds at once."""
    search = plan.search
    gpus = torch.cuda.device_count()
    each = float(gpus > 0) if search.gpus_per_trial is None else search.gpus_per_trial
    places = estimate.places(usable_cores(), gpus, cpus_each=search.cpus_per_trial, gpus_each=each)
    return min(places, search.max_concurrent or places)


def _conclude(plan: SearchPlan, done: CarriedOut, again: str) -> int:
    """Print the table and what to type next; return the exit code."""
    if done.spent:
        print(f"the time budget of {plan.time_budget_s:g} s is spent")
    found = table.table_lines(done.study, plan.search)
    if found:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(table.table(found, plan.search, width=width))
    print(table.comparison(found, plan.search))
    if not done.missing and not done.repeats:
        print(_next_steps(plan, done))
        return 0
    crashed = [line.trial.name for line in found if line.outcome is Outcome.CRASHED]
    left = f"{done.missing} of {plan.search.num_samples} trials"
    left += f" and {done.repeats} repeats" if done.repeats else ""
    print(f"still missing: {left}{'; crashed: ' + ', '.join(crashed) if crashed else ''}")
    print(f"to continue: {again}")
    if done.interrupted:
        return 130
    return 0 if done.spent and not crashed else 1


def _next_steps(plan: SearchPlan, done: CarriedOut) -> str:
    """Return what to type when all trials are there."""
    if done.sync:
        return f"to send the rest to MLflow: {done.sync}"
    pick = typed(["python", "-m", "selection.pick", *naming(done.study, plan.tracking_uri)])
    where = next_step(plan.tracking_uri, *done.links)
    return f"to compare the trials in MLflow: {where}\nto pick one: {pick}"
