"""The layouts in which data folders come, and the one table that each becomes.

Another layout is a module with `NAME`, `EXPECTED`, and functions that match and read it, and a line
in `LAYOUTS`. A package adds its own by an entry point in the group `acgan_search.layouts`, which
has the layout's name and whose value is a `Layout`; it is asked before those that are built in.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from acgan.config import shown
from acgan.data import class_folders, label_files, tabular
from acgan.data.folders import is_hidden
from acgan.data.patients import name_patients
from acgan.data.table import (
    GENERATED,
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Labelled,
    Reading,
    Row,
    Table,
    classes_of,
    require_every_class,
    why_absent,
)
from acgan.errors import InputError
from acgan.plugins import LAYOUTS as PLUGINS
from acgan.plugins import installed, load, reason

FEW_PATIENTS = 20  # of a class: a validation split with fewer is joined with train and cut anew
AS_FOUND = Reading()


class Layout(NamedTuple):
    """A way in which images and their labels lie in a folder.

    expected: what a user has to have, as a phrase
    matches: whether a folder, whose real path is given, is of this layout
    read: its images, with paths relative to it; `InputError` for what cannot be read
    """

    name: str
    expected: str
    matches: Callable[[Path, Reading], bool]
    read: Callable[[Path, Reading], Labelled]


def _has_table(root: Path, reading: Reading) -> bool:
    """Whether a folder's labels are those of a table in it.

    Beside class folders it is so where the table names half as many images or more, and where it
    names files but cannot be read: then the user must say what is meant.
    """
    if reading.labels is not None or not class_folders.matches(root):
        return tabular.matches(root, reading)
    if len(tabular.tables(root, reading)) != 1:
        return False
    try:
        named = sum(row.stamp is not None for row in tabular.read(root, reading).rows)
        own = len(class_folders.read(root).rows)
    except tabular.NotLabelsError:
        return False
    except InputError:
        return True
    return 2 * named >= own


def _read_table(root: Path, reading: Reading) -> Labelled:
    try:
        return tabular.read(root, reading)
    except InputError as error:
        if reading.labels is not None or not class_folders.matches(root):
            raise
        raise InputError(f"{error}; or move it away: there are class folders beside it") from error


def _read_folders(root: Path, reading: Reading) -> Labelled:
    found = class_folders.read(root)
    beside = tuple(
        f"{name} is not read as labels: it names few of the images, or no classes; to read it "
        f"all the same: --labels {name}"
        for name in tabular.tables(root, reading)
    )
    return found._replace(warnings=(*found.warnings, *beside))


# The first that matches is taken.
LAYOUTS = (
    Layout(
        label_files.NAME,
        label_files.EXPECTED,
        lambda root, reading: (
            reading.labels is None and label_files.matches(root, class_folders.matches(root))
        ),
        lambda root, _: label_files.read(root, class_folders.matches(root)),
    ),
    Layout(
        tabular.NAME,
        tabular.EXPECTED,
        _has_table,
        _read_table,
    ),
    Layout(
        class_folders.NAME,
        class_folders.EXPECTED,
        lambda root, _: class_folders.matches(root),
        _read_folders,
    ),
)


def expected(layouts: Sequence[Layout] = LAYOUTS) -> str:
    """Return which layouts a data folder may have, for a message."""
    return f"expected {', or '.join(layout.expected for layout in layouts)}"


def all_layouts() -> tuple[Layout, ...]:
    """Return the layouts that are there, plug-ins first; `InputError` for one that is none."""
    own = []
    for name, plugin in installed(PLUGINS).items():
        layout = load(plugin, Layout)
        if layout.name != name or name in {known.name for known in LAYOUTS}:
            raise InputError(
                f"the entry point {name!r} of {PLUGINS} must have the name of its layout "
                f"({layout.name!r}) and of no other; mend the package that has it"
            )
        own.append(layout._replace(matches=_matching(layout), read=_reading(layout)))
    return (*own, *LAYOUTS)


def _matching(layout: Layout) -> Callable[[Path, Reading], bool]:
    def matches(root: Path, reading: Reading) -> bool:
        try:
            return bool(layout.matches(root, reading))
        except (OSError, MemoryError, InputError):
            raise
        except Exception as error:  # whatever another's code may raise
            raise _failed(layout, root, reason(error)) from error

    return matches


def _reading(layout: Layout) -> Callable[[Path, Reading], Labelled]:
    def read(root: Path, reading: Reading) -> Labelled:
        try:
            found = layout.read(root, reading)
        except (OSError, MemoryError, InputError):
            raise
        except Exception as error:  # whatever another's code may raise
            raise _failed(layout, root, reason(error)) from error
        if not isinstance(found, Labelled):
            raise _failed(layout, root, f"it returns no {Labelled.__module__}.Labelled")
        for row in found.rows:
            if not isinstance(row, Row) or row.split not in SPLITS:
                raise _failed(layout, root, f"it is no Row of {', '.join(SPLITS)}: {shown(row)}")
            if os.path.isabs(row.path) or ".." in Path(row.path).parts:
                raise _failed(layout, root, f"{shown(row.path)} lies outside of the folder")
        return found

    return read


def _failed(layout: Layout, root: Path, why: str) -> InputError:
    return InputError(
        f"the layout {layout.name!r} cannot read {root} ({why}); mend the package that has it"
    )


def read_table(folder: Path, reading: Reading = AS_FOUND) -> Table:
    """Read a data folder, whatever its layout.

    Generated images alone need no test. Raises `InputError` for a folder of no known layout,
    whatever its layout's reader refuses, fewer than two classes, and a class without a file in
    train.
    """
    layouts = all_layouts()
    known = expected(layouts)
    if not os.path.isdir(folder):  # False, too, for what can be no path at all
        raise InputError(f"there is no data folder {shown(str(folder))}; {known}")
    root = Path(os.path.realpath(folder))
    try:
        layout = _layout(root, reading, layouts)
        if layout is None:
            raise InputError(f"{folder} holds no labelled images{_nearby(root, layouts)}; {known}")
        _check_reading(layout, reading, folder)
        found = layout.read(root, reading)
    except PermissionError as error:
        raise InputError(f"may not read {error.filename}; change its permissions") from error
    if not found.rows:
        raise InputError(f"{folder} holds no labelled images{_nearby(root, layouts)}; {known}")
    table = _table(root, layout.name, found, reading)
    if len(table.classes) < 2:
        raise InputError(
            f"{folder}, read as {layout.name}, has the one class {table.classes[0]!r}; a search "
            f"needs two or more; {known}"
        )
    there = [row for row in table.rows if row.stamp]
    test = any(row.split == TEST for row in table.rows)
    require_every_class(table.classes, there, lambda own: why_absent(table, own), test=test)
    return table


def _check_reading(layout: Layout, reading: Reading, folder: Path) -> None:
    """Raise `InputError` for columns that are named of a folder whose labels are in no table."""
    named = {"--file-column": reading.file_column, "--label-column": reading.label_column}
    flags = [flag for flag, column in named.items() if column is not None]
    if flags and layout.name in (label_files.NAME, class_folders.NAME):
        raise InputError(
            f"{' and '.join(flags)} name columns of a table, but {folder} is read as "
            f"{layout.name}; leave them out, or name the table with --labels FILE"
        )


def _layout(root: Path, reading: Reading, layouts: Sequence[Layout]) -> Layout | None:
    return next((layout for layout in layouts if layout.matches(root, reading)), None)


def _nearby(root: Path, layouts: Sequence[Layout]) -> str:
    """Name a folder that may be meant, inside a folder or around it."""
    inside = [root / name for name in sorted(os.listdir(root)) if not is_hidden(name)]
    for folder in (*inside, root.parent):
        if os.path.isdir(folder) and _layout(folder, AS_FOUND, layouts):
            return f", but {shown(str(folder))} does; give that"
    return ""


def _table(root: Path, layout: str, found: Labelled, reading: Reading) -> Table:
    rows, warnings = found.rows, list(found.warnings)
    if reading.patient_pattern is not None or not found.patients:
        real = [row for row in rows if row.source != GENERATED]
        named, how = name_patients(real, reading.patient_pattern)
        following = iter(named)
        rows = [row if row.source == GENERATED else next(following) for row in rows]
        warnings.append(how)
    rows, joined = _join_small_validation(rows)
    return Table(
        root,
        layout,
        classes_of(rows),
        tuple(rows),
        found.label_files,
        found.mends,
        (*warnings, *joined),
    )


def _join_small_validation(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Count validation images as train's where a class has too few patients to be measured on."""
    own = [row for row in rows if row.split == VALIDATION]
    if not own:
        return rows, []
    patients = _patients([row for row in own if row.stamp and row.source != GENERATED])
    fewest = min(patients[name] for name in classes_of(rows))
    if fewest >= FEW_PATIENTS:
        return rows, [f"validation is the folder's own: {len(own):,} images"]
    joined = [replace(row, split=TRAIN) if row.split == VALIDATION else row for row in rows]
    return joined, [
        f"the folder's own validation is too small (fewest patients of a class: {fewest}): its "
        f"{len(own):,} images are joined with train, and validation is cut from both by patient"
    ]


def _patients(rows: Collection[Row]) -> Counter[str]:
    """Return the number of patients of each class."""
    return Counter(name for name, _ in {(row.class_name, row.patient) for row in rows})
