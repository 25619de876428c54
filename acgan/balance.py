"""How many training images of each class a data folder lacks, and its labels with more added."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from acgan.config import TrainConfig, user_path
from acgan.data import PHANTOM, load_for, named_source
from acgan.dataset import Dataset
from acgan.errors import InputError
from acgan.labels import GENERATED, Row, read_table

TRAIN = "train"


@dataclass(frozen=True)
class Lack:
    """What a data folder lacks to have as many training images of each class as of the largest.

    data: its images, of which those of validation patients are training images of the folder, too
    there: usable training images by class, generated ones among them
    missing: how many more, of the classes that lack any
    first: the number of the first generated image to add, by class: higher than that of any there
    """

    data: Dataset
    there: dict[str, int]
    missing: dict[str, int]
    first: dict[str, int]


def lack_of(source: str, config: TrainConfig, classes: tuple[str, ...], *, naming: str) -> Lack:
    """Count the training images of a data folder, or of "phantom".

    naming: how generated images are named, with {class_name} and {index:06d}
    Raises `InputError` for a folder that cannot be used, or has other classes.
    """
    source = named_source(source, {})
    data = load_for(source, config)
    if data.classes != classes:
        raise InputError(
            f"{source} has the classes {', '.join(data.classes)}, the weights have "
            f"{', '.join(classes)}; name other images, or other weights"
        )
    train, val = (images.per_class(len(classes)) for images in (data.train, data.val))
    counts = zip(train, val, data.generated or [0] * len(classes), strict=True)
    there = dict(zip(classes, map(sum, counts), strict=True))
    most = max(there.values())
    rows = () if source == PHANTOM else read_table(Path(source)).rows
    return Lack(
        data=data,
        there=there,
        missing={name: most - count for name, count in there.items() if count < most},
        first={name: _first_free(rows, naming, name) for name in classes},
    )


def _first_free(rows: tuple[Row, ...], naming: str, class_name: str) -> int:
    """Return the number after the highest of the generated images of a class that are there."""
    stem = naming.partition("{index")[0].format(class_name=class_name)
    pattern = re.compile(rf"{re.escape(stem)}(\d{{6,}})\.png")
    names = (pattern.fullmatch(Path(row.path).name) for row in rows)
    return max((int(match[1]) for match in names if match), default=-1) + 1


def merged_labels(source: str, lines: str) -> bytes:
    """Return a data folder's label file of train with more lines at its end.

    Raises `InputError` for class folders and for the phantom, which have none.
    """
    path = _label_file(source)
    if path is None:
        raise InputError(
            f"{source} has no label file that could be merged; leave out --merged-labels"
        )
    content = path.read_bytes()
    gap = b"" if content.endswith(b"\n") or not content else b"\n"
    return content + gap + lines.encode()


def _label_file(source: str) -> Path | None:
    if source == PHANTOM:
        return None
    table = read_table(user_path(source))
    names = [name for name in table.label_files if name.lower().startswith(TRAIN)]
    return table.folder / names[0] if names else None


def how_to_add(source: str, images: Path, labels: Path, *, merged: Path | None) -> list[str]:
    """Return the lines that say how generated images are added to a data folder.

    images: their folder; labels: their label file; merged: the folder's with theirs, if written
    """
    if source == PHANTOM:
        return ["the phantom is drawn anew each time: nothing can be added to it"]
    folder, own = Path(source), _label_file(source)
    if own is not None:
        copy = f"cp {_quoted(images)}/*.png {_quoted(folder / TRAIN)}/"
        add = f"cp {_quoted(merged)} {_quoted(own)}" if merged else _appended(labels, own)
        return [f"to add them: {copy}; {add}"]
    table = read_table(user_path(source))
    parents = {row.class_name: Path(row.path).parent for row in table.rows}
    trained = [row for row in table.rows if Path(row.path).parts[0] == TRAIN]  # not of val/
    parents |= {row.class_name: Path(row.path).parent for row in trained}
    copies = (
        f"cp {_quoted(images)}/{shlex.quote(name)}-*.png {_quoted(folder / place)}/"
        for name, place in parents.items()
        if any(images.glob(f"{name}-*.png"))
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
