from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from acgan.config import TrainConfig
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.files import write_json
from search.run import parser
from search.settings import identity
from search.study.folder import (
    STUDY_FORMAT,
    LastStart,
    Outcome,
    Quality,
    Study,
    StudyInfo,
    TrialEnd,
    begun_with,
    check_same,
    differences,
    new_uuid,
    open_or_create,
    open_study,
    study_path,
    trial_name,
)
from tests.studies import by_distance, write_study, write_trial

LONG_AGO = 1_700_000_000.0


def info(**changes: Any) -> StudyInfo:
    values: dict[str, Any] = {
        "format": STUDY_FORMAT,
        "uuid": new_uuid(),
        "name": "demo",
        "created": time.time(),
        "code_version": "0.1.0",
        "train": TrainConfig().model_dump(),
        "space": {"dropout": {"low": 0.1, "high": 0.6}},
        "search": identity(by_distance()),
        "data_name": "phantom",
        "classes": ("COVID-19", "normal", "pneumonia"),
        "fingerprint": "f" * 64,
    }
    return StudyInfo(**(values | changes))


def begun(path: Path) -> Study:
    """Create a study with one trial: one without may still become another."""
    study = open_or_create(path, info())
    write_trial(study, 0)
    return study


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "../a",
        "/a",
        "a\\b",
        "-a",
        ".a",
        "_a",
        "a b",
        "a\n",
        "a\0",
        "é",
        "x" * 101,
    ],
)
def test_a_name_that_is_no_plain_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"--study .* must be a plain name"):
        study_path("runs", name)


@pytest.mark.parametrize("name", ["demo", "a", "7", "covidx-v9.a_b", "a..b", "x" * 100])
def test_a_plain_name_is_a_folder_of_the_storage(tmp_path: Path, name: str) -> None:
    assert study_path(str(tmp_path), name) == tmp_path / name


def test_the_storage_is_an_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of/someone")
    assert study_path("runs", "a") == tmp_path / "runs/a"
    assert study_path("~/runs", "a") == Path("/home/of/someone/runs/a")


@pytest.mark.parametrize("storage", ["a" * 1000, "~nobody-of-this-name/runs", "caf\udce9"])
def test_a_storage_that_can_be_no_path_is_refused(storage: str) -> None:
    with pytest.raises(InputError, match="can be no path"):
        study_path(storage, "a")


@pytest.mark.parametrize("name", ["../a", ".a", "a/b", "", "a" * 101])
@pytest.mark.parametrize("storage", ["runs", "s3://bucket/runs"])
def test_a_name_that_is_no_plain_one_is_refused(storage: str, name: str) -> None:
    with pytest.raises(InputError, match="must be a plain name"):
        study_path(storage, name)


def test_trials_are_named_by_their_number() -> None:
    assert [trial_name(number) for number in (0, 7, 12345)] == ["t0000", "t0007", "t12345"]


def test_only_crashed_and_interrupted_trials_do_not_count() -> None:
    assert {o for o in Outcome if not o.counts} == {Outcome.CRASHED, Outcome.INTERRUPTED}


def test_a_study_is_opened_as_it_was_created(tmp_path: Path) -> None:
    wanted = info()
    created = open_or_create(tmp_path / "new" / "demo", wanted)
    assert created.info == wanted
    assert open_study(created.path) == created
    write_trial(created, 0)
    again = open_or_create(created.path, info())
    assert again.info.uuid == wanted.uuid


def test_a_study_without_a_trial_becomes_what_is_wanted_next(tmp_path: Path) -> None:
    given_up = open_or_create(tmp_path, info())
    given_up.scorer_path.write_text("of other images")
    given_up.ledger_path.write_text("of another space")
    wanted = info(train=TrainConfig(epochs=5).model_dump())
    check_same(tmp_path, wanted)
    assert open_or_create(tmp_path, wanted).info == wanted
    assert not given_up.scorer_path.exists()
    assert not given_up.ledger_path.exists()


def test_a_study_without_a_trial_that_is_asked_for_again_stays_the_same_one(tmp_path: Path) -> None:
    first = open_or_create(tmp_path, info()).info
    again = open_or_create(tmp_path, info())
    assert (again.info.uuid, again.info.created) == (first.uuid, first.created)
    (tmp_path / "study.json").write_text("damaged")
    assert open_or_create(tmp_path, info()).info.uuid != first.uuid


def test_a_study_begun_when_collapsed_meant_less_is_refused_by_name_and_goes_on_with_it(
    tmp_path: Path,
) -> None:
    former = info(search=info().search | {"collapsed_below": 0.01})
    write_trial(open_or_create(tmp_path, former), 0)
    with pytest.raises(InputError, match=r"\(search\.collapsed_below: 0\.01 → 0\.3\)"):
        check_same(tmp_path, info())
    check_same(tmp_path, former)


def test_a_study_that_is_not_there_is_refused_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for storage, named in (("runs", []), ("my runs", ["--storage-path", f"{tmp_path}/my runs"])):
        with pytest.raises(InputError, match="there is no study at ") as refused:
            open_study(study_path(storage, "lungs"))
        command = str(refused.value).partition("type: ")[2].partition("; for one that")[0]
        words = shlex.split(command)
        assert words[1:3] == ["-m", "search.run"]
        asked = parser().parse_args(words[3:])
        assert (asked.study, asked.data, asked.num_samples) == ("lungs", "DIR", "8")
        assert words[-2:] == (named or ["--study", "lungs"])
    check_same(tmp_path, info())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_study_is_refused(tmp_path: Path, content: str) -> None:
    begun(tmp_path)
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(InputError, match=r"study\.json is damaged"):
        open_or_create(tmp_path, info())


@pytest.mark.parametrize("more", [{}, {"a_field_of_the_future": 1}])
def test_a_study_in_another_format_is_refused_naming_who_wrote_it(
    tmp_path: Path, more: dict[str, int]
) -> None:
    content = json.loads(info().model_dump_json()) | {"format": 2, "code_version": "9.8.7"} | more
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"written by version 9\.8\.7 in format 2; .* reads 1"):
        open_study(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train": TrainConfig(epochs=5).model_dump()}, "train.epochs: 388 → 5"),
        ({"space": {"dropout": {"low": 0.2, "high": 0.6}}}, "space.dropout.low: 0.1 → 0.2"),
        ({"space": {}}, "space.dropout: {'low': 0.1, 'high': 0.6} → None"),
        ({"search": identity(by_distance(seed=3))}, "search.seed: 0 → 3"),
        ({"search": identity(by_distance(stop_pruned=False))}, "search.stop_pruned: True → False"),
        (
            {"search": identity(by_distance(objective="val/g_loss", sampler="gp"))},
            "search.objective: val/fd_cnn → val/g_loss; search.sampler: tpe → gp",
        ),
        ({"fingerprint": "0" * 64}, "other images, or packed otherwise"),
        ({"classes": ("a", "b")}, "classes: ['COVID-19', 'normal', 'pneumonia'] → ['a', 'b']"),
    ],
)
def test_another_study_under_the_same_name_is_refused_naming_each_difference(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    there = begun(tmp_path)
    for opening in (open_or_create, check_same):
        with pytest.raises(InputError) as caught:
            opening(tmp_path, info(**changes))
        assert f"exists with another configuration ({named}); go back to it" in str(caught.value)
    assert open_study(tmp_path) == there


@pytest.mark.parametrize(
    "changes",
    [
        {"uuid": "0" * 32},
        {"created": 0.0},
        {"code_version": "0.2.0"},
        {"data_name": "a folder that was moved"},
        {"search": identity(by_distance(num_samples=99, repeats=2, max_concurrent=1))},
        {"train": TrainConfig().model_dump(mode="json")},
    ],
)
def test_what_does_not_identify_a_study_may_change(tmp_path: Path, changes: dict[str, Any]) -> None:
    there = begun(tmp_path)
    assert open_or_create(tmp_path, info(**changes)).info == there.info


def test_differences_name_each_leaf() -> None:
    there = {"a": {"b": 1, "c": {"d": 2, "e": [1, 2]}}, "f": 3, "gone": 4}
    wanted = {"a": {"b": 1, "c": {"d": 0, "e": [1]}}, "f": {"g": 3}, "new": 5}
    assert differences(there, wanted) == [
        "a.c.d: 2 → 0",
        "a.c.e: [1, 2] → [1]",
        "f: 3 → {'g': 3}",
        "gone: 4 → None",
        "new: None → 5",
    ]
    assert differences(there, there) == []


def test_trials_are_read_from_their_folders_in_order(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", trials=3, epochs=2)
    write_trial(study, 11)
    (study.path / "t0099").mkdir()  # a crash came before its trial.json
    (study.path / "total").mkdir()
    trials = study.trials()
    assert [trial.name for trial in trials] == ["t0000", "t0001", "t0002", "t0011"]
    assert [trial.info.number for trial in trials] == [0, 1, 2, 11]
    assert [record.epoch for record in trials[1].records()] == [1, 2]
    assert trials[3].records() == []
    ends = [trial.end() for trial in trials]
    assert [end and end.outcome for end in ends] == [Outcome.FINISHED] * 3 + [None]
    assert study.trial("t0011") == trials[3]


def test_folders_of_other_names_and_files_are_no_trials(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", trials=1)
    for name in ("t0x'y", "t0000r", "t1", "t0000 ", "t٠٠٠١"):
        shutil.copytree(study.path / "t0000", study.path / name)
        with pytest.raises(InputError, match="has no trial"):
            study.trial(name)
    with pytest.raises(InputError, match="s/t0000'; its trials are t0000 to t0000"):
        study.trial("../s/t0000")
    with pytest.raises(InputError, match="has no trial 't0000'; it has none yet"):
        write_study(tmp_path / "empty", trials=0).trial("t0000")
    (study.path / "t0009").touch()
    with pytest.raises(InputError, match="has no trial"):
        study.trial("t0009")
    shutil.copytree(study.path / "t0000", study.path / "t0000r12")
    assert [trial.name for trial in study.trials()] == ["t0000", "t0000r12"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_in_place_of_one_is_damage(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    study = write_study(tmp_path / "s", trials=1)
    trial = study.trial("t0000")
    for path, read in (
        (trial.path / "end.json", trial.end),
        (study.path / "quality.json", study.quality),
        (trial.path / "trial.json", study.trials),
        (study.path / "study.json", partial(open_study, study.path)),
    ):
        path.unlink()
        make(path)
        with pytest.raises(InputError, match=f"{path.name} is damaged"):
            read()


@pytest.mark.parametrize("uuid", ["", "a' OR '1'='1", "0" * 31, "0" * 32 + "\n", "G" * 32])
def test_a_study_whose_uuid_is_none_is_refused(tmp_path: Path, uuid: str) -> None:
    content = json.loads(info().model_dump_json()) | {"uuid": uuid}
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"study\.json is damaged"):
        open_study(tmp_path)


def test_quality_and_ends_that_are_not_finite_survive_the_disk(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", trials=1)
    wanted = Quality(floor=1.5, untrained=float("inf"), classifier_accuracy=0.5)
    write_json(study.path / "quality.json", wanted)
    assert study.quality() == wanted
    end = TrialEnd(outcome=Outcome.DISCRIMINATOR_WON, reason="3 epochs", time=1 / 3)
    write_json(study.trials()[0].path / "end.json", end)
    assert study.trials()[0].end() == end


def test_plug_ins_are_those_of_the_studys_beginning(tmp_path: Path) -> None:
    now = {"networks mine": "plugin 1.1", "numbers one": "plugin 1.1"}
    study = open_or_create(tmp_path, info())
    assert begun_with(study.path, now) == now
    begun = LastStart(source=DataSource(folder="x"), plugins={"networks mine": "plugin 1.0"})
    write_json(study.path / "start.json", begun)
    assert begun_with(study.path, now) == now  # a study without a trial begins anew
    write_trial(study, 0)
    assert begun_with(study.path, now) == now | {"networks mine": "plugin 1.0"}
    assert begun_with(study.path, {}) == {}
    older = begun.model_dump(mode="json")
    del older["plugins"]
    (study.path / "start.json").write_text(json.dumps(older))
    assert study.last_start() == LastStart(source=DataSource(folder="x"))
    assert begun_with(study.path, now) == now
    (study.path / "start.json").write_text("{")
    assert begun_with(study.path, now) == now
