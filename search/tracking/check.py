"""Whether MLflow can take a search, found without making or changing anything there."""

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import mlflow.store
import sqlalchemy
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request_safe
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from acgan.errors import InputError
from search.study.estimate import existing
from search.tracking.connection import FAILURES, connect, reason
from search.tracking.uris import shown, sqlite_file

CONNECT_TIMEOUT_S = 10


def check_mlflow(uri: str, experiment: str) -> str:
    """Return what is at a resolved tracking URI; `InputError` says why it cannot take a search."""
    try:
        if not uri.startswith(("http", "databricks")):
            return _check_database(uri, experiment)
        version = _server_version(uri) if uri.startswith("http") else "Databricks"
        found = connect(uri).get_experiment_by_name(experiment)
        _check_experiment(experiment, None if found is None else found.lifecycle_stage)
        return f"{shown(uri)} answers, version {version}"
    except ModuleNotFoundError as error:  # of a database
        raise InputError(f"{shown(uri)} needs the package {error.name}; install it") from error
    except FAILURES as error:
        raise InputError(
            f"{shown(uri)} cannot be read ({reason(uri, error)}); start or mend it, or name "
            "another with --tracking-uri; a server's login stands in MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        ) from error


def _server_version(uri: str) -> str:
    """Return a server's version; `InputError` if this project cannot work with it."""
    login = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    response = http_request_safe(login, "/version", "GET")  # type: ignore[no-untyped-call]
    version: str = response.text
    wanted = supported()
    try:
        fits = Version(version) in wanted
    except InvalidVersion:
        raise InputError(
            f"{shown(uri)} is no MLflow server: name one with --tracking-uri"
        ) from None
    if not fits:
        raise InputError(
            f"{shown(uri)} is MLflow {version}; install mlflow{wanted} there, and then type "
            "'mlflow db upgrade' with its database"
        )
    return version


def supported() -> SpecifierSet:
    """Return the versions of MLflow that this package is made for."""
    lines = importlib.metadata.requires("acgan-search") or []
    (found,) = [r for r in map(Requirement, lines) if r.name == "mlflow"]
    return found.specifier


def _check_database(uri: str, experiment: str) -> str:
    path = sqlite_file(uri)
    if path is not None:
        folder = existing(path.parent)  # in which others are made beside it
        if not folder.is_dir() or not all(os.access(p, os.W_OK) for p in (folder, existing(path))):
            raise InputError(f"{path} cannot be made or written; name another with --tracking-uri")
        if not path.exists():
            return f"{path} will be made"
    with _connection(uri) as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        if not tables:
            return f"{shown(uri)} is empty; its tables will be made"
        _check_schema(uri, connection)
        query = sqlalchemy.text("SELECT lifecycle_stage FROM experiments WHERE name = :name")
        stage = connection.execute(query, {"name": experiment}).scalar()
    _check_experiment(experiment, stage)
    return f"{shown(uri)} can be read"


@contextmanager
def _connection(uri: str) -> Iterator[sqlalchemy.Connection]:
    path, arguments = sqlite_file(uri), {}
    url = sqlalchemy.make_url(uri)
    if path is not None:
        read_only = {"mode": "ro", "uri": "true"}
        url = sqlalchemy.URL.create("sqlite", database=f"file:{quote(str(path))}", query=read_only)
    elif url.get_backend_name() in ("postgresql", "mysql"):
        arguments = {"connect_timeout": CONNECT_TIMEOUT_S}
    engine = sqlalchemy.create_engine(url, connect_args=arguments)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _check_schema(uri: str, connection: sqlalchemy.Connection) -> None:
    """Raise `InputError` unless the tables are those of the MLflow that is installed here."""
    scripts = ScriptDirectory(str(Path(mlflow.store.__file__).parent / "db_migrations"))
    found = MigrationContext.configure(connection).get_current_revision()
    if found in scripts.get_heads():
        return
    if found in {script.revision for script in scripts.walk_revisions()}:
        raise InputError(
            f"{shown(uri)} was made by an older MLflow; back it up, then type: "
            f"mlflow db upgrade {shown(uri)}"
        )
    raise InputError(
        f"{shown(uri)} was made by a newer MLflow than the one here ({mlflow.__version__}), or by "
        "another program; install that version, or name another with --tracking-uri"
    )


def _check_experiment(name: str, stage: str | None) -> None:
    if stage == "deleted":
        raise InputError(
            f"the experiment {name!r} is deleted; restore it with 'mlflow experiments restore' or "
            "name another with --experiment"
        )
