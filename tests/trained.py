"""A small trained study, and a pick of it, made once in a session of tests.

A module asks for them with `pytest_plugins`, and copies them: nobody writes to them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import once
from tests.picks import Place, pick_here, send, train_study, write_covidx

pytest_plugins = ["tests.mlflow_stores"]


@pytest.fixture(scope="session")
def covidx(shared: Path) -> Path:
    """The images of both, in the COVIDx layout."""
    return once(shared / "covidx", write_covidx)


@pytest.fixture(scope="session")
def trained_runs(shared: Path, covidx: Path) -> Path:
    """A folder of runs with the study `tiny`: three trials of five epochs."""

    def make(folder: Path) -> None:
        with _cache_in(folder.parent / "trained-cache"):
            train_study(folder / "tiny", covidx)

    return once(shared / "trained", make)


@pytest.fixture(scope="session")
def picked_runs(shared: Path, trained_runs: Path, migrated_database: Path) -> Path:
    """The same after a pick without the test images, which MLflow has not been told of."""

    def make(folder: Path) -> None:
        place = Place(folder.parent / "picking")
        shutil.rmtree(place.folder, ignore_errors=True)
        shutil.copytree(trained_runs, place.folder / "runs")
        shutil.copy(migrated_database, place.database)
        with _cache_in(place.folder / "cache"):
            send(place.study, place.uri)
            pick_here(place.options("--no-test"))
        lock = shutil.ignore_patterns("lock.json")
        shutil.copytree(place.folder / "runs", folder, dirs_exist_ok=True, ignore=lock)

    return once(shared / "picked", make)


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_CACHE", str(folder))
        yield
