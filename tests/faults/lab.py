"""Where faults are done: tiny searches in folders of their own, and what must hold afterwards."""

from __future__ import annotations

import random
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from search.study.folder import Outcome
from search.tracking.connection import connect
from tests.clusters import ClusterSearch, RayNode, differences, ray_head
from tests.searches import MARK, Records, Search, wait_for, write_images

EPOCHS = 6
AGENTS = ("ray::Dashboard", "ray::RuntimeEnv")  # as far as the system keeps their names
LEAVES_S = 400  # Ray's two agents of a killed driver end themselves within about a minute
_ended: set[str] = set()  # folders of searches whose agents may still run


@dataclass
class Findings:
    """What one fault, or several of a kind, did to a study; all but `times` and `redone` be 0.

    redone: most epochs of one trial that were trained again because of one fault
    differing: metrics, runs and trials that differ between MLflow and the directories
    """

    times: int = 1
    lost: int = 0
    doubled: int = 0
    redone: int = 0
    differing: int = 0
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: bool, problem: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(problem)


class Lab:
    """Makes searches that share their images, caches and an empty MLflow store.

    once: they also share the search that a killed driver leaves, so that it happens once
    """

    def __init__(self, folder: Path, *, once: bool = False) -> None:
        self.folder = folder
        self.once = once
        self.images = folder / "images"
        self.cache = folder / "cache"
        self.empty = folder / "empty.db"
        self._made = 0
        self._killed: Search | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if not self.images.exists():
            write_images(self.images)
        if not self.empty.exists():
            connect(f"sqlite:///{self.empty}")

    @contextmanager
    def search(self, *, config: str = "", database: Path | None = None) -> Iterator[Search]:
        """Give a search of six epochs a trial in a new folder, which is removed afterwards."""
        search = self._new_search(database)
        if config:
            (search.folder / "tiny.yaml").write_text(config)
        folder = search.folder  # a fault may move the search
        try:
            yield search
        finally:
            search.stop()
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def cluster(self) -> Iterator[ClusterSearch]:
        """Give a search that joins a cluster whose head has no place for trials."""
        with ray_head(secrets.token_hex(16), cpus=0) as head:
            search = self._new_cluster_search(head)
            try:
                yield search
            finally:
                search.stop()
                shutil.rmtree(search.folder, ignore_errors=True)

    def _new_search(self, database: Path | None = None) -> Search:
        search = Search(*self._place(database))
        search.cache = self.cache
        return search

    def _new_cluster_search(self, head: RayNode) -> ClusterSearch:
        search = ClusterSearch(*self._place(), head)
        search.cache = self.cache
        return search

    def _place(self, database: Path | None = None) -> tuple[Path, Path, Path]:
        """Return a new folder, the images, and the MLflow store there or the one named."""
        folder = self.new_folder()
        if database is None:
            database = folder / "mlflow.db"
            shutil.copyfile(self.empty, database)
        return folder, self.images, database

    def kill_driver(self, search: Search, count: int, *options: str) -> None:
        """Leave a search as `kill_driver` does; where `once` is set, as a copy of the first."""
        if not self.once:
            kill_driver(search, count, *options)
            return
        if self._killed is None:
            found, self._killed = Findings(), self._new_search()
            kill_driver(self._killed, count, *options)
            check_nothing_runs(self._killed, found)
            assert found.problems == []
        shutil.copytree(self._killed.path, search.path, dirs_exist_ok=True)
        shutil.copyfile(self._killed.database, search.database)

    def new_folder(self) -> Path:
        """Make a folder of its own for one study."""
        while True:
            self._made += 1
            folder = self.folder / f"search-{self._made}"
            if not folder.exists():
                folder.mkdir()
                return folder


def wait_for_epochs(search: Search, process: subprocess.Popen[str], count: int) -> None:
    """Wait until so many epochs are on disk, or the command has ended."""
    wait_for(
        lambda: process.poll() is not None or search.epochs_kept() >= count,
        f"{count} epochs on disk",
        seconds=400,
    )


def kill_driver(search: Search, count: int, *options: str) -> None:
    """Start a search and kill -9 its command once so many epochs are on disk."""
    process = search.start(*options)
    wait_for_epochs(search, process, count)
    process.kill()
    process.communicate()


@dataclass(frozen=True)
class Moment:
    """A moment at which something was done: the records on disk, and the trials under way."""

    records: Records
    training: set[str]

    def redone(self, final: Records) -> int:
        """Return the most epochs of one trial that were trained again: on disk, or under way."""
        worst = 0
        for name, kept in self.records.items():
            again = len([record for record in kept if record not in final.get(name, [])])
            worst = max(worst, again + (name in self.training))
        return worst


def moment(search: Search) -> Moment:
    """Return what is on disk now, and which trials' processes are there."""
    training = set(search.owners())
    return Moment(search.records(), training)


def redone(moments: list[Moment], search: Search) -> int:
    """Return the most epochs of one trial that were trained again because of one moment."""
    final = search.records()
    return max((each.redone(final) for each in moments), default=0)


def check_whole(search: Search, asked: int, found: Findings, *, latest_only: bool = False) -> None:
    """Note what is not as if nothing had ever happened to the search, see `differences`."""
    trials = search.study.trials()
    whole = 0
    for trial in trials:
        end, epochs = trial.end(), [record.epoch for record in trial.records()]
        path = trial.path / "epochs.jsonl"
        lines = len(path.read_text().splitlines()) if path.exists() else 0
        if end is not None and end.outcome is Outcome.FINISHED:
            whole += epochs == list(range(1, len(epochs) + 1)) == list(range(1, lines + 1))
        elif end is not None:
            whole += end.outcome.counts
    points = {tuple(sorted(trial.info.params.items())) for trial in trials}
    found.lost += max(asked - whole, 0)
    found.doubled += max(len(trials) - asked, 0) + len(trials) - len(points)
    different = differences(search.study, search.uri, latest_only=latest_only)
    found.differing += len(different)
    found.problems += different


def check_nothing_runs(search: Search, found: Findings) -> None:
    """Note processes that the search left behind; those that end by themselves have a while.

    Ray's agents have until `check_no_agent_runs`, so that not every fault waits for them.
    """
    deadline = time.monotonic() + LEAVES_S
    while (left := _running({str(search.folder)}, agents=False)) and time.monotonic() < deadline:
        time.sleep(0.2)
    found.problems += [f"still running: {name}" for name in left]
    _ended.add(str(search.folder))


def check_no_agent_runs() -> None:
    """Assert that of all searches that were checked nothing runs at all."""
    deadline = time.monotonic() + LEAVES_S
    while (left := _running(_ended, agents=True)) and time.monotonic() < deadline:
        time.sleep(1)
    assert not left, f"still running: {left}"
    _ended.clear()


def _running(folders: set[str], *, agents: bool) -> list[str]:
    names = []
    for process in psutil.process_iter():
        try:
            name = process.name()
            counts = agents or not name.startswith(AGENTS)
            if counts and process.environ().get(MARK) in folders:
                names.append(name)
        except psutil.Error:
            continue
    return names


Fault = Callable[[Lab, random.Random], Findings]
