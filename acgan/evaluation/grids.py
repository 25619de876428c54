"""Sheets of images: how they are drawn, and a run's sample grids, where they are."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from acgan.run.records import EpochRecord

GRID_COLUMNS = 8
GRID_TILE = 112  # pixels a side that a person can see
UNTRAINED = 0  # the epoch as which a run keeps its untrained generator's sample grid


def to_uint8(images: Tensor) -> Tensor:
    """Convert images in [-1, 1] to the precision of a saved image, uint8."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def as_colour(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images [N, H, W] or [N, 3, H, W] as [N, 3, H, W]."""
    return images if images.ndim == 4 else images[:, None].repeat(3, axis=1)


def as_grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images [N, 3, H, W] as [N, H, W], as they would be read in grey from their files."""
    pictures = (Image.fromarray(image.transpose(1, 2, 0)) for image in images)
    return np.stack([np.asarray(picture.convert("L")) for picture in pictures])


def tile(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Lay out images [N, 3, H, W] row by row as one picture [rows · H, columns · W, 3]."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, channels, height, width), np.uint8)
    sheet[:count] = images
    grid = sheet.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(rows * height, columns * width, channels)


def grid(images: NDArray[np.uint8], *, columns: int = GRID_COLUMNS) -> bytes:
    """Return a PNG of images [N, 3, H, W], so many per row.

    Small images are shown larger, each pixel as a square, so that a person can see them.
    """
    square = max(1, GRID_TILE // images.shape[-1])
    return png(tile(images, columns).repeat(square, axis=0).repeat(square, axis=1))


def png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture [H, W, 3] as PNG."""
    with io.BytesIO() as file:
        Image.fromarray(picture).save(file, format="PNG")
        return file.getvalue()


def sample_grids(run: Path, records: Sequence[EpochRecord]) -> list[tuple[EpochRecord, Path]]:
    """Return the epochs that have a sample grid, and where; none where a crafted file points."""
    return [
        (record, run / record.samples)
        for record in records
        if record.samples is not None and Path(record.samples).parent == Path("samples")
    ]


def untrained_grid(run: Path) -> Path:
    """Return where the untrained generator's sample grid is; an older version left none."""
    return run / "samples" / f"epoch-{UNTRAINED:04d}.png"


def read_grid(path: Path) -> Image.Image:
    """Read a sample grid; `ValueError` for a file that is missing or no image."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.copy()
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be read") from error
