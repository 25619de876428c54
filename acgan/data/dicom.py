"""One DICOM file to grey pixels as a viewer shows them first. Needs the extra `dicom`: pydicom.

Of a header only what the pixels need is kept (`TAGS`): nothing that names a patient is read.
"""

import io
import logging
import math
import struct
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acgan.data import part10
from acgan.data.codestream import coded_size, rle_fits
from acgan.data.depth import ends, full_range
from acgan.errors import InputError

try:
    import pydicom
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset
    from pydicom.encaps import get_frame
    from pydicom.errors import BytesLengthException, InvalidDicomError
    from pydicom.filereader import read_dataset, read_partial
    from pydicom.multival import MultiValue
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.processing import apply_windowing
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import UID
except ImportError as error:
    raise InputError(
        "this is a DICOM file; to read those, type pip install 'pydicom>=3.0.1,<4' (or install "
        "acgan-search[dicom]), then the same command again"
    ) from error

# Of oddities that do not change the pixels; what cannot be read raises.
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_NEEDED = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)
TAGS = (
    *_NEEDED,
    "PlanarConfiguration",
    "NumberOfFrames",
    "HighBit",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTFunction",
    "ModalityLUTSequence",
    "VOILUTSequence",
)
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
# Transfer syntaxes, and what decodes those that neither pydicom nor Pillow does.
_LIBJPEG, _OPENJPEG = "pylibjpeg pylibjpeg-libjpeg", "pylibjpeg pylibjpeg-openjpeg"
NATIVE = (part10.IMPLICIT, part10.EXPLICIT, part10.BIG_ENDIAN)
RLE = "1.2.840.10008.1.2.5"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"  # of 8 or 12 bits; Pillow decodes 8
PLUGINS = {
    "1.2.840.10008.1.2.4.50": _LIBJPEG,
    JPEG_EXTENDED: _LIBJPEG,
    "1.2.840.10008.1.2.4.57": _LIBJPEG,
    "1.2.840.10008.1.2.4.70": _LIBJPEG,
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": _OPENJPEG,
    "1.2.840.10008.1.2.4.91": _OPENJPEG,
    "1.2.840.10008.1.2.4.201": _OPENJPEG,
    "1.2.840.10008.1.2.4.202": _OPENJPEG,
    "1.2.840.10008.1.2.4.203": _OPENJPEG,
}
_NO_RANGE = "its window or rescaling maps no range of values to grey"
_LAST_GROUP = 0x0028  # of what the pixels need: elements stand in the order of their numbers
_READS = 50_000
_BATCH = 1 << 20

# What pydicom raises on broken files, and what asking for something that is not there does.
_BROKEN = (
    BytesLengthException,
    InvalidDicomError,
    RuntimeError,
    AttributeError,
    LookupError,
    TypeError,
    ArithmeticError,
    OSError,
    struct.error,
)


class _Bounded(io.BytesIO):
    """A file in memory of which so many parts may be read: each empty one costs a kilobyte."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _READS:
            raise ValueError("its header has too many parts")
        return super().read(size)


def read_header(raw: bytes) -> Dataset:
    """Return the part of a DICOM file's header that its pixels need, and its transfer syntax.

    `raw` is what `acgan.data.part10.whole` returns. What is empty is left out, as if it were
    absent. Raises `InputError` where the pixels cannot be decoded before a package is installed;
    `ValueError` and the like for a damaged file, several frames, and what is no X-ray's form.
    """
    try:
        header = _read(raw)
        _drop_empty(header)
        _check_form(header)
    except _BROKEN as error:
        raise ValueError("its DICOM header is damaged or incomplete") from error
    _check_decoder(header)
    return header


def _read(raw: bytes) -> Dataset:
    file = _Bounded(raw)
    file.seek(132)  # behind preamble and prefix (PS3.10, 7.1)
    # Alone and first: of a deflated file the rest is unpacked at once, however large it is.
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax not in (*NATIVE, RLE, *PLUGINS):
        raise ValueError(
            f"pixels in the transfer syntax {UID(syntax).name or '(none)'} are not read"
        )
    file.seek(0)
    return read_partial(
        file,
        stop_when=lambda tag, *_: tag >> 16 > _LAST_GROUP,
        specific_tags=[pydicom.tag.Tag(name) for name in TAGS],
    )


def _drop_empty(header: Dataset) -> None:
    """Remove what is empty, also in sequences; raise `ValueError` for numbers that are none."""
    for tag in list(header.keys()):
        element = header[tag]
        if element.is_empty or element.value in ("", None):
            del header[tag]
        elif element.VR == "SQ":
            for item in element.value:
                _drop_empty(item)
        elif element.VR in ("DS", "IS"):
            _check_number(element)


def _check_number(element: DataElement) -> None:
    try:
        number = _first(element.value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"its DICOM header's {element.name} is not a number")


def _check_form(header: Dataset) -> None:
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise ValueError(f"its DICOM header is damaged or incomplete: {', '.join(missing)}")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise ValueError("it has several frames; keep the one that is meant")
    # Blanks and letter case mean nothing in a code string (PS3.5, 6.2).
    header.PhotometricInterpretation = form = header.PhotometricInterpretation.strip().upper()
    samples = header.SamplesPerPixel
    if samples == 3 and "PlanarConfiguration" not in header:
        raise ValueError("its DICOM header does not say how colours lie (PlanarConfiguration)")
    if not (form in GREY and samples == 1) and not (form in COLOUR and samples == 3):
        raise ValueError(f"pixels of {form} with {samples} samples are not read")
    allocated, stored = header.BitsAllocated, header.BitsStored
    deepest = 16 if samples == 1 else 8
    if allocated not in (8, 16) or not 0 < stored <= min(allocated, deepest):
        raise ValueError(f"pixels of {stored} bits in {allocated} are not read")
    if header.get("HighBit", stored - 1) != stored - 1:
        raise ValueError(f"pixels with high bit {header.HighBit} of {stored} are not read")
    if header.PixelRepresentation not in (0, 1):
        raise ValueError("its pixels are neither signed nor unsigned")
    if samples == 3 and header.PixelRepresentation:
        raise ValueError("colours of signed numbers are not read")
    if not (0 < header.Rows <= 65_535 and 0 < header.Columns <= 65_535):
        raise ValueError("it has no rows or no columns")


def _check_decoder(header: Dataset) -> None:
    syntax = header.file_meta.TransferSyntaxUID
    if syntax not in PLUGINS:
        return
    known = set(get_decoder(syntax).available_plugins)
    if syntax == JPEG_EXTENDED and header.BitsStored > 8:
        known.discard("pillow")
    if not known:
        # Not left out as a damaged one is: what is packed must not depend on what is installed.
        raise InputError(
            f"this DICOM file's pixels are compressed as {syntax.name}; to read those, type pip "
            f"install {PLUGINS[syntax]}, then the same command again"
        )


def display_grey(raw: bytes, header: Dataset) -> Image.Image:
    """Return the pixels of a DICOM file, whose header was found fit, as 8-bit grey.

    Stored values go through the modality LUT or rescaling, the VOI LUT or window (the first of
    several), and MONOCHROME1's complement (PS3.3, C.11.1, C.11.2, C.7.6.3.1.2). Without VOI LUT
    and window, or with a window twice as wide as all values, the full range is the one that the
    values need, as of other images (`acgan.data.depth.full_range`); so it is of a VOI LUT's
    entries. Padding does not count for it. Colour becomes luma.
    """
    try:
        stored = _decoded(raw, header)
        if header.SamplesPerPixel == 3:
            return Image.fromarray(stored).convert("L")
        return _shaded(header, stored)
    except _BROKEN as error:
        raise ValueError("its DICOM pixels cannot be decoded") from error


def _decoded(raw: bytes, header: Dataset) -> NDArray[np.integer[Any]]:
    found = pydicom.dcmread(_Bounded(raw), specific_tags=["PixelData"])
    if not found.get("PixelData"):
        raise ValueError("its DICOM pixels cannot be decoded: there are none")
    encapsulated = found["PixelData"].is_undefined_length
    if encapsulated == (header.file_meta.TransferSyntaxUID in NATIVE):
        raise ValueError(
            "its DICOM pixels cannot be decoded: whether they are compressed contradicts its "
            "transfer syntax"
        )
    _check_length(found.PixelData, header)
    whole = Dataset()
    whole.update(header)
    whole.file_meta = header.file_meta
    whole["PixelData"] = found["PixelData"]
    try:
        return pixel_array(whole, index=0)
    except ValueError as error:  # of NumPy's, where there are too few
        raise ValueError("its DICOM pixels cannot be decoded") from error


def _check_length(pixels: bytes, header: Dataset) -> None:
    """Raise `ValueError` for pixels of another size than the header's, compressed or not."""
    syntax = header.file_meta.TransferSyntaxUID
    width, height, channels = header.Columns, header.Rows, header.SamplesPerPixel
    if syntax in NATIVE:
        frame = width * height * channels * header.BitsAllocated // 8
        if len(pixels) >= 2 * (frame + frame % 2):
            raise ValueError("its pixels are twice as many as its header says, or more")
        return
    code = get_frame(pixels, 0, number_of_frames=1)
    if syntax == RLE:
        fits = rle_fits(code, pixels=width * height)
    else:
        fits = coded_size(code) == (width, height, channels)
    if not fits:
        raise ValueError("its compressed pixels are not of the size that its header says")


def _shaded(header: Dataset, stored: NDArray[np.integer[Any]]) -> Image.Image:
    """Map stored values [H, W] by a table of all values that there can be."""
    lowest, highest = full_range(*_ends(header, stored), stated=header.BitsStored)
    table = _table(header, np.arange(lowest, highest + 1))
    pixels = np.empty(stored.size, np.uint8)
    for start in range(0, stored.size, _BATCH):  # for the memory: an index has eight bytes
        own = slice(start, start + _BATCH)
        places = stored.flat[own].astype(np.int64) - lowest
        pixels[own] = table[places.clip(0, len(table) - 1)]
    return Image.fromarray(pixels.reshape(stored.shape))


def _ends(header: Dataset, stored: NDArray[np.integer[Any]]) -> tuple[int, int]:
    """Return the lowest and the highest stored value, without padding (PS3.3, C.7.5.1.1.2)."""
    padding = header.get("PixelPaddingValue")
    if isinstance(padding, int):
        last = header.get("PixelPaddingRangeLimit", padding)
        pair = np.array([padding, last if isinstance(last, int) else padding])
        low, high = np.sort((pair % 2**header.BitsAllocated).astype(stored.dtype))
        inside = (stored < low) | (stored > high)
        if inside.any():
            return ends(stored, inside)
    return ends(stored)


def _table(header: Dataset, values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the grey, 0 to 255, of each stored value."""
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers without bounds
        shown = _rescaled(header, values)
    low, high = float(shown.min()), float(shown.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(_NO_RANGE)
    if _valid_lut(header, "VOILUTSequence"):
        shown, bits = _looked_up(header, "VOILUTSequence", shown)
        low, high = full_range(0, int(shown.max()), stated=bits)
    elif _has_window(header, low, high):
        with np.errstate(over="ignore"):  # far from a sigmoid's middle
            low, high = apply_windowing(np.array([-np.inf, np.inf]), header)
            shown = apply_windowing(shown, header)
    with np.errstate(over="ignore", divide="ignore"):
        scale = 255 / np.float64(high - low)
    if not (np.isfinite(shown).all() and np.isfinite([low, high, scale]).all() and scale):
        raise ValueError(_NO_RANGE)
    table: NDArray[np.uint8] = np.rint((shown - low) * scale).clip(0, 255).astype(np.uint8)
    return 255 - table if header.PhotometricInterpretation == "MONOCHROME1" else table


def _rescaled(header: Dataset, values: NDArray[np.int64]) -> NDArray[np.number[Any]]:
    """Return stored values through the modality LUT, else through slope and intercept."""
    if _valid_lut(header, "ModalityLUTSequence"):
        return _looked_up(header, "ModalityLUTSequence", values)[0]
    if not {"RescaleSlope", "RescaleIntercept"} & set(header.dir()):
        return values
    return values * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))


def _has_window(header: Dataset, low: float, high: float) -> bool:
    """Whether there is a window that anybody chose for values from low to high.

    One that holds them all, but for a hundredth, and is twice as wide or more is none: it comes
    from the bits that the file states, and would show 12 bits in 16 as 16 greys.
    """
    if not {"WindowCenter", "WindowWidth"} <= set(header.dir()):
        return False
    if str(header.get("VOILUTFunction", "LINEAR")).upper() not in _FUNCTIONS:
        return True  # which is refused
    center, width = (_first(header[name].value) for name in ("WindowCenter", "WindowWidth"))
    spare = (high - low) / 100
    holds = center - width / 2 <= low + spare and high - spare <= center + width / 2
    return not (holds and width >= 2 * (high - low))


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, MultiValue) else value)


def _valid_lut(header: Dataset, name: str) -> bool:
    items = header.get(name)
    return bool(items) and {"LUTDescriptor", "LUTData"} <= set(items[0].dir())


def _looked_up(
    header: Dataset, name: str, values: NDArray[np.number[Any]]
) -> tuple[NDArray[np.int64], int]:
    """Return values through a LUT, and the bits that it states (PS3.3, C.11.1.1.1, C.11.2.1.1).

    Not by pydicom's functions: they wrap places beyond 255 in a table of 8-bit entries, and read
    no modality LUT of any other number of bits than 8 and 16, nor one whose bytes are packed.
    """
    item = header.get(name)[0]
    if len(item.LUTDescriptor) != 3:
        raise ValueError("its look-up table is not described by three numbers")
    count, first, bits = item.LUTDescriptor
    data = item.LUTData
    # Files give all three one kind; only the first place is signed, as the pixels are.
    count = count % 2**16 or 2**16
    if header.PixelRepresentation:
        first = (first + 2**15) % 2**16 - 2**15
    if isinstance(data, bytes):
        order = ">" if header.file_meta.TransferSyntaxUID == part10.BIG_ENDIAN else "<"
        words = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2").astype("<u2")
        data = words if len(data) >= 2 * count else words.view("u1")
    entries = np.atleast_1d(np.asarray(data, np.int64))[:count]
    places = np.rint(values - float(first)).clip(0, len(entries) - 1).astype(np.int64)
    return entries[places], bits
