"""Walks end at their latents' own images, take steps like any latent, and keep classes in order."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acgan.evaluation.grids import GRID_TILE, to_uint8
from acgan.gan.models import Generator
from acgan.generation.generator import LoadedGenerator, NotFiniteError, generate, images_of
from selection.pictures.walks import (
    LATENTS,
    WALK_STEPS,
    WALKS,
    between,
    changes,
    changes_picture,
    walks,
    walks_picture,
)
from tests.kit import CLASSES, tiny_config


def uniform(count: int, width: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, width, generator=random).mul_(2).sub_(1)


@pytest.fixture(scope="module")
def loaded() -> LoadedGenerator:
    """A generator with random weights, whose classes and latents all differ."""
    config = tiny_config()
    torch.manual_seed(0)
    generator = Generator(config, len(CLASSES)).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(3)
    cpu = torch.device("cpu")
    return LoadedGenerator(generator, cpu, config, CLASSES, run="t0000", epoch=1, sha256="0" * 64)


def test_a_path_ends_exactly_at_its_latents_and_its_steps_stay_in_the_cube() -> None:
    first, second = uniform(2, 50_000, seed=0)
    path = between(first, second)
    assert path.shape == (WALK_STEPS, 50_000)
    assert path.dtype == first.dtype
    assert torch.equal(path[0], first)
    assert torch.equal(path[-1], second)
    assert path.abs().max() <= 1


def test_every_step_of_a_path_is_distributed_as_a_latent_and_a_straight_line_is_not() -> None:
    first, second = uniform(2, 50_000, seed=1)
    for step in between(first, second):
        # Kolmogorov's distance to U(-1, 1); 1.95 / sqrt(n) is passed once in a thousand times.
        ordered = step.double().add(1).div(2).sort().values
        shares = (torch.arange(50_000) + 0.5) / 50_000
        assert (ordered - shares).abs().max() < 1.95 / 50_000**0.5
        assert step.norm() / first.norm() == pytest.approx(1, abs=0.01)
    middle = (first + second) / 2
    assert middle.norm() / first.norm() == pytest.approx(0.5**0.5, abs=0.01)


def test_equal_steps_turn_by_equal_angles() -> None:
    first, second = uniform(2, 20_000, seed=2)
    path = between(first, second, steps=5)
    normal = torch.special.ndtri(path.double().add(1).div(2).clamp(1e-7, 1 - 1e-7))
    angles = [
        torch.nn.functional.cosine_similarity(one, other, dim=0).acos()
        for one, other in itertools.pairwise(normal)
    ]
    np.testing.assert_allclose(angles, np.pi / 2 / 4, atol=0.02)


def test_the_ends_of_the_cube_are_no_infinity() -> None:
    path = between(torch.tensor([-1.0, 1.0, -1.0]), torch.tensor([1.0, -1.0, -1.0]))
    assert path.isfinite().all()
    assert path.abs().max() <= 1


def test_the_ends_of_a_walk_are_the_generators_own_images(loaded: LoadedGenerator) -> None:
    images = walks(loaded, seed=3)
    by_path = images.reshape(len(CLASSES), WALKS, WALK_STEPS, *images.shape[1:])
    ends = _ends(loaded, seed=3)
    for label in range(len(CLASSES)):
        for path in range(WALKS):
            own = images_of(loaded, ends[path], torch.full((2,), label))
            np.testing.assert_array_equal(by_path[label, path, [0, -1]], own)
            with torch.no_grad():  # and without this module's help, but for rounding
                alone = to_uint8(loaded.generator(ends[path], torch.full((2,), label))).numpy()
            assert np.abs(own.astype(int) - alone).max() <= 1
    assert (by_path[:, :, 0] != by_path[:, :, -1]).any()


def _ends(loaded: LoadedGenerator, *, seed: int) -> torch.Tensor:
    """Draw a walk's ends as its documentation says: latents of one seed, two a path."""
    from acgan.config import derive_seed

    width = loaded.config.latent_size
    return uniform(2 * WALKS, width, derive_seed(seed, "walks")).view(WALKS, 2, width)


def test_column_k_is_class_k_at_the_rows_latent(loaded: LoadedGenerator) -> None:
    classes = len(CLASSES)
    images = changes(loaded, seed=4)
    rows = images.reshape(LATENTS, classes, *images.shape[1:])
    from acgan.config import derive_seed

    latents = uniform(LATENTS, loaded.config.latent_size, derive_seed(4, "walks"))
    for label in range(classes):
        own = images_of(loaded, latents, torch.full((LATENTS,), label))
        np.testing.assert_array_equal(rows[:, label], own)
    assert (rows[:, 0] != rows[:, 1]).any()
    assert (rows[:, 1] != rows[:, 2]).any()
    picture = np.asarray(Image.open(io.BytesIO(changes_picture(loaded, seed=4))))
    side = GRID_TILE // 16 * 16
    assert picture.shape == (LATENTS * side, classes * side, 3)
    tile = picture[side : 2 * side, 2 * side : 3 * side]
    wanted = rows[1, 2].transpose(1, 2, 0).repeat(side // 16, 0).repeat(side // 16, 1)
    np.testing.assert_array_equal(tile, wanted)


def test_a_picture_of_walks_has_a_row_a_path_and_is_always_the_same(
    loaded: LoadedGenerator,
) -> None:
    content = walks_picture(loaded, seed=0)
    assert content == walks_picture(loaded, seed=0)
    assert content != walks_picture(loaded, seed=1)
    side = GRID_TILE // 16 * 16
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (WALK_STEPS * side, WALKS * len(CLASSES) * side)


@pytest.mark.parametrize("count", [1, 64, 65])
def test_any_number_of_latents_has_its_images(loaded: LoadedGenerator, count: int) -> None:
    latents = uniform(65, loaded.config.latent_size, seed=5)
    labels = torch.arange(65) % 3
    some = images_of(loaded, latents[:count], labels[:count])
    assert some.shape == (count, 3, 16, 16)
    np.testing.assert_array_equal(some, images_of(loaded, latents, labels)[:count])


def test_images_of_latents_are_those_that_generate_makes(loaded: LoadedGenerator) -> None:
    from acgan.config import derive_seed

    latents = uniform(64, loaded.config.latent_size, derive_seed(7, 1, 0))
    made = images_of(loaded, latents, torch.ones(64, dtype=torch.int64))
    np.testing.assert_array_equal(made, generate(loaded, 1, count=64, seed=7))


def test_pixels_that_are_not_finite_are_refused(tmp_path: Path, loaded: LoadedGenerator) -> None:
    latents = torch.full((1, loaded.config.latent_size), float("nan"))
    with pytest.raises(NotFiniteError):
        images_of(loaded, latents, torch.zeros(1, dtype=torch.int64))
