"""The ledger of looks: nothing confirmed is lost, and what people's decisions come to."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from acgan.errors import InputError
from search.study.folder import Study
from selection.ledgers.reviews import (
    Entry,
    Quiz,
    add_review,
    check_writable,
    in_words,
    looks,
    read_reviews,
    review_standing,
    reviews_path,
)
from tests.studies import write_study

BEGIN = 1_764_000_000.0


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path / "runs" / "demo")


def entry(action: str, *, who: str = "anna", of: int = 1, **changes: Any) -> Entry:
    known: dict[str, Any] = {
        "time": BEGIN,
        "reviewer": who,
        "action": action,
        "candidate": f"t{of:04d}, epoch 9",
        "weights": f"{of:064x}",
    }
    return Entry(**(known | changes))


def test_what_is_added_is_read_again_in_its_order(study: Study) -> None:
    assert read_reviews(study) == []
    quiz = Quiz(truth="RGGR", said="RRGG")
    added = [entry("looked"), entry("kept", blind=False), entry("quiz", quiz=quiz)]
    for each in added:
        add_review(study, each)
    assert read_reviews(study) == added


def test_a_note_stands_with_the_last_decision_and_older_lines_have_none(study: Study) -> None:
    old = entry("rejected", of=2).model_dump(exclude={"note"})
    reviews_path(study).write_text(json.dumps(old, separators=(",", ":")) + "\n")
    add_review(study, entry("kept", note="sharp ribs"))
    add_review(study, entry("looked"))
    first, second = read_reviews(study)[:2]
    assert (first.note, second.note) == ("", "sharp ribs")
    assert b'"note"' not in reviews_path(study).read_bytes().splitlines()[-1]
    notes = {look.candidate: look.note for look in looks(read_reviews(study))}
    assert notes == {"t0001, epoch 9": "sharp ribs", "t0002, epoch 9": ""}
    own = [look for look in looks(read_reviews(study)) if look.note]
    assert in_words(own).endswith(": “sharp ribs”")
    add_review(study, entry("kept"))
    assert not any(look.note for look in looks(read_reviews(study)))


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_last_line_is_left_out_and_then_cut(study: Study, cut: int) -> None:
    add_review(study, entry("looked"))
    add_review(study, entry("kept"))
    path = reviews_path(study)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_reviews(study) == [entry("looked")]
    add_review(study, entry("rejected"))
    assert read_reviews(study) == [entry("looked"), entry("rejected")]


@pytest.mark.parametrize(
    "line",
    ["{", '{"time": 1}', entry("kept").model_dump_json().replace("kept", "liked")],
)
def test_a_damaged_ledger_is_refused_and_stays(study: Study, line: str) -> None:
    add_review(study, entry("looked"))
    path = reviews_path(study)
    path.write_text(line + "\n" + path.read_text())
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"reviews\.jsonl is damaged; restore it"):
        read_reviews(study)
    with pytest.raises(InputError):
        check_writable(study)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("truth", "said"), [("RG", "R"), ("", ""), ("RX", "RG")])
def test_a_quiz_in_which_an_image_was_not_judged_once_is_none(truth: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"judged once|pattern"):
        Quiz(truth=truth, said=said)


def _add_many(study: Study, who: str) -> None:
    for number in range(50):
        add_review(study, entry("looked", who=who, of=number))


def test_several_processes_that_add_at_once_lose_nothing(study: Study) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add_many, args=(study, who)) for who in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    found = read_reviews(study)
    assert len(found) == 150
    for who in "abc":
        assert [e.weights for e in found if e.reviewer == who] == [f"{i:064x}" for i in range(50)]


def test_a_ledger_that_cannot_be_written_is_said_so_before_anybody_looks(study: Study) -> None:
    check_writable(study)
    assert not reviews_path(study).exists()
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    study.path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            check_writable(study)
    finally:
        study.path.chmod(0o700)


def test_a_persons_last_decision_counts() -> None:
    told = [entry("kept"), entry("rejected"), entry("looked"), entry("kept", of=2)]
    assert review_standing(told) == {entry("looked").weights: "rejected", f"{2:064x}": "kept"}
    assert review_standing([*told, entry("undecided")]) == {f"{2:064x}": "kept"}


@pytest.mark.parametrize("order", [("anna", "bob"), ("bob", "anna")])
def test_one_rejection_is_enough_whoever_came_first(order: tuple[str, str]) -> None:
    told = {"anna": entry("kept"), "bob": entry("rejected", who="bob")}
    assert set(review_standing([told[who] for who in order]).values()) == {"rejected"}
    back = entry("undecided", who="bob")
    assert set(review_standing([*told.values(), back]).values()) == {"kept"}


def test_looking_alone_decides_nothing() -> None:
    quiz = Quiz(truth="RG", said="RR")
    assert review_standing([entry("looked"), entry("revealed"), entry("quiz", quiz=quiz)]) == {}


def test_quizzes_of_one_person_and_candidate_add_up() -> None:
    told = [
        entry("quiz", quiz=Quiz(truth="RGGR", said="RRGG"), time=BEGIN),
        entry("quiz", quiz=Quiz(truth="GGRR", said="RRRR"), time=BEGIN + 60),
        entry("quiz", quiz=Quiz(truth="RG", said="GG"), who="bob"),
    ]
    anna, bob = looks(told)
    assert (anna.generated, anna.real) == ((3, 4), (3, 4))
    assert (bob.generated, bob.real) == ((0, 1), (0, 1))
    assert (anna.first, anna.last) == (BEGIN, BEGIN + 60)


def test_a_decision_says_whether_it_was_blind_and_what_follows_does_not_change_that() -> None:
    told = [entry("looked"), entry("kept"), entry("revealed"), entry("looked", blind=False)]
    assert [(look.decision, look.blind) for look in looks(told)] == [("kept", True)]
    again = entry("rejected", blind=False)
    assert [(look.decision, look.blind) for look in looks([*told, again])] == [("rejected", False)]


def test_a_candidate_in_words_names_who_and_when() -> None:
    quiz = Quiz(truth="GGRR", said="RGRR")
    told = [entry("kept"), entry("quiz", quiz=quiz), entry("looked", who="bob", time=BEGIN + 60)]
    assert in_words(looks(told)) == (
        "t0001, epoch 9: kept by anna (2025-11-24 16:00 UTC, took 1 of 2 generated images for "
        "real); looked at by bob (2025-11-24 16:01 UTC)"
    )
