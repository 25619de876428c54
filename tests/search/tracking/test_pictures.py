"""Pictures of a search: what they show is what the directories hold, and few trials are enough."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acgan.config import TrainConfig
from acgan.files import write_json
from acgan.run.records import QUALITY
from search.settings import Value
from search.study import space
from search.study.folder import Outcome, Study
from search.study.objective import objective_value
from search.tracking import pictures
from search.tracking.mirror import FIRST_PICTURES, Mirror, sync_study
from search.tracking.pictures import (
    FEWEST_FOR_IMPORTANCES,
    MOST_FOR_IMPORTANCES,
    Point,
    SearchPoints,
)
from tests import studies
from tests.studies import by_distance

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]

NAMES = {"history.png", "importances.png", "parallel.png", "slices.png"}
SPACE = space.read(
    {
        "learning_rate": {"low": 5e-5, "high": 8e-4, "log": True},
        "latent_size": {"low": 50, "high": 200, "step": 50},
        "batch_size": {"choices": [32, 64, 128]},
    },
    TrainConfig(),
)


def drawn(values: Sequence[float], *, finished: bool = True, minimize: bool = True) -> SearchPoints:
    """Points of a search with these values, one a trial, the baseline first."""
    random = np.random.default_rng(0)
    points = []
    for number, value in enumerate(values):
        params: dict[str, Value] = {
            "learning_rate": float(10 ** random.uniform(-4.2, -3.2)),
            "latent_size": int(random.choice([50, 100, 150, 200])),
            "batch_size": int(random.choice([32, 64, 128])),
        }
        if number == 0:
            params = space.baseline(SPACE, TrainConfig())
        points.append(Point(number, params, value, finished=finished))
    return SearchPoints(tuple(points), SPACE, QUALITY, minimize=minimize)


def shape(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        assert np.asarray(image.convert("L")).std() > 1  # something is drawn
        return image.size


def test_the_points_are_what_trials_that_ended_are_judged_by(tmp_path: Path) -> None:
    study = studies.write_study(tmp_path / "demo", trials=3, epochs=5)
    for number, outcome in ((3, Outcome.PRUNED), (4, Outcome.CRASHED), (5, Outcome.COLLAPSED)):
        trial = studies.write_trial(study, number)
        studies.write_epochs(trial, [1, 2])
        studies.write_end(trial, outcome)
    studies.write_epochs(studies.write_trial(study, 6), [1])
    studies.write_end(studies.write_trial(study, 7), Outcome.DIVERGED)  # no epoch: no value
    (study.path / "t0001" / "end.json").write_text("{")
    found = pictures.read_points(study, [trial.name for trial in study.trials()])
    assert [(point.number, point.finished) for point in found.points] == [
        (0, True),
        (2, True),
        (3, False),
        (5, False),
    ]
    for point in found.points:
        trial = study.trial(f"t{point.number:04d}")
        assert point.value == objective_value(trial.records(), by_distance())
        assert point.params == trial.info.params
    assert found.best == min(found.points[:2], key=lambda point: point.value)


def test_the_field_that_decides_has_the_largest_share() -> None:
    found = drawn([0.0] * 60)
    points = [
        Point(p.number, p.params, float(p.params["latent_size"]), finished=True)
        for p in found.points
    ]
    shares = pictures.importances(SearchPoints(tuple(points), SPACE, QUALITY, minimize=True))
    assert next(iter(shares)) == "latent_size"
    assert shares["latent_size"] > 0.9
    assert math.isclose(sum(shares.values()), 1)


@pytest.mark.parametrize("minimize", [True, False])
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "values", [[3.0], [3.0, 2.0], [5.0] * 9, [0.0, -1.0, 2.0], [1e-3, 1e9, 4.0]]
)
def test_few_equal_early_or_absurd_trials_can_be_drawn(
    values: list[float], finished: bool, minimize: bool
) -> None:
    made = pictures.draw_search(drawn(values, finished=finished, minimize=minimize))
    assert made.keys() == NAMES - {"importances.png"}
    for png in made.values():
        width, height = shape(png)
        assert 300 < min(width, height) < max(width, height) < 2000


def test_without_a_trial_or_a_space_there_is_nothing_to_draw() -> None:
    assert pictures.draw_search(drawn([])) == {}
    alone = SearchPoints((Point(0, {}, 2.0, finished=True),), {}, QUALITY, minimize=True)
    assert pictures.draw_search(alone).keys() == {"history.png"}


def test_enough_trials_have_all_pictures_always_the_same() -> None:
    found = drawn([float(v) for v in range(1, FEWEST_FOR_IMPORTANCES + 1)])
    made = pictures.draw_search(found)
    assert made.keys() == NAMES
    assert made == pictures.draw_search(found)
    assert pictures.importances(drawn([1.0] * (FEWEST_FOR_IMPORTANCES - 1))) == {}


def test_values_that_differ_by_rounding_alone_share_out_nothing() -> None:
    assert pictures.importances(drawn([0.5] * 9 + [0.49999999999999994])) == {}
    assert pictures.importances(drawn([0.5] * 9 + [0.5 + 1e-8])) == {}
    assert pictures.importances(drawn([0.5] * 9 + [0.5 + 1e-5])) != {}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = studies.write_study(tmp_path / "runs" / "demo")
    add(study, range(FIRST_PICTURES))
    return study


def add(study: Study, numbers: range) -> None:
    for number in numbers:
        trial = studies.write_trial(study, number)
        inside = trial.info.model_copy(update={"params": {"learning_rate": 1e-4 + 1e-6 * number}})
        write_json(trial.path / "trial.json", inside)
        studies.write_epochs(trial, [1])
        studies.write_end(trial, Outcome.FINISHED)


class Parent:
    """The study's run in MLflow."""

    def __init__(self, study: Study, uri: str) -> None:
        from search.tracking import connection, find, study_runs

        self._study, self._client = study, connection.connect(uri)
        self._find, self._runs = find, study_runs

    def drawn(self) -> int:
        run = self._find.run_of_study(self._client, self._study)
        assert run is not None
        return int(run.data.tags[self._runs.PICTURES])

    def files(self) -> dict[str, int | None]:
        run = self._find.run_of_study(self._client, self._study)
        assert run is not None
        files = self._client.list_artifacts(run.info.run_id, "pictures")
        return {Path(file.path).name: file.file_size for file in files}


def test_a_study_that_ended_has_its_pictures_in_mlflow_and_gets_them_anew(
    study: Study, uri: str
) -> None:
    sync_study(study, uri=uri, experiment="chests", driving=False)
    parent = Parent(study, uri)
    first = parent.files()
    assert first.keys() == NAMES
    assert parent.drawn() == FIRST_PICTURES
    add(study, range(FIRST_PICTURES, FIRST_PICTURES + 1))
    sync_study(study, uri=uri, experiment="chests", driving=False)
    assert parent.drawn() == FIRST_PICTURES + 1
    assert parent.files() != first


def test_while_a_search_goes_on_they_are_drawn_as_often_as_its_trials_double(
    study: Study, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    draw = pictures.draw_search
    monkeypatch.setattr(pictures, "draw_search", lambda p: counts.append(len(p.points)) or draw(p))  # type: ignore[func-returns-value]
    mirror = Mirror(study, uri=uri, experiment="chests")
    for number in range(FIRST_PICTURES, 2 * FIRST_PICTURES + 2):
        mirror.update(driving=True)
        mirror.update(driving=True)
        add(study, range(number, number + 1))
    assert counts == [FIRST_PICTURES, 2 * FIRST_PICTURES]
    # Another process begins where this one was; the end shows all trials, once.
    for _ in range(2):
        sync_study(study, uri=uri, experiment="chests", driving=False)
    assert counts == [FIRST_PICTURES, 2 * FIRST_PICTURES, 2 * FIRST_PICTURES + 2]
    assert Parent(study, uri).drawn() == 2 * FIRST_PICTURES + 2


@pytest.mark.parametrize("count", [8, 200, 201, 999])
def test_large_studies_are_thinned_evenly(count: int) -> None:
    chosen = pictures._for_importances(drawn([1.0] * count))
    assert min(count, MOST_FOR_IMPORTANCES) / 2 <= len(chosen) <= MOST_FOR_IMPORTANCES
    assert len({b.number - a.number for a, b in itertools.pairwise(chosen)}) == 1
