"""What a trial is judged by."""

from __future__ import annotations

from collections.abc import Sequence

from acgan.records import EpochRecord, best_windowed
from search.settings import SearchConfig


def objective_value(records: Sequence[EpochRecord], config: SearchConfig) -> float:
    """Return a trial's best windowed objective so far.

    Without a finite epoch: `inf` where the objective is minimized, `-inf` where maximized.
    """
    return config.sign * best_windowed(records, config.objective, sign=config.sign)
