"""One DICOM file to grey pixels as a viewer shows them first. Needs the extra `dicom`: pydicom.

Of a header only what the pixels need is kept (`TAGS`): nothing that names a patient is read.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acgan.codestream import coded_size, rle_fits
from acgan.errors import InputError

try:
    import pydicom
    from pydicom.dataset import Dataset
    from pydicom.encaps import get_frame
    from pydicom.errors import BytesLengthException, InvalidDicomError
    from pydicom.filereader import read_dataset, read_partial
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.processing import apply_modality_lut, apply_windowing
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

MAGIC = slice(128, 132)  # "DICM" there, behind a preamble of any content (PS3.10, 7.1)
TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
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
# Transfer syntaxes, and what decodes those that neither pydicom nor Pillow does.
_LIBJPEG, _OPENJPEG = "pylibjpeg pylibjpeg-libjpeg", "pylibjpeg pylibjpeg-openjpeg"
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
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

    Raises `InputError` where the pixels cannot be decoded before a package is installed;
    `ValueError` and the like for a damaged file, several frames, and what is no X-ray's form.
    """
    try:
        header = _read(raw)
        _check_form(header)
    except _BROKEN as error:
        raise ValueError("its DICOM header is damaged or incomplete") from error
    _check_decoder(header)
    return header


def _read(raw: bytes) -> Dataset:
    file = _Bounded(raw)
    file.seek(MAGIC.stop)
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


def _check_form(header: Dataset) -> None:
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise ValueError("it has several frames; keep the one that is meant")
    form, samples = header.PhotometricInterpretation, header.SamplesPerPixel
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


def grey(raw: bytes, header: Dataset) -> Image.Image:
    """Return the pixels of a DICOM file, whose header was found fit, as 8-bit grey.

    Stored values go through the modality LUT or rescaling, the VOI LUT or window (the first of
    several), and MONOCHROME1's complement (PS3.3, C.11.1, C.11.2, C.7.6.3.1.2). Without VOI LUT
    and window the full range is that of 8, 10, 12, 14 or 16 bits, whichever the values need, as
    of other images. Colour becomes luma.
    """
    try:
        _check_code(raw, header)
        stored = _decoded(raw)
        if header.SamplesPerPixel == 3:
            return Image.fromarray(stored).convert("L")
        return _shaded(header, stored)
    except _BROKEN as error:
        raise ValueError("its DICOM pixels cannot be decoded") from error


def _decoded(raw: bytes) -> NDArray[np.integer[Any]]:
    try:
        return pixel_array(_Bounded(raw), index=0)
    except ValueError as error:  # of NumPy's, where there are too few
        raise ValueError("its DICOM pixels cannot be decoded") from error


def _check_code(raw: bytes, header: Dataset) -> None:
    """Raise `ValueError` where compressed pixels unpack to another size than the header's."""
    syntax = header.file_meta.TransferSyntaxUID
    if syntax in NATIVE:
        return
    found = pydicom.dcmread(_Bounded(raw), specific_tags=["PixelData"])
    code = get_frame(found.PixelData, 0, number_of_frames=1)
    width, height, channels = header.Columns, header.Rows, header.SamplesPerPixel
    if syntax == RLE:
        fits = rle_fits(code, pixels=width * height)
    else:
        fits = coded_size(code) == (width, height, channels)
    if not fits:
        raise ValueError("its compressed pixels are not of the size that its header says")


def _shaded(header: Dataset, stored: NDArray[np.integer[Any]]) -> Image.Image:
    """Map stored values [H, W] by a table of all values that there can be."""
    low, high = int(stored.min()), int(stored.max())
    bits = header.BitsStored if _has_voi(header) else _needed_bits(low, high, header)
    lowest = -(2 ** (bits - 1)) if header.PixelRepresentation else 0
    values = np.arange(lowest, lowest + 2**bits)
    table = _table(header, values)
    pixels = np.empty(stored.size, np.uint8)
    for start in range(0, stored.size, _BATCH):  # for the memory: an index has eight bytes
        own = slice(start, start + _BATCH)
        places = stored.flat[own].astype(np.int64) - lowest
        pixels[own] = table[places.clip(0, len(table) - 1)]
    return Image.fromarray(pixels.reshape(stored.shape))


def _needed_bits(low: int, high: int, header: Dataset) -> int:
    """Return 8, 10, 12, 14 or 16: the fewest that hold these values."""
    bits = max(high.bit_length(), (~low).bit_length() if low < 0 else 0)
    bits = max(8, bits + int(header.PixelRepresentation))
    return bits + bits % 2


def _table(header: Dataset, values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the grey, 0 to 255, of each stored value."""
    shown = apply_modality_lut(values, header)
    if _valid_lut(header):
        shown, low, high = _looked_up(header.VOILUTSequence[0], shown)
    elif _has_voi(header):
        with np.errstate(over="ignore"):  # far from a sigmoid's middle
            ends = apply_windowing(np.array([-np.inf, np.inf]), header)
            shown = apply_windowing(shown, header)
        low, high = ends
    else:
        low, high = shown.min(), shown.max()
    if not (np.isfinite(shown).all() and np.isfinite([low, high]).all() and low != high):
        raise ValueError("its window or rescaling maps no range of values to grey")
    table = np.rint((shown - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    return 255 - table if header.PhotometricInterpretation == "MONOCHROME1" else table


def _has_voi(header: Dataset) -> bool:
    windowed = None not in (header.get("WindowCenter"), header.get("WindowWidth"))
    return windowed or _valid_lut(header)


def _valid_lut(header: Dataset) -> bool:
    items = header.get("VOILUTSequence")
    return bool(items) and {"LUTDescriptor", "LUTData"} <= set(items[0].dir())


def _looked_up(
    item: Dataset, values: NDArray[np.number[Any]]
) -> tuple[NDArray[np.int64], int, int]:
    """Return values through a VOI LUT, and the ends of its range (PS3.3, C.11.2.1.1).

    Not by `pydicom.pixels.apply_voi`, which wraps places beyond 255 in a table of 8-bit entries.
    """
    count, first, bits = item.LUTDescriptor
    data = item.LUTData
    count = count or 2**16
    if isinstance(data, bytes):
        wide = len(data) >= 2 * count
        data = np.frombuffer(data, "<u2" if wide else "u1")
    entries = np.asarray(data, np.int64)[:count]
    places = np.rint(values).astype(np.int64) - first
    return entries[places.clip(0, len(entries) - 1)], 0, 2**bits - 1
