"""A trial trained again and compared with its record: what `search.reproduce` does."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from acgan.command import FromFlags
from acgan.config import TrainConfig, user_path
from acgan.data.dataset import Dataset
from acgan.data.source import named_source
from acgan.errors import InputError
from acgan.files import Stored, visible, write_json
from acgan.run.device import default_device, named_device
from acgan.run.machine import CPU, Machine, machine_at, read_machines, this_machine, what_differs
from acgan.run.records import EpochRecord, read_records
from acgan.run.rundir import NotOwnerError, RunDir
from acgan.run.weights import read_weights
from acgan.training import train
from search.study.comparison import Compared, Match, compare_records, same_bits, sizes
from search.study.folder import Study, Trial, study_images, trial_config
from search.study.store.study_copy import run_file
from search.tracking import find

COMPARISON = "comparison.json"
THREADS = 1  # of a trial whose machine was not noted: Ray gives each as many as it has CPUs


@dataclass(frozen=True, kw_only=True)
class ReproduceRequest(FromFlags):
    """Which trial is to be trained again, how and where.

    named: the trial by its MLflow run, or its study, of which `trial` is a trial's name
    epochs: the first ones; None: all; out: the folder; None: reproduced/STUDY-TRIAL
    device, threads: None: as the trial's; tolerance: as a share of a metric's size
    values: where the images are, by the names of `DataSource`, whose folder is `data`
    """

    named: find.StudyNamed
    trial: str | None
    epochs: int | None
    out: str | None
    device: str | None
    threads: int | None
    tolerance: float
    values: Mapping[str, Any]

    @classmethod
    def of(cls, arguments: argparse.Namespace, **more: Any) -> Self:
        """Return what the flags of `search.reproduce` say."""
        return super().of(arguments, named=find.StudyNamed.of(arguments), **more)


@dataclass(frozen=True)
class ReproductionPlan:
    """What is to be trained again, found and checked.

    recorded: all epochs of the trial; epochs: how many of them are compared
    """

    study: Study
    trial: Trial
    config: TrainConfig
    data: Dataset
    recorded: list[EpochRecord]
    epochs: int
    out: Path
    device: torch.device
    tolerance: float


class Reproduced(Stored):
    """`comparison.json`: what was compared with what, and how it came out."""

    study_id: str
    trial: str
    fingerprint: str
    epochs: int
    tolerance: float
    verdict: Match
    differs: list[str]
    here: Machine
    rows: list[dict[str, object]]


def reproduce(arguments: argparse.Namespace) -> int:
    """Train the trial again and compare; return the exit code: 1 where it differs."""
    plan = _make_plan(ReproduceRequest.of(arguments))
    here = this_machine(plan.device, plan.config)
    print(
        f"training {plan.trial.name} of study {plan.study.info.name} again, "
        f"epochs 1 to {plan.epochs}, in {plan.out}"
    )
    known = machine_at(read_machines(plan.trial.path), 1)
    print("\n".join(_about_machines(known, here)))
    print(_row("epoch", "fd_cnn", "again", "difference", "weights", "verdict"))
    rows = []
    try:
        for found in _compared(plan):
            rows.append(found)
            print(_shown(found), flush=True)
    except NotOwnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return _conclude(plan, rows, here)


def _make_plan(request: ReproduceRequest) -> ReproductionPlan:
    """Find and check all that was asked for; `InputError` says what is wrong."""
    if not request.tolerance >= 0:  # nor NaN
        raise InputError(f"--tolerance must be at least 0, got {request.tolerance}")
    if request.threads is not None and request.threads < 1:
        raise InputError(f"--threads must be at least 1, got {request.threads}")
    study, trial = _find(request)
    recorded = _records(trial)
    epochs = len(recorded) if request.epochs is None else request.epochs
    if not 1 <= epochs <= len(recorded):
        raise InputError(
            f"--epochs must be 1 to {len(recorded)}: so many has {trial.name}; got {epochs}"
        )
    config = trial_config(study.info, trial.info)
    out = _folder(request.out, study, trial)
    noted = machine_at(read_machines(trial.path), 1)
    if request.device:
        device = named_device(request.device)
    else:
        device = torch.device(CPU) if noted and noted.device == CPU else default_device()
    threads = request.threads or (noted.threads if noted else THREADS)
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # NumPy's, whose sums are part of `val/fd_cnn`
    quality = study.quality()
    if quality is None or not study.scorer_is_whole(quality):
        raise InputError(
            f"{study.scorer_path} is missing or damaged: without the study's scoring CNN its "
            "numbers cannot be compared; restore it, or let search.run mend the study"
        )
    started = study.last_start()
    source = named_source(request.values, {}, default=started.source if started else None)
    data = study_images(study, source)
    return ReproductionPlan(
        study, trial, config, data, recorded, epochs, out, device, request.tolerance
    )


def _find(request: ReproduceRequest) -> tuple[Study, Trial]:
    if request.named.run_id is None and request.trial is None:
        raise InputError("--study needs --trial NAME: which trial is to be trained again?")
    if request.named.run_id is not None and request.trial is not None:
        raise InputError("--trial goes with --study; a trial's own run needs no name")
    study, found = find.asked_study(request.named)
    name = found or request.trial
    if name is None:
        raise InputError(
            f"the MLflow run {request.named.run_id} is a whole study's; name the run of one of its "
            "trials, which are its children"
        )
    return study, study.trial(name)


def _records(trial: Trial) -> list[EpochRecord]:
    try:
        found = trial.records()
    except ValueError as error:
        raise InputError(f"{error}; restore it: there is nothing to compare with") from error
    if not found:
        raise InputError(f"trial {trial.name} has no epoch yet: there is nothing to compare with")
    return found


def _folder(named: str | None, study: Study, trial: Trial) -> Path:
    """Return the new run's folder; `InputError` for the study's own, and for one of other things.

    The run inside has the trial's name, which stands in its weights, so that their hash is equal.
    """
    out = user_path(named or f"reproduced/{study.info.name}-{trial.name}")
    if out.resolve().is_relative_to(study.path.resolve()):
        raise InputError(f"--out {out} lies in the study's own folder; name another one")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is no folder; name another one")
    there = visible(out) if out.exists() else set()
    foreign = sorted(there - {trial.name, COMPARISON})
    if foreign:
        raise InputError(f"--out {out} holds other things ({foreign[0]}); name a new folder")
    return out


def _about_machines(known: Machine | None, here: Machine) -> Iterator[str]:
    if known is None:
        yield "on which machine and versions the trial was trained was not noted"
    elif same_bits(known, here):
        yield "machine and versions are those of the trial: all must be equal"
    elif known == here:
        yield f"machine and versions are those of the trial, but {here.device} does not repeat bits"
    else:
        yield "what differs from the trial: " + "; ".join(what_differs(known, here))


def _compared(plan: ReproductionPlan) -> Iterator[Compared]:
    """Train as far as it is asked for; yield each epoch's comparison once it is on disk."""
    run = RunDir(plan.out / plan.trial.name)
    there, own_sizes = read_machines(plan.trial.path), sizes(plan.recorded)
    shown = 0
    for latest in train(
        plan.config,
        plan.data,
        run,
        ranking=plan.study.info.ranking,
        scorer=plan.study.scorer_path,
        device=plan.device,
        repeat_last=True,  # of an earlier start: its epochs are compared, too
    ):
        own = read_machines(run.path)
        last = min(latest.epoch, plan.epochs)
        for again in read_records(run.epochs_path)[shown:last]:
            recorded = plan.recorded[again.epoch - 1]
            machine = machine_at(own, again.epoch) or this_machine(plan.device, plan.config)
            exact = same_bits(machine_at(there, again.epoch), machine)
            yield compare_records(
                recorded,
                again,
                sizes=own_sizes,
                weights=_same_weights(RunDir(plan.trial.path), run, again.epoch),
                exact=exact,
                tolerance=plan.tolerance,
            )
        shown = last
        if shown >= plan.epochs:
            return


def _same_weights(recorded: RunDir, again: RunDir, epoch: int) -> bool | None:
    """Whether an epoch's weights are equal bit for bit; None where either side keeps none.

    The files' SHA-256 would not do: earlier versions wrote the header in an order by chance.
    """
    try:
        files = (run_file(run.weights_path(epoch)) for run in (recorded, again))
        there, own = (read_weights(path)[0] for path in files)
    except (OSError, SafetensorError):
        return None
    return there.keys() == own.keys() and all(
        torch.equal(*(side[name].flatten().view(torch.uint8) for side in (there, own)))
        for name in there
    )


def _row(*cells: str) -> str:
    epoch, *middle, weights, verdict = cells
    return f"{epoch:>5}" + "".join(f"{cell:>12}" for cell in middle) + f"  {weights:<10}{verdict}"


def _shown(found: Compared) -> str:
    values = ("–" if value is None else f"{value:.6g}" for value in found.quality)
    weights = {True: "equal", False: "other", None: "not kept"}[found.weights]
    text = f"{found.verdict}{f' (most: {found.metric})' if found.metric else ''}"
    return _row(str(found.epoch), *values, f"{found.difference:.2g}", weights, text)


def _conclude(plan: ReproductionPlan, rows: Sequence[Compared], here: Machine) -> int:
    worst = max((row.verdict for row in rows), key=list(Match).index)
    known = machine_at(read_machines(plan.trial.path), 1)
    content = Reproduced(
        study_id=plan.study.info.uuid,
        trial=plan.trial.name,
        fingerprint=plan.data.fingerprint,
        epochs=len(rows),
        tolerance=plan.tolerance,
        verdict=worst,
        differs=["not noted"] if known is None else what_differs(known, here),
        here=here,
        rows=[asdict(row) for row in rows],
    )
    write_json(plan.out / COMPARISON, content)
    print(_summary(plan, rows, worst))
    print(f"the new run is in {plan.out}, the comparison in {plan.out / COMPARISON}")
    return 1 if worst is Match.DIFFERENT else 0


def _summary(plan: ReproductionPlan, rows: Sequence[Compared], worst: Match) -> str:
    count = f"{len(rows)} epoch{'' if len(rows) == 1 else 's'}"
    if worst is Match.IDENTICAL:
        kept = sum(row.weights is not None for row in rows)
        weights = f"and so are the weights of {kept} that both have kept"
        if not kept:
            weights = "but no weights could be compared: the trial keeps those of other epochs"
        return f"the same: every number of {count} is equal, {weights}"
    largest = max(rows, key=lambda row: row.difference)
    if worst is Match.CLOSE:
        return (
            f"the same within {plan.tolerance:g}: {count}, the largest difference is "
            f"{largest.difference:.2g} ({largest.metric}, epoch {largest.epoch})"
        )
    first = next(row for row in rows if row.verdict is Match.DIFFERENT)
    if first.exact:
        return (
            f"different from epoch {first.epoch} on, on the trial's own machine and versions: "
            "something that is not recorded has changed"
        )
    return (
        f"different from epoch {first.epoch} on: beyond {plan.tolerance:g} of {first.metric}'s "
        "size. Training makes small differences large; on another machine only its first epochs "
        "can be compared (--epochs), or whole trials with several seeds (search.run --repeats)"
    )
