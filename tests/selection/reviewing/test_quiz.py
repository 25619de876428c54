"""A quiz is fair: nothing but the pixels tells real from generated, and the score is sure of it."""

from __future__ import annotations

import io
import itertools
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from acgan.data.dataset import ImageSet
from selection.reviewing.quiz import (
    GRID_IMAGES,
    MOST_PAGES,
    QUIZ_IMAGES,
    QUIZZES,
    QuizQuestion,
    RealImages,
    as_grey,
    draw_quiz,
    draw_real,
    in_a_sentence,
    plain_png,
    score,
)
from tests.kit import tiny_images

GENERATED = 64


def validation(patients: int, images_of_each: int = 3) -> ImageSet:
    """Return images whose patients have several each, all of one class, marked by their place."""
    images = tiny_images(patients * images_of_each)
    whose = [i % patients for i in range(len(images))]
    marked = images.images.copy()
    marked[:, 0, 0] = np.arange(len(images)) % 250
    marked[:, 0, 1] = np.arange(len(images)) // 250
    return ImageSet(
        images=marked,
        labels=np.array([who % 3 for who in whose]),
        patients=tuple(f"patient-{who}" for who in whose),
        sources=images.sources,
    )


def mark(image: np.ndarray) -> int:
    return int(image[0, 0]) + 250 * int(image[0, 1])


def generated() -> dict[int, np.ndarray]:
    """Return generated images that are marked by their place, with three equal channels."""
    images = tiny_images(GENERATED).images.copy()
    images[:, 0, 0] = np.arange(GENERATED)
    images[:, 0, 1] = 77
    return {label: images[:, None].repeat(3, axis=1) for label in range(3)}


def real_images(patients: int = 120) -> RealImages:
    return draw_real(validation(patients), classes=3, seed=0)


def quiz(real: RealImages, before: int = 0, of_this: int = 0, seed: int = 5) -> list[QuizQuestion]:
    return draw_quiz(real, generated(), before=before, of_this=of_this, seed=seed)


def test_every_real_image_is_of_another_patient_and_none_of_the_grids_is_in_a_quiz() -> None:
    real = real_images()
    places = [place for part in (real.shown, real.hidden) for own in part.values() for place in own]
    assert len({real.images.patients[place] for place in places}) == len(places) == 120
    for label in range(3):
        assert len(real.shown[label]) == GRID_IMAGES
        assert set(real.images.labels[real.shown[label]]) == {label}
        assert set(real.images.labels[real.hidden[label]]) == {label}


def test_real_images_that_no_quiz_needs_are_shown_too() -> None:
    real = real_images(patients=3 * 100)
    for label in range(3):
        assert len(real.hidden[label]) == QUIZZES * QUIZ_IMAGES
        assert len(real.shown[label]) == 100 - QUIZZES * QUIZ_IMAGES
    many = real_images(patients=3 * 200)
    assert [len(many.shown[label]) for label in range(3)] == [MOST_PAGES * GRID_IMAGES] * 3


@pytest.mark.parametrize("seed", range(20))
def test_a_patient_of_several_classes_is_shown_for_the_rarest(seed: int) -> None:
    images = tiny_images(31).images
    labels = np.array([0] * 20 + [1] * 10 + [2])
    everybody = tuple(f"patient-{i}" for i in range(20)) + ("both",) * 10 + ("patient-0",)
    found = draw_real(ImageSet(images, labels, everybody, ("s",) * 31), classes=3, seed=seed)
    assert [len(found.shown[c]) + len(found.hidden[c]) for c in range(3)] == [19, 1, 1]


def test_a_quiz_has_as_many_real_as_generated_images_of_each_class_and_none_twice() -> None:
    asked = quiz(real_images())
    counts = Counter((question.label, question.real) for question in asked)
    assert set(counts.values()) == {QUIZ_IMAGES}
    assert len(counts) == 6
    for label in range(3):
        for real in (True, False):
            own = [mark(q.image) for q in asked if (q.label, q.real) == (label, real)]
            assert len(set(own)) == QUIZ_IMAGES


def test_generated_images_are_none_of_the_grid_and_never_come_again() -> None:
    real, seen = real_images(), []
    for of_this in range(GENERATED // QUIZ_IMAGES - 1):
        asked = quiz(real, of_this, of_this)
        seen += [mark(q.image) - 77 * 250 for q in asked if not q.real and q.label == 1]
    assert sorted(seen) == list(range(GRID_IMAGES, GENERATED))
    assert quiz(real, 0, GENERATED // QUIZ_IMAGES - 1) == []


def test_real_images_come_again_only_when_all_have_been_seen() -> None:
    real = real_images()  # 32 hidden ones of each class: four quizzes
    seen = [
        mark(q.image) for before in range(4) for q in quiz(real, before) if q.real and q.label == 2
    ]
    assert len(set(seen)) == len(seen) == len(real.hidden[2])
    again = {mark(q.image) for q in quiz(real, 4, 1) if q.real and q.label == 2}
    assert again < set(seen)


def test_few_patients_make_a_small_quiz_that_is_still_even() -> None:
    real = real_images(patients=9)  # three of each class: two are shown
    counts = Counter((question.label, question.real) for question in quiz(real))
    assert set(counts.values()) == {1}
    assert len(counts) == 6
    assert quiz(real_images(patients=3)) == []  # all of them are shown


def test_the_order_follows_from_the_seed_and_says_nothing() -> None:
    real = real_images()
    orders = ["".join("RG"[not q.real] for q in quiz(real, seed=seed)) for seed in range(200)]
    assert orders[3] == "".join("RG"[not q.real] for q in quiz(real, seed=3))
    assert len(set(orders)) > 190
    shares = np.mean([[letter == "R" for letter in order] for order in orders], axis=0)
    assert np.abs(shares - 0.5).max() < 0.15  # 4 standard deviations


def test_all_images_of_a_size_have_the_same_number_of_bytes_and_the_same_form() -> None:
    asked = quiz(real_images())
    flat = np.zeros((16, 16), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    contents = [plain_png(image) for image in (*(q.image for q in asked), flat, noise)]
    assert len({len(content) for content in contents}) == 1
    for content, image in zip(contents, (*(q.image for q in asked), flat, noise), strict=True):
        with Image.open(io.BytesIO(content)) as found:
            assert (found.mode, found.size, found.info) == ("L", (16, 16), {})
            assert np.array_equal(np.asarray(found), image)


def test_at_full_size_they_have_the_same_number_of_bytes_too() -> None:
    random = np.random.default_rng(0)
    images = [np.zeros((112, 112)), random.integers(0, 256, (112, 112)), np.full((112, 112), 255)]
    assert len({len(plain_png(image.astype(np.uint8))) for image in images}) == 1


def test_grey_is_the_mean_of_the_channels() -> None:
    image = np.array([0, 100, 255, 10, 101, 255, 21, 101, 255], np.uint8).reshape(3, 1, 3)
    assert as_grey(image).tolist() == [[10, 101, 255]]
    same = tiny_images(1).images[0]
    assert np.array_equal(as_grey(same[None].repeat(3, axis=0)), same)


def test_a_score_says_no_more_than_its_interval_allows() -> None:
    sharp, blind, worse = (
        score((2, 24), (22, 24)),
        score((12, 24), (13, 24)),
        score((24, 24), (5, 24)),
    )
    assert sharp.fooling_rate.value == pytest.approx(2 / 24)
    assert (sharp.told_apart, blind.told_apart, worse.told_apart) == (True, False, False)
    assert in_a_sentence(sharp) == "You can tell the generated images from real ones."
    assert "do not show" in in_a_sentence(blind)
    assert "more often than the real ones" in in_a_sentence(worse)


def test_somebody_who_guesses_is_seldom_said_to_tell_them_apart() -> None:
    random = np.random.default_rng(1)
    for chance in (0.2, 0.5, 0.8):
        draws = random.binomial(24, chance, (1000, 2)).tolist()
        told = [score((g, 24), (r, 24)).told_apart for g, r in draws]
        assert np.mean(told) < 0.05  # one side of 95 %


def test_no_answer_at_all_is_impossible_to_score() -> None:
    for counts in itertools.permutations([(0, 0), (1, 2)]):
        with pytest.raises(AssertionError):
            score(*counts)
