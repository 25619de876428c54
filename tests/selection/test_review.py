"""Looking at a study as a user types it: who is looked at, and where decisions go."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.files import file_sha256, write_json
from acgan.generation.generator import BLOCK
from acgan.run.rundir import RunDir
from search.study.folder import Study
from search.study.lock import driver_lock
from search.tracking import connection, find
from selection.jobs.results import without_test
from selection.ledgers.reviews import read_reviews
from selection.review import main
from selection.reviewing.finalists import Shown, find_finalists, make_images
from selection.reviewing.server import TOKEN_HEADER
from selection.settings import SelectionConfig
from selection.steps.request import load_data
from selection.steps.result import Pick
from tests.mlflow_server import Server
from tests.picks import make_nan, plant, send, write_covidx
from tests.reviews import Review, typed
from tests.searches import wait_for
from tests.selection.report.test_page import changed, make_pick
from tests.selection.steps.test_plan import SELECTION, write_small_study

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]

SETTINGS = SelectionConfig(**SELECTION)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("images") / "ramps"
    write_covidx(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture
def study(images: Path, tmp_path: Path) -> Study:
    return write_small_study(tmp_path / "runs" / "demo", images)


def finalists(study: Study, images: Path, *, most: int = 8, trial: str | None = None) -> Any:
    data = without_test(load_data(study, DataSource(folder=str(images)), test=False))
    return find_finalists(study, trial, data, SETTINGS, most=most)


def names(found: list[Shown]) -> list[str]:
    return [each.name for each in found]


def write_pick(study: Study, name: str, **changes: Any) -> Pick:
    """Write a pick of the study's own weights: two tied candidates of four, the second won."""
    candidates = []
    for place, candidate in enumerate(make_pick().candidates):
        epoch = 1 + place % 2
        weights = RunDir(study.path / candidate.trial).weights_path(epoch)
        known = {"epoch": epoch, "weights": file_sha256(weights), "verdict": f"verdict {place}"}
        candidates.append(candidate.model_copy(update=known))
    known = {"study_id": study.info.uuid, "id": name, "candidates": candidates}
    pick = changed(make_pick(), **(known | changes))
    folder = study.path / "selection" / name
    folder.mkdir(parents=True)
    write_json(folder / "pick.json", pick)
    return pick


def test_before_a_pick_they_are_step_1s_best_and_the_baselines_best(
    study: Study, images: Path
) -> None:
    found, where = finalists(study, images)
    assert where == "of the 4 candidates of step 1; there is no pick yet"
    assert len(found) == 4
    assert {name[:5] for name in names(found)} == {"t0000", "t0001"}
    fewer, _ = finalists(study, images, most=1)
    assert names(fewer) == ["t0001, epoch 2", "t0000, epoch 2"]
    assert fewer[1].facts["baseline"] == "its best epoch"
    assert fewer[0].facts["val/fd_cnn"] == "60"


def test_of_a_trial_they_are_its_own_and_the_baselines(study: Study, images: Path) -> None:
    found, _ = finalists(study, images, trial="t0001")
    assert names(found)[-1] == "t0000, epoch 2"
    assert {name[:5] for name in names(found)[:-1]} == {"t0001"}


def test_after_a_pick_they_are_those_that_step_3_measured(study: Study, images: Path) -> None:
    pick = write_pick(study, "old", created=1.0)
    found, where = finalists(study, images)
    assert where == "of pick old"
    measured = [c for c in pick.candidates if c.fidelity]
    assert sorted(each.sha256 for each in found) == sorted(c.weights for c in measured)
    assert found[0].sha256 == pick.winner.weights
    assert found[0].facts["in pick old"] == pick.winner.verdict
    assert found[0].facts["val/diversity"] == "0.8"
    write_pick(study, "new", created=2.0)
    assert finalists(study, images)[1] == "of pick new"
    write_pick(study, "others", created=3.0, study_id="another")
    write_pick(study, "trial", created=4.0, scope="t0001")
    assert finalists(study, images)[1] == "of pick new"
    assert finalists(study, images, trial="t0001")[1] == "of pick trial"


def test_rejected_ones_stay_to_look_at_and_the_most_do_not_count_the_baseline(
    study: Study, images: Path
) -> None:
    pick = write_pick(study, "first")
    out = pick.candidates[3].model_copy(update={"review": "rejected", "competes": False})
    write_pick(study, "second", candidates=[*pick.candidates[:3], out], created=2e9)
    found, _ = finalists(study, images, most=1)
    assert out.weights in {each.sha256 for each in found}
    assert sum(1 for each in found if each.sha256 != out.weights) == 2  # winner and baseline
    RunDir(study.path / out.trial).weights_path(out.epoch).unlink()
    found, _ = finalists(study, images)
    assert out.weights not in {each.sha256 for each in found}


def test_all_are_shown_from_the_same_latents(study: Study, images: Path) -> None:
    found, _ = finalists(study, images, most=1)
    twin = dataclasses.replace(found[0], name="the same again")
    one, again, other = make_images([found[0], twin, found[1]], seed=0, device=CPU)
    for label in range(3):
        assert one.generated[label].shape == one.more[label].shape == (BLOCK, 3, 16, 16)
        assert np.array_equal(one.generated[label], again.generated[label])
        together = np.concatenate([one.generated[label], one.more[label]])
        assert len(np.unique(together.reshape(2 * BLOCK, -1), axis=0)) == 2 * BLOCK
        assert not np.array_equal(one.generated[label], other.generated[label])


def test_a_generator_without_finite_pixels_is_left_out_and_named(
    study: Study, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(study.trial("t0001"), 2, make_nan)
    found, _ = finalists(study, images, most=1)
    shown = make_images(found, seed=0, device=CPU)
    assert [each.name for each in shown] == ["t0000, epoch 2"]
    assert re.search(r"not shown: .* not finite", capsys.readouterr().out)
    with pytest.raises(InputError, match="no finalist whose images can be shown"):
        make_images(found[:1], seed=0, device=CPU)


class Page:
    """What the page does, over a real connection."""

    def __init__(self, address: str) -> None:
        self._address = address
        with urllib.request.urlopen(address, timeout=400) as answer:
            found = re.search(r'name="review-token" content="([^"]+)"', answer.read().decode())
        assert found is not None
        self._token = found[1]

    def ask(self, what: str, **content: Any) -> Any:
        body = json.dumps(content).encode() if content else None
        headers = {TOKEN_HEADER: self._token}
        request = urllib.request.Request(self._address + what, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=400) as answer:
            return json.load(answer)

    def decide(self, place: int, decision: str) -> Any:
        finalist = self.ask("state")["finalists"][place]["id"]
        return self.ask("decide", finalist=finalist, decision=decision)


def tags(study: Study, uri: str) -> dict[str, str]:
    run = find.run_of_study(connection.connect(uri), study)
    assert run is not None
    known: dict[str, str] = run.data.tags
    return known


def test_what_is_decided_reaches_mlflow_at_once_or_when_it_is_back(
    study: Study, server: Server, tmp_path: Path
) -> None:
    server.start()
    send(study, server.uri)
    options = ["--study", "demo", "--tracking-uri", server.uri, "--reviewer", "anna"]
    review = Review(tmp_path, *options)
    try:
        page = Page(review.address())
        page.decide(0, "kept")
        wait_for(lambda: tags(study, server.uri).get("reviews") == "1", "a line in MLflow")
        server.stop()
        page.decide(1, "rejected")
        wait_for(lambda: "takes no data" in page.ask("state")["tracked"], "that it is away")
        assert len(read_reviews(study)) == 2
        server.start()
        wait_for(lambda: tags(study, server.uri).get("reviews") == "2", "a line sent later")
        wait_for(lambda: page.ask("state")["tracked"] == "", "that all is there")
        server.stop()
        page.decide(2, "kept")
        assert review.end() == 1
        assert "nothing is lost, all stands in" in review.output
        assert "so does: " in review.output
    finally:
        review.close()
    server.start()
    again = Review(tmp_path, *options)
    try:
        again.address()
        wait_for(lambda: tags(study, server.uri).get("reviews") == "3", "a line sent at the start")
        assert again.end(signal.SIGTERM) == 0
        assert "anna looked at 3 candidates (2 kept, 1 rejected)" in again.output
        assert re.search(r"to pick with what was decided: .*selection\.pick", again.output)
    finally:
        again.close()
    client = connection.connect(server.uri)
    run = find.run_of_study(client, study)
    assert run is not None
    sent = Path(client.download_artifacts(run.info.run_id, "reviews/reviews.jsonl", str(tmp_path)))
    assert sent.read_bytes() == (study.path / "reviews.jsonl").read_bytes()


def test_without_any_mlflow_it_starts_by_the_studys_name_and_loses_nothing(
    study: Study, tmp_path: Path
) -> None:
    review = Review(tmp_path, "--study", "demo")
    try:
        address = review.address()
        assert address.startswith("http://127.0.0.1:")
        Page(address).decide(0, "rejected")
        assert review.end() == 1
        assert "there is no MLflow database" in review.output
    finally:
        review.close()
    assert [entry.action for entry in read_reviews(study)] == ["rejected"]
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "one of the arguments --run-id --study is required"),
        (["--study", "nothing"], "there is no study at"),
        (["--study", "demo", "--finalists", "0"], "--finalists must be at least 1, got 0"),
        (["--study", "demo", "--port", "70000"], "--port must be between 0 and 65535, got 70000"),
        (["--study", "demo", "--host", "0.0.0.0"], "no address that a browser can open"),
        (["--study", "demo", "--reviewer", "a\nb"], "--reviewer must be a name of 1 to 60"),
        (["--study", "demo", "--data", "phantom"], "are not those of the study"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    study: Study,
    tmp_path: Path,
    options: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code: object = main(options)
    except SystemExit as end:  # of the parser
        code = end.code
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert complaint in error


def test_a_study_under_search_is_not_looked_at(study: Study, tmp_path: Path) -> None:
    with driver_lock(study.path):
        code, output = typed(tmp_path, ["--study", "demo"])
    assert (code, "is being searched" in output) == (2, True)
