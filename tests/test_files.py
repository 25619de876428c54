from __future__ import annotations

from pathlib import Path

from acgan.files import replace_bytes, replace_text
from tests.test_rundir import killed_at


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_text(path, "é")
    assert path.read_bytes() == "é".encode()
    for calls in range(20):
        killed_at(calls, lambda: replace_bytes(path, b"new content"))
        assert path.read_bytes() in ("é".encode(), b"new content")
    assert path.read_bytes() == b"new content"
