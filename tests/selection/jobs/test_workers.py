"""Jobs on a real Ray."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.files import write_json
from search.nodes.sees import StudyAt
from search.study.store.study_copy import local_folder
from selection.jobs import workers as workers_module
from selection.jobs.results import Result, StoredJob, Work
from selection.jobs.workers import LostError, Workers, tell_lost
from selection.settings import SelectionConfig
from tests.kit import ROOT

pytestmark = pytest.mark.process

WORK = Work(
    StudyAt(Path("/study"), "uuid", DataSource(folder="/images")),
    SelectionConfig(),
    "fingerprint",
    None,
)


class Left(Result):
    text: str


@dataclass(frozen=True)
class Note(StoredJob[Left]):
    """A job that leaves a file in this folder, or ends in another way."""

    kind = "note"
    model = Left

    folder: Path
    how: str = ""
    word: str = "d"

    @property
    def name(self) -> str:
        return self.word

    @property
    def parts(self) -> tuple[object, ...]:
        return (self.word,)

    @property
    def path(self) -> Path:
        return self.folder / self.word

    def compute(self, *, gpu: bool) -> Left:
        if self.how == "refuses":
            raise InputError("these weights are no weights; name others")
        if self.how == "fills up":
            raise MemoryError
        if self.how == "dies":
            os._exit(1)
        return Left(text=f"gpu: {gpu}")


def scenario(folder: Path) -> None:
    """Do some jobs, saying on the way what was refused."""
    jobs = [Note(WORK, folder, word=word) for word in ("a", "b", "c")]
    write_json(jobs[1].path, Left(text="there before"))

    workers_module.HEARTBEAT_S = 0.1  # of the process of this scenario
    with Workers(SelectionConfig()) as workers:
        workers.do([jobs[1]], "nothing")
        results = workers.do(jobs, "step")
        print([results[job].text for job in jobs], flush=True)
        try:
            workers.do([Note(WORK, folder, "refuses")], "refuses")
        except InputError as error:
            print(f"refused: {error}", flush=True)
        try:
            workers.do([Note(WORK, folder, "fills up")], "fills up")
        except LostError as error:
            print(f"lost: {error}", flush=True)
        try:
            workers.do([Note(WORK, folder, "dies")], "dies")
        except LostError as error:
            print(tell_lost(error, "the same"), flush=True)


def test_only_what_is_missing_is_done_and_ray_starts_only_for_that(tmp_path: Path) -> None:
    environment = os.environ.copy()
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        environment.pop(name, None)
    program = f"from tests.selection.jobs.test_workers import *; scenario(Path({str(tmp_path)!r}))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    lines: list[str] = []
    beats: list[str] = []
    for line in done.stdout.splitlines():
        (beats if re.fullmatch(r"[\w ]+: \d of \d done after \d+ s", line) else lines).append(line)
    assert beats  # a process takes seconds to begin
    assert lines[:2] == ["starting Ray", "step: 2 to do, 1 there"]
    assert re.fullmatch(r"step: [ac] done, 1 of 2", lines[2])
    assert re.fullmatch(r"step: [ac] done, 2 of 2", lines[3])
    assert lines[4] == str(["gpu: False", "there before", "gpu: False"])
    assert "refused: these weights are no weights; name others" in lines
    assert "lost: out of memory; name a larger --gpus-per-task or --cpus-per-task" in lines
    assert "error: a process is lost (" in done.stderr
    assert "to go on, type: the same\n" in done.stderr
    assert not (tmp_path / "d").exists()


class Kept(Note):
    """A job whose result stands where those of a pick do."""

    path = StoredJob.path


def test_a_result_that_is_damaged_here_is_taken_from_the_node_that_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"file://{tmp_path}/bucket"
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "driver"))
    at = StudyAt(local_folder(address, "demo"), "uuid", DataSource(folder="/images"), address)
    job = Kept(dataclasses.replace(WORK, at=at), tmp_path)
    job.path.parent.mkdir(parents=True)
    job.path.write_text("{damaged")

    class Elsewhere(Workers):
        def run(self, jobs: Sequence[StoredJob[Result]], what: str, *, there: int) -> None:
            with monkeypatch.context() as patch:
                patch.setenv("ACGAN_CACHE", str(tmp_path / "node"))
                for each in jobs:
                    workers_module._run(each, gpu=False)

    with Elsewhere(SelectionConfig()) as workers:
        assert workers.do([job], "step")[job].text == "gpu: False"
