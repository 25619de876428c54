"""What follows from a pick's numbers: who leaves, who is tied, who wins, and by which rule.

Everything here is a pure function of what stands in `pick.json`, so a decision can be made again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from acgan.evaluation.variety import ONE_PICTURE, is_one_picture
from selection.metrics.bootstrap import difference_interval
from selection.metrics.estimate import Estimate, Images
from selection.metrics.intervals import compare_with_best, interval
from selection.settings import SelectionConfig
from selection.steps.result import Candidate, Decision, Fidelity, Utility, as_shares

UNMEASURED = "highest step-2 score, because step 3 could measure none of the tie set"
ONLY_ONE = "only one left of the tie set"
ONLY_KEPT = "the only one of the tie set that a person kept"
KEPT = "kept by a person; of those: {rule}"
ONLY_VARIED = f"the only one of those left that is not {ONE_PICTURE}"
VARIED = f"not {ONE_PICTURE}; of those: {{rule}}"
LOWEST = "lowest mean {metric}"
HIGHER_SCORE = "highest step-2 score of those that the mean {metric} cannot tell apart"
EARLIER = "lower trial and epoch, because nothing else told them apart"


@dataclass(frozen=True)
class Race:
    """How step 2 stands after some rungs; candidates are named by their places.

    left_at: the rung (CNNs per candidate) at which a candidate left
    behind: how far each is behind the best of its last rung, with simultaneous intervals
    tied: those that are still in
    """

    left_at: dict[int, int]
    behind: dict[int, Estimate]
    tied: list[int]


def race(
    candidates: Sequence[Candidate], images: Images, settings: SelectionConfig, *, rungs: int
) -> Race:
    """Run the first `rungs` rungs of step 2.

    At each, a candidate leaves only if its interval tells it apart from the best. Those that could
    not be scored, or are there for comparison only, take no part.
    """
    running = [i for i, c in enumerate(candidates) if c.competes and not c.failed]
    left_at: dict[int, int] = {}
    behind: dict[int, Estimate] = {}
    for seeds in settings.cnn_seeds[:rungs] if running else ():
        shares = [as_shares(_hits(candidates[i])[:seeds]) for i in running]
        compared = compare_with_best(
            shares, images, rungs=len(settings.cnn_seeds), seed=settings.seed
        )
        behind |= dict(zip(running, compared.behind, strict=True))
        left_at |= {i: seeds for i, tied in zip(running, compared.tied, strict=True) if not tied}
        running = [i for i in running if i not in left_at]
    return Race(left_at, behind, running)


def utility(hits: list[str], images: Images) -> Utility:
    """Return how CNNs with these hits know the images, with intervals over patients and CNNs."""
    answers = as_shares(hits)
    classes = range(max(images.labels) + 1)
    return Utility(
        hits=hits,
        accuracy=_certain(interval(answers, images, "accuracy")),
        balanced_accuracy=_certain(interval(answers, images)),
        recall=[_certain(interval(answers, images, label)) for label in classes],
    )


def _certain(estimate: Estimate | None) -> Estimate:
    assert estimate is not None  # every class has images
    return estimate


def _hits(candidate: Candidate) -> list[str]:
    assert candidate.utility is not None  # it was scored
    return candidate.utility.hits


def decide(
    candidates: Sequence[Candidate], images: Images, settings: SelectionConfig
) -> Decision | None:
    """Pick the winner of candidates whose steps 2 and 3 are there; None if none was scored.

    Of the tie set those that passed the memorisation check are left, of these those that a person
    kept, of these those that are not one picture per class; each where there are any.
    """
    tie_set = race(candidates, images, settings, rungs=len(settings.cnn_seeds)).tied
    if not tie_set:
        return None
    fidelity = {i: found for i in tie_set if (found := candidates[i].fidelity) is not None}
    passed = {i: found for i, found in fidelity.items() if not found.memorised}
    whole = list(passed or fidelity or tie_set)
    kept = [i for i in whole if candidates[i].review == "kept"]
    below = settings.collapsed_below
    varied = [i for i in kept or whole if not is_one_picture(candidates[i].diversity, below)]
    left = varied or kept or whole
    finalists = {i: fidelity[i] for i in left if i in fidelity}
    tied = _lowest(finalists, images, settings) if finalists else left
    metric = next((found.rank_metric for found in finalists.values()), "")
    order = sorted(tied, key=lambda i: _order(candidates[i]))
    rule = _rule([candidates[i] for i in order], len(finalists), metric)
    rule = _narrowed(rule, len(varied), len(kept or whole), ONLY_VARIED, VARIED)
    return Decision(
        winner=order[0],
        tie_set=tie_set,
        tied=tied,
        rank_metric=metric,
        rule=_narrowed(rule, len(kept), len(whole), ONLY_KEPT, KEPT),
        memorisation_failed=bool(fidelity) and not passed,
        kept=kept,
        varied=varied,
    )


def _lowest(finalists: dict[int, Fidelity], images: Images, settings: SelectionConfig) -> list[int]:
    """Return the finalist that ranks lowest and those that the data cannot tell from it."""
    validation = {i: found.metrics["validation"] for i, found in finalists.items()}
    lowest = min(finalists, key=lambda i: validation[i][finalists[i].rank_metric])
    best = np.array(finalists[lowest].influence)
    tied = []
    for i, found in finalists.items():
        low, high = difference_interval(
            np.array(found.influence),
            best,
            labels=np.array(images.labels),
            patients=images.patients,
            seed=settings.seed,
            variance=found.rank_variance + finalists[lowest].rank_variance,
        )
        if i == lowest or low <= 0 <= high:
            tied.append(i)
    return tied


def _order(candidate: Candidate) -> tuple[float, str, int]:
    assert candidate.utility is not None  # it was scored
    return -candidate.utility.balanced_accuracy.value, candidate.trial, candidate.epoch


def _rule(order: Sequence[Candidate], finalists: int, metric: str) -> str:
    """Return which rule decided; `order`: the tied ones, the winner first."""
    if not finalists:
        return UNMEASURED
    if finalists == 1:
        return ONLY_ONE
    if len(order) == 1:
        return LOWEST.format(metric=metric)
    if _order(order[0])[0] < _order(order[1])[0]:
        return HIGHER_SCORE.format(metric=metric)
    return EARLIER


def _narrowed(rule: str, left: int, of: int, only: str, several: str) -> str:
    """Return a rule with what left so many for it; nothing where none or all were left."""
    if left in (0, of):
        return rule
    return only if left == 1 else several.format(rule=rule)


def verdict(candidate: Candidate, place: int, decision: Decision) -> str:
    """Return in one phrase how far a candidate came, and why."""
    found, fidelity = "", candidate.fidelity
    if candidate.failed:
        found = f"could not be scored: {candidate.failed}"
    elif candidate.review == "rejected":
        found = "a person rejected its images"
    elif not candidate.competes:
        found = "the baseline's best epoch, for comparison only"
    elif place == decision.winner:
        found = f"picked: {decision.rule}"
    elif candidate.left_at is not None:
        found = f"left step 2 after {candidate.left_at} CNNs: told apart from the best"
    elif fidelity is None:
        found = "in the tie set, but step 3 could not measure it"
    elif fidelity.memorised and not decision.memorisation_failed:
        found = f"in the tie set, but {'; '.join(fidelity.memorised)}"
    elif decision.kept and place not in decision.kept:
        found = "in the tie set, but a person kept others"
    elif decision.varied and place not in decision.varied:
        found = f"in the tie set, but {ONE_PICTURE}"
    elif place in decision.tied:
        found = "tied with the winner to the end; the last rule decided against it"
    else:
        found = f"in the tie set, with a higher {decision.rank_metric} than the lowest"
    return found
