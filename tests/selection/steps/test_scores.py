"""Scores by class and by source, against their definition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from selection.metrics.estimate import Images
from selection.metrics.intervals import difference, interval
from selection.steps.result import Difference, as_shares
from selection.steps.scores import rows
from tests.kit import CLASSES

COUNT = 60
LABELS = [i % 3 for i in range(COUNT)]
SOURCES = ["rsna" if i < 24 else "cohen" for i in range(COUNT)]
IMAGES = Images(labels=LABELS, patients=[i // 2 for i in range(COUNT)])


def seen(share: float, *, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return ["".join(str(h) for h in random.binomial(3, share, COUNT)) for _ in range(3)]


def scored(
    hits: list[str],
    baseline: list[str] | None,
    *,
    classes: Sequence[str] = CLASSES,
    sources: Sequence[str] = SOURCES,
) -> list[Difference]:
    return rows(hits, baseline, IMAGES, sources=sources, classes=classes)


def test_there_is_a_row_for_each_class_and_each_source() -> None:
    found = scored(seen(0.8, seed=0), seen(0.5, seed=1))
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
    found = {row.name: row for row in scored(winner, baseline)}
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
            float(as_shares(own).mean(axis=0)[part].mean()) for own in (winner, baseline)
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
    first, second = as_shares(winner), as_shares(baseline)
    overall = scored(winner, baseline)[0]
    assert overall.winner == interval(first, IMAGES)
    assert overall.baseline == interval(second, IMAGES)
    assert overall.difference == difference(first, second, IMAGES)


def test_patients_who_differ_by_the_same_amount_leave_a_narrow_difference() -> None:
    """Unpaired, the images that both get wrong would make the difference wide."""
    hard = ["3" * 30 + "0" * 30] * 3
    easier = ["3" * 30 + "1" * 30] * 3
    row = scored(easier, hard)[1]
    assert row.difference is not None
    assert row.difference.value == pytest.approx(1 / 6)
    width = row.difference.high - row.difference.low
    assert row.baseline is not None
    winner_width, baseline_width = (own.high - own.low for own in (row.winner, row.baseline))
    assert width < np.hypot(winner_width, baseline_width) / 3


def test_without_a_baseline_the_winner_stands_alone() -> None:
    found = scored(seen(0.8, seed=0), None)
    assert len(found) == 7
    assert all(row.baseline is None and row.difference is None for row in found)


def test_a_class_without_images_has_no_row() -> None:
    found = scored(seen(0.8, seed=0), None, classes=(*CLASSES, "other"))
    assert "recall of other" not in {row.name for row in found}


def test_one_image_of_a_source_gives_a_row_too() -> None:
    found = scored(seen(0.8, seed=0), None, sources=["fig1", *SOURCES[1:]])
    row = next(row for row in found if row.name == "accuracy on 1 image of source fig1")
    assert 0 <= row.winner.low <= row.winner.value <= row.winner.high <= 1
