"""A body in a process of its own, and what that process takes while it works."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import psutil

P = ParamSpec("P")
T = TypeVar("T")

SAMPLE_EVERY_S = 1.0
MB = 1e6


def in_fresh_process(body: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a function of a module returns in a new Python process.

    Memory that an earlier body left behind does not count, nor what it has imported.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(body, *args, **kwargs).result()


@dataclass(frozen=True)
class Sample:
    """One look at this process: resident memory, CPU seconds since the start, and work done."""

    at_s: float
    memory_mb: float
    cpu_s: float
    done: int


@dataclass
class Watch:
    """The looks at a body, the first before it begins and the last after its end."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def wall_s(self) -> float:
        """From the first look to the last."""
        return self.samples[-1].at_s - self.samples[0].at_s

    @property
    def cpu_s(self) -> float:
        """CPU seconds of this process alone, its threads together."""
        return self.samples[-1].cpu_s - self.samples[0].cpu_s

    @property
    def start_mb(self) -> float:
        """Memory before the body."""
        return self.samples[0].memory_mb

    @property
    def added_mb(self) -> float:
        """The most memory above the start."""
        return max(sample.memory_mb for sample in self.samples) - self.start_mb

    def rate(self, begin: float, end: float) -> float:
        """Return the work done a second between two shares of all work, such as 0.8 and 1."""
        work, seconds, _cpu = self._between(begin, end)
        return work / seconds

    def cpu_of_each(self, begin: float, end: float) -> float:
        """Return the CPU seconds that a piece of work took between two shares of all work."""
        work, _seconds, cpu_s = self._between(begin, end)
        return cpu_s / work

    def _between(self, begin: float, end: float) -> tuple[float, float, float]:
        """Return work done, seconds, and CPU seconds between two shares of all work."""
        first, last = self.samples[0].done, self.samples[-1].done
        low, high = (first + share * (last - first) for share in (begin, end))
        (at_low, cpu_low), (at_high, cpu_high) = self._reached(low), self._reached(high)
        return high - low, at_high - at_low, cpu_high - cpu_low

    def _reached(self, done: float) -> tuple[float, float]:
        """Return after how many seconds, and CPU seconds, so much was done.

        Between two looks it is in proportion. The first work is taken to begin with the look before
        it: what comes earlier is a start.
        """
        pairs = itertools.pairwise(self.samples)
        working = [pair for pair in pairs if pair[1].done > pair[0].done]
        before, after = next(pair for pair in working if pair[1].done >= done)
        share = (done - before.done) / (after.done - before.done)
        at_s = before.at_s + share * (after.at_s - before.at_s)
        return at_s, before.cpu_s + share * (after.cpu_s - before.cpu_s)


@contextlib.contextmanager
def watched(
    done: Callable[[], int] = lambda: 0, *, every_s: float = SAMPLE_EVERY_S
) -> Iterator[Watch]:
    """Look at this process each `every_s` while the context lasts; `done` counts its work."""
    process, watch, over = psutil.Process(), Watch(), threading.Event()
    started = time.perf_counter()

    def look() -> None:
        spent = process.cpu_times()
        memory_mb = process.memory_info().rss / MB
        at_s = time.perf_counter() - started
        watch.samples.append(Sample(at_s, memory_mb, spent.user + spent.system, done()))

    def keep_looking() -> None:
        while not over.wait(every_s):
            look()

    look()
    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        look()
