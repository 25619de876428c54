from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.report import benchmark_parser, publish, replace_section, table


def test_a_table_shows_three_digits() -> None:
    rows = [["a", 0.012345, 1234.5, 7], ["b", 12.345, 1e-5, 0.0]]
    assert table(["x", "y", "z", "n"], rows).splitlines() == [
        "| x | y | z | n |",
        "| --- | --- | --- | --- |",
        "| a | 0.0123 | 1,234 | 7 |",
        "| b | 12.3 | 1e-05 | 0 |",
    ]


def test_a_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("head\n<!-- a -->\nold\n<!-- /a -->\nmiddle\n<!-- b -->\n<!-- /b -->\n")
    replace_section(page, "a", "new")
    replace_section(page, "b", "more")
    assert page.read_text() == (
        "head\n<!-- a -->\nnew\n<!-- /a -->\nmiddle\n<!-- b -->\nmore\n<!-- /b -->\n"
    )
    with pytest.raises(ValueError, match="has no section <!-- c -->"):
        replace_section(page, "c", "")


def test_what_is_published_says_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- step -->\n<!-- /step -->\n")
    words = ["--out", str(page), "--data", str(tmp_path), "--epochs", "3", "--folder", "/own"]
    monkeypatch.setattr(sys, "argv", ["step", *words])
    publish("step", "| a |", page)
    said = capsys.readouterr().out
    assert page.read_text() == f"<!-- step -->\n{said}<!-- /step -->\n"
    assert "`python -m benchmarks.step --data DIR --epochs 3`, " in said
    assert "cores" in said
    assert "commit" in said


@pytest.mark.parametrize("content", [None, "no marks", "<!-- /step --> <!-- step -->"])
def test_a_page_that_cannot_keep_the_result_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    page = tmp_path / "page.md"
    if content is not None:
        page.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        benchmark_parser("step", "").parse_args(["--out", str(page)])
    assert "cannot keep the result" in capsys.readouterr().err
    page.write_text("<!-- step -->\n<!-- /step -->")
    assert benchmark_parser("step", "").parse_args(["--out", str(page)]).out == page
