"""Sizes in codestreams are those that encoders wrote, and PackBits is counted as it unpacks."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from acgan.data.codestream import Size, coded_size, rle_fits
from tests.acgan.data.test_decode import encode


@pytest.mark.parametrize("shape", [(20, 24), (24, 20, 3), (300, 7), (1, 1)])
@pytest.mark.parametrize("form", ["JPEG", "JPEG2000"])
def test_the_size_is_the_encoders(shape: tuple[int, ...], form: str) -> None:
    image = Image.fromarray(np.zeros(shape, np.uint8))
    code = encode(image, form, **({"no_jp2": True} if form == "JPEG2000" else {}))
    assert coded_size(code) == Size(*image.size, 3 if len(shape) == 3 else 1)


def test_progressive_and_commented_jpegs_have_their_size() -> None:
    image = Image.fromarray(np.zeros((20, 24), np.uint8))
    for options in ({"progressive": True}, {"comment": b"\xff\xc0 is no size here"}):
        assert coded_size(encode(image, "JPEG", **options)) == (24, 20, 1)


@given(st.binary(max_size=60))
def test_other_bytes_are_refused(code: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\xff\x4f\xff\x51"):
        try:
            size = coded_size(start + code)
        except ValueError:
            continue
        assert all(isinstance(number, int) for number in size)


def unpacked(packed: bytes) -> bytes:
    """PackBits as PS3.5, G.3.2 says it is undone."""
    made, place = b"", 0
    while place < len(packed):
        head = struct.unpack_from("b", packed, place)[0]
        if head >= 0:
            made += packed[place + 1 : place + 2 + head]
            place += 2 + head
        elif head > -128:
            made += packed[place + 1 : place + 2] * (1 - head)
            place += 2
        else:
            place += 1
    return made


runs = st.builds(lambda count, byte: bytes([257 - count, byte]), st.integers(2, 128), st.just(7))
literals = st.binary(min_size=1, max_size=128).map(lambda part: bytes([len(part) - 1]) + part)


@given(st.lists(st.one_of(runs, literals, st.just(b"\x80")), min_size=1, max_size=12))
def test_run_lengths_are_counted_as_they_unpack(parts: list[bytes]) -> None:
    packed = b"".join(parts)
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + packed
    count = len(unpacked(packed))
    assert rle_fits(frame, pixels=count)
    assert rle_fits(frame, pixels=max(count - 1, 0))  # one byte may fill the last run
    assert not rle_fits(frame, pixels=count - 2)


@pytest.mark.parametrize("frame", [b"", bytes(64), struct.pack("<16I", 16, *[64] * 15)])
def test_a_frame_without_its_segments_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        rle_fits(frame, pixels=10)
