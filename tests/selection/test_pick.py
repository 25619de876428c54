"""The command as it is typed: real weights, a real Ray, a real MLflow store.

One pick, interrupted and killed on its way, is made by the command and shared by the tests that
look at what it left. Others do the same jobs in this process, because a start of Ray takes long,
and then type the command, which finds the jobs done.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import selection
import selection.pick as pick
from acgan.config import cache_folder
from acgan.data.pack import load
from acgan.files import write_json
from acgan.run.records import EpochRecord
from acgan.run.rundir import RunDir
from acgan.run.weights import read_weights
from search.nodes.sees import StudyAt
from search.study.folder import Outcome
from search.study.lock import driver_lock
from selection.jobs.results import Weights, Work
from selection.ledgers.looks import touches
from selection.ledgers.reviews import Entry, add_review
from selection.pictures.names import changes_name, film_name, walks_name
from selection.registry import versions
from selection.settings import SelectionConfig
from selection.steps.decide import ONLY_KEPT, decide, race
from selection.steps.look_at_test import LookJob
from selection.steps.result import Candidate, Pick, read_pick
from tests import studies
from tests.kit import CLASSES
from tests.pages import read_page
from tests.picks import (
    Place,
    make_constant,
    make_nan,
    pick_here,
    plan_of,
    plant,
    send,
    type_pick,
    write_covidx,
)
from tests.searches import wait_for

pytest_plugins = ["tests.mlflow_stores", "tests.trained"]

CHARTS = {"scores.svg", "scores-narrow.svg", "curves.svg", "curves-narrow.svg"}
PICTURES = {"real.png", "tsne.png", "closest.png", *CHARTS}
TEXTS = {"pick.json", "candidates.csv", "report.html", "model_card.md", "data_card.md"}


pytestmark = [pytest.mark.process, pytest.mark.usefixtures("cache")]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, trained_runs: Path, migrated_database: Path
) -> Place:
    """A study of three trials, and MLflow with it as it is before the first pick."""
    place = Place(tmp_path_factory.mktemp("trained"))
    shutil.copy(migrated_database, place.database)
    shutil.copytree(trained_runs, place.folder / "runs")
    send(place.study, place.uri)
    shutil.copy(place.database, place.folder / "before.db")
    return place


@dataclass(frozen=True)
class Typed:
    """One time that the command was typed; family: the processes that it had started."""

    code: int
    output: str
    family: list[psutil.Process]

    def survivors(self) -> list[psutil.Process]:
        """Return its processes that are still there; Ray's agents have their time."""
        psutil.wait_procs(self.family, timeout=400)
        return [p for p in self.family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def results(place: Place) -> dict[Path, int]:
    """Return the stored results of a study and when they were written."""
    return {path: path.stat().st_mtime_ns for path in place.store.glob("[!.]*.json")}


def _wait(process: subprocess.Popen[str], family: list[psutil.Process]) -> Typed:
    output, _ = process.communicate(timeout=1500)
    return Typed(process.returncode, output, family)


def _type_and_stop(place: Place, number: signal.Signals, *options: str) -> Typed:
    """Type the command, and end it with this signal once one more result is stored."""
    before = len(results(place))
    process = type_pick(place.folder, *options)
    try:
        wait_for(lambda: len(results(place)) > before, "a first result")
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        os.kill(process.pid, number)
    return _wait(process, family)


@dataclass(frozen=True)
class Story:
    """How the shared pick came about: interrupted, killed, and typed a third time."""

    place: Place
    interrupted: Typed
    killed: Typed
    finished: Typed
    stored: dict[Path, int]

    @property
    def pick(self) -> Pick:
        """What it left."""
        found = read_pick(self.folder / "pick.json")
        assert found is not None
        return found

    @property
    def folder(self) -> Path:
        """Where it left it."""
        (path,) = self.place.study.path.glob("selection/*/pick.json")
        return path.parent


@pytest.fixture(scope="module")
def story(trained: Place) -> Story:
    options = ["--run-id", parent_run(trained).info.run_id, "--tracking-uri", trained.uri]
    interrupted = _type_and_stop(trained, signal.SIGINT, *options)
    killed = _type_and_stop(trained, signal.SIGKILL, *options)
    stored = results(trained)
    # Tiny networks may teach a CNN no more than chance.
    finished = _wait(type_pick(trained.folder, *options, "--promote"), [])
    return Story(trained, interrupted, killed, finished, stored)


def _copy(place: Place, folder: Path, *ignored: str) -> Place:
    ignore = shutil.ignore_patterns("lock.json", *ignored)
    shutil.copytree(place.folder / "runs", folder / "runs", ignore=ignore)
    shutil.copy(place.folder / "before.db", folder / "mlflow.db")
    return Place(folder)


@pytest.fixture
def unpicked(trained: Place, tmp_path: Path) -> Place:
    """The study moved to another folder, without any pick."""
    return _copy(trained, tmp_path, "selection", "test-touches.jsonl")


@pytest.fixture
def unsent(story: Story, tmp_path: Path) -> Place:
    """The study moved to another folder, with the shared pick, of which MLflow knows nothing."""
    assert story.finished.code == 0, story.finished.output
    return _copy(story.place, tmp_path)


@pytest.fixture
def repicked(story: Story, tmp_path: Path) -> Place:
    """The study moved to another folder, with stored results, but without a pick."""
    assert story.finished.code == 0, story.finished.output
    return _copy(story.place, tmp_path, story.pick.id, "test-touches.jsonl")


def all_runs(place: Place) -> list[Run]:
    client = MlflowClient(place.uri)
    experiment = client.get_experiment_by_name("acgan-search")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def parent_run(place: Place) -> Run:
    (found,) = [run for run in all_runs(place) if run.data.tags.get("stage") == "search"]
    return found


def selection_runs(place: Place) -> list[Run]:
    return [run for run in all_runs(place) if run.data.tags.get("stage") == "selection"]


def numbers(content: object) -> Iterator[float]:
    """Return all numbers in what was read from JSON, "NaN" and "Infinity" among them."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from numbers(part)
    elif isinstance(content, float | int) or content in ("NaN", "Infinity", "-Infinity"):
        yield float(content)


def test_ctrl_c_says_how_to_go_on_and_takes_ray_along(story: Story) -> None:
    assert story.interrupted.code == 130, story.interrupted.output
    again = r"^interrupted; to continue, type: \S*python -m selection\.pick --run-id"
    assert re.search(again, story.interrupted.output, re.M)
    assert story.interrupted.survivors() == []


def test_typed_again_a_pick_does_not_compute_what_is_stored(story: Story) -> None:
    assert story.finished.code == 0, story.finished.output
    assert len(story.stored) >= 2
    now = results(story.place)
    assert {path: now[path] for path in story.stored} == story.stored
    assert re.search(r"step 2, 3 CNNs each: \d+ to do, \d+ there", story.finished.output)


def test_a_pick_leaves_all_its_files(story: Story) -> None:
    names = {path.name for path in story.folder.iterdir()}
    grids = {name for name in names if name.startswith("grid-")}
    fidelity = [candidate for candidate in story.pick.candidates if candidate.fidelity]
    assert len(grids) == len(fidelity) > 0
    walks = {name(one) for one in fidelity for name in (walks_name, changes_name)}
    films = {film_name(one.trial) for one in fidelity}
    assert names == PICTURES | TEXTS | grids | walks | films
    rows = (story.folder / "candidates.csv").read_text().splitlines()
    assert len(rows) == 1 + len(story.pick.candidates)


def test_the_decision_follows_again_from_what_pick_json_holds(story: Story) -> None:
    found = story.pick
    settings = SelectionConfig(**found.settings)
    assert decide(found.candidates, found.validation, settings) == found.decision
    rungs = len(settings.cnn_seeds)
    again = race(found.candidates, found.validation, settings, rungs=rungs)
    left = {i: c.left_at for i, c in enumerate(found.candidates) if c.left_at is not None}
    behind = {i: c.behind_best for i, c in enumerate(found.candidates) if c.behind_best}
    assert (left, behind) == (again.left_at, again.behind)
    assert found.decision.tie_set == again.tied


def test_every_number_of_a_pick_of_sound_generators_is_finite(story: Story) -> None:
    found = list(numbers(json.loads((story.folder / "pick.json").read_text())))
    assert len(found) > 100
    assert all(map(math.isfinite, found))


def test_the_winner_is_the_champion_with_its_tags(story: Story) -> None:
    client = MlflowClient(story.place.uri)
    version = client.get_model_version_by_alias(versions.NAME, versions.CHAMPION)
    winner = story.pick.winner
    wanted = {
        "study": "tiny",
        "trial": winner.trial,
        "epoch": str(winner.epoch),
        "data_fingerprint": story.place.study.info.fingerprint,
        "weights_sha256": winner.weights,
        "pick": story.pick.id,
    }
    assert wanted.items() <= version.tags.items()
    assert winner.utility is not None
    score = float(version.tags["validation.cnn_balanced_accuracy"])
    assert score == pytest.approx(winner.utility.balanced_accuracy.value, rel=1e-5)
    assert f"registered as version {version.version} of" in story.finished.output
    at_chance = story.pick.at_chance or story.pick.at_chance_on_test
    assert ("not told from chance" in story.finished.output) == at_chance


def test_mlflow_has_a_finished_child_run_with_every_file(story: Story) -> None:
    client = MlflowClient(story.place.uri)
    (run,) = selection_runs(story.place)
    assert run.data.tags["mlflow.parentRunId"] == parent_run(story.place).info.run_id
    assert run.info.status == "FINISHED"
    there = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "selection")}
    assert there == {path.name for path in story.folder.iterdir()}
    assert run.data.metrics["validation/cnn_balanced_accuracy"] >= 0


def test_the_look_at_the_test_images_is_recorded_once(story: Story) -> None:
    (touch,) = touches(story.place.study)
    found = story.pick
    assert touch.pick == found.id
    assert touch.weights[0] == found.winner.weights
    assert found.test is not None
    assert (found.test.number, found.test.images) == (1, 60)
    names = [row.name for row in found.test.rows]
    assert {f"recall of {name}" for name in CLASSES} <= set(names)
    assert sum(1 for name in names if "images of source" in name) == 2
    assert math.isfinite(found.test.rows[0].winner.value)
    ceiling = found.test.ceiling
    assert ceiling is not None
    assert 0 <= ceiling.low <= ceiling.value <= ceiling.high <= 1


def test_typed_again_a_pick_that_is_there_changes_nothing(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    before = story.place.files()
    stamp = (story.folder / "pick.json").stat().st_mtime_ns
    assert pick.main(story.place.options()) == 0
    output = capsys.readouterr().out
    assert f"pick {story.pick.id} is there already" in output
    assert "starting Ray" not in output
    after = story.place.files()
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert {Path(name).name for name in changed} <= {"report.html"}
    assert (story.folder / "pick.json").stat().st_mtime_ns == stamp
    assert len(selection_runs(story.place)) == 1
    found = MlflowClient(story.place.uri).search_model_versions(f"name = '{versions.NAME}'")
    assert len(found) == 1


def test_a_search_that_went_on_without_a_new_candidate_is_told(unsent: Place, story: Story) -> None:
    trial = studies.write_trial(unsent.study, 3)
    diverged = EpochRecord(epoch=1, time=1.0, metrics={"train/g_loss": math.nan}, young=True)
    (trial.path / "epochs.jsonl").write_text(diverged.model_dump_json() + "\n")
    studies.write_end(trial, Outcome.DIVERGED)
    assert pick.main(unsent.options()) == 0
    folder = unsent.study.path / "selection" / story.pick.id
    found = read_pick(folder / "pick.json")
    assert found is not None
    told, before = found.filter, story.pick.filter
    assert (told.trials, told.recorded) == (before.trials + 1, before.recorded + 1)
    assert found == story.pick.model_copy(update={"filter": told})
    assert f"of {told.trials} trials)" in read_page(folder / "report.html")
    (run,) = selection_runs(unsent)
    sent = Path(str(run.info.artifact_uri).removeprefix("file://")) / "selection" / "pick.json"
    assert sent.read_bytes() == (folder / "pick.json").read_bytes()


def test_the_look_at_the_test_images_is_of_cnns_that_nothing_was_chosen_by(story: Story) -> None:
    plan, found = plan_of(story.place.options()), story.pick
    at = StudyAt(plan.study.path, plan.study.info.uuid, plan.source)
    work = Work(at, plan.settings, plan.data.fingerprint, None)
    weights = Weights("the winner", Path("unread"), found.winner.weights)
    chosen_by = plan.settings.cnn_seeds[-1]
    paths = [
        LookJob(work, weights, tuple(range(first, first + chosen_by)), found.extractor).path
        for first in (0, chosen_by)
    ]
    assert [path.exists() for path in paths] == [False, True]


def test_a_study_is_the_same_by_its_name_and_by_its_run(story: Story) -> None:
    run_id = parent_run(story.place).info.run_id
    by_run = plan_of(["--run-id", run_id, "--tracking-uri", story.place.uri])
    assert by_run.id == plan_of(story.place.options()).id == story.pick.id
    assert by_run.folder == story.folder


def test_no_patient_file_or_folder_is_named_in_what_a_pick_leaves(story: Story) -> None:
    (run,) = selection_runs(story.place)
    assert run.info.artifact_uri is not None
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    left = [path for path in story.folder.iterdir() if path.name in TEXTS]
    sent = [path for path in artifacts.rglob("*") if path.is_file()]
    assert {path.name for path in sent} >= TEXTS
    root = str(Path(selection.__file__).parents[1])
    # Patients and files of `write_covidx` are called train-…, test-….
    forbidden = re.compile(rb"(train|test)-\d|" + re.escape(f"{story.place.folder}").encode())
    for path in [*left, *sent]:
        content = path.read_bytes()
        assert not forbidden.search(content), path.name
        assert root.encode() not in content, path.name


def test_a_trial_is_picked_from_by_its_own_run(
    repicked: Place, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = [run for run in all_runs(repicked) if run.data.tags.get("trial") == "t0001"]
    storage = str(repicked.folder / "runs")
    options = ["--run-id", run.info.run_id, "--storage-path", storage, "--no-test"]
    options += ["--tracking-uri", repicked.uri]
    found = pick_here(options)
    assert found.scope == "t0001"
    assert found.id != story.pick.id
    assert {c.trial for c in found.candidates if c.competes} == {"t0001"}
    (baseline,) = [c for c in found.candidates if not c.competes]
    assert (baseline.trial, baseline.baseline) == ("t0000", True)
    assert found.winner.trial == "t0001"
    assert pick.main(options) == 0
    output = capsys.readouterr().out
    assert "starting Ray" not in output
    assert found.run_id == run.info.run_id
    assert re.search(rf"selection\.review --run-id {run.info.run_id} --storage-path", output)
    tags = selection_runs(repicked)[0].data.tags
    assert tags["mlflow.parentRunId"] == parent_run(repicked).info.run_id
    assert f"selection.review --run-id {run.info.run_id}" in tags["mlflow.note.content"]


def review(place: Place, candidate: Candidate, action: str) -> None:
    """Do what the page does when somebody decides."""
    known = {"reviewer": "anna", "action": action, "candidate": candidate.name}
    entry = Entry.model_validate({"time": 1.764e9, "weights": candidate.weights, **known})
    add_review(place.study, entry)


def make_equal(place: Place, options: list[str]) -> None:
    """Let all candidates make nearly the same images, so that nothing can tell them apart."""
    epochs = [chosen.epoch for chosen in plan_of(options).candidates]
    path = RunDir(place.study.path / epochs[0].trial).weights_path(epochs[0].epoch)
    weights, _ = read_weights(path)
    for number, epoch in enumerate(epochs):
        own = weights | {"image.bias": weights["image.bias"] + 1e-3 * number}
        plant(place.study.trial(epoch.trial), epoch.epoch, partial(dict.update, **own))


def test_a_pick_honours_what_people_decided_and_computes_nothing_for_it(
    unpicked: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    options = unpicked.options("--no-test")
    make_equal(unpicked, options)
    unseen = pick_here(options)
    ties = [unseen.candidates[i] for i in unseen.decision.tie_set]
    assert len(ties) > 2
    winner = unseen.winner
    kept = next(c for c in reversed(ties) if c.weights != winner.weights and not c.baseline)
    review(unpicked, winner, "rejected")
    review(unpicked, kept, "kept")
    stored = {path for path in results(unpicked) if path.name.startswith("utility")}

    found = pick_here(options)
    assert found.id != unseen.id
    assert {path for path in results(unpicked) if path.name.startswith("utility")} == stored
    (out,) = [c for c in found.candidates if c.weights == winner.weights]
    assert (out.competes, out.review, out.verdict) == (
        False,
        "rejected",
        "a person rejected its images",
    )
    assert kept.weights in {found.candidates[i].weights for i in found.decision.tie_set}
    if kept.fidelity and not kept.fidelity.memorised:
        assert found.winner.weights == kept.weights
        assert found.decision.rule == ONLY_KEPT
    again = decide(found.candidates, found.validation, SelectionConfig(**found.settings))
    assert again == found.decision

    assert pick.main([*options, "--promote"]) == 0
    output = capsys.readouterr().out
    assert "people kept 1; people rejected 1" in output
    assert "starting Ray" not in output
    assert "nobody has looked" not in output
    folder = unpicked.study.path / "selection" / found.id
    page = read_page(folder / "report.html")
    assert "Who looked" in page
    assert page.count("anna") == 2
    assert parent_run(unpicked).data.tags["reviews"] == "2"
    version = MlflowClient(unpicked.uri).get_model_version_by_alias(versions.NAME, "champion")
    assert "kept by anna" in version.tags["reviewed"]

    for each in (winner, kept):
        review(unpicked, each, "undecided")
    assert plan_of(options).id == unseen.id


def test_where_all_are_one_picture_a_class_one_is_picked_and_held_back_until_it_is_promoted(
    unpicked: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    varied = pick_here(unpicked.options("--no-test"))
    options = unpicked.options("--no-test", "--collapsed-below", "1e6")
    found = pick_here(options)
    assert (varied.none_varies, found.none_varies) == (False, True)
    assert found.winner.weights == varied.winner.weights
    (record,) = (
        record
        for record in unpicked.study.trial(found.winner.trial).records()
        if record.epoch == found.winner.epoch
    )
    assert found.winner.diversity == record.metrics["val/diversity"]
    capsys.readouterr()

    assert pick.main(options) == 0
    output = capsys.readouterr().out
    assert f"; {found.filter.passed} of those that pass are one picture per class" in output
    assert "its images, like those of every candidate, are one picture per class: they" in output
    told = "registered as version 1 of cxr-acgan-generator, but not as the champion (there is none)"
    assert f"{told}, because its images are one picture per class" in output
    assert re.search(r"^to make it the champion all the same: .* --promote$", output, re.M)
    assert "--model models:/cxr-acgan-generator/1" in output
    page = (unpicked.study.path / "selection" / found.id / "report.html").read_text()
    assert 'id="one-picture"' in page
    assert "It was not made the champion" in page
    client = MlflowClient(unpicked.uri)
    assert versions.champion(client) is None

    assert pick.main([*options, "--promote"]) == 0
    assert f"version 1 of {versions.NAME}, alias champion" in capsys.readouterr().out
    version = versions.champion(client)
    assert version is not None
    assert version.tags["weights_sha256"] == found.winner.weights
    assert version.tags["variety"] == "one picture per class"


def test_broken_generators_and_trials_count_as_worst_and_nothing_crashes(
    repicked: Place, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    study = repicked.study
    nan, constant = [c for c in story.pick.candidates if not c.baseline][:2]
    plant(study.trial(nan.trial), nan.epoch, make_nan)
    plant(study.trial(constant.trial), constant.epoch, make_constant)
    crashed = study.trial("t0002").path
    (crashed / "end.json").unlink()
    with (crashed / "epochs.jsonl").open("a") as file:
        file.write('{"epoch": 6, "tim')
    run_id = parent_run(repicked).info.run_id
    storage = ["--storage-path", str(repicked.folder / "runs"), "--tracking-uri", repicked.uri]
    options = ["--run-id", run_id, *storage, "--no-test"]

    found = pick_here(options)
    by_name = {candidate.name: candidate for candidate in found.candidates}
    reasons = {nan.name: "pixels that are not finite", constant.name: "one and the same image"}
    for name, reason in reasons.items():
        broken = by_name[name]
        assert reason in broken.failed
        assert reason in broken.verdict
        assert broken.utility is not None
        assert broken.utility.balanced_accuracy.value == 0
    assert found.winner.name not in reasons
    content = (repicked.study.path / "selection" / found.id / "pick.json").read_text()
    assert all(map(math.isfinite, numbers(json.loads(content))))
    assert found.test is None

    assert pick.main(options) == 0
    assert "starting Ray" not in capsys.readouterr().out
    assert touches(repicked.study) == []


def test_a_study_of_which_nothing_can_be_scored_has_no_pick(
    repicked: Place, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    for candidate in story.pick.candidates:
        plant(repicked.study.trial(candidate.trial), candidate.epoch, make_nan)
    options = repicked.options()
    with pytest.raises(Exception, match="no candidate can be scored"):
        pick_here(options)
    assert pick.main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no candidate can be scored (")
    assert error.count("\n") == 1
    assert touches(repicked.study) == []
    assert selection_runs(repicked) == []


@pytest.mark.parametrize("table", ["runs", "model_versions", "metrics"])
def test_a_pick_that_mlflow_does_not_take_is_registered_when_typed_again(
    unsent: Place, story: Story, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    full = f"BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    _execute(unsent.database, f"CREATE TRIGGER full {full}")
    assert pick.main(unsent.options()) == 1
    error = capsys.readouterr().err
    assert "takes no data" in error
    assert "nothing is lost; to register the pick, type: " in error
    folder = unsent.study.path / "selection" / story.pick.id
    assert {path.name for path in folder.iterdir()} >= TEXTS

    _execute(unsent.database, "DROP TRIGGER full")
    assert pick.main(unsent.options("--promote")) == 0
    assert "starting Ray" not in capsys.readouterr().out
    (run,) = selection_runs(unsent)
    assert run.info.status == "FINISHED"
    client = MlflowClient(unsent.uri)
    (version,) = client.search_model_versions(f"name = '{versions.NAME}'")
    champion = client.get_model_version_by_alias(versions.NAME, versions.CHAMPION)
    assert champion.version == version.version
    assert len(touches(unsent.study)) == 1


def _execute(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def _assert_refused(
    place: Place, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = place.files()
    assert pick.main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert place.files() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class-margin", "1"], "passes the filter"),
        (["--data", "nowhere"], "nowhere"),
        (["--config", "nowhere.yaml"], "cannot read the configuration"),
        (["--config", "wrong.yaml"], "did you mean 'per_trial'?"),
        (["--cnn-seeds", "2"], "must be growing numbers from 3 on"),
        (["--study", "other"], "there is no study at"),
        (["--study", "../other"], "must be a plain name"),
        (["--storage-path", "elsewhere"], "there is no study at"),
        (["--tracking-uri", "sqlite:///nowhere.db"], "there is no MLflow database"),
        (["--tracking-uri", "http://127.0.0.1:9"], "does not answer"),
        (["--tracking-uri", "./mlruns"], "sqlite:///"),
        (["--extractor", "auto", "--inception-weights", "nowhere.pth"], "nowhere.pth"),
        (["--extractor", "auto", "--inception-weights", "wrong.yaml"], "its SHA-256 is"),
        (["--inception-weights", "wrong.yaml"], "leave one of them out"),
        (["--extractor", "cnn4"], "did you mean 'cnn3'?"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    unpicked: Place,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(unpicked.folder)
    Path("wrong.yaml").write_text("selection: {per_trail: 2}\n")
    _assert_refused(unpicked, unpicked.options(*options), message, capsys)


def test_a_dry_run_names_the_candidates_and_what_they_cost_and_writes_nothing(
    unpicked: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = unpicked.files()
    assert pick.main(unpicked.options("--cnn-seeds", "3,4", "--dry-run")) == 0
    output = capsys.readouterr().out
    passed = r"step 1: \d+ of \d+ epochs of \d+ trials pass the filter.*; \d+ candidates?"
    assert re.search(passed, output)
    fits = 1 + sum(line.startswith("  t0") for line in output.splitlines())
    assert fits > 2
    assert f"step 2: {fits * 3} or, where all are tied, {fits * 4} CNNs of " in output
    assert "nothing was started" in output
    assert unpicked.files() == before


@pytest.mark.parametrize("options", [[], ["--study", "tiny", "--run-id", "1"], ["--stud", "tiny"]])
def test_one_study_must_be_named(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        pick.main(options)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.endswith("ll flags: python -m selection.pick --help\n")
    assert error.count("\n") == 1


def test_an_unknown_run_and_a_run_of_something_else_are_refused(
    unpicked: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage-path", str(unpicked.folder / "runs"), "--tracking-uri", unpicked.uri]
    _assert_refused(unpicked, ["--run-id", "0" * 32, *storage], "has no run", capsys)
    client = MlflowClient(unpicked.uri)
    other = client.create_run(client.create_experiment("other")).info.run_id
    _assert_refused(unpicked, ["--run-id", other, *storage], "is no study and no trial", capsys)


def test_a_study_that_is_not_where_it_was_is_named_by_its_new_folder(
    unpicked: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = parent_run(unpicked).info.run_id
    away = ["--storage-path", str(unpicked.folder), "--tracking-uri", unpicked.uri]
    _assert_refused(unpicked, ["--run-id", run_id, *away], "with --storage-path", capsys)
    here = ["--storage-path", str(unpicked.folder / "runs"), "--tracking-uri", unpicked.uri]
    assert plan_of(["--run-id", run_id, *here]).study.path == unpicked.study.path


def test_a_study_without_kept_weights_is_refused(
    unpicked: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in unpicked.study.path.glob("t*/weights/*.safetensors"):
        path.unlink()
    _assert_refused(unpicked, unpicked.options(), "has kept weights", capsys)


def test_weights_that_are_not_those_that_were_recorded_are_refused(
    unpicked: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in unpicked.study.path.glob("t*/weights/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    _assert_refused(unpicked, unpicked.options(), "is not the file that was recorded", capsys)


def test_other_images_than_those_of_the_search_are_refused(
    unpicked: Place, covidx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(covidx, unpicked.folder / "other"))
    (first, second) = (other / "test" / f"test-00{number}.png" for number in (0, 1))
    shutil.copy(first, second)
    options = unpicked.options("--data", str(other))
    _assert_refused(unpicked, options, "are not those of the study", capsys)


@pytest.mark.parametrize(
    ("train", "fraction", "what"), [(60, None, "validation images"), (90, 0.5, "training images")]
)
def test_too_few_images_of_a_class_are_refused(
    unpicked: Place,
    train: int,
    fraction: float | None,
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = unpicked.folder / "few"
    write_covidx(few, train=train)
    info = unpicked.study.info
    seed = info.train["split_seed"]
    data = load(str(few), image_size=16, split_seed=seed, val_fraction=fraction)
    settings = info.train | {"val_fraction": fraction}
    changed = info.model_copy(update={"fingerprint": data.fingerprint, "train": settings})
    write_json(unpicked.study.path / "study.json", changed)
    _assert_refused(unpicked, unpicked.options("--data", str(few)), what, capsys)


def test_a_study_that_is_being_searched_or_picked_from_is_left_alone(
    unpicked: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with driver_lock(unpicked.study.path):
        _assert_refused(unpicked, unpicked.options(), "is being searched", capsys)
    selections = unpicked.study.path / "selection"
    selections.mkdir()
    with driver_lock(selections):
        _assert_refused(unpicked, unpicked.options(), "is being worked on by process", capsys)


def test_a_database_without_the_study_says_how_to_send_it(
    unpicked: Place, migrated_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(migrated_database, unpicked.database)
    _assert_refused(unpicked, unpicked.options(), "-m search.sync --study tiny", capsys)


def _assert_alike(found: Any, known: Any) -> None:
    """Compare two trees of numbers: where memory lies decides a product's last digits."""
    if isinstance(known, dict):
        assert found.keys() == known.keys()
        for name in known:
            _assert_alike(found[name], known[name])
    elif isinstance(known, list | tuple):
        for one, two in zip(found, known, strict=True):
            _assert_alike(one, two)
    else:
        assert found == (pytest.approx(known, rel=1e-9) if isinstance(known, float) else known)


def test_every_number_but_those_of_the_look_is_the_same_with_other_test_images(
    repicked: Place, story: Story, covidx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(repicked.store)
    other = Path(shutil.copytree(covidx, repicked.folder / "other"))
    monkeypatch.setenv("ACGAN_CACHE", str(repicked.folder / "cache"))
    load(str(other), image_size=16, split_seed=repicked.study.info.train["split_seed"])
    _replace_test_images()

    found, known = pick_here(repicked.options("--data", str(other))), story.pick
    for one, two in zip(found.candidates, known.candidates, strict=True):
        _assert_alike(one.model_dump(), two.model_dump())
    assert found.ceiling == known.ceiling
    assert found.decision == known.decision
    assert found.test is not None
    assert known.test is not None
    assert found.test.metrics != known.test.metrics  # what does look at them sees other ones


def _replace_test_images() -> None:
    """Put noise in the place of the test images, behind the fingerprint's back."""
    (pack,) = (cache_folder() / "packed").glob("*/pack.json")
    train, val, test = json.loads(pack.read_text())["counts"]
    pixels = np.memmap(
        pack.with_name("images.u8"), np.uint8, "r+", shape=(train + val + test, 16, 16)
    )
    noise = np.random.default_rng(0).integers(0, 256, (test, 16, 16), np.uint8)
    pixels[train + val :] = noise
    pixels.flush()


def test_nothing_of_ray_outlives_a_killed_pick(story: Story) -> None:
    """At the end: Ray's agents take a minute to end, which the tests above do not wait for."""
    assert story.killed.code == -signal.SIGKILL
    assert story.killed.survivors() == []
