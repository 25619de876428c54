"""The recorder alone: epochs come at a fixed rate, and are counted as they reach MLflow."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from acgan.run.records import RANKING, EpochRecord
from benchmarks import simulated
from benchmarks.process import Watch, watched
from search.plan import SearchPlan
from search.study.folder import Study, Trial
from search.tracking import connection
from search.tracking.mirror import Mirror, SyncReport
from search.tracking.recorder import Recorder
from tests.studies import sample_png

TICK_S = 0.1
DRAIN_S = 3600.0
BURST_S = 20  # of epochs at the fixed rate, written at once


@dataclass(frozen=True)
class Recorded:
    """One run of the recorder.

    written, backlog: epochs on disk at each look, and those of them that were not in MLflow
    drain_s: from the last epoch to its arrival
    burst_per_s: what arrived a second of many epochs that were written at once
    images, images_s: the sample grids, and when after the burst all of them had arrived
    """

    watch: Watch
    written: list[int]
    backlog: list[int]
    drain_s: float
    burst_per_s: float
    images: int
    images_s: float

    @property
    def drained_per_s(self) -> float:
        """Epochs that reached MLflow a second while they came."""
        return (self.written[-1] - self.backlog[-1]) / self.watch.wall_s


class _Counting(Recorder):
    """Counts what its passes have sent."""

    epochs = images = 0

    def _attempt(self, mirror: Mirror, *, driving: bool) -> SyncReport | None:
        report = super()._attempt(mirror, driving=driving)
        if report is not None:
            self.epochs += report.epochs
            self.images += report.images
        return report


class _Search:
    """Trials side by side whose epochs are written; where one ends the next begins."""

    def __init__(self, study: Study, plan: SearchPlan, concurrency: int, *, images: bool) -> None:
        self.written = 0
        self.images = images
        self._study, self._plan = study, plan
        self._numbers = itertools.count()
        self._trials = itertools.cycle([self._epochs() for _ in range(concurrency)])

    def write_one(self) -> None:
        """Write one epoch of the trial whose turn it is."""
        next(next(self._trials))
        self.written += 1

    def _epochs(self) -> Iterator[None]:
        """Write an epoch per step, of one trial after another."""
        for number in self._numbers:
            row = simulated.row_of(number, self._plan)
            trial = simulated.begin_trial(self._study, row, self._plan)
            (trial.path / "samples").mkdir()
            epochs = self._plan.train.epochs
            for record in simulated.records(epochs, grace=simulated.grace_of(self._plan)):
                self._write(trial, record)
                if record.epoch == epochs:
                    simulated.write_end(trial, epochs=epochs, value=record.metrics[RANKING.metric])
                yield

    def _write(self, trial: Trial, record: EpochRecord) -> None:
        if self.images:
            png = sample_png(trial.info.number, record.epoch)
            (trial.path / str(record.samples)).write_bytes(png)
        else:
            record = record.model_copy(update={"samples": None})
        with (trial.path / "epochs.jsonl").open("a") as file:
            file.write(record.model_dump_json() + "\n")


def record(
    uri: str | None, *, per_s: float, minutes: float, epochs: int, concurrency: int, images: bool
) -> Recorded:
    """Write epochs at a fixed rate for so long while the recorder sends them, then let it drain.

    uri: of MLflow's database, None for a new SQLite file; images: each epoch has a sample grid
    """
    with tempfile.TemporaryDirectory() as name:
        plan = simulated.plan_of(simulated.flags(Path(name), trials=1, epochs=epochs))
        study = simulated.begin_study(plan)
        uri = uri or plan.tracking_uri
        connection.connect(uri)  # makes its tables, which is no work of the recorder
        recorder = _Counting(study, uri=uri, experiment="scale", say=print)
        search = _Search(study, plan, concurrency, images=images)
        written, backlog = [0], [0]
        recorder.start()
        with watched(lambda: recorder.epochs, every_s=1) as watch:
            for _ in _seconds(minutes * 60, search, per_s):
                written.append(search.written)
                backlog.append(search.written - recorder.epochs)
        drain_s = _arrived(recorder, search.written)
        search.images, before = False, search.written
        for _ in range(round(BURST_S * per_s)):
            search.write_one()
        burst_s = _arrived(recorder, search.written)
        images_s = _timed(lambda: recorder.close(DRAIN_S))
        assert recorder.images == (before if images else 0)
        burst_per_s = (search.written - before) / burst_s
        return Recorded(watch, written, backlog, drain_s, burst_per_s, recorder.images, images_s)


def _seconds(seconds: float, search: _Search, per_s: float) -> Iterator[None]:
    """Write epochs at a fixed rate; yield about once per second, and at the end."""
    started = time.perf_counter()
    looked = 0
    while (passed := time.perf_counter() - started) < seconds:
        for _ in range(round(passed * per_s) - search.written):
            search.write_one()
        if passed >= looked + 1:
            looked = int(passed)
            yield
        time.sleep(TICK_S)
    yield


def _arrived(recorder: _Counting, written: int) -> float:
    """Wait until the metrics of so many epochs have arrived; return how long that took."""

    def wait() -> None:
        deadline = time.perf_counter() + DRAIN_S
        while recorder.epochs < written:
            assert time.perf_counter() < deadline, f"{written} epochs did not arrive"
            time.sleep(0.02)

    return _timed(wait)


def _timed(body: Callable[[], object]) -> float:
    started = time.perf_counter()
    body()
    return time.perf_counter() - started
