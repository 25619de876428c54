"""A sheet of the built-in data set's X-rays, to look at (see `acgan.data.phantom`).

python -m acgan.phantom --out sheet.png
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from acgan.command import command, command_parser, run_command
from acgan.data.phantom import CLASSES, make
from acgan.errors import InputError


def sheet(image_size: int) -> Image.Image:
    """Draw a labelled sheet of training images, one row per class."""
    train, _ = make(image_size)
    columns, margin, gap = 8, 92, 2
    cell = image_size + gap
    page = Image.new("L", (margin + columns * cell, len(CLASSES) * cell), 255)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=14)
    for row, name in enumerate(CLASSES):
        middle = row * cell + image_size // 2
        draw.text((margin - 8, middle), name, fill=0, font=font, anchor="rm")
        for column, index in enumerate(np.flatnonzero(train.labels == row)[:columns]):
            page.paste(Image.fromarray(train.images[index]), (margin + column * cell, row * cell))
    return page


@command
def main(arguments: Sequence[str] | None) -> int:
    """Write a labelled sheet of phantoms; return the exit code."""
    parser = command_parser("acgan.phantom", "Write a sheet of phantom X-rays, a row per class.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--image-size", type=int, default=112, metavar="PIXELS")
    options = parser.parse_args(arguments)
    return run_command(
        lambda: _write_sheet(options.out, options.image_size), resume="type the same command again"
    )


def _write_sheet(path: Path, image_size: int) -> int:
    if path.suffix != ".png" or not path.parent.is_dir():
        raise InputError(f"--out {path} must be a .png file in a folder that exists")
    sheet(image_size).save(path, optimize=True)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    main()
