"""One training step beside the published Keras model, a plain PyTorch port, and the limit.

Each way is a process of its own, and they take their steps in turn. The limit is the step's
operations at the rate at which the same device multiplies matrices of the same numbers in the same
run. On a GPU the plain port and this project's step are measured in bfloat16, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from acgan.command import command, run_command
from acgan.config import TrainConfig
from acgan.cores import usable_cores
from acgan.run.device import default_device
from benchmarks.peers.worker import Settings
from benchmarks.report import ROOT, benchmark_parser, publish, table
from benchmarks.timing import ratio
from search.study.estimate import matrix_rate, step_flop

PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
KERAS, PLAIN, PROJECT = "Keras on TensorFlow, as published", "plain PyTorch port", "this project"
PLAIN_BFLOAT16, PROJECT_BFLOAT16 = f"{PLAIN}, bfloat16", f"{PROJECT}, bfloat16"
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


@contextlib.contextmanager
def workers(settings: Settings, peers_python: Path) -> Iterator[dict[str, Worker]]:
    """Start each way's process."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Worker(command, settings))
            for name, command in commands(peers_python).items()
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


def rates(device: torch.device) -> Rates:
    """Return the rate of each type of number that a way computes with on the device."""
    types = [torch.float32, *([torch.bfloat16] if device.type == "cuda" else [])]
    return {dtype: matrix_rate(device, dtype) for dtype in types}


def rows(answers: Answers, settings: Settings, rate: Rates) -> list[list[object]]:
    """Return a row for each way, its limit by the rate of the numbers that it computes with."""
    wall = {name: [answer["wall_s"] for answer in found] for name, found in answers.items()}

    def against(other: str, name: str) -> str:
        return str(ratio(wall[other], wall[name])) if other in wall else NOT_MEASURED

    def limit_s(name: str) -> float:
        reduced = name in (PLAIN_BFLOAT16, PROJECT_BFLOAT16)
        return flop(settings) / rate[torch.bfloat16 if reduced else torch.float32]

    return [
        [
            name,
            statistics.median(wall[name]),
            settings.batch / statistics.median(wall[name]),
            statistics.median(answer["cpu_s"] for answer in found),
            max(answer["peak_bytes"] for answer in found) / 1e9,
            *(against(other, name) for other in (KERAS, PLAIN, PLAIN_BFLOAT16)),
            f"{100 * limit_s(name) / min(wall[name]):.0f} %",
        ]
        for name, found in answers.items()
    ]


HEADER = (
    "way",
    "s a step",
    "images/s",
    "processor s a step",
    "peak GB",
    "times as fast as Keras",
    "times as fast as the plain port",
    "times as fast as it in bfloat16",
    "of the limit, at best",
)


def flop(settings: Settings) -> float:
    """Return the operations of one step."""
    return step_flop(
        TrainConfig(image_size=settings.size, width=settings.width, batch_size=settings.batch)
    )


def section(settings: Settings, peers_python: Path, rounds: int) -> tuple[str, bool]:
    """Measure one size; return its text, and whether a row is missing."""
    device = default_device()
    torch.set_num_threads(settings.threads)
    with workers(settings, peers_python) as ways:
        before = rates(device)
        answers = measure(ways, rounds)
        rate = {dtype: max(before[dtype], found) for dtype, found in rates(device).items()}
        profile = ways[PROJECT].ask("profile")
    products = "; ".join(
        f"matrix products in {str(dtype).removeprefix('torch.')} {found / 1e9:,.0f} GFLOP/s, "
        f"limit {flop(settings) / found:.3g} s"
        for dtype, found in rate.items()
    )
    title = (
        f"**{settings.size} px, width {settings.width:g}, batch {settings.batch}, "
        f"{settings.threads} threads** ({rounds} rounds; {products})"
    )
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in profile)
    text = f"{title}\n\n{table(HEADER, rows(answers, settings, rate))}\n\nProfile: {shares}."
    return text, KERAS not in answers


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return 1 if a row is missing."""
    parser = benchmark_parser("step", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="steps at full size (default: 5)")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--peers-python", type=Path, default=PEERS_PYTHON, metavar="FILE")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _step(arguments), resume="type the same command again")


def _step(arguments: argparse.Namespace) -> int:
    batch = 64 if torch.cuda.is_available() else 8
    full = Settings(size=112, width=1.0, batch=batch, threads=arguments.threads)
    demo = Settings(size=32, width=0.25, batch=8, threads=1)
    sections = [
        section(full, arguments.peers_python, arguments.rounds),
        section(demo, arguments.peers_python, 10 * arguments.rounds),
    ]
    publish("step", "\n\n".join(text for text, _ in sections), arguments.out)
    if any(missing for _, missing in sections):
        print("error: a row is missing: install Keras with 'make peers'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
