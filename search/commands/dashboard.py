"""Optuna's dashboard on a copy of a study's ledger: what `search.dashboard` does."""

import argparse
import contextlib
import json
import socketserver
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from acgan.errors import InputError
from search.settings import SearchConfig
from search.study.folder import Study
from search.study.lock import held_here
from search.study.store.study_copy import StudyCopy
from search.tracking import find

REFRESH_S = 2.0

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(options: argparse.Namespace) -> int:
    """Serve a copy of the study until it is interrupted; return the exit code."""
    dashboard = _dashboard()
    study, _ = find.asked_study(find.StudyNamed.of(options))
    no_trials = InputError(f"the study at {study.place} has no trials yet; search first")
    if not study.ledger_path.is_file():
        raise no_trials
    with tempfile.TemporaryDirectory(prefix="acgan-dashboard-") as folder:
        copy = LedgerCopy(study, Path(folder) / "optuna.jsonl")
        copy.update()
        if not copy.path.stat().st_size:  # its first line is under way
            raise no_trials
        objective = SearchConfig.model_validate(study.info.search).objective
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            storage = JournalStorage(JournalFileBackend(str(copy.path)))
            copied = optuna.load_study(study_name=study.info.name, storage=storage)
            copied.set_metric_names([objective])
        with _server(options, read_only(dashboard(storage))) as server, copy.following():
            address = f"http://{options.host}:{server.server_port}/"
            print(f"study {study.info.name}, a copy that follows it: {address}")
            print("to end it: Ctrl-C", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
    print("\nended; the copy is removed")
    return 0


def _dashboard() -> Callable[[optuna.storages.BaseStorage], Application]:
    try:
        from optuna_dashboard import wsgi  # noqa: PLC0415 (an extra that not all install)
    except ImportError as error:
        raise InputError(
            "the dashboard is not installed; type pip install 'optuna-dashboard>=0.20,<1' (or "
            "install acgan-search[dashboard])"
        ) from error
    found: Callable[[optuna.storages.BaseStorage], Application] = wsgi
    return found


class LedgerCopy:
    """A copy of a ledger, which is only ever appended to; the ledger itself is only read.

    Of a study in an object store the ledger is fetched first. Whole lines only: the last one may be
    under way, and a search that continues cuts one that a crash left unfinished. The first line
    names whose ledger it is: one of another study in the same place is not followed. In the copy
    this line has the study's own name, for in every ledger Optuna's study is called the same.
    """

    def __init__(self, study: Study, path: Path) -> None:
        self.path = path
        self._study, self._stored = study, StudyCopy.of(study.path)
        self._first = b""
        self._copied = 0  # bytes of the ledger
        path.touch()

    def update(self) -> None:
        """Append the lines that the ledger has and the copy lacks."""
        if self._stored is not None and not held_here(self._study.path):
            self._stored.pull_ledger()
        with self._study.ledger_path.open("rb") as ledger, self.path.open("ab") as copy:
            first = ledger.readline()
            if not first.endswith(b"\n"):
                return
            if not self._copied:
                self._first, self._copied = first, len(first)
                copy.write(
                    json.dumps(json.loads(first) | {"study_name": self._study.info.name}).encode()
                )
                copy.write(b"\n")
            if first != self._first:
                return
            ledger.seek(self._copied)
            new = ledger.read()
            whole = new[: new.rfind(b"\n") + 1]
            copy.write(whole)
            self._copied += len(whole)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Update the copy every two seconds, as long as the context lasts."""
        ended = threading.Event()
        thread = threading.Thread(target=self._follow, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _follow(self, ended: threading.Event) -> None:
        while not ended.wait(REFRESH_S):
            with contextlib.suppress(OSError):  # moved or deleted: the copy stays as it is
                self.update()


def read_only(application: Application) -> Application:
    """Refuse all that would change the copy: a change would not fit the lines that follow."""

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json")])
        return [b'{"reason": "this is a copy to look at; nothing can be changed here"}']

    return checked


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answers several requests at once; those under way end with the process."""

    daemon_threads = True
    block_on_close = False


class _Quiet(WSGIRequestHandler):
    """Prints no line for each request."""

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def _server(options: argparse.Namespace, application: Application) -> WSGIServer:
    try:
        return make_server(
            options.host, options.port, application, server_class=_Server, handler_class=_Quiet
        )
    except (OSError, OverflowError, TypeError) as error:  # TypeError: a host with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot listen on {options.host}:{options.port} ({reason}); name another --port, 0 "
            "for any that is free"
        ) from error
