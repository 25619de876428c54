from __future__ import annotations

import math
from pathlib import Path

import pytest

from acgan.errors import InputError
from acgan.files import Stored, read_json, replace_all, replace_bytes, replace_text, write_json
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


class Note(Stored):
    text: str
    value: float = 0.0


def test_what_is_written_is_read_whatever_the_number(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    for value in (0.1, 1e300, -math.inf, math.inf):
        write_json(path, Note(text="a × b", value=value))
        assert read_json(Note, path, remedy="delete it") == Note(text="a × b", value=value)
    write_json(path, Note(text="", value=math.nan))
    found = read_json(Note, path, remedy="delete it")
    assert found is not None
    assert math.isnan(found.value)


def test_nothing_is_read_where_there_is_no_file(tmp_path: Path) -> None:
    assert read_json(Note, tmp_path / "none.json", remedy="delete it") is None
    (tmp_path / "file").touch()
    assert read_json(Note, tmp_path / "file" / "none.json", remedy="delete it") is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"value": 1}', '{"text": "a", "more": 1}', '{"text": 1}']
)
def test_a_damaged_file_is_refused_with_the_remedy(tmp_path: Path, content: str) -> None:
    path = tmp_path / "note.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"note.json is damaged; delete it$"):
        read_json(Note, path, remedy="delete it")


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is damaged"):
        read_json(Note, tmp_path, remedy="delete it")
