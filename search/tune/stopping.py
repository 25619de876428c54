"""When a trial ends before its last epoch: rules over its own records, and comparison at rungs.

The rules are functions of records. `TrialStopper` applies them to what trials report, asks
Optuna's pruner at rungs, and enters every end in the ledger.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.pruners import SuccessiveHalvingPruner

from acgan.evaluation.variety import DIVERSITY, ONE_PICTURE
from acgan.run.records import EpochRecord, metric
from acgan.training import METRIC_NAMES
from search.settings import SearchConfig
from search.study.folder import BASELINE, Outcome
from search.study.objective import Ended, objective_value
from search.study.optuna_ledger import Ledger

LOSSES = frozenset(name for name in METRIC_NAMES if "_loss" in name)  # and no plug-in's number


@dataclass(frozen=True)
class StopDecision:
    """What becomes of a trial: None goes on, else it ends so, for a reason in one phrase."""

    outcome: Outcome | None = None
    reason: str = ""


GO_ON = StopDecision()


def rung_epochs(epochs: int, grace: int, config: SearchConfig) -> list[int]:
    """Return the epochs after which trials are compared: `grace`·`reduction_factor`^k < `epochs`.

    These are the rungs at which `SuccessiveHalvingPruner(min_resource=grace)` promotes.
    """
    rungs = []
    epoch = grace
    while epoch < epochs:
        rungs.append(epoch)
        epoch *= config.reduction_factor
    return rungs


def decide_stop(
    records: Sequence[EpochRecord],
    config: SearchConfig,
    grace: int,
    *,
    epochs: int,
    others_vary: bool,
) -> StopDecision:
    """Apply the rules that are switched on to a trial's records, in the order of their epochs.

    epochs: of a whole trial; others_vary: whether the trial may end because its images do not
    vary, see `collapsed`
    """
    if config.stop_diverged and (reason := diverged(records, config)):
        return StopDecision(Outcome.DIVERGED, reason)
    if records[-1].epoch < grace + config.patience:
        return GO_ON
    may_collapse = config.stop_collapsed and others_vary
    if may_collapse and (reason := collapsed(records, config, epochs=epochs)):
        return StopDecision(Outcome.COLLAPSED, reason)
    if config.stop_discriminator_won and (reason := discriminator_won(records, config)):
        return StopDecision(Outcome.DISCRIMINATOR_WON, reason)
    return GO_ON


def diverged(records: Sequence[EpochRecord], config: SearchConfig) -> str | None:
    """Return why a trial has diverged: a loss of its last epoch is not finite, or is absurd.

    The one rule that does not wait for the grace period: weights that are NaN stay NaN, and of
    networks whose losses are in the thousands nothing good has come.
    """
    last = records[-1]
    for name, value in last.metrics.items():
        if name in LOSSES and not (math.isfinite(value) and value <= config.diverged_above):
            return f"{name} is {value:.4g} in epoch {last.epoch}"
    return None


def collapsed(records: Sequence[EpochRecord], config: SearchConfig, *, epochs: int) -> str | None:
    """Return why a generator has collapsed: `patience` epochs in a row of one picture per class.

    All of them in the second half of a trial's `epochs`: the published network leaves this state
    only after thousands of updates. With its last epoch a trial is finished, whatever it draws.
    """
    row = records[-config.patience :]
    if 2 * row[0].epoch <= epochs or row[-1].epoch >= epochs:
        return None
    if not all(value < config.collapsed_below for value in metric(row, DIVERSITY)):
        return None
    return (
        f"{ONE_PICTURE}, while others vary (val/diversity below {config.collapsed_below:g} in "
        f"epochs {row[0].epoch} to {row[-1].epoch})"
    )


def varied(records: Sequence[EpochRecord], config: SearchConfig, grace: int) -> bool:
    """Return whether a generator's images vary: `patience` epochs in a row, none of them young."""
    row = records[-config.patience :]
    if row[-1].epoch < grace + config.patience:
        return False
    return all(value >= config.collapsed_below for value in metric(row, DIVERSITY))


def discriminator_won(records: Sequence[EpochRecord], config: SearchConfig) -> str | None:
    """Return why the discriminator has won: it is always right, and the images do not improve.

    Always right: both source accuracies above `won_above` for `patience` epochs in a row. That
    alone may be a good discriminator which still teaches; so the best windowed objective must
    not have improved in these epochs either. (A loss cannot tell: with smoothed labels the
    generator's source loss stays near -log(smoothing / 2) under a perfect discriminator.)
    """
    before, row = records[: -config.patience], records[-config.patience :]
    accuracies = [*metric(row, "val/acc_real"), *metric(row, "val/acc_generated")]
    if not all(value > config.won_above for value in accuracies):
        return None
    if not before or objective_value(records, config) != objective_value(before, config):
        return None
    return (
        f"val/acc_real and val/acc_generated above {config.won_above:g} without a better "
        f"{config.objective} in epochs {row[0].epoch} to {row[-1].epoch}"
    )


class TrialStopper:
    """Ends trials and enters in the ledger how each ended, the finished ones too.

    `records_of` reads a trial's records from disk, where an earlier start has left some. `on_end`
    is called with each name and how it ended after the ledger has them. `grace` is `grace_epochs`
    of the trial with the fewest steps per epoch: all trials have the same rungs.
    """

    def __init__(
        self,
        ledger: Ledger,
        config: SearchConfig,
        *,
        epochs: int,
        grace: int,
        records_of: Callable[[str], Sequence[EpochRecord]],
        on_end: Callable[[str, Ended], None],
    ) -> None:
        self._ledger, self._config = ledger, config
        self._epochs, self._grace = epochs, grace
        self._rungs = rung_epochs(epochs, grace, config) if config.stop_pruned else []
        self._pruner = SuccessiveHalvingPruner(
            min_resource=grace, reduction_factor=config.reduction_factor
        )
        self._records_of, self._on_end = records_of, on_end
        self._seen: dict[str, list[EpochRecord]] = {}  # of the trials under way
        self._entered: dict[str, set[int]] = {}  # their rungs that the ledger has
        self._over: set[str] = set()
        self._varied: set[int] | None = None  # trials whose images have varied

    def __call__(self, name: str, last: EpochRecord) -> bool:
        """Return whether a trial ends now, with its newest record, before its last epoch."""
        if name in self._over:
            return False  # Tune's last word
        seen = self._seen.setdefault(name, [])
        if seen and last.epoch <= seen[-1].epoch:
            if last in seen:
                return False  # reported again, after a retry
            seen[:] = [record for record in seen if record.epoch < last.epoch]  # trained again
        if last.epoch == len(seen) + 1:
            seen.append(last)
        else:
            seen[:] = [record for record in self._records_of(name) if record.epoch <= last.epoch]
        decision = self._decide(name, seen)
        if decision.outcome is None:
            return False
        ended = Ended.of(decision.outcome, decision.reason, seen, self._config)
        number = _number(name)
        self._ledger.tell(
            number,
            ended.outcome,
            value=ended.value,
            reason=ended.reason,
            varied=number in self._known_to_vary(),
        )
        self._over.add(name)
        del self._seen[name]  # the records of ten thousand do not fit in memory
        self._entered.pop(name, None)
        self._on_end(name, ended)
        return ended.outcome is not Outcome.FINISHED

    def _known_to_vary(self) -> set[int]:
        """Return the trials whose images have varied; the ledger has those of earlier starts."""
        if self._varied is None:
            self._varied = self._ledger.varied()
        return self._varied

    def _others_vary(self, number: int, records: Sequence[EpochRecord]) -> bool:
        """Return whether a trial may end because its images do not vary, as another's do.

        The baseline never does: it is what all are compared with at the end.
        """
        vary = self._known_to_vary()
        if varied(records, self._config, self._grace):
            vary.add(number)
        return number != BASELINE and bool(vary - {number})

    def _decide(self, name: str, records: Sequence[EpochRecord]) -> StopDecision:
        decision = decide_stop(
            records,
            self._config,
            self._grace,
            epochs=self._epochs,
            others_vary=self._others_vary(_number(name), records),
        )
        if decision.outcome is not None:
            return decision
        last = records[-1].epoch
        reached = [rung for rung in self._rungs if rung <= last]
        entered = self._entered.setdefault(name, set())
        due = [rung for rung in reached if rung not in entered]
        behind = [rung for rung in due if self._is_behind(_number(name), rung, records)]
        entered.update(due)
        if last >= self._epochs:
            return StopDecision(Outcome.FINISHED)
        if behind:
            return StopDecision(Outcome.PRUNED, f"behind the best others after {behind[0]} epochs")
        return GO_ON

    def _is_behind(self, number: int, rung: int, records: Sequence[EpochRecord]) -> bool:
        """Enter the trial's value at a rung that it has reached; return whether it ends there."""
        if number in self._ledger.reported(rung):
            return False
        value = objective_value([r for r in records if r.epoch <= rung], self._config)
        behind = self._ledger.report(number, rung, value, pruner=self._pruner)
        # Optuna ends the second trial at a rung if it is no better than the first; a share of
        # one in `reduction_factor` means something from that many on. The baseline is what all
        # are compared with at the end.
        enough = len(self._ledger.reported(rung)) >= self._config.reduction_factor
        return behind and enough and number != BASELINE


class RepeatStopper:
    """Ends repeats, which are compared with nothing: at the last epoch, or where they diverged.

    `records_of` reads a trial's records from disk; `on_end` is called once with each name and how
    it ended.
    """

    def __init__(
        self,
        config: SearchConfig,
        *,
        epochs: int,
        records_of: Callable[[str], Sequence[EpochRecord]],
        on_end: Callable[[str, Ended], None],
    ) -> None:
        self._config, self._epochs = config, epochs
        self._records_of, self._on_end = records_of, on_end
        self._over: set[str] = set()

    def __call__(self, name: str, last: EpochRecord) -> bool:
        """Return whether a trial ends now, with its newest record, before its last epoch."""
        decision = StopDecision(Outcome.FINISHED) if last.epoch >= self._epochs else GO_ON
        if self._config.stop_diverged and (reason := diverged([last], self._config)):
            decision = StopDecision(Outcome.DIVERGED, reason)
        if decision.outcome is None or name in self._over:
            return False
        self._over.add(name)
        outcome, reason = decision.outcome, decision.reason
        self._on_end(name, Ended.of(outcome, reason, self._records_of(name), self._config))
        return outcome is not Outcome.FINISHED


def _number(name: str) -> int:
    return int(name.removeprefix("t"))
