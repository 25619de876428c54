from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acgan.errors import InputError
from search.study.store import lease
from search.study.store.lease import STALE_AFTER_S, Lease, TakenOverError, is_held, leased
from search.study.store.objects import ObjectStore
from tests.s3_server import S3Server
from tests.search.study.store.conftest import new_place

pytestmark = pytest.mark.process

DRIVE = """
import sys
from search.study.store.lease import Lease
Lease(sys.argv[1], "study")
print("driving", flush=True)
sys.stdin.read()
"""


def test_a_study_has_one_driver_at_a_time_and_numbers_them(any_address: str) -> None:
    store = ObjectStore(any_address)
    assert not is_held(store, "study")
    with leased(any_address, "study") as first:
        assert is_held(store, "study")
        assert not is_held(store, "selection")
        with pytest.raises(InputError, match=r"worked on by process \d+ on"):
            Lease(any_address, "study")
        with leased(any_address, "selection"):
            assert is_held(store, "selection")
    assert not is_held(store, "study")
    with leased(any_address, "study") as second:
        assert (first.number, second.number) == (1, 2)


def test_a_driver_that_was_killed_on_this_machine_holds_nothing(address: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVE, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "driving\n"
        with pytest.raises(InputError, match=f"process {process.pid} on"):
            Lease(address, "study")
        process.kill()
        process.wait()
    assert Lease(address, "study").number == 2


def test_a_driver_on_another_machine_holds_it_until_its_heartbeat_is_old(
    any_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_machine", lambda: "another")
    first = Lease(any_address, "study")
    monkeypatch.setattr(lease, "_machine", lambda: "this one")
    with pytest.raises(InputError, match="worked on"):
        Lease(any_address, "study")
    assert is_held(ObjectStore(any_address), "study")
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.0)
    assert not is_held(ObjectStore(any_address), "study")
    second = Lease(any_address, "study")
    second.check()
    with pytest.raises(TakenOverError):
        first.check()
    assert not ObjectStore(any_address).list("now/")


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_between_machines_whose_clocks_differ_that_of_the_store_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    address = f"file://{tmp_path}/bucket"
    monkeypatch.setattr(lease, "_machine", lambda: "another")
    Lease(address, "study").beat(time.time() + ahead_s)
    monkeypatch.setattr(lease, "_machine", lambda: "this one")
    with pytest.raises(InputError, match="worked on"):
        Lease(address, "study")
    (written,) = (tmp_path / "bucket" / "drivers").iterdir()
    before = time.time() - STALE_AFTER_S - 1
    os.utime(written, (before, before))
    assert Lease(address, "study").number == 2


@pytest.mark.parametrize("held", [False, True])
def test_where_nobody_may_write_the_clocks_of_the_machines_decide(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    address = new_place(server.address)
    monkeypatch.setattr(lease, "_machine", lambda: "another")
    Lease(address, "study").beat(time.time() - (0 if held else STALE_AFTER_S + 1))
    monkeypatch.setattr(lease, "_machine", lambda: "this one")
    monkeypatch.setattr(
        server, "fault", lambda environ: "expired" if environ["REQUEST_METHOD"] == "PUT" else ""
    )
    assert is_held(ObjectStore(address), "study") is held


def test_a_driver_that_is_not_yet_listed_is_seen(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = new_place(server.address)
    monkeypatch.setattr(server, "listed_at", lambda: 0.0)  # nothing is listed
    monkeypatch.setattr(server, "fault", lambda environ: "behind")
    with leased(address, "study"), pytest.raises(InputError, match="worked on"):
        Lease(address, "study")
    assert Lease(address, "study").number == 2  # after one that has ended


def test_two_that_have_written_the_same_number_are_told_apart(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a store that writes on no condition.
    def write(store: ObjectStore, key: str, content: bytes) -> bool:
        store.write(key, content)
        return True

    monkeypatch.setattr(ObjectStore, "write_if_absent", write)
    first = Lease(address, "study")
    ObjectStore(address).delete(["drivers/study-000001.json"])  # not yet listed
    second = Lease(address, "study")
    second.check()
    with pytest.raises(TakenOverError):
        first.check()
