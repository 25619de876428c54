"""The phantom data: reproducible, chest-like, of three classes that differ but not trivially."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from acgan.data import phantom
from acgan.data.dataset import ImageSet
from acgan.errors import InputError
from acgan.evaluation.classifier import fit_last, predict
from acgan.evaluation.fit import FitConfig
from acgan.phantom import main


@pytest.fixture(scope="module")
def sets() -> tuple[ImageSet, ImageSet]:
    return phantom.make(32)


def region(images: ImageSet, label: int, rows: slice, columns: slice) -> NDArray[np.float64]:
    """The mean grey value of a part of each image of one class."""
    part = images.images[images.labels == label, rows, columns]
    means: NDArray[np.float64] = part.reshape(len(part), -1).mean(axis=1)
    return means


def test_the_bytes_are_the_ones_every_machine_makes(sets: tuple[ImageSet, ImageSet]) -> None:
    digest = hashlib.sha256(b"".join(part.images.tobytes() for part in sets)).hexdigest()
    assert digest == "6b7c073674d2e469102a16a21a2bc2a84a4a73cdc8995d1fb30d5ae6fa84f620"


def test_another_seed_has_other_patients(sets: tuple[ImageSet, ImageSet]) -> None:
    for first, other in zip(sets, phantom.make(32, seed=1), strict=True):
        assert not np.array_equal(first.labels, other.labels)
        assert (first.images != other.images).any(axis=(1, 2)).all()


def test_every_image_size_shows_the_same_patients(sets: tuple[ImageSet, ImageSet]) -> None:
    for small, large in zip(sets, phantom.make(64), strict=True):
        assert np.array_equal(small.labels, large.labels)
        assert small.patients == large.patients
        halved = large.images.reshape(len(large), 32, 2, 32, 2).mean(axis=(2, 4))
        assert np.abs(halved - small.images).mean() < 4


def test_the_sets_have_the_promised_sizes_and_class_mix(sets: tuple[ImageSet, ImageSet]) -> None:
    train, test = sets
    assert (len(train), len(test)) == (479, 151)
    assert train.images.shape == (479, 32, 32)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    shares = np.array(train.per_class(3)) / len(train)
    assert np.allclose(shares, (0.24, 0.40, 0.36), atol=0.02)


def test_a_fifth_of_the_rarest_class_is_twenty_patients(sets: tuple[ImageSet, ImageSet]) -> None:
    train, _ = sets
    patients = {(p, label) for p, label in zip(train.patients, train.labels.tolist(), strict=True)}
    assert len(patients) == len(set(train.patients))
    assert min(Counter(label for _, label in patients).values()) // 5 >= 20


def test_no_patient_is_in_both_sets_and_few_have_two_images(
    sets: tuple[ImageSet, ImageSet],
) -> None:
    train, test = sets
    assert not set(train.patients) & set(test.patients)
    counts = Counter(Counter(train.patients).values())
    assert set(counts) == {1, 2}
    assert counts[1] > 10 * counts[2]


def test_source_and_class_are_independent(sets: tuple[ImageSet, ImageSet]) -> None:
    train, _ = sets
    second = np.array(train.sources) == phantom.SOURCES[1]
    for label in range(3):
        assert abs(second[train.labels == label].mean() - second.mean()) < 0.12


def test_lungs_are_darker_than_mediastinum_and_belly(sets: tuple[ImageSet, ImageSet]) -> None:
    train, _ = sets
    lungs = region(train, phantom.NORMAL, slice(11, 18), slice(8, 12))
    middle = region(train, phantom.NORMAL, slice(11, 18), slice(15, 17))
    belly = region(train, phantom.NORMAL, slice(28, 32), slice(8, 24))
    assert (lungs < middle).all()
    assert (lungs < belly).all()


def test_the_heart_lies_to_the_images_right(sets: tuple[ImageSet, ImageSet]) -> None:
    train, _ = sets
    heart = region(train, phantom.NORMAL, slice(17, 21), slice(18, 21))
    mirrored = region(train, phantom.NORMAL, slice(17, 21), slice(11, 14))
    assert np.mean(heart > mirrored) > 0.95


def test_haze_is_on_both_sides_and_pneumonia_on_one(sets: tuple[ImageSet, ImageSet]) -> None:
    train, _ = sets
    images = train.images.astype(float)
    outer_right, outer_left = images[:, 16:22, 6:10], images[:, 16:22, 22:26]
    belly = images[:, 28:, 8:24].mean(axis=(1, 2))
    right = outer_right.mean(axis=(1, 2)) / belly
    left = outer_left.mean(axis=(1, 2)) / belly
    both = {label: np.minimum(right, left)[train.labels == label].mean() for label in range(3)}
    apart = {label: np.abs(right - left)[train.labels == label].mean() for label in range(3)}
    assert both[phantom.COVID] > 1.1 * max(both[phantom.NORMAL], both[phantom.PNEUMONIA])
    assert apart[phantom.PNEUMONIA] > 1.2 * max(apart[phantom.NORMAL], apart[phantom.COVID])


def test_the_mean_grey_value_alone_does_not_tell_the_classes(
    sets: tuple[ImageSet, ImageSet],
) -> None:
    train, test = sets
    grey = [part.images.mean(axis=(1, 2)) for part in sets]
    centres = np.array([grey[0][train.labels == label].mean() for label in range(3)])
    guess = np.abs(grey[1][:, None] - centres).argmin(axis=1)
    assert np.mean(guess == test.labels) < 0.65


@pytest.mark.process
def test_the_published_cnn_tells_the_classes(sets: tuple[ImageSet, ImageSet]) -> None:
    train, test = sets
    config = FitConfig(learning_rate=5e-4, epochs=15, batch_size=16)
    (model,) = fit_last(train.images, train.labels, config=config, classes=3, seed=0)
    guess = predict(model, test.images).argmax(dim=1).numpy()
    assert np.mean(guess == test.labels) >= 0.9


@pytest.mark.parametrize("size", [0, 15, 257])
def test_an_image_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="from 16 to 256"):
        phantom.make(size)


def test_the_command_writes_a_labelled_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "sheet.png"
    assert main(["--out", str(target), "--image-size", "16"]) == 0
    with Image.open(target) as page:
        assert page.height == 3 * 18
    assert main(["--out", str(target), "--image-size", "8"]) == 2
    assert "from 16 to 256" in capsys.readouterr().err
