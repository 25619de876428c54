"""Times of things side by side, so that a machine's slow minute hits all alike."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch


def alternating(bodies: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Call each body once a round, in turn, after one call each that does not count.

    Returns the seconds of each, one a round. A body must have done its work when it returns.
    """
    for body in bodies.values():
        body()
    seconds: dict[str, list[float]] = {name: [] for name in bodies}
    for _ in range(rounds):
        for name, body in bodies.items():
            started = time.perf_counter()
            body()
            seconds[name].append(time.perf_counter() - started)
    return seconds


@dataclass(frozen=True)
class Ratio:
    """How many times as much the first is as the second: of the rounds the median, and all."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(of: Sequence[float], to: Sequence[float]) -> Ratio:
    """Return the ratio of two series that were measured in turn, round by round."""
    found = [a / b for a, b in zip(of, to, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one thread, as a trial or a job of a pick does by default."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
