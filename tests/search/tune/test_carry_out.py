"""What a search does before its first trial and after its last, without a trial in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acgan.config import TrainConfig
from acgan.errors import InputError
from search.plan import SearchPlan, SearchRequest, make_search_plan
from search.study.folder import Outcome, open_or_create
from search.study.lock import driver_lock
from search.tracking import connection, find
from search.tune.carry_out import carry_out
from tests import studies
from tests.searches import write_images

pytest_plugins = ["tests.mlflow_stores"]
pytestmark = pytest.mark.usefixtures("cache")
TINY = {"image_size": 16, "width": 0.0625, "batch_size": 16, "epochs": 2}


@pytest.fixture
def plan(tmp_path: Path, uri: str) -> SearchPlan:
    write_images(tmp_path / "images", train=24, test=6)
    return make_search_plan(
        SearchRequest(
            config={"train": TINY},
            space={"dropout": {"low": 0.1, "high": 0.6}},
            study="tiny",
            storage_path=str(tmp_path / "runs"),
            tracking_uri=uri,
            values={"data": str(tmp_path / "images"), "num_samples": 1},
        )
    )


def test_a_study_whose_weights_are_in_use_is_refused_by_the_name_of_who_uses_them(
    plan: SearchPlan,
) -> None:
    selection = plan.folder / "selection"
    selection.mkdir(parents=True)
    told: list[str] = []
    used = f"selection is being worked on by process {os.getpid()} \\("
    with driver_lock(selection), pytest.raises(InputError, match=used):
        carry_out(plan, tell=told.append)
    assert told == []
    assert not (plan.folder / "study.json").exists()


def test_where_all_trials_are_there_ray_is_not_started_and_mlflow_is_brought_up_to_date(
    plan: SearchPlan,
) -> None:
    study = open_or_create(plan.folder, plan.info)
    ledger = plan.ledger(study.ledger_path)
    ledger.propose()
    ledger.tell(0, Outcome.FINISHED, value=1.0)
    trial = studies.write_trial(study, 0)
    studies.write_epochs(trial, [1, 2])
    studies.write_end(trial, Outcome.FINISHED)
    told: list[str] = []
    done = carry_out(plan, tell=told.append)
    assert "all 1 trials asked for are there" in told
    assert not any("Ray" in line for line in told)
    assert (done.missing, done.repeats, done.interrupted, done.spent) == (0, 0, False, False)
    assert done.sync == ""
    client = connection.connect(plan.tracking_uri)
    runs = find.find_runs(client, "tags.trial = 't0000'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert done.study.last_start() == plan.last_start
    assert done.study.info.train == TrainConfig(**TINY).model_dump(exclude={"seed"})
