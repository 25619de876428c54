"""Whether a winner becomes the champion: what speaks against it, and what was compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from selection.metrics.estimate import Images
from selection.metrics.intervals import difference
from selection.metrics.wording import interval_text
from selection.registry.promotion import Champion, Verdict, judge_promotion
from selection.steps.decide import utility
from selection.steps.result import Candidate, Difference, LookAtTest, Pick, as_shares
from selection.steps.scores import BALANCED
from tests.selection.report.test_page import (
    changed,
    estimate,
    make_pick,
    make_utility,
    with_candidate,
)

REAL = Images(labels=[i % 3 for i in range(180)], patients=[i // 3 for i in range(180)])


def answers(share: float, seed: int) -> list[str]:
    """Draw hits of three CNNs that know this share of the images."""
    random = np.random.default_rng(seed)
    return ["".join(map(str, random.binomial(3, share, 180))) for _ in range(3)]


def looked(share: float, seed: int, *, paired: bool = True, **changes: Any) -> Pick:
    """Return a pick whose winner knows this share of the test images."""
    hits = answers(share, seed)
    known: dict[str, Any] = {"hits": hits, "real": REAL} if paired else {}
    row = Difference(name=BALANCED, winner=utility(hits, REAL).balanced_accuracy)
    look = LookAtTest(number=1, time=1.0, images=180, rows=[row], metrics={}, **known)
    return changed(make_pick(), test=look, **changes)


def champion(pick: Pick | None) -> Champion:
    return Champion("2", "f" * 64, pick)


def winner(pick: Pick, **changes: Any) -> Pick:
    return with_candidate(pick, pick.decision.winner, **changes)


def test_nothing_speaks_against_a_first_winner_that_varies_and_teaches() -> None:
    assert judge_promotion(make_pick(), None) == Verdict("")


def test_one_picture_a_class_and_chance_speak_against_it() -> None:
    alike = winner(make_pick(), diversity=0.07)
    assert judge_promotion(alike, None).against == "its images are one picture per class"
    chance = winner(make_pick(), utility=make_utility(0.35))
    assert judge_promotion(chance, None).against == "its images teach a CNN no more than chance"
    both = judge_promotion(winner(chance, diversity=0.07), champion(None)).against
    assert (
        both
        == f"{judge_promotion(alike, None).against} and {judge_promotion(chance, None).against}"
    )


def test_copies_of_training_images_speak_against_it() -> None:
    copies = make_pick(memorised=True)
    against = "its images may show patients of the training set"
    assert judge_promotion(copies, None).against == against
    alike = judge_promotion(winner(copies, diversity=0.07), None).against
    assert alike == f"{against} and its images are one picture per class"


def test_what_is_not_known_does_not_speak_against_it() -> None:
    unknown: dict[str, Any] = {"diversity": None, "utility": None}
    assert judge_promotion(winner(make_pick(), **unknown), None) == Verdict("")


@pytest.mark.parametrize(
    ("own", "other", "worse"), [(0.5, 0.8, True), (0.8, 0.5, False), (0.8, 0.81, False)]
)
@pytest.mark.parametrize("paired", [True, False])
def test_one_that_is_told_to_be_worse_on_the_same_test_images_is_held_back(
    own: float, other: float, worse: bool, paired: bool
) -> None:
    pick, present = looked(own, 1), looked(other, 2, paired=paired)
    found = judge_promotion(pick, champion(present))
    assert (found.against != "") == worse
    if worse:
        assert found.against == "the champion (version 2) is better on the test images"
    assert "against the champion so far (version 2) on the same 180 test images" in found.compared
    assert ("paired by patient" in found.compared) == paired
    assert ("its answers are not stored, only its interval" in found.compared) == (not paired)


def test_the_paired_difference_is_that_of_the_intervals_of_a_pick() -> None:
    pick, present = looked(0.6, 1), looked(0.7, 2)
    assert pick.test is not None
    assert present.test is not None
    expected = difference(as_shares(pick.test.hits), as_shares(present.test.hits), REAL)
    assert interval_text(expected, 3) in judge_promotion(pick, champion(present)).compared


@pytest.mark.parametrize(
    ("present", "why"),
    [
        (None, "its pick cannot be read in MLflow"),
        (changed(make_pick(), test=None), "it was not measured on test images"),
        (looked(0.9, 2, fingerprint="another"), "it was measured on other images"),
        (
            looked(0.9, 2, settings=make_pick().settings | {"cnn_images": 32}),
            "its CNNs were trained with another cnn_images",
        ),
    ],
)
def test_what_cannot_be_compared_does_not_speak_against_it(present: Pick | None, why: str) -> None:
    found = judge_promotion(looked(0.6, 1), champion(present))
    assert found == Verdict("", f"not compared with the champion so far (version 2): {why}")


def test_a_champion_that_a_person_rejected_holds_nobody_back() -> None:
    pick, present = looked(0.5, 1), looked(0.8, 2)
    assert judge_promotion(pick, Champion("2", "f" * 64, present)).against
    found = judge_promotion(pick, Champion("2", "f" * 64, present, rejected=True))
    why = "not compared with the champion so far (version 2): a person rejected its images"
    assert found == Verdict("", why)


def test_a_pick_that_has_not_looked_at_the_test_images_is_not_compared() -> None:
    found = judge_promotion(make_pick(), champion(looked(0.9, 2)))
    assert found.against == ""
    assert found.compared.endswith("the test images were not looked at")


def test_the_same_weights_are_not_compared_with_themselves() -> None:
    pick = looked(0.6, 1)
    assert judge_promotion(pick, Champion("2", pick.winner.weights, looked(0.9, 2))) == Verdict("")


def test_intervals_that_touch_hold_nobody_back() -> None:
    rows = [Difference(name=BALANCED, winner=estimate(value)) for value in (0.5, 0.6)]
    pick, present = (
        changed(looked(0.5, 1), test=LookAtTest(number=1, time=1, images=9, rows=[row], metrics={}))
        for row in rows
    )
    assert judge_promotion(pick, champion(present)).against == ""


def test_a_pick_of_an_earlier_version_is_read_and_nothing_is_said_of_its_variety() -> None:
    content = looked(0.5, 1).model_dump(mode="json")
    for name in ("hits", "real"):
        del content["test"][name]
    for candidate in content["candidates"]:
        del candidate["diversity"]
    del content["decision"]["varied"], content["filter"]["one_picture"]
    content["settings"]["collapsed_below"] = 0.01
    pick = Pick.model_validate(content)
    assert (pick.variety, pick.one_picture, pick.none_varies) == ("not known", False, False)
    assert isinstance(pick.winner, Candidate)
    assert "only its interval" in judge_promotion(looked(0.5, 2), champion(pick)).compared
