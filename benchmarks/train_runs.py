"""Runs of `acgan` side by side in processes of one thread each, every run to its last epoch.

Nothing of `search` is imported here: a process is begun in the seconds that PyTorch takes.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import ClassVar

import torch

from acgan.command import duration
from acgan.config import TrainConfig
from acgan.data.dataset import Dataset
from acgan.data.pack import load
from acgan.run.records import RANKING, EpochRecord, Ranking, read_records
from acgan.run.rundir import RunDir
from acgan.training import train

SAY_EVERY_S = 60.0


@dataclass(frozen=True)
class Run:
    """One run: its directory, its images ("phantom", or their folder) and its configuration.

    ranking: by which it keeps weights
    """

    path: Path
    source: str
    config: TrainConfig
    ranking: Ranking = RANKING

    def records(self) -> list[EpochRecord]:
        """Return the epochs that are there."""
        return read_records(RunDir(self.path).epochs_path)


def train_runs(runs: Sequence[Run], *, jobs: int, say: Callable[[str], None]) -> None:
    """Train what is missing of all runs, `jobs` at once; `say` is told how far it is.

    What is interrupted ends after the epochs under way.
    """
    with _workers(jobs) as workers:
        _watch([workers.submit(_train, run) for run in runs], runs, say)


@functools.cache
def images(source: str, image_size: int) -> Dataset:
    """Return the images of a source, loaded once per process, with the default split."""
    return load(source, image_size=image_size)


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Yield processes that end after their epoch under way when the caller is interrupted."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    workers = ProcessPoolExecutor(jobs, context, _begin_worker, (stop,))
    try:
        yield workers
    finally:
        stop.set()
        workers.shutdown(cancel_futures=True)


class _Worker:
    """What one process is told at its start."""

    stop: ClassVar[Event]


def _begin_worker(stop: Event) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller is interrupted too, and says so
    threading.Thread(target=_end_with_caller, daemon=True).start()
    torch.set_num_threads(1)
    _Worker.stop = stop


def _end_with_caller() -> None:
    """End this process when the caller has ended without a word; a pool's worker would wait on."""
    caller = multiprocessing.parent_process()
    assert caller is not None  # it began this process
    caller.join()
    os._exit(1)


def _train(run: Run) -> None:
    data, directory = images(run.source, run.config.image_size), RunDir(run.path)
    for _ in train(run.config, data, directory, ranking=run.ranking):
        if _Worker.stop.is_set():
            return


def _watch(
    futures: Sequence[Future[None]], runs: Sequence[Run], say: Callable[[str], None]
) -> None:
    """Wait for all runs, telling how many epochs are there; raise what one of them raised."""
    total, started = sum(run.config.epochs for run in runs), time.monotonic()
    first = _there(runs)
    left = set(futures)
    while left:
        done, left = wait(left, timeout=SAY_EVERY_S)
        for future in done:
            future.result()
        there = _there(runs)
        rate = (there - first) / (time.monotonic() - started)
        time_left = f", about {duration((total - there) / rate)} left" if rate else ""
        say(f"{there:,} of {total:,} epochs of {len(runs)} configurations{time_left}")


def _there(runs: Sequence[Run]) -> int:
    return sum(len(run.records()) for run in runs)
