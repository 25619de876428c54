"""Ray: does the jobs of a pick side by side, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

from acgan.command import duration
from acgan.errors import InputError
from search.cluster import needs, ray_cluster  # sets Ray's token, which its import reads

# isort: split
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from selection.settings import SelectionConfig
from selection.work import Job

T = TypeVar("T")


class LostError(RuntimeError):
    """A job's process died again and again, as it does without memory; what is stored stays."""


class Workers:
    """Does jobs; starts or joins Ray with the first one, so a pick that lacks none needs none."""

    def __init__(self, settings: SelectionConfig, *, address: str | None, verbose: bool) -> None:
        self._settings, self._address, self._verbose = settings, address, verbose
        self._stack = contextlib.ExitStack()
        self._needs: dict[str, float] | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start(self) -> dict[str, float]:
        if self._needs is None:
            print("starting Ray", flush=True)
            nodes = self._stack.enter_context(ray_cluster(self._address, verbose=self._verbose))
            settings = self._settings
            self._needs = needs(
                nodes, cpus=settings.cpus_per_task, gpus=settings.gpus_per_task, unit="task"
            )
        return self._needs

    def do(self, jobs: Sequence[Job], what: str) -> None:
        """Do the jobs that are not done, saying how far it is and how long it may still take.

        Raises `InputError` as a job did. A job whose process dies is done again by Ray, a few
        times; then `LostError`.
        """
        missing = [job for job in jobs if not job.done()]
        if not missing:
            return
        given = self._start()
        remote = ray.remote(num_cpus=given["cpu"], num_gpus=given["gpu"])(_run)
        names = {remote.remote(job, given["gpu"] > 0): job.name for job in missing}
        there = len(jobs) - len(missing)
        print(f"{what}: {len(missing)} to do" + (f", {there} there" if there else ""), flush=True)
        started, waiting = time.monotonic(), list(names)
        while waiting:
            (finished,), waiting = ray.wait(waiting, num_returns=1)
            _get(finished)
            done = len(missing) - len(waiting)
            left = (time.monotonic() - started) / done * len(waiting)
            rest = f", about {duration(left)} left" if waiting else ""
            print(f"{what}: {names[finished]} done, {done} of {len(missing)}{rest}", flush=True)


def by_workers(
    work: Callable[[Workers], T],
    settings: SelectionConfig,
    *,
    address: str | None,
    verbose: bool,
    again: str,
) -> T | None:
    """Return what `work` makes with workers of its own; None, and said, if one of them is lost.

    again: the command to type then
    """
    try:
        with Workers(settings, address=address, verbose=verbose) as workers:
            return work(workers)
    except LostError as error:
        print(f"error: a process is lost ({error})", file=sys.stderr)
        print(f"what is done is kept; to go on, type: {again}", file=sys.stderr)
        return None


def _run(job: Job, gpu: bool) -> None:
    job.run(gpu=gpu)


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
