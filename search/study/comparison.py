"""A trial's epochs beside those of the same trial trained again: pure functions of records."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from acgan.run.machine import CPU, Machine
from acgan.run.records import QUALITY, EpochRecord

SPEED = "perf/"  # how fast it was is no result


class Match(StrEnum):
    """What is to be said of one epoch."""

    IDENTICAL = "identical"
    CLOSE = "within the tolerance"
    DIFFERENT = "different"


@dataclass(frozen=True)
class Compared:
    """One epoch as it was recorded and as it came out again.

    quality: `val/fd_cnn` recorded and again; None where it was not recorded
    difference: the largest of all metrics', as a share of the metric's own size (`sizes`)
    metric: whose difference that is, "" where there is none
    weights: whether the generator's weights are equal; None: not kept on both sides
    exact: whether machine and versions are the same, so that nothing may differ
    """

    epoch: int
    quality: tuple[float | None, float | None]
    difference: float
    metric: str
    weights: bool | None
    exact: bool
    verdict: Match


def same_bits(recorded: Machine | None, here: Machine) -> bool:
    """Whether two starts must give the same numbers: equal in all, and on a CPU.

    A GPU adds up in an order that is not always the same.
    """
    return recorded == here and here.device == CPU


def sizes(records: Sequence[EpochRecord]) -> dict[str, float]:
    """Return each metric's size: the root mean square of its finite values over all epochs.

    It is at least 1, the scale of losses, accuracies and diversity: one that is nearly 0
    throughout would make rounding errors large.
    """
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.metrics.items():
            if not name.startswith(SPEED) and math.isfinite(value):
                values.setdefault(name, []).append(value)
    return {
        name: max(math.sqrt(sum(v * v for v in found) / len(found)), 1.0)
        for name, found in values.items()
    }


def compare_records(
    recorded: EpochRecord,
    again: EpochRecord,
    *,
    sizes: dict[str, float],
    weights: bool | None,
    exact: bool,
    tolerance: float,
) -> Compared:
    """Compare an epoch's metrics, those that both have.

    sizes: the recorded metrics', see `sizes`; weights: see `Compared`. Where `exact` holds,
    anything but equality of all metrics and of the weights is different; else a difference up to
    `tolerance` is close.
    """
    assert recorded.epoch == again.epoch
    names = [
        name
        for name in recorded.metrics
        if name in again.metrics and not name.startswith(SPEED)  # versions may measure more
    ]
    apart = {
        name: _apart(recorded.metrics[name], again.metrics[name], sizes.get(name, 1.0))
        for name in names
    }
    worst = max(names, key=lambda name: apart[name], default="")
    difference = apart.get(worst, 0.0)
    if difference == 0 and weights is not False:
        verdict = Match.IDENTICAL
    elif exact or difference > tolerance:
        verdict = Match.DIFFERENT
    else:
        verdict = Match.CLOSE
    return Compared(
        epoch=recorded.epoch,
        quality=(recorded.metrics.get(QUALITY), again.metrics.get(QUALITY)),
        difference=difference,
        metric=worst if difference else "",
        weights=weights,
        exact=exact,
        verdict=verdict,
    )


def _apart(recorded: float, again: float, size: float) -> float:
    """Return how far apart two values are, as a share of the metric's size.

    NaN equals NaN; a value that is finite on one side only is infinitely far away.
    """
    if recorded == again or (math.isnan(recorded) and math.isnan(again)):
        return 0.0
    if not (math.isfinite(recorded) and math.isfinite(again)):
        return math.inf
    return abs(recorded - again) / size
