"""The t-SNE picture is the same every time, fair to the classes, and there for any features."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier

from acgan.data.pack import load
from selection.pictures.tsne import COLOURS, Embedding, Points, balanced, tsne_picture
from tests.kit import MINI, needs_mini

CLASSES = ("COVID-19", "normal", "pneumonia")


def blobs(count: int, *, seed: int, shift: float = 0, width: int = 8) -> Points:
    """Draw points around one corner a class, ten deviations apart."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    values = random.normal(shift, 1, (count, width))
    values[np.arange(count), labels] += 10
    return Points(values, labels)


def opened(found: Embedding) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(found.picture)) as file:
        assert file.format == "PNG"
        assert file.info.keys() <= {"dpi"}
        return np.asarray(file.convert("RGB"))


def colours(picture: NDArray[np.uint8]) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


# --- which images are shown ------------------------------------------------------------------


def test_images_are_drawn_evenly_over_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [1649, 80, 550])
    chosen = balanced(labels, most=300)
    assert np.bincount(labels[chosen]).tolist() == [100, 80, 100]
    assert len(set(chosen.tolist())) == 280
    assert (np.diff(chosen) > 0).all()
    assert (chosen == balanced(labels, most=300)).all()
    assert (chosen != balanced(labels, most=300, seed=1)).any()


def test_all_are_shown_where_they_are_few_and_none_where_there_are_none() -> None:
    assert balanced(np.array([2, 0, 0])).tolist() == [0, 1, 2]
    assert balanced(np.array([], np.int64)).tolist() == []


def test_places_belong_to_the_images_drawn() -> None:
    real, generated = blobs(120, seed=0), blobs(90, seed=1)
    found = tsne_picture(real, generated, classes=CLASSES)
    assert found.real.values.shape == (120, 2)
    assert found.generated.values.shape == (90, 2)
    assert (found.real.labels == real.labels).all()
    assert (found.generated.labels == generated.labels).all()


# --- the layout ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [8, 300])
def test_neighbours_stay_neighbours_and_classes_stay_together(width: int) -> None:
    real, generated = blobs(150, seed=0, width=width), blobs(120, seed=1, width=width)
    found = tsne_picture(real, generated, classes=CLASSES)
    places = np.concatenate([found.real.values, found.generated.values])
    features = np.concatenate([real.values, generated.values])
    assert trustworthiness(features, places, n_neighbors=30) > 0.85
    nearest = KNeighborsClassifier(5).fit(found.real.values, found.real.labels)
    assert nearest.score(found.generated.values, found.generated.labels) == 1


def test_generated_images_far_from_all_real_ones_lie_apart() -> None:
    found = tsne_picture(blobs(120, seed=0), blobs(120, seed=1, shift=30), classes=CLASSES)
    side = np.repeat([0, 1], 120)
    places = np.concatenate([found.real.values, found.generated.values])
    assert KNeighborsClassifier(5).fit(places, side).score(places, side) == 1


def test_the_same_input_gives_the_same_bytes() -> None:
    real, generated = blobs(100, seed=0), blobs(100, seed=1)
    first, again = (tsne_picture(real, generated, classes=CLASSES) for _ in range(2))
    assert first.picture == again.picture
    assert (first.real.values == again.real.values).all()


@pytest.mark.parametrize(("real", "generated"), [(1, 0), (1, 1), (2, 1), (3, 2), (0, 5), (40, 12)])
def test_few_images_are_laid_out_all_the_same(real: int, generated: int) -> None:
    found = tsne_picture(blobs(real, seed=0), blobs(generated, seed=1), classes=CLASSES)
    assert np.isfinite(found.real.values).all()
    assert np.isfinite(found.generated.values).all()
    assert opened(found).shape[1] == 1200


def test_constant_features_lie_in_one_place() -> None:
    labels = np.arange(60) % 3
    same = Points(np.full((60, 40), 0.1, np.float32), labels)
    found = tsne_picture(same, same, classes=CLASSES)
    assert not found.real.values.any()
    assert not found.generated.values.any()


def test_a_collapsed_class_is_laid_out_too() -> None:
    real, generated = blobs(60, seed=0), blobs(60, seed=1)
    collapsed = Points(np.repeat(generated.values[:1], 60, axis=0), generated.labels)
    assert np.isfinite(tsne_picture(real, collapsed, classes=CLASSES).generated.values).all()


# --- the picture -----------------------------------------------------------------------------


def test_three_panels_show_what_their_titles_say() -> None:
    """Real images are of the first class alone, generated ones of the second."""
    real, generated = blobs(60, seed=0), blobs(60, seed=1)
    first, second = (
        Points(real.values, real.labels * 0),
        Points(generated.values, real.labels * 0 + 1),
    )
    picture = opened(tsne_picture(first, second, classes=CLASSES[:2]))
    assert picture.shape == (460, 1200, 3)
    blue, orange = np.array([*map(rgb, COLOURS[:2])], np.int64)
    for panel, (has_blue, has_orange) in enumerate([(True, False), (False, True), (True, True)]):
        pixels = picture[40:415, 400 * panel + 10 : 400 * panel + 390].astype(np.int64)
        dark = pixels[pixels.min(axis=2) < 150]
        to_blue, to_orange = (np.abs(dark - c).sum(axis=1) for c in (blue, orange))
        assert (to_blue < to_orange).any() == has_blue
        assert (to_orange < to_blue).any() == has_orange
    assert {rgb(c) for c in COLOURS[:2]} <= colours(picture[420:])  # the legend


@needs_mini
def test_pixels_of_real_x_rays_are_laid_out(tmp_path: Path) -> None:
    data = load(str(MINI), image_size=16, cache=tmp_path)
    sides = [
        Points(images.images.reshape(len(images), -1).astype(np.float32), images.labels)
        for images in (data.val, data.test)
    ]
    found = tsne_picture(*sides, classes=data.classes)
    assert np.isfinite(found.real.values).all()
    assert {rgb(c) for c in COLOURS[:3]} <= colours(opened(found))


def test_ten_classes_have_ten_colours() -> None:
    labels = np.arange(40) % 10
    points = Points(np.random.default_rng(0).normal(size=(40, 4)), labels)
    picture = opened(tsne_picture(points, points, classes=[f"class {i}" for i in range(10)]))
    assert len(set(COLOURS)) == len(COLOURS) >= 10
    assert {rgb(colour) for colour in COLOURS[:10]} <= colours(picture)
