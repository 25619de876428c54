"""Real MLflow stores for tests: a module asks for them with `pytest_plugins`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from search import tracking
from tests.mlflow_server import Server


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite file with MLflow's tables, to be copied: making one takes seconds."""
    database = tmp_path_factory.mktemp("mlflow") / "template.db"
    tracking.connect(f"sqlite:///{database}")
    return database


@pytest.fixture
def database(migrated_database: Path, tmp_path: Path) -> Path:
    """A store of this test's own, empty."""
    return Path(shutil.copy(migrated_database, tmp_path / "mlflow.db"))


@pytest.fixture
def uri(database: Path) -> str:
    """The tracking URI of this test's own store."""
    return f"sqlite:///{database}"


@pytest.fixture
def server(database: Path, tmp_path: Path) -> Iterator[Server]:
    """A server over this test's own store, not yet started."""
    server = Server(tmp_path, database)
    yield server
    server.stop()


def pytest_configure(config: pytest.Config) -> None:
    """Let pass what MLflow itself does with SQLAlchemy."""
    config.addinivalue_line("filterwarnings", "ignore:The ``noload`` loader strategy")
