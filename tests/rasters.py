"""PNG and TIFF files with known numbers in them, written by hand: what no library writes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Chunk = tuple[bytes, bytes]
Field = tuple[int, int, bytes]  # kind, count, content in the file's byte order

SHORT, LONG = 3, 4
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + _sum(kind + content)


def _sum(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def png(
    values: NDArray[np.integer[Any]],
    *,
    before: Sequence[Chunk] = (),
    behind: Sequence[Chunk] = (),
) -> bytes:
    """Return a PNG of uint8 or uint16 [H, W] or [H, W, bands], chunks before and behind pixels."""
    height, width = values.shape[:2]
    bands = values.shape[2] if values.ndim == 3 else 1
    form = (width, height, 8 * values.itemsize, _COLOUR_TYPES[bands], 0, 0, 0)
    rows = values.astype(f">{values.dtype.str[1:]}")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", *form)),
        *before,
        (b"IDAT", zlib.compress(lines, 1)),
        *behind,
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def directory(fields: Mapping[int, Field], order: str, place: int, following: int = 0) -> bytes:
    """Return a TIFF directory that stands at `place`, with its values behind it."""
    entries, values = b"", b""
    values_at = place + 2 + 12 * len(fields) + 4
    for tag, (kind, count, content) in sorted(fields.items()):
        entries += struct.pack(f"{order}HHI", tag, kind, count)
        if len(content) <= 4:
            entries += content.ljust(4, b"\0")
            continue
        entries += struct.pack(f"{order}I", values_at + len(values))
        values += content + bytes(len(content) % 2)
    return (
        struct.pack(f"{order}H", len(fields))
        + entries
        + struct.pack(f"{order}I", following)
        + values
    )


def tiff_header(order: str) -> bytes:
    """Return the first eight bytes of a TIFF file, whose directory follows."""
    return (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)


def short(order: str, *numbers: int) -> Field:
    """Return a TIFF field of whole numbers."""
    return SHORT, len(numbers), struct.pack(f"{order}{len(numbers)}H", *numbers)


def tiff(
    values: NDArray[np.integer[Any]],
    *,
    order: str = "<",
    photometric: int | None = 1,
    fields: Mapping[int, Field] | None = None,
) -> bytes:
    """Return an uncompressed TIFF of [H, W] or [H, W, bands]; `fields` are added or exchanged."""
    height, width = values.shape[:2]
    bands = values.shape[2] if values.ndim == 3 else 1
    content = values.astype(f"{order}{values.dtype.str[1:]}").tobytes()
    found = {
        256: short(order, width),
        257: short(order, height),
        258: short(order, *[8 * values.itemsize] * bands),
        259: short(order, 1),
        262: short(order, photometric or 0),
        273: (LONG, 1, bytes(4)),
        277: short(order, bands),
        278: short(order, height),
        279: (LONG, 1, struct.pack(f"{order}I", len(content))),
        339: short(order, *[2 if values.dtype.kind == "i" else 1] * bands),
        **(fields or {}),
    }
    if photometric is None:
        del found[262]
    start = 8 + len(directory(found, order, 8))
    found[273] = LONG, 1, struct.pack(f"{order}I", start)
    return tiff_header(order) + directory(found, order, 8) + content
