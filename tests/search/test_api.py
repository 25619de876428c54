"""How what a person should know reaches a program, beside what `tests/test_python.py` does."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest

from search import api


def test_a_warning_is_given_once_for_the_line_that_called_also_if_filters_change() -> None:
    with warnings.catch_warnings(record=True) as found:
        for _ in range(3):
            warnings.simplefilter("default")  # which empties Python's memory of them
            api.warn("a text of this test", None)
        api.warn("a text of this test", None)
    assert [str(each.message) for each in found] == ["a text of this test"] * 2
    assert {each.filename for each in found} == {__file__}
    assert len({each.lineno for each in found}) == 2


def test_a_warning_of_a_pick_is_of_the_line_that_called_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pick: Any = importlib.import_module("selection.pick")  # which is called as the function is
    monkeypatch.setattr("selection.api.pick", lambda: api.warn("another text", None))
    with pytest.warns(UserWarning, match="another text") as found:
        pick()
    assert [each.filename for each in found] == [__file__]


def test_lines_go_to_whom_they_are_told() -> None:
    told: list[str] = []
    for _ in range(2):
        api.warn("a text", told.append)
    assert told == ["warning: a text"] * 2
