from __future__ import annotations

import os
import secrets
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acgan.errors import InputError
from search.study.store import objects
from search.study.store.objects import ObjectStore, StoreError
from tests.object_stores import BUCKET
from tests.s3_server import Environ, S3Server
from tests.search.study.store.conftest import new_place
from tests.searches import wait_for

pytestmark = pytest.mark.process


def test_what_is_written_is_listed_and_read(any_address: str) -> None:
    store = ObjectStore(any_address)
    assert store.list("a/") == {}
    store.write("a/x", b"1")
    store.write("a/b/y", b"2")
    store.write("c", b"3")
    assert sorted(store.list("a/")) == ["a/b/y", "a/x"]
    assert store.read("a/b/y") == b"2"
    with pytest.raises(FileNotFoundError):
        store.read("a/z")


def test_a_listing_tells_an_object_that_was_written_again(any_address: str) -> None:
    store = ObjectStore(any_address)
    store.write("a/x", b"1")
    before = store.list("a/")
    assert store.list("a/") == before
    store.write("a/x", b"22")
    assert store.list("a/")["a/x"] != before["a/x"]


def test_files_go_there_and_back_whole(any_address: str, tmp_path: Path) -> None:
    store, large = ObjectStore(any_address), 7 * 2**20  # which is sent in parts, and fetched so
    for size in (300_000, large, 10, 0):
        content = secrets.token_bytes(size)
        (tmp_path / "up").write_bytes(content)
        store.upload(tmp_path / "up", "deep/er/key")
        store.download("deep/er/key", tmp_path / "down")
        assert (tmp_path / "down").read_bytes() == content
        assert store.read("deep/er/key") == content
    with pytest.raises(FileNotFoundError):
        store.download("deep/er/none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_one_of_many_writes_where_there_is_none(any_address: str, conditional: bool) -> None:
    store = ObjectStore(any_address)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda i: store.write_if_absent("lock", b"%d" % i), range(8)))
    if conditional:
        assert done.count(True) == 1
        assert store.read("lock") == b"%d" % done.index(True)
        assert not store.write_if_absent("lock", b"later")
    else:
        assert any(done)


def test_what_is_deleted_is_gone_and_what_is_not_there_is_passed_over(any_address: str) -> None:
    store = ObjectStore(any_address)
    store.write("a/x", b"1")
    store.delete(["a/x", "a/none"])
    assert store.list("a/") == {}


def test_a_write_whose_answer_is_lost_is_known_by_its_content(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(new_place(server.address))
    lost = {"PUT": ["lost"]}
    monkeypatch.setattr(server, "fault", lambda e: "".join(lost.pop(e["REQUEST_METHOD"], [])))
    assert store.write_if_absent("lock", b"mine")
    assert not store.write_if_absent("lock", b"another's")


def test_a_write_that_another_process_makes_at_the_moment_is_waited_for(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(new_place(server.address))
    conflicts = ["conflict", "conflict"]
    monkeypatch.setattr(server, "fault", lambda e: conflicts.pop() if conflicts else "")
    assert store.write_if_absent("lock", b"mine")
    assert conflicts == []


def test_a_bucket_that_is_not_there_is_said(any_address: str, tmp_path: Path) -> None:
    if any_address.startswith("file:"):
        pytest.skip("a folder is made where there is none")
    if "seaweedfs" in os.environ["PYTEST_CURRENT_TEST"]:
        pytest.skip("it makes buckets that are written to")
    address = any_address.replace(BUCKET, "nobodys-bucket")
    store = ObjectStore(address)
    (tmp_path / "up").write_bytes(b"1")
    calls = (
        lambda: store.write("x", b""),
        lambda: store.write_if_absent("x", b""),
        lambda: store.upload(tmp_path / "up", "x"),
    )
    for call in calls:
        with pytest.raises(StoreError, match=r"(bucket|container) does not exist") as caught:
            call()
        assert address in str(caught.value)
    assert store.list("a/") == {}


def test_a_store_that_is_busy_or_whose_credentials_expired_is_said_at_once(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(new_place(server.address))
    monkeypatch.setattr(server, "fault", lambda environ: "expired")
    with pytest.raises(StoreError, match="token has expired"):
        store.write("x", b"")


def test_an_outage_is_waited_for_and_told_once(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    heard = threading.Event()

    def hear(sentence: str) -> None:
        told.append(sentence)
        heard.set()

    tried: Counter[str] = Counter()

    def refuse(environ: Environ) -> str:
        tried[environ["PATH_INFO"][-1]] += 1
        return "expired"

    monkeypatch.setattr(objects, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(server, "fault", refuse)
    store = ObjectStore(new_place(server.address), on_outage=hear)
    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(store.write, key, b"late") for key in "abcd"]
        assert heard.wait(400)
        wait_for(lambda: all(tried[key] > 1 for key in "abcd"), "each to be tried again")
        monkeypatch.setattr(server, "fault", lambda environ: "")
        for each in writing:
            each.result(timeout=400)
    assert [store.read(key) for key in "abcd"] == [b"late"] * 4
    assert [sentence.partition(" (")[0] for sentence in told] == [
        f"{store.address} does not do what it is asked for",
        f"{store.address} answers again",
    ]
    assert not any("not-to-be-seen" in sentence for sentence in told)


def test_an_interrupted_call_does_not_wait_for_those_beside_it(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = threading.Event()
    store = ObjectStore(new_place(server.address), on_outage=lambda _: heard.set())
    monkeypatch.setattr(server, "fault", lambda environ: "expired")

    def do(key: str) -> None:
        if key == "interrupted":
            assert heard.wait(400)
            raise KeyboardInterrupt
        store.write(key, b"never")

    with pytest.raises(KeyboardInterrupt):
        store.side_by_side(do, ["interrupted", "a", "b"])
    with pytest.raises(StoreError, match="token has expired"):
        store.write("c", b"never")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("s3://", "has not the form"),
        ("s3:///", "has not the form"),
        ("S3 ://a", "has not the form"),
        ("s3://key:secret@bucket/runs", "credentials and settings belong"),
        ("s3://bucket/runs?endpoint=x", "credentials and settings belong"),
        ("s4://bucket/runs", "cannot be opened"),
    ],
)
def test_what_is_no_address_is_refused_and_no_secret_shown(address: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        ObjectStore(address)
    assert "secret" not in str(caught.value)
