"""One image file to grey pixels, in every colour mode that COVIDx versions and hospitals use."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError
from tqdm import tqdm  # type: ignore[import-untyped]

from acgan.errors import InputError

# Of oddities that do not change the pixels. For good: threads cannot each have their own filters.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
FILE_LIMIT_BYTES = 256 * 1024**2
PIXEL_LIMIT = 64_000_000
SIDE_LIMIT = 65_535  # of a JPEG; resizing a longer side would need gigabytes

_IMPORTING = threading.Lock()  # what an import raises in one thread, others see as half a module
_BATCH = 1 << 20
_HASHED_SIDE = 256  # pixels that the shorter side keeps, at least, for the hash
# The kinds of error that Pillow's decoders raise on broken files; it documents no common base.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Facts:
    """What is known of one image file.

    sha256: of the file's bytes, "" where they cannot be read
    near_hash: perceptual hash, 64 bytes; empty where the image cannot be decoded
    problem: why the image cannot be used, "" where it can
    """

    sha256: str
    near_hash: bytes
    problem: str


def grey(raw: bytes) -> Image.Image:
    """Decode an image file's bytes to 8-bit grey, upright, at its own size.

    Transparency is laid on black, an X-ray's background. The name's ending does not matter.
    Deep grey is scaled by the full range of 8, 10, 12, 14 or 16 bits, whichever the maximum
    needs: an image is the same in 8 and in 16 bits, and 12 bits in 16 are not black. A DICOM file
    is shown as its header says (`acgan.dicom.grey`).
    Raises one of several exceptions for bytes that are no such image, for several frames, and for
    what exceeds the limits, which are set so that no image needs more than 1.1 GB of memory;
    `InputError` for a DICOM file where a package is missing that reads it.
    """
    if raw[128:132] == b"DICM":
        return _from_dicom(raw)
    with Image.open(io.BytesIO(raw), formats=FORMATS) as opened:
        _check_size(*opened.size)
        if getattr(opened, "is_animated", False):
            raise ValueError("it has several frames; keep the one that is meant")
        # Pillow takes every CMYK JPEG for Adobe's, which is stored inverted.
        inverted = opened.mode == "CMYK" and opened.format == "JPEG" and "adobe" not in opened.info
        ImageOps.exif_transpose(opened, in_place=True)
        image: Image.Image = opened
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.mode.startswith("I"):
        return _from_deep_grey(np.asarray(image))
    if inverted:
        image = ImageChops.invert(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image if image.mode == "L" else image.convert("RGB").convert("L")


def _check_size(width: int, height: int, *, samples: int = 1) -> None:
    if width * height * samples > PIXEL_LIMIT or max(width, height) > SIDE_LIMIT:
        raise ValueError(f"{width} x {height} pixels are too many")


def _from_dicom(raw: bytes) -> Image.Image:
    with _IMPORTING:
        from acgan import dicom  # noqa: PLC0415 (a third of a second, for an extra that few install)

    header = dicom.read_header(raw)
    _check_size(header.Columns, header.Rows, samples=header.SamplesPerPixel)
    return dicom.grey(raw, header)


def _from_deep_grey(values: NDArray[np.integer]) -> Image.Image:
    bits = max(8, int(values.max()).bit_length())
    bits += bits % 2
    pixels = np.empty(values.size, np.uint8)
    for start in range(0, values.size, _BATCH):  # for the memory: the products are float64
        own = slice(start, start + _BATCH)
        pixels[own] = np.rint(values.flat[own].clip(min=0) * (255 / (2**bits - 1)))
    return Image.fromarray(pixels.reshape(values.shape))


def near_hash(image: Image.Image) -> bytes:
    """Return a difference hash of 512 bits: is each cell of 16 x 16 brighter than the one before.

    Two hashes differ by a Hamming distance that `acgan.split.near_duplicates` judges.
    """
    image = image.reduce(max(1, min(image.size) // _HASHED_SIDE))  # the whole is read only once
    across = np.asarray(image.resize((17, 16), Image.Resampling.BOX))
    down = np.asarray(image.resize((16, 17), Image.Resampling.BOX))
    bits = np.concatenate([across[:, 1:] > across[:, :-1], down[1:] > down[:-1]])
    return np.packbits(bits).tobytes()


def examine(path: str, *, image_size: int) -> tuple[Facts, NDArray[np.uint8] | None]:
    """Read one image file: its facts, and its pixels [image_size, image_size] or None.

    The whole image is resized without keeping its aspect ratio, as the published system does,
    but with an antialiased bicubic filter, where that one took the nearest pixel. Raises
    `InputError`, which names the file, where a package is missing that reads it.
    """
    sha256 = ""
    try:
        raw = _read_regular(path)
        sha256 = hashlib.sha256(raw).hexdigest()
        image = grey(raw)
        pixels = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
        return Facts(sha256, near_hash(image), ""), np.asarray(pixels)
    except UnidentifiedImageError:
        return Facts(sha256, b"", f"not an image as {', '.join(FORMATS)}, DICOM"), None
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Facts(sha256, b"", reason), None


def _read_regular(path: str) -> bytes:
    """Read a file of bounded size; opening a pipe or a device neither waits nor succeeds."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > FILE_LIMIT_BYTES:
            raise ValueError("the file is larger than 256 MB")
        return file.read(FILE_LIMIT_BYTES)


def examine_all(
    paths: Sequence[str], *, image_size: int, workers: int | None = None
) -> Iterator[tuple[Facts, NDArray[np.uint8] | None]]:
    """Yield `examine` of all paths in their order, by as many threads as there are cores.

    Pillow decodes and resizes outside of Python's lock.
    """
    work = functools.partial(examine, image_size=image_size)
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))
    try:
        yield from tqdm(
            pool.map(work, paths),
            total=len(paths),
            desc="reading images",
            unit="image",
            disable=None,
        )
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, not the thousands that wait
