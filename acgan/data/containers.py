"""An image file without what its pixels do not need: metadata never reach a decoder.

Profiles, comments, resolutions and thumbnails are of any size and often broken, and decoders
refuse files for them. Of metadata only the orientation is read.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from acgan.data.codestream import jpeg_segments

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset(
    (b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND")  # AcTL etc.: frames
)
_PARTS = 200_000  # for the time and memory; the largest file has 32,000 of eight kilobytes
_TEXT_LIMIT = 1 << 20
_APP0, _APP14, _COMMENT = 0xE0, 0xEE, 0xFE
_APPLICATION = range(_APP0, 0xF0)
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
# Sizes, form, place and compression of the pixels (TIFF 6.0 and its supplements).
_TIFF_PIXELS = frozenset(
    (
        *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323),
        *(324, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 50674),
    )
)
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 258, 262, 274, 277
_PLANES, _FORMAT, _TIFF_XMP = 284, 339, 700
_SHORT = 3
_WHOLE_NUMBERS = {1: "B", _SHORT: "H", 4: "I", 16: "Q"}
_ENTRIES = 65_535
_VALUES = 64
_MAGIC = (
    ("PNG", _PNG, 0),
    ("JPEG", b"\xff\xd8\xff", 0),
    ("GIF", b"GIF8", 0),
    ("WEBP", b"WEBP", 8),
    ("TIFF", b"II\x2a\0", 0),
    ("TIFF", b"MM\0\x2a", 0),
    ("TIFF", b"II\x2b\0", 0),
    ("TIFF", b"MM\0\x2b", 0),
)


class Bare(NamedTuple):
    """An image file's bytes, and what of its metadata and form a decoder is not to be asked.

    orientation: EXIF's, 1 to 8, where it is for the reader to apply, else 1
    inverted: 0 is white though the file's form says now that it is black
    signed: its numbers may be below zero
    """

    raw: bytes
    orientation: int = 1
    inverted: bool = False
    signed: bool = False


def bare(raw: bytes) -> Bare:
    """Return an image file without metadata; of what is no PNG, JPEG, WEBP or TIFF, all.

    Raises `ValueError` for a TIFF file whose pixels cannot be read in their order of grey.
    """
    match file_format(raw):
        case "PNG":
            return _png(raw)
        case "JPEG":
            return _jpeg(raw)
        case "WEBP":
            return Bare(raw, _webp_orientation(raw))
        case "TIFF":
            return _tiff(raw)
    return Bare(raw)


def file_format(raw: bytes) -> str:
    """Return the name of the format that a file's first bytes tell, "" for none of those here."""
    return next((name for name, magic, at in _MAGIC if raw.startswith(magic, at)), "")


def _orientation(exif: bytes, xmp: Sequence[bytes]) -> int:
    """Return EXIF's orientation, else XMP's, else 1."""
    named = _exif_orientation(exif)
    if named is None:
        found = (_XMP_ORIENTATION.search(text) for text in xmp)
        named = next((int(match[1]) for match in found if match), 1)
    return named if 1 <= named <= 8 else 1


def _exif_orientation(exif: bytes) -> int | None:
    content = re.sub(rb"^(?:Exif\0\0){1,2}", b"", exif[:12]) + exif[12:]
    if content[:2] not in (b"II", b"MM"):
        return None
    try:
        return _Directory(content).number(_ORIENTATION)
    except struct.error:
        return None


def _without(raw: bytes, dropped: Sequence[tuple[int, int]]) -> bytes:
    """Return bytes without some parts of them; without a copy where there are none."""
    if not dropped:
        return raw
    starts = [0, *(end for _, end in dropped)]
    ends = [*(start for start, _ in dropped), len(raw)]
    return b"".join(raw[start:end] for start, end in zip(starts, ends, strict=True))


# --- PNG, JPEG, WEBP ---------------------------------------------------------------------------


def _png(raw: bytes) -> Bare:
    dropped, exif, xmp = [], b"", []
    for kind, start, end in _few(_png_chunks(raw)):
        if kind in _PNG_PIXELS:
            continue
        dropped.append((start, end))
        content = raw[start + 8 : end - 4]
        if kind == b"eXIf":
            exif = content
        elif kind == b"iTXt" and content.startswith(b"XML:com.adobe.xmp\0"):
            xmp.append(content)
        elif kind in (b"tEXt", b"zTXt") and content.startswith(b"Raw profile type exif\0"):
            exif = exif or _raw_profile(content, packed=kind == b"zTXt")
    return Bare(_without(raw, dropped), _orientation(exif, xmp))


def _png_chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each whole chunk; the decoder is left to judge the rest."""
    place = len(_PNG)
    while place + 12 <= len(raw):
        length, kind = struct.unpack_from(">I4s", raw, place)
        end = place + 12 + length
        if end > len(raw) or not kind.isalpha():
            return
        yield kind, place, end
        place = end


def _raw_profile(content: bytes, *, packed: bool) -> bytes:
    """Return the EXIF that ImageMagick wrote as text: three lines, then hexadecimal digits."""
    text = content.partition(b"\0")[2]
    try:
        if packed:
            text = zlib.decompressobj().decompress(text[1:], _TEXT_LIMIT)
        return bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
    except (zlib.error, ValueError):
        return b""


def _jpeg(raw: bytes) -> Bare:
    dropped, exif, xmp = [], [], []
    for marker, start, end in jpeg_segments(raw):
        content = raw[start + 4 : end]
        if marker != _COMMENT and (marker not in _APPLICATION or _tells_colours(marker, content)):
            continue
        dropped.append((start, end))
        if content.startswith(_EXIF):
            exif.append(content[len(_EXIF) :])
        elif content.startswith(_XMP):
            xmp.append(content)
    return Bare(_without(raw, dropped), _orientation(b"".join(exif), xmp))


def _tells_colours(marker: int, content: bytes) -> bool:
    """Whether it is JFIF's or Adobe's segment, as libjpeg knows them."""
    jfif = marker == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 14
    return jfif or (marker == _APP14 and content.startswith(b"Adobe") and len(content) >= 12)


def _webp_orientation(raw: bytes) -> int:
    exif, xmp = b"", []
    for kind, start, end in _few(_webp_chunks(raw)):
        if kind == b"EXIF":
            exif = raw[start:end]
        elif kind == b"XMP ":
            xmp.append(raw[start:end])
    return _orientation(exif, xmp)


def _webp_chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, and start and end of the content, of each chunk."""
    place = 12
    while place + 8 <= len(raw):
        kind, length = struct.unpack_from("<4sI", raw, place)
        yield kind, place + 8, place + 8 + length
        place += 8 + length + length % 2


def _few(parts: Iterator[tuple[bytes, int, int]]) -> Iterator[tuple[bytes, int, int]]:
    for count, part in enumerate(parts):
        if count == _PARTS:
            raise ValueError("it has too many parts")
        yield part


# --- TIFF --------------------------------------------------------------------------------------


class _Directory:
    """The first image file directory of a TIFF file, or of EXIF, which has its form.

    Raises `struct.error` where there is none, or a number is asked for that is not there.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.order = "<" if raw[:1] == b"I" else ">"
        big = 0x2B in raw[2:4]
        count, self.entry, self.offset = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
        (self.start,) = self._unpack(self.offset, 8 if big else 4)
        (entries,) = self._unpack(count, self.start)
        self.count = self.order + count
        place = self.start + struct.calcsize(self.count)
        end = place + entries * struct.calcsize(self.order + self.entry)
        if entries > _ENTRIES or end > len(raw):
            raise struct.error
        found = struct.iter_unpack(self.order + self.entry, raw[place:end])
        self.fields: dict[int, tuple[int, int, bytes]] = {tag: (k, c, v) for tag, k, c, v in found}
        following = raw[end : end + struct.calcsize(self.order + self.offset)]
        self.following = int.from_bytes(following, "little" if self.order == "<" else "big")

    def _unpack(self, form: str, place: int) -> tuple[int, ...]:
        if place > len(self.raw):  # beyond 2**63 it would be another error
            raise struct.error
        return struct.unpack_from(self.order + form, self.raw, place)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return a field's whole numbers; none where there is no such field."""
        if tag not in self.fields:
            return ()
        kind, count, value = self.fields[tag]
        if kind not in _WHOLE_NUMBERS or not 0 < count <= _VALUES:
            raise struct.error
        form = f"{count}{_WHOLE_NUMBERS[kind]}"
        if struct.calcsize(self.order + form) <= len(value):
            return struct.unpack_from(self.order + form, value)
        (place,) = struct.unpack(self.order + self.offset, value)
        return self._unpack(form, place)

    def number(self, tag: int) -> int | None:
        """Return the first of them, None where there is no such field."""
        return next(iter(self.numbers(tag)), None)

    def content(self, tag: int) -> bytes:
        """Return a field of bytes, empty where there is none or it is cut off."""
        _, count, value = self.fields.get(tag, (0, 0, b""))
        if count <= len(value):
            return value[:count]
        (place,) = struct.unpack(self.order + self.offset, value)
        return self.raw[place : place + count]

    def packed(self) -> bytes:
        """Return it as it stands in a file; without the address of what is beyond the file."""
        entries = (struct.pack(self.order + self.entry, t, *f) for t, f in self.fields.items())
        there = self.following + struct.calcsize(self.count) <= len(self.raw)
        following = struct.pack(self.order + self.offset, self.following if there else 0)
        return struct.pack(self.count, len(self.fields)) + b"".join(entries) + following


def _tiff(raw: bytes) -> Bare:
    try:
        directory = _Directory(raw)
        form = _tiff_form(directory)
    except struct.error as error:
        raise ValueError("its TIFF directory is damaged") from error
    orientation = 1
    if _ORIENTATION not in directory.fields:
        orientation = _orientation(b"", [directory.content(_TIFF_XMP)])
    kept = _TIFF_PIXELS | ({_ORIENTATION} if _is_orientation(directory) else set())
    directory.fields = {t: f for t, f in directory.fields.items() if t in kept}
    if form.inverted:
        black_is_zero = struct.pack(directory.order + "H", 1)
        value = black_is_zero.ljust(len(directory.fields[_PHOTOMETRIC][2]), b"\0")
        directory.fields[_PHOTOMETRIC] = (_SHORT, 1, value)
    packed = directory.packed()
    if raw.startswith(packed, directory.start):
        return form._replace(orientation=orientation)
    parts = raw[: directory.start], packed, raw[directory.start + len(packed) :]
    return form._replace(raw=b"".join(parts), orientation=orientation)


def _is_orientation(directory: _Directory) -> bool:
    try:
        return directory.number(_ORIENTATION) in range(1, 9)
    except struct.error:
        return False


def _tiff_form(directory: _Directory) -> Bare:
    """Return what a decoder is not to be asked of its form (Pillow inverts up to 8 bits)."""
    photometric = directory.number(_PHOTOMETRIC)
    samples = directory.number(_SAMPLES) or 1
    deep = max(directory.numbers(_BITS), default=1) > 8
    signed = directory.number(_FORMAT) == 2
    if photometric is None:
        raise ValueError("it is a TIFF file that does not say whether 0 is black or white")
    if deep and samples > 1 and directory.number(_PLANES) == 2:
        raise ValueError("colours of more than 8 bits in separate planes are not read")
    inverted = photometric == 0 and samples == 1 and (deep or signed)
    return Bare(directory.raw, inverted=inverted, signed=signed)
