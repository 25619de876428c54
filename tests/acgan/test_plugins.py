from __future__ import annotations

from pathlib import Path

import pytest

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.plugins import (
    LAYOUTS,
    NETWORKS,
    NUMBERS,
    find,
    installed,
    origin,
    other_versions,
    versions,
)
from tests.plugins import on_the_path, plugin_installed, write_plugin


def test_a_plug_in_is_found_by_name_with_the_package_and_version_it_comes_from(
    tmp_path: Path,
) -> None:
    assert origin(NUMBERS, "one") == ""
    with plugin_installed(tmp_path, NUMBERS, {"one": "one"}, "one = 1"):
        assert find(NUMBERS, "one", int) == 1
        assert origin(NUMBERS, "one") == "plugin 1.0"
        assert origin(NUMBERS, "two") == ""
        write_plugin(tmp_path, {NUMBERS: {"one": "one"}}, "one = 1", version="1.1")
        assert origin(NUMBERS, "one") == "plugin 1.1"
    assert "one" not in installed(NUMBERS)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("ona", "numbers 'ona' are not installed here; did you mean 'one'"),
        ("text", "the entry point 'text' of acgan_search.numbers must name an builtins.int; mend"),
        ("none", r"the entry point 'none' .* cannot be loaded \(AttributeError: .*\); mend"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, name: str, problem: str) -> None:
    entries = {"one": "one", "text": "text", "none": "none"}
    with (
        plugin_installed(tmp_path, NUMBERS, entries, "one, text = 1, 'x'"),
        pytest.raises(InputError, match=problem),
    ):
        find(NUMBERS, name, int)


def test_a_module_that_fails_is_one_sentence(tmp_path: Path) -> None:
    write_plugin(tmp_path, {NUMBERS: {"one": "one"}}, "raise RuntimeError('no licence\\nat all')")
    with (
        on_the_path(tmp_path),
        pytest.raises(InputError, match=r"\(RuntimeError: no licence\); mend the package"),
    ):
        find(NUMBERS, "one", int)


def test_another_version_than_that_of_a_beginning_is_named(tmp_path: Path) -> None:
    groups = {NETWORKS: {"mine": "x"}, NUMBERS: {"one": "x", "two": "x"}, LAYOUTS: {"own": "x"}}
    config = TrainConfig(networks="mine", numbers=("two",))
    write_plugin(tmp_path, groups, "")
    with on_the_path(tmp_path):
        assert versions(TrainConfig(), layout="class folders") == {}
        before = versions(config, layout="own")
        assert before == dict.fromkeys(
            ("networks mine", "numbers two", "layouts own"), "plugin 1.0"
        )
        assert other_versions(before, versions(config, layout="own")) == []
        write_plugin(tmp_path, groups, "", version="1.1")
        found = other_versions(before, versions(config))  # of other images
    assert [text.partition(":")[0] for text in found] == [
        "networks mine are of plugin 1.1 here, and the study was begun with plugin 1.0",
        "numbers two are of plugin 1.1 here, and the study was begun with plugin 1.0",
    ]
    assert other_versions(before, versions(config)) == []  # not installed: others refuse that
