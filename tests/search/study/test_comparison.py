"""Epochs beside those of the same trial trained again: equal, close or different."""

from __future__ import annotations

import math

import pytest
import torch

from acgan.config import TrainConfig
from acgan.run.machine import this_machine
from acgan.run.records import EpochRecord
from search.study.comparison import Match, compare_records, same_bits, sizes

HERE = this_machine(torch.device("cpu"), TrainConfig())
METRICS = {"val/fd_cnn": 100.0, "val/acc_real": 0.5, "perf/images_per_s": 7.0}
SIZES = {"val/fd_cnn": 200.0, "val/acc_real": 1.0}


def record(**changes: float) -> EpochRecord:
    own = {**METRICS, **{name.replace("__", "/"): value for name, value in changes.items()}}
    return EpochRecord(epoch=3, time=1.0, metrics=own)


@pytest.mark.parametrize("exact", [True, False])
def test_equal_metrics_are_identical_whatever_the_speed(exact: bool) -> None:
    found = compare_records(
        record(),
        record(perf__images_per_s=99.0),
        sizes=SIZES,
        weights=True,
        exact=exact,
        tolerance=0.0,
    )
    assert (found.verdict, found.difference, found.metric) == (Match.IDENTICAL, 0.0, "")


@pytest.mark.parametrize(
    ("again", "exact", "verdict"),
    [
        (110.0, False, Match.CLOSE),  # 10 of 200 are 0.05
        (110.0, True, Match.DIFFERENT),
        (121.0, False, Match.DIFFERENT),
        (math.nextafter(100.0, 200.0), True, Match.DIFFERENT),
        (math.nextafter(100.0, 200.0), False, Match.CLOSE),
        (math.nan, False, Match.DIFFERENT),
        (math.inf, False, Match.DIFFERENT),
    ],
)
def test_a_difference_counts_as_a_share_of_the_metrics_size(
    again: float, exact: bool, verdict: Match
) -> None:
    found = compare_records(
        record(),
        record(val__fd_cnn=again),
        sizes=SIZES,
        weights=None,
        exact=exact,
        tolerance=0.1,
    )
    assert (found.verdict, found.metric) == (verdict, "val/fd_cnn")
    if math.isfinite(again):
        assert found.difference == pytest.approx(abs(again - 100) / 200)
    else:
        assert found.difference == math.inf


def test_the_worst_metric_is_named() -> None:
    found = compare_records(
        record(),
        record(val__fd_cnn=102.0, val__acc_real=0.4),
        sizes=SIZES,
        weights=None,
        exact=False,
        tolerance=1.0,
    )
    assert found.metric == "val/acc_real"
    assert found.difference == pytest.approx(0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_equal_themselves(value: float) -> None:
    both = record(val__fd_cnn=value)
    found = compare_records(both, both, sizes=SIZES, weights=True, exact=True, tolerance=0.0)
    assert found.verdict is Match.IDENTICAL


@pytest.mark.parametrize(("exact", "verdict"), [(True, "different"), (False, "close")])
def test_other_weights_under_equal_metrics_are_not_identical(exact: bool, verdict: str) -> None:
    found = compare_records(
        record(), record(), sizes=SIZES, weights=False, exact=exact, tolerance=0.0
    )
    assert found.verdict is Match[verdict.upper()]


def test_metrics_that_one_version_lacks_are_not_compared() -> None:
    newer = record(val__new=1.0)
    found = compare_records(record(), newer, sizes=SIZES, weights=None, exact=True, tolerance=0.0)
    assert found.verdict is Match.IDENTICAL


def test_the_size_of_a_metric_is_the_root_mean_square_of_its_finite_values() -> None:
    values = (3.0, 4.0, math.nan, math.inf)
    records = [record(val__x=value) for value in values]
    found = sizes(records)
    assert found["val/x"] == pytest.approx(math.sqrt(12.5))
    assert found["val/acc_real"] == 1.0  # of 0.5 in all: differences below 1 count as they are
    assert "perf/images_per_s" not in found


def test_only_the_same_cpu_and_versions_must_give_the_same_bits() -> None:
    gpu = HERE.model_copy(update={"device": "a GPU"})
    assert same_bits(HERE, HERE)
    assert not same_bits(None, HERE)
    assert not same_bits(gpu, gpu)
    for change in ({"threads": HERE.threads + 1}, {"torch": "9.9"}, {"code": "0" * 12}):
        assert not same_bits(HERE.model_copy(update=change), HERE)
