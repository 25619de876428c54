"""The look at the test images: recorded before it happens, and counted.

runs/<study>/test-touches.jsonl   one line per pick or study that looked: when, for which weights,
why
"""

import time
from pathlib import Path

from pydantic import ValidationError

from acgan.errors import InputError
from acgan.files import Stored, replace_text
from search.study.folder import Study
from search.study.store.study_copy import StudyCopy


class Touch(Stored):
    """One look at a study's test images, as it stands in the ledger."""

    time: float
    pick: str
    weights: list[str]
    reason: str


def looks_path(study: Study) -> Path:
    """Return the study's ledger of looks at its test images."""
    return study.path / "test-touches.jsonl"


def touches(study: Study) -> list[Touch]:
    """Return the looks at the test images, the first one first; `InputError` if it is damaged."""
    path = looks_path(study)
    try:
        return [Touch.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return []
    except ValidationError as error:
        raise InputError(
            f"{path} is damaged; restore it: it counts looks at test images"
        ) from error


def record(study: Study, *, pick: str, weights: list[str], reason: str) -> int:
    """Enter a pick's look into the ledger, before it happens; return which one it is, from 1.

    A pick that was interrupted meanwhile and goes on has looked once.
    """
    there = touches(study)
    for number, touch in enumerate(there, start=1):
        if touch.pick == pick:
            return number
    touch = Touch(time=time.time(), pick=pick, weights=weights, reason=reason)
    lines = [known.model_dump_json() + "\n" for known in (*there, touch)]
    replace_text(looks_path(study), "".join(lines))
    if (own := StudyCopy.of(study.path)) is not None:
        own.send(looks_path(study).name)
    return len(lines)
