"""MLflow as this project uses it: how it is reached, and what is said of its failures.

Runs are found by their tags (see `search.tracking.study_runs`), never by memory, and always
written by explicit id: what the surroundings name, as `MLFLOW_RUN_ID` does, is without effect.
"""

import contextlib
import os
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests.utils import get_environ_proxies, select_proxy
from sqlalchemy.exc import SADeprecationWarning, SQLAlchemyError

from acgan.errors import InputError
from acgan.files import exclusive
from search.study.store.objects import StoreError
from search.tracking.environment import LONG_S, SHORT_S, TIMEOUT, unbind
from search.tracking.uris import shown, sqlite_file

warnings.filterwarnings("ignore", category=SADeprecationWarning)
FAILURES = (MlflowException, SQLAlchemyError, OSError, ImportError)  # ImportError: no driver

Client = MlflowClient
T = TypeVar("T")


def milliseconds(time_s: float) -> int:
    """Return a time in seconds since 1970 as MLflow counts it."""
    return round(time_s * 1000)


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
