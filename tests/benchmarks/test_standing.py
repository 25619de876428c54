from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.replay import Replay
from benchmarks.standing import band, epochs_to, record

pytestmark = pytest.mark.process


def ending(*values: float) -> list[Replay]:
    """Return one replay of three epochs for each final value."""
    return [Replay(best=np.array([math.inf, 2 * v, v]), trials=1) for v in values]


def test_a_band_holds_order_statistics_also_of_infinities() -> None:
    found = band(ending(*range(1, 11)))
    assert found.median.tolist() == [math.inf, 10.0, 5.0]
    assert (found.low[2], found.high[2]) == (1.0, 9.0)
    assert found.at(3) == "5 (1 to 9)"
    assert found.at(1) == "inf (inf to inf)"


def test_searches_are_compared_seed_by_seed() -> None:
    found = record(ending(1, 2, 3, 4), ending(2, 2, 2, 9))
    assert (found.better, found.equal, found.worse, found.seeds) == (2, 1, 1, 4)
    assert found.better_share == "50 % (15 % to 85 %)"
    assert (found.equal_share, found.worse_share) == ("25 %", "25 %")


def test_epochs_are_counted_until_half_of_the_seeds_are_there() -> None:
    found = band(ending(4, 5, 9, 9))
    assert epochs_to(found, 5.0) == 3
    assert epochs_to(found, 10.0) == 2
    assert epochs_to(found, 4.9) == math.inf
