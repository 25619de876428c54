"""How replayed searches stand against each other: medians, bands, who is ahead of whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.replay import Replay
from selection.metrics.intervals import proportion

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """Median, 10 % and 90 % quantile of the best value after each epoch spent, over the seeds.

    Order statistics without interpolation, because a search that has no value yet counts as `inf`.
    """

    median: Array
    low: Array
    high: Array

    def at(self, spent: int) -> str:
        """Return the three after so many epochs as a table's cell."""
        median, low, high = (v[spent - 1] for v in (self.median, self.low, self.high))
        return f"{median:,.0f} ({low:,.0f} to {high:,.0f})"


def band(replays: Sequence[Replay]) -> Band:
    """Return the band of one searcher's replays."""
    best = np.array([each.best for each in replays])  # [seeds, budget]
    low, median, high = np.quantile(best, (0.1, 0.5, 0.9), axis=0, method="inverted_cdf")
    return Band(median, low, high)


@dataclass(frozen=True)
class Record:
    """With how many seeds one searcher ended better, equal or worse than another."""

    better: int
    equal: int
    worse: int

    @property
    def seeds(self) -> int:
        """All seeds."""
        return self.better + self.equal + self.worse

    @property
    def better_share(self) -> str:
        """How often it was better, with Wilson's 95 % interval, as a table's cell."""
        found = proportion(self.better, self.seeds)
        return f"{percent(found.value)} ({percent(found.low)} to {percent(found.high)})"

    @property
    def equal_share(self) -> str:
        """How often neither was better."""
        return percent(self.equal / self.seeds)

    @property
    def worse_share(self) -> str:
        """How often it was worse."""
        return percent(self.worse / self.seeds)


def percent(share: float) -> str:
    """Return a share as text, `25 %`."""
    return f"{100 * share:.0f} %"


def record(ones: Sequence[Replay], others: Sequence[Replay]) -> Record:
    """Compare the final values seed by seed: same seed, same first proposals."""
    pairs = [(a.best[-1], b.best[-1]) for a, b in zip(ones, others, strict=True)]
    return Record(
        better=sum(a < b for a, b in pairs),
        equal=sum(a == b for a, b in pairs),
        worse=sum(a > b for a, b in pairs),
    )


def epochs_to(found: Band, value: float) -> float:
    """Return the epochs spent until half of the seeds have a value at least as good, or `inf`."""
    reached = np.flatnonzero(found.median <= value)
    return float(reached[0] + 1) if len(reached) else math.inf
