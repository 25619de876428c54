"""MLflow as this project uses it: where it is, what is said of it, and which run is whose.

Runs are found by their tags (see `search.study_runs`), never by memory, and always written by
explicit id: there is no active run, so `MLFLOW_RUN_ID` of the surroundings is without effect.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

# Read when mlflow is imported, hence before it. A dead server must fail at once (MLflow's own
# retries last minutes); what the user has set stays.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
_TIMEOUT, _SHORT_S, _LONG_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", "10", "600"
os.environ.setdefault(_TIMEOUT, _SHORT_S)

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from sqlalchemy.exc import SADeprecationWarning, SQLAlchemyError

from acgan.command import typed
from acgan.config import user_path
from acgan.errors import InputError
from acgan.files import exclusive
from search.study import (
    Study,
    open_study,
    study_path,
)

warnings.filterwarnings("ignore", category=SADeprecationWarning)

STORAGE_HELP = "folder of studies (default: runs, or with --run-id as MLflow says)"
FAILURES = (MlflowException, SQLAlchemyError, OSError, ImportError)  # ImportError: no driver

_SERVERS = re.compile(r"(https?|(postgresql|mysql|mssql)(\+\w+)?)://|databricks(://|$)")
_PASSWORD = re.compile(r"(://[^\s:/@]*:)\S*@")
_SECRET_PARAMETER = re.compile(r"([?&][^\s=&]*(?:password|token|secret)[^\s=&]*=)[^\s&']+")

Client = MlflowClient
T = TypeVar("T")


def milliseconds(time_s: float) -> int:
    """Return a time in seconds since 1970 as MLflow counts it."""
    return round(time_s * 1000)


def resolve_uri(uri: str | None) -> str:
    """Return the tracking URI to use: `uri`, else `MLFLOW_TRACKING_URI`, else ./mlflow.db.

    The file of a sqlite URI is made absolute. Raises `InputError` for a store of plain files,
    which MLflow has given up, and for anything else that is neither a database nor a server.
    """
    named = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if _SERVERS.match(named):
        return named.rstrip("/")
    path = named.removeprefix("sqlite:///")
    if path == named or path in ("", ":memory:"):
        origin = "--tracking-uri" if uri else "MLFLOW_TRACKING_URI"
        raise InputError(
            f"{origin} {named} is no place for MLflow; give sqlite:///FILE.db "
            "or the address of a server, for example http://127.0.0.1:5000"
        )
    file = Path(path).expanduser().absolute()
    if "%" in str(file):
        raise InputError(
            f"MLflow cannot use {file}: an address of a database takes no % in a path; name "
            "another file with --tracking-uri"
        )
    return f"sqlite:///{file}"


def add_uri_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names MLflow."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow: sqlite:///FILE.db or a server (default: MLFLOW_TRACKING_URI, else "
        "./mlflow.db)",
    )


def as_typed(module: str, argv: Sequence[str] | None) -> str:
    """Return a command as it was typed, without passwords."""
    words = sys.argv[1:] if argv is None else argv
    return shown(typed(["python", "-m", module, *words]))


def shown(text: str) -> str:
    """Return a URI, or a text with URIs in it, without their passwords."""
    return _SECRET_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


def one_line(error: Exception) -> str:
    """Return an error's first cause as one line of at most 200 characters, without passwords."""
    first: BaseException = error
    while before := first.__cause__ or (not first.__suppress_context__ and first.__context__):
        first = before
    text = str(first)
    if not isinstance(error, (InputError, *FAILURES)):  # of a library, or a fault of this code
        text = f"{type(first).__name__}: {text}"
    return shown(textwrap.shorten(text, 200, placeholder=" …"))


def not_taken(uri: str, error: Exception) -> str:
    """Return that MLflow takes no data, and why, as one line."""
    return f"MLflow at {shown(uri)} takes no data: {one_line(error)}"


def next_step(uri: str) -> str:
    """Return the command or address that shows what is in MLflow."""
    return typed(["mlflow", "ui", "--backend-store-uri", uri]) if sqlite_file(uri) else shown(uri)


def naming(study: Study, uri: str) -> list[str]:
    """Return the flags by which any command finds a study and its MLflow."""
    words = ["--study", study.path.name]
    if study.path.parent != Path("runs").absolute():
        words += ["--storage-path", str(study.path.parent)]
    return words + uri_flag(uri)


@contextlib.contextmanager
def transfer() -> Iterator[None]:
    """Give a server minutes for large files; a timeout that the user has set stays.

    What the library of a storage such as S3 raises becomes an `MlflowException` that names it.
    """
    before = os.environ[_TIMEOUT]
    os.environ[_TIMEOUT] = _LONG_S if before == _SHORT_S else before
    try:
        yield
    except FAILURES:
        raise
    except Exception as error:
        raise MlflowException(f"{type(error).__name__}: {error}") from None
    finally:
        os.environ[_TIMEOUT] = before


def uri_flag(uri: str) -> list[str]:
    """Return the flag that names an MLflow, unless it is what commands take without it.

    It is for people to read: a password is not in it.
    """
    here = f"sqlite:///{Path('mlflow.db').absolute()}"
    return [] if uri == here else ["--tracking-uri", shown(uri)]


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a resolved sqlite URI; None for any other."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri[:7] == "sqlite:" else None


def check_there(uri: str) -> None:
    """Raise `InputError` for a sqlite file that is not there: a command that reads makes none."""
    database = sqlite_file(uri)
    if database is not None and not database.exists():
        raise InputError(f"there is no MLflow database {database}; name it with --tracking-uri")


def connect(uri: str) -> MlflowClient:
    """Return a client of a resolved URI; the first one makes the sqlite file and its tables."""
    database = sqlite_file(uri)
    if database is None:
        return MlflowClient(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that migrate one new file at once fail with "duplicate column name".
    with exclusive(database.with_name(f"{database.name}.lock")):
        return MlflowClient(uri)


def find_parent(client: MlflowClient, study: Study) -> Run | None:
    """Return the study's run; None if MLflow has none."""
    condition = f"tags.study_id = '{study.info.uuid}' AND tags.stage = 'search'"
    found = find_runs(client, condition)
    return found[0] if found else None


def find_runs(client: MlflowClient, condition: str) -> list[Run]:
    """Return the runs that match in any experiment, the oldest first."""
    experiments = [
        experiment.experiment_id
        for experiment in _all_pages(lambda token: client.search_experiments(page_token=token))
    ]
    return _all_pages(
        lambda token: client.search_runs(
            experiments, condition, order_by=["attributes.start_time ASC"], page_token=token
        )
    )


def _all_pages(fetch: Callable[[str | None], PagedList[T]]) -> list[T]:
    page = fetch(None)
    items = list(page)
    while page.token:
        page = fetch(page.token)
        items += page
    return items


@dataclass(frozen=True)
class StudyRun:
    """Which study a run belongs to: its parent run, uuid, directory; the trial if it is one's."""

    parent_id: str
    study_id: str
    study_dir: Path
    trial: str | None


def study_by_run_id(client: MlflowClient, run_id: str) -> StudyRun:
    """Return the study of a parent run or of one of its trials' runs.

    Raises `InputError` for a run id that MLflow does not know, and for a run of something else.
    """
    run = _get_run(client, run_id)
    parent_id = run.data.tags.get("mlflow.parentRunId")
    parent = run if parent_id is None else _get_run(client, parent_id)
    tags = parent.data.tags
    known = tags.get("stage") == "search" and {"study_id", "study_dir"} <= tags.keys()
    if not known:
        raise InputError(f"the MLflow run {run_id} is no study and no trial; see the UI for ids")
    if parent_id is not None and "trial" not in run.data.tags:
        raise InputError(
            f"the MLflow run {run_id} ({run.info.run_name}) is no study and no trial, but belongs "
            f"to the study {parent.info.run_name}: --run-id {parent_id}"
        )
    return StudyRun(
        parent.info.run_id, tags["study_id"], Path(tags["study_dir"]), run.data.tags.get("trial")
    )


def find_study_run(uri: str, run_id: str) -> StudyRun:
    """Return the study of a run in the MLflow at an address.

    Raises `InputError` also where it does not answer.
    """
    check_there(uri)
    try:
        return study_by_run_id(connect(uri), run_id)
    except FAILURES as error:
        raise unanswered(uri, error) from error


def find_study(arguments: argparse.Namespace) -> tuple[Study, str | None]:
    """Return the study of `run_id` or `study`, and the trial if it is a trial's run.

    By its name it is found without MLflow. Raises `InputError` where it is not there.
    """
    if arguments.run_id is None:
        return open_study(study_path(arguments.storage_path or "runs", arguments.study)), None
    found = find_study_run(resolve_uri(arguments.tracking_uri), arguments.run_id)
    return open_study_of(found, arguments.storage_path), found.trial


def unanswered(uri: str, error: Exception) -> InputError:
    """Return the error to raise where MLflow does not answer."""
    return InputError(
        f"MLflow at {shown(uri)} does not answer ({one_line(error)}); see --tracking-uri"
    )


def open_study_of(run: StudyRun, storage: str | None) -> Study:
    """Open a run's study where it was, or wherever under `storage` it is now.

    Raises `InputError` where it is not there.
    """
    if storage is None:
        folders = [run.study_dir]
    else:
        folders = [path.parent for path in sorted(user_path(storage).glob("*/study.json"))]
    for folder in folders:
        with contextlib.suppress(InputError):  # another study, of another version or damaged
            study = open_study(folder)
            if study.info.uuid == run.study_id:
                return study
    raise InputError(
        f"the study of this run is not in {storage or run.study_dir}; name the folder that holds "
        "the study's folder with --storage-path"
    )


def _get_run(client: MlflowClient, run_id: str) -> Run:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise InputError(
            f"MLflow at {shown(client.tracking_uri)} has no run {run_id!r}; see --tracking-uri"
        ) from error
