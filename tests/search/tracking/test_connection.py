"""Where MLflow is, what is said of it, and which study a run is of."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from acgan.errors import InputError
from search.tracking import connection, environment, find, uris
from search.tracking.mirror import SyncReport, sync_study
from tests.studies import write_study

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]


def test_a_relative_database_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert uris.resolve_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert uris.resolve_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert uris.resolve_uri(f"sqlite:///{tmp_path}/c.db") == f"sqlite:///{tmp_path}/c.db"


def test_the_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000/")
    assert uris.resolve_uri(None) == "http://there:5000"
    assert uris.resolve_uri("https://here") == "https://here"


@pytest.mark.parametrize(
    "uri", ["http://me:pa55/w0rd@there:5000", "http://there:port", "https://", "http://[a:1"]
)
def test_the_form_of_a_servers_address_is_checked_and_its_password_not_shown(uri: str) -> None:
    with pytest.raises(InputError, match="names no host, or no port") as refused:
        uris.resolve_uri(uri)
    assert "pa55" not in str(refused.value)
    assert "w0rd" not in str(refused.value)


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "sqlite://", "htp://x", "s3://b"])
def test_what_is_no_database_and_no_server_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match=r"give sqlite:///FILE\.db"):
        uris.resolve_uri(uri)


def test_the_next_step_is_a_command_for_a_file_and_the_address_of_a_server() -> None:
    assert uris.next_step("sqlite:////a.db").endswith(
        "mlflow ui --backend-store-uri sqlite:////a.db"
    )
    assert uris.next_step("http://there:5000") == "http://there:5000"
    assert uris.next_step("http://there:5000", "/#/x") == "http://there:5000/#/x"
    assert uris.next_step("sqlite:////a.db", "/#/x").endswith(
        "sqlite:////a.db, then open http://127.0.0.1:5000/#/x"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pa55@there:5000", "http://me:***@there:5000"),
        ("postgresql://me:pa55/w@rd@there/db", "postgresql://me:***@there/db"),
        (
            "postgresql://there/db?user=me&password=pa55",
            "postgresql://there/db?user=me&password=***",
        ),
        ("mysql://me:pa55@a/b?ssl_token=pa55&x=1", "mysql://me:***@a/b?ssl_token=***&x=1"),
        ("run --uri 'http://me:pa55@there' --x", "run --uri 'http://me:***@there' --x"),
        ("https://pa55token@there:5000", "https://***@there:5000"),
        ("postgres://me;pa55@there/db", "postgres://***@there/db"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3Dpa55", "mssql+pyodbc:///?odbc_connect=***"),
        ("one http://a:pa55@b two http://c:pa55@d", "one http://a:***@b two http://c:***@d"),
    ],
)
def test_a_password_is_not_shown(text: str, expected: str) -> None:
    assert uris.shown(text) == expected


@pytest.mark.parametrize("uri", ["sqlite:////a b/c.db", "http://127.0.0.1:5000", "databricks"])
def test_a_uri_without_a_password_is_shown_as_it_is(uri: str) -> None:
    assert uris.shown(uri) == uri


def test_of_a_sqlite_address_with_options_the_file_is_known() -> None:
    uri = uris.resolve_uri("sqlite:////a b/c.db?timeout=60")
    assert uri == "sqlite:////a b/c.db?timeout=60"
    assert uris.sqlite_file(uri) == Path("/a b/c.db")


def test_a_path_that_databases_read_otherwise_is_refused() -> None:
    with pytest.raises(InputError, match="takes no % in a path; name another file"):
        uris.resolve_uri("sqlite:////a%20b/c.db")


def test_a_database_whose_driver_is_missing_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"does not answer \(No module named 'pymysql'\)"):
        find.study_of_run_at("mysql+pymysql://127.0.0.1:1/runs", "f" * 32)


def test_a_proxy_that_stands_before_mlflow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:pa55@127.0.0.1:9")
    uri = "http://127.0.0.1:5000"
    with pytest.raises(InputError, match="Connection refused") as told:
        find.study_of_run_at(uri, "f" * 32)
    assert "through the proxy http://me:***@127.0.0.1:9" in str(told.value)
    assert "add 127.0.0.1 to no_proxy" in str(told.value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert "proxy" not in connection.reason(uri, OSError("away"))
    assert "proxy" not in connection.reason("sqlite:////a.db", OSError("away"))


@pytest.mark.parametrize("name", environment.BINDING)
def test_what_the_environment_binds_to_another_programs_run_has_no_effect(
    name: str, tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "m-" + "0" * 32)
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    study = write_study(tmp_path / "runs" / "tiny", trials=1, epochs=2)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sent: list[SyncReport] = []
    work = threading.Thread(  # MLflow reads such a variable once a thread
        target=lambda: sent.append(sync_study(study, uri=uri, experiment="x", driving=False))
    )
    work.start()
    work.join()
    assert [report.epochs for report in sent] == [2]


def test_a_run_id_leads_to_its_study(
    client: MlflowClient, parent: Run, new_child: Callable[[int], Run]
) -> None:
    child = new_child(7)
    study_id, study_dir = parent.data.tags["study_id"], parent.data.tags["study_dir"]
    assert find.study_of_run(client, parent.info.run_id) == find.StudyRun(
        parent.info.run_id, study_id, study_dir, None
    )
    assert find.study_of_run(client, child.info.run_id) == find.StudyRun(
        parent.info.run_id, study_id, study_dir, "t0007"
    )


@pytest.mark.parametrize("run_id", ["f" * 32, "no run id", "../etc"])
def test_an_unknown_run_id_is_refused(client: MlflowClient, run_id: str) -> None:
    with pytest.raises(InputError, match="has no run"):
        find.study_of_run(client, run_id)


def test_a_run_of_a_pick_leads_to_the_run_to_name(client: MlflowClient, parent: Run) -> None:
    tags = {"mlflow.parentRunId": parent.info.run_id, "stage": "selection"}
    pick = client.create_run(parent.info.experiment_id, run_name="selection-12ab", tags=tags)
    with pytest.raises(InputError, match=rf"selection-12ab.*--run-id {parent.info.run_id}"):
        find.study_of_run(client, pick.info.run_id)


def test_a_run_of_something_else_is_refused(client: MlflowClient) -> None:
    other = client.create_run("0")
    with pytest.raises(InputError, match="no study and no trial"):
        find.study_of_run(client, other.info.run_id)


CONNECT = "import sys; from search.tracking.connection import connect; connect(sys.argv[1])"


def test_a_process_that_is_killed_while_it_makes_the_database_leaves_none(tmp_path: Path) -> None:
    uri, database = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlflow.db"
    fresh = tmp_path / ".mlflow.db.new"
    process = subprocess.Popen([sys.executable, "-c", CONNECT, uri])
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (fresh.exists() and fresh.stat().st_size > 0):
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert fresh.stat().st_size > 0  # it was in the middle of it
    assert not database.exists()
    client = connection.connect(uri)
    client.create_experiment("whole", artifact_location=tmp_path.as_uri())
    assert database.exists()
    assert not fresh.exists()
    assert connection.connect(uri).get_experiment_by_name("whole") is not None


@pytest.mark.parametrize("uri", ["postgresql://u:pa55@h:port/db", "postgresql://u:pa55@[::1/db"])
def test_an_address_of_a_database_that_cannot_be_read_is_one_sentence(uri: str) -> None:
    with pytest.raises(InputError, match="cannot be read as the address of a database") as told:
        uris.resolve_uri(uri)
    assert "pa55" not in str(told.value)
