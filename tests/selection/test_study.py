"""The augmentation study as it is typed: real weights, a real Ray, a real MLflow store.

One study is interrupted on its way and typed again; others do the same jobs in this process and
then type the command, which finds the study there.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as TrackedRun

from acgan.run.rundir import RunDir
from search.study.folder import study_images
from search.study.lock import driver_lock
from selection import study
from selection.augmentation.arms import GAN, REAL, curve_arm
from selection.augmentation.jobs import ArmJob
from selection.augmentation.plan import StudyPlan
from selection.augmentation.result import AugmentationStudy, comparisons, read_study, sentence
from selection.commands import study as study_body
from selection.jobs.results import without_test
from selection.jobs.workers import Results
from selection.ledgers.looks import touches
from selection.ledgers.reviews import Entry, add_review
from selection.steps.result import read_pick
from tests.augmentations import plan_of, study_here
from tests.kit import CLASSES
from tests.pages import read_page
from tests.picks import Here, Place, send, type_pick
from tests.searches import wait_for

pytest_plugins = ["tests.mlflow_stores", "tests.trained"]

QUICK = ("--updates", "6", "--cnn-epochs", "3", "--amounts", "2")
ARMS = 7
CHARTS = {"arms.svg", "arms-narrow.svg", "curve.svg", "curve-narrow.svg"}
FILES = {"study.json", "study.csv", "study.html", *CHARTS}


pytestmark = [pytest.mark.process, pytest.mark.usefixtures("cache")]


@pytest.fixture(scope="module")
def picked(
    tmp_path_factory: pytest.TempPathFactory, picked_runs: Path, migrated_database: Path
) -> Place:
    """A study in MLflow, and a pick of it."""
    place = Place(tmp_path_factory.mktemp("picked"))
    shutil.copy(migrated_database, place.database)
    shutil.copytree(picked_runs, place.folder / "runs")
    send(place.study, place.uri)
    shutil.copy(place.database, place.folder / "before.db")
    return place


def moved(picked: Place, folder: Path) -> Place:
    """Move the picked study to another folder, without any augmentation study."""
    ignore = shutil.ignore_patterns("lock.json", "study-*", "test-touches.jsonl")
    shutil.copytree(picked.folder / "runs", folder / "runs", ignore=ignore)
    shutil.copy(picked.folder / "before.db", folder / "mlflow.db")
    return Place(folder)


@pytest.fixture
def place(picked: Place, tmp_path: Path) -> Place:
    """The picked study of this test's own, without any augmentation study."""
    return moved(picked, tmp_path)


def parent_id(place: Place) -> str:
    (run,) = [r for r in all_runs(place) if r.data.tags.get("stage") == "search"]
    return str(run.info.run_id)


def all_runs(place: Place) -> list[TrackedRun]:
    client = MlflowClient(place.uri)
    experiment = client.get_experiment_by_name("acgan-search")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def planned(place: Place, *options: str) -> StudyPlan:
    return plan_of(place.options(*QUICK, *options))


def done(place: Place, *options: str) -> AugmentationStudy:
    return study_here(place.options(*QUICK, *options))


def stored(place: Place) -> dict[Path, int]:
    """Return the answers of CNNs that are there, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in place.store.glob("study-*.json")}


def take_answers(there: Place, place: Place) -> None:
    """Copy the answers of CNNs that were trained elsewhere on the same images."""
    for path in stored(there):
        shutil.copy(path, place.store)


@dataclass(frozen=True)
class Typed:
    """One time that the command was typed."""

    code: int
    output: str


def type_study(place: Place, *options: str) -> subprocess.Popen[str]:
    words = ["--run-id", parent_id(place), "--tracking-uri", place.uri, *QUICK, *options]
    return type_pick(place.folder, *words, module="selection.study")


@dataclass(frozen=True)
class Story:
    """How the shared study came about: interrupted, and typed again."""

    place: Place
    interrupted: Typed
    finished: Typed
    stored: dict[Path, int]

    @property
    def folder(self) -> Path:
        """Where it left its files."""
        (path,) = self.place.study.path.glob("selection/study-*/study.json")
        return path.parent

    @property
    def study(self) -> AugmentationStudy:
        """What it left."""
        found = read_study(self.folder / "study.json")
        assert found is not None
        return found


@pytest.fixture(scope="module")
def story(picked: Place, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    shutil.copytree(
        picked.folder / "runs", folder / "runs", ignore=shutil.ignore_patterns("lock.json")
    )
    shutil.copy(picked.folder / "before.db", folder / "mlflow.db")
    place = Place(folder)
    # MLflow knows where the study was before; it is told where it is.
    storage = ("--storage-path", str(folder / "runs"))
    process = type_study(place, *storage)
    try:
        wait_for(lambda: len(stored(place)) >= 2, "first CNNs")
    finally:
        os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=1500)
    interrupted, there = Typed(process.returncode, output), stored(place)
    process = type_study(place, *storage)
    output, _ = process.communicate(timeout=1500)
    return Story(place, interrupted, Typed(process.returncode, output), there)


def test_ctrl_c_says_how_to_go_on_and_keeps_what_is_trained(story: Story) -> None:
    assert story.interrupted.code == 130, story.interrupted.output
    again = r"^interrupted; to continue, type: \S*python -m selection\.study --run-id"
    assert re.search(again, story.interrupted.output, re.M)
    assert 2 <= len(story.stored) < 5 * ARMS


def test_the_cost_is_said_before_anything_is_trained(story: Story) -> None:
    output = story.interrupted.output
    said = (
        r"7 arms of 5 CNNs, each of 6 updates of 16 images: 35 of 35 CNNs to train, roughly \d+ \w+"
    )
    assert re.search(said, output)
    assert output.index("CNNs to train") < output.index("starting Ray")


def test_typed_again_it_trains_only_what_is_missing(story: Story) -> None:
    assert story.finished.code == 0, story.finished.output
    there = len(story.stored)
    assert f"CNNs: {5 * ARMS - there} to do, {there} there" in story.finished.output
    now = stored(story.place)
    assert {path: now[path] for path in story.stored} == story.stored
    assert len(now) == 5 * ARMS


def test_it_leaves_all_its_files_and_every_arm_with_every_cnn(story: Story) -> None:
    assert {path.name for path in story.folder.iterdir()} == FILES
    found = story.study
    names = ["real-only", "undersampling", "class-weights", "classical", "gan", "classical-gan"]
    assert [arm.name for arm in found.arms] == [*names, "gan-2"]
    assert all(len(arm.runs) == 5 for arm in found.arms)
    assert found.split == "validation"
    made = read_pick(story.place.study.path / "selection" / found.pick / "pick.json")
    assert made is not None
    assert made.id == found.pick


def test_on_validation_images_every_output_is_optimistic_and_the_test_images_are_not_touched(
    story: Story,
) -> None:
    assert story.study.sentence == ""
    assert touches(story.place.study) == []
    assert "optimistic: the generator was picked on these images" in story.finished.output
    assert "Do the generated images help" not in story.finished.output
    assert "<b>Optimistic.</b>" in read_page(story.folder / "study.html")


def test_mlflow_has_a_finished_child_run_with_every_file_and_score(story: Story) -> None:
    client = MlflowClient(story.place.uri)
    (run,) = [r for r in all_runs(story.place) if r.data.tags.get("stage") == "augmentation"]
    assert run.data.tags["mlflow.parentRunId"] == parent_id(story.place)
    assert run.info.status == "FINISHED"
    there = {f.path for f in client.list_artifacts(run.info.run_id, "augmentation")}
    assert {Path(path).name for path in there} == FILES
    found = story.study
    assert run.data.tags["optimistic"] == "validation images"
    gan = found.arm("gan").scores
    assert run.data.metrics["gan/balanced_accuracy"] == gan["balanced accuracy"].value
    assert run.data.metrics["gan/recall/COVID-19"] == gan["recall of COVID-19"].value
    assert run.data.metrics["gan/calibration_error"] == gan["calibration error"].value
    assert run.data.params["augmentation.updates"] == "6.0"


def test_no_patient_file_or_folder_is_named_in_what_it_leaves(story: Story, covidx: Path) -> None:
    for path in story.folder.iterdir():
        content = path.read_bytes()
        assert str(covidx).encode() not in content
        assert not re.search(rb"(train|test)-\d-\d", content)
        assert not re.search(rb"(train|test)-\d{3}", content)


def test_typed_again_a_study_that_is_there_changes_nothing(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    before = story.place.files()
    (story.folder / ".study.html.0a1b.tmp").touch()  # of a kill
    assert study.main(story.place.options(*QUICK)) == 0
    output = capsys.readouterr().out
    assert f"study {story.study.id} is there already" in output
    assert "starting Ray" not in output
    assert story.place.files() == before
    assert len([r for r in all_runs(story.place) if "augmentation" in r.data.tags]) == 1


def test_the_same_cnns_in_this_process_answer_the_same(story: Story, place: Place) -> None:
    here = done(place)
    for one, two in zip(here.arms, story.study.arms, strict=True):
        for own, other in zip(one.runs, two.runs, strict=True):
            assert own.predicted == other.predicted, one.name
    assert here.id == story.study.id


def test_dry_run_says_what_it_would_cost_and_writes_nothing(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = place.files()
    assert study.main(place.options(*QUICK, "--dry-run")) == 0
    assert "35 of 35 CNNs to train" in capsys.readouterr().out
    assert place.files() == before


# --- the test images -------------------------------------------------------------------------


@dataclass(frozen=True)
class Looked:
    """A study on the test images, and where it stands."""

    place: Place
    study: AugmentationStudy


@pytest.fixture(scope="module")
def tested(picked: Place, tmp_path_factory: pytest.TempPathFactory) -> Looked:
    place = moved(picked, tmp_path_factory.mktemp("tested"))
    return Looked(place, done(place, "--test"))


def test_with_test_the_look_is_recorded_once_and_the_sentence_is_said(
    tested: Looked, capsys: pytest.CaptureFixture[str]
) -> None:
    place, found = tested.place, tested.study
    (touch,) = touches(place.study)
    assert touch.pick == f"study-{found.id}"
    assert touch.weights == [found.weights]
    assert (found.split, found.touch, len(found.images.labels)) == ("test", 1, 60)
    arms = {arm.name: arm for arm in found.arms}
    said = sentence(comparisons(arms, found.images), where=found.where, seeds=5, caveats="")
    assert found.sentence == said

    assert study.main(place.options(*QUICK, "--test")) == 0
    output = capsys.readouterr().out
    assert said in output
    assert "optimistic" not in output
    assert len(touches(place.study)) == 1
    (run,) = [r for r in all_runs(place) if r.data.tags.get("stage") == "augmentation"]
    assert run.data.tags["sentence"] == said

    assert done(place, "--test", "--seeds", "6").touch == 2
    assert [touch.reason for touch in touches(place.study)] == ["augmentation study"] * 2


def test_the_look_is_recorded_before_it_happens(place: Place, tested: Looked) -> None:
    plan = planned(place, "--test")

    class Dying(Here):
        def do(self, jobs: object, what: str) -> Results:
            assert len(touches(place.study)) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study_body.train_and_compare(plan, Dying(plan.work.settings, address=None, verbose=False))
    assert len(touches(place.study)) == 1
    take_answers(tested.place, place)
    assert done(place, "--test").touch == 1


def test_without_test_images_it_says_what_to_type(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "selection.augmentation.plan.study_images",
        lambda *known: without_test(study_images(*known)),
    )
    assert study.main(place.options(*QUICK, "--test")) == 2
    assert "no test images; type the same without --test" in capsys.readouterr().err


# --- arms, seeds, --keep ---------------------------------------------------------------------


def test_more_seeds_and_amounts_train_only_what_is_new(place: Place, story: Story) -> None:
    take_answers(story.place, place)
    jobs = planned(place, "--seeds", "6", "--amounts", "2,3").jobs()
    missing = [job.name for job in jobs if not job.done()]
    assert len(jobs) == 6 * 8
    assert len(missing) == 6 * 8 - 5 * ARMS


def test_a_generator_decides_only_the_arms_that_have_generated_images(place: Place) -> None:
    plan = planned(place)
    changed = dataclasses.replace(plan.setting.weights, sha256="0" * 64)
    setting = dataclasses.replace(plan.setting, weights=changed)
    assert ArmJob(plan.work, setting, REAL, 0).path == ArmJob(plan.work, plan.setting, REAL, 0).path
    assert ArmJob(plan.work, setting, GAN, 0).path != ArmJob(plan.work, plan.setting, GAN, 0).path
    assert (
        ArmJob(plan.work, setting, curve_arm(1), 0).path == ArmJob(plan.work, setting, GAN, 0).path
    )


def test_keep_thins_a_class_out_and_says_what_that_means(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    found = done(place, "--keep", "COVID-19=0.25", "--test")
    before = found.train_images
    after = round(before[0] * 0.25)
    assert found.arm("real-only").real == [after, *before[1:]]
    assert found.arm("undersampling").real == [after] * 3
    largest = max(before[1:])
    assert found.arm("gan").generated == [largest - after, *(largest - n for n in before[1:])]
    assert f"only {after} of {before[0]} COVID-19 images" in found.sentence
    assert "which favours it" in found.sentence
    assert study.main(place.options(*QUICK, "--keep", "COVID-19=0.25", "--test")) == 0
    warning = f"only {after} of the {before[0]} training images of COVID-19 are given to the CNNs"
    assert warning in capsys.readouterr().out
    page = place.study.path / "selection" / f"study-{found.id}" / "study.html"
    assert warning[1:] in read_page(page)


def test_a_class_that_keeps_all_its_images_is_as_if_it_had_not_been_named(place: Place) -> None:
    assert planned(place, "--keep", "COVID-19=1").id == planned(place).id
    most = planned(place, "--keep", "COVID-19=0.999")
    assert most.train_images[0] == most.train_images[1]
    assert study_body._caveats(most) == ""


def test_what_speaks_against_the_generator_is_said_before_its_images_are_studied(
    place: Place,
) -> None:
    winner = planned(place).pick.winner
    known = {"candidate": winner.name, "weights": winner.weights, "reviewer": "anna"}
    before = planned(place)
    add_review(before.study, Entry.model_validate({"time": 1.0, "action": "rejected", **known}))
    after = planned(place)
    assert after.id == before.id
    assert after.notes[0].startswith("against using this generator: a person rejected its images")
    assert not any("a person rejected" in note for note in before.notes[1:])


def test_amounts_that_read_the_same_are_one(place: Place) -> None:
    found = planned(place, "--amounts", "0.33333331,0.33333332,1.0000001")
    assert [arm.name for arm in found.arms if arm.name.startswith("gan-")] == ["gan-0.333333"]


def test_where_classes_are_even_it_says_how_to_make_one_rare(place: Place) -> None:
    *_, note = planned(place).notes
    assert note.startswith("the classes are nearly even (")
    assert note.endswith("--keep COVID-19=0.1 makes one rare")


def test_the_budget_is_step_twos_epochs_of_evened_out_images_unless_told_otherwise(
    place: Place,
) -> None:
    options = place.options("--cnn-epochs", "40", "--cnn-batch-size", "8")
    plan = plan_of(options)
    largest = max(plan.train_images[1])
    assert plan.setting.budget.updates == 40 * -(-3 * largest // 8)
    assert plan.setting.budget.updates > 500
    few = plan_of(place.options())
    assert few.setting.budget.updates == 500
    assert planned(place).setting.budget.updates == 6


# --- what cannot be done ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--seeds", "4"), "--seeds must be at least 5, got 4"),
        (("--amounts", "1,x"), "--amounts must be numbers above 0"),
        (("--amounts", "0"), "--amounts must be numbers above 0"),
        (("--updates", "2"), "--updates must be at least 3"),
        (("--keep", "COVID-19"), "--keep must be CLASS=FRACTION"),
        (("--keep", "COVID-19=2"), "--keep must be CLASS=FRACTION"),
        (("--keep", "COVID=0.1"), "no such class; did you mean 'COVID-19'?"),
        (("--pick", "nothere"), "there is no pick nothere in"),
        (("--data", "phantom"), "are not those of the study"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    place: Place, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], complaint: str
) -> None:
    before = place.files()
    assert study.main(place.options(*QUICK[2:], *options)) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert place.files() == before


def test_without_a_pick_it_says_how_to_make_one(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(place.study.path / "selection")
    assert study.main(place.options()) == 2
    assert "no pick of the study" in (error := capsys.readouterr().err)
    assert "-m selection.pick --study tiny" in error


def test_a_trials_run_wants_a_pick_of_that_trial(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = [r for r in all_runs(place) if r.data.tags.get("trial") == "t0001"]
    options = ["--run-id", run.info.run_id, *place.options()[2:]]
    assert study.main(options) == 2
    assert "there is no pick of t0001" in capsys.readouterr().err


def test_a_study_that_is_being_searched_or_picked_from_is_left_alone(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with driver_lock(place.study.path):
        assert study.main(place.options(*QUICK)) == 2
    assert "is being searched" in capsys.readouterr().err
    with driver_lock(place.study.path / "selection"):
        assert study.main(place.options(*QUICK)) == 2
    assert "is being worked on by process" in capsys.readouterr().err


def test_weights_that_are_gone_or_others_are_named(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(place)
    path = plan.setting.weights.path
    other = next(p for p in path.parent.glob("*.safetensors") if p != path)
    shutil.copy(other, path)
    assert study.main(place.options(*QUICK)) == 2
    assert "is not the file that was recorded" in capsys.readouterr().err
    path.unlink()
    assert study.main(place.options(*QUICK)) == 2
    assert "there is no weights file" in capsys.readouterr().err


def test_the_images_are_those_of_the_winner_of_the_pick(place: Place) -> None:
    plan = planned(place)
    winner = plan.pick.winner
    run = RunDir(place.study.path / winner.trial)
    assert plan.setting.weights.path == run.weights_path(winner.epoch)
    assert plan.setting.weights.sha256 == winner.weights
    assert plan.data.classes == CLASSES
    assert len(plan.data.test) == 0
