"""The ledger of looks at the test images."""

from __future__ import annotations

from pathlib import Path

import pytest

from acgan.errors import InputError
from search.study.folder import Study, open_study
from selection.ledgers.looks import looks_path, record, touches
from tests.studies import write_study


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
    with looks_path(study).open("a", encoding="latin-1") as file:
        file.write(content)
    before = looks_path(study).read_bytes()
    with pytest.raises(InputError, match=r"test-touches\.jsonl is damaged; restore it"):
        look(study, "b")
    assert looks_path(study).read_bytes() == before
