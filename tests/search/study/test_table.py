from __future__ import annotations

import math
from pathlib import Path

import pytest

from acgan.files import write_json
from acgan.run.records import EpochRecord
from search.study import table
from search.study.folder import Outcome, Study, TrialEnd, TrialInfo, write_end
from tests.studies import by_distance, write_study

CONFIG = by_distance()


def add(
    study: Study,
    name: str,
    values: list[float],
    outcome: Outcome,
    repeats: str = "",
    diversity: float | None = None,
) -> None:
    """Write a trial with these quality scores, all of one `val/diversity`."""
    path = study.path / name
    path.mkdir()
    origin = "repeat" if repeats else "search"
    info = TrialInfo(
        number=int(name[1:5]),
        params={"learning_rate": 2e-4},
        seed=1,
        origin=origin,
        repeats=repeats or None,
    )
    write_json(path / "trial.json", info)
    write_json(path / "end.json", TrialEnd(outcome=outcome, reason="why", time=1.0))
    variety = {} if diversity is None else {"val/diversity": diversity}
    records = [
        EpochRecord(epoch=epoch, time=epoch, metrics={"val/fd_cnn": value, **variety})
        for epoch, value in enumerate(values, start=1)
    ]
    lines = "".join(record.model_dump_json() + "\n" for record in records)
    (path / "epochs.jsonl").write_text(lines)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = write_study(tmp_path / "s")
    add(study, "t0000", [9, 9, 9], Outcome.FINISHED)
    add(study, "t0001", [9, 4, 4], Outcome.FINISHED)
    add(study, "t0002", [1], Outcome.PRUNED)
    return study


def test_the_best_trial_is_a_finished_one_of_the_search(study: Study) -> None:
    add(study, "t0001r1", [0.5], Outcome.FINISHED, repeats="t0001")
    best = table.best(table.table_lines(study, CONFIG), CONFIG)
    assert best is not None
    assert (best.trial.name, best.value) == ("t0001", 4)


def test_the_best_trial_can_be_the_largest(study: Study) -> None:
    config = by_distance(direction="maximize")
    best = table.best(table.table_lines(study, config), config)
    assert best is not None
    assert (best.trial.name, best.value) == ("t0000", 9)


def test_repeats_without_a_finite_score_are_left_out_and_counted(study: Study) -> None:
    for k, values in enumerate(([4.0], [4.1], [float("inf")]), start=1):
        add(study, f"t0001r{k}", values, Outcome.FINISHED, repeats="t0001")
        add(study, f"t0000r{k}", [9.0 + k], Outcome.FINISHED, repeats="t0000")
    text = table.comparison(table.table_lines(study, CONFIG), CONFIG)
    told = "better than the baseline where it comes to an end (1 without a finite value left out)"
    assert text.endswith(told)


def test_repeats_that_diverged_are_counted_and_have_no_value(study: Study) -> None:
    for k in range(1, 5):
        outcome = Outcome.DIVERGED if k > 2 else Outcome.FINISHED
        add(study, f"t0001r{k}", [4 + k / 10, -100.0 * (k > 2) + 4 + k / 10], outcome, "t0001")
        add(study, f"t0000r{k}", [9 + k / 10], Outcome.FINISHED, repeats="t0000")
    text = table.comparison(table.table_lines(study, CONFIG), CONFIG)
    assert "4.15 ± 0.071 (2 seeds) against 9.25 ± 0.13 (4 seeds)" in text
    assert text.endswith("where it comes to an end (2 of 4 repeats of t0001 diverged)")


def test_where_all_repeats_diverged_nothing_is_called_better(study: Study) -> None:
    for k in range(1, 4):
        add(study, f"t0001r{k}", [1.0 + k], Outcome.DIVERGED, repeats="t0001")
        add(study, f"t0000r{k}", [9.0 + k], Outcome.FINISHED, repeats="t0000")
    text = table.comparison(table.table_lines(study, CONFIG), CONFIG)
    assert text.endswith("finite value to compare (3 of 3 repeats of t0001 diverged)")
    assert "better" not in text


def test_the_table_marks_the_best_and_says_why_each_trial_ended(study: Study) -> None:
    head, *rows = table.table(table.table_lines(study, CONFIG), CONFIG).splitlines()
    assert head.split() == ["trial", "learning_rate", "epochs", "best", "val/fd_cnn", "outcome"]
    assert rows[1].split()[:5] == ["t0001", "0.0002", "3", "4", "*"]
    assert rows[2].endswith("pruned at 1")
    assert sum("*" in row for row in rows) == 1


def test_one_seed_each_is_never_called_better(study: Study) -> None:
    text = table.comparison(table.table_lines(study, CONFIG), CONFIG)
    assert "better" not in text
    assert "t0001" in text
    assert "--repeats" in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([4.0, 4.1, 3.9], [9.0, 9.1, 8.9], "better than the baseline"),
        ([9.0, 9.1, 8.9], [4.0, 4.1, 3.9], "worse than the baseline"),
        ([4.0, 9.0, 6.0], [5.0, 8.0, 7.0], "not told apart"),
        ([4.0, 4.0, 4.0], [9.0, 9.1, 8.9], "better than the baseline"),
        ([4.0, 4.0, 4.0], [9.0, 9.0, 9.0], "without any spread nothing can be told"),
    ],
)
def test_fresh_seeds_of_both_decide(
    study: Study, ours: list[float], theirs: list[float], verdict: str
) -> None:
    for trial, values in (("t0001", ours), ("t0000", theirs)):
        for k, value in enumerate(values, start=1):
            add(study, f"{trial}r{k}", [value], Outcome.FINISHED, repeats=trial)
    assert table.comparison(table.table_lines(study, CONFIG), CONFIG).endswith(verdict)


def test_a_study_without_a_finished_trial_says_so(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")
    assert table.comparison(table.table_lines(study, CONFIG), CONFIG) == "no trial has finished yet"
    assert table.table([], CONFIG).startswith("trial")


def test_in_a_narrow_terminal_headings_stand_in_two_lines_and_nothing_else_changes(
    study: Study,
) -> None:
    found = table.table_lines(study, CONFIG)
    wide = table.table(found, CONFIG).splitlines()
    narrow = table.table(found, CONFIG, width=40).splitlines()
    assert table.table(found, CONFIG, width=max(map(len, wide))).splitlines() == wide
    assert [line.split() for line in narrow[2:]] == [line.split() for line in wide[1:]]
    above, below = narrow[:2]
    assert above.split() == ["learning_", "best"]
    assert below.split()[:2] == ["trial", "rate"]
    assert above.index("learning_") == below.index("rate")
    assert max(map(len, narrow)) < max(map(len, wide))


def test_the_scale_of_the_score_is_said(study: Study) -> None:
    assert "have val/fd_cnn 1.5 (the floor), an untrained generator 40.2" in table.scale(study)


def test_of_a_trial_that_has_ended_its_end_says_how(study: Study) -> None:
    (before,) = [line for line in table.table_lines(study, CONFIG) if line.trial.name == "t0001"]
    write_end(study, "t0001", Outcome.FINISHED, "why", epochs=before.epochs, value=before.value)
    (study.path / "t0001" / "epochs.jsonl").unlink()
    (after,) = [line for line in table.table_lines(study, CONFIG) if line.trial.name == "t0001"]
    assert after == before


def test_a_trial_under_way_whose_last_lines_are_damaged_has_a_line(study: Study) -> None:
    trial = study.trial("t0001")
    (trial.path / "end.json").unlink()
    (trial.path / "epochs.jsonl").write_text("{}\n")
    assert [line.epochs for line in table.table_lines(study, CONFIG)] == [3, 0, 1]
    assert "t0001" in table.table(table.table_lines(study, CONFIG), CONFIG)


def test_an_end_with_an_infinite_value_is_read_as_it_was_written(study: Study) -> None:
    write_end(study, "t0001", Outcome.FINISHED, "", epochs=3, value=math.inf)
    (line,) = [line for line in table.table_lines(study, CONFIG) if line.trial.name == "t0001"]
    assert (line.epochs, line.value) == (3, math.inf)


def test_a_generator_of_one_picture_a_class_is_called_so(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")
    add(study, "t0000", [9, 9, 9], Outcome.FINISHED, diversity=0.07)
    add(study, "t0001", [9, 4, 4], Outcome.FINISHED, diversity=0.3)
    add(study, "t0002", [9, 4, 4], Outcome.COLLAPSED, diversity=0.07)
    found = table.table_lines(study, CONFIG)
    _, *rows = table.table(found, CONFIG).splitlines()
    assert [row.count("one picture per class") for row in rows] == [1, 0, 1]
    assert rows[0].endswith("finished, one picture per class")
    text = table.comparison(found, CONFIG)
    assert text.startswith(
        "best: t0001 with val/fd_cnn 4; the baseline t0000 has 9, one picture per class ("
    )


def test_of_the_end_of_a_version_before_the_records_say_how_the_images_varied(
    study: Study,
) -> None:
    add(study, "t0003", [3, 3, 3], Outcome.FINISHED, diversity=0.07)
    write_end(study, "t0003", Outcome.FINISHED, "why", epochs=3, value=2.5)
    (line,) = [line for line in table.table_lines(study, CONFIG) if line.trial.name == "t0003"]
    assert (line.value, line.diversity) == (2.5, 0.07)


def test_repeats_are_of_the_baseline_and_the_best_trial_and_only_those_missing(
    tmp_path: Path,
) -> None:
    study = write_study(tmp_path / "demo", trials=3, epochs=4)
    assert table.missing_repeats(study, by_distance()) == {}
    config = by_distance(repeats=2)
    # The value falls with (number + 2) / epoch, so the baseline is the best: once is enough.
    assert table.missing_repeats(study, config) == {"t0000r1": "t0000", "t0000r2": "t0000"}
    higher = config.model_copy(update={"direction": "maximize"})
    names = {"t0000r1": "t0000", "t0000r2": "t0000", "t0002r1": "t0002", "t0002r2": "t0002"}
    assert table.missing_repeats(study, higher) == names
    done = study.trial("t0002").info.model_copy(update={"origin": "repeat", "repeats": "t0002"})
    folder = study.path / "t0002r1"
    folder.mkdir()
    write_json(folder / "trial.json", done)
    write_end(study, "t0002r1", Outcome.FINISHED, "", epochs=4, value=1.0)
    assert table.missing_repeats(study, higher).keys() == names.keys() - {"t0002r1"}
