from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from acgan.evaluation.grids import read_grid, sample_grids, untrained_grid
from acgan.files import write_json
from acgan.run.records import RANKING, read_records
from acgan.run.rundir import RunDir
from acgan.training import train
from search.study.folder import Study, open_or_create, open_study, study_path
from search.study.lock import driver_at_work, driver_of
from search.study.store.objects import ObjectStore, StoreError
from search.study.store.runs import StoredRun, in_store
from search.study.store.study_copy import StudyCopy, is_kept, kept_weights, local_folder, run_file
from search.tracking import connection
from search.tracking.find import find_runs
from search.tracking.mirror import sync_study
from search.tracking.recorder import Recorder
from tests.kit import tiny_config, tiny_dataset
from tests.s3_server import S3Server
from tests.search.study.store.conftest import new_place
from tests.searches import wait_for
from tests.studies import write_study, write_trial

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]

Node = Callable[[str], None]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Return what lets this process be one of several nodes, each with a disk of its own."""

    def become(name: str) -> None:
        monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / name))

    become("one")
    return become


def begin(address: str) -> Study:
    """Begin a study with one trial and its ledger in the store."""
    path = study_path(address, "tiny")
    with driver_of(path, print) as own:
        assert own is not None
        study = open_or_create(path, write_study(path.parent / "template").info)
        shutil.rmtree(path.parent / "template")
        write_trial(study, 0)
        study.ledger_path.write_text("a line\n")
        own.push()
    return study


def texts(study: Path) -> dict[str, str]:
    files = [path for path in study.rglob("*") if path.is_file() and path.name != "lock.json"]
    return {str(path.relative_to(study)): path.read_text() for path in files}


def test_a_node_with_an_empty_disk_has_the_study(address: str, node: Node) -> None:
    study = begin(address)
    node("other")
    copy = open_study(study_path(address, "tiny"))
    assert copy.path != study.path
    assert copy.info == study.info
    assert copy.place == f"{address}/tiny"
    there = texts(study.path)
    del there["t0000/config.json"]  # comes with its first epoch
    assert texts(copy.path) == there


def test_what_was_not_yet_in_the_store_is_not_in_the_study(address: str, node: Node) -> None:
    study = begin(address)
    write_trial(study, 1)
    study.ledger_path.write_text("a line\nanother that was not sent\n")
    again = open_study(study_path(address, "tiny"))
    assert [trial.name for trial in again.trials()] == ["t0000"]
    assert again.ledger_path.read_text() == "a line\n"


def test_what_a_driver_adds_changes_and_deletes_comes_to_other_nodes(
    any_address: str, node: Node
) -> None:
    begin(any_address)
    node("other")
    path = study_path(any_address, "tiny")
    with driver_of(path, print) as own:
        assert own is not None
        write_trial(Study(path, open_study(path).info), 1)
        (path / "t0000" / "trial.json").unlink()
        (path / "selection" / "pick").mkdir(parents=True)
        (path / "selection" / "pick" / "pick.json").write_text("{}")
        (path / "optuna.jsonl").write_text("a line\nanother\n")
        node("one")
        assert driver_at_work(study_path(any_address, "tiny"))
        node("other")
    node("one")
    copy = study_path(any_address, "tiny")
    assert not driver_at_work(copy)
    assert [trial.name for trial in open_study(copy).trials()] == ["t0001"]
    assert (copy / "selection" / "pick" / "pick.json").read_text() == "{}"
    assert (copy / "optuna.jsonl").read_text() == "a line\nanother\n"


def test_the_last_drivers_ledger_is_found_though_it_is_not_yet_listed(
    server: S3Server, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = new_place(server.address)
    begin(address)
    then = time.time()
    node("other")
    path = study_path(address, "tiny")
    with driver_of(path, print):
        (path / "optuna.jsonl").write_text("a line\nanother\n")
    node("third")
    monkeypatch.setattr(server, "listed_at", lambda: then)
    monkeypatch.setattr(server, "fault", lambda environ: "behind")
    assert "ledger/000001.jsonl" in ObjectStore(f"{address}/tiny").list("ledger/")  # but deleted
    path = local_folder(address, "tiny")
    path.mkdir()
    with driver_of(path, print):
        assert (path / "optuna.jsonl").read_text() == "a line\nanother\n"
        assert [trial.name for trial in open_study(path).trials()] == ["t0000"]


def test_the_copy_of_a_driver_at_work_is_left_as_it_is(address: str, node: Node) -> None:
    begin(address)
    path = study_path(address, "tiny")
    with driver_of(path, print):
        write_trial(open_study(path), 1)
        assert study_path(address, "tiny") == path
        assert [trial.name for trial in open_study(path).trials()] == ["t0000", "t0001"]


def test_another_study_of_the_same_name_leaves_nothing_of_the_first(
    address: str, node: Node
) -> None:
    study = begin(address)
    node("other")
    path = study_path(address, "tiny")
    with driver_of(path, print):
        shutil.rmtree(path / "t0000")
        other = study.info.model_copy(update={"uuid": "f" * 32})
        write_json(path / "study.json", other)
        (path / "optuna.jsonl").unlink()
    node("one")
    copy = open_study(study_path(address, "tiny"))
    assert copy.info.uuid == "f" * 32
    assert copy.trials() == []
    assert not copy.ledger_path.exists()


def test_weights_and_grids_come_when_a_reader_needs_them(
    address: str, node: Node, tmp_path: Path
) -> None:
    study = begin(address)
    own = StudyCopy.of(study.path)
    assert own is not None
    with StoredRun(own.store, "t0000", own.work, ranking=RANKING, notes=[]) as stored:
        records = train(tiny_config(), tiny_dataset(), RunDir(stored.folder))
        assert [r.epoch for r, _ in in_store(records, stored, lambda: None)] == [1, 2]
        kept = RunDir(stored.folder).kept_weights()
        grids = sample_grids(stored.folder, read_records(stored.folder / "epochs.jsonl"))
        sizes = {record.epoch: read_grid(grid).size for record, grid in grids}
        expected = (stored.folder / "weights" / "epoch-0002.safetensors").read_bytes()
    node("other")
    trial = open_study(study_path(address, "tiny")).trial("t0000")
    assert [record.epoch for record in trial.records()] == [1, 2]
    assert not list(trial.path.glob("**/*.safetensors"))
    assert not list(trial.path.glob("samples/*"))
    for record, grid in sample_grids(trial.path, trial.records()):
        assert is_kept(grid)
        assert read_grid(run_file(grid)).size == sizes[record.epoch]
    assert is_kept(untrained_grid(trial.path))
    assert not is_kept(trial.path / "samples" / "epoch-0009.png")
    assert kept_weights(trial.path) == sorted(kept)
    path = RunDir(trial.path).weights_path(2)
    assert run_file(path).read_bytes() == expected
    assert not run_file(RunDir(trial.path).weights_path(3)).exists()


def test_a_driver_waits_through_an_outage_but_not_once_it_is_interrupted(
    server: S3Server, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begin(new_place(server.address))
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        monkeypatch.setattr(server, "fault", lambda environ: "")

    with driver_of(study.path, say) as own:
        assert own is not None
        study.ledger_path.write_text("a line\nanother\n")
        monkeypatch.setattr(server, "fault", lambda environ: "expired")
        own.push()
    assert [sentence.partition(" (")[0] for sentence in said] == [
        f"{study.place} does not do what it is asked for",
        f"{study.place} answers again",
    ]
    assert own.store.read("ledger/000002.jsonl") == b"a line\nanother\n"

    def interrupt() -> None:
        with driver_of(study.path, print):
            study.ledger_path.write_text("a line\nanother\nand one more\n")
            monkeypatch.setattr(server, "fault", lambda environ: "expired")
            raise KeyboardInterrupt

    with pytest.raises(StoreError, match="token has expired"):
        interrupt()


def test_the_next_epoch_leaves_alone_what_is_being_fetched(address: str, node: Node) -> None:
    study = begin(address)
    own = StudyCopy.of(study.path)
    assert own is not None
    with StoredRun(own.store, "t0000", own.work, ranking=RANKING, notes=[]) as stored:
        records = train(tiny_config(), tiny_dataset(), RunDir(stored.folder))
        names = [name for _, name in in_store(records, stored, lambda: None)]
    own.take("t0000", names[0])
    grids = study.path / "t0000" / "samples"
    grids.mkdir(exist_ok=True)
    fetched, gone = grids / ".epoch-0001.png.0a1b2c3d.tmp", grids / "epoch-0009.png"
    for path in (fetched, gone):
        path.touch()
    own.take("t0000", names[1])
    assert fetched.exists()
    assert not gone.exists()


def test_a_store_that_does_not_give_a_grid_is_not_laid_on_mlflow(
    server: S3Server, node: Node, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = new_place(server.address)
    study = begin(address)
    own = StudyCopy.of(study.path)
    assert own is not None
    with StoredRun(own.store, "t0000", own.work, ranking=RANKING, notes=[]) as stored:
        records = train(tiny_config(), tiny_dataset(), RunDir(stored.folder))
        assert len(list(in_store(records, stored, lambda: None))) == 2
    node("other")
    copy = open_study(study_path(address, "tiny"))
    monkeypatch.setattr(server, "fault", lambda environ: "expired")
    said: list[str] = []
    follower = Recorder(copy, uri=uri, experiment="chests", say=said.append)
    follower.start()
    wait_for(lambda: bool(said), "that the grids are missed")
    with pytest.raises(StoreError) as failed:
        sync_study(copy, uri=uri, experiment="chests", driving=True)
    monkeypatch.setattr(server, "fault", lambda environ: "")
    wait_for(lambda: len(said) == 2, "that they are sent")
    assert follower.close(60)
    assert said[0].startswith(f"{copy.place} does not do what it is asked for")
    assert said[0].endswith("MLflow is sent the rest later, and the search goes on")
    assert connection.not_taken(uri, failed.value).startswith(
        f"MLflow at {uri} is not sent all of it: {copy.place} does not do what it is asked for"
    )
    client = connection.connect(uri)
    runs = find_runs(client, f"tags.study_id = '{copy.info.uuid}'")
    (run,) = [run for run in runs if "trial" in run.data.tags]
    files = client.list_artifacts(run.info.run_id, "images")
    assert len([file for file in files if file.path.endswith(".png")]) == 3
