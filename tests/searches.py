"""Real searches on a few tiny images, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
from PIL import Image

from acgan.run.records import EpochRecord, read_records
from search.study.folder import Outcome, Study, open_study
from tests.kit import CLASSES, tiny_images

CONFIG = """
train: {image_size: 16, width: 0.0625, batch_size: 16, epochs: 6, latent_size: 8}
space:
  learning_rate: {low: 5.0e-5, high: 8.0e-4, log: true}
  dropout: {low: 0.1, high: 0.6}
search: {stop_pruned: false, stop_collapsed: false, stop_discriminator_won: false}
"""

MARK = "TESTED_STUDY"  # in the environment of all that a search starts
Records = dict[str, list[EpochRecord]]  # of each trial


def write_images(folder: Path, *, train: int = 90, test: int = 30) -> None:
    """Write a class-folder data set of grey ramps as PNG files."""
    for split, count, seed in (("train", train, 0), ("test", test, 1)):
        images = tiny_images(count, seed=seed)
        for index, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
            path = folder / split / CLASSES[label] / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


class Search:
    """One study in a folder of its own, searched by the real command."""

    def __init__(self, folder: Path, images: Path, database: Path) -> None:
        self.folder = folder
        self.cache = folder / "c"
        self.database = database
        self.uri = f"sqlite:///{database}"
        self._processes: list[subprocess.Popen[str]] = []
        (folder / "tiny.yaml").write_text(CONFIG)
        self.options = ["--config", "tiny.yaml", "--data", str(images), "--tracking-uri", self.uri]

    @property
    def path(self) -> Path:
        """The study's folder, also before it is there."""
        return self.folder / "runs" / "tiny"

    @property
    def study(self) -> Study:
        """The study, once it is there."""
        return open_study(self.path)

    def environment(self) -> dict[str, str]:
        """Return the environment of the command: this one's, without a cluster."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACGAN_CACHE": str(self.cache)}
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
            environment.pop(name, None)
        return environment | {MARK: str(self.folder)}

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Type the command in the folder; the caller waits for it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "search.run", *self.options, *options],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that Ctrl-C can reach all of it, as in a terminal
        )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """End what a failed test left running."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=1500)

    def run(self, *options: str, code: int = 0) -> str:
        """Type the command, wait, and return what it printed."""
        process = self.start(*options)
        output, _ = process.communicate(timeout=1500)
        assert process.returncode == code, output
        return output

    def epochs(self, name: str) -> list[int]:
        """Return the epochs that a trial has on disk."""
        path = self.path / name / "epochs.jsonl"
        return [record.epoch for record in read_records(path)]

    def epochs_kept(self) -> int:
        """Return how many epochs all trials have, where they are kept."""
        return sum(len(read_records(path)) for path in self.path.glob("t*/epochs.jsonl"))

    def records(self) -> Records:
        """Return each trial's epochs; none before the study is there."""
        if not (self.path / "study.json").exists():
            return {}
        return {trial.name: trial.records() for trial in self.study.trials()}

    def owners(self) -> dict[str, int]:
        """Return the process that trains each trial now."""
        runs = {path.parent for path in self.path.glob("t*/owner.json")}
        return alive_owners(run for run in runs if not (run / "end.json").exists())

    def ended_files(self) -> dict[str, str]:
        """Return the files of the trials that have ended, and what tells when each was written."""
        ended = [path.parent for path in self.path.glob("t*/end.json")]
        counted = [p for p in ended if Outcome.INTERRUPTED not in (p / "end.json").read_text()]
        files = [path for folder in counted for path in folder.rglob("*.*")]
        return {str(path): str(path.stat().st_mtime_ns) for path in files}


def alive_owners(runs: Iterable[Path]) -> dict[str, int]:
    """Return the processes that own runs, by the names of their trials, if they are there."""
    found = {}
    for run in runs:
        pid = json.loads((run / "owner.json").read_bytes())["pid"]
        if psutil.pid_exists(pid):
            found[run.name] = pid
    return found


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 200) -> None:
    """Wait until the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.02)
