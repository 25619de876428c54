"""What a trial is judged by."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from acgan.evaluation.variety import DIVERSITY
from acgan.run.records import WINDOW, EpochRecord, best_windowed, metric, windowed
from search.settings import SearchConfig
from search.study.folder import Outcome


def objective_value(records: Sequence[EpochRecord], config: SearchConfig) -> float:
    """Return a trial's best windowed objective so far.

    Without a finite epoch: `inf` where the objective is minimized, `-inf` where maximized.
    """
    return config.sign * best_windowed(records, config.objective, sign=config.sign)


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
    finite = [r for r in grown if math.isfinite(r.metrics.get(config.objective, math.nan))]
    if not finite:
        return None
    medians = windowed([config.sign * value for value in metric(finite, config.objective)])
    end = medians.index(min(medians)) + 1
    window = metric(finite[max(end - WINDOW, 0) : end], DIVERSITY)
    return statistics.median(window) if all(map(math.isfinite, window)) else None
