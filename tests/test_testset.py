"""The ledger of looks at the test images, and the rows of what was seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acgan.errors import InputError
from search.study import Study, open_study
from selection.intervals import difference, interval
from selection.result import Images, as_shares
from selection.testset import ledger_path, record, rows, touches
from selection.work import Touched
from tests.kit import CLASSES
from tests.studies import write_study

COUNT = 60
LABELS = [i % 3 for i in range(COUNT)]
SOURCES = ["rsna" if i < 24 else "cohen" for i in range(COUNT)]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path / "demo")


def look(study: Study, pick: str) -> int:
    return record(study, pick=pick, weights=[f"{pick}-weights"], reason="final report of a pick")


def test_a_study_begins_without_looks(study: Study) -> None:
    assert touches(study) == []


def test_each_pick_is_counted_and_the_same_pick_once(study: Study) -> None:
    assert look(study, "a") == 1
    assert look(study, "a") == 1
    assert look(study, "b") == 2
    assert look(study, "c") == 3
    assert look(study, "b") == 2
    assert [touch.pick for touch in touches(study)] == ["a", "b", "c"]


def test_the_ledger_is_still_there_when_the_study_is_opened_again(study: Study) -> None:
    look(study, "a")
    there = touches(study)
    again = open_study(study.path)
    assert touches(again) == there
    assert look(again, "b") == 2
    assert touches(again)[0] == there[0]  # a look's time is not written anew
    assert there[0].weights == ["a-weights"]


def test_a_study_that_moved_takes_its_ledger_along(study: Study, tmp_path: Path) -> None:
    look(study, "a")
    moved = open_study(study.path.rename(tmp_path / "elsewhere"))
    assert look(moved, "b") == 2


@pytest.mark.parametrize("content", ["{", '{"time": 1.0}\n', "\xff\n"])
def test_a_damaged_ledger_is_named_and_left_as_it_is(study: Study, content: str) -> None:
    look(study, "a")
    with ledger_path(study).open("a", encoding="latin-1") as file:
        file.write(content)
    before = ledger_path(study).read_bytes()
    with pytest.raises(InputError, match=r"test-touches\.jsonl is damaged; restore it"):
        look(study, "b")
    assert ledger_path(study).read_bytes() == before


def seen(share: float, *, seed: int, sources: list[str] | None = None) -> Touched:
    random = np.random.default_rng(seed)
    hits = ["".join(str(h) for h in random.binomial(3, share, COUNT)) for _ in range(3)]
    images = Images(labels=LABELS, patients=[i // 2 for i in range(COUNT)])
    return Touched(images=images, sources=sources or SOURCES, hits=hits, metrics={})


def test_there_is_a_row_for_each_class_and_each_source() -> None:
    found = rows(seen(0.8, seed=0), seen(0.5, seed=1), CLASSES)
    assert [row.name for row in found] == [
        "balanced accuracy",
        "accuracy",
        "recall of COVID-19",
        "recall of normal",
        "recall of pneumonia",
        "accuracy on 36 images of source cohen",
        "accuracy on 24 images of source rsna",
    ]


def test_the_values_of_rows_are_shares_of_their_images() -> None:
    winner, baseline = seen(0.8, seed=0), seen(0.5, seed=1)
    found = {row.name: row for row in rows(winner, baseline, CLASSES)}
    labels, sources = np.array(LABELS), np.array(SOURCES)
    parts = {
        "accuracy": labels >= 0,
        "recall of COVID-19": labels == 0,
        "recall of normal": labels == 1,
        "recall of pneumonia": labels == 2,
        "accuracy on 36 images of source cohen": sources == "cohen",
        "accuracy on 24 images of source rsna": sources == "rsna",
    }
    for name, part in parts.items():
        mine, other = (
            float(as_shares(own.hits).mean(axis=0)[part].mean()) for own in (winner, baseline)
        )
        row = found[name]
        assert row.baseline is not None
        assert row.difference is not None
        assert row.winner.value == pytest.approx(mine)
        assert row.baseline.value == pytest.approx(other)
        assert row.difference.value == pytest.approx(mine - other)
        assert row.difference.low < row.difference.value < row.difference.high


def test_the_difference_is_paired_by_patient() -> None:
    winner, baseline = seen(0.8, seed=0), seen(0.5, seed=1)
    first, second = as_shares(winner.hits), as_shares(baseline.hits)
    overall = rows(winner, baseline, CLASSES)[0]
    assert overall.winner == interval(first, winner.images)
    assert overall.baseline == interval(second, winner.images)
    assert overall.difference == difference(first, second, winner.images)


def test_patients_who_differ_by_the_same_amount_leave_a_narrow_difference() -> None:
    """Unpaired, the images that both get wrong would make the difference wide."""
    hard = ["3" * 30 + "0" * 30] * 3
    easier = ["3" * 30 + "1" * 30] * 3
    known = seen(0.5, seed=0)
    winner, baseline = (known.model_copy(update={"hits": own}) for own in (easier, hard))
    row = rows(winner, baseline, CLASSES)[1]
    assert row.difference is not None
    assert row.difference.value == pytest.approx(1 / 6)
    width = row.difference.high - row.difference.low
    assert row.baseline is not None
    winner_width, baseline_width = (own.high - own.low for own in (row.winner, row.baseline))
    assert width < np.hypot(winner_width, baseline_width) / 3


def test_without_a_baseline_the_winner_stands_alone() -> None:
    found = rows(seen(0.8, seed=0), None, CLASSES)
    assert len(found) == 7
    assert all(row.baseline is None and row.difference is None for row in found)


def test_a_class_without_test_images_has_no_row() -> None:
    found = rows(seen(0.8, seed=0), None, (*CLASSES, "other"))
    assert "recall of other" not in {row.name for row in found}


def test_one_image_of_a_source_gives_a_row_too() -> None:
    found = rows(seen(0.8, seed=0, sources=["fig1", *SOURCES[1:]]), None, CLASSES)
    row = next(row for row in found if row.name == "accuracy on 1 images of source fig1")
    assert 0 <= row.winner.low <= row.winner.value <= row.winner.high <= 1
