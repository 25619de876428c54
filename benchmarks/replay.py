"""Searches replayed on curves that are there: the real ledger and stopping rules, no training.

A proposal is answered with the curve of the nearest configuration. Workers advance side by side,
one epoch a tick, as Ray Tune's trials do; whoever is free takes the next proposal.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from acgan.run.records import EpochRecord
from benchmarks.curves import JUDGED, Curves
from search.settings import STOPPING_RULES, SearchConfig, Value
from search.study import space
from search.study.objective import objective_value
from search.study.optuna_ledger import Ledger
from search.tune.stopping import TrialStopper

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Searcher:
    """One way to search: where proposals come from, and whether trials are stopped early."""

    name: str
    sampler: Literal["tpe", "random"]
    stopping: bool

    def settings(self, seed: int) -> SearchConfig:
        """Return the search's own settings; all its stopping rules are on, or none is."""
        rules: dict[str, Any] = dict.fromkeys(STOPPING_RULES, self.stopping)
        return SearchConfig(objective=JUDGED.objective, sampler=self.sampler, seed=seed, **rules)


RANDOM = Searcher("random alone", "random", stopping=False)
SEARCHERS = (
    Searcher("TPE + early stopping", "tpe", stopping=True),
    Searcher("TPE alone", "tpe", stopping=False),
    Searcher("random + early stopping", "random", stopping=True),
    RANDOM,
)


@dataclass(frozen=True)
class Replay:
    """One search as replayed.

    best: after each epoch spent, the best value of any trial so far; `inf` while all are young
    trials: how many were begun
    """

    best: Array
    trials: int


class Answers:
    """Curves as answers to proposals.

    values: of each curve, what a trial is judged by after each epoch; `inf` while it is young
    """

    def __init__(self, curves: Curves) -> None:
        self.curves = curves
        self.points = np.array([unit(curves.space, curve.params) for curve in curves.curves])
        self.values = [running_values(records, JUDGED) for records in curves.records]

    def nearest(self, params: Mapping[str, Value]) -> int:
        """Return the number of the curve nearest in the unit cube; a tie goes to the first."""
        point = np.array(unit(self.curves.space, params))
        return int(((self.points - point) ** 2).sum(1).argmin())


def unit(searched: space.Space, params: Mapping[str, Value]) -> list[float]:
    """Return a point in the unit cube: each range from 0 to 1, in its logarithm where it has one.

    Raises `ValueError` for a dimension that is no range.
    """
    return [_unit(name, dimension, float(params[name])) for name, dimension in searched.items()]


def _unit(name: str, dimension: space.Dimension, value: float) -> float:
    if not isinstance(dimension, space.Range):
        raise ValueError(f"only ranges can be replayed, got choices of {name}")
    if dimension.log:
        return math.log(value / dimension.low) / math.log(dimension.high / dimension.low)
    return (value - dimension.low) / (dimension.high - dimension.low)


def running_values(records: Sequence[EpochRecord], config: SearchConfig) -> list[float]:
    """Return what a trial is judged by after each of its epochs; `inf` while it is young."""
    return [
        math.inf if record.young else objective_value(records[:end], config)
        for end, record in enumerate(records, start=1)
    ]


def replay(answers: Answers, searcher: Searcher, seed: int, *, workers: int, budget: int) -> Replay:
    """Search until `budget` epochs are spent by all trials together."""
    curves, config = answers.curves, searcher.settings(seed)
    start = space.baseline(curves.space, curves.config)
    ledger = Ledger(None, curves.space, start=start, config=config)
    stopper = TrialStopper(
        ledger,
        config,
        epochs=curves.epochs,
        grace=curves.grace,
        records_of=_unreachable,
        on_end=lambda name, decision: None,  # noqa: ARG005
    )
    turns: deque[_Trial | None] = deque([None] * workers)
    best: list[float] = []
    while len(best) < budget:
        trial = turns.popleft() or _begin(ledger, answers)
        record = curves.records[trial.curve][trial.epoch]
        trial.epoch += 1
        best.append(min([*best[-1:], answers.values[trial.curve][trial.epoch - 1]]))
        ended = stopper(trial.name, record) or trial.epoch == curves.epochs
        turns.append(None if ended else trial)
    return Replay(np.array(best), len(ledger.rows()))


@dataclass
class _Trial:
    name: str
    curve: int
    epoch: int = 0


def _begin(ledger: Ledger, answers: Answers) -> _Trial:
    row = ledger.propose()
    return _Trial(row.name, answers.nearest(row.params))


def _unreachable(name: str) -> list[EpochRecord]:
    raise AssertionError(f"an epoch of {name} was left out")


def replay_all(
    answers: Answers, *, seeds: int, workers: int, budget: int, jobs: int
) -> dict[Searcher, list[Replay]]:
    """Replay every searcher with the seeds 0, 1, …, in `jobs` processes."""
    one = partial(_one, answers, workers=workers, budget=budget)
    asked = [(searcher, seed) for searcher in SEARCHERS for seed in range(seeds)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin_worker) as pool:
        found: Iterator[Replay] = pool.map(one, asked, chunksize=5)
        replays = list(found)
    return {
        searcher: replays[place * seeds : (place + 1) * seeds]
        for place, searcher in enumerate(SEARCHERS)
    }


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller is interrupted too, and says so


def _one(answers: Answers, asked: tuple[Searcher, int], *, workers: int, budget: int) -> Replay:
    searcher, seed = asked
    return replay(answers, searcher, seed, workers=workers, budget=budget)
