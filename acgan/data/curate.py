"""Which images of a data folder are used for what, and why the others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from acgan.data import split
from acgan.data.decode import Facts
from acgan.data.table import GENERATED, Row, Table, require_every_class


class Use(StrEnum):
    """What an image is used for, or why it is left out."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    BLANK = "blank"
    DUPLICATE = "duplicate by content"
    PATIENT_IN_TEST = "patient also in test"
    PATIENT_IN_VALIDATION = "patient also in validation"
    GENERATED = "generated"


TEST_FRACTION = 0.15  # of patients, where a folder has no test
LITTLE_OVERLAP = 0.2  # of sources between classes: below it, a warning
SPLITS = (Use.TRAIN, Use.VALIDATION, Use.TEST)
LEFT_OUT = (
    Use.MISSING,
    Use.UNREADABLE,
    Use.BLANK,
    Use.DUPLICATE,
    Use.PATIENT_IN_TEST,
    Use.PATIENT_IN_VALIDATION,
    Use.GENERATED,
)


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

    Left out are missing and unreadable files; blank images, unless they are generated; generated
    images beside real ones, so that a folder that was filled up is what it was before; of files
    with identical content all but one (of test, then validation, then train, the first); and
    images of patients that test has, or validation. A test and a validation that the folder does
    not have are then cut from train by patient, where patients with identical or near-duplicate
    images are one. Raises `InputError` where a class has too few images or patients left.
    """
    rows = table.rows
    uses, notes = _readable(rows, facts)
    _leave_out_generated(rows, uses)
    same = _leave_out_duplicates(rows, facts, uses, notes)
    _leave_out_patients(rows, uses, notes)
    require_every_class(
        table.classes,
        [rows[i] for i, use in enumerate(uses) if use in SPLITS],
        lambda own: _why_left_out([i for i, row in enumerate(rows) if own(row)], rows, uses, notes),
        test=any(row.split == Use.TEST for row in rows),
    )
    near = _near(rows, facts, uses)
    alike = [*near, *same]
    warnings = [*_cut_test(table, uses, alike, seed=split_seed)]
    warnings += _table_warnings(table, uses, alike)
    warnings += _cut_validation(table, uses, alike, seed=split_seed, fraction=val_fraction)
    return Curated(table, tuple(uses), notes, near, tuple(warnings))


def _readable(rows: Sequence[Row], facts: Sequence[Facts]) -> tuple[list[Use], dict[int, str]]:
    uses, notes = [], {}
    for index, (row, fact) in enumerate(zip(rows, facts, strict=True)):
        uses.append(Use(row.split))
        if fact.problem:
            uses[index] = Use.MISSING if row.stamp is None else Use.UNREADABLE
            notes[index] = fact.problem
        elif fact.blank and row.source != GENERATED:  # a poor generator's are what it made
            uses[index], notes[index] = Use.BLANK, fact.blank
    return uses, notes


def _why_left_out(
    indices: Sequence[int], rows: Sequence[Row], uses: Sequence[Use], notes: dict[int, str]
) -> str:
    """Say why none of some rows is used, with the first that has a note."""
    counts = Counter(uses[index] for index in indices)
    reasons = ", ".join(f"{count:,} {use}" for use, count in counts.most_common())
    first = next((f"; the first: {rows[i].path!r} ({notes[i]})" for i in indices if i in notes), "")
    return f"left out: {reasons}{first}" if indices else ""


def _leave_out_generated(rows: Sequence[Row], uses: list[Use]) -> None:
    used = [index for index, use in enumerate(uses) if use in SPLITS]
    made = [index for index in used if rows[index].source == GENERATED]
    if len(made) < len(used):
        for index in made:
            uses[index] = Use.GENERATED


def _leave_out_patients(rows: Sequence[Row], uses: list[Use], notes: dict[int, str]) -> None:
    """Leave out images of patients that a split has which is looked at later."""
    for kept, left_out, others in (
        (Use.TEST, Use.PATIENT_IN_TEST, (Use.TRAIN, Use.VALIDATION)),
        (Use.VALIDATION, Use.PATIENT_IN_VALIDATION, (Use.TRAIN,)),
    ):
        there = {rows[i].patient for i, use in enumerate(uses) if use == kept}
        for index, row in enumerate(rows):
            if uses[index] in others and row.patient in there:
                uses[index] = left_out
                notes[index] = f"patient {row.patient!r}"


def _leave_out_duplicates(
    rows: Sequence[Row], facts: Sequence[Facts], uses: list[Use], notes: dict[int, str]
) -> list[tuple[int, int]]:
    """Return the pairs of different patients with the same image: the kept one, one left out."""
    kept: dict[str, int] = {}
    pairs = []
    for use in (Use.TEST, Use.VALIDATION, Use.TRAIN):
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


def _cut_test(
    table: Table, uses: list[Use], alike: Collection[tuple[int, int]], *, seed: int
) -> Iterator[str]:
    """Turn patients' images from train to test where the folder has no test; yield a warning."""
    used = [row for row, use in zip(table.rows, uses, strict=True) if use in SPLITS]
    if any(row.split == Use.TEST for row in table.rows) or used[0].source == GENERATED:
        return
    chosen, groups = _chosen(table, uses, alike, Use.TEST, seed=seed, fraction=TEST_FRACTION)
    yield (
        f"the folder has no test: {len(chosen):,} images of {len(set(groups)):,} patients, "
        f"{TEST_FRACTION:.0%} of each class's patients, are set apart as test "
        "(--split-seed draws others)"
    )


def _cut_validation(
    table: Table,
    uses: list[Use],
    alike: Collection[tuple[int, int]],
    *,
    seed: int,
    fraction: float | None,
) -> tuple[str, ...]:
    """Turn patients' images from train to validation, unless there are some; return warnings."""
    chosen = [index for index, use in enumerate(uses) if use == Use.VALIDATION]
    groups = [table.rows[index].patient for index in chosen]
    if not chosen:
        chosen, groups = _chosen(table, uses, alike, Use.VALIDATION, seed=seed, fraction=fraction)
    labels = np.array([table.classes.index(table.rows[i].class_name) for i in chosen])
    return split.validation_warnings(labels, groups, classes=table.classes)


def _chosen(
    table: Table,
    uses: list[Use],
    alike: Collection[tuple[int, int]],
    use: Use,
    *,
    seed: int,
    fraction: float | None,
) -> tuple[list[int], list[str]]:
    """Turn some patients' images from train to another use; return their rows and patients.

    Patients with images that are alike are one.
    """
    train = [index for index, own in enumerate(uses) if own == Use.TRAIN]
    left_out = [index for index, own in enumerate(uses) if own == Use.DUPLICATE]
    place = {index: position for position, index in enumerate([*train, *left_out])}
    labels = np.array([table.classes.index(table.rows[i].class_name) for i in train])
    groups = split.group_patients(
        [table.rows[i].patient for i in place],
        [(place[a], place[b]) for a, b in alike if a in place and b in place],
    )[: len(train)]
    chosen = split.cut(
        labels, groups, classes=table.classes, what=use.value, seed=seed, fraction=fraction
    ).tolist()
    for index, own in zip(train, chosen, strict=True):
        if own:
            uses[index] = use
    return (
        [index for index, own in zip(train, chosen, strict=True) if own],
        [group for group, own in zip(groups, chosen, strict=True) if own],
    )


def _table_warnings(
    table: Table, uses: Sequence[Use], alike: Collection[tuple[int, int]]
) -> Iterator[str]:
    yield from map(str, table.mends)
    yield from table.warnings
    tested = {r.class_name for r, use in zip(table.rows, uses, strict=True) if use == Use.TEST}
    if untested := [name for name in table.classes if name not in tested]:
        yield f"test has no image of {', '.join(untested)}"
    used = [row for row, use in zip(table.rows, uses, strict=True) if use != Use.GENERATED]
    shares = {name: _source_overlap(used, name) for name in table.classes}
    apart = [f"{name} {share:.0%}" for name, share in shares.items() if share < LITTLE_OVERLAP]
    if apart:
        yield (
            f"sources are hardly shared with the other classes ({', '.join(apart)}): a score may "
            "measure the hospital instead of the disease"
        )
    for use in (Use.TEST, Use.VALIDATION):  # the folder's own: one that is cut is not cut yet
        across = sum((uses[a] == use) != (uses[b] == use) for a, b in alike)
        if across:
            pairs = "1 pair" if across == 1 else f"{across} pairs"
            yield (
                f"train and {use} share identical or near-duplicate images ({pairs} of different "
                "patients)"
            )
        alike = [(a, b) for a, b in alike if use not in (uses[a], uses[b])]


def _source_overlap(rows: Sequence[Row], class_name: str) -> float:
    """Return how alike the sources of a class and of all others are: 0 disjoint, 1 the same mix."""
    own = Counter(row.source for row in rows if row.class_name == class_name)
    others = Counter(row.source for row in rows if row.class_name != class_name)
    return sum(min(own[s] / own.total(), others[s] / others.total()) for s in own)
