"""What the overhead's numbers are made of: the times in the trials' own records."""

from __future__ import annotations

from pathlib import Path

import pytest

from acgan.run.records import EpochRecord
from benchmarks import overhead
from benchmarks.overhead import Way
from search.plan import SearchRequest, read_asked
from search.study import space

pytestmark = pytest.mark.process


def way(
    *, epoch_s: float, between_s: float, steps_s: float = 0.8, trials: int = 3, epochs: int = 4
) -> Way:
    """Return trials that begin after 10 s, and end 2 s before their command.

    steps_s: of an epoch's seconds, those of its training steps
    """
    metrics = {"perf/images_per_s": 400 / steps_s}
    runs, now = [], 10.0
    for _ in range(trials):
        times = [now + epoch_s * epoch for epoch in range(1, epochs + 1)]
        runs.append([EpochRecord(epoch=e, time=t, metrics=metrics) for e, t in enumerate(times, 1)])
        now = times[-1] + between_s
    return Way(started=0.0, ended=now - between_s + 2, images=400, runs=runs)


ALONE = way(epoch_s=1.0, between_s=5.0)


def test_what_a_trial_takes_is_split_into_epochs_and_the_rest() -> None:
    found = way(epoch_s=1.1, between_s=0.5)
    assert found.epoch_s == pytest.approx(1.1)
    assert found.between_s == pytest.approx(0.5)
    assert found.first_epoch_s == pytest.approx(11.1)
    assert found.trial_s == pytest.approx((10 + 3 * 4.4 + 2 * 0.5 + 2) / 3)


def test_a_slow_minute_does_not_count_between_trials() -> None:
    quick, slow = way(epoch_s=1, between_s=0.5), way(epoch_s=9, between_s=0.5)
    assert slow.between_s == pytest.approx(quick.between_s)
    assert Way(0, 99, 400, [*quick.runs, *slow.runs[:1]]).epoch_s == pytest.approx(1)


def test_what_is_added_is_what_is_between_and_what_makes_epochs_longer() -> None:
    found = way(epoch_s=1.1, between_s=0.5)
    assert ALONE.besides == pytest.approx(0.25)
    assert found.longer_s(ALONE) == pytest.approx(0.1)
    assert found.share(ALONE, epoch_s=5, epochs=4) == pytest.approx((0.5 / 4 + 0.1) / 5)
    assert found.share(ALONE, epoch_s=5, epochs=388) == pytest.approx((0.5 / 388 + 0.1) / 5)


def test_a_machine_that_is_slower_all_through_adds_nothing_to_an_epoch() -> None:
    slow = way(epoch_s=3.0, steps_s=2.4, between_s=0.5)
    assert slow.longer_s(ALONE) == pytest.approx(0, abs=1e-9)


def test_the_table_has_a_row_each_and_says_which_limit_is_kept() -> None:
    ways = {"`search.run`": way(epoch_s=1.1, between_s=1.5), "`acgan.train`": ALONE}
    text = overhead.text(ways)
    assert "| `search.run` |" in text
    assert "| `acgan.train` |" in text
    assert "share at 5 s an epoch 9.5 % (3.0 % wanted: missed)" in text
    assert "time between trials 1.50 s (1.00 s wanted: missed)" in text


def test_all_ways_train_the_same_networks(tmp_path: Path) -> None:
    config = tmp_path / "overhead.yaml"
    config.write_text(overhead.CONFIG)
    asked = read_asked(SearchRequest(config=config))
    assert asked.train == overhead.TRAIN
    assert list(space.dump(asked.space)) == ["learning_rate"]


def test_runs_alone_are_read_in_the_order_of_their_times(tmp_path: Path) -> None:
    def body() -> None:
        for name, at in (("a", 20.0), ("b", 10.0)):
            (tmp_path / name).mkdir()
            line = EpochRecord(epoch=1, time=at, metrics={}).model_dump_json()
            (tmp_path / name / "epochs.jsonl").write_text(line + "\n")

    found = overhead.timed(tmp_path, 400, body)
    assert [run[0].time for run in found.runs] == [10, 20]
    assert found.ended >= found.started
