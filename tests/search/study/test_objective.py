"""What a trial is judged by, against its definition by hand."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acgan.run.records import QUALITY, EpochRecord
from search.study.folder import Outcome
from search.study.objective import Ended, RunningObjective, judged_diversity, objective_value
from tests.studies import by_distance

CONFIG = by_distance()


def records_of(values: list[float], *, young: int = 0) -> list[EpochRecord]:
    return [
        EpochRecord(
            epoch=number,
            time=0.0,
            metrics={QUALITY: value, "val/diversity": number / 10},
            young=number <= young,
        )
        for number, value in enumerate(values, start=1)
    ]


def test_the_value_is_the_best_median_of_three_epochs() -> None:
    values = [9.0, 2.0, 8.0, 7.0, 5.0, 6.0, 1.0, 9.0]
    windows = [statistics.median(values[max(end - 3, 0) : end]) for end in range(1, 9)]
    assert objective_value(records_of(values), CONFIG) == min(windows)
    highest = CONFIG.model_copy(update={"direction": "maximize"})
    assert objective_value(records_of(values), highest) == max(windows)


def test_young_epochs_do_not_count() -> None:
    values = [1.0, 1.0, 9.0, 8.0]
    assert objective_value(records_of(values, young=2), CONFIG) == objective_value(
        records_of(values[2:]), CONFIG
    )


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, math.nan]])
def test_without_a_finite_epoch_a_trial_is_worst(values: list[float]) -> None:
    assert objective_value(records_of(values), CONFIG) == math.inf
    highest = CONFIG.model_copy(update={"direction": "maximize"})
    assert objective_value(records_of(values), highest) == -math.inf
    assert judged_diversity(records_of(values), CONFIG) is None


def test_diversity_is_that_of_the_window_in_which_the_value_is_reached() -> None:
    records = records_of([9.0, 8.0, 1.0, 1.0, 7.0, 7.0])  # best at the fourth: 8, 1, 1
    assert judged_diversity(records, CONFIG) == pytest.approx(0.3)  # the median of 2, 3, 4 tenths
    assert judged_diversity(records_of([9.0, 8.0], young=2), CONFIG) is None


def test_an_ended_trial_has_all_that_it_is_judged_by() -> None:
    records = records_of([9.0, 8.0, 1.0, 1.0])
    ended = Ended.of(Outcome.PRUNED, "behind", records, CONFIG)
    assert ended == Ended(Outcome.PRUNED, "behind", 4, 1.0, judged_diversity(records, CONFIG))


@given(
    st.lists(st.floats(-100, 100) | st.just(math.nan) | st.just(math.inf), max_size=12),
    st.integers(0, 12),
    st.sampled_from(["minimize", "maximize"]),
)
def test_the_value_kept_from_epoch_to_epoch_is_that_of_all_records(
    values: list[float], young: int, direction: str
) -> None:
    config = CONFIG.model_copy(update={"direction": direction})
    records = records_of(values, young=young)
    running = RunningObjective(config)
    assert running.value == objective_value([], config)
    for end, record in enumerate(records, start=1):
        running.add(record)
        assert running.value == objective_value(records[:end], config)
    assert RunningObjective(config, records).value == running.value
