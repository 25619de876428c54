"""What speaks against using a pick's winner: one rule, which all that tell of a pick retell."""

from collections.abc import Sequence
from dataclasses import dataclass

from acgan.evaluation.variety import ONE_PICTURE
from selection.ledgers.reviews import Look
from selection.metrics.wording import counted
from selection.steps.result import Pick

SEARCH_ON = "Search with more epochs or trials, and pick again."


@dataclass(frozen=True)
class Objection:
    """One thing that speaks against using a winner.

    reason: what is the matter, as it stands after "because"; advice: what to do about it
    """

    reason: str
    advice: str


def objections(pick: Pick, looks: Sequence[Look]) -> list[Objection]:
    """Return what speaks against using the winner, what weighs most first; nothing: it may be used.

    looks: who looked at what by now
    """
    found = []
    own = (look for look in looks if look.weights == pick.winner.weights)
    if any(look.decision == "rejected" for look in own):
        reason = "a person rejected its images"
        found.append(Objection(reason, f"Do not use it: {reason}. Pick again; it will be out."))
    if pick.decision.memorisation_failed:
        reason = "its images may show patients of the training set"
        advice = (
            "Do not share its images: they may show patients of the training set. Judge the "
            "closest pairs first."
        )
        found.append(Objection(reason, advice))
    if pick.one_picture:
        advice = f"Do not use it: its images of a class hardly differ. {SEARCH_ON}"
        found.append(Objection(f"its images are {ONE_PICTURE}", advice))
    if pick.at_chance:
        advice = f"Do not use it: its images teach a CNN nothing yet. {SEARCH_ON}"
        found.append(Objection("its images teach a CNN no more than chance", advice))
    if pick.test is not None and pick.at_chance_on_test:
        where = counted(pick.test.images, "test image")
        reason = f"on {where} its score is not told from chance"
        found.append(Objection(reason, f"Do not use it yet: {reason}. {SEARCH_ON}"))
    return found
