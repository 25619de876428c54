"""What people saw and decided: a study's ledger of looks at its finalists.

runs/<study>/reviews.jsonl   one line per look, a reveal, a decision and a quiz; lines are only
added

Candidates are known by their weights' SHA-256, people by the names that they gave.
"""

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from acgan.errors import InputError
from acgan.files import Stored
from search.study.folder import Study
from search.study.store.study_copy import StudyCopy

REAL, GENERATED = "R", "G"
NOTE_LIMIT = 500  # characters

ReviewDecision = Literal["kept", "rejected", "undecided"]
Review = Literal["", "kept", "rejected"]
Tally = tuple[int, int]
"""How many images were taken for real ones, and of how many."""


class Quiz(Stored):
    """One finished quiz: what each image was and was said to be, one letter an image."""

    truth: str = Field(pattern=f"^[{REAL}{GENERATED}]+$")
    said: str = Field(pattern=f"^[{REAL}{GENERATED}]+$")

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if len(self.truth) != len(self.said):
            raise ValueError("every image must have been judged once")
        return self

    def taken_for_real(self, kind: str) -> Tally:
        """Return how many images of a kind were taken for real, and how many there were."""
        said = [s for t, s in zip(self.truth, self.said, strict=True) if t == kind]
        return said.count(REAL), len(said)


class Entry(Stored):
    """One line of the ledger.

    action: "looked" at its images, "revealed": was shown its trial and numbers, a decision, or a
        "quiz"
    candidate: what it is called; weights: their SHA-256
    blind: the reviewer had not been shown the candidate's trial and numbers before
    note: why, in the reviewer's words, where a decision has one
    """

    time: float
    reviewer: str = Field(min_length=1)
    action: Literal["looked", "revealed", "quiz"] | ReviewDecision
    candidate: str
    weights: str = Field(pattern="^[0-9a-f]{64}$")
    blind: bool = True
    quiz: Quiz | None = None
    note: str = Field("", max_length=NOTE_LIMIT)


def reviews_path(study: Study) -> Path:
    """Return the study's ledger of looks at its finalists."""
    return study.path / "reviews.jsonl"


def read_reviews(study: Study) -> list[Entry]:
    """Return what people saw and decided, the first line first.

    A last line that a crash or a full disk tore was never confirmed to anybody and is left out.
    Raises `InputError` for a ledger that is damaged.
    """
    path = reviews_path(study)
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    try:
        return [Entry.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise InputError(f"{path} is damaged; restore it: it holds people's decisions") from error


def add_review(study: Study, entry: Entry) -> None:
    """Add a line, safely on the disk on return; several processes may do so at once."""
    path = reviews_path(study)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)  # behind the last whole line
        file.write(entry.model_dump_json(exclude_defaults=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if (own := StudyCopy.of(study.path)) is not None:
        own.send(path.name)


def check_writable(study: Study) -> None:
    """Raise `InputError` if the ledger could not be written, before anybody begins to look."""
    path = reviews_path(study)
    there = path if path.exists() else study.path
    if not os.access(there, os.W_OK):
        raise InputError(
            f"{there} cannot be written, and so no decision stored; see its permissions"
        )
    read_reviews(study)


@dataclass(frozen=True)
class Look:
    """What one person saw of one candidate and decided.

    decision: the last one, "" for none; blind: it was made without knowing trial and numbers
    note: that of the last decision
    generated, real: what the quizzes said
    """

    candidate: str
    weights: str
    reviewer: str
    first: float
    last: float
    decision: Review
    blind: bool
    generated: Tally
    real: Tally
    note: str = ""


def looks(entries: Sequence[Entry]) -> list[Look]:
    """Return who looked at what, one per person and candidate, the first look first."""
    own: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        own.setdefault((entry.weights, entry.reviewer), []).append(entry)
    return sorted(map(_look, own.values()), key=lambda look: look.first)


_STANDING: dict[str, Review] = {"kept": "kept", "rejected": "rejected"}


def _look(entries: Sequence[Entry]) -> Look:
    decided = [entry for entry in entries if entry.action in get_args(ReviewDecision)]
    last = decided[-1] if decided else entries[-1]
    quizzes = [entry.quiz for entry in entries if entry.quiz is not None]
    return Look(
        candidate=last.candidate,
        weights=last.weights,
        reviewer=last.reviewer,
        first=entries[0].time,
        last=entries[-1].time,
        decision=_STANDING.get(last.action, ""),
        blind=last.blind,
        generated=_total([quiz.taken_for_real(GENERATED) for quiz in quizzes]),
        real=_total([quiz.taken_for_real(REAL) for quiz in quizzes]),
        note=last.note,
    )


def _total(counts: Sequence[Tally]) -> Tally:
    return sum(taken for taken, _ in counts), sum(judged for _, judged in counts)


def review_standing(entries: Sequence[Entry]) -> dict[str, Review]:
    """Return what people's last decisions come to, by the weights' SHA-256.

    One rejection is enough to be out, whatever others say: it means unfit for use. Kept is what
    somebody kept and nobody rejected.
    """
    found: dict[str, Review] = {}
    for look in looks(entries):
        if look.decision and found.get(look.weights) != "rejected":
            found[look.weights] = look.decision
    return found


def moment(time_s: float) -> str:
    """Return a time in seconds since 1970 as `2026-11-24 11:40 UTC`."""
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M} UTC"


def of_weights(entries: Sequence[Entry], sha256: str) -> str:
    """Return what people say of these weights as one line, "" if nobody looked."""
    own = [look for look in looks(entries) if look.weights == sha256]
    return in_words(own) if own else ""


def in_words(own: Sequence[Look]) -> str:
    """Return what people say of one candidate as one line: `t0007, epoch 288: kept by anna, …`."""
    parts = []
    for look in own:
        how = f"{look.decision} by" if look.decision else "looked at by"
        seen = "" if look.blind or not look.decision else ", knowing its numbers"
        quiz = ""
        if look.generated[1]:
            quiz = f", took {look.generated[0]} of {look.generated[1]} generated images for real"
        note = f": “{look.note}”" if look.note else ""
        parts.append(f"{how} {look.reviewer} ({moment(look.last)}{seen}{quiz}){note}")
    return f"{own[0].candidate}: {'; '.join(parts)}"
