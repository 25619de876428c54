"""What a data folder holds, and which of its images are used for what.

    python -m acgan.covidx DIR

prints the report of a folder in any layout of `acgan.data.layouts`.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from acgan.command import command, command_parser, run_command, typed
from acgan.config import TrainConfig, add_flags, resolve, user_path
from acgan.data.curate import LEFT_OUT, SPLITS, Curated, curate, image_paths
from acgan.data.decode import examine_all, most_are_coloured
from acgan.data.layouts import read_table
from acgan.data.source import add_hints, named_source
from acgan.data.table import Row, Table, missing_files, unlabelled


def report(curated: Curated) -> Iterator[str]:
    """Yield the lines of the report: first each file of note, last the counts and warnings."""
    table = curated.table
    yield f"data folder: {table.folder} ({', '.join((table.layout, *table.label_files))})"
    yield from _details(curated)
    yield ""
    yield "images by split, class and source, as labelled"
    yield from _counts(table.rows, table.classes, lambda row: row.split)
    yield ""
    yield "left out"
    for use in LEFT_OUT:
        yield f"  {use:<32}{len(curated.indices(use)):>8}"
    yield from _beside_labels(table)
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
    for mend in curated.table.mends:
        yield f"{mend}, the first: {mend.named!r} is read as {mend.found!r}"
    for index, note in curated.notes.items():
        yield f"{curated.uses[index]}: {rows[index].path!r} ({note})"
    yield from _missing(curated.table)
    for first, second in curated.near:
        yield f"near-duplicates: {rows[first].path!r} and {rows[second].path!r}"
    for what, patients in _shared_patients(rows).items():
        for patient in patients:
            yield f"{what}: {patient!r}"


def _missing(table: Table) -> Iterator[str]:
    """Yield a line for each folder of which labels name missing files."""
    folders: defaultdict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        folder, inside, _ = row.path.partition("/")
        folders[folder if inside else "(at the top)"].append(row)
    for folder, rows in folders.items():
        if not all(row.stamp for row in rows):
            yield f"{folder}: {missing_files(table, rows)}"


def _beside_labels(table: Table) -> Iterator[str]:
    """Yield the count of files that are in no label, by folder."""
    found = unlabelled(table)
    if found:
        yield "in no label, by folder" if table.label_files else "in no class folder, by folder"
    for folder, count in sorted(found.items()):
        yield f"  {folder + '/' if folder else '(at the top)':<32}{count:>8}"


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
    """Yield one line a split and below it one a source, with a column per class."""
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
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of labelled images")
    add_hints(parser)
    others = TrainConfig.model_fields.keys() - {"split_seed", "val_fraction"}
    add_flags(parser, TrainConfig, "which patients are for validation", skip=others)
    options = parser.parse_args(arguments)
    return run_command(lambda: _report(options), resume="type the same command again")


def _report(options: argparse.Namespace) -> int:
    config = resolve(TrainConfig, "train", None, vars(options))
    source = named_source(vars(options) | {"data": str(options.folder)}, {})
    table = read_table(user_path(source.folder), source.reading)
    facts = [fact for fact, _ in examine_all(image_paths(table), image_size=16)]
    curated = curate(table, facts, split_seed=config.split_seed, val_fraction=config.val_fraction)
    print("\n".join(report(curated)))
    command = ["python", "-m", "search.run", "--config", "configs/small.yaml"]
    command += ["--data", str(options.folder), *source.flags(), "--num-samples", "8"]
    if most_are_coloured(facts):
        print("most images are in colour; the recipe generates grey ones without --no-grey")
        command += ["--no-grey"]
    for flag, value in (
        ("--split-seed", options.split_seed),
        ("--val-fraction", options.val_fraction),
    ):
        command += [flag, value] if value is not None else []
    print(f"next: {typed([*command, '--dry-run'])}")
    return 0


if __name__ == "__main__":
    main()
