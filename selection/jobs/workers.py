"""Ray: does the jobs of a pick side by side, on this machine or on a cluster."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from acgan.command import duration, say
from acgan.cores import keep_freed_memory
from acgan.errors import InputError
from search.nodes.cluster import needs, ray_cluster
from search.study.store.study_copy import RESULTS
from selection.jobs.results import Result, StoredJob
from selection.settings import SelectionConfig

HEARTBEAT_S = 60.0  # between lines while nothing is done

ResultT = TypeVar("ResultT", bound=Result)


class LostError(RuntimeError):
    """A job's process died again and again, as it does without memory; what is stored stays."""


class Results:
    """The results of jobs that are done."""

    def __init__(self, results: Mapping[StoredJob[Result], Result]) -> None:
        self._results = results

    def __getitem__(self, job: StoredJob[ResultT]) -> ResultT:
        return cast("ResultT", self._results[job])


class Workers(contextlib.ExitStack):
    """Does jobs; starts or joins Ray with the first one, so a pick that lacks none needs none.

    say: is told how far it is
    """

    def __init__(
        self,
        settings: SelectionConfig,
        *,
        address: str | None = None,
        verbose: bool = False,
        say: Callable[[str], None] = say,
    ) -> None:
        super().__init__()
        self._settings, self._address, self._verbose = settings, address, verbose
        self.say = say
        self._needs: dict[str, float] | None = None

    def _start(self) -> dict[str, float]:
        if self._needs is None:
            self.say("starting Ray")
            nodes = self.enter_context(ray_cluster(self._address, verbose=self._verbose))
            settings = self._settings
            self._needs = needs(
                nodes, cpus=settings.cpus_per_task, gpus=settings.gpus_per_task, unit="task"
            )
        return self._needs

    def do(self, jobs: Sequence[StoredJob[Result]], what: str) -> Results:
        """Do the jobs that are not done, saying how far it is and how long it may still take.

        Returns the results of all, each read once. Raises `InputError` as a job did. A job whose
        process dies is done again by Ray, a few times; then `LostError`.
        """
        results = {job: job.result() for job in jobs}
        missing = [job for job, result in results.items() if result is None]
        if missing:
            own = missing[0].work.at.copy()
            if own is not None:
                for job in missing:
                    job.forget()  # what is here and damaged, in whose place nothing is fetched
            self.run(missing, what, there=len(results) - len(missing))
            if own is not None:
                own.fetch_results()
        results |= {job: job.result() for job in missing}
        return Results({job: result for job, result in results.items() if result is not None})

    def run(self, jobs: Sequence[StoredJob[Result]], what: str, *, there: int) -> None:
        """Run jobs by Ray; `there` more are done already."""
        given = self._start()
        remote = ray.remote(num_cpus=given["cpu"], num_gpus=given["gpu"])(_run)
        names = {remote.remote(job, given["gpu"] > 0): job.name for job in jobs}
        self.say(f"{what}: {len(jobs)} to do" + (f", {there} there" if there else ""))
        started, waiting = time.monotonic(), list(names)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=HEARTBEAT_S)
            done, so_far = len(jobs) - len(waiting), time.monotonic() - started
            if not ready:
                self.say(f"{what}: {done} of {len(jobs)} done after {duration(so_far)}")
                continue
            (finished,) = ready
            _get(finished)
            left = so_far / done * len(waiting)
            rest = f", about {duration(left)} left" if waiting and done > 1 else ""
            self.say(f"{what}: {names[finished]} done, {done} of {len(jobs)}{rest}")


def tell_lost(error: LostError, again: str) -> int:
    """Say that a process is lost and what to type; return the exit code."""
    print(f"error: a process is lost ({error})", file=sys.stderr)
    print(f"what is done is kept; to go on, type: {again}", file=sys.stderr)
    return 1


def _run(job: StoredJob[Result], gpu: bool) -> None:
    keep_freed_memory()
    own = job.work.at.copy()
    if own is None:
        job.run(gpu=gpu)
        return
    own.fetch_results()
    job.run(gpu=gpu)
    files = (job.path, *(job.file(ending) for ending in job.files))
    own.send_results(*(f"{RESULTS}/{path.name}" for path in files))


def _get(reference: ray.ObjectRef[None]) -> None:
    try:
        ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, InputError | OSError):
            raise error.cause from error
        if isinstance(error.cause, torch.OutOfMemoryError | MemoryError):
            text = "out of memory; name a larger --gpus-per-task or --cpus-per-task"
            raise LostError(text) from error
        raise
    except RayError as error:
        raise LostError(str(error).strip().splitlines()[0]) from error
