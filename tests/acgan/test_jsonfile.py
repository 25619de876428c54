"""Files of a fixed form: whole, or refused with what to do."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from acgan.errors import InputError
from acgan.jsonfile import Stored, read_json, write_json


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
