"""What the benchmark of a bucket counts."""

from __future__ import annotations

import pytest

from benchmarks.bucket import SENT, counted
from search.study.store.objects import ObjectStore
from tests.s3_server import s3_server

pytestmark = pytest.mark.process


def test_requests_are_counted_by_their_kinds_with_the_bytes_that_are_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with s3_server(monkeypatch) as server, counted() as asked:
        store = ObjectStore(f"{server.address}/counted")
        store.write("a/x", b"12345")
        store.write("a/y", b"678")
        assert sorted(store.list("a/")) == ["a/x", "a/y"]
        store.delete(["a/x"])
    assert asked == {"put_object": 2, "list_objects_v2": 1, "delete_object": 1, SENT: 8}
