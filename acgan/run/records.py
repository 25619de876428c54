"""What is known of an epoch, and how the epochs of one run are ordered.

Everything here is a pure function of records: training, search and selection share it.
"""

import bisect
import math
import stat
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from acgan.config import TrainConfig
from acgan.files import Stored

QUALITY = "val/fd_cnn"
WINDOW = 3
BEST = "best/"  # of a metric: the best windowed value so far


@dataclass(frozen=True)
class Ranking:
    """The recorded metric by which epochs are ranked, one run beside another too.

    sign: 1 where less is better, -1 where more is
    """

    metric: str
    sign: int

    @property
    def best(self) -> str:
        """The name under which a run records its best windowed value so far."""
        return best_name(self.metric)


def best_name(metric: str) -> str:
    """Return what a metric's best windowed value is called: `best/fd_cnn` of `val/fd_cnn`."""
    return f"{BEST}{metric.rpartition('/')[2]}"


# What orders generators best by what a CNN learns from their images, see `benchmarks.recipe`.
RANKING = Ranking("val/coverage", sign=-1)


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


def best_windowed(records: Sequence[EpochRecord], ranking: Ranking) -> float:
    """Return what a run is judged by: the best windowed value of the metric that ranks.

    The first epochs, marked young, are left out of every window; a run that has no others is
    judged by its latest. Without a finite value: `inf`, or `-inf` where more is better.
    """
    values = signed(_grown(records), ranking)
    return ranking.sign * min(windowed(values), default=math.inf)


def best_epochs(records: Sequence[EpochRecord], ranking: Ranking, count: int) -> list[int]:
    """Return the best epochs by windowed value: of each window its best single epoch.

    A tie goes to the later epoch.
    """
    grown = _grown(records)
    values = signed(grown, ranking)
    order = sorted(
        (value, -index) for index, value in enumerate(windowed(values)) if math.isfinite(value)
    )
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    chosen: dict[int, None] = {}
    for _, place in order:
        end = bisect.bisect_right(finite, -place)
        best = min(finite[max(end - WINDOW, 0) : end], key=lambda i: (values[i], -i))
        chosen[grown[best].epoch] = None
        if len(chosen) == count:
            break
    return list(chosen)


def signed(records: Sequence[EpochRecord], ranking: Ranking) -> list[float]:
    """Return the metric that ranks of all records, so that less is better; NaN where it lacks."""
    return [ranking.sign * value for value in metric(records, ranking.metric)]


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
    """Return the best epochs by losses and accuracies; a tie goes to the later epoch."""
    grown = {record.epoch for record in _grown(records)}
    scored = sorted(
        (score, -record.epoch)
        for score, record in zip(filter_score(records), records, strict=True)
        if record.epoch in grown
        and all(math.isfinite(record.metrics.get(k, math.nan)) for k in ("val/g_loss", QUALITY))
    )
    return [-epoch for _, epoch in scored[:count]]


def kept_epochs(records: Sequence[EpochRecord], ranking: Ranking, *, count: int = 3) -> set[int]:
    """Return the epochs whose weights are kept as candidates.

    The best `count` by the metric that ranks, the best `count` by losses and accuracies, the last.
    """
    if not records:
        return set()
    best = *best_epochs(records, ranking, count), *best_by_filter(records, count)
    return {*best, records[-1].epoch}


def weights_to_keep(records: Sequence[EpochRecord], ranking: Ranking) -> set[int]:
    """Return the epochs whose weights a run keeps: the candidates, and what can become one.

    The last three with a finite value of the metric that ranks can: a later epoch can still make
    one of them the best of its window.
    """
    values = zip(records, signed(records, ranking), strict=True)
    finite = [record.epoch for record, value in values if math.isfinite(value)]
    return kept_epochs(records, ranking) | set(finite[-WINDOW:])
