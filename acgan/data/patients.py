"""Which patient an image is of, where only its file's name tells.

Images of one patient must not be on both sides of a split: a CNN would be tested on patients that
it has seen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

from acgan.data.table import Row
from acgan.errors import InputError

KNOWN = {
    "ChestX-ray14's": re.compile(r"(\d{8})_\d{3}\.\w+"),
    "Kermany's": re.compile(
        r"(person\d+(?=_)|(?:NORMAL2-)?IM-\d+(?=-)|(?:BACTERIA|VIRUS|NORMAL)-\d+(?=-)).*",
        re.IGNORECASE,
    ),
}


def name_patients(rows: Sequence[Row], pattern: str | None) -> tuple[list[Row], str]:
    """Return rows whose patients are read from file names, and a sentence on how.

    pattern: a regular expression with one group, searched for in a file's name; None: a known one
    where it fits all names. An image whose name it does not fit stays a patient of its own.
    Raises `InputError` for a pattern that is none, or fits no name.
    """
    if pattern is not None:
        return _by_pattern(rows, _compiled(pattern), pattern)
    for whose, known in KNOWN.items():
        found = [known.fullmatch(os.path.basename(row.path)) for row in rows]
        if found and all(found):
            named = [
                replace(row, patient=match[1])
                for row, match in zip(rows, found, strict=True)
                if match
            ]
            return named, f"patients are read from the file names, which are {whose}"
    return list(rows), (
        "nothing names the patients: every image counts as a patient of its own, and one patient's "
        "images may be on both sides of a split (--patient-pattern reads patients from file names)"
    )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--patient-pattern {pattern!r} is no pattern: {error}") from error
    if compiled.groups != 1:
        raise InputError(
            f"--patient-pattern {pattern!r} must have one group, the patient: such as '^([^_]+)_'"
        )
    return compiled


def _by_pattern(
    rows: Sequence[Row], compiled: re.Pattern[str], pattern: str
) -> tuple[list[Row], str]:
    found = [compiled.search(os.path.basename(row.path)) for row in rows]
    named = [
        replace(row, patient=match[1]) if match and match[1] else row
        for row, match in zip(rows, found, strict=True)
    ]
    without = sum(not (match and match[1]) for match in found)
    if without == len(rows):
        name = os.path.basename(rows[0].path) if rows else ""
        raise InputError(f"--patient-pattern {pattern!r} fits no file name, such as {name!r}")
    others = f"; {without:,} names do not fit, each a patient of its own" if without else ""
    return named, f"patients are read from the file names by {pattern!r}{others}"
