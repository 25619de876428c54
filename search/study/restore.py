"""A study's directories brought into accord with its ledger, whatever a crash or bad disk left."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from acgan.errors import InputError
from acgan.files import write_json
from acgan.run.rundir import RunDir
from search.study.folder import (
    Outcome,
    Study,
    TrialInfo,
    is_searched,
    is_trial,
    read_end,
    write_end,
)
from search.study.optuna_ledger import Ledger, Proposal
from search.study.seeds import trial_seed


def trial_info(row: Proposal, seed: int) -> TrialInfo:
    """Return what a trial of the ledger is; `seed` is the search's."""
    return TrialInfo(number=row.number, params=row.params, seed=trial_seed(seed, row.number))


def restore(study: Study, ledger: Ledger, *, seed: int) -> list[str]:
    """Write anew what is damaged and known from elsewhere; return a sentence on each such file.

    Raises `InputError` if the ledger lacks trials that are there.
    """
    rows = ledger.rows()
    names = {path.parent.name for path in study.path.glob("t[0-9]*/trial.json")}
    lost = sorted(set(filter(is_searched, names)) - {row.name for row in rows})
    if lost:
        raise InputError(
            f"{study.ledger_path} is damaged: it lacks trials that are there ({lost[0]} and "
            f"{len(lost) - 1} more); restore it, or name a new study with --study NAME"
        )
    damaged, mended, lacking, gone = list[Path](), list[Path](), list[Path](), list[Path]()
    if not _readable(study.quality):
        damaged.append(study.path / "quality.json")
    for row in rows:
        folder = study.path / row.name
        if not folder.is_dir():
            if row.outcome is not None:
                gone.append(folder)
            continue
        if not _readable(partial(study.trial, row.name)):
            damaged.append(folder / "trial.json")
            write_json(folder / "trial.json", trial_info(row, seed))
        if not _readable(partial(read_end, folder)):
            damaged.append(folder / "end.json")
        lines = folder / "epochs.jsonl"
        if row.outcome is not None and _is_torn(lines):  # no process will open the run and mend it
            (mended if RunDir(folder).complete_lines() else lacking).append(lines)
        elif row.outcome is Outcome.FINISHED and not _size(lines):
            lacking.append(lines)
        if (config := _damaged_config(folder)) is not None:
            damaged.append(config)
    for path in damaged:
        if path.name != "trial.json":  # the others are made again where they belong
            path.unlink()
    repeats = [name for name in sorted(names) if is_trial(name) and not is_searched(name)]
    damaged += [path for name in repeats for path in _make_way(study, name)]
    write_missing_ends(study, ledger)
    again = [f"{path} was damaged and is made again" for path in (*damaged, *mended)]
    known = [*((path, "damaged") for path in lacking), *((path, "gone") for path in gone)]
    return again + [
        f"{path} is {how}, though its trial has ended: its value stays in the ledger, epochs "
        "that it lacks are in MLflow alone and are no candidates; restore it if you can"
        for path, how in known
    ]


def _make_way(study: Study, repeat: str) -> list[Path]:
    """Remove what is damaged of a repeat, of which the ledger knows nothing; return it.

    If it is still asked for, it is begun again, as it was, and goes on where it is.
    """
    folder = study.path / repeat
    damaged = []
    if not _readable(partial(study.trial, repeat)):
        damaged.append(folder / "trial.json")
    if not _readable(partial(read_end, folder)):
        damaged.append(folder / "end.json")
    if (config := _damaged_config(folder)) is not None:
        damaged.append(config)
    for path in damaged:
        path.unlink()
    return damaged


def _damaged_config(folder: Path) -> Path | None:
    path = folder / "config.json"
    if path.is_file() and not _readable(partial(json.loads, path.read_bytes())):
        return path
    return None


def _is_torn(path: Path) -> bool:
    """Whether a file's last line has no end."""
    if not _size(path):
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _readable(read: Callable[[], object]) -> bool:
    try:
        read()
    except (InputError, ValueError):
        return False
    return True


def write_missing_ends(study: Study, ledger: Ledger) -> None:
    """Write the ends that the ledger has and an interruption kept from the directories."""
    for row in ledger.rows():
        folder = study.path / row.name
        if row.outcome is None or not folder.is_dir():
            continue
        end = read_end(folder)
        if end is None or end.outcome is not row.outcome:
            write_end(study, row.name, row.outcome, row.reason)


def mark_interrupted(study: Study) -> None:
    """Write of each trial without an end that it was interrupted."""
    for trial in study.trials():
        if trial.end() is None:
            write_end(study, trial.name, Outcome.INTERRUPTED, "")
