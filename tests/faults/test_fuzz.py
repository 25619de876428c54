"""A few hundred damaged files for each reader; `tests.faults.fuzz` draws as many as are wanted."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from acgan.errors import InputError
from tests.faults import fuzz
from tests.faults.fuzz import TARGETS, Files, Finding

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Log no damaged state; the level of before is set again at the end, whoever changed it."""
    caplog.set_level(logging.CRITICAL, logger="acgan")


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files_have_documented_outcomes_only(target: str) -> None:
    assert TARGETS[target](300, seed=0) == []


def refuse(files: Files) -> None:
    if b"\0" in files["x"]:
        raise InputError("no text")
    assert b"bad" not in files["x"]


def test_a_reader_that_fails_is_found_with_a_small_input() -> None:
    lines = st.lists(st.sampled_from([b"good", b"bad", b"\0"]), max_size=5)
    inputs = lines.map(lambda parts: {"x": b"".join(parts)})
    kinds = {found.error.split()[0] for found in fuzz._fuzz("x", inputs, refuse, 300, 0)}
    assert kinds == {"AssertionError", "InputError"}
    smallest = [found.files["x"] for found in fuzz._fuzz("x", inputs, refuse, 300, 0)]
    assert set(smallest) == {b"bad", b"\0"}


def test_the_same_seed_draws_the_same_inputs_and_another_draws_others() -> None:
    def drawn(seed: int) -> list[Files]:
        seen: list[Files] = []
        fuzz._fuzz("labels", fuzz.label_files(), seen.append, 50, seed)
        return seen

    assert len(drawn(0)) == 50
    assert drawn(0) == drawn(0) != drawn(1)


def test_the_command_writes_findings_that_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding("labels", "ValueError at x.py:1", {"train.txt": b"\0\xff"})
    found: dict[str, Callable[[int, int], list[Finding]]] = {"labels": lambda *_: [finding]}
    monkeypatch.setattr(fuzz, "TARGETS", found)
    options = ["--count", "7", "--out", str(tmp_path / "out.jsonl")]
    assert fuzz.main(options) == 1
    assert "labels: 7 inputs" in capsys.readouterr().out
    assert Finding.read(json.loads((tmp_path / "out.jsonl").read_text())) == finding
