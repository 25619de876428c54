"""Whatever the form of 16-bit numbers in a file, its greys have their order and fill the range."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from acgan.data.decode import grey
from acgan.data.depth import ends, full_range, is_halved, to_grey
from tests.rasters import png, short, tiff

USED = (8, 10, 12, 14, 16)
ORDERS = ("<", ">")


def ramp(bits: int, *, signed: bool = False) -> NDArray[np.integer[Any]]:
    """[8, 12]: from the lowest to the highest number of so many bits."""
    numbers = np.linspace(0, 2**bits - 1, 96).round().reshape(8, 12)
    return (numbers - 2 ** (bits - 1)).astype(np.int16) if signed else numbers.astype(np.uint16)


def shown(raw: bytes) -> NDArray[np.int64]:
    return np.asarray(grey(raw)).astype(np.int64)


def expected(bits: int) -> NDArray[np.int64]:
    shares = np.linspace(0, 2**bits - 1, 96).round().reshape(8, 12) / (2**bits - 1)
    whole: NDArray[np.int64] = np.rint(255 * shares).astype(np.int64)
    return whole


def grey_and_opacity(values: NDArray[Any], opacity: int) -> NDArray[Any]:
    return np.dstack([values, np.full_like(values, opacity)])


def colours(values: NDArray[Any], *opacity: int) -> NDArray[Any]:
    return np.dstack([values] * 3 + [np.full_like(values, own) for own in opacity])


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**31), st.integers(1, 40))
def test_the_range_holds_the_values_and_no_more_bits_than_they_need(
    low: int, more: int, stated: int
) -> None:
    lowest, highest = full_range(low, low + more, stated=stated)
    assert lowest <= low <= low + more <= highest
    assert (lowest < 0) == (low < 0)
    bits = (highest - lowest).bit_length()
    assert highest - lowest == 2**bits - 1
    half = (lowest // 4, highest // 4)  # two bits fewer
    fits = half[0] <= low and low + more <= half[1]
    assert not fits or bits == 8 or bits <= stated


@pytest.mark.parametrize(
    ("low", "high", "stated", "bits"),
    [
        *((0, 4095, 16, 12), (0, 4095, 12, 12), (0, 4096, 12, 14), (0, 4096, 13, 13)),
        *((0, 1, 16, 8), (0, 1, 1, 1), (-1, 2047, 16, 12), (-2049, 0, 16, 14), (0, 0, 16, 8)),
        *((0, 32767, 15, 15), (-128, -128, 16, 8)),
    ],
)
def test_it_is_the_next_even_number_of_bits_or_the_stated_one(
    low: int, high: int, stated: int, bits: int
) -> None:
    lowest, highest = full_range(low, high, stated=stated)
    assert highest - lowest == 2**bits - 1


@pytest.mark.parametrize("bits", USED)
@pytest.mark.parametrize("order", ORDERS)
def test_grey_tiff_of_both_byte_orders_and_senses(bits: int, order: str) -> None:
    values = ramp(bits)
    np.testing.assert_array_equal(shown(tiff(values, order=order)), expected(bits))
    white_is_zero = tiff(values, order=order, photometric=0)
    np.testing.assert_array_equal(shown(white_is_zero), 255 - expected(bits))


@pytest.mark.parametrize("bits", USED)
@pytest.mark.parametrize("order", ORDERS)
def test_signed_tiff_is_grey_from_its_lowest_number(bits: int, order: str) -> None:
    values = ramp(bits, signed=True)
    for stored in (values, values.astype(np.int32), *([values.astype(np.int8)] * (bits == 8))):
        np.testing.assert_array_equal(shown(tiff(stored, order=order)), expected(bits))
        negative = tiff(stored, order=order, photometric=0)
        np.testing.assert_array_equal(shown(negative), 255 - expected(bits))


def test_signed_numbers_that_are_never_below_zero_are_as_unsigned_ones() -> None:
    np.testing.assert_array_equal(shown(tiff(ramp(12).astype(np.int16))), expected(12))


def test_numbers_of_32_bits_keep_their_order_beyond_half_of_their_range() -> None:
    values = np.arange(96, dtype=np.uint32).reshape(8, 12) * 45_000_000
    assert (np.diff(shown(tiff(values)).ravel()) > 0).all()


@pytest.mark.parametrize("bits", USED)
def test_colours_of_16_bits_are_the_equal_grey(bits: int) -> None:
    values, top = ramp(bits), 2**bits - 1
    np.testing.assert_array_equal(shown(png(values)), expected(bits))
    for opacity in {top, 2**16 - 1}:
        np.testing.assert_array_equal(shown(png(grey_and_opacity(values, opacity))), expected(bits))
        np.testing.assert_array_equal(shown(png(colours(values, opacity))), expected(bits))
    np.testing.assert_array_equal(shown(png(colours(values))), expected(bits))
    for order in ORDERS:
        plain = tiff(colours(values), order=order, photometric=2)
        np.testing.assert_array_equal(shown(plain), expected(bits))
        opacity = {338: short(order, 2)}
        both = tiff(colours(values, top), order=order, photometric=2, fields=opacity)
        np.testing.assert_array_equal(shown(both), expected(bits))


@pytest.mark.parametrize("bits", USED)
@pytest.mark.parametrize("order", ORDERS)
def test_ink_of_16_bits_darkens(bits: int, order: str) -> None:
    values = ramp(bits)
    black = np.dstack([np.zeros_like(values)] * 3 + [values])
    picture = shown(tiff(black, order=order, photometric=5))
    np.testing.assert_array_equal(picture, 255 - expected(bits))


def compressed_tiff(values: NDArray[Any], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", compression=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_is_the_plain_one(kind: str) -> None:
    np.testing.assert_array_equal(shown(compressed_tiff(ramp(12), kind)), expected(12))


def test_colours_of_16_bits_are_scaled_together_and_large_ones_alike() -> None:
    values = np.random.default_rng(0).integers(0, 4096, (700, 600, 3), np.uint16)
    values[0, 0] = 4095
    eight = np.rint(values * (255 / 4095)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(eight).convert("L"))
    np.testing.assert_array_equal(shown(png(values)), expected)


def test_half_opacity_of_16_bits_lies_on_black() -> None:
    values = grey_and_opacity(np.full((1, 2), 4095, np.uint16), 4095)
    values[0, 1, 1] = 2048
    assert shown(png(values)).tolist() == [[255, 128]]


def test_a_transparent_grey_or_colour_of_16_bits_is_black() -> None:
    values = np.array([[4095, 4094, 16]], np.uint16)
    key = b"\x0f\xff"
    expected = [[0, 255, 1]]
    assert shown(png(values, before=[(b"tRNS", key)])).tolist() == expected
    assert shown(png(colours(values), before=[(b"tRNS", key * 3)])).tolist() == expected


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (
            tiff(colours(ramp(12), 9), photometric=2, fields={338: short("<", 1)}),
            "multiplied with their opacity",
        ),
        (tiff(colours(ramp(12)), photometric=2, fields={284: short("<", 2)}), "separate planes"),
        (tiff(ramp(12), photometric=None), "does not say whether 0 is black or white"),
        (b"P6 1 1 65535\n" + bytes(6), "not of PPM"),
    ],
)
def test_what_would_lose_its_order_is_refused_by_name(raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        grey(raw)


def test_eight_bits_are_left_to_pillow() -> None:
    with Image.open(io.BytesIO(png(ramp(8).astype(np.uint8)))) as opened:
        assert not is_halved(opened)


def test_one_value_is_no_division_by_zero() -> None:
    assert np.asarray(to_grey(np.zeros((2, 2), np.int32))).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("order", ORDERS)
def test_a_dead_pixel_does_not_darken_the_image(order: str) -> None:
    values = np.resize(ramp(12), (120, 120)).astype(np.uint16)
    values[5, 7] = 65535
    found = shown(tiff(values, order=order)) if order else shown(png(values))
    alone = to_grey(np.where(values == 65535, 4095, values).astype(np.uint16))
    np.testing.assert_array_equal(found, np.asarray(alone))
    assert found[5, 7] == 255


def test_one_bright_pixel_in_ten_thousand_is_no_part_of_the_range_and_two_are() -> None:
    values = np.zeros((100, 100), np.uint16)
    values[0] = np.arange(100) * 10
    assert ends(values) == (0, 990)
    values[1, 0] = 5000
    assert ends(values) == (0, 1023)
    values[1, 1] = 5000
    assert ends(values) == (0, 5000)
    few = values[:10, :10]
    assert ends(few) == (int(few.min()), int(few.max()))
