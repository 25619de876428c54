"""Metadata, whatever they hold, change nothing but the orientation, which is read of broken ones.

What is inserted here is refused by Pillow, or was by a version of it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from acgan.data.containers import bare, file_format
from acgan.data.decode import grey
from tests.acgan.data.test_decode import GREY, RAMP, encode
from tests.rasters import directory, png, short, tiff, tiff_header

LARGE = np.random.default_rng(0).integers(0, 256, 2_000_000, np.uint8).tobytes()
PACKED = zlib.compress(bytes(len(LARGE)))
UPRIGHT = np.rot90(RAMP, -1)  # of orientation 6
BROKEN = {  # rational numbers: −1/0, 0/0, and one that lies beyond the end
    282: (5, 1, struct.pack("<iI", -1, 0)),
    283: (10, 1, bytes(8)),
    37386: (5, 2**30, b"\xff\xff\xff\x7f"),
}
EXIF = tiff_header("<") + directory({274: short("<", 6), **BROKEN}, "<", 8)
XMP = b'<rdf:Description tiff:Orientation="6"/>'
JPEG = encode(GREY, "JPEG", quality=98)


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def raw_profile(exif: bytes, kind: bytes) -> tuple[bytes, bytes]:
    """EXIF as ImageMagick wrote it into PNG."""
    text = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
    packed = b"\0" + zlib.compress(text) if kind == b"zTXt" else text
    return kind, b"Raw profile type exif\0" + packed


def webp(**options: object) -> bytes:
    return encode(GREY, "WEBP", lossless=True, **options)


TURNED: dict[str, Callable[[], bytes]] = {
    "png": lambda: png(RAMP, before=[(b"eXIf", EXIF)]),
    "png, behind its pixels": lambda: png(RAMP, behind=[(b"eXIf", EXIF)]),
    "png of ImageMagick": lambda: png(RAMP, before=[raw_profile(b"Exif\0\0" + EXIF, b"zTXt")]),
    "png of ImageMagick, plain": lambda: png(RAMP, before=[raw_profile(EXIF, b"tEXt")]),
    "png, XMP": lambda: png(RAMP, before=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)]),
    "jpeg": lambda: jpeg(segment(0xE1, b"Exif\0\0" + EXIF)),
    "jpeg, XMP": lambda: jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
    "webp": lambda: webp(exif=EXIF),
    "webp, XMP": lambda: webp(xmp=XMP),
    "tiff": lambda: tiff(RAMP, fields={274: short("<", 6), **BROKEN}),
    "tiff, XMP": lambda: tiff(RAMP, fields={700: (1, len(XMP), XMP)}),
    "16-bit tiff": lambda: tiff(RAMP.astype(np.uint16) * 257, fields={274: short("<", 6)}),
    "16-bit png": lambda: png(RAMP.astype(np.uint16) * 257, before=[(b"eXIf", EXIF)]),
}
UNTOUCHED: dict[str, Callable[[], bytes]] = {
    "png, profile": lambda: png(RAMP, before=[(b"iCCP", b"x\0\0" + PACKED)]),
    "png, packed XMP": lambda: png(
        RAMP, before=[(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + PACKED)]
    ),
    "png, plain XMP": lambda: png(RAMP, behind=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LARGE)]),
    "png, text": lambda: png(RAMP, before=[(b"tEXt", b"x\0" + LARGE)] * 40),
    "png, unknown packing": lambda: png(RAMP, behind=[(b"zTXt", b"x\0\x07" + PACKED)]),
    "png, short chunks": lambda: png(
        RAMP, before=[(kind, b"") for kind in (b"pHYs", b"sRGB", b"gAMA", b"cHRM", b"tIME")]
    ),
    "png, no EXIF": lambda: png(RAMP, before=[(b"eXIf", LARGE), raw_profile(b"", b"tEXt")]),
    "png, cut EXIF": lambda: png(RAMP, before=[(b"eXIf", EXIF[:20])]),
    "png, wrong sum": lambda: png(RAMP, before=[(b"tEXt", b"a\0b")]).replace(b"a\0b", b"a\0c"),
    "jpeg, EXIF": lambda: jpeg(segment(0xE1, b"Exif\0\0junk"), segment(0xE1, b"Exif\0\0")),
    "jpeg, frames": lambda: jpeg(segment(0xE2, b"MPF\0" + EXIF), segment(0xE2, b"MPF\0")),
    "jpeg, resources": lambda: jpeg(segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\0")),
    "jpeg, profiles": lambda: jpeg(*[segment(0xE2, b"ICC_PROFILE\0\1\1" + LARGE[:60_000])] * 40),
    "jpeg, short JFIF": lambda: jpeg(segment(0xE0, b"JFIF\0"), segment(0xEE, b"Adobe")),
    "jpeg, comment": lambda: jpeg(segment(0xFE, LARGE[:60_000]), segment(0xFE, b"")),
    "webp": lambda: webp(exif=b"junk", icc_profile=LARGE, xmp=LARGE),
    "tiff": lambda: tiff(
        RAMP, fields={34675: (7, len(LARGE), LARGE), 700: (1, len(LARGE), LARGE), **BROKEN}
    ),
    "tiff, orientation": lambda: tiff(RAMP, fields={274: (2, 2, b"6\0"), 305: (77, 9, b"abc")}),
    "tiff, nothing follows": lambda: followed_by_nothing(tiff(RAMP)),
}


def followed_by_nothing(raw: bytes) -> bytes:
    """A TIFF whose first directory names a second one far beyond its end."""
    at = 8 + 2 + 12 * struct.unpack_from("<H", raw, 8)[0]
    return raw[:at] + struct.pack("<I", 2**31) + raw[at + 4 :]


def difference(raw: bytes, expected: NDArray[np.uint8]) -> float:
    found = np.asarray(grey(raw)).astype(float)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).mean())


@pytest.mark.parametrize("name", TURNED)
def test_the_orientation_is_read_beside_whatever_else_there_is(name: str) -> None:
    assert difference(TURNED[name](), UPRIGHT) < (2 if name.startswith("jpeg") else 1e-9)


@pytest.mark.parametrize("name", UNTOUCHED)
def test_metadata_never_cost_an_image(name: str) -> None:
    assert difference(UNTOUCHED[name](), RAMP) < (2 if name.startswith("jpeg") else 1e-9)


def test_big_tiff_is_read_like_any_other() -> None:
    # By hand: eight bytes for each count and address.
    def entry(tag: int, number: int) -> bytes:
        return struct.pack("<HHQH6x", tag, 3, 1, number)

    height, width = RAMP.shape
    numbers = {256: width, 257: height, 258: 16, 259: 1, 262: 0, 273: 500, 277: 1, 278: height}
    numbers |= {274: 6, 279: 2 * RAMP.size, 339: 1}
    head = b"II" + struct.pack("<HHHQ", 43, 8, 0, 16)
    entries = b"".join(entry(*pair) for pair in sorted(numbers.items()))
    first = struct.pack("<Q", len(numbers)) + entries + bytes(8)
    pixels = (65535 - RAMP.astype(np.uint16) * 257).astype("<u2").tobytes()
    assert difference((head + first).ljust(500, b"\0") + pixels, UPRIGHT) == 0


@pytest.mark.parametrize("whole", [png(RAMP), tiff(RAMP), webp(), encode(GREY, "GIF")])
def test_what_is_bare_is_not_copied(whole: bytes) -> None:
    assert bare(whole).raw is whole


def test_parts_by_the_million_need_no_time() -> None:
    chunks = png(RAMP)[:33] + 1_000_000 * bytes(4 + 4) + png(RAMP)[33:]
    empty = struct.pack(">I4sI", 0, b"prVt", 0) * 1_000_000
    with pytest.raises(ValueError, match="too many parts"):
        bare(png(RAMP)[:33] + empty + png(RAMP)[33:])
    with pytest.raises(ValueError, match="too many parts"):
        bare(webp()[:12] + struct.pack("<4sI", b"prVt", 0) * 1_000_000)
    for raw in (chunks, JPEG[:2] + b"\xff" * 50_000_000, JPEG[:2] + b"\xff\xd8" * 25_000_000):
        assert bare(raw).raw is raw  # the decoder is left to judge it


@given(st.sampled_from(["\x89PNG\r\n\x1a\n", "\xff\xd8\xff", "II\x2a\0", "MM\0\x2b"]), st.binary())
def test_other_bytes_are_left_to_the_decoder_or_refused_as_damaged(
    start: str, content: bytes
) -> None:
    raw = start.encode("latin1") + content
    assert file_format(raw) in ("PNG", "JPEG", "TIFF")
    try:
        found = bare(raw)
    except ValueError as error:
        assert "TIFF" in str(error)  # noqa: PT017 (it may also not be raised)
        return
    assert 1 <= found.orientation <= 8
    assert len(found.raw) <= len(raw) + 8
