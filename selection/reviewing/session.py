"""One person's review under way: what the page may know, and what it asks to be done.

Images and finalists have random names, so neither the page nor an address says what they are.
Which finalist is which trial is told only when it is asked for, and that is written down.
"""

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from acgan.config import derive_seed
from acgan.evaluation.grids import as_colour, png, tile
from search.study.folder import Study
from selection.ledgers.reviews import (
    GENERATED,
    NOTE_LIMIT,
    REAL,
    Entry,
    Look,
    Quiz,
    ReviewDecision,
    Tally,
    add_review,
    looks,
    read_reviews,
)
from selection.metrics.estimate import Estimate
from selection.reviewing.quiz import (
    GRID_IMAGES,
    QuizQuestion,
    RealImages,
    draw_quiz,
    in_a_sentence,
    plain_png,
    score,
)

COLUMNS = 4  # of a grid: two rows of four images fit a phone's width

Reply = dict[str, Any]


class RefusedError(ValueError):
    """What the page asked for cannot be done; the text is for the person."""


@dataclass(frozen=True)
class Finalist:
    """One candidate that people are to look at.

    generated: by class, uint8 [N, 3, H, W], from the same latents for all finalists; the first
        eight are shown, the others are for quizzes
    facts: what is shown of it when it is asked for
    more: likewise by class; shown when they are asked for, and in no quiz
    """

    name: str
    weights: str
    generated: Mapping[int, NDArray[np.uint8]]
    facts: Mapping[str, str]
    more: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)

    def to_look_at(self, label: int) -> NDArray[np.uint8]:
        """Return the images of a class that are in no quiz."""
        first = self.generated[label][:GRID_IMAGES]
        return np.concatenate([first, self.more[label]]) if label in self.more else first


@dataclass
class _QuizUnderWay:
    finalist: Finalist
    questions: list[QuizQuestion]
    names: list[str]
    said: str = ""


class Session:
    """All that one start of the page knows; every method may be called by several threads.

    stored: called after each line that was added to the ledger
    """

    def __init__(
        self,
        study: Study,
        reviewer: str,
        finalists: Sequence[Finalist],
        real: RealImages,
        stored: Callable[[], None],
    ) -> None:
        self._study, self._reviewer, self._real_images = study, reviewer, real
        self._stored = stored
        self._lock = threading.RLock()
        self._images: dict[str, bytes] = {}
        self._seen: set[str] = set()
        self._quiz: _QuizUnderWay | None = None
        # The order of their hashes says nothing, and everybody has the same finalist as A.
        order = sorted(finalists, key=lambda own: own.weights)
        self._finalists = {_random_name(): own for own in order}
        self._grids = {
            name: [self._pages(own.to_look_at(label)) for label in sorted(own.generated)]
            for name, own in self._finalists.items()
        }
        pixels = real.images.images
        self._real_grids = [
            self._pages(as_colour(pixels[places])) for _, places in sorted(real.shown.items())
        ]

    def _pages(self, images: NDArray[np.uint8]) -> Reply:
        """Return how many images of a class there are, and the names of their grids of eight."""
        starts = range(0, max(len(images), 1), GRID_IMAGES)
        names = [self._add(_grid(images[start : start + GRID_IMAGES])) for start in starts]
        return {"count": len(images), "grids": names}

    def _add(self, content: bytes) -> str:
        name = _random_name()
        self._images[name] = content
        return name

    def image(self, name: str) -> bytes | None:
        """Return the PNG of this name."""
        return self._images.get(name)

    def state(self) -> Reply:
        """Return what the page shows before anything is asked for."""
        with self._lock:
            own = self._own()
            return {
                "study": self._study.info.name,
                "reviewer": self._reviewer,
                "classes": list(self._study.info.classes),
                "columns": COLUMNS,
                "note_limit": NOTE_LIMIT,
                "real": self._real_grids,
                "finalists": [
                    {
                        "id": name,
                        "label": _label(place),
                        "images": self._grids[name],
                        "decision": look.decision if (look := own.get(finalist.weights)) else "",
                        "note": look.note if look else "",
                    }
                    for place, (name, finalist) in enumerate(self._finalists.items())
                ],
            }

    def _own(self) -> dict[str, Look]:
        found = looks(read_reviews(self._study))
        return {look.weights: look for look in found if look.reviewer == self._reviewer}

    def look(self, finalist: str) -> Reply:
        """Write down that the reviewer looks at a finalist, once per start of the page."""
        with self._lock:
            own = self._finalist(finalist)
            if own.weights not in self._seen:
                self._write("looked", own)
                self._seen.add(own.weights)
            return {}

    def decide(self, finalist: str, decision: str, note: str = "") -> Reply:
        """Write down a decision, and why, in one line, if the reviewer says so."""
        with self._lock:
            own = self._finalist(finalist)
            if decision not in get_args(ReviewDecision):
                raise RefusedError("a decision is kept, rejected or undecided")
            note = " ".join(note.split())
            if len(note) > NOTE_LIMIT or not note.isprintable():
                raise RefusedError(f"a note has at most {NOTE_LIMIT} printable characters")
            self._write(decision, own, note=note)
            return {"decision": "" if decision == "undecided" else decision, "note": note}

    def reveal(self, finalist: str) -> Reply:
        """Return a finalist's trial and numbers; from then on its reviewer is not blind."""
        with self._lock:
            own = self._finalist(finalist)
            if not self._revealed(own):
                self._write("revealed", own)
            return {"name": own.name, "facts": dict(own.facts)}

    def _revealed(self, finalist: Finalist) -> bool:
        known = {(e.weights, e.reviewer, e.action) for e in read_reviews(self._study)}
        return (finalist.weights, self._reviewer, "revealed") in known

    def start_quiz(self, finalist: str) -> Reply:
        """Begin a quiz of a finalist; one that was under way leaves nothing."""
        with self._lock:
            own = self._finalist(finalist)
            self._forget_quiz()
            entries = read_reviews(self._study)
            quizzes = [e for e in entries if e.reviewer == self._reviewer and e.quiz is not None]
            questions = draw_quiz(
                self._real_images,
                own.generated,
                before=len(quizzes),
                of_this=sum(1 for entry in quizzes if entry.weights == own.weights),
                seed=derive_seed(self._study.info.uuid, own.weights, self._reviewer),
            )
            if not questions:
                raise RefusedError("you have judged all images that there are for quizzes")
            names = [self._add(plain_png(question.image)) for question in questions]
            self._quiz = _QuizUnderWay(own, questions, names)
            labels = self._study.info.classes
            return {
                "questions": [
                    {"id": name, "class": labels[question.label]}
                    for name, question in zip(names, questions, strict=True)
                ]
            }

    def _forget_quiz(self) -> None:
        for name in self._quiz.names if self._quiz else ():
            del self._images[name]
        self._quiz = None

    def answer(self, image: str, real: bool) -> Reply:
        """Take the answer to the question that is next; with the last one, say how it went."""
        with self._lock:
            quiz = self._quiz
            if quiz is None or image != quiz.names[len(quiz.said)]:
                raise RefusedError("this image is not the one to be judged now; begin a new quiz")
            quiz.said += REAL if real else GENERATED
            if len(quiz.said) < len(quiz.names):
                return {}
            truth = "".join(REAL if asked.real else GENERATED for asked in quiz.questions)
            said = quiz.said
            quiz.said = said[:-1]  # until it is written down
            done = Quiz(truth=truth, said=said)
            self._write("quiz", quiz.finalist, quiz=done)
            self._forget_quiz()
            return self._result(quiz.finalist, done)

    def _result(self, finalist: Finalist, done: Quiz) -> Reply:
        own = self._own()[finalist.weights]
        this = _told(done.taken_for_real(GENERATED), done.taken_for_real(REAL))
        judged = done.taken_for_real(GENERATED)[1]
        more = own.generated[1] > judged
        return {"this": this, "all": _told(own.generated, own.real) if more else None}

    def _finalist(self, name: str) -> Finalist:
        found = self._finalists.get(name)
        if found is None:
            raise RefusedError("there is no such candidate; load the page again")
        return found

    def _write(
        self, action: Any, finalist: Finalist, *, quiz: Quiz | None = None, note: str = ""
    ) -> None:
        entry = Entry(
            time=time.time(),
            reviewer=self._reviewer,
            action=action,
            candidate=finalist.name,
            weights=finalist.weights,
            blind=action == "revealed" or not self._revealed(finalist),
            quiz=quiz,
            note=note,
        )
        add_review(self._study, entry)
        self._stored()


def _random_name() -> str:
    return secrets.token_urlsafe(12)


def _grid(images: NDArray[np.uint8]) -> bytes:
    if not len(images):  # every patient of the class is shown for a rarer one
        images = np.full((1, *images.shape[1:]), 255, np.uint8)
    return png(tile(images, COLUMNS))


def _label(place: int) -> str:
    """Return A, B, …, Z, then AA, AB, … ."""
    letter = chr(ord("A") + place % 26)
    return letter if place < 26 else _label(place // 26 - 1) + letter


def _told(generated: Tally, real: Tally) -> Reply:
    found = score(generated, real)
    return {
        "generated": f"{generated[0]} of {generated[1]}: {_in_hundredths(found.fooling_rate, '%')}",
        "real": f"{real[0]} of {real[1]}: {_in_hundredths(found.real, '%')}",
        "apart": _in_hundredths(found.apart, "points"),
        "sentence": in_a_sentence(found),
    }


def _in_hundredths(estimate: Estimate, unit: str) -> str:
    value, low, high = (round(100 * v) for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} {unit} ({low} to {high} {unit})".replace("-", "\N{MINUS SIGN}")
