"""The look at the test images: recorded before it happens, and counted.

runs/<study>/test-touches.jsonl   one line a pick or study that looked: when, for which weights, why
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from acgan.errors import InputError
from acgan.files import replace_text
from search.study import Study
from selection.intervals import Measure, difference, interval
from selection.result import Difference, Images, as_shares
from selection.work import Touched


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


def rows(winner: Touched, baseline: Touched | None, classes: Sequence[str]) -> list[Difference]:
    """Return the scores on the test images: overall, of each class, and of each source.

    baseline: None where the winner is the baseline's best epoch, or there is none
    """
    measures: dict[str, Measure] = {
        "balanced accuracy": "balanced_accuracy",
        "accuracy": "accuracy",
        **{f"recall of {name}": label for label, name in enumerate(classes)},
    }
    found = [_row(winner, baseline, name, measure) for name, measure in measures.items()]
    for source in sorted(set(winner.sources)):
        places = [i for i, own in enumerate(winner.sources) if own == source]
        part, other = _only(winner, places), baseline and _only(baseline, places)
        name = f"accuracy on {len(places)} images of source {source}"
        found.append(_row(part, other, name, "accuracy"))
    return [row for row in found if row is not None]


def _row(
    winner: Touched, baseline: Touched | None, name: str, measure: Measure
) -> Difference | None:
    own = as_shares(winner.hits)
    value = interval(own, winner.images, measure)
    if value is None:
        return None
    if baseline is None:
        return Difference(name=name, winner=value)
    other = as_shares(baseline.hits)
    return Difference(
        name=name,
        winner=value,
        baseline=interval(other, winner.images, measure),
        difference=difference(own, other, winner.images, measure),
    )


def _only(seen: Touched, places: Sequence[int]) -> Touched:
    """Return what was seen of the images at these places."""
    images = Images(
        labels=[seen.images.labels[i] for i in places],
        patients=[seen.images.patients[i] for i in places],
    )
    hits = ["".join(row[i] for i in places) for row in seen.hits]
    return seen.model_copy(update={"images": images, "hits": hits})
