"""The first screen of a pick's report: its score beside what it is measured by, and what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selection.ledgers.reviews import Look
from selection.metrics.estimate import Estimate
from selection.metrics.wording import counted
from selection.steps.objections import objections
from selection.steps.result import LookAtTest, Pick


@dataclass(frozen=True)
class Line:
    """A number with its interval that is drawn as a dot and a bar.

    kind: whose it is: "picked", "baseline", "real", "other"; exact: it has no interval
    """

    name: str
    estimate: Estimate | None
    kind: str
    note: str = ""
    exact: bool = False


def on_scale(value: float, low: float, high: float) -> str:
    """Return where a value lies between low (0) and high (100), within both, for a style sheet."""
    return f"{min(max(100 * (value - low) / (high - low), 0.0), 100.0):.2f}"


@dataclass(frozen=True)
class Scores:
    """Balanced accuracies of CNNs, what they were trained on, and the images they were scored on.

    where: `178 test images`; optimistic: the winner was picked on these images
    """

    where: str
    optimistic: bool
    lines: list[Line]
    chance: float


def first_scores(pick: Pick) -> Scores:
    """Return the winner's score beside chance, the baseline's and that of real images.

    They are those on test images; where these were not touched, those on validation images.
    """
    chance = 1 / len(pick.classes)
    constant = Estimate(value=chance, low=chance, high=chance)
    test = pick.test if pick.test and pick.test.rows else None
    lines = list(_on_test(pick, test) if test else _on_validation(pick))
    lines.append(Line("chance", constant, "other", exact=True))
    images = counted(test.images, "test image") if test else ""
    where = images or counted(len(pick.validation.labels), "validation image")
    return Scores(where, test is None, lines, chance)


def _on_test(pick: Pick, test: LookAtTest) -> Iterator[Line]:
    row = test.rows[0]
    yield _winner(pick, row.winner)
    if row.baseline is not None:
        yield Line("the baseline's images", row.baseline, "baseline")
    if test.ceiling is not None:
        yield Line("real images", test.ceiling, "real")
    else:  # a pick of an earlier version
        yield Line("real images", pick.ceiling.balanced_accuracy, "real", "on validation images")


def _on_validation(pick: Pick) -> Iterator[Line]:
    utility = pick.winner.utility
    yield _winner(pick, utility.balanced_accuracy if utility else None)
    if pick.against_baseline is not None:
        yield Line("the baseline's images", pick.against_baseline.baseline, "baseline")
    yield Line("real images", pick.ceiling.balanced_accuracy, "real")


def _winner(pick: Pick, score: Estimate | None) -> Line:
    note = "the baseline's own best epoch" if pick.winner.baseline else ""
    return Line("the picked generator's images", score, "picked", note)


@dataclass(frozen=True)
class Advice:
    """What to do with a winner: a sentence, and a command, "" for none.

    usable: nothing speaks against trying its images
    """

    sentence: str
    command: str = ""
    usable: bool = False


def advice(pick: Pick, looks: Sequence[Look]) -> Advice:
    """Return what to do with the winner; what speaks most against it comes first."""
    if against := objections(pick, looks):
        return Advice(against[0].advice)
    seen = any(look.weights == pick.winner.weights for look in looks)
    look = "" if seen else "Look at its images; then ask"
    return Advice(
        f"{look or 'Ask'} whether they help a classifier beside real images:",
        f"python -m selection.study {pick.flags} --pick {pick.id} --test",
        usable=True,
    )
