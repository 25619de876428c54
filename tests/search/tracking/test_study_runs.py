"""The contract with MLflow: which run is whose, and what stands in them."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from acgan.errors import InputError
from acgan.run.records import QUALITY, EpochRecord, Ranking
from search.study.folder import Outcome, TrialEnd, open_study
from search.study.objective import Ended
from search.tracking import connection, study_runs
from tests import studies
from tests.kit import ROOT

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]


def test_the_best_value_is_the_last_one_sent_whatever_the_clock_says(
    client: MlflowClient, parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for value, clock in ((100.0, now), (50.0, now - 600)):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        best = Ended(Outcome.FINISHED, "", 1, value, None)
        study_runs.log_best(client, parent, Ranking("val/fd_cnn", 1), f"t{value:04.0f}", best)
    data = client.get_run(parent.info.run_id).data
    assert (data.metrics["best/fd_cnn"], data.tags["best_trial"]) == (50.0, "t0050")


def test_a_study_whose_best_trial_draws_one_picture_a_class_is_tagged_until_another_is_better(
    client: MlflowClient, parent: Run
) -> None:
    told = []
    for number, diversity in enumerate((None, 0.07, 0.08, 0.3)):
        best = Ended(Outcome.FINISHED, "", 1, 9.0 - number, diversity)
        study_runs.log_best(client, parent, Ranking("val/fd_cnn", 1), f"t{number:04d}", best)
        told.append(client.get_run(parent.info.run_id).data.tags.get("variety"))
    assert told == [None, "one picture per class", "one picture per class", None]


def test_trials_of_a_study_whose_run_was_deleted_become_the_new_ones(
    client: MlflowClient, parent: Run, new_child: Callable[[int], Run]
) -> None:
    child = new_child(0)
    study = open_study(Path(parent.data.tags["study_dir"]))
    study_runs.set_status(client, child.info.run_id, "FINISHED", ended_ms=5)
    assert study_runs.finished_trials(client, study, parent) == {"t0000": 5}
    client.delete_run(parent.info.run_id)
    again = study_runs.parent_run(client, study, experiment="chests")
    assert again.info.run_id != parent.info.run_id
    assert study_runs.finished_trials(client, study, again) == {}
    found = study_runs.run_of_trial(client, again, study.trial("t0000"))
    assert found is not None
    assert found.info.run_id == child.info.run_id
    tags = client.get_run(child.info.run_id).data.tags
    assert tags["mlflow.parentRunId"] == again.info.run_id


def test_two_searches_can_start_on_a_new_database_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from search.study.folder import open_study; "
        "from search.tracking import connection, study_runs; "
        "study_runs.parent_run(connection.connect(sys.argv[1]), open_study(Path(sys.argv[2])), "
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
    client = connection.connect(uri)
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
    again = study_runs.parent_run(client, study, experiment="another")
    assert again.info.run_id == parent.info.run_id


def test_a_parent_left_half_described_is_completed(client: MlflowClient, tmp_path: Path) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo")
    tags = {"study_id": study.info.uuid, "stage": "search"}
    client.create_run("0", run_name="demo", tags=tags)
    run = study_runs.parent_run(client, study, experiment="chests")
    assert client.get_run(run.info.run_id).data.params["train.epochs"] == "1"


def test_a_deleted_experiment_is_refused_in_one_sentence(
    client: MlflowClient, parent: Run, tmp_path: Path
) -> None:
    client.delete_experiment(parent.info.experiment_id)
    other = studies.write_study(tmp_path / "runs" / "other")
    with pytest.raises(InputError, match="'chests' is deleted"):
        study_runs.parent_run(client, other, experiment="chests")


def test_run_ids_of_the_surroundings_are_without_effect(
    client: MlflowClient,
    parent: Run,
    monkeypatch: pytest.MonkeyPatch,
    new_child: Callable[[int], Run],
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", parent.info.run_id)
    monkeypatch.setenv("MLFLOW_PARENT_RUN_ID", "f" * 32)
    child = new_child(0)
    assert child.info.run_id != parent.info.run_id
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_more_metrics_than_one_call_takes_all_arrive(
    client: MlflowClient, parent: Run, new_child: Callable[[int], Run]
) -> None:
    run_id = new_child(0).info.run_id
    keys = [QUALITY, *(f"val/{i}" for i in range(24))]
    records = [
        EpochRecord(epoch=e, time=studies.BEGIN + e, metrics=dict.fromkeys(keys, e + 0.1))
        for e in range(1, 91)
    ]
    study_runs.log_epochs(client, run_id, records)
    for key in keys:
        history = client.get_metric_history(run_id, key)
        assert [(point.step, point.value) for point in history] == [
            (record.epoch, record.metrics[key]) for record in records
        ]
    assert study_runs.logged_epochs(client, run_id) == set(map(study_runs.epoch_key, records))


def test_nan_stays_and_infinity_reads_as_the_largest_number(
    client: MlflowClient, parent: Run, new_child: Callable[[int], Run]
) -> None:
    run_id = new_child(0).info.run_id
    metrics = {QUALITY: math.inf, "train/g_loss": math.nan}
    study_runs.log_epochs(client, run_id, [EpochRecord(epoch=1, time=1.0, metrics=metrics)])
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
    assert {study_runs.status_of(end, driving=driving) for driving in (True, False)} == {status}


def test_a_trial_without_an_end_runs_as_long_as_its_driver() -> None:
    assert study_runs.status_of(None, driving=True) == "RUNNING"
    assert study_runs.status_of(None, driving=False) == "KILLED"
