from __future__ import annotations

import math

import pytest
from scipy.stats import ttest_ind

from acgan.config import TrainConfig
from benchmarks.arms import (
    BASELINE,
    NUMBERS,
    OPTIONS,
    Against,
    Arm,
    Number,
    against,
    cell,
    sentence,
)

LOWER, HIGHER = Number("a", "lower"), Number("b", "higher")
RATIO = Number("c", "lower", ratio=True)


def test_the_interval_is_welchs_at_the_share_of_each_arm() -> None:
    ours, theirs = [1.0, 2.0, 3.0], [4.0, 4.5, 5.5]
    found = against(LOWER, ours, theirs, arms=5)
    expected = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.99)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(2 - 14 / 3)
    assert found.low < 0 < found.high
    assert found.verdict == "not told apart"
    assert against(LOWER, ours, theirs, arms=1).verdict == "better"


@pytest.mark.parametrize(
    ("number", "verdict"), [(LOWER, "better"), (HIGHER, "worse"), (RATIO, "better")]
)
def test_which_side_is_better_depends_on_the_number(number: Number, verdict: str) -> None:
    low, high = [1.0, 1.01, 1.02], [4.0, 4.01, 4.02]
    other = {"better": "worse", "worse": "better"}[verdict]
    assert against(number, low, high, arms=10).verdict == verdict
    assert against(number, high, low, arms=10).verdict == other
    assert against(number, low, [1.005, 1.015, 1.01], arms=10).verdict == "not told apart"


def test_ratios_are_of_geometric_means() -> None:
    found = against(RATIO, [1, 2, 4], [8, 8.1, 7.9], arms=2)
    assert found.value == pytest.approx(2 / (8 * 8.1 * 7.9) ** (1 / 3))
    assert found.low < found.value < found.high


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_what_is_not_measured_tells_nothing(bad: float) -> None:
    found = against(RATIO, [1.0, 1.0, bad], [9.0, 9.1, 9.2], arms=2)
    assert found.verdict == "not told apart"
    assert str(found) == "–"


def test_values_without_any_spread_tell_nothing() -> None:
    for other in (1.0, 2.0):
        for number in (LOWER, RATIO):
            found = against(number, [1.0] * 3, [other] * 3, arms=2)
            assert (found.verdict, str(found)) == ("not told apart", "–")
    assert against(LOWER, [1.0] * 3, [2.0, 2.01, 2.02], arms=2).verdict == "better"


def test_a_cell_says_mean_spread_and_what_is_lost() -> None:
    assert cell([1, 2, 3]) == "2 ± 1"
    assert cell([1, 3, math.inf]) == "2 ± 1.4 (1 lost)"
    assert cell([1100, 1300]) == "1,200 ± 141"
    assert cell([1, math.nan, math.inf]) == "no value of 2 in 3 seeds"
    assert (cell([1.25]), cell([math.inf])) == ("1.2", "no value of 1 in 1 seeds")


def test_a_sentence_names_what_is_told_apart_and_nothing_else() -> None:
    arm = Arm("R1", {"r1_gamma": 1.0})
    unsure = Against(0.9, 0.5, 1.5, "not told apart")
    assert sentence(arm, {"x": unsure}) == (
        "- **R1**: no number is told apart from the baseline's."
    )
    better = Against(0.5, 0.4, 0.6, "better")
    assert sentence(arm, {"x": unsure, "y": better}) == "- **R1**: y better (0.5 (0.4 to 0.6))."


def test_each_option_is_a_change_of_the_baseline_and_has_a_folder_of_its_own() -> None:
    arms = [BASELINE, *(Arm(name, changes) for name, changes in OPTIONS.items())]
    for arm in arms[1:]:
        (name,) = arm.changes
        assert TrainConfig(**dict(arm.changes)) != TrainConfig()
        assert arm.point.startswith(name)
    assert len({arm.folder for arm in arms}) == len(arms)
    assert len({number.name for number in NUMBERS}) == 6
