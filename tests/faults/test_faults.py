"""Each fault once, for real; `make chaos` does them at many random moments."""

from __future__ import annotations

import random
from functools import partial

import pytest

from tests.faults import kills
from tests.faults.chaos import FAULTS
from tests.faults.lab import Lab

pytest_plugins = ["tests.mlflow_stores"]

ONCE = {
    "trial": partial(kills.trial_process, times=2),
    "driver": partial(kills.driver, times=2),
    "ctrl-c": partial(kills.ctrl_c, times=1),
    "ctrl-c-twice": partial(kills.ctrl_c_twice, times=1),
    "sigterm": partial(kills.terminated, times=1),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


ELSEWHERE = {name for name, fault in FAULTS.items() if fault[1].__module__.endswith("surroundings")}

HERE = sorted(FAULTS.keys() - ELSEWHERE)


@pytest.mark.parametrize("name", HERE)
def test_a_fault_loses_and_doubles_nothing(lab: Lab, name: str) -> None:
    fault = ONCE.get(name, FAULTS[name][1])
    found = fault(lab, random.Random(name))
    assert found.problems == []
    assert (found.lost, found.doubled, found.differing) == (0, 0, 0)
    assert found.redone <= 1 or name == "damaged"  # whose state or records are gone
    assert found.times >= 1
