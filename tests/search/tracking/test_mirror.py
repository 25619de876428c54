"""What is in the directories is in MLflow: exactly, once, and again after every interruption."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from acgan.command import significant
from acgan.run.records import QUALITY, EpochRecord, best_windowed
from search.study.folder import Outcome, Study, open_study
from search.tracking import connection, notes, study_runs, view
from search.tracking.mirror import Files, Mirror, Sent, SyncReport, missing, sync_study
from tests import studies
from tests.mirrored import assert_equal_to_disk, image_steps, running_trial, runs_of

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return studies.write_study(tmp_path / "runs" / "demo")


def sync(study: Study, uri: str, *, driving: bool = False) -> SyncReport:
    return sync_study(study, uri=uri, experiment="chests", driving=driving)


def test_mlflow_holds_what_the_directories_hold(tmp_path: Path, uri: str) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=3, epochs=5)
    report = sync(study, uri)
    assert (report.runs, report.epochs, report.images) == (3, 15, 15)
    assert_equal_to_disk(study, connection.connect(uri))


def test_sending_again_adds_nothing(tmp_path: Path, uri: str) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=3)
    sync(study, uri)
    assert sync(study, uri) == SyncReport()
    assert_equal_to_disk(study, connection.connect(uri))


def test_an_image_in_mlflow_has_the_pixels_of_the_grid(study: Study, uri: str) -> None:
    trial = running_trial(study, 0, epochs=1)
    sync(study, uri)
    client = connection.connect(uri)
    run_id = runs_of(client)["t0000"].info.run_id
    (name,) = (f.path for f in client.list_artifacts(run_id, "images") if f.path.endswith("png"))
    with (
        Image.open(client.download_artifacts(run_id, name)) as there,
        Image.open(trial.path / "samples" / "epoch-0001.png") as here,
    ):
        assert np.array_equal(np.asarray(there), np.asarray(here))


def test_the_study_shows_its_best_trial_and_what_its_score_means(tmp_path: Path, uri: str) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=3, epochs=5)
    sync(study, uri)
    run = runs_of(connection.connect(uri))["demo"]
    scores = {t.name: best_windowed(t.records(), study.info.ranking) for t in study.trials()}
    assert run.data.tags["best_trial"] == min(scores, key=lambda name: scores[name])
    assert run.data.metrics == {
        "best/fd_cnn": min(scores.values()),
        "quality/floor": 1.5,
        "quality/untrained": 40.25,
        "quality/classifier_accuracy": 0.9375,
    }
    assert run.info.status == "FINISHED"


def test_trials_and_a_study_of_one_picture_a_class_are_called_so(
    study: Study, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = studies.epoch_metrics
    varied = (1.1, 0.07, 0.3)
    monkeypatch.setattr(
        studies,
        "epoch_metrics",
        lambda number, epoch: metrics(number, epoch) | {"val/diversity": varied[number]},
    )
    told = []
    for number in (2, 1, 0):  # each better than those before
        trial = running_trial(study, number, epochs=3)
        studies.write_end(trial, Outcome.FINISHED)
        sync(study, uri)
        runs = runs_of(connection.connect(uri))
        told.append([runs[name].data.tags.get("variety") for name in (trial.name, "demo")])
    assert told == [[None, None], ["one picture per class"] * 2, [None, None]]
    assert runs["t0001"].data.tags["variety"] == "one picture per class"


def test_of_tied_trials_the_best_is_the_first_by_name_whichever_ended_first(
    study: Study, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = studies.epoch_metrics
    monkeypatch.setattr(studies, "epoch_metrics", lambda number, epoch: metrics(0, epoch))
    for number in (1, 0, 2):
        trial = running_trial(study, number, epochs=3)
        studies.write_end(trial, Outcome.FINISHED)
        sync(study, uri)
        told = runs_of(connection.connect(uri))["demo"].data.tags["best_trial"]
        assert told == ("t0001" if number == 1 else "t0000")


def test_a_child_names_its_own_parameters_and_carries_its_configuration(
    tmp_path: Path, uri: str
) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=1, epochs=1)
    sync(study, uri)
    client = connection.connect(uri)
    runs = runs_of(client)
    child = runs["t0000"]
    assert child.data.params == {
        "train.learning_rate": "0.0001",
        "train.dropout": "0.5",
    }
    assert child.data.tags["seed"] == "0"
    assert child.data.tags["mlflow.parentRunId"] == runs["demo"].info.run_id
    (trial,) = study.trials()
    path = Path(client.download_artifacts(child.info.run_id, "config.json"))
    assert path.read_bytes() == (trial.path / "config.json").read_bytes()


def test_each_end_shows_its_status_reason_and_time(study: Study, uri: str) -> None:
    reasons = {
        Outcome.FINISHED: "",
        Outcome.PRUNED: "behind 67 % of the trials at epoch 6",
        Outcome.CRASHED: "out of memory",
        Outcome.INTERRUPTED: "",
    }
    for number, (outcome, reason) in enumerate(reasons.items()):
        studies.write_end(running_trial(study, number, epochs=2), outcome, reason)
    sync(study, uri)
    runs = runs_of(connection.connect(uri))
    shown = {
        name: (run.info.status, run.data.tags["outcome"], run.data.tags.get("stop_reason"))
        for name, run in runs.items()
        if name != "demo"
    }
    assert shown == {
        "t0000": ("FINISHED", "finished", None),
        "t0001": ("FINISHED", "pruned", "pruned: behind 67 % of the trials at epoch 6"),
        "t0002": ("FAILED", "crashed", "crashed: out of memory"),
        "t0003": ("KILLED", "interrupted", None),
    }
    assert runs["demo"].info.status == "KILLED"
    assert runs["t0001"].info.start_time == round(1000 * (studies.BEGIN + 101.125))
    assert runs["t0001"].info.end_time == round(1000 * (studies.BEGIN + 190))


def test_a_trial_that_continues_is_the_same_run_and_runs_again(study: Study, uri: str) -> None:
    trial = running_trial(study, 0, epochs=2)
    studies.write_end(trial, Outcome.INTERRUPTED, "Ctrl-C")
    sync(study, uri)
    client = connection.connect(uri)
    before = runs_of(client)["t0000"]
    assert before.info.status == "KILLED"

    (trial.path / "end.json").unlink()
    studies.write_epochs(trial, [3])
    assert sync(study, uri, driving=True) == SyncReport(epochs=1, images=1)
    after = runs_of(client)["t0000"]
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "RUNNING")
    assert not {"outcome", "stop_reason"} & after.data.tags.keys()
    assert_equal_to_disk(study, client)


def test_an_epoch_that_was_trained_again_is_sent_again(study: Study, uri: str) -> None:
    trial = running_trial(study, 0, epochs=2)
    sync(study, uri)
    first, second = trial.records()
    again = second.model_copy(update={"time": second.time + 60, "metrics": {QUALITY: 3.25}})
    lines = [record.model_dump_json() + "\n" for record in (first, again)]
    (trial.path / "epochs.jsonl").write_text("".join(lines))
    assert sync(study, uri) == SyncReport(epochs=1)
    client = connection.connect(uri)
    assert runs_of(client)["t0000"].data.metrics[QUALITY] == 3.25


def test_a_pass_that_ends_early_is_gone_on_with(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=3)
    monkeypatch.setattr("search.tracking.mirror.IMAGES_A_PASS", 2)
    first = Mirror(study, uri=uri, experiment="chests").update(driving=False)
    assert first == SyncReport(runs=2, epochs=6, images=2, complete=False)
    client = connection.connect(uri)
    assert {run.info.status for run in runs_of(client).values()} == {"RUNNING"}
    assert sync(study, uri) == SyncReport(images=4)
    assert_equal_to_disk(study, client)
    assert {run.info.status for run in runs_of(client).values()} == {"FINISHED"}


def test_a_database_that_came_back_older_gets_all_before_a_trial_counts_as_finished(
    study: Study, uri: str
) -> None:
    database = Path(uri.removeprefix("sqlite:///"))
    mirror = Mirror(study, uri=uri, experiment="chests")
    trial = running_trial(study, 0, epochs=2)
    mirror.update(driving=True)
    with sqlite3.connect(database) as now, sqlite3.connect(f"{database}.before") as before:
        now.backup(before)
    studies.write_epochs(trial, [3, 4])
    mirror.update(driving=True)
    with sqlite3.connect(database) as now, sqlite3.connect(f"{database}.before") as before:
        before.backup(now)
    studies.write_epochs(trial, [5])
    studies.write_end(trial, Outcome.FINISHED)
    assert not mirror.update(driving=True).complete
    assert runs_of(connection.connect(uri))["t0000"].info.status == "RUNNING"
    assert mirror.update(driving=True).complete
    assert_equal_to_disk(study, connection.connect(uri))
    assert runs_of(connection.connect(uri))["t0000"].info.status == "FINISHED"


def test_without_file_locks_all_is_sent_all_the_same(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    study = studies.write_study(tmp_path / "runs" / "demo", trials=1, epochs=2)
    assert sync(study, uri).epochs == 2
    assert_equal_to_disk(study, connection.connect(uri))


def test_a_trial_that_is_whole_is_not_read_again(tmp_path: Path, uri: str) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=2)
    sync(study, uri)
    for trial in study.trials():
        (trial.path / "epochs.jsonl").write_text("no record\n")
    assert sync(study, uri) == SyncReport()


def marked(study: Study, uri: str) -> Mirror:
    """Return a copy that believes the study's marks, as a search's recorder does."""
    return Mirror(study, uri=uri, experiment="chests", marked=True)


def test_trials_that_are_marked_are_not_asked_for(tmp_path: Path, uri: str) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=3, epochs=2)
    sync(study, uri)
    client = connection.connect(uri)
    for run in runs_of(client).values():
        client.set_terminated(run.info.run_id, "FINISHED", end_time=1)  # earlier than any mark
    trial = running_trial(study, 3, epochs=2)
    studies.write_end(trial, Outcome.FINISHED)
    for known in study.trials()[:3]:
        (known.path / "epochs.jsonl").write_text("no record\n")
    assert marked(study, uri).update(driving=False) == SyncReport(runs=1, epochs=2, images=2)
    assert marked(study, uri).update(driving=False) == SyncReport()


def test_marks_of_another_database_hold_for_nothing(tmp_path: Path, uri: str) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=2)
    sync(study, uri)
    other = f"{uri}.other"
    assert marked(study, other).update(driving=False) == SyncReport(runs=2, epochs=4, images=4)
    assert_equal_to_disk(study, connection.connect(other))
    assert marked(study, uri).update(driving=False) == SyncReport()


def test_marks_hold_for_nothing_where_a_database_came_back_older(tmp_path: Path, uri: str) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=2)
    sync(study, uri)
    database = Path(uri.removeprefix("sqlite:///"))
    with sqlite3.connect(database) as now, sqlite3.connect(f"{database}.before") as before:
        now.backup(before)
    trial = running_trial(study, 2, epochs=3)
    studies.write_end(trial, Outcome.FINISHED)
    marked(study, uri).update(driving=False)
    with sqlite3.connect(database) as now, sqlite3.connect(f"{database}.before") as before:
        before.backup(now)
    assert marked(study, uri).update(driving=False) == SyncReport(runs=1, epochs=3, images=3)
    assert_equal_to_disk(study, connection.connect(uri))


@pytest.mark.parametrize("content", [b"", b"{", b'{"run_id": "1", "trials": {"t0000": 1}}'])
def test_marks_that_are_damaged_or_not_there_hold_for_nothing(
    tmp_path: Path, uri: str, content: bytes
) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=1)
    sync(study, uri)
    (study.path / "mlflow.json").write_bytes(content)
    assert marked(study, uri).update(driving=False) == SyncReport()
    (study.path / "mlflow.json").unlink()
    assert marked(study, uri).update(driving=False) == SyncReport()
    assert_equal_to_disk(study, connection.connect(uri))


def test_a_trial_that_somebody_deleted_in_mlflow_comes_back_with_sync(
    tmp_path: Path, uri: str
) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=2)
    sync(study, uri)
    client = connection.connect(uri)
    client.delete_run(runs_of(client)["t0001"].info.run_id)
    assert sync(study, uri) == SyncReport(runs=1, epochs=2, images=2)
    assert_equal_to_disk(study, client)


def test_one_damaged_trial_holds_no_other_up(tmp_path: Path, uri: str) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=2)
    damaged = study.path / "t0000" / "epochs.jsonl"
    damaged.write_text("no record\n")
    report = sync(study, uri)
    assert replace(report, problems=frozenset()) == SyncReport(runs=1, epochs=2, images=2)
    assert report.problems == {f"{damaged}, line 1 is no epoch record"}


def test_what_is_missing_follows_from_the_files_and_what_was_sent_alone(study: Study) -> None:
    trial = studies.write_trial(study, 0)
    studies.write_epochs(trial, [1, 2, 3])
    files = Files.read(trial)
    everything = missing(files, Sent())
    assert [record.epoch for record in everything.epochs] == [1, 2, 3]
    assert [epoch for (epoch, _), _ in everything.images] == [1, 2, 3]
    assert everything.count == 3
    sent = Sent(
        epochs={study_runs.epoch_key(files.records[0]), study_runs.epoch_key(files.records[1])},
        images={1},
        damaged={3},
    )
    rest = missing(files, sent)
    assert [record.epoch for record in rest.epochs] == [3]
    assert [epoch for (epoch, _), _ in rest.images] == [2]
    assert rest.count == 2


def test_runs_of_trials_are_named_with_their_study_and_the_baseline_is_called_so(
    tmp_path: Path, uri: str
) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=2, epochs=1)
    sync(study, uri)
    names = {name: run.info.run_name for name, run in runs_of(connection.connect(uri)).items()}
    assert names == {
        "demo": "demo",
        "t0000": "demo/t0000 (baseline)",
        "t0001": "demo/t0001",
    }
    runs = runs_of(connection.connect(uri))
    assert len({run.data.tags.get("mlflow.runColor") for run in runs.values()}) == len(runs)


def test_a_study_that_has_ended_is_described_by_its_ranking(tmp_path: Path, uri: str) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=3, epochs=5)
    sync(study, uri)
    note = runs_of(connection.connect(uri))["demo"].data.tags["mlflow.note.content"]
    scores = {t.name: best_windowed(t.records(), study.info.ranking) for t in study.trials()}
    rows = [line.split(" | ")[0].strip("| ") for line in note.splitlines() if "| t0" in line]
    assert rows == sorted(scores, key=lambda name: scores[name])
    assert note.startswith("3 trials of the study demo have ended, on ")
    assert "selection.pick --run-id " in note
    assert sync(study, uri) == SyncReport()


def note_of(client: MlflowClient, name: str) -> str:
    return str(runs_of(client)[name].data.tags.get(notes.NOTE, ""))


def test_notes_are_kept_up_to_date_until_a_person_changes_them(study: Study, uri: str) -> None:
    client = connection.connect(uri)
    studies.write_end(running_trial(study, 0, epochs=3), Outcome.FINISHED)
    sync(study, uri)
    experiment = client.get_experiment_by_name("chests")
    assert experiment is not None
    first = note_of(client, "demo"), experiment.tags[notes.NOTE]
    studies.write_end(running_trial(study, 1, epochs=3), Outcome.FINISHED)
    sync(study, uri)
    second = note_of(client, "demo"), client.get_experiment(experiment.experiment_id).tags
    assert first[0] != second[0]
    assert second[0].startswith("2 trials of the study demo have ended")
    assert "t0001" in second[1][notes.NOTE] or "t0000" in second[1][notes.NOTE]

    changed = f"My own words.\n\n{second[0]}"
    run_id = runs_of(client)["demo"].info.run_id
    client.set_tag(run_id, notes.NOTE, changed)
    client.set_experiment_tag(experiment.experiment_id, notes.NOTE, "mine")
    studies.write_end(running_trial(study, 2, epochs=3), Outcome.FINISHED)
    sync(study, uri)
    assert note_of(client, "demo") == changed
    assert client.get_experiment(experiment.experiment_id).tags[notes.NOTE] == "mine"
    assert runs_of(client)["t0002"].info.status == "FINISHED"


def test_notes_are_written_while_a_search_runs_but_not_with_each_trial(
    study: Study, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connection.connect(uri)
    mirror = Mirror(study, uri=uri, experiment="chests")
    monkeypatch.setattr("search.tracking.mirror.NOTES_EVERY_S", 1e9)
    for number in range(2):  # the first pass writes it, the second is too early
        trial = running_trial(study, number, epochs=3)
        mirror.update(driving=True)
        studies.write_end(trial, Outcome.FINISHED)
        mirror.update(driving=True)
        assert note_of(client, "demo").startswith("0 trials of the study demo have ended")
    mirror = Mirror(study, uri=uri, experiment="chests")
    mirror.update(driving=True)
    assert note_of(client, "demo").startswith("2 trials of the study demo have ended")


def test_a_note_of_an_earlier_version_is_written_anew(study: Study, uri: str) -> None:
    sync(study, uri)
    client = connection.connect(uri)
    run_id = runs_of(client)["demo"].info.run_id
    client.set_tag(run_id, notes.NOTE, "2 trials of the study demo have ended, on phantom. best: …")
    sync(study, uri)
    assert note_of(client, "demo").startswith("0 trials of the study demo have ended")


def test_a_trial_is_described_when_it_has_ended_for_good(study: Study, uri: str) -> None:
    client = connection.connect(uri)
    trial = running_trial(study, 0, epochs=2)
    studies.write_end(trial, Outcome.INTERRUPTED)
    sync(study, uri)
    assert note_of(client, "t0000") == ""
    studies.write_end(trial, Outcome.PRUNED, "behind")
    sync(study, uri)
    note, run_id = note_of(client, "t0000"), runs_of(client)["t0000"].info.run_id
    value = best_windowed(trial.records(), study.info.ranking)
    assert "(the baseline) of the study [demo]" in note
    assert f"pruned at epoch 2, val/fd_cnn {significant(value)}." in note
    assert "| learning_rate | 0.0001 | 0.0002 |" in note
    assert f"search.reproduce --run-id {run_id}" in note
    assert notes.is_own(note)
    assert not notes.is_own(note.replace("pruned", "cut off"))


def test_several_studies_of_an_experiment_stand_in_its_note_the_latest_first(
    tmp_path: Path, uri: str
) -> None:
    client = connection.connect(uri)
    for name in ("one", "two"):
        study = studies.write_study(tmp_path / "runs" / name, trials=1, epochs=2)
        path = study.path / "study.json"
        later = study.info.model_copy(update={"created": studies.BEGIN + 9 * (name == "two")})
        path.write_text(later.model_dump_json())
        sync(open_study(study.path), uri)
    experiment = client.get_experiment_by_name("chests")
    assert experiment is not None
    rows = [line for line in experiment.tags[notes.NOTE].splitlines() if "[trials]" in line]
    assert [row.split()[1] for row in rows[-2:]] == ["two", "one"]
    assert set(view.links(later.uuid, experiment.experiment_id)) == {
        part.split(")")[0].replace("#/", "/#/") for part in rows[-2].split("](")[1:3]
    }


def test_the_view_of_a_study_stays_as_a_person_has_overridden_it(study: Study, uri: str) -> None:
    sync(study, uri)
    client = connection.connect(uri)
    experiment = client.get_experiment_by_name("chests")
    assert experiment is not None
    key, value = view.tag(study.info)
    assert experiment.tags[key] == value
    assert len(value) < 5000  # what databases of MLflow take
    older = json.dumps(json.loads(value) | {"state": "{}"})
    overridden = json.dumps(json.loads(older) | {"updatedAt": 9e12})
    for there, then in ((older, value), (overridden, overridden), ("no JSON", "no JSON")):
        client.set_experiment_tag(experiment.experiment_id, key, there)
        sync(study, uri)
        assert client.get_experiment(experiment.experiment_id).tags[key] == then


def test_the_untrained_generators_images_are_those_of_step_0(study: Study, uri: str) -> None:
    client = connection.connect(uri)
    trial = running_trial(study, 0, epochs=2)
    (trial.path / "samples" / "epoch-0000.png").write_bytes(studies.sample_png(0, 0))
    assert sync(study, uri) == SyncReport(runs=1, epochs=2, images=3)
    assert sync(study, uri) == SyncReport()
    run_id = runs_of(client)["t0000"].info.run_id
    assert image_steps(client, run_id) == [0, 1, 2]
    assert [p.step for p in client.get_metric_history(run_id, QUALITY)] == [1, 2]


def test_no_best_value_of_a_young_epoch_is_sent(study: Study, uri: str) -> None:
    trial = running_trial(study, 0, epochs=3)
    lines = (trial.path / "epochs.jsonl").read_text().splitlines()
    young = EpochRecord.model_validate_json(lines[0]).model_copy(update={"young": True})
    lines[0] = young.model_dump_json()
    (trial.path / "epochs.jsonl").write_text("".join(f"{line}\n" for line in lines))
    sync(study, uri)
    client = connection.connect(uri)
    run_id = runs_of(client)["t0000"].info.run_id
    for key, steps in ((QUALITY, [1, 2, 3]), ("best/fd_cnn", [2, 3])):
        assert [point.step for point in client.get_metric_history(run_id, key)] == steps


def test_a_trial_that_ended_young_has_the_best_value_of_its_last_epoch(
    study: Study, uri: str
) -> None:
    trial = running_trial(study, 0, epochs=3)
    young = [record.model_copy(update={"young": True}) for record in trial.records()]
    lines = [record.model_dump_json() for record in young]
    (trial.path / "epochs.jsonl").write_text("".join(f"{line}\n" for line in lines))
    client = connection.connect(uri)
    sync(study, uri, driving=True)
    run_id = runs_of(client)["t0000"].info.run_id
    assert client.get_metric_history(run_id, "best/fd_cnn") == []
    studies.write_end(trial, Outcome.PRUNED, "behind")
    sync(study, uri)
    (point,) = client.get_metric_history(run_id, "best/fd_cnn")
    assert (point.step, point.value) == (3, young[-1].metrics["best/fd_cnn"])
