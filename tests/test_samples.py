from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from acgan.records import EpochRecord
from acgan.samples import read_grid, sample_grids


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
