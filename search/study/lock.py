"""The lock of a folder that one process at a time may work on: a study's, or that of its picks.

FOLDER/lock.json   host and pid of the process at work, since when, and its last heartbeat
"""

import contextlib
import fcntl
import os
import shlex
import signal
import socket
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from acgan.errors import InputError
from acgan.files import Stored
from acgan.streams import without_passwords
from search.study.store.study_copy import StudyCopy

HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0
COMMAND_LIMIT = 200  # characters


class _Holder(Stored):
    host: str
    pid: int
    since: float
    heartbeat: float


@contextlib.contextmanager
def driver_lock(path: Path) -> Iterator[None]:
    """Hold a folder as its one driver; `InputError` names the process that holds it.

    On this host the kernel's file lock decides at once; between hosts, where a network file
    system may not carry that lock, a heartbeat younger than a minute does, see `_age`.
    """
    with (path / "lock.json").open("a+") as file:
        _refuse_if_held(path, _take(file))
        stop = threading.Event()
        since = time.time()
        _beat(path, since)
        thread = threading.Thread(target=_keep_beating, args=(path, since, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            if _is_ours(path, since):
                os.truncate(path / "lock.json", 0)


@contextlib.contextmanager
def driver_of(path: Path, say: Callable[[str], None]) -> Iterator[StudyCopy | None]:
    """Hold a folder as its one driver, and of a copy the study in the object store, too.

    Yields the copy, or None for a folder of its own; see `StudyCopy.driven`.
    """
    with driver_lock(path), contextlib.ExitStack() as stack:
        own = None
        for own, kind in _in_store(path):
            stack.enter_context(own.driven(kind, say))
        yield own


def _take(file: TextIO) -> bool | None:
    """Try for a moment to get the kernel's lock: `driver_at_work` holds it for an instant.

    None: this file system has no such lock.
    """
    for pause_s in (0.1, 0.2, 0.0):
        free = _lock(file)
        if free is not False:
            return free
        time.sleep(pause_s)
    return False


def _lock(file: TextIO) -> bool | None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # Lustre without flock, NFS without a lock daemon
        return None
    return True


def require_free(path: Path) -> None:
    """Raise `InputError`, which names the process, while a driver holds the folder.

    Of a study in an object store also while one does elsewhere.
    """
    _require_free_here(path)
    for own, kind in _in_store(path):
        if own.is_held(kind):
            what = {"study": "searched", "selection": "picked from"}[kind]
            raise InputError(f"{own.store.address} is being {what} elsewhere; wait for its end")


def _require_free_here(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), (path / "lock.json").open() as file:
        _refuse_if_held(path, _lock(file))


def driver_at_work(path: Path) -> bool:
    """Whether a driver holds the folder now; of a study in an object store also elsewhere."""
    try:
        require_free(path)
    except InputError:
        return True
    return False


def _in_store(path: Path) -> Iterator[tuple[StudyCopy, str]]:
    """Yield the study of an object store whose copy this folder is in, and what is held of it."""
    for study, kind in ((path, "study"), (path.parent, "selection")):
        if (own := StudyCopy.of(study)) is not None:
            yield own, kind


def held_here(path: Path) -> bool:
    """Whether a driver holds the folder itself, be it a study or the copy of one."""
    try:
        _require_free_here(path)
    except InputError:
        return True
    return False


def _refuse_if_held(path: Path, free: bool | None) -> None:
    """Raise `InputError` if a driver holds it; free: the kernel's lock, None without one."""
    try:
        holder = _Holder.model_validate_json((path / "lock.json").read_bytes())
    except ValidationError:  # empty: released, or taken a moment ago
        if free is not False:
            return
        raise InputError(
            f"{path} is being opened by another process; wait for it or end it"
        ) from None
    fresh = _age(path, holder) < STALE_AFTER_S
    what = f"process {holder.pid}"
    if holder.host == socket.gethostname():
        what += _command(holder.pid)
        # A process that cannot be seen may be in another container of this host.
        held = not free and (_alive(holder.pid) if free is None else fresh or _alive(holder.pid))
    else:
        held = free is False or fresh
    if held:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
        raise InputError(
            f"{path} is being worked on by {what} on {holder.host} since {since}; wait for it or "
            "end it"
        )


def _age(path: Path, holder: _Holder) -> float:
    """Return the seconds since the last heartbeat, by the clock of the file system.

    Those of hosts differ: by them a driver that died would hold the folder for an hour, or one at
    work would be taken over. Where nobody may write here, they are all that there is.
    """
    try:
        with (
            (path / "lock.json").open("rb") as lock,
            tempfile.TemporaryFile(dir=path, prefix=".") as now,
        ):
            now.write(b"\n")
            now.flush()
            os.fsync(now.fileno())
            return os.fstat(now.fileno()).st_mtime - os.fstat(lock.fileno()).st_mtime
    except OSError:
        return time.time() - holder.heartbeat


def _command(pid: int) -> str:
    """Return in brackets what a process of this host was started as, "" where nobody may know."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    text = shlex.join(word.decode(errors="replace") for word in words)
    return f" ({textwrap.shorten(without_passwords(text), COMMAND_LIMIT, placeholder=' …')})"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _beat(path: Path, since: float) -> None:
    # Written in place: replacing the file would take it from under the kernel's lock.
    holder = _Holder(host=socket.gethostname(), pid=os.getpid(), since=since, heartbeat=time.time())
    (path / "lock.json").write_text(holder.model_dump_json())


def _keep_beating(path: Path, since: float, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):  # a full disk must not end the search
            if not _is_ours(path, since):  # this host stood still for so long that it was given up
                print(f"error: another process has taken {path} over", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGINT)
                return
            _beat(path, since)


def _is_ours(path: Path, since: float) -> bool:
    try:
        holder = _Holder.model_validate_json((path / "lock.json").read_bytes())
    except (FileNotFoundError, ValidationError):  # removed, or torn by a full disk
        return True
    return (holder.host, holder.pid, holder.since) == (socket.gethostname(), os.getpid(), since)
