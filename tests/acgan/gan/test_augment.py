"""Shear and zoom are those of Keras' `ImageDataGenerator`, resampled as SciPy does."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch import Tensor

from acgan.gan.augment import augment, matrices, warp

Array = NDArray[np.float64]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def keras_map(shear_degrees: float, zoom_x: float, zoom_y: float) -> Array:
    """Return Keras' map of (x, y) = (column, row), from output to input, around the centre."""
    s = math.radians(shear_degrees)
    shear = np.array([[1, -math.sin(s)], [0, math.cos(s)]])
    return shear @ np.diag([zoom_x, zoom_y])


def keras_warp(image: Array, of_xy: Array) -> Array:
    """Resample [H, W] as Keras does: SciPy counts (row, column), the centre is (n - 1) / 2."""
    of_rows_and_columns = of_xy[::-1, ::-1]
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - of_rows_and_columns @ centre
    resampled: Array = ndimage.affine_transform(
        image, of_rows_and_columns, offset, order=1, mode="nearest"
    )
    return resampled


def pictures(count: int, size: int) -> Array:
    return np.random.default_rng(0).uniform(-1, 1, (count, 1, size, size))


def drawn(count: int, *, shear_degrees: float, zoom: float) -> Array:
    maps = matrices(count, shear_degrees=shear_degrees, zoom=zoom, random=seeded())
    result: Array = maps.double().numpy()
    return result


@pytest.mark.parametrize("size", [16, 23])
@pytest.mark.parametrize(
    ("shear_degrees", "zoom_x", "zoom_y"),
    [(0.1, 0.9, 1.1), (0, 1.1, 0.9), (20, 1, 1), (-35, 0.8, 1.3), (10, 1.5, 1.5), (0, 0.5, 0.5)],
)
def test_warp_is_keras_affine_transform_inside_and_at_the_edges(
    size: int, shear_degrees: float, zoom_x: float, zoom_y: float
) -> None:
    images, of_xy = pictures(2, size), keras_map(shear_degrees, zoom_x, zoom_y)
    expected = np.array([[keras_warp(image[0], of_xy)] for image in images])
    warped = warp(torch.from_numpy(images), torch.from_numpy(of_xy).expand(2, -1, -1))
    np.testing.assert_allclose(warped.numpy(), expected, atol=1e-9)


def test_a_shift_moves_the_whole_image_by_so_many_half_images() -> None:
    images = torch.from_numpy(pictures(2, 10)).reshape(2, 1, 10, 10)
    still = torch.eye(2, dtype=images.dtype).expand(2, 2, 2)
    shifts = torch.tensor([[0.2, 0.0], [0.0, -0.4]], dtype=images.dtype)  # 1 column, -2 rows
    moved = warp(images, still, shifts)
    torch.testing.assert_close(moved[0, 0, :, :-1], images[0, 0, :, 1:])
    torch.testing.assert_close(moved[0, 0, :, -1], images[0, 0, :, -1])  # the edge is repeated
    torch.testing.assert_close(moved[1, 0, 2:], images[1, 0, :-2])
    torch.testing.assert_close(warp(images, still, 0 * shifts), warp(images, still))


def test_shear_moves_rows_sideways() -> None:
    column = np.zeros((1, 1, 9, 9))
    column[..., 4] = 1
    sheared = warp(torch.from_numpy(column), torch.from_numpy(keras_map(30, 1, 1))[None])[0, 0]
    assert sheared[4, 4] == pytest.approx(1)
    assert sheared[6].argmax() == 5
    assert sheared[2].argmax() == 3


def test_drawn_maps_are_shear_times_zoom_as_keras_multiplies_them() -> None:
    for map_ in drawn(50, shear_degrees=25, zoom=0.3):
        shear = math.degrees(math.atan2(-map_[0, 1], map_[1, 1]))
        zoom_y = math.hypot(map_[0, 1], map_[1, 1])
        np.testing.assert_allclose(map_, keras_map(shear, map_[0, 0], zoom_y), atol=1e-6)


def test_drawn_shear_and_zooms_are_uniform_in_their_ranges_and_independent() -> None:
    maps = drawn(20_000, shear_degrees=25, zoom=0.3)
    shear = np.degrees(np.arctan2(-maps[:, 0, 1], maps[:, 1, 1]))
    zooms = maps[:, 0, 0], np.hypot(maps[:, 0, 1], maps[:, 1, 1])
    assert stats.kstest(shear, stats.uniform(-25, 50).cdf).pvalue > 1e-3
    for zoom in zooms:
        assert stats.kstest(zoom, stats.uniform(0.7, 0.6).cdf).pvalue > 1e-3
    correlations = np.corrcoef([shear, *zooms])[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 5 / math.sqrt(20_000)


def test_published_ranges_move_a_pixel_by_a_tenth_of_its_distance_at_most() -> None:
    maps = drawn(20_000, shear_degrees=0.1, zoom=0.1)
    assert np.abs(maps - np.eye(2)).max() <= 0.1 + 1e-6
    assert np.abs(maps[:, 0, 1]).max() <= 1.1 * math.radians(0.1)
    assert not maps[:, 1, 0].any()


def test_augment_warps_each_image_by_its_own_drawn_map() -> None:
    images = torch.from_numpy(pictures(6, 16)).float()
    augmented = augment(images, shear_degrees=20, zoom=0.3, random=seeded(7))
    maps = matrices(6, shear_degrees=20, zoom=0.3, random=seeded(7)).double().numpy()
    assert len(np.unique(maps[:, 0, 0])) == 6
    for image, map_, result in zip(images, maps, augmented, strict=True):
        expected = keras_warp(image[0].double().numpy(), map_)
        np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-4)


def test_at_zero_nothing_changes_and_nothing_is_drawn() -> None:
    images, random = torch.rand(3, 1, 16, 16), seeded()
    state = random.get_state()
    assert torch.equal(augment(images, shear_degrees=0, zoom=0, random=random), images)
    assert torch.equal(random.get_state(), state)


@pytest.mark.parametrize("settings", [(0.0, 0.1), (0.1, 0.0)])
def test_shear_and_zoom_work_alone(settings: tuple[float, float]) -> None:
    shear_degrees, zoom = settings
    maps = drawn(100, shear_degrees=shear_degrees, zoom=zoom)
    assert bool(maps[:, 0, 1].any()) == (shear_degrees > 0)
    assert bool((maps[:, 0, 0] != 1).any()) == (zoom > 0)


def test_the_same_seed_augments_alike_and_leaves_the_global_random_state() -> None:
    images = torch.from_numpy(pictures(4, 16)).float()
    before = torch.get_rng_state()

    def once(seed: int) -> Tensor:
        return augment(images, shear_degrees=5, zoom=0.2, random=seeded(seed))

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_augmented_values_stay_within_those_of_the_image() -> None:
    images = torch.from_numpy(pictures(20, 16)).float()
    augmented = augment(images, shear_degrees=45, zoom=0.9, random=seeded())
    assert augmented.min() >= images.min() - 1e-6
    assert augmented.max() <= images.max() + 1e-6
