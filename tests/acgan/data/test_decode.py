"""Every colour mode decodes to the same grey; broken and hostile files are unreadable."""

import errno
import hashlib
import io
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageChops

from acgan.data.decode import (
    BLANK_BELOW,
    FILE_LIMIT_BYTES,
    examine,
    examine_all,
    grey,
    grey_spread,
    near_hash,
)
from acgan.data.decode import decoded as open_image
from acgan.data.split import near_duplicates
from acgan.errors import InputError
from tests.kit import MINI, needs_mini

# A left-to-right ramp with a dark top left corner: no flip or rotation maps it on itself.
RAMP = np.tile(np.linspace(20, 235, 48).round().astype(np.uint8), (32, 1))
RAMP[:8, :12] = 0
GREY = Image.fromarray(RAMP)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8))


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(raw: bytes) -> NDArray[np.int64]:
    image = grey(raw)
    assert image.mode == "L"
    return np.asarray(image).astype(np.int64)


def without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    length = struct.unpack(">H", jpeg[start + 2 : start + 4])[0]
    return jpeg[:start] + jpeg[start + 2 + length :]


def cmyk_jpeg_without_marker() -> bytes:
    """Plain CMYK: Pillow stores it inverted, so give it the inverse and drop Adobe's marker."""
    inverse = ImageChops.invert(GREY.convert("RGB").convert("CMYK"))
    return without_adobe_marker(encode(inverse, "JPEG", quality=98))


LOSSLESS: dict[str, Callable[[], bytes]] = {
    "grey": lambda: encode(GREY, "PNG"),
    "rgb": lambda: encode(GREY.convert("RGB"), "PNG"),
    "rgba": lambda: encode(GREY.convert("RGBA"), "PNG"),
    "grey and alpha": lambda: encode(GREY.convert("LA"), "PNG"),
    "palette": lambda: encode(GREY.convert("P"), "PNG"),
    "gif": lambda: encode(GREY, "GIF"),
    "16-bit": lambda: encode(Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG"),
    "16-bit tiff": lambda: encode(Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF"),
    "8 bits in 16": lambda: encode(Image.fromarray(RAMP.astype(np.uint16)), "PNG"),
}
LOSSY: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encode(GREY, "JPEG", quality=98),
    "rgb jpeg": lambda: encode(GREY.convert("RGB"), "JPEG", quality=98),
    "Adobe's cmyk jpeg": lambda: encode(GREY.convert("RGB").convert("CMYK"), "JPEG", quality=98),
    "plain cmyk jpeg": cmyk_jpeg_without_marker,
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_every_lossless_colour_mode_gives_the_exact_grey(name: str) -> None:
    np.testing.assert_array_equal(decoded(LOSSLESS[name]()), RAMP)


@pytest.mark.parametrize("name", LOSSY)
def test_every_jpeg_colour_mode_gives_the_grey_up_to_its_loss(name: str) -> None:
    assert np.abs(decoded(LOSSY[name]()) - RAMP).mean() < 2


def test_twelve_bits_in_sixteen_fill_the_range() -> None:
    deep = Image.fromarray(np.array([[0, 2048, 4095]], np.uint16))
    assert decoded(encode(deep, "PNG")).tolist() == [[0, 128, 255]]


def test_colour_becomes_luma() -> None:
    colours = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))
    expected = np.array([[0.299, 0.587, 0.114]]) * 255  # ITU-R BT.601
    np.testing.assert_allclose(decoded(encode(colours, "PNG")), expected, atol=1)


def test_transparency_lies_on_black_whatever_colour_it_hides() -> None:
    pixels = np.full((1, 3, 4), 200, np.uint8)
    pixels[0, :, 3] = [255, 128, 0]
    assert decoded(encode(Image.fromarray(pixels), "PNG")).tolist() == [[200, 100, 0]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([250, 250, 250, 90, 90, 90])
    assert decoded(encode(palette, "PNG", transparency=0)).tolist() == [[0, 90]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    # The array operations that turn the stored image upright, from the EXIF standard.
    upright = {
        1: RAMP,
        2: RAMP[:, ::-1],
        3: RAMP[::-1, ::-1],
        4: RAMP[::-1],
        5: RAMP.T,
        6: np.rot90(RAMP, -1),
        7: RAMP[::-1, ::-1].T,
        8: np.rot90(RAMP),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encode(GREY, "PNG", exif=exif)
    np.testing.assert_array_equal(decoded(raw), upright[orientation])


def test_examine_resizes_the_whole_image_and_hashes_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(GREY, "PNG"))
    facts, pixels = examine(str(path), image_size=16)
    assert facts.problem == ""
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert pixels is not None
    assert pixels.shape == (16, 16)
    assert pixels.dtype == np.uint8
    means = RAMP.reshape(16, 2, 16, 3).mean((1, 3))  # the smooth part: away from the corner
    np.testing.assert_allclose(pixels[6:, 1:-1], means[6:, 1:-1], atol=2)


def test_resizing_does_not_alias(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    Image.fromarray(stripes).save(tmp_path / "a.png")
    _, pixels = examine(str(tmp_path / "a.png"), image_size=32)
    assert pixels is not None
    assert np.abs(pixels[:, 2:-2].astype(float) - 127.5).max() <= 2


def bomb(width: int, height: int, *, bits: int = 8, data: bytes = bytes(1000)) -> bytes:
    """A PNG of a few bytes that claims a huge size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(data, 1))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


UNREADABLE = {
    "empty": b"",
    "text": b"not an image",
    "truncated": encode(NOISE, "PNG")[:800],
    "truncated jpeg": encode(GREY, "JPEG")[:400],
    "bomb": bomb(60_000, 60_000),
    "a little too large": bomb(8_001, 8_000),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "a little too long": bomb(65_536, 1),
    "no pixels": b"GIF89a" + bytes(7) + b";",
    **{
        f"animated {form}": encode(
            NOISE.convert("RGB"),
            form,
            save_all=True,
            append_images=[NOISE.rotate(90).convert("RGB")],
        )
        for form in ("GIF", "PNG", "TIFF", "WEBP")
    },
    "twelve bits": encode(GREY, "JPEG").replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"),
    "floating point": encode(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_broken_and_hostile_files_are_unreadable(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(UNREADABLE[name])
    facts, pixels = examine(str(path), image_size=16)
    assert facts.problem
    assert pixels is None
    assert facts.sha256 == hashlib.sha256(UNREADABLE[name]).hexdigest()


def blank_with_label() -> Image.Image:
    image = Image.new("L", (200, 200), 3)
    image.paste(250, (0, 0, 40, 40))  # 4 % of its pixels
    return image


BLANK = {
    "black": Image.new("L", (40, 30)),
    "one grey": Image.new("L", (40, 30), 128),
    "one grey and a label": blank_with_label(),
    "one grey and its noise": Image.fromarray(
        np.random.default_rng(0).normal(100, 20, (4096, 4096)).clip(0, 255).astype(np.uint8)
    ),
    "15 greys": Image.fromarray(np.tile(np.arange(16, dtype=np.uint8), (16, 1))),
    "12 bits in 16, taken for 16": Image.fromarray(RAMP // 16),
}
SEEN = {
    "a ramp": GREY,
    "noise": NOISE,
    "17 greys": Image.fromarray(np.tile(np.arange(18, dtype=np.uint8), (18, 1))),
    "a tenth of it": Image.fromarray(np.pad(RAMP, ((0, 32 * 9), (0, 0)))),
    "two values": Image.fromarray(np.tile(np.array([0, 255], np.uint8), (8, 8))),
}


@pytest.mark.parametrize("name", [*BLANK, *SEEN])
def test_a_blank_image_is_told_at_every_size_that_it_is_read_in(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encode({**BLANK, **SEEN}[name], "PNG"))
    for image_size in (16, 112):
        facts, pixels = examine(str(path), image_size=image_size)
        assert pixels is not None
        assert facts.problem == ""
        assert bool(facts.blank) == (name in BLANK)
        assert facts.blank.isprintable()


@needs_mini
def test_real_x_rays_are_far_from_blank() -> None:
    paths = [path for split in ("train", "test") for path in (MINI / split).iterdir()]
    fewest = min(grey_spread(grey(path.read_bytes())) for path in paths)
    assert fewest == 80
    assert fewest > 4 * BLANK_BELOW


def test_the_reason_is_one_line_of_text(tmp_path: Path) -> None:
    for content in UNREADABLE.values():
        (tmp_path / "x.png").write_bytes(content)
        problem = examine(str(tmp_path / "x.png"), image_size=16)[0].problem
        assert problem.isprintable()
        assert "object at 0x" not in problem


def test_a_file_of_a_known_format_is_not_called_no_image(tmp_path: Path) -> None:
    for name, reason in (("twelve bits", "a JPEG file"), ("text", "")):
        (tmp_path / "x.png").write_bytes(UNREADABLE[name])
        problem = examine(str(tmp_path / "x.png"), image_size=16)[0].problem
        assert problem.startswith("not an image as") == (not reason)
        assert reason in problem


def test_the_content_counts_and_not_the_ending_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "x.exe").write_bytes(LOSSLESS["grey"]())
    (tmp_path / "x.png").write_bytes(LOSSLESS["gif"]())
    pixels = [examine(str(tmp_path / name), image_size=16)[1] for name in ("x.exe", "x.png")]
    assert pixels[0] is not None
    np.testing.assert_array_equal(pixels[0], pixels[1])


MEASURE = """
import resource, sys
from acgan.data.decode import examine
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    problem = examine(path, image_size=16)[0].problem
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(used // 1024, problem)
"""


@pytest.mark.process
def test_the_largest_images_need_a_gigabyte_and_larger_ones_nothing(tmp_path: Path) -> None:
    files = {
        "huge.png": bomb(60_000, 60_000),
        "long.png": bomb(60_000_000, 1),
        "deep.png": bomb(8_000, 8_000, bits=16, data=bytes(8_000 * 16_001)),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    huge, long, deep = done.stdout.splitlines()
    assert int(huge.split()[0]) < 20
    assert int(long.split()[0]) < 20
    megabytes, _, problem = deep.partition(" ")
    assert problem == ""
    assert int(megabytes) < 1_100


def test_deep_grey_is_scaled_alike_however_large_the_image_is() -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (1_100, 1_000), np.uint16)
    deep[0, 0] = 2**16 - 1
    expected = np.rint(deep / (2**16 - 1) * 255)
    np.testing.assert_array_equal(decoded(encode(Image.fromarray(deep), "PNG")), expected)


def test_pipes_devices_folders_and_missing_files_are_unreadable_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "missing"):
        facts, pixels = examine(str(path), image_size=16)
        assert (bool(facts.problem), facts.sha256, pixels) == (True, "", None)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_file_that_the_system_does_not_give_out_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Left out, it would stay so: it keeps its size and time when it can be read again."""
    path = tmp_path / "x.png"
    path.write_bytes(encode(GREY, "PNG"))

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    why = re.escape(f"{path}: this file is there, but cannot be read ({os.strerror(number)})")
    with pytest.raises(InputError, match=f"^{why}; mend that"):
        examine(str(path), image_size=16)
    path.unlink()
    facts, _ = examine(str(path), image_size=16)
    assert facts.problem == os.strerror(number)


def test_a_file_over_the_size_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.touch()
    os.truncate(path, FILE_LIMIT_BYTES + 1)
    assert "larger than 256 MB" in examine(str(path), image_size=16)[0].problem


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decode")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_images_are_decoded_or_unreadable_but_never_fatal(
    scratch: Path, data: st.DataObject
) -> None:
    makers = [*LOSSLESS.values(), *LOSSY.values()]
    raw = bytearray(data.draw(st.sampled_from(makers))())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (scratch / "x").write_bytes(raw)
    facts, pixels = examine(str(scratch / "x"), image_size=16)
    assert (pixels is None) == bool(facts.problem) == (facts.near_hash == b"")


def test_the_near_hash_is_the_sign_of_neighbouring_differences() -> None:
    rising = Image.fromarray(np.tile(np.arange(0, 255, 5).astype(np.uint8), (51, 1)))
    bits = np.unpackbits(np.frombuffer(near_hash(rising), np.uint8)).reshape(2, 16, 16)
    assert bits[0].all()
    assert not bits[1].any()


def test_the_near_hash_of_a_larger_copy_is_the_same() -> None:
    values = np.random.default_rng(0).integers(0, 256, (17 * 16, 17 * 16), np.uint8)
    larger = values.repeat(4, axis=0).repeat(4, axis=1)
    assert near_hash(Image.fromarray(larger)) == near_hash(Image.fromarray(values))


def test_threads_give_what_one_thread_gives_in_the_same_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for number in range(80):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(rng.integers(0, 256, (20, 20), np.uint8)).save(paths[-1])
    os.unlink(paths[3])
    alone = list(examine_all(paths, image_size=16, workers=1))
    together = list(examine_all(paths, image_size=16, workers=2))
    assert [facts for facts, _ in alone] == [facts for facts, _ in together]
    for (_, expected), (_, pixels) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(pixels, expected)


def film(width: int, height: int) -> Image.Image:
    """Return an image as smooth as an X-ray, with its grain."""
    random = np.random.default_rng(0)
    shapes = random.integers(0, 256, (12, 12)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC))
    grain = random.normal(0, 3, (height, width))
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("image_size", [16, 112])
@pytest.mark.parametrize("turned", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_reduced_size_and_looks_alike(
    tmp_path: Path, image_size: int, turned: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    path = tmp_path / "x.jpg"
    film(1024, 800).save(path, quality=90, exif=exif)
    assert open_image(path.read_bytes(), least=256).size in {(512, 400), (400, 512)}
    (whole, full), (facts, reduced) = (
        examine(str(path), image_size=image_size, whole=whole) for whole in (True, False)
    )
    assert full is not None
    assert reduced is not None
    assert np.abs(full.astype(int) - reduced.astype(int)).max() <= 2
    hashes = np.stack([np.frombuffer(each.near_hash, np.uint8) for each in (whole, facts)])
    assert near_duplicates(hashes).tolist() == [[0, 1]]
    assert (facts.blank, facts.coloured, facts.sha256) == ("", False, whole.sha256)


@pytest.mark.parametrize(
    ("size", "form"), [((511, 511), "JPEG"), ((2000, 300), "JPEG"), ((1024, 1024), "PNG")]
)
def test_a_small_or_narrow_jpeg_and_other_files_are_decoded_whole(
    tmp_path: Path, size: tuple[int, int], form: str
) -> None:
    path = tmp_path / "x"
    film(*size).save(path, form)
    full, kept = (examine(str(path), image_size=16, whole=whole)[1] for whole in (True, False))
    assert full is not None
    np.testing.assert_array_equal(full, kept)
