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
from search.cluster import Resources, ray_cluster
from search.plan import Plan
from search.progress import Progress
from search.searcher import Ledger, Row, StudySearcher
from search.settings import SearchConfig
from search.stopping import Decision, TrialStopper
from search.study import Outcome, Study, TrialEnd, TrialInfo, write
from search.trial import Task, prepare_scoring, run_trial


class Driver:
    """One start of a search, from the ledger as it is to the trials asked for."""

    def __init__(self, plan: Plan, study: Study, ledger: Ledger) -> None:
        self._plan, self._study, self._ledger = plan, study, ledger
        self._task = Task(study.path, study.info.uuid, plan.source)
        self._progress = Progress(
            asked=plan.search.num_samples + len(missing_repeats(study, plan.search)),
            ended=ledger.ended(),
            epochs=plan.train.epochs,
        )
        self._started = time.monotonic()

    def run(self) -> None:
        """Train the trials that are missing, then the repeats that are missing."""
        with ray_cluster(self._plan.address, verbose=self._plan.verbose) as there:
            needs = trial_needs(self._plan.search, there)
            self._prepare(needs)
            try:
                self._search(needs)
                self._repeat(needs)
            finally:
                self._progress.close()

    def _prepare(self, needs: dict[str, float]) -> None:
        """Have the scoring CNN trained where the trials will run."""
        if self._study.quality() is None:
            self._progress.say("training the scoring CNN on the real training images")
            remote = ray.remote(num_cpus=needs["cpu"], num_gpus=needs["gpu"])(prepare_scoring)
            try:
                ray.get(remote.remote(self._task))
            except RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise error.cause from error
                raise
        self._progress.say(summary.scale(self._study))

    def _search(self, needs: dict[str, float]) -> None:
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
        stopper = TrialStopper(
            ledger,
            plan.search,
            epochs=plan.train.epochs,
            grace=grace_epochs(slowest, len(plan.data.train)),
            records_of=lambda name: self._study.trial(name).records(),
            on_end=self._on_end,
        )
        self._fit(needs, {}, rules=stopper, search_alg=searcher, num_samples=missing)

    def _repeat(self, needs: dict[str, float]) -> None:
        """Train the baseline and the best trial again with further seeds."""
        names = missing_repeats(self._study, self._plan.search)
        if not names:
            return
        for name, trial in names.items():
            info = self._study.trial(trial).info
            seed = derive_seed(self._plan.search.seed, "repeat", name)
            repeat = info.model_copy(update={"seed": seed, "origin": "repeat", "repeats": trial})
            self._begin(name, repeat)
        self._fit(needs, {"trial": tune.grid_search(list(names))}, num_samples=1)
        for name in names:
            finished = len(self._study.trial(name).records()) == self._plan.train.epochs
            if finished:
                self._on_end(name, Decision(Outcome.FINISHED))

    def _fit(
        self,
        needs: dict[str, float],
        params: dict[str, Any],
        *,
        rules: TrialStopper | None = None,
        **settings: Any,
    ) -> None:
        budget = self._plan.time_budget_s
        if budget is not None:
            budget -= time.monotonic() - self._started
            if budget <= 0:
                return
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, task=self._task), needs),
            param_space=params,
            tune_config=tune.TuneConfig(
                max_concurrent_trials=self._plan.search.max_concurrent,
                reuse_actors=True,
                time_budget_s=budget,
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
        tuner.fit()

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
        self._progress.ended(name, decision)

    def _on_crash(self, name: str) -> None:
        write_end(self._study, name, Outcome.CRASHED, "out of retries")
        self._progress.crashed(name)


class _Watched(tune.Stopper):
    """Shows each reported epoch to a person before `rules`, if any, decide on the trial."""

    def __init__(
        self, progress: Progress, objective: str, rules: TrialStopper | None = None
    ) -> None:
        self._progress, self._objective, self._rules = progress, objective, rules

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether Tune ends the trial now."""
        self._progress.epoch(result["trial"], result["epoch"], result[self._objective])
        return self._rules is not None and self._rules(trial_id, result)

    def stop_all(self) -> bool:
        """Return False: one trial's end never ends the others."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its parts beside the trials; nothing reads them


def trial_needs(config: SearchConfig, there: Resources) -> dict[str, float]:
    """Return what Ray sets aside for a trial; `InputError` if no node has as much."""
    gpus = config.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if there.gpus else 0.0
    if config.cpus_per_trial > there.node_cpus or gpus > there.node_gpus:
        raise InputError(
            f"a trial needs {config.cpus_per_trial:g} CPUs and {gpus:g} GPUs, but the largest node "
            f"has {there.node_cpus:g} and {there.node_gpus:g}; lower --cpus-per-trial or "
            "--gpus-per-trial"
        )
    return {"cpu": config.cpus_per_trial, "gpu": gpus}


def missing_repeats(study: Study, config: SearchConfig) -> dict[str, str]:
    """Return the repeats that have not finished, as name → the trial that each repeats."""
    if not config.repeats:
        return {}
    found = summary.lines(study, config)
    best = summary.best(found, config)
    repeated = dict.fromkeys(["t0000", *([best.trial.name] if best else [])])
    finished = {line.trial.name for line in found if line.finished}
    names = {f"{t}r{k}": t for t in repeated for k in range(1, config.repeats + 1)}
    return {name: trial for name, trial in names.items() if name not in finished}


def write_end(study: Study, name: str, outcome: Outcome, reason: str) -> None:
    """Write how a trial ended."""
    end = TrialEnd(outcome=outcome, reason=reason, time=time.time())
    write(study.path / name / "end.json", end)
