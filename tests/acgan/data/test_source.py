from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from acgan.command import command_parser
from acgan.config import read_file
from acgan.data.source import DataSource, add_data_flags, named_source
from acgan.errors import InputError
from search.study.folder import LastStart


def test_a_source_without_hints_is_stored_as_text_as_it_always_was() -> None:
    plain, told = LastStart(source="/x"), LastStart(source=DataSource(folder="/x", labels="y.csv"))
    assert json.loads(plain.model_dump_json())["source"] == "/x"
    assert json.loads(told.model_dump_json())["source"] == {"folder": "/x", "labels": "y.csv"}
    for start in (plain, told):
        assert LastStart.model_validate_json(start.model_dump_json()) == start


def test_flags_go_before_the_configuration_and_that_before_the_default(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{folder: {tmp_path}, label_column: dx, file_column: id}}\n")
    content = read_file(config)
    default = DataSource(folder="/default", patient_pattern="(.)")
    assert named_source({}, {}, default=default) == default
    found = named_source({"label_column": "other"}, content, default=default)
    assert (found.folder, found.label_column, found.file_column) == (str(tmp_path), "other", "id")
    assert found.patient_pattern is None
    elsewhere = named_source({"data": "/elsewhere"}, content, default=default)
    assert elsewhere == DataSource(folder="/elsewhere")
    assert named_source({"patient_pattern": "(x)"}, {}, default=default).patient_pattern == "(x)"


def test_what_is_known_of_a_studys_images_holds_where_they_were_moved() -> None:
    default = DataSource(folder="/default", patient_pattern="(.)", label_column="dx")
    moved = named_source({"data": "/moved", "label_column": "class"}, {}, default=default)
    assert moved == DataSource(folder="/moved", patient_pattern="(.)", label_column="class")
    assert named_source({"data": "phantom"}, {}, default=default) == DataSource(folder="phantom")


def test_labels_lie_beside_the_images_or_where_they_are_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "inside.csv").touch()
    monkeypatch.chdir(tmp_path)
    inside = named_source({"data": "d", "labels": "inside.csv"}, {})
    assert (inside.folder, inside.labels) == (str(tmp_path / "d"), "inside.csv")
    outside = named_source({"data": "d", "labels": "outside.csv"}, {})
    assert outside.labels == str(tmp_path / "outside.csv")


def test_the_flags_of_a_source_say_the_same_again() -> None:
    parser = command_parser("some.command", None)
    add_data_flags(parser, "images")
    source = DataSource(
        folder="/x", labels="/l.csv", file_column="a b", label_column="c", patient_pattern="^(.)"
    )
    typed = parser.parse_args(["--data", "/x", *source.flags()])
    assert named_source(vars(typed), {}) == source


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "no images are named: give --data DIR"),
        ({"data": {"labels": "x.csv"}}, "no images are named: give --data DIR"),
        ({"data": {"folder": "/x", "label": "x"}}, "'data.label'; did you mean 'label"),
        ({"data": {"folder": ["x"]}}, "'data.folder': must be"),
    ],
)
def test_images_that_are_not_named_well_are_refused(
    content: dict[str, object], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        named_source({}, content)


def test_phantom_images_take_no_hints() -> None:
    source = named_source({"data": "phantom", "labels": os.devnull}, {})
    assert source == DataSource(folder="phantom")
    assert source.is_phantom
