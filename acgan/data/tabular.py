"""A table of labels: a CSV or TSV file with a header, and the images anywhere below its folder.

One class a line in a column, or one-hot columns (as ISIC's ground truth), of which a patient's sex
is none. A line with several labels (ChestX-ray14's `Finding Labels`, `A|B`), or with none, is left
out and counted.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from acgan.config import nearest_name
from acgan.data.folders import IMAGE_ENDINGS, files_below, open_text, stamp
from acgan.data.misnamed import Mend, nearly
from acgan.data.table import SPLIT_OF, UNKNOWN, Labelled, Reading, Row, one_name
from acgan.errors import InputError

NAME = "table of labels"
EXPECTED = "a CSV or TSV file with a header and a line for each image"
ENDINGS = {".csv": ",", ".tsv": "\t"}
CELL_LIMIT = 4096
SEVERAL = "|"
# Without case, blanks and punctuation; the first that is there is taken.
COLUMNS = {
    "file": (
        *("file", "filename", "filepath", "image", "imagefile", "imagename", "imagepath"),
        *("imageindex", "imageid", "img", "path", "isicid", "id"),
    ),
    "label": (
        *("label", "labels", "class", "classname", "diagnosis", "dx", "category", "target"),
        *("finding", "findings", "findinglabels"),
    ),
    "patient": ("patient", "patientid", "subject", "subjectid", "lesionid"),
    "split": ("split", "subset", "partition", "set"),
    "source": ("source", "site", "hospital", "institution", "center", "centre"),
}
_NO_CLASSES = frozenset(
    ("sex", "gender", "patientsex", "patientgender", "male", "female", "ismale", "isfemale")
)
_ZERO_OR_ONE = {"0": 0, "0.0": 0, "": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


class _Columns(NamedTuple):
    """Which column says what; `hot` are the classes of one-hot columns."""

    file: str
    label: str | None
    hot: tuple[str, ...]
    patient: str | None
    split: str | None
    source: str | None


class NotLabelsError(InputError):
    """A table that is none of labels, by its columns or because it is empty."""


def matches(root: Path, reading: Reading) -> bool:
    """Whether a table is named, or the folder has a table beside its images."""
    return reading.labels is not None or bool(_tables(root))


def tables(root: Path, reading: Reading) -> list[str]:
    """Return the tables in a folder whose columns name files."""
    return [name for name in _tables(root) if _names_files(root, name, reading)]


def _names_files(root: Path, name: str, reading: Reading) -> bool:
    try:
        stamp(root, name, where=name)
        header, _ = _read(root / name)
        return _column(header, "file", reading.file_column, name) is not None
    except NotLabelsError:
        return False
    except InputError:
        return True  # whoever reads it says what is wrong


def read(root: Path, reading: Reading) -> Labelled:
    """Return the images that a table names.

    A file is named by its path below the folder, or by its own name, with or without its ending. A
    path into a folder that is not there means the file of this name only where no other line means
    it: else an image of another class would be read for a missing one.
    Raises `InputError` for columns that cannot be told, a name that several files have, and a
    split or a number of cells that is none.
    """
    if reading.labels:
        path = _named(root, reading)
    else:
        path = root / _only(root, reading)
        stamp(root, path.name, where=path.name)  # it is no link that leads out
    header, lines = _read(path)
    columns = _choose(header, [cells for _, cells in lines], reading, path.name)
    place = header.index(columns.file)
    files = _Files(root, {cells[place].strip() for _, cells in lines})
    left_out: Counter[str] = Counter()
    rows: list[Row] = []
    for number, cells in lines:
        line = dict(zip(header, cells, strict=True))
        where = f"{path.name}, line {number}"
        label = _label(line, columns)
        if label is None:
            left_out["several labels" if _has_several(line, columns) else "no label"] += 1
            continue
        file = files.find(line[columns.file].strip(), where)
        split = _split(line, columns, where)
        source = (line[columns.source].strip() if columns.source else "") or UNKNOWN
        patient = (line[columns.patient].strip() if columns.patient else "") or file
        rows.append(Row(file, split, label, patient, source, stamp(root, file, where=where)))
    told = [f"{path.name}: lines left out: {count:,} ({what})" for what, count in left_out.items()]
    if told and columns.hot:
        told.append(
            f"{path.name}: classes are its columns of 0 and 1, {', '.join(columns.hot)} "
            "(--label-column names one column in their place)"
        )
    names = one_name(name for name, _ in Counter(row.class_name for row in rows).most_common())
    if merged := [f"{name!r} as {own!r}" for name, own in names.items() if name != own]:
        told.append(f"{path.name}: letter case makes no other class: {', '.join(merged)}")
        rows = [replace(row, class_name=names[row.class_name]) for row in rows]
    inside = os.path.relpath(path, root) if path.is_relative_to(root) else path.name
    return Labelled(
        rows, (inside,), files.mends(path.name), tuple(told), columns.patient is not None
    )


def _only(root: Path, reading: Reading) -> str:
    """Return the one table of labels of a folder; `InputError` where several may be it."""
    names = _tables(root)
    if len(names) > 1:
        names = tables(root, reading) or names
    if len(names) > 1:
        raise InputError(
            f"{root} has {len(names)} tables ({', '.join(names[:5])}); say which has the labels "
            "with --labels"
        )
    return names[0]


def _tables(root: Path) -> list[str]:
    names = (name for name in sorted(os.listdir(root)) if not name.startswith("."))
    return [n for n in names if os.path.splitext(n)[1].lower() in ENDINGS and (root / n).is_file()]


def _named(root: Path, reading: Reading) -> Path:
    """Return the file that `--labels` names: below the data folder, or anywhere."""
    assert reading.labels is not None
    for path in (root / reading.labels, Path(os.path.realpath(reading.labels))):
        if path.is_file():
            break
    else:
        raise InputError(f"there is no file {reading.labels!r} of labels, here or in {root}")
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path} is no table of labels by its name: .csv (commas), .tsv (tabs)")
    return path


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and number and cells of each line that is not blank."""
    with open_text(path) as file:
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path.name}: this is not UTF-8 text; save the file as UTF-8"
            ) from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text))
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise InputError(f"{path.name}, line {reader.line_num}: {error}") from error
    if not lines:
        raise NotLabelsError(f"{path.name} is empty; expected {EXPECTED}")
    header = [cell.strip() for cell in lines[0][1]]
    if len(set(header)) < len(header):
        twice = next(name for name, count in Counter(header).items() if count > 1)
        raise InputError(f"{path.name} has the column {twice!r} twice; rename one")
    for number, cells in lines[1:]:
        if len(cells) != len(header) or any(len(cell) > CELL_LIMIT for cell in cells):
            raise InputError(
                f"{path.name}, line {number}: {len(cells)} cells, the header has {len(header)}"
            )
        if not all(cell.isprintable() for cell in cells):
            raise InputError(f"{path.name}, line {number}: this is not a line of text; remove it")
    return header, lines[1:]


def _delimiter(path: Path, text: str) -> str:
    """Return the ending's, or a semicolon where the header has one and no comma."""
    header = text.partition("\n")[0]
    usual = ENDINGS[path.suffix.lower()]
    return ";" if usual not in header and ";" in header else usual


def _choose(
    header: Sequence[str], lines: Sequence[Sequence[str]], reading: Reading, name: str
) -> _Columns:
    file = _column(header, "file", reading.file_column, name)
    if file is None:
        raise NotLabelsError(
            f"{name} has no column that is known to name files ({', '.join(header)}); "
            "say which with --file-column"
        )
    label = _column(header, "label", reading.label_column, name)
    others = [_column(header, what, None, name) for what in ("patient", "split", "source")]
    hot: tuple[str, ...] = ()
    if label is None:
        free = [column for column in header if column not in {file, *others}]
        hot = tuple(
            column
            for column in free
            if _plain(column) not in _NO_CLASSES and _is_hot(header.index(column), lines)
        )
        if len(hot) < 2:
            raise NotLabelsError(
                f"{name} has no column that is known to name classes, nor a column of 0 and 1 for "
                f"each class ({', '.join(header)}); say which with --label-column"
            )
    return _Columns(file, label, hot, *others)


def _column(header: Sequence[str], what: str, named: str | None, name: str) -> str | None:
    if named is not None:
        if named not in header:
            raise InputError(f"{name} has no column {named!r}{nearest_name(named, header)}")
        return named
    plain = {_plain(column): column for column in header}
    return next((plain[known] for known in COLUMNS[what] if known in plain), None)


def _plain(column: str) -> str:
    return re.sub(r"[\W_]", "", column).lower()


def _is_hot(place: int, lines: Iterable[Sequence[str]]) -> bool:
    return all(cells[place].strip().lower() in _ZERO_OR_ONE for cells in lines)


def _label(line: Mapping[str, str], columns: _Columns) -> str | None:
    """Return a line's class; None where it has none, or several."""
    if columns.label is not None:
        label = line[columns.label].strip()
        return label if label and SEVERAL not in label else None
    set_ones = _set(line, columns)
    return set_ones[0] if len(set_ones) == 1 else None


def _has_several(line: Mapping[str, str], columns: _Columns) -> bool:
    if columns.label is not None:
        return SEVERAL in line[columns.label]
    return len(_set(line, columns)) > 1


def _set(line: Mapping[str, str], columns: _Columns) -> list[str]:
    return [name for name in columns.hot if _ZERO_OR_ONE[line[name].strip().lower()]]


def _split(line: Mapping[str, str], columns: _Columns, where: str) -> str:
    text = line[columns.split].strip() if columns.split else "train"
    if text.lower() not in SPLIT_OF:
        raise InputError(f"{where}: {text!r} is no split; expected train, val or test")
    return SPLIT_OF[text.lower()]


class _Files:
    """The files below a folder, by what the lines of a table may call them.

    named: what they call all of them
    """

    def __init__(self, root: Path, named: Collection[str]) -> None:
        self._root = root
        self._mended: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._names: defaultdict[str, list[str]] = defaultdict(list)
        self._nearly: defaultdict[str, list[str]] = defaultdict(list)
        self._stems: defaultdict[str, list[str]] = defaultdict(list)
        there = list(files_below(root))
        for path in there:
            name = os.path.basename(path)
            stem, ending = os.path.splitext(name)
            self._names[name].append(path)
            self._nearly[nearly(name)].append(path)
            if ending.lower() in IMAGE_ENDINGS - {""}:
                self._stems[stem].append(path)
        paths = {_normal(name) for name in named}
        self._exact = paths.intersection(there)
        claimed = (self._alike(path) for path in paths - self._exact)
        self._claims = Counter(found[0] for found in claimed if len(found) == 1)

    def find(self, name: str, where: str) -> str:
        """Return the path of the file that a line names; as it is named where there is none.

        Raises `InputError` for a path that leads out of the folder, and for several such files.
        """
        path = _normal(name)
        if not name or path.startswith(("/", "..")):
            raise InputError(f"{where}: the file {name!r} must lie in the data folder")
        if os.path.isfile(self._root / path):  # False of a name that no file can have, too
            return path
        found = self._alike(path)
        if len(found) > 1:
            raise InputError(
                f"{where}: {name!r} can mean {found[0]!r} or {found[1]!r}; write the path below "
                "the data folder"
            )
        if not found or (self._has_no_folder(path) and self._claims[found[0]] > 1):
            return path
        how = self._how(path, found[0])
        if how:
            self._mended[how][name] = found[0]
        return found[0]

    def _alike(self, path: str) -> list[str]:
        """Return the files that a path to none can mean, by its last part."""
        folder, own = os.path.split(path)
        lost = self._has_no_folder(path)
        inside = "" if lost else os.path.join(folder, "")
        for kind in (self._names.get(own), self._stems.get(own), self._nearly.get(nearly(own))):
            found = [each for each in kind or () if each.startswith(inside)]
            if found := [each for each in found if not (lost and each in self._exact)]:
                return found
        return []

    def _has_no_folder(self, path: str) -> bool:
        """Whether a path names a folder that is not there."""
        return not os.path.isdir(self._root / os.path.dirname(path))

    def _how(self, path: str, found: str) -> str:
        """Say in what a path differs from the file that it means, "" where it is its own name."""
        folder, own = os.path.split(path)
        if own not in self._names and own not in self._stems:
            return "letter case of the ending or Unicode form"
        return "" if found.startswith(os.path.join(folder, "")) else "another folder"

    def mends(self, where: str) -> tuple[Mend, ...]:
        """Return what was mended in the names of a table."""
        return tuple(
            Mend(where, how, len(own), *next(iter(own.items())))
            for how, own in self._mended.items()
        )


def _normal(name: str) -> str:
    return os.path.normpath(name.replace("\\", "/"))


def write_table(rows: Iterable[Sequence[str]]) -> str:
    """Return a header and rows of cells as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
