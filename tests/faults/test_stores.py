"""MLflow and its database that fail during a search, and come back."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from search.study.folder import Outcome
from search.tracking import connection
from search.tracking.mirror import Mirror
from tests import studies
from tests.clusters import (
    ClusterSearch,
    Postgres,
    RayNode,
    differences,
    mlflow_over_http,
    postgres,
    ray_head,
)
from tests.faults.nodes import Moment
from tests.faults.stores import (
    SEND_THE_REST,
    TAKES_AGAIN,
    TAKES_NONE,
    Failing,
    Fault,
    Seen,
    crashed,
    endure,
    failing,
    in_front_of,
    killed,
    locked,
    not_once,
    slow,
)
from tests.mlflow_server import Server
from tests.searches import write_images

pytestmark = [pytest.mark.process, pytest.mark.faults]

pytest_plugins = ["tests.mlflow_stores"]
TRIALS = 2
EPOCHS = 16


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNode]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        with ray_head(secrets.token_hex(16), cpus=TRIALS) as head:
            yield head


@pytest.fixture
def search(tmp_path: Path, images: Path, database: Path, head: RayNode) -> Iterator[ClusterSearch]:
    search = ClusterSearch(tmp_path, images, database, head)
    yield search
    search.stop()


@pytest.fixture(scope="module")
def mlflow(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    database = Path(shutil.copy(migrated_database, folder / "mlflow.db"))
    with mlflow_over_http(database, folder) as server:
        yield server


@pytest.fixture(scope="module")
def database_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


def search_through(search: ClusterSearch, faults: Sequence[Fault], uri: str) -> Seen:
    """Search while the faults happen; assert that it came through and is whole in MLflow."""
    options = ["--num-samples", str(TRIALS), "--epochs", str(EPOCHS), "--tracking-uri", uri]
    seen = endure(search, faults, *options)
    assert seen.code == 0, seen.output
    assert min(seen.during(search)) >= 3, seen
    trials = search.study.trials()
    assert len(trials) == TRIALS
    for trial in trials:
        end = trial.end()
        assert end is not None
        assert end.outcome is Outcome.FINISHED
        assert search.epochs(trial.name) == list(range(1, EPOCHS + 1))
    assert differences(search.study, uri) == []
    assert not_once(search.study, uri) == []
    return seen


def assert_said(seen: Seen) -> None:
    """Assert that it was said that MLflow takes no data, and that it does, or what to type."""
    away, back = seen.output.count(TAKES_NONE), seen.output.count(TAKES_AGAIN)
    assert away >= 1, seen.output
    assert back == away or (back == away - 1 and SEND_THE_REST in seen.output), seen.output


def test_a_server_that_is_killed_gets_all_once_it_is_back(
    search: ClusterSearch, mlflow: Server
) -> None:
    fault = Fault(killed(mlflow), Moment(epochs=4), Moment(epochs=5, seconds=1.5))
    assert_said(search_through(search, [fault], mlflow.uri))


def test_a_server_that_is_back_after_the_search_gets_the_rest_by_hand(
    search: ClusterSearch, mlflow: Server
) -> None:
    seen = search_through(search, [Fault(killed(mlflow), Moment(epochs=10), None)], mlflow.uri)
    assert seen.output.count(TAKES_NONE) == 1
    assert seen.output.count(TAKES_AGAIN) == 0
    assert seen.output.count("not yet in MLflow") == 1
    assert seen.sent.startswith("study tiny: sent")


def test_a_server_that_is_slow_and_fails_gets_all_once(
    search: ClusterSearch, mlflow: Server
) -> None:
    with in_front_of(mlflow) as proxy:
        faults = [
            Fault(slow(proxy, seconds=2), Moment(epochs=2), Moment(epochs=5)),
            Fault(failing(proxy, Failing.ALL), Moment(epochs=8), Moment(epochs=5, seconds=0.5)),
            Fault(
                failing(proxy, Failing.WRITTEN), Moment(epochs=16), Moment(epochs=5, seconds=1.5)
            ),
        ]
        assert_said(search_through(search, faults, proxy.uri))


def test_no_write_that_was_answered_by_500_comes_twice(tmp_path: Path, mlflow: Server) -> None:
    study = studies.write_study(tmp_path / "runs" / "demo", trials=1, epochs=2)
    with in_front_of(mlflow) as proxy, failing(proxy, Failing.WRITTEN):
        mirror = Mirror(study, uri=proxy.uri, experiment="chests")
        assert any(passes(mirror) for _ in range(50))
        images = sum("images" in path for _, path, _ in proxy.failed)
    assert images == 4  # two grids, each with its thumbnail
    assert differences(study, mlflow.uri) == []
    assert not_once(study, mlflow.uri) == []


def passes(mirror: Mirror) -> bool:
    """Return whether a pass comes through, as the recorder makes them."""
    try:
        return mirror.update(driving=False).complete
    except connection.FAILURES:
        mirror.forget()
        return False


def test_a_sqlite_file_that_others_lock_gets_all(search: ClusterSearch, database: Path) -> None:
    faults = [
        Fault(locked(database), Moment(epochs=4), Moment(epochs=5, seconds=1)),
        Fault(locked(database), Moment(epochs=18), None),
    ]
    assert_said(search_through(search, faults, search.uri))


def test_a_database_server_that_crashes_gets_all_once_it_is_back(
    search: ClusterSearch, database_server: Postgres, tmp_path: Path
) -> None:
    with mlflow_over_http(database_server.uri, tmp_path) as server:
        fault = Fault(crashed(database_server), Moment(epochs=4), Moment(epochs=5, seconds=1.5))
        assert_said(search_through(search, [fault], server.uri))
