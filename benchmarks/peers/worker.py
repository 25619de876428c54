"""A process that takes one training step for each line it reads, and says what it took.

It knows nothing of PyTorch, so that the peer in Keras can be such a process in an environment of
its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What is trained: image side in pixels, channels' factor, real images per step, threads."""

    size: int
    width: float
    batch: int
    threads: int

    def words(self) -> list[str]:
        """Return them as the command line that `serve` reads."""
        return [f"--{name}={value}" for name, value in vars(self).items()]


Step = Callable[[], object]
Profile = Callable[[], list[tuple[str, float]]]


def serve(prepare: Callable[[Settings], tuple[Step, Profile | None]]) -> None:
    """Prepare a step, then do what each line of standard input says: "step" or "profile".

    Answers with one line of JSON each: `wall_s`, `cpu_s` and `peak_bytes`, or a list of
    (operation, share).
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--width", type=float, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    step, profile = prepare(Settings(**vars(parser.parse_args())))
    answers: dict[str, Callable[[], Any]] = {"step": lambda: _timed(step)}
    if profile is not None:
        answers["profile"] = profile
    for line in sys.stdin:
        print(json.dumps(answers[line.strip()]()), flush=True)


def _timed(step: Step) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
