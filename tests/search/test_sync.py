"""The command that sends by hand: what it prints and how it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from acgan.command import typed
from search.study.lock import driver_lock
from search.sync import main
from search.tracking import connection
from search.tracking.mirror import study_links
from tests import studies
from tests.mlflow_server import Server

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]


def test_it_sends_a_study_and_says_what_to_type_next(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=3)
    shutil.copytree(study.path / "t0001", study.path / "t0001-backup")  # is no trial
    words = ["--study", "demo", "--storage-path", str(tmp_path / "runs"), "--tracking-uri", uri]
    assert main(words) == 0
    sent, look = capsys.readouterr().out.splitlines()
    assert sent == "study demo: sent 2 new runs, 6 epochs and 6 sample images; all else was there"
    command = typed(["mlflow", "ui", "--backend-store-uri", uri])
    assert look.startswith(f"to look at it: {command}, then open http://127.0.0.1:5000/#/")
    assert study_links(study, uri)[0] in look
    assert main(words) == 0
    assert "sent 0 new runs, 0 epochs and 0 sample images" in capsys.readouterr().out


def test_a_copy_of_a_study_does_not_send_into_its_runs_and_a_study_that_was_moved_does(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=1, epochs=1)
    words = ["--storage-path", str(tmp_path / "runs"), "--tracking-uri", uri, "--study"]
    assert main([*words, "demo"]) == 0
    copy = tmp_path / "runs" / "again"
    shutil.copytree(study.path, copy)
    capsys.readouterr()
    assert main([*words, "again"]) == 2
    assert f"{copy} is a copy of the study at {study.path}" in capsys.readouterr().err
    assert main([*words[:-2], f"sqlite:///{tmp_path / 'own.db'}", "--study", "again"]) == 0
    whole = tmp_path / "whole"
    whole.mkdir()
    shutil.copy(tmp_path / "mlflow.db", whole)
    assert main([*words[:-2], f"sqlite:///{whole}/mlflow.db", "--study", "again"]) == 0
    (tmp_path / "runs" / "linked").symlink_to(study.path)
    assert main([*words, "linked"]) == 0  # the same one
    shutil.rmtree(study.path)  # so it was moved
    assert main([*words, "again"]) == 0


def test_a_study_that_mlflow_has_stays_in_its_experiment_and_this_is_said(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    studies.write_study(tmp_path / "runs" / "demo", trials=1, epochs=1)
    words = ["--study", "demo", "--storage-path", str(tmp_path / "runs"), "--tracking-uri", uri]
    assert main([*words, "--experiment", "chests"]) == 0
    assert main(words) == 0
    assert capsys.readouterr().err == ""
    assert main([*words, "--experiment", "others"]) == 0
    assert "demo stays in the MLflow experiment 'chests'" in capsys.readouterr().err
    assert connection.connect(uri).get_experiment_by_name("others") is None


def test_a_dead_server_ends_with_1(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    studies.write_study(tmp_path / "runs" / "demo", trials=1, epochs=1)
    storage = str(tmp_path / "runs")
    words = ["--study", "demo", "--storage-path", storage, "--tracking-uri", server.uri]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: MLflow at {server.uri} takes no data: ")


def test_beside_a_search_without_file_locks_nothing_is_sent_twice(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    study = studies.write_study(tmp_path / "runs" / "demo", trials=1, epochs=1)
    words = ["--study", "demo", "--storage-path", str(tmp_path / "runs"), "--tracking-uri", uri]
    with driver_lock(study.path):
        assert main(words) == 2
    assert "type it again after its end" in capsys.readouterr().err
    assert main(words) == 0
    assert "sent 1 new runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--study", "missing"],
        ["--study", "../demo"],
        ["--study", "demo", "--tracking-uri", "mlruns"],
        ["--study", "demo", "--storage-path", "s3://"],
    ],
)
def test_bad_input_ends_with_2(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.write_study(tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2


def test_a_damaged_trial_ends_with_1_after_all_others_were_sent(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=1)
    (study.path / "t0000" / "epochs.jsonl").write_text("no record\n")
    storage = str(tmp_path / "runs")
    assert main(["--study", "demo", "--storage-path", storage, "--tracking-uri", uri]) == 1
    captured = capsys.readouterr()
    assert "t0000/epochs.jsonl, line 1 is no epoch record" in captured.err
    assert "sent 1 new runs" in captured.out
