"""COVIDx: label files of every published version, `train.txt` and `test.txt` beside the images."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from acgan.data.folders import files_below, open_text, stamp
from acgan.data.misnamed import Folder, Mend
from acgan.data.table import GENERATED, TEST, TRAIN, UNKNOWN, VALIDATION, Labelled, Row
from acgan.errors import InputError

NAME = "COVIDx label files"
EXPECTED = "train.txt and test.txt beside train/ and test/ (COVIDx)"
FAMILIES = (("COVID-19", "normal", "pneumonia"), ("negative", "positive"), ("level1", "level2"))
SOURCES = frozenset(
    ("actmed", "bimcv", "cohen", "fig1", "nih", "ricord", "rsna", "sirm", "stonybrook", UNKNOWN)
) | {GENERATED}
SOURCE_TYPOS = {"rnsa": "rsna"}  # 199 lines of train_COVIDx9A.txt
LINE_LIMIT_BYTES = 4 * 1024  # as long as a path can be
TOKEN_LIMIT = 64
LOOKED_AT = 1_000  # lines of a text file that may be a label file by its name
SPLITS = {"train": TRAIN, "val": VALIDATION, "test": TEST}

_CLASSES = {name.lower(): name for family in FAMILIES for name in family}
_CLASSES |= dict.fromkeys(("covid", "covid19", "covid_19"), "COVID-19")


class LabelLine(NamedTuple):
    """What one line of a label file says."""

    patient: str
    file: str
    class_name: str
    source: str


def covidx_class(name: str) -> str | None:
    """Return the class of a COVIDx version that a name means; None for any other name."""
    return _CLASSES.get(name.lower())


def are_covidx(classes: Collection[str]) -> bool:
    """Whether label files can name all these classes."""
    return any(set(classes) <= set(family) for family in FAMILIES)


def parse_line(text: str, *, where: str) -> LabelLine:
    """Read one label line from the right: [source], class, file; the rest is the patient's id.

    Raises `InputError`, which starts with `where`, for a line that does not have this form.
    """
    tokens = text.split()
    if len(tokens) > TOKEN_LIMIT or not all(token.isprintable() for token in tokens):
        raise InputError(f"{where}: this is not a line of text that labels an image; remove it")
    source = UNKNOWN
    last = tokens[-1].lower() if tokens else ""
    last = SOURCE_TYPOS.get(last, last)
    if last in SOURCES:
        source = last
        tokens.pop()
    if len(tokens) < 3 or tokens[-1].lower() not in _CLASSES:
        classes = " / ".join(", ".join(family) for family in FAMILIES)
        raise InputError(
            f"{where}: expected 'patient file class [source]', with a class of {classes} and a "
            f"source of {', '.join(sorted(SOURCES))} (other classes: a CSV file, or class "
            f"folders); got {text.strip()[:100]!r}"
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
    with open_text(path) as file:
        lines = iter(lambda: file.readline(LINE_LIMIT_BYTES + 1), b"")
        for number, raw in enumerate(lines, start=1):
            text = _decode(raw, where=f"{path.name}, line {number}")
            if text.strip():
                yield number, parse_line(text, where=f"{path.name}, line {number}")


def _decode(raw: bytes, *, where: str) -> str:
    if len(raw) > LINE_LIMIT_BYTES:
        raise InputError(f"{where}: the line is longer than {LINE_LIMIT_BYTES // 1024} KB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: this is not UTF-8 text; save the file as UTF-8") from error


def matches(root: Path, class_folders: bool) -> bool:
    """Whether a folder has label files; texts beside class folders must label images to be some."""
    return bool(_find_label_files(root, class_folders))


def read(root: Path, class_folders: bool) -> Labelled:
    """Return the images that label files name.

    File names that are written otherwise than on disk are mended where their meaning is certain.
    Raises `InputError` for a line that cannot be read, a path that leads out of the folder, and
    classes of two families.
    """
    label_files = _find_label_files(root, class_folders)
    _check_label_files(root, label_files)
    rows: list[Row] = []
    mends: list[Mend] = []
    for folder, label_file in label_files.items():
        own = list(_rows(root, folder, label_file))
        mends += _mend(own, root, folder, label_file.name)
        rows += own
    names = tuple(path.name for path in label_files.values())
    if "test" in label_files and not any(row.split == TEST for row in rows):
        raise InputError(
            f"{root / label_files['test'].name} names no image; name some, or remove it: a test is "
            "then cut from train"
        )
    _check_family(rows, names)
    return Labelled(rows, names, tuple(mends), patients=True)


def _find_label_files(root: Path, class_folders: bool) -> dict[str, Path]:
    names = [name for name in sorted(os.listdir(root)) if name.isprintable()]
    texts = [root / name for name in names if name.lower().endswith(".txt")]
    found = {}
    for name in SPLITS:
        candidates = [path for path in texts if path.name.lower().startswith(name)]
        labelled = [path for path in candidates if _has_labels(path)]
        if labelled or class_folders or not (root / name).is_dir():
            candidates = labelled  # a name does not make notes on a training a label file
        if len(candidates) > 1:
            several = ", ".join(path.name for path in candidates)
            raise InputError(f"{root} has several label files of {name} ({several}); leave one")
        if candidates:
            found[name] = candidates[0]
    return found


def _check_label_files(root: Path, label_files: dict[str, Path]) -> None:
    if "train" not in label_files:
        raise InputError(f"{root} has no label file of train; expected {EXPECTED}")
    if "test" not in label_files and any(files_below(root, "test")):
        raise InputError(
            f"{root} has no label file of test, but a folder test/; expected {EXPECTED} (without "
            "either, a test is cut from train)"
        )
    for name, path in label_files.items():
        stamp(root, path.name, where=path.name)
        if not (root / name).is_dir():
            raise InputError(f"{root} has {path.name} but no folder {name}/ with its images")


def _has_labels(path: Path) -> bool:
    """Whether any of the first lines labels an image; what is no plain file is refused later."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(LINE_LIMIT_BYTES), b"")
        return any(map(_is_label, itertools.islice(lines, LOOKED_AT)))


def _is_label(raw: bytes) -> bool:
    try:
        parse_line(_decode(raw, where=""), where="")
    except InputError:
        return False
    return True


def _rows(root: Path, folder: str, label_file: Path) -> Iterator[Row]:
    for number, line in read_label_file(label_file):
        path = f"{folder}/{line.file}"
        found = stamp(root, path, where=f"{label_file.name}, line {number}")
        yield Row(path, SPLITS[folder], line.class_name, line.patient, line.source, found)


def _mend(rows: list[Row], root: Path, folder: str, where: str) -> list[Mend]:
    """Give rows of missing files, in place, those that they mean for certain; return what it did.

    where: the label file's name
    """
    lost = [index for index, row in enumerate(rows) if row.stamp is None]
    if not lost:
        return []
    named = [row.path.removeprefix(f"{folder}/") for row in rows]
    names: defaultdict[str, set[str]] = defaultdict(set)
    for index in lost:
        names[named[index]].add(rows[index].class_name)
    place = Folder(folder, files_below(root, folder))
    there = (name for name, row in zip(named, rows, strict=True) if row.stamp)
    meant = place.meant(names, there, _CLASSES)
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for index in lost:
        name = named[index]
        path = f"{folder}/{meant.get(name, name)}"
        found = stamp(root, path, where=where)
        if name in meant and found:  # not a link to nothing
            rows[index] = replace(rows[index], path=path, stamp=found)
            kinds[place.how(name, meant[name])].append(name)
    return [Mend(where, how, len(own), own[0], meant[own[0]]) for how, own in kinds.items()]


def _check_family(rows: Collection[Row], label_files: Collection[str]) -> None:
    names = {row.class_name for row in rows}
    for name in label_files:
        if "sev" in name.lower() and names & {"negative", "positive"}:
            # From one version to the next 'positive' went from 175 images to the other 584.
            raise InputError(
                f"{name} labels severity as negative and positive, which versions used either "
                "way round; take the published version with level1 and level2"
            )
    if not are_covidx(names):
        raise InputError(
            f"classes {', '.join(sorted(names))} stand together; keep those of one label version"
        )
