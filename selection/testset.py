"""The look at the test images: recorded before it happens, and counted.

runs/<study>/test-touches.jsonl   one line a pick or study that looked: when, for which weights, why
"""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from acgan.errors import InputError
from acgan.files import replace_text
from search.study import Study


class Touch(BaseModel):
    """One look at a study's test images, as it stands in the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: float
    pick: str
    weights: list[str]
    reason: str


def ledger_path(study: Study) -> Path:
    """Return the study's ledger of looks at its test images."""
    return study.path / "test-touches.jsonl"


def touches(study: Study) -> list[Touch]:
    """Return the looks at the study's test images, the first one first.

    Raises `InputError` for a ledger that is damaged.
    """
    path = ledger_path(study)
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
    replace_text(ledger_path(study), "".join(lines))
    return len(lines)
