"""Searches in a bucket, whose commands and nodes have disks of their own, and a store that fails.

What happens to processes and nodes is that of `kills`, `surroundings` and `studies`, in a lab whose
searches are in the bucket.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import fsspec
import pytest
from werkzeug.serving import make_server

from acgan.run.records import read_records
from search.study.folder import Study, open_study, study_path
from search.study.store.objects import ObjectStore
from search.study.store.runs import Commit, all_commits, read_commit
from tests.clusters import ClusterSearch, RayNode, ray_node
from tests.faults import stores
from tests.faults.kills import OPTIONS, TRIALS
from tests.faults.lab import (
    Fault,
    Findings,
    Lab,
    check_nothing_runs,
    check_whole,
    moment,
    redone,
    wait_for_epochs,
)
from tests.faults.nodes import Moment as When
from tests.mlflow_server import free_port
from tests.object_stores import BUCKET
from tests.s3_server import Quiet, S3Server, s3_server
from tests.searches import Records, Search, alive_owners

LONGER = ("--epochs", "12")
STUDY = "tiny"

BucketFault = Callable[["BucketLab", random.Random], Findings]


class InBucket(Search):
    """A search in a bucket; each command finds the disk of the last but one before it."""

    number = 0
    _nodes = itertools.count()
    _kept = (0.0, 0)

    @functools.cached_property
    def address(self) -> str:
        """Where its studies are: nowhere that this process has seen, whose copies it keeps."""
        return f"s3://{BUCKET}/{self.folder.name}-{secrets.token_hex(4)}"

    @property
    def store(self) -> ObjectStore:
        """The study's objects."""
        return ObjectStore(f"{self.address}/{STUDY}")

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Type the command, with the bucket's address."""
        self.number += 1
        self.cache = self.folder / f"disk-{self.number % 2}"
        return super().start(*options, "--storage-path", self.address)

    @property
    def study(self) -> Study:
        """The study, once it is there, as this process's own copy."""
        return open_study(study_path(self.address, STUDY))

    def epochs_kept(self) -> int:
        """Return how many epochs of all trials have been brought there, as of half a second ago."""
        if time.monotonic() - self._kept[0] > 0.5:
            epochs = sum(int(names[-1][-5:]) for names in all_commits(self.store).values())
            self._kept = time.monotonic(), epochs
        return self._kept[1]

    def records(self) -> Records:
        """Return each trial's epochs, those that its process has not yet brought there too."""
        if "files/study.json" not in self.store.list("files/"):
            return {}
        found = {trial.name: trial.records() for trial in self.study.trials()}
        for run in self._runs():
            here = read_records(run / "epochs.jsonl")
            if run.name in self.owners() and len(here) > len(found.get(run.name, [])):
                found[run.name] = here
        return found

    def _runs(self) -> list[Path]:
        owner = Path("*", "stores", "*", "work", STUDY, "*", "t*", "owner.json")
        return [path.parent for path in self.folder.glob(str(owner))]

    def owners(self) -> dict[str, int]:
        """Return the process that trains each trial now."""
        with contextlib.suppress(FileNotFoundError):  # a run that has just ended is removed
            return alive_owners(self._runs())
        return self.owners()

    def ended_files(self) -> dict[str, str]:
        """Return the objects of the trials that have ended, and what tells each content."""
        files = self.store.list("files/")
        ended = [key.split("/")[1] for key in files if key.endswith("/end.json")]
        commits = self.store.list("commits/")
        return {
            key: text
            for key, text in (files | commits).items()
            if key.split("/")[1] in ended and not key.endswith("/end.json")
        }


class ClusterInBucket(InBucket, ClusterSearch):
    """A search in a bucket on a cluster whose nodes share no folder."""

    def new_node(self) -> AbstractContextManager[RayNode]:
        """Give a node with a place for one trial, and an empty disk."""
        disk = self.folder / f"node-{next(self._nodes)}"
        own = ("env", f"ACGAN_CACHE={disk}")
        return ray_node(self.head.address, self.head.token, cpus=1, prefix=own)


class BucketLab(Lab):
    """Makes searches in a bucket; `server` is where they find it, this process finds it always."""

    def __init__(self, lab: Lab, server: S3Server) -> None:
        super().__init__(lab.folder)
        self.lab, self.server = lab, server

    def new_folder(self) -> Path:
        """Make a folder whose name this process has not used: MLflow keeps a database open."""
        return self.lab.new_folder()

    def _new_search(self, database: Path | None = None) -> Search:
        return InBucket(*self._place(database))

    def _new_cluster_search(self, head: RayNode) -> ClusterSearch:
        return ClusterInBucket(*self._place(), head)


@contextmanager
def bucket_lab(lab: Lab) -> Iterator[BucketLab]:
    """Start an S3 server, and give a lab whose searches are in its bucket."""
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        port = free_port()
        always = make_server("127.0.0.1", port, server.application, True, request_handler=Quiet)
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://127.0.0.1:{port}"})
        patch.setenv("ACGAN_CACHE", str(lab.folder / "watching"))
        thread = threading.Thread(target=always.serve_forever)
        thread.start()
        try:
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            yield BucketLab(lab, server)
        finally:
            always.shutdown()
            always.server_close()
            thread.join()
            fsspec.get_filesystem_class("s3").clear_instance_cache()


def in_bucket(fault: BucketFault) -> Fault:
    """Return the same fault, of searches in a bucket."""

    def done(lab: Lab, rng: random.Random) -> Findings:
        with bucket_lab(lab) as own:
            return fault(own, rng)

    return done


@contextmanager
def gone(server: S3Server) -> Iterator[None]:
    """End the server; start it again."""
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def failing(server: S3Server, kind: str, share: Callable[[], bool]) -> Iterator[None]:
    """Let requests fail, those that `share` says.

    kind: see `S3Server`; "cut" and "lost" are done to what is written
    """
    writes = kind in ("cut", "lost")

    def fault(environ: dict[str, object]) -> str:
        spared = writes and environ["REQUEST_METHOD"] not in ("PUT", "POST")
        return kind if not spared and share() else ""

    server.fault = fault
    try:
        yield
    finally:
        server.fault = lambda environ: ""


def outage(kind: str) -> BucketFault:
    """Return a fault: the store is gone, or refuses all, again and again, each for up to 20 s.

    kind: "" it is ended, else see `S3Server`
    """

    def done(lab: BucketLab, rng: random.Random, *, times: int = 3) -> Findings:
        server, faults = lab.server, []
        for epochs in sorted(rng.randint(0, 20) for _ in range(times)):
            context = failing(server, kind, lambda: True) if kind else gone(server)
            begins, lasts = When(epochs, rng.uniform(0, 2)), When(seconds=rng.uniform(1, 20))
            faults.append(stores.Fault(context, begins, lasts))
        return _endure(lab, faults, times)

    return done


def troubled(kind: str, share: float) -> BucketFault:
    """Return a fault: a share of the requests fares badly, from some moment to the end."""

    def done(lab: BucketLab, rng: random.Random) -> Findings:
        own = random.Random(rng.random())
        context = failing(lab.server, kind, lambda: own.random() < share)
        begins = When(rng.randint(0, 8), rng.uniform(0, 2))
        return _endure(lab, [stores.Fault(context, begins, None)], 1)

    return done


def _endure(lab: BucketLab, faults: list[stores.Fault], times: int) -> Findings:
    found = Findings(times=times)
    with lab.search() as search:
        seen = stores.endure(search, faults, *OPTIONS, *LONGER)
        found.expect(seen.code == 0, f"exit {seen.code}: {seen.output[-3000:]}")
        for said in ("Traceback", "not sent to MLflow"):
            found.expect(said not in seen.output, seen.output[-3000:])
        if found.problems:
            return found
        found.problems += stores.not_once(search.study, search.uri)
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found


def behind(lab: BucketLab, rng: random.Random, *, times: int = 3) -> Findings:
    """Kill the driver again and again, of a store whose listings are a second behind."""
    found, moments = Findings(times=0), []
    with failing(lab.server, "behind", lambda: True), lab.search() as search:
        for _ in range(times):
            process = search.start(*OPTIONS, *LONGER)
            wait_for_epochs(search, process, search.epochs_kept() + rng.randint(1, 6))
            time.sleep(rng.uniform(0, 1))
            moments.append(moment(search))
            process.kill()
            output, _ = process.communicate()
            found.expect("Traceback" not in output, output[-3000:])
            found.times += 1
        output = search.run(*OPTIONS, *LONGER)
        found.redone = redone(moments, search)
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found


def damaged(lab: BucketLab, rng: random.Random) -> Findings:
    """Truncate or flip an object of the newest epoch of a trial under way, or its commit."""
    found = Findings()
    with lab.search() as search:
        assert isinstance(search, InBucket)
        lab.kill_driver(search, rng.randint(4, 20), *OPTIONS, *LONGER)
        check_nothing_runs(search, found)
        before = moment(search)
        what = _damage(search, rng)
        output = search.run(*OPTIONS, *LONGER)
        if what:
            found.expect("is trained again" in output, f"{what}, not said: {output[-2500:]}")
        found.redone = redone([before], search)
        check_whole(search, TRIALS, found, latest_only=True)
        check_nothing_runs(search, found)
    return found


def _damage(search: InBucket, rng: random.Random) -> str:
    """Damage an object that is read again; return which, "" where every trial had ended."""
    store = search.store
    ended = {key.split("/")[1] for key in store.list("files/") if key.endswith("/end.json")}
    begun = {trial: names for trial, names in all_commits(store).items() if trial not in ended}
    if not begun:
        return ""
    trial = rng.choice(sorted(begun))
    name = begun[trial][-1]
    commit: Commit = read_commit(store, trial, name)
    read = ("state.safetensors", "epochs.jsonl", "config.json", "machines.jsonl")
    keys = [commit.parts[file].key for file in read if file in commit.parts]
    key = rng.choice([*keys, keys[0], f"commits/{trial}/{name}.json"])
    content = bytearray(store.read(key))
    if rng.random() < 0.5:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        content = content[: rng.randrange(len(content))]
    store.write(key, bytes(content))
    return key
