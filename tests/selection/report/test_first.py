"""The first screen: what the winner's score is measured by, and what is to be done."""

from __future__ import annotations

import pytest

from selection.ledgers.reviews import Look, Review
from selection.metrics.estimate import Estimate
from selection.report.first import advice, first_scores, on_scale
from selection.steps.result import Pick
from tests.selection.report.test_page import (
    TOUCH,
    changed,
    estimate,
    make_pick,
    make_utility,
    report,
    with_candidate,
)


def winner_with(pick: Pick, score: float) -> Pick:
    return with_candidate(pick, pick.decision.winner, utility=make_utility(score))


def looked(pick: Pick, decision: Review = "") -> Look:
    return Look(
        candidate=pick.winner.name,
        weights=pick.winner.weights,
        reviewer="anna",
        first=0,
        last=0,
        decision=decision,
        blind=True,
        generated=(0, 0),
        real=(0, 0),
    )


@pytest.mark.parametrize(
    ("value", "low", "high", "where"),
    [(0.25, 0, 1, "25.00"), (0.25, 1, 0, "75.00"), (-1, 0, 1, "0.00"), (0.1, -0.1, 0.1, "100.00")],
)
def test_a_place_is_a_share_of_the_way_from_one_end_to_the_other(
    value: float, low: float, high: float, where: str
) -> None:
    assert on_scale(value, low, high) == where


def test_without_a_look_at_the_test_images_the_scores_are_those_of_validation() -> None:
    pick = make_pick()
    found = first_scores(pick)
    assert (found.where, found.optimistic) == ("159 validation images", True)
    assert [line.kind for line in found.lines] == ["picked", "baseline", "real", "other"]
    assert pick.winner.utility is not None
    assert found.lines[0].estimate == pick.winner.utility.balanced_accuracy
    assert found.lines[2].estimate == pick.ceiling.balanced_accuracy
    assert "optimistic: it was picked on these" in report(pick).text


def test_after_a_look_they_are_those_of_the_test_images() -> None:
    ceiling = estimate(0.82)
    pick = changed(make_pick(), test=TOUCH.model_copy(update={"ceiling": ceiling}))
    found = first_scores(pick)
    assert (found.where, found.optimistic) == ("178 test images", False)
    assert [line.estimate for line in found.lines[:3]] == [
        TOUCH.rows[0].winner,
        TOUCH.rows[0].baseline,
        ceiling,
    ]
    assert found.lines[3].estimate == Estimate(value=1 / 3, low=1 / 3, high=1 / 3)
    assert "balanced accuracy 0.82 (0.77 to 0.87) there" in report(pick).text


def test_a_pick_of_an_earlier_version_says_on_which_images_the_real_ones_score_is() -> None:
    found = first_scores(changed(make_pick(), test=TOUCH))
    assert found.lines[2].note == "on validation images"


def test_a_winner_that_is_the_baseline_has_no_line_of_the_baseline() -> None:
    pick = changed(with_candidate(make_pick(), 1, baseline=True), against_baseline=None)
    found = first_scores(pick)
    assert [line.kind for line in found.lines] == ["picked", "real", "other"]
    assert found.lines[0].note == "the baseline's own best epoch"


def test_what_speaks_most_against_a_winner_decides_what_to_do() -> None:
    pick = make_pick()
    told = [
        advice(pick, [looked(pick, "rejected")]),
        advice(make_pick(memorised=True), []),
        advice(with_candidate(pick, 1, diversity=0.1), []),
        advice(winner_with(pick, 0.35), []),
        advice(changed(pick, test=_at_chance()), []),
    ]
    for found, words in zip(
        told,
        ("a person rejected", "Do not share", "hardly differ", "teach a CNN nothing", "not told"),
        strict=True,
    ):
        assert words in found.sentence
        assert not found.usable
        assert not found.command


def _at_chance() -> object:
    row = TOUCH.rows[0].model_copy(update={"winner": estimate(0.36)})
    return TOUCH.model_copy(update={"rows": [row, *TOUCH.rows[1:]]})


def test_a_winner_that_nothing_speaks_against_is_to_be_looked_at_and_then_studied() -> None:
    pick = changed(make_pick(), study="my study")
    first, then = advice(pick, []), advice(pick, [looked(pick)])
    assert first.sentence.startswith("Look at its images")
    assert then.sentence.startswith("Ask whether")
    study = "python -m selection.study --study 'my study' --pick pick-1 --test"
    assert first.command == then.command == study
    shown = report(pick)
    assert "python -m selection.review --study 'my study'" in shown.text
    assert shown.text.index(first.sentence) < shown.text.index("How it was picked")


def test_the_commands_of_a_pick_of_one_trial_are_about_this_trial() -> None:
    pick = changed(make_pick(), scope="t0001")
    command = "python -m selection.study --run-id a17c --pick pick-1 --test"
    assert advice(pick, []).command == command
    shown = report(pick).text
    assert "python -m selection.review --run-id a17c" in shown
    assert "--study mini" not in shown
