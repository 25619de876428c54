"""Train many configurations once, each to its last epoch: the curves that a replay answers with.

Each configuration is a run directory of `acgan`, so what was interrupted goes on where it was.
"""

from __future__ import annotations

import functools
import multiprocessing
import signal
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
from acgan.config import TrainConfig, validate
from acgan.data import load
from acgan.dataset import Dataset
from acgan.device import default_device
from acgan.evaluate import Evaluation, Scorer, cached_scorer
from acgan.records import read_records
from acgan.rundir import RunDir
from acgan.train import check_fits, train
from benchmarks.curves import Curves, Shared, curve_of
from search import space
from search.restore import trial_info
from search.searcher import Ledger
from search.settings import SearchConfig
from search.study import TrialInfo, trial_name

SAY_EVERY_S = 60.0
SEED = 0  # of the sequence of configurations, and of what each run's own seed derives from


@dataclass(frozen=True)
class Asked:
    """What is to be trained.

    source: "phantom", or the folder of the images; folder: where the run directories stand
    count: configurations; jobs: processes side by side, one thread each
    """

    source: str
    config: TrainConfig
    space: space.Space
    folder: Path
    count: int
    jobs: int


@dataclass(frozen=True)
class _Run:
    path: Path
    source: str
    config: TrainConfig


def configurations(asked: Asked) -> list[TrialInfo]:
    """Return the baseline and a scrambled Sobol sequence, as a study would propose them."""
    start = space.baseline(asked.space, asked.config)
    ledger = Ledger(None, asked.space, start=start, config=SearchConfig(sampler="qmc", seed=SEED))
    return [trial_info(ledger.propose(), SEED) for _ in range(asked.count)]


def train_curves(asked: Asked, say: Callable[[str], None]) -> Curves:
    """Train what is missing, without any early stopping; `say` is told how far it is."""
    data = _load(asked.source, asked.config.image_size)
    check_fits(asked.config, data)
    say("the scoring CNN is trained on the real training images, unless it is in the cache")
    floor = _floor(data, asked.config)
    found = configurations(asked)
    runs = [_run(asked, info) for info in found]
    asked.folder.mkdir(parents=True, exist_ok=True)
    with _workers(asked.jobs) as workers:
        _watch([workers.submit(_train, run) for run in runs], runs, say)
    shared = Shared(
        data=data.name,
        images=len(data.train),
        floor=floor,
        train=asked.config.model_dump(exclude={"seed"}),
        space=space.dump(asked.space),
    )
    return Curves(
        shared,
        [
            curve_of(info.params, read_records(RunDir(run.path).epochs_path))
            for info, run in zip(found, runs, strict=True)
        ],
    )


def _run(asked: Asked, info: TrialInfo) -> _Run:
    values = asked.config.model_dump() | info.params | {"seed": info.seed}
    config = validate(TrainConfig, "train", values)
    return _Run(asked.folder / trial_name(info.number), asked.source, config)


def _floor(data: Dataset, config: TrainConfig) -> float:
    device = default_device()
    path = cached_scorer(data, config, device)
    scorer = Scorer.load(
        path, classes=len(data.classes), image_size=config.image_size, device=device
    )
    return Evaluation(data, config, scorer, device).floor(data, config)


@functools.cache
def _load(source: str, image_size: int) -> Dataset:
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
    torch.set_num_threads(1)
    _Worker.stop = stop


def _train(run: _Run) -> None:
    for _ in train(run.config, _load(run.source, run.config.image_size), RunDir(run.path)):
        if _Worker.stop.is_set():
            return


def _watch(
    futures: Sequence[Future[None]], runs: Sequence[_Run], say: Callable[[str], None]
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


def _there(runs: Sequence[_Run]) -> int:
    return sum(len(read_records(RunDir(run.path).epochs_path)) for run in runs)
