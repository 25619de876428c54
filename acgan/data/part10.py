"""Which bytes are a DICOM file, and the same file in the form of PS3.10: no package is asked.

Files without the preamble, the prefix or the meta information are common in exports, and their
pixels are as good as others'.
"""

import re

from acgan.data.containers import file_format

PREFIX = b"DICM"
IMPLICIT, EXPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2"))

_PREAMBLE = bytes(128)
_META, _IDENTIFYING = b"\x02\0", b"\x08\0"
_GROUPS = (_META, _IDENTIFYING, _IDENTIFYING[::-1])  # with which a file may begin
_META_LENGTH = b"\x02\0\0\0UL\x04\0"
_SYNTAX = b"\x02\0\x10\0"
_LONG = frozenset((b"OB", b"OW", b"SQ", b"UN", b"UT"))
_META_ELEMENTS = 100
_KIND = re.compile(rb"[A-Z][A-Z]")


def whole(raw: bytes) -> bytes | None:
    """Return a DICOM file with preamble, prefix and transfer syntax; None for anything else.

    A transfer syntax that the file does not name is the one of which its first element is. A file
    with nothing behind its prefix is returned as it is.
    """
    start = _start(raw)
    if start is None:
        return None
    end, named = _meta(raw, start)
    if not named and end < len(raw):
        return _PREAMBLE + PREFIX + _named(_guessed(raw[end : end + 6])) + raw[end:]
    return raw if raw[128:132] == PREFIX else _PREAMBLE + PREFIX + raw[start:]


def _start(raw: bytes) -> int | None:
    """Return where the first element is, behind preamble and prefix if they are there."""
    if raw[128:132] == PREFIX and (raw[132:134] in _GROUPS or not file_format(raw)):
        return 132  # not an image of another format with these letters in its metadata
    if raw[:4] == PREFIX:
        return 4
    if raw[128:136] == _META_LENGTH:
        return 128
    explicit = _KIND.match(raw, 4)
    if explicit and raw[:2] in _GROUPS:
        return 0
    length = int.from_bytes(raw[4:8], "little")
    # Without a kind: two elements of the group, one behind the other.
    following = raw[8 + length : 10 + length] if length < len(raw) else b""
    return 0 if raw[:2] == following == _IDENTIFYING else None


def _meta(raw: bytes, place: int) -> tuple[int, bool]:
    """Return where the meta information ends, and whether it names a transfer syntax."""
    named = False
    for _ in range(_META_ELEMENTS):
        if raw[place : place + 2] != _META:
            break
        head = 12 if raw[place + 4 : place + 6] in _LONG else 8
        length = int.from_bytes(raw[place + (8 if head == 12 else 6) : place + head], "little")
        end = place + head + length
        if raw[place : place + 4] == _SYNTAX:
            named = bool(raw[place + head : end].strip(b"\0 "))
        place = end
    return place, named


def _guessed(first: bytes) -> str:
    if not _KIND.match(first, 4):
        return IMPLICIT
    return BIG_ENDIAN if first[:1] == b"\0" else EXPLICIT


def _named(syntax: str) -> bytes:
    """Return a transfer syntax as the one element of the meta information."""
    value = syntax.encode()
    value += bytes(len(value) % 2)
    return _SYNTAX + b"UI" + len(value).to_bytes(2, "little") + value
