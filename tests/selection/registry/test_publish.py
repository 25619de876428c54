"""What a pick leaves in MLflow, and that sending it again changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from acgan.errors import InputError
from acgan.files import write_json
from search.study.folder import Study
from search.tracking import connection, find, notes, study_runs
from selection.ledgers.reviews import Entry, add_review
from selection.registry.promotion import Champion, judge_promotion
from selection.registry.publish import (
    champion,
    finish,
    register_pick,
    scores,
    selection_run,
    send_reviews,
)
from selection.registry.versions import NAME, About
from selection.steps.result import Pick, read_pick
from tests.acgan.test_generate import write_weights
from tests.selection.registry.test_versions import Dying, Killed
from tests.selection.report.test_page import changed, make_pick, with_candidate
from tests.studies import write_study

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]


@pytest.fixture
def client(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(tmp_path)
    return connection.connect(uri)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path / "runs" / "demo")


@pytest.fixture
def pick(client: MlflowClient, study: Study) -> Pick:
    """A pick of a study that MLflow knows."""
    parent = study_runs.parent_run(client, study, experiment="chests")
    return changed(make_pick(), run_id=parent.info.run_id, study_id=study.info.uuid)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pick's folder."""
    path = tmp_path / "pick"
    path.mkdir()
    for name in ("pick.json", "report.html", "candidates.csv"):
        (path / name).write_text(name)
    return path


def content(run: Run) -> tuple[object, ...]:
    return run.data.metrics, run.data.params, run.data.tags, run.info.status, run.info.end_time


def test_a_pick_has_one_run_a_child_of_its_studys(
    client: MlflowClient, study: Study, pick: Pick
) -> None:
    run_id = selection_run(client, pick, pick.run_id)
    assert selection_run(client, pick, pick.run_id) == run_id
    run, parent = client.get_run(run_id), client.get_run(pick.run_id)
    assert run.data.tags["mlflow.parentRunId"] == pick.run_id
    assert run.data.tags["stage"] == "selection"
    assert run.info.experiment_id == parent.info.experiment_id
    assert run.info.run_name == "selection-pick-1"
    assert run.info.start_time == 1_700_000_000_000
    found = find.run_of_study(client, study)
    assert found is not None
    assert found.info.run_id == pick.run_id


def test_another_pick_and_another_study_have_runs_of_their_own(
    client: MlflowClient, pick: Pick
) -> None:
    picks = [pick, changed(pick, id="pick-2"), changed(pick, study_id="another")]
    assert len({selection_run(client, each, each.run_id) for each in picks}) == 3
    assert selection_run(client, pick, pick.run_id) == selection_run(
        client, changed(pick, created=5.0), pick.run_id
    )


def test_the_scores_are_the_winners_on_validation_images_overall(pick: Pick) -> None:
    found, winner = scores(pick), pick.winner
    assert winner.utility is not None
    assert winner.fidelity is not None
    known = winner.fidelity.metrics["validation"]
    assert found["validation/cnn_accuracy"] == winner.utility.accuracy.value
    assert found["validation/cnn_balanced_accuracy"] == winner.utility.balanced_accuracy.value
    overall = {name for name in known if "/" not in name}
    assert found.keys() == {
        "validation/cnn_accuracy",
        "validation/cnn_balanced_accuracy",
        *(f"validation/{name}" for name in overall),
    }
    assert all(found[f"validation/{name}"] == known[name] for name in overall)


def test_a_winner_that_step_3_could_not_measure_has_the_scores_of_step_2(pick: Pick) -> None:
    winner = pick.winner.model_copy(update={"fidelity": None})
    candidates = [winner if i == pick.decision.winner else c for i, c in enumerate(pick.candidates)]
    assert set(scores(changed(pick, candidates=candidates))) == {
        "validation/cnn_accuracy",
        "validation/cnn_balanced_accuracy",
    }


def test_finishing_writes_scores_settings_winner_and_files(
    client: MlflowClient, pick: Pick, folder: Path
) -> None:
    run_id = selection_run(client, pick, pick.run_id)
    finish(client, pick, run_id, folder)
    run = client.get_run(run_id)
    assert run.data.metrics == pytest.approx(scores(pick))
    assert run.data.params == {f"selection.{k}": str(v) for k, v in pick.settings.items()}
    assert run.data.tags["trial_picked"] == pick.winner.trial
    assert run.data.tags["epoch_picked"] == str(pick.winner.epoch)
    assert run.info.status == "FINISHED"
    files = {file.path for file in client.list_artifacts(run_id, "selection")}
    assert files == {f"selection/{path.name}" for path in folder.iterdir()}


def test_the_note_of_a_pick_leads_to_report_and_model_and_stays_as_a_person_wrote_it(
    client: MlflowClient, pick: Pick, folder: Path, tmp_path: Path
) -> None:
    run_id = selection_run(client, pick, pick.run_id)
    finish(client, pick, run_id, folder)
    before = client.get_run(run_id).data.tags[notes.NOTE]
    assert f"runs/{run_id}/artifacts/selection/report.html" in before
    assert f"selection.review --run-id {pick.run_id}" in before
    weights = write_weights(tmp_path / "weights.safetensors")
    about = About("**Not** for diagnosis.", {})
    version = register_pick(client, pick, run_id, weights, about=about)
    finish(client, pick, run_id, folder)
    after = client.get_run(run_id).data.tags[notes.NOTE]
    assert f"(#/models/{NAME}/versions/{version})" in after
    assert "**Not** for diagnosis." in after
    assert f"selection.generate --model models:/{NAME}/{version} " in after
    client.set_tag(run_id, notes.NOTE, "mine")
    finish(client, pick, run_id, folder)
    assert client.get_run(run_id).data.tags[notes.NOTE] == "mine"


def test_the_notes_of_a_study_and_its_experiment_name_the_pick(
    client: MlflowClient, study: Study, pick: Pick, folder: Path
) -> None:
    run_id = selection_run(client, pick, pick.run_id)
    finish(client, pick, run_id, folder)
    notes.send_study(client, study, pick.run_id)
    parent = client.get_run(pick.run_id)
    experiment = client.get_experiment(parent.info.experiment_id)
    for note in (parent.data.tags[notes.NOTE], experiment.tags[notes.NOTE]):
        assert f"{pick.winner.name}, balanced accuracy of CNNs trained on it " in note
        assert f"runs/{run_id}/artifacts/selection/report.html" in note


def test_finishing_again_changes_nothing(client: MlflowClient, pick: Pick, folder: Path) -> None:
    run_id = selection_run(client, pick, pick.run_id)
    finish(client, pick, run_id, folder)
    before = content(client.get_run(run_id))
    finish(client, pick, run_id, folder)
    assert content(client.get_run(run_id)) == before
    for name in scores(pick):
        assert len(client.get_metric_history(run_id, name)) == 1


def test_a_crash_before_the_files_are_there_leaves_it_unfinished_and_is_made_good(
    client: MlflowClient, pick: Pick, folder: Path
) -> None:
    run_id = selection_run(client, pick, pick.run_id)
    with pytest.raises(Killed):
        finish(cast(MlflowClient, Dying(client, 0)), pick, run_id, folder)
    half = client.get_run(run_id)
    assert half.data.metrics  # the scores were sent
    assert half.info.status != "FINISHED"
    finish(client, pick, selection_run(client, pick, pick.run_id), folder)
    assert client.get_run(run_id).info.status == "FINISHED"
    for name in scores(pick):
        assert len(client.get_metric_history(run_id, name)) == 1


def test_what_a_person_reads_of_a_version_stands_at_it_and_beside_the_model(
    client: MlflowClient, pick: Pick, tmp_path: Path
) -> None:
    weights = write_weights(tmp_path / "weights.safetensors")
    run_id = selection_run(client, pick, pick.run_id)
    about = About("**Not** for diagnosis.", {"model_card.md": "# Modèle\n"})
    version = register_pick(client, pick, run_id, weights, about=about)
    found = client.get_model_version(NAME, str(version))
    assert found.description == "**Not** for diagnosis."
    folder = Path(str(found.source).removeprefix("file://"))
    assert (folder / "model_card.md").read_text(encoding="utf-8") == "# Modèle\n"
    other = changed(pick, id="pick-2")
    version = register_pick(client, other, selection_run(client, other, pick.run_id), weights)
    assert not client.get_model_version(NAME, str(version)).description


@pytest.mark.parametrize(("memorised", "tag"), [(False, "passed"), (True, "failed")])
def test_the_registered_version_says_what_was_picked_and_whether_it_is_memorised(
    client: MlflowClient, pick: Pick, tmp_path: Path, memorised: bool, tag: str
) -> None:
    decision = pick.decision.model_copy(update={"memorisation_failed": memorised})
    pick = changed(pick, decision=decision)
    weights = write_weights(tmp_path / "weights.safetensors")
    run_id = selection_run(client, pick, pick.run_id)
    version = register_pick(client, pick, run_id, weights)
    assert register_pick(client, pick, run_id, weights) == version
    tags = client.get_model_version(NAME, str(version)).tags
    assert tags["memorisation"] == tag
    assert tags["variety"] == "varied"
    assert (tags["study"], tags["trial"]) == (pick.study, pick.winner.trial)
    assert tags["epoch"] == str(pick.winner.epoch)
    assert tags["data_fingerprint"] == pick.fingerprint
    assert float(tags["validation.cnn_balanced_accuracy"]) == pytest.approx(
        scores(pick)["validation/cnn_balanced_accuracy"], rel=1e-5
    )


def test_the_champion_is_known_with_its_pick_as_far_as_mlflow_has_it(
    client: MlflowClient, pick: Pick, folder: Path, tmp_path: Path
) -> None:
    assert champion(client) is None
    weights = write_weights(tmp_path / "weights.safetensors")
    run_id = selection_run(client, pick, pick.run_id)
    version = register_pick(client, pick, run_id, weights)
    found = champion(client)
    assert found is not None
    assert (found.version, found.pick) == (str(version), None)  # a crash kept its files away
    assert found.weights == client.get_model_version(NAME, str(version)).tags["weights_sha256"]
    finish(client, pick, run_id, folder)
    assert champion(client) == found  # its pick.json is damaged
    write_json(folder / "pick.json", pick)
    finish(client, pick, run_id, folder)
    sent = read_pick(folder / "pick.json")
    assert champion(client) == Champion(found.version, found.weights, sent)
    rejected = entry("rejected").model_copy(update={"weights": found.weights})
    for reviews, out in (([rejected], True), ([entry("rejected")], False)):
        known = champion(client, reviews)
        assert known == Champion(found.version, found.weights, sent, rejected=out)


def test_a_winner_that_is_held_back_is_registered_and_says_why(
    client: MlflowClient, pick: Pick, tmp_path: Path
) -> None:
    weights = write_weights(tmp_path / "weights.safetensors")
    pick = with_candidate(pick, pick.decision.winner, diversity=0.07)
    run_id = selection_run(client, pick, pick.run_id)
    version = register_pick(
        client, pick, run_id, weights, held_back=judge_promotion(pick, None).against
    )
    assert champion(client) is None
    tags = client.get_model_version(NAME, str(version)).tags
    assert tags["variety"] == "one picture per class"
    assert tags["held_back"] == "its images are one picture per class"


def entry(action: str, number: int = 1, reviewer: str = "anna") -> Entry:
    candidate, weights = f"t{number:04d}, epoch 9", f"{number:x}" * 64
    known = {"action": action, "reviewer": reviewer, "candidate": candidate, "weights": weights}
    return Entry.model_validate({"time": 1_764_000_000.0, **known})


def study_tags(client: MlflowClient, study: Study) -> dict[str, str]:
    run = find.run_of_study(client, study)
    assert run is not None
    known: dict[str, str] = run.data.tags
    return known


def test_what_people_decided_stands_at_the_studys_run_with_its_ledger(
    client: MlflowClient, study: Study, pick: Pick
) -> None:
    before = study_tags(client, study)
    send_reviews(client, study)
    assert study_tags(client, study) == before
    add_review(study, entry("kept"))
    send_reviews(client, study)
    add_review(study, entry("rejected", reviewer="bob"))
    add_review(study, entry("looked", number=2))
    send_reviews(client, study)
    tags = study_tags(client, study)
    assert tags["reviews"] == "3"
    when = "2025-11-24 16:00 UTC"
    both = f"t0001, epoch 9: kept by anna ({when}); rejected by bob ({when})"
    assert tags["review." + "1" * 12] == both
    assert tags["review." + "2" * 12] == f"t0002, epoch 9: looked at by anna ({when})"
    files = [file.path for file in client.list_artifacts(pick.run_id, "reviews")]
    assert files == ["reviews/reviews.jsonl"]


def test_reviews_of_a_study_that_mlflow_lacks_are_refused(
    client: MlflowClient, study: Study
) -> None:
    add_review(study, entry("kept"))
    with pytest.raises(InputError, match=r"does not have the study; .*search\.sync"):
        send_reviews(client, study)


def test_sending_reviews_again_changes_nothing_and_a_crash_is_made_good(
    client: MlflowClient, study: Study, pick: Pick, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    add_review(study, entry("kept"))
    with monkeypatch.context() as patch:
        patch.setattr(client, "set_tag", killed)
        with pytest.raises(Killed):
            send_reviews(client, study)
    assert "reviews" not in study_tags(client, study)
    send_reviews(client, study)
    first = content(client.get_run(pick.run_id))
    send_reviews(client, study)
    assert content(client.get_run(pick.run_id)) == first
    assert study_tags(client, study)["reviews"] == "1"


def test_the_registered_version_says_who_looked(
    client: MlflowClient, pick: Pick, tmp_path: Path
) -> None:
    weights = write_weights(tmp_path / "weights.safetensors")
    run_id = selection_run(client, pick, pick.run_id)
    version = register_pick(client, pick, run_id, weights)
    tags = client.get_model_version(NAME, str(version)).tags
    assert tags["reviewed"] == "nobody looked"
    again = changed(pick, id="pick-2")
    seen = entry("kept").model_copy(update={"weights": pick.winner.weights})
    run_id = selection_run(client, again, pick.run_id)
    version = register_pick(client, again, run_id, weights, reviews=[seen, entry("looked", 7)])
    tags = client.get_model_version(NAME, str(version)).tags
    assert tags["reviewed"] == "t0001, epoch 9: kept by anna (2025-11-24 16:00 UTC)"
