from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from acgan.errors import InputError
from acgan.files import write_json
from selection.augmentation.result import (
    COMPARED,
    ECE,
    ArmResult,
    Run,
    answer_sentence,
    comparisons,
    measured,
    read_study,
    sentence,
)
from selection.metrics.estimate import Estimate
from selection.metrics.intervals import interval, paired
from selection.steps.scores import BALANCED
from tests.augmentations import COUNT, IMAGES, SEEDS, SOURCES, made_study, runs
from tests.kit import CLASSES

LABELS = np.array(IMAGES.labels)


def hits(found: list[Run]) -> NDArray[np.bool_]:
    """Whether each answer is right, [S, 3, N], read digit by digit."""
    digits = np.array([[[int(d) for d in row] for row in run.predicted] for run in found])
    right: NDArray[np.bool_] = digits == LABELS
    return right


def scores(found: list[Run], other: list[Run] | None = None) -> dict[str, Estimate]:
    return measured(found, other, IMAGES, sources=SOURCES, classes=CLASSES)


def test_scores_are_the_means_over_cnns_moments_and_images_that_they_are_named_after() -> None:
    own = runs(0.7)
    right, found = hits(own), scores(own)
    assert found["accuracy"].value == pytest.approx(right.mean())
    recalls = [right[..., label == LABELS].mean() for label in range(3)]
    assert found[BALANCED].value == pytest.approx(np.mean(recalls))
    for name, recall in zip(CLASSES, recalls, strict=True):
        assert found[f"recall of {name}"].value == pytest.approx(recall)
    for source in set(SOURCES):
        own_images = np.array([each == source for each in SOURCES])
        key = f"accuracy on {own_images.sum()} images of source {source}"
        assert found[key].value == pytest.approx(right[..., own_images].mean())
    assert len(found) == 3 + 3 + 3


def test_the_calibration_error_is_the_mean_of_that_of_each_cnn_at_each_moment() -> None:
    own = runs(0.7)
    errors = []
    for run, right in zip(own, hits(own), strict=True):
        for sure, hit in zip(np.array(run.confidence), right, strict=True):
            bins = np.ceil(sure * 15)
            parts = [abs((hit - sure)[bins == b].sum()) for b in np.unique(bins)]
            errors.append(sum(parts) / COUNT)
    assert scores(own)[ECE].value == pytest.approx(np.mean(errors))


def test_intervals_are_those_of_the_answers() -> None:
    first, second = runs(0.7), runs(0.6, seed=1)
    one, two = (hits(each).mean(axis=1) for each in (first, second))
    assert scores(first)[BALANCED] == interval(one, IMAGES)
    assert scores(first, second)[BALANCED] == paired(one, two, IMAGES)
    assert scores(first, second)["recall of normal"] == paired(one, two, IMAGES, 1)


def test_an_arm_does_not_differ_from_itself() -> None:
    own = runs(0.7)
    assert all(difference.value == 0 for difference in scores(own, own).values())


def arms(gan: float, both: float, classical: float, real: float) -> dict[str, ArmResult]:
    accuracies = {"gan": gan, "classical-gan": both, "classical": classical, "real-only": real}
    return {arm.name: arm for arm in made_study(accuracies).arms}


def test_the_sentence_says_yes_where_generated_images_help_beyond_doubt() -> None:
    found = comparisons(arms(gan=0.8, both=0.95, classical=0.8, real=0.5), IMAGES)
    said = sentence(found, where="150 test images of 75 patients", seeds=SEEDS, caveats="")
    assert said.startswith(
        "Do the generated images help a CNN, in balanced accuracy on 150 test images of 75 "
        "patients, 5 CNNs each? By themselves: yes (GAN oversampling minus real only +0."
    )
    assert "; beside classical oversampling: yes (classical + GAN minus classical" in said
    assert "; in its place: not shown (GAN oversampling minus classical oversampling " in said
    assert said.endswith("; the three intervals hold together at 95 %.")


def test_the_sentence_says_no_where_they_harm_and_nothing_where_it_is_not_shown() -> None:
    found = comparisons(arms(gan=0.5, both=0.7, classical=0.7, real=0.7), IMAGES)
    assert [answer_sentence(each) for each in found] == [
        "no, they harm",
        "not shown",
        "no, they harm",
    ]
    said = sentence(found, where="…", seeds=SEEDS, caveats="; but")
    assert "By themselves: no, they harm (GAN oversampling minus real only \N{MINUS SIGN}0." in said
    assert said.endswith("at 95 %; but.")


def test_of_equal_arms_help_is_claimed_in_at_most_one_of_twenty_studies() -> None:
    claimed = 0
    for seed in range(300):
        same = {
            arm.name: made_arm(arm.name, seed=10 * seed + place)
            for place, arm in enumerate({a.name: a for pair in COMPARED for a in pair[:2]}.values())
        }
        claimed += any(answer_sentence(each) != "not shown" for each in comparisons(same, IMAGES))
    assert claimed / 300 <= 0.08


def made_arm(name: str, *, seed: int) -> ArmResult:
    own = runs(0.7, seed=seed)
    return ArmResult(name=name, title=name, amount=0, real=[], generated=[], runs=own, scores={})


def test_the_intervals_of_the_sentence_are_wider_than_each_alone() -> None:
    found = arms(gan=0.8, both=0.9, classical=0.8, real=0.5)
    alone = found["gan"].against_real[BALANCED]
    together = comparisons(found, IMAGES)[0]
    assert together.value == pytest.approx(alone.value)
    assert together.low < alone.low < alone.high < together.high


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.1, "yes"),
        (0, 0.1, "not shown"),
        (-0.1, 0, "not shown"),
        (-0.1, -0.001, "no, they harm"),
    ],
)
def test_the_answer_is_no_more_than_the_interval_allows(
    low: float, high: float, expected: str
) -> None:
    assert answer_sentence(Estimate(value=(low + high) / 2, low=low, high=high)) == expected


def test_the_curve_goes_from_real_only_to_the_largest_amount() -> None:
    names = [arm.name for arm in made_study().curve]
    assert names == ["real-only", "gan-0.5", "gan", "gan-2"]


def test_a_study_is_read_as_it_was_written_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    assert read_study(path) is None
    study = made_study()
    write_json(path, study)
    assert read_study(path) == study
    path.write_text(path.read_text()[:-100])
    with pytest.raises(InputError, match=r"study\.json is damaged; delete it"):
        read_study(path)
