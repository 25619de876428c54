"""Whether MLflow can take a search: real stores, which are as before afterwards."""

from __future__ import annotations

import http.server
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from acgan.errors import InputError
from search.tracking import check
from tests.mlflow_server import Server

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def execute(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def test_a_file_that_is_there_is_read_and_nothing_is_written(database: Path) -> None:
    before = contents(database.parent)
    assert (
        check.check_mlflow(f"sqlite:///{database}", "chests") == f"sqlite:///{database} can be read"
    )
    assert contents(database.parent) == before


def test_a_file_that_can_be_made_is_fine_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "mlflow.db"
    assert check.check_mlflow(f"sqlite:///{path}", "chests") == f"{path} will be made"
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_will_get_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "a #b.db"
    path.touch()
    assert "tables will be made" in check.check_mlflow(f"sqlite:///{path}", "chests")
    assert path.stat().st_size == 0


def test_what_cannot_become_or_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no database")
    with pytest.raises(InputError, match="file is not a database"):
        check.check_mlflow(f"sqlite:///{file}", "chests")
    with pytest.raises(InputError, match="cannot be made or written"):
        check.check_mlflow(f"sqlite:///{file}/mlflow.db", "chests")


def test_a_deleted_experiment_is_refused_in_a_file_and_by_a_server(
    database: Path, server: Server
) -> None:
    client = MlflowClient(f"sqlite:///{database}")
    client.delete_experiment(client.create_experiment("chests"))
    client.create_experiment("kept")
    server.start()
    for uri in (f"sqlite:///{database}", server.uri):
        with pytest.raises(InputError, match="'chests' is deleted; restore it"):
            check.check_mlflow(uri, "chests")
        check.check_mlflow(uri, "kept")
        check.check_mlflow(uri, "new")
    assert (
        check.check_mlflow(server.uri, "new")
        == f"{server.uri} answers, version {mlflow.__version__}"
    )
    assert client.get_experiment_by_name("new") is None


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("451aebb31d03", r"made by an older MLflow; back it up, then type: mlflow db upgrade"),
        ("0123456789ab", r"made by a newer MLflow than the one here"),
    ],
)
def test_tables_of_another_version_are_refused(database: Path, revision: str, message: str) -> None:
    execute(database, f"UPDATE alembic_version SET version_num = '{revision}'")
    with pytest.raises(InputError, match=message):
        check.check_mlflow(f"sqlite:///{database}", "chests")


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    execute(path, "CREATE TABLE patients (name TEXT)")
    with pytest.raises(InputError, match="or by another program"):
        check.check_mlflow(f"sqlite:///{path}", "chests")


def test_a_server_that_is_away_and_a_database_without_its_package_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"http://me:\*\*\*@127.0.0.1:9 cannot be read \(.*refused"
    ):
        check.check_mlflow("http://me:secret@127.0.0.1:9", "chests")
    with pytest.raises(InputError, match=r"needs the package .*install it"):
        check.check_mlflow("mssql+pymssql://me:secret@127.0.0.1:9/x", "chests")


class Versioned(http.server.BaseHTTPRequestHandler):
    """Answers every request with what a server of this version says of itself."""

    version = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.version.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def answering() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Versioned) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("2.22.0", r"is MLflow 2.22.0; install mlflow.*>=3.17"),
        ("4.0.0", r"is MLflow 4.0.0; install mlflow<4"),
        ("<html>", "is no MLflow server"),
    ],
)
def test_a_server_of_another_version_or_of_something_else_is_refused(
    answering: str, version: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Versioned, "version", version)
    with pytest.raises(InputError, match=message):
        check.check_mlflow(answering, "chests")


def test_the_version_installed_here_is_one_that_is_asked_for() -> None:
    assert mlflow.__version__ in check.supported()
    assert "3.16.9" not in check.supported()
