"""The recorder keeps MLflow up to date beside a search, and holds nothing up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.study.folder import Outcome, Study
from search.tracking import connection, study_runs
from search.tracking.recorder import Recorder
from tests import studies
from tests.mirrored import assert_equal_to_disk, image_steps, running_trial, runs_of
from tests.mlflow_server import Server

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return studies.write_study(tmp_path / "runs" / "demo")


def wait_until(holds: Callable[[], bool], limit_s: float = 400) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def test_the_recorder_follows_a_search(study: Study, uri: str) -> None:
    said: list[str] = []
    follower = Recorder(study, uri=uri, experiment="chests", say=said.append)
    follower.start()
    client = connection.connect(uri)
    trial = running_trial(study, 0, epochs=2)
    wait_until(lambda: "t0000" in runs_of(client))
    wait_until(lambda: runs_of(client)["t0000"].data.metrics != {})
    assert {run.info.status for run in runs_of(client).values()} == {"RUNNING"}

    studies.write_epochs(trial, [3, 4])
    studies.write_end(trial, Outcome.FINISHED)
    follower.close(60)
    assert said == []
    assert_equal_to_disk(study, client)
    assert {run.info.status for run in runs_of(client).values()} == {"FINISHED"}


def test_nothing_is_lost_while_the_server_is_away(study: Study, server: Server) -> None:
    said: list[str] = []
    follower = Recorder(study, uri=server.uri, experiment="chests", say=said.append)
    follower.start()
    trial = running_trial(study, 0, epochs=3)
    wait_until(lambda: len(said) == 1)
    assert "takes no data now" in said[0]

    server.start()
    wait_until(lambda: len(said) == 2)
    assert "takes data again" in said[1]
    studies.write_epochs(trial, [4])
    client = connection.connect(server.uri)
    wait_until(lambda: image_steps(client, runs_of(client)["t0000"].info.run_id) == [1, 2, 3, 4])
    assert_equal_to_disk(study, client)

    server.stop()
    studies.write_epochs(trial, [5, 6])
    studies.write_end(trial, Outcome.FINISHED)
    assert not follower.close(60)
    assert said[-1].startswith("2 epochs are not yet in MLflow")
    assert follower.sync_command.endswith(f"--tracking-uri {server.uri} --experiment chests")


def test_an_error_of_any_library_is_said_and_tried_again(
    study: Study, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_samples, failed = study_runs.log_samples, list[bool]()

    def once(*known: Any) -> None:
        if not failed:
            failed.append(True)
            raise LookupError("no endpoint for the bucket")  # as botocore's: no OSError
        log_samples(*known)

    monkeypatch.setattr(study_runs, "log_samples", once)
    said: list[str] = []
    follower = Recorder(study, uri=uri, experiment="chests", say=said.append)
    follower.start()
    trial = running_trial(study, 0, epochs=3)
    studies.write_end(trial, Outcome.FINISHED)
    wait_until(lambda: len(said) == 2)
    assert follower.close(60)
    assert "takes no data now (LookupError: no endpoint for the bucket)" in said[0]
    assert "takes data again" in said[1]
    assert_equal_to_disk(study, connection.connect(uri))


def test_a_server_that_is_never_there_holds_nothing_up(study: Study, server: Server) -> None:
    said: list[str] = []
    follower = Recorder(study, uri=server.uri, experiment="chests", say=said.append)
    follower.start()
    running_trial(study, 0, epochs=3)
    follower.close(60)
    assert not follower.is_alive()
    assert said[-1].startswith("3 epochs are not yet in MLflow")
