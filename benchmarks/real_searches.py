"""One real search of each kind at equal compute, through the command that a user types."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from acgan.config import TrainConfig, find_file
from acgan.errors import InputError
from benchmarks.replay import Searcher
from search.settings import STOPPING_RULES, SearchConfig, Value
from search.study import table
from search.study.folder import Study, open_study


@dataclass(frozen=True)
class RealSearches:
    """What all real searches share.

    config: the configuration file; its images and some fields of `train` are named anew
    folder: where the studies stand, and MLflow's database
    budget: epochs that all trials of a search may spend together
    """

    config: Path
    source: str
    train: TrainConfig
    folder: Path
    budget: int
    jobs: int


@dataclass(frozen=True)
class Found:
    """What a search came to: its best finished trial's value, for so many epochs of all trials."""

    value: float
    trials: int
    epochs: int


def search_within(asked: RealSearches, searcher: Searcher) -> Found:
    """Add trials to a study while the budget has a full one left; what is there stays.

    Each start asks for as many as could all run to their end, so the budget is never exceeded.
    """
    settings = searcher.settings(seed=0)
    path = _path(asked, searcher)
    while True:
        found = _found(path, settings)
        more = (asked.budget - found.epochs) // asked.train.epochs
        if more <= 0:
            return found
        _run(command(asked, settings, path.name, found.trials + more))


def _path(asked: RealSearches, searcher: Searcher) -> Path:
    return asked.folder / searcher.name.replace(" + ", "-").replace(" ", "-")


def best_params(asked: RealSearches, searcher: Searcher) -> dict[str, Value]:
    """Return the point of a search's best finished trial; `InputError` if none has finished."""
    study, settings = open_study(_path(asked, searcher)), searcher.settings(seed=0)
    best = table.best(table.table_lines(study, settings), settings)
    if best is None:
        raise InputError(f"no trial of {study.path} has finished; search longer")
    return best.trial.info.params


def _found(path: Path, settings: SearchConfig) -> Found:
    if not (path / "study.json").exists():
        return Found(value=float("inf"), trials=0, epochs=0)
    return found_in(open_study(path), settings)


def found_in(study: Study, settings: SearchConfig) -> Found:
    """Return what a study came to; a trial that has not ended counts with the epochs it has left.

    It will be continued before any new one, perhaps to its last epoch.
    """
    lines = table.table_lines(study, settings)
    ended = [line for line in lines if line.outcome is not None and line.outcome.counts]
    best = table.best(lines, settings)
    return Found(
        value=float("inf") if best is None else best.value,
        trials=len(ended),
        epochs=sum(line.epochs for line in ended),
    )


def command(asked: RealSearches, settings: SearchConfig, study: str, trials: int) -> list[str]:
    """Return the command that brings a study to so many trials."""
    train = asked.train
    flags = {
        "--config": find_file(asked.config),
        "--data": asked.source,
        "--image-size": train.image_size,
        "--width": train.width,
        "--batch-size": train.batch_size,
        "--epochs": train.epochs,
        "--objective": settings.objective,
        "--sampler": settings.sampler,
        "--seed": settings.seed,
        "--num-samples": trials,
        "--max-concurrent": asked.jobs,
        "--study": study,
        "--storage-path": asked.folder,
        "--tracking-uri": f"sqlite:///{asked.folder.absolute() / 'mlflow.db'}",
    }
    words = [str(word) for pair in flags.items() for word in pair]
    switch = "--" if settings.stop_pruned else "--no-"
    rules = (switch + name.replace("_", "-") for name in STOPPING_RULES)
    return ["-m", "search.run", *words, *rules]


def _run(words: list[str]) -> None:
    """Run a search to its end; an interruption is passed on, and its end waited for."""
    process = subprocess.Popen([sys.executable, *words], start_new_session=True)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if code != 0:
        raise InputError(f"the search ended with exit code {code}: {' '.join(words)}")
