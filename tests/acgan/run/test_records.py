from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acgan.config import TrainConfig
from acgan.run.records import (
    QUALITY,
    EpochRecord,
    Ranking,
    best_by_filter,
    best_epochs,
    best_windowed,
    filter_score,
    grace_epochs,
    kept_epochs,
    metric,
    quantiles,
    read_records,
    windowed,
)
from tests.kit import LEAST

INF, NAN = math.inf, math.nan


def history(
    quality: Sequence[float],
    *,
    loss: Sequence[float] | None = None,
    accuracy: Sequence[float] | None = None,
) -> list[EpochRecord]:
    """Return one record for each value; losses and accuracies are all alike unless given."""
    rows = zip(quality, loss or [1] * len(quality), accuracy or [1] * len(quality), strict=True)
    return [
        EpochRecord(
            epoch=epoch,
            time=epoch,
            metrics={QUALITY: q, "val/g_loss": g, "val/acc_generated": a},
        )
        for epoch, (q, g, a) in enumerate(rows, start=1)
    ]


def lines(records: Sequence[EpochRecord]) -> str:
    return "".join(record.model_dump_json() + "\n" for record in records)


def test_a_file_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "epochs.jsonl") == []


def test_values_that_are_not_finite_survive_the_disk_as_strings(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    metrics = {"a/inf": INF, "a/minus": -INF, "a/nan": NAN, "a/tiny": 5e-324, "a/third": 1 / 3}
    path.write_text(lines([EpochRecord(epoch=1, time=0.5, metrics=metrics)]))
    assert '"a/inf":"Infinity"' in path.read_text()
    assert '"a/nan":"NaN"' in path.read_text()
    (read,) = read_records(path)
    assert math.isnan(read.metrics["a/nan"])
    del metrics["a/nan"]
    assert metrics.items() <= read.metrics.items()


@given(st.floats())
def test_every_metric_survives_a_round_trip_to_the_bit(value: float) -> None:
    record = EpochRecord(epoch=3, time=1e9 + 1 / 3, metrics={"a/b": value}, samples="x.png")
    again = EpochRecord.model_validate_json(record.model_dump_json())
    assert again.model_dump_json() == record.model_dump_json()
    assert math.isnan(value) or again == record


def test_only_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    records = history([3, 2])
    whole = lines(records).encode()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert read_records(path) == records[: whole[:length].count(b"\n")]


@pytest.mark.parametrize(
    "bad", ["", "{}", "null", "[1]", '{"epoch": 0, "time": 0, "metrics": {}}', "\x00\x00", "{"]
)
def test_any_other_line_that_cannot_be_read_is_named_with_its_number(
    tmp_path: Path, bad: str
) -> None:
    path = tmp_path / "epochs.jsonl"
    first, last = history([3, 2])
    path.write_text(lines([first]) + bad + "\n" + lines([last]))
    with pytest.raises(ValueError, match=r"epochs\.jsonl, line 2 is no epoch record"):
        read_records(path)


def test_what_is_no_file_has_no_records(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="is no file"):
            read_records(path)
    (tmp_path / "file").touch()
    assert read_records(tmp_path / "file" / "epochs.jsonl") == []


def test_a_record_has_no_unknown_fields() -> None:
    with pytest.raises(ValueError, match="more"):
        EpochRecord.model_validate({"epoch": 1, "time": 0, "metrics": {}, "more": 1})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([5], [5]),
        ([5, 1], [5, 3]),
        ([5, 1, 3], [5, 3, 3]),
        ([5, 1, 3, 9, 9], [5, 3, 3, 3, 9]),
        ([INF, 4], [INF, 4]),
        ([5, NAN, 1, -INF, 3, 9], [5, INF, 3, INF, 3, 3]),
        ([NAN, INF], [INF, INF]),
    ],
)
def test_the_window_is_the_median_of_the_last_three_finite_values(
    values: list[float], expected: list[float]
) -> None:
    assert windowed(values) == expected
    assert best_windowed(history(values), LEAST) == min(expected, default=INF)


def test_one_lucky_epoch_does_not_make_a_trial() -> None:
    assert best_windowed(history([9, 9, 0.1, 9, 9]), LEAST) == 9
    assert best_windowed(history([9, 9, 5, 5, 9]), LEAST) == 5


def test_a_metric_that_grows_is_judged_by_its_largest_window() -> None:
    assert best_windowed(history([1, 5, 5, 2, 2]), Ranking(QUALITY, sign=-1)) == 5


def test_young_epochs_are_not_judged_unless_there_are_no_others() -> None:
    records = history([1, 1, 1, 9, 8, 7])
    young = [r.model_copy(update={"young": r.epoch <= 3}) for r in records]
    assert best_windowed(young, LEAST) == 8  # of 9, 8.5 and 8
    assert best_windowed(young[:2], LEAST) == 1
    assert best_epochs(young, LEAST, 6) == [6, 5, 4]
    assert kept_epochs(young, LEAST) == {4, 5, 6}
    assert set(best_by_filter(young, 6)) == {4, 5, 6}
    all_young = [r.model_copy(update={"young": True}) for r in history([1, 3, 2])]
    assert best_windowed(all_young, LEAST) == 2
    assert best_by_filter(all_young, 3) == [3]


@pytest.mark.parametrize(
    ("epochs", "images", "batch_size", "grace"),
    [
        (388, 29404, 64, 39),  # the published baseline: a tenth of its epochs
        (10, 200, 8, 6),  # 150 updates
        (10, 1200, 8, 1),
        (10, 8, 8, 150),  # longer than the run
        (1, 8000, 8, 1),
    ],
)
def test_the_grace_period_is_a_tenth_of_the_epochs_and_150_updates(
    epochs: int, images: int, batch_size: int, grace: int
) -> None:
    config = TrainConfig(epochs=epochs, batch_size=batch_size)
    assert grace_epochs(config, images) == grace


def test_a_grace_period_of_nothing_still_leaves_the_first_epoch() -> None:
    assert grace_epochs(TrainConfig(grace_fraction=0, grace_updates=0), 640) == 1


def test_a_metric_that_an_epoch_lacks_is_nan() -> None:
    values = metric(history([2.0, 1.0]), "val/other")
    assert len(values) == 2
    assert all(math.isnan(value) for value in values)


def test_the_best_epochs_are_the_best_single_ones_of_the_best_windows() -> None:
    # the best windows, of epochs 3 to 5 and 4 to 6, have their smallest value in epoch 5
    records = history([8, 7, 6, 3, 2, 4])
    assert windowed(metric(records, QUALITY)) == [8, 7.5, 7, 6, 3, 3]
    assert best_epochs(records, LEAST, 1) == [5]
    assert best_epochs(records, LEAST, 3) == [5, 4, 3]
    assert best_epochs(records, LEAST, 99) == [5, 4, 3, 2, 1]


def test_where_more_is_better_the_best_epochs_have_the_largest_windows_and_ties_go_late() -> None:
    most = Ranking(QUALITY, sign=-1)
    assert best_epochs(history([2, 3, 6, 7, 8]), most, 2) == [5, 4]
    assert best_epochs(history([1, 5, 5, 5, 5, 2, 1]), most, 1) == [5]
    assert best_epochs(history([4, 4, 4]), LEAST, 3) == [3, 2, 1]
    assert kept_epochs(history([9, 9, 9, 9, 1, 1, 1, 1, 1]), most, count=1) == {4, 9}


def test_quantiles_share_the_mean_rank_of_ties() -> None:
    assert quantiles([30, 10, 20, 40, 50]) == [0.5, 0, 0.25, 0.75, 1]
    assert quantiles([1, 2, 2, 3]) == [0, 0.5, 0.5, 1]
    assert quantiles([4, 4, 4]) == [0.5, 0.5, 0.5]
    assert quantiles([7]) == [0]
    assert quantiles([]) == []


def test_values_that_are_not_finite_have_the_worst_quantile_and_do_not_move_the_others() -> None:
    assert quantiles([NAN, 1, INF, 2, -INF, 3]) == [1, 0, 1, 0.5, 1, 1]
    assert quantiles([NAN, NAN]) == [1, 1]


def test_the_filter_wants_a_low_loss_and_a_low_accuracy_at_once() -> None:
    records = history([1] * 5, loss=[1, 2, 3, 4, 5], accuracy=[0.5, 0.1, 0.9, 0.3, 0.7])
    # quantiles of the loss 0 ¼ ½ ¾ 1, of the accuracy ½ 0 1 ¼ ¾
    assert filter_score(records) == [0.25, 0.125, 0.75, 0.5, 0.875]
    assert best_by_filter(records, 3) == [2, 1, 4]


def test_a_tie_of_the_filter_goes_to_the_later_epoch() -> None:
    assert best_by_filter(history([1] * 4), 2) == [4, 3]


def test_an_epoch_without_a_score_is_no_candidate() -> None:
    records = history([1, NAN, 3, INF], loss=[4, 0, NAN, 1])
    assert best_by_filter(records, 9) == [1]
    assert best_epochs(records, LEAST, 9) == [1]
    assert kept_epochs(records, LEAST) == {1, 4}


def test_a_run_without_epochs_keeps_nothing() -> None:
    assert kept_epochs([], LEAST) == set()


VALUES = st.integers(0, 5).map(float) | st.sampled_from([INF, -INF, NAN]) | st.floats(0, 1)


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=30), st.integers(1, 4))
def test_few_epochs_are_kept_all_with_a_score_and_the_last_always(
    rows: list[tuple[float, float, float]], count: int
) -> None:
    quality, loss, accuracy = (list(column) for column in zip(*rows, strict=True))
    records = history(quality, loss=loss, accuracy=accuracy)
    kept = kept_epochs(records, LEAST, count=count)
    assert len(rows) in kept
    assert len(kept) <= 2 * count + 1
    assert kept <= set(range(1, len(rows) + 1))
    assert all(math.isfinite(quality[epoch - 1]) for epoch in kept - {len(rows)})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 4))
def test_the_best_windows_epochs_are_all_distinct_and_as_many_as_asked(
    values: list[float], count: int
) -> None:
    chosen = best_epochs(history(values), LEAST, count)
    assert len(set(chosen)) == len(chosen) <= count
    assert chosen  # the best window always has a best epoch
    windows = windowed(values)
    best = max(i for i, value in enumerate(windows) if value == min(windows))  # the later of equals
    assert values[chosen[0] - 1] == min(values[max(best - 2, 0) : best + 1])
