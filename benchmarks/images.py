"""Data folders to measure on, written anew: large images as COVIDx has them, and many tiny ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acgan.data import phantom

SIDE = 1024  # pixels, as in most of COVIDx
TINY = 16  # pixels
JPEG_QUALITY = 90
CLOUD, GRAIN = 12.0, 3.0  # grey levels: without them the phantoms are each other's near-duplicates
TEST_EVERY = 6


def write_large(folder: Path, count: int, form: str) -> None:
    """Write phantoms as grey images of 1,024 pixels a side, "PNG" or "JPEG"."""
    drawn = _drawn()
    random = np.random.default_rng(0)

    def write(path: Path, number: int) -> None:
        pixels = _enlarged(drawn[number % len(drawn)].astype(np.float32))
        cloud = _enlarged(random.normal(0, CLOUD, (TINY, TINY)).astype(np.float32))
        grain = random.normal(0, GRAIN, (SIDE, SIDE)).astype(np.float32)
        grey = (pixels + cloud + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(grey).save(path, form, quality=JPEG_QUALITY)

    _write_folder(folder, count, form.lower(), write)


@functools.cache
def _drawn() -> NDArray[np.uint8]:
    return phantom.make(256)[0].images


def _enlarged(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def write_tiny(folder: Path, count: int) -> None:
    """Write noise as grey PNG of 16 pixels a side."""
    random = np.random.default_rng(0)

    def write(path: Path, number: int) -> None:  # noqa: ARG001
        pixels = random.integers(0, 256, (TINY, TINY), np.uint8)
        Image.fromarray(pixels).save(path, "PNG", compress_level=1)

    _write_folder(folder, count, "png", write)


def _write_folder(
    folder: Path, count: int, ending: str, write: Callable[[Path, int], None]
) -> None:
    """Write images in the COVIDx layout, every sixth for test; each is of a patient of its own."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for split in lines:
        (folder / split).mkdir(parents=True)
    for number in range(count):
        split = "train" if number % TEST_EVERY else "test"
        name = f"{number:06d}.{ending}"
        write(folder / split / name, number)
        class_name = phantom.CLASSES[number // TEST_EVERY % len(phantom.CLASSES)]
        lines[split].append(f"patient-{number} {name} {class_name} cohen\n")
    for split, own in lines.items():
        (folder / f"{split}.txt").write_text("".join(own))
