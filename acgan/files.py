"""Files that are there whole or not at all, also after a power cut; JSON of a fixed form."""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from acgan.errors import InputError

# Writing cannot go on, whoever tries: the disk or a quota is full, or it is read-only.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Wait for a file's lock and hold it; False where the file system has none (Lustre, NFS)."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            yield False
            return
        yield True


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, and put it in place of the former one."""
    os.replace(write_beside(path, content), path)
    sync(path.parent)


def write_beside(path: Path, content: bytes) -> Path:
    """Write and sync what will be put in place of `path`; return its temporary path there.

    Where the disk is full nothing stays behind.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    return temporary


def _temporary(path: Path) -> Path:
    # Processes of several nodes, which may have the same number, write in one folder.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove from a folder, and from those in it, what writes that were killed have left.

    Whoever calls it is the only one who writes there.
    """
    for leftover in folder.rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def replace_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files of one folder by their names, each whole or not at all.

    The disk syncs many small files together in a third of the time that it takes one by one.
    """
    temporary = {name: _temporary(folder / name) for name in contents}
    try:
        for name, path in temporary.items():
            path.write_bytes(contents[name])
        for path in temporary.values():
            sync(path)
        for name, path in temporary.items():
            os.replace(path, folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    sync(folder)


def replace_text(path: Path, content: str) -> None:
    """Write a text file as `replace_bytes` does."""
    replace_bytes(path, content.encode())


def write_cached(path: Path, content: bytes) -> None:
    """Write a file of the cache, and its folder; `InputError` where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, content)
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}); name another folder in ACGAN_CACHE"
        ) from error


def visible(folder: Path) -> set[str]:
    """Return the names in a folder but for hidden ones: the system's, and ours under way."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def sync(path: Path) -> None:
    """Bring a file, or a folder's entries, safely to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; `InputError` for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; change its permissions") from error


class Stored(BaseModel):
    """What a file or a line of one holds: these fields and no others, and any number."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


StoredT = TypeVar("StoredT", bound=BaseModel)


def read_json(model: type[StoredT], path: Path, *, remedy: str) -> StoredT | None:
    """Return a file's content; None where there is none.

    Raises `InputError` for a damaged file, and for what is not a file; it ends in the remedy.
    """
    damaged = f"{path} is damaged; {remedy}"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(damaged)
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise InputError(damaged) from error


def write_json(path: Path, content: BaseModel) -> None:
    """Write a file so that it is there whole or not at all."""
    replace_text(path, content.model_dump_json(indent=1) + "\n")
