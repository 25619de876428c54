"""What a trial is judged by."""

from __future__ import annotations

from collections.abc import Sequence

from acgan.records import EpochRecord, best_windowed
from search.settings import SearchConfig


def objective_value(records: Sequence[EpochRecord], config: SearchConfig) -> float:
    """Return a trial's best windowed objective so far.

    Without a finite epoch: `inf` where the objective is minimized, `-inf` where maximized.
    """
    sign = 1 if config.direction == "minimize" else -1
    return sign * best_windowed(records, config.objective, sign=sign)
