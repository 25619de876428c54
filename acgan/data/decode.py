"""One image file to grey pixels, in every colour mode that COVIDx versions and hospitals use."""

import functools
import hashlib
import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError
from tqdm import tqdm  # type: ignore[import-untyped]

from acgan.cores import usable_cores
from acgan.data import part10
from acgan.data.containers import Bare, bare, file_format
from acgan.data.depth import colour, is_halved, to_grey
from acgan.errors import InputError

# Of oddities that do not change the pixels. For good: threads cannot each have their own filters.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
FILE_LIMIT_BYTES = 256 * 1024**2
PIXEL_LIMIT = 64_000_000
SIDE_LIMIT = 65_535  # of a JPEG; resizing a longer side would need gigabytes

_IMPORTING = threading.Lock()  # what an import raises in one thread, others see as half a module
_REASON_LIMIT = 200
# How an image is turned, by EXIF's number of its orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REDUCED_SIDE = 256  # pixels that the shorter side keeps, at least, for hash and spread
GREY_SPREAD = 24  # of 255, between the channels of a grey pixel that JPEG has stored
COLOUR_SAMPLE = 64  # a side of pixels that are looked at
COLOURED_SHARE = 0.1  # of pixels
BLANK_BELOW = 16  # greys; of 1,002 real X-rays the one with the fewest has 80
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
    problem: why the image cannot be decoded, "" where it can
    blank: why there is nothing to be seen in it, "" where there is
    coloured: whether its pixels are more than greys
    """

    sha256: str
    near_hash: bytes
    problem: str
    blank: str = ""
    coloured: bool = False


def grey(raw: bytes) -> Image.Image:
    """Decode an image file's bytes to 8-bit grey, as `decoded` does."""
    return decoded(raw).convert("L")


def decoded(raw: bytes, *, least: int | None = None) -> Image.Image:
    """Decode an image file's bytes to 8-bit grey (L) or colour (RGB), upright, at its own size.

    least: pixels of a side; a JPEG that has at least twice as many is decoded at a half, a quarter
        or an eighth of its size, no side of which is shorter

    Transparency is laid on black, an X-ray's background. The name's ending does not matter, nor do
    metadata, but for the orientation. More than 8 bits are scaled by the full range that they need
    (`acgan.data.depth.full_range`): an image is the same in 8 and in 16 bits, and 12 bits in 16 are
    not black. A DICOM file is shown as its header says (`acgan.data.dicom.display_grey`).
    Raises one of several exceptions for bytes that are no such image, for several frames, and for
    what exceeds the limits, which are set so that no image needs more than 1.1 GB of memory;
    `InputError` for a DICOM file where a package is missing that reads it.
    """
    dicom_file = part10.whole(raw)
    if dicom_file is not None:
        return _from_dicom(dicom_file)
    plain = bare(raw)
    with Image.open(io.BytesIO(plain.raw), formats=FORMATS) as opened:
        _check_size(*opened.size)
        if getattr(opened, "is_animated", False):
            raise ValueError("it has several frames; keep the one that is meant")
        # Pillow takes every CMYK JPEG for Adobe's, which is stored inverted.
        inverted = opened.mode == "CMYK" and opened.format == "JPEG" and "adobe" not in opened.info
        if least is not None and opened.format == "JPEG":
            opened.draft(None, (least, least))
        image: Image.Image = opened
        if is_halved(opened):
            image = colour(plain.raw, opened.info.get("transparency"))
        image.load()
    if plain.orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[plain.orientation])
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.mode.startswith("I") or plain.signed:
        return _from_whole_numbers(image, plain)
    if inverted:
        image = ImageChops.invert(image)
    if image.has_transparency_data:
        image = _opaque(image)
    return image if image.mode == "L" else image.convert("RGB")


def _opaque(image: Image.Image) -> Image.Image:
    """Lay an image on black."""
    if image.mode == "La":  # multiplied with its opacity, which is the same
        return image.getchannel(0)
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)


def _from_whole_numbers(image: Image.Image, plain: Bare) -> Image.Image:
    values = np.asarray(image)
    if plain.signed and image.mode == "L":
        values = values.view(np.int8)
    elif image.mode == "I" and not plain.signed:
        values = values.view(np.uint32)
    shown = to_grey(values)
    if "transparency" in image.info:
        shown.paste(0, mask=Image.fromarray(values == image.info["transparency"]))
    return ImageChops.invert(shown) if plain.inverted else shown


def _check_size(width: int, height: int, *, samples: int = 1) -> None:
    if width * height * samples > PIXEL_LIMIT or max(width, height) > SIDE_LIMIT:
        raise ValueError(f"{width} x {height} pixels are too many")


def _from_dicom(raw: bytes) -> Image.Image:
    with _IMPORTING:
        from acgan.data import dicom  # noqa: PLC0415 (a third of a second, for an extra of few)

    header = dicom.read_header(raw)
    _check_size(header.Columns, header.Rows, samples=header.SamplesPerPixel)
    return dicom.display_grey(raw, header)


def near_hash(image: Image.Image) -> bytes:
    """Return a difference hash of 512 bits: is each cell of 16 x 16 brighter than the one before.

    Two hashes differ by a Hamming distance that `acgan.data.split.near_duplicates` judges.
    """
    image = _reduced(image)
    across = np.asarray(image.resize((17, 16), Image.Resampling.BOX))
    down = np.asarray(image.resize((16, 17), Image.Resampling.BOX))
    bits = np.concatenate([across[:, 1:] > across[:, :-1], down[1:] > down[:-1]])
    return np.packbits(bits).tobytes()


def _reduced(image: Image.Image) -> Image.Image:
    factor = min(image.size) // _REDUCED_SIDE
    return image.reduce(factor) if factor > 1 else image


def grey_spread(image: Image.Image) -> int:
    """Return how many greys above the darkest 5 % of a grey image's pixels its brightest 5 % begin.

    So neither a label nor a border makes a picture of a blank one. Large images are reduced first
    (to 256 pixels and more), so that noise does not either.
    """
    counts = np.cumsum(_reduced(image).histogram())
    low, high = np.searchsorted(counts, [0.05 * counts[-1], 0.95 * counts[-1]])
    return int(high - low)


def _why_blank(image: Image.Image) -> str:
    greys = grey_spread(image)
    if greys >= BLANK_BELOW:
        return ""
    return f"nine tenths of its pixels differ by {greys} of 255 greys; {BLANK_BELOW} are needed"


def is_coloured(image: Image.Image) -> bool:
    """Whether a tenth of an image's pixels are more than greys: a coloured mark makes no picture.

    A pixel is one where its channels differ by more than what JPEG makes of greys.
    """
    if image.mode == "L":
        return False
    sample = image.resize((COLOUR_SAMPLE, COLOUR_SAMPLE), Image.Resampling.NEAREST)
    channels = np.asarray(sample).astype(np.int16)  # [64, 64, 3]
    spread = channels.max(axis=2) - channels.min(axis=2)
    return bool((spread > GREY_SPREAD).mean() > COLOURED_SHARE)


def most_are_coloured(facts: Iterable[Facts]) -> bool:
    """Whether more than half of the images that can be decoded are more than greys."""
    coloured = [fact.coloured for fact in facts if not fact.problem]
    return 2 * sum(coloured) > len(coloured)


def examine(
    path: str, *, image_size: int, colour: bool = False, whole: bool = False
) -> tuple[Facts, NDArray[np.uint8] | None]:
    """Read one image file: its facts, and its pixels or None.

    Those are [image_size, image_size] in grey, or [3, image_size, image_size] in `colour`.

    The whole image is resized without keeping its aspect ratio, as the published system does,
    but with an antialiased bicubic filter, where that one took the nearest pixel. A large JPEG is
    decoded at a reduced size, of twice the pixels that are kept and more; `whole`: at its own.

    Raises
    ------
    `InputError`, which names the file, where a package is missing that reads it, and where the
    system does not give out its bytes.

    """
    sha256 = ""
    try:
        raw = _read_regular(path)
        sha256 = hashlib.sha256(raw).hexdigest()
        shown = decoded(raw, least=None if whole else max(2 * image_size, _REDUCED_SIDE))
        image = shown.convert("L")
        kept = shown.convert("RGB") if colour else image
        pixels = np.asarray(kept.resize((image_size, image_size), Image.Resampling.BICUBIC))
        small = _reduced(image)  # the whole is read only once
        facts = Facts(sha256, near_hash(small), "", _why_blank(small), is_coloured(shown))
        return facts, pixels.transpose(2, 0, 1) if colour else pixels
    except UnidentifiedImageError:
        return Facts(sha256, b"", _unidentified(raw)), None
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Facts(sha256, b"", _one_line(reason)), None


def _one_line(reason: str) -> str:
    """Return a reason, which may quote the file, as a line of text."""
    line = "".join(letter if letter.isprintable() else "?" for letter in reason)
    return line if len(line) <= _REASON_LIMIT else f"{line[:_REASON_LIMIT]} …"


def _unidentified(raw: bytes) -> str:
    """Return why Pillow opens none of it: it says the same of kinds that it does not read."""
    name = file_format(raw)
    if name:
        return f"a {name} file that is damaged, or of a kind that is not read"
    return f"not an image as {', '.join(FORMATS)}, DICOM"


def _read_regular(path: str) -> bytes:
    """Read a file of bounded size; opening a pipe or a device neither waits nor succeeds.

    Raises `InputError` for a file that is there and is not given out: what is packed once must not
    depend on a moment's permissions, or on a network's.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not a regular file")
            if status.st_size > FILE_LIMIT_BYTES:
                raise ValueError("the file is larger than 256 MB")
            return file.read(FILE_LIMIT_BYTES)
    except OSError as error:
        if not os.path.isfile(path):
            raise
        raise InputError(
            f"this file is there, but cannot be read ({error.strerror}); mend that, or take the "
            "file out of the folder, then type the same command again"
        ) from error


def examine_all(
    paths: Sequence[str],
    *,
    image_size: int,
    colour: bool = False,
    whole: bool = False,
    workers: int | None = None,
) -> Iterator[tuple[Facts, NDArray[np.uint8] | None]]:
    """Yield `examine` of all paths in their order, by as many threads as there are cores to use.

    Pillow decodes and resizes outside of Python's lock.
    """
    work = functools.partial(examine, image_size=image_size, colour=colour, whole=whole)
    pool = ThreadPoolExecutor(workers or usable_cores())
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
