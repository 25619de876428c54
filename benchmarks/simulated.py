"""Trials without training: their records, studies of them on disk, and a trainable for Ray Tune.

A record has all metrics of a real one, and the values of a healthy run, the same in every trial:
equal trials are never pruned, so every one is compared at every rung and reports every epoch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from pydantic import BaseModel

from acgan.files import file_sha256, write_json
from acgan.run.records import QUALITY, RANKING, EpochRecord, grace_epochs, kept_epochs
from acgan.run.rundir import RunDir
from acgan.training import METRIC_NAMES
from search.flags import search_parser
from search.nodes.sees import StudyAt, same_study
from search.plan import SearchPlan, SearchRequest, make_search_plan
from search.study import space
from search.study.folder import (
    Outcome,
    Quality,
    Study,
    Trial,
    TrialEnd,
    open_or_create,
    trial_config,
)
from search.study.objective import objective_value
from search.study.optuna_ledger import STUDY, Proposal, distributions
from search.study.restore import trial_info
from search.tune.stopping import rung_epochs
from search.tune.trial import report_epoch

CONFIG = """\
data: phantom
train: {image_size: 16, width: 0.0625, batch_size: 16, grace_updates: 0}
space:
  learning_rate: {low: 5.0e-5, high: 8.0e-4, log: true}
  label_smoothing: {low: 0.0, high: 0.3}
  dropout: {low: 0.1, high: 0.6}
"""
STATES = "0123456789abcdef" * 4  # as long as a SHA-256


def flags(folder: Path, *, trials: int, epochs: int) -> list[str]:
    """Return the flags of a search of simulated trials; its configuration is written there."""
    config = folder / "scale.yaml"
    config.write_text(CONFIG)
    words = ["--config", str(config), "--storage-path", str(folder), "--epochs", str(epochs)]
    words += ["--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    return [*words, "--num-samples", str(trials)]


def plan_of(words: list[str]) -> SearchPlan:
    """Return what the flags ask for, as the command would read them."""
    arguments = search_parser("benchmarks.scale", None).parse_args(words)
    return make_search_plan(SearchRequest.of(arguments))


def grace_of(plan: SearchPlan) -> int:
    """Return how many epochs of a trial are young."""
    return grace_epochs(plan.train, len(plan.data.train))


def records(epochs: int, *, grace: int) -> Iterator[EpochRecord]:
    """Yield one trial's records: healthy, and better from epoch to epoch."""
    for epoch in range(1, epochs + 1):
        metrics = {name: 0.7 + 0.2 / (epoch + i) for i, name in enumerate(METRIC_NAMES)}
        metrics[QUALITY] = 100 + 900 / epoch
        metrics[RANKING.metric] = metrics[RANKING.best] = 0.9 - 0.5 / epoch
        yield EpochRecord(
            epoch=epoch,
            time=time.time(),
            metrics=metrics,
            samples=f"samples/epoch-{epoch:04d}.png",
            weights=STATES,
            young=epoch <= grace,
        )


def emit(params: dict[str, Any], *, at: StudyAt, gpu: bool, hang_after_s: float) -> None:  # noqa: ARG001
    """Report one trial's epochs to Tune as `search.tune.trial.run_trial` does, at once."""
    study = same_study(at)
    trial = study.trial(params["trial"])
    config = trial_config(study.info, trial.info)
    emitted = list(records(config.epochs, grace=grace_epochs(config, images=1)))
    RunDir(trial.path).epochs_path.write_bytes(_lines(emitted))
    for record in emitted:
        report_epoch(trial.name, record, [])


def _lines(found: list[EpochRecord]) -> bytes:
    return "".join(record.model_dump_json() + "\n" for record in found).encode()


def begin_study(plan: SearchPlan) -> Study:
    """Create the study of a plan, with a scoring CNN in name only."""
    study = open_or_create(plan.folder, plan.info)
    study.scorer_path.write_bytes(b"none is needed")
    scorer = file_sha256(study.scorer_path)
    quality = Quality(floor=15, untrained=4000, classifier_accuracy=0.9, scorer=scorer)
    write_json(study.path / "quality.json", quality)
    write_json(study.path / "start.json", plan.last_start)
    return study


def write_study(plan: SearchPlan) -> Study:
    """Write a study whose trials have all finished, as a search leaves it, but for the networks.

    The files of weights that it keeps are there and empty.
    """
    study = begin_study(plan)
    found = list(records(plan.train.epochs, grace=grace_of(plan)))
    rows = _write_ledger(study, plan, found)
    value = objective_value(found, plan.search)
    lines, kept = _lines(found), kept_epochs(found, plan.search.ranking)
    for row in rows:
        trial = begin_trial(study, row, plan)
        run = RunDir(trial.path)
        run.epochs_path.write_bytes(lines)
        run.weights_path(1).parent.mkdir()
        for epoch in kept:
            run.weights_path(epoch).touch()
        write_end(trial, epochs=len(found), value=value)
    return study


def begin_trial(study: Study, row: Proposal, plan: SearchPlan) -> Trial:
    """Write the directory of a trial that has begun."""
    info = trial_info(row, plan.search.seed)
    path = study.path / row.name
    path.mkdir()
    _write(path / "trial.json", info)
    content: dict[str, Any] = {"train": study.info.train | info.params | {"seed": info.seed}}
    content |= {"classes": study.info.classes, "fingerprint": study.info.fingerprint}
    (path / "config.json").write_text(json.dumps(content))
    return Trial(path, info)


def write_end(trial: Trial, *, epochs: int, value: float) -> None:
    """Write that a trial has finished, and what it is judged by."""
    end = TrialEnd(outcome=Outcome.FINISHED, time=time.time(), epochs=epochs, value=value)
    _write(trial.path / "end.json", end)


def _write(path: Path, content: BaseModel) -> None:
    path.write_text(content.model_dump_json(indent=1) + "\n")  # a sync for each takes minutes


def row_of(number: int, plan: SearchPlan) -> Proposal:
    """Return the baseline, or one of many points of the space."""
    params = space.baseline(plan.space, plan.train)
    if number:
        share = number * 0.6180339887 % 1  # evenly spread, and each point once
        for name, dimension in plan.space.items():
            low, high = dimension.extremes()[0], dimension.extremes()[-1]
            params[name] = float(low) + share * (float(high) - float(low))
    return Proposal(number, params, outcome=None, reason="", value=None)


class _Collected(BaseJournalBackend):
    """Optuna's journal in memory, to be written to its file at once."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def _write_ledger(study: Study, plan: SearchPlan, found: Sequence[EpochRecord]) -> list[Proposal]:
    """Write the ledger line for line as a search does, but without a sync for each."""
    collected = _Collected()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(collected)
    directions = {"minimize": StudyDirection.MINIMIZE, "maximize": StudyDirection.MAXIMIZE}
    number = storage.create_new_study([directions[plan.search.direction]], STUDY)
    spread = distributions(plan.space)
    rungs = rung_epochs(plan.train.epochs, grace_of(plan), plan.search)
    end = objective_value(found, plan.search)
    values = [objective_value(found[:rung], plan.search) for rung in rungs]
    rows = [row_of(n, plan) for n in range(plan.search.num_samples)]
    for row in rows:
        template = create_trial(state=TrialState.RUNNING, params=row.params, distributions=spread)
        trial = storage.create_new_trial(number, template)
        for place, (rung, value) in enumerate(zip(rungs, values, strict=True)):
            storage.set_trial_intermediate_value(trial, rung, value)
            storage.set_trial_system_attr(trial, f"completed_rung_{place}", value)
        storage.set_trial_user_attr(trial, "outcome", Outcome.FINISHED.value)
        storage.set_trial_user_attr(trial, "reason", "")
        storage.set_trial_state_values(trial, TrialState.COMPLETE, [end])
    JournalFileBackend(str(study.ledger_path)).append_logs(collected.logs)
    return rows
