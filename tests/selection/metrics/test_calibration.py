from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from selection.metrics.calibration import BINS, calibration_gaps
from selection.metrics.estimate import Images
from selection.metrics.intervals import interval


def error(confidence: list[float], right: list[bool]) -> float:
    return float(calibration_gaps(np.array(confidence), np.array(right)).mean())


@pytest.mark.parametrize(("confidence", "hits"), [(0.9, 6), (0.9, 9), (0.6, 10), (1.0, 0)])
def test_with_one_confidence_the_error_is_its_distance_from_the_accuracy(
    confidence: float, hits: int
) -> None:
    right = [True] * hits + [False] * (10 - hits)
    assert error([confidence] * 10, right) == pytest.approx(abs(confidence - hits / 10))


def test_bins_are_weighted_by_their_images_and_do_not_cancel() -> None:
    # 4 images 0.45 too sure, 6 images 0.25 too unsure.
    confidence = [0.95] * 4 + [0.75] * 6
    right = [True, True, False, False] + [True] * 6
    assert error(confidence, right) == pytest.approx(0.4 * 0.45 + 0.6 * 0.25)


def test_within_a_bin_gaps_cancel() -> None:
    assert error([0.61, 0.65], [True, False]) == pytest.approx(abs(0.63 - 0.5))


def test_a_bin_holds_its_upper_edge() -> None:
    # 0.6 is the upper edge of the ninth bin, 0.601 lies in the tenth.
    assert error([0.6, 0.601], [True, False]) == pytest.approx((0.4 + 0.601) / 2)
    assert error([1 / BINS, 0.0], [False, False]) == pytest.approx(1 / BINS / 2)


def test_the_error_is_that_of_the_definition() -> None:
    random = np.random.default_rng(0)
    confidence, right = random.uniform(0.3, 1, 500), random.random(500) < 0.7
    expected = 0.0
    for low in np.arange(BINS) / BINS:
        own = (confidence > low) & (confidence <= low + 1 / BINS)
        if own.any():
            expected += own.mean() * abs(right[own].mean() - confidence[own].mean())
    assert calibration_gaps(confidence, right).mean() == pytest.approx(expected)


def test_of_many_images_a_calibrated_classifier_has_hardly_any_error() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(1 / 3, 1, 200_000)
    right = random.random(200_000) < confidence
    assert calibration_gaps(confidence, right).mean() < 0.01


def test_intervals_hold_the_true_error_of_an_overconfident_classifier() -> None:
    random = np.random.default_rng(0)
    held = []
    for _ in range(500):
        patients = np.repeat(np.arange(90), random.integers(1, 4, 90))
        confidence = random.uniform(0.5, 1, (5, len(patients)))
        shared = random.standard_normal(90)[patients] * 0.3
        level = shared + random.standard_normal(confidence.shape) * np.sqrt(1 - 0.3**2)
        right = norm.cdf(level) < confidence - 0.3
        answers = np.array([calibration_gaps(c, r) for c, r in zip(confidence, right, strict=True)])
        images = Images(labels=[0] * len(patients), patients=patients.tolist())
        found = interval(answers, images, "accuracy")
        assert found is not None
        held.append(found.low <= 0.3 <= found.high)
    assert 0.92 <= np.mean(held) <= 0.98
