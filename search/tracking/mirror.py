"""A study's directories, copied to MLflow pass by pass.

A pass reads directories and writes to MLflow, never the other way round, and may be cut off
anywhere: the next one sends what is missing. Nothing waits for it.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from mlflow import MlflowClient
from mlflow.entities import Run

from acgan.evaluation.grids import UNTRAINED, read_grid, sample_grids, untrained_grid
from acgan.files import exclusive
from acgan.run.records import EpochRecord, read_records
from search.settings import SearchConfig
from search.study.folder import Outcome, Study, Trial, TrialEnd, is_searched, is_trial
from search.study.objective import Ended, judged_diversity
from search.study.store.study_copy import is_kept, run_file
from search.tracking import connection, marks, notes, study_runs, uris, view
from search.tracking.find import run_of_study

# Fresh curves never wait long for old images: 60 ms each, but seconds where MLflow is slow.
IMAGES_A_PASS = 50
IMAGES_S = 3.0
NOTES_EVERY_S = 60.0  # while the search runs
FIRST_PICTURES = 8  # ended trials

READ_FILES = ("epochs.jsonl", "end.json")

Stamp = tuple[object, ...]


@dataclass(frozen=True)
class SyncReport:
    """What passes did; `complete`: all that they read in the directories is in MLflow.

    `problems` are the sentences on files that could not be read; their trials were passed over.
    `warnings` are those on what was asked for and has no effect.
    """

    runs: int = 0
    epochs: int = 0
    images: int = 0
    complete: bool = True
    problems: frozenset[str] = frozenset()
    warnings: frozenset[str] = frozenset()

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.runs + other.runs,
            self.epochs + other.epochs,
            self.images + other.images,
            self.complete and other.complete,
            self.problems | other.problems,
            self.warnings | other.warnings,
        )


@dataclass(frozen=True)
class Files:
    """What a trial's directory held at one moment, read once for a whole pass.

    grids: the sample grids by their epochs, the untrained generator's as that of an epoch 0
    """

    end: TrialEnd | None
    records: list[EpochRecord]
    grids: list[tuple[study_runs.EpochKey, Path]]

    @classmethod
    def read(cls, trial: Trial) -> Self:
        """Read a trial's directory; `ValueError` for a damaged file."""
        end = trial.end()  # before the records: no record follows an end that is there
        records = trial.records()
        grids = [(study_runs.epoch_key(r), path) for r, path in sample_grids(trial.path, records)]
        untrained = untrained_grid(trial.path)
        if records and is_kept(untrained):
            _, first_ms = study_runs.epoch_key(records[0])
            grids.insert(0, ((UNTRAINED, first_ms), untrained))
        return cls(end, records, grids)


@dataclass
class Sent:
    """What MLflow has of a trial: epochs, and epochs whose image is there, or is damaged."""

    epochs: set[study_runs.EpochKey] = field(default_factory=set)
    images: set[int] = field(default_factory=set)
    damaged: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Missing:
    """What MLflow lacks of what a trial's directory holds."""

    epochs: list[EpochRecord]
    images: list[tuple[study_runs.EpochKey, Path]]

    @property
    def count(self) -> int:
        """How many epochs lack their metrics or their image; the untrained generator's aside."""
        lacking = {r.epoch for r in self.epochs} | {epoch for (epoch, _), _ in self.images}
        return len(lacking - {UNTRAINED})


def missing(files: Files, sent: Sent) -> Missing:
    """Compare what is on disk with what was sent."""
    there = sent.images | sent.damaged
    return Missing(
        [r for r in files.records if study_runs.epoch_key(r) not in sent.epochs],
        [(key, path) for key, path in files.grids if key[0] not in there],
    )


class _TrialCopy:
    """One trial that is not yet whole in MLflow, and what is there of it."""

    def __init__(self, client: MlflowClient, study: Study, parent: Run, trial: Trial) -> None:
        self.trial, self._client, self._study, self._parent = trial, client, study, parent
        self.run_id = self.status = ""
        self._files = Files(None, [], [])
        self._sent = Sent()
        self._checked = False

    def send_epochs(self) -> SyncReport:
        """Read the directory and send the metrics that are missing, with the first the run."""
        self._files = Files.read(self.trial)
        first = self._files.records[0] if self._files.records else self._files.end
        if first is None:
            return SyncReport()
        made = 0 if self.run_id else self._find_or_make_run(started=first.time)
        epochs = missing(self._files, self._sent).epochs
        study_runs.log_epochs(self._client, self.run_id, epochs)
        self._sent.epochs |= {study_runs.epoch_key(record) for record in epochs}
        return SyncReport(runs=made, epochs=len(epochs))

    def _find_or_make_run(self, started: float) -> int:
        there = study_runs.run_of_trial(self._client, self._parent, self.trial)
        run = there or study_runs.create_trial_run(self._client, self._parent, self.trial, started)
        if there is not None:
            self._ask(run.info.run_id)
        study_runs.log_params(self._client, run, self.trial)
        self.status, self.run_id = run.info.status, run.info.run_id
        return int(there is None)

    def _ask(self, run_id: str) -> None:
        self._sent.epochs = study_runs.logged_epochs(self._client, run_id)
        self._sent.images = study_runs.logged_samples(self._client, run_id)

    def send_images(self, limit: int, *, deadline: float) -> SyncReport:
        """Send at most `limit` of the sample grids that are missing, none after `deadline`."""
        images = missing(self._files, self._sent).images
        problems, taken = set(), 0
        for key, path in images[: max(limit, 0)]:
            if time.monotonic() >= deadline:
                break
            taken += 1
            try:
                image = read_grid(run_file(path))
            except ValueError as error:  # one damaged picture holds up no other
                problems.add(str(error))
                self._sent.damaged.add(key[0])
            else:
                study_runs.log_samples(self._client, self.run_id, image, key)
                self._sent.images.add(key[0])
        sent, complete = taken - len(problems), taken == len(images)
        return SyncReport(images=sent, complete=complete, problems=frozenset(problems))

    def is_whole(self, *, driving: bool) -> bool:
        """Return whether MLflow has all of a trial that is about to count as finished.

        It is asked once more: it may have come back from an older copy of itself meanwhile,
        without that any call has failed.
        """
        if self._checked or study_runs.status_of(self._files.end, driving=driving) != "FINISHED":
            return True
        self._checked = True  # what is then sent again needs no third look
        self._ask(self.run_id)
        return missing(self._files, self._sent).count == 0

    def send_end(self, config: SearchConfig, *, driving: bool) -> None:
        """Send how the trial ended, or that it goes on. FINISHED says that all is there."""
        end = self._files.end
        status = study_runs.status_of(end, driving=driving)
        if status == self.status and end is None:
            return
        config_path = self.trial.path / "config.json"
        if end is not None and config_path.is_file():  # not there if the trial never started
            self._client.log_artifact(self.run_id, str(config_path))
        diversity = judged_diversity(self._files.records, config)
        study_runs.set_end_tags(self._client, self.run_id, end, diversity)
        if end is not None and end.outcome.counts:
            self._send_judgement(end, config)
        study_runs.set_status(self._client, self.run_id, status, ended_ms=self.ended_ms)
        self.status = status

    def _send_judgement(self, end: TrialEnd, config: SearchConfig) -> None:
        """Send what a trial that has ended for good is judged by, and the note that says it."""
        records = self._files.records
        ended = Ended.of(end.outcome, end.reason, records, config)
        if records:
            study_runs.log_young_end(self._client, self.run_id, records[-1])
        flags = uris.uri_flag(self._client.tracking_uri)
        run = self._client.get_run(self.run_id)
        text = notes.of_trial(self._study, self.trial, ended, self._parent, self.run_id, flags)
        notes.send_run(self._client, run, text)

    @property
    def ended_ms(self) -> int | None:
        """When the trial ended, else the last epoch that was sent, in ms since 1970."""
        if self._files.end is not None:
            return connection.milliseconds(self._files.end.time)
        return max((time_ms for _, time_ms in self._sent.epochs), default=None)

    def unsent(self) -> int:
        """Return how many epochs on disk are not known to be in MLflow with their images."""
        return missing(Files.read(self.trial), self._sent).count

    def finished(self, config: SearchConfig) -> Ended | None:
        """Return what a trial of the search that finished is judged by."""
        end = self._files.end
        if end is None or end.outcome is not Outcome.FINISHED or self.trial.info.origin != "search":
            return None
        return Ended.of(end.outcome, end.reason, self._files.records, config)


class Mirror:
    """One study's copy in MLflow.

    A trial that is whole there is not looked at again; an open one only when its files have
    changed. After a failed pass, `forget`: the next pass asks MLflow what it has.

    marked: whether the study's marks are believed, as long as nothing fails
    """

    def __init__(self, study: Study, *, uri: str, experiment: str, marked: bool = False) -> None:
        self.study, self.uri, self.experiment = study, uri, experiment
        self._believes, self._marked = marked, 0
        self._client: MlflowClient | None = None
        self._parent: Run | None = None
        self._parent_status = ""
        self._config = SearchConfig.model_validate(study.info.search)
        self._warnings: frozenset[str] = frozenset()
        self._best: float | None = None
        self._best_trial = ""
        self._has_quality = False
        self._drawn = 0
        self._noted = -1  # trials that had ended for good when the notes were written
        self._next_notes = -math.inf
        self._whole: dict[str, int] = {}  # and their ends in ms since 1970
        self._copies: dict[str, _TrialCopy] = {}
        self._stamps: dict[str, Stamp] = {}

    def forget(self) -> None:
        """Let the next pass ask MLflow what it has."""
        self._parent, self._believes = None, False

    def update(self, *, driving: bool) -> SyncReport:
        """Make one pass: metrics of all trials, then images for 3 s, then how trials ended.

        `driving`: the study's driver is at work. Raises one of `tracking.FAILURES` when MLflow
        does not take the data, `InputError` when the experiment was deleted.
        """
        # Two processes that copy the study at once could each make the same run.
        with exclusive(self.study.path / "mlflow.lock"):
            return self._update(driving)

    def _update(self, driving: bool) -> SyncReport:
        client, parent = self._open()
        report, changed = SyncReport(warnings=self._warnings), []
        for name, stamp in self._changed(driving):
            try:
                if name not in self._copies:
                    trial = self.study.trial(name)
                    self._copies[name] = _TrialCopy(client, self.study, parent, trial)
                copy = self._copies[name]
                report += copy.send_epochs()
            except ValueError as error:  # one trial's damaged file holds up no other trial
                report += SyncReport(problems=frozenset([str(error)]))
                continue
            if copy.run_id:
                changed.append((copy, stamp))
        deadline = time.monotonic() + IMAGES_S
        for copy, stamp in changed:
            sent = copy.send_images(IMAGES_A_PASS - report.images, deadline=deadline)
            report += sent
            if not sent.complete:
                continue
            if copy.is_whole(driving=driving):
                self._send_end(client, parent, copy, driving)
                self._stamps[copy.trial.name] = stamp
            else:
                report += SyncReport(complete=False)
        self._send_study(client, parent, running=driving or not report.complete)
        return report

    @property
    def study_links(self) -> tuple[str, ...]:
        """Where MLflow's page shows the trials, see `view.links`; () while it is not known."""
        if self._parent is None:
            return ()
        return view.links(self.study.info.uuid, self._parent.info.experiment_id)

    def unsent(self) -> int:
        """Return how many epochs on disk are not known to be in MLflow with their images."""
        count = 0
        for name in self._open_names():
            copy = self._copies.get(name)
            with contextlib.suppress(ValueError):  # a damaged file was said when it was met
                if copy is None:
                    count += len(read_records(self.study.path / name / "epochs.jsonl"))
                else:
                    count += copy.unsent()
        return count

    def _open(self) -> tuple[MlflowClient, Run]:
        if self._client is None:
            self._client = connection.connect(self.uri)
        if self._parent is None:
            parent = study_runs.parent_run(self._client, self.study, experiment=self.experiment)
            marked = marks.read(self.study, parent) if self._believes else {}
            since = max(marked.values(), default=0)
            finished = study_runs.finished_trials(self._client, self.study, parent, since_ms=since)
            self._whole, self._marked = marked | finished, len(marked)
            self._copies.clear()
            self._stamps.clear()
            self._best = parent.data.metrics.get(self._config.ranking.best)
            self._best_trial = parent.data.tags.get("best_trial", "")
            self._has_quality = "quality/floor" in parent.data.metrics
            self._drawn = int(parent.data.tags.get(study_runs.PICTURES, "0"))
            self._parent_status = parent.info.status
            self._warnings = frozenset(self._elsewhere(self._client, parent))
            view.send(self._client, parent.info.experiment_id, self.study.info)
            self._parent = parent
        return self._client, self._parent

    def _elsewhere(self, client: MlflowClient, parent: Run) -> Iterator[str]:
        """Yield that the study is in another experiment than the one that is named."""
        there = client.get_experiment(parent.info.experiment_id).name
        if self.experiment not in (there, SearchConfig().experiment):
            yield (
                f"{self.study.info.name} stays in the MLflow experiment {there!r}; --experiment is "
                "for a study that MLflow does not have yet"
            )

    def _open_names(self) -> list[str]:
        names = set(os.listdir(self.study.path)) - self._whole.keys()
        return sorted(filter(is_trial, names))

    def _changed(self, driving: bool) -> Iterator[tuple[str, Stamp]]:
        for name in self._open_names():
            path = self.study.path / name
            stamp = (driving, *(_file_stamp(path / file) for file in READ_FILES))
            if stamp != self._stamps.get(name) and (path / "trial.json").exists():
                yield name, stamp

    def _send_end(self, client: MlflowClient, parent: Run, copy: _TrialCopy, driving: bool) -> None:
        name, own = copy.trial.name, copy.finished(self._config)
        if own is not None and self._is_better(own.value, name):
            study_runs.log_best(client, parent, self._config.ranking, name, own)
            self._best, self._best_trial = own.value, name
        # Last: a trial that is FINISHED is not read again.
        copy.send_end(self._config, driving=driving)
        if copy.status == "FINISHED":
            self._whole[name] = copy.ended_ms or 0
            del self._copies[name]

    def _is_better(self, value: float, name: str) -> bool:
        if self._best is None:
            return math.isfinite(value)
        sign = self._config.ranking.sign
        return (sign * value, name) < (sign * self._best, self._best_trial)  # as the table has it

    def _send_study(self, client: MlflowClient, parent: Run, *, running: bool) -> None:
        quality = None if self._has_quality else self.study.quality()
        if quality is not None:
            study_runs.log_quality(client, parent, quality)
            self._has_quality = True
        self._send_pictures(client, parent, running=running)
        self._send_notes(client, parent, running=running)
        status = "RUNNING" if running else self._status()
        if status != self._parent_status:
            ends = [*self._whole.values(), *(copy.ended_ms or 0 for copy in self._copies.values())]
            ended_ms = max(ends, default=0) or None
            study_runs.set_status(client, parent.info.run_id, status, ended_ms=ended_ms)
            self._parent_status = status
        if not running and len(self._whole) != self._marked:
            marks.write(client, self.study, parent.info.run_id, self._whole)
            self._marked = len(self._whole)

    def _send_notes(self, client: MlflowClient, parent: Run, *, running: bool) -> None:
        """Send the notes: at the end, and before that now and then where more trials have ended.

        Of a large study they are written less often, so that they take a twentieth of the time.
        """
        begun = time.monotonic()
        if running and (begun < self._next_notes or len(self._whole) == self._noted):
            return
        notes.send_study(client, self.study, parent.info.run_id)
        self._noted = len(self._whole)
        took = time.monotonic() - begun
        self._next_notes = begun + max(NOTES_EVERY_S, 20 * took)

    def _send_pictures(self, client: MlflowClient, parent: Run, *, running: bool) -> None:
        """Send pictures of the search: at its end, and before that as often as it doubles."""
        ended = list(filter(is_searched, self._whole))
        enough = max(2 * self._drawn, FIRST_PICTURES)
        if len(ended) == self._drawn or (running and len(ended) < enough):
            return
        from search.tracking import pictures  # noqa: PLC0415 (half a second, which no start waits for)

        drawn = pictures.draw_search(pictures.read_points(self.study, ended))
        study_runs.log_pictures(client, parent, drawn, trials=len(ended))
        self._drawn = len(ended)

    def _status(self) -> str:
        """Return the status of a study without a driver: that of its worst trial.

        Repeats do not count: one that was begun may no longer be asked for.
        """
        copies = [self._copies.get(name) for name in filter(is_searched, self._open_names())]
        statuses = {"KILLED" if copy is None else copy.status or "KILLED" for copy in copies}
        if "KILLED" in statuses or not (statuses or self._whole):
            return "KILLED"
        return "FAILED" if statuses else "FINISHED"


def _file_stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def study_links(study: Study, uri: str) -> tuple[str, ...]:
    """Return where MLflow's page shows a study's trials, see `view.links`; () if it has none."""
    run = run_of_study(connection.connect(uri), study)
    return () if run is None else view.links(study.info.uuid, run.info.experiment_id)


def sync_study(study: Study, *, uri: str, experiment: str, driving: bool) -> SyncReport:
    """Send all that a study's directories hold and MLflow lacks; `uri` is a resolved one.

    `driving`: a driver is at work on the study, so its open trials are running. Raises one of
    `tracking.FAILURES` when MLflow does not take the data.
    """
    mirror = Mirror(study, uri=uri, experiment=experiment)
    report = mirror.update(driving=driving)
    while not report.complete:
        report = replace(report, complete=True) + mirror.update(driving=driving)
    return report
