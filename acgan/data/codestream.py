"""What compressed DICOM pixels unpack to, found in their first bytes: no decoder is asked.

A file of a kilobyte can claim gigabytes inside its compressed pixels, whatever its header says.
"""

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

JPEG_2000 = b"\xff\x4f\xff\x51"  # start of codestream, then its size
# ISO 15444-1, A.5.1: Lsiz, Rsiz, Xsiz, Ysiz, XOsiz, YOsiz, four of tiles, Csiz.
_JPEG_2000_SIZE = ">HHIIIIIIIIH"

# Start of frame, of every kind of JPEG (ISO 10918-1, table B.1) and of JPEG-LS (ISO 14495-1).
_JPEG_SIZES = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xDA)))
_JPEG_SCAN = 0xDA
_JPEG_PARTS = 100_000  # segments and bytes of padding, for the time: files have a few dozen
_RLE_SEGMENTS = 15


class Size(NamedTuple):
    """What one image unpacks to."""

    width: int
    height: int
    channels: int


def coded_size(code: bytes) -> Size:
    """Return what a JPEG, JPEG-LS or JPEG 2000 codestream unpacks to; `ValueError` for others."""
    if code[:4] == JPEG_2000 and len(code) >= 4 + struct.calcsize(_JPEG_2000_SIZE):
        _, _, right, bottom, left, top, *_, channels = struct.unpack_from(_JPEG_2000_SIZE, code, 4)
        return Size(right - left, bottom - top, channels)
    for marker, start, _ in jpeg_segments(code) if code[:2] == b"\xff\xd8" else ():
        if marker in _JPEG_SIZES and start + 10 <= len(code):
            _, height, width, channels = struct.unpack_from(">BHHB", code, start + 4)
            return Size(width, height, channels)
    raise ValueError("its compressed pixels are damaged")


def jpeg_segments(code: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the second byte of its marker, start and end of each whole segment before the scan."""
    place = 2
    for _ in range(_JPEG_PARTS):
        if place + 4 > len(code) or code[place] != 0xFF:
            return
        marker = code[place + 1]
        if marker == _JPEG_SCAN:
            return
        if marker == 0xFF:  # a byte of padding
            place += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            place += 2
        else:
            end = place + 2 + int.from_bytes(code[place + 2 : place + 4])
            if end > len(code):
                return
            yield marker, place, end
            place = end


def rle_fits(code: bytes, *, pixels: int) -> bool:
    """Whether no segment of a frame in DICOM's run-length code unpacks to more than `pixels`.

    PS3.5, annex G: a count of segments, their offsets, and each segment packed as by PackBits.
    Encoders may fill the last run: a byte more is none too many. Raises `ValueError` for bytes
    that are no such frame.
    """
    if len(code) < 64:
        raise ValueError("its compressed pixels are damaged")
    count, *offsets = struct.unpack_from("<16I", code)
    if not 1 <= count <= _RLE_SEGMENTS:
        raise ValueError("its compressed pixels are damaged")
    bounds = [*offsets[:count], len(code)]
    parts = (code[start:end] for start, end in itertools.pairwise(bounds))
    return all(_unpacked(part, limit=pixels + 1) <= pixels + 1 for part in parts)


def _unpacked(packed: bytes, *, limit: int) -> int:
    """Return the number of bytes that PackBits makes of these, or one beyond the limit."""
    total = place = 0
    while place < len(packed) and total <= limit:
        head = packed[place]
        if head < 128:
            total += head + 1
            place += head + 2
        elif head > 128:
            total += 257 - head
            place += 2
        else:
            place += 1
    return total
