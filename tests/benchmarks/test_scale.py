"""The benchmark of large studies at a tiny size: what it writes is what a search leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from acgan.run.records import RANKING, grace_epochs
from acgan.training import METRIC_NAMES
from benchmarks import recording, restarting, scale, simulated
from benchmarks.driving import Driven
from benchmarks.process import Sample, Watch, in_fresh_process, watched
from search.study import table
from search.study.folder import Outcome, open_study
from search.study.restore import restore

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]
TRIALS, EPOCHS = 4, 12


def test_work_a_second_is_counted_from_the_look_before_it_begins() -> None:
    counts = [0, 0, 10, 20, 60, 100]
    watch = Watch([Sample(at, 50 + at, 2 * at, done) for at, done in enumerate(counts)])
    assert watch.rate(0, 1) == pytest.approx(100 / 4)
    assert watch.rate(0, 0.2) == pytest.approx(20 / 2)
    assert watch.rate(0.8, 1) == pytest.approx(20 / 0.5)
    assert watch.cpu_of_each(0, 0.2) == pytest.approx(2 * 2 / 20)
    assert watch.cpu_of_each(0.8, 1) == pytest.approx(2 * 0.5 / 20)
    assert (watch.wall_s, watch.cpu_s, watch.start_mb, watch.added_mb) == (5, 10, 50, 5)


def _watched_while_it_takes_memory() -> Watch:
    done = 0
    with watched(lambda: done, every_s=60) as watch:
        kept = b"x" * 80_000_000
        done = len(kept)
    return watch


def test_a_body_is_watched_from_before_it_begins_to_its_end() -> None:
    # This process may have as much from earlier tests, which it would take again.
    watch = in_fresh_process(_watched_while_it_takes_memory)
    assert [sample.done for sample in watch.samples] == [0, 80_000_000]
    assert watch.added_mb > 70


def test_a_body_in_a_fresh_process_has_not_the_memory_of_this_one() -> None:
    assert in_fresh_process(len, "abc") == 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    assert restarting.write_all(folder, TRIALS, EPOCHS) > 100 * TRIALS * EPOCHS
    return folder


def test_a_simulated_study_is_one_that_a_search_takes_for_its_own(written: Path) -> None:
    plan = simulated.plan_of(simulated.flags(written, trials=TRIALS, epochs=EPOCHS))
    study = open_study(plan.folder)
    ledger = plan.ledger(study.ledger_path)
    assert restore(study, ledger, seed=plan.search.seed) == []
    assert ledger.ended() == TRIALS
    rows = ledger.rows()
    assert [trial.info.params for trial in study.trials()] == [row.params for row in rows]
    assert len({tuple(row.params.values()) for row in rows}) == TRIALS
    assert ledger.reported(2) == set(range(TRIALS))
    records = study.trials()[0].records()
    assert [record.epoch for record in records] == list(range(1, EPOCHS + 1))
    assert set(records[0].metrics) == {*METRIC_NAMES, RANKING.best}
    assert [r.epoch for r in records if r.young] == [1, 2]
    assert grace_epochs(plan.train, len(plan.data.train)) == 2
    lines = table.table_lines(study, plan.search)
    assert {(line.epochs, line.outcome) for line in lines} == {(EPOCHS, Outcome.FINISHED)}
    assert {line.value for line in lines} == {row.value for row in rows}


def test_what_the_ends_say_is_what_the_records_say(written: Path) -> None:
    plan = simulated.plan_of(simulated.flags(written, trials=TRIALS, epochs=EPOCHS))
    study = open_study(plan.folder)
    told = [(line.epochs, line.value) for line in table.table_lines(study, plan.search)]
    for trial in study.trials():
        end = trial.end()
        assert end is not None
        without = end.model_copy(update={"epochs": None, "value": None})
        (trial.path / "end.json").write_text(without.model_dump_json())
    read = [(line.epochs, line.value) for line in table.table_lines(study, plan.search)]
    assert read == told


def test_a_restart_finds_all_there_and_step_1_reads_every_epoch(written: Path) -> None:
    found = restarting.restart(written, TRIALS, EPOCHS)
    assert 0 < found.restored_s < found.watch.wall_s
    step = restarting.step1(written, TRIALS, EPOCHS)
    assert step.recorded == TRIALS * EPOCHS
    assert step.chosen
    seconds = [restarting.Seconds(wall, wall / 2) for wall in (12, 9, 5)]
    restarted = restarting.Restarted(found, *seconds)
    text = scale.restart_text({TRIALS: restarted}) + scale.step1_text({TRIALS: step})
    assert "| the whole command `search.run` | 9.00 (4.50) |" in text
    assert f"| {TRIALS} | {TRIALS * EPOCHS} |" in text


def test_all_epochs_reach_mlflow_and_the_backlog_is_what_has_not() -> None:
    found = recording.record(None, per_s=40, minutes=0.05, epochs=7, concurrency=3, images=True)
    assert 0 < found.written[-1] <= 40 * 3 + 10  # fewer where the machine cannot keep up
    assert all(0 <= left <= there for left, there in zip(found.backlog, found.written, strict=True))
    assert found.watch.samples[-1].done == found.written[-1] - found.backlog[-1]
    assert found.images == found.written[-1]
    assert found.burst_per_s > 0
    text = scale.recorder_text({"SQLite": found, "PostgreSQL": None})
    assert "| SQLite | 0.05" in text


def test_the_outlook_names_the_slowest_part_first() -> None:
    text = scale.outlook({"the driver": 250.0, "the recorder on SQLite": 100.0})
    assert "the recorder on SQLite (100 epochs/s) keeps up with epochs of 10.0 s" in text
    assert "The recorder on SQLite breaks first" in text


def test_the_drivers_table_has_a_row_a_search() -> None:
    watch = Watch([Sample(at, 300 + at, 0.1 * at, 100 * at) for at in range(11)])
    text = scale.driver_text([Driven(10, 100, 2, 10, watch), Driven(100, 10, 4, 100, watch)])
    assert "| 10 | 100 | 2 | 10 | 100 | 100 | 100 | 1 | 1 | 10 |" in text
    assert "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 MB above the start" in text
