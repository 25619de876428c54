from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from acgan.data.dataset import ImageSet
from selection.augmentation.arms import (
    ARMS,
    BOTH,
    CLASSICAL,
    GAN,
    REAL,
    UNDERSAMPLING,
    WEIGHTS,
    Arm,
    ArmPool,
    curve_arm,
    generated_counts,
    keep,
    pool,
)

COUNTS = (4, 9, 7)


def real(counts: tuple[int, ...] = COUNTS) -> ImageSet:
    """Images that are known by their grey value; a patient has up to three of one class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.broadcast_to(
        np.arange(len(labels), dtype=np.uint8)[:, None, None], (len(labels), 6, 6)
    )
    patients = tuple(f"{label}-{i // 3}" for label, n in enumerate(counts) for i in range(n))
    return ImageSet(images, labels, patients, ("cohen",) * len(labels))


def generated(label: int, count: int) -> NDArray[np.uint8]:
    """Generated image i of a class has the grey value 100 + 50 label + i."""
    values = 100 + 50 * label + np.arange(count, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None], (count, 6, 6))


def drawn(arm: Arm, *, seed: int = 0) -> ArmPool:
    return pool(arm, real(), classes=3, generate=generated, seed=seed)


def per_class(found: ArmPool) -> list[int]:
    return list(map(int, np.bincount(found.labels[found.rows], minlength=3)))


def test_real_only_and_class_weights_draw_every_real_image_once() -> None:
    for arm in (REAL, WEIGHTS):
        found = drawn(arm)
        assert found.rows.tolist() == list(range(20))
        np.testing.assert_array_equal(found.images, real().images)


def test_class_weights_make_classes_equal_and_are_one_on_average() -> None:
    weights = drawn(WEIGHTS).weights
    assert weights is not None
    np.testing.assert_allclose(weights * COUNTS, 20 / 3)
    assert weights[real().labels].mean() == pytest.approx(1)


def test_undersampling_draws_as_many_of_each_class_as_the_smallest_has_none_twice() -> None:
    found = drawn(UNDERSAMPLING)
    assert per_class(found) == [4, 4, 4]
    assert len(set(found.rows.tolist())) == 12
    assert set(drawn(UNDERSAMPLING, seed=1).rows.tolist()) != set(found.rows.tolist())


def test_classical_oversampling_repeats_all_images_of_a_class_equally_often() -> None:
    found = drawn(CLASSICAL)
    assert per_class(found) == [9, 9, 9]
    times = np.bincount(found.rows, minlength=20)
    assert sorted(times[:4]) == [2, 2, 2, 3]
    assert set(times[4:13]) == {1}
    assert sorted(times[13:]) == [1, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("arm", [GAN, BOTH])
def test_gan_oversampling_fills_each_class_with_its_first_generated_images(arm: Arm) -> None:
    found = drawn(arm)
    assert per_class(found) == [9, 9, 9]
    np.testing.assert_array_equal(found.images[:20], real().images)
    values = found.images[20:, 0, 0].tolist()
    assert values == [100, 101, 102, 103, 104, 200, 201]
    assert found.labels[20:].tolist() == [0] * 5 + [2] * 2


def test_only_the_classical_arms_augment() -> None:
    assert [arm.name for arm in ARMS if arm.augmented] == ["classical", "classical-gan"]


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(0, [0, 0, 0]), (0.5, [2, 0, 1]), (1, [5, 0, 2]), (2, [14, 9, 11]), (1.5, [9, 4, 6])],
)
def test_an_amount_fills_what_is_missing_and_then_adds_to_every_class(
    amount: float, expected: list[int]
) -> None:
    assert generated_counts(COUNTS, amount) == expected


def test_a_larger_amount_holds_the_images_of_a_smaller_one() -> None:
    previous: set[int] = set()
    for amount in (0.5, 1, 2, 4):
        arm = curve_arm(amount)
        values = set(drawn(arm).images[20:, 0, 0].tolist())
        assert previous <= values
        previous = values
    assert curve_arm(1).key == GAN.key


def test_even_classes_are_left_as_they_are() -> None:
    images = real((5, 5, 5))
    for arm in ARMS:
        found = pool(arm, images, classes=3, generate=generated, seed=0)
        assert sorted(found.rows.tolist()) == list(range(15))
        if found.weights is not None:
            np.testing.assert_array_equal(found.weights, 1)


# --- keep ------------------------------------------------------------------------------------


def kept_rows(fraction: float, *, seed: int = 0, counts: tuple[int, ...] = (60, 30)) -> set[int]:
    return set(keep(real(counts), {0: fraction}, seed=seed).images[:, 0, 0].tolist())


def test_keep_leaves_this_fraction_of_a_class_and_all_of_the_others() -> None:
    images = real((60, 30))
    found = keep(images, {0: 0.1}, seed=0)
    assert found.per_class(2) == (6, 30)
    rows = found.images[:, 0, 0].tolist()
    assert found.labels.tolist() == images.labels[rows].tolist()
    assert list(found.patients) == [images.patients[i] for i in rows]
    assert len(found.sources) == 36


def test_keep_takes_whole_patients_but_for_the_last() -> None:
    found = keep(real((60, 30)), {0: 20 / 60}, seed=0)
    times = [found.patients.count(name) for name in dict.fromkeys(found.patients) if name[0] == "0"]
    assert sorted(times) == [2, 3, 3, 3, 3, 3, 3]


def test_keep_is_the_same_each_time_and_a_smaller_fraction_is_within_a_larger() -> None:
    assert kept_rows(0.1) == kept_rows(0.1)
    assert kept_rows(0.1) != kept_rows(0.1, seed=1)
    previous: set[int] = set()
    for fraction in (0.01, 0.1, 0.25, 0.5, 1):
        rows = kept_rows(fraction)
        assert previous < rows
        previous = rows
    assert len(kept_rows(0.0001)) == 31
    assert len(kept_rows(1)) == 90
