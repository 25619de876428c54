"""Step 1: of all recorded epochs of all trials, those that are worth a look.

Losses and accuracies are relative to a trial's own discriminator, smoothing and dropout, so they
order the epochs of one trial only; between trials the study's objective does. Nothing here opens
weights.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from acgan.evaluation.variety import DIVERSITY, is_one_picture
from acgan.run.records import (
    QUALITY,
    EpochRecord,
    Ranking,
    best_epochs,
    filter_score,
    signed,
)
from selection.settings import SelectionConfig
from selection.steps.result import FilterReport

FINITE = ("val/g_loss", "val/acc_generated", QUALITY)  # what an epoch must have


class Epoch(NamedTuple):
    """One recorded epoch as step 1 sees it.

    value: of the study's objective, its own; order: the same, so that less is better
    diversity: its own `val/diversity`; None where that is not known
    weights: the SHA-256 of its weights, as recorded
    filter_score: mean quantile, within the trial, of the generator's loss and the discriminator's
        accuracy on generated images; smaller is better
    rank: place by windowed objective among the trial's epochs that pass, from 0
    reason: why it does not pass, "" if it does
    one_picture: its images are one picture per class: it comes after those whose images vary
    kept: its weights are on disk
    """

    trial: str
    epoch: int
    value: float
    order: float
    diversity: float | None
    weights: str | None
    filter_score: float
    rank: int
    reason: str
    one_picture: bool
    kept: bool


@dataclass(frozen=True)
class Places:
    """What step 1 takes of one trial, and what it knows of the others of its epochs.

    taken: the trial's candidates; kept: all epochs whose weights are on disk
    usable: how many of those pass; alike: how many that pass are one picture per class
    better: how many without weights come before a candidate
    reasons: how many epochs have each, "" for those that pass
    """

    taken: tuple[Epoch, ...]
    kept: tuple[Epoch, ...]
    usable: int
    alike: int
    better: int
    reasons: dict[str, int]


@dataclass(frozen=True)
class Filtered:
    """What step 1 decided.

    chosen: the candidates: those whose images vary first, of these the best by the objective first
    kept: all epochs whose weights are on disk
    report: how many epochs there are, and what became of them
    """

    chosen: tuple[Epoch, ...]
    kept: tuple[Epoch, ...]
    report: FilterReport


@dataclass(frozen=True)
class Chance:
    """What one constant answer reaches: the largest class's share, and one class's recall of all.

    Where classes are uneven, accuracy would call a class head dead that knows them all.
    """

    accuracy: float
    balanced_accuracy: float

    @classmethod
    def of(cls, counts: Sequence[int]) -> Self:
        """Return it for as many images of each class."""
        return cls(max(counts) / sum(counts), 1 / sum(count > 0 for count in counts))


def judge_epochs(
    trial: str,
    records: Sequence[EpochRecord],
    *,
    ranking: Ranking,
    kept: Iterable[int],
    chance: Chance,
    config: SelectionConfig,
) -> list[Epoch]:
    """Return a trial's recorded epochs with their places in both orders and why they fail.

    ranking: the study's objective
    chance: what one constant answer has of the validation images
    """
    on_disk = set(kept)
    reasons = [fault(r, ranking=ranking, chance=chance, config=config) for r in records]
    # An epoch that does not pass must not be the best of a window in which others pass.
    passing = [record for record, reason in zip(records, reasons, strict=True) if not reason]
    ranks = {e: rank for rank, e in enumerate(best_epochs(passing, ranking, len(passing)))}
    return [
        Epoch(
            trial=trial,
            epoch=record.epoch,
            value=ranking.sign * order,
            order=order,
            diversity=_finite(record.metrics.get(DIVERSITY)),
            weights=record.weights,
            filter_score=score,
            rank=ranks.get(record.epoch, len(records)),
            reason=reason,
            one_picture=is_one_picture(record.metrics.get(DIVERSITY), config.collapsed_below),
            kept=record.epoch in on_disk,
        )
        for record, reason, score, order in zip(
            records, reasons, filter_score(records), signed(records, ranking), strict=True
        )
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def fault(record: EpochRecord, *, ranking: Ranking, chance: Chance, config: SelectionConfig) -> str:
    """Return why an epoch does not pass the filter, "" if it does.

    One picture per class is no reason: where all are, there is still a best one to be called so.
    """
    if record.young:
        return "young"
    value = record.metrics.get
    for name in (*FINITE, ranking.metric):
        if not math.isfinite(value(name, math.nan)):
            return "not finite"
    real, generated = value("val/acc_real", math.nan), value("val/acc_generated", math.nan)
    calls_all_real = real > config.dead_real_above and generated < 1 - config.dead_real_above
    if real < config.dead_real_below or calls_all_real:
        return "dead discriminator"
    name, least = "val/acc_class_balanced", chance.balanced_accuracy
    if name not in record.metrics:  # of an earlier version
        name, least = "val/acc_class", chance.accuracy
    if value(name, 1.0) < least + config.class_margin:
        return "class accuracy at chance"
    for required in config.required:
        if not required.holds(value(required.name, math.nan)):
            return f"without {required}"
    return ""


def places(epochs: Sequence[Epoch], config: SelectionConfig) -> Places:
    """Return what is taken of a judged trial.

    Its places are filled by turns from two orders: the windowed objective, and the published one
    by losses and accuracies. Epochs of one picture per class come last in both.
    """
    kept = tuple(epoch for epoch in epochs if epoch.kept)
    usable = [epoch for epoch in kept if not epoch.reason]
    taken = _by_turns(usable, config.per_trial)
    return Places(
        taken=tuple(taken),
        kept=kept,
        usable=len(usable),
        alike=sum(epoch.one_picture for epoch in epochs if not epoch.reason),
        better=len(_better_without_weights(epochs, taken)),
        reasons=dict(Counter(epoch.reason for epoch in epochs)),
    )


def choose(trials: Iterable[Places], config: SelectionConfig) -> Filtered:
    """Return the candidates of all trials, which are looked at one after another.

    Those beyond `max_candidates` are cut by the objective, those of one picture per class first.
    """
    chosen: list[Epoch] = []
    kept: list[Epoch] = []
    reasons: Counter[str] = Counter()
    count = usable = better = alike = 0
    for own in trials:
        count += 1
        better += own.better
        usable += own.usable
        alike += own.alike
        reasons.update(own.reasons)
        chosen += own.taken
        kept += own.kept
    chosen.sort(key=lambda e: (e.one_picture, e.order, e.trial, e.epoch))
    return Filtered(
        chosen=tuple(chosen[: config.max_candidates]),
        kept=tuple(kept),
        report=FilterReport(
            trials=count,
            recorded=reasons.total(),
            passed=reasons[""],
            one_picture=alike,
            kept=len(kept),
            reasons={reason: epochs for reason, epochs in reasons.items() if reason},
            better_without_weights=better,
            over_per_trial=usable - len(chosen),
            over_cap=max(len(chosen) - config.max_candidates, 0),
        ),
    )


def objective_order(epoch: Epoch) -> tuple[bool, float, float, int]:
    """Order the epochs of one trial by windowed objective, those of one picture last."""
    return epoch.one_picture, epoch.rank, epoch.order, epoch.epoch


def filter_order(epoch: Epoch) -> tuple[bool, float, int]:
    """Order the epochs of one trial as published, by losses and accuracies, likewise."""
    return epoch.one_picture, epoch.filter_score, -epoch.epoch  # a tie goes to the later epoch


Order = Callable[[Epoch], tuple[float, ...]]
ORDERS: tuple[Order, Order] = (objective_order, filter_order)


def _by_turns(epochs: Sequence[Epoch], count: int) -> list[Epoch]:
    left, taken = list(epochs), []
    for turn in range(min(count, len(left))):
        best = min(left, key=ORDERS[turn % 2])
        left.remove(best)
        taken.append(best)
    return taken


def _better_without_weights(epochs: Sequence[Epoch], taken: Sequence[Epoch]) -> set[int]:
    """Return the epochs without weights that come before a candidate that its order has chosen."""
    lost = [e for e in epochs if not e.kept and not e.reason]
    found: set[int] = set()
    for turn, order in enumerate(ORDERS):
        if taken[turn::2]:
            last = order(taken[turn::2][-1])
            found.update(e.epoch for e in lost if order(e) < last)
    return found
