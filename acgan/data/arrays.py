"""Images in memory, written as a data folder: PNG files and a table of labels beside them.

A folder is what every node of a cluster can read, and what a study can be continued from.
"""

from __future__ import annotations

import csv
import operator
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from acgan.config import user_path
from acgan.data.table import SPLIT_OF
from acgan.data.tabular import SEVERAL
from acgan.errors import InputError

TABLE = "labels.csv"
COLUMNS = ("file", "label", "patient", "split")
_NAME = re.compile(r"images/\d{6,}\.png")


def save_images(
    folder: str | Path,
    images: Iterable[ArrayLike],
    labels: Sequence[str | int],
    *,
    classes: Sequence[str] | None = None,
    patients: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> Path:
    """Write images as a folder that a search takes; return its absolute path.

    images: [H, W], [H, W, C] or [C, H, W] with one or three channels each, uint8 or real numbers
        from 0 to 1; arrays, tensors, or what a data loader yields
    labels: a class's name, or its place in `classes`, for each image
    patients: whose image it is, so that no patient is on both sides of a split; where it is None,
        NaN or what else pandas has for a missing one, an image is a patient of its own
    splits: "train", "val" or "test", where the split is yours; else it is cut by patient

    An earlier folder of this function is replaced, once the new one is whole. Raises `InputError`
    for what is no image, for lengths that differ, and for a folder that holds anything else.
    """
    target = user_path(str(folder))
    _require_own(target)
    names = [_class_name(label, classes) for label in labels]
    for what, given in (("patients", patients), ("splits", splits)):
        if given is not None and len(given) != len(names):
            raise InputError(f"there are {len(names)} labels, but {len(given)} {what}")
    for split in () if splits is None else splits:  # a column of a table says not whether it is
        if split not in SPLIT_OF:
            raise InputError(f"splits must be of {', '.join(SPLIT_OF)}, got {split!r}")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    try:
        files = _write_pngs(partial, images, len(names))
        _write_table(partial / TABLE, files, names, patients, splits)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _require_own(folder: Path) -> None:
    """Raise `InputError` for a folder that holds anything but what `save_images` writes."""
    if not folder.exists():
        return
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    others = [name for name in sorted(found) if name != TABLE and not _NAME.fullmatch(name)]
    if others or (found and TABLE not in found):
        what = others[0] if others else found[0]
        raise InputError(f"{folder} holds other files, such as {what}; name a new folder")


def _class_name(label: str | int, classes: Sequence[str] | None) -> str:
    if isinstance(label, str):
        if classes is not None and label not in classes:
            raise InputError(f"the label {label!r} is none of the classes {', '.join(classes)}")
        return _readable(label)
    try:
        place = operator.index(label)
    except TypeError as error:
        raise InputError(
            f"the label {label!r} is no class's name, and no whole number; of one-hot labels give "
            "the places, labels.argmax(1)"
        ) from error
    if classes is None:
        return str(place)
    if not 0 <= place < len(classes):
        raise InputError(f"the label {place} is no place in the {len(classes)} classes")
    return _readable(classes[place])


def _readable(name: str) -> str:
    """Return a class's name; `InputError` for one that a table of labels would not be read with."""
    if not name.strip() or SEVERAL in name or not name.isprintable():
        raise InputError(
            f"{name!r} can be no class's name: it must be a line of text without {SEVERAL!r}, "
            "which stands between several labels of one image"
        )
    return name


def _write_pngs(folder: Path, images: Iterable[ArrayLike], count: int) -> list[str]:
    files = []
    for number, image in enumerate(images):
        if number == count:
            raise InputError(f"there are more images than the {count} labels")
        name = f"images/{number:06d}.png"
        Image.fromarray(_pixels(image, number)).save(folder / name)
        files.append(name)
    if len(files) < count:
        raise InputError(f"there are {len(files)} images, but {count} labels")
    return files


def _pixels(image: Any, number: int) -> NDArray[np.uint8]:
    """Return an image as uint8 [H, W] or [H, W, 3]."""
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[-1] not in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or not array.size:
        raise InputError(
            f"image {number} has the shape {list(np.shape(image))}; images are [H, W], [H, W, C] "
            "or [C, H, W] with one or three channels"
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:  # nor NaN
        rounded: NDArray[np.uint8] = np.rint(255 * array).astype(np.uint8)
        return rounded
    raise InputError(
        f"image {number} has values of type {array.dtype}, {array.min()} to {array.max()}; give "
        "uint8, or real numbers from 0 to 1"
    )


def _write_table(
    path: Path,
    files: Sequence[str],
    names: Sequence[str],
    patients: Sequence[str] | None,
    splits: Sequence[str] | None,
) -> None:
    if patients is not None:
        patients = ["" if _is_nobody(patient) else patient for patient in patients]
    given = [files, names, patients, splits]
    there = [(column, own) for column, own in zip(COLUMNS, given, strict=True) if own is not None]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([column for column, _ in there])
        writer.writerows(zip(*(own for _, own in there), strict=True))


def _is_nobody(patient: object) -> bool:
    return patient is None or str(patient) in ("nan", "NaT", "<NA>")  # of NumPy and pandas
