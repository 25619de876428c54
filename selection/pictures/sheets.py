"""Sheets of images: some of each class, and generated ones beside the nearest training images."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from acgan.evaluation.grids import GRID_COLUMNS, as_colour, grid, png, tile
from selection.metrics.memorisation import Pair

SHEET_COLUMNS = 4
SHEET_TILE = 112  # pixels a side, at least: what a person can see
CAPTION = 16
GAP = 8  # pixels between two pairs


def sample_grid(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> bytes:
    """Return a PNG of the first eight images of each class, one row per class.

    images: uint8 [N, H, W] or [N, 3, H, W]
    """
    colour = as_colour(images)
    rows = [colour[labels == label][:GRID_COLUMNS] for label in np.unique(labels)]
    sheet = np.zeros((len(rows) * GRID_COLUMNS, *colour.shape[1:]), np.uint8)
    for row_number, row in enumerate(rows):
        sheet[row_number * GRID_COLUMNS : row_number * GRID_COLUMNS + len(row)] = row
    return grid(sheet)


def contact_sheet(
    pairs: Sequence[Pair],
    generated: NDArray[np.uint8],
    train: NDArray[np.uint8],
    *,
    classes: Sequence[str],
) -> bytes:
    """Return a PNG of one pair or more, four a row: generated, its nearest training image, ratio.

    generated, train: the images of the samples that were compared
    """
    cells = [_drawn(pair, generated[pair.generated], train[pair.train], classes) for pair in pairs]
    return png(tile(np.stack(cells), SHEET_COLUMNS))


def _drawn(
    pair: Pair, generated: NDArray[np.uint8], train: NDArray[np.uint8], classes: Sequence[str]
) -> NDArray[np.uint8]:
    """Return two images side by side above a caption, [3, H, W]."""
    square = math.ceil(SHEET_TILE / generated.shape[-1])
    shape = (3, *generated.shape[-2:])
    both = np.concatenate([np.broadcast_to(x, shape) for x in (generated, train)], axis=2)
    both = both.repeat(square, axis=1).repeat(square, axis=2)
    _, height, width = both.shape
    canvas = Image.new("RGB", (width + GAP, height + CAPTION))
    canvas.paste(Image.fromarray(both.transpose(1, 2, 0)))
    text = f"{classes[pair.label]}, {pair.space}: {pair.ratio:.2f}"
    ImageDraw.Draw(canvas).text((2, height), text, font=ImageFont.load_default(12))
    return np.asarray(canvas).transpose(2, 0, 1)
