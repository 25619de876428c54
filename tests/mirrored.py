"""What a study's directories hold beside what MLflow holds of it."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import Run

from search.study.folder import Study, Trial
from search.tracking import study_runs
from tests import studies


def runs_of(client: MlflowClient) -> dict[str, Run]:
    """Return trials' runs by the trials' names, others by their own; fails on two of one name."""
    experiment = client.get_experiment_by_name("chests")
    runs = [] if experiment is None else client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {str(run.data.tags.get("trial", run.info.run_name)): run for run in runs}


def assert_equal_to_disk(study: Study, client: MlflowClient) -> None:
    """Check that every trial's epochs stand in MLflow once, with the very same numbers."""
    runs = runs_of(client)
    trials = study.trials()
    assert set(runs) == {study.info.name, *(trial.name for trial in trials)}
    for trial in trials:
        run_id = runs[trial.name].info.run_id
        records = trial.records()
        for key in studies.KEYS:
            history = client.get_metric_history(run_id, key)
            assert [(p.step, p.timestamp, p.value) for p in history] == [
                (*study_runs.epoch_key(record), record.metrics[key]) for record in records
            ]
        assert image_steps(client, run_id) == [record.epoch for record in records]


def image_steps(client: MlflowClient, run_id: str) -> list[int]:
    names = [file.path for file in client.list_artifacts(run_id, "images")]
    return sorted(int(name.split("+")[2]) for name in names if name.endswith(".png"))


def running_trial(study: Study, number: int, epochs: int) -> Trial:
    trial = studies.write_trial(study, number)
    studies.write_epochs(trial, range(1, epochs + 1))
    return trial
