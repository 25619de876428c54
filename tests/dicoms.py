"""DICOM files with known pixels, written through pydicom."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)


def dataset(pixels: NDArray[Any], *, bits: int | None = None, **fields: Any) -> Dataset:
    """Return a data set of pixels [H, W] or [H, W, 3] as they are stored; `fields` are its own."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    kind = DigitalXRayImageStorageForPresentation  # nothing depends on which
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = kind
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = generate_uid()
    found.PatientName = "Nobody^At^All"
    found.PatientID = "secret-17"
    found.Rows, found.Columns = pixels.shape[:2]
    found.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    found.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        found.PlanarConfiguration = 0
    found.BitsAllocated = 8 * pixels.itemsize
    found.BitsStored = bits or found.BitsAllocated
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    found.PixelData = pixels.tobytes()
    found["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def file(found: Dataset) -> bytes:
    """Return a data set as the bytes of a file."""
    buffer = io.BytesIO()
    found.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom(pixels: NDArray[Any], *, bits: int | None = None, **fields: Any) -> bytes:
    """Return a file of these pixels."""
    return file(dataset(pixels, bits=bits, **fields))


def compressed(
    pixels: NDArray[Any], code: bytes, syntax: UID, *, bits: int | None = None, **fields: Any
) -> bytes:
    """Return a file whose header is that of `pixels`, and whose frame is `code`."""
    found = dataset(pixels, bits=bits, **fields)
    found.file_meta.TransferSyntaxUID = syntax
    found.PixelData = encapsulate([code])
    found["PixelData"].is_undefined_length = True
    found["PixelData"].VR = "OB"
    return file(found)


def lookup(entries: NDArray[Any], first: int, *, bits: int, packed: bool = True) -> Dataset:
    """Return an item of a LUT sequence; `packed`: 8-bit entries take 8 bits, not 16."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 2**16, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    wide = entries.astype("<u1" if bits == 8 and packed else "<u2")
    item.add_new("LUTData", "OW", wide.tobytes())
    return item


def write(path: Path, content: bytes) -> Path:
    """Write a file, and return its path."""
    path.write_bytes(content)
    return path
