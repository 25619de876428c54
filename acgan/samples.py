"""The sample grids that a run has left: where they are, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from acgan.records import EpochRecord


def sample_grids(run: Path, records: Sequence[EpochRecord]) -> list[tuple[EpochRecord, Path]]:
    """Return the epochs that have a sample grid, and where; none where a crafted file points."""
    return [
        (record, run / record.samples)
        for record in records
        if record.samples is not None and Path(record.samples).parent == Path("samples")
    ]


def read_grid(path: Path) -> Image.Image:
    """Read a sample grid; `ValueError` for a file that is missing or no image."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.copy()
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be read") from error
