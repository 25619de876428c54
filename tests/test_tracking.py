"""The contract with MLflow: where it is, which run is whose, and what stands in them."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from acgan.errors import InputError
from acgan.records import QUALITY, EpochRecord
from search import tracking
from search.study import Outcome, TrialEnd, open_study
from tests import studies

pytest_plugins = ["tests.mlflow_stores"]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return tracking.connect(uri)


@pytest.fixture
def parent(client: MlflowClient, tmp_path: Path) -> Run:
    study = studies.write_study(tmp_path / "runs" / "demo")
    return tracking.parent_run(client, study, experiment="chests")


def new_child(client: MlflowClient, parent: Run, number: int = 0) -> Run:
    study_dir = Path(parent.data.tags["study_dir"])
    trial = studies.write_trial(open_study(study_dir), number)
    return tracking.create_trial_run(client, parent, trial, studies.BEGIN)


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


def test_the_best_value_is_the_last_one_sent_whatever_the_clock_says(
    client: MlflowClient, parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for value, clock in ((100.0, now), (50.0, now - 600)):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        tracking.log_best(client, parent, "val/fd_cnn", value, trial_name=f"t{value:04.0f}")
    data = client.get_run(parent.info.run_id).data
    assert (data.metrics["best/fd_cnn"], data.tags["best_trial"]) == (50.0, "t0050")


def test_trials_of_a_study_whose_run_was_deleted_become_the_new_ones(
    client: MlflowClient, parent: Run
) -> None:
    child = new_child(client, parent)
    study = open_study(Path(parent.data.tags["study_dir"]))
    tracking.set_status(client, child.info.run_id, "FINISHED", ended_ms=5)
    assert tracking.finished_trials(client, study, parent) == {"t0000": 5}
    client.delete_run(parent.info.run_id)
    again = tracking.parent_run(client, study, experiment="chests")
    assert again.info.run_id != parent.info.run_id
    assert tracking.finished_trials(client, study, again) == {}
    found = tracking.trial_run(client, again, study.trial("t0000"))
    assert found is not None
    assert found.info.run_id == child.info.run_id
    tags = client.get_run(child.info.run_id).data.tags
    assert tags["mlflow.parentRunId"] == again.info.run_id


def test_a_database_whose_driver_is_missing_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"does not answer \(No module named 'pymysql'\)"):
        tracking.find_study_run("mysql+pymysql://127.0.0.1:1/runs", "f" * 32)


def test_two_searches_can_start_on_a_new_database_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from search import tracking; "
        "from search.study import open_study; "
        "tracking.parent_run(tracking.connect(sys.argv[1]), open_study(Path(sys.argv[2])), "
        "experiment='chests')"
    )
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    paths = [studies.write_study(tmp_path / "runs" / name).path for name in ("one", "two")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, uri, str(path)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for path in paths
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    client = tracking.connect(uri)
    experiment = client.get_experiment_by_name("chests")
    assert experiment is not None
    assert experiment.artifact_location == (tmp_path / "new" / "mlartifacts").as_uri()
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"one", "two"}


def test_the_parent_says_what_the_study_is(client: MlflowClient, parent: Run) -> None:
    run = client.get_run(parent.info.run_id)
    assert run.info.run_name == "demo"
    assert run.data.params["train.image_size"] == "32"
    assert run.data.params["space.learning_rate.high"] == "0.0008"
    assert run.data.params["search.objective"] == QUALITY
    assert run.data.tags["stage"] == "search"
    assert run.data.tags["study_dir"].endswith("/runs/demo")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "study.json",
        "environment.txt",
    }
    assert run.inputs is not None
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("phantom", ("0123456789abcdef" * 4)[:36])
    assert "0123456789abcdef" * 4 in data.dataset.source


def test_the_parent_is_found_again_in_whatever_experiment_it_is(
    client: MlflowClient, parent: Run
) -> None:
    study = open_study(Path(parent.data.tags["study_dir"]))
    again = tracking.parent_run(client, study, experiment="another")
    assert again.info.run_id == parent.info.run_id


def test_a_parent_left_half_described_is_completed(client: MlflowClient, tmp_path: Path) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo")
    tags = {"study_id": study.info.uuid, "stage": "search"}
    client.create_run("0", run_name="demo", tags=tags)
    run = tracking.parent_run(client, study, experiment="chests")
    assert client.get_run(run.info.run_id).data.params["train.epochs"] == "1"


def test_a_deleted_experiment_is_refused_in_one_sentence(
    client: MlflowClient, parent: Run, tmp_path: Path
) -> None:
    client.delete_experiment(parent.info.experiment_id)
    other = studies.write_study(tmp_path / "runs" / "other")
    with pytest.raises(InputError, match="'chests' is deleted"):
        tracking.parent_run(client, other, experiment="chests")


def test_run_ids_of_the_surroundings_are_without_effect(
    client: MlflowClient, parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", parent.info.run_id)
    monkeypatch.setenv("MLFLOW_PARENT_RUN_ID", "f" * 32)
    child = new_child(client, parent)
    assert child.info.run_id != parent.info.run_id
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_more_metrics_than_one_call_takes_all_arrive(client: MlflowClient, parent: Run) -> None:
    run_id = new_child(client, parent).info.run_id
    keys = [QUALITY, *(f"val/{i}" for i in range(24))]
    records = [
        EpochRecord(epoch=e, time=studies.BEGIN + e, metrics=dict.fromkeys(keys, e + 0.1))
        for e in range(1, 91)
    ]
    tracking.log_epochs(client, run_id, records)
    for key in keys:
        history = client.get_metric_history(run_id, key)
        assert [(point.step, point.value) for point in history] == [
            (record.epoch, record.metrics[key]) for record in records
        ]
    assert tracking.logged_epochs(client, run_id) == set(map(tracking.epoch_key, records))


def test_nan_stays_and_infinity_reads_as_the_largest_number(
    client: MlflowClient, parent: Run
) -> None:
    run_id = new_child(client, parent).info.run_id
    metrics = {QUALITY: math.inf, "train/g_loss": math.nan}
    tracking.log_epochs(client, run_id, [EpochRecord(epoch=1, time=1.0, metrics=metrics)])
    data = client.get_run(run_id).data.metrics
    assert data[QUALITY] == sys.float_info.max
    assert math.isnan(data["train/g_loss"])


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.FINISHED, "FINISHED"),
        (Outcome.PRUNED, "FINISHED"),
        (Outcome.DIVERGED, "FINISHED"),
        (Outcome.COLLAPSED, "FINISHED"),
        (Outcome.DISCRIMINATOR_WON, "FINISHED"),
        (Outcome.CRASHED, "FAILED"),
        (Outcome.INTERRUPTED, "KILLED"),
    ],
)
def test_an_ended_trial_has_the_status_of_its_outcome(outcome: Outcome, status: str) -> None:
    end = TrialEnd(outcome=outcome, time=0)
    assert {tracking.status_of(end, driving=driving) for driving in (True, False)} == {status}


def test_a_trial_without_an_end_runs_as_long_as_its_driver() -> None:
    assert tracking.status_of(None, driving=True) == "RUNNING"
    assert tracking.status_of(None, driving=False) == "KILLED"


def test_a_run_id_leads_to_its_study(client: MlflowClient, parent: Run) -> None:
    child = new_child(client, parent, number=7)
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
