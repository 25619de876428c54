"""What speaks against a winner: report, card, description and registry say the same."""

from __future__ import annotations

import pytest

from selection.ledgers.reviews import Entry, looks
from selection.registry.promotion import judge_promotion
from selection.report.cards import cards, description
from selection.report.first import advice
from selection.report.page import MODEL_CARD
from selection.steps.objections import objections
from selection.steps.result import Pick
from tests.selection.report.test_cards import TRAIN, facts_of
from tests.selection.report.test_page import (
    TOUCH,
    changed,
    estimate,
    make_pick,
    make_utility,
    with_candidate,
)


def winner_with(score: float, diversity: float = 0.8) -> Pick:
    utility = make_utility(score)
    return with_candidate(make_pick(), 1, utility=utility, diversity=diversity)


def on_test(score: float) -> Pick:
    """Return a pick whose winner has this score on the test images, ± 0.05."""
    row = TOUCH.rows[0].model_copy(update={"winner": estimate(score)})
    return changed(make_pick(), test=TOUCH.model_copy(update={"rows": [row, *TOUCH.rows[1:]]}))


def entry(pick: Pick, action: str) -> Entry:
    seen = {"candidate": pick.winner.name, "weights": pick.winner.weights, "reviewer": "anna"}
    return Entry.model_validate({"time": 1.0, "action": action, **seen})


REJECTED = [entry(make_pick(), "rejected")]


@pytest.mark.parametrize(
    ("pick", "reviews", "reasons"),
    [
        (make_pick(), [], []),
        (on_test(0.61), [entry(make_pick(), "kept")], []),
        (make_pick(), REJECTED, ["a person rejected its images"]),
        (make_pick(memorised=True), [], ["its images may show patients of the training set"]),
        (winner_with(0.6, 0.1), [], ["its images are one picture per class"]),
        (winner_with(0.35), [], ["its images teach a CNN no more than chance"]),
        (on_test(0.36), [], ["on 178 test images its score is not told from chance"]),
        (on_test(1 / 3 + 0.06), [], []),
        (
            with_candidate(on_test(0.36), 1, diversity=0.1),
            REJECTED,
            [
                "a person rejected its images",
                "its images are one picture per class",
                "on 178 test images its score is not told from chance",
            ],
        ),
    ],
)
def test_all_that_tell_of_a_winner_say_the_same_of_it(
    pick: Pick, reviews: list[Entry], reasons: list[str]
) -> None:
    seen = looks(reviews)
    found = objections(pick, seen)
    assert [each.reason for each in found] == reasons
    assert judge_promotion(pick, None, seen).against == " and ".join(reasons)
    told = advice(pick, seen)
    assert told.usable == (not reasons)
    assert told.sentence == found[0].advice if found else told.command
    facts = facts_of(pick)
    for text in (cards(pick, facts, TRAIN, reviews)[MODEL_CARD], description(pick, facts, reviews)):
        assert ("**Against using it**" in text) == bool(reasons)
        assert f"**Against using it**: {'; '.join(reasons)}." in text or not reasons
