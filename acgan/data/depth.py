"""Pixels of more than 8 bits to 8: the range that they are shown in, and colours in 16 bits."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

_BATCH = 1 << 20
_LIMIT_BITS = 64
LONE = 1e-4  # of the pixels
# Where the bytes of 16 bits lie the other way round. N is the machine's own order: after libtiff.
_SWAPPED = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B"}


def full_range(low: int, high: int, *, stated: int = _LIMIT_BITS) -> tuple[int, int]:
    """Return the lowest and highest value of the range in which values, low to high, are shown.

    It is that of 8, 10, 12, 14, 16 … bits, the fewest that hold the values, or of the `stated`
    number of bits where that is between. It begins at 0 unless there are values below.
    """
    signed = low < 0
    needed = max(max(high, 0).bit_length(), (~low).bit_length() if signed else 0) + signed
    bits = max(8, needed + needed % 2)
    if needed <= stated < bits:
        bits = max(1, stated)
    lowest = -(2 ** (bits - 1)) if signed else 0
    return lowest, lowest + 2**bits - 1


def ends(
    values: NDArray[np.integer[Any]], inside: NDArray[np.bool_] | None = None
) -> tuple[int, int]:
    """Return the lowest and the highest of whole numbers, but for the lone highest ones.

    A dead pixel at 65,535 in 12-bit data would leave 16 greys of 256. Values that need a range of
    more bits, and are no more than one in 10,000, do not count: they are shown as the highest.

    inside: which of them count, all if it is None
    """
    there = values if inside is None else values[inside]
    low, high = int(there.min()), int(there.max())
    while high > 255:
        below = full_range(min(low, 0), high)[1] // 4
        lone = np.count_nonzero(there > below)
        if low > below or lone > there.size * LONE:
            break
        high = below
    return low, high


def to_grey(values: NDArray[np.integer[Any]]) -> Image.Image:
    """Return whole numbers, [H, W], as 8-bit grey of the same order, scaled by `full_range`."""
    lowest, highest = full_range(*ends(values))
    pixels = np.empty(values.size, np.uint8)
    for start in range(0, values.size, _BATCH):  # for the memory: the products are float64
        own = slice(start, start + _BATCH)
        scaled = (values.flat[own] - float(lowest)) * (255 / (highest - lowest))
        pixels[own] = np.rint(scaled.clip(0, 255))
    return Image.fromarray(pixels.reshape(values.shape))


def is_halved(opened: ImageFile.ImageFile) -> bool:
    """Whether Pillow would keep of this file's colours, or grey and alpha, the higher bytes only.

    Of 12 bits in 16 that leaves 16 levels. Raises `ValueError` for kinds that `colour` cannot read.
    """
    if opened.mode.startswith("I") or not opened.tile:
        return False
    arguments = _arguments(opened.tile[0])
    if opened.format == "PPM" and isinstance(arguments[-1], int) and arguments[-1] > 255:
        raise ValueError("colours of more than 8 bits are read of PNG and TIFF, not of PPM")
    form = str(arguments[0])
    if "a;16" in form:
        raise ValueError("colours of 16 bits that are multiplied with their opacity are not read")
    return ";16" in form


def _arguments(tile: ImageFile._Tile) -> tuple[Any, ...]:
    return tile.args if isinstance(tile.args, tuple) else (tile.args,)


def colour(raw: bytes, transparency: object = None) -> Image.Image:
    """Return the image of a PNG or TIFF file for which `is_halved`, scaled to 8 bits a band.

    Colours are scaled together by `full_range` and opacity by its own. Pixels of the colour
    `transparency` (numbers of 16 bits) become black.
    """
    high, low, mode = _halves(raw)
    tops = np.full(high.shape[-1], float(_top(high)))
    if mode in ("LA", "RGBA"):
        tops[:-1], tops[-1] = _top(high[..., :-1]), _top(high[..., -1])
    pixels = np.empty_like(high)
    rows = max(1, _BATCH // high[0].size)
    for start in range(0, len(high), rows):
        own = slice(start, start + rows)
        values = high[own].astype(np.uint16) << 8 | low[own]
        pixels[own] = np.rint(values * (255 / tops)).clip(0, 255)
        if transparency is not None:
            pixels[own][(values == transparency).all(-1)] = 0
    return Image.fromarray(pixels, mode)


def _top(high: NDArray[np.uint8]) -> int:
    """Return the end of the range of values whose higher bytes these are."""
    return full_range(0, int(high.max()) << 8 or 255)[1]


def _halves(raw: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    """Return the higher and the lower bytes, [H, W, bands] each, and the mode."""
    with Image.open(io.BytesIO(raw)) as opened:
        if _arguments(opened.tile[0])[0] == "LA;16B":  # Pillow has no other way to read it
            whole = _as_stored(opened, {"LA;16B": "RGBA"})
            return whole[..., ::2], whole[..., 1::2], "LA"
        high, mode = _as_stored(opened, {}), opened.mode
    with Image.open(io.BytesIO(raw)) as opened:
        return high, _as_stored(opened, _SWAPPED), mode


def _as_stored(opened: ImageFile.ImageFile, exchanged: dict[str, str]) -> NDArray[np.uint8]:
    """Return the pixels, with parts of the name of the form in which they are stored exchanged."""
    tiles = []
    for tile in opened.tile:
        form, *rest = _arguments(tile)
        for name, other in exchanged.items():
            if form.endswith(name):
                form = form.removesuffix(name) + other
                break
        tiles.append(tile._replace(args=(form, *rest)))
    opened.tile = tiles
    return np.asarray(opened)
