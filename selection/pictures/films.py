"""A trial's sample grids as a film: the same latents, epoch by epoch."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from acgan.evaluation.grids import read_grid, sample_grids
from acgan.run.records import EpochRecord
from search.study.folder import Trial

LIMIT_BYTES = 3_000_000
MOST_FRAMES = 400  # a full-size run has 388 epochs
MOST_PIXELS = 40_000_000  # of all frames together
FILM_MS, LAST_MS = 12_000, 2_000
SHORTEST_MS, LONGEST_MS = 40, 600

FILM_QUALITY = 70  # of lossy WebP: a tenth of the size of PNG, and of frames that pass by
SMALLER = 0.75  # at a time, until the film fits
STRIP, FONT_SIZE = 22, 14  # pixels
NARROWEST = 160  # so that no epoch is cut off: frames that look the same become one


@dataclass(frozen=True)
class Film:
    """An animated WebP, and the epochs that it shows."""

    content: bytes
    epochs: tuple[int, ...]


def film(trial: Trial, records: Sequence[EpochRecord], *, limit: int = LIMIT_BYTES) -> Film | None:
    """Return a trial's kept sample grids in the order of their epochs; None if there are none.

    A frame for each, with its epoch above it; of more than 400 every second, third, … and the
    last. Frames are made smaller until the film has at most `limit` bytes. A grid that is missing
    or damaged is passed over. The same grids give the same bytes.
    """
    paths = [(record.epoch, path) for record, path in sample_grids(trial.path, records)]
    step = -(-len(paths) // MOST_FRAMES)
    chosen = [*paths[:-1][::step], *paths[-1:]] if paths else []
    scale = 1.0
    while True:
        # Read again for each size: all of them as they are may take gigabytes.
        grids = list(_grids(chosen, scale))
        if not grids:
            return None
        content = _encoded([_frame(trial.name, *grid) for grid in grids])
        if len(content) <= limit or max(grids[0][1].size) < 64:
            return Film(content, tuple(epoch for epoch, _ in grids))
        scale *= SMALLER


def _grids(paths: Sequence[tuple[int, Path]], scale: float) -> Iterator[tuple[int, Image.Image]]:
    """Yield the grids that can be read, all in one size: at most `MOST_PIXELS` in all."""
    size: tuple[int, int] | None = None
    for epoch, path in paths:
        try:
            grid = read_grid(path).convert("RGB")
        except ValueError:
            continue
        if size is None:
            most = (MOST_PIXELS / (grid.width * grid.height * len(paths))) ** 0.5
            width, height = (max(round(side * min(1.0, most) * scale), 1) for side in grid.size)
            size = width, height
        yield epoch, grid.resize(size, Image.Resampling.BOX)


def _frame(name: str, epoch: int, grid: Image.Image) -> Image.Image:
    frame = Image.new("RGB", (max(grid.width, NARROWEST), grid.height + STRIP), "white")
    frame.paste(grid, (0, STRIP))
    font = ImageFont.load_default(FONT_SIZE)
    ImageDraw.Draw(frame).text((4, 2), f"{name}, epoch {epoch}", "black", font)
    return frame


def _encoded(frames: Sequence[Image.Image]) -> bytes:
    each = min(max(FILM_MS // len(frames), SHORTEST_MS), LONGEST_MS)
    first, *others = frames
    with io.BytesIO() as file:
        first.save(
            file,
            "WEBP",
            save_all=True,
            append_images=others,
            duration=[*[each] * len(others), LAST_MS],
            loop=0,
            quality=FILM_QUALITY,
            method=3,
        )
        return file.getvalue()
