"""What nodes say, held against what a search wants: answers by hand, findings by the rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search.nodes import probe
from search.nodes.cluster import Node
from search.nodes.fleet import (
    Finding,
    Level,
    Wanted,
    compared,
    how_many,
    memory_finding,
    room,
    skipped,
    time_finding,
)
from search.nodes.probe import Device, Found, NodeAnswer

NODE = Node(cpus=8, gpus=2, memory=64e9, id="f" * 56, name="far (10.0.0.7, ffffffff)")
WANTED = Wanted(None, None, None, None, None)


def answer(**versions: str) -> NodeAnswer:
    own = probe.versions() | {name.replace("_", "-"): text for name, text in versions.items()}
    return NodeAnswer(own, True, 10**10, Found(), Found(), Found())


def test_a_finding_is_one_line_without_passwords() -> None:
    finding = Finding(Level.ERROR, "MLflow", "http://me:secret@there\n  is away")
    assert str(finding) == "error    MLflow: http://me:***@there is away"
    assert str(skipped("disk", "the data")).startswith("warning  disk: not checked without")


def test_numbers_are_counted_in_words() -> None:
    assert [how_many(n, "node") for n in (0, 1, 2)] == ["no nodes", "1 node", "2 nodes"]


def test_nodes_with_the_same_versions_agree_whatever_device_they_are_built_for() -> None:
    torch = probe.versions()["torch"].partition("+")[0]
    (finding,) = compared({NODE: answer(torch=f"{torch}+cu130")}, WANTED)
    assert finding.level is Level.OK
    assert f"torch {torch}" in finding.text


@pytest.mark.parametrize(
    ("package", "level"),
    [
        ("acgan_search", Level.ERROR),
        ("python", Level.ERROR),
        ("ray", Level.ERROR),
        ("torch", Level.WARNING),
        ("numpy", Level.WARNING),
    ],
)
def test_a_node_with_another_version_is_named_with_it(package: str, level: Level) -> None:
    (finding,) = compared({NODE: answer(**{package: "0.0.1"})}, WANTED)
    assert finding.level is level
    own = probe.versions()[package.replace("_", "-")]
    assert f"node {NODE.name} has {package.replace('_', '-')} 0.0.1 (here {own})" in finding.text


def test_a_node_without_a_package_misses_it() -> None:
    there = answer()
    fewer = {name: text for name, text in there.versions.items() if name != "optuna"}
    (finding,) = compared({NODE: replace(there, versions=fewer)}, WANTED)
    assert "optuna missing (here" in finding.text


def test_a_node_that_asks_for_no_token_is_an_error() -> None:
    found = list(compared({NODE: replace(answer(), token=False)}, WANTED))
    assert [finding.level for finding in found] == [Level.ERROR, Level.OK]
    assert NODE.name in found[0].text


def test_a_node_has_room_for_as_many_trials_as_both_cpus_and_gpus_serve() -> None:
    assert room(NODE, {"cpu": 1, "gpu": 0}) == 8
    assert room(NODE, {"cpu": 1, "gpu": 1}) == 2
    assert room(NODE, {"cpu": 1, "gpu": 0.25}) == 8
    assert room(NODE, {"cpu": 3, "gpu": 1}) == 2
    assert room(NODE, {"cpu": 1, "gpu": 4}) == 0
    assert room(NODE, {"cpu": 1, "gpu": 0.4}) == 4  # two on each of the two GPUs
    assert room(NODE, {"cpu": 1, "gpu": 0.1}) == 8


def test_memory_that_does_not_hold_all_trials_is_a_warning() -> None:
    enough = memory_finding(NODE, 4, free=12 * 10**9, a_trial=3 * 10**9)
    assert enough.level is Level.OK
    assert "8 CPUs, 2 GPUs, room for 4 trials at once of roughly 3.0 GB" in enough.text
    little = memory_finding(NODE, 4, free=11 * 10**9, a_trial=3 * 10**9)
    assert little.level is Level.WARNING
    assert "--max-concurrent" in little.text


def test_time_counts_all_places_and_is_held_against_the_budget() -> None:
    places = [(2, Device("a GPU", 3600.0)), (1, Device("the CPU", 7200.0))]
    found = time_finding(places, 100, most=None, budget_s=None)
    assert found.level is Level.OK
    assert "60 min to 2 h a trial on a GPU and the CPU, 40 h for 100 trials" in found.text
    found = time_finding(places, 100, most=None, budget_s=3600)
    assert found.level is Level.WARNING
    assert "--time-budget" in found.text
