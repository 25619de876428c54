"""How many small trials at once, on how many threads each, train the most images on this machine.

Every cell of the grid is so many processes that take the recipe's step side by side, each on so
many threads; all cells are measured in turn, a few times. A machine that does something else beside
shows that, and not itself: wait until it is idle.

    python -m benchmarks.grid --out docs/performance.md
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from acgan.command import command, run_command
from acgan.cores import usable_cores
from benchmarks.peers.worker import Settings
from benchmarks.report import benchmark_parser, publish, table
from benchmarks.step import RECIPE, Worker, recipe_commands
from benchmarks.timing import ratio
from selection.metrics.wording import counted


class Cell(NamedTuple):
    """So many trials at once, each on so many threads."""

    processes: int
    threads: int


Rates = Mapping[Cell, Sequence[float]]
"""Images a second of all processes of a cell together, one number a round."""


def cells(cores: int) -> list[Cell]:
    """Return the grid: one, two, four … of both, up to twice as many threads as there are cores."""
    powers = [2**n for n in range(cores.bit_length() + 1)]
    found = [Cell(p, t) for p in powers for t in powers if t <= cores and p * t <= 2 * cores]
    return sorted({*found, default(cores)})


def default(cores: int) -> Cell:
    """Return what a search does of itself: a trial a core, on one thread."""
    return Cell(cores, 1)


def images_per_s(cell: Cell, settings: Settings, seconds: float) -> float:
    """Return the images a second of a cell's processes together, each in steps for so long."""
    with contextlib.ExitStack() as stack:
        words = recipe_commands()[RECIPE]
        own = replace(settings, threads=cell.threads)
        workers = [stack.enter_context(Worker(words, own)) for _ in range(cell.processes)]
        pool = stack.enter_context(ThreadPoolExecutor(cell.processes))
        list(pool.map(lambda worker: _steps(worker, 0), workers))  # until all are warm
        rates = pool.map(lambda worker: _steps(worker, seconds), workers)
        return settings.batch * sum(rates)


def _steps(worker: Worker, seconds: float) -> float:
    """Return the steps a second of one process."""
    started, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - started < seconds:
        worker.ask("step")
        steps += 1
    return steps / (time.perf_counter() - started)


def report(found: Rates, settings: Settings, cores: int) -> str:
    """Return the grid as a table, and what is best in it beside the default."""
    usual = default(cores)
    medians = {cell: statistics.median(rates) for cell, rates in found.items()}
    rows = [
        [*cell, medians[cell], medians[cell] / cell.processes, str(ratio(rates, found[usual]))]
        for cell, rates in found.items()
    ]
    header = ("trials at once", "threads each", "images/s", "images/s of one", "over the default")
    best = max(medians, key=lambda cell: medians[cell])
    return (
        f"The recipe's step at {settings.size} px, width {settings.width:g}, batch "
        f"{settings.batch}, on {cores} cores:\n\n{table(header, rows)}\n\n"
        f"Most images: {best.processes} at once with {counted(best.threads, 'thread')} each. "
        f"The default is {usual.processes} on {usual.threads}."
    )


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command."""
    parser = benchmark_parser("grid", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of all cells (default: 3)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a cell (default: 20)")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _grid(arguments), resume="type the same command again")


def _grid(arguments: argparse.Namespace) -> int:
    settings, cores = Settings(size=32, width=0.25, batch=16, threads=1), usable_cores()
    found: dict[Cell, list[float]] = {cell: [] for cell in cells(cores)}
    for _ in range(arguments.rounds):
        for cell, rates in found.items():
            rates.append(images_per_s(cell, settings, arguments.seconds))
    publish("grid", report(found, settings, cores), arguments.out)
    return 0


if __name__ == "__main__":
    main()
