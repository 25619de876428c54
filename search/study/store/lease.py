"""The lock of a study in an object store: one driver at a time, by number, lease and heartbeat.

    drivers/study-000003.json        the third process that drives the study, and its last heartbeat
    drivers/selection-000001.json    the first one that picks from it

Who comes next writes the next number, if no other process has: the store decides, where it writes
on a condition (S3, Google Cloud Storage and Azure do). Where it does not, both have written the
same object, and the one that no longer finds itself in it ends at its next heartbeat.
"""

import contextlib
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from acgan.errors import InputError
from acgan.files import Stored
from search.study.store.objects import ObjectStore, StoreError

HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0


class _Holder(Stored):
    """machine: which the process number is of; heartbeat: 0 once it has ended."""

    id: str
    host: str
    machine: str
    pid: int
    since: float
    heartbeat: float


class TakenOverError(InputError):
    """Another process drives the study now; this one must end without writing."""


class Lease:
    """A study in a store, held by this process.

    kind: "study" by its driver, "selection" by one that picks; number: which one it is, from 1
    """

    def __init__(self, address: str, kind: str) -> None:
        store = ObjectStore(address)  # which waits for nothing: a lease is kept or lost
        self._store, self.kind = store, kind
        keys = _keys(store, kind)
        before = _holder(store, keys[-1]) if keys else None
        if before is not None and _at_work(store, keys[-1], before):
            raise _held(store, before)
        self.number = _number(keys[-1]) if keys else 0
        self._own = _Holder(
            id=secrets.token_hex(16),
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            since=time.time(),
            heartbeat=time.time(),
        )
        self._key = self._claim()
        self.check()
        store.delete(keys)

    def _claim(self) -> str:
        """Take the next number; return the object's key."""
        while True:
            self.number += 1
            key = f"drivers/{self.kind}-{self.number:06d}.json"
            if self._store.write_if_absent(key, self._own.model_dump_json().encode()):
                return key
            other = _holder(self._store, key)  # not listed: the listing is behind
            if other is None or _at_work(self._store, key, other):
                raise _held(self._store, other or self._own)

    def check(self, store: ObjectStore | None = None) -> None:
        """Raise `TakenOverError` if another process holds the study now.

        store: by which it is asked, which may wait through an outage
        """
        asked = store or self._store
        newer = any(key > self._key for key in _keys(asked, self.kind))
        found = _holder(asked, self._key)
        if newer or (found is not None and found.id != self._own.id):
            raise TakenOverError(f"another process has taken {self._store.address} over")

    def beat(self, at: float) -> None:
        """Write a heartbeat, of the end if it is 0."""
        content = self._own.model_copy(update={"heartbeat": at}).model_dump_json()
        self._store.write(self._key, content.encode())


@contextlib.contextmanager
def leased(address: str, kind: str) -> Iterator[Lease]:
    """Hold a study as its one driver; `InputError` names the process that holds it.

    A process that is taken over, because it stood still for a minute, is interrupted.
    """
    lease = Lease(address, kind)
    stop = threading.Event()
    beating = threading.Thread(target=_keep_beating, args=(lease, stop), daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        stop.set()
        beating.join()
        with contextlib.suppress(StoreError, TakenOverError):
            lease.check()
            lease.beat(0)


def is_held(store: ObjectStore, kind: str) -> bool:
    """Whether a process drives the study, or picks from it, now."""
    keys = _keys(store, kind)
    holder = _holder(store, keys[-1]) if keys else None
    return holder is not None and _at_work(store, keys[-1], holder)


def _keep_beating(lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        try:
            lease.check()
            lease.beat(time.time())
        except TakenOverError as error:
            print(f"error: {error}", file=sys.stderr)
            os.kill(os.getpid(), signal.SIGINT)
            return
        except StoreError:  # who writes next says so
            continue


def _keys(store: ObjectStore, kind: str) -> list[str]:
    return sorted(key for key in store.list("drivers/") if key.startswith(f"drivers/{kind}-"))


def _number(key: str) -> int:
    return int(key.rpartition("-")[2].removesuffix(".json"))


def _holder(store: ObjectStore, key: str) -> _Holder | None:
    try:
        return _Holder.model_validate_json(store.read(key))
    except (FileNotFoundError, ValidationError):
        return None


def _at_work(store: ObjectStore, key: str, holder: _Holder) -> bool:
    """Whether the process that wrote an object still holds what it stands for.

    How old its heartbeat is, the store's clock says, since those of hosts differ. Where nobody may
    write here, they are all that there is.
    """
    if not holder.heartbeat or (
        holder.machine == _machine() and not Path(f"/proc/{holder.pid}").exists()
    ):
        return False
    try:
        age = store.age(key)
    except FileNotFoundError:  # another process has taken it over meanwhile
        return True
    except StoreError:
        age = time.time() - holder.heartbeat
    return age < STALE_AFTER_S


def _held(store: ObjectStore, holder: _Holder) -> InputError:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
    return InputError(
        f"{store.address} is being worked on by process {holder.pid} on {holder.host} since "
        f"{since}; wait for it or end it (of a machine that was lost, for a minute)"
    )


def _machine() -> str:
    """Return what tells this machine, and its process numbers, from any other."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
