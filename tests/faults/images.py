"""Images whose greys are known: of every form of numbers, with every sort of odd metadata.

A drawn file comes with `case.json`: the source's numbers, upright, and what must become of them.
Either the picture has their order of greys, or the file is left out for a reason that the case
allows; a file that was damaged may also be left out for any other.
"""

from __future__ import annotations

import functools
import io
import json
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pydicom
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

import acgan.data.dicom  # noqa: F401 (it silences pydicom for good only outside of `catch_warnings`)
from acgan.data.decode import BLANK_BELOW, examine, grey, grey_spread
from acgan.errors import InputError
from tests.dicoms import dataset, file, lookup
from tests.faults.damage import DAMAGE_KINDS, Damage, damaged
from tests.rasters import Chunk, Field, directory, png, short, tiff, tiff_header

Values = NDArray[np.int64]
Case = dict[str, Any]

SHAPE = (8, 12)
PIECES = (
    *(b"\0", b"\xff" * 8, b"Exif\0\0", b"II*\0\x08\0\0\0", b"MM\0*", b"IDAT", b"IEND", b"eXIf"),
    *(b"\xff\xd8", b"\xff\xda", b"\xff\xe1\xff\xff", b"DICM", b"\x28\0\x50\x10DS\0\0", b"\xfe\xff"),
)
LARGE = np.random.default_rng(0).integers(0, 256, 2_000_000, np.uint8).tobytes()
PACKED = zlib.compress(bytes(2_000_000))

# By EXIF's number of the orientation: from what is stored to what is upright.
TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: np.rot90,
}


# --- what must hold ---------------------------------------------------------------------------


def check(path: Path, files: dict[str, bytes]) -> None:
    """Assert that an image is shown in the order of its numbers, or left out with a reason."""
    case: Case = json.loads(files["case.json"])
    path.write_bytes(files["image"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter(
            "ignore", Image.DecompressionBombWarning
        )  # as `acgan.data.decode` does
        try:
            facts, pixels = examine(str(path), image_size=16)
        except InputError as error:
            if case["damaged"] and "type pip install" in str(error):
                return
            raise
    assert (pixels is None) == bool(facts.problem) == (facts.near_hash == b""), facts
    assert facts.problem.isprintable(), facts
    assert len(facts.problem) < 300, facts
    assert "0x" not in facts.problem, facts
    if facts.problem:
        allowed = any(reason in facts.problem for reason in case["reasons"])
        assert case["damaged"] or allowed, facts.problem
        return
    picture = grey(files["image"])
    assert bool(facts.blank) == (grey_spread(picture) < BLANK_BELOW), facts
    if not case["damaged"]:
        _check_order(case, np.asarray(picture).astype(int))


def _check_order(case: Case, picture: Values) -> None:
    stored = np.array(case["values"])
    turns = [case["orientation"]] if case["orientation"] else list(TURNS)
    seen = [TURNS[turn](stored) for turn in turns]
    fitting = [values for values in seen if values.shape == picture.shape]
    assert any(_in_order(values, picture, case["falling"]) for values in fitting), picture
    assert np.ptp(picture) >= case["greys"], np.ptp(picture)


def _in_order(values: Values, picture: Values, falling: bool) -> bool:
    """Whether equal numbers are equal greys, and higher ones no darker (brighter if `falling`)."""
    greys: dict[int, set[int]] = {}
    for value, own in zip(values.ravel().tolist(), picture.ravel().tolist(), strict=True):
        greys.setdefault(value, set()).add(own)
    ordered = [own for _, own in sorted(greys.items(), reverse=falling)]
    one_each = all(len(own) == 1 for own in ordered)
    return one_each and bool((np.diff([own.pop() for own in ordered]) >= 0).all())


def _case(values: NDArray[Any], **facts: Any) -> Case:
    """`greys`: how many there are at least between the darkest and the brightest pixel."""
    usual: Case = {"falling": False, "orientation": 1, "reasons": [], "greys": 120}
    return {**usual, "damaged": False, "values": values.tolist(), **facts}


def _files(image: bytes, case: Case) -> dict[str, bytes]:
    return {"image": image, "case.json": json.dumps(case).encode()}


def _perhaps_damaged(random: Random, drawn: tuple[bytes, Case]) -> dict[str, bytes]:
    raw, case = drawn
    damages = _some_damages(random)
    return _files(damaged(raw, damages, PIECES), {**case, "damaged": bool(damages)})


def _some_damages(random: Random) -> list[Damage]:
    """None in two of three cases."""
    return [
        (random.choice(DAMAGE_KINDS), random.random(), random.randrange(64))
        for _ in range(random.choice([0, 0, random.randint(1, 4)]))
    ]


def _numbers(random: Random, bits: int, *, signed: bool = False) -> NDArray[Any]:
    """[8, 12] of so many bits, the lowest and the highest among them."""
    drawn = np.random.default_rng(random.getrandbits(32))
    values = drawn.integers(0, 2**bits, SHAPE)
    values.flat[drawn.permutation(values.size)[:2]] = 0, 2**bits - 1
    return values - 2 ** (bits - 1) if signed else values


# --- metadata ---------------------------------------------------------------------------------

_META_TAGS = (
    *(254, 269, 270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 318, 319, 33432, 33723, 34665),
    *(34675, 34853, 37386, 40091, 40965, 50706, 51041, 65000),
)
_COUNTS = (0, 1, 2, 3, 9, 300, 2**16, 2**31, 2**32 - 1)


def _content(random: Random) -> bytes:
    large = random.randrange(40)
    if large < 2:
        return LARGE
    return random.choice([PACKED, b"", b"\0", b"junk", random.randbytes(random.randrange(13))])


def _odd_fields(random: Random) -> dict[int, Field]:
    tags = random.sample(_META_TAGS, random.randrange(5))
    return {tag: _odd_field(random) for tag in tags}


def _odd_field(random: Random) -> Field:
    return (
        random.randint(0, 18),
        random.choice(_COUNTS),
        random.randbytes(random.randrange(17)),
    )


def _exif(random: Random) -> tuple[bytes, int]:
    """EXIF and its orientation: 0 where damage leaves that open."""
    order = random.choice("<>")
    orientation = random.randint(1, 8)
    fields = {274: short(order, orientation), **_odd_fields(random)}
    content = tiff_header(order) + directory(fields, order, 8)
    damages = _some_damages(random)
    return damaged(content, damages, PIECES), 0 if damages else orientation


_CHUNKS = (
    *(b"iCCP", b"iTXt", b"zTXt", b"tEXt", b"pHYs", b"sRGB", b"gAMA", b"cHRM", b"tIME"),
    *(b"sBIT", b"bKGD", b"hIST", b"sPLT", b"oFFs", b"prVt", b"iDOT", b"caBX"),
)
_CHUNK_HEADS = [
    b"",
    b"x\0\0",
    b"x\0\x07",
    b"XML:com.adobe.xmp\0\0\0\0\0",
    b"XML:com.adobe.xmp\0\x01\0\0\0",
]
_MARKERS = (*range(0xE0, 0xEE), 0xEF, 0xFE)
_SEGMENT_HEADS = (
    *(b"", b"JFXX\0", b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0\1\1", b"FPXR\0"),
    *(b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0008BIM\3\xed\0\0\0\0\0\1"),
)


def _chunks(random: Random) -> list[Chunk]:
    return [
        (random.choice(_CHUNKS), random.choice(_CHUNK_HEADS) + _content(random))
        for _ in range(random.randrange(4))
    ]


# --- PNG, TIFF, JPEG, WEBP --------------------------------------------------------------------


def _bands(values: NDArray[Any], count: int, opacity: int) -> NDArray[Any]:
    """[H, W, count]: grey, or colours that are grey, and opaque where the count is even."""
    whole = np.repeat(values[..., None], count, axis=2)
    if count in (2, 4):
        whole[..., -1] = opacity
    return whole


def _png(random: Random) -> tuple[bytes, Case]:
    depth = random.choice([8, 16])
    bits = 8 if depth == 8 else random.randint(8, 16)
    values = _numbers(random, bits)
    count = random.randint(1, 4)
    opacity = random.choice([2**bits - 1, 2**depth - 1])
    stored = (_bands(values, count, opacity) if count > 1 else values).astype(f"u{depth // 8}")
    before, behind, orientation = _chunks(random), _chunks(random), 1
    if random.random() < 0.5:
        exif, orientation = _exif(random)
        own: Chunk = (b"eXIf", exif)
        (before if random.random() < 0.5 else behind).append(own)
    raw = png(stored, before=before, behind=behind)
    # Of an odd number of bits half the range is used; so it is of opacity.
    return raw, _case(values, orientation=orientation, greys=60 if count in (2, 4) else 120)


_KINDS = ("u1", "u2", "u4", "i1", "i2", "i4")


def _tiff(random: Random) -> tuple[bytes, Case]:
    kind = random.choice(_KINDS)
    size, signed = 8 * int(kind[1]), kind[0] == "i"
    bits = 8 if size == 8 else random.randint(8, size - (size == 32 and signed))
    values = _numbers(random, bits, signed=signed)
    order = random.choice("<>")
    photometric = random.choice([0, 1])
    fields = _fields(random, order)
    raw = tiff(values.astype(kind), order=order, photometric=photometric, fields=fields)
    reasons = ["of a kind that is not read"] if (kind, order) == ("u4", ">") else []
    turned = struct.unpack(f"{order}H", fields[274][2])[0] if 274 in fields else 1
    return raw, _case(values, falling=photometric == 0, orientation=turned, reasons=reasons)


def _fields(random: Random, order: str) -> dict[int, Field]:
    fields: dict[int, Field] = _odd_fields(random)
    if random.random() < 0.5:
        fields[274] = short(order, random.randint(1, 8))
    if random.randint(0, 19) == 0:
        fields[34675] = 7, len(LARGE), LARGE
    return fields


_UNREAD = ("separate planes", "their opacity", "of a kind that is not read")


def _colour_tiff(random: Random) -> tuple[bytes, Case]:
    bits = random.randint(8, 16)
    values = _numbers(random, bits)
    order = random.choice("<>")
    kind = random.choice(["rgb", "rgba", "cmyk", "grey and opacity", "planes"])
    count = {"rgb": 3, "planes": 3, "grey and opacity": 2}.get(kind, 4)
    stored = _bands(values, count, 2**bits - 1).astype("u2")
    fields: dict[int, Field] = {}
    if kind == "cmyk":
        stored[..., :3], stored[..., 3] = 0, values
    elif count != 3:
        fields[338] = short(order, random.choice([1, 2]))
    elif kind == "planes":
        fields[284] = short(order, 2)
    photometric = {"cmyk": 5, "grey and opacity": 1}.get(kind, 2)
    raw = tiff(stored, order=order, photometric=photometric, fields=fields)
    reasons = [] if kind == "rgb" else _UNREAD
    return raw, _case(values, falling=kind == "cmyk", reasons=reasons, greys=60)


def _packed_tiff(random: Random) -> tuple[bytes, Case]:
    bits = random.randint(8, 16)
    values = _numbers(random, bits)
    kind = random.choice(["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
    buffer = io.BytesIO()
    image = Image.fromarray(values.astype("u2"))
    image.save(buffer, "TIFF", compression=kind, icc_profile=_content(random))
    return buffer.getvalue(), _case(values)


@functools.cache
def _lossy(form: str) -> tuple[bytes, NDArray[Any]]:
    ramp = np.linspace(0, 255, 96).astype(np.uint8).reshape(SHAPE)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, form, quality=95)
    with Image.open(buffer) as opened:
        return buffer.getvalue(), np.asarray(opened.convert("RGB").convert("L"))


def _jpeg(random: Random) -> tuple[bytes, Case]:
    raw, values = _lossy("JPEG")
    orientation, parts = 1, []
    if random.random() < 0.5:
        exif, orientation = _exif(random)
        parts.append(_segment(0xE1, b"Exif\0\0" + exif))
    for _ in range(random.randrange(4)):
        marker, head = random.choice(_MARKERS), random.choice(_SEGMENT_HEADS)
        orientation = 0 if head == b"Exif\0\0" else orientation  # both are read as one
        parts.append(_segment(marker, (head + _content(random))[:65_000]))
    whole = raw[:2] + b"".join(parts) + raw[2:]
    return whole, _case(values, orientation=orientation)


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def _webp(random: Random) -> tuple[bytes, Case]:
    ramp = np.linspace(0, 255, 96).astype(np.uint8).reshape(SHAPE)
    exif, orientation = _exif(random)
    buffer = io.BytesIO()
    options = {"exif": exif, "icc_profile": _content(random), "xmp": _content(random)}
    Image.fromarray(ramp).save(buffer, "WEBP", lossless=True, **options)
    return buffer.getvalue(), _case(ramp, orientation=orientation)


_IMAGES = (_png, _tiff, _colour_tiff, _packed_tiff, _jpeg, _webp)


def images() -> st.SearchStrategy[dict[str, bytes]]:
    """Draw a PNG, TIFF, JPEG or WEBP file, sound or damaged."""
    # One draw of Hypothesis an input: hundreds of them cost ten times what is tried here.
    return st.randoms(use_true_random=True).map(
        lambda random: _perhaps_damaged(random, random.choice(_IMAGES)(random))
    )


# --- DICOM ------------------------------------------------------------------------------------

_SLOPES = (1, 0.5, 2, 3.7, -1, -0.25, "", None)
_INTERCEPTS = (0, -1024, 1000.5, 1e6, "", None)
_CENTERS = (0, 1, 127.5, 2048, 32768, 50_000, -50_000, 1e9)
_WIDTHS = (1, 2, 10, 255, 256, 4096, 65_535, 65_536, 1e9)
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID", "", None)
_SYNTAXES = (
    *(ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian),
    RLELossless,
)
_EMPTY = (
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("NumberOfFrames", "HighBit", "PixelPaddingValue", "PatientName", "PatientBirthDate"),
    *("ModalityLUTSequence", "VOILUTSequence", "PixelAspectRatio"),
)
_ODD_NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "abc",
    "-0",
    "1\\2",
    "\\5",
    "1,5",
    "0",
    "9" * 16,
    " ",
    "1e-320",
)
_ODD_WORDS = (0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 32, 255, 4096, 65_535)
_ODD: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "NumberOfFrames"),
        _ODD_NUMBERS,
    ),
    **dict.fromkeys(
        (
            *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
            *("Rows", "Columns", "PlanarConfiguration", "PixelPaddingValue"),
        ),
        _ODD_WORDS,
    ),
    "PhotometricInterpretation": ("MONOCHROME1", "RGB", "YBR_FULL", "", "X"),
    "VOILUTFunction": ("linear", "CUBIC", "SIGMOID", " "),
}


def _dicom(random: Random) -> tuple[bytes, Case]:
    allocated = random.choice([8, 16])
    bits = random.randint(6, allocated)
    signed = random.random() < 0.5
    values = _numbers(random, bits, signed=signed and random.random() < 0.5)
    most = allocated - (signed and values.min() >= 0)
    kept = np.clip(values, None, 2**most - 1)
    stored = random.randint(max(1, min(bits + signed, allocated)), allocated)
    kind = f"{'i' if signed else 'u'}{allocated // 8}"
    found = dataset(kept.astype(kind), bits=stored)
    falling = random.random() < 0.5
    found.PhotometricInterpretation = f"MONOCHROME{1 if falling else 2}"
    sign, greys = _steps(random, found, kept)
    if random.random() < 0.5:
        _add_window(random, found)
        greys = 0
    for name in random.sample(_EMPTY, random.randrange(5)):
        if name not in found:
            _set_empty(found, name)
    facts = {"falling": falling != (sign < 0), "reasons": ["maps no range"], "greys": greys}
    return _written(random, found, kept.astype(kind)), _case(kept, **facts)


def _steps(random: Random, found: Dataset, values: NDArray[Any]) -> tuple[int, int]:
    """Add rescaling or LUTs; return the sign of what they do, and how many greys there must be."""
    match random.choice(["nothing", "rescaling", "modality", "voi", "both"]):
        case "rescaling":
            slope, intercept = random.choice(_SLOPES), random.choice(_INTERCEPTS)
            _set(found, RescaleSlope=slope, RescaleIntercept=intercept)
            sign = -1 if isinstance(slope, float | int) and slope < 0 else 1
            return sign, _greys(values)
        case "modality":
            sign, through = _add_lut(random, found, "ModalityLUTSequence", values)
            return sign, _greys(through) // 3
        case "voi":
            sign, through = _add_lut(random, found, "VOILUTSequence", values)
            return sign, _greys(through) // 3
        case "both":
            first, through = _add_lut(random, found, "ModalityLUTSequence", values)
            sign, through = _add_lut(random, found, "VOILUTSequence", through)
            return first * sign, _greys(through) // 3
    return 1, _greys(values)


def _greys(values: NDArray[Any]) -> int:
    """Return how many greys numbers span at least in the even number of bits that holds them.

    Of a LUT a third of them is asked for: its entries may go on beyond those that pixels reach.
    """
    low, high = int(values.min()), int(values.max())
    bits = max(high.bit_length(), (~low).bit_length() if low < 0 else 0) + (low < 0)
    whole: int = 2 ** max(8, bits + bits % 2) - 1
    return 250 * (high - low) // whole


def _add_lut(
    random: Random, found: Dataset, name: str, values: NDArray[Any]
) -> tuple[int, NDArray[Any]]:
    """Add a table of all values, rising or falling; return its sign and what it makes of them."""
    low, high = int(values.min()), int(values.max())
    count = min(high - low + 1 + random.randint(0, 40), 2**16)
    count += count % 2  # so that entries of 8 bits fill whole words
    deep = random.randint(8, 16)
    drawn = np.random.default_rng(random.getrandbits(32))
    entries = np.sort(drawn.integers(0, 2**deep, count))
    entries[0], entries[-1] = 0, 2**deep - 1
    sign = random.choice([1, -1])
    entries = entries[::sign]
    stated = random.choice([8, deep, 16, 0, 255])
    item = lookup(
        entries, low, bits=stated, packed=bool(deep == stated == 8 and random.random() < 0.5)
    )
    setattr(found, name, Items([item]))
    return sign, entries[np.clip(values - low, 0, count - 1)]


def _add_window(random: Random, found: Dataset) -> None:
    """Add a window, which may lie beside all values."""
    center = random.choice([random.choice(_CENTERS), random.uniform(-9e4, 9e4)])
    width = random.choice([random.choice(_WIDTHS), random.uniform(1, 2e5)])
    _set(
        found,
        WindowCenter=float(f"{center:.6g}"),
        WindowWidth=max(1.0, float(f"{width:.6g}")),
        VOILUTFunction=random.choice(_FUNCTIONS),
    )


def _set(found: Dataset, **fields: Any) -> None:
    for name, value in fields.items():
        if value == "":
            _set_empty(found, name)
        elif value is not None:
            setattr(found, name, value)


def _set_empty(found: Dataset, name: str) -> None:
    kind = pydicom.datadict.dictionary_VR(name).split()[0]
    found.add_new(name, kind, [] if kind == "SQ" else None)


def _written(random: Random, found: Dataset, pixels: NDArray[Any]) -> bytes:
    """Return a data set as a file of any syntax, usual or without some of what files begin with."""
    syntax = random.choice(_SYNTAXES)
    if found.BitsStored <= 8 < found.BitsAllocated and syntax == RLELossless:
        syntax = ExplicitVRLittleEndian  # pydicom's encoder takes them for bytes
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    if syntax == RLELossless:
        found.compress(RLELossless)
    elif syntax == ExplicitVRBigEndian:
        _swap(found, pixels)
    raw = file(found)
    behind = 132 + 12 + int.from_bytes(raw[140:144], "little")
    kinds = [raw, raw[132:], raw[128:], raw[:128] + raw[132:]]
    if syntax != RLELossless:
        kinds += [raw[behind:], raw[:132] + raw[behind:]]
    return random.choice(kinds)


def _swap(found: Dataset, pixels: NDArray[Any]) -> None:
    found.PixelData = pixels.astype(f">{pixels.dtype.str[1:]}").tobytes()
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        for item in found.get(name) or []:
            item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()


def _odd_dicom(random: Random) -> tuple[bytes, Case]:
    """A sound file of which one element, or a LUT's descriptor, says something else."""
    values = _numbers(random, 12)
    found = dataset(values.astype("u2"), bits=12, WindowCenter=2000, WindowWidth=900)
    item = lookup(np.arange(4096), 0, bits=12)
    if random.random() < 0.5:
        item.LUTDescriptor = random.choices(_ODD_WORDS, k=3)
        sequence = random.choice(["ModalityLUTSequence", "VOILUTSequence"])
        setattr(found, sequence, Items([item]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of what is written here on purpose
        for name in random.sample(sorted(_ODD), random.randrange(3)):
            _set_odd(found, name, random.choice(_ODD[name]))
        return file(found), _case(values, damaged=True)


def _set_odd(found: Dataset, name: str, value: Any) -> None:
    """Set an element to what pydicom would not convert: as text, or as two bytes."""
    kind = pydicom.datadict.dictionary_VR(name).split()[0]
    element = pydicom.dataelem.DataElement(name, kind, None, validation_mode=0)
    element._value = value
    found[name] = element


def dicom_files() -> st.SearchStrategy[dict[str, bytes]]:
    """Draw a DICOM file, sound, odd or damaged."""
    return st.randoms(use_true_random=True).map(_dicom_file)


def _dicom_file(random: Random) -> dict[str, bytes]:
    if random.randrange(3) == 0:
        return _files(*_odd_dicom(random))
    return _perhaps_damaged(random, _dicom(random))
