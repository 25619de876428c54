"""Where MLflow is: its address as it is asked for and as it is shown, without MLflow itself.

MLflow takes seconds to import, and a wrong address is said before that.
"""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from acgan.command import typed
from acgan.errors import InputError
from acgan.streams import without_passwords
from search.study.folder import Study

LOCAL_PAGE = "http://127.0.0.1:5000"  # where `mlflow ui` is
shown = without_passwords  # of an address, or of a text with addresses in it

_SERVERS = re.compile(r"(https?|(postgresql|mysql|mssql)(\+\w+)?)://|databricks(://|$)")


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
    from sqlalchemy import make_url  # noqa: PLC0415 (a fifth of a second)
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

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
