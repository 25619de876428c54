"""What is known of an epoch, and how the epochs of one run are ordered.

Everything here is a pure function of records: training, search and selection share it.
"""

import bisect
import math
import stat
import statistics
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from acgan.config import TrainConfig
from acgan.files import Stored

QUALITY = "val/fd_cnn"
WINDOW = 3


class EpochRecord(Stored):
    """One epoch of a run, as it stands in one line of `epochs.jsonl`.

    `metrics` are named `group/name`; a value that is not finite is written as "NaN" or
    "Infinity". `time` is the end of the epoch in seconds since 1970. `samples` is the sample
    grid's path inside the run directory, `weights` the SHA-256 of the epoch's weights file.
    `young` marks the grace period (`grace_epochs`), in which a run is not judged.
    """

    epoch: int = Field(ge=1)
    time: float
    metrics: dict[str, float]
    samples: str | None = None
    weights: str | None = None
    young: bool = False


def read_records(path: Path) -> list[EpochRecord]:
    """Read the records of one `epochs.jsonl`, in the order of their epochs.

    A file that is not there has none. A torn last line, as a crash leaves it, is passed over;
    any other line that cannot be read raises `ValueError` with its number, as does what is no
    file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} is no file")
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    complete, _torn = lines[:-1], lines[-1]
    records = []
    for number, line in enumerate(complete, start=1):
        try:
            records.append(EpochRecord.model_validate_json(line))
        except ValidationError as error:
            raise ValueError(f"{path}, line {number} is no epoch record") from error
    return records


def windowed(values: Sequence[float]) -> list[float]:
    """Return, for each epoch, the median of the last three finite values up to it.

    An epoch whose own value is not finite has `inf` and does not count in any window.
    """
    result: list[float] = []
    window: list[float] = []
    for value in values:
        if not math.isfinite(value):
            result.append(math.inf)
            continue
        window = [*window, value][-WINDOW:]
        result.append(statistics.median(window))
    return result


def metric(records: Sequence[EpochRecord], name: str) -> list[float]:
    """Return one metric of all records; an epoch that lacks it has NaN."""
    return [record.metrics.get(name, math.nan) for record in records]


def grace_epochs(config: TrainConfig, images: int) -> int:
    """Return how many epochs a run on so many training images is young, at least 1.

    Every young generator looks collapsed, learning curves cross, and an image that is still an
    even grey can lie nearer to an X-ray than the first lungs do.
    """
    updates = math.ceil(images / config.batch_size)
    by_updates = math.ceil(config.grace_updates / updates)
    return max(math.ceil(config.grace_fraction * config.epochs), by_updates, 1)


def _grown(records: Sequence[EpochRecord]) -> list[EpochRecord]:
    """Return the records that are judged: all but the young ones, the last if all are young."""
    return [record for record in records if not record.young] or list(records[-1:])


def best_windowed(records: Sequence[EpochRecord], name: str, *, sign: int = 1) -> float:
    """Return what a run is judged by: the smallest windowed value of `sign` times a metric.

    The first epochs, marked young, are left out of every window; a run that has no others is
    judged by its latest. Without a finite value: `inf`.
    """
    values = [sign * value for value in metric(_grown(records), name)]
    return min(windowed(values), default=math.inf)


def best_by_quality(records: Sequence[EpochRecord], count: int) -> list[int]:
    """Return the best epochs by windowed quality score: of each window its best single epoch."""
    grown = _grown(records)
    values = metric(grown, QUALITY)
    order = sorted(
        (value, index) for index, value in enumerate(windowed(values)) if math.isfinite(value)
    )
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    chosen: dict[int, None] = {}
    for _, index in order:
        end = bisect.bisect_right(finite, index)
        best = min(finite[max(end - WINDOW, 0) : end], key=values.__getitem__)
        chosen[grown[best].epoch] = None
        if len(chosen) == count:
            break
    return list(chosen)


def quantiles(values: Sequence[float]) -> list[float]:
    """Return each value's quantile among the finite ones in [0, 1]; ties share their mean rank.

    A value that is not finite has 1 (the worst).
    """
    finite = sorted(filter(math.isfinite, values))
    span = max(len(finite) - 1, 1)
    ends = [(bisect.bisect_left(finite, v), bisect.bisect_right(finite, v) - 1) for v in values]
    ranks = [(first + last) / 2 for first, last in ends]
    return [r / span if math.isfinite(v) else 1.0 for r, v in zip(ranks, values, strict=True)]


def filter_score(records: Sequence[EpochRecord]) -> list[float]:
    """Return selection's step-1 score of each epoch, smaller is better, within one run.

    The mean of the quantiles of the generator's loss and of the discriminator's accuracy on
    generated images: both low means a generator that fools this run's own discriminator.
    """
    loss = quantiles(metric(records, "val/g_loss"))
    accuracy = quantiles(metric(records, "val/acc_generated"))
    return [(a + b) / 2 for a, b in zip(loss, accuracy, strict=True)]


def best_by_filter(records: Sequence[EpochRecord], count: int) -> list[int]:
    """Return the best epochs by step 1's order; a tie goes to the later epoch."""
    grown = {record.epoch for record in _grown(records)}
    scored = sorted(
        (score, -record.epoch)
        for score, record in zip(filter_score(records), records, strict=True)
        if record.epoch in grown
        and all(math.isfinite(record.metrics.get(k, math.nan)) for k in ("val/g_loss", QUALITY))
    )
    return [-epoch for _, epoch in scored[:count]]


def kept_epochs(records: Sequence[EpochRecord], *, count: int = 3) -> set[int]:
    """Return the epochs whose weights are kept as candidates.

    The best `count` by windowed quality score, the best `count` by step 1's order, the last.
    """
    if not records:
        return set()
    best = *best_by_quality(records, count), *best_by_filter(records, count)
    return {*best, records[-1].epoch}
