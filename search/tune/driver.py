"""Brings a study to the trials asked for, with Ray Tune placing and retrying them."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.tune.execution import tune_controller
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.evaluation.variety import DIVERSITY
from acgan.files import DISK_ERRORS, replace_text, write_json
from acgan.plugins import versions
from acgan.run.records import EpochRecord, grace_epochs
from acgan.streams import without_passwords
from search.nodes.cluster import Node, needs, ray_cluster
from search.nodes.sees import StudyAt, same_plugins, same_study
from search.plan import SearchPlan
from search.settings import SearchConfig
from search.study import space, table
from search.study.folder import Outcome, Study, TrialInfo, write_end
from search.study.objective import Ended, RunningObjective
from search.study.optuna_ledger import Ledger, Proposal
from search.study.restore import trial_info
from search.study.seeds import repeat_seed
from search.study.store.study_copy import StudyCopy
from search.tune.progress import Progress, Seen
from search.tune.searcher import StudySearcher
from search.tune.stopping import RepeatStopper, TrialStopper
from search.tune.trial import HANG, prepare_scoring, run_trial

OUT_OF_MEMORY = "OutOfMemoryError"

Rules = Callable[[str, EpochRecord], bool]


@contextlib.contextmanager
def _threads_of_a_task(count: int) -> Iterator[None]:
    """Compute in this thread with as many threads as a Ray task of so many cores has.

    Their number decides the last digits. As Ray does, it leaves what the user has set.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):  # NumPy's
            yield
    finally:
        torch.set_num_threads(before)


class Driver:
    """One start of a search, from the ledger as it is to the trials asked for.

    `trainable` is what Ray Tune runs for each trial, called as `run_trial` is. `own` is the copy
    that the study's folder is of one in an object store.
    """

    def __init__(
        self,
        plan: SearchPlan,
        study: Study,
        ledger: Ledger,
        progress: Progress,
        *,
        trainable: Callable[..., None] = run_trial,
        own: StudyCopy | None = None,
    ) -> None:
        self._plan, self._study, self._ledger = plan, study, ledger
        self._progress, self._trainable, self._own = progress, trainable, own
        self._at = StudyAt.of(study, plan.last_start.source)
        self._started = time.monotonic()

    @property
    def seconds_left(self) -> float | None:
        """What is left of the time budget; None without one."""
        if self._plan.time_budget_s is None:
            return None
        return self._plan.time_budget_s - (time.monotonic() - self._started)

    def run(self) -> None:
        """Train the trials that are missing, then the repeats that are missing."""
        self._progress.doing("starting Ray")
        scoring = self.begin_scoring()
        with self._progress, ray_cluster(self._plan.address, verbose=self._plan.verbose) as nodes:
            settings = self._plan.search
            self._needs = needs(
                nodes, cpus=settings.cpus_per_trial, gpus=settings.gpus_per_trial, unit="trial"
            )
            self._push()
            if len(nodes) > 1:
                self._check_nodes(nodes)
            self._prepare(scoring)
            self._search()
            self._repeat()

    def _check_nodes(self, nodes: Sequence[Node]) -> None:
        """Raise `InputError` for a node on which no trial would do.

        It does not see this study, or has not the driver's plug-ins.
        """
        config, layout = self._plan.train, self._plan.data.layout
        what = self._at, config, layout, versions(config, layout=layout)
        check = ray.remote(num_cpus=0, max_retries=0)(_check_node)
        pins = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in nodes]
        _get([check.options(scheduling_strategy=pin).remote(*what) for pin in pins])

    def _lacks_scoring(self) -> bool:
        """Whether the scoring CNN is still to be made, or made again."""
        quality = self._study.quality()
        return quality is None or not self._study.scorer_is_whole(quality)

    def begin_scoring(self) -> Future[None] | None:
        """Begin to make the scoring CNN in a thread, beside Ray's start.

        None where it is there, where trials may run on another machine or on a GPU, and where the
        study is in an object store, which does not have it yet.
        """
        elsewhere = self._plan.address not in (None, "local") or "RAY_ADDRESS" in os.environ
        if elsewhere or self._own or ray.is_initialized() or torch.cuda.is_available():
            return None
        if not self._lacks_scoring():
            return None
        future: Future[None] = Future()
        threads = max(int(self._plan.search.cpus_per_trial), 1)

        def make() -> None:
            try:
                with _threads_of_a_task(threads):
                    prepare_scoring(self._at, gpu=False)
            except BaseException as error:  # raised where it is waited for
                future.set_exception(error)
            else:
                future.set_result(None)

        threading.Thread(target=make, name="scoring CNN", daemon=True).start()
        return future

    def _prepare(self, begun: Future[None] | None) -> None:
        """Have the scoring CNN trained where the trials will run, unless that has begun."""
        if begun is not None or self._lacks_scoring():
            if begun is None and self._study.quality() is not None:
                self._progress.say(f"{self._study.scorer_path} was damaged and is made again")
            self._progress.doing("training the scoring CNN on the real training images")
            if begun is not None:
                begun.result()
            else:
                cpus, gpus = self._needs["cpu"], self._needs["gpu"]
                remote = ray.remote(num_cpus=cpus, num_gpus=gpus)(prepare_scoring)
                _get([remote.remote(self._at, gpus > 0)])
            if self._own is not None:
                self._own.fetch(self._study.scorer_path.name, "quality.json")
        self._progress.say(table.scale(self._study))
        self._progress.doing("starting the first trials")

    def _search(self) -> None:
        missing = self._plan.search.num_samples - self._ledger.ended()
        if missing <= 0:
            return
        plan, ledger = self._plan, self._ledger
        batch_size = int(space.largest(plan.space, plan.train, "batch_size"))
        slowest = plan.train.model_copy(update={"batch_size": batch_size})
        searcher = StudySearcher(
            ledger, plan.search.num_samples, on_proposal=self._on_proposal, on_crash=self._on_crash
        )
        rules = TrialStopper(
            ledger,
            plan.search,
            epochs=plan.train.epochs,
            grace=grace_epochs(slowest, len(plan.data.train)),
            records_of=self._records_of,
            on_end=self._on_end,
        )
        self._fit({}, rules, search_alg=searcher, num_samples=missing)

    def _repeat(self) -> None:
        """Train the baseline and the best trial, once all are there, again with further seeds."""
        if self._ledger.ended() < self._plan.search.num_samples:
            return
        names = table.missing_repeats(self._study, self._plan.search)
        if not names:
            return
        self._progress.expect(len(names))
        for name, trial in names.items():
            info = self._study.trial(trial).info
            seed = repeat_seed(self._plan.search.seed, name)
            repeat = info.model_copy(update={"seed": seed, "origin": "repeat", "repeats": trial})
            self._begin(name, repeat)
        self._push()
        rules = RepeatStopper(
            self._plan.search,
            epochs=self._plan.train.epochs,
            records_of=self._records_of,
            on_end=self._on_end,
        )
        self._fit({"trial": tune.grid_search(list(names))}, rules, num_samples=1)

    def _fit(self, params: dict[str, Any], rules: Rules, **settings: Any) -> None:
        left = self.seconds_left
        if left is not None and left <= 0:
            return
        watch = ReportWatch(
            self._progress,
            self._plan.search,
            rules,
            records_of=self._records_of,
            own=self._own,
        )
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(
                    self._trainable,
                    at=self._at,
                    gpu=self._needs["gpu"] > 0,
                    hang_after_s=self._plan.search.hang_after_s,
                ),
                self._needs,
            ),
            param_space=params,
            tune_config=tune.TuneConfig(
                max_concurrent_trials=self._plan.search.max_concurrent,
                reuse_actors=True,
                time_budget_s=left,
                trial_dirname_creator=lambda trial: str(trial.config["trial"]),
                **settings,
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str(self._study.path / "ray"),
                verbose=0,
                stop=watch,
                failure_config=tune.FailureConfig(max_failures=self._plan.search.max_retries),
            ),
        )
        results = tuner.fit()
        if watch.disk_error is not None:
            raise watch.disk_error
        for result in (results[index] for index in range(len(results))):
            if result.error is not None:
                # Not by its configuration, which Tune asks of the process, and that is gone.
                name = Path(result.path).name
                reason = crash_reason(result.error, self._study.path / name)
                write_end(self._study, name, Outcome.CRASHED, reason)

    def _begin(self, name: str, info: TrialInfo) -> None:
        path = self._study.path / name
        path.mkdir(exist_ok=True)
        write_json(path / "trial.json", info)
        self._progress.begin(name)
        (path / "end.json").unlink(missing_ok=True)

    def _on_proposal(self, row: Proposal) -> None:
        self._begin(row.name, trial_info(row, self._plan.search.seed))
        self._push()

    def _on_end(self, name: str, ended: Ended) -> None:
        known = {"epochs": ended.epochs, "value": ended.value, "diversity": ended.diversity}
        write_end(self._study, name, ended.outcome, ended.reason, **known)
        self._progress.ended(name, ended)

    def _records_of(self, name: str) -> list[EpochRecord]:
        return self._study.trial(name).records()

    def _on_crash(self, name: str) -> None:
        write_end(self._study, name, Outcome.CRASHED, "out of retries")
        self._progress.crashed(name)
        self._push()

    def _push(self) -> None:
        """Have in the object store, if the study is in one, what is decided here."""
        if self._own is not None:
            self._own.push()


def _check_node(at: StudyAt, config: TrainConfig, layout: str, plugins: Mapping[str, str]) -> None:
    same_study(at)
    same_plugins(config, layout, plugins)


def _get(references: list[ray.ObjectRef[None]]) -> None:
    """Wait for tasks; raise what a task raised for the user as it is."""
    try:
        ray.get(references)
    except RayTaskError as error:
        if isinstance(error.cause, InputError | OSError):
            raise error.cause from error
        raise
    except RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"a process of the cluster was lost before the first trial ({reason}); type the same "
            "command again"
        ) from error


class _ActorManager(RayActorManager):
    """Tune's, to which a trial that Ray ended for want of memory is one whose process died.

    Of Tune's own (Ray 2.60) such a trial ends the whole search.
    """

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=f"{OUT_OF_MEMORY}: {exception}")
        super()._actor_task_failed(tracked_actor_task, exception)


tune_controller.RayActorManager = _ActorManager  # type: ignore[attr-defined]


class ReportWatch(tune.Stopper):
    """Shows each epoch that Tune is told of to a person before `rules` decide on its trial.

    rules: return for a trial's name and its newest record whether it ends there
    records_of: all of a trial's records, which are read where an earlier start has written some
    own: the copy of a study in an object store, which has each epoch before `rules` hear of it
    disk_error: why nobody can write any more; it ends all trials, and none counts as crashed
    """

    def __init__(
        self,
        progress: Progress,
        config: SearchConfig,
        rules: Rules,
        *,
        records_of: Callable[[str], Sequence[EpochRecord]],
        own: StudyCopy | None = None,
    ) -> None:
        self._progress, self._config, self._rules = progress, config, rules
        self._records_of, self._own = records_of, own
        self._values: dict[str, tuple[int, RunningObjective]] = {}  # after which epoch
        self.disk_error: OSError | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """Return whether Tune ends the trial now."""
        if "trial" not in result:
            return False  # a trial that ended before it reported anything
        name = result["trial"]
        if "disk_error" in result:
            number, path = result["disk_error"]
            self.disk_error = OSError(number, os.strerror(number), path)
            return True
        for note in result["notes"]:
            self._progress.say(f"{name}: {note}")
        if self._own is not None:
            self._own.take(name, result["commit"])
        record = EpochRecord.model_validate_json(result["record"])
        self._progress.epoch(name, self._seen(name, record))
        try:
            ends = self._rules(name, record)
            if self._own is not None:
                self._own.push()
        except OSError as error:  # of the ledger
            if error.errno not in DISK_ERRORS:
                raise
            self.disk_error = error
            return True
        if ends:
            self._values.pop(name, None)
        return ends

    def _seen(self, name: str, record: EpochRecord) -> Seen:
        after, value = self._values.get(name, (0, RunningObjective(self._config)))
        if record.epoch == after + 1:
            value.add(record)
        else:  # of an earlier start, or trained again
            before = (each for each in self._records_of(name) if each.epoch <= record.epoch)
            value = RunningObjective(self._config, before)
        self._values[name] = record.epoch, value
        return Seen(
            record.epoch,
            record.metrics[self._config.objective],
            value.value,
            record.metrics.get("perf/images_per_s", 0.0),
            None if record.young else record.metrics.get(DIVERSITY),
        )

    def stop_all(self) -> bool:
        """Return whether the disk failed; one trial's end never ends the others."""
        return self.disk_error is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its parts beside the trials; nothing reads them


def crash_reason(error: Exception, folder: Path) -> str:
    """Return in one phrase why Tune gave up a trial; all that it says goes into `crash.txt`."""
    text = without_passwords(str(error).strip())
    with contextlib.suppress(OSError):
        replace_text(folder / "crash.txt", f"{text}\n")
    hang = folder / HANG
    if hang.exists() and hang.stat().st_size:
        return f"it hung; {folder.name}/{HANG} says where"
    if OUT_OF_MEMORY in text:
        return "out of memory: Ray ended its process"
    if "its node has died" in text:
        return "its node died"
    if "its worker process has died" in text:
        return "its process was killed, perhaps by the system for want of memory"
    return text.splitlines()[-1]  # Tune's message ends with the trial's own exception
