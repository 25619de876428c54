"""One process at a time: between processes, containers and hosts, with and without file locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from acgan.errors import InputError
from search.study import lock
from search.study.lock import STALE_AFTER_S, driver_at_work, driver_lock
from tests.kit import ROOT

pytestmark = pytest.mark.process

LONG_AGO = 1_700_000_000.0


HOLD = """
import sys, time
from pathlib import Path
from search.study import lock
lock.HEARTBEAT_S = 0.01
with lock.driver_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
sys.stdin.readline()
"""


@contextmanager
def other_driver(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold the study in another process: a line lets go of it, a second ends the process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert said(process) == "held"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def hold_once(path: Path) -> None:
    with driver_lock(path):
        assert driver_at_work(path)


def test_a_second_driver_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    with other_driver(tmp_path) as process:
        until = time.monotonic() + 0.3  # a few dozen heartbeats
        since = time.strftime("%Y-%m-%d %H:%M")
        while time.monotonic() < until:
            assert driver_at_work(tmp_path)
            with pytest.raises(InputError, match=r"is being (worked on|opened) by") as caught:
                hold_once(tmp_path)
        if "opened" not in str(caught.value):  # it came between two bytes of a heartbeat
            said_of = str(caught.value)
            assert f"by process {process.pid} ({sys.executable} -c " in said_of
            assert f") on {socket.gethostname()} since {since[:10]}" in said_of
        assert process.stdin is not None
        print(file=process.stdin, flush=True)
        assert said(process) == "released"
        assert not driver_at_work(tmp_path)
        hold_once(tmp_path)


def test_a_driver_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with other_driver(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == process.pid
        assert not driver_at_work(tmp_path)
        hold_once(tmp_path)


def test_the_lock_is_let_go_of_at_the_end_also_after_an_error(tmp_path: Path) -> None:
    assert not driver_at_work(tmp_path)
    hold_once(tmp_path)
    assert not driver_at_work(tmp_path)
    with pytest.raises(KeyError), driver_lock(tmp_path):
        raise KeyError
    assert not driver_at_work(tmp_path)
    hold_once(tmp_path)


def test_one_process_cannot_hold_a_study_twice(tmp_path: Path) -> None:
    with driver_lock(tmp_path):
        with pytest.raises(InputError, match=f"worked on by process {os.getpid()} \\("):
            hold_once(tmp_path)
        assert driver_at_work(tmp_path)


def test_the_heartbeat_goes_on_and_keeps_the_time_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.01)
    beats: set[tuple[float, float]] = set()
    with driver_lock(tmp_path):
        until = time.monotonic() + 30
        while len(beats) < 3 and time.monotonic() < until:
            if text := (tmp_path / "lock.json").read_text():  # empty in the midst of a beat
                known = json.loads(text)
                beats.add((known["since"], known["heartbeat"]))
        assert driver_at_work(tmp_path)
    assert len(beats) == 3
    assert len({since for since, _ in beats}) == 1


def lock_of(path: Path, *, age: float = 0, **changes: object) -> None:
    """Write the lock of another host's driver; age: seconds since its heartbeat came here."""
    known = {"host": "another-host", "pid": 1, "since": LONG_AGO, "heartbeat": time.time()}
    (path / "lock.json").write_text(json.dumps(known | changes))
    beat = time.time() - age
    os.utime(path / "lock.json", (beat, beat))


def test_between_hosts_a_fresh_heartbeat_refuses(tmp_path: Path) -> None:
    lock_of(tmp_path, pid=4321)
    before = (tmp_path / "lock.json").read_bytes()
    assert driver_at_work(tmp_path)
    with pytest.raises(
        InputError, match="worked on by process 4321 on another-host since 2023-11-1"
    ):
        hold_once(tmp_path)
    assert (tmp_path / "lock.json").read_bytes() == before


def test_between_hosts_a_stale_heartbeat_is_taken_over(tmp_path: Path) -> None:
    lock_of(tmp_path, age=STALE_AFTER_S + 1)
    assert not driver_at_work(tmp_path)
    hold_once(tmp_path)


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
def test_between_hosts_whose_clocks_differ_that_of_the_disk_decides(
    tmp_path: Path, ahead: float
) -> None:
    lock_of(tmp_path, heartbeat=time.time() + ahead)
    assert driver_at_work(tmp_path)
    lock_of(tmp_path, heartbeat=time.time() + ahead, age=STALE_AFTER_S + 1)
    assert not driver_at_work(tmp_path)
    hold_once(tmp_path)


def test_where_nobody_may_write_the_clocks_of_the_hosts_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    lock_of(tmp_path, age=STALE_AFTER_S + 1)
    assert driver_at_work(tmp_path)
    lock_of(tmp_path, heartbeat=time.time() - STALE_AFTER_S - 1)
    assert not driver_at_work(tmp_path)


def test_on_this_host_a_free_lock_decides_whatever_the_heartbeat(tmp_path: Path) -> None:
    lock_of(tmp_path, host=socket.gethostname(), pid=os.getpid())
    assert not driver_at_work(tmp_path)
    hold_once(tmp_path)


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_where_files_cannot_be_locked_the_heartbeat_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert not driver_at_work(tmp_path)
    hold_once(tmp_path)
    lock_of(tmp_path)
    assert driver_at_work(tmp_path)
    with pytest.raises(InputError, match="worked on by process 1 on another-host"):
        hold_once(tmp_path)
    lock_of(tmp_path, host=socket.gethostname(), pid=os.getpid())
    assert driver_at_work(tmp_path)
    lock_of(tmp_path, age=STALE_AFTER_S + 1)
    hold_once(tmp_path)


def test_a_driver_in_another_container_of_this_host_is_seen_by_its_lock(tmp_path: Path) -> None:
    with (tmp_path / "lock.json").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        lock_of(tmp_path, host=socket.gethostname(), pid=2**22 + 1)  # no process here
        assert driver_at_work(tmp_path)
        with pytest.raises(InputError, match="is being worked on by process 4194305"):
            hold_once(tmp_path)


def test_a_driver_whose_folder_was_taken_over_ends_and_leaves_it_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()

    def work() -> None:
        with driver_lock(tmp_path):
            for _ in range(600):  # a heartbeat that is just being written comes after the first
                lock_of(tmp_path / "other", pid=4321)
                (tmp_path / "other" / "lock.json").rename(tmp_path / "lock.json")
                time.sleep(0.05)

    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.01)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert "another process has taken" in capsys.readouterr().err
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == 4321


@pytest.mark.parametrize("content", ["", "{", "\0\0\0"])
def test_a_torn_lock_file_that_nobody_holds_is_free(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock.json").write_text(content)
    assert not driver_at_work(tmp_path)
    hold_once(tmp_path)
