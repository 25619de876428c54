from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks import ranks
from benchmarks.ranks import correlations, spearman


def test_the_correlation_is_scipys_with_ties_too() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(5, size=30), random.integers(5, size=30)
    found = spearman(list(a), list(b), runs=range(30))
    assert found.value == pytest.approx(spearmanr(a, b).statistic)
    assert found.low < found.value < found.high


def test_generators_of_one_run_count_as_one() -> None:
    """The same twelve numbers, each four times: a wider interval if four are known to be one."""
    random = np.random.default_rng(1)
    a = np.repeat(random.normal(size=12), 4)
    b = a + np.repeat(random.normal(size=12), 4)
    one_each = spearman(list(a), list(b), runs=range(48))
    four_each = spearman(list(a), list(b), runs=[place // 4 for place in range(48)])
    assert one_each.value == four_each.value
    assert four_each.high - four_each.low > 1.3 * (one_each.high - one_each.low)


def test_the_interval_holds_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "REPLICATES", 200)
    random, held, cases = np.random.default_rng(2), 0, 40
    truth = 6 / math.pi * math.asin(0.7 / 2)  # Spearman's of a normal pair with correlation 0.7
    for _ in range(cases):
        a = random.normal(size=40)
        b = 0.7 * a + math.sqrt(1 - 0.49) * random.normal(size=40)
        found = spearman(list(a), list(b), runs=range(40))
        held += found.low <= truth <= found.high
    assert held >= 32  # of 38 that are meant; the draws are seeded


def test_what_blew_up_ranks_lowest_and_equal_values_say_nothing() -> None:
    b = [30.0, 0.0, 10.0, 20.0]
    for blown_up in (-math.inf, math.nan):  # a distance that is infinite, less being better
        assert spearman([3.0, blown_up, 1.0, 2.0], b, runs=range(4)).value == 1
    assert spearman([3.0, math.inf, 1.0, 2.0], [30.0, 40.0, 10.0, 20.0], runs=range(4)).value == 1
    assert math.isnan(spearman([1.0] * 4, b, runs=range(4)).value)


def test_every_number_is_compared_with_the_target() -> None:
    numbers = {"up": [1.0, 2.0, 3.0, 4.0], "down": [4.0, 3.0, 2.0, 1.0]}
    found = correlations(numbers, [1.0, 2.0, 3.0, 4.0], runs=range(4))
    assert {name: each.value for name, each in found.items()} == {"up": 1, "down": -1}
