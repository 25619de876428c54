"""What can happen to MLflow during a search, done for real at any moment of it.

A fault is a context: entered it begins, left it is over. `endure` does them during a search.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from acgan.evaluation.grids import UNTRAINED, untrained_grid
from search.study.folder import Study
from search.study.store.study_copy import is_kept
from search.tracking.find import find_runs
from tests.clusters import Postgres, is_sent
from tests.faults.nodes import Moment
from tests.mlflow_server import ServerCommand
from tests.searches import Search

END_S = 900
TAKES_NONE = "takes no data now"
TAKES_AGAIN = "takes data again; nothing was lost"
SEND_THE_REST = "to send the rest to MLflow: "
LOCK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Fault:
    """What is done to a store at a moment of a search.

    lasts: until so many more epochs are on disk, and seconds later; None: past the search's end
    """

    doing: contextlib.AbstractContextManager[None]
    begins: Moment
    lasts: Moment | None


@dataclass(frozen=True)
class Seen:
    """What was seen of a search.

    code, output: how it ended, and what it printed
    sent: what `search.sync` then printed, as the search said to type it; empty if it did not
    windows: when each fault began and ended, in seconds since 1970
    """

    code: int
    output: str
    sent: str
    windows: tuple[tuple[float, float], ...]

    def during(self, search: Search) -> list[int]:
        """Return how many epochs were trained during each fault."""
        times = [record.time for kept in search.records().values() for record in kept]
        return [sum(begun < time < ended for time in times) for begun, ended in self.windows]


def endure(search: Search, faults: Sequence[Fault], *options: str) -> Seen:
    """Search while the faults happen, one after another; then type what the search says."""
    process = search.start(*options)
    windows = tuple([_do(fault, search, process) for fault in faults])
    output, _ = process.communicate(timeout=END_S)
    return Seen(process.returncode, output, _send_the_rest(search, output), windows)


def _do(fault: Fault, search: Search, process: subprocess.Popen[str]) -> tuple[float, float]:
    fault.begins.wait(search, process)
    with fault.doing:
        begun = time.time()
        if fault.lasts is None:
            process.wait(timeout=END_S)
        else:
            later = search.epochs_kept() + fault.lasts.epochs
            replace(fault.lasts, epochs=later).wait(search, process)
        return begun, time.time()


def _send_the_rest(search: Search, output: str) -> str:
    """Type the command that the search has printed for what it could not send."""
    commands = [line for line in output.splitlines() if line.startswith(SEND_THE_REST)]
    if not commands:
        return ""
    words = shlex.split(commands[0].removeprefix(SEND_THE_REST))
    done = subprocess.run(
        words, cwd=search.folder, capture_output=True, text=True, check=False, timeout=END_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def killed(server: ServerCommand) -> Iterator[None]:
    """Kill the server; start it again."""
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextlib.contextmanager
def crashed(postgres: Postgres) -> Iterator[None]:
    """Let PostgreSQL crash; start it again."""
    postgres.stop(mode="immediate")
    try:
        yield
    finally:
        postgres.start()


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Lock a sqlite file from another process, for reading too."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield
    finally:
        process.communicate()


class Failing(Enum):
    """Which calls are answered by 500: all, or each that writes once, after it was passed on."""

    ALL = "all"
    WRITTEN = "written"


class Proxy(ThreadingHTTPServer):
    """Stands in front of an MLflow server, to be slow and to fail at will.

    delay_s: how long each call waits before it is passed on
    failing: which calls are answered by 500; None: none
    failed: the calls that were written and answered by 500
    """

    def __init__(self, server: ServerCommand) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.server = server
        self.delay_s = 0.0
        self.failing: Failing | None = None
        self.failed: set[tuple[str, str, bytes]] = set()

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Call(BaseHTTPRequestHandler):
    server: Proxy

    def _pass_on(self) -> None:
        """Answer as the server does, unless the call is to fail."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.server.delay_s)
        if self.server.failing is Failing.ALL:
            self._answer(500, b"")
            return
        status, content = self._ask(body)
        if self.server.failing is Failing.WRITTEN and self._first_write(body):
            self._answer(500, b"")
        else:
            self._answer(status, content)

    def _first_write(self, body: bytes) -> bool:
        call = self.command, self.path, body
        if self.command == "GET" or self.path.endswith("/search") or call in self.server.failed:
            return False
        self.server.failed.add(call)
        return True

    def _ask(self, body: bytes) -> tuple[int, bytes]:
        headers = {name: self.headers[name] for name in ("Content-Type",) if name in self.headers}
        request = urllib.request.Request(
            self.server.server.uri + self.path, body or None, headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing of what was called."""


@contextlib.contextmanager
def in_front_of(server: ServerCommand) -> Iterator[Proxy]:
    """Start a proxy, and end it with the context."""
    with Proxy(server) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


@contextlib.contextmanager
def slow(proxy: Proxy, *, seconds: float) -> Iterator[None]:
    """Let each call take so much longer."""
    proxy.delay_s = seconds
    try:
        yield
    finally:
        proxy.delay_s = 0.0


@contextlib.contextmanager
def failing(proxy: Proxy, which: Failing) -> Iterator[None]:
    """Answer calls by 500."""
    proxy.failing = which
    try:
        yield
    finally:
        proxy.failing = None


def not_once(study: Study, uri: str) -> list[str]:
    """Name what of a study is not once, or not as ended, in MLflow.

    Its own run, each metric's points, each sample grid and its thumbnail; all trials finished.
    """
    client = MlflowClient(uri)
    runs = find_runs(client, f"tags.study_id = '{study.info.uuid}'")
    found = [f"{r.info.run_name} {r.info.status}" for r in runs if r.info.status != "FINISHED"]
    own = sum("trial" not in run.data.tags for run in runs)
    found += [] if own == 1 else [f"{own} runs of the study"]
    for run in runs:
        if "trial" in run.data.tags:
            found += _trial_not_once(client, run, study)
    return found


def _trial_not_once(client: MlflowClient, run: Run, study: Study) -> list[str]:
    name, run_id = run.data.tags["trial"], run.info.run_id
    kept = study.trial(name).records()
    found = []
    sent = Counter(key for r in kept for key in r.metrics if is_sent(key, r))
    for key, count in sent.items():
        points = len(client.get_metric_history(run_id, key))
        found += [] if points == count else [f"{name} {key}: {points} points of {count}"]
    wanted = sorted(record.epoch for record in kept if record.samples is not None)
    if is_kept(untrained_grid(study.path / name)):
        wanted.insert(0, UNTRAINED)
    files = [Path(file.path).name for file in client.list_artifacts(run_id, "images")]
    for suffix in (".png", ".webp"):
        steps = sorted(int(file.split("+")[2]) for file in files if file.endswith(suffix))
        found += [] if steps == wanted else [f"{name} {suffix}: {steps} instead of {wanted}"]
    return found
