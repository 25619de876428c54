"""A trial's run in an object store: what each epoch left, under the attempt that trained it.

    commits/t0007/a0003.json           attempt 3 of the trial has begun, and where
    commits/t0007/a0003-e00005.json    its epoch 5: the names of the run's files, and their objects
    runs/t0007/a0003/e00005/…          what was new at that epoch

Objects of runs are written once. A commit is written after all that it names, so it is whole or
not there; the last two are kept, for when a part of the last is damaged. An attempt writes under
its own number only, so one that dies slowly harms none that follows.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from acgan.errors import InputError
from acgan.files import Stored, file_sha256
from acgan.run.records import EpochRecord, Ranking, read_records, weights_to_keep
from acgan.run.rundir import weights_name
from search.study.store.objects import ObjectStore

KEPT_COMMITS = 2
WAIT_S = 10.0
STATE = "state.safetensors"
_FILES = ("config.json", "machines.jsonl", "epochs.jsonl", STATE)
FOLDERS = ("weights", "samples")
_COMMIT = re.compile(r"a(\d{4,})-e(\d{5,})")
_ATTEMPT = re.compile(r"a(\d{4,})")


class DamagedError(InputError):
    """An object is not what its commit says, or a commit is none."""


class Part(Stored):
    """One file of a run: the object that holds it."""

    key: str
    sha256: str
    size: int


class Commit(Stored):
    """What a run was after an epoch: its files by their paths in the run's folder."""

    epoch: int
    parts: dict[str, Part]


def is_read_first(name: str) -> bool:
    """Whether a file of a run is one that every reader wants: no networks, no sample grid."""
    return not name.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and name != STATE


def fetch(store: ObjectStore, part: Part, path: Path) -> None:
    """Write a part into a file, whole or not at all; `DamagedError` if it is not what it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        store.download(part.key, fresh)
        if fresh.stat().st_size != part.size or file_sha256(fresh) != part.sha256:
            raise DamagedError(f"{store.address}/{part.key} is damaged")
        os.replace(fresh, path)
    except FileNotFoundError as error:
        raise DamagedError(f"{store.address}/{part.key} is missing") from error
    finally:
        fresh.unlink(missing_ok=True)


def all_commits(store: ObjectStore) -> dict[str, list[str]]:
    """Return the names of every trial's commits, the one to go on from last."""
    found: dict[str, list[str]] = {}
    for key in store.list("commits/"):
        found.setdefault(key.split("/")[1], []).append(key)
    return {trial: names for trial, keys in found.items() if (names := _names(keys))}


def commit_names(store: ObjectStore, trial: str) -> list[str]:
    """Return the names of a trial's commits, the one to go on from last."""
    return _names(store.list(f"commits/{trial}/"))


def _names(keys: Iterable[str]) -> list[str]:
    names = (key.rpartition("/")[2].removesuffix(".json") for key in keys)
    matches = [match for name in names if (match := _COMMIT.fullmatch(name))]
    return [match[0] for match in sorted(matches, key=lambda m: (int(m[1]), int(m[2])))]


def read_commit(store: ObjectStore, trial: str, name: str) -> Commit:
    """Read a commit; `DamagedError` for what is none."""
    key = _commit_key(trial, name)
    try:
        text, _, sha256 = store.read(key).partition(b"\n")
        if sha256 not in (b"", _sha256(text)):  # earlier versions wrote none
            raise DamagedError(f"{store.address}/{key} is damaged")
        return Commit.model_validate_json(text)
    except (FileNotFoundError, ValidationError) as error:
        raise DamagedError(f"{store.address}/{key} is damaged") from error


def _write_commit(store: ObjectStore, trial: str, name: str, commit: Commit) -> None:
    """Write a commit, and its own checksum in a second line."""
    text = commit.model_dump_json().encode()
    store.write(_commit_key(trial, name), text + b"\n" + _sha256(text))


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _commit_key(trial: str, name: str) -> str:
    return f"commits/{trial}/{name}.json"


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment: parts that the store has, and files that are new, held aside."""

    epoch: int
    there: dict[str, Part]
    fresh: dict[str, Path]


class StoredRun:
    """One attempt at a trial: a run in a folder of this node, and in the store what it left.

    It begins as the newest whole commit was. Use it in a `with`, which removes the folder.

    folder: of the run
    work: this node's folder of runs; it is made, and what killed processes left is removed
    ranking: the study's objective, by which weights are kept
    notes: hears what was found damaged, one sentence each
    """

    def __init__(
        self, store: ObjectStore, trial: str, work: Path, *, ranking: Ranking, notes: list[str]
    ) -> None:
        self._store, self._trial = store, trial
        self._ranking, self._notes = ranking, notes
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._parts: dict[str, Part] = {}
        self._commits: dict[str, Commit] = {}
        self._number = self._claim()
        self._attempt = f"a{self._number:04d}"
        # Listed after the claim: an attempt before that has seen no claim has deleted none of it.
        self._names = commit_names(store, trial)
        self._tidied = False
        work.mkdir(parents=True, exist_ok=True)
        _clear(work)
        self._home = work / f"{self._attempt}-{trial}"
        self._lock = self._home.with_suffix(".lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder = self._home / trial
        self.folder.mkdir(parents=True)
        self._go_on()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._home, ignore_errors=True)
        self._lock.close()

    def _newest(self) -> int:
        """Return the number of the trial's newest attempt, 0 without one."""
        keys = self._store.list(f"commits/{self._trial}/")
        numbers = (_ATTEMPT.match(key.rpartition("/")[2]) for key in keys)
        return max((int(match[1]) for match in numbers if match), default=0)

    def _claim(self) -> int:
        """Take the next number of an attempt, which no other process then has."""
        who = {"host": socket.gethostname(), "pid": os.getpid(), "id": secrets.token_hex(16)}
        content = json.dumps(who).encode()
        number = self._newest() + 1
        while not self._store.write_if_absent(_commit_key(self._trial, f"a{number:04d}"), content):
            number += 1
        return number

    def _go_on(self) -> None:
        """Fetch the newest whole commit's files: those with which a run goes on."""
        for name in reversed(self._names):
            try:
                commit = read_commit(self._store, self._trial, name)
                self._fetch(commit.parts)
            except DamagedError as error:
                self._notes.append(f"{error}, so epoch {name[-5:].lstrip('0')} is trained again")
                continue
            self._commits[name], self._parts = commit, commit.parts
            return

    def _fetch(self, parts: Mapping[str, Part]) -> None:
        """Fetch the files with which a run goes on."""
        files = [name for name in _FILES if name in parts]
        self._store.side_by_side(
            lambda name: fetch(self._store, parts[name], self.folder / name), files
        )

    @property
    def goes_on(self) -> bool:
        """Whether the store had an epoch of this run."""
        return bool(self._parts)

    def snapshot(self) -> Snapshot:
        """Hold the run as it is after its last epoch; what is written later is not in it."""
        records = read_records(self.folder / "epochs.jsonl")
        epoch = records[-1].epoch
        kept = {weights_name(number) for number in weights_to_keep(records, self._ranking)}
        there = {
            name: part
            for name, part in self._parts.items()
            if name in kept or not name.startswith("weights/")
        }
        aside = self._home / f"e{epoch:05d}"
        fresh = {}
        for name, path in self._files():
            found = path.stat()
            stamp = found.st_ino, found.st_size, found.st_mtime_ns
            if stamp == self._seen.get(name):
                continue
            self._seen[name] = stamp
            fresh[name] = aside / name
            fresh[name].parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith(".safetensors"):  # lines are added to some
                shutil.copyfile(path, fresh[name])
            else:  # others are replaced, never changed
                os.link(path, fresh[name])
        return Snapshot(epoch, there, fresh)

    def _files(self) -> Iterator[tuple[str, Path]]:
        paths = [self.folder / name for name in _FILES]
        paths += [path for name in FOLDERS for path in sorted((self.folder / name).glob("[!.]*"))]
        return ((str(path.relative_to(self.folder)), path) for path in paths if path.is_file())

    def send(self, snapshot: Snapshot) -> str:
        """Bring a snapshot to the store and commit it there; return the commit's name."""
        folder = f"runs/{self._trial}/{self._attempt}/e{snapshot.epoch:05d}"
        here = {
            name: Part(key=f"{folder}/{name}", sha256=file_sha256(path), size=path.stat().st_size)
            for name, path in snapshot.fresh.items()
        }
        there = snapshot.there
        new = {
            name: part
            for name, part in here.items()
            if name not in there or there[name].sha256 != part.sha256
        }
        self._store.side_by_side(lambda n: self._store.upload(snapshot.fresh[n], new[n].key), new)
        parts = there | new
        name = f"{self._attempt}-e{snapshot.epoch:05d}"
        commit = Commit(epoch=snapshot.epoch, parts=parts)
        _write_commit(self._store, self._trial, name, commit)
        self._parts, self._commits[name] = parts, commit
        self._names.append(name)
        shutil.rmtree(self._home / f"e{snapshot.epoch:05d}", ignore_errors=True)
        self._tidy()
        return name

    def _tidy(self) -> None:
        """Delete all commits but the last two, then what none of these names.

        That is the newest attempt's to do: what follows it may need what it no longer does.
        """
        if self._newest() > self._number:
            return
        older, self._names = self._names[:-KEPT_COMMITS], self._names[-KEPT_COMMITS:]
        stale = {part.key for name in older for part in self._parts_of(name)}
        if not self._tidied and self._number > 1:  # what attempts left that were killed
            there = self._store.list(f"runs/{self._trial}/")
            own = f"runs/{self._trial}/{self._attempt}/"
            stale |= {key for key in there if not key.startswith(own)}
        self._tidied = True
        needed = {part.key for name in self._names for part in self._parts_of(name)}
        self._store.delete(_commit_key(self._trial, name) for name in older)
        self._store.delete(stale - needed)
        for name in older:
            self._commits.pop(name, None)

    def _parts_of(self, name: str) -> Collection[Part]:
        if name not in self._commits:
            try:
                self._commits[name] = read_commit(self._store, self._trial, name)
            except DamagedError:
                return ()
        return self._commits[name].parts.values()


def _clear(work: Path) -> None:
    """Remove the runs of processes that are gone."""
    for path in work.glob("*.lock"):
        with contextlib.suppress(FileNotFoundError), path.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink()


def in_store(
    records: Iterable[EpochRecord], run: StoredRun, alive: Callable[[], None]
) -> Generator[tuple[EpochRecord, str], None, None]:
    """Yield each epoch's record and its commit's name once the store has it.

    It is brought there while the next epoch is trained, which then waits for it.

    records: of a training in `run.folder`, which yields the last one of a run that goes on again
    alive: is called while this waits for the store
    """
    goes_on = run.goes_on
    with ThreadPoolExecutor(1) as beside:
        sent: tuple[EpochRecord, Future[str]] | None = None
        for record in records:
            if sent is not None:
                yield sent[0], _result(sent[1], alive)
            sent = record, beside.submit(run.send, run.snapshot())
            if goes_on:  # the last epoch again, which may end the trial
                yield sent[0], _result(sent[1], alive)
                sent, goes_on = None, False
        if sent is not None:
            yield sent[0], _result(sent[1], alive)


def _result(sent: Future[str], alive: Callable[[], None]) -> str:
    while not wait([sent], timeout=WAIT_S).done:
        alive()
    return sent.result()
