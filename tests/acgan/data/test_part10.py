"""A DICOM file is known and shown without preamble, prefix or meta information."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from acgan.data.decode import examine, grey
from acgan.data.part10 import whole
from tests.acgan.data.test_decode import GREY, RAMP, encode
from tests.dicoms import dataset, dicom, file, write

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


def encoded(syntax: UID) -> bytes:
    found = dataset(RAMP)
    found.file_meta.TransferSyntaxUID = syntax
    return file(found)


def behind_meta(raw: bytes) -> int:
    """Where the data set begins: group length 0002,0000 counts what follows its twelve bytes."""
    return 132 + 12 + int.from_bytes(raw[140:144], "little")


def without_syntax(raw: bytes) -> bytes:
    at = raw.index(b"\x02\x00\x10\x00UI")
    return raw[:at] + raw[at + 8 + raw[at + 6] :]


UNUSUAL = {
    "no preamble": lambda raw: raw[132:],
    "no preamble, but its prefix": lambda raw: raw[128:],
    "no prefix": lambda raw: raw[:128] + raw[132:],
    "a preamble of its own": lambda raw: b"II*\0" * 32 + raw[128:],
    "no meta information": lambda raw: raw[behind_meta(raw) :],
    "nothing but the data set behind its prefix": lambda raw: raw[:132] + raw[behind_meta(raw) :],
    "no transfer syntax": without_syntax,
}


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_only_unusual_is_read(name: str, syntax: UID) -> None:
    raw: bytes = UNUSUAL[name](encoded(syntax))
    np.testing.assert_array_equal(np.asarray(grey(raw)), RAMP)


def test_compressed_pixels_without_a_preamble_are_read() -> None:
    found = dataset(RAMP)
    found.compress(RLELossless)
    np.testing.assert_array_equal(np.asarray(grey(file(found)[132:])), RAMP)


def test_a_usual_file_is_not_copied() -> None:
    raw = dicom(RAMP)
    assert whole(raw) is raw


def test_compressed_pixels_of_an_unnamed_kind_have_a_reason(tmp_path: Path) -> None:
    found = dataset(RAMP)
    found.compress(RLELossless)
    raw = file(found)
    facts, pixels = examine(str(write(tmp_path / "x", raw[behind_meta(raw) :])), image_size=16)
    assert pixels is None
    assert "contradicts its transfer syntax" in facts.problem


@pytest.mark.parametrize(
    "raw",
    [
        *(encode(GREY, form) for form in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM")),
        encode(GREY, "WEBP", lossless=True)[:128].ljust(128, b"x") + b"DICM" + bytes(200),
        *(b"", b"\x08\0", b"\x08\0" * 40, b"\x02\0 text", bytes(300), b"x" * 300),
    ],
)
def test_nothing_else_is_taken_for_one(raw: bytes) -> None:
    assert whole(raw) is None


@given(st.sampled_from([b"DICM", bytes(128) + b"DICM", b"\2\0\0\0UL"]), st.binary(max_size=60))
def test_other_bytes_end_in_a_file_with_a_prefix(start: bytes, content: bytes) -> None:
    found: Any = whole(start + content)
    assert found[128:132] == b"DICM"
