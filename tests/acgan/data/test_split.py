"""The validation split: by patient, stratified, stable, and never without a class."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from acgan.data.split import (
    NEAR_DISTANCE,
    cut,
    group_patients,
    near_duplicates,
    validation_warnings,
)
from acgan.errors import InputError

CLASSES = ("COVID-19", "normal", "pneumonia")


def flipped(hashed: NDArray[np.uint8], count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return a hash that differs in exactly `count` of the 512 bits."""
    bits = np.unpackbits(hashed)
    chosen = np.random.default_rng(seed).permutation(len(bits))[:count]
    bits[chosen] ^= 1
    return np.packbits(bits)


def test_pairs_within_the_distance_are_found_and_no_others() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (600, 64), np.uint8)
    hashes[300] = flipped(hashes[7], NEAR_DISTANCE)
    hashes[301] = flipped(hashes[8], NEAR_DISTANCE + 1)
    hashes[599] = hashes[598]
    bits = np.unpackbits(hashes, axis=1)
    slow = [
        pair
        for pair in combinations(range(600), 2)
        if (bits[pair[0]] != bits[pair[1]]).sum() <= NEAR_DISTANCE
    ]
    assert [tuple(pair) for pair in near_duplicates(hashes).tolist()] == slow
    assert slow == [(7, 300), (598, 599)]


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=12),
)
def test_groups_are_the_connected_patients(
    patients: list[str], pairs: list[tuple[int, int]]
) -> None:
    pairs = [(a % len(patients), b % len(patients)) for a, b in pairs]
    group_of = {patient: {patient} for patient in patients}
    for a, b in pairs:  # slowly: merge whole sets
        merged = group_of[patients[a]] | group_of[patients[b]]
        for patient in merged:
            group_of[patient] = merged
    expected = tuple(min(group_of[patient]) for patient in patients)
    assert group_patients(patients, pairs) == expected


def some_data(seed: int = 0) -> tuple[NDArray[np.int64], list[str]]:
    """1,000 images of 1 to 9 a patient, of classes 15 %, 35 %, 50 %; a few patients have two."""
    rng = np.random.default_rng(seed)
    labels, patients = [], []
    for patient in range(200):
        own = rng.choice(3, p=[0.15, 0.35, 0.5])
        for _ in range(rng.integers(1, 10)):
            labels.append((own + int(rng.random() < 0.02)) % 3)
            patients.append(f"p{patient}")
    return np.array(labels), patients


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_on_both_sides_and_every_class_is(seed: int) -> None:
    labels, patients = some_data(seed)
    chosen = cut(labels, patients, classes=CLASSES, seed=seed)
    sides = [{p for p, own in zip(patients, chosen, strict=True) if own == s} for s in (0, 1)]
    assert not sides[0] & sides[1]
    for label in range(3):
        assert set(chosen[labels == label].tolist()) == {True, False}


def test_each_class_gives_its_fraction_of_patients() -> None:
    labels = np.repeat([0, 1, 2], [50, 100, 200])
    patients = [str(number) for number in range(350)]
    for fraction, expected in ((None, [10, 20, 40]), (0.1, [5, 10, 20]), (0.001, [1, 1, 1])):
        chosen = cut(labels, patients, classes=CLASSES, seed=0, fraction=fraction)
        assert np.bincount(labels[chosen]).tolist() == expected


@pytest.mark.parametrize(("images", "expected"), [(4_999, 1_000), (5_000, 500)])
def test_a_large_data_set_gives_a_tenth(images: int, expected: int) -> None:
    labels = np.zeros(images, np.int64)
    patients = [str(number) for number in range(images)]
    assert cut(labels, patients, classes=("one",), seed=0).sum() == expected


def test_a_patient_of_two_classes_counts_for_the_rarer_one() -> None:
    # Class 0 is rare and all of its patients also have images of class 1.
    labels = np.array([0, 1] * 10 + [1] * 90)
    patients = [str(number // 2) for number in range(20)] + [f"n{n}" for n in range(90)]
    chosen = cut(labels, patients, classes=CLASSES[:2], seed=0)
    assert (labels[chosen] == 0).sum() == 2  # 20 % of 10 patients
    assert (labels[chosen] == 1).sum() == 2 + 18


def test_the_split_depends_on_the_seed_and_not_on_the_order() -> None:
    labels, patients = some_data()
    first = cut(labels, patients, classes=CLASSES, seed=1)
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = cut(labels[order], [patients[i] for i in order], classes=CLASSES, seed=1)
    np.testing.assert_array_equal(first[order], shuffled)
    assert (first != cut(labels, patients, classes=CLASSES, seed=2)).any()


def test_new_patients_move_few_others() -> None:
    labels, patients = np.zeros(1000, np.int64), [str(n) for n in range(1000)]
    before = cut(labels[:990], patients[:990], classes=("one",), seed=0)
    after = cut(labels, patients, classes=("one",), seed=0)
    assert (before != after[:990]).sum() <= 10


def test_a_class_of_one_patient_is_refused() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    with pytest.raises(InputError, match="'COVID-19' has too few patients in train"):
        cut(labels, ["a", "a", "b", "c", "d"], classes=CLASSES[:2], seed=0)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
    st.integers(0, 3),
)
def test_any_data_is_split_with_every_class_on_both_sides_or_refused(
    images: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    labels = np.array([label for label, _ in images])
    patients = [str(patient) for _, patient in images]
    try:
        chosen = cut(labels, patients, classes=CLASSES, seed=seed, fraction=fraction)
    except InputError:
        return
    for label in range(3):
        assert set(chosen[labels == label].tolist()) == {True, False}


def test_few_validation_patients_are_one_warning_of_all_classes() -> None:
    labels = np.repeat([0, 1, 1], [19, 20, 30])
    patients = [f"p{n}" for n in range(39)] + ["p38"] * 30
    (warning,) = validation_warnings(labels, patients, classes=CLASSES[:2])
    assert warning.startswith("validation has few patients (19 of COVID-19): ")
    (warning,) = validation_warnings(labels[1:-31], patients[1:-31], classes=CLASSES[:2])
    assert warning.startswith("validation has few patients (18 of COVID-19, 19 of normal): ")
    assert validation_warnings(labels[19:] - 1, patients[19:], classes=CLASSES[1:2]) == ()
