"""Class and source: counts, Cramér's V and what a guess by the source gets right."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats.contingency import association

from acgan.data.dataset import Dataset, ImageSet
from acgan.data.pack import load
from selection.metrics.confounding import (
    DataFacts,
    count,
    cramers_v,
    each_against_the_rest,
    of_known_source,
    right_by_frequency,
    right_by_source,
)
from tests.kit import MINI, needs_mini


def images(labels: list[int], sources: list[str], patients: list[str] | None = None) -> ImageSet:
    return ImageSet(
        np.zeros((len(labels), 16, 16), np.uint8),
        np.array(labels, np.int64),
        tuple(patients or map(str, range(len(labels)))),
        tuple(sources),
    )


@pytest.mark.parametrize("counts", [[[9, 1], [4, 6]], [[5, 5], [1, 30]], [[3, 0], [1, 2]]])
def test_of_two_by_two_it_is_the_absolute_correlation(counts: list[list[int]]) -> None:
    (a, b), (c, d) = counts
    phi = (a * d - b * c) / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    assert cramers_v(np.array(counts)) == pytest.approx(abs(phi), rel=1e-12)


def test_it_is_1_where_one_tells_the_other_and_0_where_they_are_independent() -> None:
    assert cramers_v(np.array([[7, 0, 0], [0, 9, 4]])) == pytest.approx(1)
    assert cramers_v(np.outer([2, 3, 5], [1, 4, 2])) == pytest.approx(0, abs=1e-8)


def test_it_is_scipys() -> None:
    counts = np.random.default_rng(0).integers(1, 60, (3, 5))
    expected = association(counts, method="cramer", correction=False)
    assert cramers_v(counts) == pytest.approx(expected, rel=1e-12)


def test_rows_and_columns_without_images_do_not_count() -> None:
    assert cramers_v(np.array([[9, 0, 1], [0, 0, 0], [4, 0, 6]])) == pytest.approx(
        cramers_v(np.array([[9, 1], [4, 6]]))
    )


@pytest.mark.parametrize("counts", [[[3, 4]], [[3], [4]], [[0, 0], [0, 0]], [[3, 4], [0, 0]]])
def test_one_class_or_one_source_cannot_be_compared(counts: list[list[int]]) -> None:
    assert cramers_v(np.array(counts)) is None


def test_a_guess_by_the_source_names_its_most_frequent_class() -> None:
    counts = np.array([[8, 1], [2, 9]])
    assert right_by_source(counts) == pytest.approx(17 / 20)
    assert right_by_frequency(counts) == pytest.approx(11 / 20)
    none = np.zeros((2, 2), int)
    assert (right_by_source(none), right_by_frequency(none)) == (None, None)


def test_a_class_of_its_own_source_stands_out_from_classes_that_share_one() -> None:
    found = each_against_the_rest(np.array([[50, 0], [0, 30], [0, 20]]))
    phi = 50 * 30 / math.sqrt(50 * 50 * 30 * 70)  # of [[0, 30], [50, 20]]
    assert found[:2] == pytest.approx([1, phi])


def test_images_are_counted_by_class_and_source() -> None:
    own = images([0, 0, 1, 1, 1], ["a", "b", "b", "b", "unknown"])
    found = count(own, ["a", "b", "unknown"], classes=3)
    assert found.tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 0]]
    known = of_known_source(found, ["a", "b", "unknown"])
    assert known.tolist() == [[1, 1], [0, 2], [0, 0]]


def test_generated_images_are_of_no_source() -> None:
    found = of_known_source(np.array([[1, 2, 3]]), ["cohen", "generated", "unknown"])
    assert found.tolist() == [[1]]


def test_the_facts_hold_every_split_that_has_images() -> None:
    train = images([0, 1, 1], ["a", "b", "b"], ["x", "y", "y"])
    val = images([0, 1], ["a", "c"])
    data = Dataset("own", ("p", "q"), train, val, images([], []), "f")
    facts = DataFacts.of(data)
    assert facts.sources == ("a", "b", "c")
    assert list(facts.splits) == ["training", "validation"]
    assert facts.splits["training"].counts.tolist() == [[1, 0, 0], [0, 2, 0]]
    assert (facts.splits["training"].patients, facts.splits["validation"].patients) == (2, 2)
    assert facts.validation_sources == ("a", "c")


def test_the_phantoms_sources_say_nothing_of_its_classes() -> None:
    facts = DataFacts.of(load("phantom", image_size=16))
    counts = facts.splits["training"].counts + facts.splits["validation"].counts
    found = cramers_v(counts)
    assert found is not None
    assert found < 0.15


@needs_mini
def test_in_covidx_mini_the_source_tells_covid_from_the_others(tmp_path: Path) -> None:
    facts = DataFacts.of(load(str(MINI), image_size=16, cache=tmp_path))
    counts = sum(facts.splits[name].counts for name in ("training", "validation"))
    assert isinstance(counts, np.ndarray)
    rest = counts[1:].sum(axis=0)  # normal and pneumonia: 678 of 694 are of one source
    found = cramers_v(np.stack([counts[0], rest]))
    assert found is not None
    assert found > 0.9
