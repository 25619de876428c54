"""Real MLflow stores for tests: a module asks for them with `pytest_plugins`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from search.study.folder import open_study
from search.tracking import connection, study_runs
from tests import studies
from tests.conftest import once
from tests.mlflow_server import Server


@pytest.fixture(scope="session")
def migrated_database(shared: Path) -> Path:
    """A sqlite file with MLflow's tables, to be copied: making one takes seconds."""

    def make(folder: Path) -> None:
        connection.connect(f"sqlite:///{folder / 'template.db'}")

    return once(shared / "mlflow", make) / "template.db"


@pytest.fixture
def database(migrated_database: Path, tmp_path: Path) -> Path:
    """A store of this test's own, empty."""
    return Path(shutil.copy(migrated_database, tmp_path / "mlflow.db"))


@pytest.fixture
def uri(database: Path) -> str:
    """The tracking URI of this test's own store."""
    return f"sqlite:///{database}"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    """A client of this test's own store."""
    return connection.connect(uri)


@pytest.fixture
def parent(client: MlflowClient, tmp_path: Path) -> Run:
    """The run of a study without trials."""
    study = studies.write_study(tmp_path / "runs" / "demo")
    return study_runs.parent_run(client, study, experiment="chests")


@pytest.fixture
def new_child(client: MlflowClient, parent: Run) -> Callable[[int], Run]:
    """Makes the run of a trial of this number in `parent`'s study."""
    study = open_study(Path(parent.data.tags["study_dir"]))
    return lambda number: study_runs.create_trial_run(
        client, parent, studies.write_trial(study, number), studies.BEGIN
    )


@pytest.fixture
def server(database: Path, tmp_path: Path) -> Iterator[Server]:
    """A server over this test's own store, not yet started."""
    server = Server(tmp_path, database)
    yield server
    server.stop()


def pytest_configure(config: pytest.Config) -> None:
    """Let pass what MLflow itself does with SQLAlchemy."""
    config.addinivalue_line("filterwarnings", "ignore:The ``noload`` loader strategy")
