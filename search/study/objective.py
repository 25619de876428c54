"""What a trial is judged by."""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from acgan.evaluation.variety import DIVERSITY
from acgan.run.records import WINDOW, EpochRecord, best_windowed, metric, signed, windowed
from search.settings import SearchConfig
from search.study.folder import Outcome


def objective_value(records: Sequence[EpochRecord], config: SearchConfig) -> float:
    """Return a trial's best windowed objective so far.

    Without a finite epoch: `inf` where the objective is minimized, `-inf` where maximized.
    """
    return best_windowed(records, config.ranking)


class RunningObjective:
    """A trial's value from epoch to epoch: what `objective_value` returns, without its records."""

    def __init__(self, config: SearchConfig, records: Iterable[EpochRecord] = ()) -> None:
        self._ranking = config.ranking
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._best, self._young = math.inf, math.inf
        for record in records:
            self.add(record)

    def add(self, record: EpochRecord) -> None:
        """Take up the next epoch."""
        value = self._ranking.sign * record.metrics.get(self._ranking.metric, math.nan)
        finite = math.isfinite(value)
        if record.young:
            self._young = value if finite else math.inf
            return
        self._young = math.inf
        if finite:
            self._window.append(value)
            self._best = min(self._best, statistics.median(self._window))

    @property
    def value(self) -> float:
        """The trial's value so far; of young epochs only the last is judged."""
        return self._ranking.sign * min(self._best, self._young)


@dataclass(frozen=True)
class Ended:
    """A trial that has ended: how, why, and what it is judged by.

    value, diversity: see `objective_value` and `judged_diversity`
    """

    outcome: Outcome
    reason: str
    epochs: int
    value: float
    diversity: float | None

    @classmethod
    def of(
        cls, outcome: Outcome, reason: str, records: Sequence[EpochRecord], config: SearchConfig
    ) -> Self:
        """Return it for a trial with these records."""
        value, diversity = objective_value(records, config), judged_diversity(records, config)
        return cls(outcome, reason, len(records), value, diversity)


def judged_diversity(records: Sequence[EpochRecord], config: SearchConfig) -> float | None:
    """Return `val/diversity` where a trial is best: its median in the window of the best objective.

    None where it is not known, and while all epochs are young: every young generator looks
    collapsed.
    """
    grown = [record for record in records if not record.young]
    values = signed(grown, config.ranking)
    finite = [r for r, value in zip(grown, values, strict=True) if math.isfinite(value)]
    if not finite:
        return None
    medians = windowed(signed(finite, config.ranking))
    end = medians.index(min(medians)) + 1
    window = metric(finite[max(end - WINDOW, 0) : end], DIVERSITY)
    return statistics.median(window) if all(map(math.isfinite, window)) else None
