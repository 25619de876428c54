"""What a search adds to training: equal trials by `search.run`, alone, and wired by hand.

All one after another, each on one thread: a search of N trials, then the same N configurations by
`acgan.train`, a process each, then N by Ray Tune's own `OptunaSearch` and `MLflowLoggerCallback`.
What a trial costs besides its epochs, and an epoch besides its training steps, is taken from its
own records, so that a slow minute of the machine, which makes all of it longer, does not count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from acgan.config import TrainConfig
from acgan.data.pack import load
from acgan.run.records import EpochRecord, read_records
from benchmarks.report import ROOT, benchmark, benchmark_parser, table
from search.settings import STOPPING_RULES

TRAIN = TrainConfig(image_size=32, width=0.0625, batch_size=16)
CONFIG = """\
data: phantom
train: {image_size: 32, width: 0.0625, batch_size: 16}
space: {learning_rate: {low: 5.0e-5, high: 8.0e-4, log: true}}
search:
  max_concurrent: 1
""" + "".join(f"  {rule}: false\n" for rule in STOPPING_RULES)
LONG_EPOCH_S = 5.0
SHARE_AT_MOST = 0.03
LATER_AT_MOST_S = 1.0
PUBLISHED_EPOCHS = TrainConfig().epochs


@dataclass(frozen=True)
class Way:
    """One way to train the trials: from its first process's start to its last one's end.

    images: training images, which `perf/images_per_s` in the records counts
    """

    started: float
    ended: float
    images: int
    runs: list[list[EpochRecord]]

    @property
    def epochs(self) -> int:
        """Epochs of a trial."""
        return len(self.runs[0])

    @property
    def epoch_s(self) -> float:
        """Seconds of an epoch, the lower quartile: what else runs here makes epochs longer."""
        durations = [duration for run in self.runs for duration in _durations(run)]
        return statistics.quantiles(durations, n=4)[0]

    @property
    def trial_s(self) -> float:
        """Seconds a trial, all starts and ends included."""
        return (self.ended - self.started) / len(self.runs)

    @property
    def first_epoch_s(self) -> float:
        """From the command to the first epoch that is on disk."""
        return self.runs[0][0].time - self.started

    @property
    def between_s(self) -> float:
        """What a trial after the first takes besides its epochs: the median."""
        return statistics.median(
            run[-1].time - before[-1].time - len(run) * statistics.fmean(_durations(run))
            for before, run in itertools.pairwise(self.runs)
        )

    @property
    def besides(self) -> float:
        """What an epoch takes besides its training steps, as a share of these: the median."""
        return statistics.median(
            duration * record.metrics["perf/images_per_s"] / self.images - 1
            for run in self.runs
            for duration, record in zip(_durations(run), run[1:], strict=True)
        )

    def longer_s(self, alone: Way) -> float:
        """Return by how much an epoch is longer than alone, at the speed of that one's steps."""
        return (self.besides - alone.besides) * alone.epoch_s / (1 + alone.besides)

    def share(self, alone: Way, *, epoch_s: float, epochs: int) -> float:
        """Return what is added to trials of so many epochs, as a share of these alone."""
        return (self.between_s / epochs + self.longer_s(alone)) / epoch_s


def _durations(run: Sequence[EpochRecord]) -> list[float]:
    return [after.time - before.time for before, after in itertools.pairwise(run)]


def measure(trials: int, epochs: int) -> dict[str, Way]:
    """Train the trials in each way."""
    images = len(load("phantom", image_size=TRAIN.image_size).train)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "overhead.yaml").write_text(CONFIG)
        # The images and the scoring CNN are there before any of them begins.
        _train(folder, folder / "warm-up", epochs=1)
        bodies = {
            "`search.run`": (folder / "runs" / "overhead", _search),
            "`acgan.train`": (folder / "alone", _alone),
            "by hand": (folder / "hand" / "runs", _by_hand),
        }
        return {
            name: timed(runs, images, partial(body, folder, trials, epochs))
            for name, (runs, body) in bodies.items()
        }


def timed(runs: Path, images: int, body: Callable[[], None]) -> Way:
    """Return how a way went that leaves its runs in a folder."""
    started = time.time()
    body()
    ended = time.time()
    found = [read_records(path) for path in runs.glob("*/epochs.jsonl")]
    return Way(started, ended, images, sorted(found, key=lambda run: run[0].time))


def _search(folder: Path, trials: int, epochs: int) -> None:
    words = ["search.run", "--config", "overhead.yaml", "--num-samples", str(trials)]
    _python(folder, *words, "--epochs", str(epochs))


def _alone(folder: Path, trials: int, epochs: int) -> None:
    """Train the points that the search has trained."""
    paths = sorted((folder / "runs" / "overhead").glob("t*/trial.json"))
    assert len(paths) == trials
    for path in paths:
        point = json.loads(path.read_bytes())
        flags = {"learning-rate": point["params"]["learning_rate"], "seed": point["seed"]}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        _train(folder, folder / "alone" / f"t{point['number']:04}", *words, epochs=epochs)


def _train(folder: Path, run: Path, *words: str, epochs: int) -> None:
    words = ("--device", "cpu", "--epochs", str(epochs), *words)
    _python(folder, "acgan.train", "--config", "overhead.yaml", "--run", str(run), *words)


def _by_hand(folder: Path, trials: int, epochs: int) -> None:
    config = TRAIN.model_copy(update={"epochs": epochs})
    words = ["--folder", str(folder / "hand"), "--source", "phantom", "--trials", str(trials)]
    _python(folder, "benchmarks.handwired", "--train", config.model_dump_json(), *words)


def _python(folder: Path, module: str, *words: str) -> None:
    """Run a module of this checkout in the folder; it must succeed."""
    theirs = ("RAY_", "TUNE_", "MLFLOW_", "ACGAN_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(theirs)} | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACGAN_CACHE": str(folder / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def text(ways: dict[str, Way]) -> str:
    """Return the table and what it says."""
    alone = ways["`acgan.train`"]
    rows = [
        [
            name,
            way.trial_s,
            way.first_epoch_s,
            way.epoch_s,
            1000 * way.longer_s(alone),
            way.between_s,
            _percent(way.share(alone, epoch_s=alone.epoch_s, epochs=alone.epochs)),
            _percent(way.share(alone, epoch_s=LONG_EPOCH_S, epochs=alone.epochs)),
            _percent(way.share(alone, epoch_s=LONG_EPOCH_S, epochs=PUBLISHED_EPOCHS)),
        ]
        for name, way in ways.items()
    ]
    header = (
        "way",
        "s a trial",
        "s to the first epoch",
        "s an epoch",
        "ms per epoch beyond alone",
        "s a trial after the first, besides its epochs",
        "added to the epochs alone, as measured",
        f"of {LONG_EPOCH_S:g} s an epoch",
        f"of {LONG_EPOCH_S:g} s, {PUBLISHED_EPOCHS} epochs",
    )
    return f"{table(header, rows)}\n\n{_words(ways, alone)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _words(ways: dict[str, Way], alone: Way) -> str:
    searched = ways["`search.run`"]
    share = searched.share(alone, epoch_s=LONG_EPOCH_S, epochs=alone.epochs)
    limits = (
        (share, SHARE_AT_MOST, f"share at {LONG_EPOCH_S:g} s an epoch", _percent),
        (searched.between_s, LATER_AT_MOST_S, "time between trials", "{:.2f} s".format),
    )
    verdicts = "; ".join(
        f"{what} {shown(found)} ({shown(limit)} wanted: {'met' if found <= limit else 'missed'})"
        for found, limit, what, shown in limits
    )
    return (
        f"{len(alone.runs)} trials of {alone.epochs} epochs, one after another, each on one "
        "thread. `acgan.train` is a process for each run, so its starts count between trials; "
        "the epochs alone are its epochs. Wired by hand, nothing is kept for a further start, "
        "and MLflow gets no images, which a search sends beside the training and so on the same "
        f"cores. `search.run`: {verdicts}."
    )


def _parser() -> argparse.ArgumentParser:
    parser = benchmark_parser("overhead", __doc__)
    parser.add_argument("--trials", type=int, default=8, help="trials of each way (default: 8)")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of a trial (default: 6)")
    return parser


main = benchmark(_parser, lambda asked: text(measure(asked.trials, asked.epochs)))

if __name__ == "__main__":
    main()
