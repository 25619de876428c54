"""DICOM pixels come out as PS3.3 says, to closed forms; hostile files need neither time nor memory.

Formulas are those of PS3.3: C.11.1 (modality LUT), C.11.2 (VOI LUT and windows), C.7.6.3.1.2
(photometric interpretation).
"""

from __future__ import annotations

import dataclasses
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.decoders.base import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from acgan.data.decode import examine, grey
from acgan.data.pack import load
from acgan.errors import InputError
from tests.acgan.data.test_decode import RAMP, encode
from tests.dicoms import compressed, dataset, dicom, file, lookup, write

RANDOM = np.random.default_rng(0)
EIGHT = RANDOM.integers(0, 256, (20, 24), np.uint8)
TWELVE = RANDOM.integers(0, 4096, (20, 24), np.uint16)
TWELVE[0, :2] = 0, 4095
SIXTEEN = RANDOM.integers(0, 65536, (20, 24), np.uint16)
SIXTEEN[0, :2] = 0, 65535
SIGNED = RANDOM.integers(-2048, 2048, (20, 24), np.int16)
SIGNED[0, :2] = -2048, 2047


def shown(raw: bytes) -> NDArray[np.int64]:
    image = grey(raw)
    assert image.mode == "L"
    return np.asarray(image).astype(np.int64)


def rounded(shares: NDArray[Any]) -> NDArray[np.int64]:
    """Shares of the whole range, 0 to 1, as 8 bits."""
    whole: NDArray[np.int64] = np.rint(255 * shares).astype(np.int64)
    return whole


def linear(x: NDArray[Any], center: float, width: float) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2.1, as it is written there, with output from 0 to 1."""
    shares = ((x - (center - 0.5)) / (width - 1) + 0.5) if width > 1 else np.zeros(x.shape)
    shares = np.where(x <= center - 0.5 - (width - 1) / 2, 0.0, shares)
    return np.where(x > center - 0.5 + (width - 1) / 2, 1.0, shares)


@pytest.mark.parametrize(
    ("pixels", "bits"), [(EIGHT, 8), (TWELVE, 12), (SIXTEEN, 16), (TWELVE % 1024, 10)]
)
def test_without_a_window_it_is_the_equal_png(pixels: NDArray[Any], bits: int) -> None:
    expected = shown(encode(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(shown(dicom(pixels, bits=bits)), expected)
    if bits == 8:
        np.testing.assert_array_equal(expected, pixels)


@pytest.mark.parametrize(
    ("center", "width"), [(2048, 4096), (1000, 500), (1000.5, 1), (300, 37.5), (-50, 900), (0, 2)]
)
def test_a_window_is_the_standards_linear_function(center: float, width: float) -> None:
    raw = dicom(TWELVE, bits=12, WindowCenter=center, WindowWidth=width)
    np.testing.assert_array_equal(shown(raw), rounded(linear(TWELVE, center, width)))


def test_a_window_of_the_whole_range_is_the_identity() -> None:
    raw = dicom(EIGHT, WindowCenter=128, WindowWidth=256)
    np.testing.assert_array_equal(shown(raw), EIGHT)


def test_of_several_windows_the_first_is_taken() -> None:
    raw = dicom(TWELVE, bits=12, WindowCenter=[1000, 3000], WindowWidth=[500, 50])
    np.testing.assert_array_equal(shown(raw), rounded(linear(TWELVE, 1000, 500)))


def test_the_exact_linear_and_the_sigmoid_function() -> None:
    center, width = 1500.0, 700.0
    fields: dict[str, Any] = {"WindowCenter": center, "WindowWidth": width, "bits": 12}
    exact = ((TWELVE - center) / width + 0.5).clip(0, 1)  # C.11.2.1.3.2
    sigmoid = 1 / (1 + np.exp(-4 * (TWELVE - center) / width))  # C.11.2.1.3.1
    for name, expected in (("LINEAR_EXACT", exact), ("SIGMOID", sigmoid)):
        raw = dicom(TWELVE, VOILUTFunction=name, **fields)
        np.testing.assert_array_equal(shown(raw), rounded(expected))


def test_rescaling_comes_before_the_window() -> None:
    raw = dicom(
        TWELVE,
        bits=12,
        RescaleSlope=0.5,
        RescaleIntercept=-1000,
        WindowCenter=200,
        WindowWidth=700,
    )
    expected = linear(TWELVE * 0.5 - 1000, 200, 700)
    np.testing.assert_array_equal(shown(raw), rounded(expected))


def test_a_negative_slope_inverts_with_and_without_a_window() -> None:
    falling: dict[str, Any] = {"RescaleSlope": -1, "RescaleIntercept": 4095, "bits": 12}
    np.testing.assert_array_equal(
        shown(dicom(TWELVE, **falling)), shown(dicom(4095 - TWELVE, bits=12))
    )
    window = {"WindowCenter": 1000, "WindowWidth": 600}
    np.testing.assert_array_equal(
        shown(dicom(TWELVE, **falling, **window)), rounded(linear(4095 - TWELVE, 1000, 600))
    )


def test_rescaling_alone_changes_nothing() -> None:
    raw = dicom(TWELVE, bits=12, RescaleSlope=3.5, RescaleIntercept=-1024)
    np.testing.assert_array_equal(shown(raw), shown(dicom(TWELVE, bits=12)))


def test_signed_pixels_fill_the_range_and_take_windows() -> None:
    np.testing.assert_array_equal(
        shown(dicom(SIGNED, bits=12)), rounded((SIGNED.astype(int) + 2048) / 4095)
    )
    raw = dicom(SIGNED, bits=12, WindowCenter=-200, WindowWidth=1500)
    np.testing.assert_array_equal(shown(raw), rounded(linear(SIGNED.astype(int), -200, 1500)))


def test_what_stands_in_unused_bits_does_not_show() -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    dirty = (TWELVE | 0xA000).astype(np.uint16)
    np.testing.assert_array_equal(
        shown(dicom(dirty, bits=12, **window)), shown(dicom(TWELVE, bits=12, **window))
    )


@pytest.mark.parametrize("fields", [{}, {"WindowCenter": 1800, "WindowWidth": 999}])
def test_monochrome1_is_the_complement(fields: dict[str, Any]) -> None:
    raw = dicom(TWELVE, bits=12, PhotometricInterpretation="MONOCHROME1", **fields)
    np.testing.assert_array_equal(shown(raw), 255 - shown(dicom(TWELVE, bits=12, **fields)))


@pytest.mark.parametrize("depth", [8, 12, 16])
@pytest.mark.parametrize("first", [0, 300, -100])
@pytest.mark.parametrize("packed", [True, False])
def test_a_voi_lut_is_a_table_that_goes_on_at_its_ends(
    depth: int, first: int, packed: bool
) -> None:
    # 2,000 entries of 8 bits: more places than 8 bits can count.
    entries = (np.arange(2000) ** 2 * (2**depth - 1) // 1999**2).astype(np.int64)
    item = lookup(entries, first, bits=depth, packed=packed)
    pixels = SIGNED if first < 0 else TWELVE
    raw = dicom(pixels, bits=12, VOILUTSequence=Sequence([item]))
    places = (pixels.astype(int) - first).clip(0, 1999)
    np.testing.assert_array_equal(shown(raw), rounded(entries[places] / (2**depth - 1)))


def test_a_voi_lut_goes_before_a_window_and_behind_a_modality_lut() -> None:
    modality = lookup((np.arange(4096) // 4).astype(np.int64), 0, bits=16)
    modality.ModalityLUTType = "US"
    voi = lookup(np.arange(1024)[::-1].astype(np.int64), 0, bits=10)
    raw = dicom(
        TWELVE,
        bits=12,
        ModalityLUTSequence=Sequence([modality]),
        VOILUTSequence=Sequence([voi]),
        WindowCenter=5,
        WindowWidth=7,
    )
    np.testing.assert_array_equal(shown(raw), rounded((1023 - TWELVE // 4) / 1023))


def test_a_modality_lut_is_no_contrast_of_its_own() -> None:
    modality = lookup((np.arange(4096) * 2).astype(np.int64), 0, bits=16)
    modality.ModalityLUTType = "US"
    raw = dicom(TWELVE, bits=12, ModalityLUTSequence=Sequence([modality]))
    np.testing.assert_array_equal(shown(raw), shown(dicom(TWELVE, bits=12)))


USED = (10, 12, 14, 16)


def ramp(bits: int) -> NDArray[np.uint16]:
    """All of [0, 2**bits), evenly: [16, 16]."""
    return np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16).reshape(16, 16)


def full(bits: int) -> NDArray[np.int64]:
    return rounded(ramp(bits) / (2**bits - 1))


@pytest.mark.parametrize("used", USED)
@pytest.mark.parametrize("stated", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_lut_is_scaled_by_its_entries_whatever_bits_its_descriptor_states(
    used: int, stated: int, sequence: str
) -> None:
    item = lookup(np.arange(2**used), 0, bits=stated, packed=False)
    raw = dicom(ramp(used), bits=used, **{sequence: Sequence([item])})
    np.testing.assert_array_equal(shown(raw), full(used))


@pytest.mark.parametrize("used", USED)
def test_a_voi_lut_around_16_bits_shows_fewer_bits_in_full(used: int) -> None:
    item = lookup(np.arange(2**16), 0, bits=16)
    raw = dicom(ramp(used), bits=16, VOILUTSequence=Sequence([item]))
    np.testing.assert_array_equal(shown(raw), full(used))


@pytest.mark.parametrize("kind", ["SS", "US"])
def test_a_lut_of_signed_pixels_has_an_unsigned_length_and_a_signed_beginning(kind: str) -> None:
    item = lookup(np.arange(40_000), 0, bits=16)
    first = -2048 if kind == "SS" else 2**16 - 2048
    item.add_new("LUTDescriptor", kind, [40_000, first, 16])  # of SS pydicom reads a negative one
    raw = dicom((ramp(12) - 2048.0).astype(np.int16), bits=12, VOILUTSequence=Sequence([item]))
    np.testing.assert_array_equal(shown(raw), full(12))


def test_a_voi_lut_that_uses_most_of_its_bits_is_no_stretch() -> None:
    item = lookup(np.arange(4096) * 10, 0, bits=16)
    raw = dicom(ramp(12), bits=12, VOILUTSequence=Sequence([item]))
    np.testing.assert_array_equal(shown(raw), rounded(ramp(12) * 10.0 / 65535))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("first", [0, -2048])
def test_a_lut_of_either_byte_order_is_the_same(packed: bool, syntax: UID, first: int) -> None:
    for sequence, bits in (("VOILUTSequence", 8), ("ModalityLUTSequence", 12)):
        item = lookup(np.arange(4096) >> (12 - bits), first, bits=bits, packed=packed)
        pixels = (ramp(12).astype(np.int64) + first).astype("i2" if first < 0 else "u2")
        found = dataset(pixels, bits=12, **{sequence: Sequence([item])})
        expected = shown(file(found))
        assert len(np.unique(expected)) > 250
        assert (np.diff(expected.ravel()) >= 0).all()
        found.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            found.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
            item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
        np.testing.assert_array_equal(shown(file(found)), expected)


@pytest.mark.parametrize("used", [10, 12, 14])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_window_of_16_bits_around_fewer_chooses_nothing(
    used: int, function: str, photometric: str
) -> None:
    fields: dict[str, Any] = {"PhotometricInterpretation": photometric, "VOILUTFunction": function}
    for center, width in ((32768, 65536), (32768, 65535), (32767, 65535), (32767.5, 65534)):
        found = shown(dicom(ramp(used), bits=16, WindowCenter=center, WindowWidth=width, **fields))
        np.testing.assert_array_equal(found, shown(dicom(ramp(used), bits=16, **fields)))
        assert len(np.unique(found)) == 256


@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (2047.5, 4095), (2000, 8000)])
def test_a_window_less_than_twice_as_wide_as_the_values_is_the_standards(
    center: float, width: float
) -> None:
    raw = dicom(TWELVE, bits=16, WindowCenter=center, WindowWidth=width)
    np.testing.assert_array_equal(shown(raw), rounded(linear(TWELVE, center, width)))


def test_a_window_around_rescaled_values_is_compared_with_those() -> None:
    fields = {"RescaleSlope": 0.5, "RescaleIntercept": -1000}
    around = dicom(ramp(12), bits=16, WindowCenter=0, WindowWidth=5000, **fields)
    np.testing.assert_array_equal(shown(around), full(12))
    inside = dicom(ramp(12), bits=16, WindowCenter=0, WindowWidth=1500, **fields)
    np.testing.assert_array_equal(shown(inside), rounded(linear(ramp(12) * 0.5 - 1000, 0, 1500)))


def test_one_pixel_with_its_byte_of_filling_is_read() -> None:
    assert shown(dicom(np.array([[200]], np.uint8))).tolist() == [[200]]


def test_signed_pixels_that_are_never_below_zero_are_as_unsigned_ones() -> None:
    np.testing.assert_array_equal(shown(dicom(ramp(12).astype(np.int16), bits=16)), full(12))


@pytest.mark.parametrize("bits", [7, 9, 11, 13, 15])
def test_an_odd_number_of_stored_bits_fills_the_range(bits: int) -> None:
    np.testing.assert_array_equal(shown(dicom(ramp(bits), bits=bits)), full(bits))


@pytest.mark.parametrize("signed", [False, True])
def test_padding_does_not_count_for_the_range(signed: bool) -> None:
    pixels = ramp(12).astype(np.int16 if signed else np.uint16)
    pixels[0] = -2000 if signed else 65535
    padded = dataset(pixels, bits=16)
    padded.add_new("PixelPaddingValue", "SS" if signed else "US", -2000 if signed else 65535)
    np.testing.assert_array_equal(shown(file(padded))[1:], full(12)[1:])
    assert (shown(file(padded))[0] == (0 if signed else 255)).all()


@pytest.mark.parametrize("count", [1, 200])
def test_a_range_of_padding_does_not_count_either(count: int) -> None:
    pixels = np.resize(ramp(12), (60, 80)).astype(np.uint16)
    padding = np.linspace(60000, 60079, count).round().astype(np.uint16)
    pixels.flat[:count] = padding
    padded = dataset(pixels, bits=16)
    padded.add_new("PixelPaddingValue", "US", 60000)
    padded.add_new("PixelPaddingRangeLimit", "US", 60100)
    expected = shown(dicom(np.resize(ramp(12), (60, 80)).astype(np.uint16), bits=12))
    np.testing.assert_array_equal(shown(file(padded)).flat[count:], expected.flat[count:])
    padded.PixelPaddingValue, padded.PixelPaddingRangeLimit = 60100, 60000  # the other way round
    np.testing.assert_array_equal(shown(file(padded)).flat[count:], expected.flat[count:])


@pytest.mark.parametrize("form", [" MONOCHROME1", "monochrome1 "])
def test_blanks_and_letter_case_of_a_code_mean_nothing(form: str) -> None:
    expected = shown(dicom(TWELVE, bits=12, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(
        shown(dicom(TWELVE, bits=12, PhotometricInterpretation=form)), expected
    )


EMPTY = (
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("NumberOfFrames", "HighBit", "PixelPaddingValue", "ModalityLUTSequence", "VOILUTSequence"),
)


def emptied(names: tuple[str, ...], **fields: Any) -> bytes:
    found = dataset(TWELVE, bits=12, **fields)
    for name in names:
        kind = "SQ" if name.endswith("Sequence") else None
        found.add_new(name, kind or pydicom.datadict.dictionary_VR(name).split()[0], None)
    return file(found)


@pytest.mark.parametrize("names", [EMPTY, *((name,) for name in EMPTY)])
def test_what_is_empty_is_absent(names: tuple[str, ...]) -> None:
    np.testing.assert_array_equal(shown(emptied(names)), shown(dicom(TWELVE, bits=12)))


def test_what_is_empty_beside_something_else_leaves_that_as_it_is() -> None:
    falling = shown(emptied(("RescaleIntercept",), RescaleSlope=-1))
    np.testing.assert_array_equal(falling, 255 - shown(dicom(TWELVE, bits=12)))
    window = {"WindowCenter": 1000, "WindowWidth": 600}
    found = shown(emptied(("RescaleSlope",), RescaleIntercept=-500, **window))
    np.testing.assert_array_equal(found, rounded(linear(TWELVE.astype(int) - 500, 1000, 600)))
    item = lookup(np.arange(4096), 0, bits=12)
    item.LUTData = None
    found = shown(dicom(TWELVE, bits=12, VOILUTSequence=Sequence([item]), **window))
    np.testing.assert_array_equal(found, rounded(linear(TWELVE.astype(int), 1000, 600)))


def test_a_rescaling_beyond_all_whole_numbers_is_no_error_of_a_lut() -> None:
    item = lookup(np.arange(4096), 32, bits=15)
    raw = dicom(TWELVE, bits=12, RescaleSlope=1e16, VOILUTSequence=Sequence([item]))
    np.testing.assert_array_equal(shown(raw), np.where(TWELVE == 0, 0, 255))


def test_every_byte_order_gives_the_same() -> None:
    expected = shown(dicom(TWELVE, bits=12))
    implicit = dataset(TWELVE, bits=12)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    np.testing.assert_array_equal(shown(file(implicit)), expected)
    big = dataset(TWELVE.astype(">u2"), bits=12)
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    np.testing.assert_array_equal(shown(file(big)), expected)


def test_colour_becomes_luma() -> None:
    colours = RANDOM.integers(0, 256, (16, 16, 3), np.uint8)
    expected = shown(encode(Image.fromarray(colours), "PNG"))
    np.testing.assert_array_equal(shown(dicom(colours)), expected)


def test_compressed_pixels_are_those_that_were_compressed() -> None:
    for pixels, bits in ((EIGHT, 8), (TWELVE, 12)):
        packed = dataset(pixels, bits=bits)
        packed.compress(RLELossless)
        np.testing.assert_array_equal(shown(file(packed)), shown(dicom(pixels, bits=bits)))
    code = encode(Image.fromarray(EIGHT), "JPEG2000", no_jp2=True, irreversible=False)
    np.testing.assert_array_equal(shown(compressed(EIGHT, code, JPEG2000Lossless)), EIGHT)
    code = encode(Image.fromarray(RAMP), "JPEG", quality=98)
    for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        assert np.abs(shown(compressed(RAMP, code, syntax)) - RAMP).mean() < 2


# A lossless JPEG's start: its size is all of it that is read before a decoder is.
LOSSLESS_JPEG = b"\xff\xd8\xff\xc3\x00\x0b\x0c" + struct.pack(">HHB", 20, 24, 1) + bytes(20)


@pytest.mark.parametrize(
    ("syntax", "package"),
    [
        (JPEGLosslessSV1, "pylibjpeg pylibjpeg-libjpeg"),
        (JPEGExtended12Bit, "pylibjpeg pylibjpeg-libjpeg"),
        (JPEGLSLossless, "pyjpegls"),
    ],
)
def test_a_missing_decoder_is_named_and_nothing_is_left_out_for_its_want(
    tmp_path: Path, syntax: UID, package: str
) -> None:
    if set(get_decoder(syntax).available_plugins) - {"pillow"}:
        pytest.skip("what decodes this is installed here")
    path = write(tmp_path / "a.dcm", compressed(TWELVE, LOSSLESS_JPEG, syntax, bits=12))
    with pytest.raises(InputError, match=rf"a\.dcm: .*pip install {package}, then the same"):
        examine(str(path), image_size=16)


WITHOUT_PYDICOM = """
import sys
sys.modules["pydicom"] = None  # as if it were not installed
from acgan.covidx import main
sys.exit(main([sys.argv[1]]))
"""


@pytest.mark.process
def test_without_pydicom_one_sentence_says_what_to_type(tmp_path: Path) -> None:
    write_folder(tmp_path / "x", dicom, "dcm")
    run = [sys.executable, "-c", WITHOUT_PYDICOM, str(tmp_path / "x")]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "pip install 'pydicom>=3.0.1,<4'" in line
    assert ".dcm: this is a DICOM file" in line


def broken(**fields: Any) -> bytes:
    return dicom(TWELVE, bits=12, **fields)


def without(name: str) -> bytes:
    found = dataset(TWELVE, bits=12)
    delattr(found, name)
    return file(found)


def deflated() -> bytes:
    """A kilobyte that unpacks to a gigabyte behind its first header."""
    found = dataset(TWELVE, bits=12)
    found.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    raw = file(found)
    start = raw.index(b"\x02\x00\x10\x00UI") + 8 + raw[raw.index(b"\x02\x00\x10\x00UI") + 6]
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    zeros = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024))
    return raw[:start] + zeros + packer.flush()


def sequences(depth: int) -> bytes:
    """Sequences in sequences, without an end: each is an object, and a call in a call."""
    found = dataset(TWELVE, bits=12)
    raw = file(found)
    place = raw.index(b"\x28\x00\x02\x00US")
    begin = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return raw[:place] + (begin + item) * depth + raw[place:]


def items(count: int) -> bytes:
    """A sequence of empty items: eight bytes each, and a kilobyte each once they are read."""
    found = dataset(TWELVE, bits=12)
    raw = file(found)
    place = raw.index(b"\x28\x00\x02\x00US")
    begin = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return raw[:place] + begin + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count + end + raw[place:]


def huge_rle() -> bytes:
    """Runs of 128 for two bytes each, far beyond the pixels that the header names."""
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    return compressed(EIGHT, header + b"\x81\x00" * 4_000_000, RLELossless)


def huge_jpeg() -> bytes:
    code = bytearray(encode(Image.fromarray(EIGHT), "JPEG"))
    place = code.index(b"\xff\xc0") + 5
    code[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    return compressed(EIGHT, bytes(code), JPEGBaseline8Bit)


def huge_jpeg_2000() -> bytes:
    code = bytearray(encode(Image.fromarray(EIGHT), "JPEG2000", no_jp2=True))
    code[8:16] = struct.pack(">II", 60_000, 60_000)
    return compressed(EIGHT, bytes(code), JPEG2000Lossless)


REFUSED = {
    "frames": (broken(NumberOfFrames=2), "it has several frames; keep the one that is meant"),
    "bomb": (broken(Rows=60_000, Columns=60_000), "60000 x 60000 pixels are too many"),
    "a little too large": (broken(Rows=8_001, Columns=8_000), "8000 x 8001 pixels are too many"),
    "no rows": (broken(Rows=0), "it has no rows or no columns"),
    "palette": (broken(PhotometricInterpretation="PALETTE COLOR"), "pixels of PALETTE COLOR"),
    "high bit": (broken(HighBit=15), "high bit 15"),
    "bits": (broken(BitsStored=17, HighBit=16), "pixels of 17 bits in 16"),
    "deep": (broken(BitsAllocated=32), "pixels of 12 bits in 32"),
    "window": (broken(WindowCenter=1, WindowWidth=0), "Window Width"),
    "function": (broken(WindowCenter=1, WindowWidth=9, VOILUTFunction="CUBIC"), "CUBIC"),
    "flat": (broken(RescaleSlope=0, RescaleIntercept=1), "maps no range of values"),
    "a form of control characters": (
        broken(PhotometricInterpretation="X").replace(b"X ", b"\x1b\0"),
        "pixels of ? with 1 samples",
    ),
    "no pixels": (without("PixelData"), "cannot be decoded: there are none"),
    "empty pixels": (broken(PixelData=None), "cannot be decoded: there are none"),
    "empty rows": (broken(Rows=None), "damaged or incomplete: Rows"),
    "a slope of text": (
        broken(RescaleSlope="1.5", RescaleIntercept="0").replace(b"1.5 ", b"a.b "),
        "Rescale Slope is not a number",
    ),
    "16 bits called 8": (
        broken(BitsAllocated=8, BitsStored=8, HighBit=7),
        "pixels are twice as many as its header says",
    ),
    "hardly a slope": (broken(RescaleSlope="1e-320", RescaleIntercept=0), "maps no range"),
    "a window nowhere": (
        broken(WindowCenter="12345", WindowWidth=9).replace(b"12345 ", b"1e4000"),
        "Window Center is not a number",
    ),
    "signed colours": (dicom(np.zeros((4, 4, 3), np.int8)), "colours of signed numbers"),
    "no rows at all": (without("Rows"), "damaged or incomplete"),
    "cut off": (broken()[:-100], "cannot be decoded"),
    "no header": (bytes(128) + b"DICM", "are not read"),
    "deflated": (deflated(), "Deflated Explicit VR Little Endian are not read"),
    "nested": (sequences(20_000), "damaged or incomplete"),
    "items": (items(1_000_000), "damaged or incomplete"),
    "huge rle": (huge_rle(), "not of the size that its header says"),
    "huge jpeg": (huge_jpeg(), "not of the size that its header says"),
    "huge jpeg 2000": (huge_jpeg_2000(), "not of the size that its header says"),
}

MEASURE = """
import resource, sys
from acgan.data import dicom
from acgan.data.decode import examine
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    problem = examine(path, image_size=16)[0].problem
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(used // 1024, problem)
"""


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shown_is_left_out_with_its_reason(tmp_path: Path, name: str) -> None:
    content, reason = REFUSED[name]
    path = write(tmp_path / "a.dcm", content)
    facts, pixels = examine(str(path), image_size=16)
    assert pixels is None
    assert reason in facts.problem
    assert facts.problem.isprintable()


@pytest.mark.process
def test_hostile_files_need_no_memory_and_the_largest_image_a_gigabyte(tmp_path: Path) -> None:
    files = {name: REFUSED[name][0] for name in REFUSED}
    large = np.zeros((8_000, 8_000), np.uint16)
    large[0, 0] = 65_535
    files["large"] = dicom(large)
    files["large window"] = dicom(large, WindowCenter=9_000, WindowWidth=12_000)
    paths = [str(write(tmp_path / f"{place}.dcm", files[n])) for place, n in enumerate(files)]
    run = [sys.executable, "-c", MEASURE, *paths]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=400)
    for name, line in zip(files, done.stdout.splitlines(), strict=True):
        megabytes, _, problem = line.partition(" ")
        if name.startswith("large"):
            assert problem == ""
            assert int(megabytes) < 1_100
        else:
            assert int(megabytes) < 120, line


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dicom")


def packed() -> bytes:
    found = dataset(TWELVE, bits=12)
    found.compress(RLELossless)
    return file(found)


WHOLE = (
    broken(WindowCenter=1000, WindowWidth=500),
    dicom(SIGNED, bits=12, VOILUTSequence=Sequence([lookup(np.arange(256), 0, bits=8)])),
    packed(),
    compressed(RAMP, encode(Image.fromarray(RAMP), "JPEG"), JPEGBaseline8Bit),
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_are_shown_or_left_out_but_never_fatal(
    scratch: Path, data: st.DataObject
) -> None:
    raw = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(132, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = write(scratch / "x", bytes(raw))
    try:
        facts, pixels = examine(str(path), image_size=16)
    except InputError:  # a transfer syntax that nothing here decodes
        return
    assert (pixels is None) == bool(facts.problem) == (facts.near_hash == b"")


def test_a_number_of_half_its_length_is_a_damaged_header(tmp_path: Path) -> None:
    signed = b"\x28\x00\x03\x01US"  # Pixel Representation
    whole = WHOLE[0]
    assert whole.count(signed + b"\x02") == 1
    path = write(tmp_path / "x", whole.replace(signed + b"\x02", signed + b"\x01"))
    facts, pixels = examine(str(path), image_size=16)
    assert pixels is None
    assert facts.problem == "its DICOM header is damaged or incomplete"


def write_folder(folder: Path, to_file: Any, ending: str) -> None:
    """Write a data folder of images with 8 bits, three patients a class and split."""
    random = np.random.default_rng(1)
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        lines = []
        for number in range(18):
            name = ("COVID-19", "normal", "pneumonia")[number % 3]
            pixels = random.integers(0, 256, (32, 40), np.uint8)
            write(folder / split / f"{number}.{ending}", to_file(pixels))
            lines.append(f"{split}-{number // 2} {number}.{ending} {name} cohen\n")
        (folder / f"{split}.txt").write_text("".join(lines))


def test_a_data_set_of_dicom_is_the_one_of_equal_pngs_bit_for_bit(tmp_path: Path) -> None:
    write_folder(tmp_path / "png", lambda pixels: encode(Image.fromarray(pixels), "PNG"), "x")
    write_folder(tmp_path / "dicom", dicom, "x")
    first, second = (
        load(str(tmp_path / name), image_size=16, cache=tmp_path / "cache")
        for name in ("png", "dicom")
    )
    assert first.fingerprint == second.fingerprint
    assert len(first.train) + len(first.val) + len(first.test) == 36
    for one, other in ((first.train, second.train), (first.val, second.val)):
        np.testing.assert_array_equal(one.images, other.images)
        assert one.patients == other.patients


def test_no_field_of_a_patient_is_kept(tmp_path: Path) -> None:
    from acgan.data.dicom import TAGS, read_header

    header = read_header(dicom(TWELVE, bits=12, PatientBirthDate="19700101"))
    assert set(header.dir()) <= set(TAGS)
    write_folder(tmp_path / "x", dicom, "dcm")
    loaded = load(str(tmp_path / "x"), image_size=16, cache=tmp_path / "cache")
    everything = repr(dataclasses.asdict(loaded))
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    everything += "".join(path.read_bytes().decode("latin1") for path in files)
    assert "secret" not in everything
    assert "Nobody" not in everything
