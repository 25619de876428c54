"""Jobs on a real Ray."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from acgan.errors import InputError
from selection.settings import SelectionConfig
from selection.workers import LostError, Workers, by_workers

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Note:
    """A job that leaves a file, or ends in another way."""

    path: Path
    how: str = ""

    @property
    def name(self) -> str:
        return self.path.name

    def done(self) -> bool:
        return self.path.exists()

    def run(self, *, gpu: bool) -> None:
        if self.how == "refuses":
            raise InputError("these weights are no weights; name others")
        if self.how == "fills up":
            raise MemoryError
        if self.how == "dies":
            os._exit(1)
        self.path.write_text(f"gpu: {gpu}")


def scenario(folder: Path) -> None:
    """Do some jobs, saying on the way what was refused."""
    jobs = [Note(folder / name) for name in ("a", "b", "c")]
    jobs[1].path.write_text("there before")

    def work(workers: Workers) -> None:
        workers.do([jobs[1]], "nothing")
        workers.do(jobs, "step")
        try:
            workers.do([Note(folder / "d", "refuses")], "refuses")
        except InputError as error:
            print(f"refused: {error}", flush=True)
        try:
            workers.do([Note(folder / "d", "fills up")], "fills up")
        except LostError as error:
            print(f"lost: {error}", flush=True)
        workers.do([Note(folder / "d", "dies")], "dies")

    settings = SelectionConfig()
    assert by_workers(work, settings, address=None, verbose=False, again="the same") is None


def test_only_what_is_missing_is_done_and_ray_starts_only_for_that(tmp_path: Path) -> None:
    environment = os.environ.copy()
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        environment.pop(name, None)
    program = f"from tests.test_workers import *; scenario(Path({str(tmp_path)!r}))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    contents = [(tmp_path / name).read_text() for name in ("a", "b", "c")]
    assert contents == ["gpu: False", "there before", "gpu: False"]
    lines = done.stdout.splitlines()
    assert lines[:2] == ["starting Ray", "step: 2 to do, 1 there"]
    assert re.fullmatch(r"step: [ac] done, 1 of 2, about \d+ s left", lines[2])
    assert re.fullmatch(r"step: [ac] done, 2 of 2", lines[3])
    assert "refused: these weights are no weights; name others" in lines
    assert "lost: out of memory; name a larger --gpus-per-task or --cpus-per-task" in lines
    assert "error: a process is lost (" in done.stderr
    assert "to go on, type: the same\n" in done.stderr
    assert not (tmp_path / "d").exists()
