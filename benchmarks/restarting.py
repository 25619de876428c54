"""A search that is typed again when all its trials are there, and selection's step 1 over them."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from mlflow.entities import Run
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag

from acgan.data.dataset import ImageSet
from benchmarks import simulated
from benchmarks.process import Watch, in_fresh_process, watched
from search.plan import SearchPlan
from search.study import table
from search.study.folder import Study, Trial, open_study
from search.study.restore import mark_interrupted, restore
from search.tracking import connection, study_runs
from search.tracking.mirror import Mirror
from selection.settings import SelectionConfig
from selection.steps.epochs import Looks, Records
from selection.steps.filter import Filtered, choose

T = TypeVar("T")


@dataclass(frozen=True)
class Seconds:
    """How long a part took, and how much CPU: on a busy machine less than the time."""

    wall: float
    cpu: float


@dataclass
class Parts:
    """What a body consists of, by name, and how its process went through it."""

    seconds: dict[str, Seconds] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)

    def timed(self, name: str, body: Callable[[], T]) -> T:
        """Return what a part returns, and note its seconds."""
        started, spent = time.perf_counter(), time.process_time()
        result = body()
        wall, cpu = time.perf_counter() - started, time.process_time() - spent
        self.seconds[name] = Seconds(wall, cpu)
        return result


def write_all(folder: Path, trials: int, epochs: int) -> int:
    """Write a study whose trials have all finished, and its runs; return its records' bytes."""
    plan = simulated.plan_of(simulated.flags(folder, trials=trials, epochs=epochs))
    study = simulated.write_study(plan)
    _fill_mlflow(study, plan)
    return sum(path.stat().st_size for path in study.path.glob("t*/epochs.jsonl"))


def _fill_mlflow(study: Study, plan: SearchPlan) -> None:
    """Write the runs that a recorder leaves, all but the metrics of epochs before the last."""
    client = connection.connect(plan.tracking_uri)
    parent = study_runs.parent_run(client, study, experiment=plan.search.experiment)
    quality = study.quality()
    assert quality is not None
    study_runs.log_quality(client, parent, quality)
    study_runs.set_status(client, parent.info.run_id, "FINISHED", ended_ms=None)
    rows: dict[Any, list[dict[str, Any]]] = {SqlRun: [], SqlTag: [], SqlParam: []}
    rows[SqlLatestMetric] = []
    for trial in study.trials():
        for model, row in _rows(trial, parent):
            rows[model].append(row)
    with sqlalchemy.create_engine(plan.tracking_uri).begin() as database:
        for model, found in rows.items():
            database.execute(sqlalchemy.insert(model), found)


def _rows(trial: Trial, parent: Run) -> Iterator[tuple[Any, dict[str, Any]]]:
    run_id, ended = uuid.uuid4().hex, trial.end()
    assert ended is not None
    milliseconds = connection.milliseconds(ended.time)
    yield (
        SqlRun,
        {
            "run_uuid": run_id,
            "name": trial.name,
            "status": "FINISHED",
            "start_time": milliseconds,
            "end_time": milliseconds,
            "lifecycle_stage": "active",
            "source_type": "UNKNOWN",
            "user_id": "unknown",
            "artifact_uri": f"{parent.info.artifact_uri}/{run_id}",
            "experiment_id": int(parent.info.experiment_id),
        },
    )
    tags = {
        "study_id": parent.data.tags["study_id"],
        "trial": trial.name,
        "origin": "search",
        "outcome": "finished",
        "mlflow.parentRunId": parent.info.run_id,
        "mlflow.runName": trial.name,
    }
    for key, value in tags.items():
        yield SqlTag, {"run_uuid": run_id, "key": key, "value": value}
    for key, value in trial.info.params.items():
        yield SqlParam, {"run_uuid": run_id, "key": f"train.{key}", "value": str(value)}
    last = next(simulated.records(1, grace=0))
    for key, number in last.metrics.items():
        point = {"value": number, "timestamp": milliseconds, "step": 1, "is_nan": False}
        yield SqlLatestMetric, {"run_uuid": run_id, "key": key, **point}


@dataclass
class Restored(Parts):
    """A restart's parts; `restored_s` is the sum of those that do not ask MLflow."""

    restored_s: float = 0.0


def restart(folder: Path, trials: int, epochs: int) -> Restored:
    """Do what `search.run` does when all is there, part by part."""
    parts = Restored()
    words = simulated.flags(folder, trials=trials, epochs=epochs)
    with watched(every_s=0.1) as parts.watch:
        plan = parts.timed("plan and images", lambda: simulated.plan_of(words))
        study = open_study(plan.folder)
        ledger = parts.timed("ledger", lambda: plan.ledger(study.ledger_path))
        parts.timed("directories", lambda: restore(study, ledger, seed=plan.search.seed))
        parts.timed("marks", lambda: mark_interrupted(study))
        copies = {
            name: Mirror(study, uri=plan.tracking_uri, experiment=plan.search.experiment, **more)
            for name, more in {"MLflow, asked": {}, "MLflow, by marks": {"marked": True}}.items()
        }
        for name, mirror in copies.items():
            report = parts.timed(name, partial(mirror.update, driving=False))
            assert (report.runs, report.complete) == (0, True)
        asked = plan.search
        parts.timed("table", lambda: table.table(table.table_lines(study, asked), asked))
    parts.restored_s = sum(s.wall for name, s in parts.seconds.items() if name not in copies)
    assert ledger.ended() == trials
    parts.timed("one proposal", ledger.propose)  # after the watch: no part of this restart
    return parts


@dataclass(frozen=True)
class Restarted:
    """A restart: its parts, the command as it is typed, and what of that are imports.

    unmarked: the command where the study has no marks of what MLflow has
    """

    parts: Restored
    unmarked: Seconds
    command: Seconds
    imports: Seconds


def measure(folder: Path, trials: int, epochs: int) -> Restarted:
    """Measure the restart of a study that is written there."""
    words = simulated.flags(folder, trials=trials, epochs=epochs)
    unmarked, command = (_command(["-m", "search.run", *words]) for _ in range(2))
    imports = _command(["-c", "import search.commands.run"])
    parts = in_fresh_process(restart, folder, trials, epochs)
    return Restarted(parts, unmarked, command, imports)


def _command(words: list[str]) -> Seconds:
    """Return the seconds of a Python command that must succeed."""
    started, spent = time.perf_counter(), _of_children_s()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Seconds(time.perf_counter() - started, _of_children_s() - spent)


def _of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _look(study: Study, records: Records, val: ImageSet, settings: SelectionConfig) -> Filtered:
    look = Looks(study, records, val, settings)
    filtered = choose(map(look, records), settings)
    look.save()
    return filtered


@dataclass
class FirstStep(Parts):
    """Selection's step 1: how many epochs it read, and how many of them it chose."""

    recorded: int = 0
    chosen: int = 0


def step1(folder: Path, trials: int, epochs: int) -> FirstStep:
    """Read and filter all epochs of the study as a pick does."""
    parts = FirstStep()
    plan = simulated.plan_of(simulated.flags(folder, trials=trials, epochs=epochs))
    study, settings = open_study(plan.folder), SelectionConfig()
    with watched(every_s=0.1) as parts.watch:
        records = Records(study)
        for name in ("the first time, s", "the next, s"):
            look = partial(_look, study, records, plan.data.val, settings)
            filtered = parts.timed(name, look)
    parts.recorded, parts.chosen = filtered.report.recorded, len(filtered.chosen)
    return parts
