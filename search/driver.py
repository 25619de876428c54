"""Brings a study to the trials asked for, with Ray Tune placing and retrying them."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayTaskError

from acgan.config import derive_seed
from acgan.errors import InputError
from acgan.records import grace_epochs
from search import space, summary
from search.cluster import needs, ray_cluster
from search.node import StudyAt
from search.objective import objective_value
from search.plan import Plan
from search.progress import Progress
from search.searcher import Ledger, Row, StudySearcher
from search.settings import SearchConfig
from search.stopping import Decision, RepeatStopper, TrialStopper
from search.study import Outcome, Study, TrialEnd, TrialInfo, write
from search.trial import prepare_scoring, run_trial


class Driver:
    """One start of a search, from the ledger as it is to the trials asked for."""

    def __init__(self, plan: Plan, study: Study, ledger: Ledger, progress: Progress) -> None:
        self._plan, self._study, self._ledger = plan, study, ledger
        self._progress = progress
        self._started = time.monotonic()

    @property
    def seconds_left(self) -> float | None:
        """What is left of the time budget; None without one."""
        if self._plan.time_budget_s is None:
            return None
        return self._plan.time_budget_s - (time.monotonic() - self._started)

    def run(self) -> None:
        """Train the trials that are missing, then the repeats that are missing."""
        self._progress.say("starting Ray")
        with ray_cluster(self._plan.address, verbose=self._plan.verbose) as nodes:
            settings = self._plan.search
            self._needs = needs(
                nodes, cpus=settings.cpus_per_trial, gpus=settings.gpus_per_trial, unit="trial"
            )
            self._at = StudyAt(
                self._study.path, self._study.info.uuid, self._plan.last_start.source
            )
            try:
                self._prepare()
                self._search()
                self._repeat()
            finally:
                self._progress.close()

    def _prepare(self) -> None:
        """Have the scoring CNN trained where the trials will run."""
        if self._study.quality() is None:
            self._progress.say("training the scoring CNN on the real training images")
            cpus, gpus = self._needs["cpu"], self._needs["gpu"]
            remote = ray.remote(num_cpus=cpus, num_gpus=gpus)(prepare_scoring)
            try:
                ray.get(remote.remote(self._at, gpus > 0))
            except RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise error.cause from error
                raise
        self._progress.say(summary.scale(self._study))

    def _search(self) -> None:
        missing = self._plan.search.num_samples - self._ledger.ended()
        if missing <= 0:
            return
        plan, ledger = self._plan, self._ledger
        batch_size = int(space.largest(plan.space, plan.train, "batch_size"))
        slowest = plan.train.model_copy(update={"batch_size": batch_size})
        searcher = StudySearcher(
            ledger,
            plan.search.num_samples,
            on_proposal=self._on_proposal,
            on_crash=self._on_crash,
        )
        rules = TrialStopper(
            ledger,
            plan.search,
            epochs=plan.train.epochs,
            grace=grace_epochs(slowest, len(plan.data.train)),
            records_of=lambda name: self._study.trial(name).records(),
            on_end=self._on_end,
        )
        self._fit({}, rules, search_alg=searcher, num_samples=missing)

    def _repeat(self) -> None:
        """Train the baseline and the best trial, once all are there, again with further seeds."""
        if self._ledger.ended() < self._plan.search.num_samples:
            return
        names = missing_repeats(self._study, self._plan.search)
        if not names:
            return
        self._progress.expect(len(names))
        for name, trial in names.items():
            info = self._study.trial(trial).info
            seed = derive_seed(self._plan.search.seed, "repeat", name)
            repeat = info.model_copy(update={"seed": seed, "origin": "repeat", "repeats": trial})
            self._begin(name, repeat)
        rules = RepeatStopper(epochs=self._plan.train.epochs, on_end=self._on_end)
        self._fit({"trial": tune.grid_search(list(names))}, rules, num_samples=1)

    def _fit(self, params: dict[str, Any], rules: tune.Stopper, **settings: Any) -> None:
        left = self.seconds_left
        if left is not None and left <= 0:
            return
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, at=self._at, gpu=self._needs["gpu"] > 0),
                self._needs,
            ),
            param_space=params,
            tune_config=tune.TuneConfig(
                max_concurrent_trials=self._plan.search.max_concurrent,
                reuse_actors=True,
                time_budget_s=left,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
                **settings,
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str(self._study.path / "ray"),
                verbose=0,
                stop=_Watched(self._progress, self._plan.search.objective, rules),
                failure_config=tune.FailureConfig(max_failures=self._plan.search.max_retries),
            ),
        )
        results = tuner.fit()
        for result in (results[index] for index in range(len(results))):
            if result.error is not None and result.config is not None:
                # Tune's message ends with the trial's own exception.
                reason = str(result.error).strip().splitlines()[-1]
                write_end(self._study, result.config["trial"], Outcome.CRASHED, reason)

    def _begin(self, name: str, info: TrialInfo) -> None:
        path = self._study.path / name
        path.mkdir(exist_ok=True)
        write(path / "trial.json", info)
        (path / "end.json").unlink(missing_ok=True)

    def _on_proposal(self, row: Row) -> None:
        seed = derive_seed(self._plan.search.seed, "trial", row.number)
        self._begin(row.name, TrialInfo(number=row.number, params=row.params, seed=seed))

    def _on_end(self, name: str, decision: Decision) -> None:
        assert decision.outcome is not None
        write_end(self._study, name, decision.outcome, decision.reason)
        records = self._study.trial(name).records()
        self._progress.ended(name, decision, objective_value(records, self._plan.search))

    def _on_crash(self, name: str) -> None:
        write_end(self._study, name, Outcome.CRASHED, "out of retries")
        self._progress.crashed(name)


class _Watched(tune.Stopper):
    """Shows each reported epoch to a person before `rules` decide on the trial."""

    def __init__(self, progress: Progress, objective: str, rules: tune.Stopper) -> None:
        self._progress, self._objective, self._rules = progress, objective, rules

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether Tune ends the trial now."""
        if "trial" not in result:
            return False  # a trial that ended before it reported anything
        self._progress.epoch(result["trial"], result["epoch"], result[self._objective])
        return bool(self._rules(trial_id, result))

    def stop_all(self) -> bool:
        """Return False: one trial's end never ends the others."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its parts beside the trials; nothing reads them


def missing_repeats(study: Study, config: SearchConfig) -> dict[str, str]:
    """Return the repeats that have not ended, as name → the trial that each repeats."""
    if not config.repeats:
        return {}
    found = summary.lines(study, config)
    best = summary.best(found, config)
    repeated = dict.fromkeys(["t0000", *([best.trial.name] if best else [])])
    ended = {line.trial.name for line in found if line.outcome and line.outcome.counts}
    names = {f"{t}r{k}": t for t in repeated for k in range(1, config.repeats + 1)}
    return {name: trial for name, trial in names.items() if name not in ended}


def write_end(study: Study, name: str, outcome: Outcome, reason: str) -> None:
    """Write how a trial ended."""
    end = TrialEnd(outcome=outcome, reason=reason, time=time.time())
    write(study.path / name / "end.json", end)
