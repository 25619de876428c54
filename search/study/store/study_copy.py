"""A study of an object store as a folder on this node, which all readers read unchanged.

    CACHE/stores/ID/store.json           the address of the studies
                    studies/STUDY/       the copy of one, which has no networks but those asked for
                    studies/.STUDY.json  what of the store the copy holds
                    work/STUDY/          trials under way on this node, see `runs`

Of a study the store holds, under ADDRESS/STUDY/:

    files/…                 what stands in the study's folder, `files/t0007/trial.json`
    ledger/000003.jsonl     Optuna's journal, as the third driver writes it
    drivers/…               see `lease`
    commits/…, runs/…       see `runs`
"""

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from acgan.config import cache_folder
from acgan.files import Stored, read_json, replace_bytes, write_json
from acgan.run.rundir import RunDir, weights_name
from search.study.store import runs
from search.study.store.lease import Lease, is_held, leased
from search.study.store.objects import ObjectStore, check_address

LEDGER = "optuna.jsonl"
COMMIT = ".commit.json"
RESULTS = "selection/store"
REMEDY = "remove it, and type the command again"
_TRIAL = re.compile(r"t[0-9]{4,}(r[0-9]+)?")
_OF_TRIAL = ("trial.json", "end.json", "crash.txt")  # its run's files come with its commits
_ONLY_HERE = ("ray", LEDGER)


class _Address(Stored):
    address: str


class _Known(Stored):
    """What the store told of a file's object, and the file's size and time as it was then."""

    told: str
    stamp: tuple[int, int]


class _Held(Stored):
    """`studies/.STUDY.json`: the files of a copy by their paths."""

    files: dict[str, _Known]


class _Taken(Stored):
    """`.commit.json` of a trial: the commit whose records are here."""

    name: str
    commit: runs.Commit


def local_folder(address: str, study: str) -> Path:
    """Return where the copy of a study stands on this node, and note whose it is."""
    check_address(address)
    address = address.rstrip("/")
    home = cache_folder() / "stores" / hashlib.sha256(address.encode()).hexdigest()[:16]
    (home / "studies").mkdir(parents=True, exist_ok=True)
    if not (home / "store.json").exists():
        write_json(home / "store.json", _Address(address=address))
    return home / "studies" / study


def address_of(folder: Path) -> str:
    """Return the object store's address of the studies in a folder; "" if it is none's copy."""
    found = None
    if folder.name == "studies":
        found = read_json(_Address, folder.parent / "store.json", remedy=REMEDY)
    return "" if found is None else found.address


def shown_place(study: Path) -> str:
    """Return where a study is, for a person: its folder, or its address in an object store."""
    address = address_of(study.parent)
    return f"{address}/{study.name}" if address else str(study)


class StudyCopy:
    """The copy of one study on this node; `of` is how to get one.

    path: its folder; store: the study's objects
    work: this node's folder of the study's trials that are under way
    """

    def __init__(self, path: Path, address: str) -> None:
        self.path = path
        self.store = ObjectStore(f"{address}/{path.name}")
        self.work = path.parent.parent / "work" / path.name
        self._noted = path.with_name(f".{path.name}.json")
        self._files: dict[str, _Known] = {}
        self._lease: Lease | None = None
        self._ledger: tuple[int, int] | None = (-1, -1)  # as it was when it was sent

    @classmethod
    def of(cls, study: Path) -> Self | None:
        """Return the copy that a study's folder is; None where it is the study itself."""
        address = address_of(study.parent)
        return cls(study, address) if address else None

    def is_held(self, kind: str) -> bool:
        """Whether a process drives the study ("study"), or picks from it ("selection"), now."""
        return is_held(self.store, kind)

    @contextlib.contextmanager
    def driven(self, kind: str, say: Callable[[str], None]) -> Iterator[None]:
        """Be the one process that drives the study, or picks from it, and have it as it is.

        Whoever calls it holds the copy's own lock. At the end the store has what the copy has.
        Raises `InputError` while another process does, or where the store cannot be written.

        say: is told of outages, through which this waits, but not once it is interrupted
        """
        with leased(self.store.address, kind) as lease:
            self.pull(drivers=lease.number if kind == "study" else 0)
            self._lease, self.store.on_outage = lease, say
            try:
                yield
            except KeyboardInterrupt:
                self.store.give_up()
                raise
            finally:
                self.push()

    def pull(self, *, drivers: int = 0) -> None:
        """Make the copy what the store holds; networks and sample grids stay where they are.

        Whoever calls it holds the copy's own lock, or knows that nobody does.

        drivers: how many the study had so far, if it is known
        """
        told = {key.partition("/")[2]: text for key, text in self.store.list("files/").items()}
        identity = self.store.read("files/study.json") if "study.json" in told else b""
        study = self.path / "study.json"
        if not study.is_file() or study.read_bytes() != identity:
            self._empty()
        self._files = _held(self._noted)
        for name in set(self._names()) - told.keys():
            (self.path / name).unlink()
        stale = [name for name, text in told.items() if not self._is_as_told(name, text)]
        self.store.side_by_side(lambda name: self._fetch(name, f"files/{name}", told[name]), stale)
        self.pull_ledger(drivers=drivers)
        self._files = {name: self._files[name] for name in (*told, LEDGER) if name in self._files}
        write_json(self._noted, _Held(files=self._files))
        commits = runs.all_commits(self.store)
        self.store.side_by_side(lambda trial: self._take_newest(trial, commits[trial]), commits)

    def _empty(self) -> None:
        """Remove what is of another study, or of none; a lock may be held."""
        self._noted.unlink(missing_ok=True)
        for path in self.path.rglob("*"):
            if path.is_file() and path.name != "lock.json":
                path.unlink()
        self.path.mkdir(parents=True, exist_ok=True)

    def _names(self) -> Iterator[str]:
        """Yield the files that are in the store as they are here, by their paths."""
        for path in self.path.iterdir():
            if _TRIAL.fullmatch(path.name):
                found = [path / name for name in _OF_TRIAL if (path / name).exists()]
            elif path.name in _ONLY_HERE:
                continue
            else:
                found = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
            for file in found:
                own = file.name == "lock.json" or file.suffix == ".lock"
                if not own and not file.name.startswith("."):
                    yield str(file.relative_to(self.path))

    def _is_as_told(self, name: str, text: str) -> bool:
        known = self._files.get(name)
        return known == _Known(told=text, stamp=_stamp(self.path / name) or (-1, -1))

    def _fetch(self, name: str, key: str, text: str) -> bool:
        """Make a file what an object is; return whether that is there, and not deleted since."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            self.store.download(key, fresh)
            os.replace(fresh, path)
        except FileNotFoundError:
            path.unlink(missing_ok=True)
            self._files.pop(name, None)
            return False
        finally:
            fresh.unlink(missing_ok=True)
        self._files[name] = _Known(told=text, stamp=_stamp(path) or (-1, -1))
        return True

    def pull_ledger(self, *, drivers: int = 0) -> None:
        """Make the ledger what the store holds; held as `pull`, whose `drivers` it takes.

        That of the last driver is asked for by its name, in case the listing is behind.
        """
        for pause_s in (0.0, 0.5, 1.0, 2.0, 4.0):
            time.sleep(pause_s)
            found = self.store.list("ledger/")
            newest = max(found, default="")
            numbers = range(drivers - 1, _ledger_number(newest) if newest else 0, -1)
            if any(self._fetch(LEDGER, _ledger_key(number), "") for number in numbers):
                return
            if not newest:
                (self.path / LEDGER).unlink(missing_ok=True)
                return
            text = f"{newest} {found[newest]}"
            if self._is_as_told(LEDGER, text) or self._fetch(LEDGER, newest, text):
                return  # else another driver has replaced it since

    def _take_newest(self, trial: str, names: list[str]) -> None:
        """Take the newest commit of a trial that is whole."""
        for name in reversed(names):
            with contextlib.suppress(runs.DamagedError):
                self.take(trial, name)
                return

    def take(self, trial: str, name: str) -> None:
        """Make a trial's folder what its run was at a commit, but for networks and sample grids.

        Raises `DamagedError` where the commit or one of these files is not what it was.
        """
        folder = self.path / trial
        before = _taken(folder)
        if before is not None and before.name == name:
            return
        had = {} if before is None else before.commit.parts
        commit = runs.read_commit(self.store, trial, name)
        # The records last: who reads one finds the files that it names.
        for file, part in sorted(commit.parts.items(), key=lambda own: own[0] == "epochs.jsonl"):
            there = had.get(file) == part and (folder / file).is_file()
            if runs.is_read_first(file) and not there:
                runs.fetch(self.store, part, folder / file)
            elif not there:
                (folder / file).unlink(missing_ok=True)
        # Not those with a dot: another thread may be fetching into one.
        for path in (path for kind in runs.FOLDERS for path in (folder / kind).glob("[!.]*")):
            if f"{path.parent.name}/{path.name}" not in commit.parts:
                path.unlink()
        write_json(folder / COMMIT, _Taken(name=name, commit=commit))

    def push(self) -> None:
        """Bring to the store what is new here, the ledger first; `InputError` if it is taken over.

        Returns when it is there.
        """
        assert self._lease is not None, "whoever pushes drives the study"
        fresh = {name: stamp for name in self._names() if (stamp := self._changed(name))}
        gone = [name for name in self._files if name != LEDGER and not (self.path / name).exists()]
        ledger = _stamp(self.path / LEDGER)
        if not fresh and not gone and ledger == self._ledger:
            return
        self._lease.check(self.store)
        there = self._results() if any(name.startswith(RESULTS) for name in fresh) else set()
        if self._lease.kind == "study" and ledger != self._ledger:
            self._push_ledger()
            self._ledger = ledger
        self.store.side_by_side(self.send, sorted(fresh.keys() - there))
        self.store.delete(f"files/{name}" for name in gone)
        for name in gone:
            del self._files[name]
        self._files |= {name: _Known(told="", stamp=stamp) for name, stamp in fresh.items()}
        write_json(self._noted, _Held(files=self._files))

    def _changed(self, name: str) -> tuple[int, int] | None:
        """Return a file's stamp where it is not that of what the store has."""
        stamp, known = _stamp(self.path / name), self._files.get(name)
        return None if known is not None and known.stamp == stamp else stamp

    def _push_ledger(self) -> None:
        """Write the whole ledger under this driver's number, and delete those of earlier ones."""
        assert self._lease is not None
        own = _ledger_key(self._lease.number)
        path = self.path / LEDGER
        if path.exists():
            self.store.write(own, path.read_bytes())
        others = set(self.store.list("ledger/")) if self._ledger == (-1, -1) else {own}
        self.store.delete(others - ({own} if path.exists() else set()))

    def send(self, *names: str) -> None:
        """Bring files of this copy to the store, for the driver, which `fetch`es them."""
        for name in names:
            self.store.upload(self.path / name, f"files/{name}")

    def fetch(self, *names: str) -> None:
        """Fetch files that another process has sent; one that is not there is passed over."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                content = self.store.read(f"files/{name}")
                path = self.path / name
                if not path.is_file() or path.read_bytes() != content:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    replace_bytes(path, content)

    def fetch_of_run(self, trial: str, name: str) -> None:
        """Fetch a file of a trial's run, weights or a sample grid, if its newest commit has it."""
        if (run := _taken(self.path / trial)) is None:
            self._take_newest(trial, runs.commit_names(self.store, trial))
            run = _taken(self.path / trial)
        if run is not None and (part := run.commit.parts.get(name)) is not None:
            runs.fetch(self.store, part, self.path / trial / name)

    def fetch_results(self) -> None:
        """Fetch what jobs of picks and studies have left in the store and is not here."""
        (self.path / RESULTS).mkdir(parents=True, exist_ok=True)
        missing = [name for name in self._results() if not (self.path / name).exists()]
        self.store.side_by_side(self.fetch, missing)

    def send_results(self, *names: str) -> None:
        """Send the results of these names, and what else jobs have left here and not yet there."""
        there, folder = self._results(), self.path / RESULTS
        found = {str(path.relative_to(self.path)) for path in folder.glob("[!.]*")}
        self.send(*sorted((found - there) | {name for name in names if name in found}))

    def _results(self) -> set[str]:
        return {key.partition("/")[2] for key in self.store.list(f"files/{RESULTS}/")}

    def has_epochs(self) -> bool:
        """Whether any trial has left an epoch in the store."""
        return bool(runs.all_commits(self.store))


def kept_weights(run: Path) -> list[int]:
    """Return the epochs of a trial's run whose weights are kept, here or in an object store."""
    taken = _taken(run)
    if taken is None:
        return RunDir(run).kept_weights()
    epochs = range(1, taken.commit.epoch + 1)
    return [epoch for epoch in epochs if weights_name(epoch) in taken.commit.parts]


def run_file(path: Path) -> Path:
    """Return where a trial's weights or grid is, fetched there first if only a store has it.

    Raises `InputError` where it is damaged there. Where nobody has it, nothing is there.
    """
    run = path.parent.parent
    own = None if path.exists() else StudyCopy.of(run.parent)
    if own is not None:
        own.fetch_of_run(run.name, f"{path.parent.name}/{path.name}")
    return path


def is_kept(path: Path) -> bool:
    """Whether a trial's weights or grid is here, or in an object store."""
    if path.is_file():
        return True
    taken = _taken(path.parent.parent)
    return taken is not None and f"{path.parent.name}/{path.name}" in taken.commit.parts


def _ledger_key(driver: int) -> str:
    return f"ledger/{driver:06d}.jsonl"


def _ledger_number(key: str) -> int:
    return int(key.removeprefix("ledger/").removesuffix(".jsonl"))


def _taken(run: Path) -> _Taken | None:
    return read_json(_Taken, run / COMMIT, remedy=REMEDY)


def _held(path: Path) -> dict[str, _Known]:
    held = read_json(_Held, path, remedy=REMEDY)
    return {} if held is None else held.files


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
