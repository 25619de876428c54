from __future__ import annotations

from pathlib import Path

import pytest

from acgan.files import replace_all, replace_bytes, replace_text
from tests.acgan.run.test_rundir import killed_at


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_text(path, "é")
    assert path.read_bytes() == "é".encode()
    for calls in range(20):
        killed_at(calls, lambda: replace_bytes(path, b"new content"))
        assert path.read_bytes() in ("é".encode(), b"new content")
    assert path.read_bytes() == b"new content"


def test_of_many_files_each_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    contents = {str(number): bytes([number]) * 100 for number in range(3)}
    calls = 0
    while killed_at(calls, lambda: replace_all(tmp_path, contents)):
        calls += 1
        whole = (path for path in tmp_path.iterdir() if path.suffix != ".tmp")
        assert all(path.read_bytes() == contents[path.name] for path in whole)
    assert calls > 9
    whole = (path for path in tmp_path.iterdir() if path.suffix != ".tmp")
    assert {path.name: path.read_bytes() for path in whole} == contents


def test_a_write_that_is_interrupted_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_all(tmp_path, {"a": b"1", "b": b"2"})
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
