"""What a data folder holds, and which of its images are used for what.

    python -m acgan.covidx DIR

prints the report of a folder in the COVIDx or the class-folder layout (see `acgan.labels`).
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from acgan import split
from acgan.command import command, command_parser, run_command
from acgan.config import TrainConfig, add_flags, resolve
from acgan.decode import Facts, examine_all
from acgan.labels import GENERATED, Row, Table, read_table, require_every_class


class Use(StrEnum):
    """What an image is used for, or why it is left out."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    DUPLICATE = "duplicate by content"
    PATIENT_IN_TEST = "patient also in test"
    GENERATED = "generated"


LITTLE_OVERLAP = 0.2  # of sources between classes: below it, a warning
SPLITS = (Use.TRAIN, Use.VALIDATION, Use.TEST)
LEFT_OUT = (Use.MISSING, Use.UNREADABLE, Use.DUPLICATE, Use.PATIENT_IN_TEST, Use.GENERATED)


@dataclass(frozen=True)
class Curated:
    """A table with the use of each row.

    notes: row index → why it is left out. near: pairs of used rows that look the same but have
    different patients. warnings belong into every report on models of this data.
    """

    table: Table
    uses: tuple[Use, ...]
    notes: dict[int, str]
    near: tuple[tuple[int, int], ...]
    warnings: tuple[str, ...]

    def indices(self, use: Use) -> list[int]:
        """Return the rows of one use, in the table's order."""
        return [index for index, own in enumerate(self.uses) if own == use]


def image_paths(table: Table) -> list[str]:
    """Return the path of each row's image file."""
    return [str(table.folder / row.path) for row in table.rows]


def curate(
    table: Table, facts: Sequence[Facts], *, split_seed: int, val_fraction: float | None
) -> Curated:
    """Decide the use of every image.

    Left out are missing and unreadable files; generated images beside real ones, so that a folder
    that was filled up is what it was before; of files with identical content all but one (test
    before train, then the first); and train images of patients that test has. The validation
    split is then cut from train by patient, where patients with identical or near-duplicate images
    are one.
    Raises `InputError` where a class has too few images or patients left.
    """
    rows = table.rows
    uses, notes = _readable(rows, facts)
    _leave_out_generated(rows, uses)
    same = _leave_out_duplicates(rows, facts, uses, notes)
    in_test = {rows[i].patient for i, use in enumerate(uses) if use == Use.TEST}
    for index, row in enumerate(rows):
        if uses[index] == Use.TRAIN and row.patient in in_test:
            uses[index] = Use.PATIENT_IN_TEST
            notes[index] = f"patient {row.patient!r}"
    require_every_class(table.classes, [rows[i] for i, use in enumerate(uses) if use in SPLITS])
    near = _near(rows, facts, uses)
    alike = [*near, *same]
    warnings = [*_table_warnings(table, uses, alike)]
    warnings += _cut(table, uses, alike, split_seed=split_seed, val_fraction=val_fraction)
    return Curated(table, tuple(uses), notes, near, tuple(warnings))


def _readable(rows: Sequence[Row], facts: Sequence[Facts]) -> tuple[list[Use], dict[int, str]]:
    uses, notes = [], {}
    for index, (row, fact) in enumerate(zip(rows, facts, strict=True)):
        uses.append(Use(row.split))
        if fact.problem:
            uses[index] = Use.MISSING if row.stamp is None else Use.UNREADABLE
            notes[index] = fact.problem
    return uses, notes


def _leave_out_generated(rows: Sequence[Row], uses: list[Use]) -> None:
    used = [index for index, use in enumerate(uses) if use in SPLITS]
    made = [index for index in used if rows[index].source == GENERATED]
    if len(made) < len(used):
        for index in made:
            uses[index] = Use.GENERATED


def _leave_out_duplicates(
    rows: Sequence[Row], facts: Sequence[Facts], uses: list[Use], notes: dict[int, str]
) -> list[tuple[int, int]]:
    """Return the pairs of different patients with the same image: the kept one, one left out."""
    kept: dict[str, int] = {}
    pairs = []
    for use in (Use.TEST, Use.TRAIN):
        for index in [i for i, own in enumerate(uses) if own == use]:
            first = kept.setdefault(facts[index].sha256, index)
            if first == index:
                continue
            uses[index] = Use.DUPLICATE
            notes[index] = f"same content as {rows[first].path!r}"
            if rows[first].class_name != rows[index].class_name:
                notes[index] += f", which is labelled {rows[first].class_name}"
            if rows[first].patient != rows[index].patient:
                notes[index] += f", of patient {rows[first].patient!r}"
                pairs.append((first, index))
    return pairs


def _near(
    rows: Sequence[Row], facts: Sequence[Facts], uses: Sequence[Use]
) -> tuple[tuple[int, int], ...]:
    """Return the pairs of different patients; all images of a poor generator look the same."""
    used = [i for i, use in enumerate(uses) if use in SPLITS and rows[i].source != GENERATED]
    hashes = np.frombuffer(b"".join(facts[i].near_hash for i in used), np.uint8)
    pairs = split.near_duplicates(hashes.reshape(-1, 64)).tolist()
    named = ((used[first], used[second]) for first, second in pairs)
    return tuple((a, b) for a, b in named if rows[a].patient != rows[b].patient)


def _cut(
    table: Table,
    uses: list[Use],
    alike: Collection[tuple[int, int]],
    *,
    split_seed: int,
    val_fraction: float | None,
) -> tuple[str, ...]:
    """Turn the use of validation patients' images from train to validation; return warnings."""
    train = [index for index, use in enumerate(uses) if use == Use.TRAIN]
    left_out = [index for index, use in enumerate(uses) if use == Use.DUPLICATE]
    place = {index: position for position, index in enumerate([*train, *left_out])}
    labels = np.array([table.classes.index(table.rows[i].class_name) for i in train])
    groups = split.group_patients(
        [table.rows[i].patient for i in place],
        [(place[a], place[b]) for a, b in alike if a in place and b in place],
    )[: len(train)]
    chosen = split.cut_validation(
        labels, groups, classes=table.classes, seed=split_seed, fraction=val_fraction
    )
    for index in np.array(train)[chosen].tolist():
        uses[index] = Use.VALIDATION
    members = [group for group, own in zip(groups, chosen, strict=True) if own]
    return split.validation_warnings(labels[chosen], members, classes=table.classes)


def _table_warnings(
    table: Table, uses: Sequence[Use], alike: Collection[tuple[int, int]]
) -> Iterator[str]:
    if not table.label_files:
        yield "class folders name no patients: every image counts as a patient of its own"
    tested = {r.class_name for r, use in zip(table.rows, uses, strict=True) if use == Use.TEST}
    for class_name in table.classes:
        if class_name not in tested:
            yield f"test has no image of {class_name}"
    used = [row for row, use in zip(table.rows, uses, strict=True) if use != Use.GENERATED]
    for class_name in table.classes:
        shared = _source_overlap(used, class_name)
        if shared < LITTLE_OVERLAP:
            yield (
                f"{class_name} and the other classes have {shared:.0%} of their sources in "
                "common: a score may measure the hospital instead of the disease"
            )
    across = sum(table.rows[a].split != table.rows[b].split for a, b in alike)
    if across:
        pairs = "1 pair" if across == 1 else f"{across} pairs"
        yield (
            f"train and test share identical or near-duplicate images ({pairs} of different "
            "patients)"
        )


def _source_overlap(rows: Sequence[Row], class_name: str) -> float:
    """Return how alike the sources of a class and of all others are: 0 disjoint, 1 the same mix."""
    own = Counter(row.source for row in rows if row.class_name == class_name)
    others = Counter(row.source for row in rows if row.class_name != class_name)
    return sum(min(own[s] / own.total(), others[s] / others.total()) for s in own)


def report(curated: Curated) -> Iterator[str]:
    """Yield the lines of the report: first each file of note, last the counts and warnings."""
    table = curated.table
    yield f"data folder: {table.folder} ({', '.join(table.label_files) or 'class folders'})"
    yield from _details(curated)
    yield ""
    yield "images by split, class and source, as labelled"
    yield from _counts(table.rows, table.classes, lambda row: row.split)
    yield ""
    yield "left out"
    for use in LEFT_OUT:
        yield f"  {use:<32}{len(curated.indices(use)):>8}"
    yield "of note"
    yield f"  {'near-duplicate pairs':<32}{len(curated.near):>8}"
    for what, patients in _shared_patients(table.rows).items():
        yield f"  {what:<32}{len(patients):>8}"
    yield ""
    yield "used"
    used = {id(table.rows[i]): use for use in SPLITS for i in curated.indices(use)}
    rows = [row for row in table.rows if id(row) in used]
    yield from _counts(rows, table.classes, lambda row: used[id(row)])
    for use in SPLITS:
        count = len({table.rows[i].patient for i in curated.indices(use)})
        yield f"  {use} patients: {count}"
    for warning in curated.warnings:
        yield f"warning: {warning}"


def _details(curated: Curated) -> Iterator[str]:
    rows = curated.table.rows
    for index, note in curated.notes.items():
        yield f"{curated.uses[index]}: {rows[index].path!r} ({note})"
    for first, second in curated.near:
        yield f"near-duplicates: {rows[first].path!r} and {rows[second].path!r}"
    for what, patients in _shared_patients(rows).items():
        for patient in patients:
            yield f"{what}: {patient!r}"


def _shared_patients(rows: Collection[Row]) -> dict[str, list[str]]:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits[row.patient].add(row.split)
        classes[row.patient].add(row.class_name)
    return {
        "patients in train and test": sorted(p for p in splits if len(splits[p]) > 1),
        "patients in several classes": sorted(p for p in classes if len(classes[p]) > 1),
    }


def _counts(
    rows: Collection[Row], classes: Sequence[str], split_of: Callable[[Row], str]
) -> Iterator[str]:
    """Yield one line a split and below it one a source, with a column a class."""
    yield "  " + " " * 16 + "".join(f"{name:>12}" for name in (*classes, "total"))
    for name in dict.fromkeys(split_of(row) for row in rows):
        own = [row for row in rows if split_of(row) == name]
        yield f"  {name:<16}" + _columns(Counter(row.class_name for row in own), classes)
        for source in sorted({row.source for row in own}):
            counts = Counter(row.class_name for row in own if row.source == source)
            yield f"    {source:<14}" + _columns(counts, classes)


def _columns(counts: Counter[str], classes: Sequence[str]) -> str:
    numbers = [counts[name] for name in classes]
    return "".join(f"{number:>12}" for number in (*numbers, sum(numbers)))


@command
def main(arguments: Sequence[str] | None) -> int:
    """Print the report of a data folder; return the exit code."""
    parser = command_parser(
        "acgan.covidx", "Report what a data folder holds and which images are used for what."
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with train/ and test/")
    others = TrainConfig.model_fields.keys() - {"split_seed", "val_fraction"}
    add_flags(parser, TrainConfig, "which patients are for validation", skip=others)
    options = parser.parse_args(arguments)
    return run_command(lambda: _report(options), resume="type the same command again")


def _report(options: argparse.Namespace) -> int:
    config = resolve(TrainConfig, "train", None, vars(options))
    table = read_table(options.folder)
    facts = [fact for fact, _ in examine_all(image_paths(table), image_size=16)]
    curated = curate(table, facts, split_seed=config.split_seed, val_fraction=config.val_fraction)
    print("\n".join(report(curated)))
    command = ["python", "-m", "search.run", "--config", "configs/covidx.yaml"]
    command += ["--data", str(options.folder), "--num-samples", "32"]
    for flag, value in (
        ("--split-seed", options.split_seed),
        ("--val-fraction", options.val_fraction),
    ):
        command += [flag, value] if value is not None else []
    print(f"next: {shlex.join([*command, '--dry-run'])}")
    return 0


if __name__ == "__main__":
    main()
