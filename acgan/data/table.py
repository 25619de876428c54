"""The table of images that a data folder claims to hold, whatever its layout.

Nothing here decodes an image: a table is made in seconds and says what there should be.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from acgan.data.folders import files_below, has_image_ending
from acgan.data.misnamed import Folder, Mend, likeliest
from acgan.errors import InputError

MERGED = "merged-train.txt"  # not train….txt: a folder has one label file of train
GENERATED = "generated"  # what `acgan.generate` writes: no patient's image
SPLITS = TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_OF = {  # what people call them, in lower case
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
UNKNOWN = "unknown"  # where nobody says which hospital or collection an image is from


@dataclass(frozen=True)
class Row:
    """One image of a table.

    `path` is relative to the data folder; `split` is what its folder or its line says; `stamp` is
    its size in bytes and modification time in ns, or None where there is no such file.
    """

    path: str
    split: str
    class_name: str
    patient: str
    source: str
    stamp: tuple[int, int] | None


Kind = Callable[[Row], bool]
"""Whether a row is of one kind: of a split, or of a class in it."""


@dataclass(frozen=True)
class Table:
    """All images that a data folder claims to hold, in the order of its labels.

    layout: what it was read as, such as "class folders"
    label_files: the files that name images, relative to the folder; none for class folders
    mends: what labels name otherwise than the disk, where the meaning is certain
    warnings: what a reader of any report on this data must know
    """

    folder: Path
    layout: str
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    label_files: tuple[str, ...] = ()
    mends: tuple[Mend, ...] = ()
    warnings: tuple[str, ...] = ()

    def digest(self) -> str:
        """Return a SHA-256 that changes with any row or file stamp, but not with the location."""
        mends = [vars(mend) for mend in self.mends]
        content = json.dumps(
            [self.classes, [vars(row) for row in self.rows], *mends, *self.warnings]
        )
        return hashlib.sha256(content.encode()).hexdigest()


class Reading(NamedTuple):
    """What a user says of a data folder beside its name; None: it is found out.

    labels: the table of labels, below the folder or anywhere
    file_column, label_column: its columns of file names and of classes
    patient_pattern: a regular expression whose one group is the patient in a file's name
    """

    labels: str | None = None
    file_column: str | None = None
    label_column: str | None = None
    patient_pattern: str | None = None


class Labelled(NamedTuple):
    """What a layout's reader found: see `Table`. patients: whether labels name them."""

    rows: list[Row]
    label_files: tuple[str, ...] = ()
    mends: tuple[Mend, ...] = ()
    warnings: tuple[str, ...] = ()
    patients: bool = False


def classes_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the names of all classes in alphabetical order, whatever their letter case."""
    return tuple(sorted({row.class_name for row in rows}, key=lambda name: (name.casefold(), name)))


def one_name(names: Iterable[str]) -> dict[str, str]:
    """Return name → class: letter case and Unicode form make no other one; the first name counts.

    Two folders that look the same are named differently where one was packed on a Mac.
    """
    first: dict[str, str] = {}
    keys = ((name, unicodedata.normalize("NFC", name).casefold()) for name in names)
    return {name: first.setdefault(key, name) for name, key in keys}


def file_stem(class_name: str) -> str:
    """Return what names of files of a class begin with: the class itself, where it can be one."""
    plain = re.sub(r"^[.-]|[^\w.-]", "_", class_name)
    if plain == class_name:
        return class_name
    digest = hashlib.sha256(class_name.encode()).hexdigest()
    return f"{plain}-{digest[:6]}"  # another class's may be alike


def require_every_class(
    classes: Sequence[str],
    rows: Collection[Row],
    why: Callable[[Kind], str],
    *,
    test: bool,
) -> None:
    """Raise `InputError` where train lacks a class, or test any image (see `read_table`).

    test: whether there must be images in test; why: says what became of the rows of a kind of
    which none is left
    """
    for class_name in classes:
        own = _of(TRAIN, class_name)
        if not any(map(own, rows)):
            add = f"add some (the classes of this data are {', '.join(classes)})"
            raise InputError(
                f"class {class_name!r} has no image in train that can be used; {why(own) or add}"
            )
    if test and not any(map(_of(TEST), rows)):
        raise InputError(f"test has no image that can be used; {why(_of(TEST)) or 'add some'}")


def _of(split: str, class_name: str | None = None) -> Kind:
    return lambda row: row.split == split and class_name in (None, row.class_name)


def why_absent(table: Table, own: Kind) -> str:
    """Say that the rows of a kind name missing files, "" where there is no such row."""
    rows = [row for row in table.rows if own(row)]
    return missing_files(table, rows) if rows else ""


def missing_files(table: Table, rows: Sequence[Row]) -> str:
    """Say how many of some rows name missing files, which first, and what it most likely means.

    rows: of one split, at least one of them without a file
    """
    lost = [row for row in rows if row.stamp is None]
    folder = os.path.dirname(lost[0].path).partition("/")[0]
    everyone = [row for row in table.rows if row.stamp is None and _is_below(row.path, folder)]
    names = [row.path.removeprefix(f"{folder}/") for row in lost if _is_below(row.path, folder)]
    unread = _unlabelled(table)
    hint = likeliest(Folder(folder, files_below(table.folder, folder)), names, unread)
    if not hint:
        count = sum(_is_below(path, folder) for path in unread)
        place = f"{folder}/" if folder else "the folder"
        hint = f"no file has a name like that, and {place} has {count:,} that no line names"
    others = f" (all classes: {len(everyone):,})" if len(everyone) > len(lost) else ""
    return (
        f"{len(lost):,} of {len(rows):,} lines name missing files{others}, the first of them "
        f"{lost[0].path!r}: {hint}"
    )


def _is_below(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def unlabelled(table: Table) -> Counter[str]:
    """Count the visible files that no row names, by folder; at the top, those that are images."""
    return Counter(
        os.path.dirname(path)
        for path in _unlabelled(table)
        if "/" in path or (os.path.splitext(path)[1] and has_image_ending(path))
    )


def _unlabelled(table: Table) -> list[str]:
    named = {row.path for row in table.rows if row.stamp}
    linked = {os.path.realpath(table.folder / path) for path in named}
    return [
        path
        for path in files_below(table.folder)
        if path not in named and os.path.realpath(table.folder / path) not in linked
    ]
