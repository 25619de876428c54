"""Objects under one address: a prefix of a bucket of S3, Google or Azure, or a local folder."""

import contextlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from acgan.errors import InputError
from acgan.streams import without_passwords

AT_ONCE = 16  # objects that are asked for side by side
LONGEST_PAUSE_S = 30.0
# What tells one content of an object from another, as far as the store's listing says it.
_TELLING = ("ETag", "etag", "generation", "LastModified", "last_modified", "mtime", "size")

# It logs each failure with a traceback, besides raising it; GCSFS_DEBUG=1 brings them back.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

T = TypeVar("T")


class StoreError(OSError):
    """The store did not do what it was asked for; its text says why and what to see to."""


def is_address(place: str) -> bool:
    """Whether a place of studies is an object store's address and no folder."""
    return "://" in place


def check_address(address: str) -> None:
    """Raise `InputError` for what can be no place of studies, or holds a secret."""
    scheme, _, rest = address.partition("://")
    if re.search(r"[@?#]", rest):
        raise InputError(
            "--storage-path must be a plain address such as s3://BUCKET/FOLDER: credentials and "
            "settings belong into the store's own variables, such as AWS_ACCESS_KEY_ID"
        )
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or not rest.strip("/"):
        raise InputError(f"--storage-path {address} has not the form s3://BUCKET/FOLDER")


class ObjectStore:
    """The objects under an address; a key is what follows it, such as `ledger/000001.jsonl`.

    An object is there whole or not at all. Raises `InputError` where no package opens such an
    address, and from each call `StoreError` where the store does not do what it is asked for.

    on_outage: is told when the store takes nothing and when it does again, and until then every
        call waits and tries again, unless it was told to `give_up`; None: the first failure is
        raised
    """

    def __init__(self, address: str, *, on_outage: Callable[[str], None] | None = None) -> None:
        check_address(address)
        self.address = address.rstrip("/")
        self.on_outage = on_outage
        self._waiting = 0
        self._given_up = threading.Event()
        self._telling = threading.Lock()
        self._local = address.startswith("file:")
        options = {"auto_mkdir": True} if self._local else {"use_listings_cache": False}
        try:
            self._files, root = fsspec.url_to_fs(self.address, **options)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{self.address} cannot be opened: {error} (on every node, s3:// needs pip install "
                "s3fs, gs:// gcsfs, az:// adlfs)"
            ) from error
        self._root = root.rstrip("/")

    def list(self, folder: str) -> dict[str, str]:
        """Return the keys in a folder (`ledger/`) and those in it, each with a text of its content.

        The text changes when the object is written again.
        """
        assert folder.endswith("/")
        try:
            found = self._ask(self._files.find, self._path(folder.rstrip("/")), detail=True)
        except FileNotFoundError:  # of a store that knows folders, or of a bucket that is not there
            return {}
        skipped = len(self._root) + 1
        return {
            name[skipped:]: " ".join(str(info[key]) for key in _TELLING if key in info)
            for name, info in (found or {}).items()
            # A folder itself is told of where its first object came while it was listed.
            if name.startswith(self._path(folder)) and not name.endswith(".tmp")
        }

    def read(self, key: str) -> bytes:
        """Return an object's content; `FileNotFoundError` where there is none."""
        content: bytes = self._ask(self._files.cat_file, self._path(key))
        return content

    def download(self, key: str, path: Path) -> None:
        """Write an object into a file; `FileNotFoundError` where there is none."""
        self._ask(self._files.get_file, self._path(key), str(path))

    def write(self, key: str, content: bytes) -> None:
        """Write an object, in the place of the one that is there."""
        self._put(key, lambda place: self._files.pipe_file(place, content))

    def upload(self, path: Path, key: str) -> None:
        """Write a file as an object, in parts where it is large."""
        self._put(key, lambda place: self._files.put_file(str(path), place))

    def write_if_absent(self, key: str, content: bytes) -> bool:
        """Write an object where there is none; return whether this call did.

        `content` is nobody else's: a call whose answer was lost knows its object by it.
        """
        try:
            self._ask(self._create, self._path(key), content)
        except FileExistsError:
            return self.read(key) == content
        except FileNotFoundError as error:
            raise self._no_bucket() from error
        return True

    def age(self, key: str) -> float:
        """Return the seconds since an object was written, by the clock of the store.

        A further object, which is removed again, tells what that says now. Raises
        `FileNotFoundError` where there is none.
        """
        written = self._ask(self._files.modified, self._path(key))
        now = f"now/{secrets.token_hex(16)}"
        self.write(now, b"")
        try:
            at = self._ask(self._files.modified, self._path(now))
        finally:
            self.delete([now])
        return float((at - written).total_seconds())

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are passed over."""
        self.side_by_side(self._delete, keys)

    def _delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._ask(self._files.rm_file, self._path(key))

    def side_by_side(self, do: Callable[[T], object], what: Iterable[T]) -> None:
        """Do the same with many objects, several at a time: a request is mostly waiting."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                for _ in pool.map(do, what):
                    pass
            except KeyboardInterrupt:
                self.give_up()  # else this waits for threads that wait for the store
                raise

    def give_up(self) -> None:
        """Wait for the store no longer: from now on each call raises its first failure."""
        self._given_up.set()

    def _put(self, key: str, put: Callable[[str], object]) -> None:
        try:
            self._ask(self._put_aside if self._local else _call, put, self._path(key))
        except FileNotFoundError as error:
            raise self._no_bucket() from error

    def _create(self, place: str, content: bytes) -> None:
        if not self._local:
            self._create_remotely(place, content)
            return
        aside = _aside(place)
        self._files.pipe_file(aside, content)
        try:
            os.link(aside, place)
        finally:
            os.unlink(aside)

    def _create_remotely(self, place: str, content: bytes) -> None:
        for pause_s in (0.1, 0.5, 2.0, None):
            try:
                self._files.pipe_file(place, content, mode="create")
            except OSError as error:
                code = _s3_code(error)
                if code in ("PreconditionFailed", "412"):  # s3fs knows it from Amazon alone
                    raise FileExistsError(place) from error
                if code != "ConditionalRequestConflict" or pause_s is None:
                    raise
                time.sleep(pause_s)  # another process is writing it at this moment
            else:
                return

    def _put_aside(self, put: Callable[[str], object], place: str) -> None:
        """Put a file under another name first: on a disk a write can be cut in the middle."""
        aside = _aside(place)
        put(aside)
        os.replace(aside, place)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call the library; where `on_outage` hears of it, wait and try again."""
        pause_s = 0.0
        try:
            while True:
                try:
                    return call(*arguments, **options)
                except (FileNotFoundError, FileExistsError):
                    raise
                except Exception as error:  # of many libraries, each with errors of its own
                    failure = self._failure(error)
                    if self.on_outage is None or self._given_up.is_set():
                        raise failure from error
                    if not pause_s:
                        self._wait(1, f"{failure}; it is tried again, and nothing is lost")
                    pause_s = min(max(2 * pause_s, 1.0), LONGEST_PAUSE_S)
                    self._given_up.wait(pause_s)
        except KeyboardInterrupt:
            self.give_up()
            raise
        finally:
            if pause_s:
                self._wait(-1, f"{self.address} answers again")

    def _wait(self, change: int, text: str) -> None:
        """Count the calls that wait, and tell of the first one, and when none does any more."""
        with self._telling:
            before, self._waiting = self._waiting, self._waiting + change
            told = 0 in (before, self._waiting) and not self._given_up.is_set()
            if told and self.on_outage is not None:
                self.on_outage(text)

    def _no_bucket(self) -> StoreError:
        return StoreError(f"{self.address} cannot be written: its bucket does not exist")

    def _failure(self, error: Exception) -> StoreError:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return StoreError(
            f"{self.address} does not do what it is asked for ({without_passwords(lines[0])}): see "
            "its bucket, the network, and this node's role or variables for it"
        )


def _aside(place: str) -> str:
    return f"{place}.{secrets.token_hex(4)}.tmp"


def _s3_code(error: OSError) -> str:
    """Return S3's own word for what a call met with, "" of another store."""
    answer = getattr(error.__cause__, "response", None) or {}
    code: str = answer.get("Error", {}).get("Code", "")
    return code


def _call(put: Callable[[str], object], place: str) -> None:
    put(place)
