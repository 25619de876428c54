"""Whether a pick's winner becomes the champion of the registry: pure functions of picks.

It does not where anything speaks against using it (`selection.steps.objections`), or where the
present champion was better on the same test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from selection.ledgers.reviews import Look
from selection.metrics.intervals import difference
from selection.metrics.wording import interval_text
from selection.steps.objections import objections
from selection.steps.result import Difference, LookAtTest, Pick, as_shares
from selection.steps.scores import BALANCED

PROTOCOL = ("cnn_images", "cnn_epochs", "cnn_batch_size", "cnn_learning_rate")


@dataclass(frozen=True)
class Champion:
    """The registry's present champion.

    pick: the one that it is of; None where MLflow has none that can be read
    rejected: by a person who looked at it in the study that is picked from
    """

    version: str
    weights: str
    pick: Pick | None
    rejected: bool = False


@dataclass(frozen=True)
class Verdict:
    """What speaks against making a winner the champion ("": nothing), and what was compared."""

    against: str
    compared: str = ""


def judge_promotion(pick: Pick, champion: Champion | None, looks: Sequence[Look] = ()) -> Verdict:
    """Return whether a pick's winner is to become the champion.

    champion: the present one; looks: who looked at what by now
    """
    reasons = [objection.reason for objection in objections(pick, looks)]
    compared, worse = _compared(pick, champion)
    if worse and champion is not None:
        reasons.append(f"the champion (version {champion.version}) is better on the test images")
    return Verdict(" and ".join(reasons), compared)


def _compared(pick: Pick, champion: Champion | None) -> tuple[str, bool]:
    """Return what was compared with the champion, in a sentence, and whether the winner is worse.

    Worse: the interval of the difference, paired by patient, lies below 0. Of a champion of an
    earlier version no answers are known: then the two intervals must lie apart.
    """
    if champion is None or champion.weights == pick.winner.weights:
        return "", False
    who = f"the champion so far (version {champion.version})"
    rejected = "a person rejected its images" if champion.rejected else ""
    if reason := rejected or incomparable(pick, champion.pick):
        return f"not compared with {who}: {reason}", False
    assert pick.test is not None  # they are comparable
    assert champion.pick is not None
    assert champion.pick.test is not None
    where = f"against {who} on the same {pick.test.images} test images"
    own, other = pick.test, champion.pick.test
    if own.real is not None and own.real == other.real:
        paired = difference(as_shares(own.hits), as_shares(other.hits), own.real)
        assert paired is not None  # there are images
        what = f"difference in {BALANCED} {interval_text(paired, 3)}, paired by patient"
        return f"{where}: {what}", paired.high < 0
    score, its = _balanced(own).winner, _balanced(other).winner
    what = f"{interval_text(score)} and {interval_text(its)}"
    reason = "its answers are not stored, only its interval"
    return f"{where}: {BALANCED} {what}; {reason}", score.high < its.low


def incomparable(pick: Pick, other: Pick | None) -> str:
    """Return why two winners' scores on test images cannot be compared, "" if they can."""
    if other is None:
        return "its pick cannot be read in MLflow"
    if pick.test is None:
        return "the test images were not looked at"
    if other.test is None:
        return "it was not measured on test images"
    if other.fingerprint != pick.fingerprint:
        return "it was measured on other images"
    for name in PROTOCOL:
        if other.settings.get(name) != pick.settings[name]:
            return f"its CNNs were trained with another {name}"
    return ""


def _balanced(test: LookAtTest) -> Difference:
    return next(row for row in test.rows if row.name == BALANCED)
