from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acgan.errors import InputError
from search.study.store import objects
from search.study.store.objects import ObjectStore, StoreError
from tests.s3_server import S3Server

pytestmark = pytest.mark.process


def test_what_is_written_is_listed_and_read(address: str) -> None:
    store = ObjectStore(address)
    assert store.list("a/") == {}
    store.write("a/x", b"1")
    store.write("a/b/y", b"2")
    store.write("c", b"3")
    assert sorted(store.list("a/")) == ["a/b/y", "a/x"]
    assert store.read("a/b/y") == b"2"
    with pytest.raises(FileNotFoundError):
        store.read("a/z")


def test_a_listing_tells_an_object_that_was_written_again(address: str) -> None:
    store = ObjectStore(address)
    store.write("a/x", b"1")
    before = store.list("a/")
    assert store.list("a/") == before
    store.write("a/x", b"22")
    assert store.list("a/")["a/x"] != before["a/x"]


def test_files_go_there_and_back_whole(address: str, tmp_path: Path) -> None:
    store, content = ObjectStore(address), secrets.token_bytes(300_000)
    (tmp_path / "up").write_bytes(content)
    store.upload(tmp_path / "up", "deep/er/key")
    store.download("deep/er/key", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == content
    with pytest.raises(FileNotFoundError):
        store.download("deep/er/none", tmp_path / "none")


def test_one_of_many_writes_where_there_is_none(address: str) -> None:
    store = ObjectStore(address)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda i: store.write_if_absent("lock", b"%d" % i), range(8)))
    assert done.count(True) == 1
    assert store.read("lock") == b"%d" % done.index(True)


def test_what_is_deleted_is_gone_and_what_is_not_there_is_passed_over(address: str) -> None:
    store = ObjectStore(address)
    store.write("a/x", b"1")
    store.delete(["a/x", "a/none"])
    assert store.list("a/") == {}


def test_a_write_whose_answer_is_lost_is_known_by_its_content(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(f"{server.address}/lost")
    lost = {"PUT": ["lost"]}
    monkeypatch.setattr(server, "fault", lambda e: "".join(lost.pop(e["REQUEST_METHOD"], [])))
    assert store.write_if_absent("lock", b"mine")
    assert not store.write_if_absent("lock", b"another's")


def test_a_bucket_that_is_not_there_is_named(server: S3Server) -> None:
    store = ObjectStore("s3://nobodys-bucket/runs")
    for call in (lambda: store.write("x", b""), lambda: store.write_if_absent("x", b"")):
        with pytest.raises(StoreError, match=r"s3://nobodys-bucket/runs .*bucket does not exist"):
            call()


def test_a_store_that_is_busy_or_whose_credentials_expired_is_said_at_once(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(f"{server.address}/refused")
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

    monkeypatch.setattr(objects, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(server, "fault", lambda environ: "expired")
    store = ObjectStore(f"{server.address}/outage", on_outage=hear)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(store.write, "x", b"late")
        assert heard.wait(60)
        monkeypatch.setattr(server, "fault", lambda environ: "")
        writing.result(timeout=60)
    assert store.read("x") == b"late"
    assert [sentence.partition(" (")[0] for sentence in told] == [
        f"{store.address} does not do what it is asked for",
        f"{store.address} answers again",
    ]
    assert not any("not-to-be-seen" in sentence for sentence in told)


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
