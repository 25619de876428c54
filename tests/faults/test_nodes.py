"""Nodes of a real cluster that die and join during a search."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.study.folder import Outcome
from tests.clusters import ClusterSearch, RayNode, differences, ray_head
from tests.faults.nodes import Moment, head_dies, node_dies, node_joins
from tests.searches import write_images

pytestmark = [pytest.mark.process, pytest.mark.faults]

pytest_plugins = ["tests.mlflow_stores"]
EPOCHS = 10
LONGER = 40  # a node takes its time to join
NAMES = {"t0000", "t0001", "t0002"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNode]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        with ray_head(secrets.token_hex(16), cpus=0) as head:
            yield head


@pytest.fixture
def search(tmp_path: Path, images: Path, database: Path, head: RayNode) -> Iterator[ClusterSearch]:
    search = ClusterSearch(tmp_path, images, database, head)
    yield search
    search.stop()


def options(epochs: int) -> list[str]:
    return ["--num-samples", "3", "--epochs", str(epochs), "--max-retries", "3"]


def assert_whole(search: ClusterSearch, *, epochs: int) -> None:
    """Assert that the three trials are there, each with its epochs once, here and in MLflow."""
    trials = search.study.trials()
    assert {trial.name for trial in trials} == NAMES
    assert len({tuple(sorted(trial.info.params.items())) for trial in trials}) == len(NAMES)
    for trial in trials:
        end = trial.end()
        assert end is not None
        assert end.outcome is Outcome.FINISHED
        assert search.epochs(trial.name) == list(range(1, epochs + 1))
    assert differences(search.study, search.uri) == []


@pytest.mark.parametrize("gently", [False, True], ids=["killed", "taken back"])
def test_the_trials_of_a_node_that_dies_go_on_elsewhere(
    search: ClusterSearch, gently: bool
) -> None:
    seen = node_dies(search, Moment(epochs=4), *options(EPOCHS), gently=gently)
    assert seen.code == 0, seen.output
    assert len(seen.trials) == 1
    assert any(len(records) < EPOCHS for records in seen.before.values())
    assert seen.redone(search) == 0
    assert_whole(search, epochs=EPOCHS)


def test_a_node_that_joins_gets_trials(search: ClusterSearch) -> None:
    seen = node_joins(search, Moment(epochs=1), *options(LONGER))
    assert seen.code == 0, seen.output
    assert seen.trials < NAMES
    assert seen.trials
    assert_whole(search, epochs=LONGER)


def test_after_the_head_died_the_same_command_continues(search: ClusterSearch) -> None:
    cut_off, again = head_dies(search, Moment(epochs=4), *options(EPOCHS))
    assert cut_off.code != 0, cut_off.output
    assert again.code == 0, again.output
    assert cut_off.redone(search) == 0
    assert_whole(search, epochs=EPOCHS)
