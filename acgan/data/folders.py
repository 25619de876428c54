"""What lies in a data folder: without what systems leave there, and never outside of it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from acgan.errors import InputError

# Beside a folder of images, a file with another ending is no image.
IMAGE_ENDINGS = frozenset(
    ("", ".bmp", ".dcm", ".dicom", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff")
) | {".webp"}
LABELS_LIMIT_BYTES = 64 * 1024**2  # the largest published label file has 7 MB
_LEFT_BY_SYSTEMS = frozenset(("thumbs.db", "desktop.ini", "__macosx"))


def is_hidden(name: str) -> bool:
    """Whether a name is hidden, or of what systems leave in folders."""
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def files_below(root: Path, folder: str = "") -> Iterator[str]:
    """Yield the path of each visible file below a folder, relative to that folder, in order.

    Links to folders are followed inside of `root`, and each folder is read once.
    """
    top, inside = os.path.join(root, folder), os.path.join(root, "")
    seen = set()
    for at, folders, files in os.walk(top, followlinks=True):
        real = os.path.join(os.path.realpath(at), "")
        if real in seen or not real.startswith(inside):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(name for name in files if not is_hidden(name)):
            yield os.path.relpath(os.path.join(at, name), top)


def visible(root: Path, folder: str = "") -> list[str]:
    """Return the sorted entries of a folder inside `root`, relative to it, without hidden ones."""
    stamp(root, folder, where=str(root))
    names = sorted(os.listdir(root / folder))
    return [os.path.join(folder, name) for name in names if not is_hidden(name)]


def has_image_ending(name: str) -> bool:
    """Whether a file may be an image by the ending of its name."""
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def stamp(root: Path, path: str, *, where: str) -> tuple[int, int] | None:
    """Return size and modification time, None for no file; a link out of `root` is refused.

    where: what names the path, for the `InputError`
    """
    real = os.path.realpath(os.path.join(root, path))
    if not os.path.join(real, "").startswith(os.path.join(root, "")):
        raise InputError(f"{where}: {path!r} is a link that leads out of the data folder")
    try:
        status = os.stat(real)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a file of labels, of a bounded size; what the system refuses is an `InputError`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is a label file by its name, but not a regular file")
        if status.st_size > LABELS_LIMIT_BYTES:
            raise InputError(f"{path} is larger than {LABELS_LIMIT_BYTES // 1024**2} MB")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot read the label file {path}: {error.strerror}") from error
