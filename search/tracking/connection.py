"""MLflow as this project uses it: where it is, and what is said of it.

Runs are found by their tags (see `search.tracking.study_runs`), never by memory, and always
written by explicit id: what the surroundings name, as `MLFLOW_RUN_ID` does, is without effect.
"""

import contextlib
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests.utils import get_environ_proxies, select_proxy
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SADeprecationWarning, SQLAlchemyError

from acgan.command import typed
from acgan.errors import InputError
from acgan.files import exclusive
from acgan.streams import without_passwords
from search.study.folder import Study
from search.study.store.objects import StoreError
from search.tracking.environment import LONG_S, SHORT_S, TIMEOUT, unbind

warnings.filterwarnings("ignore", category=SADeprecationWarning)
FAILURES = (MlflowException, SQLAlchemyError, OSError, ImportError)  # ImportError: no driver

_SERVERS = re.compile(r"(https?|(postgresql|mysql|mssql)(\+\w+)?)://|databricks(://|$)")

LOCAL_PAGE = "http://127.0.0.1:5000"  # where `mlflow ui` is
shown = without_passwords  # of an address, or of a text with addresses in it
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
    origin = "--tracking-uri" if uri else "MLFLOW_TRACKING_URI"
    if _SERVERS.match(named):
        if named.startswith("http"):
            _require_host(named, origin)
        elif not named.startswith("databricks"):
            _require_database(named, origin)
        return named.rstrip("/")
    path = named.removeprefix("sqlite:///")
    if path == named or path in ("", ":memory:"):
        raise InputError(
            f"{origin} {shown(named)} is no place for MLflow; give sqlite:///FILE.db "
            "or the address of a server, for example http://127.0.0.1:5000"
        )
    file = Path(path).expanduser().absolute()
    if "%" in str(file):
        raise InputError(
            f"MLflow cannot use {file}: an address of a database takes no % in a path; name "
            "another file with --tracking-uri"
        )
    return f"sqlite:///{file}"


def _require_host(uri: str, origin: str) -> None:
    try:
        parts = urlsplit(uri)
        named = bool(parts.hostname) and parts.port != 0  # raises for one that is no number
    except ValueError:
        named = False
    if not named:
        raise InputError(
            f"{origin} {shown(uri)} names no host, or no port; give it as, for example, "
            "http://127.0.0.1:5000, and write /, ?, # and @ in a password as %2F, %3F, %23 and %40"
        )


def _require_database(uri: str, origin: str) -> None:
    try:
        parts = make_url(uri)
        named = parts.host is None or "[" not in parts.host
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        named = False
    if not named:
        raise InputError(
            f"{origin} {shown(uri)} cannot be read as the address of a database; give it as, for "
            "example, postgresql://USER:PASSWORD@127.0.0.1:5432/mlflow, and write /, ?, # and @ in "
            "a password as %2F, %3F, %23 and %40"
        )


def one_line(error: Exception) -> str:
    """Return an error's first cause as one line of at most 200 characters, without passwords."""
    first: BaseException = error
    while before := first.__cause__ or (not first.__suppress_context__ and first.__context__):
        first = before
    text = str(first)
    if not isinstance(error, (InputError, *FAILURES)):  # of a library, or a fault of this code
        text = f"{type(first).__name__}: {text}"
    return textwrap.shorten(shown(text), 200, placeholder=" …")


def reason(uri: str, error: Exception) -> str:
    """Return why MLflow at an address failed: the first cause, and the proxy that was asked."""
    proxy = select_proxy(uri, get_environ_proxies(uri)) if uri.startswith("http") else None
    if proxy is None:
        return one_line(error)
    return (
        f"{one_line(error)}; it was asked through the proxy {shown(proxy)}, as a variable of "
        f"the environment says: to ask it directly, add {urlsplit(uri).hostname} to no_proxy"
    )


def not_taken(uri: str, error: Exception) -> str:
    """Return that MLflow takes no data, or that the study's own store gives none, as one line."""
    if isinstance(error, StoreError):
        return f"MLflow at {shown(uri)} is not sent all of it: {error}"
    return f"MLflow at {shown(uri)} takes no data: {reason(uri, error)}"


def next_step(uri: str, page: str = "", charts: str = "") -> str:
    """Return the command or address that shows what is in MLflow.

    page, charts: of what is to be seen there, after the host
    """
    local = sqlite_file(uri) is not None
    host = LOCAL_PAGE if local else shown(uri)
    address = f"{host}{page}" + (f" (curves and images: {host}{charts})" if charts else "")
    if not local:
        return address
    command = typed(["mlflow", "ui", "--backend-store-uri", uri])
    return f"{command}, then open {address}" if page else command


def naming(study: Study, uri: str) -> list[str]:
    """Return the flags by which any command finds a study and its MLflow."""
    words = ["--study", study.path.name]
    if study.path.parent != Path("runs").absolute():
        words += ["--storage-path", study.place.rpartition("/")[0]]
    return words + uri_flag(uri)


@contextlib.contextmanager
def transfer() -> Iterator[None]:
    """Give a server minutes for large files; a timeout that the user has set stays.

    What the library of a storage such as S3 raises becomes an `MlflowException` that names it.
    """
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = LONG_S if before == SHORT_S else before
    try:
        yield
    except FAILURES:
        raise
    except Exception as error:
        raise MlflowException(f"{type(error).__name__}: {error}") from None
    finally:
        os.environ[TIMEOUT] = before


def uri_flag(uri: str) -> list[str]:
    """Return the flag that names an MLflow to people, so without a password; none if needless."""
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
    unbind()  # also what was set since this module was imported
    database = sqlite_file(uri)
    if database is None:
        return MlflowClient(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that migrate one new file at once fail with "duplicate column name".
    with exclusive(database.with_name(f"{database.name}.lock")):
        if not database.exists():
            _make(database)
        return MlflowClient(uri)


def _make(database: Path) -> None:
    """Make a sqlite file with MLflow's tables, whole or not at all.

    Its tables are made one by one, in seconds; a file that was left in between takes no data ever.
    """
    fresh = database.with_name(f".{database.name}.new")
    fresh.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{fresh}")
    os.replace(fresh, database)


def if_known(ask: Callable[[], T]) -> T | None:
    """Return MLflow's answer; None where it has no run or version that the question names."""
    try:
        return ask()
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def unanswered(uri: str, error: Exception) -> InputError:
    """Return the error to raise where MLflow does not answer."""
    return InputError(
        f"MLflow at {shown(uri)} does not answer ({reason(uri, error)}); see --tracking-uri"
    )
