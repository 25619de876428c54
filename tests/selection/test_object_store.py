"""An augmentation study and a review of a study in an object store, whose copy begins empty."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from acgan.errors import InputError
from acgan.files import file_sha256
from search.study.folder import Study, open_study, study_path
from search.study.lock import driver_of
from search.study.store.runs import Commit, Part
from search.study.store.study_copy import StudyCopy
from selection.ledgers.looks import touches
from selection.ledgers.reviews import Entry, add_review, read_reviews
from selection.steps.request import one_reviewer
from tests.picks import Place, send, type_pick

pytest_plugins = ["tests.mlflow_stores", "tests.trained"]

pytestmark = pytest.mark.process

QUICK = ("--updates", "6", "--cnn-epochs", "3", "--amounts", "2")
RUN_FILES = ("config.json", "epochs.jsonl", "samples/*", "weights/*")


def bring(there: Study, address: str) -> Study:
    """Bring a study in a folder to a store, as its search would have left it there."""
    path = study_path(address, there.path.name)
    with driver_of(path, print) as own:
        assert own is not None
        ignore = shutil.ignore_patterns("lock.json", "weights")
        shutil.copytree(there.path, path, dirs_exist_ok=True, ignore=ignore)
        for trial in there.trials():
            bring_run(trial.path, len(trial.records()), own)
    return open_study(path)


def bring_run(run: Path, epochs: int, own: StudyCopy) -> None:
    parts = {}
    for path in (path for pattern in RUN_FILES for path in run.glob(pattern)):
        name = str(path.relative_to(run))
        key = f"runs/{run.name}/a0001/e{epochs:05d}/{name}"
        own.store.upload(path, key)
        parts[name] = Part(key=key, sha256=file_sha256(path), size=path.stat().st_size)
    content = Commit(epoch=epochs, parts=parts).model_dump_json().encode()
    own.store.write(f"commits/{run.name}/a0001-e{epochs:05d}.json", content)


def type_study(folder: Path, options: list[str]) -> str:
    process = type_pick(folder, *options, *QUICK, "--test", module="selection.study")
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, output
    return output


def look(reviewer: str) -> Entry:
    return Entry(
        time=1.0, reviewer=reviewer, action="kept", candidate="t0000, epoch 5", weights="a" * 64
    )


def test_a_study_and_a_review_on_nodes_whose_disks_were_empty(
    tmp_path: Path,
    picked_runs: Path,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"file://{tmp_path}/bucket"
    shutil.copytree(picked_runs, tmp_path / "runs")
    place = Place(tmp_path)
    send(place.study, place.uri)
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "first"))
    first = bring(place.study, address)

    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "second"))
    options = ["--study", "tiny", "--storage-path", address, "--tracking-uri", place.uri]
    type_study(tmp_path, options)
    second = open_study(study_path(address, "tiny"))
    with one_reviewer(second):
        add_review(second, look("anna"))
        with pytest.raises(InputError, match="is being worked on by process"), one_reviewer(second):
            pass

    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "first"))
    study_path(address, "tiny")
    assert [entry.reviewer for entry in read_reviews(first)] == ["anna"]
    assert len(touches(first)) == 1
    (page,) = first.path.glob("selection/study-*/study.html")
    assert page.stat().st_size > 0
    assert "is there already" in type_study(tmp_path, options)
    assert len(touches(first)) == 1
