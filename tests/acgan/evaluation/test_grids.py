from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acgan.evaluation.grids import png, read_grid, sample_grids, tile, to_uint8
from acgan.run.records import EpochRecord


def record(epoch: int, samples: str | None) -> EpochRecord:
    return EpochRecord(epoch=epoch, time=1.0, metrics={}, samples=samples)


def test_epochs_without_a_grid_and_places_elsewhere_are_passed_over(tmp_path: Path) -> None:
    kept = record(2, "samples/epoch-0002.png")
    crafted = ["../../secret.png", "/etc/passwd", "samples/../secret.png", "samples/deep/x.png", ""]
    records = [record(1, None), kept, *(record(3, path) for path in crafted)]
    assert sample_grids(tmp_path, records) == [(kept, tmp_path / "samples" / "epoch-0002.png")]


def test_a_grid_is_read_and_what_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    with pytest.raises(ValueError, match=r"grid\.png is missing"):
        read_grid(path)
    Image.new("L", (5, 3), 7).save(path)
    grid = read_grid(path)
    assert (grid.size, grid.getpixel((4, 2))) == ((5, 3), 7)
    for content in (b"", path.read_bytes()[:40], b"GIF89a"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"grid\.png is no image that can be read"):
            read_grid(path)


def test_to_uint8_rounds_to_the_nearest_and_clamps() -> None:
    grey = torch.tensor([-3.0, -0.6, 0.4, 0.6, 127.4, 127.6, 254.4, 254.6, 300])
    assert to_uint8(grey / 127.5 - 1).tolist() == [0, 0, 0, 1, 127, 128, 254, 255, 255]


def test_tile_lays_images_out_row_by_row_and_leaves_the_rest_black() -> None:
    images = np.random.default_rng(0).integers(1, 256, (5, 3, 4, 6), dtype=np.uint8)
    sheet = tile(images, 3)
    assert sheet.shape == (8, 18, 3)
    for index, image in enumerate(images):
        top, left = 4 * (index // 3), 6 * (index % 3)
        cell = sheet[top : top + 4, left : left + 6]
        np.testing.assert_array_equal(cell, image.transpose(1, 2, 0))
    assert not sheet[4:, 12:].any()


def test_png_gives_back_the_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(png(picture)))), picture)
