"""One training step beside the published Keras model, a plain PyTorch port, and the limit.

Each way is a process of its own, and they take their steps in turn. The limit is the step's
operations at the rate at which the same device multiplies matrices of the same numbers in the same
run. On a GPU the plain port and this project's step are measured in bfloat16, too. The step of the
recipe in `configs/small.yaml` stands beside a plain port of that recipe and the published step of
the same size; its limit is of the products that it computes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode

from acgan.command import command, run_command
from acgan.cores import usable_cores
from acgan.run.device import default_device
from benchmarks.peers.torch_worker import project, published, recipe
from benchmarks.peers.worker import Settings
from benchmarks.report import ROOT, benchmark_parser, publish, table
from benchmarks.timing import ratio
from search.study.estimate import matrix_rate, step_flop

PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
KERAS, PLAIN, PROJECT = "Keras on TensorFlow, as published", "plain PyTorch port", "this project"
PLAIN_BFLOAT16, PROJECT_BFLOAT16 = f"{PLAIN}, bfloat16", f"{PROJECT}, bfloat16"
PLAIN_RECIPE, RECIPE = "plain PyTorch port of the recipe", "recipe"
PUBLISHED = "published step of the same size"
NOT_MEASURED = "not measured"


class Worker:
    """One way's process."""

    def __init__(self, command: Sequence[str], settings: Settings) -> None:
        self._name = " ".join(command)
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}
        self._process = subprocess.Popen(
            [*command, *settings.words()],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, what: str) -> Any:
        """Return what the process answers; `RuntimeError` if it has ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(what, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} has ended")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def commands(peers_python: Path) -> dict[str, list[str]]:
    """Return the command of each way that is installed."""
    ours = [sys.executable, "-m", "benchmarks.peers.torch_worker"]
    found = {PLAIN: [*ours, "plain"], PROJECT: [*ours, "step"]}
    if torch.cuda.is_available():  # a CPU has it by emulation, if at all
        found[PLAIN_BFLOAT16] = [*ours, "plain-bfloat16"]
        found[PROJECT_BFLOAT16] = [*ours, "step-bfloat16"]
    if not peers_python.exists():
        return found
    return {KERAS: [str(peers_python), "-m", "benchmarks.peers.keras_worker"], **found}


def recipe_commands() -> dict[str, list[str]]:
    """Return the command of each way beside the recipe's step."""
    ours = [sys.executable, "-m", "benchmarks.peers.torch_worker"]
    names = {PLAIN_RECIPE: "plain-recipe", RECIPE: "recipe", PUBLISHED: "step"}
    return {name: [*ours, way] for name, way in names.items()}


@contextlib.contextmanager
def workers(settings: Settings, commands: dict[str, list[str]]) -> Iterator[dict[str, Worker]]:
    """Start each way's process."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Worker(command, settings))
            for name, command in commands.items()
        }


Answers = dict[str, list[dict[str, float]]]


def measure(ways: dict[str, Worker], rounds: int) -> Answers:
    """Let each take a step a round, in turn, after two that do not count."""
    answers: Answers = {name: [] for name in ways}
    for _ in range(rounds + 2):
        for name, worker in ways.items():
            answers[name].append(worker.ask("step"))
    return {name: found[2:] for name, found in answers.items()}


Rates = dict[torch.dtype, float]
"""Operations a second of a matrix product."""


def rates(settings: Settings) -> Rates:
    """Return the rate of each type of number that a way computes with on this machine's device."""
    device = default_device()
    types = [torch.float32, *([torch.bfloat16] if device.type == "cuda" else [])]
    clock = time.process_time if alone(settings) else time.perf_counter
    return {dtype: matrix_rate(device, dtype, clock) for dtype in types}


def alone(settings: Settings) -> bool:
    """Whether one thread of a CPU does it all: then its processor's time is what counts."""
    return settings.threads == 1 and default_device().type == "cpu"


PEERS = {
    KERAS: "times as fast as Keras",
    PLAIN: "times as fast as the plain port",
    PLAIN_BFLOAT16: "times as fast as it in bfloat16",
}
RECIPE_PEERS = {
    PLAIN_RECIPE: "times as fast as the plain port",
    PUBLISHED: "times as fast as the published step",
}


def header(peers: Iterable[str]) -> list[str]:
    """Return what stands above `rows`, with these columns about peers."""
    own = ["way", "s a step", "images/s", "processor s a step", "peak GB"]
    return [*own, *peers, "of the limit, at best"]


def rows(
    answers: Answers, settings: Settings, rate: Rates, peers: Iterable[str] = PEERS
) -> list[list[object]]:
    """Return a row for each way, its limit by the rate of the numbers that it computes with.

    What one thread of a CPU does is compared by its processor's time: other work counts for little.
    """
    clock = "cpu_s" if alone(settings) else "wall_s"
    spent = {name: [answer[clock] for answer in found] for name, found in answers.items()}

    def against(other: str, name: str) -> str:
        return str(ratio(spent[other], spent[name])) if other in spent else NOT_MEASURED

    def limit_s(name: str) -> float:
        reduced = name in (PLAIN_BFLOAT16, PROJECT_BFLOAT16)
        count = recipe_flop(settings) if name in (RECIPE, PLAIN_RECIPE) else flop(settings)
        return count / rate[torch.bfloat16 if reduced else torch.float32]

    return [
        [
            name,
            statistics.median(answer["wall_s"] for answer in found),
            settings.batch / statistics.median(spent[name]),
            statistics.median(answer["cpu_s"] for answer in found),
            max(answer["peak_bytes"] for answer in found) / 1e9,
            *(against(other, name) for other in peers),
            f"{100 * limit_s(name) / min(spent[name]):.0f} %",
        ]
        for name, found in answers.items()
    ]


def flop(settings: Settings) -> float:
    """Return the operations of one published step."""
    return step_flop(published(settings))


@cache
def recipe_flop(settings: Settings) -> float:
    """Return the operations that one step of the recipe computes here: convolutions, matrices."""
    step = project(settings, recipe)
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def section(
    settings: Settings, commands: dict[str, list[str]], rounds: int, *, ours: str = PROJECT
) -> str:
    """Measure the ways of one size, and return its text. ours: the way that is profiled."""
    torch.set_num_threads(settings.threads)
    with workers(settings, commands) as ways:
        before = rates(settings)
        answers = measure(ways, rounds)
        rate = {dtype: max(before[dtype], found) for dtype, found in rates(settings).items()}
        profile = ways[ours].ask("profile")
    operations = flop(settings) if ours == PROJECT else recipe_flop(settings)
    products = "; ".join(
        f"matrix products in {str(dtype).removeprefix('torch.')} {found / 1e9:,.0f} GFLOP/s, "
        f"limit {operations / found:.3g} s"
        for dtype, found in rate.items()
    )
    title = (
        f"**{'Recipe, ' * (ours == RECIPE)}{settings.size} px, width {settings.width:g}, "
        f"batch {settings.batch}, {settings.threads} threads** ({rounds} rounds; {products})"
    )
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in profile)
    peers = PEERS if ours == PROJECT else RECIPE_PEERS
    found = table(header(peers.values()), rows(answers, settings, rate, peers))
    return f"{title}\n\n{found}\n\nProfile: {shares}."


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return 1 if a row is missing."""
    parser = benchmark_parser("step", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="steps at full size (default: 5)")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--recipe-only", action="store_true", help="measure the recipe alone")
    parser.add_argument("--peers-python", type=Path, default=PEERS_PYTHON, metavar="FILE")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _step(arguments), resume="type the same command again")


def _step(arguments: argparse.Namespace) -> int:
    batch = 64 if torch.cuda.is_available() else 8
    full = Settings(size=112, width=1.0, batch=batch, threads=arguments.threads)
    demo = Settings(size=32, width=0.25, batch=8, threads=1)
    small = replace(demo, batch=16)
    found = commands(arguments.peers_python)
    sections = [section(small, recipe_commands(), 10 * arguments.rounds, ours=RECIPE)]
    if not arguments.recipe_only:
        sections[:0] = [
            section(full, found, arguments.rounds),
            section(demo, found, 10 * arguments.rounds),
        ]
    publish("step", "\n\n".join(sections), arguments.out)
    if KERAS not in found and not arguments.recipe_only:
        print("error: a row is missing: install Keras with 'make peers'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
