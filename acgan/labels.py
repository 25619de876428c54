"""Label files of every COVIDx version, and class folders, as one table of images.

Nothing here decodes an image: a table is made in a second and says what a folder claims to hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from acgan.config import shown
from acgan.errors import InputError

FAMILIES = (("COVID-19", "normal", "pneumonia"), ("negative", "positive"))
GENERATED = "generated"  # what `acgan.generate` writes: no patient's image
SOURCES = frozenset(
    ("actmed", "bimcv", "cohen", "fig1", "nih", "ricord", "rsna", "sirm", "stonybrook", "unknown")
) | {GENERATED}
SOURCE_TYPOS = {"rnsa": "rsna"}  # 199 lines of train_COVIDx9A.txt
FILE_LIMIT_BYTES = 64 * 1024**2  # the largest published label file has 7 MB
LINE_LIMIT_BYTES = 4 * 1024  # as long as a path can be
TOKEN_LIMIT = 64
# COVIDx CXR-4 brings a validation split of its own; this project cuts one by patient, as for all
# other versions, so those images belong to train.
SPLIT_OF_FOLDER = {"train": "train", "val": "train", "test": "test"}
EXPECTED = (
    "expected train.txt and test.txt beside train/ and test/ (COVIDx), "
    "or {train,test}/{COVID-19,normal,pneumonia}/ (class folders)"
)

_CLASSES = {name.lower(): name for family in FAMILIES for name in family}
_CLASSES |= dict.fromkeys(("covid", "covid19", "covid_19"), "COVID-19")


class LabelLine(NamedTuple):
    """What one line of a label file says."""

    patient: str
    file: str
    class_name: str
    source: str


@dataclass(frozen=True)
class Row:
    """One image of a table.

    `path` is relative to the data folder; `stamp` is its size in bytes and modification time in
    ns, or None where there is no such file.
    """

    path: str
    split: str
    class_name: str
    patient: str
    source: str
    stamp: tuple[int, int] | None


@dataclass(frozen=True)
class Table:
    """All images that a data folder claims to hold, in the order of its label files."""

    folder: Path
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    label_files: tuple[str, ...]

    def digest(self) -> str:
        """Return a SHA-256 that changes with any row or file stamp, but not with the location."""
        content = json.dumps([self.classes, [vars(row) for row in self.rows]])
        return hashlib.sha256(content.encode()).hexdigest()


def parse_line(text: str, *, where: str) -> LabelLine:
    """Read one label line from the right: [source], class, file; the rest is the patient's id.

    Raises `InputError`, which starts with `where`, for a line that does not have this form.
    """
    tokens = text.split()
    if len(tokens) > TOKEN_LIMIT or not all(token.isprintable() for token in tokens):
        raise InputError(f"{where}: this is not a line of text that labels an image; remove it")
    source = "unknown"
    last = tokens[-1].lower() if tokens else ""
    last = SOURCE_TYPOS.get(last, last)
    if last in SOURCES:
        source = last
        tokens.pop()
    if len(tokens) < 3 or tokens[-1].lower() not in _CLASSES:
        raise InputError(
            f"{where}: expected 'patient file class [source]', with a class of "
            f"{_class_names()} and a source of {', '.join(sorted(SOURCES))}; "
            f"got {text.strip()[:100]!r}"
        )
    *patient, file, class_name = tokens
    if file.startswith("/") or ".." in file.split("/"):
        raise InputError(f"{where}: the file {file!r} must lie in the data folder")
    return LabelLine(" ".join(patient), file, _CLASSES[class_name.lower()], source)


def read_label_file(path: Path) -> Iterator[tuple[int, LabelLine]]:
    """Yield the number and content of each line that is not blank.

    The file and its lines are bounded, and so is the memory they need. Raises `InputError` with
    the file's name and the line's number.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is a label file by its name, but not a regular file")
        if status.st_size > FILE_LIMIT_BYTES:
            raise InputError(f"{path} is larger than {FILE_LIMIT_BYTES // 1024**2} MB")
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(LINE_LIMIT_BYTES + 1), b"")
            for number, raw in enumerate(lines, start=1):
                text = _decode(raw, where=f"{path.name}, line {number}")
                if text.strip():
                    yield number, parse_line(text, where=f"{path.name}, line {number}")
    except OSError as error:
        raise InputError(f"cannot read the label file {path}: {error.strerror}") from error


def _decode(raw: bytes, *, where: str) -> str:
    if len(raw) > LINE_LIMIT_BYTES:
        raise InputError(f"{where}: the line is longer than {LINE_LIMIT_BYTES // 1024} KB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: this is not UTF-8 text; save the file as UTF-8") from error


def read_table(folder: Path) -> Table:
    """Read a data folder in the COVIDx or the class-folder layout.

    Generated images alone need no test. Raises `InputError` for a folder without either layout, a
    line that cannot be read, a path that leads out of the folder, classes of two families, or a
    class without a file in train.
    """
    if not os.path.isdir(folder):  # False, too, for what can be no path at all
        raise InputError(f"there is no data folder {shown(str(folder))}; {EXPECTED}")
    root = Path(os.path.realpath(folder))
    try:
        label_files = _find_label_files(root)
        rows = tuple(_labelled(root, label_files) if label_files else _class_folders(root))
    except PermissionError as error:
        raise InputError(f"may not read {error.filename}; change its permissions") from error
    if not rows:
        raise InputError(f"{folder} holds no labelled images; {EXPECTED}")
    if label_files and "test" not in label_files and _needs_test(rows):
        raise InputError(f"{root} has no label file of test; {EXPECTED}")
    table = Table(root, _family(rows), rows, tuple(path.name for path in label_files.values()))
    require_every_class(table.classes, [row for row in rows if row.stamp])
    return table


def require_every_class(classes: tuple[str, ...], rows: Collection[Row]) -> None:
    """Raise `InputError` where train lacks a class, or test an image of any (see `read_table`)."""
    for class_name in classes:
        if not any(row.split == "train" and row.class_name == class_name for row in rows):
            raise InputError(
                f"class {class_name!r} has no image in train that can be used; "
                f"add some (the classes of this data are {', '.join(classes)})"
            )
    if not any(row.split == "test" for row in rows) and _needs_test(rows):
        raise InputError("test has no image that can be used; add some")


def _needs_test(rows: Collection[Row]) -> bool:
    return any(row.source != GENERATED for row in rows)


def _find_label_files(root: Path) -> dict[str, Path]:
    names = [name for name in sorted(os.listdir(root)) if name.isprintable()]
    texts = [root / name for name in names if name.lower().endswith(".txt")]
    found = {}
    for name in SPLIT_OF_FOLDER:
        candidates = [path for path in texts if path.name.lower().startswith(name)]
        if len(candidates) > 1:
            several = ", ".join(path.name for path in candidates)
            raise InputError(f"{root} has several label files of {name} ({several}); leave one")
        if candidates:
            found[name] = candidates[0]
    if found and "train" not in found:
        raise InputError(f"{root} has no label file of train; {EXPECTED}")
    for name, path in found.items():
        _stamp(root, path.name, where=path.name)
        if not (root / name).is_dir():
            raise InputError(f"{root} has {path.name} but no folder {name}/ with its images")
    return found


def _labelled(root: Path, label_files: dict[str, Path]) -> Iterator[Row]:
    for folder, label_file in label_files.items():
        for number, line in read_label_file(label_file):
            path = f"{folder}/{line.file}"
            stamp = _stamp(root, path, where=f"{label_file.name}, line {number}")
            split = SPLIT_OF_FOLDER[folder]
            yield Row(path, split, line.class_name, line.patient, line.source, stamp)


def _class_folders(root: Path) -> Iterator[Row]:
    for name, split in SPLIT_OF_FOLDER.items():
        for class_folder in _visible(root, name) if (root / name).is_dir() else ():
            if not (root / class_folder).is_dir():
                raise InputError(f"{root} has images in {name}/ but no label files; {EXPECTED}")
            class_name = _CLASSES.get(class_folder.split("/")[1].lower())
            if class_name is None:
                raise InputError(f"{class_folder!r} is no class; known: {_class_names()}")
            for path in _visible(root, class_folder):
                # No ids here: an image counts as a patient, named so that no two are the same.
                stamp = _stamp(root, path, where=split)
                yield Row(path, split, class_name, path, "unknown", stamp)


def _visible(root: Path, folder: str) -> list[str]:
    """Return the sorted entries of a folder inside the data folder, without hidden ones."""
    _stamp(root, folder, where=str(root))
    names = sorted(os.listdir(root / folder))
    return [f"{folder}/{name}" for name in names if not name.startswith(".")]


def _stamp(root: Path, path: str, *, where: str) -> tuple[int, int] | None:
    """Return size and modification time, None for no file; a link out of `root` is refused."""
    full = os.path.join(root, path)
    real = os.path.realpath(full)
    if not real.startswith(os.path.join(root, "")):
        raise InputError(f"{where}: {path!r} is a link that leads out of the data folder")
    try:
        status = os.stat(real)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _family(rows: Collection[Row]) -> tuple[str, ...]:
    names = {row.class_name for row in rows}
    for family in FAMILIES:
        if names <= set(family):
            return family
    raise InputError(
        f"classes {', '.join(sorted(names))} stand together; keep those of one label version"
    )


def _class_names() -> str:
    return " / ".join(", ".join(family) for family in FAMILIES)
