"""How many training images of each class a data folder lacks, and its labels with more added."""

from __future__ import annotations

import glob
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from acgan.config import TrainConfig, user_path
from acgan.data import class_folders, label_files, tabular
from acgan.data.dataset import Dataset
from acgan.data.layouts import read_table
from acgan.data.pack import load_for
from acgan.data.source import DataSource
from acgan.data.table import GENERATED, TEST, TRAIN, VALIDATION, Row, Table, file_stem
from acgan.errors import InputError

NUMBERS = f"-{'[0-9]' * 6}*.png"  # of a class's images, and not of one called `class-other`


@dataclass(frozen=True)
class Lack:
    """What a data folder lacks to have as many training images of each class as of the largest.

    data: its images, of which those of patients that are set apart here, for a validation and a
        test that the folder does not have, are training images of the folder, too
    there: usable training images by class, generated ones among them
    missing: how many more, of the classes that lack any
    first: the number of the first generated image to add, by class: higher than that of any there
    """

    data: Dataset
    there: dict[str, int]
    missing: dict[str, int]
    first: dict[str, int]


def lack_of(
    source: DataSource,
    config: TrainConfig,
    classes: tuple[str, ...],
    *,
    naming: str,
    trained_on: str = "",
) -> Lack:
    """Count the training images of a data folder, or of "phantom".

    naming: how generated images are named, with {class_name} and {index:06d}; trained_on: the
    fingerprint of the images that the generator was trained on, "" for any
    Raises `InputError` for a folder that cannot be used, or has other classes or images.
    """
    data = load_for(source, config, known=trained_on)
    if data.classes != classes:
        raise InputError(
            f"{source} has the classes {', '.join(data.classes)}, the weights have "
            f"{', '.join(classes)}; name other images, or other weights"
        )
    if trained_on not in ("", data.fingerprint):
        raise InputError(
            f"the generator was trained on other images than those of {source}; name its own, or "
            "give --other-data if it may fill up these"
        )
    rows = () if source.is_phantom else _table(source).rows
    own = {row.split for row in rows} or {TEST}  # the phantom has a test
    parts = [data.train]
    parts += [
        images for split, images in ((VALIDATION, data.val), (TEST, data.test)) if split not in own
    ]
    counts = [images.per_class(len(classes)) for images in parts]
    counts.append(data.generated or (0,) * len(classes))
    there = dict(zip(classes, map(sum, zip(*counts, strict=True)), strict=True))
    most = max(there.values())
    return Lack(
        data=data,
        there=there,
        missing={name: most - count for name, count in there.items() if count < most},
        first={name: _first_free(rows, naming, name) for name in classes},
    )


def _first_free(rows: tuple[Row, ...], naming: str, class_name: str) -> int:
    """Return the number after the highest of the generated images of a class that are there."""
    stem = naming.partition("{index")[0].format(class_name=file_stem(class_name))
    pattern = re.compile(rf"{re.escape(stem)}(\d{{6,}})\.png")
    names = (pattern.fullmatch(Path(row.path).name) for row in rows)
    return max((int(match[1]) for match in names if match), default=-1) + 1


def merged_labels(source: DataSource, lines: str) -> bytes:
    """Return a data folder's label file of train with more lines at its end.

    Raises `InputError` for folders of another layout and for the phantom, which have none.
    """
    path = None if source.is_phantom else _label_file(_table(source))
    if path is None:
        raise InputError(
            f"{source} has no label file that could be merged; leave out --merged-labels"
        )
    content = path.read_bytes()
    gap = b"" if content.endswith(b"\n") or not content else b"\n"
    return content + gap + lines.encode()


def _table(source: DataSource) -> Table:
    return read_table(user_path(source.folder), source.reading)


def _label_file(table: Table) -> Path | None:
    """Return COVIDx' label file of train, None in any other layout."""
    if table.layout != label_files.NAME:
        return None
    (name,) = (name for name in table.label_files if name.lower().startswith(TRAIN))
    return table.folder / name


def how_to_add(source: DataSource, images: Path, labels: Path, *, merged: Path | None) -> list[str]:
    """Return the lines that say how generated images are added to a data folder.

    images: their folder; labels: their label file; merged: the folder's with theirs, if written
    """
    if source.is_phantom:
        return ["the phantom is drawn anew each time: nothing can be added to it"]
    folder, table = Path(source.folder), _table(source)
    own = _label_file(table)
    if own is not None:
        copy = f"cp {_quoted(images)}/*.png {_quoted(folder / TRAIN)}/"
        add = f"cp {_quoted(merged)} {_quoted(own)}" if merged else _appended(labels, own)
        return [f"to add them: {copy}; {add}"]
    if table.layout not in (tabular.NAME, class_folders.NAME):  # a plug-in's
        return [
            f"to add them, write them as the layout {table.layout!r} has its images: with the "
            f"source {GENERATED} they are passed over beside real ones"
        ]
    if table.label_files:
        name = table.label_files[0]
        return [
            f"to add them: copy {_quoted(images)} beside the images of {_quoted(folder)}, and give "
            f"each a line of {name} with its file, its class and {GENERATED} in the column source; "
            f"files and classes stand in {_quoted(labels)}"
        ]
    trained = (row for row in table.rows if row.split == TRAIN)
    places = Counter((row.class_name, Path(row.path).parent) for row in trained)
    parents = {name: place for (name, place), _ in reversed(places.most_common())}
    copies = (
        f"cp {_quoted(images)}/{shlex.quote(file_stem(name))}{NUMBERS} {_quoted(folder / place)}/"
        for name, place in parents.items()
        if any(images.glob(f"{glob.escape(file_stem(name))}{NUMBERS}"))
    )
    return [
        f"to add them: {'; '.join(copies)}",
        f"class folders cannot mark images as {GENERATED}: this project would take them for real "
        "ones there, and validate on them",
    ]


def _appended(labels: Path, own: Path) -> str:
    """Return the command that adds lines to a label file, whose last line may lack its end."""
    gap = "" if own.read_bytes().endswith(b"\n") else f"echo >> {_quoted(own)}; "
    return f"{gap}cat {_quoted(labels)} >> {_quoted(own)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
