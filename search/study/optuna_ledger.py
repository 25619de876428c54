"""Where the next trial comes from: one Optuna study in `optuna.jsonl`, which is the ledger.

`Ledger` needs no Ray. It proposes points, keeps how each trial ended, and is all that a further
start knows of the ones before. `StudySearcher` hands its trials to Ray Tune.
"""

import itertools
import json
import math
import os
import warnings
from collections.abc import Container, Generator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from acgan.config import derive_seed
from acgan.errors import InputError
from search.settings import SearchConfig, Value
from search.study.folder import Outcome, trial_name
from search.study.space import Choices, Dimension, Space, is_whole

STUDY = "acgan"
VARIED = "varied"
STARTUP_TRIALS = 8
PATIENT_DRAWS = 20

# What Optuna raises where a line of the journal is JSON and yet none of its own.
_DAMAGE = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_STATES = {Outcome.FINISHED: TrialState.COMPLETE, Outcome.PRUNED: TrialState.PRUNED}


@dataclass(frozen=True)
class Proposal:
    """One trial of the ledger; `outcome` is None and it is tried again while it has not ended.

    `value` is its best windowed objective: at the end, or, of a pruned trial, where it was pruned.
    """

    number: int
    params: dict[str, Value]
    outcome: Outcome | None
    reason: str
    value: float | None

    @property
    def name(self) -> str:
        """The trial's name, `t0007`."""
        return trial_name(self.number)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of each dimension."""
    return {name: _distribution(name, dimension) for name, dimension in space.items()}


def _distribution(name: str, dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.choices)
    if is_whole(name):
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(low, high, log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


class Ledger:
    """The trials of one study: what was proposed, and how each ended.

    `path` is the study's `optuna.jsonl`, whose study lock the caller holds; without a path the
    ledger is in memory, to look at proposals. `start` is the baseline's point. Raises
    `InputError` for a file that was damaged otherwise than by a crash.
    """

    def __init__(
        self, path: Path | None, space: Space, *, start: Mapping[str, Value], config: SearchConfig
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._distributions, self._start, self._config = distributions(space), dict(start), config
        self._storage = storage = InMemoryStorage() if path is None else _open_journal(path)
        if STUDY in optuna.get_all_study_names(storage):
            self._study = optuna.load_study(study_name=STUDY, storage=storage)
        else:
            self._study = optuna.create_study(
                study_name=STUDY, storage=storage, direction=config.direction
            )
        self._id = storage.get_study_id_from_name(STUDY)
        self._reported: dict[int, set[int]] = {}
        self._taken: list[dict[str, Value]] = []  # the points of the trials
        try:
            self.rows()
        except _DAMAGE as error:
            raise InputError(
                f"{path} is damaged (a trial in it cannot be read); restore the file or start a "
                "new study"
            ) from error

    def rows(self) -> list[Proposal]:
        """Return all trials in the order of their numbers."""
        return [_row(trial) for trial in self._trials()]

    def open_rows(self) -> list[Proposal]:
        """Return the trials that have not ended: to be handed out (again)."""
        return [row for row in self.rows() if row.outcome is None]

    def ended(self) -> int:
        """Return how many trials have ended so that they count as asked for."""
        return sum(row.outcome is not None for row in self.rows())

    def propose(self) -> Proposal:
        """Add the next trial: the baseline first, then points that no other trial has.

        The space must have a point left (`space.check_size`).
        """
        trials = self._trials()
        params = self._start if not trials else self._draw(trials)
        # One line of the journal: no crash leaves half a proposal.
        self._study.add_trial(
            create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions)
        )
        return _row(self._trials()[-1])

    def report(self, number: int, epoch: int, value: float, *, pruner: BasePruner) -> bool:
        """Enter a trial's value at a rung; return whether the pruner finds it behind."""
        self.reported(epoch)
        trial = self._attach(number)
        trial.report(value, epoch)
        self._reported[epoch].add(number)
        return pruner.prune(self._study, self._storage.get_trial(trial._trial_id))

    def reported(self, epoch: int) -> Set[int]:
        """Return the numbers of the trials that have a value at this rung."""
        if epoch not in self._reported:
            found = {t.number for t in self._trials() if epoch in t.intermediate_values}
            self._reported[epoch] = found
        return self._reported[epoch]

    def varied(self) -> set[int]:
        """Return the numbers of the ended trials whose images are known to have varied."""
        return {trial.number for trial in self._trials() if trial.user_attrs.get(VARIED)}

    def tell(
        self, number: int, outcome: Outcome, *, value: float, reason: str = "", varied: bool = False
    ) -> None:
        """Enter how a trial ended; one that crashed or was interrupted is left open.

        A finished trial whose value is not finite fails: no sampler learns from it.
        """
        if not outcome.counts:
            return
        trial = self._attach(number)
        trial.set_user_attr("outcome", outcome.value)
        trial.set_user_attr("reason", reason)
        if varied:
            trial.set_user_attr(VARIED, True)
        state = _STATES.get(outcome, TrialState.FAIL)
        if state is TrialState.COMPLETE and not math.isfinite(value):
            state = TrialState.FAIL
        self._study.tell(number, value if state is TrialState.COMPLETE else None, state)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _attach(self, number: int) -> optuna.Trial:
        found = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        return optuna.Trial(self._study, found)

    def _draw(self, trials: list[FrozenTrial]) -> dict[str, Value]:
        # In a copy in memory, so that neither a point that is drawn again nor the sampler's
        # notes reach the journal: every start draws from the same trials alone.
        draft = optuna.create_study(
            storage=_Draft(trials),
            direction=self._config.direction,
            sampler=self._sampler(len(trials)),
        )
        self._taken += [self._on_grid(trial.params) for trial in trials[len(self._taken) :]]
        # Of a Sobol sequence the trials but for the baseline have taken as many points.
        first = len(trials) - 1 if self._config.sampler == "qmc" else 0
        patience = len(trials) + PATIENT_DRAWS
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            for draw in itertools.count(first):
                if draw == patience:
                    draft.sampler = RandomSampler(seed=self._seed(len(trials)))
                params = self._on_grid(draft.ask(self._distributions).params)
                if params not in self._taken:
                    return params
        raise AssertionError("unreachable")

    def _on_grid(self, params: Mapping[str, Value]) -> dict[str, Value]:
        """Return a point whose stepped numbers are whole steps: a Gaussian process rounds."""
        return {name: _whole_steps(v, self._distributions[name]) for name, v in params.items()}

    def _seed(self, *parts: object) -> int:
        return derive_seed("proposal", self._config.seed, *parts) % 2**32

    def _sampler(self, number: int) -> BaseSampler:
        """Return a sampler whose draws depend on the study's seed and the trial's number."""
        seed = self._seed(number)
        match self._config.sampler:
            case "tpe":
                return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True)
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
            case "random":
                return RandomSampler(seed=seed)
            case "qmc":
                with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                    return _Sobol(seed=self._seed(), begin=number - 1)


def _whole_steps(value: Value, distribution: BaseDistribution) -> Value:
    if not isinstance(distribution, FloatDistribution) or distribution.step is None:
        return value
    low, step = distribution.low, distribution.step
    return min(low + round((float(value) - low) / step) * step, distribution.high)


class _Sobol(QMCSampler):
    """A Sobol sequence from its point `begin` on.

    Optuna's begins anew for each study in memory: the points that the trials before were given
    would be drawn again, each in the time that it takes to look at all trials.
    """

    def __init__(self, *, seed: int, begin: int) -> None:
        super().__init__(seed=seed, scramble=True)
        self._begin = begin

    def _find_sample_id(
        self, study: optuna.Study, search_space: dict[str, BaseDistribution]
    ) -> int:
        return self._begin + super()._find_sample_id(study, search_space)


class _Draft(InMemoryStorage):
    """A storage in memory whose trials begin with those of another, shared and not copied.

    Of ten thousand the copies take longer than to draw from them.
    """

    def __init__(self, shared: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._shared = shared

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials of the other, which nobody may change, then its own."""
        shared = [each for each in self._shared if states is None or each.state in states]
        return [*shared, *super().get_all_trials(study_id, deepcopy=deepcopy, states=states)]


def _row(trial: FrozenTrial) -> Proposal:
    # A crash may have left an open trial with the notes of an end that was not entered.
    ended = trial.state.is_finished()
    return Proposal(
        number=trial.number,
        params=dict(trial.params),
        outcome=Outcome(trial.user_attrs["outcome"]) if ended else None,
        reason=trial.user_attrs["reason"] if ended else "",
        value=trial.value,
    )


def _open_journal(path: Path) -> JournalStorage:
    # Optuna waits half a minute for the lock of a process that was killed while it wrote; the
    # study lock says that there is no such process.
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        _mend(path)
    backend = _Journal(str(path))
    try:
        return JournalStorage(backend)
    except _DAMAGE as error:
        raise _damaged(path, backend.line) from error


class _Journal(JournalFileBackend):
    """The journal, which knows the number of the line that is being read."""

    line = 0

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        logs = super().read_logs(log_number_from)
        for self.line, log in enumerate(logs, start=log_number_from + 1):
            yield log


def _damaged(path: Path, line: int) -> InputError:
    return InputError(f"{path}, line {line} is damaged; restore the file or start a new study")


def _mend(path: Path) -> None:
    """Cut a last line that a crash left unfinished; refuse any other that cannot be read."""
    if not path.is_file():
        raise InputError(f"{path} is no file; restore it or start a new study")
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not {"op_code", "worker_id"} <= entry.keys():
            raise _damaged(path, number)
    if len(whole) < len(content):
        os.truncate(path, len(whole))
