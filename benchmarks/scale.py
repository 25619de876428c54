"""Large studies: the driver, a restart, selection's step 1 and the recorder, without training.

    driver   simulated trials that only report, through Ray Tune, the ledger and the stopping rules
    restart  the search typed again when ten times as many trials are all there
    step1    selection's filter over all epochs of these
    recorder epochs at a fixed rate, on SQLite and on PostgreSQL

Each is measured at two sizes, to see how it grows. `restart` and `step1` write studies of up to
ten times `--trials` into a temporary folder (0.4 MB per trial of 388 epochs), and remove them.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from acgan.training import METRIC_NAMES
from benchmarks import driving, recording, restarting
from benchmarks.driving import Driven
from benchmarks.process import in_fresh_process
from benchmarks.recording import Recorded
from benchmarks.report import benchmark, benchmark_parser, table
from benchmarks.restarting import FirstStep, Restarted
from search.study.estimate import check_disk
from tests.clusters import lacking_for_postgres, postgres

PARTS = ("driver", "restart", "step1", "recorder")
SMALL_CONCURRENCY = (2, 4, 8)
LARGER = 10  # times as many trials in a study that is typed again
BYTES_A_RECORD = 1100
BYTES_A_TRIAL = 60_000
RESTART_AT_MOST_S = 10.0
ADDED_AT_MOST_MB = 1000.0
RECORDER_AT_LEAST = 100.0
IMAGES_SHARE = 0.1  # of the time: images take five times as long to send as to come
GPUS = 1000


def _parser() -> argparse.ArgumentParser:
    parser = benchmark_parser("scale", __doc__)
    parser.add_argument("--trials", type=int, default=1000, help="of the driver (default: 1000)")
    parser.add_argument("--epochs", type=int, default=388, help="of a trial (default: 388)")
    parser.add_argument("--concurrency", type=int, default=16, help="trials at once (default: 16)")
    parser.add_argument(
        "--recorder-minutes", type=float, default=10, help="on each store (default: 10)"
    )
    parser.add_argument(
        "--recorder-rate", type=float, default=RECORDER_AT_LEAST, help="epochs per second that come"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    return parser


def _measure(arguments: argparse.Namespace) -> str:
    texts: list[str] = []
    rates: dict[str, float] = {}
    if "driver" in arguments.only:
        runs = drive_all(arguments.trials, arguments.epochs, arguments.concurrency)
        texts.append(driver_text(runs))
        rates["the driver"] = runs[-1].watch.rate(0, 1)
    if {"restart", "step1"} & set(arguments.only):
        sizes = (arguments.trials, LARGER * arguments.trials)
        texts += studies_texts(sizes, arguments.epochs, arguments.only)
    if "recorder" in arguments.only:
        found = record_all(arguments)
        texts.append(recorder_text(found))
        for store in ("SQLite", "PostgreSQL"):
            if (run := found[store]) is not None:
                rates[f"the recorder on {store}"] = run.burst_per_s
    if len(rates) > 1:
        texts.append(outlook(rates))
    return "\n\n".join(texts)


def drive_all(trials: int, epochs: int, concurrency: int) -> list[Driven]:
    """Search a tenth of the trials at several concurrencies, then all of them."""
    tenth = max(trials // 10, 1)
    small = [c for c in (*SMALL_CONCURRENCY, concurrency) if c <= concurrency]
    sizes = [*((tenth, c) for c in dict.fromkeys(small)), (trials, concurrency)]
    return [in_fresh_process(driving.drive, n, epochs, c) for n, c in sizes]


def driver_text(runs: Sequence[Driven]) -> str:
    """Return the driver's table."""
    rows = [
        [
            run.trials,
            run.epochs,
            run.concurrency,
            run.watch.wall_s,
            run.watch.rate(0, 1),
            run.watch.rate(0, 0.2),
            run.watch.rate(0.8, 1),
            1000 * run.watch.cpu_of_each(0, 0.2),
            1000 * run.watch.cpu_of_each(0.8, 1),
            run.watch.added_mb,
        ]
        for run in runs
    ]
    header = (
        "trials",
        "epochs",
        "at once",
        "s",
        "reports/s",
        "in the first fifth",
        "in the last fifth",
        "driver's CPU ms a report in the first fifth",
        "in the last",
        "driver's MB above the start",
    )
    largest = runs[-1]
    course = ", ".join(
        f"{sample.memory_mb - largest.watch.start_mb:.0f}" for sample in _tenths(largest)
    )
    return (
        f"**Driver.** Simulated trials through Ray Tune, the ledger and the stopping rules; all "
        f"processes share this machine's cores.\n\n{table(header, rows)}\n\nMemory of the largest "
        f"in ten steps: {course} MB above the start."
    )


def _tenths(run: Driven) -> Iterator[Any]:
    samples = run.watch.samples
    return (samples[round(k * (len(samples) - 1) / 10)] for k in range(1, 11))


def studies_texts(sizes: Sequence[int], epochs: int, parts: Sequence[str]) -> list[str]:
    """Write studies of these sizes, measure the parts on each, and remove it again."""
    restarts: dict[int, Restarted] = {}
    steps: dict[int, FirstStep] = {}
    for trials in sizes:
        with written_study(trials, epochs) as folder:
            if "restart" in parts:
                restarts[trials] = restarting.measure(folder, trials, epochs)
            if "step1" in parts:
                steps[trials] = in_fresh_process(restarting.step1, folder, trials, epochs)
    texts = [restart_text(restarts)] if restarts else []
    return [*texts, *([step1_text(steps)] if steps else [])]


@contextlib.contextmanager
def written_study(trials: int, epochs: int) -> Iterator[Path]:
    """Write a study into a temporary folder; `InputError` if the disk has no room for it."""
    with tempfile.TemporaryDirectory() as name:
        check_disk(Path(name), trials * (BYTES_A_TRIAL + epochs * BYTES_A_RECORD))
        in_fresh_process(restarting.write_all, Path(name), trials, epochs)
        yield Path(name)


def restart_text(restarts: dict[int, Restarted]) -> str:
    """Return the table of restarts."""
    names = list(next(iter(restarts.values())).parts.seconds)
    rows: list[list[object]] = [
        [name, *(_both(found.parts.seconds[name]) for found in restarts.values())] for name in names
    ]
    found = list(restarts.values())
    rows += [
        [
            "restore and summary, without MLflow",
            *(r.parts.restored_s for r in found),
        ],
        ["imports", *(_both(r.imports) for r in found)],
        ["the whole command `search.run`, without marks", *(_both(r.unmarked) for r in found)],
        ["the whole command `search.run`", *(_both(r.command) for r in found)],
        ["driver's MB above the start", *(r.parts.watch.added_mb for r in found)],
    ]
    largest = found[-1]
    verdict = _verdict(largest.parts.restored_s <= RESTART_AT_MOST_S)
    memory = _verdict(largest.parts.watch.added_mb <= ADDED_AT_MOST_MB)
    return (
        "**Restart.** `search.run` typed again when all trials are there, part by part in a "
        f"process of its own (seconds, of these on the CPU).\n\n"
        f"{table(['', *(f'{n:,} trials' for n in restarts)], rows)}\n\n"
        f"Wanted: restore and summary in {RESTART_AT_MOST_S:g} s ({verdict}), the driver's memory "
        f"less than {ADDED_AT_MOST_MB:g} MB above the start ({memory}). Without marks MLflow is "
        "asked which trials it has, and loads each run with all of its latest metrics, parameters "
        "and tags to answer; where trials are missing they are trained meanwhile."
    )


def _both(seconds: restarting.Seconds) -> str:
    return f"{seconds.wall:.2f} ({seconds.cpu:.2f})"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def step1_text(steps: dict[int, FirstStep]) -> str:
    """Return the table of selection's step 1."""
    rows: list[list[object]] = [
        [
            f"{trials:,}",
            f"{step.recorded:,}",
            *(_both(seconds) for seconds in step.seconds.values()),
            1e6 * step.watch.cpu_s / step.recorded,
            step.watch.added_mb,
        ]
        for trials, step in steps.items()
    ]
    header = (
        "trials",
        "epochs",
        *next(iter(steps.values())).seconds,
        "CPU µs an epoch",
        "MB added",
    )
    return (
        "**Selection's step 1**: all epochs of all trials are read, judged and filtered (seconds, "
        f"of these on the CPU).\n\n{table(header, rows)}"
    )


def record_all(arguments: argparse.Namespace) -> dict[str, Recorded | None]:
    """Run the recorder on each store; None where a store is not installed."""
    minutes = arguments.recorder_minutes
    run = partial(
        recording.record,
        per_s=arguments.recorder_rate,
        epochs=arguments.epochs,
        concurrency=arguments.concurrency,
    )
    found: dict[str, Recorded | None] = {
        "SQLite": in_fresh_process(run, None, minutes=minutes, images=False),
        "SQLite, images": in_fresh_process(run, None, minutes=IMAGES_SHARE * minutes, images=True),
        "PostgreSQL": None,
    }
    if not lacking_for_postgres():
        with postgres(synced=True) as server:
            found["PostgreSQL"] = in_fresh_process(run, server.uri, minutes=minutes, images=False)
    return found


def recorder_text(found: dict[str, Recorded | None]) -> str:
    """Return the recorder's table."""
    rows = [_recorder_row(store, run) for store, run in found.items()]
    header = (
        "store",
        "min",
        "epochs/s written",
        "epochs/s in MLflow",
        "backlog in five steps",
        "largest",
        "s to drain",
        "epochs/s of a burst",
        "images",
        "s until they were there",
        "CPU ms per epoch",
        "MB added",
    )
    first = found["SQLite"]
    assert first is not None
    enough = first.burst_per_s >= RECORDER_AT_LEAST
    return (
        f"**Recorder** alone: epochs of {len(METRIC_NAMES)} metrics come at a fixed "
        "rate, those of the row `images` with a sample grid each, which the recorder sends when "
        "the metrics of a pass are there. The backlog is what is on disk and not in MLflow, in "
        f"epochs; when it has drained, {recording.BURST_S} s' worth of epochs is written at once, "
        "without grids.\n\n"
        f"{table(header, rows)}\n\nWanted: {RECORDER_AT_LEAST:g} epochs/s on SQLite "
        f"({_verdict(enough)}), and a backlog that drains."
    )


def _recorder_row(store: str, run: Recorded | None) -> list[object]:
    if run is None:
        return [store, lacking_for_postgres(), *[""] * 10]
    steps = [run.backlog[round(k * (len(run.backlog) - 1) / 5)] for k in range(1, 6)]
    return [
        store,
        run.watch.wall_s / 60,
        run.written[-1] / run.watch.wall_s,
        run.drained_per_s,
        ", ".join(str(step) for step in steps),
        max(run.backlog),
        run.drain_s,
        run.burst_per_s,
        run.images,
        run.images_s,
        1000 * run.watch.cpu_s / run.written[-1],
        run.watch.added_mb,
    ]


def outlook(rates: dict[str, float]) -> str:
    """Return what a thousand GPUs would need of each part, by its rate in epochs per second."""
    order = sorted(rates, key=lambda name: rates[name])
    needs = "; ".join(
        f"{name} ({rates[name]:,.0f} epochs/s) keeps up with epochs of {GPUS / rates[name]:,.1f} s"
        for name in order
    )
    first = order[0][0].upper() + order[0][1:]
    return (
        f"**{GPUS:,} GPUs**, a trial each, end {GPUS:,} epochs in the time of one. On this "
        f"machine {needs}, or longer ones. {first} breaks first; what the recorder has "
        "not sent stays on disk, and no trial waits for it. Reports that the driver has not taken "
        "yet do hold their trials. So many GPUs want the driver on cores of its own, MLflow's "
        "database beside it, and `--samples-every` above 1."
    )


main = benchmark(_parser, _measure)

if __name__ == "__main__":
    main()
