"""Where MLflow is, what is said of it, and which study a run is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from acgan.errors import InputError
from search import tracking

pytest_plugins = ["tests.mlflow_stores"]


def test_a_relative_database_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.resolve_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.resolve_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert tracking.resolve_uri(f"sqlite:///{tmp_path}/c.db") == f"sqlite:///{tmp_path}/c.db"


def test_the_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000/")
    assert tracking.resolve_uri(None) == "http://there:5000"
    assert tracking.resolve_uri("https://here") == "https://here"


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "sqlite://", "htp://x", "s3://b"])
def test_what_is_no_database_and_no_server_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match=r"give sqlite:///FILE\.db"):
        tracking.resolve_uri(uri)


def test_the_next_step_is_a_command_for_a_file_and_the_address_of_a_server() -> None:
    assert tracking.next_step("sqlite:////a.db").endswith(
        "mlflow ui --backend-store-uri sqlite:////a.db"
    )
    assert tracking.next_step("http://there:5000") == "http://there:5000"


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
        ("one http://a:pa55@b two http://c:pa55@d", "one http://a:***@b two http://c:***@d"),
    ],
)
def test_a_password_is_not_shown(text: str, expected: str) -> None:
    assert tracking.shown(text) == expected


@pytest.mark.parametrize("uri", ["sqlite:////a b/c.db", "http://127.0.0.1:5000", "databricks"])
def test_a_uri_without_a_password_is_shown_as_it_is(uri: str) -> None:
    assert tracking.shown(uri) == uri


def test_of_a_sqlite_address_with_options_the_file_is_known() -> None:
    uri = tracking.resolve_uri("sqlite:////a b/c.db?timeout=60")
    assert uri == "sqlite:////a b/c.db?timeout=60"
    assert tracking.sqlite_file(uri) == Path("/a b/c.db")


def test_a_path_that_databases_read_otherwise_is_refused() -> None:
    with pytest.raises(InputError, match="takes no % in a path; name another file"):
        tracking.resolve_uri("sqlite:////a%20b/c.db")


def test_a_database_whose_driver_is_missing_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"does not answer \(No module named 'pymysql'\)"):
        tracking.find_study_run("mysql+pymysql://127.0.0.1:1/runs", "f" * 32)


def test_a_run_id_leads_to_its_study(
    client: MlflowClient, parent: Run, new_child: Callable[[int], Run]
) -> None:
    child = new_child(7)
    study_id, study_dir = parent.data.tags["study_id"], Path(parent.data.tags["study_dir"])
    assert tracking.study_by_run_id(client, parent.info.run_id) == tracking.StudyRun(
        parent.info.run_id, study_id, study_dir, None
    )
    assert tracking.study_by_run_id(client, child.info.run_id) == tracking.StudyRun(
        parent.info.run_id, study_id, study_dir, "t0007"
    )


@pytest.mark.parametrize("run_id", ["f" * 32, "no run id", "../etc"])
def test_an_unknown_run_id_is_refused(client: MlflowClient, run_id: str) -> None:
    with pytest.raises(InputError, match="has no run"):
        tracking.study_by_run_id(client, run_id)


def test_a_run_of_a_pick_leads_to_the_run_to_name(client: MlflowClient, parent: Run) -> None:
    tags = {"mlflow.parentRunId": parent.info.run_id, "stage": "selection"}
    pick = client.create_run(parent.info.experiment_id, run_name="selection-12ab", tags=tags)
    with pytest.raises(InputError, match=rf"selection-12ab.*--run-id {parent.info.run_id}"):
        tracking.study_by_run_id(client, pick.info.run_id)


def test_a_run_of_something_else_is_refused(client: MlflowClient) -> None:
    other = client.create_run("0")
    with pytest.raises(InputError, match="no study and no trial"):
        tracking.study_by_run_id(client, other.info.run_id)
