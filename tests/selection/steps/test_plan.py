"""Finding what a pick is asked for, and what is checked before any long work."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from acgan.data.pack import load
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.files import file_sha256, write_json
from acgan.plugins import NUMBERS
from acgan.run.records import QUALITY, EpochRecord, Ranking
from acgan.run.rundir import RunDir
from search.settings import identity
from search.study.folder import (
    STUDY_FORMAT,
    LastStart,
    Outcome,
    Study,
    StudyInfo,
    Trial,
    TrialEnd,
    TrialInfo,
    new_uuid,
    open_or_create,
    open_study,
    trial_name,
)
from search.study.lock import driver_lock
from search.tracking import connection, find, study_runs
from search.tracking.find import StudyNamed
from selection.extractors import choose
from selection.ledgers.reviews import Entry, add_review
from selection.settings import SelectionConfig
from selection.steps.filter import Chance, judge_epochs
from selection.steps.plan import Chosen, PickPlan, PickRequest, baseline_epoch, make_pick_plan
from selection.steps.result import PICK_FORMAT
from tests.acgan.test_generate import write_weights
from tests.kit import tiny_config
from tests.picks import send, write_covidx
from tests.plugins import on_the_path, write_plugin
from tests.studies import by_distance

pytest_plugins = ["tests.mlflow_stores"]

BEGIN = 1_700_000_000.0
EPOCHS = 4
SELECTION = {"per_trial": 2, "cnn_images": 16, "extractor": "cnn3"}


@pytest.fixture(scope="session")
def pack_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in the COVIDx layout."""
    path = tmp_path_factory.mktemp("images") / "ramps"
    write_covidx(path)
    return path


def quality(trial: int, epoch: int) -> float:
    """Trial 1 is better than trial 0; of trial 0 the second epoch is the best."""
    return 100.0 - 40 * trial + 5 * abs(epoch - 2)


def write_small_study(path: Path, images: Path, *, trials: int = 2) -> Study:
    """Write a study as a search leaves it, with weights of networks that were never trained."""
    config = tiny_config(epochs=EPOCHS)
    data = load(str(images), image_size=config.image_size, split_seed=config.split_seed)
    info = StudyInfo(
        format=STUDY_FORMAT,
        uuid=new_uuid(),
        name=path.name,
        created=BEGIN,
        code_version="0.1.0",
        train=config.model_dump(exclude={"seed"}),
        space={"learning_rate": {"low": 5e-5, "high": 8e-3, "log": True}},
        search=identity(by_distance()),
        data_name=data.name,
        classes=data.classes,
        fingerprint=data.fingerprint,
    )
    study = open_or_create(path, info)
    write_json(
        path / "start.json", LastStart(source=DataSource(folder=str(images)), selection=SELECTION)
    )
    for number in range(trials):
        write_small_trial(study, number)
    return study


def write_small_trial(study: Study, number: int) -> None:
    path = study.path / trial_name(number)
    (path / "weights").mkdir(parents=True)
    trial = Trial(path, TrialInfo(number=number, params={"learning_rate": 1e-4}, seed=number))
    write_json(path / "trial.json", trial.info)
    lines = []
    for epoch in range(1, EPOCHS + 1):
        weights = RunDir(path).weights_path(epoch)
        write_weights(weights, seed=100 * number + epoch)
        record = EpochRecord(
            epoch=epoch,
            time=BEGIN + epoch,
            metrics=metrics(number, epoch),
            weights=file_sha256(weights),
        )
        lines.append(record.model_dump_json() + "\n")
    (path / "epochs.jsonl").write_text("".join(lines))
    write_json(path / "end.json", TrialEnd(outcome=Outcome.FINISHED, time=BEGIN + 90))


def metrics(number: int, epoch: int) -> dict[str, float]:
    return {
        "val/g_loss": 1 + epoch / 10,
        "val/acc_generated": 0.5 + epoch / 100,
        "val/acc_real": 0.7,
        "val/acc_class": 0.8,
        "val/diversity": 0.5,
        QUALITY: quality(number, epoch),
    }


@pytest.fixture(autouse=True)
def surroundings(pack_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in an empty folder, with a cache that all tests share."""
    monkeypatch.setenv("ACGAN_CACHE", str(pack_cache))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> Study:
    return write_small_study(tmp_path / "runs" / "demo", folder)


def plan(uri: str, **changes: Any) -> PickPlan:
    """Plan a pick of a study, with these settings and flags of the command."""
    named = {name: changes.pop(name, None) for name in ("run_id", "study", "storage_path")}
    own = {k: v for k, v in changes.items() if k in ("config", "inception_weights", "test")}
    values = {name: value for name, value in changes.items() if name not in own}
    study = StudyNamed(**named, tracking_uri=uri)
    return make_pick_plan(PickRequest(named=study, values=values, **own))


def parent_id(study: Study, uri: str) -> str:
    found = find.run_of_study(connection.connect(uri), study)
    assert found is not None
    return str(found.info.run_id)


def trial_id(study: Study, uri: str, number: int) -> str:
    client = connection.connect(uri)
    parent = client.get_run(parent_id(study, uri))
    found = study_runs.run_of_trial(client, parent, study.trial(trial_name(number)))
    assert found is not None
    return str(found.info.run_id)


def names(found: PickPlan) -> list[tuple[str, int]]:
    return [(c.epoch.trial, c.epoch.epoch) for c in found.candidates]


def test_a_study_is_found_by_its_run_id_and_by_its_name(study: Study, uri: str) -> None:
    send(study, uri)
    run_id = parent_id(study, uri)
    by_run, by_name = plan(uri, run_id=run_id), plan(uri, study="demo")
    for found in (by_run, by_name):
        assert (found.parent_id, found.scope) == (run_id, "study")
        assert found.study.path == study.path
        assert found.records.keys() == {"t0000", "t0001"}
    assert by_run.id == by_name.id
    assert by_run.folder == study.path / "selection" / by_run.id


def test_a_study_that_moved_is_found_under_the_storage_path(study: Study, uri: str) -> None:
    send(study, uri)
    run_id = parent_id(study, uri)
    before = plan(uri, run_id=run_id)
    elsewhere = study.path.parent.rename(study.path.parents[1] / "elsewhere")
    with pytest.raises(InputError, match=r"is not in .*/runs/demo; name the folder .*--storage"):
        plan(uri, run_id=run_id)
    (elsewhere / "demo").rename(elsewhere / "renamed")
    found = plan(uri, run_id=run_id, storage_path=str(elsewhere))
    assert found.study.path == elsewhere / "renamed"
    assert found.id == before.id


def test_another_study_at_the_old_place_is_not_taken_for_it(
    study: Study, folder: Path, uri: str
) -> None:
    send(study, uri)
    run_id = parent_id(study, uri)
    shutil.rmtree(study.path)
    write_small_study(study.path, folder)
    with pytest.raises(InputError, match="the study of this run is not in"):
        plan(uri, run_id=run_id)
    with pytest.raises(InputError, match=r"does not have the study; .*search\.sync"):
        plan(uri, study="demo")


def test_the_run_of_a_trial_limits_the_pick_to_it(study: Study, uri: str) -> None:
    send(study, uri)
    found = plan(uri, run_id=trial_id(study, uri, 1))
    assert (found.scope, found.parent_id) == ("t0001", parent_id(study, uri))
    assert found.trial_run == trial_id(study, uri, 1)
    competing = [c for c in found.candidates if c.competes]
    assert {c.epoch.trial for c in competing} == {"t0001"}
    assert found.filtered.report.recorded == EPOCHS
    (compared,) = [c for c in found.candidates if not c.competes]
    assert (compared.epoch.trial, compared.baseline) == ("t0000", True)
    assert found.id != plan(uri, run_id=parent_id(study, uri)).id


def test_the_baselines_best_epoch_competes_where_the_filter_chose_it(
    study: Study, uri: str
) -> None:
    send(study, uri)
    found = plan(uri, study="demo")
    (baseline,) = [c for c in found.candidates if c.baseline]
    assert baseline.competes
    assert names(found).count((baseline.epoch.trial, baseline.epoch.epoch)) == 1


def test_the_baselines_best_epoch_is_there_for_comparison_if_the_filter_cut_it(
    study: Study, uri: str
) -> None:
    send(study, uri)
    found = plan(uri, study="demo", max_candidates=1)
    assert [(c.epoch.trial, c.competes, c.baseline) for c in found.candidates] == [
        ("t0001", True, False),
        ("t0000", False, True),
    ]


def test_the_baselines_best_epoch_is_the_by_the_objective_of_those_that_can_be_used() -> None:
    records = [
        EpochRecord(epoch=e, time=0.0, metrics=metrics(0, e), young=e == 1) for e in range(1, 9)
    ]

    def best(kept: set[int]) -> int | None:
        judged = judge_epochs(
            "t0000",
            records,
            ranking=Ranking(QUALITY, sign=1),
            kept=kept,
            chance=Chance.of((5, 5, 5)),
            config=SelectionConfig(),
        )
        found = baseline_epoch(judged)
        return None if found is None else found.epoch

    everything = set(range(1, 9))
    first = best(everything)
    assert first is not None
    assert best(everything - {first}) not in (None, first)
    assert best({7, 8}) == 7  # quality grows worse from the second epoch on
    assert best({1}) is None  # young
    assert best(set()) is None


def test_each_candidate_comes_with_its_weights_and_their_hash(study: Study, uri: str) -> None:
    send(study, uri)
    for chosen in plan(uri, study="demo").candidates:
        path = RunDir(study.path / chosen.epoch.trial).weights_path(chosen.epoch.epoch)
        assert (chosen.weights.path, chosen.weights.sha256) == (path, file_sha256(path))


def test_weights_that_are_not_the_recorded_ones_are_refused(study: Study, uri: str) -> None:
    send(study, uri)
    chosen = plan(uri, study="demo").candidates[0]
    write_weights(chosen.weights.path, seed=999)
    with pytest.raises(
        InputError, match=r"is not the file that was recorded .* restore it, or delete it"
    ):
        plan(uri, study="demo")


def test_weights_of_odd_names_are_passed_over(study: Study, uri: str) -> None:
    send(study, uri)
    before = names(plan(uri, study="demo"))
    weights = study.path / "t0000" / "weights"
    for name in ("abc", "5", "00003", "٠٠٠٣", "0003.old"):
        shutil.copyfile(weights / "epoch-0003.safetensors", weights / f"epoch-{name}.safetensors")
    (weights / "epoch-0009.safetensors").mkdir()
    assert names(plan(uri, study="demo")) == before


def test_the_plan_holds_no_test_image(study: Study, folder: Path, uri: str) -> None:
    send(study, uri)
    found = plan(uri, study="demo")
    assert (len(found.data.test), found.data.test.images.size) == (0, 0)
    assert found.test_images == len(load(str(folder), image_size=16).test) > 0


def test_the_id_follows_settings_candidates_and_scope_but_not_where_the_work_is_done(
    study: Study, folder: Path, uri: str
) -> None:
    send(study, uri)
    whole = plan(uri, study="demo")
    assert len(whole.id) == 8

    def with_settings(**changes: Any) -> str:
        settings = whole.settings.model_copy(update=changes)
        return dataclasses.replace(whole, settings=settings).id

    for changes in (
        {"seed": 1},
        {"cnn_images": 17},
        {"cnn_seeds": (3,)},
        {"memorised_above": 0.2},
        {"fidelity_images": 99},
        {"require": ("val/recall > 0.1",)},
    ):
        assert with_settings(**changes) != whole.id, changes
    for changes in ({"cpus_per_task": 2.0}, {"gpus_per_task": 1.0}):
        assert with_settings(**changes) == whole.id, changes
    others = [
        dataclasses.replace(whole, candidates=whole.candidates[:-1]),
        dataclasses.replace(whole, candidates=whole.candidates[::-1]),
        dataclasses.replace(whole, scope="t0000"),
        dataclasses.replace(whole, look_at_test=False),
    ]
    assert len({whole.id, *(other.id for other in others)}) == 5
    moved = dataclasses.replace(
        whole, tracking_uri="http://there", address="auto", source=DataSource(folder="/x")
    )
    assert moved.id == whole.id
    assert whole.settings.cpus_per_task == 1.0
    assert PICK_FORMAT == 3


@pytest.mark.parametrize(("weights", "name"), [(None, "cnn3"), (b"weights", "inception-v3-compat")])
def test_which_extractor_auto_is_stands_in_the_plan_and_so_in_the_picks_name(
    study: Study,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    weights: bytes | None,
    name: str,
) -> None:
    send(study, uri)
    monkeypatch.setattr(choose, "standard_weights", lambda: weights)
    found = plan(uri, study="demo", extractor="auto")
    assert found.settings.extractor == name
    assert found.id == plan(uri, study="demo", extractor=name).id
    assert (found.id == plan(uri, study="demo", extractor="cnn3").id) == (name == "cnn3")


def test_settings_are_the_searchs_then_the_files_then_the_flags(
    study: Study, uri: str, tmp_path: Path
) -> None:
    send(study, uri)
    file = tmp_path / "mine.yaml"
    file.write_text("selection:\n  cnn_images: 20\n  cnn_epochs: 5\n")
    found = plan(uri, study="demo", config=file, cnn_epochs=7).settings
    assert (found.per_trial, found.cnn_images, found.cnn_epochs) == (2, 20, 7)


def test_an_unknown_run_and_a_run_of_something_else_are_refused(study: Study, uri: str) -> None:
    send(study, uri)
    with pytest.raises(InputError, match="has no run"):
        plan(uri, run_id="0" * 32)
    client = connection.connect(uri)
    experiment = client.create_experiment("another")
    other = client.create_run(experiment).info.run_id
    with pytest.raises(InputError, match="is no study and no trial"):
        plan(uri, run_id=other)


def test_other_images_than_the_searchs_are_refused(study: Study, uri: str, tmp_path: Path) -> None:
    send(study, uri)
    write_covidx(tmp_path / "other", train=270)
    with pytest.raises(InputError, match=r"are not those of the study .* with --data"):
        plan(uri, study="demo", data=str(tmp_path / "other"))


def test_images_that_moved_are_named_with_data(study: Study, folder: Path, uri: str) -> None:
    send(study, uri)
    before = plan(uri, study="demo")
    copy = shutil.copytree(folder, study.path.parents[1] / "copied")
    found = plan(uri, study="demo", data=str(copy))
    assert (found.id, found.source.folder) == (before.id, str(copy))


def test_a_study_under_search_is_refused(study: Study, uri: str) -> None:
    send(study, uri)
    with driver_lock(study.path), pytest.raises(InputError, match="is being searched; wait"):
        plan(uri, study="demo")


def test_a_study_without_kept_weights_is_refused(study: Study, uri: str) -> None:
    send(study, uri)
    run_id = trial_id(study, uri, 1)
    for path in study.path.glob("t0001/weights/*"):
        path.unlink()
    with pytest.raises(InputError, match="no epoch of trial t0001 has kept weights"):
        plan(uri, run_id=run_id)
    assert all(c.epoch.trial == "t0000" for c in plan(uri, study="demo").candidates)
    for path in study.path.glob("t0000/weights/*"):
        path.unlink()
    with pytest.raises(InputError, match="no epoch of the study has kept weights"):
        plan(uri, study="demo")


def test_where_no_epoch_passes_the_filter_the_reasons_are_counted(study: Study, uri: str) -> None:
    send(study, uri)
    reasons = r"8 epochs of the study .*: 8 class accuracy at chance\); train longer"
    with pytest.raises(InputError, match=reasons):
        plan(uri, study="demo", class_margin=0.9)


def test_a_number_can_be_required_that_the_study_records(study: Study, uri: str) -> None:
    send(study, uri)
    found = plan(uri, study="demo", require=["val/fd_cnn<80"])
    assert [c.epoch.trial for c in found.candidates] == ["t0001", "t0001"]
    assert found.filtered.report.reasons == {"without val/fd_cnn < 80": 4}
    with pytest.raises(InputError, match=r"8 epochs: 8 without val/diversity > 0\.6\); train lon"):
        plan(uri, study="demo", require=["val/diversity>0.6"])
    with pytest.raises(InputError, match=r"--require: 'val/fd_cn' is not recorded in this study"):
        plan(uri, study="demo", require=["val/fd_cn<80"])


def test_another_version_of_a_plug_in_than_the_studys_is_told(
    study: Study, uri: str, tmp_path: Path
) -> None:
    send(study, uri)
    config = study.info.train | {"numbers": ["one"]}
    write_json(study.path / "study.json", study.info.model_copy(update={"train": config}))
    started = study.last_start()
    assert started is not None
    begun = started.model_copy(update={"plugins": {"numbers one": "plugin 1.0"}})
    write_json(study.path / "start.json", begun)
    before = plan(uri, study="demo").warnings
    write_plugin(tmp_path / "own", {NUMBERS: {"one": "x"}}, "", version="1.1")
    with on_the_path(tmp_path / "own"):
        (text,) = set(plan(uri, study="demo").warnings) - set(before)
    assert text.startswith("numbers one are of plugin 1.1 here, and the study was begun with")


def test_too_few_validation_images_of_a_class_are_refused(tmp_path: Path, uri: str) -> None:
    write_covidx(tmp_path / "few", train=105)
    study = write_small_study(tmp_path / "runs" / "few", tmp_path / "few", trials=1)
    send(study, uri)
    with pytest.raises(InputError, match=r"of the 10 or more validation images; search on more"):
        plan(uri, study="few")


def test_a_database_that_is_not_there_is_not_made(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no MLflow database"):
        plan(f"sqlite:///{tmp_path}/none.db", study="demo")
    assert not (tmp_path / "none.db").exists()


def test_a_trial_that_crashed_takes_part_with_the_epochs_it_has(study: Study, uri: str) -> None:
    (study.path / "t0001" / "end.json").unlink()
    send(study, uri)
    found = plan(uri, study="demo")
    assert "t0001" in {c.epoch.trial for c in found.candidates}
    assert open_study(study.path).trial("t0001").end() is None


def decide_about(study: Study, chosen: Chosen, action: str, reviewer: str = "anna") -> None:
    candidate = f"{chosen.epoch.trial}, epoch {chosen.epoch.epoch}"
    known = {"reviewer": reviewer, "action": action, "candidate": candidate}
    add_review(
        study, Entry.model_validate({"time": BEGIN, "weights": chosen.weights.sha256, **known})
    )


def test_a_rejected_candidate_does_not_compete_and_its_place_is_not_filled(
    study: Study, uri: str
) -> None:
    send(study, uri)
    before = plan(uri, study="demo")
    decide_about(study, before.candidates[0], "rejected")
    after = plan(uri, study="demo")
    assert names(after) == names(before)
    assert [c.competes for c in after.candidates] == [False, True, True, True]
    assert [c.review for c in after.candidates] == ["rejected", "", "", ""]
    assert after.filtered == before.filtered


def test_the_id_follows_what_was_decided_and_not_who_looked(study: Study, uri: str) -> None:
    send(study, uri)
    before = plan(uri, study="demo")
    first, second = before.candidates[:2]
    ids = [before.id]
    for action in ("looked", "rejected", "kept", "undecided"):
        decide_about(study, first, action)
        ids.append(plan(uri, study="demo").id)
    looked, rejected, kept, undecided = ids[1:]
    assert looked == undecided == before.id
    assert len({before.id, rejected, kept}) == 3
    decide_about(study, first, "kept")
    decide_about(study, first, "kept", reviewer="bob")
    assert plan(uri, study="demo").id == kept
    decide_about(study, second, "kept")
    assert plan(uri, study="demo").id not in ids


def test_a_decision_about_a_comparison_changes_nothing(study: Study, uri: str) -> None:
    send(study, uri)
    before = plan(uri, study="demo", max_candidates=1)
    compared = before.candidates[-1]
    for action in ("rejected", "kept"):
        decide_about(study, compared, action)
        after = plan(uri, study="demo", max_candidates=1)
        assert (after.candidates, after.id) == (before.candidates, before.id)


def test_where_all_were_rejected_it_says_how_to_go_on(study: Study, uri: str) -> None:
    send(study, uri)
    for chosen in plan(uri, study="demo").candidates:
        decide_about(study, chosen, "rejected")
    wanted = r"people rejected all 4 candidates; .*selection\.review --study demo.*--per-trial"
    with pytest.raises(InputError, match=wanted):
        plan(uri, study="demo")
    assert len(plan(uri, study="demo", per_trial=3).candidates) == 6


def test_a_study_is_found_by_its_name_also_where_there_is_no_mlflow(
    study: Study, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    found, trial = find.asked_study(StudyNamed(study="demo", tracking_uri=uri))
    assert (found.path, trial) == (study.path, None)
    with pytest.raises(InputError, match="there is no MLflow database"):
        find.asked_study(StudyNamed(run_id="abc", tracking_uri=uri))


def test_the_run_of_a_trial_is_that_trial_of_its_study(study: Study, uri: str) -> None:
    send(study, uri)
    asked = StudyNamed(run_id=trial_id(study, uri, 1), tracking_uri=uri)
    found, trial = find.asked_study(asked)
    assert (found.path, trial) == (study.path, "t0001")
